/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A configuration becomes what runs. First everything that can fail is done beside what is there (vaults opened, new
 * mount points mounted); only then are changed mounts exchanged and old ones taken away. A mount whose entry and vault
 * did not change is not touched.
 */
#include "fs/daemon_internal.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "fs/mountconf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text(const char *s)
{
	return s ? s : "";
}

/* Everything of a vault's entry, so that "changed" is one comparison. Holds names of files, no secrets. */
static char *settings_of(const struct config_vault *v)
{
	char *s = NULL;
	int n = asprintf(&s, "%d|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%u|%u|%u|%u|%u", v->kind, text(v->file),
			 text(v->passphrase_file), text(v->address), text(v->kv_mount), text(v->namespace_),
			 text(v->token_file), text(v->ca_file), text(v->cert_file), text(v->key_file),
			 text(v->server_name), v->connect_timeout_ms, v->timeout_ms, v->max_connections, v->refresh_s,
			 v->max_stale_s);
	return n < 0 ? NULL : s;
}

static const struct config_mount *wanted(const struct config *c, const char *path)
{
	for (size_t i = 0; i < c->n_mounts; i++)
		if (strcmp(c->mounts[i].path, path) == 0)
			return &c->mounts[i];
	return NULL;
}

static struct daemon_mount *present(struct fs_daemon *d, const char *path)
{
	for (struct daemon_mount *m = d->mounts; m; m = m->next)
		if (!m->gone && !m->detached && strcmp(m->conf->path, path) == 0)
			return m;
	return NULL;
}

/* The vaults of the configuration that are new or changed, opened; nothing that runs is touched yet. */
static int open_vaults(struct fs_daemon *d, const struct config *c, struct daemon_vault **ret_fresh, struct err *e)
{
	for (size_t i = 0; i < c->n_vaults; i++) {
		char *settings = settings_of(&c->vaults[i]);
		struct daemon_vault *old = fs_daemon_find_vault(d, c->vaults[i].name);
		if (settings && old && old->settings && strcmp(old->settings, settings) == 0) {
			free(settings);
			continue;
		}
		struct daemon_vault *v = calloc(1, sizeof *v);
		char *name = strdup(c->vaults[i].name);
		if (!v || !settings || !name) {
			free(v);
			free(settings);
			free(name);
			return err_set(e, ENOMEM, "out of memory");
		}
		v->name = name;
		v->settings = settings;
		v->next = *ret_fresh;
		*ret_fresh = v;
		int r = vault_open(d->io, &c->vaults[i], NULL, &v->backend, e);
		if (r < 0)
			return r;
	}
	return 0;
}

static struct daemon_vault *by_name(struct daemon_vault *list, const char *name)
{
	while (list && strcmp(list->name, name) != 0)
		list = list->next;
	return list;
}

/* The vault that a mount of the new configuration uses: a fresh one goes before the one that runs. */
static struct daemon_vault *vault_for(struct fs_daemon *d, struct daemon_vault *fresh, const char *name)
{
	struct daemon_vault *v = by_name(fresh, name);
	return v ? v : fs_daemon_find_vault(d, name);
}

static bool vault_stays(const struct config *c, struct daemon_vault *fresh, const struct daemon_vault *v)
{
	bool named = !v->settings; /* opened by a command, not by a configuration */
	for (size_t i = 0; i < c->n_vaults; i++)
		named |= strcmp(c->vaults[i].name, v->name) == 0;
	return named && !by_name(fresh, v->name);
}

static bool unchanged(struct fs_daemon *d, struct daemon_vault *fresh, const struct daemon_mount *m,
		      const struct config_mount *want)
{
	return want && fs_mountconf_equal(m->conf, want) && m->vault == vault_for(d, fresh, want->vault);
}

static void free_vaults(struct fs_daemon *d, struct daemon_vault *list)
{
	while (list) {
		struct daemon_vault *next = list->next;
		fs_daemon_free_vault(d, list);
		list = next;
	}
}

static void free_mounts(struct daemon_mount *list)
{
	while (list) {
		struct daemon_mount *next = list->next;
		fs_daemon_free_mount(list);
		list = next;
	}
}

/* Takes mounts out of the daemon's list into one of their own. Lock held. */
static void move_out(struct fs_daemon *d, struct daemon_mount *m, struct daemon_mount **list)
{
	fs_daemon_unlink_mount(d, m);
	m->next = *list;
	*list = m;
}

/* Mounts at places where nothing of ours is yet. */
static int add_new(struct fs_daemon *d, const struct config *c, struct daemon_vault *fresh, struct daemon_mount **undo,
		   struct err *e)
{
	for (size_t i = 0; i < c->n_mounts; i++) {
		const struct config_mount *want = &c->mounts[i];
		if (present(d, want->path))
			continue;
		struct daemon_vault *v = vault_for(d, fresh, want->vault);
		struct daemon_mount *m;
		int r = v ? fs_daemon_mount_locked(d, v, want, NULL, &m, e) :
			    err_set(e, ENOENT, "mount %s: there is no vault named %s", want->path, want->vault);
		if (r < 0) {
			for (m = d->mounts; m;) {
				struct daemon_mount *next = m->next;
				if (m->configured && m->vault && wanted(c, m->conf->path) && !m->conf->line)
					move_out(d, m, undo);
				m = next;
			}
			return r;
		}
		m->configured = true;
		m->conf->line = 0; /* marks it as new until the end of fs_daemon_apply */
	}
	return 0;
}

int fs_daemon_apply(struct fs_daemon *d, const struct config *c, struct err *e)
{
	struct daemon_vault *fresh = NULL, *old_vaults = NULL;
	struct daemon_mount *old_mounts = NULL;
	pthread_mutex_lock(&d->lock);
	for (struct daemon_mount *m = d->mounts; m; m = m->next)
		m->conf->line = 1;
	int r = open_vaults(d, c, &fresh, e);
	if (r == 0)
		r = add_new(d, c, fresh, &old_mounts, e);
	if (r < 0) {
		pthread_mutex_unlock(&d->lock);
		free_mounts(old_mounts);
		free_vaults(d, fresh);
		return r;
	}

	/* From here on the new configuration holds; what does not want to follow is told and left out. */
	for (struct daemon_mount *m = d->mounts, *next; m; m = next) {
		next = m->next;
		/* One that was taken away is served for those who have a file open, as long as its vault stays. */
		bool stays = m->gone || m->detached ? vault_stays(c, fresh, m->vault) :
						      unchanged(d, fresh, m, wanted(c, m->conf->path));
		if (m->configured && !stays)
			move_out(d, m, &old_mounts);
	}
	for (struct daemon_vault **p = &d->vaults; *p;) {
		struct daemon_vault *v = *p;
		if (!vault_stays(c, fresh, v)) {
			*p = v->next;
			v->next = old_vaults;
			old_vaults = v;
		} else {
			p = &v->next;
		}
	}
	while (fresh) {
		struct daemon_vault *v = fresh;
		fresh = v->next;
		v->next = d->vaults;
		d->vaults = v;
	}
	pthread_mutex_unlock(&d->lock);
	free_mounts(old_mounts); /* a changed mount's place must be free before it is mounted anew */

	pthread_mutex_lock(&d->lock);
	for (size_t i = 0; i < c->n_mounts; i++) {
		const struct config_mount *want = &c->mounts[i];
		struct daemon_mount *m = present(d, want->path);
		if (m)
			continue;
		int rm = fs_daemon_mount_locked(d, fs_daemon_find_vault(d, want->vault), want, NULL, &m, e);
		if (rm < 0) {
			log_error("%s", err_msg(e, rm));
			d->half_met = true;
			r = rm;
		} else {
			m->configured = true;
		}
	}
	pthread_mutex_unlock(&d->lock);
	free_vaults(d, old_vaults);
	return r;
}
