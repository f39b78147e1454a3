/* SPDX-License-Identifier: Apache-2.0 */
/* A vault of 100,000 secrets: made by the format's own functions, then opened, listed, read and written. */
#include "tests/unit/sealed_help.h"
#include "vault/sealed_file_internal.h"

enum { FEW = 1000, MANY = 100000, IN_FOLDER = 100 };

static struct io *io;

static void put_le(uint8_t *p, uint64_t v, int n)
{
	for (int i = 0; i < n; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static void path_of(int i, char path[32])
{
	(void)snprintf(path, 32, "tree/%04d/%02d", i / IN_FOLDER, i % IN_FOLDER);
}

/* Fills an empty vault with n secrets, "tree/0000/00" on, with their path as value. */
static void fill(const char *file, int n)
{
	struct err e = ERR_INIT;
	struct sealed_file *f = NULL;
	make_vault(file);
	CHECK_MSG(sealed_file_open(file, PASS, strlen(PASS), &f, &e) == 0, "%s", e.msg);
	cleanup_free uint8_t *index = calloc((size_t)n, 80), *data = calloc((size_t)n, 80);
	CHECK(index && data);
	size_t at = SEALED_INDEX_HEAD, data_len = 0;
	put_le(index, (uint64_t)n, 4);
	for (int i = 0; i < n; i++) {
		char path[32];
		path_of(i, path);
		size_t len = strlen(path);
		cleanup_secret struct vault_secret *s = text_secret(path);
		struct sealed_version v = { .version = 1 };
		uint8_t *block;
		CHECK(sealed_value_seal(f->keys, f->now.header.file_id, path, len, s, &v, &block, &e) == 0);
		memcpy(data + data_len, block, v.len);
		free(block);
		data_len += v.len;
		/* docs/formats/sealed-vault.md, "Index" */
		put_le(index + at, len, 2);
		index[at + 2] = 1;
		put_le(index + at + 4, 1, 8);
		memcpy(index + at + 12, path, len);
		at += 12 + len;
		put_le(index + at, 1, 8);
		put_le(index + at + 16, v.len, 4);
		memcpy(index + at + 20, v.nonce, SEALED_NONCE_LEN);
		at += 44;
	}
	struct sealed_header h = f->now.header;
	h.index_len = at + SEALED_TAG_LEN;
	h.file_len = sealed_data_at(&h) + data_len + SEALED_SUM_LEN;
	cleanup_free uint8_t *out = malloc(h.file_len);
	CHECK(out);
	sealed_header_pack(&h, out);
	sealed_index_seal(f->keys, &h, out, index, at, out + sealed_header_len(&h));
	memcpy(out + sealed_data_at(&h), data, data_len);
	sealed_sum(out, h.file_len - SEALED_SUM_LEN, out + h.file_len - SEALED_SUM_LEN);
	write_whole(file, out, h.file_len);
	sealed_file_free(f);
}

static size_t count_names(struct vault_backend *b, const char *folder)
{
	struct err e = ERR_INIT;
	struct vault_names *names = NULL;
	CHECK_MSG(vault_list_sync(b, folder, &names, &e) == 0, "%s", e.msg);
	size_t n = names->n;
	vault_names_free(names);
	return n;
}

/* Seconds for a get, on average of many all over the vault. */
static double time_gets(struct vault_backend *b, int n)
{
	enum { GETS = 3000 };
	double start = seconds();
	for (int k = 0; k < GETS; k++) {
		char path[32];
		path_of((int)((unsigned)k * 7919u % (unsigned)n), path);
		EXPECT(b, path, path, 1);
	}
	return (seconds() - start) / GETS;
}

/* Seconds for listing a folder of 100 and one that holds only folders. */
static double time_lists(struct vault_backend *b, int n)
{
	double start = seconds();
	for (int k = 0; k < 300; k++) {
		char folder[32];
		(void)snprintf(folder, sizeof folder, "tree/%04d/", k * 7 % (n / IN_FOLDER));
		CHECK(count_names(b, folder) == IN_FOLDER);
	}
	return (seconds() - start) / 300;
}

int main(void)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);
	CHECK_MSG(io_new(&io, &e) == 0, "%s", e.msg);
	char folder[256], few[300], many[300];
	(void)snprintf(folder, sizeof folder, "%s", test_folder());
	(void)snprintf(few, sizeof few, "%s/few", folder);
	(void)snprintf(many, sizeof many, "%s/many", folder);
	fill(few, FEW);
	fill(many, MANY);

	struct vault_backend *small = open_vault(io, few);
	double start = seconds();
	struct vault_backend *b = open_vault(io, many);
	double opened = seconds() - start;
	double get_few = time_gets(small, FEW), get_many = time_gets(b, MANY);
	double list_few = time_lists(small, FEW), list_many = time_lists(b, MANY);
	start = seconds();
	CHECK(count_names(b, "tree/") == MANY / IN_FOLDER && count_names(b, "") == 1);
	double folders = seconds() - start;
	start = seconds();
	CHECK(put(b, "tree/0500/50", "changed") == 2 && put(b, "zz", "new") == 1);
	double puts = (seconds() - start) / 2;
	EXPECT(b, "tree/0500/50", "changed", 2);
	EXPECT(b, "tree/0500/51", "tree/0500/51", 1);
	EXPECT(b, "tree/0999/99", "tree/0999/99", 1);
	EXPECT(b, "zz", "new", 1);
	CHECK(count_names(b, "") == 2);
	vault_backend_close_sync(b);
	b = open_vault(io, many);
	EXPECT(b, "tree/0500/50", "changed", 2);
	EXPECT(b, "tree/0000/00", "tree/0000/00", 1);
	vault_backend_close_sync(b);
	vault_backend_close_sync(small);

	printf("open %.0f ms; get %.1f us (of 1,000 secrets: %.1f); list %.1f us (%.1f); 1,000 folders %.2f ms; put "
	       "%.0f ms\n",
	       opened * 1e3, get_many * 1e6, get_few * 1e6, list_many * 1e6, list_few * 1e6, folders * 1e3, puts * 1e3);
	CHECK(opened < 1);
	/* No slope: a hundred times the secrets, and only the depth of a search more. A walk over all would take
	 * milliseconds; the rest is left to a busy machine. */
	CHECK(get_many < 3 * get_few + 200e-6);
	CHECK(list_many < 3 * list_few + 200e-6);
	CHECK(folders < 0.1);
	remove_folder(folder);
	io_free(io);
	return 0;
}
