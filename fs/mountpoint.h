/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting a mounted /dev/fuse descriptor, and taking the mount away.
 * Source: Documentation/filesystems/fuse/fuse.rst; fusermount3's _FUSE_COMMFD protocol (libfuse lib/mount.c).
 */
#ifndef CT_FS_MOUNTPOINT_H
#define CT_FS_MOUNTPOINT_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

enum { FS_MAX_READ = 128 * 1024 };

struct fs_mountpoint_opts {
	bool allow_other; /* fusermount3 grants it only with user_allow_other in /etc/fuse.conf */
	uid_t uid;	  /* owner of the mount in the caller's user namespace */
	gid_t gid;
};

/* mount(2) where the caller may, else fusermount3. *ret_fd: non-blocking, close-on-exec. */
int must_use fs_mountpoint_mount(const char *path, const struct fs_mountpoint_opts *o, int *ret_fd, struct err *e);
/* Detaches it; open files go on until they are closed. -EINVAL when nothing of ours is mounted there. */
int must_use fs_mountpoint_umount(const char *path, struct err *e);
/* Is a cloudtaser filesystem mounted exactly there (by /proc/self/mountinfo)? */
bool fs_mountpoint_is_ours(const char *path);

#endif
