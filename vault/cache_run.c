/* SPDX-License-Identifier: Apache-2.0 */
/* What the I/O loop does for the cache: rounds and answers. How it all works stands at the head of cache.c. */
#include "vault/cache_internal.h"

#include "base/secmem.h"

#include <stdlib.h>
#include <string.h>

enum {
	BATCH_MS = 100,
	REFRESH_SLOTS = 64,
	ERROR_MS = 1000,	/* how long an error is the answer without asking again */
	BACKOFF_MS = 1000,	/* first retry of a refresh: at most this */
	BACKOFF_MAX_MS = 60000, /* any retry: at most this */
	TIMER_MAX_MS = 3600000,
};

static uint64_t (*clock_now)(void) = io_now_ms;

void vault_cache_test_clock(uint64_t (*now)(void))
{
	clock_now = now ? now : io_now_ms;
}

uint64_t cache_now(void)
{
	return clock_now();
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* xorshift64: spreads load, protects nothing. */
static uint64_t random_between(struct vault_cache *c, uint64_t from, uint64_t to)
{
	c->random ^= c->random << 13;
	c->random ^= c->random >> 7;
	c->random ^= c->random << 17;
	return to > from ? from + c->random % (to - from) : from;
}

static uint64_t refresh_ms(const struct cache_entry *e)
{
	return max_u64(e->b->refresh_s, 1) * 1000;
}

const char *cache_label(const struct cache_entry *e)
{
	return e->path_len ? e->path : "the top folder";
}

void cache_call_waiter(struct cache_waiter *w, enum cache_kind kind, int r, void *value, const struct err *e)
{
	if (kind == CACHE_SECRET)
		w->done.secret(w->arg, r, value, e);
	else
		w->done.listing(w->arg, r, value, e);
	free(w);
}

void cache_take_waiters(struct cache_entry *e, struct link *list)
{
	while (!link_empty(&e->waiters)) {
		struct cache_waiter *w = LINK_OF(e->waiters.next, struct cache_waiter, on_entry);
		link_del(&w->on_clock);
		link_del(&w->on_entry);
		link_add_last(list, &w->on_entry);
	}
}

static void observe(struct vault_cache *c, struct cache_entry *e, int r, const struct err *why)
{
	pthread_mutex_lock(&c->lock);
	vault_change_fn *fn = c->observer;
	void *arg = c->observer_arg;
	pthread_mutex_unlock(&c->lock);
	if (fn)
		fn(arg, e->b, e->path, r, why);
}

/* ---- due times ---- */

void cache_schedule(struct vault_cache *c, struct cache_entry *e)
{
	uint64_t wake = UINT64_MAX;
	if (e->state == CACHE_IDLE)
		wake = !e->value && !e->had && e->err ? e->err_until : e->due;
	/* One in flight is left alone: its answer says what becomes of the value, which meanwhile is not served. */
	if (e->value && e->state != CACHE_FETCHING)
		wake = min_u64(wake, e->expires + 1);
	cache_wake_at(c, e, wake);
}

/* How much earlier than asked for an entry may be woken, to come along with others. */
static uint64_t slack(const struct cache_entry *e)
{
	if (e->state != CACHE_IDLE || e->wake != e->due || e->fails)
		return 0;
	return max_u64(BATCH_MS, refresh_ms(e) / 32);
}

static void next_refresh(struct vault_cache *c, struct cache_entry *e, uint64_t now)
{
	uint64_t every = refresh_ms(e);
	/* The floor is for a vault that takes longer to answer than the interval is long. */
	e->due = max_u64(e->started + random_between(c, every * 3 / 4, every * 9 / 10), now + every / 8);
}

/* Full jitter but for a first tenth of a second: entries that fail together come back apart. */
static void next_retry(struct vault_cache *c, struct cache_entry *e, uint64_t now)
{
	uint64_t max = min_u64(BACKOFF_MAX_MS, refresh_ms(e));
	uint64_t upper = min_u64(max, (uint64_t)BACKOFF_MS << (e->fails < 16 ? e->fails : 16));
	e->fails++;
	e->due = now + random_between(c, BATCH_MS, upper);
}

void cache_queue(struct cache_entry *e, enum cache_state state)
{
	link_del(&e->queue);
	e->state = (uint8_t)state;
	link_add_last(state == CACHE_URGENT ? &e->own->urgent : &e->own->refresh, &e->queue);
}

/* ---- errors and what the observer hears ---- */

static void remember(struct cache_entry *e, int code, const char *why, uint64_t until)
{
	/* A copy first: `why` may be the sentence that is being replaced. */
	char *copy = why ? strdup(why) : NULL;
	free(e->why);
	e->why = copy;
	e->err = code;
	e->err_until = until;
}

static void forget_error(struct cache_entry *e)
{
	free(e->why);
	e->why = NULL;
	e->err = 0;
	e->err_until = 0;
}

static void error_of(const struct cache_entry *e, struct err *ret)
{
	*ret = (struct err)ERR_INIT;
	if (e->err)
		err_set(ret, e->err, "%s", e->why ? e->why : strerror(-e->err));
}

/* The value became too old while the vault could not be asked. Returns it, for the caller to unref. */
static void *expire(struct vault_cache *c, struct cache_entry *e, uint64_t now)
{
	struct err why;
	err_set(&why, EAGAIN, "%s of vault %s is %llu s old, which max_stale forbids, and cannot be had again: %s",
		cache_label(e), e->b->name, (unsigned long long)((now - e->good_at) / 1000),
		e->why ? e->why : "the vault has not answered");
	remember(e, -EAGAIN, why.msg, e->err_until);
	return cache_swap_value(c, e, NULL, 0);
}

/* ---- rounds ---- */

static void round_by_clock(void *arg);

/* An armed timer that is too early is left alone: it fires once for nothing, which is less work than moving it. */
static void arm(struct vault_cache *c, uint64_t now)
{
	uint64_t at = UINT64_MAX;
	if (c->n_heap)
		at = max_u64(c->heap[0]->wake, c->walked_at + BATCH_MS);
	if (!link_empty(&c->clock))
		at = min_u64(at, LINK_OF(c->clock.next, struct cache_waiter, on_clock)->deadline);
	if (at >= c->timer_at || c->closing)
		return;
	io_cancel(c->io, c->timer);
	uint64_t ms = at > now ? at - now : 1;
	/* Without memory for a timer the next hit finds its entry overdue, and the next miss its deadline unarmed. */
	c->timer = io_after(c->io, (unsigned)min_u64(ms, TIMER_MAX_MS), round_by_clock, c);
	c->timer_at = c->timer ? at : UINT64_MAX;
}

/* For ERROR_MS the wait's end is the answer: who comes behind a waiter does not wait all over again. */
static void remember_late(struct vault_cache *c, struct cache_entry *e, uint64_t now)
{
	struct err why;
	if (e->err_until > now)
		return;
	err_set(&why, ETIMEDOUT, "vault %s has not answered about %s within %u ms", e->b->name, cache_label(e),
		c->wait_ms);
	remember(e, -ETIMEDOUT, why.msg, now + ERROR_MS);
}

/* A waiter may be told a little early, so that many are told at once. */
static void take_late_waiters(struct vault_cache *c, uint64_t now, struct link *late)
{
	uint64_t limit = now + min_u64(BATCH_MS, c->wait_ms / 10);
	while (!link_empty(&c->clock)) {
		struct cache_waiter *w = LINK_OF(c->clock.next, struct cache_waiter, on_clock);
		if (w->deadline > limit)
			return;
		remember_late(c, w->entry, now);
		link_del(&w->on_clock);
		link_del(&w->on_entry);
		link_add_last(late, &w->on_clock);
	}
}

static void walk_due(struct vault_cache *c, uint64_t now, struct link *tell, struct cache_entry **garbage)
{
	while (c->n_heap && c->heap[0]->wake <= now + slack(c->heap[0])) {
		struct cache_entry *e = c->heap[0];
		if (e->value && now > e->expires) {
			void *old = expire(c, e, now);
			/* Usually the last reference: wiping a small secret is worth no list of garbage. */
			cache_value_unref((enum cache_kind)e->kind, old);
			e->health = CACHE_EXPIRED;
			e->held = true;
			link_add_last(tell, &e->tell);
		}
		if (e->state == CACHE_IDLE && !e->value && !e->had && e->err) {
			cache_remove(c, e, garbage);
			continue;
		}
		if (e->state == CACHE_IDLE && e->due <= now + slack(e))
			cache_queue(e, CACHE_REFRESH);
		cache_schedule(c, e);
	}
}

static void start(struct vault_cache *c, struct cache_entry *e, uint64_t now, bool background, struct link *list)
{
	link_del(&e->queue);
	link_add_last(list, &e->queue);
	e->state = CACHE_FETCHING;
	e->started = now;
	e->background = background;
	e->again = false;
	e->own->fetching++;
	e->own->refreshing += background;
	c->fetching++;
	c->fetches++;
	cache_schedule(c, e);
}

static void start_queued(struct vault_cache *c, uint64_t now, struct link *list)
{
	for (struct cache_owner *o = c->owners; o; o = o->next) {
		while (!link_empty(&o->urgent))
			start(c, LINK_OF(o->urgent.next, struct cache_entry, queue), now, false, list);
		while (!link_empty(&o->refresh) && o->refreshing < REFRESH_SLOTS)
			start(c, LINK_OF(o->refresh.next, struct cache_entry, queue), now, true, list);
	}
}

static void got_secret(void *arg, int r, struct vault_secret *s, const struct err *e);
static void got_names(void *arg, int r, const struct vault_names *names, const struct err *e);

void cache_round(struct vault_cache *c)
{
	struct link late, tell, fetch;
	link_init(&late);
	link_init(&tell);
	link_init(&fetch);
	struct cache_entry *garbage = NULL;

	pthread_mutex_lock(&c->lock);
	uint64_t now = cache_now();
	take_late_waiters(c, now, &late);
	walk_due(c, now, &tell, &garbage);
	c->walked_at = now;
	start_queued(c, now, &fetch);
	arm(c, now);
	pthread_mutex_unlock(&c->lock);
	cache_garbage_free(garbage);

	struct err e;
	while (!link_empty(&late)) {
		struct cache_waiter *w = LINK_OF(late.next, struct cache_waiter, on_clock);
		link_del(&w->on_clock);
		err_set(&e, ETIMEDOUT, "vault %s has not answered about %s within %u ms", w->entry->b->name,
			cache_label(w->entry), c->wait_ms);
		cache_call_waiter(w, (enum cache_kind)w->entry->kind, -ETIMEDOUT, NULL, &e);
	}
	while (!link_empty(&fetch)) {
		struct cache_entry *f = LINK_OF(fetch.next, struct cache_entry, queue);
		link_del(&f->queue);
		if (f->kind == CACHE_SECRET)
			f->b->ops->get(f->b, f->path, got_secret, f);
		else
			f->b->ops->list(f->b, f->path, got_names, f);
	}
	while (!link_empty(&tell)) {
		struct cache_entry *t = LINK_OF(tell.next, struct cache_entry, tell);
		link_del(&t->tell);
		error_of(t, &e);
		observe(c, t, -EAGAIN, &e);
		pthread_mutex_lock(&c->lock);
		t->held = false;
		pthread_mutex_unlock(&c->lock);
	}
}

static void round_by_clock(void *arg)
{
	struct vault_cache *c = arg;
	pthread_mutex_lock(&c->lock);
	c->timer = NULL;
	c->timer_at = UINT64_MAX;
	pthread_mutex_unlock(&c->lock);
	cache_round(c);
}

static void round_posted(void *arg)
{
	struct vault_cache *c = arg;
	pthread_mutex_lock(&c->lock);
	c->posted = false;
	bool closing = c->closing;
	if (closing)
		pthread_cond_broadcast(&c->settled);
	pthread_mutex_unlock(&c->lock); /* when closing, c may be gone now */
	if (!closing)
		cache_round(c);
}

int cache_kick(struct vault_cache *c)
{
	if (c->posted)
		return 0;
	int r = io_post(c->io, round_posted, c);
	if (r == 0)
		c->posted = true;
	return r;
}

/* ---- answers ---- */

struct verdict {
	bool tell;
	int r;
	void *unref; /* the value that went */
};

static struct verdict good(struct vault_cache *c, struct cache_entry *e, void *value, size_t cost, bool same,
			   uint64_t now)
{
	struct verdict v = { .tell = !same || e->health == CACHE_STALE, .r = 0 };
	forget_error(e);
	e->fails = 0;
	e->good_at = e->started;
	e->expires = e->started + max_u64((uint64_t)e->b->max_stale_s * 1000, refresh_ms(e));
	next_refresh(c, e, now);
	if (cost > (e->kind == CACHE_SECRET ? c->max_bytes : CACHE_LISTING_BYTES)) {
		v = (struct verdict){ .tell = e->health != CACHE_TOO_BIG, .r = -E2BIG };
		v.unref = cache_swap_value(c, e, NULL, 0);
		cache_value_unref((enum cache_kind)e->kind, value); /* not the last one: the waiters' is still there */
		e->health = CACHE_TOO_BIG;
		e->due = UINT64_MAX; /* asked for at every access, so never in between */
		return v;
	}
	e->health = CACHE_GOOD;
	e->had = true;
	if (same)
		v.unref = value; /* the old object stays: the same pointer means the same secret */
	else
		v.unref = cache_swap_value(c, e, value, cost);
	return v;
}

/* The vault's word that there is nothing for us. */
static struct verdict gone(struct vault_cache *c, struct cache_entry *e, int r, const struct err *why, uint64_t now)
{
	enum cache_health health = r == -ENOENT ? CACHE_GONE : CACHE_DENIED;
	struct verdict v = { .tell = e->had && e->health != health, .r = r };
	v.unref = cache_swap_value(c, e, NULL, 0);
	e->health = (uint8_t)health;
	e->fails = 0;
	remember(e, r, err_msg(why, r), now + ERROR_MS);
	e->due = UINT64_MAX;
	if (e->had)
		next_refresh(c, e, now);
	return v;
}

/* No answer. */
static struct verdict failed(struct vault_cache *c, struct cache_entry *e, int r, const struct err *why, uint64_t now)
{
	struct verdict v = { .r = r };
	c->fetch_errors++;
	remember(e, r, err_msg(why, r), now + ERROR_MS);
	e->due = UINT64_MAX;
	if (e->had)
		next_retry(c, e, now);
	if (e->value && now > e->expires) {
		v.unref = expire(c, e, now);
		v.r = -EAGAIN;
	}
	enum cache_health health = e->value ? CACHE_STALE : CACHE_EXPIRED;
	v.tell = e->had && e->health != health;
	e->health = (uint8_t)health;
	return v;
}

/* [loop] `value` is owned, NULL unless r == 0. `same`: it equals e->value. */
static void answered(struct cache_entry *e, int r, void *value, size_t cost, bool same, const struct err *why)
{
	struct vault_cache *c = e->c;
	enum cache_kind kind = (enum cache_kind)e->kind;
	struct cache_entry *garbage = NULL;
	struct link waiters;
	link_init(&waiters);

	pthread_mutex_lock(&c->lock);
	c->fetching--;
	e->own->fetching--;
	e->own->refreshing -= e->background;
	if (e->dead) {
		pthread_cond_broadcast(&c->settled);
		pthread_mutex_unlock(&c->lock); /* c and its owner may be gone now */
		e->hash_next = NULL;
		cache_garbage_free(e);
		cache_value_unref(kind, value);
		return;
	}
	uint64_t now = cache_now();
	e->state = CACHE_IDLE;
	struct verdict v;
	void *out = NULL;
	if (r == 0) {
		out = same ? e->value : value;
		out = kind == CACHE_SECRET ? (void *)vault_secret_ref(out) : (void *)vault_listing_ref(out);
		v = good(c, e, value, cost, same, now);
	} else if (r == -ENOENT || r == -EACCES) {
		v = gone(c, e, r, why, now);
	} else {
		v = failed(c, e, r, why, now);
	}
	struct err said;
	if (v.r == -E2BIG)
		err_set(&said, E2BIG,
			"%s of vault %s (%zu bytes) is larger than the key cache (%zu bytes): it is asked for at every "
			"access; raise cache.max_bytes",
			cache_label(e), e->b->name, cost, c->max_bytes);
	else
		error_of(e, &said);
	cache_take_waiters(e, &waiters);
	cache_unpin(c, e);
	if (e->again && e->had)
		cache_queue(e, CACHE_REFRESH);
	e->again = false;
	cache_schedule(c, e);
	e->held = true;
	cache_trim(c, &garbage);
	pthread_mutex_unlock(&c->lock);

	cache_value_unref(kind, v.unref);
	cache_garbage_free(garbage);
	/* Waiters before the observer: an observer may wait for somebody who waits for one of them. */
	int answer = r < 0 && v.r < 0 ? v.r : r;
	while (!link_empty(&waiters)) {
		struct cache_waiter *w = LINK_OF(waiters.next, struct cache_waiter, on_entry);
		link_del(&w->on_entry);
		cache_call_waiter(w, kind, answer, out, &said);
	}
	cache_value_unref(kind, out);
	if (v.tell)
		observe(c, e, v.r, &said);
	pthread_mutex_lock(&c->lock);
	e->held = false;
	pthread_mutex_unlock(&c->lock);
	cache_round(c);
}

static bool secret_equal(const struct vault_secret *a, const struct vault_secret *b)
{
	if (vault_secret_version(a) != vault_secret_version(b) || vault_secret_count(a) != vault_secret_count(b))
		return false;
	for (size_t i = 0; i < vault_secret_count(a); i++) {
		const struct vault_field *f = vault_secret_at(a, i), *g = vault_secret_at(b, i);
		if (f->name_len != g->name_len || f->len != g->len || memcmp(f->name, g->name, f->name_len) != 0 ||
		    !mem_equal(f->value, g->value, f->len))
			return false;
	}
	return true;
}

/* Reading e->value without the lock: see the head of this file. */
static void got_secret(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	struct cache_entry *entry = arg;
	if (r < 0) {
		answered(entry, r, NULL, 0, false, e);
		return;
	}
	bool same = entry->secret && secret_equal(entry->secret, s);
	answered(entry, 0, vault_secret_ref(s), vault_secret_bytes(s), same, NULL);
}

static void got_names(void *arg, int r, const struct vault_names *names, const struct err *e)
{
	struct cache_entry *entry = arg;
	if (r < 0) {
		answered(entry, r, NULL, 0, false, e);
		return;
	}
	bool same = entry->listing && cache_listing_equal(entry->listing, names);
	struct vault_listing *l = same ? vault_listing_ref(entry->listing) :
					 cache_listing_new(names, entry->c->serial + 1);
	if (!l) {
		struct err none;
		err_set(&none, ENOMEM, "no memory for the names below %s", cache_label(entry));
		answered(entry, -ENOMEM, NULL, 0, false, &none);
		return;
	}
	if (!same)
		entry->c->serial++; /* [loop] alone */
	answered(entry, 0, l, cache_listing_cost(l), same, NULL);
}

static void round_for_test(void *arg)
{
	cache_round(arg);
}

void vault_cache_test_round(struct vault_cache *c)
{
	/* A test has memory, and a loop. */
	if (io_call(c->io, round_for_test, c) < 0)
		abort();
}
