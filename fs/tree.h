/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a mount shows: the names of a vault as the configuration arranges them, and the versions that are open. Knows the
 * key cache, not FUSE.
 *
 * Nothing here waits. What is known (listed or fetched before) is answered at once, whatever the network does. What is
 * not answers -EINPROGRESS, and the caller's wait is resumed once, on the I/O loop's thread, when asking again makes
 * sense (r == 0) or when the wait failed (r < 0, already turned into what a reader gets to see).
 *
 * Errors as a reader sees them: -ENOENT only when the vault (or the configuration) says so; -EACCES when the vault says
 * so; -EIO with a reason in the log and in `status` when the vault cannot be asked.
 *
 * Thread rules: any thread; one lock inside.
 */
#ifndef CT_FS_TREE_H
#define CT_FS_TREE_H

#include "base/config.h"
#include "base/json.h"
#include "vault/cache.h"

#include <stdatomic.h>
#include <sys/stat.h>

struct fs_tree;

/* Embedded by the caller in its own structure; must live until resumed. */
struct fs_wait {
	void (*resume)(struct fs_wait *w, int r);
	/* private */
	struct fs_tree *tree;
	char *path;
};

/* Copies the mount entry. Cache and backend must outlive the tree. */
int must_use fs_tree_new(const struct config_mount *m, struct vault_cache *cache, struct vault_backend *b,
			 struct fs_tree **ret, struct err *e);
/* Gives the caller's reference up; the tree goes when nobody waits any more (a wait is bounded by the cache). Open
 * handles must be closed before. */
void fs_tree_unref(struct fs_tree *t); /* NULL is fine */

/* Starts fetching what is configured singly and listing trees, in the background. */
void fs_tree_prefetch(struct fs_tree *t);

/* *ret_keep: how long the kernel may keep the name, seconds. */
int must_use fs_tree_lookup(struct fs_tree *t, uint64_t dir, const char *name, struct fs_wait *w, struct stat *ret,
			    double *ret_keep);
int must_use fs_tree_getattr(struct fs_tree *t, uint64_t id, struct stat *ret);

/* Makes sure that a directory's names are known. */
int must_use fs_tree_opendir(struct fs_tree *t, uint64_t dir, struct fs_wait *w);
/*
 * Calls fn for entries from `offset` on, with the offset behind each, until it returns non-zero. `.` and `..` included.
 */
typedef int fs_tree_fill_fn(void *arg, const char *name, const struct stat *st, uint64_t next, double keep);
int must_use fs_tree_readdir(struct fs_tree *t, uint64_t dir, uint64_t offset, fs_tree_fill_fn *fn, void *arg);

/* One open file: one version. data is in secret memory and valid until close. */
struct fs_handle {
	const uint8_t *data;
	size_t len;
	_Atomic bool paged; /* read into the page cache: the caller's to use */
	/* private */
	struct fs_node *node;
	struct fs_handle *prev, *next;
	struct vault_secret *secret;
	struct secbuf *own;
};
int must_use fs_tree_open(struct fs_tree *t, uint64_t id, struct fs_wait *w, struct fs_handle **ret);
void fs_tree_close(struct fs_tree *t, struct fs_handle *h);
/* At the end of the mount: closes what the kernel will send no RELEASE for any more, and asks for nothing more. */
void fs_tree_close_all(struct fs_tree *t);

/* What the access rules need of a node. -ENOENT. For a handle no lock is taken. */
struct fs_owner {
	uid_t uid;
	gid_t gid;
	mode_t mode; /* permission bits */
};
int must_use fs_tree_owner(struct fs_tree *t, uint64_t id, struct fs_owner *ret);
struct fs_owner fs_handle_owner(const struct fs_tree *t, const struct fs_handle *h);
/* The path below the mount, for logs. */
void fs_tree_path(struct fs_tree *t, uint64_t id, char *out, size_t size);

/* {"names":N,"open":N,"problems":[{"path","message","since"}]} */
struct json *fs_tree_status(struct fs_tree *t);

#endif
