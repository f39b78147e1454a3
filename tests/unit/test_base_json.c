/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "base/secmem.h"
#include "tests/unit/check.h"

#include <string.h>
#include <time.h>

enum { MAX = 64 << 20 };

static struct json *parsed(const char *text)
{
	size_t len = strlen(text);
	struct json *j = NULL;
	struct err e = ERR_INIT;
	int r = json_parse(text, len, MAX, &j, &e);

	CHECK_MSG(r == 0, "%.60s: %s", text, e.msg);
	return j;
}

/* Compact texts in their shortest spelling come out as they went in. */
static void test_exact(void)
{
	static const char *const same[] = {
		"null",
		"true",
		"false",
		"0",
		"-0",
		"\"\"",
		"{}",
		"[]",
		"[[],{}]",
		"123456789012345678901234567890",
		"1.10",
		"-1e+400",
		"0.1000000000000000055511151231257827",
		"1E5",
		"9007199254740993",
		"\"a\\u0000b\"",
		"\"\\u0000\"",
		"{\"\\u0000k\\u0000\":\"\\u0000\\u0000\"}",
		"\"\xef\xb7\x90\"",
		"\"\xef\xb7\x90n1\"",
		"\"\xef\xb7\x90\xef\xb7\x90\x30\\u0000\xef\xb7\x90m\"",
		"{\"\xef\xb7\x90n1\":[1,\"1\"]}",
		"\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\"",
		"\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x94\x91\"",
		"{\"b\":1,\"a\":2,\"\":3,\"B\":4}",
		"[1,2,3,null,true]",
		"{\"a\":{\"a\":{\"a\":1}},\"b\":[{\"a\":1},{\"a\":1}]}",
	};

	for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
		cleanup_json struct json *j = parsed(same[i]);
		size_t len = 0;
		cleanup_sec char *out = json_print(j, false, &len);
		CHECK(out);
		CHECK_MSG(len == strlen(same[i]) && memcmp(out, same[i], len + 1) == 0, "%s became %s", same[i], out);

		cleanup_json struct json *copy = json_copy(j);
		cleanup_sec char *again = json_print(copy, false, NULL);
		CHECK(again);
		CHECK_MSG(strcmp(again, same[i]) == 0, "a copy of %s became %s", same[i], again);
	}
}

static void test_normalised(void)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{ " \t\r\n[ 1 , 2 ]\n", "[1,2]" },
		{ "\"\\u0041\\/\\u00e4\"", "\"A/\xc3\xa4\"" },
		{ "\"\\ud83d\\udd11\"", "\"\xf0\x9f\x94\x91\"" },
		{ "\"\\ufdd0n1\"", "\"\xef\xb7\x90n1\"" },
		{ "{ \"a\" : { } }", "{\"a\":{}}" },
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		cleanup_json struct json *j = parsed(cases[i].in);
		cleanup_sec char *out = json_print(j, false, NULL);
		CHECK_MSG(out && strcmp(out, cases[i].out) == 0, "%s became %s", cases[i].in, out);
	}

	cleanup_json struct json *j = parsed("{\"a\":[1,{}],\"b\":[],\"c\":{\"d\":null}}");
	cleanup_sec char *out = json_print(j, true, NULL);
	CHECK(out);
	CHECK(strcmp(out, "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": [],\n  \"c\": {\n    \"d\": null\n  }\n}") ==
	      0);
}

struct bad {
	const char *text;
	const char *at; /* how the message goes on behind "not valid JSON: " */
};
#define SECRET "hunter2"

static void test_refused(void)
{
	static const struct bad cases[] = {
		{ "", "line 1, column 1: it is empty" },
		{ " ", "line 1, column 2: expected a value" },
		{ "\"" SECRET, "line 1, column 9: a string has no end" },
		{ "{\"k\":\"" SECRET "\" x}", "line 1, column 16: expected ',' or '}'" },
		{ "[\"" SECRET "\" x]", "line 1, column 12: expected ',' or ']'" },
		{ "[\"" SECRET "\",]", "line 1, column 12: expected a value" },
		{ "[\"" SECRET "\"}", "line 1, column 11: expected ',' or ']'" },
		{ "{\"" SECRET "\"}", "line 1, column 11: expected ':'" },
		{ "{" SECRET ":1}", "line 1, column 2: expected a key in quotes" },
		{ "{\"a\":1,}", "line 1, column 8: expected a key in quotes" },
		{ "{,}", "line 1, column 2: expected a key in quotes" },
		{ "[,1]", "line 1, column 2: expected a value" },
		{ "[1 2]", "line 1, column 4: expected ',' or ']'" },
		{ "\"" SECRET "\" \"" SECRET "\"", "line 1, column 11: text after the end of the value" },
		{ SECRET, "line 1, column 1: expected a value" },
		{ "nul", "line 1, column 1: expected a value" },
		{ "nullx", "line 1, column 5: text after the end of the value" },
		{ "\xef\xbb\xbf{}", "line 1, column 1: expected a value" },
		{ "\n\n {\"a\":1,\n  \"a\":\"" SECRET "\"}", "line 4, column 3: this key is there twice" },
		{ "{\"ab\":1,\"a\\u0062\":2}", "line 1, column 9: this key is there twice" },
		{ "{\"\\u0000\":1,\"\\u0000\":2}", "line 1, column 13: this key is there twice" },
		{ "[{\"a\":{\"a\":1,\"b\":2,\"a\":3}}]", "line 1, column 20: this key is there twice" },
		{ "01", "line 1, column 2: a number may not begin with 0" },
		{ "-", "line 1, column 2: a digit is missing" },
		{ "+1", "line 1, column 1: expected a value" },
		{ "1.", "line 1, column 3: a digit is missing" },
		{ ".5", "line 1, column 1: expected a value" },
		{ "1e", "line 1, column 3: a digit is missing" },
		{ "NaN", "line 1, column 1: expected a value" },
		{ "\"\\x\"", "line 1, column 3: unknown escape in a string" },
		{ "\"\\u12g4\"", "line 1, column 6: \\u needs four hexadecimal digits" },
		{ "\"\\ud800\"", "line 1, column 8: a lone surrogate in a string" },
		{ "\"\\ud800\\u0041\"", "line 1, column 14: a lone surrogate in a string" },
		{ "\"\\udc00\\ud800\"", "line 1, column 8: a lone surrogate in a string" },
		{ "\"\\ud800\\ud800\"", "line 1, column 14: a lone surrogate in a string" },
		{ "\"a\nb\"", "line 1, column 3: a control character in a string" },
		{ "\"\xff\"", "line 1, column 2: a string is not UTF-8" },
		{ "\"\xc0\x80\"", "line 1, column 2: a string is not UTF-8" },
		{ "\"\xed\xa0\x80\"", "line 1, column 2: a string is not UTF-8" },
		{ "\"\xf4\x90\x80\x80\"", "line 1, column 2: a string is not UTF-8" },
		{ "\"\xe2\x82\"", "line 1, column 2: a string is not UTF-8" },
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct json *j = (struct json *)&j;
		struct err e = ERR_INIT;
		char want[ERR_MSG_MAX];
		snprintf(want, sizeof want, "not valid JSON: %s", cases[i].at);
		int r = json_parse(cases[i].text, strlen(cases[i].text), MAX, &j, &e);
		CHECK_MSG(r == -EBADMSG, "%s: %d", cases[i].text, r);
		CHECK(j == (struct json *)&j);
		CHECK_MSG(strcmp(e.msg, want) == 0, "%s gave: %s", cases[i].text, e.msg);
		CHECK(!strstr(e.msg, SECRET));
	}

	struct json *j;
	struct err e = ERR_INIT;
	CHECK(json_parse("{\0}", 3, MAX, &j, &e) == -EBADMSG);
	CHECK(json_parse("\"a\0b\"", 5, MAX, &j, &e) == -EBADMSG);
	CHECK(json_parse("[1,2]", 5, 4, &j, &e) == -EMSGSIZE);
	CHECK(strstr(e.msg, "limit of 4"));
	CHECK(json_parse("[1,2]", 5, 5, &j, NULL) == 0);
	json_free(j);
}

/* Every cut of a text is refused (or, for a number at the top, is a number), and nothing behind the end is read. */
static void test_cut(void)
{
	static const char text[] = "{\"a\":[1.5e3,\"\\ud83d\\udd11\\u0000\xc3\xa4\",true],\"b\":{\"c\":null}}";

	for (size_t n = 0; n < sizeof text - 1; n++) {
		char *exact = malloc(n ? n : 1); /* the sanitizer sees a read behind it */
		struct json *j;
		CHECK(exact);
		memcpy(exact, text, n);
		CHECK_MSG(json_parse(exact, n, MAX, &j, NULL) == -EBADMSG, "cut at %zu", n);
		free(exact);
	}
}

static void test_depth(void)
{
	for (size_t depth = 63; depth <= 66; depth++) {
		char text[256];
		struct json *j;
		memset(text, '[', depth);
		memset(text + depth, ']', depth);
		int r = json_parse(text, 2 * depth, MAX, &j, NULL);
		CHECK_MSG(r == (depth <= 64 ? 0 : -EBADMSG), "depth %zu: %d", depth, r);
		if (r == 0)
			json_free(j);
	}
	/* far too deep is refused before any recursion */
	char *deep = malloc(1 << 20);
	struct json *j;
	CHECK(deep);
	memset(deep, '[', 1 << 20);
	CHECK(json_parse(deep, 1 << 20, MAX, &j, NULL) == -EBADMSG);
	free(deep);
}

static void test_reading(void)
{
	cleanup_json struct json *j = parsed(
		"{\"data\":{\"data\":{\"x\":\"a\\u0000b\"},\"n\":42},\"list\":[1,2],\"yes\":true,"
		"\"big\":9223372036854775807,\"over\":9223372036854775808,\"f\":1.0,\"neg\":-7,\"z\\u0000\":1}");
	size_t len = 0;

	CHECK(json_type(j) == JSON_OBJECT);
	CHECK(json_type(NULL) == JSON_NULL);
	const struct json *x = json_path(j, "data.data.x");
	CHECK(x);
	CHECK(strcmp(json_string(x), "a") == 0);
	const char *b = json_bytes(x, &len);
	CHECK(b && len == 3 && memcmp(b, "a\0b", 4) == 0);
	CHECK(!json_path(j, "data.nothing.x"));
	CHECK(!json_path(j, "list.x"));
	CHECK(!json_get(j, "DATA"));
	CHECK(!json_get(j, "dat"));
	CHECK(!json_get(NULL, "data"));
	CHECK(!json_get(json_get(j, "list"), "data"));
	CHECK(json_int(json_path(j, "data.n"), -1) == 42);
	CHECK(json_int(json_get(j, "big"), -1) == INT64_MAX);
	CHECK(json_int(json_get(j, "over"), -1) == -1);
	CHECK(json_int(json_get(j, "f"), -1) == -1);
	CHECK(json_int(json_get(j, "neg"), -1) == -7);
	CHECK(json_int(json_get(j, "yes"), -1) == -1);
	CHECK(json_int(NULL, -1) == -1);
	CHECK(strcmp(json_number(json_get(j, "f")), "1.0") == 0);
	CHECK(!json_number(x));
	CHECK(!json_string(json_get(j, "big")));
	CHECK(!json_bytes(json_get(j, "big"), &len));
	CHECK(json_bool(json_get(j, "yes"), false));
	CHECK(json_bool(json_get(j, "big"), true));
	CHECK(json_count(j) == 8);
	CHECK(json_count(json_get(j, "list")) == 2);
	CHECK(json_count(NULL) == 0);
	CHECK(!json_next(json_next(json_first(json_get(j, "list")))));
	CHECK(!json_name(json_first(json_get(j, "list"))));
	CHECK(strcmp(json_name(json_first(j)), "data") == 0);

	const struct json *last = json_first(j);
	while (json_next(last))
		last = json_next(last);
	const char *name = json_name_bytes(last, &len);
	CHECK(name && len == 2 && memcmp(name, "z\0", 3) == 0);
	CHECK(!json_name_bytes(json_first(json_get(j, "list")), &len));
}

static void test_building(void)
{
	cleanup_json struct json *j = json_object();
	struct json *list = json_array();

	CHECK(json_append(list, json_of_int(INT64_MIN)) == 0);
	CHECK(json_append(list, json_of_bool(false)) == 0);
	CHECK(json_append(list, json_of_null()) == 0);
	CHECK(json_append(list, json_of_bytes("a\0\"b", 4)) == 0);
	CHECK(json_set(j, "list", list) == 0);
	CHECK(json_set_bytes(j, "n\0l", 3, json_of_string("\xc3\xa4")) == 0);
	CHECK(json_set(j, "o", json_object()) == 0);
	CHECK(json_set(j, "e", json_of_bytes(NULL, 0)) == 0);

	CHECK(json_set(j, "x", NULL) == -ENOMEM);
	CHECK(json_append(list, NULL) == -ENOMEM);
	CHECK(json_set(list, "x", json_of_null()) == -EINVAL);
	CHECK(json_append(j, json_of_null()) == -EINVAL);
	CHECK(json_set(j, "\xff", json_of_null()) == -EILSEQ);
	errno = 0;
	CHECK(!json_of_bytes("\xff", 1) && errno == EILSEQ);
	CHECK(!json_of_string("\xed\xa0\x80"));

	static const char want[] =
		"{\"list\":[-9223372036854775808,false,null,\"a\\u0000\\\"b\"],\"n\\u0000l\":\"\xc3\xa4\","
		"\"o\":{},\"e\":\"\"}";
	cleanup_sec char *out = json_print(j, false, NULL);
	CHECK_MSG(out && strcmp(out, want) == 0, "%s", out);

	/* and it is read as it was built */
	cleanup_json struct json *back = parsed(out);
	cleanup_sec char *again = json_print(back, false, NULL);
	CHECK(again && strcmp(again, want) == 0);

	cleanup_json struct json *copy = json_copy(json_get(j, "list"));
	CHECK(!json_name(copy)); /* a copied member is a root of its own */
	CHECK(json_count(copy) == 4);
}

static void test_utf8(void)
{
	CHECK(utf8_valid("", 0));
	CHECK(utf8_valid("a\0\xc3\xa4\xef\xbf\xbf\xf4\x8f\xbf\xbf", 11));
	CHECK(!utf8_valid("\x80", 1));
	CHECK(!utf8_valid("\xc3", 1));
	CHECK(!utf8_valid("\xc1\xbf", 2));
	CHECK(!utf8_valid("\xe0\x9f\xbf", 3));
	CHECK(!utf8_valid("\xf0\x8f\xbf\xbf", 4));
	CHECK(!utf8_valid("\xf5\x80\x80\x80", 4));
	CHECK(!utf8_valid("a\xc3(", 3));
}

/* All of a tree and of its text lies in secret memory. */
static void test_secret(void)
{
	cleanup_json struct json *j = parsed("{\"key\":[1,\"value\"]}");
	cleanup_sec char *out = json_print(j, true, NULL);
	const struct json *list = json_first(j);

	CHECK(sec_contains(out));
	CHECK(sec_contains(j));
	CHECK(sec_contains(json_name(list)));
	CHECK(sec_contains(json_number(json_first(list))));
	CHECK(sec_contains(json_string(json_next(json_first(list)))));
}

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Parses, checks and prints an object of n members; returns the CPU time. */
static double object_of(size_t n)
{
	size_t room = n * 32 + 3, len = 0;
	char *text = malloc(room);
	CHECK(text);
	text[len++] = '{';
	for (size_t i = 0; i < n; i++)
		len += (size_t)snprintf(text + len, room - len, "%s\"field%zu\":%zu", i ? "," : "", i, i);
	text[len++] = '}';
	text[len] = '\0';

	double start = seconds();
	cleanup_json struct json *j = parsed(text);
	size_t out_len = 0, seen = 0;
	cleanup_sec char *out = json_print(j, false, &out_len);
	for (const struct json *c = json_first(j); c; c = json_next(c))
		CHECK(json_int(c, -1) == (int64_t)seen++);
	double spent = seconds() - start;

	CHECK(seen == n);
	CHECK(out && out_len == len && memcmp(out, text, len) == 0);
	free(text);
	return spent;
}

/* Ten times the members must not take a hundred times as long; the margin is for a busy machine. */
static void test_linear(void)
{
	double best_small = 1e9, best_large = 1e9;

	for (int i = 0; i < 5; i++) {
		double small = object_of(1000), large = object_of(10000);
		best_small = small < best_small ? small : best_small;
		best_large = large < best_large ? large : best_large;
	}
	CHECK_MSG(best_large < 40 * best_small, "1000 members: %g s, 10000: %g s", best_small, best_large);
}

int main(void)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);

	test_exact();
	test_normalised();
	test_refused();
	test_cut();
	test_depth();
	test_reading();
	test_building();
	test_utf8();
	test_secret();
	test_linear();
	puts("ok");
	return 0;
}
