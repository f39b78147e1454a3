/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may open and read: the question that the filesystem asks, and its first answer. The guard will give another one;
 * a program's main chooses.
 *
 * Asked on OPEN, OPENDIR, READ, READDIR and GETXATTR, of every request anew. Credentials are those in the FUSE request
 * (the kernel put them there); what else is asked about the caller comes from /proc, checked against the caller still
 * being the one who asked (a request pins its caller until the reply: asynchronous direct I/O is off).
 *
 * Thread rules: check runs on any serving thread, several at once, and may not wait for the network.
 */
#ifndef CT_FS_ACCESS_H
#define CT_FS_ACCESS_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

enum fs_access_op { FS_ACCESS_OPEN, FS_ACCESS_OPENDIR, FS_ACCESS_READ, FS_ACCESS_READDIR, FS_ACCESS_GETXATTR };

struct fs_access_request {
	enum fs_access_op op;
	pid_t tid; /* thread id in our pid namespace; 0: unknown */
	uid_t uid; /* file system uid and gid of the caller, as the mount's user namespace shows them */
	gid_t gid;
	/* the object */
	uid_t owner;
	gid_t group;
	mode_t mode; /* permission bits */
};

struct fs_access {
	/* 0: allowed. -EACCES (or another errno): refused. */
	int (*check)(struct fs_access *a, const struct fs_access_request *r);
	void (*free)(struct fs_access *a);
};

struct fs_policy {
	const uid_t *uids; /* copied */
	size_t n_uids;
	const gid_t *gids; /* primary or supplementary */
	size_t n_gids;
	/*
	 * When not 0: only this process and its descendants, living, not traced by anybody outside, with a uid above.
	 * The root of the tree must be a child subreaper, so that what daemonises stays below it.
	 */
	pid_t tree;
};

/*
 * Decides by uid, gid and process tree, then by the object's permission bits (uid 0 passes those when the policy lists
 * it). Default deny: an empty policy admits nobody; tid 0 is refused always.
 */
int must_use fs_access_policy_new(const struct fs_policy *policy, struct fs_access **ret, struct err *e);
void fs_access_free(struct fs_access *a); /* NULL is fine */
static inline int fs_access_check(struct fs_access *a, const struct fs_access_request *r)
{
	return a->check(a, r);
}

#endif
