/* SPDX-License-Identifier: Apache-2.0 */
/* Names: every byte comes back, nothing a directory cannot hold goes out, and no two names meet. */
#include "fs/name.h"
#include "tests/unit/check.h"

#include <string.h>

static void pair(const char *raw, size_t len, const char *shown)
{
	char out[FS_NAME_MAX + 1], back[FS_NAME_MAX + 1];
	size_t n = 12345;
	int r = fs_name_escape(raw, len, out);
	CHECK_MSG(r == (int)strlen(shown) && !strcmp(out, shown), "'%s' is shown as '%s' (%d)", raw, r < 0 ? "" : out,
		  r);
	CHECK_MSG(fs_name_unescape(shown, back, &n) == 0 && n == len && !memcmp(back, raw, len), "'%s'", shown);
	CHECK(back[n] == '\0');
}
#define PAIR(raw, shown) pair(raw, sizeof(raw) - 1, shown)

static void refused(const char *shown)
{
	char back[FS_NAME_MAX + 1];
	size_t n = 12345;
	CHECK_MSG(fs_name_unescape(shown, back, &n) == -EINVAL && n == 12345, "'%s' was taken", shown);
}

static void test_pairs(void)
{
	PAIR("password", "password");
	PAIR("a/b", "a%2Fb");
	PAIR("a\0b", "a%00b");
	PAIR("100%", "100%25");
	PAIR("%2F", "%252F");
	PAIR(".", "%2E");
	PAIR("..", "%2E%2E");
	PAIR("...", "...");
	PAIR(".env", ".env");
	PAIR("a.b", "a.b");
	PAIR("./", ".%2F");
	PAIR(".json", "%2Ejson");
	PAIR(".version", "%2Eversion");
	PAIR(".jso", ".jso");
	PAIR(".jsonl", ".jsonl");
	PAIR("json", "json");
	PAIR(".json\0", ".json%00");
	PAIR("gr\xc3\xbc\xc3\x9f \n\xff\x01", "gr\xc3\xbc\xc3\x9f \n\xff\x01");
	PAIR("/", "%2F");
	PAIR("\0", "%00");
}

static void test_refused(void)
{
	refused("");
	refused(".");
	refused("..");
	refused(".json");
	refused(".version");
	refused("a/b");
	refused("%");
	refused("%2");
	refused("name%");
	refused("%2f"); /* lower case */
	refused("%2e");
	refused("%2Etxt"); /* no need to encode that dot */
	refused("%2E.");
	refused(".%2E");
	refused("%2Ejson%2E");
	refused("a%2Eb");
	refused("%41");
	refused("%0");
	refused("%ZZ");
	refused("%+1");
	refused("% 1");
}

static void test_every_byte(void)
{
	for (int b = 0; b < 256; b++)
		for (int tail = 0; tail < 256; tail++) {
			char raw[2] = { (char)b, (char)tail }, out[FS_NAME_MAX + 1], back[FS_NAME_MAX + 1];
			size_t n;
			int r = fs_name_escape(raw, 2, out);
			CHECK(r >= 2 && (size_t)r == strlen(out) && !strchr(out, '/'));
			CHECK(fs_name_unescape(out, back, &n) == 0 && n == 2 && !memcmp(back, raw, 2));
		}
}

static void test_lengths(void)
{
	char raw[2 * FS_NAME_MAX], out[FS_NAME_MAX + 1], back[FS_NAME_MAX + 1];
	size_t n;
	CHECK(fs_name_escape("", 0, out) == -EINVAL);
	memset(raw, 'x', sizeof raw);
	CHECK(fs_name_escape(raw, 255, out) == 255 && strlen(out) == 255);
	CHECK(fs_name_unescape(out, back, &n) == 0 && n == 255 && !memcmp(back, raw, 255));
	CHECK(fs_name_escape(raw, 256, out) == -ENAMETOOLONG);
	/* It is the escaped length that counts. */
	memset(raw, '/', sizeof raw);
	CHECK(fs_name_escape(raw, 85, out) == 255);
	CHECK(fs_name_unescape(out, back, &n) == 0 && n == 85 && !memcmp(back, raw, 85));
	CHECK(fs_name_escape(raw, 86, out) == -ENAMETOOLONG);
	memset(raw, 'x', sizeof raw);
	raw[253] = '%';
	CHECK(fs_name_escape(raw, 254, out) == -ENAMETOOLONG);

	char longer[300];
	memset(longer, 'y', sizeof longer - 1);
	longer[sizeof longer - 1] = '\0';
	refused(longer);
}

int main(void)
{
	test_pairs();
	test_refused();
	test_every_byte();
	test_lengths();
	return 0;
}
