/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/session.h"

#include "base/cleanup.h"
#include "fs/nsroot.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>

extern char **environ;

enum {
	VARIABLE_MAX = 128 * 1024 - 1, /* MAX_ARG_STRLEN: the kernel takes no longer one, name and '=' included */
	EXIT_CANNOT_RUN = 126,
	EXIT_NO_COMMAND = 127,
};

static const int passed[] = { SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGALRM };

void session_signals(sigset_t *ret)
{
	sigemptyset(ret);
	for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
		sigaddset(ret, passed[i]);
}

bool session_passes_on(int sig, int code)
{
	(void)sig;
	return code <= 0; /* SI_USER, SI_QUEUE, SI_TKILL; SI_KERNEL is positive */
}

/* A descriptor's number in the first n bytes of s: -1 when they are no number, INT_MAX when it is a large one. */
static int as_number(const char *s, size_t n)
{
	int v = n ? 0 : -1;
	for (size_t i = 0; i < n; i++) {
		if (s[i] < '0' || s[i] > '9')
			return -1;
		v = v > 1000 ? INT_MAX : v * 10 + (s[i] - '0');
	}
	return v;
}

static bool is_name(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bool letter = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || s[i] == '_';
		if (!letter && (i == 0 || s[i] < '0' || s[i] > '9'))
			return false;
	}
	return n > 0;
}

/* A path below the mount: nothing that leads out of it. */
static int check_below(const char *option, const char *path, struct err *e)
{
	if (!strchr(path, '/'))
		return err_set(e, CLI_EUSAGE, "%s %s: write SECRET/FIELD, as in app/db/password", option, path);
	for (const char *p = path; *p;) {
		size_t n = strcspn(p, "/");
		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.') ||
		    (p[n] == '/' && !p[n + 1]))
			return err_set(e, CLI_EUSAGE, "%s %s: write SECRET/FIELD, as in app/db/password", option, path);
		p += n + (p[n] == '/');
	}
	return 0;
}

int session_check_sources(const struct cli_list *env, const struct cli_list *fd, struct err *e)
{
	for (size_t i = 0; i < env->n + fd->n; i++) {
		bool is_fd = i >= env->n;
		const char *s = is_fd ? fd->v[i - env->n] : env->v[i], *option = is_fd ? "--fd" : "--env";
		size_t n = strcspn(s, "=");
		int number = is_fd ? as_number(s, n) : -1;
		if (!s[n] || !(is_name(s, n) || number >= 0))
			return err_set(e, CLI_EUSAGE, "%s: write NAME=SECRET/FIELD%s", option,
				       is_fd ? ", or a descriptor's number for NAME" : "");
		if (number >= 0 && (number < 3 || number > 255))
			return err_set(e, CLI_EUSAGE, "--fd %.*s: a descriptor from 3 to 255 can be chosen", (int)n, s);
		int r = check_below(option, s + n + 1, e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Says what went wrong before the command runs, and ends with its code. */
static _Noreturn void give_up(int r, const struct err *e)
{
	const struct cli c = { .passphrase_fd = -1 };
	_exit(cli_fail(&c, r, e));
}

static int open_source(const struct session *s, const char *below, int flags, int *ret, struct err *e)
{
	cleanup_free char *path = NULL;
	if (asprintf(&path, "%s/%s", s->mountpoint, below) < 0)
		return err_set(e, ENOMEM, "out of memory");
	cleanup_close int fd = open(path, O_RDONLY | O_NOCTTY | flags);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(e, errno, "%s", below);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EISDIR, "%s: is no field (a secret or a folder)", below);
	*ret = TAKE_FD(fd);
	return 0;
}

/* "NAME=value" in locked memory of its own, which the exec that follows takes away with everything else. */
static int make_variable(const struct session *s, const char *name, size_t name_len, const char *below, char **ret,
			 struct err *e)
{
	cleanup_close int fd = -1;
	int r = open_source(s, below, O_CLOEXEC, &fd, e);
	if (r < 0)
		return r;
	char *text = mmap(NULL, VARIABLE_MAX + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (text == MAP_FAILED)
		return err_sys(e, errno, "mmap");
	(void)madvise(text, VARIABLE_MAX + 1, MADV_DONTDUMP);
	(void)mlock(text, VARIABLE_MAX + 1); /* for the moment until exec; where the limit is used up, without */
	memcpy(text, name, name_len);
	text[name_len] = '=';
	size_t n = name_len + 1;
	for (;;) {
		ssize_t got = read(fd, text + n, VARIABLE_MAX - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			r = err_sys(e, errno, "%s", below);
		if (got <= 0)
			break;
		n += (size_t)got;
		if (n == VARIABLE_MAX) {
			r = err_set(e, EMSGSIZE, "--env %.*s: %s is too long for an environment: read the file",
				    (int)name_len, name, below);
			break;
		}
	}
	if (r == 0 && memchr(text, '\0', n))
		r = err_set(e, EILSEQ, "--env %.*s: %s holds a NUL byte, which no environment can: read the file",
			    (int)name_len, name, below);
	if (r < 0) {
		mem_wipe(text, n);
		(void)munmap(text, VARIABLE_MAX + 1);
		return r;
	}
	*ret = text;
	return 0;
}

static bool same_name(const char *variable, const char *name, size_t n)
{
	return strncmp(variable, name, n) == 0 && variable[n] == '=';
}

/* Puts a variable in place of the one of its name. `env` has room. */
static void set_variable(char **env, char *variable)
{
	size_t n = strcspn(variable, "="), i = 0;
	while (env[i] && !same_name(env[i], variable, n))
		i++;
	env[i] = variable;
}

static int give_descriptor(const struct session *s, const char *source, char **env, struct err *e)
{
	size_t n = strcspn(source, "=");
	int fd = -1, want = as_number(source, n);
	int r = open_source(s, source + n + 1, 0, &fd, e);
	if (r < 0)
		return r;
	if (want >= 0) {
		if (fd != want && (dup2(fd, want) < 0 || close(fd) < 0))
			return err_sys(e, errno, "--fd %d", want);
		return 0;
	}
	char *variable;
	if (asprintf(&variable, "%.*s=/dev/fd/%d", (int)n, source, fd) < 0)
		return err_set(e, ENOMEM, "out of memory");
	set_variable(env, variable);
	return 0;
}

/* The chosen numbers are taken first, so that no file that gets the next free one sits on them. */
static int give_descriptors(const struct session *s, char **env, struct err *e)
{
	for (int numbers = 1; numbers >= 0; numbers--)
		for (size_t i = 0; i < s->fd->n; i++) {
			const char *source = s->fd->v[i];
			if ((as_number(source, strcspn(source, "=")) >= 0) != numbers)
				continue;
			int r = give_descriptor(s, source, env, e);
			if (r < 0)
				return r;
		}
	return 0;
}

/* C. */
static _Noreturn void command_main(const struct session *s)
{
	struct err e = ERR_INIT;
	size_t have = 0;
	while (environ[have])
		have++;
	char **env = calloc(have + s->env->n + s->fd->n + 2, sizeof *env), *where;
	if (!env || asprintf(&where, "CLOUDTASER_MOUNT=%s", s->mountpoint) < 0)
		give_up(-ENOMEM, NULL);
	memcpy(env, environ, have * sizeof *env);
	set_variable(env, where);
	int r = give_descriptors(s, env, &e);
	if (r == 0 && s->env->n)
		/* Values stand in this process's memory from here to exec, which makes it as dumpable as the command is. */
		(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	for (size_t i = 0; r == 0 && i < s->env->n; i++) {
		const char *source = s->env->v[i];
		size_t n = strcspn(source, "=");
		char *variable;
		r = make_variable(s, source, n, source + n + 1, &variable, &e);
		if (r == 0)
			set_variable(env, variable);
	}
	if (r < 0)
		give_up(r, &e);
	if (s->shell)
		(void)fprintf(stderr, "cloudtaser: your secrets are at %s until you leave this shell\n", s->mountpoint);
	(void)pthread_sigmask(SIG_SETMASK, &s->mask, NULL);
	(void)execvpe(s->argv[0], s->argv, env);
	r = errno;
	(void)err_sys(&e, r, "%s", s->argv[0]);
	const struct cli c = { .passphrase_fd = -1 };
	(void)cli_fail(&c, -r, &e);
	_exit(r == ENOENT ? EXIT_NO_COMMAND : EXIT_CANNOT_RUN);
}

/* Passes signals to the command and buries everybody; the command's exit code. */
static int accompany(pid_t command, const sigset_t *set)
{
	for (;;) {
		siginfo_t si;
		int sig = sigwaitinfo(set, &si);
		if (sig > 0 && sig != SIGCHLD && session_passes_on(sig, si.si_code))
			(void)kill(command, sig);
		if (sig != SIGCHLD)
			continue;
		int status;
		pid_t pid;
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			if (pid == command)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
}

static int send_fuse(int sock, int fuse_fd)
{
	struct session_word word = { .code = 0 };
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
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &fuse_fd, sizeof fuse_fd);
	return sendmsg(sock, &m, MSG_NOSIGNAL) == sizeof word ? 0 : -errno;
}

_Noreturn void session_main(const struct session *s, int sock)
{
	struct err e = ERR_INIT;
	/* Until the command runs, a signal ends us as it ends anybody. */
	(void)pthread_sigmask(SIG_SETMASK, &s->mask, NULL);
	int fuse_fd = -1;
	int r = prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 ? err_sys(&e, errno, "prctl(PR_SET_CHILD_SUBREAPER)") : 0;
	if (r == 0)
		r = fs_nsroot_enter(s->mountpoint, &fuse_fd, &e);
	if (r < 0) {
		struct session_word word = { .code = -r };
		(void)snprintf(word.msg, sizeof word.msg, "%s", err_msg(&e, r));
		(void)send(sock, &word, sizeof word, MSG_NOSIGNAL);
		_exit(EX_OSERR);
	}
	/* Our copy must go: the kernel aborts the connection with the last one, so that nobody waits for a dead server. */
	r = send_fuse(sock, fuse_fd);
	close(fuse_fd);
	char go;
	ssize_t n = -1;
	while (r == 0 && (n = recv(sock, &go, 1, 0)) < 0 && errno == EINTR)
		;
	if (n != 1)
		_exit(EX_OSERR);
	close(sock);

	sigset_t set;
	session_signals(&set);
	sigaddset(&set, SIGCHLD);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	pid_t command = fork();
	if (command < 0) {
		r = err_sys(&e, errno, "cannot start the command");
		give_up(r, &e);
	}
	if (command == 0)
		command_main(s);
	_exit(accompany(command, &set));
}
