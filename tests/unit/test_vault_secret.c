/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets as objects: order, bounds, references; their JSON form both ways; paths. */
#include "vault/secret.h"

#include "base/cleanup.h"
#include "base/secmem.h"
#include "tests/unit/check.h"

#include <string.h>

#define FIELD(n, v) \
	{ \
		.name = (n), .name_len = sizeof(n) - 1, .value = (const uint8_t *)(v), .len = sizeof(v) - 1 \
	}

static bool has(const struct vault_secret *s, const char *name, size_t name_len, const void *value, size_t len)
{
	const struct vault_field *f = vault_secret_find(s, name, name_len);
	return f && f->name_len == name_len && !memcmp(f->name, name, name_len) && f->len == len &&
	       !memcmp(f->value, value, len);
}
#define HAS(s, n, v) has(s, n, sizeof(n) - 1, v, sizeof(v) - 1)

static void test_new(void)
{
	struct err e = ERR_INIT;
	const struct vault_field in[] = { FIELD("user", "alice"), FIELD("a\0b", "x\0y"), FIELD("a", ""),
					  FIELD("", "empty"), FIELD("pass\xff", "\xff\xfe") };
	cleanup_secret struct vault_secret *s = NULL;
	CHECK(vault_secret_new(in, 5, 7, 1700000000, &s, &e) == 0);
	CHECK(vault_secret_version(s) == 7);
	CHECK(vault_secret_created(s) == 1700000000);
	CHECK(vault_secret_count(s) == 5);
	CHECK(HAS(s, "user", "alice"));
	CHECK(HAS(s, "a\0b", "x\0y"));
	CHECK(HAS(s, "a", ""));
	CHECK(HAS(s, "", "empty"));
	CHECK(HAS(s, "pass\xff", "\xff\xfe"));
	CHECK(!vault_secret_find(s, "use", 3));
	CHECK(!vault_secret_find(s, "users", 5));
	static const char *const order[] = { "", "a", "a", "pass\xff", "user" };
	for (size_t i = 0; i < 5; i++)
		CHECK(!strcmp(vault_secret_at(s, i)->name, order[i]));
	CHECK(!vault_secret_at(s, 5));
	/* Values are in secret memory, and are copies. */
	CHECK(sec_contains(vault_secret_find(s, "user", 4)->value));
	CHECK(vault_secret_find(s, "a", 1)->value);
	CHECK(vault_secret_bytes(s) > 15);

	struct vault_secret *again = vault_secret_ref(s);
	CHECK(again == s);
	vault_secret_unref(again);
	CHECK(HAS(s, "user", "alice"));
	vault_secret_unref(NULL);

	cleanup_secret struct vault_secret *none = NULL;
	CHECK(vault_secret_new(NULL, 0, 1, 0, &none, &e) == 0);
	CHECK(vault_secret_count(none) == 0 && !vault_secret_find(none, "a", 1));
}

static void test_bounds(void)
{
	struct err e = ERR_INIT;
	struct vault_secret *s = NULL;
	const struct vault_field twice[] = { FIELD("b", "1"), FIELD("a", "2"), FIELD("b", "3") };
	CHECK(vault_secret_new(twice, 3, 1, 0, &s, &e) == -EEXIST && !s && e.msg[0]);

	cleanup_free struct vault_field *many = calloc(VAULT_FIELDS_MAX + 1, sizeof *many);
	cleanup_free char *names = calloc(VAULT_FIELDS_MAX + 1, 8);
	CHECK(many && names);
	for (int i = 0; i <= VAULT_FIELDS_MAX; i++) {
		char *name = names + i * 8;
		many[i] = (struct vault_field){ name, (size_t)snprintf(name, 8, "f%d", i), (const uint8_t *)"v", 1 };
	}
	CHECK(vault_secret_new(many, VAULT_FIELDS_MAX + 1, 1, 0, &s, &e) == -EMSGSIZE && !s);
	CHECK(vault_secret_new(many, VAULT_FIELDS_MAX, 1, 0, &s, &e) == 0);
	for (int i = 0; i < VAULT_FIELDS_MAX; i++)
		CHECK(has(s, many[i].name, many[i].name_len, "v", 1));
	vault_secret_unref(TAKE_PTR(s));

	/* Never read: the sum is refused first. */
	static const uint8_t byte[1];
	const struct vault_field large[] = { { "a", 1, byte, VAULT_SECRET_MAX }, { "b", 1, byte, 1 } };
	CHECK(vault_secret_new(large, 2, 1, 0, &s, &e) == -EMSGSIZE && !s);
	const struct vault_field huge[] = { { "a", 1, byte, SIZE_MAX }, { "b", 1, byte, 2 } };
	CHECK(vault_secret_new(huge, 2, 1, 0, &s, &e) == -EMSGSIZE && !s);
	const struct vault_field names_huge[] = { { "a", SIZE_MAX, byte, 1 }, { "b", 2, byte, 1 } };
	CHECK(vault_secret_new(names_huge, 2, 1, 0, &s, &e) == -EMSGSIZE && !s);
}

static void check_text(const struct vault_secret *s, const char *want)
{
	cleanup_json struct json *j = vault_secret_to_json(s);
	CHECK(j);
	cleanup_sec char *text = json_print(j, false, NULL);
	CHECK(text && sec_contains(text));
	CHECK_MSG(!strcmp(text, want), "%s", text);
}

static struct vault_secret *parse(const char *text)
{
	struct err e = ERR_INIT;
	cleanup_json struct json *j = NULL;
	struct vault_secret *s = NULL;
	CHECK_MSG(json_parse(text, strlen(text), 1 << 20, &j, &e) == 0, "%s", e.msg);
	CHECK_MSG(vault_secret_from_json(j, 3, 5, &s, &e) == 0, "%s", e.msg);
	return s;
}

static void test_json(void)
{
	struct err e = ERR_INIT;
	const struct vault_field in[] = { FIELD("t", "h\xc3\xa9\n\"\0z"), FIELD("b", "\xff\x00\x01\x02"),
					  FIELD("e", ""), FIELD("n\0u", "nul") };
	cleanup_secret struct vault_secret *s = NULL;
	CHECK(vault_secret_new(in, 4, 1, 0, &s, &e) == 0);
	check_text(s, "{\"b\":{\"base64\":\"/"
		      "wABAg==\"},\"e\":\"\",\"n\\u0000u\":\"nul\",\"t\":\"h\xc3\xa9\\n\\\"\\u0000z\"}");

	/* And back, unchanged. */
	cleanup_json struct json *j = vault_secret_to_json(s);
	cleanup_secret struct vault_secret *back = NULL;
	CHECK(vault_secret_from_json(j, 9, 4, &back, &e) == 0);
	CHECK(vault_secret_count(back) == 4 && vault_secret_version(back) == 9 && vault_secret_created(back) == 4);
	for (size_t i = 0; i < 4; i++)
		CHECK(has(back, in[i].name, in[i].name_len, in[i].value, in[i].len));

	cleanup_secret struct vault_secret *all = parse(
		"{\"s\":\"x\",\"i\":10,\"f\":1.50,\"big\":123456789012345678901234567890,\"t\":true,\"n\":null,"
		"\"a\":[1, \"two\"],\"o\":{\"k\": \"v\"},\"u\":\"a\\u0000b\",\"64\":{\"base64\":\"/wABAg==\"},"
		"\"txt64\":{\"base64\":\"aGVsbG8=\"},\"empty64\":{\"base64\":\"\"}}");
	CHECK(vault_secret_count(all) == 12);
	CHECK(HAS(all, "s", "x"));
	CHECK(HAS(all, "i", "10"));
	CHECK(HAS(all, "f", "1.50"));
	CHECK(HAS(all, "big", "123456789012345678901234567890"));
	CHECK(HAS(all, "t", "true"));
	CHECK(HAS(all, "n", "null"));
	CHECK(HAS(all, "a", "[1,\"two\"]"));
	CHECK(HAS(all, "o", "{\"k\":\"v\"}"));
	CHECK(HAS(all, "u", "a\0b"));
	CHECK(HAS(all, "64", "\xff\x00\x01\x02"));
	CHECK(HAS(all, "txt64", "hello"));
	CHECK(HAS(all, "empty64", ""));

	/* What only resembles the base64 form is an object like any other. */
	cleanup_secret struct vault_secret *odd = parse(
		"{\"a\":{\"base64\":\"not base64!\"},\"b\":{\"base64\":\"/wABAg==\",\"more\":1},\"c\":{\"base64\":7},"
		"\"d\":{\"Base64\":\"/w==\"},\"e\":{\"base64\":\"/w\"},\"f\":{},\"g\":{\"base64\\u0000\":\"/w==\"}}");
	CHECK(HAS(odd, "a", "{\"base64\":\"not base64!\"}"));
	CHECK(HAS(odd, "b", "{\"base64\":\"/wABAg==\",\"more\":1}"));
	CHECK(HAS(odd, "c", "{\"base64\":7}"));
	CHECK(HAS(odd, "d", "{\"Base64\":\"/w==\"}"));
	CHECK(HAS(odd, "e", "{\"base64\":\"/w\"}"));
	CHECK(HAS(odd, "f", "{}"));
	CHECK(HAS(odd, "g", "{\"base64\\u0000\":\"/w==\"}"));

	cleanup_json struct json *array = json_array();
	struct vault_secret *no = NULL;
	CHECK(vault_secret_from_json(array, 1, 0, &no, &e) == -EINVAL && !no);
	CHECK(vault_secret_from_json(NULL, 1, 0, &no, &e) == -EINVAL && !no);

	/* A name that is no UTF-8 has no JSON form; another name would be another field. */
	const struct vault_field raw[] = { FIELD("\xff", "v") };
	cleanup_secret struct vault_secret *named = NULL;
	CHECK(vault_secret_new(raw, 1, 1, 0, &named, &e) == 0);
	errno = 0;
	CHECK(!vault_secret_to_json(named) && errno == EILSEQ);
}

static void test_json_many(void)
{
	/* 10,000 fields, every second one binary, both ways. */
	enum { N = 10000 };
	struct err e = ERR_INIT;
	cleanup_free struct vault_field *f = calloc(N, sizeof *f);
	cleanup_free char *names = calloc(N, 8);
	CHECK(f && names);
	for (int i = 0; i < N; i++) {
		char *name = names + i * 8;
		f[i] = (struct vault_field){ name, (size_t)snprintf(name, 8, "f%d", i),
					     (const uint8_t *)(i % 2 ? "text" : "\x80\x00"), i % 2 ? 4 : 2 };
	}
	cleanup_secret struct vault_secret *s = NULL, *back = NULL;
	CHECK(vault_secret_new(f, N, 1, 0, &s, &e) == 0);
	cleanup_json struct json *j = vault_secret_to_json(s);
	CHECK(j && json_count(j) == N);
	CHECK(vault_secret_from_json(j, 1, 0, &back, &e) == 0);
	for (int i = 0; i < N; i++)
		CHECK(has(back, f[i].name, f[i].name_len, f[i].value, f[i].len));
}

static void test_paths(void)
{
	struct err e = ERR_INIT;
	static const char *const good[] = { "a", "app/db", "a b/\xff\xfe/%2F", "..a/b..", ".../x", "\n" };
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		CHECK_MSG(vault_path_check(good[i], false, &e) == 0, "%s: %s", good[i], e.msg);
		CHECK_MSG(vault_path_check(good[i], true, &e) == 0, "%s: %s", good[i], e.msg);
	}
	static const char *const bad[] = { "/",	  "/a",	 "a//b", "a//",	   "//",    ".",  "..",
					   "./a", "a/.", "a/..", "a/../b", "a/./b", "../" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		e = (struct err)ERR_INIT;
		CHECK_MSG(vault_path_check(bad[i], false, &e) == -EINVAL && e.msg[0], "%s", bad[i]);
		CHECK_MSG(vault_path_check(bad[i], true, &e) == -EINVAL, "%s", bad[i]);
	}
	CHECK(vault_path_check("", false, &e) == -EINVAL);
	CHECK(vault_path_check("", true, &e) == 0);
	CHECK(vault_path_check("app/", false, &e) == -EINVAL);
	CHECK(vault_path_check("app/", true, &e) == 0);

	static char longest[VAULT_PATH_MAX + 2];
	memset(longest, 'x', VAULT_PATH_MAX);
	longest[VAULT_PATH_MAX] = '\0';
	CHECK(vault_path_check(longest, false, &e) == 0);
	longest[VAULT_PATH_MAX] = 'x';
	CHECK(vault_path_check(longest, false, &e) == -EINVAL);
	CHECK(strlen(e.msg) < 200);
	/* What is shown of a path moves no cursor. */
	CHECK(vault_path_check("/\x1b[2J\n", false, &e) == -EINVAL && !strpbrk(e.msg, "\x1b\n"));
}

static size_t used_after_all(void)
{
	test_new();
	test_bounds();
	test_json();
	test_json_many();
	test_paths();
	struct secmem_stats stats;
	secmem_get_stats(&stats);
	return stats.used;
}

int main(void)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);
	/* The first round fills what the heap keeps for itself; the second must leave nothing more. */
	size_t first = used_after_all(), second = used_after_all();
	CHECK_MSG(first == second, "%zu bytes of secret memory are lost a round", second - first);
	return 0;
}
