/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/bounce.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/secmem.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

enum { BOUNCE_SIZE = FS_BOUNCE_MAX + 4096 }; /* a reply's header and the largest read */

static __thread uint8_t *own;
static struct {
	pthread_mutex_t lock;
	uint8_t *mem;
	unsigned servers;
} shared = { .lock = PTHREAD_MUTEX_INITIALIZER };

void fs_bounce_free(uint8_t *p)
{
	if (p)
		munmap(p, BOUNCE_SIZE);
}

uint8_t *fs_bounce_new(void)
{
	void *p = mmap(NULL, BOUNCE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	if (mlock(p, BOUNCE_SIZE) < 0 || madvise(p, BOUNCE_SIZE, MADV_DONTDUMP) < 0 ||
	    madvise(p, BOUNCE_SIZE, MADV_DONTFORK) < 0) {
		fs_bounce_free(p);
		return NULL;
	}
	return p;
}

int fs_bounce_share(void)
{
	SCOPED_LOCK(&shared.lock);
	if (!shared.mem)
		shared.mem = fs_bounce_new();
	if (!shared.mem)
		return -ENOMEM;
	shared.servers++;
	return 0;
}

void fs_bounce_unshare(void)
{
	SCOPED_LOCK(&shared.lock);
	if (--shared.servers == 0) {
		fs_bounce_free(shared.mem);
		shared.mem = NULL;
	}
}

static ssize_t write_through(uint8_t *b, int fd, const struct iovec *iov, int n)
{
	size_t total = 0;
	for (int i = 0; i < n; i++) {
		if (!b || iov[i].iov_len > BOUNCE_SIZE - total) {
			log_error("fuse: a reply of more than %zu bytes has no bounce buffer", total);
			errno = ENOENT;
			return -1;
		}
		if (iov[i].iov_len)
			memcpy(b + total, iov[i].iov_base, iov[i].iov_len);
		total += iov[i].iov_len;
	}
	ssize_t r;
	do
		r = write(fd, b, total);
	while (r < 0 && errno == EINTR);
	int why = errno;
	mem_wipe(b, total);
	if (r < 0) {
		/* The reader was killed (ENOENT) or the mount is gone: to libfuse the one it is silent about. */
		if (why != ENOENT && why != ENODEV && why != ECONNABORTED)
			log_error("fuse: writing a reply: %s", strerror(why));
		errno = ENOENT;
	}
	return r;
}

void fs_bounce_use(uint8_t *mine)
{
	own = mine;
}

ssize_t fs_bounce_writev(int fd, const struct iovec *iov, int n)
{
	if (own)
		return write_through(own, fd, iov, n);
	SCOPED_LOCK(&shared.lock);
	return write_through(shared.mem, fd, iov, n);
}
