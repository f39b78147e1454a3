/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mounting and taking away, with mount(2) and with fusermount3. Run by root, it does all in a mount namespace of its
 * own, and the part of an ordinary user as uid 65534; run by somebody else, only that part, in the open.
 */
#include "base/cleanup.h"
#include "fs/mountpoint.h"
#include "tests/unit/check.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static char base[] = "/tmp/cloudtaser-test-XXXXXX";

static char *in_base(const char *name)
{
	char *p = NULL;
	CHECK(asprintf(&p, "%s/%s", base, name) > 0);
	return p;
}

static char *folder(const char *name)
{
	char *p = in_base(name);
	CHECK_MSG(mkdir(p, 0700) == 0, "%s: %m", p);
	return p;
}

static unsigned open_files(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");
	CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* How many mounts the kernel lists at a path without odd characters; the options of the last one. */
static unsigned mounts_at(const char *path, char *options, size_t size)
{
	unsigned n = 0;
	char line[4096], want[PATH_MAX + 2];
	(void)snprintf(want, sizeof want, " %s ", path);
	FILE *f = fopen("/proc/self/mountinfo", "re");
	CHECK(f);
	while (fgets(line, sizeof line, f))
		if (strstr(line, want)) {
			n++;
			(void)snprintf(options, size, "%s", strstr(line, want) + strlen(want));
		}
	fclose(f);
	return n;
}

static int mount_at(const char *path, bool allow_other)
{
	struct fs_mountpoint_opts o = { .allow_other = allow_other, .uid = getuid(), .gid = getgid() };
	struct err e = ERR_INIT;
	int fd = -1, r = fs_mountpoint_mount(path, &o, &fd, &e);
	CHECK_MSG(r == 0 && fd >= 0, "mount %s: %s", path, err_msg(&e, r));
	return fd;
}

static void mount_fails(const char *path, bool allow_other, int code, const char *words)
{
	struct fs_mountpoint_opts o = { .allow_other = allow_other, .uid = getuid(), .gid = getgid() };
	struct err e = ERR_INIT;
	unsigned files = open_files();
	int fd = -7, r = fs_mountpoint_mount(path, &o, &fd, &e);
	CHECK_MSG(r == -code && fd == -7 && e.code == code, "%s: %d %s", path, r, e.msg);
	CHECK_MSG(strstr(e.msg, words), "'%s' does not say '%s'", e.msg, words);
	CHECK_MSG(!strchr(e.msg, '\n'), "'%s'", e.msg);
	CHECK(open_files() == files);
}

static void umount_at(const char *path)
{
	struct err e = ERR_INIT;
	int r = fs_mountpoint_umount(path, &e);
	CHECK_MSG(r == 0, "umount %s: %s", path, err_msg(&e, r));
}

static void umount_fails(const char *path)
{
	struct err e = ERR_INIT;
	CHECK(fs_mountpoint_umount(path, &e) == -EINVAL && strstr(e.msg, path));
}

/* The kernel's first request waits in the descriptor. */
static void check_descriptor(int fd)
{
	static char buf[FUSE_MIN_READ_BUFFER + 4096] __attribute__((aligned(8)));
	CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) && (fcntl(fd, F_GETFL) & O_NONBLOCK));
	CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	CHECK(poll(&p, 1, 10000) == 1);
	ssize_t n = read(fd, buf, sizeof buf);
	const struct fuse_in_header *h = (const void *)buf;
	CHECK(n >= (ssize_t)sizeof *h && h->opcode == FUSE_INIT && h->len == n);
	CHECK(read(fd, buf, sizeof buf) == -1 && errno == EAGAIN);
}

static void check_gone(int fd)
{
	char buf[FUSE_MIN_READ_BUFFER];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	CHECK(poll(&p, 1, 10000) == 1);
	CHECK(read(fd, buf, sizeof buf) == -1 && errno == ENODEV);
}

static void test_round(const char *name)
{
	cleanup_free char *dir = folder(name);
	unsigned files = open_files();
	CHECK(!fs_mountpoint_is_ours(dir));
	umount_fails(dir);
	int fd = mount_at(dir, false);
	CHECK(open_files() == files + 1);
	CHECK_MSG(fs_mountpoint_is_ours(dir), "%s", dir);
	CHECK(!fs_mountpoint_is_ours(base));
	check_descriptor(fd);
	umount_at(dir);
	CHECK(!fs_mountpoint_is_ours(dir));
	check_gone(fd);
	close(fd);
	CHECK(open_files() == files);
	CHECK(rmdir(dir) == 0);
}

static void test_options(bool allow_other)
{
	cleanup_free char *dir = folder("options");
	char got[1024], want[64];
	CHECK(mounts_at(dir, got, sizeof got) == 0);
	int fd = mount_at(dir, allow_other);
	CHECK(mounts_at(dir, got, sizeof got) == 1);
	static const char *const words[] = { "ro,nosuid,nodev,noexec,noatime", " - fuse.cloudtaser cloudtaser ",
					     ",max_read=131072" };
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		CHECK_MSG(strstr(got, words[i]), "'%s' lacks '%s'", got, words[i]);
	(void)snprintf(want, sizeof want, ",user_id=%u,group_id=%u", getuid(), getgid());
	CHECK_MSG(strstr(got, want), "%s", got);
	CHECK_MSG(!strstr(got, "allow_other") == !allow_other, "%s", got);
	CHECK(!strstr(got, "default_permissions"));
	umount_at(dir);
	CHECK(mounts_at(dir, got, sizeof got) == 0);
	close(fd);
	CHECK(rmdir(dir) == 0);
}

/* What a killed daemon leaves can be taken away, and mounted over. */
static void test_dead(void)
{
	cleanup_free char *dir = folder("dead"), *link = in_base("link");
	char got[1024];
	struct stat st;
	close(mount_at(dir, false));
	CHECK(stat(dir, &st) == -1 && errno == ENOTCONN);
	CHECK(fs_mountpoint_is_ours(dir));
	umount_at(dir);
	CHECK(stat(dir, &st) == 0 && !fs_mountpoint_is_ours(dir));

	close(mount_at(dir, false));
	int fd = mount_at(dir, false);
	CHECK(mounts_at(dir, got, sizeof got) == 1);
	check_descriptor(fd);
	close(fd);

	CHECK(symlink(dir, link) == 0);
	CHECK(fs_mountpoint_is_ours(link));
	fd = mount_at(link, false);
	CHECK(mounts_at(dir, got, sizeof got) == 1);
	check_descriptor(fd);
	umount_at(link);
	CHECK(mounts_at(dir, got, sizeof got) == 0);
	check_gone(fd);
	close(fd);
	CHECK(unlink(link) == 0 && rmdir(dir) == 0);
}

/* One that lives is not touched, whether it answers or not. Here nobody answers the kernel's questions at all. */
static void test_occupied(void)
{
	cleanup_free char *dir = folder("occupied");
	char got[1024];
	int fd = mount_at(dir, false);
	struct fs_mountpoint_opts o = { .uid = getuid(), .gid = getgid() };
	struct err e = ERR_INIT;
	int no = -1;
	CHECK(fs_mountpoint_mount(dir, &o, &no, &e) == -EBUSY && no == -1);
	CHECK_MSG(strstr(e.msg, "umount"), "%s", e.msg);
	CHECK(mounts_at(dir, got, sizeof got) == 1);
	umount_at(dir);
	close(fd);
	CHECK(rmdir(dir) == 0);
}

/* The smallest server: everything is a folder. It ends with its mount. */
static void *serve(void *arg)
{
	static char in[FUSE_MIN_READ_BUFFER + 4096] __attribute__((aligned(8)));
	const struct fuse_in_header *h = (const void *)in;
	int fd = *(int *)arg;
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		CHECK(poll(&p, 1, 10000) == 1);
		ssize_t n = read(fd, in, sizeof in);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return NULL;
		const struct fuse_attr attr = { .ino = 1, .mode = S_IFDIR | 0755, .nlink = 2, .uid = getuid() };
		struct {
			struct fuse_out_header h;
			union {
				struct fuse_init_out init;
				struct fuse_attr_out attr;
				struct fuse_entry_out entry;
			};
		} out = { .h = { .unique = h->unique } };
		size_t len = 0;
		if (h->opcode == FUSE_INIT) {
			out.init = (struct fuse_init_out){ .major = 7, .minor = 31, .max_write = 4096 };
			len = sizeof out.init;
		} else if (h->opcode == FUSE_GETATTR) {
			out.attr.attr = attr;
			len = sizeof out.attr;
		} else if (h->opcode == FUSE_LOOKUP) {
			out.entry = (struct fuse_entry_out){ .nodeid = 2, .attr = attr };
			len = sizeof out.entry;
		} else if (h->opcode == FUSE_FORGET || h->opcode == FUSE_BATCH_FORGET) {
			continue;
		} else {
			out.h.error = -ENOSYS;
		}
		out.h.len = (uint32_t)(sizeof out.h + len);
		CHECK(write(fd, &out, out.h.len) == out.h.len || errno == ENOENT);
	}
}

/* One that answers is not dead; and a folder in it is not a mount. */
static void test_served(void)
{
	cleanup_free char *dir = folder("served"), *inside = in_base("served/inside");
	struct fs_mountpoint_opts o = { .uid = getuid(), .gid = getgid() };
	struct err e = ERR_INIT;
	struct stat st;
	pthread_t t;
	int fd = mount_at(dir, false), no = -1;
	CHECK(pthread_create(&t, NULL, serve, &fd) == 0);
	CHECK(fs_mountpoint_mount(dir, &o, &no, &e) == -EBUSY && no == -1);
	CHECK(stat(inside, &st) == 0 && S_ISDIR(st.st_mode));
	CHECK(fs_mountpoint_is_ours(dir) && !fs_mountpoint_is_ours(inside));
	umount_fails(inside);
	CHECK(fs_mountpoint_is_ours(dir));
	umount_at(dir);
	CHECK(pthread_join(t, NULL) == 0);
	close(fd);
	CHECK(rmdir(dir) == 0);
}

static void test_bad_places(void)
{
	cleanup_free char *dir = folder("full"), *inside = in_base("full/file"), *none = in_base("none"),
			  *below_file = in_base("full/file/x");
	mount_fails(none, false, ENOENT, "does not exist");
	umount_fails(none);
	CHECK(!fs_mountpoint_is_ours(none));
	cleanup_close int fd = open(inside, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	mount_fails(dir, false, ENOTEMPTY, "choose an empty folder");
	mount_fails(inside, false, ENOTDIR, "not a folder");
	mount_fails(below_file, false, ENOTDIR, below_file);
	umount_fails(inside);
	CHECK(unlink(inside) == 0 && rmdir(dir) == 0);
}

/* Where an ignored SIGCHLD leaves no exit status to look at, and with the signals blocked that a daemon blocks. */
static void test_signals(void)
{
	sigset_t all, before;
	sigfillset(&all);
	CHECK(sigprocmask(SIG_SETMASK, &all, &before) == 0);
	test_round("blocked");
	CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
	CHECK(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
	test_round("nochild");
	CHECK(signal(SIGCHLD, SIG_DFL) != SIG_ERR);
}

static void test_everybody(void)
{
	test_round("plain");
	test_round(" a\\b c\t#d\ne\\040\xc3\xa4 ");
	test_options(false);
	test_dead();
	test_occupied();
	test_served();
	test_bad_places();
}

static void put_file(const char *path, const char *text)
{
	cleanup_close int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void test_user(void)
{
	CHECK(prctl(PR_SET_DUMPABLE, 0) == 0); /* as the daemon is */
	test_everybody();
	test_signals();
	mount_fails("/usr", false, EPERM, "yours");
}

/* What root hides or gives around an ordinary user's mount. */
static void as_user(void (*fn)(void))
{
	enum { USER = 65534 };
	int status;
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		CHECK(chown(base, USER, USER) == 0);
		CHECK(setgroups(0, NULL) == 0 && setresgid(USER, USER, USER) == 0 && setresuid(USER, USER, USER) == 0);
		fn();
		exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void user_allow_other_denied(void)
{
	cleanup_free char *dir = folder("others");
	mount_fails(dir, true, EPERM, "user_allow_other in /etc/fuse.conf");
	CHECK(!fs_mountpoint_is_ours(dir));
	CHECK(rmdir(dir) == 0);
}

static void user_allow_other_granted(void)
{
	test_options(true);
}

static void user_no_device(void)
{
	cleanup_free char *dir = folder("device");
	mount_fails(dir, false, ENODEV, "modprobe fuse");
	CHECK(rmdir(dir) == 0);
}

static void user_device_closed(void)
{
	cleanup_free char *dir = folder("closed");
	mount_fails(dir, false, EACCES, "chmod 0666 /dev/fuse");
	CHECK(rmdir(dir) == 0);
}

static void user_no_helper(void)
{
	cleanup_free char *dir = folder("helper");
	mount_fails(dir, false, ENOENT, "install the package fuse3");
	CHECK(rmdir(dir) == 0);
}

/* A stand-in for fusermount3 writes down what it was given. */
static void user_helper_hygiene(void)
{
	cleanup_free char *dir = folder("hygiene"), *seen = in_base("seen");
	static char text[16384];
	sigset_t all, before;
	sigfillset(&all);
	CHECK(setenv("CANARY", "in the environment", 1) == 0);
	CHECK(dup2(open(dir, O_PATH | O_CLOEXEC), 77) == 77); /* without close-on-exec */
	CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR && sigprocmask(SIG_SETMASK, &all, &before) == 0);
	mount_fails(dir, false, EIO, "one line; and another");
	CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
	cleanup_close int fd = open(seen, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	ssize_t n = read(fd, text, sizeof text - 1);
	CHECK(n > 0);
	text[n] = '\0';
	CHECK_MSG(strstr(text, "\nSigBlk:\t0000000000000000\n"), "%s", text);
	const char *ignored = strstr(text, "\nSigIgn:\t");
	CHECK_MSG(ignored && !(strtoull(ignored + 9, NULL, 16) & 1U << (SIGPIPE - 1)), "%s", text);
	CHECK_MSG(strstr(text, "_FUSE_COMMFD=3\n") && !strstr(text, "CANARY"), "%s", text);
	CHECK_MSG(strstr(text, "fds: 3 10 end\n") || strstr(text, "fds: 3 end\n"), "%s",
		  text); /* 10: the shell's own */
	CHECK_MSG(strstr(text, dir), "%s", text);
	CHECK(close(77) == 0 && unlink(seen) == 0 && rmdir(dir) == 0);
}

/* Started with no standard descriptors, ours get their numbers. */
static void user_without_stdio(void)
{
	int err = fcntl(2, F_DUPFD_CLOEXEC, 20);
	close(0);
	close(1);
	close(2);
	cleanup_free char *dir = folder("stdio");
	struct fs_mountpoint_opts o = { .uid = getuid(), .gid = getgid() };
	struct err e = ERR_INIT;
	int fd = -1, r = fs_mountpoint_mount(dir, &o, &fd, &e), r2 = fs_mountpoint_umount(dir, &e);
	CHECK(dup2(fd, 30) == 30 && dup2(err, 2) == 2); /* whatever number it has */
	CHECK_MSG(r == 0 && r2 == 0, "%s", e.msg);
	check_gone(30);
	CHECK(rmdir(dir) == 0);
}

static void user_no_rights(void)
{
	cleanup_free char *dir = folder("rights");
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0); /* set-uid no longer counts */
	mount_fails(dir, false, EPERM, "set-uid");
	CHECK(rmdir(dir) == 0);
}

/* A mount of another kind, or one that lies over ours, is never taken for ours. */
static void test_foreign(void)
{
	cleanup_free char *dir = folder("foreign"), *sub = in_base("foreign/sub");
	char options[64], got[1024];
	cleanup_close int dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	CHECK(dev >= 0);
	(void)snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", dev);
	CHECK(mount("x", dir, "fuse.other", 0, options) == 0);
	close(dev);
	dev = -1;
	mount_fails(dir, false, ENOTCONN, "umount");
	umount_fails(dir);
	CHECK(mounts_at(dir, got, sizeof got) == 1);
	CHECK(umount2(dir, MNT_DETACH) == 0);

	int fd = mount_at(dir, false);
	CHECK(mount("x", dir, "tmpfs", 0, NULL) == 0);
	CHECK(!fs_mountpoint_is_ours(dir));
	umount_fails(dir);
	CHECK(umount2(dir, 0) == 0 && fs_mountpoint_is_ours(dir));
	umount_at(dir);
	close(fd);

	/* Listed under the same path, but no longer what the path leads to. */
	CHECK(mkdir(sub, 0700) == 0);
	fd = mount_at(sub, false);
	CHECK(mount("x", dir, "tmpfs", 0, NULL) == 0 && mkdir(sub, 0700) == 0);
	CHECK(mounts_at(sub, got, sizeof got) == 1 && !fs_mountpoint_is_ours(sub));
	umount_fails(sub);
	CHECK(umount2(dir, 0) == 0);
	umount_at(sub);
	close(fd);
	CHECK(rmdir(sub) == 0 && rmdir(dir) == 0);
}

static void test_root(void)
{
	cleanup_free char *conf = in_base("fuse.conf"), *dir = NULL;
	CHECK(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	test_everybody();
	test_options(true);
	test_foreign();

	/* Where udev runs, the device is open to all; a bare machine has it for root alone. Show both. */
	cleanup_free char *scratch = folder("dev"), *device = in_base("dev/fuse");
	CHECK(mount("x", scratch, "tmpfs", 0, "mode=755") == 0 && mknod(device, S_IFCHR, makedev(10, 229)) == 0);
	CHECK(chmod(device, 0600) == 0 && mount(device, "/dev/fuse", NULL, MS_BIND, NULL) == 0);
	as_user(user_device_closed);
	CHECK(chmod(device, 0666) == 0);

	as_user(test_user);
	put_file(conf, "mount_max = 1000\n");
	CHECK(mount(conf, "/etc/fuse.conf", NULL, MS_BIND, NULL) == 0);
	as_user(user_allow_other_denied);
	put_file(conf, "user_allow_other\n");
	as_user(user_allow_other_granted);
	CHECK(umount("/etc/fuse.conf") == 0 && unlink(conf) == 0);
	as_user(user_no_rights);
	as_user(user_without_stdio);

	cleanup_free char *stand_in = in_base("stand-in"), *script = NULL;
	CHECK(asprintf(&script,
		       "#!/bin/bash\n" /* dash would unblock signals by itself */
		       "exec >%s/seen\n"
		       "env\n"
		       "while read -r line; do case $line in Sig[BI]*) echo \"$line\";; esac; done </proc/self/status\n"
		       "cd /proc/$$/fd && for fd in [3-9] ??; do [ -e $fd ] && open=\"$open $fd\"; done\n"
		       "echo \"fds:$open end\"\n"
		       "echo \"$@\"\n"
		       "printf 'fusermount3: one line;\\nfusermount3: and another\\n' >&2\n"
		       "exit 1\n",
		       base) > 0);
	put_file(stand_in, script);
	CHECK(chmod(stand_in, 0755) == 0 && mount(stand_in, "/usr/bin/fusermount3", NULL, MS_BIND, NULL) == 0);
	as_user(user_helper_hygiene);
	CHECK(umount("/usr/bin/fusermount3") == 0 && unlink(stand_in) == 0);

	dir = folder("device");
	CHECK(mount("x", "/dev", "tmpfs", 0, NULL) == 0 && mknod("/dev/null", S_IFCHR, makedev(1, 3)) == 0);
	CHECK(chmod("/dev/null", 0666) == 0);
	mount_fails(dir, false, ENODEV, "modprobe fuse");
	CHECK(rmdir(dir) == 0);
	as_user(user_no_device);
	CHECK(umount("/dev") == 0 && umount("/dev/fuse") == 0 && umount(scratch) == 0 && rmdir(scratch) == 0);

	CHECK(setenv("PATH", "/nonexistent", 1) == 0 && mount("x", "/usr/bin", "tmpfs", 0, NULL) == 0);
	as_user(user_no_helper);
}

int main(void)
{
	CHECK(mkdtemp(base));
	if (getuid() == 0) {
		test_root();
	} else {
		test_user();
		fprintf(stderr, "not run: what needs root (mount(2), missing parts, foreign mounts)\n");
	}
	CHECK(rmdir(base) == 0);
	return 0;
}
