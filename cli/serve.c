/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/serve.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct config_mount *find_mount(const struct config *c, const char *mountpoint)
{
	for (size_t i = 0; c && i < c->n_mounts; i++)
		if (strcmp(c->mounts[i].path, mountpoint) == 0)
			return &c->mounts[i];
	return NULL;
}

int cli_serve_choose(const struct cli *c, const char *mountpoint, struct cli_serve *s, struct err *e)
{
	int r = cli_config(c, &s->vault.config, e);
	if (r < 0)
		return r;
	const struct config_mount *m = find_mount(s->vault.config, mountpoint);
	return cli_vault_choose(c, m && !c->vault ? m->vault : NULL, &s->vault, e);
}

/* Never fatal: the mount serves without it. */
static void open_control(struct cli_serve *s)
{
	struct err e = ERR_INIT;
	cleanup_free char *path = fs_daemon_socket_path(getpid());
	int r = path ? fs_daemon_control(s->daemon, path, NULL, NULL, &e) : -ENOMEM;
	if (r < 0)
		log_warn("no control socket, so `status` will not show this: %s", err_msg(&e, r));
}

int cli_serve_start(struct cli_serve *s, const char *mountpoint, const char *prefix, const struct fs_mount_how *how,
		    struct err *e)
{
	cleanup_close int fuse_fd = how ? how->fuse_fd : -1;
	const struct config *config = s->vault.config;
	struct fs_daemon_conf conf = { 0 };
	if (config) {
		conf.cache_max_entries = config->cache_max_entries;
		conf.cache_max_bytes = config->cache_max_bytes;
		conf.wait_ms = config->wait_ms;
	}
	int r = fs_daemon_new(&conf, &s->daemon, e);
	if (r == 0)
		r = cli_vault_open(&s->vault, fs_daemon_io(s->daemon), e);
	/* A person waits for the answer: tell now what every read would fail of. */
	if (r == 0)
		r = vault_check_sync(s->vault.backend, e);
	if (r < 0)
		return r;
	const char *name = s->vault.conf->name;
	r = fs_daemon_add_vault(s->daemon, name, TAKE_PTR(s->vault.backend), e);
	if (r < 0)
		return r;

	struct config_secret below = {
		.path = (char *)prefix,
		.tree = true,
		.as = (char *)"",
		.uid = (uid_t)-1,
		.gid = (gid_t)-1,
	};
	struct config_mount m = { .path = (char *)mountpoint, .mode = 0400, .uid = geteuid(), .gid = getegid() };
	const struct config_mount *configured = prefix ? NULL : find_mount(config, mountpoint);
	if (configured)
		m = *configured;
	if (how && how->tree) {
		m.uid = geteuid();
		m.gid = getegid();
		m.allow = (struct config_allow){ .n_uids = 0 };
		m.allow_other = false;
	}
	m.vault = (char *)name;
	if (prefix) {
		m.secrets = &below;
		m.n_secrets = 1;
	}
	struct fs_mount_how ours = { .fuse_fd = TAKE_FD(fuse_fd), .tree = how ? how->tree : 0 };
	r = fs_daemon_add_mount(s->daemon, &m, how ? &ours : NULL, e);
	if (r == 0)
		open_control(s);
	return r;
}

void cli_serve_stop(struct cli_serve *s)
{
	/* Not handed over yet: it lives on the daemon's loop, which goes next. */
	vault_backend_close_sync(TAKE_PTR(s->vault.backend));
	fs_daemon_free(TAKE_PTR(s->daemon));
	cli_vault_close(&s->vault);
}
