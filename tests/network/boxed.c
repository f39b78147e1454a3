/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boxed NETNS MNTNS OBSERVER PROGRAM [ARGUMENT...]: becomes PROGRAM inside these two namespaces (files of /proc/PID/ns),
 * with every system call that has to do with the network told to an observer first (tests/network/box.py).
 *
 * A seccomp filter stops such a call and notifies whoever holds its listener, which is fetched from here by
 * pidfd_getfd: the observer learns our pid from the socket's credentials, and the listener's number and the numbers of
 * the system calls from our message. Children inherit the filter. What a call's arguments point at may be memory that
 * nobody else can read; families, types and descriptors are plain arguments and always seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static const struct {
	const char *name;
	unsigned nr;
} watched[] = {
	{ "socket", SYS_socket }, { "connect", SYS_connect }, { "bind", SYS_bind },
	{ "listen", SYS_listen }, { "sendmsg", SYS_sendmsg }, { "sendmmsg", SYS_sendmmsg },
	{ "setns", SYS_setns },	  { "unshare", SYS_unshare }, { "io_uring_setup", SYS_io_uring_setup },
	{ "sendto", SYS_sendto }, /* last: only with an address */
};
enum { N = sizeof watched / sizeof *watched };

static int die(const char *what)
{
	(void)fprintf(stderr, "boxed: %s: %s\n", what, strerror(errno));
	return 125;
}

static int enter(const char *path, int kind)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, kind) < 0)
		return -1;
	return close(fd);
}

static int call_observer(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof to.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(to.sun_path, path, strlen(path));
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	return s >= 0 && connect(s, (struct sockaddr *)&to, sizeof to) == 0 ? s : -1;
}

/* The listener's descriptor. */
static int watch(void)
{
	struct sock_filter f[2 * N + 16];
	unsigned short n = 0;
#define EMIT(...) f[n++] = (struct sock_filter)__VA_ARGS__
#define LOAD(offset) EMIT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset))
#define RETURN(what) EMIT(BPF_STMT(BPF_RET | BPF_K, what))
	LOAD(offsetof(struct seccomp_data, nr));
	for (int i = 0; i < N - 1; i++) {
		EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, watched[i].nr, 0, 1));
		RETURN(SECCOMP_RET_USER_NOTIF);
	}
	EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, watched[N - 1].nr, 0, 5));
	LOAD(offsetof(struct seccomp_data, args[4])); /* both halves of the address */
	EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2));
	LOAD(offsetof(struct seccomp_data, args[4]) + 4);
	EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0));
	RETURN(SECCOMP_RET_USER_NOTIF);
	RETURN(SECCOMP_RET_ALLOW);
	const struct sock_fprog prog = { .len = n, .filter = f };
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
}

static int tell(int observer, int listener)
{
	char text[512], ack;
	int n = snprintf(text, sizeof text, "%d", listener);
	for (int i = 0; i < N; i++)
		n += snprintf(text + n, sizeof text - (size_t)n, " %s=%u", watched[i].name, watched[i].nr);
	return write(observer, text, (size_t)n) == n && read(observer, &ack, 1) == 1 ? 0 : -1;
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		(void)fputs("usage: boxed NETNS MNTNS OBSERVER PROGRAM [ARGUMENT...]\n", stderr);
		return 125;
	}
	int observer = call_observer(argv[3]);
	if (observer < 0)
		return die(argv[3]);
	char *folder = getcwd(NULL, 0);
	if (enter(argv[1], CLONE_NEWNET) < 0 || enter(argv[2], CLONE_NEWNS) < 0)
		return die("cannot enter the box");
	if (!folder || chdir(folder) < 0)
		return die("the working folder");
	free(folder);
	int listener = watch();
	if (listener < 0)
		return die("seccomp");
	if (tell(observer, listener) < 0)
		return die("the observer");
	(void)execvp(argv[4], argv + 4);
	return die(argv[4]);
}
