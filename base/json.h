/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON values, all in secret memory. json.c is the only file that sees cJSON.
 *
 * Nodes belong to their root; json_free(root) frees the tree. Borrowed nodes and strings live as long as the root.
 * json_parse keeps what cJSON alone would lose: a NUL inside a string (\u0000) and the text of a number are kept
 * exactly (json.c says how), so that a vault's value comes out as it went in.
 * Bounds: nesting 64, `max` bytes given by the caller. RFC 8259; bytes that are not UTF-8, lone surrogates and keys
 * that an object has twice are refused. An error names the position, never the text there.
 * Thread rules: a tree belongs to one thread at a time.
 */
#ifndef CT_BASE_JSON_H
#define CT_BASE_JSON_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct json;
enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

void json_init(void); /* cJSON's allocator := the secret heap; secmem_init calls it */

/* -EBADMSG with line and column; -EMSGSIZE beyond max. */
int must_use json_parse(const char *text, size_t len, size_t max, struct json **ret, struct err *e);
void json_free(struct json *j);
static inline __attribute__((unused)) void json_freep(struct json **j)
{
	json_free(*j);
}
#define cleanup_json __attribute__((cleanup(json_freep)))

enum json_type json_type(const struct json *j); /* JSON_NULL for j == NULL */
/* Object member, case-sensitive; NULL when absent or not an object. json_path: names separated by '.', "data.data". */
const struct json *json_get(const struct json *obj, const char *name);
const struct json *json_path(const struct json *obj, const char *path);
const struct json *json_first(const struct json *container); /* first child of array or object */
const struct json *json_next(const struct json *child);
const char *json_name(const struct json *member);			 /* its key, or NULL; stops at a NUL inside */
const char *json_name_bytes(const struct json *member, size_t *ret_len); /* all of it, or NULL */
size_t json_count(const struct json *container);

/* NULL / fallback when the type differs. json_string stops at a NUL inside; json_bytes gives all of it. */
const char *json_string(const struct json *j);
const char *json_bytes(const struct json *j, size_t *ret_len);
const char *json_number(const struct json *j); /* the text of a number, as it was written */
bool json_bool(const struct json *j, bool fallback);
int64_t json_int(const struct json *j, int64_t fallback); /* fallback when not an integer in range */

/* Building. NULL on ENOMEM; the add functions take ownership of `v` (also when they fail: -ENOMEM; v may be NULL,
 * which fails), so calls nest. Numbers are exact integers. json_set appends: the name must be UTF-8 (-EILSEQ) and not
 * be there yet (not checked: that would make building an object of n members n * n). */
struct json *json_object(void);
struct json *json_array(void);
struct json *json_of_string(const char *s);
struct json *json_of_bytes(const void *p, size_t n); /* must be UTF-8 (NULs allowed), else NULL with EILSEQ */
struct json *json_of_int(int64_t n);
struct json *json_of_bool(bool b);
struct json *json_of_null(void);
int json_set(struct json *obj, const char *name, struct json *v);
int json_set_bytes(struct json *obj, const char *name, size_t len, struct json *v); /* a name with NULs */
int json_append(struct json *arr, struct json *v);
struct json *json_copy(const struct json *j);

/* Text in secret memory (sec_free it), NUL-terminated, length in *ret_len when not NULL. NULL on ENOMEM. */
char *json_print(const struct json *j, bool pretty, size_t *ret_len);

/* Is [p, p+n) valid UTF-8? */
bool utf8_valid(const void *p, size_t n);

#endif
