/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cJSON is the parser; what it would lose is carried through it. cJSON ends strings at \u0000 and makes numbers
 * doubles, so a lexer first checks the text (RFC 8259, bounds, UTF-8, duplicate keys: all of it, with positions) and
 * writes it again in a form that cJSON keeps. There, the noncharacter U+FDD0 is a mark:
 *
 *   U+FDD0 'n' TEXT   at the start of a string: the number TEXT       U+FDD0 '0'   U+0000
 *                                                                     U+FDD0 'm'   U+FDD0 itself
 *
 * A walk over the finished tree takes the marks off. After it, and in every tree built by hand:
 *   a string:  cJSON_String, valuestring the bytes (NULs too), valuedouble their number (exact far beyond any bound)
 *   a number:  cJSON_Raw, valuestring its text
 *   a member:  string its key, valueint the key's length
 * cJSON's own printing, copying and comparing know nothing of the lengths, so none of them is used.
 *
 * The lexer's form is canonical (one spelling per string), which is what lets duplicate keys be found by bytes. It runs
 * twice, to measure and to write: the buffer is secret memory, and that is scarce.
 */
#include "base/json.h"

#include "base/cleanup.h"
#include "base/secmem.h"
#include "base/utf8.h"

#include <cJSON.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 64, MARK_LEN = 3, MARK_CP = 0xfdd0 };
#define MARK "\xef\xb7\x90"

/* A text grows at most 6-fold in the lexer ("1" to a quoted, marked "1"), and offsets are 32 bits. */
static const size_t text_max = UINT32_MAX / 8;

void json_init(void)
{
	cJSON_Hooks hooks = { .malloc_fn = sec_malloc, .free_fn = sec_free };
	cJSON_InitHooks(&hooks);
}

/* ---- the lexer ---- */

struct key {
	uint32_t object; /* 0: empty slot */
	uint32_t at;	 /* in lex.out, behind the opening quote */
};

struct lex {
	const char *in;
	size_t len, pos;
	char *out; /* NULL: measuring */
	size_t n;
	const char *why; /* what is wrong at pos */
	size_t n_keys;
	struct key *keys; /* hash table, while writing */
	size_t keys_mask;
	unsigned char seed[crypto_shorthash_KEYBYTES];
	uint32_t n_objects;
	unsigned depth;
	struct {
		bool object;
		uint32_t id;
	} open[DEPTH_MAX];
};

static bool fail(struct lex *l, const char *why)
{
	l->why = why;
	return false;
}

static void emit(struct lex *l, const char *p, size_t n)
{
	if (l->out)
		memcpy(l->out + l->n, p, n);
	l->n += n;
}

/* The next byte, -1 at the end. */
static int peek(const struct lex *l)
{
	return l->pos < l->len ? (unsigned char)l->in[l->pos] : -1;
}

static void skip_space(struct lex *l)
{
	while (l->pos < l->len) {
		char c = l->in[l->pos];
		if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
			return;
		l->pos++;
	}
}

static bool is_digit(int c)
{
	return c >= '0' && c <= '9';
}

static bool lex_digits(struct lex *l)
{
	if (!is_digit(peek(l)))
		return fail(l, "a digit is missing");
	while (is_digit(peek(l)))
		l->pos++;
	return true;
}

static bool lex_number(struct lex *l)
{
	size_t start = l->pos;

	if (peek(l) == '-')
		l->pos++;
	if (peek(l) == '0') {
		l->pos++;
		if (is_digit(peek(l)))
			return fail(l, "a number may not begin with 0");
	} else if (!lex_digits(l)) {
		return false;
	}
	if (peek(l) == '.') {
		l->pos++;
		if (!lex_digits(l))
			return false;
	}
	if (peek(l) == 'e' || peek(l) == 'E') {
		l->pos++;
		if (peek(l) == '+' || peek(l) == '-')
			l->pos++;
		if (!lex_digits(l))
			return false;
	}
	emit(l, "\"" MARK "n", 2 + MARK_LEN);
	emit(l, l->in + start, l->pos - start);
	emit(l, "\"", 1);
	return true;
}

static bool lex_word(struct lex *l, const char *word)
{
	size_t n = strlen(word);

	if (l->len - l->pos < n || memcmp(l->in + l->pos, word, n) != 0)
		return fail(l, "expected a value");
	emit(l, word, n);
	l->pos += n;
	return true;
}

/* Four hexadecimal digits at pos. */
static bool lex_hex4(struct lex *l, uint32_t *ret)
{
	uint32_t v = 0;

	for (int i = 0; i < 4; i++) {
		int c = peek(l);
		uint32_t d;

		if (is_digit(c))
			d = (uint32_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			d = (uint32_t)(c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			d = (uint32_t)(c - 'A' + 10);
		else
			return fail(l, "\\u needs four hexadecimal digits");
		v = v << 4 | d;
		l->pos++;
	}
	*ret = v;
	return true;
}

/* An escape, pos behind its backslash. */
static bool lex_escape(struct lex *l, uint32_t *ret)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	int c = peek(l);

	if (c != 'u') {
		const char *at = c > 0 ? strchr(from, c) : NULL;
		if (!at)
			return fail(l, "unknown escape in a string");
		l->pos++;
		*ret = (unsigned char)to[at - from];
		return true;
	}
	l->pos++;

	uint32_t hi, lo;
	if (!lex_hex4(l, &hi))
		return false;
	if (hi >= 0xdc00 && hi <= 0xdfff)
		return fail(l, "a lone surrogate in a string");
	if (hi < 0xd800 || hi > 0xdbff) {
		*ret = hi;
		return true;
	}
	if (l->len - l->pos < 2 || l->in[l->pos] != '\\' || l->in[l->pos + 1] != 'u')
		return fail(l, "a lone surrogate in a string");
	l->pos += 2;
	if (!lex_hex4(l, &lo))
		return false;
	if (lo < 0xdc00 || lo > 0xdfff)
		return fail(l, "a lone surrogate in a string");
	*ret = 0x10000 + ((hi - 0xd800) << 10) + (lo - 0xdc00);
	return true;
}

static void emit_char(struct lex *l, uint32_t cp)
{
	char buf[8];

	if (cp == 0) {
		emit(l, MARK "0", MARK_LEN + 1);
	} else if (cp == MARK_CP) {
		emit(l, MARK "m", MARK_LEN + 1);
	} else if (cp == '"' || cp == '\\') {
		buf[0] = '\\';
		buf[1] = (char)cp;
		emit(l, buf, 2);
	} else if (cp < 0x20) {
		static const char hex[] = "0123456789abcdef";
		memcpy(buf, "\\u00", 4);
		buf[4] = hex[cp >> 4];
		buf[5] = hex[cp & 15];
		emit(l, buf, 6);
	} else {
		emit(l, buf, utf8_encode(cp, buf));
	}
}

/* A string, pos at its opening quote. */
static bool lex_string(struct lex *l)
{
	l->pos++;
	emit(l, "\"", 1);
	for (;;) {
		size_t start = l->pos;
		while (l->pos < l->len) {
			unsigned char c = (unsigned char)l->in[l->pos];
			if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')
				break;
			l->pos++;
		}
		emit(l, l->in + start, l->pos - start);

		int c = peek(l);
		uint32_t cp;
		if (c < 0)
			return fail(l, "a string has no end");
		if (c == '"')
			break;
		if (c < 0x20)
			return fail(l, "a control character in a string");
		if (c == '\\') {
			l->pos++;
			if (!lex_escape(l, &cp))
				return false;
		} else {
			size_t n = utf8_decode(l->in + l->pos, l->len - l->pos, &cp);
			if (!n)
				return fail(l, "a string is not UTF-8");
			l->pos += n;
		}
		emit_char(l, cp);
	}
	l->pos++;
	emit(l, "\"", 1);
	return true;
}

/*
 * Remembers the key that was just written, lex.out from `at` to its closing quote. Comparing with that quote included
 * compares the lengths as well: strings in this form hold no bare quote.
 */
static bool key_is_new(struct lex *l, size_t at)
{
	const char *key = l->out + at;
	size_t len = l->n - at;
	uint32_t object = l->open[l->depth - 1].id;
	uint64_t h;

	crypto_shorthash((unsigned char *)&h, (const unsigned char *)key, len, l->seed);
	h ^= object * UINT64_C(0x9e3779b97f4a7c15);
	size_t i = (size_t)(h ^ h >> 32) & l->keys_mask;
	for (; l->keys[i].object; i = (i + 1) & l->keys_mask)
		if (l->keys[i].object == object && memcmp(l->out + l->keys[i].at, key, len) == 0)
			return false;
	l->keys[i] = (struct key){ .object = object, .at = (uint32_t)at };
	return true;
}

static bool lex_member_key(struct lex *l)
{
	size_t start = l->pos, at = l->n + 1;

	if (peek(l) != '"')
		return fail(l, "expected a key in quotes");
	if (!lex_string(l))
		return false;
	l->n_keys++;
	if (l->keys && !key_is_new(l, at)) {
		l->pos = start;
		return fail(l, "this key is there twice");
	}
	skip_space(l);
	if (peek(l) != ':')
		return fail(l, "expected ':'");
	l->pos++;
	emit(l, ":", 1);
	return true;
}

static bool lex_open(struct lex *l, bool object)
{
	if (l->depth == DEPTH_MAX)
		return fail(l, "nested too deep (64 at most)");
	l->open[l->depth].object = object;
	l->open[l->depth].id = ++l->n_objects;
	l->depth++;
	l->pos++;
	emit(l, object ? "{" : "[", 1);
	return true;
}

static void lex_close(struct lex *l)
{
	l->depth--;
	emit(l, l->open[l->depth].object ? "}" : "]", 1);
	l->pos++;
}

enum expect { EXPECT_VALUE, EXPECT_VALUE_OR_END, EXPECT_KEY, EXPECT_KEY_OR_END, EXPECT_NEXT };

/* One value, not inside another; what comes after it goes to *next. */
static bool lex_value(struct lex *l, enum expect *next)
{
	int c = peek(l);

	*next = EXPECT_NEXT;
	if (c == '{' || c == '[') {
		*next = c == '{' ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
		return lex_open(l, c == '{');
	}
	if (c == '"')
		return lex_string(l);
	if (c == '-' || is_digit(c))
		return lex_number(l);
	return lex_word(l, c == 't' ? "true" : c == 'f' ? "false" : "null");
}

static bool lex_next(struct lex *l, enum expect *next)
{
	int c = peek(l);
	bool object = l->open[l->depth - 1].object;

	if (c == ',') {
		l->pos++;
		emit(l, ",", 1);
		*next = object ? EXPECT_KEY : EXPECT_VALUE;
		return true;
	}
	if (c != (object ? '}' : ']'))
		return fail(l, object ? "expected ',' or '}'" : "expected ',' or ']'");
	lex_close(l);
	return true;
}

static bool lex_text(struct lex *l)
{
	enum expect expect = EXPECT_VALUE;

	l->pos = l->n = l->n_keys = 0;
	l->n_objects = 0;
	l->depth = 0;
	do {
		bool ok = true;

		skip_space(l);
		if ((expect == EXPECT_KEY_OR_END && peek(l) == '}') ||
		    (expect == EXPECT_VALUE_OR_END && peek(l) == ']')) {
			lex_close(l);
			expect = EXPECT_NEXT;
		} else if (expect == EXPECT_KEY || expect == EXPECT_KEY_OR_END) {
			ok = lex_member_key(l);
			expect = EXPECT_VALUE;
		} else if (expect == EXPECT_NEXT) {
			ok = lex_next(l, &expect);
		} else {
			ok = lex_value(l, &expect);
		}
		if (!ok)
			return false;
	} while (l->depth || expect != EXPECT_NEXT);
	skip_space(l);
	return l->pos == l->len || fail(l, "text after the end of the value");
}

/* ---- parsing ---- */

/* Takes the marks off s in place; returns its length. */
static size_t unmark(char *s)
{
	size_t len = strlen(s);
	char *r = strstr(s, MARK), *w = r, *end = s + len;

	if (!r)
		return len;
	while (r < end) {
		if (memcmp(r, MARK, MARK_LEN) == 0) {
			if (r[MARK_LEN] == '0') {
				*w++ = '\0';
			} else {
				memcpy(w, MARK, MARK_LEN);
				w += MARK_LEN;
			}
			r += MARK_LEN + 1;
		}
		const char *mark = r < end ? strstr(r, MARK) : NULL;
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
		if (strncmp(n->valuestring, MARK "n", MARK_LEN + 1) == 0) {
			const char *text = n->valuestring + MARK_LEN + 1;
			memmove(n->valuestring, text, strlen(text) + 1);
			n->type = cJSON_Raw;
		} else {
			n->valuedouble = (double)unmark(n->valuestring);
		}
	}
	for (cJSON *c = n->child; c; c = c->next)
		unmark_tree(c);
}

static int syntax_error(const struct lex *l, struct err *e)
{
	size_t line = 1, column = 1;

	for (size_t i = 0; i < l->pos; i++) {
		column++;
		if (l->in[i] == '\n') {
			line++;
			column = 1;
		}
	}
	return err_set(e, EBADMSG, "not valid JSON: line %zu, column %zu: %s", line, column,
		       l->pos == l->len && line == 1 && column == 1 ? "it is empty" : l->why);
}

int json_parse(const char *text, size_t len, size_t max, struct json **ret, struct err *e)
{
	if (len > max || len > text_max)
		return err_set(e, EMSGSIZE, "JSON of %zu bytes is larger than the limit of %zu", len,
			       max < text_max ? max : text_max);

	struct lex l = { .in = text, .len = len };
	if (!lex_text(&l))
		return syntax_error(&l, e);

	size_t slots = 2;
	while (slots < 2 * l.n_keys)
		slots *= 2;
	cleanup_sec char *out = sec_malloc(l.n + 1);
	cleanup_sec struct key *keys = sec_calloc(slots, sizeof *keys);
	if (!out || !keys)
		return err_set(e, ENOMEM, "not enough secret memory for a JSON text of %zu bytes", len);
	randombytes_buf(l.seed, sizeof l.seed);
	l.out = out;
	l.keys = keys;
	l.keys_mask = slots - 1;
	if (!lex_text(&l))
		return syntax_error(&l, e);
	out[l.n] = '\0';
	sec_free(TAKE_PTR(keys));

	cJSON *root = cJSON_ParseWithLengthOpts(out, l.n, NULL, 0);
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
