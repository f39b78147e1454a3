/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One I/O loop, one key cache, one set of serving threads, any number of vaults and mounts.
 *
 * A mount that the kernel lets go of (unmounted, by us or by others, and its last file closed) is told by the device on
 * a serving thread, which cannot free what it is running in: it marks the mount and wakes fs_daemon_wait, which does.
 */
#include "fs/daemon_internal.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "fs/mountconf.h"
#include "fs/mountpoint.h"
#include "vault/control.h"

#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

void fs_daemon_wake(struct fs_daemon *d)
{
	uint64_t one = 1;
	(void)!write(d->wake, &one, sizeof one);
}

/* Is this vault known to fail, and from now on? On the loop's thread only. */
static bool set_failing(struct fs_daemon *d, const struct vault_backend *b, bool failing)
{
	size_t i = 0;
	while (i < d->n_failing && d->failing[i] != b)
		i++;
	bool was = i < d->n_failing;
	if (failing && !was && d->n_failing < FAILING_MAX)
		d->failing[d->n_failing++] = b;
	else if (!failing && was)
		d->failing[i] = d->failing[--d->n_failing];
	return was;
}

/* On the loop's thread. Names and reasons, never values; one line, not one a secret, when a whole vault is away. */
static void cache_changed(void *arg, struct vault_backend *b, const char *path, int r, const struct err *e)
{
	struct fs_daemon *d = arg;
	if (r == -ENOENT || r == -EACCES) {
		log_warn("vault %s: %s: taken away: %s", b->name, path, err_msg(e, r));
	} else if (r == -E2BIG) {
		log_warn("vault %s: %s: not kept: %s", b->name, path, err_msg(e, r));
	} else if (r < 0) {
		if (set_failing(d, b, true))
			log_debug("vault %s: %s: not asked for again: %s", b->name, path, err_msg(e, r));
		else
			log_warn("vault %s: cannot be asked; what is known is served: %s", b->name, err_msg(e, r));
	} else {
		if (set_failing(d, b, false))
			log_info("vault %s: answers again", b->name);
		log_debug("vault %s: %s: current version known", b->name, path);
	}
}

int fs_daemon_new(const struct fs_daemon_conf *conf, struct fs_daemon **ret, struct err *e)
{
	/* Few threads allocate little: arenas of their own would only hold memory back. */
	(void)mallopt(M_ARENA_MAX, 1);
	struct fs_daemon *d = calloc(1, sizeof *d);
	if (!d)
		return err_set(e, ENOMEM, "out of memory");
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->reloaded, NULL);
	d->started = time(NULL);
	d->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r = d->wake < 0 ? err_sys(e, errno, "eventfd") : 0;
	if (r == 0)
		r = io_new(&d->io, e);
	struct vault_cache_conf cc = {
		.max_entries = conf->cache_max_entries,
		.max_bytes = conf->cache_max_bytes,
		.wait_ms = conf->wait_ms,
	};
	if (r == 0)
		r = vault_cache_new(d->io, &cc, &d->cache, e);
	if (r == 0)
		r = fs_server_new(conf->threads, &d->server, e);
	if (r < 0) {
		fs_daemon_free(d);
		return r;
	}
	vault_cache_observe(d->cache, cache_changed, d);
	*ret = d;
	return 0;
}

void fs_daemon_free(struct fs_daemon *d)
{
	if (!d)
		return;
	/* A handler may wait for a reload that nobody will carry out any more. */
	{
		SCOPED_LOCK(&d->lock);
		if (d->reload_state == RELOAD_ASKED) {
			d->reload_result = err_set(&d->reload_error, ESHUTDOWN, "the daemon is ending");
			d->reload_state = RELOAD_DONE;
			pthread_cond_broadcast(&d->reloaded);
		}
	}
	control_server_free(d->control);
	while (d->mounts) {
		struct daemon_mount *m = d->mounts;
		fs_daemon_unlink_mount(d, m);
		fs_daemon_free_mount(m);
	}
	fs_server_free(d->server);
	while (d->vaults) {
		struct daemon_vault *v = d->vaults;
		d->vaults = v->next;
		fs_daemon_free_vault(d, v);
	}
	vault_cache_free(d->cache);
	io_free(d->io);
	if (d->wake >= 0)
		close(d->wake);
	pthread_cond_destroy(&d->reloaded);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

struct io *fs_daemon_io(struct fs_daemon *d)
{
	return d->io;
}

void fs_daemon_unlink_mount(struct fs_daemon *d, struct daemon_mount *m)
{
	for (struct daemon_mount **p = &d->mounts; *p; p = &(*p)->next) {
		if (*p == m) {
			*p = m->next;
			return;
		}
	}
}

void fs_daemon_free_mount(struct daemon_mount *m)
{
	if (!m)
		return;
	if (m->conf && m->own && !m->detached && !m->gone) {
		struct err e = ERR_INIT;
		if (fs_mountpoint_umount(m->conf->path, &e) < 0)
			log_warn("%s", e.msg);
	}
	fs_mount_free(m->mount);
	fs_mountconf_free(m->conf);
	free(m);
}

void fs_daemon_free_vault(struct fs_daemon *d, struct daemon_vault *v)
{
	if (!v)
		return;
	if (v->backend) {
		if (d->cache)
			vault_cache_close(d->cache, v->backend);
		else
			vault_backend_close_sync(v->backend);
	}
	free(v->name);
	free(v->settings);
	free(v);
}

struct daemon_vault *fs_daemon_find_vault(struct fs_daemon *d, const char *name)
{
	for (struct daemon_vault *v = d->vaults; v; v = v->next)
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}

int fs_daemon_add_vault(struct fs_daemon *d, const char *name, struct vault_backend *b, struct err *e)
{
	struct daemon_vault *v = calloc(1, sizeof *v);
	char *copy = strdup(name);
	if (!v || !copy) {
		free(v);
		free(copy);
		vault_backend_close_sync(b);
		return err_set(e, ENOMEM, "out of memory");
	}
	v->name = copy;
	v->backend = b;
	bool taken;
	{
		SCOPED_LOCK(&d->lock);
		taken = fs_daemon_find_vault(d, name);
		if (!taken) {
			v->next = d->vaults;
			d->vaults = v;
		}
	}
	if (taken) {
		fs_daemon_free_vault(d, v);
		return err_set(e, EEXIST, "there is a vault named %s already", name);
	}
	return 0;
}

/* On a serving thread, so without the lock: who holds that may wait for the same thread to answer the kernel. */
static void mount_gone(void *arg)
{
	struct daemon_mount *m = arg;
	struct fs_daemon *d = m->daemon;
	m->gone = true;
	fs_daemon_wake(d);
}

static int make_access(const struct config_mount *m, const struct fs_mount_how *how, struct fs_access **ret,
		       struct err *e)
{
	bool listed = m->allow.n_uids || m->allow.n_gids;
	struct fs_policy policy = {
		.uids = listed ? m->allow.uids : &m->uid,
		.n_uids = listed ? m->allow.n_uids : 1,
		.gids = m->allow.gids,
		.n_gids = m->allow.n_gids,
		.tree = how ? how->tree : 0,
	};
	return fs_access_policy_new(&policy, ret, e);
}

int fs_daemon_mount_locked(struct fs_daemon *d, struct daemon_vault *v, const struct config_mount *conf,
			   const struct fs_mount_how *how, struct daemon_mount **ret, struct err *e)
{
	cleanup_close int fd = how ? how->fuse_fd : -1;
	struct daemon_mount *m = calloc(1, sizeof *m);
	if (!m)
		return err_set(e, ENOMEM, "out of memory");
	m->daemon = d;
	m->vault = v;
	struct fs_tree *tree = NULL;
	struct fs_access *access = NULL;
	int r = fs_mountconf_copy(conf, &m->conf, e);
	if (r == 0)
		r = fs_tree_new(conf, d->cache, v->backend, &tree, e);
	if (r == 0)
		r = make_access(conf, how, &access, e);
	if (r == 0 && fd < 0) {
		struct fs_mountpoint_opts o = { .allow_other = conf->allow_other, .uid = conf->uid, .gid = conf->gid };
		r = fs_mountpoint_mount(conf->path, &o, &fd, e);
		m->own = r == 0;
	}
	if (r < 0) {
		fs_access_free(access);
		fs_tree_unref(tree);
	} else {
		r = fs_mount_new(d->server, TAKE_FD(fd), tree, access, mount_gone, m, &m->mount, e);
	}
	if (r < 0) {
		if (m->conf)
			(void)err_wrap(e, "mount %s", m->conf->path);
		fs_daemon_free_mount(m);
		return r;
	}
	fs_tree_prefetch(tree);
	m->next = d->mounts;
	d->mounts = m;
	log_info("mount %s: serving vault %s", conf->path, v->name);
	*ret = m;
	return 0;
}

int fs_daemon_add_mount(struct fs_daemon *d, const struct config_mount *conf, const struct fs_mount_how *how,
			struct err *e)
{
	SCOPED_LOCK(&d->lock);
	struct daemon_vault *v = fs_daemon_find_vault(d, conf->vault);
	if (!v) {
		if (how && how->fuse_fd >= 0)
			close(how->fuse_fd);
		return err_set(e, ENOENT, "mount %s: there is no vault named %s", conf->path, conf->vault);
	}
	struct daemon_mount *m;
	return fs_daemon_mount_locked(d, v, conf, how, &m, e);
}

int fs_daemon_umount(struct fs_daemon *d, const char *path, struct err *e)
{
	SCOPED_LOCK(&d->lock);
	for (struct daemon_mount *m = d->mounts; m; m = m->next) {
		if (m->gone || m->detached || strcmp(m->conf->path, path) != 0)
			continue;
		if (!m->own)
			return err_set(e, EBUSY, "%s belongs to a shell or command that runs; end that", path);
		/* The kernel tells when the last open file is closed; until then the mount goes on being served. */
		int r = fs_mountpoint_umount(path, e);
		m->detached = r == 0;
		return r;
	}
	return err_set(e, ENOENT, "nothing is mounted at %s by this daemon", path);
}

size_t fs_daemon_mounts(const struct fs_daemon *d)
{
	struct fs_daemon *w = (struct fs_daemon *)d;
	SCOPED_LOCK(&w->lock);
	size_t n = 0;
	for (const struct daemon_mount *m = d->mounts; m; m = m->next)
		n++;
	return n;
}

/* Frees what the kernel has let go of; returns how many. */
static size_t reap(struct fs_daemon *d)
{
	size_t n = 0;
	for (;;) {
		struct daemon_mount *m;
		{
			SCOPED_LOCK(&d->lock);
			m = d->mounts;
			while (m && !m->gone)
				m = m->next;
			if (!m)
				return n;
			fs_daemon_unlink_mount(d, m);
		}
		log_info("mount %s: is gone", m->conf->path);
		fs_daemon_free_mount(m);
		n++;
	}
}

static int run_reload(struct fs_daemon *d, struct err *e)
{
	if (!d->reload)
		return err_set(e, ENOTSUP, "this daemon was started without a configuration file");
	d->half_met = false;
	int r = d->reload(d->reload_arg, e);
	if (r < 0)
		log_error("reload: %s%s", d->half_met ? "" : "nothing changed: ", err_msg(e, r));
	else
		log_info("reload: done");
	return r;
}

static void answer_reload(struct fs_daemon *d)
{
	{
		SCOPED_LOCK(&d->lock);
		if (d->reload_state != RELOAD_ASKED)
			return;
	}
	struct err e = ERR_INIT;
	int r = run_reload(d, &e);
	SCOPED_LOCK(&d->lock);
	d->reload_result = r;
	d->reload_error = e;
	d->reload_state = RELOAD_DONE;
	pthread_cond_broadcast(&d->reloaded);
}

static void wait_signals(sigset_t *ret)
{
	sigemptyset(ret);
	sigaddset(ret, SIGINT);
	sigaddset(ret, SIGTERM);
	sigaddset(ret, SIGHUP);
}

void fs_daemon_block_signals(void)
{
	sigset_t set;
	wait_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int fs_daemon_wait(struct fs_daemon *d, int until_fd)
{
	sigset_t set;
	wait_signals(&set);
	cleanup_close int sfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	struct pollfd p[3] = {
		{ .fd = sfd, .events = POLLIN },
		{ .fd = d->wake, .events = POLLIN },
		{ .fd = until_fd, .events = POLLIN },
	};
	for (;;) {
		if (reap(d) && fs_daemon_mounts(d) == 0)
			return 1;
		answer_reload(d);
		if (poll(p, 3, -1) < 0)
			continue;
		if (p[1].revents) {
			uint64_t n;
			(void)!read(d->wake, &n, sizeof n);
		}
		if (p[2].revents)
			return 2;
		struct signalfd_siginfo si;
		if (p[0].revents && read(sfd, &si, sizeof si) == sizeof si) {
			if (si.ssi_signo != SIGHUP)
				return 0;
			struct err e = ERR_INIT;
			(void)run_reload(d, &e);
		}
	}
}

char *fs_daemon_socket_path(pid_t pid)
{
	char *folder = NULL, *path = NULL;
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int n;
	if (geteuid() == 0)
		n = asprintf(&folder, "/run/cloudtaser");
	else if (runtime && runtime[0] == '/')
		n = asprintf(&folder, "%s/cloudtaser", runtime);
	else
		n = asprintf(&folder, "/tmp/cloudtaser-%u", (unsigned)geteuid());
	if (n < 0 || pid == 0)
		return n < 0 ? NULL : folder;
	n = asprintf(&path, "%s/%d.sock", folder, (int)pid);
	free(folder);
	return n < 0 ? NULL : path;
}
