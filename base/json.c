/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cJSON is the parser; what it would lose is carried through it. cJSON ends strings at \u0000 and makes numbers
 * doubles, so a lexer (json_lex.c) first checks the text (RFC 8259, bounds, UTF-8, duplicate keys: all of it, with
 * positions) and writes it again in a form that cJSON keeps. There, the noncharacter U+FDD0 is a mark:
 *
 *   U+FDD0 'n' TEXT, at the start of a string: the number TEXT
 *   U+FDD0 '0': U+0000
 *   U+FDD0 'm': U+FDD0 itself
 *
 * A walk over the finished tree takes the marks off. After it, and in every tree built by hand:
 *   a string:  cJSON_String, valuestring the bytes (NULs too), valuedouble their number (exact far beyond any bound)
 *   a number:  cJSON_Raw, valuestring its text
 *   a member:  string its key, valueint the key's length
 * cJSON's own printing, copying and comparing know nothing of the lengths, so none of them is used.
 */
#include "base/json.h"

#include "base/cleanup.h"
#include "base/json_lex.h"
#include "base/secmem.h"
#include "base/utf8.h"

#include <cJSON.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void json_init(void)
{
	cJSON_Hooks hooks = { .malloc_fn = sec_malloc, .free_fn = sec_free };
	cJSON_InitHooks(&hooks);
}

/* ---- parsing ---- */

/* Takes the marks off s in place; returns its length. */
static size_t unmark(char *s)
{
	size_t len = strlen(s);
	char *r = strstr(s, JSON_MARK), *w = r, *end = s + len;

	if (!r)
		return len;
	while (r < end) { /* r is at a mark */
		if (r[JSON_MARK_LEN] == '0') {
			*w++ = '\0';
		} else {
			memcpy(w, JSON_MARK, JSON_MARK_LEN);
			w += JSON_MARK_LEN;
		}
		r += JSON_MARK_LEN + 1;
		const char *mark = strstr(r, JSON_MARK);
		size_t plain = (size_t)((mark ? mark : end) - r);
		memmove(w, r, plain);
		w += plain;
		r += plain;
	}
	*w = '\0';
	return (size_t)(w - s);
}

static void unmark_tree(cJSON *n)
{
	n->valueint = n->string ? (int)unmark(n->string) : 0;
	if (n->type == cJSON_String) {
		if (strncmp(n->valuestring, JSON_MARK "n", JSON_MARK_LEN + 1) == 0) {
			const char *text = n->valuestring + JSON_MARK_LEN + 1;
			memmove(n->valuestring, text, strlen(text) + 1);
			n->type = cJSON_Raw;
		} else {
			n->valuedouble = (double)unmark(n->valuestring);
		}
	}
	for (cJSON *c = n->child; c; c = c->next)
		unmark_tree(c);
}

int json_parse(const char *text, size_t len, size_t max, struct json **ret, struct err *e)
{
	if (max > json_lex_max)
		max = json_lex_max;
	if (len > max)
		return err_set(e, EMSGSIZE, "JSON of %zu bytes is larger than the limit of %zu", len, max);

	cleanup_sec char *marked = NULL;
	size_t n;
	int r = json_lex(text, len, &marked, &n, e);
	if (r < 0)
		return r;
	cJSON *root = cJSON_ParseWithLengthOpts(marked, n, NULL, 0);
	if (!root) /* the lexer has seen to everything else */
		return err_set(e, ENOMEM, "not enough secret memory for a JSON text of %zu bytes", len);
	unmark_tree(root);
	*ret = (struct json *)root;
	return 0;
}

void json_free(struct json *j)
{
	cJSON_Delete((cJSON *)j);
}

/* ---- reading ---- */

static const cJSON *node(const struct json *j)
{
	return (const cJSON *)j;
}

enum json_type json_type(const struct json *j)
{
	switch (j ? node(j)->type & 0xff : cJSON_NULL) {
	case cJSON_False:
	case cJSON_True:
		return JSON_BOOL;
	case cJSON_Raw:
		return JSON_NUMBER;
	case cJSON_String:
		return JSON_STRING;
	case cJSON_Array:
		return JSON_ARRAY;
	case cJSON_Object:
		return JSON_OBJECT;
	default:
		return JSON_NULL;
	}
}

static const struct json *get_n(const struct json *obj, const char *name, size_t len)
{
	if (json_type(obj) != JSON_OBJECT)
		return NULL;
	for (const cJSON *c = node(obj)->child; c; c = c->next)
		if ((size_t)c->valueint == len && memcmp(c->string, name, len) == 0)
			return (const struct json *)c;
	return NULL;
}

const struct json *json_get(const struct json *obj, const char *name)
{
	return get_n(obj, name, strlen(name));
}

const struct json *json_path(const struct json *obj, const char *path)
{
	for (;;) {
		size_t n = strcspn(path, ".");
		obj = get_n(obj, path, n);
		if (!obj || !path[n])
			return obj;
		path += n + 1;
	}
}

const struct json *json_first(const struct json *container)
{
	return container ? (const struct json *)node(container)->child : NULL;
}

const struct json *json_next(const struct json *child)
{
	return child ? (const struct json *)node(child)->next : NULL;
}

const char *json_name(const struct json *member)
{
	return member ? node(member)->string : NULL;
}

const char *json_name_bytes(const struct json *member, size_t *ret_len)
{
	if (!member || !node(member)->string)
		return NULL;
	*ret_len = (size_t)node(member)->valueint;
	return node(member)->string;
}

size_t json_count(const struct json *container)
{
	size_t n = 0;

	for (const struct json *c = json_first(container); c; c = json_next(c))
		n++;
	return n;
}

const char *json_string(const struct json *j)
{
	return json_type(j) == JSON_STRING ? node(j)->valuestring : NULL;
}

const char *json_bytes(const struct json *j, size_t *ret_len)
{
	if (json_type(j) != JSON_STRING)
		return NULL;
	*ret_len = (size_t)node(j)->valuedouble;
	return node(j)->valuestring;
}

const char *json_number(const struct json *j)
{
	return json_type(j) == JSON_NUMBER ? node(j)->valuestring : NULL;
}

bool json_bool(const struct json *j, bool fallback)
{
	return json_type(j) == JSON_BOOL ? (node(j)->type & 0xff) == cJSON_True : fallback;
}

int64_t json_int(const struct json *j, int64_t fallback)
{
	const char *s = json_number(j);

	if (!s || s[strspn(s, "-0123456789")])
		return fallback;
	errno = 0;
	long long v = strtoll(s, NULL, 10);
	return errno ? fallback : v;
}

/* ---- building ---- */

struct json *json_object(void)
{
	return (struct json *)cJSON_CreateObject();
}

struct json *json_array(void)
{
	return (struct json *)cJSON_CreateArray();
}

struct json *json_of_bool(bool b)
{
	return (struct json *)cJSON_CreateBool(b);
}

struct json *json_of_null(void)
{
	return (struct json *)cJSON_CreateNull();
}

/* A copy of [p, p+n) with a NUL behind it, from cJSON's allocator: cJSON_Delete frees it. */
static char *copy_bytes(const void *p, size_t n)
{
	char *s = cJSON_malloc(n + 1);

	if (!s) {
		errno = ENOMEM;
		return NULL;
	}
	if (n)
		memcpy(s, p, n);
	s[n] = '\0';
	return s;
}

static struct json *of_text(int type, const void *p, size_t n)
{
	cJSON *j = cJSON_CreateNull();

	if (!j || !(j->valuestring = copy_bytes(p, n))) {
		cJSON_Delete(j);
		errno = ENOMEM;
		return NULL;
	}
	j->type = type;
	j->valuedouble = (double)n;
	return (struct json *)j;
}

struct json *json_of_bytes(const void *p, size_t n)
{
	if (!utf8_valid(p, n)) {
		errno = EILSEQ;
		return NULL;
	}
	return of_text(cJSON_String, p, n);
}

struct json *json_of_string(const char *s)
{
	return json_of_bytes(s, strlen(s));
}

struct json *json_of_int(int64_t n)
{
	char buf[24];
	int len = snprintf(buf, sizeof buf, "%lld", (long long)n);

	return of_text(cJSON_Raw, buf, (size_t)len);
}

int json_set_bytes(struct json *obj, const char *name, size_t len, struct json *v)
{
	cleanup_json struct json *owned = v;

	if (!v)
		return -ENOMEM;
	if (json_type(obj) != JSON_OBJECT)
		return -EINVAL;
	if (len >= INT_MAX || !utf8_valid(name, len))
		return -EILSEQ;
	cJSON *member = (cJSON *)v;
	member->string = copy_bytes(name, len);
	if (!member->string)
		return -ENOMEM;
	member->valueint = (int)len;
	(void)cJSON_AddItemToArray((cJSON *)obj, (cJSON *)TAKE_PTR(owned));
	return 0;
}

int json_set(struct json *obj, const char *name, struct json *v)
{
	return json_set_bytes(obj, name, strlen(name), v);
}

int json_append(struct json *arr, struct json *v)
{
	if (!v)
		return -ENOMEM;
	if (json_type(arr) != JSON_ARRAY) {
		json_free(v);
		return -EINVAL;
	}
	(void)cJSON_AddItemToArray((cJSON *)arr, (cJSON *)v);
	return 0;
}

struct json *json_copy(const struct json *j)
{
	if (!j)
		return NULL;

	const cJSON *from = node(j);
	cleanup_json struct json *copy = NULL;

	switch (json_type(j)) {
	case JSON_STRING:
	case JSON_NUMBER:
		copy = of_text(from->type & 0xff, from->valuestring,
			       json_type(j) == JSON_STRING ? (size_t)from->valuedouble : strlen(from->valuestring));
		break;
	case JSON_BOOL:
		copy = json_of_bool(json_bool(j, false));
		break;
	case JSON_NULL:
		copy = json_of_null();
		break;
	case JSON_ARRAY:
	case JSON_OBJECT:
		copy = json_type(j) == JSON_ARRAY ? json_array() : json_object();
		for (const struct json *c = json_first(j); copy && c; c = json_next(c)) {
			size_t len;
			const char *name = json_name_bytes(c, &len);
			struct json *v = json_copy(c);
			int r = name ? json_set_bytes(copy, name, len, v) : json_append(copy, v);
			if (r < 0)
				return NULL;
		}
		break;
	}
	return TAKE_PTR(copy);
}

/* ---- printing ---- */

struct printer {
	char *p; /* NULL: measuring */
	size_t n;
	bool pretty;
};

static void print_raw(struct printer *o, const char *s, size_t n)
{
	if (o->p)
		memcpy(o->p + o->n, s, n);
	o->n += n;
}

static void print_string(struct printer *o, const char *s, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	static const char short_form[0x20] = { ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't' };

	print_raw(o, "\"", 1);
	for (size_t i = 0, start = 0;; i++) {
		unsigned char c = i < n ? (unsigned char)s[i] : '"';
		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		print_raw(o, s + start, i - start);
		start = i + 1;
		if (i == n)
			break;
		char buf[6] = { '\\', (char)c };
		size_t len = 2;
		if (c < 0x20 && short_form[c]) {
			buf[1] = short_form[c];
		} else if (c < 0x20) {
			memcpy(buf, "\\u00", 4);
			buf[4] = hex[c >> 4];
			buf[5] = hex[c & 15];
			len = 6;
		}
		print_raw(o, buf, len);
	}
	print_raw(o, "\"", 1);
}

static void print_break(struct printer *o, unsigned depth)
{
	if (!o->pretty)
		return;
	print_raw(o, "\n", 1);
	for (unsigned i = 0; i < depth; i++)
		print_raw(o, "  ", 2);
}

static void print_value(struct printer *o, const struct json *j, unsigned depth)
{
	const cJSON *n = node(j);
	bool object = json_type(j) == JSON_OBJECT;

	switch (json_type(j)) {
	case JSON_NULL:
		print_raw(o, "null", 4);
		break;
	case JSON_BOOL:
		if (json_bool(j, false))
			print_raw(o, "true", 4);
		else
			print_raw(o, "false", 5);
		break;
	case JSON_NUMBER:
		print_raw(o, n->valuestring, strlen(n->valuestring));
		break;
	case JSON_STRING:
		print_string(o, n->valuestring, (size_t)n->valuedouble);
		break;
	case JSON_ARRAY:
	case JSON_OBJECT:
		print_raw(o, object ? "{" : "[", 1);
		for (const cJSON *c = n->child; c; c = c->next) {
			if (c != n->child)
				print_raw(o, ",", 1);
			print_break(o, depth + 1);
			if (object) {
				print_string(o, c->string, (size_t)c->valueint);
				print_raw(o, ": ", o->pretty ? 2 : 1);
			}
			print_value(o, (const struct json *)c, depth + 1);
		}
		if (n->child)
			print_break(o, depth);
		print_raw(o, object ? "}" : "]", 1);
		break;
	}
}

char *json_print(const struct json *j, bool pretty, size_t *ret_len)
{
	struct printer o = { .pretty = pretty };

	print_value(&o, j, 0);
	char *text = sec_malloc(o.n + 1);
	if (!text)
		return NULL;
	size_t len = o.n;
	o.p = text;
	o.n = 0;
	print_value(&o, j, 0);
	text[len] = '\0';
	if (ret_len)
		*ret_len = len;
	return text;
}
