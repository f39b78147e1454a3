/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can happen to a sealed vault: every byte changed, every length cut off, the writer killed after every byte and at
 * every step. Needs nothing of the system but limits and seccomp; with arguments it is the writer that dies:
 *
 *   die FILE bytes N        the kernel kills it when it writes byte N of a file (RLIMIT_FSIZE)
 *   die FILE SYSCALL FD     it is killed at that system call of the loop's thread, on descriptor FD (-1: any)
 */
#include "tests/unit/sealed_help.h"
#include "vault/sealed_format.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

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

/* A vault of two secrets, one of them in two versions; `b` has it open. */
static uint8_t *small_vault(const char *file, struct vault_backend **b, size_t *len)
{
	make_vault(file);
	*b = open_vault(io, file);
	put(*b, "app/db", "old");
	put(*b, "app/db", "value of db");
	put(*b, "z", "value of z");
	return read_whole(file, len);
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
	cleanup_free uint8_t *good = small_vault(file, &open, &len), *bad = malloc(len + 1);
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
	cleanup_free uint8_t *good = small_vault(file, &open, &len);
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

/* ---- a writer that dies ---- */

static void ok(int r)
{
	if (r)
		_exit(100);
}

struct trap {
	unsigned nr;
	int fd;
};

/* On the loop's thread, which does the writing. */
static void set_trap(void *arg)
{
	const struct trap *t = arg;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, t->nr, 0, t->fd < 0 ? 0 : 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)t->fd, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	if (t->fd < 0) {
		code[1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, t->nr, 3, 0);
		code[2] = code[3] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	struct sock_fprog prog = { .len = sizeof code / sizeof *code, .filter = code };
	ok(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	ok((int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog));
}

/* The loop's thread has all signals blocked: there a limit is an error like others (EFBIG), here it has to kill. */
static void unblock(void *arg)
{
	(void)arg;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGXFSZ);
	ok(pthread_sigmask(SIG_UNBLOCK, &set, NULL));
}

static int die(const char *file, const char *how, const char *where)
{
	struct vault_backend *b = open_vault(io, file);
	/* The first answers may make room in secret memory, which is a file that grows too. */
	ok(vault_check_sync(b, NULL));
	cleanup_secret struct vault_secret *s = text_secret("new value of db");
	if (!strcmp(how, "bytes")) {
		ok(io_call(io, unblock, NULL));
		struct rlimit limit = { strtoul(where, NULL, 10), RLIM_INFINITY };
		ok(setrlimit(RLIMIT_FSIZE, &limit));
	} else {
		struct trap t = { (unsigned)atoi(how), atoi(where) };
		ok(io_call(io, set_trap, &t));
	}
	int r = vault_put_sync(b, "app/db", s, VAULT_CAS_ANY, NULL, NULL);
	_exit(r ? 101 : 0);
}

enum outcome { OLD, NEW };

/* What the death left: the vault opens, and holds the old version or the new one, and all else. */
static enum outcome inspect(const char *file, const uint8_t *old, size_t old_len)
{
	size_t len;
	cleanup_free uint8_t *is = read_whole(file, &len);
	bool same = len == old_len && !memcmp(is, old, len);
	static unsigned n;
	if (same && n++ % 16)
		return OLD; /* the same bytes; that they open was seen */
	struct vault_backend *b = open_vault(io, file);
	if (same)
		EXPECT(b, "app/db", "value of db", 2);
	else
		EXPECT(b, "app/db", "new value of db", 3);
	EXPECT(b, "z", "value of z", 1);
	vault_backend_close_sync(b);
	return same ? OLD : NEW;
}

static int dies(const char *file, const char *how, int where)
{
	char number[16];
	(void)snprintf(number, sizeof number, "%d", where);
	return wait_status(spawn((const char *const[]){ "test", "die", file, how, number, NULL }));
}

static void test_killed_at_every_byte(void)
{
	char *file = strdup(path_in("bytes"));
	struct vault_backend *b;
	size_t len;
	cleanup_free uint8_t *old = small_vault(file, &b, &len);
	vault_backend_close_sync(b);
	for (int n = 0;; n++) {
		int status = dies(file, "bytes", n);
		if (status == 0) {
			CHECK_MSG((size_t)n > len && inspect(file, old, len) == NEW, "at byte %d", n);
			break;
		}
		CHECK_MSG(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ, "byte %d: wait status %#x", n, status);
		CHECK_MSG(inspect(file, old, len) == OLD, "byte %d", n);
		/* It did die there. */
		struct stat st;
		CHECK(stat(path_in("bytes.new"), &st) == 0 && st.st_size == n);
	}
	struct stat st;
	CHECK(stat(path_in("bytes.new"), &st) < 0);
	free(file);
}

static void test_killed_at_every_step(void)
{
	static const struct {
		int nr;
		bool each_fd;
		int kills; /* at least */
	} steps[] = {
		{ SYS_newfstatat, true, 1 }, { SYS_openat, false, 1 },	 { SYS_flock, true, 1 },
		{ SYS_pread64, true, 1 },    { SYS_write, true, 1 },	 { SYS_fchmod, true, 1 },
		{ SYS_fsync, true, 2 },	     { SYS_renameat, false, 1 }, { SYS_unlink, false, 1 },
		{ SYS_readlink, false, 1 },  { SYS_close, true, 3 },
	};
	char *file = strdup(path_in("steps"));
	struct vault_backend *b;
	size_t len;
	cleanup_free uint8_t *old = small_vault(file, &b, &len);
	vault_backend_close_sync(b);
	unsigned seen[2] = { 0 };
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
		char nr[16];
		(void)snprintf(nr, sizeof nr, "%d", steps[i].nr);
		int kills = 0;
		for (int fd = steps[i].each_fd ? 0 : -1; fd < (steps[i].each_fd ? 24 : 0); fd++) {
			write_whole(file, old, len);
			int status = dies(file, nr, fd);
			CHECK_MSG(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS), "call %s: %#x",
				  nr, status);
			enum outcome is = inspect(file, old, len);
			if (!status) {
				CHECK(is == NEW);
				continue;
			}
			kills++;
			seen[is]++;
		}
		CHECK_MSG(kills >= steps[i].kills, "call %s killed %d times", nr, kills);
	}
	/* Before the rename the old one, after it (sync of the folder, giving back the lock) the new one. */
	CHECK_MSG(seen[OLD] >= 8 && seen[NEW] >= 2, "%u %u", seen[OLD], seen[NEW]);
	free(file);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);
	CHECK_MSG(io_new(&io, &e) == 0, "%s", e.msg);
	if (argc == 5 && !strcmp(argv[1], "die"))
		return die(argv[2], argv[3], argv[4]);
	CHECK(argc == 1);
	folder = test_folder();
	test_every_byte();
	test_every_length();
	test_bounds();
	test_killed_at_every_byte();
	test_killed_at_every_step();
	remove_folder(folder);
	io_free(io);
	return 0;
}
