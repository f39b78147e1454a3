/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A main for fuzz targets without libFuzzer: feeds each file of the folders (or files) named on the command line to
 * LLVMFuzzerTestOneInput and prints how many there were. So the corpora are regression tests of every build.
 */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

static unsigned replayed;

static void fail(const char *what, const char *name)
{
	fprintf(stderr, "%s: ", name);
	perror(what);
	exit(1);
}

static void replay(const char *file)
{
	FILE *f = fopen(file, "rbe");
	struct stat st;
	if (!f || fstat(fileno(f), &st) != 0)
		fail("open", file);
	/* A block of exactly that size, so that a sanitizer sees a read beyond it. */
	size_t n = (size_t)st.st_size;
	uint8_t *data = malloc(n ? n : 1);
	if (!data || fread(data, 1, n, f) != n)
		fail("read", file);
	fclose(f);
	/* The last one printed is the one that crashed. */
	fprintf(stderr, "%s\n", file);
	LLVMFuzzerTestOneInput(data, n);
	free(data);
	replayed++;
}

int main(int argc, char **argv)
{
	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++) {
		struct stat st;
		if (stat(argv[i], &st) != 0)
			fail("stat", argv[i]);
		if (!S_ISDIR(st.st_mode)) {
			replay(argv[i]);
			continue;
		}
		struct dirent **name;
		int n = scandir(argv[i], &name, NULL, alphasort);
		if (n < 0)
			fail("scandir", argv[i]);
		for (int k = 0; k < n; k++) {
			char path[PATH_MAX];
			if (name[k]->d_name[0] != '.') {
				(void)snprintf(path, sizeof path, "%s/%s", argv[i], name[k]->d_name);
				replay(path);
			}
			free(name[k]);
		}
		free(name);
	}
	printf("%u inputs\n", replayed);
	return 0;
}
