/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One ordinary block holds the structure, the fields in name order and the names (each with a NUL behind it); one
 * secret buffer holds all values, back to back. So a secret costs two allocations however many fields it has.
 */
#include "vault/secret.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct vault_secret {
	_Atomic unsigned refs;
	uint64_t id;
	uint64_t version;
	int64_t created;
	size_t n;
	size_t bytes;
	struct secbuf *values; /* NULL when there is no byte in any */
	struct vault_field field[];
};

static int name_cmp(const char *a, size_t an, const char *b, size_t bn)
{
	size_t both = an < bn ? an : bn;
	int c = both ? memcmp(a, b, both) : 0;
	if (c)
		return c;
	return an < bn ? -1 : an > bn;
}

static int field_cmp(const void *a, const void *b)
{
	const struct vault_field *x = a, *y = b;
	return name_cmp(x->name, x->name_len, y->name, y->name_len);
}

int vault_secret_new(const struct vault_field *fields, size_t n, uint64_t version, int64_t created,
		     struct vault_secret **ret, struct err *e)
{
	if (n > VAULT_FIELDS_MAX)
		return err_set(e, EMSGSIZE, "a secret has at most %d fields, this one has %zu", VAULT_FIELDS_MAX, n);
	size_t names = 0, values = 0;
	for (size_t i = 0; i < n; i++) {
		if (fields[i].len > VAULT_SECRET_MAX - values)
			return err_set(e, EMSGSIZE, "the values of a secret have at most %d bytes together",
				       VAULT_SECRET_MAX);
		if (fields[i].name_len > VAULT_SECRET_MAX - names)
			return err_set(e, EMSGSIZE, "the field names of a secret have at most %d bytes together",
				       VAULT_SECRET_MAX);
		values += fields[i].len;
		names += fields[i].name_len;
	}

	size_t size = sizeof(struct vault_secret) + n * sizeof(struct vault_field) + names + n;
	cleanup_free struct vault_secret *s = malloc(size);
	if (!s)
		return err_set(e, ENOMEM, "no memory for a secret of %zu fields", n);
	static _Atomic uint64_t ids;
	*s = (struct vault_secret){ .refs = 1,
				    .id = atomic_fetch_add(&ids, 1) + 1,
				    .version = version,
				    .created = created,
				    .n = n,
				    .bytes = size + values };
	if (n)
		memcpy(s->field, fields, n * sizeof *fields);
	qsort(s->field, n, sizeof *s->field, field_cmp);
	for (size_t i = 1; i < n; i++)
		if (!field_cmp(&s->field[i - 1], &s->field[i]))
			return err_set(e, EEXIST, "a field name is there twice");

	if (values) {
		s->values = secbuf_new(values);
		if (!s->values)
			return err_set(e, ENOMEM,
				       "no secret memory for %zu bytes (raise the locked memory limit, ulimit -l)",
				       values);
	}
	char *name = (char *)&s->field[n];
	uint8_t *value = s->values ? secbuf_bytes(s->values) : NULL;
	for (size_t i = 0; i < n; i++) {
		struct vault_field *f = &s->field[i];
		if (f->name_len)
			memcpy(name, f->name, f->name_len);
		name[f->name_len] = '\0';
		f->name = name;
		name += f->name_len + 1;
		if (value && f->len) {
			memcpy(value, f->value, f->len);
			f->value = value;
			value += f->len;
		} else {
			f->value = (const uint8_t *)""; /* never NULL, so that callers may pass it on */
		}
	}
	*ret = TAKE_PTR(s);
	return 0;
}

uint64_t vault_secret_id(const struct vault_secret *s)
{
	return s->id;
}

struct vault_secret *vault_secret_ref(struct vault_secret *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void vault_secret_unref(struct vault_secret *s)
{
	if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (s->values)
		secbuf_free(s->values);
	free(s);
}

uint64_t vault_secret_version(const struct vault_secret *s)
{
	return s->version;
}

int64_t vault_secret_created(const struct vault_secret *s)
{
	return s->created;
}

size_t vault_secret_count(const struct vault_secret *s)
{
	return s->n;
}

const struct vault_field *vault_secret_at(const struct vault_secret *s, size_t i)
{
	return i < s->n ? &s->field[i] : NULL;
}

const struct vault_field *vault_secret_find(const struct vault_secret *s, const char *name, size_t len)
{
	size_t lo = 0, hi = s->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = name_cmp(s->field[mid].name, s->field[mid].name_len, name, len);
		if (!c)
			return &s->field[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

size_t vault_secret_bytes(const struct vault_secret *s)
{
	return s->bytes;
}

/* {"base64": "..."}, what a value that is no text becomes. NULL on ENOMEM. */
static struct json *json_of_binary(const void *p, size_t n)
{
	size_t size = sodium_base64_encoded_len(n, sodium_base64_VARIANT_ORIGINAL);
	cleanup_sec char *text = sec_malloc(size);
	if (!text)
		return NULL;
	sodium_bin2base64(text, size, p, n, sodium_base64_VARIANT_ORIGINAL);
	struct json *j = json_object();
	if (j && json_set(j, "base64", json_of_string(text)) < 0) {
		json_free(j);
		return NULL;
	}
	return j;
}

struct json *vault_secret_to_json(const struct vault_secret *s)
{
	cleanup_json struct json *obj = json_object();
	if (!obj)
		return NULL;
	for (size_t i = 0; i < s->n; i++) {
		const struct vault_field *f = &s->field[i];
		if (!utf8_valid(f->name, f->name_len)) {
			errno = EILSEQ; /* no JSON key can be this name, and another name would be another field */
			return NULL;
		}
		struct json *v = utf8_valid(f->value, f->len) ? json_of_bytes(f->value, f->len) :
								json_of_binary(f->value, f->len);
		if (json_set_bytes(obj, f->name, f->name_len, v) < 0) {
			errno = ENOMEM;
			return NULL;
		}
	}
	return TAKE_PTR(obj);
}

/* The texts and bytes that are made on the way in; all secret memory, freed together. */
struct made {
	size_t n;
	void **p;
};

static void made_free(struct made *m)
{
	for (size_t i = 0; i < m->n; i++)
		sec_free(m->p[i]);
	free(m->p);
}

/*
 * Whether `v` is {"base64": "..."} with well-formed base64 in it: then *ret holds the bytes. Anything else that merely
 * resembles it is an object like any other.
 */
static int binary_of_json(const struct json *v, uint8_t **ret, size_t *ret_len)
{
	const struct json *only = json_first(v);
	size_t name_len, len, n;
	const char *name = json_name_bytes(only, &name_len);
	if (json_count(v) != 1 || json_type(only) != JSON_STRING || name_len != 6 || memcmp(name, "base64", 6) != 0)
		return 0;
	const char *text = json_bytes(only, &len), *end;
	cleanup_sec uint8_t *p = sec_malloc(len / 4 * 3 + 3);
	if (!p)
		return -ENOMEM;
	if (sodium_base642bin(p, len / 4 * 3 + 3, text, len, NULL, &n, &end, sodium_base64_VARIANT_ORIGINAL) != 0 ||
	    end != text + len)
		return 0;
	*ret = TAKE_PTR(p);
	*ret_len = n;
	return 1;
}

static int field_of_json(const struct json *v, struct vault_field *f, void **made)
{
	uint8_t *bytes;
	char *text;
	switch (json_type(v)) {
	case JSON_STRING:
		f->value = (const uint8_t *)json_bytes(v, &f->len);
		return 0;
	case JSON_OBJECT: {
		int r = binary_of_json(v, &bytes, &f->len);
		if (r < 0)
			return r;
		if (r) {
			*made = bytes;
			f->value = bytes;
			return 0;
		}
	}
		__attribute__((fallthrough));
	default:
		text = json_print(v, false, &f->len);
		if (!text)
			return -ENOMEM;
		*made = text;
		f->value = (const uint8_t *)text;
		return 0;
	}
}

int vault_secret_from_json(const struct json *obj, uint64_t version, int64_t created, struct vault_secret **ret,
			   struct err *e)
{
	if (json_type(obj) != JSON_OBJECT)
		return err_set(e, EINVAL, "a secret is a JSON object (field names and values), this is something else");
	size_t n = json_count(obj);
	if (n > VAULT_FIELDS_MAX)
		return err_set(e, EMSGSIZE, "a secret has at most %d fields, this one has %zu", VAULT_FIELDS_MAX, n);
	cleanup_free struct vault_field *fields = calloc(n ? n : 1, sizeof *fields);
	CLEANUP_WITH(made_free) struct made made = { .p = calloc(n ? n : 1, sizeof *made.p) };
	if (!fields || !made.p)
		return err_set(e, ENOMEM, "no memory for a secret of %zu fields", n);
	made.n = n;
	size_t i = 0;
	for (const struct json *v = json_first(obj); v && i < n; v = json_next(v), i++) {
		fields[i].name = json_name_bytes(v, &fields[i].name_len);
		int r = field_of_json(v, &fields[i], &made.p[i]);
		if (r < 0)
			return err_set(e, r, "no secret memory (raise the locked memory limit, ulimit -l)");
	}
	return vault_secret_new(fields, i, version, created, ret, e);
}

/* The path for a sentence: not too long, nothing in it that moves a terminal's cursor. */
static const char *shown(const char *path, char out[84])
{
	size_t n = 0;
	for (; path[n] && n < 80; n++) {
		unsigned char c = (unsigned char)path[n];
		out[n] = c < 0x20 || c == 0x7f ? '?' : path[n];
	}
	while (n && path[n] && ((unsigned char)path[n] & 0xc0) == 0x80)
		n--; /* not in the middle of a character */
	memcpy(out + n, path[n] ? "..." : "", path[n] ? 4 : 1);
	return out;
}

int vault_path_check(const char *path, bool folder, struct err *e)
{
	char buf[84];
	size_t len = strnlen(path, VAULT_PATH_MAX + 1);
	if (len > VAULT_PATH_MAX)
		return err_set(e, EINVAL, "\"%s\": a path has at most %d bytes", shown(path, buf), VAULT_PATH_MAX);
	if (!len)
		return folder ? 0 : err_set(e, EINVAL, "the path of a secret is empty; write it like app/db");
	if (path[0] == '/')
		return err_set(e, EINVAL, "\"%s\": a path starts without '/'; write it like app/db", shown(path, buf));
	for (const char *p = path; *p;) {
		size_t part = strcspn(p, "/");
		if (!part)
			return err_set(e, EINVAL, "\"%s\": there is nothing between two '/'", shown(path, buf));
		if ((part == 1 && p[0] == '.') || (part == 2 && p[0] == '.' && p[1] == '.'))
			return err_set(e, EINVAL, "\"%s\": no part of a path may be \".\" or \"..\"", shown(path, buf));
		p += part;
		if (*p == '/' && !*++p && !folder)
			return err_set(e, EINVAL, "\"%s\": this is a folder; a secret's path does not end in '/'",
				       shown(path, buf));
	}
	return 0;
}
