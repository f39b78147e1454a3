/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a file that is not simply a field's value: .json, .version, and fields that are base64 in the vault.
 * Thread rules: any thread; rendering happens in secret memory.
 */
#ifndef CT_FS_VIEW_H
#define CT_FS_VIEW_H

#include "base/secmem.h"
#include "vault/secret.h"

/* The whole secret as one JSON object and a newline. */
int must_use fs_view_json(const struct vault_secret *s, struct secbuf **ret, struct err *e);
/* The version in decimal and a newline. */
int must_use fs_view_version(const struct vault_secret *s, struct secbuf **ret, struct err *e);
/* Decodes standard base64 (RFC 4648 section 4; padding optional, white space ignored). -EILSEQ names no byte of it. */
int must_use fs_view_base64(const struct vault_field *f, struct secbuf **ret, struct err *e);

#endif
