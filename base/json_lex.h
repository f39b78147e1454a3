/* SPDX-License-Identifier: Apache-2.0 */
/* Checks a JSON text and writes it in the form that json.c carries through cJSON. Only json.c includes it. */
#ifndef CT_BASE_JSON_LEX_H
#define CT_BASE_JSON_LEX_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The mark, U+FDD0; what it means is told in json.c. */
enum { JSON_MARK_LEN = 3, JSON_MARK_CP = 0xfdd0 };
#define JSON_MARK "\xef\xb7\x90"

/* The text in that form, in secret memory, NUL-terminated. -EBADMSG with line and column, -ENOMEM. */
int must_use json_lex(const char *text, size_t len, char **ret, size_t *ret_len, struct err *e);

/* No longer texts: one grows at most 7-fold ("1" to a quoted, marked "1"), and offsets in it are 32 bits. */
static const size_t json_lex_max = UINT32_MAX / 8;

#endif
