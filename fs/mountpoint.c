/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mount point is looked at through an O_PATH descriptor: that neither asks the filesystem that is mounted there (it
 * may be dead, or frozen, or somebody else's) nor can be led elsewhere by a symbolic link that changes meanwhile. Which
 * mount it is comes from statx, which type that mount has from /proc/self/mountinfo.
 *
 * fusermount3 is started by posix_spawn, which shares this process's memory until the exec and copies none of it; all
 * other descriptors are closed in it, signals are as new, the environment holds nothing but what it needs.
 */
#include "fs/mountpoint.h"

#include "base/cleanup.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FSTYPE "fuse.cloudtaser"

enum {
	HELPER_DEADLINE_MS = 30000, /* fusermount3 only makes a few system calls */
	ALIVE_DEADLINE_MS = 1000,
	OUTPUT_MAX = 400, /* of what fusermount3 says */
};

struct place {
	int fd; /* O_PATH */
	char path[PATH_MAX];
};

static void place_close(struct place *p)
{
	cleanup_closep(&p->fd);
}
#define cleanup_place CLEANUP_WITH(place_close)

/* Without O_DIRECTORY a file opens too; and so does a dead mount, which has no type that anybody could tell. */
static int place_open(const char *path, struct place *ret, struct err *e)
{
	cleanup_close int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return err_set(e, errno, "mount point %s does not exist: make an empty folder there (mkdir -p %s)",
			       path, path);
	if (fd < 0)
		return err_sys(e, errno, "mount point %s", path);
	char link[32];
	(void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, ret->path, sizeof ret->path - 1);
	if (n < 0)
		return err_sys(e, errno, "cannot look at %s (is /proc mounted?)", link);
	ret->path[n] = '\0';
	if (ret->path[0] != '/')
		return err_set(e, EINVAL, "mount point %s lies outside of this process's root", path);
	ret->fd = TAKE_FD(fd);
	return 0;
}

/* mountinfo writes blank, tab, newline, backslash and '#' as \ooo. */
static void unescape_octal(char *s)
{
	char *to = s;
	for (const char *p = s; *p; to++) {
		if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' && p[3] >= '0' &&
		    p[3] <= '7') {
			*to = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
			p += 4;
		} else {
			*to = *p++;
		}
	}
	*to = '\0';
}

/* "36 35 98:0 /root /mount\040point rw,noatime shared:1 - type source options": cuts it up. */
static bool parse_mountinfo(char *line, unsigned long *id, char **point, char **type)
{
	char *save = NULL, *end;
	const char *first = strtok_r(line, " ", &save);
	if (!first)
		return false;
	errno = 0;
	*id = strtoul(first, &end, 10);
	if (errno || *end || end == first)
		return false;
	for (int i = 0; i < 3; i++) /* parent, device, root */
		if (!strtok_r(NULL, " ", &save))
			return false;
	*point = strtok_r(NULL, " ", &save);
	if (!*point || !strtok_r(NULL, " ", &save))
		return false;
	for (;;) {
		const char *tag = strtok_r(NULL, " ", &save);
		if (!tag)
			return false;
		if (!strcmp(tag, "-"))
			break;
	}
	*type = strtok_r(NULL, " \n", &save);
	if (!*type)
		return false;
	unescape_octal(*point);
	unescape_octal(*type);
	return true;
}

/* Is the place the root of a mount, and of one of ours? A place inside of one is not. */
static bool place_is_ours(const struct place *p)
{
	/* A mask of nothing: a filesystem is not asked, and refuses nobody. */
	struct statx sx;
	if (statx(p->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &sx) < 0 || !(sx.stx_mask & STATX_MNT_ID))
		return false;
	FILE *f = fopen("/proc/self/mountinfo", "re");
	if (!f)
		return false;
	cleanup_free char *line = NULL;
	size_t cap = 0;
	bool ours = false;
	while (getline(&line, &cap, f) > 0) {
		unsigned long id;
		char *point, *type;
		if (parse_mountinfo(line, &id, &point, &type) && id == sx.stx_mnt_id) {
			ours = !strcmp(point, p->path) && !strcmp(type, FSTYPE);
			break;
		}
	}
	fclose(f);
	return ours;
}

bool fs_mountpoint_is_ours(const char *path)
{
	cleanup_place struct place p = { .fd = -1 };
	return place_open(path, &p, NULL) == 0 && place_is_ours(&p);
}

static struct timespec deadline(long ms)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += ms % 1000 * 1000000L;
	t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000L;
	t.tv_nsec %= 1000000000L;
	return t;
}

static int wait_readable(int fd, const struct timespec *until)
{
	for (;;) {
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		long ms = (until->tv_sec - now.tv_sec) * 1000 + (until->tv_nsec - now.tv_nsec) / 1000000;
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int n = poll(&p, 1, ms > 0 ? (int)ms : 0);
		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/*
 * A mount whose server died says ENOTCONN; one whose server is frozen says nothing, so a thread asks and may be left
 * behind with the question (it owns nothing but that, and does not keep the process from ending).
 */
struct question {
	int fd;
	int answer_to;
};

static void *question_ask(void *arg)
{
	struct question *q = arg;
	struct stat st;
	int answer = fstat(q->fd, &st) < 0 ? errno : 0;
	close(q->fd);
	(void)send(q->answer_to, &answer, sizeof answer, MSG_NOSIGNAL);
	close(q->answer_to);
	free(q);
	return NULL;
}

/* Takes both descriptors. */
static int question_start(int fd, int answer_to)
{
	struct question *q = malloc(sizeof *q);
	pthread_t t;
	if (fd >= 0 && q) {
		*q = (struct question){ .fd = fd, .answer_to = answer_to };
		if (pthread_create(&t, NULL, question_ask, q) == 0) {
			pthread_detach(t);
			return 0;
		}
	}
	free(q);
	cleanup_closep(&fd);
	close(answer_to);
	return -ENOMEM;
}

static bool place_is_dead(const struct place *p)
{
	int sv[2], answer = 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return false;
	cleanup_close int hear = sv[0];
	if (question_start(fcntl(p->fd, F_DUPFD_CLOEXEC, 0), sv[1]) < 0)
		return false;
	struct timespec until = deadline(ALIVE_DEADLINE_MS);
	return wait_readable(hear, &until) == 0 && recv(hear, &answer, sizeof answer, 0) == sizeof answer &&
	       answer == ENOTCONN;
}

/* Whether mount(2) is worth trying: in the initial user namespace, or in one that owns the mount namespace. */
static bool may_mount(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[_LINUX_CAPABILITY_U32S_3] = { 0 };
	return syscall(SYS_capget, &h, d) == 0 && (d[0].effective & 1U << CAP_SYS_ADMIN);
}

/* --- fusermount3 --- */

struct helper {
	pid_t pid;
	int comm;   /* our end of the socket on which it sends the descriptor */
	int output; /* what it says on standard error */
};

static void helper_close(struct helper *h)
{
	cleanup_closep(&h->comm);
	cleanup_closep(&h->output);
	if (h->pid > 0) {
		/* Only after a failure is it still there: it has root's effective, but our real uid. */
		(void)kill(h->pid, SIGKILL);
		while (waitpid(h->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
}
#define cleanup_helper CLEANUP_WITH(helper_close)

static const char *helper_program(void)
{
	static const char usual[] = "/usr/bin/fusermount3";
	return access(usual, X_OK) == 0 ? usual : "fusermount3"; /* else as PATH says */
}

/* Returns a positive errno, as posix_spawn does. */
static int helper_spawn(char *const argv[], int comm, int output, pid_t *ret)
{
	enum { COMM = 3 };
	char *const env[] = { (char[]){ "_FUSE_COMMFD=3" }, (char[]){ "PATH=/usr/sbin:/usr/bin:/sbin:/bin" },
			      (char[]){ "LC_ALL=C" }, NULL };
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	sigset_t none, all;
	sigemptyset(&none);
	sigfillset(&all);

	int r = posix_spawn_file_actions_init(&fa);
	if (r)
		return r;
	r = posix_spawnattr_init(&attr);
	if (r) {
		posix_spawn_file_actions_destroy(&fa);
		return r;
	}
	/* `comm` and `output` are above 3, so that none is overwritten before it is copied. */
	if (!(r = posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDWR, 0)) &&
	    !(r = posix_spawn_file_actions_adddup2(&fa, 0, 1)) &&
	    !(r = posix_spawn_file_actions_adddup2(&fa, output, 2)) &&
	    !(r = posix_spawn_file_actions_adddup2(&fa, comm, COMM)) &&
	    !(r = posix_spawn_file_actions_addclosefrom_np(&fa, COMM + 1)) &&
	    !(r = posix_spawnattr_setsigmask(&attr, &none)) && !(r = posix_spawnattr_setsigdefault(&attr, &all)) &&
	    !(r = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF)))
		r = posix_spawnp(ret, helper_program(), &fa, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&fa);
	return r;
}

/* Gives the descriptor a number that helper_spawn does not use itself. */
static int raise_fd(int *fd)
{
	int up = fcntl(*fd, F_DUPFD_CLOEXEC, 10);
	if (up < 0)
		return -errno;
	close(*fd);
	*fd = up;
	return 0;
}

static int helper_start(char *const argv[], struct helper *h, struct err *e)
{
	int sv[2], pp[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return err_sys(e, errno, "cannot start fusermount3");
	h->comm = sv[0];
	cleanup_close int comm = sv[1];
	if (pipe2(pp, O_CLOEXEC) < 0)
		return err_sys(e, errno, "cannot start fusermount3");
	h->output = pp[0];
	cleanup_close int output = pp[1];
	int r = raise_fd(&comm);
	if (r == 0)
		r = raise_fd(&output);
	if (r < 0)
		return err_sys(e, r, "cannot start fusermount3");
	r = helper_spawn(argv, comm, output, &h->pid);
	if (r) {
		h->pid = 0;
		if (r == ENOENT)
			return err_set(e, ENOENT,
				       "this process may not mount by itself, and there is no fusermount3: install the "
				       "package fuse3");
		return err_sys(e, r, "cannot start fusermount3");
	}
	return 0;
}

/* 0 with *ret -1: it ended without sending one. */
static int helper_receive(int sock, int *ret)
{
	char byte;
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
	};
	ssize_t n;
	do
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	*ret = -1;
	const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(ret, CMSG_DATA(c), sizeof(int));
	return 0;
}

/* Its words on one line: no control characters, and not its name before each sentence. */
static void tidy(char *text)
{
	static const char prefix[] = "fusermount3: ";
	char *to = text;
	for (const char *p = text; *p;) {
		if ((p == text || p[-1] == '\n') && !strncmp(p, prefix, sizeof prefix - 1)) {
			p += sizeof prefix - 1;
			continue;
		}
		*to++ = (unsigned char)*p < ' ' || *p == 127 ? ' ' : *p;
		p++;
	}
	while (to > text && to[-1] == ' ')
		to--;
	*to = '\0';
}

/* Runs it to its end. *ret_fd: the descriptor that it sent, -1 when none. 0: it was content. */
static int helper_run(char *const argv[], int *ret_fd, char text[OUTPUT_MAX], struct err *e)
{
	cleanup_helper struct helper h = { .comm = -1, .output = -1 };
	cleanup_close int fd = -1;
	int r = helper_start(argv, &h, e);
	if (r < 0)
		return r;
	const struct timespec until = deadline(HELPER_DEADLINE_MS);
	r = wait_readable(h.comm, &until);
	if (r == 0)
		r = helper_receive(h.comm, &fd);
	size_t len = 0;
	while (r == 0) {
		char more[256];
		r = wait_readable(h.output, &until);
		ssize_t n = r == 0 ? read(h.output, more, sizeof more) : -1;
		if (n == 0)
			break;
		if (n < 0 && r == 0)
			r = errno == EINTR ? 0 : -errno;
		/* What does not fit is read all the same, so that it can end. */
		for (ssize_t i = 0; i < n && len < OUTPUT_MAX - 1; i++)
			text[len++] = more[i];
	}
	if (r < 0)
		return err_sys(e, r, "fusermount3 does not answer");
	text[len] = '\0';
	tidy(text);

	int status = 0;
	pid_t got;
	while ((got = waitpid(h.pid, &status, 0)) < 0 && errno == EINTR)
		;
	h.pid = 0;
	/* Where SIGCHLD is ignored there is no status: then complaints without a descriptor are a failure. */
	if (got < 0 ? fd < 0 && *text : !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
		return err_set(e, EIO, "%s", *text ? text : "fusermount3 failed and said nothing");
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int device_closed(struct err *e)
{
	return err_set(e, EACCES, "/dev/fuse is not open to uid %u: as root, chmod 0666 /dev/fuse (what udev does)",
		       getuid());
}

static int mount_by_helper(const char *path, const struct fs_mountpoint_opts *o, int *ret_fd, struct err *e)
{
	char options[160], text[OUTPUT_MAX] = "";
	cleanup_close int fd = -1;
	(void)snprintf(options, sizeof options,
		       "ro,nosuid,nodev,noexec,noatime,fsname=cloudtaser,subtype=cloudtaser,max_read=%d%s", FS_MAX_READ,
		       o->allow_other ? ",allow_other" : "");
	char *const argv[] = { (char[]){ "fusermount3" }, (char[]){ "-o" }, options,
			       (char[]){ "--" },	  (char *)path,	    NULL };
	int r = helper_run(argv, &fd, text, e);
	if (r < 0) {
		if (strstr(text, "user_allow_other"))
			return err_set(e, EPERM,
				       "cannot mount at %s for other users: fusermount3 allows that only with a line "
				       "user_allow_other in /etc/fuse.conf; add it, or leave allow_other out",
				       path);
		if (strstr(text, "device not found"))
			return err_set(e, ENODEV, "there is no /dev/fuse: load the kernel module (modprobe fuse)");
		if (strstr(text, "/dev/fuse: Permission denied"))
			return device_closed(e);
		if (strstr(text, "Operation not permitted"))
			return err_set(
				e, EPERM,
				"fusermount3 may not mount at %s (is it set-uid root? may this container mount?): "
				"%s",
				path, text);
		return err_wrap(e, "cannot mount at %s", path);
	}
	if (fd < 0)
		return err_set(e, EPROTO, "cannot mount at %s: fusermount3 sent no descriptor", path);
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(e, errno, "cannot mount at %s", path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int umount_by_helper(const char *path, struct err *e)
{
	char text[OUTPUT_MAX] = "";
	cleanup_close int none = -1;
	char *const argv[] = { (char[]){ "fusermount3" }, (char[]){ "-u" }, (char[]){ "-z" },
			       (char[]){ "--" },	  (char *)path,	    NULL };
	int r = helper_run(argv, &none, text, e);
	return r < 0 ? err_wrap(e, "cannot unmount %s", path) : 0;
}

/* --- mounting --- */

/* -EPERM: not this way, try the other one. */
static int mount_by_syscall(const struct place *p, const struct fs_mountpoint_opts *o, int *ret_fd, struct err *e)
{
	cleanup_close int fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
		return err_set(e, ENODEV, "there is no /dev/fuse: load the kernel module (modprobe fuse)");
	if (fd < 0 && errno == EACCES)
		return device_closed(e);
	if (fd < 0)
		return err_sys(e, errno, "cannot open /dev/fuse (in a container: it must be given to it)");
	char options[160], target[32];
	(void)snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u,max_read=%d%s", fd, o->uid,
		       o->gid, FS_MAX_READ, o->allow_other ? ",allow_other" : "");
	(void)snprintf(target, sizeof target, "/proc/self/fd/%d", p->fd);
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY | MS_NOATIME;
	if (mount("cloudtaser", target, FSTYPE, flags, options) < 0) {
		if (errno == ENODEV)
			return err_set(e, ENODEV, "the kernel has no FUSE: load the kernel module (modprobe fuse)");
		return err_sys(e, errno, "cannot mount at %s", p->path);
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int check_folder(const struct place *p, bool privileged, struct err *e)
{
	struct stat st;
	if (fstat(p->fd, &st) < 0) {
		if (errno == ENOTCONN)
			return err_set(e, ENOTCONN, "a dead mount of another kind lies on %s: unmount it (umount %s)",
				       p->path, p->path);
		return err_sys(e, errno, "mount point %s", p->path);
	}
	if (!S_ISDIR(st.st_mode))
		return err_set(e, ENOTDIR, "mount point %s is not a folder: choose an empty folder", p->path);
	if (!privileged && st.st_uid != getuid())
		return err_set(
			e, EPERM,
			"mount point %s belongs to uid %u: choose an empty folder that is yours (uid %u), or mount "
			"as root",
			p->path, st.st_uid, getuid());
	cleanup_close int fd = openat(p->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	if (!d)
		return err_sys(e, errno, "cannot look into the mount point %s", p->path);
	fd = -1; /* closedir's */
	const struct dirent *de;
	errno = 0;
	while ((de = readdir(d)) && (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..")))
		;
	int r = de ? -ENOTEMPTY : -errno;
	closedir(d);
	if (r == -ENOTEMPTY)
		return err_set(e, ENOTEMPTY, "mount point %s is not empty: choose an empty folder", p->path);
	return r < 0 ? err_sys(e, r, "cannot look into the mount point %s", p->path) : 0;
}

static int detach(const char *path, struct err *e)
{
	if (may_mount()) {
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
			return 0;
		if (errno != EPERM)
			return err_sys(e, errno, "cannot unmount %s", path);
	}
	return umount_by_helper(path, e);
}

int fs_mountpoint_mount(const char *path, const struct fs_mountpoint_opts *o, int *ret_fd, struct err *e)
{
	cleanup_place struct place p = { .fd = -1 };
	int r = place_open(path, &p, e);
	if (r < 0)
		return r;
	if (place_is_ours(&p)) {
		if (!place_is_dead(&p))
			return err_set(
				e, EBUSY,
				"a cloudtaser filesystem is mounted at %s already: take it away first (cloudtaser "
				"umount %s), or choose another folder",
				p.path, p.path);
		/* What a killed daemon left behind. */
		r = detach(p.path, e);
		if (r < 0)
			return r;
		cleanup_closep(&p.fd);
		p.fd = -1;
		r = place_open(path, &p, e);
		if (r < 0)
			return r;
	}
	bool privileged = may_mount();
	r = check_folder(&p, privileged, e);
	if (r < 0)
		return r;
	r = privileged ? mount_by_syscall(&p, o, ret_fd, e) : -EPERM;
	return r == -EPERM ? mount_by_helper(p.path, o, ret_fd, e) : r;
}

int fs_mountpoint_umount(const char *path, struct err *e)
{
	cleanup_place struct place p = { .fd = -1 };
	int r = place_open(path, &p, e);
	if (r < 0 && r != -ENOENT && r != -ENOTDIR)
		return r;
	if (r < 0 || !place_is_ours(&p))
		return err_set(e, EINVAL, "no cloudtaser filesystem is mounted at %s", path);
	return detach(p.path, e);
}
