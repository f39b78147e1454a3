/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The FUSE device: serving threads shared by all mounts. Replies go through fs/bounce.h.
 *
 * Source: Documentation/filesystems/fuse/fuse-io.rst, libfuse fuse_lowlevel.h (fuse_session_custom_io).
 */
#ifndef CT_FS_DEVICE_H
#define CT_FS_DEVICE_H

#include "base/err.h"

#include <fuse_lowlevel.h>
#include <stdint.h>

struct fs_server;
struct fs_device;

/* threads 0: by the number of processors (device.c says why so few). */
int must_use fs_server_new(unsigned threads, struct fs_server **ret, struct err *e);
void fs_server_free(struct fs_server *s); /* NULL is fine; all devices must be freed before */
unsigned fs_server_threads(const struct fs_server *s);

/*
 * Serves a mounted, non-blocking /dev/fuse descriptor (ours from here on, also on error) with `ops`, called with
 * `userdata` on any serving thread. Returns when the kernel's INIT has been answered. `gone(userdata)` is called once,
 * on a serving thread, when the mount was taken away by somebody else.
 */
int must_use fs_device_new(struct fs_server *s, int fd, const struct fuse_lowlevel_ops *ops, size_t ops_size,
			   void (*gone)(void *userdata), void *userdata, struct fs_device **ret, struct err *e);
/* Stops: no thread is in one of its operations any more when this returns. Requests that were kept are dead: reply to
 * them before fs_device_free. */
void fs_device_stop(struct fs_device *d);
void fs_device_free(struct fs_device *d); /* stops, closes the descriptor, frees; NULL is fine */

/*
 * Has the kernel forget the pages it may have cached of a file: a private mapping of a direct_io file goes through the
 * page cache. Returns at once; done by a thread of its own.
 */
void fs_device_drop_pages(struct fs_device *d, uint64_t ino);

struct fs_device_stats {
	uint64_t requests, spins, sleeps;
};
void fs_server_get_stats(const struct fs_server *s, struct fs_device_stats *ret);

#endif
