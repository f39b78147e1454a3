/* SPDX-License-Identifier: Apache-2.0 */
/* What a vault answers, read: good answers, and answers that are none. */
#include "base/secmem.h"
#include "tests/unit/check.h"
#include "vault/openbao_json.h"

#include <string.h>

static struct err e;

static int secret(const char *body, struct vault_secret **ret)
{
	e = (struct err)ERR_INIT;
	return openbao_parse_secret(body, strlen(body), ret, &e);
}

static int list(const char *body, struct vault_names **ret)
{
	e = (struct err)ERR_INIT;
	return openbao_parse_list(body, strlen(body), ret, &e);
}

#define META "\"metadata\":{\"version\":3,\"created_time\":\"2026-11-23T02:11:12.189239745Z\",\"deletion_time\":\"\"}"

static void test_secret(void)
{
	struct vault_secret *s = NULL;
	CHECK_MSG(secret("{\"data\":{\"data\":{\"b\":\"2\",\"a\":\"1\\u0000x\"}," META "}}", &s) == 0, "%s", e.msg);
	CHECK(vault_secret_version(s) == 3 && vault_secret_created(s) == 1795399872 && vault_secret_count(s) == 2);
	const struct vault_field *f = vault_secret_find(s, "a", 1);
	CHECK(f && f->len == 3 && memcmp(f->value, "1\0x", 3) == 0);
	vault_secret_unref(s);
	CHECK(secret("{\"data\":{\"data\":{}," META "}}", &s) == 0);
	CHECK(vault_secret_count(s) == 0);
	vault_secret_unref(s);
	s = NULL;
	CHECK(secret("{\"data\":{\"data\":null,\"metadata\":{\"version\":1,\"deletion_time\":\"2026-01-01T00:00:00Z\"}}"
		     "}",
		     &s) == -ENOENT);
	CHECK(secret("{\"data\":{\"data\":null,\"metadata\":{\"version\":1,\"destroyed\":true}}}", &s) == -ENOENT);
	static const char *const none[] = {
		"",
		"null",
		"[]",
		"{}",
		"{\"data\":{}}",
		"{\"data\":{\"data\":{\"a\":\"1\"}}}",
		"{\"data\":{\"data\":null," META "}}",
		"{\"data\":{\"data\":[\"a\"]," META "}}",
		"{\"data\":{\"data\":\"a\"," META "}}",
		"{\"data\":{\"data\":{\"a\":\"1\"},\"metadata\":{\"version\":0}}}",
		"{\"data\":{\"data\":{\"a\":\"1\"},\"metadata\":{\"version\":-1}}}",
		"{\"data\":{\"data\":{\"a\":\"1\"},\"metadata\":{\"version\":\"1\"}}}",
		"{\"data\":{\"data\":{\"a\":\"1\"},\"metadata\":{\"version\":1e99}}}",
		"{\"data\":{\"data\":{\"a\":\"1\",\"a\":\"2\"}," META "}}",
		"{\"data\":{\"data\":{\"a\":\"1\"}," META "}",
		"{\"data\":{\"data\":{\"a\":\"\xff\"}," META "}}",
		"{\"data\":{\"data\":{\"a\":\"1\"}," META "}} trailing",
	};
	for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
		int r = secret(none[i], &s);
		CHECK_MSG(r == -EPROTO, "%s: %d %s", none[i], r, e.msg);
		CHECK(!s && e.msg[0]);
	}
}

static void test_list(void)
{
	struct vault_names *n = NULL;
	CHECK_MSG(list("{\"data\":{\"keys\":[\"z\",\"app/\",\"app\",\"\\u00e4\",\"z\"]}}", &n) == 0, "%s", e.msg);
	CHECK(n->n == 4);
	CHECK(!strcmp(n->name[0], "app") && !strcmp(n->name[1], "app/") && !strcmp(n->name[2], "z") &&
	      !strcmp(n->name[3], "\xc3\xa4"));
	vault_names_free(n);
	/* what no path can be made of */
	CHECK(list("{\"data\":{\"keys\":[\"\",\"/\",\".\",\"..\",\"./\",\"../\",\"a/b\",\"a//"
		   "\",\"a\\u0000b\",\"ok\",\"...\"]}}",
		   &n) == 0);
	CHECK(n->n == 2 && !strcmp(n->name[0], "...") && !strcmp(n->name[1], "ok"));
	vault_names_free(n);
	n = NULL;
	static const char *const none[] = {
		"",
		"{}",
		"{\"data\":{\"keys\":null}}",
		"{\"data\":{\"keys\":{\"a\":\"b\"}}}",
		"{\"data\":{\"keys\":[1]}}",
		"{\"data\":{\"keys\":[[]]}}",
	};
	for (size_t i = 0; i < sizeof none / sizeof *none; i++)
		CHECK(list(none[i], &n) == -EPROTO && !n && e.msg[0]);
	/* one name too many */
	size_t room = 64 + 4 * (OPENBAO_NAMES_MAX + 1);
	char *big = malloc(room), *p = big;
	CHECK(big);
	p = stpcpy(p, "{\"data\":{\"keys\":[");
	for (int i = 0; i <= OPENBAO_NAMES_MAX; i++)
		p = stpcpy(p, i ? ",\"a\"" : "\"a\"");
	(void)stpcpy(p, "]}}");
	CHECK(list(big, &n) == -EMSGSIZE && !n);
	free(big);
	char *longest = malloc(VAULT_PATH_MAX + 64);
	CHECK(longest);
	p = stpcpy(longest, "{\"data\":{\"keys\":[\"");
	memset(p, 'a', VAULT_PATH_MAX + 1);
	(void)stpcpy(p + VAULT_PATH_MAX + 1, "\"]}}");
	CHECK(list(longest, &n) == 0 && n->n == 0);
	vault_names_free(n);
	free(longest);
}

static void test_time(void)
{
	CHECK(openbao_parse_time("1970-01-01T00:00:01Z") == 1);
	CHECK(openbao_parse_time("2006-01-02T15:04:05.999999999Z") == 1136214245);
	CHECK(openbao_parse_time("2006-01-02T15:04:05+07:00") == 1136189045);
	CHECK(openbao_parse_time("2006-01-02T15:04:05.1-07:30") == 1136241245);
	static const char *const none[] = {
		"",
		"2006",
		"2006-01-02",
		"2006-01-02 15:04:05Z",
		"2006-01-02T15:04:05",
		"2006-01-02T15:04:05z",
		"2006-01-02T15:04:05Zx",
		"2006-01-02T15:04:05+7:00",
		"2006-01-02T15:04:05+07:0x",
		"x006-01-02T15:04:05Z",
		"1960-01-02T15:04:05Z",
	};
	for (size_t i = 0; i < sizeof none / sizeof *none; i++)
		CHECK_MSG(openbao_parse_time(none[i]) == 0, "%s", none[i]);
	CHECK(openbao_parse_time(NULL) == 0);
}

static void test_errors(void)
{
	char buf[32];
	static const char sealed[] = "{\"errors\":[\"Vault is sealed\"]}";
	openbao_first_error(sealed, sizeof sealed - 1, buf, sizeof buf);
	CHECK(!strcmp(buf, "Vault is sealed"));
	static const char evil[] =
		"{\"errors\":[\"1 error:\\n\\t* a\\u001b[31mred and rather long, so that it is cut\"]}";
	openbao_first_error(evil, sizeof evil - 1, buf, sizeof buf);
	CHECK_MSG(!strcmp(buf, "1 error:  * a [31mred and rathe") && strlen(buf) == sizeof buf - 1, "%s", buf);
	static const char *const none[] = { "",	 "<html>", "{\"errors\":[]}", "{\"errors\":\"x\"}", "{\"errors\":[1]}",
					    "[]" };
	for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
		openbao_first_error(none[i], strlen(none[i]), buf, sizeof buf);
		CHECK(!buf[0]);
	}
	CHECK(openbao_is_absent("{\"errors\":[]}", 13));
	static const char deleted[] = "{\"data\":{\"data\":null,\"metadata\":{\"version\":1}}}";
	CHECK(openbao_is_absent(deleted, sizeof deleted - 1));
	static const char *const present[] = {
		"",
		"{}",
		"<html>not found</html>",
		"{\"errors\":[\"no handler for route\"]}",
		"{\"errors\":{}}",
		"{\"data\":{\"data\":{},\"metadata\":{}}}",
		"{\"data\":null}",
	};
	for (size_t i = 0; i < sizeof present / sizeof *present; i++)
		CHECK_MSG(!openbao_is_absent(present[i], strlen(present[i])), "%s", present[i]);
}

static void test_requests(void)
{
	static const struct vault_field fields[] = {
		{ "bin", 3, (const uint8_t *)"\xff", 1 },
		{ "a", 1, (const uint8_t *)"x\0y", 3 },
	};
	struct vault_secret *s;
	char *body;
	size_t len;
	CHECK(vault_secret_new(fields, 2, 1, 0, &s, &e) == 0);
	CHECK(openbao_make_put(s, VAULT_CAS_ANY, &body, &len, &e) == 0);
	CHECK_MSG(!strcmp(body, "{\"data\":{\"a\":\"x\\u0000y\",\"bin\":{\"base64\":\"/w==\"}}}"), "%s", body);
	CHECK(len == strlen(body) && sec_contains(body));
	sec_free(body);
	CHECK(openbao_make_put(s, 7, &body, &len, &e) == 0);
	CHECK(strstr(body, ",\"options\":{\"cas\":7}}"));
	sec_free(body);
	vault_secret_unref(s);
	static const struct vault_field odd = { "\xff", 1, (const uint8_t *)"", 0 };
	CHECK(vault_secret_new(&odd, 1, 1, 0, &s, &e) == 0);
	CHECK(openbao_make_put(s, 0, &body, &len, &e) == -EILSEQ);
	vault_secret_unref(s);

	char *path = openbao_make_path("team/kv", "data", "a b/\xc3\xa4%/~.-_?#&=+;:@\\");
	CHECK_MSG(path && !strcmp(path, "/v1/team/kv/data/a%20b/%C3%A4%25/~.-_%3F%23%26%3D%2B%3B%3A%40%5C"), "%s",
		  path);
	free(path);
	CHECK(openbao_path_possible("a/b \xc3\xa4%"));
	CHECK(!openbao_path_possible("a\nb") && !openbao_path_possible("a\x7f") && !openbao_path_possible("\xff"));
}

int main(void)
{
	int r = secmem_init(SECMEM_PREFERRED, &e);
	CHECK_MSG(r == 0, "%s", e.msg);
	test_secret();
	test_list();
	test_time();
	test_errors();
	test_requests();
	return 0;
}
