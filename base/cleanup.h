/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locals that own something carry a cleanup attribute; ownership leaves a local only by TAKE_PTR or TAKE_FD.
 *
 *   cleanup_free char *name = strdup(x);
 *   cleanup_close int fd = open(...);
 *   CLEANUP_WITH(thing_freep) struct thing *t = thing_new();      where DEFINE_CLEANUP(thing_free, struct thing *)
 */
#ifndef CT_BASE_CLEANUP_H
#define CT_BASE_CLEANUP_H

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP_WITH(fn) __attribute__((cleanup(fn)))

/* Makes `fn##p(T *)` for a destructor `fn(T)` that takes NULL. */
#define DEFINE_CLEANUP(fn, T) \
	static inline __attribute__((unused)) void fn##p(T *p) \
	{ \
		if (*p) \
			fn(*p); \
	}

static inline __attribute__((unused)) void cleanup_freep(void *p)
{
	void *q;
	__builtin_memcpy(&q, p, sizeof q);
	free(q);
}

static inline __attribute__((unused)) void cleanup_closep(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
}

static inline __attribute__((unused)) void cleanup_unlockp(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

#define cleanup_free CLEANUP_WITH(cleanup_freep)
#define cleanup_close CLEANUP_WITH(cleanup_closep)

#define CT_CAT_(a, b) a##b
#define CT_CAT(a, b) CT_CAT_(a, b)

/* Holds `mutex` until the end of the scope. */
#define SCOPED_LOCK(mutex) \
	CLEANUP_WITH(cleanup_unlockp) pthread_mutex_t *CT_CAT(lock_, __LINE__) = (mutex); \
	pthread_mutex_lock(CT_CAT(lock_, __LINE__))

#define TAKE_PTR(p) \
	({ \
		__typeof__(p) take_ = (p); \
		(p) = NULL; \
		take_; \
	})

#define TAKE_FD(fd) \
	({ \
		int take_ = (fd); \
		(fd) = -1; \
		take_; \
	})

#endif
