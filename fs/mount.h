/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One mount: a tree, an access rule and a device, joined by the FUSE operations.
 * Thread rules: fs_mount_new and _free on one thread; the rest runs by itself.
 */
#ifndef CT_FS_MOUNT_H
#define CT_FS_MOUNT_H

#include "fs/access.h"
#include "fs/device.h"
#include "fs/tree.h"

struct fs_mount;

/*
 * Takes `fd` (mounted /dev/fuse), `access` and one reference of `tree`, also on error. gone(arg): see fs/device.h.
 */
int must_use fs_mount_new(struct fs_server *s, int fd, struct fs_tree *tree, struct fs_access *access,
			  void (*gone)(void *arg), void *arg, struct fs_mount **ret, struct err *e);
/* Stops serving: requests that wait get ENOTCONN, open files are closed. The kernel's mount is the caller's business. */
void fs_mount_free(struct fs_mount *m); /* NULL is fine */
struct fs_tree *fs_mount_tree(struct fs_mount *m);

struct fs_mount_stats {
	uint64_t opens, reads, denied, waits, errors;
};
void fs_mount_get_stats(const struct fs_mount *m, struct fs_mount_stats *ret);

#endif
