/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by tree.c (what is asked), tree_sync.c (how names follow the vault) and tree_problems.c. Nobody else's. */
#ifndef CT_FS_TREE_INTERNAL_H
#define CT_FS_TREE_INTERNAL_H

#include "fs/node.h"
#include "fs/tree.h"

#include <pthread.h>
#include <time.h>

enum { PROBLEMS_MAX = 64, PROBLEMS_SHOWN = 8, PROBLEM_LOG_S = 60 };

struct fs_problem {
	char *path; /* in the vault */
	char *message;
	time_t since, logged; /* 0: its log line was one too many */
};

struct fs_tree {
	pthread_mutex_t lock;
	unsigned refs; /* the owner's, and one for each wait */
	bool left;     /* unmounted: nothing more is asked for in the background */
	struct config_mount *m;
	struct vault_cache *cache;
	struct vault_backend *backend;
	struct fs_nodes *nodes;
	time_t born;
	size_t open;
	struct fs_problem problem[PROBLEMS_MAX];
	size_t n_problems;
	time_t crowded; /* when the log was last told that there are more of them than are kept */
};

/* All with the lock held. */

/* The nodes that the configuration names. */
int fs_sync_config(struct fs_tree *t, struct err *e);
/*
 * Makes the children of a directory what these say. NULL: that source is not known now, what came from it stays;
 * `secret_gone`: the vault says that there is none.
 */
int fs_sync_dir(struct fs_tree *t, struct fs_node *dir, const struct vault_listing *l, struct vault_secret *s,
		bool secret_gone);
/* Follows what is cached, without asking the vault. */
void fs_sync_cached(struct fs_tree *t, struct fs_node *dir);
/* What the vault lists of a folder that it does not know: nothing. */
extern const struct vault_listing fs_no_names;
/* Makes the views .json and .version of a directory whose secret is known: few are ever looked at. -ENOMEM. */
int must_use fs_sync_views(struct fs_tree *t, struct fs_node *dir);
/* Brings size and time of a file up to the version s. */
void fs_sync_size(struct fs_tree *t, struct fs_node *n, struct vault_secret *s);
bool fs_node_is_binary(const struct fs_node *n);

/* What is known of an optional secret that was asked for before, without waiting; it is asked for again beside that. */
void fs_optional_follow(struct fs_tree *t, struct fs_node *n);

void fs_problem_set(struct fs_tree *t, const char *path, const char *message); /* logs when it is news, see there */
void fs_problem_clear(struct fs_tree *t, const char *path);

#endif
