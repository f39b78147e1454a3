/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All of RFC 8259, bounds, UTF-8 and duplicate keys are checked here, where positions are known. The form written is
 * canonical (one spelling per string), which is what lets duplicate keys be found by their bytes. The text is gone
 * through twice, to measure and to write: secret memory is too scarce for a buffer that guesses.
 */
#include "base/json_lex.h"

#include "base/cleanup.h"
#include "base/secmem.h"
#include "base/utf8.h"

#include <sodium.h>
#include <string.h>

enum { DEPTH_MAX = 64 };

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
	emit(l, "\"" JSON_MARK "n", 2 + JSON_MARK_LEN);
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
		emit(l, JSON_MARK "0", JSON_MARK_LEN + 1);
	} else if (cp == JSON_MARK_CP) {
		emit(l, JSON_MARK "m", JSON_MARK_LEN + 1);
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
		       l->len ? l->why : "it is empty");
}

int json_lex(const char *text, size_t len, char **ret, size_t *ret_len, struct err *e)
{
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
	*ret_len = l.n;
	*ret = TAKE_PTR(out);
	return 0;
}
