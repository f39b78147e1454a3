/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lines that are asked on every request stand in the first 300 bytes or so (a task's name, the one line whose bytes
 * the task chooses, comes first, is at most 15 bytes, and the kernel escapes newline in it). Groups and what follows
 * them may be hundreds of kilobytes away: those are read in pieces, and only where somebody needs them.
 */
#include "fs/proc.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

int fs_proc_open(int *ret_fd, struct err *e)
{
	cleanup_close int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "cannot open /proc");
	struct statfs fs;
	if (fstatfs(fd, &fs) < 0)
		return err_sys(e, errno, "cannot look at /proc");
	if (fs.f_type != PROC_SUPER_MAGIC)
		return err_set(e, ENODEV, "/proc is not a proc file system: mount one (mount -t proc proc /proc)");
	char self[24] = "", want[24];
	ssize_t n = readlinkat(fd, "self", self, sizeof self - 1);
	(void)snprintf(want, sizeof want, "%d", (int)getpid());
	if (n < 0 || strcmp(self, want) != 0)
		return err_set(e, EXDEV,
			       "/proc belongs to another pid namespace than this process, so callers cannot be told "
			       "apart: mount the right one (mount -t proc proc /proc)");
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int fs_proc_status_open(int proc_fd, pid_t tid, int *ret_fd)
{
	char path[32];
	if (tid <= 0)
		return -ESRCH;
	(void)snprintf(path, sizeof path, "%d/status", (int)tid);
	int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	*ret_fd = fd;
	return 0;
}

/* Takes one decimal number with the blanks before it; false at the end of the line or at anything else. */
static bool take_number(const char **at, const char *end, unsigned *ret)
{
	const char *p = *at;
	while (p < end && (*p == '\t' || *p == ' '))
		p++;
	if (p == end || *p < '0' || *p > '9')
		return false;
	unsigned long v = 0;
	for (; p < end && *p >= '0' && *p <= '9'; p++) {
		v = v * 10 + (unsigned long)(*p - '0');
		if (v > 0xffffffffUL)
			return false;
	}
	*at = p;
	*ret = (unsigned)v;
	return true;
}

enum { MAX_NUMBERS = 4 };

static bool take_line(const char *at, const char *end, unsigned *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!take_number(&at, end, &v[i]))
			return false;
	return at == end;
}

int fs_proc_status_parse(const char *text, size_t len, struct fs_proc_status *ret)
{
	static const struct {
		const char *key;
		size_t len, numbers;
	} keys[] = {
		{ "Tgid:", 5, 1 }, { "Pid:", 4, 1 }, { "PPid:", 5, 1 }, { "TracerPid:", 10, 1 }, { "Uid:", 4, 4 },
	};
	enum { N_KEYS = sizeof keys / sizeof *keys };
	unsigned v[N_KEYS][MAX_NUMBERS];
	size_t next = 0; /* the kernel writes them in this order, and each once */

	const char *end = text + len;
	for (const char *line = text; line < end && next < N_KEYS;) {
		const char *eol = memchr(line, '\n', (size_t)(end - line));
		if (!eol)
			break; /* cut off: a number might go on */
		if ((size_t)(eol - line) >= keys[next].len && !memcmp(line, keys[next].key, keys[next].len)) {
			if (!take_line(line + keys[next].len, eol, v[next], keys[next].numbers))
				return -EPROTO;
			next++;
		}
		line = eol + 1;
	}
	if (next != N_KEYS)
		return -EPROTO;
	for (size_t i = 0; i < 4; i++)
		if (v[i][0] > 0x7fffffffU)
			return -EPROTO;
	*ret = (struct fs_proc_status){
		.tgid = (pid_t)v[0][0],
		.pid = (pid_t)v[1][0],
		.ppid = (pid_t)v[2][0],
		.tracer = (pid_t)v[3][0],
		.ruid = v[4][0],
		.euid = v[4][1],
		.suid = v[4][2],
		.fsuid = v[4][3],
	};
	return 0;
}

int fs_proc_status_read(int fd, struct fs_proc_status *ret)
{
	char text[512];
	ssize_t n = pread(fd, text, sizeof text, 0);
	if (n < 0)
		return -errno;
	return fs_proc_status_parse(text, (size_t)n, ret);
}

/*
 * Calls fn for every number of the line that begins with `key` (which ends in ':'), however long the line is, until fn
 * says false. -ENODATA when there is no such line.
 */
static int each_number(int fd, const char *key, bool (*fn)(void *arg, unsigned v), void *arg)
{
	char piece[4096];
	off_t at = 0;
	size_t matched = 0; /* bytes of the key seen on this line */
	bool other = false; /* this line begins differently */
	bool digits = false;
	unsigned long v = 0;

	for (;;) {
		ssize_t n = pread(fd, piece, sizeof piece, at);
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		at += n;
		for (ssize_t i = 0; i < n; i++) {
			char c = piece[i];
			if (!other && key[matched]) {
				other = c != key[matched];
				matched += !other;
			} else if (!other) {
				if (c >= '0' && c <= '9') {
					v = v * 10 + (unsigned long)(c - '0');
					digits = true;
					if (v > 0xffffffffUL)
						return -EPROTO;
					continue;
				}
				if (digits && !fn(arg, (unsigned)v))
					return 0;
				digits = false;
				v = 0;
				if (c == '\n')
					return 0;
				if (c != ' ' && c != '\t')
					return -EPROTO;
			}
			if (c == '\n') {
				other = false;
				matched = 0;
			}
		}
	}
}

struct wanted {
	const gid_t *groups;
	size_t n;
	bool found;
};

static bool is_wanted(void *arg, unsigned v)
{
	struct wanted *w = arg;
	for (size_t i = 0; i < w->n && !w->found; i++)
		w->found = w->groups[i] == v;
	return !w->found;
}

int fs_proc_status_in_groups(int fd, const gid_t *groups, size_t n, bool *ret)
{
	struct wanted w = { .groups = groups, .n = n };
	int r = each_number(fd, "Groups:", is_wanted, &w);
	if (r == 0)
		*ret = w.found;
	return r;
}

static bool count_one(void *arg, unsigned v)
{
	(void)v;
	++*(unsigned *)arg;
	return true;
}

int fs_proc_status_level(int fd, unsigned *ret)
{
	unsigned n = 0;
	int r = each_number(fd, "NSpid:", count_one, &n);
	if (r == -ENODATA)
		n = 1; /* a kernel without pid namespaces */
	else if (r < 0)
		return r;
	*ret = n;
	return 0;
}
