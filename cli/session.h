/* SPDX-License-Identifier: Apache-2.0 */
/* The session process of `shell` and `run` (S of cli/cmd_run.c), and the command below it. Neither has secret memory. */
#ifndef CT_CLI_SESSION_H
#define CT_CLI_SESSION_H

#include "cli/common.h"

#include <signal.h>

struct session {
	char **argv;
	bool shell;
	const char *mountpoint;
	const struct cli_list *env, *fd; /* "NAME=SECRET/FIELD" */
	sigset_t mask;			 /* what the command gets back */
};

/* What S tells P first; the FUSE descriptor comes with it when code is 0. */
struct session_word {
	int code; /* errno */
	char msg[ERR_MSG_MAX];
};

/* Checks --env and --fd as they were written. */
int must_use session_check_sources(const struct cli_list *env, const struct cli_list *fd, struct err *e);

/* The signals that are passed on. */
void session_signals(sigset_t *ret);
/* The kernel's own (a terminal's ^C, a window's new size) reached the command too: one process group. */
bool session_passes_on(int sig, int code);

/* S: sends a session_word over `sock`, waits for one byte (end of file: nothing is to be run), runs the command. */
_Noreturn void session_main(const struct session *s, int sock);

#endif
