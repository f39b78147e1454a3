/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer of a sealed vault dies after every byte and at every step. Needs nothing of the system but limits and
 * seccomp; with arguments it is the writer that dies:
 *
 *   die FILE bytes N        the kernel kills it when it writes byte N of a file (RLIMIT_FSIZE)
 *   die FILE SYSCALL FD     it is killed at that system call of the loop's thread, on descriptor FD (-1: any)
 */
#include "tests/unit/sealed_help.h"

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
	cleanup_free uint8_t *old = small_vault(io, file, &b, &len);
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
	cleanup_free uint8_t *old = small_vault(io, file, &b, &len);
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
	test_killed_at_every_byte();
	test_killed_at_every_step();
	remove_folder(folder);
	io_free(io);
	return 0;
}
