/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the sealed vault share: a folder of their own, a loop, and calls that must succeed. */
#ifndef CT_TESTS_SEALED_HELP_H
#define CT_TESTS_SEALED_HELP_H

#include "base/cleanup.h"
#include "base/secmem.h"
#include "tests/unit/check.h"
#include "vault/backend.h"

#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define PASS "correct horse battery staple"
/* Small, so that a test may open a vault a thousand times. */
static const struct vault_sealed_kdf test_kdf = { .mem_mib = 8, .ops = 1 };

static inline __attribute__((unused)) const char *test_folder(void)
{
	static char folder[256];
	const char *tmp = getenv("TMPDIR");
	(void)snprintf(folder, sizeof folder, "%s/ct-sealed-XXXXXX", tmp ? tmp : "/tmp");
	CHECK(mkdtemp(folder));
	return folder;
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static inline __attribute__((unused)) void remove_folder(const char *folder)
{
	CHECK(nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0);
}

static inline __attribute__((unused)) double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline __attribute__((unused)) void make_vault(const char *file)
{
	struct err e = ERR_INIT;
	CHECK_MSG(vault_sealed_init(file, PASS, strlen(PASS), &test_kdf, &e) == 0, "%s", e.msg);
}

static inline __attribute__((unused)) int try_open(struct io *io, const char *file, struct vault_backend **ret,
						   struct err *e)
{
	return vault_sealed_open(io, &(struct vault_sealed_conf){ .name = "test", .file = file }, PASS, strlen(PASS),
				 ret, e);
}

static inline __attribute__((unused)) struct vault_backend *open_vault(struct io *io, const char *file)
{
	struct err e = ERR_INIT;
	struct vault_backend *b = NULL;
	CHECK_MSG(try_open(io, file, &b, &e) == 0, "%s", e.msg);
	return b;
}

static inline __attribute__((unused)) struct vault_secret *text_secret(const char *value)
{
	struct err e = ERR_INIT;
	struct vault_secret *s = NULL;
	struct vault_field f = { "value", 5, (const uint8_t *)value, strlen(value) };
	CHECK_MSG(vault_secret_new(&f, 1, 0, 0, &s, &e) == 0, "%s", e.msg);
	return s;
}

static inline __attribute__((unused)) int try_put(struct vault_backend *b, const char *path, const char *value,
						  uint32_t cas, uint64_t *version, struct err *e)
{
	cleanup_secret struct vault_secret *s = text_secret(value);
	return vault_put_sync(b, path, s, cas, version, e);
}

static inline __attribute__((unused)) uint64_t put(struct vault_backend *b, const char *path, const char *value)
{
	struct err e = ERR_INIT;
	uint64_t version = 0;
	int r = try_put(b, path, value, VAULT_CAS_ANY, &version, &e);
	CHECK_MSG(r == 0, "%s: %s", path, e.msg);
	return version;
}

/* The text of a secret that text_secret made. */
static inline __attribute__((unused)) bool is_text(const struct vault_secret *s, const char *value)
{
	const struct vault_field *f = vault_secret_find(s, "value", 5);
	return vault_secret_count(s) == 1 && f && f->len == strlen(value) && !memcmp(f->value, value, f->len);
}

#define EXPECT(b, path, value, want_version) \
	do { \
		struct err e_ = ERR_INIT; \
		struct vault_secret *s_ = NULL; \
		int r_ = vault_get_sync(b, path, &s_, &e_); \
		CHECK_MSG(r_ == 0, "%s: %s", path, e_.msg); \
		CHECK_MSG(is_text(s_, value), "%s is not %s", path, value); \
		CHECK_MSG(vault_secret_version(s_) == (want_version), "%s has version %llu", path, \
			  (unsigned long long)vault_secret_version(s_)); \
		vault_secret_unref(s_); \
	} while (0)

#define EXPECT_FAIL(code, call) \
	do { \
		struct err e = ERR_INIT; /* what `call` names */ \
		int r_ = (call); \
		CHECK_MSG(r_ == -(code) && e.msg[0], "gave %d: %s", r_, e.msg); \
	} while (0)

static inline __attribute__((unused)) uint8_t *read_whole(const char *file, size_t *ret_len)
{
	cleanup_close int fd = open(file, O_RDONLY | O_CLOEXEC);
	struct stat st;
	CHECK(fd >= 0 && fstat(fd, &st) == 0);
	uint8_t *p = malloc((size_t)st.st_size + 1);
	CHECK(p && read(fd, p, (size_t)st.st_size) == st.st_size);
	*ret_len = (size_t)st.st_size;
	return p;
}

/* A vault of two secrets, one of them in two versions; `b` has it open. */
static inline __attribute__((unused)) uint8_t *small_vault(struct io *io, const char *file, struct vault_backend **b,
							   size_t *len)
{
	make_vault(file);
	*b = open_vault(io, file);
	put(*b, "app/db", "old");
	put(*b, "app/db", "value of db");
	put(*b, "z", "value of z");
	return read_whole(file, len);
}

/* As somebody does who replaces a vault: a new file, renamed into place. */
static inline __attribute__((unused)) void write_whole(const char *file, const void *p, size_t len)
{
	char tmp[512];
	(void)snprintf(tmp, sizeof tmp, "%s.test", file);
	cleanup_close int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && write(fd, p, len) == (ssize_t)len);
	CHECK(rename(tmp, file) == 0);
}

/*
 * This program again, as another process. _Fork: the child of a fork writes to glibc's list of threads, in which those
 * on secret stacks lie in memory that a child does not have.
 */
static inline __attribute__((unused)) pid_t spawn(const char *const *argv)
{
	pid_t pid = _Fork();
	CHECK(pid >= 0);
	if (!pid) {
		execv("/proc/self/exe", (char *const *)argv);
		_exit(127);
	}
	return pid;
}

static inline __attribute__((unused)) int wait_status(pid_t pid)
{
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	return status;
}

#endif
