/* SPDX-License-Identifier: Apache-2.0 */
/* What a tree asks the vault without anybody waiting for it. */
#include "fs/tree_internal.h"

#include "base/cleanup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Background look at what the mount shows: singly named secrets are fetched, trees listed. What is listed already is
 * gone through at once, on the stack, hence the depth; what lies deeper is listed when somebody looks.
 */
enum { PREFETCH_DEPTH = 32 };
static void prefetch_folder(struct fs_tree *t, const char *folder, unsigned depth);

static void prefetch_done(struct fs_tree *t, const char *path, int r, const struct err *e)
{
	if (r < 0 && r != -ECANCELED) {
		SCOPED_LOCK(&t->lock);
		fs_problem_set(t, path, err_msg(e, r));
	}
	fs_tree_unref(t);
}

struct prefetch {
	struct fs_tree *t;
	bool optional;
	unsigned depth;
	char path[];
};

/* Lock held. */
static struct prefetch *prefetch_new(struct fs_tree *t, const char *path, bool optional, unsigned depth)
{
	size_t n = strlen(path) + 1;
	struct prefetch *p = malloc(sizeof *p + n);
	if (!p)
		return NULL;
	p->t = t;
	p->optional = optional;
	p->depth = depth;
	memcpy(p->path, path, n);
	t->refs++;
	return p;
}

static void prefetched_secret(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	cleanup_free struct prefetch *p = arg;
	(void)s;
	prefetch_done(p->t, p->path, r == -ENOENT && p->optional ? 0 : r, e);
}

static void prefetched_folder(void *arg, int r, struct vault_listing *l, const struct err *e)
{
	cleanup_free struct prefetch *p = arg;
	for (size_t i = 0; r == 0 && i < l->names.n; i++) {
		const char *name = l->names.name[i];
		size_t len = strlen(name);
		cleanup_free char *sub = NULL;
		if (len && name[len - 1] == '/' && asprintf(&sub, "%s%s", p->path, name) >= 0 &&
		    strlen(sub) < VAULT_PATH_MAX)
			prefetch_folder(p->t, sub, p->depth + 1);
	}
	prefetch_done(p->t, p->path, r == -ENOENT ? 0 : r, e); /* an empty vault is no problem */
}

static void prefetch_folder(struct fs_tree *t, const char *folder, unsigned depth)
{
	if (depth > PREFETCH_DEPTH)
		return;
	struct prefetch *p;
	{
		SCOPED_LOCK(&t->lock);
		p = t->left ? NULL : prefetch_new(t, folder, true, depth);
	}
	if (!p)
		return;
	struct vault_listing *l = NULL;
	struct err e = ERR_INIT;
	int r = vault_cache_list(t->cache, t->backend, folder, &l, prefetched_folder, p, &e);
	if (r == 0)
		return;
	prefetched_folder(p, r > 0 ? 0 : r, l, &e);
	if (l)
		vault_listing_unref(l);
}

static void prefetch_secret(struct fs_tree *t, const char *path, bool optional)
{
	struct prefetch *p;
	{
		SCOPED_LOCK(&t->lock);
		p = prefetch_new(t, path, optional, 0);
	}
	if (!p)
		return;
	cleanup_secret struct vault_secret *s = NULL;
	struct err e = ERR_INIT;
	int r = vault_cache_get(t->cache, t->backend, path, &s, prefetched_secret, p, &e);
	if (r != 0)
		prefetched_secret(p, r > 0 ? 0 : r, s, &e);
}

void fs_tree_prefetch(struct fs_tree *t)
{
	const struct config_mount *m = t->m;
	if (m->n_secrets == 0)
		prefetch_folder(t, "", 0);
	for (size_t i = 0; i < m->n_secrets; i++) {
		if (m->secrets[i].tree)
			prefetch_folder(t, m->secrets[i].path, 0);
		else
			prefetch_secret(t, m->secrets[i].path, m->secrets[i].optional);
	}
}

void fs_optional_follow(struct fs_tree *t, struct fs_node *n)
{
	const char *path = n->dir->secret;
	struct vault_secret *s = vault_cache_peek(t->cache, t->backend, path);
	if (s)
		n->hidden = false;
	else if (vault_cache_is_gone(t->cache, t->backend, path, false))
		n->hidden = true;
	struct prefetch *p = s ? NULL : prefetch_new(t, path, true, 0);
	if (p) {
		struct err e = ERR_INIT;
		int r = vault_cache_get(t->cache, t->backend, path, &s, prefetched_secret, p, &e);
		if (r != 0) { /* not waited for, so done is not called */
			t->refs--;
			free(p);
		}
	}
	vault_secret_unref(s);
}
