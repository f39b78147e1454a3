/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place where plaintext leaves secret memory: writing to /dev/fuse pins the pages that it reads, which fails on
 * secret memory (EFAULT, and the request is consumed). So a reply passes through a bounce buffer: locked, not in cores,
 * not inherited, and wiped up to what was written as soon as it was written.
 *
 * A serving thread has one of its own. All other threads share one: the I/O loop and whoever unmounts answer calls that
 * waited, which is seldom, and never with a value. Buffers are made before there is anything to reply to, since a reply
 * that finds none leaves a reader behind that not even SIGKILL ends.
 */
#ifndef CT_FS_BOUNCE_H
#define CT_FS_BOUNCE_H

#include "base/err.h"

#include <stdint.h>
#include <sys/uio.h>

enum { FS_BOUNCE_MAX = 128 * 1024 }; /* bytes of data in one reply */

uint8_t *fs_bounce_new(void);	 /* NULL: no memory that can be locked */
void fs_bounce_free(uint8_t *b); /* NULL is fine */
/* What this thread writes goes through this buffer of its own; the thread must end before it is freed. */
void fs_bounce_use(uint8_t *b);

/* The one for everybody else: counted. -ENOMEM. */
int must_use fs_bounce_share(void);
void fs_bounce_unshare(void);

/* As writev(2); an error of which libfuse has nothing to tell is ENOENT. */
ssize_t fs_bounce_writev(int fd, const struct iovec *iov, int n);

#endif
