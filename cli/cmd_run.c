/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `shell` and `run`. Three processes:
 *
 *   P, which was started: holds the vault and serves the mount, in the namespaces it was started in.
 *   S, the session (cli/session.c), forked from P before there is any secret memory: enters the namespaces in which the
 *      mount exists, and hands the FUSE descriptor to P. It is the root of the process tree that may read, and takes up
 *      what daemonises below it.
 *   C, the command, forked from S once P has said that the mount answers.
 *
 * All three stay in one process group, so that the terminal's foreground is right, ^Z stops all of them, and an
 * interactive shell makes groups of its own. What the terminal sends reaches C by itself; what somebody sends to P by
 * number is passed on to S, and from S to C.
 */
#include "cli/session.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "cli/serve.h"
#include "fs/mountpoint.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>

struct run_options {
	const char *path, *mountpoint;
	struct cli_list env, fd;
};

#define PATH_OPTION \
	{ \
		'p', "path", "FOLDER/", "show only this folder of the vault, at the root of the mount", CLI_STRING, \
			offsetof(struct run_options, path) \
	}
#define MOUNT_POINT_OPTION \
	{ \
		'm', "mount-point", "PATH", "where the secrets are (default /secrets)", CLI_STRING, \
			offsetof(struct run_options, mountpoint) \
	}

static const struct cli_option shell_options[] = {
	PATH_OPTION,
	MOUNT_POINT_OPTION,
	{ .name = NULL },
};

static const struct cli_option run_options[] = {
	PATH_OPTION,
	MOUNT_POINT_OPTION,
	{ 'e', "env", "NAME=SECRET/FIELD",
	  "put a value into the command's environment. The weaker way: it lies in that program's ordinary memory from "
	  "then "
	  "on, its children inherit it, and processes of the same user can read it",
	  CLI_LIST, offsetof(struct run_options, env) },
	{ 0, "fd", "NAME=SECRET/FIELD",
	  "open the field's file for the command, read-only, and set NAME to its /dev/fd/N; with a number for NAME it "
	  "is "
	  "opened as that descriptor. What the command gives it to can read it",
	  CLI_LIST, offsetof(struct run_options, fd) },
	{ .name = NULL },
};

/* Waits for S's first word: the mounted descriptor, or what went wrong. */
static int receive_fuse(int sock, int *ret_fd, struct err *e)
{
	struct session_word word = { 0 };
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec io = { &word, sizeof word };
	struct msghdr m = {
		.msg_iov = &io,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof control.bytes,
	};
	ssize_t n;
	do
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_sys(e, errno, "the session does not answer");
	if (n != sizeof word)
		return err_set(e, ECANCELED, "the session ended before it began");
	if (word.code) {
		word.msg[sizeof word.msg - 1] = '\0';
		return err_set(e, word.code, "%s", word.msg);
	}
	const struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	if (!h || h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS || h->cmsg_len != CMSG_LEN(sizeof(int)))
		return err_set(e, EPROTO, "the session sent no descriptor");
	memcpy(ret_fd, CMSG_DATA(h), sizeof *ret_fd);
	return 0;
}

/* Passes signals on until S is gone. */
static int accompany(pid_t session, int pidfd, struct err *e)
{
	sigset_t set;
	session_signals(&set);
	cleanup_close int sfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (sfd < 0)
		return err_sys(e, errno, "signalfd");
	struct pollfd p[2] = { { .fd = sfd, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
	for (;;) {
		if (poll(p, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return err_sys(e, errno, "poll");
		}
		struct signalfd_siginfo si;
		while (read(sfd, &si, sizeof si) == sizeof si)
			if (session_passes_on((int)si.ssi_signo, si.ssi_code))
				(void)kill(session, (int)si.ssi_signo);
		if (p[1].revents)
			return 0;
	}
}

static int exit_code(pid_t session)
{
	int status;
	while (waitpid(session, &status, 0) < 0)
		if (errno != EINTR)
			return EX_OSERR;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* P's part between S's word and the mount that answers. */
static int open_and_serve(const struct cli *c, const struct run_options *o, const char *mountpoint, pid_t session,
			  int fuse, struct cli_serve *s, struct err *e)
{
	cleanup_close int fuse_fd = fuse;
	cleanup_free char *prefix = NULL;
	(void)signal(SIGPIPE, SIG_IGN);
	int r = cli_start(c, LOG_WARN, e);
	if (r == 0 && o->path)
		r = cli_folder(o->path, &prefix, e);
	if (r == 0)
		r = cli_serve_choose(c, mountpoint, s, e);
	if (r < 0)
		return r;
	const struct fs_mount_how how = { .fuse_fd = TAKE_FD(fuse_fd), .tree = session };
	return cli_serve_start(s, mountpoint, prefix, &how, e);
}

static int refuse_nested(const char *mountpoint, struct err *e)
{
	const char *outer = getenv("CLOUDTASER_MOUNT");
	if (outer && *outer == '/' && fs_mountpoint_is_ours(outer))
		return err_set(e, EBUSY, "this is a cloudtaser shell already, with its secrets at %s: leave it first",
			       outer);
	if (fs_mountpoint_is_ours(mountpoint))
		return err_set(e, EBUSY,
			       "a cloudtaser filesystem is mounted at %s: use it, or choose another --mount-point",
			       mountpoint);
	return 0;
}

static int run_session(struct cli *c, const struct run_options *o, struct session *session)
{
	struct err e = ERR_INIT;
	cleanup_free char *mountpoint = NULL;
	int r = cli_absolute(o->mountpoint ? o->mountpoint : "/secrets", &mountpoint, &e);
	if (r == 0)
		r = refuse_nested(mountpoint, &e);
	if (r == 0)
		r = session_check_sources(&o->env, &o->fd, &e);
	if (r < 0)
		return cli_fail(c, r, &e);
	session->mountpoint = mountpoint;
	session->env = &o->env;
	session->fd = &o->fd;

	sigset_t set;
	session_signals(&set);
	(void)pthread_sigmask(SIG_BLOCK, &set, &session->mask);
	(void)signal(SIGCHLD, SIG_DFL); /* whoever started us may have ignored it: then no exit code could be had */
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		r = err_sys(&e, errno, "socketpair");
		return cli_fail(c, r, &e);
	}
	cleanup_close int ours = pair[0];
	(void)fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		close(ours);
		session_main(session, pair[1]);
	}
	close(pair[1]);
	cleanup_close int pidfd = pid < 0 ? -1 : pidfd_open(pid, 0);
	if (pid < 0 || pidfd < 0) {
		r = err_sys(&e, errno, "cannot start a session");
		return cli_fail(c, r, &e);
	}

	cleanup_serve struct cli_serve s = CLI_SERVE_INIT;
	int fuse = -1;
	r = receive_fuse(ours, &fuse, &e);
	if (r == 0)
		r = open_and_serve(c, o, mountpoint, pid, fuse, &s, &e);
	if (r == 0 && send(ours, "", 1, MSG_NOSIGNAL) != 1)
		r = -errno;
	close(TAKE_FD(ours)); /* without our word the session ends by itself */
	if (r < 0) {
		int code = exit_code(pid);
		/* ^C at the prompt, say: it was not the session that failed. */
		return code > 128 ? code : cli_fail(c, r, &e);
	}
	r = accompany(pid, pidfd, &e);
	if (r < 0) {
		(void)kill(pid, SIGTERM);
		return cli_fail(c, r, &e);
	}
	return exit_code(pid);
}

static int run(struct cli *c, void *options, int argc, char **argv)
{
	if (argc < 1)
		return cli_usage(c, "say what to run: -- COMMAND ...");
	struct session session = { .argv = argv };
	return run_session(c, options, &session);
}

static int shell(struct cli *c, void *options, int argc, char **argv)
{
	if (argc > 0)
		return cli_usage(c, "%s: a shell takes no command; `cloudtaser run -- %s ...` does", argv[0], argv[0]);
	const char *program = getenv("SHELL");
	if (!program || *program != '/')
		program = "/bin/sh";
	char *words[] = { (char *)program, NULL };
	struct session session = { .argv = words, .shell = true };
	return run_session(c, options, &session);
}

#define ABOUT_SESSIONS \
	"They are there for this process and what it starts (daemons too, as long as it runs), and for nobody else: " \
	"other\n" \
	"processes of yours get \"permission denied\" even where they find a way to the mount. Root is not held off " \
	"by this.\n" \
	"Inside, a user's session is in a user namespace: sudo and other set-uid programs do not work, and files of " \
	"other\n" \
	"users show nobody as their owner. The root folder itself is a read-only copy; everything in it is the real " \
	"one.\n" \
	"CLOUDTASER_MOUNT names the mount point."

const struct cli_command cli_shell = {
	.name = "shell",
	.summary = "a shell in which /secrets is there, and for nobody else",
	.usage = "[--mount-point PATH] [--path FOLDER/]",
	.help = "Starts $SHELL with the vault's secrets as files below /secrets.\n" ABOUT_SESSIONS,
	.exits = "  The shell's own; 128 + N when signal N ended it. Before it starts:\n"
		 "  64 wrong command line, 66 not found, 69 no FUSE or no namespaces here, 71 the system refused "
		 "something,\n"
		 "  75 the vault cannot be asked now or a session is running already, 77 not allowed, 78 wrong "
		 "configuration\n",
	.options = shell_options,
	.options_size = sizeof(struct run_options),
	.uses_vault = true,
	.run = shell,
};

const struct cli_command cli_run = {
	.name = "run",
	.summary = "the same for one command; its signals and exit code pass through",
	.usage = "[--env NAME=SECRET/FIELD] [--fd NAME=SECRET/FIELD] [OPTIONS] -- COMMAND ...",
	.help = "Runs a command with the vault's secrets as files below /secrets.\n" ABOUT_SESSIONS,
	.exits = "  The command's own; 128 + N when signal N ended it; 127 there is no such command, 126 it cannot be "
		 "run.\n"
		 "  Before it starts:\n"
		 "  64 wrong command line, 65 a value that cannot be in an environment, 66 not found, 69 no FUSE or no "
		 "namespaces\n"
		 "  here, 71 the system refused something, 75 the vault cannot be asked now or a session is running "
		 "already,\n"
		 "  77 not allowed, 78 wrong configuration\n",
	.options = run_options,
	.options_size = sizeof(struct run_options),
	.stops_at_operand = true,
	.uses_vault = true,
	.run = run,
};
