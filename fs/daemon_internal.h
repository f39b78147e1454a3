/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by daemon.c (life), daemon_apply.c (configuration) and daemon_status.c. Nobody else's. */
#ifndef CT_FS_DAEMON_INTERNAL_H
#define CT_FS_DAEMON_INTERNAL_H

#include "fs/daemon.h"
#include "fs/mount.h"

#include <pthread.h>
#include <time.h>

struct control_server;

struct daemon_vault {
	struct daemon_vault *next;
	char *name;
	char *settings; /* all of its configuration as one string; NULL when a command opened it */
	struct vault_backend *backend;
};

struct daemon_mount {
	struct daemon_mount *next;
	struct fs_daemon *daemon;
	struct config_mount *conf;
	struct fs_mount *mount;
	struct daemon_vault *vault;
	bool own;	   /* we mounted it, we unmount it */
	bool configured;   /* came by fs_daemon_apply */
	bool detached;	   /* its place is free; served until its last file is closed */
	_Atomic bool gone; /* the kernel has let go of it: told without the lock, see mount_gone */
};

enum { FAILING_MAX = 64 };

struct fs_daemon {
	struct io *io;
	/* [loop] vaults that could not be asked when last tried; compared, never followed */
	const struct vault_backend *failing[FAILING_MAX];
	size_t n_failing;
	struct vault_cache *cache;
	struct fs_server *server;
	pthread_mutex_t lock; /* the lists below */
	struct daemon_vault *vaults;
	struct daemon_mount *mounts;
	int wake; /* eventfd */
	time_t started;
	struct control_server *control;
	int (*reload)(void *arg, struct err *e);
	void *reload_arg;
	/* A reload that the control socket asked for, carried out by fs_daemon_wait. */
	bool half_met; /* the last configuration holds but for mounts that could not be mounted anew */
	pthread_cond_t reloaded;
	enum { RELOAD_NONE, RELOAD_ASKED, RELOAD_DONE } reload_state;
	int reload_result;
	struct err reload_error;
};

/* With the lock held. */
struct daemon_vault *fs_daemon_find_vault(struct fs_daemon *d, const char *name);
int must_use fs_daemon_mount_locked(struct fs_daemon *d, struct daemon_vault *v, const struct config_mount *m,
				    const struct fs_mount_how *how, struct daemon_mount **ret, struct err *e);
/* Unlinks; the caller frees it without the lock. */
void fs_daemon_unlink_mount(struct fs_daemon *d, struct daemon_mount *m);
/* Without the lock. */
void fs_daemon_free_mount(struct daemon_mount *m);
void fs_daemon_free_vault(struct fs_daemon *d, struct daemon_vault *v);
void fs_daemon_wake(struct fs_daemon *d);

#endif
