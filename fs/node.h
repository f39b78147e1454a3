/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names of one mount: nodes with stable numbers, found by (parent, name) and listed in order of appearance.
 *
 * A node lives as long as its table: a name that goes away is marked gone and comes back as the same node, so that the
 * kernel's node numbers and a reader's directory offsets stay true and FORGET needs no bookkeeping. The price: every name
 * there ever was costs some 200 bytes until the mount ends (`names` in `status`), without a bound. Knows neither FUSE nor
 * vault. Field names and paths are no secrets: ordinary memory.
 * Thread rules: the owner's lock.
 */
#ifndef CT_FS_NODE_H
#define CT_FS_NODE_H

#include "base/config.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum fs_kind { FS_DIR, FS_FIELD, FS_JSON, FS_VERSION };

struct fs_node;
struct fs_handle;

/* Where a directory's children come from. A path that is both secret and folder has both. */
struct fs_dir {
	char *folder;		 /* vault folder, "" or "app/"; NULL: none */
	char *secret;		 /* vault path "app/db"; NULL: none */
	uint64_t listing_serial; /* what the children were made from; 0: never */
	uint64_t secret_id;
	bool relist;	       /* the secret changed while the listing was not at hand: names may clash anew */
	struct fs_node **kids; /* in order of appearance, gone ones among them */
	size_t n_kids, cap_kids;
};

struct fs_node {
	uint64_t id; /* 1 is the root */
	struct fs_node *parent;
	struct fs_node *hash_next;
	const struct config_secret *rule; /* modes, owners, renames; NULL: the mount's own */
	uint32_t hash;
	uint32_t field_len;
	enum fs_kind kind : 8;
	bool gone;
	bool pinned;   /* from the configuration: listings do not take it away */
	bool optional; /* hidden while the vault says that its secret is not there */
	bool hidden;
	bool asked;	    /* optional: `hidden` is the vault's word, not a beginning */
	bool mark;	    /* while children are made anew */
	struct fs_dir *dir; /* FS_DIR */
	char *field;	    /* FS_FIELD: the raw name in the secret; `name` itself where they are the same */
	/* Files: the size of the newest version seen, and which that was. */
	uint64_t size_id, size;
	int64_t mtime;
	struct fs_handle *handles; /* open versions */
	char name[];		   /* as shown */
};

struct fs_nodes;

int must_use fs_nodes_new(struct fs_nodes **ret, struct err *e);
void fs_nodes_free(struct fs_nodes *t); /* NULL is fine */
size_t fs_nodes_count(const struct fs_nodes *t);
struct fs_node *fs_node_root(struct fs_nodes *t);
struct fs_node *fs_node_by_id(struct fs_nodes *t, uint64_t id); /* NULL when there was never such a node */
struct fs_node *fs_node_child(struct fs_nodes *t, const struct fs_node *dir, const char *name); /* also gone ones */
/* The child of that name, made if need be (kind and dir or field are the caller's to set). NULL on ENOMEM. */
struct fs_node *fs_node_add(struct fs_nodes *t, struct fs_node *dir, const char *name, enum fs_kind kind);
/* Sets the raw name of a field. -ENOMEM. */
int must_use fs_node_set_field(struct fs_node *n, const char *field, size_t len);
/* The path below the mount, for messages: "app/db/password". Cut to fit. */
void fs_node_path(const struct fs_node *n, char *out, size_t size);

#endif
