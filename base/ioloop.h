/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What base/io.c offers to the other files of base beyond http.h: descriptors to watch, and a word at the loop's end.
 * Everything here is [loop] only.
 */
#ifndef CT_BASE_IOLOOP_H
#define CT_BASE_IOLOOP_H

#include "base/http.h"

struct io_watch;

/* Calls fn(arg, events) whenever `fd` has one of the epoll(7) `events`, until io_unwatch. NULL with errno. */
struct io_watch *io_watch(struct io *io, int fd, uint32_t events, void (*fn)(void *arg, uint32_t events), void *arg);
int must_use io_watch_events(struct io *io, struct io_watch *w, uint32_t events);
void io_unwatch(struct io *io, struct io_watch *w); /* NULL is fine; before or after the descriptor is closed */

/* Called once when io_free has begun, unless removed before. The owner keeps the structure. */
struct io_end {
	void (*fn)(void *arg);
	void *arg;
	struct io_end *next, **link; /* private */
};
void io_on_end(struct io *io, struct io_end *end);
void io_on_end_remove(struct io_end *end);

bool io_is_loop(const struct io *io); /* [any thread] is this the loop's thread? */
bool io_is_ending(const struct io *io);

#endif
