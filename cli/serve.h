/* SPDX-License-Identifier: Apache-2.0 */
/* One vault at one mount point, served by this process: what `mount`, `shell` and `run` have in common. */
#ifndef CT_CLI_SERVE_H
#define CT_CLI_SERVE_H

#include "cli/common.h"
#include "fs/daemon.h"

struct cli_serve {
	struct cli_vault vault;
	struct fs_daemon *daemon;
};
#define CLI_SERVE_INIT \
	{ \
		.vault = CLI_VAULT_INIT \
	}

/* Configuration, vault, passphrase (may prompt: main thread). `mountpoint` is absolute. */
int must_use cli_serve_choose(const struct cli *c, const char *mountpoint, struct cli_serve *s, struct err *e);
/*
 * Opens the vault, asks whether it takes us, mounts. What is shown: the folder `prefix` (the vault's path, "app/") at the
 * root of the mount; NULL: what the configuration says of this mount point, else the whole vault. `how` as in
 * fs_daemon_add_mount; a session's mount (how->tree) is for our own uid alone, whatever the configuration says.
 */
int must_use cli_serve_start(struct cli_serve *s, const char *mountpoint, const char *prefix,
			     const struct fs_mount_how *how, struct err *e);
void cli_serve_stop(struct cli_serve *s);
#define cleanup_serve CLEANUP_WITH(cli_serve_stop)

#endif
