/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running set of vaults, their cache and mounts: what cloudtaserd, `cloudtaser mount`, `shell` and `run` all are.
 *
 * Thread rules: the functions below belong to the thread that made the daemon, except fs_daemon_status and
 * fs_daemon_umount, which any thread may call.
 */
#ifndef CT_FS_DAEMON_H
#define CT_FS_DAEMON_H

#include "base/config.h"
#include "base/json.h"
#include "vault/open.h"

struct fs_daemon;

struct fs_daemon_conf {
	size_t cache_max_entries, cache_max_bytes; /* 0: defaults */
	unsigned wait_ms;
	unsigned threads; /* serving threads; 0: by the number of processors */
};
int must_use fs_daemon_new(const struct fs_daemon_conf *conf, struct fs_daemon **ret, struct err *e);
/* Unmounts everything, closes vaults, wipes. */
void fs_daemon_free(struct fs_daemon *d); /* NULL is fine */

struct io *fs_daemon_io(struct fs_daemon *d);

/* Takes ownership of the backend (also on error). -EEXIST when the name is taken. */
int must_use fs_daemon_add_vault(struct fs_daemon *d, const char *name, struct vault_backend *b, struct err *e);

struct fs_mount_how {
	int fuse_fd; /* >= 0: /dev/fuse, mounted already by somebody else (shell, run): ours from here on */
	pid_t tree;  /* != 0: only this process tree (fs/access.h) */
};
/*
 * Mounts one entry of a configuration (copied) and starts serving it: names that are configured singly are fetched and
 * trees listed in the background. Returns when the mount answers. `how` NULL: mounts by itself, with mount(2) or, for
 * a user without rights, fusermount3. Errors say what to do: not empty, not yours, no fusermount3, no /dev/fuse ...
 */
int must_use fs_daemon_add_mount(struct fs_daemon *d, const struct config_mount *m, const struct fs_mount_how *how,
				 struct err *e);
/* Takes a mount away (open files keep working until closed where the kernel lets them). -ENOENT. */
int must_use fs_daemon_umount(struct fs_daemon *d, const char *path, struct err *e);
size_t fs_daemon_mounts(const struct fs_daemon *d);

/*
 * Makes vaults and mounts what the configuration says: unchanged mounts are not touched; a configuration that cannot be
 * met (a vault that does not open, a new mount point that is no good) changes nothing. Only a changed mount that cannot
 * be mounted anew at its place is an error when the rest of the configuration holds already.
 */
int must_use fs_daemon_apply(struct fs_daemon *d, const struct config *c, struct err *e);

/*
 * {"program","version","pid","started","secret_memory":{...},"mounts":[{"path","vault","names","open","opens",
 *  "reads","denied","waits","errors","n_problems","problems":[{"path","message","since"}]}],"mounts_left_out",
 *  "vaults":[...],"cache":{...},"checks":[{"name","state":"ok"|"no"|"not yet","detail"}]}
 */
struct json *fs_daemon_status(struct fs_daemon *d);

/*
 * Serves the control socket at `path` (verbs: status, umount {path}, reload) until fs_daemon_free. `reload` is called
 * on the thread that runs fs_daemon_wait; NULL: the verb answers -ENOTSUP.
 */
int must_use fs_daemon_control(struct fs_daemon *d, const char *path, int (*reload)(void *arg, struct err *e),
			       void *arg, struct err *e);

/*
 * Waits until SIGINT or SIGTERM (returns 0), until the last mount was taken away from outside (returns 1), or until
 * `until_fd` (-1: none) is readable (returns 2). SIGHUP runs `reload`. Blocks those signals in the calling thread
 * before any thread is made: call fs_daemon_block_signals first thing in main.
 */
void fs_daemon_block_signals(void);
int fs_daemon_wait(struct fs_daemon *d, int until_fd);

/* Where a command's own daemon keeps its control socket: $XDG_RUNTIME_DIR/cloudtaser/PID.sock, for root
 * /run/cloudtaser/PID.sock, else /tmp/cloudtaser-UID/PID.sock. The folder alone when pid is 0. free() it. */
char *fs_daemon_socket_path(pid_t pid);

#endif
