/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How it works.
 *
 * One mutex guards the table (cache_table.c). A hit is: lock, look up, reference, move to the front of the LRU list,
 * unlock; it allocates nothing. A miss queues a waiter and the entry, and posts a round to the I/O loop, which starts
 * the fetch. All decisions are made on the loop's thread (cache_run.c), in two places:
 *
 *   round      what time brings: waiters whose deadline is over, entries that are due, queued fetches to start. Run by
 *              one timer a cache, armed for the earliest of all that (a heap), and by whoever queued something.
 *   answered   what the vault brings: the new value or the error, the next due time, waiters, the observer.
 *
 * An entry is due at [0.75, 0.9) of its refresh interval after its last good answer was *asked for*, so that what is
 * served was true at the vault less than one interval ago, as long as the vault answers within the tenth that is left.
 * Entries that will be due soon are taken along with the one that woke the loop; rounds by the clock are at least
 * BATCH_MS apart. Fetches that somebody waits for start at once; background refreshes take one of REFRESH_SLOTS a
 * backend (a backend and not a cache, or one frozen vault would keep the others' secrets from being refreshed).
 *
 * Entries that never had a value are forgotten as soon as their error is no longer remembered, so asking for names
 * that do not exist leaves nothing behind. Entries that had one are asked for until evicted, so that they come back.
 *
 * Callbacks run without the lock. While the loop looks at an entry outside the lock, `held`, `pinned` or the state
 * CACHE_FETCHING keeps it from being evicted; only the loop itself (vault_cache_drop) removes such entries.
 */
#include "vault/cache_internal.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* An entry this late means that the clock jumped (a suspended laptop): do not wait for the timer. */
enum { OVERDUE_MS = 500 };

/* ---- asking ---- */

static void undo_wait(struct vault_cache *c, struct cache_entry *e, struct cache_waiter *w, bool fresh,
		      struct cache_entry **garbage)
{
	link_del(&w->on_clock);
	link_del(&w->on_entry);
	free(w);
	if (fresh)
		cache_remove(c, e, garbage);
}

/* Lock held: adds a waiter to e and sees to it that the loop fetches it. */
static int wait_for(struct vault_cache *c, struct cache_entry *e, const struct cache_waiter *template, uint64_t now,
		    bool fresh, struct cache_entry **garbage, struct err *err)
{
	struct cache_waiter *w = malloc(sizeof *w);
	if (!w) {
		if (fresh)
			cache_remove(c, e, garbage);
		return err_set(err, ENOMEM, "no memory to wait for %s", cache_label(e));
	}
	*w = *template;
	w->entry = e;
	w->deadline = now + c->wait_ms;
	link_add_last(&e->waiters, &w->on_entry);
	link_add_last(&c->clock, &w->on_clock);
	bool start_it = e->state == CACHE_IDLE || e->state == CACHE_REFRESH;
	if (start_it || c->timer_at > w->deadline) {
		int r = cache_kick(c);
		if (r < 0) {
			undo_wait(c, e, w, fresh, garbage);
			return err_sys(err, r, "cannot ask vault %s", e->b->name);
		}
	}
	cache_pin(c, e);
	if (start_it)
		cache_queue(e, CACHE_URGENT);
	cache_schedule(c, e);
	if (fresh)
		cache_trim(c, garbage);
	return 0;
}

static int find_or_add(struct vault_cache *c, enum cache_kind kind, struct vault_backend *b, const char *path,
		       size_t len, uint64_t hash, struct cache_entry **ret, bool *ret_fresh, struct err *e)
{
	*ret_fresh = false;
	*ret = cache_find(c, kind, b, path, len, hash);
	if (*ret)
		return 0;
	if (c->closing)
		return err_set(e, ECANCELED, "the key cache is being closed");
	if (c->n_pinned >= c->max_pinned)
		return err_set(e, ENOMEM, "%zu secrets are being asked for at once: too many", c->n_pinned);
	*ret_fresh = true;
	return cache_add(c, kind, b, path, len, hash, ret, e);
}

static int ask(struct vault_cache *c, enum cache_kind kind, struct vault_backend *b, const char *path, void **ret,
	       const struct cache_waiter *template, struct err *err)
{
	size_t len = strlen(path);
	if (len > VAULT_PATH_MAX)
		return err_set(err, ENAMETOOLONG, "a path of %zu bytes is longer than %d", len, VAULT_PATH_MAX);
	uint64_t hash = cache_hash(c, kind, b, path, len);
	uint64_t now = cache_now();
	struct cache_entry *e, *garbage = NULL;
	bool fresh;

	pthread_mutex_lock(&c->lock);
	int r = find_or_add(c, kind, b, path, len, hash, &e, &fresh, err);
	if (r < 0) {
		pthread_mutex_unlock(&c->lock);
		return r;
	}
	if (e->value && now <= e->expires) {
		cache_touch(c, e);
		*ret = kind == CACHE_SECRET ? (void *)vault_secret_ref(e->secret) :
					      (void *)vault_listing_ref(e->listing);
		c->hits++;
		c->stale_served += e->health == CACHE_STALE;
		/* A failure to post is no failure of this call; the next hit tries again. */
		if (__builtin_expect(e->state == CACHE_IDLE && now > e->due && now - e->due > OVERDUE_MS, 0))
			(void)!cache_kick(c);
		pthread_mutex_unlock(&c->lock);
		return 1;
	}
	if (e->err && now < e->err_until) {
		r = err_set(err, e->err, "%s", e->why ? e->why : strerror(-e->err));
	} else {
		c->misses++;
		r = wait_for(c, e, template, now, fresh, &garbage, err);
	}
	pthread_mutex_unlock(&c->lock);
	cache_garbage_free(garbage);
	return r;
}

int vault_cache_get(struct vault_cache *c, struct vault_backend *b, const char *path, struct vault_secret **ret,
		    vault_get_fn *done, void *arg, struct err *e)
{
	const struct cache_waiter w = { .done.secret = done, .arg = arg };
	void *value = NULL;
	int r = ask(c, CACHE_SECRET, b, path, &value, &w, e);
	if (r == 1)
		*ret = value;
	return r;
}

int vault_cache_list(struct vault_cache *c, struct vault_backend *b, const char *folder, struct vault_listing **ret,
		     vault_listing_fn *done, void *arg, struct err *e)
{
	const struct cache_waiter w = { .done.listing = done, .arg = arg };
	void *value = NULL;
	int r = ask(c, CACHE_LISTING, b, folder, &value, &w, e);
	if (r == 1)
		*ret = value;
	return r;
}

struct vault_secret *vault_cache_peek(struct vault_cache *c, struct vault_backend *b, const char *path)
{
	size_t len = strlen(path);
	uint64_t hash = cache_hash(c, CACHE_SECRET, b, path, len);
	uint64_t now = cache_now();
	SCOPED_LOCK(&c->lock);
	struct cache_entry *e = cache_find(c, CACHE_SECRET, b, path, len, hash);
	return e && e->value && now <= e->expires ? vault_secret_ref(e->secret) : NULL;
}

struct vault_listing *vault_cache_peek_list(struct vault_cache *c, struct vault_backend *b, const char *folder)
{
	size_t len = strlen(folder);
	uint64_t hash = cache_hash(c, CACHE_LISTING, b, folder, len);
	uint64_t now = cache_now();
	SCOPED_LOCK(&c->lock);
	struct cache_entry *e = cache_find(c, CACHE_LISTING, b, folder, len, hash);
	return e && e->value && now <= e->expires ? vault_listing_ref(e->listing) : NULL;
}

bool vault_cache_is_gone(struct vault_cache *c, struct vault_backend *b, const char *path, bool folder)
{
	enum cache_kind kind = folder ? CACHE_LISTING : CACHE_SECRET;
	size_t len = strlen(path);
	uint64_t hash = cache_hash(c, kind, b, path, len);
	SCOPED_LOCK(&c->lock);
	const struct cache_entry *e = cache_find(c, kind, b, path, len, hash);
	return e && e->health == CACHE_GONE;
}

void vault_cache_refresh(struct vault_cache *c, struct vault_backend *b)
{
	SCOPED_LOCK(&c->lock);
	for (struct cache_owner *o = c->owners; o; o = o->next) {
		if (b && o->b != b)
			continue;
		for (struct link *l = o->entries.next; l != &o->entries; l = l->next) {
			struct cache_entry *e = LINK_OF(l, struct cache_entry, siblings);
			e->err_until = 0; /* also errors are asked for again, at the next access */
			if (e->state == CACHE_FETCHING)
				e->again = true; /* what is on its way may have been said before */
			else if (e->state == CACHE_IDLE && e->had && e->health != CACHE_TOO_BIG)
				cache_queue(e, CACHE_REFRESH);
			cache_schedule(c, e);
		}
	}
	(void)!cache_kick(c); /* without memory: they are queued, and go with the next round */
}

void vault_cache_observe(struct vault_cache *c, vault_change_fn *fn, void *arg)
{
	SCOPED_LOCK(&c->lock);
	c->observer = fn;
	c->observer_arg = arg;
}

void vault_cache_get_stats(struct vault_cache *c, struct vault_cache_stats *ret)
{
	uint64_t now = cache_now();
	SCOPED_LOCK(&c->lock);
	*ret = (struct vault_cache_stats){
		.entries = c->n_entries,
		.bytes = c->bytes[CACHE_SECRET],
		.hits = c->hits,
		.misses = c->misses,
		.fetches = c->fetches,
		.fetch_errors = c->fetch_errors,
		.stale_served = c->stale_served,
		.evicted = c->evicted,
	};
	for (struct cache_owner *o = c->owners; o; o = o->next) {
		for (struct link *l = o->entries.next; l != &o->entries; l = l->next) {
			const struct cache_entry *e = LINK_OF(l, struct cache_entry, siblings);
			if (e->value && now > e->good_at && now - e->good_at > ret->oldest_ms)
				ret->oldest_ms = now - e->good_at;
		}
	}
}

/* ---- life and death ---- */

int vault_cache_new(struct io *io, const struct vault_cache_conf *conf, struct vault_cache **ret, struct err *e)
{
	struct vault_cache *c = calloc(1, sizeof *c);
	if (!c)
		return err_set(e, ENOMEM, "no memory for the key cache");
	uint64_t seed[2];
	if (getrandom(seed, sizeof seed, 0) != sizeof seed) {
		free(c);
		return err_set(e, EIO, "getrandom failed");
	}
	struct secmem_stats mem;
	secmem_get_stats(&mem);
	size_t bytes = mem.limit / 2 < (64u << 20) ? mem.limit / 2 : 64u << 20;
	c->io = io;
	c->seed = seed[0];
	c->random = seed[1] | 1;
	c->max_entries = conf && conf->max_entries ? conf->max_entries : 100000;
	c->max_bytes = conf && conf->max_bytes ? conf->max_bytes : bytes;
	c->wait_ms = conf && conf->wait_ms ? conf->wait_ms : 10000;
	c->max_pinned = c->max_entries > 4096 ? c->max_entries : 4096;
	c->n_buckets = 256;
	c->bucket = calloc(c->n_buckets, sizeof *c->bucket);
	if (!c->bucket) {
		free(c);
		return err_set(e, ENOMEM, "no memory for the key cache");
	}
	for (int k = 0; k < CACHE_KINDS; k++)
		link_init(&c->lru[k]);
	link_init(&c->clock);
	c->timer_at = UINT64_MAX;
	/* Held for well under a microsecond: spinning a little is cheaper than sleeping. */
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(&c->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_cond_init(&c->settled, NULL);
	*ret = c;
	return 0;
}

/* Runs fn on the loop whatever it takes; on this thread when there is no loop any more. */
static void call_loop(struct io *io, void (*fn)(void *arg), void *arg)
{
	for (;;) {
		int r = io_call(io, fn, arg);
		if (r == 0)
			return;
		if (r != -ENOMEM) {
			fn(arg);
			return;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
}

struct drop {
	struct vault_cache *c;
	struct cache_owner *own; /* NULL: all of them, for good */
};

static void drop_owner(struct vault_cache *c, struct cache_owner *o, struct link *waiters, struct cache_entry **garbage)
{
	o->dropping = true;
	while (!link_empty(&o->entries)) {
		struct cache_entry *e = LINK_OF(o->entries.next, struct cache_entry, siblings);
		cache_take_waiters(e, waiters);
		cache_remove(c, e, garbage);
	}
}

/* [loop], so that no round and no answer is half-way through with an entry. */
static void drop_on_loop(void *arg)
{
	const struct drop *d = arg;
	struct vault_cache *c = d->c;
	struct cache_entry *garbage = NULL;
	struct link waiters;
	link_init(&waiters);
	pthread_mutex_lock(&c->lock);
	if (!d->own) {
		c->closing = true;
		io_cancel(c->io, c->timer);
		c->timer = NULL;
		c->timer_at = UINT64_MAX;
	}
	for (struct cache_owner *o = c->owners; o; o = o->next)
		if (!d->own || o == d->own)
			drop_owner(c, o, &waiters, &garbage);
	pthread_mutex_unlock(&c->lock);
	while (!link_empty(&waiters)) {
		struct cache_waiter *w = LINK_OF(waiters.next, struct cache_waiter, on_entry);
		link_del(&w->on_entry);
		struct err e;
		err_set(&e, ECANCELED, "vault %s is being closed", w->entry->b->name);
		cache_call_waiter(w, (enum cache_kind)w->entry->kind, -ECANCELED, NULL, &e);
	}
	cache_garbage_free(garbage);
}

static void drop(struct vault_cache *c, struct vault_backend *b, bool close)
{
	pthread_mutex_lock(&c->lock);
	struct cache_owner *o = cache_find_owner(c, b);
	/* Somebody else drops it already: done when they are. */
	while (o && o->dropping) {
		pthread_cond_wait(&c->settled, &c->lock);
		o = cache_find_owner(c, b);
	}
	if (o)
		o->dropping = true;
	pthread_mutex_unlock(&c->lock);
	if (o)
		call_loop(c->io, drop_on_loop, &(struct drop){ .c = c, .own = o });
	if (close)
		vault_backend_close_sync(b);
	if (!o)
		return;

	pthread_mutex_lock(&c->lock);
	while (o->fetching)
		pthread_cond_wait(&c->settled, &c->lock);
	struct cache_owner **at = &c->owners;
	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
	free(o);
	pthread_cond_broadcast(&c->settled);
	pthread_mutex_unlock(&c->lock);
}

void vault_cache_drop(struct vault_cache *c, struct vault_backend *b)
{
	drop(c, b, false);
}

void vault_cache_close(struct vault_cache *c, struct vault_backend *b)
{
	drop(c, b, true);
}

void vault_cache_free(struct vault_cache *c)
{
	if (!c)
		return;
	call_loop(c->io, drop_on_loop, &(struct drop){ .c = c });
	pthread_mutex_lock(&c->lock);
	while (c->fetching || c->posted)
		pthread_cond_wait(&c->settled, &c->lock);
	pthread_mutex_unlock(&c->lock);
	while (c->owners) {
		struct cache_owner *o = c->owners;
		c->owners = o->next;
		free(o);
	}
	free(c->bucket);
	free(c->heap);
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->settled);
	free(c);
}
