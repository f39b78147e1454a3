/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How names follow the vault. A directory's children are made from up to two sources: the fields of its secret and the
 * listing of its folder. Each sync marks what is still there and lets the rest go; nodes of names that stay are kept.
 *
 * On a clash of a field and a child folder the field wins and the child appears as "name%", which no escaped name is.
 */
#include "fs/tree_internal.h"

#include "base/cleanup.h"
#include "fs/name.h"
#include "fs/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct vault_listing fs_no_names = { .serial = 0 };

bool fs_node_is_binary(const struct fs_node *n)
{
	const struct config_secret *rule = n->rule;
	for (size_t i = 0; rule && n->field && i < rule->n_binary; i++)
		if (strlen(rule->binary[i]) == n->field_len && memcmp(rule->binary[i], n->field, n->field_len) == 0)
			return true;
	return false;
}

void fs_sync_size(struct fs_tree *t, struct fs_node *n, struct vault_secret *s)
{
	if (n->size_id == vault_secret_id(s))
		return;
	struct secbuf *own = NULL;
	struct err e = ERR_INIT;
	int r = 0;
	const struct vault_field *f = NULL;
	if (n->kind == FS_FIELD) {
		f = vault_secret_find(s, n->field, n->field_len);
		if (!f)
			return; /* gone with this version; what is open keeps its size */
		if (fs_node_is_binary(n))
			r = fs_view_base64(f, &own, &e);
	} else if (n->kind == FS_JSON) {
		r = fs_view_json(s, &own, &e);
	} else {
		r = fs_view_version(s, &own, &e);
	}
	if (r == -ENOMEM)
		return; /* an empty file is not what there is: the next look tries again */
	if (r < 0 && f)
		fs_problem_set(t, n->parent->dir->secret, e.msg);
	n->size = own ? secbuf_len(own) : f && r == 0 ? f->len : 0;
	secbuf_free(own);
	n->size_id = vault_secret_id(s);
	n->mtime = vault_secret_created(s);
}

static int set_string(char **where, const char *a, const char *b)
{
	char *p = NULL;
	if (asprintf(&p, "%s%s", a, b) < 0)
		return -ENOMEM;
	free(*where);
	*where = p;
	return 0;
}

/* Under which name a field of the secret appears, or NULL when the configuration leaves it out. */
static const char *field_name(const struct config_secret *rule, const struct vault_field *f, size_t *ret_len)
{
	if (!rule || rule->n_fields == 0) {
		*ret_len = f->name_len;
		return f->name;
	}
	for (size_t i = 0; i < rule->n_fields; i++) {
		if (strlen(rule->fields[i].from) == f->name_len &&
		    memcmp(rule->fields[i].from, f->name, f->name_len) == 0) {
			*ret_len = strlen(rule->fields[i].to);
			return rule->fields[i].to;
		}
	}
	return NULL;
}

static const char *view_name(enum fs_kind kind)
{
	return kind == FS_JSON ? ".json" : ".version";
}

int fs_sync_views(struct fs_tree *t, struct fs_node *dir)
{
	for (int k = FS_JSON; dir->dir->secret_id && k <= FS_VERSION; k++) {
		struct fs_node *n = fs_node_add(t->nodes, dir, view_name((enum fs_kind)k), (enum fs_kind)k);
		if (!n)
			return -ENOMEM;
		n->rule = dir->rule;
	}
	return 0;
}

static int sync_fields(struct fs_tree *t, struct fs_node *dir, struct vault_secret *s)
{
	char shown[FS_NAME_MAX + 1];
	size_t refused = 0, covered = 0, matched = 0;
	for (size_t i = 0; i < vault_secret_count(s); i++) {
		const struct vault_field *f = vault_secret_at(s, i);
		size_t len;
		const char *name = field_name(dir->rule, f, &len);
		if (!name)
			continue;
		matched++;
		if (fs_name_escape(name, len, shown) < 0) {
			refused++;
			continue;
		}
		struct fs_node *n = fs_node_child(t->nodes, dir, shown);
		if (n && n->pinned) {
			covered++; /* the configuration's word goes before the vault's */
			continue;
		}
		n = fs_node_add(t->nodes, dir, shown, FS_FIELD);
		if (!n)
			return -ENOMEM;
		n->mark = true;
		n->rule = dir->rule;
		if (fs_node_set_field(n, f->name, f->name_len) < 0)
			return -ENOMEM;
		if (!fs_node_is_binary(n)) {
			n->size = f->len;
			n->size_id = vault_secret_id(s);
			n->mtime = vault_secret_created(s);
		}
	}
	/* The views are made when somebody looks (fs_sync_views); those that were, stay. */
	for (int k = FS_JSON; k <= FS_VERSION; k++) {
		struct fs_node *n = fs_node_child(t->nodes, dir, view_name((enum fs_kind)k));
		if (n) {
			n->gone = false;
			n->mark = true;
			n->rule = dir->rule;
		}
	}
	char text[160];
	if (refused) {
		(void)snprintf(text, sizeof text,
			       "%zu field(s) are not shown: a name is empty or, escaped, longer than 255 bytes (they "
			       "are in .json)",
			       refused);
		fs_problem_set(t, dir->dir->secret, text);
	} else if (covered) {
		(void)snprintf(text, sizeof text,
			       "%zu field(s) are not shown: the configuration has something else of their name (they "
			       "are in .json)",
			       covered);
		fs_problem_set(t, dir->dir->secret, text);
	} else if (dir->rule && matched < dir->rule->n_fields) {
		(void)snprintf(text, sizeof text,
			       "%zu of the %zu fields that the configuration names are not in the secret",
			       dir->rule->n_fields - matched, dir->rule->n_fields);
		fs_problem_set(t, dir->dir->secret, text);
	} else {
		fs_problem_clear(t, dir->dir->secret);
	}
	return 0;
}

/* A child that is no secret any more, or no folder: what came from there goes with it. */
static void drop_lost(struct fs_node *n)
{
	struct fs_dir *d = n->dir;
	if ((d->secret || !d->secret_id) && (d->folder || !d->listing_serial))
		return;
	for (size_t i = 0; i < d->n_kids; i++) {
		struct fs_node *kid = d->kids[i];
		if (!kid->pinned && !(kid->kind == FS_DIR ? d->folder : d->secret))
			kid->gone = true;
	}
	if (!d->secret)
		d->secret_id = 0;
	if (!d->folder)
		d->listing_serial = 0;
}

static int sync_listing(struct fs_tree *t, struct fs_node *dir, const struct vault_listing *l)
{
	char raw[VAULT_PATH_MAX], shown[FS_NAME_MAX + 2];
	size_t refused = 0;
	for (size_t i = 0; i < l->names.n; i++) {
		const char *name = l->names.name[i];
		size_t len = strlen(name);
		bool folder = len && name[len - 1] == '/';
		if (folder)
			len--;
		if (len == 0 || len >= sizeof raw) {
			refused++;
			continue;
		}
		memcpy(raw, name, len);
		raw[len] = 0;
		int n_shown = fs_name_escape(raw, len, shown);
		if (n_shown < 0) {
			refused++;
			continue;
		}
		struct fs_node *other = fs_node_child(t->nodes, dir, shown);
		if (other && other->pinned)
			continue; /* the configuration's word goes before a listing's */
		if (other && !other->gone && other->kind != FS_DIR && other->mark) {
			if (n_shown == FS_NAME_MAX) {
				refused++;
				continue;
			}
			memcpy(shown + n_shown, "%", 2);
		}
		struct fs_node *n = fs_node_add(t->nodes, dir, shown, FS_DIR);
		if (!n)
			return -ENOMEM;
		if (!n->mark) {
			n->mark = true;
			n->rule = dir->rule;
			free(n->dir->folder);
			free(n->dir->secret);
			n->dir->folder = n->dir->secret = NULL;
		}
		if (folder) {
			if (set_string(&n->dir->folder, dir->dir->folder, name) < 0)
				return -ENOMEM;
		} else if (set_string(&n->dir->secret, dir->dir->folder, raw) < 0) {
			return -ENOMEM;
		}
	}
	if (refused) {
		char text[160];
		(void)snprintf(text, sizeof text, "%zu name(s) are not shown: empty or, escaped, longer than 255 bytes",
			       refused);
		fs_problem_set(t, dir->dir->folder, text);
	} else {
		fs_problem_clear(t, dir->dir->folder);
	}
	return 0;
}

int fs_sync_dir(struct fs_tree *t, struct fs_node *dir, const struct vault_listing *l, struct vault_secret *s,
		bool secret_gone)
{
	struct fs_dir *d = dir->dir;
	for (size_t i = 0; i < d->n_kids; i++)
		d->kids[i]->mark = false;
	/* A source that is not known now keeps what it gave. */
	for (size_t i = 0; i < d->n_kids; i++) {
		struct fs_node *n = d->kids[i];
		bool file = n->kind != FS_DIR;
		if (!n->gone && ((file && !s && !secret_gone && d->secret) || (!file && !l && d->folder)))
			n->mark = true;
	}
	int r = s ? sync_fields(t, dir, s) : 0;
	if (r == 0 && l)
		r = sync_listing(t, dir, l);
	if (r < 0)
		return r;
	for (size_t i = 0; i < d->n_kids; i++) {
		struct fs_node *n = d->kids[i];
		if (!n->pinned && !n->mark)
			n->gone = true;
		else if (l && !n->pinned && n->kind == FS_DIR)
			drop_lost(n);
	}
	if (l)
		d->listing_serial = l->serial;
	d->relist = !l && d->folder;
	if (s)
		d->secret_id = vault_secret_id(s);
	else if (secret_gone)
		d->secret_id = 0;
	return 0;
}

void fs_sync_cached(struct fs_tree *t, struct fs_node *dir)
{
	struct fs_dir *d = dir->dir;
	struct vault_listing *listing = d->folder ? vault_cache_peek_list(t->cache, t->backend, d->folder) : NULL;
	struct vault_secret *s = d->secret ? vault_cache_peek(t->cache, t->backend, d->secret) : NULL;
	const struct vault_listing *l = listing;
	if (!l && d->listing_serial && vault_cache_is_gone(t->cache, t->backend, d->folder, true))
		l = &fs_no_names;
	bool secret_gone = !s && d->secret_id && d->secret &&
			   vault_cache_is_gone(t->cache, t->backend, d->secret, false);
	bool news = (l && (l->serial != d->listing_serial || d->relist)) || (s && vault_secret_id(s) != d->secret_id) ||
		    secret_gone;
	/* A child is not named before it is known whether a field has its name. */
	if (d->folder && d->secret && !s && !d->secret_id)
		news = false;
	if (news) /* out of memory: the old names stay, the next look tries again */
		(void)fs_sync_dir(t, dir, l, s, secret_gone);
	vault_listing_unref(listing);
	vault_secret_unref(s);
}

/* The directory at a slash-separated raw path below the root; parts in between are made. */
static int pin_path(struct fs_tree *t, const char *raw_path, struct fs_node **ret, struct err *e)
{
	struct fs_node *at = fs_node_root(t->nodes);
	const char *p = raw_path;
	while (*p) {
		size_t len = strcspn(p, "/");
		if (len) {
			char shown[FS_NAME_MAX + 1];
			int r = fs_name_escape(p, len, shown);
			if (r < 0)
				return err_set(e, r, "%s: a part of it is, escaped, longer than 255 bytes", raw_path);
			at = fs_node_add(t->nodes, at, shown, FS_DIR);
			if (!at)
				return err_set(e, ENOMEM, "out of memory");
			at->pinned = true;
		}
		p += len;
		p += *p == '/';
	}
	*ret = at;
	return 0;
}

int fs_sync_config(struct fs_tree *t, struct err *e)
{
	const struct config_mount *m = t->m;
	if (m->n_secrets == 0)
		return set_string(&fs_node_root(t->nodes)->dir->folder, "", "");
	for (size_t i = 0; i < m->n_secrets; i++) {
		const struct config_secret *c = &m->secrets[i];
		struct fs_node *n;
		int r = pin_path(t, c->as ? c->as : c->path, &n, e);
		if (r < 0)
			return r;
		char **source = c->tree ? &n->dir->folder : &n->dir->secret;
		if (*source)
			return err_set(e, EINVAL, "two entries of the mount appear at %s", c->as ? c->as : c->path);
		if (set_string(source, c->path,
			       c->tree && c->path[0] && c->path[strlen(c->path) - 1] != '/' ? "/" : "") < 0)
			return err_set(e, ENOMEM, "out of memory");
		/* A secret's rule goes before the rule of a tree at the same place. */
		if (!n->rule || !c->tree)
			n->rule = c;
		n->optional = n->hidden = c->optional && !c->tree;
	}
	return 0;
}
