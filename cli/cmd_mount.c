/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `mount -d`: the child is forked before there is any secret memory (it would not be inherited), asks for the passphrase
 * while it still has the terminal, and leaves the terminal when the mount answers. The parent waits for one byte, the
 * exit code; the child's sentences go to the standard error that both have.
 */
#include "cli/serve.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>

struct mount_options {
	const char *path, *log_file;
	bool detach;
};

static const struct cli_option mount_options[] = {
	{ 'p', "path", "FOLDER/", "show only this folder of the vault, at the root of the mount", CLI_STRING,
	  offsetof(struct mount_options, path) },
	{ 'd', "detach", NULL, "go to the background as soon as the mount answers", CLI_FLAG,
	  offsetof(struct mount_options, detach) },
	{ 0, "log-file", "FILE", "with -d: where the log goes from then on (default: nowhere)", CLI_STRING,
	  offsetof(struct mount_options, log_file) },
	{ .name = NULL },
};

/* What the configuration says of logging, unless the command line said it. */
static void follow_config(const struct cli *c, const struct config *config)
{
	if (!config)
		return;
	enum log_level level = c->log_level ? log_level() : config->log_level;
	enum log_format format = config->log_format;
	if (c->log_format && log_parse_format(c->log_format, &format) < 0)
		return;
	log_set(level, format);
}

static int leave_terminal(int log_fd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || setsid() < 0 || chdir("/") < 0)
		return -errno;
	if (dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
	    dup2(log_fd >= 0 ? log_fd : null, STDERR_FILENO) < 0)
		return -errno;
	if (null > STDERR_FILENO)
		close(null);
	return 0;
}

/* Mounts and serves until it ends. ready_fd: tell there when the mount answers, and go to the background. */
static int serve(const struct cli *c, const struct mount_options *o, const char *mountpoint, int ready_fd)
{
	struct err e = ERR_INIT;
	cleanup_serve struct cli_serve s = CLI_SERVE_INIT;
	cleanup_free char *prefix = NULL;
	cleanup_close int log_fd = -1;
	fs_daemon_block_signals();
	int r = cli_start(c, LOG_INFO, &e);
	if (r == 0 && o->path)
		r = cli_folder(o->path, &prefix, &e);
	if (r == 0 && o->log_file) {
		log_fd = open(o->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
		if (log_fd < 0)
			r = err_sys(&e, errno, "--log-file %s", o->log_file);
	}
	if (r == 0)
		r = cli_serve_choose(c, mountpoint, &s, &e);
	if (r == 0) {
		follow_config(c, s.vault.config);
		r = cli_serve_start(&s, mountpoint, prefix, NULL, &e);
	}
	if (r == 0 && ready_fd >= 0) {
		r = leave_terminal(log_fd);
		unsigned char done = 0;
		if (r < 0)
			(void)err_sys(&e, r, "cannot go to the background");
		else if (write(ready_fd, &done, 1) != 1)
			return EX_OSERR; /* who asked is gone; nobody would know of the mount */
		close(ready_fd);
	}
	if (r < 0)
		return cli_fail(c, r, &e);
	(void)fs_daemon_wait(s.daemon, -1);
	return 0;
}

static int detach(const struct cli *c, const struct mount_options *o, const char *mountpoint)
{
	int p[2];
	struct err e = ERR_INIT;
	if (pipe2(p, O_CLOEXEC) < 0) {
		int r = err_sys(&e, errno, "pipe");
		return cli_fail(c, r, &e);
	}
	(void)fflush(NULL);
	(void)signal(SIGCHLD, SIG_DFL); /* whoever started us may have ignored it */
	pid_t child = fork();
	if (child < 0) {
		int r = err_sys(&e, errno, "fork");
		return cli_fail(c, r, &e);
	}
	if (child == 0) {
		close(p[0]);
		return serve(c, o, mountpoint, p[1]);
	}
	close(p[1]);
	unsigned char code;
	ssize_t n;
	do
		n = read(p[0], &code, 1);
	while (n < 0 && errno == EINTR);
	close(p[0]);
	if (n == 1)
		return code;
	int status;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return EX_OSERR;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int mount_command(struct cli *c, void *options, int argc, char **argv)
{
	const struct mount_options *o = options;
	struct err e = ERR_INIT;
	if (argc != 1)
		return cli_usage(c, argc ? "one mount point at a time" : "say where: MOUNTPOINT");
	if (o->log_file && !o->detach)
		return cli_usage(c, "--log-file goes with -d; in the foreground the log is on standard error");
	cleanup_free char *mountpoint = NULL;
	int r = cli_absolute(argv[0], &mountpoint, &e);
	if (r < 0)
		return cli_fail(c, r, &e);
	return o->detach ? detach(c, o, mountpoint) : serve(c, o, mountpoint, -1);
}

const struct cli_command cli_mount = {
	.name = "mount",
	.summary = "mount a vault",
	.usage = "MOUNTPOINT [-d] [--path FOLDER/]",
	.help = "Mounts a vault: each secret is a directory, each field a file. Only your own user may read it, unless "
		"the\n"
		"configuration says more about this mount point. Runs until it is ended (SIGINT, SIGTERM) or "
		"unmounted. Users\n"
		"without rights need fusermount3 and a mount point of their own.",
	.options = mount_options,
	.options_size = sizeof(struct mount_options),
	.uses_vault = true,
	.run = mount_command,
};
