/* SPDX-License-Identifier: Apache-2.0 */
/* What can happen to a sealed vault: every byte changed, every length cut off, bounds passed. */
#include "tests/unit/sealed_help.h"
#include "vault/sealed_format.h"

static struct io *io;
static const char *folder;

static const char *path_in(const char *name)
{
	static char path[512];
	(void)snprintf(path, sizeof path, "%s/%s", folder, name);
	return path;
}

static void checksums(uint8_t *p, size_t len)
{
	size_t header = SEALED_HEADER_MIN;
	if (len < header + SEALED_SUM_LEN)
		return;
	sealed_sum(p, header - SEALED_SUM_LEN, p + header - SEALED_SUM_LEN);
	sealed_sum(p, len - SEALED_SUM_LEN, p + len - SEALED_SUM_LEN);
}

/* The values are right, or there is a clean error. Returns how many of the two were had. */
static int look(struct vault_backend *b)
{
	static const char *const path[] = { "app/db", "z" }, *const value[] = { "value of db", "value of z" };
	int had = 0;
	for (int i = 0; i < 2; i++) {
		struct err e = ERR_INIT;
		cleanup_secret struct vault_secret *s = NULL;
		int r = vault_get_sync(b, path[i], &s, &e);
		CHECK_MSG(r == 0 || (r == -EBADMSG && strstr(e.msg, "is damaged at")), "%d: %s", r, e.msg);
		CHECK(r < 0 || is_text(s, value[i]));
		had += !r;
	}
	return had;
}

static void test_every_byte(void)
{
	char *file = strdup(path_in("flip"));
	struct vault_backend *open, *b = NULL;
	size_t len;
	cleanup_free uint8_t *good = small_vault(io, file, &open, &len), *bad = malloc(len + 1);
	CHECK(bad);
	unsigned seen[4] = { 0 };
	for (size_t i = 0; i < len; i++) {
		static const uint8_t flips[] = { 0x01, 0xff };
		for (size_t k = 0; k < sizeof flips; k++) {
			memcpy(bad, good, len);
			bad[i] ^= flips[k];
			write_whole(file, bad, len);
			/* Opened with the right passphrase, and with a wrong one: the file is at fault, not the passphrase. */
			EXPECT_FAIL(EBADMSG, try_open(io, file, &b, &e));
			if (!k) {
				struct err told = ERR_INIT;
				const struct vault_sealed_conf conf = { .name = "test", .file = file };
				CHECK(vault_sealed_open(io, &conf, "wrong", 5, &b, &told) == -EBADMSG);
				CHECK_MSG(strstr(told.msg, "is damaged at") && strstr(told.msg, "backup"), "%s",
					  told.msg);
			}
			/* Under the feet of one who has it open: values that are there are right. The checksum at the end is
			 * not looked at then, and neither is the older version's block; a write looks at both. */
			int had = look(open);
			CHECK_MSG(had < 2 || i >= len - SEALED_SUM_LEN || i >= SEALED_HEADER_MIN, "byte %zu", i);
			seen[had]++;
			EXPECT_FAIL(EBADMSG, try_put(open, "new", "x", VAULT_CAS_ANY, NULL, &e));
		}
	}
	/* header and index: nothing; a value: the other one; the old value and the last checksum: both */
	CHECK_MSG(seen[0] > 600 && seen[1] > 60 && seen[2] > 60, "%u %u %u", seen[0], seen[1], seen[2]);

	/* With checksums that match, as one would make them who wants to deceive. */
	for (size_t i = 0; i < len - SEALED_SUM_LEN; i++) {
		if (i >= SEALED_HEADER_MIN - SEALED_SUM_LEN && i < SEALED_HEADER_MIN)
			continue; /* the checksum of the header */
		memcpy(bad, good, len);
		bad[i] ^= i >= 128 && i < 144 ? 0x80 :
						0x01; /* parameters of Argon2id: out of bounds rather than slow */
		checksums(bad, len);
		write_whole(file, bad, len);
		struct err e = ERR_INIT;
		int r = try_open(io, file, &b, &e);
		if (!r) {
			CHECK_MSG(i >= len - SEALED_SUM_LEN - 3 * 60, "byte %zu is not authenticated", i);
			int had = look(b);
			/* The value blocks: db's old version, db, z. Nobody asks for the old one. */
			CHECK_MSG(had == 1 || i < len - SEALED_SUM_LEN - 2 * 40, "byte %zu gives %d values", i, had);
			vault_backend_close_sync(TAKE_PTR(b));
		} else {
			CHECK_MSG(r == -EBADMSG || r == -EKEYREJECTED || r == -EMSGSIZE || r == -ENOTSUP,
				  "byte %zu: %d %s", i, r, e.msg);
			CHECK(e.msg[0]);
		}
	}
	write_whole(file, good, len);
	CHECK(look(open) == 2);
	vault_backend_close_sync(open);
	free(file);
}

static void test_every_length(void)
{
	char *file = strdup(path_in("cut"));
	struct vault_backend *open, *b = NULL;
	size_t len;
	cleanup_free uint8_t *good = small_vault(io, file, &open, &len);
	for (size_t n = 0; n < len; n++) {
		write_whole(file, good, n);
		EXPECT_FAIL(EBADMSG, try_open(io, file, &b, &e));
		CHECK(look(open) == 0);
		/* With checksums that match what is left. */
		cleanup_free uint8_t *cut = malloc(n + 1);
		memcpy(cut, good, n);
		checksums(cut, n);
		write_whole(file, cut, n);
		EXPECT_FAIL(EBADMSG, try_open(io, file, &b, &e));
		CHECK(look(open) == 0);
	}
	good = realloc(good, len + 1);
	CHECK(good);
	good[len] = 0;
	write_whole(file, good, len + 1);
	EXPECT_FAIL(EBADMSG, try_open(io, file, &b, &e));
	CHECK(look(open) == 0);
	vault_backend_close_sync(open);
	free(file);
}

/* Headers with right checksums that ask for too much. */
static void test_bounds(void)
{
	char *file = strdup(path_in("bounds"));
	struct vault_backend *b = NULL;
	size_t len;
	make_vault(file);
	cleanup_free uint8_t *p = read_whole(file, &len);
	struct sealed_header h, change;
	CHECK(sealed_header_parse(p, len, len, &h, NULL) == 0);
	static const struct {
		uint64_t mem;
		uint32_t ops;
		int code;
	} kdf[] = { { UINT64_C(4097) << 20, 1, EMSGSIZE }, { UINT64_MAX, 1, EMSGSIZE }, { 8 << 20, 65, EMSGSIZE },
		    { 8 << 20, UINT32_MAX, EMSGSIZE },	   { 8191, 1, EBADMSG },	{ 8 << 20, 0, EBADMSG } };
	for (size_t i = 0; i < sizeof kdf / sizeof *kdf; i++) {
		change = h;
		change.slot[0].mem = kdf[i].mem;
		change.slot[0].ops = kdf[i].ops;
		sealed_header_pack(&change, p);
		checksums(p, len);
		write_whole(file, p, len);
		EXPECT_FAIL(kdf[i].code, try_open(io, file, &b, &e));
	}
	change = h;
	change.file_len = (uint64_t)SEALED_FILE_MAX + 1;
	sealed_header_pack(&change, p);
	checksums(p, len);
	write_whole(file, p, len);
	EXPECT_FAIL(EMSGSIZE, try_open(io, file, &b, &e));
	/* A file of more than 1 GiB (sparse) is not read at all. */
	CHECK(truncate(file, (off_t)SEALED_FILE_MAX + 1) == 0);
	EXPECT_FAIL(EMSGSIZE, try_open(io, file, &b, &e));
	/* A newer format, and one that only looks so. */
	sealed_header_pack(&h, p);
	p[16] = 2;
	write_whole(file, p, len);
	EXPECT_FAIL(EBADMSG, try_open(io, file, &b, &e));
	sealed_sum(p, len - SEALED_SUM_LEN, p + len - SEALED_SUM_LEN);
	write_whole(file, p, len);
	EXPECT_FAIL(ENOTSUP, try_open(io, file, &b, &e));
	free(file);
}

int main(void)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);
	CHECK_MSG(io_new(&io, &e) == 0, "%s", e.msg);
	folder = test_folder();
	test_every_byte();
	test_every_length();
	test_bounds();
	remove_folder(folder);
	io_free(io);
	return 0;
}
