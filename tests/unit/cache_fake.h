/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key cache against a scripted backend. It is a fake because these tests are about moments: which answer came
 * before which question, what happens while one is still out, and what the clock said. The fake keeps every question
 * until the test answers it, and the clock stands still until the test moves it. A real vault is asked elsewhere
 * (tests/vault). Shared by test_vault_cache.c (what is served, and how old it may be) and test_vault_cache_life.c
 * (bounds, deadlines, ends).
 */
#ifndef CT_TESTS_CACHE_FAKE_H
#define CT_TESTS_CACHE_FAKE_H

#include "base/secmem.h"
#include "tests/unit/check.h"
#include "vault/cache_internal.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

static struct io *io;
static _Atomic uint64_t fake_now = 1000000;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static inline uint64_t stopped_clock(void)
{
	return atomic_load(&fake_now);
}

/* Waits (lock held) until cond holds; a test that hangs fails instead. */
#define AWAIT(cond) \
	do { \
		struct timespec until_; \
		clock_gettime(CLOCK_REALTIME, &until_); \
		until_.tv_sec += 30; \
		while (!(cond)) \
			CHECK_MSG(pthread_cond_timedwait(&changed, &lock, &until_) == 0, "30 s passed"); \
	} while (0)

/* ---- the fake ---- */

struct question {
	struct question *next;
	bool list;
	char path[64];
	vault_get_fn *got;
	vault_list_fn *listed;
	void *arg;
};

struct fake {
	struct vault_backend b;
	struct question *open;
	unsigned asked, out, most_out;
	bool answers_itself; /* every question at once, with version `version` */
	_Atomic uint64_t version;
};

static inline struct vault_secret *secret(uint64_t version, const char *value)
{
	struct vault_field f = { .name = "v", .name_len = 1, .value = (const uint8_t *)value, .len = strlen(value) };
	struct vault_secret *s;
	CHECK(vault_secret_new(&f, 1, version, 0, &s, NULL) == 0);
	return s;
}

static inline void answer_itself(void *arg)
{
	struct question *q = arg;
	struct vault_secret *s = secret(1, q->path);
	q->got(q->arg, 0, s, NULL);
	vault_secret_unref(s);
	free(q);
}

static inline void ask(struct vault_backend *b, struct question *q, const char *path, void *arg)
{
	struct fake *f = (struct fake *)(void *)b;
	snprintf(q->path, sizeof q->path, "%s", path);
	q->arg = arg;
	pthread_mutex_lock(&lock);
	f->asked++;
	if (f->answers_itself) {
		pthread_mutex_unlock(&lock);
		CHECK(io_post(io, answer_itself, q) == 0);
		return;
	}
	for (struct question *p = f->open; p; p = p->next)
		CHECK_MSG(p->list != q->list || strcmp(p->path, q->path) != 0, "two fetches of %s at once", path);
	q->next = f->open;
	f->open = q;
	if (++f->out > f->most_out)
		f->most_out = f->out;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void fake_get(struct vault_backend *b, const char *path, vault_get_fn *done, void *arg)
{
	struct question *q = calloc(1, sizeof *q);
	CHECK(q);
	q->got = done;
	ask(b, q, path, arg);
}

static inline void fake_list(struct vault_backend *b, const char *folder, vault_list_fn *done, void *arg)
{
	struct question *q = calloc(1, sizeof *q);
	CHECK(q);
	q->list = true;
	q->listed = done;
	ask(b, q, folder, arg);
}

static const struct vault_backend_ops fake_ops = { .kind = "fake", .get = fake_get, .list = fake_list };

static inline void fake_init(struct fake *f, const char *name, unsigned refresh_s, unsigned max_stale_s)
{
	*f = (struct fake){
		.b = { .ops = &fake_ops, .io = io, .name = name, .refresh_s = refresh_s, .max_stale_s = max_stale_s }
	};
}

struct reply {
	struct question *q;
	int r;
	struct vault_secret *s;
	const struct vault_names *names;
	struct err why;
};

static inline void give(void *arg)
{
	struct reply *a = arg;
	if (a->q->list)
		a->q->listed(a->q->arg, a->r, a->names, a->r ? &a->why : NULL);
	else
		a->q->got(a->q->arg, a->r, a->s, a->r ? &a->why : NULL);
}

static inline struct question **find(struct fake *f, const char *path)
{
	for (struct question **q = &f->open; *q; q = &(*q)->next)
		if (!path || strcmp((*q)->path, path) == 0)
			return q;
	return NULL;
}

/* Waits for the question (any when path is NULL) and answers it; returns when the cache has digested the answer. */
static inline void answer(struct fake *f, const char *path, int r, struct vault_secret *s,
			  const struct vault_names *names)
{
	pthread_mutex_lock(&lock);
	AWAIT(find(f, path));
	struct question **at = find(f, path), *q = *at;
	*at = q->next;
	f->out--;
	pthread_mutex_unlock(&lock);
	struct reply a = { .q = q, .r = r, .s = s, .names = names, .why = ERR_INIT };
	if (r < 0)
		err_set(&a.why, r, "scripted failure");
	CHECK(io_call(io, give, &a) == 0);
	free(q);
}

static inline void answer_value(struct fake *f, const char *path, uint64_t version, const char *value)
{
	cleanup_secret struct vault_secret *s = secret(version, value);
	answer(f, path, 0, s, NULL);
}

static inline void answer_error(struct fake *f, const char *path, int r)
{
	answer(f, path, r, NULL, NULL);
}

static inline unsigned asked(struct fake *f)
{
	pthread_mutex_lock(&lock);
	unsigned n = f->asked;
	pthread_mutex_unlock(&lock);
	return n;
}

static inline unsigned out(struct fake *f)
{
	pthread_mutex_lock(&lock);
	unsigned n = f->out;
	pthread_mutex_unlock(&lock);
	return n;
}

/* ---- those who ask ---- */

struct got {
	unsigned calls;
	int r;
	struct vault_secret *s;
	struct vault_listing *l;
	struct err why;
};

static inline void record(struct got *g, int r, const struct err *e)
{
	pthread_mutex_lock(&lock);
	g->calls++;
	g->r = r;
	if (e)
		g->why = *e;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void on_secret(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	struct got *g = arg;
	g->s = s ? vault_secret_ref(s) : NULL;
	record(g, r, e);
}

static inline void on_listing(void *arg, int r, struct vault_listing *l, const struct err *e)
{
	struct got *g = arg;
	g->l = l ? vault_listing_ref(l) : NULL;
	record(g, r, e);
}

static inline void await(struct got *g)
{
	pthread_mutex_lock(&lock);
	AWAIT(g->calls > 0);
	CHECK(g->calls == 1);
	pthread_mutex_unlock(&lock);
}

static inline void got_clear(struct got *g)
{
	vault_secret_unref(g->s);
	vault_listing_unref(g->l);
	*g = (struct got){ 0 };
}

/* The first access: asks, has it answered, and checks that the waiter got it. */
static inline void load(struct vault_cache *c, struct fake *f, const char *path, uint64_t version, const char *value)
{
	struct got g = { 0 };
	struct vault_secret *s = NULL;
	CHECK(vault_cache_get(c, &f->b, path, &s, on_secret, &g, NULL) == 0);
	answer_value(f, path, version, value);
	await(&g);
	CHECK(g.r == 0 && g.s && vault_secret_version(g.s) == version);
	got_clear(&g);
}

/* A hit: the caller owns the result. */
static inline struct vault_secret *hit(struct vault_cache *c, struct fake *f, const char *path)
{
	struct vault_secret *s = NULL;
	struct got g = { 0 };
	int r = vault_cache_get(c, &f->b, path, &s, on_secret, &g, NULL);
	CHECK_MSG(r == 1, "%s: %d instead of a hit", path, r);
	CHECK(g.calls == 0);
	return s;
}

static inline void check_value(struct vault_secret *s, uint64_t version, const char *value)
{
	CHECK(s && vault_secret_version(s) == version);
	const struct vault_field *f = vault_secret_find(s, "v", 1);
	CHECK(f && f->len == strlen(value) && memcmp(f->value, value, f->len) == 0);
}

static inline void check_hit(struct vault_cache *c, struct fake *f, const char *path, uint64_t version,
			     const char *value)
{
	cleanup_secret struct vault_secret *s = hit(c, f, path);
	check_value(s, version, value);
}

static inline bool peeks(struct vault_cache *c, struct fake *f, const char *path)
{
	cleanup_secret struct vault_secret *s = vault_cache_peek(c, &f->b, path);
	return s != NULL;
}

/* Moves the clock and lets the cache do what is due. */
static inline void advance(struct vault_cache *c, uint64_t ms)
{
	atomic_fetch_add(&fake_now, ms);
	vault_cache_test_round(c);
}

/* In steps, so that jitter shows, until the fake is asked again. Returns the milliseconds that took. */
static inline uint64_t advance_until_asked(struct vault_cache *c, struct fake *f, uint64_t limit)
{
	unsigned before = asked(f);
	uint64_t t = 0;
	while (asked(f) == before) {
		CHECK_MSG(t <= limit, "not asked again within %llu ms", (unsigned long long)limit);
		advance(c, 50);
		t += 50;
	}
	return t;
}

struct heard {
	unsigned n;
	int r;
	char path[64];
	struct err why;
};

static inline void on_change(void *arg, struct vault_backend *b, const char *path, int r, const struct err *e)
{
	(void)b;
	struct heard *h = arg;
	pthread_mutex_lock(&lock);
	h->n++;
	h->r = r;
	snprintf(h->path, sizeof h->path, "%s", path);
	h->why = *e;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* Exactly one call since the last look, about this, with this result. */
static inline void check_heard(struct heard *h, const char *path, int r)
{
	pthread_mutex_lock(&lock);
	CHECK_MSG(h->n == 1, "%u calls of the observer", h->n);
	CHECK_MSG(h->r == r, "observer was told %d", h->r);
	CHECK(strcmp(h->path, path) == 0);
	CHECK((r == 0) == (h->why.msg[0] == '\0'));
	h->n = 0;
	pthread_mutex_unlock(&lock);
}

static inline void check_silent(struct heard *h)
{
	pthread_mutex_lock(&lock);
	CHECK_MSG(h->n == 0, "the observer was told %d about %s", h->r, h->path);
	pthread_mutex_unlock(&lock);
}

static inline struct vault_cache *cache(size_t entries, size_t bytes, unsigned wait_ms)
{
	struct vault_cache *c;
	const struct vault_cache_conf conf = { .max_entries = entries, .max_bytes = bytes, .wait_ms = wait_ms };
	struct err e = ERR_INIT;
	CHECK_MSG(vault_cache_new(io, &conf, &c, &e) == 0, "%s", e.msg);
	return c;
}

static inline struct vault_cache_stats stats(struct vault_cache *c)
{
	struct vault_cache_stats s;
	vault_cache_get_stats(c, &s);
	return s;
}

struct test {
	const char *name;
	void (*run)(void);
};

static inline int run_tests(const struct test *tests, size_t n)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);
	CHECK_MSG(io_new(&io, &e) == 0, "%s", e.msg);
	vault_cache_test_clock(stopped_clock);
	for (size_t i = 0; i < n; i++) {
		tests[i].run();
		printf("ok %s\n", tests[i].name);
		fflush(stdout);
	}
	io_free(io);
	return 0;
}

#endif
