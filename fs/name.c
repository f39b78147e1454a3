/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/name.h"

#include <stdbool.h>
#include <string.h>

static const char HEX[] = "0123456789ABCDEF";

static bool dots_reserved(const char *raw, size_t len)
{
	static const char *const reserved[] = { ".", "..", ".json", ".version" };
	for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
		if (len == strlen(reserved[i]) && !memcmp(raw, reserved[i], len))
			return true;
	return false;
}

int fs_name_escape(const char *raw, size_t len, char *out)
{
	if (len == 0)
		return -EINVAL;
	bool dots = dots_reserved(raw, len);
	size_t n = 0;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)raw[i];
		if (c == '/' || c == '\0' || c == '%' || (dots && c == '.')) {
			if (n + 3 > FS_NAME_MAX)
				return -ENAMETOOLONG;
			out[n++] = '%';
			out[n++] = HEX[c >> 4];
			out[n++] = HEX[c & 15];
		} else {
			if (n + 1 > FS_NAME_MAX)
				return -ENAMETOOLONG;
			out[n++] = (char)c;
		}
	}
	out[n] = '\0';
	return (int)n;
}

static int hex_digit(char c)
{
	const char *at = c ? strchr(HEX, c) : NULL;
	return at ? (int)(at - HEX) : -1;
}

int fs_name_unescape(const char *shown, char *out, size_t *ret_len)
{
	size_t len = strnlen(shown, FS_NAME_MAX + 1), n = 0;
	if (len > FS_NAME_MAX)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		if (shown[i] != '%') {
			out[n++] = shown[i];
			continue;
		}
		/* The terminator is no digit, so neither look-ahead leaves the string. */
		int hi = hex_digit(shown[i + 1]);
		int lo = hi < 0 ? -1 : hex_digit(shown[i + 2]);
		if (lo < 0)
			return -EINVAL;
		out[n++] = (char)(hi << 4 | lo);
		i += 2;
	}
	/* One to one by construction: what would not be written this way again is not a name of ours. */
	char again[FS_NAME_MAX + 1];
	if (fs_name_escape(out, n, again) != (int)len || memcmp(again, shown, len) != 0)
		return -EINVAL;
	out[n] = '\0';
	*ret_len = n;
	return 0;
}
