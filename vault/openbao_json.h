/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What OpenBao and Vault answer, read. Pure functions over bytes that a server sent: no network, no state.
 * Bodies are NUL-terminated beyond `len`, as http.h gives them. Answers that are not what they should be: -EPROTO.
 */
#ifndef CT_VAULT_OPENBAO_JSON_H
#define CT_VAULT_OPENBAO_JSON_H

#include "vault/backend.h"

enum {
	OPENBAO_NAMES_MAX = 1000000,
	OPENBAO_BODY_MAX = VAULT_SECRET_MAX + (1 << 20),
};

/* GET MOUNT/data/PATH, status 200. -ENOENT when its newest version is deleted, -EMSGSIZE, -ENOMEM. */
int must_use openbao_parse_secret(const char *body, size_t len, struct vault_secret **ret, struct err *e);

/*
 * LIST MOUNT/metadata/FOLDER, status 200: sorted, each name once. Names that no path can be made of (empty, ".", "..",
 * with a NUL or a '/' before the end, too long) are left out: one such name must not hide the others.
 */
int must_use openbao_parse_list(const char *body, size_t len, struct vault_names **ret, struct err *e);

/* POST MOUNT/data/PATH, status 200: the version that was written. */
int must_use openbao_parse_written(const char *body, size_t len, uint64_t *ret, struct err *e);

/* The body of a 404: is it "there is no such secret", and not "there is no such mount or namespace"? */
bool openbao_is_absent(const char *body, size_t len);

/* The first entry of "errors" as printable ASCII, cut to `room`; "" when there is none. */
void openbao_first_error(const char *body, size_t len, char *buf, size_t room);

/* RFC 3339 with any fraction, as seconds since 1970; 0 when it is none. */
int64_t openbao_parse_time(const char *s);

/* {"data": {...}, "options": {"cas": N}} in secret memory (sec_free it). -EILSEQ: a field's name is no UTF-8. */
int must_use openbao_make_put(const struct vault_secret *s, uint32_t cas, char **ret, size_t *ret_len, struct err *e);

/* "/v1/MOUNT/WHAT/PATH", percent-encoded (free it). NULL on ENOMEM. */
char *openbao_make_path(const char *mount, const char *what, const char *path);

/* Can the vault hold a secret of this path at all? It takes UTF-8 without control bytes. */
bool openbao_path_possible(const char *path);

#endif
