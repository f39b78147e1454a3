/* SPDX-License-Identifier: Apache-2.0 */
/* The daemons of this machine that a command may talk to, by their control sockets. */
#ifndef CT_CLI_DAEMONS_H
#define CT_CLI_DAEMONS_H

#include "cli/common.h"

/*
 * Calls fn for the control socket of the configuration, if there is one, and for those of commands that mount. A socket
 * need not have anybody behind it. fn returns 0 to go on; what else it returns ends the walk and is returned.
 */
int must_use cli_each_daemon(const struct cli *c, int (*fn)(void *arg, const char *socket, struct err *e), void *arg,
			     struct err *e);

/* {"verb": verb} with "path" when not NULL, and its answer. */
int must_use cli_ask_daemon(const char *socket, const char *verb, const char *path, struct json **ret, struct err *e);
/* Nobody is there, or nobody who serves us: not worth a word. */
bool cli_daemon_absent(int r);

#endif
