/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One mount's tree: finds the node, makes sure that its source is known, answers.
 *
 * Every question first follows what the cache holds now (fs_sync_cached: two look-ups when nothing changed), so that a
 * reader sees the newest names without anybody having to walk the tree when a secret changes. Only a question that the
 * known names cannot answer asks the cache in a way that may wait; the wait resumes the question from its beginning.
 */
#include "fs/tree_internal.h"

#include "base/cleanup.h"
#include "fs/mountconf.h"
#include "fs/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long the kernel may keep a name: a listing may change any moment, the configuration's names may not. */
static const double KEEP_LISTED = 1.0, KEEP_PINNED = 3600.0;

int fs_tree_new(const struct config_mount *m, struct vault_cache *cache, struct vault_backend *b, struct fs_tree **ret,
		struct err *e)
{
	struct fs_tree *t = calloc(1, sizeof *t);
	if (!t)
		return err_set(e, ENOMEM, "out of memory");
	pthread_mutex_init(&t->lock, NULL);
	t->refs = 1;
	t->cache = cache;
	t->backend = b;
	t->born = time(NULL);
	int r = fs_mountconf_copy(m, &t->m, e);
	if (r == 0)
		r = fs_nodes_new(&t->nodes, e);
	if (r == 0)
		r = fs_sync_config(t, e);
	if (r < 0) {
		fs_tree_unref(t);
		return r;
	}
	*ret = t;
	return 0;
}

void fs_tree_unref(struct fs_tree *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	bool last = --t->refs == 0;
	pthread_mutex_unlock(&t->lock);
	if (!last)
		return;
	for (size_t i = 0; i < t->n_problems; i++) {
		free(t->problem[i].path);
		free(t->problem[i].message);
	}
	fs_nodes_free(t->nodes);
	fs_mountconf_free(t->m);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* What a reader gets for what the vault said. */
static int as_reader_sees(int r)
{
	return r == -ENOENT || r == -EACCES || r == -ENOMEM ? r : -EIO;
}

static bool is_answer(int r)
{
	return r == 0 || r == -ENOENT || r == -EACCES;
}

/* The end of a wait: whatever is an answer is in the cache now, so the question is asked again. */
static void waited(struct fs_wait *w, int r, const struct err *e)
{
	struct fs_tree *t = w->tree;
	cleanup_free char *path = TAKE_PTR(w->path);
	if (!is_answer(r) && r != -ECANCELED) {
		SCOPED_LOCK(&t->lock);
		fs_problem_set(t, path, err_msg(e, r));
	}
	w->resume(w, is_answer(r) ? 0 : as_reader_sees(r));
	fs_tree_unref(t);
}

static void on_secret(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	(void)s;
	waited(arg, r, e);
}

static void on_listing(void *arg, int r, struct vault_listing *l, const struct err *e)
{
	(void)l;
	waited(arg, r, e);
}

static int wait_begin(struct fs_tree *t, struct fs_wait *w, const char *path)
{
	w->tree = t;
	w->path = strdup(path);
	if (!w->path)
		return -ENOMEM;
	t->refs++;
	return 0;
}

static void wait_undo(struct fs_tree *t, struct fs_wait *w)
{
	free(TAKE_PTR(w->path));
	t->refs--; /* the caller's own reference is still there */
}

/* The newest version of a path: 0 with *ret, -EINPROGRESS (w will be resumed), or what a reader sees. Lock held. */
static int secret_get(struct fs_tree *t, const char *path, struct fs_wait *w, struct vault_secret **ret)
{
	struct err e = ERR_INIT;
	int r = wait_begin(t, w, path);
	if (r < 0)
		return r;
	r = vault_cache_get(t->cache, t->backend, path, ret, on_secret, w, &e);
	if (r == 0)
		return -EINPROGRESS;
	wait_undo(t, w);
	if (r > 0) {
		return 0;
	}
	if (r != -ENOENT)
		fs_problem_set(t, path, err_msg(&e, r));
	return as_reader_sees(r);
}

static int listing_get(struct fs_tree *t, const char *folder, struct fs_wait *w, struct vault_listing **ret)
{
	struct err e = ERR_INIT;
	int r = wait_begin(t, w, folder);
	if (r < 0)
		return r;
	r = vault_cache_list(t->cache, t->backend, folder, ret, on_listing, w, &e);
	if (r == 0)
		return -EINPROGRESS;
	wait_undo(t, w);
	if (r > 0)
		return 0;
	if (r != -ENOENT)
		fs_problem_set(t, folder, err_msg(&e, r));
	return as_reader_sees(r);
}

/*
 * Makes the names of a directory known. One of two sources will do; *ret_missing is why the other one could not be had
 * (0: all names are known). Lock held.
 */
static int dir_load(struct fs_tree *t, struct fs_node *dir, struct fs_wait *w, int *ret_missing)
{
	struct fs_dir *d = dir->dir;
	struct vault_listing *l = NULL;
	cleanup_secret struct vault_secret *s = NULL;
	bool secret_gone = false;
	int r = 0, r_list = 0;
	*ret_missing = 0;
	if (d->folder) {
		r_list = listing_get(t, d->folder, w, &l);
		if (r_list == -EINPROGRESS || r_list == -ENOMEM)
			return r_list;
	}
	if (d->secret) {
		r = secret_get(t, d->secret, w, &s);
		secret_gone = r == -ENOENT;
	}
	if (r != -EINPROGRESS && r != -ENOMEM) {
		/* A folder that the vault does not know is empty; the vault knows folders only by what is in them. */
		const struct vault_listing *now = l ? l : r_list == -ENOENT ? &fs_no_names : NULL;
		bool news = (now && (now->serial != d->listing_serial || d->relist)) ||
			    (s && vault_secret_id(s) != d->secret_id) || (secret_gone && d->secret_id);
		int rs = news ? fs_sync_dir(t, dir, now, s, secret_gone) : 0;
		if (r < 0 && r != -ENOENT)
			*ret_missing = r;
		else if (r_list < 0 && r_list != -ENOENT)
			*ret_missing = r_list;
		if (rs < 0)
			r = rs;
		else if (r == 0 || (d->folder && (l || r_list == -ENOENT)))
			r = d->folder && !d->secret && r_list < 0 && r_list != -ENOENT ? r_list :
											 0; /* one source will do */
	}
	if (l)
		vault_listing_unref(l);
	return r;
}

static struct fs_node *live_node(struct fs_tree *t, uint64_t id)
{
	struct fs_node *n = fs_node_by_id(t->nodes, id);
	return n && (!n->gone || n->handles) ? n : NULL;
}

static struct fs_owner owner_of(const struct fs_tree *t, const struct fs_node *n)
{
	const struct config_secret *rule = n->rule;
	struct fs_owner o = { t->m->uid, t->m->gid, t->m->mode };
	if (rule) {
		if (rule->uid != (uid_t)-1)
			o.uid = rule->uid;
		if (rule->gid != (gid_t)-1)
			o.gid = rule->gid;
		if (rule->mode)
			o.mode = rule->mode;
	}
	if (n->kind == FS_DIR)
		o.mode = (o.mode & 0444) | (o.mode & 0444) >> 2;
	return o;
}

/* Lock held; follows the cache for files, so that the size is the newest version's. */
static void fill_stat(struct fs_tree *t, struct fs_node *n, struct stat *st)
{
	struct fs_owner o = owner_of(t, n);
	*st = (struct stat){ .st_ino = n->id, .st_uid = o.uid, .st_gid = o.gid, .st_blksize = 4096 };
	if (n->kind == FS_DIR) {
		st->st_mode = S_IFDIR | o.mode;
		st->st_nlink = 2;
		st->st_mtime = st->st_ctime = st->st_atime = t->born;
		return;
	}
	struct vault_secret *s = n->parent->dir->secret ?
					 vault_cache_peek(t->cache, t->backend, n->parent->dir->secret) :
					 NULL;
	if (s)
		fs_sync_size(t, n, s);
	vault_secret_unref(s);
	uint64_t size = n->size;
	/* A reader of an older version asks with the same number: the largest of what is open, so that nothing is cut. */
	for (const struct fs_handle *h = n->handles; h; h = h->next)
		if (h->len > size)
			size = h->len;
	st->st_mode = S_IFREG | o.mode;
	st->st_nlink = 1;
	st->st_size = (off_t)size;
	st->st_blocks = (blkcnt_t)((size + 511) / 512);
	st->st_mtime = st->st_ctime = st->st_atime = n->mtime ? n->mtime : t->born;
}

/* Is an optional secret there? 0, -ENOENT, -EINPROGRESS, or an error. Lock held. */
static int optional_state(struct fs_tree *t, struct fs_node *n, struct fs_wait *w)
{
	if (!n->dir || !n->dir->secret)
		return 0;
	cleanup_secret struct vault_secret *s = NULL;
	int r = secret_get(t, n->dir->secret, w, &s);
	if (r == 0 || r == -ENOENT)
		n->hidden = r < 0;
	if (r == 0 || r == -ENOENT || r == -EACCES)
		n->asked = true;
	return r;
}

static int visible_child(struct fs_tree *t, struct fs_node *dir, const char *name, struct fs_wait *w,
			 struct fs_node **ret)
{
	struct fs_node *n = fs_node_child(t->nodes, dir, name);
	if (!n && (strcmp(name, ".json") == 0 || strcmp(name, ".version") == 0)) {
		if (fs_sync_views(t, dir) < 0)
			return -ENOMEM;
		n = fs_node_child(t->nodes, dir, name);
	}
	if (!n || n->gone)
		return -ENOENT;
	if (n->optional && n->asked)
		fs_optional_follow(t, n);
	/* One that was there is answered as it was, also while the vault cannot be asked. */
	int r = n->optional && n->hidden ? optional_state(t, n, w) : 0;
	if (r == 0)
		*ret = n;
	return r;
}

int fs_tree_lookup(struct fs_tree *t, uint64_t dir_id, const char *name, struct fs_wait *w, struct stat *ret,
		   double *ret_keep)
{
	SCOPED_LOCK(&t->lock);
	struct fs_node *dir = live_node(t, dir_id);
	if (!dir)
		return -ENOENT;
	if (dir->kind != FS_DIR)
		return -ENOTDIR;
	fs_sync_cached(t, dir);
	struct fs_node *n = NULL;
	int r = visible_child(t, dir, name, w, &n);
	struct fs_node *known = fs_node_child(t->nodes, dir, name);
	if (r == -ENOENT && !(known && !known->gone && known->hidden)) {
		int missing = 0;
		r = dir_load(t, dir, w, &missing);
		if (r == 0)
			r = visible_child(t, dir, name, w, &n);
		if (r == -ENOENT && missing)
			r = missing; /* it may be in what could not be had */
	}
	if (r < 0)
		return r;
	fill_stat(t, n, ret);
	*ret_keep = n->pinned && !n->optional ? KEEP_PINNED : KEEP_LISTED;
	return 0;
}

int fs_tree_getattr(struct fs_tree *t, uint64_t id, struct stat *ret)
{
	SCOPED_LOCK(&t->lock);
	struct fs_node *n = live_node(t, id);
	if (!n)
		return -ENOENT;
	fill_stat(t, n, ret);
	return 0;
}

int fs_tree_owner(struct fs_tree *t, uint64_t id, struct fs_owner *ret)
{
	SCOPED_LOCK(&t->lock);
	struct fs_node *n = live_node(t, id);
	if (!n)
		return -ENOENT;
	*ret = owner_of(t, n);
	return 0;
}

struct fs_owner fs_handle_owner(const struct fs_tree *t, const struct fs_handle *h)
{
	return owner_of(t, h->node);
}

void fs_tree_path(struct fs_tree *t, uint64_t id, char *out, size_t size)
{
	SCOPED_LOCK(&t->lock);
	fs_node_path(fs_node_by_id(t->nodes, id), out, size);
}

int fs_tree_opendir(struct fs_tree *t, uint64_t dir_id, struct fs_wait *w)
{
	SCOPED_LOCK(&t->lock);
	struct fs_node *dir = live_node(t, dir_id);
	if (!dir)
		return -ENOENT;
	if (dir->kind != FS_DIR)
		return -ENOTDIR;
	fs_sync_cached(t, dir);
	struct fs_dir *d = dir->dir;
	bool listed = !d->folder || d->listing_serial || vault_cache_is_gone(t->cache, t->backend, d->folder, true);
	bool known = listed && (!d->secret || d->secret_id);
	int missing, r = known ? 0 : dir_load(t, dir, w, &missing);
	/* A secret of a tree that is listed and has no readable version is an empty directory. */
	if (r == -ENOENT && !dir->pinned)
		r = 0;
	/* From the end: they are fetched in the order of the configuration, so the first wait is mostly the only one. */
	for (size_t i = d->n_kids; r == 0 && i-- > 0;) {
		struct fs_node *kid = d->kids[i];
		if (!kid->optional || kid->gone)
			continue;
		if (kid->asked) {
			fs_optional_follow(t, kid);
			continue;
		}
		r = optional_state(t, kid, w);
		if (r == -ENOENT || r == -EIO || r == -EACCES)
			r = 0; /* not shown */
	}
	return r < 0 ? r : fs_sync_views(t, dir);
}

int fs_tree_readdir(struct fs_tree *t, uint64_t dir_id, uint64_t offset, fs_tree_fill_fn *fn, void *arg)
{
	SCOPED_LOCK(&t->lock);
	struct fs_node *dir = live_node(t, dir_id);
	if (!dir)
		return -ENOENT;
	if (dir->kind != FS_DIR)
		return -ENOTDIR;
	if (offset == 0) {
		fs_sync_cached(t, dir);
		if (fs_sync_views(t, dir) < 0)
			return -ENOMEM;
	}
	struct stat st;
	for (uint64_t i = offset; i < 2; i++) {
		fill_stat(t, i == 1 && dir->parent ? dir->parent : dir, &st);
		if (fn(arg, i ? ".." : ".", &st, i + 1, 0))
			return 0;
	}
	const struct fs_dir *d = dir->dir;
	for (uint64_t i = offset < 2 ? 0 : offset - 2; i < d->n_kids; i++) {
		struct fs_node *n = d->kids[i];
		if (n->gone || n->hidden)
			continue;
		fill_stat(t, n, &st);
		if (fn(arg, n->name, &st, i + 3, n->pinned && !n->optional ? KEEP_PINNED : KEEP_LISTED))
			return 0;
	}
	return 0;
}

/* The bytes of this version of the file; no lock held. */
static int handle_fill(struct fs_node *n, bool binary, struct fs_handle *h, struct vault_secret *s, struct err *e)
{
	int r = 0;
	if (n->kind == FS_FIELD) {
		const struct vault_field *f = vault_secret_find(s, n->field, n->field_len);
		if (!f)
			return err_set(e, ENOENT, "the field is gone");
		if (!binary) {
			h->data = f->value;
			h->len = f->len;
			h->secret = vault_secret_ref(s);
			return 0;
		}
		r = fs_view_base64(f, &h->own, e);
	} else if (n->kind == FS_JSON) {
		r = fs_view_json(s, &h->own, e);
	} else {
		r = fs_view_version(s, &h->own, e);
	}
	if (r < 0)
		return r;
	h->data = secbuf_data(h->own);
	h->len = secbuf_len(h->own);
	return 0;
}

static void handle_free(struct fs_handle *h)
{
	vault_secret_unref(h->secret);
	secbuf_free(h->own);
	free(h);
}

int fs_tree_open(struct fs_tree *t, uint64_t id, struct fs_wait *w, struct fs_handle **ret)
{
	cleanup_secret struct vault_secret *s = NULL;
	struct fs_node *n;
	struct fs_handle *h = NULL;
	struct err e = ERR_INIT;
	int r;
	{
		SCOPED_LOCK(&t->lock);
		n = live_node(t, id);
		if (!n)
			return -ENOENT;
		if (n->kind == FS_DIR)
			return -EISDIR;
		struct fs_node *dir = n->parent;
		if (!dir->dir->secret)
			return -ENOENT;
		r = secret_get(t, dir->dir->secret, w, &s);
		if (r < 0)
			return r;
		if (vault_secret_id(s) != dir->dir->secret_id) {
			struct vault_listing *l = dir->dir->folder ? vault_cache_peek_list(t->cache, t->backend,
											   dir->dir->folder) :
								     NULL;
			r = fs_sync_dir(t, dir, l, s, false);
			vault_listing_unref(l);
			if (r < 0)
				return r;
		}
		if (n->gone)
			return -ENOENT;
		h = calloc(1, sizeof *h);
		if (!h)
			return -ENOMEM;
		if (n->kind == FS_FIELD) /* its name may change under a later sync; the bytes are cheap to find */
			r = handle_fill(n, fs_node_is_binary(n), h, s, &e);
	}
	if (n->kind != FS_FIELD) /* rendering a large secret takes a while: not under the lock */
		r = handle_fill(n, false, h, s, &e);
	SCOPED_LOCK(&t->lock);
	if (r < 0) {
		fs_problem_set(t, n->parent->dir->secret ? n->parent->dir->secret : "", err_msg(&e, r));
		handle_free(h);
		return as_reader_sees(r);
	}
	h->node = n;
	h->next = n->handles;
	if (h->next)
		h->next->prev = h;
	n->handles = h;
	t->open++;
	*ret = h;
	return 0;
}

void fs_tree_close(struct fs_tree *t, struct fs_handle *h)
{
	{
		SCOPED_LOCK(&t->lock);
		if (h->prev)
			h->prev->next = h->next;
		else
			h->node->handles = h->next;
		if (h->next)
			h->next->prev = h->prev;
		t->open--;
	}
	handle_free(h);
}

void fs_tree_close_all(struct fs_tree *t)
{
	size_t n;
	{
		SCOPED_LOCK(&t->lock);
		n = fs_nodes_count(t->nodes);
		t->left = true;
	}
	for (uint64_t id = 1; id <= n; id++) {
		struct fs_node *node;
		{
			SCOPED_LOCK(&t->lock);
			node = fs_node_by_id(t->nodes, id);
		}
		while (node->handles)
			fs_tree_close(t, node->handles);
	}
}

struct json *fs_tree_status(struct fs_tree *t)
{
	SCOPED_LOCK(&t->lock);
	struct json *j = json_object();
	struct json *problems = json_array();
	/* The newest few: an answer of the control socket has a bound. */
	for (size_t i = t->n_problems > PROBLEMS_SHOWN ? t->n_problems - PROBLEMS_SHOWN : 0; i < t->n_problems; i++) {
		struct json *p = json_object();
		(void)json_set(p, "path", json_of_string(t->problem[i].path));
		(void)json_set(p, "message", json_of_string(t->problem[i].message));
		(void)json_set(p, "since", json_of_int(t->problem[i].since));
		(void)json_append(problems, p);
	}
	(void)json_set(j, "names", json_of_int((int64_t)fs_nodes_count(t->nodes)));
	(void)json_set(j, "open", json_of_int((int64_t)t->open));
	(void)json_set(j, "n_problems", json_of_int((int64_t)t->n_problems));
	(void)json_set(j, "problems", problems);
	return j;
}
