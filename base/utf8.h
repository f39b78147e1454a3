/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF. Any thread. */
#ifndef CT_BASE_UTF8_H
#define CT_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The character at p (n > 0 bytes are there): its length 1..4 and *ret_cp, or 0 when the bytes are not UTF-8. */
size_t utf8_decode(const char *p, size_t n, uint32_t *ret_cp);
/* Writes cp (a scalar value) to p, which has room for 4 bytes; returns the length. */
size_t utf8_encode(uint32_t cp, char *p);
/* The longest prefix of [p, p+n) that is UTF-8. */
size_t utf8_span(const char *p, size_t n);

#endif
