/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A root of one's own: for `shell` and `run`, a mount namespace (for users without rights inside a user namespace of
 * their own) whose root shows everything that was there, and /secrets besides.
 *
 * A user cannot create /secrets, and fusermount3 serves only mount points that the user owns; so the new root is a
 * tmpfs that holds recursive binds of every entry of the old one, plus the mount point, and pivot_root makes it the
 * root. FUSE is mounted from inside (the kernel wants /dev/fuse opened in the mount's user namespace); the descriptor
 * goes to the server outside. Source: user_namespaces(7), pivot_root(2).
 */
#ifndef CT_FS_NSROOT_H
#define CT_FS_NSROOT_H

#include "base/err.h"

/*
 * Runs in the forked child that will become the session (single-threaded; it holds no secret memory). Unshares, builds
 * the root with `mountpoint` (absolute), mounts FUSE there and returns its descriptor for the server; changes back to
 * the working directory the caller had. The current uid and gid stay what they are; nothing else is mapped.
 */
int must_use fs_nsroot_enter(const char *mountpoint, int *ret_fuse_fd, struct err *e);

#endif
