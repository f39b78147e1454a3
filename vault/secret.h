/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One version of a secret: named fields with values. Immutable once made; counted references, so that an open file
 * keeps its version while the cache moves on. All values lie in one secret buffer; field names, which are no secrets,
 * in ordinary memory.
 * Thread rules: ref and unref from any thread; reading needs no lock.
 */
#ifndef CT_VAULT_SECRET_H
#define CT_VAULT_SECRET_H

#include "base/err.h"
#include "base/json.h"

#include <stdint.h>

enum {
	VAULT_PATH_MAX = 4096,	     /* bytes of a path */
	VAULT_FIELDS_MAX = 16384,    /* fields of one secret */
	VAULT_SECRET_MAX = 16 << 20, /* bytes of all values of one secret */
};

struct vault_field {
	const char *name;
	size_t name_len; /* names may hold any byte, NUL too */
	const uint8_t *value;
	size_t len;
};

struct vault_secret;

/* Copies everything. Fields are sorted by name (memcmp); a name given twice is -EEXIST; bounds above are -EMSGSIZE. */
int must_use vault_secret_new(const struct vault_field *fields, size_t n, uint64_t version, int64_t created,
			      struct vault_secret **ret, struct err *e);
struct vault_secret *vault_secret_ref(struct vault_secret *s);
void vault_secret_unref(struct vault_secret *s); /* NULL is fine */
static inline __attribute__((unused)) void vault_secret_unrefp(struct vault_secret **s)
{
	vault_secret_unref(*s);
}
#define cleanup_secret __attribute__((cleanup(vault_secret_unrefp)))

/* Unlike any other object's, ever, in this process; never 0. Same id: nothing changed. */
uint64_t vault_secret_id(const struct vault_secret *s);
uint64_t vault_secret_version(const struct vault_secret *s); /* 1, 2, ... as the backend counts */
int64_t vault_secret_created(const struct vault_secret *s);  /* seconds since 1970, 0 unknown */
size_t vault_secret_count(const struct vault_secret *s);
const struct vault_field *vault_secret_at(const struct vault_secret *s, size_t i); /* in name order */
const struct vault_field *vault_secret_find(const struct vault_secret *s, const char *name, size_t len);
size_t vault_secret_bytes(const struct vault_secret *s); /* what it costs the cache */

/*
 * As one JSON object, in secret memory. A value that is not UTF-8 becomes {"base64": "..."}; the same is understood
 * on the way in. vault_secret_from_json: strings as they are; numbers, booleans, null, arrays and objects as their
 * JSON text.
 */
struct json *vault_secret_to_json(const struct vault_secret *s);
int must_use vault_secret_from_json(const struct json *obj, uint64_t version, int64_t created,
				    struct vault_secret **ret, struct err *e);

/* A path as a person writes it ("app/db", no leading slash, no empty, "." or ".." parts). Trailing '/' allowed when
 * `folder`. -EINVAL with a sentence. */
int must_use vault_path_check(const char *path, bool folder, struct err *e);

#endif
