/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/daemons.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "fs/mountpoint.h"

#include <stdlib.h>

static const int found = 1;

/* Asks one daemon. Who has another mount answers -ENOENT, like nobody. */
static int ask(void *arg, const char *socket, struct err *e)
{
	struct err one = ERR_INIT;
	cleanup_json struct json *answer = NULL;
	int r = cli_ask_daemon(socket, "umount", arg, &answer, &one);
	if (r == 0)
		return found;
	if (r == -EBUSY) {
		*e = one;
		return r;
	}
	return 0; /* another one may have it; if none does, the mount itself is taken away */
}

static int umount_command(struct cli *c, void *options, int argc, char **argv)
{
	(void)options;
	struct err e = ERR_INIT;
	if (argc != 1)
		return cli_usage(c, argc ? "one mount point at a time" : "say which MOUNTPOINT");
	cleanup_free char *path = NULL;
	int r = cli_start(c, LOG_WARN, &e);
	if (r == 0)
		r = cli_absolute(argv[0], &path, &e);
	if (r == 0)
		r = cli_each_daemon(c, ask, path, &e);
	if (r == 0)
		r = fs_mountpoint_is_ours(path) ?
			    fs_mountpoint_umount(path, &e) :
			    err_set(&e, ENOENT, "no cloudtaser filesystem is mounted at %s", path);
	return r < 0 ? cli_fail(c, r, &e) : 0;
}

const struct cli_command cli_umount = {
	.name = "umount",
	.summary = "take a mount away",
	.usage = "MOUNTPOINT",
	.help = "Asks the daemon that serves it; where none answers, the mount is taken away without it. Files that "
		"are open\n"
		"stay readable until they are closed.",
	.run = umount_command,
};
