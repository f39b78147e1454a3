/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/node.h"

#include "base/cleanup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fs_nodes {
	struct fs_node **by_id; /* [id - 1] */
	size_t n, cap;
	struct fs_node **bucket;
	size_t n_buckets; /* a power of two */
};

static uint32_t hash_of(uint64_t parent, const char *name)
{
	uint64_t h = 0xcbf29ce484222325ULL ^ (parent * 0x9e3779b97f4a7c15ULL);
	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3ULL;
	return (uint32_t)(h ^ h >> 32);
}

static struct fs_node *node_new(struct fs_nodes *t, const char *name, enum fs_kind kind)
{
	if (t->n == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 64;
		struct fs_node **p = realloc(t->by_id, cap * sizeof *p);
		if (!p)
			return NULL;
		t->by_id = p;
		t->cap = cap;
	}
	size_t len = strlen(name) + 1;
	cleanup_free struct fs_node *n = calloc(1, sizeof *n + len);
	cleanup_free struct fs_dir *dir = kind == FS_DIR ? calloc(1, sizeof *dir) : NULL;
	if (!n || (kind == FS_DIR && !dir))
		return NULL;
	memcpy(n->name, name, len);
	n->kind = kind;
	n->dir = TAKE_PTR(dir);
	n->id = t->n + 1;
	t->by_id[t->n++] = n;
	return TAKE_PTR(n);
}

int fs_nodes_new(struct fs_nodes **ret, struct err *e)
{
	struct fs_nodes *t = calloc(1, sizeof *t);
	if (!t)
		return err_set(e, ENOMEM, "out of memory");
	t->n_buckets = 64;
	t->bucket = calloc(t->n_buckets, sizeof *t->bucket);
	struct fs_node *root = t->bucket ? node_new(t, "", FS_DIR) : NULL;
	if (!root) {
		fs_nodes_free(t);
		return err_set(e, ENOMEM, "out of memory");
	}
	root->pinned = true;
	*ret = t;
	return 0;
}

void fs_nodes_free(struct fs_nodes *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n; i++) {
		struct fs_node *n = t->by_id[i];
		if (n->dir) {
			free(n->dir->folder);
			free(n->dir->secret);
			free(n->dir->kids);
			free(n->dir);
		}
		if (n->field != n->name)
			free(n->field);
		free(n);
	}
	free(t->by_id);
	free(t->bucket);
	free(t);
}

size_t fs_nodes_count(const struct fs_nodes *t)
{
	return t->n;
}

struct fs_node *fs_node_root(struct fs_nodes *t)
{
	return t->by_id[0];
}

struct fs_node *fs_node_by_id(struct fs_nodes *t, uint64_t id)
{
	return id >= 1 && id <= t->n ? t->by_id[id - 1] : NULL;
}

struct fs_node *fs_node_child(struct fs_nodes *t, const struct fs_node *dir, const char *name)
{
	uint32_t h = hash_of(dir->id, name);
	for (struct fs_node *n = t->bucket[h & (t->n_buckets - 1)]; n; n = n->hash_next)
		if (n->hash == h && n->parent == dir && strcmp(n->name, name) == 0)
			return n;
	return NULL;
}

static int grow_buckets(struct fs_nodes *t)
{
	if (t->n < t->n_buckets)
		return 0;
	size_t n = t->n_buckets * 2;
	struct fs_node **b = calloc(n, sizeof *b);
	if (!b)
		return -ENOMEM;
	for (size_t i = 0; i < t->n_buckets; i++) {
		for (struct fs_node *p = t->bucket[i], *next; p; p = next) {
			next = p->hash_next;
			p->hash_next = b[p->hash & (n - 1)];
			b[p->hash & (n - 1)] = p;
		}
	}
	free(t->bucket);
	t->bucket = b;
	t->n_buckets = n;
	return 0;
}

struct fs_node *fs_node_add(struct fs_nodes *t, struct fs_node *dir, const char *name, enum fs_kind kind)
{
	struct fs_node *n = fs_node_child(t, dir, name);
	if (n && n->kind == kind) {
		n->gone = false;
		return n;
	}
	struct fs_dir *d = dir->dir;
	if (d->n_kids == d->cap_kids) {
		size_t cap = d->cap_kids ? d->cap_kids * 2 : 2;
		struct fs_node **p = realloc(d->kids, cap * sizeof *p);
		if (!p)
			return NULL;
		d->kids = p;
		d->cap_kids = cap;
	}
	if (grow_buckets(t) < 0)
		return NULL;
	/* A name that was a file and is a directory now gets a new number; the old node stays for who has it open. */
	struct fs_node *was = n;
	n = node_new(t, name, kind);
	if (!n)
		return NULL;
	n->parent = dir;
	n->hash = hash_of(dir->id, name);
	if (was) {
		was->gone = true;
		for (struct fs_node **p = &t->bucket[was->hash & (t->n_buckets - 1)]; *p; p = &(*p)->hash_next) {
			if (*p == was) {
				*p = was->hash_next;
				break;
			}
		}
	}
	n->hash_next = t->bucket[n->hash & (t->n_buckets - 1)];
	t->bucket[n->hash & (t->n_buckets - 1)] = n;
	d->kids[d->n_kids++] = n;
	return n;
}

int fs_node_set_field(struct fs_node *n, const char *field, size_t len)
{
	if (n->field && n->field_len == len && memcmp(n->field, field, len) == 0)
		return 0;
	char *now = n->name;
	if (strlen(n->name) != len || memcmp(n->name, field, len) != 0) {
		now = malloc(len + 1);
		if (!now)
			return -ENOMEM;
		memcpy(now, field, len);
		now[len] = 0;
	}
	if (n->field != n->name)
		free(n->field);
	n->field = now;
	n->field_len = (uint32_t)len;
	return 0;
}

void fs_node_path(const struct fs_node *n, char *out, size_t size)
{
	const struct fs_node *up[64];
	size_t depth = 0;
	for (; n && n->parent && depth < 64; n = n->parent)
		up[depth++] = n;
	size_t at = 0;
	out[0] = 0;
	while (depth-- > 0 && at < size) {
		int k = snprintf(out + at, size - at, "%s%s", at ? "/" : "", up[depth]->name);
		if (k < 0)
			break;
		at += (size_t)k;
	}
}
