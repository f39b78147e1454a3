/* SPDX-License-Identifier: Apache-2.0 */
/* Names both ways: raw → shown → raw is the identity, and so is shown → raw → shown wherever the first step is taken. */
#include "fs/name.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char out[FS_NAME_MAX + 1], back[FS_NAME_MAX + 1];
	size_t n;

	int r = fs_name_escape((const char *)data, size, out);
	if (r >= 0) {
		require(r > 0 && r <= FS_NAME_MAX && strlen(out) == (size_t)r && !strchr(out, '/'));
		require(strcmp(out, ".") && strcmp(out, "..") && strcmp(out, ".json") && strcmp(out, ".version"));
		require(out[r - 1] != '%');
		require(fs_name_unescape(out, back, &n) == 0 && n == size && !memcmp(back, data, size));
	} else {
		require(r == -EINVAL ? size == 0 : r == -ENAMETOOLONG && size * 3 > FS_NAME_MAX);
	}

	/* An exact allocation, so that the sanitizer sees a look-ahead beyond the terminator. */
	char *shown = malloc(size + 1);
	require(shown != NULL);
	if (size)
		memcpy(shown, data, size);
	shown[size] = '\0';
	if (fs_name_unescape(shown, back, &n) == 0) {
		require(n <= FS_NAME_MAX);
		require(fs_name_escape(back, n, out) == (int)strlen(shown) && !strcmp(out, shown));
	}
	free(shown);
	return 0;
}
