/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O loop: epoll for descriptors, a binary heap for timers, a queue behind an eventfd for calls from other
 * threads. One pass of the loop takes a snapshot of each (events, posted calls, timers that are due) and works it off,
 * so that none of the three can starve the others. Nothing here ticks: an idle loop sleeps until its next timer.
 *
 * A watch may be taken away by a callback that runs before it in the same snapshot; it is marked dead and freed when
 * the snapshot has been worked off.
 */
#include "base/ioloop.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

enum { EVENTS_MAX = 64, TIMEOUT_MAX_MS = 24 * 3600 * 1000 };

struct io_call {
	struct io_call *next;
	void (*fn)(void *arg);
	void *arg;
};

struct io_timer {
	uint64_t at, seq;
	size_t index;
	void (*fn)(void *arg);
	void *arg;
};

struct io_watch {
	struct io_watch *next_dead;
	int fd;
	bool dead;
	void (*fn)(void *arg, uint32_t events);
	void *arg;
};

struct io {
	int epfd, evfd;
	struct secthread *thread;
	pthread_t self;

	pthread_mutex_t lock; /* posted, tail, closed */
	struct io_call *posted, **tail;
	bool closed; /* no more calls are taken */

	/* the loop's own */
	bool ending;
	struct io_timer **heap;
	size_t n_timers, room;
	uint64_t seq;
	struct io_watch *dead;
	struct io_end *ends;
};

uint64_t io_now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

bool io_is_loop(const struct io *io)
{
	return pthread_equal(io->self, pthread_self());
}

bool io_is_ending(const struct io *io)
{
	return io->ending;
}

/* --- calls from other threads */

static void wake(struct io *io)
{
	uint64_t one = 1;
	ssize_t n;
	do {
		n = write(io->evfd, &one, sizeof one);
	} while (n < 0 && errno == EINTR);
	/* EAGAIN: the counter is full, so the loop is about to wake anyway */
}

int io_post(struct io *io, void (*fn)(void *arg), void *arg)
{
	struct io_call *c = malloc(sizeof *c);
	if (!c)
		return -ENOMEM;
	*c = (struct io_call){ .fn = fn, .arg = arg };
	bool first;
	{
		SCOPED_LOCK(&io->lock);
		if (io->closed) {
			free(c);
			return -ESHUTDOWN;
		}
		first = !io->posted;
		*io->tail = c;
		io->tail = &c->next;
	}
	if (first)
		wake(io);
	return 0;
}

struct waited {
	void (*fn)(void *arg);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
};

static void run_waited(void *arg)
{
	struct waited *w = arg;
	w->fn(w->arg);
	SCOPED_LOCK(&w->lock);
	w->done = true;
	pthread_cond_signal(&w->cond);
}

int io_call(struct io *io, void (*fn)(void *arg), void *arg)
{
	if (io_is_loop(io))
		return -EDEADLK;
	struct waited w = { .fn = fn, .arg = arg, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
	int r = io_post(io, run_waited, &w);
	if (r < 0)
		return r;
	pthread_mutex_lock(&w.lock);
	while (!w.done)
		pthread_cond_wait(&w.cond, &w.lock);
	pthread_mutex_unlock(&w.lock);
	pthread_mutex_destroy(&w.lock);
	pthread_cond_destroy(&w.cond);
	return 0;
}

static void run_posted(struct io *io)
{
	struct io_call *c;
	{
		SCOPED_LOCK(&io->lock);
		c = io->posted;
		io->posted = NULL;
		io->tail = &io->posted;
	}
	while (c) {
		struct io_call *next = c->next;
		c->fn(c->arg);
		free(c);
		c = next;
	}
}

/* --- timers */

static bool earlier(const struct io_timer *a, const struct io_timer *b)
{
	return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void place(struct io *io, size_t i, struct io_timer *t)
{
	io->heap[i] = t;
	t->index = i;
}

static void sift(struct io *io, struct io_timer *t, size_t i)
{
	while (i > 0 && earlier(t, io->heap[(i - 1) / 2])) {
		place(io, i, io->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (;;) {
		size_t child = 2 * i + 1;
		if (child + 1 < io->n_timers && earlier(io->heap[child + 1], io->heap[child]))
			child++;
		if (child >= io->n_timers || !earlier(io->heap[child], t))
			break;
		place(io, i, io->heap[child]);
		i = child;
	}
	place(io, i, t);
}

static void timer_remove(struct io *io, struct io_timer *t)
{
	size_t i = t->index;
	struct io_timer *last = io->heap[--io->n_timers];
	if (last != t)
		sift(io, last, i);
}

struct io_timer *io_after(struct io *io, unsigned ms, void (*fn)(void *arg), void *arg)
{
	if (io->ending)
		return NULL;
	if (io->n_timers == io->room) {
		size_t room = io->room ? 2 * io->room : 64;
		struct io_timer **heap = realloc(io->heap, room * sizeof(struct io_timer *));
		if (!heap)
			return NULL;
		io->heap = heap;
		io->room = room;
	}
	struct io_timer *t = malloc(sizeof *t);
	if (!t)
		return NULL;
	*t = (struct io_timer){ .at = io_now_ms() + ms, .seq = io->seq++, .fn = fn, .arg = arg };
	sift(io, t, io->n_timers++);
	return t;
}

void io_cancel(struct io *io, struct io_timer *t)
{
	if (!t || io->ending) /* when the loop ends it frees them all */
		return;
	timer_remove(io, t);
	free(t);
}

static void run_timers(struct io *io)
{
	uint64_t now = io_now_ms(), seq = io->seq;
	while (io->n_timers > 0) {
		struct io_timer *t = io->heap[0];
		if (t->at > now || t->seq >= seq)
			break;
		timer_remove(io, t);
		void (*fn)(void *) = t->fn;
		void *arg = t->arg;
		free(t);
		fn(arg);
	}
}

static int next_timeout(const struct io *io)
{
	if (io->n_timers == 0)
		return -1;
	uint64_t now = io_now_ms(), at = io->heap[0]->at;
	if (at <= now)
		return 0;
	return at - now > TIMEOUT_MAX_MS ? TIMEOUT_MAX_MS : (int)(at - now);
}

/* --- descriptors */

struct io_watch *io_watch(struct io *io, int fd, uint32_t events, void (*fn)(void *arg, uint32_t events), void *arg)
{
	struct io_watch *w = calloc(1, sizeof *w);
	if (!w)
		return NULL;
	w->fd = fd;
	w->fn = fn;
	w->arg = arg;
	int r = io_watch_events(io, w, events);
	if (r < 0) {
		free(w);
		errno = -r;
		return NULL;
	}
	return w;
}

int io_watch_events(struct io *io, struct io_watch *w, uint32_t events)
{
	/* A descriptor closed behind our back has left epoll by itself, and its number may have come back. */
	struct epoll_event ev = { .events = events, .data.ptr = w };
	if (epoll_ctl(io->epfd, EPOLL_CTL_MOD, w->fd, &ev) == 0)
		return 0;
	if (errno == ENOENT && epoll_ctl(io->epfd, EPOLL_CTL_ADD, w->fd, &ev) == 0)
		return 0;
	return -errno;
}

void io_unwatch(struct io *io, struct io_watch *w)
{
	if (!w)
		return;
	(void)epoll_ctl(io->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	w->dead = true;
	w->next_dead = io->dead;
	io->dead = w;
}

static void bury(struct io *io)
{
	while (io->dead) {
		struct io_watch *w = io->dead;
		io->dead = w->next_dead;
		free(w);
	}
}

static void on_wake(struct io *io)
{
	uint64_t n;
	while (read(io->evfd, &n, sizeof n) < 0 && errno == EINTR)
		;
	run_posted(io);
}

/* --- the end */

void io_on_end(struct io *io, struct io_end *end)
{
	end->next = io->ends;
	end->link = &io->ends;
	if (end->next)
		end->next->link = &end->next;
	io->ends = end;
}

void io_on_end_remove(struct io_end *end)
{
	if (!end->link)
		return;
	*end->link = end->next;
	if (end->next)
		end->next->link = end->link;
	end->link = NULL;
}

static bool is_closed(struct io *io)
{
	SCOPED_LOCK(&io->lock);
	return io->closed;
}

static void *loop(void *arg)
{
	struct io *io = arg;
	io->self = pthread_self();
	run_posted(io); /* io_new waits for the first one */
	while (!is_closed(io)) {
		struct epoll_event ev[EVENTS_MAX];
		int n = epoll_wait(io->epfd, ev, EVENTS_MAX, next_timeout(io));
		for (int i = 0; i < n; i++) {
			struct io_watch *w = ev[i].data.ptr;
			if (!w)
				on_wake(io);
			else if (!w->dead)
				w->fn(w->arg, ev[i].events);
		}
		run_timers(io);
		bury(io);
	}
	/* Calls taken before the end are still run: somebody may wait in io_call. */
	run_posted(io);
	while (io->ends) {
		struct io_end *end = io->ends;
		io_on_end_remove(end);
		end->fn(end->arg);
	}
	io->ending = true;
	for (size_t i = 0; i < io->n_timers; i++)
		free(io->heap[i]);
	io->n_timers = 0;
	bury(io);
	return NULL;
}

static void nothing(void *arg)
{
	(void)arg;
}

static void io_destroy(struct io *io)
{
	if (io->epfd >= 0)
		close(io->epfd);
	if (io->evfd >= 0)
		close(io->evfd);
	pthread_mutex_destroy(&io->lock);
	free(io->heap);
	free(io);
}
DEFINE_CLEANUP(io_destroy, struct io *)

int io_new(struct io **ret, struct err *e)
{
	CLEANUP_WITH(io_destroyp) struct io *io = calloc(1, sizeof *io);
	if (!io)
		return err_set(e, ENOMEM, "out of memory");
	pthread_mutex_init(&io->lock, NULL);
	io->tail = &io->posted;
	io->evfd = -1;
	io->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (io->epfd < 0)
		return err_sys(e, errno, "cannot make an epoll descriptor");
	io->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct epoll_event ev = { .events = EPOLLIN };
	if (io->evfd < 0 || epoll_ctl(io->epfd, EPOLL_CTL_ADD, io->evfd, &ev) < 0)
		return err_sys(e, errno, "cannot make an event descriptor");
	/* Waiting for a first call makes io->self valid for io_is_loop before anybody can ask. */
	struct waited first = { .fn = nothing, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
	int r = io_post(io, run_waited, &first);
	if (r < 0)
		return err_set(e, -r, "out of memory");
	r = secthread_start("ct-io", loop, io, 0, &io->thread, e);
	if (r < 0) {
		free(io->posted);
		return r;
	}
	pthread_mutex_lock(&first.lock);
	while (!first.done)
		pthread_cond_wait(&first.cond, &first.lock);
	pthread_mutex_unlock(&first.lock);
	*ret = TAKE_PTR(io);
	return 0;
}

void io_free(struct io *io)
{
	if (!io)
		return;
	{
		SCOPED_LOCK(&io->lock);
		io->closed = true;
	}
	wake(io);
	secthread_join(io->thread);
	io_destroy(io);
}
