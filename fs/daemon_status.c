/* SPDX-License-Identifier: Apache-2.0 */
/* What `status` shows, and the control socket's verbs. States of protection are looked at, never remembered. */
#include "fs/daemon_internal.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "vault/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { MOUNTS_ROOM = CONTROL_MESSAGE_MAX * 3 / 4 };

static void check(struct json *list, const char *name, const char *state, const char *detail)
{
	struct json *j = json_object();
	(void)json_set(j, "name", json_of_string(name));
	(void)json_set(j, "state", json_of_string(state));
	(void)json_set(j, "detail", json_of_string(detail));
	(void)json_append(list, j);
}

static struct json *checks(void)
{
	struct json *list = json_array();
	struct secmem_stats st;
	secmem_get_stats(&st);
	check(list, "secret memory", st.kind == SECMEM_KIND_SECRET ? "ok" : "no",
	      st.kind == SECMEM_KIND_SECRET ? "secrets are in memfd_secret memory" :
	      st.kind == SECMEM_KIND_LOCKED ? "secrets are in locked ordinary memory: root can read it" :
					      "secrets are in ordinary memory");
	bool dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0;
	check(list, "not dumpable", dumpable ? "no" : "ok",
	      dumpable ? "the process may be dumped and traced by its own user" : "PR_SET_DUMPABLE is 0");
	struct rlimit core = { 1, 1 };
	bool no_core = getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0;
	check(list, "no core files", no_core ? "ok" : "no", no_core ? "RLIMIT_CORE is 0" : "RLIMIT_CORE is not 0");
	check(list, "kernel guard", "not yet", "nothing stops root from running code inside this process");
	check(list, "system call filter", "not yet", "the process is not confined");
	check(list, "audit trail", "not yet", "opens are counted, not recorded");
	return list;
}

struct vault_look {
	struct vault_backend *backend;
	struct json *status;
};

static void look_at_vault(void *arg)
{
	struct vault_look *l = arg;
	l->status = l->backend->ops->status(l->backend);
}

static struct json *vaults_status(struct fs_daemon *d)
{
	struct json *list = json_array();
	for (struct daemon_vault *v = d->vaults; v; v = v->next) {
		struct vault_look l = { .backend = v->backend };
		if (io_call(d->io, look_at_vault, &l) < 0 || !l.status)
			continue;
		(void)json_set(l.status, "name", json_of_string(v->name));
		(void)json_append(list, l.status);
	}
	return list;
}

/* An answer of the control socket has a bound; *ret_left_out says how many mounts did not find room in it. */
static struct json *mounts_status(struct fs_daemon *d, int64_t *ret_left_out)
{
	struct json *list = json_array();
	size_t room = MOUNTS_ROOM;
	*ret_left_out = 0;
	for (struct daemon_mount *m = d->mounts; m; m = m->next) {
		if (*ret_left_out) {
			++*ret_left_out;
			continue;
		}
		struct fs_mount_stats st;
		fs_mount_get_stats(m->mount, &st);
		struct json *j = fs_tree_status(fs_mount_tree(m->mount));
		(void)json_set(j, "path", json_of_string(m->conf->path));
		(void)json_set(j, "vault", json_of_string(m->vault->name));
		(void)json_set(j, "opens", json_of_int((int64_t)st.opens));
		(void)json_set(j, "reads", json_of_int((int64_t)st.reads));
		(void)json_set(j, "denied", json_of_int((int64_t)st.denied));
		(void)json_set(j, "waits", json_of_int((int64_t)st.waits));
		(void)json_set(j, "errors", json_of_int((int64_t)st.errors));
		size_t n = 0;
		cleanup_sec char *text = json_print(j, false, &n);
		if (!text || n >= room) {
			json_free(j);
			++*ret_left_out;
			continue;
		}
		room -= n;
		(void)json_append(list, j);
	}
	return list;
}

static struct json *cache_status(struct fs_daemon *d)
{
	struct vault_cache_stats st;
	vault_cache_get_stats(d->cache, &st);
	struct json *j = json_object();
	(void)json_set(j, "entries", json_of_int((int64_t)st.entries));
	(void)json_set(j, "bytes", json_of_int((int64_t)st.bytes));
	(void)json_set(j, "hits", json_of_int((int64_t)st.hits));
	(void)json_set(j, "misses", json_of_int((int64_t)st.misses));
	(void)json_set(j, "fetches", json_of_int((int64_t)st.fetches));
	(void)json_set(j, "fetch_errors", json_of_int((int64_t)st.fetch_errors));
	(void)json_set(j, "stale_served", json_of_int((int64_t)st.stale_served));
	(void)json_set(j, "evicted", json_of_int((int64_t)st.evicted));
	(void)json_set(j, "oldest_ms", json_of_int((int64_t)st.oldest_ms));
	return j;
}

static struct json *memory_status(void)
{
	struct secmem_stats st;
	secmem_get_stats(&st);
	struct json *j = json_object();
	(void)json_set(j, "kind", json_of_string(secmem_kind_name(st.kind)));
	(void)json_set(j, "mapped", json_of_int((int64_t)st.mapped));
	(void)json_set(j, "used", json_of_int((int64_t)st.used));
	(void)json_set(j, "limit", st.limit == SIZE_MAX ? json_of_null() : json_of_int((int64_t)st.limit));
	return j;
}

struct json *fs_daemon_status(struct fs_daemon *d)
{
	struct fs_device_stats dev;
	fs_server_get_stats(d->server, &dev);
	SCOPED_LOCK(&d->lock);
	struct json *j = json_object();
	(void)json_set(j, "program", json_of_string(program_invocation_short_name));
	(void)json_set(j, "version", json_of_string(CT_VERSION));
	(void)json_set(j, "pid", json_of_int(getpid()));
	(void)json_set(j, "started", json_of_int(d->started));
	(void)json_set(j, "secret_memory", memory_status());
	int64_t left_out = 0;
	(void)json_set(j, "mounts", mounts_status(d, &left_out));
	(void)json_set(j, "mounts_left_out", json_of_int(left_out));
	(void)json_set(j, "vaults", vaults_status(d));
	(void)json_set(j, "cache", cache_status(d));
	(void)json_set(j, "requests", json_of_int((int64_t)dev.requests));
	(void)json_set(j, "checks", checks());
	return j;
}

static int verb_status(void *arg, const struct control_peer *peer, const struct json *request, struct json **ret,
		       struct err *e)
{
	(void)peer, (void)request;
	struct json *j = fs_daemon_status(arg);
	if (!j)
		return err_set(e, ENOMEM, "out of memory");
	*ret = j;
	return 0;
}

static int verb_umount(void *arg, const struct control_peer *peer, const struct json *request, struct json **ret,
		       struct err *e)
{
	(void)ret;
	const char *path = json_string(json_get(request, "path"));
	if (!path)
		return err_set(e, EINVAL, "umount needs a \"path\"");
	log_info("umount %s: asked by process %d of uid %u", path, (int)peer->pid, (unsigned)peer->uid);
	return fs_daemon_umount(arg, path, e);
}

/* Carried out by the thread in fs_daemon_wait, which owns the daemon's life. */
static int verb_reload(void *arg, const struct control_peer *peer, const struct json *request, struct json **ret,
		       struct err *e)
{
	(void)request, (void)ret;
	struct fs_daemon *d = arg;
	log_info("reload: asked by process %d of uid %u", (int)peer->pid, (unsigned)peer->uid);
	SCOPED_LOCK(&d->lock);
	d->reload_state = RELOAD_ASKED;
	fs_daemon_wake(d);
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 60;
	while (d->reload_state != RELOAD_DONE) {
		if (pthread_cond_timedwait(&d->reloaded, &d->lock, &until) == ETIMEDOUT)
			return err_set(e, ETIMEDOUT,
				       "the reload takes longer than a minute; the log tells how it ends");
	}
	d->reload_state = RELOAD_NONE;
	if (d->reload_result < 0)
		*e = d->reload_error;
	return d->reload_result;
}

int fs_daemon_control(struct fs_daemon *d, const char *path, int (*reload)(void *arg, struct err *e), void *arg,
		      struct err *e)
{
	d->reload = reload;
	d->reload_arg = arg;
	const struct control_handler handlers[] = {
		{ "status", verb_status, d },
		{ "umount", verb_umount, d },
		{ "reload", verb_reload, d },
	};
	return control_server_new(path, handlers, sizeof handlers / sizeof *handlers, &d->control, e);
}
