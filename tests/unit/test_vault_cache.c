/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key cache against a scripted backend. It is a fake because these tests are about moments: which answer came
 * before which question, what happens while one is still out, and what the clock said. The fake keeps every question
 * until the test answers it, and the clock stands still until the test moves it. A real vault is asked elsewhere
 * (tests/vault).
 */
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

static uint64_t stopped_clock(void)
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

static struct vault_secret *secret(uint64_t version, const char *value)
{
	struct vault_field f = { .name = "v", .name_len = 1, .value = (const uint8_t *)value, .len = strlen(value) };
	struct vault_secret *s;
	CHECK(vault_secret_new(&f, 1, version, 0, &s, NULL) == 0);
	return s;
}

static void answer_itself(void *arg)
{
	struct question *q = arg;
	struct vault_secret *s = secret(1, q->path);
	q->got(q->arg, 0, s, NULL);
	vault_secret_unref(s);
	free(q);
}

static void ask(struct vault_backend *b, struct question *q, const char *path, void *arg)
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

static void fake_get(struct vault_backend *b, const char *path, vault_get_fn *done, void *arg)
{
	struct question *q = calloc(1, sizeof *q);
	CHECK(q);
	q->got = done;
	ask(b, q, path, arg);
}

static void fake_list(struct vault_backend *b, const char *folder, vault_list_fn *done, void *arg)
{
	struct question *q = calloc(1, sizeof *q);
	CHECK(q);
	q->list = true;
	q->listed = done;
	ask(b, q, folder, arg);
}

static const struct vault_backend_ops fake_ops = { .kind = "fake", .get = fake_get, .list = fake_list };

static void fake_init(struct fake *f, const char *name, unsigned refresh_s, unsigned max_stale_s)
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

static void give(void *arg)
{
	struct reply *a = arg;
	if (a->q->list)
		a->q->listed(a->q->arg, a->r, a->names, a->r ? &a->why : NULL);
	else
		a->q->got(a->q->arg, a->r, a->s, a->r ? &a->why : NULL);
}

static struct question **find(struct fake *f, const char *path)
{
	for (struct question **q = &f->open; *q; q = &(*q)->next)
		if (!path || strcmp((*q)->path, path) == 0)
			return q;
	return NULL;
}

/* Waits for the question (any when path is NULL) and answers it; returns when the cache has digested the answer. */
static void answer(struct fake *f, const char *path, int r, struct vault_secret *s, const struct vault_names *names)
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

static void answer_value(struct fake *f, const char *path, uint64_t version, const char *value)
{
	cleanup_secret struct vault_secret *s = secret(version, value);
	answer(f, path, 0, s, NULL);
}

static void answer_error(struct fake *f, const char *path, int r)
{
	answer(f, path, r, NULL, NULL);
}

static unsigned asked(struct fake *f)
{
	pthread_mutex_lock(&lock);
	unsigned n = f->asked;
	pthread_mutex_unlock(&lock);
	return n;
}

static unsigned out(struct fake *f)
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

static void record(struct got *g, int r, const struct err *e)
{
	pthread_mutex_lock(&lock);
	g->calls++;
	g->r = r;
	if (e)
		g->why = *e;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void on_secret(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	struct got *g = arg;
	g->s = s ? vault_secret_ref(s) : NULL;
	record(g, r, e);
}

static void on_listing(void *arg, int r, struct vault_listing *l, const struct err *e)
{
	struct got *g = arg;
	g->l = l ? vault_listing_ref(l) : NULL;
	record(g, r, e);
}

static void await(struct got *g)
{
	pthread_mutex_lock(&lock);
	AWAIT(g->calls > 0);
	CHECK(g->calls == 1);
	pthread_mutex_unlock(&lock);
}

static void got_clear(struct got *g)
{
	vault_secret_unref(g->s);
	vault_listing_unref(g->l);
	*g = (struct got){ 0 };
}

/* The first access: asks, has it answered, and checks that the waiter got it. */
static void load(struct vault_cache *c, struct fake *f, const char *path, uint64_t version, const char *value)
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
static struct vault_secret *hit(struct vault_cache *c, struct fake *f, const char *path)
{
	struct vault_secret *s = NULL;
	struct got g = { 0 };
	int r = vault_cache_get(c, &f->b, path, &s, on_secret, &g, NULL);
	CHECK_MSG(r == 1, "%s: %d instead of a hit", path, r);
	CHECK(g.calls == 0);
	return s;
}

static void check_value(struct vault_secret *s, uint64_t version, const char *value)
{
	CHECK(s && vault_secret_version(s) == version);
	const struct vault_field *f = vault_secret_find(s, "v", 1);
	CHECK(f && f->len == strlen(value) && memcmp(f->value, value, f->len) == 0);
}

static void check_hit(struct vault_cache *c, struct fake *f, const char *path, uint64_t version, const char *value)
{
	cleanup_secret struct vault_secret *s = hit(c, f, path);
	check_value(s, version, value);
}

static bool peeks(struct vault_cache *c, struct fake *f, const char *path)
{
	cleanup_secret struct vault_secret *s = vault_cache_peek(c, &f->b, path);
	return s != NULL;
}

/* Moves the clock and lets the cache do what is due. */
static void advance(struct vault_cache *c, uint64_t ms)
{
	atomic_fetch_add(&fake_now, ms);
	vault_cache_test_round(c);
}

/* In steps, so that jitter shows, until the fake is asked again. Returns the milliseconds that took. */
static uint64_t advance_until_asked(struct vault_cache *c, struct fake *f, uint64_t limit)
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

static void on_change(void *arg, struct vault_backend *b, const char *path, int r, const struct err *e)
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
static void check_heard(struct heard *h, const char *path, int r)
{
	pthread_mutex_lock(&lock);
	CHECK_MSG(h->n == 1, "%u calls of the observer", h->n);
	CHECK_MSG(h->r == r, "observer was told %d", h->r);
	CHECK(strcmp(h->path, path) == 0);
	CHECK((r == 0) == (h->why.msg[0] == '\0'));
	h->n = 0;
	pthread_mutex_unlock(&lock);
}

static void check_silent(struct heard *h)
{
	pthread_mutex_lock(&lock);
	CHECK_MSG(h->n == 0, "the observer was told %d about %s", h->r, h->path);
	pthread_mutex_unlock(&lock);
}

static struct vault_cache *cache(size_t entries, size_t bytes, unsigned wait_ms)
{
	struct vault_cache *c;
	const struct vault_cache_conf conf = { .max_entries = entries, .max_bytes = bytes, .wait_ms = wait_ms };
	struct err e = ERR_INIT;
	CHECK_MSG(vault_cache_new(io, &conf, &c, &e) == 0, "%s", e.msg);
	return c;
}

static struct vault_cache_stats stats(struct vault_cache *c)
{
	struct vault_cache_stats s;
	vault_cache_get_stats(c, &s);
	return s;
}

/* ---- tests ---- */

enum { THREADS = 8, EACH = 25 };
struct crowd {
	struct vault_cache *c;
	struct fake *f;
	struct got got[THREADS * EACH];
	_Atomic unsigned next;
};

static void *crowd_member(void *arg)
{
	struct crowd *k = arg;
	for (int i = 0; i < EACH; i++) {
		struct vault_secret *s = NULL;
		struct got *g = &k->got[atomic_fetch_add(&k->next, 1)];
		CHECK(vault_cache_get(k->c, &k->f->b, "app/db", &s, on_secret, g, NULL) == 0);
	}
	return NULL;
}

static void test_one_fetch_for_a_crowd(void)
{
	struct fake f;
	fake_init(&f, "one", 60, 3600);
	static struct crowd k;
	k.c = cache(0, 0, 0);
	k.f = &f;
	pthread_t t[THREADS];
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_create(&t[i], NULL, crowd_member, &k) == 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	answer_value(&f, "app/db", 3, "hunter2");
	for (int i = 0; i < THREADS * EACH; i++) {
		await(&k.got[i]);
		CHECK(k.got[i].r == 0 && k.got[i].s == k.got[0].s);
	}
	check_value(k.got[0].s, 3, "hunter2");
	CHECK(asked(&f) == 1);
	struct vault_cache_stats s = stats(k.c);
	CHECK(s.misses == THREADS * EACH && s.fetches == 1 && s.hits == 0 && s.entries == 1);
	cleanup_secret struct vault_secret *again = hit(k.c, &f, "app/db");
	CHECK(again == k.got[0].s && asked(&f) == 1 && stats(k.c).hits == 1);
	CHECK(stats(k.c).bytes == vault_secret_bytes(again));
	vault_cache_free(k.c);
	for (int i = 0; i < THREADS * EACH; i++)
		got_clear(&k.got[i]);
}

static void test_refresh(void)
{
	struct fake f;
	fake_init(&f, "refresh", 60, 3600);
	struct vault_cache *c = cache(0, 0, 0);
	struct heard h = { 0 };
	vault_cache_observe(c, on_change, &h);
	load(c, &f, "a", 5, "old");
	check_heard(&h, "a", 0);
	cleanup_secret struct vault_secret *first = hit(c, &f, "a");

	advance(c, 43000);
	CHECK(out(&f) == 0);
	advance(c, 11000); /* 54 s: nine tenths */
	CHECK(out(&f) == 1);
	check_hit(c, &f, "a", 5, "old"); /* at once, while the question is out */
	answer_value(&f, "a", 5, "old");
	cleanup_secret struct vault_secret *same = hit(c, &f, "a");
	CHECK(same == first);
	check_silent(&h);

	/* An answer that takes long was true when it was asked for, so the next is due by that. */
	advance(c, 54000);
	CHECK(out(&f) == 1);
	advance(c, 20000);
	answer_value(&f, "a", 5, "old");
	advance(c, 35000);
	CHECK(out(&f) == 1);

	answer_value(&f, "a", 6, "new");
	check_heard(&h, "a", 0);
	check_hit(c, &f, "a", 6, "new");
	check_value(first, 5, "old"); /* an open file keeps its version */

	advance(c, 54000);
	answer_value(&f, "a", 2, "restored"); /* from a backup: the vault's word counts */
	check_heard(&h, "a", 0);
	check_hit(c, &f, "a", 2, "restored");
	advance(c, 54000);
	answer_value(&f, "a", 2, "overwritten"); /* same version, other bytes: another vault behind the same address */
	check_heard(&h, "a", 0);
	check_hit(c, &f, "a", 2, "overwritten");
	advance(c, 54000);
	answer_value(&f, "a", 3, "overwritten"); /* and the other way round */
	check_heard(&h, "a", 0);
	check_hit(c, &f, "a", 3, "overwritten");
	CHECK(stats(c).fetch_errors == 0 && stats(c).stale_served == 0);
	vault_cache_free(c);
}

static void test_refresh_is_spread_and_bounded(void)
{
	struct fake f;
	fake_init(&f, "many", 60, 3600);
	struct vault_cache *c = cache(0, 0, 0);
	char path[32];
	for (int i = 0; i < 300; i++) {
		snprintf(path, sizeof path, "s%d", i);
		load(c, &f, path, 1, path);
	}
	/* 45 to 54 s: neither all at once nor late. */
	advance(c, 47000);
	unsigned early = out(&f);
	CHECK_MSG(early > 0 && early <= 64, "%u", early);
	advance(c, 7000);
	CHECK(out(&f) == 64); /* 300 are due by now */

	/* Who waits does not queue behind them. */
	struct got g = { 0 };
	struct vault_secret *s = NULL;
	CHECK(vault_cache_get(c, &f.b, "urgent", &s, on_secret, &g, NULL) == 0);
	answer_value(&f, "urgent", 1, "now");
	await(&g);
	got_clear(&g);
	CHECK(out(&f) == 64);
	for (int i = 0; i < 300; i++)
		answer_value(&f, NULL, 2, "fresh");
	CHECK(out(&f) == 0 && f.most_out == 65 && asked(&f) == 601);
	for (int i = 0; i < 300; i++) {
		snprintf(path, sizeof path, "s%d", i);
		check_hit(c, &f, path, 2, "fresh");
	}
	vault_cache_free(c);
}

/* A value that may not be served any more, and whose refresh queues behind others: who asks does not queue. */
static void test_waiting_outranks_refreshing(void)
{
	struct fake f;
	fake_init(&f, "ranks", 60, 0);
	struct vault_cache *c = cache(0, 0, 0);
	char path[32];
	for (int i = 0; i < 100; i++) {
		snprintf(path, sizeof path, "s%d", i);
		load(c, &f, path, 1, path);
	}
	advance(c, 54000);
	CHECK(out(&f) == 64);
	advance(c, 6001);
	int i = 0;
	do {
		snprintf(path, sizeof path, "s%d", i++);
		pthread_mutex_lock(&lock);
	} while (find(&f, path) && pthread_mutex_unlock(&lock) == 0);
	pthread_mutex_unlock(&lock);
	struct got g = { 0 };
	struct vault_secret *s = NULL;
	CHECK(vault_cache_get(c, &f.b, path, &s, on_secret, &g, NULL) == 0);
	answer_value(&f, path, 2, "now");
	await(&g);
	CHECK(g.r == 0);
	got_clear(&g);
	CHECK(out(&f) == 64);
	for (i = 0; i < 99; i++)
		answer_value(&f, NULL, 2, "fresh");
	CHECK(out(&f) == 0 && asked(&f) == 200);
	vault_cache_free(c);
}

static void test_stale_and_recovery(void)
{
	struct fake f;
	fake_init(&f, "stale", 60, 3600);
	struct vault_cache *c = cache(0, 0, 0);
	struct heard h = { 0 };
	vault_cache_observe(c, on_change, &h);
	load(c, &f, "a", 1, "old");
	check_heard(&h, "a", 0);
	cleanup_secret struct vault_secret *first = hit(c, &f, "a");
	advance(c, 54000);
	answer_error(&f, "a", -EAGAIN);
	check_heard(&h, "a", -EAGAIN);
	check_hit(c, &f, "a", 1, "old");
	CHECK(stats(c).stale_served == 1 && stats(c).fetch_errors == 1);

	/* Back-off: within 1, 2, 4, ... 60 s, and longer in the long run than at first. */
	uint64_t longest = 0;
	for (unsigned i = 0; i < 30; i++) {
		uint64_t upper = i < 6 ? 1000u << i : 60000;
		uint64_t t = advance_until_asked(c, &f, upper + 100);
		longest = t > longest ? t : longest;
		answer_error(&f, "a", -EPROTO);
		check_hit(c, &f, "a", 1, "old");
		if (atomic_load(&fake_now) > 1000000 + 3000000)
			break;
	}
	CHECK_MSG(longest > 10000, "%llu", (unsigned long long)longest);
	check_silent(&h); /* once per change of state */

	advance_until_asked(c, &f, 60100);
	answer_value(&f, "a", 1, "old");
	cleanup_secret struct vault_secret *same = hit(c, &f, "a");
	CHECK(same == first);
	check_heard(&h, "a", 0); /* the same bytes, and the vault answers again */
	uint64_t stale = stats(c).stale_served;
	check_hit(c, &f, "a", 1, "old");
	CHECK(stats(c).stale_served == stale);
	/* The back-off starts anew, and so does the observer. */
	advance(c, 54000);
	answer_error(&f, "a", -EAGAIN);
	check_heard(&h, "a", -EAGAIN);
	advance_until_asked(c, &f, 1100);
	answer_value(&f, "a", 2, "new");
	check_heard(&h, "a", 0);
	check_hit(c, &f, "a", 2, "new");
	vault_cache_free(c);
}

static void test_max_stale(void)
{
	struct fake f;
	fake_init(&f, "limit", 60, 200);
	struct vault_cache *c = cache(0, 0, 0);
	struct heard h = { 0 };
	vault_cache_observe(c, on_change, &h);
	load(c, &f, "a", 1, "old");
	check_heard(&h, "a", 0);
	uint64_t loaded = atomic_load(&fake_now);
	advance(c, 54000);
	answer_error(&f, "a", -EAGAIN);
	check_heard(&h, "a", -EAGAIN);
	while (atomic_load(&fake_now) + 60000 < loaded + 200000) {
		advance_until_asked(c, &f, 60100);
		answer_error(&f, "a", -EAGAIN);
	}
	check_silent(&h);
	uint64_t left = loaded + 200000 - atomic_load(&fake_now);
	atomic_fetch_add(&fake_now, left);
	check_hit(c, &f, "a", 1, "old"); /* to the last millisecond */
	atomic_fetch_add(&fake_now, 1);
	CHECK(!peeks(c, &f, "a")); /* though no round has dropped it yet */
	vault_cache_test_round(c);
	if (out(&f)) /* a retry was due in the same round */
		answer_error(&f, "a", -EAGAIN);
	check_heard(&h, "a", -EAGAIN);
	CHECK(strstr(h.why.msg, "max_stale"));
	CHECK(stats(c).bytes == 0);

	/* Without a value an error is remembered for a second at most, then one question is asked. */
	struct got g[3] = { 0 };
	struct vault_secret *s = NULL;
	struct err e = ERR_INIT;
	atomic_fetch_add(&fake_now, 1001);
	if (!out(&f))
		CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[0], &e) == 0);
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[1], &e) == 0);
	answer_error(&f, "a", -EAGAIN);
	await(&g[1]);
	CHECK(g[1].r == -EAGAIN && g[1].why.msg[0]);
	unsigned before = asked(&f);
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[2], &e) == -EAGAIN);
	CHECK(e.code == EAGAIN && strcmp(e.msg, "scripted failure") == 0);
	CHECK(asked(&f) == before && g[2].calls == 0);
	check_silent(&h);

	/* It comes back by itself. */
	advance_until_asked(c, &f, 60100);
	answer_value(&f, "a", 1, "old");
	check_heard(&h, "a", 0);
	check_hit(c, &f, "a", 1, "old");
	vault_cache_free(c);
}

static void test_never_stale(void)
{
	struct fake f;
	fake_init(&f, "strict", 60, 0);
	struct vault_cache *c = cache(0, 0, 0);
	struct heard h = { 0 };
	vault_cache_observe(c, on_change, &h);
	load(c, &f, "a", 1, "old");
	check_heard(&h, "a", 0);
	advance(c, 54000);
	CHECK(out(&f) == 1);
	atomic_fetch_add(&fake_now, 6000);
	check_hit(c, &f, "a", 1, "old"); /* 60 s old: still good */
	atomic_fetch_add(&fake_now, 1);
	/* Too old, and the refresh is out: whoever asks now waits for that one. */
	struct got g = { 0 };
	struct vault_secret *s = NULL;
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g, NULL) == 0);
	CHECK(asked(&f) == 2);
	answer_error(&f, "a", -EAGAIN);
	await(&g);
	CHECK(g.r == -EAGAIN && strstr(g.why.msg, "max_stale") && strstr(g.why.msg, "scripted failure"));
	check_heard(&h, "a", -EAGAIN);
	CHECK(stats(c).bytes == 0 && stats(c).stale_served == 0);
	got_clear(&g);
	advance_until_asked(c, &f, 60100);
	answer_value(&f, "a", 1, "old");
	check_hit(c, &f, "a", 1, "old");
	check_heard(&h, "a", 0);

	/* A failure while it is young enough drops nothing yet. */
	advance(c, 54000);
	answer_error(&f, "a", -EAGAIN);
	check_heard(&h, "a", -EAGAIN);
	check_hit(c, &f, "a", 1, "old");
	advance(c, 6001);
	CHECK(!peeks(c, &f, "a") && stats(c).bytes == 0);
	if (!out(&f)) /* the back-off may have ended on the way */
		advance_until_asked(c, &f, 60100);
	answer_value(&f, "a", 1, "old");
	vault_cache_free(c);
}

static void test_gone(void)
{
	struct fake f;
	fake_init(&f, "gone", 60, 3600);
	struct vault_cache *c = cache(0, 0, 0);
	struct heard h = { 0 };
	vault_cache_observe(c, on_change, &h);

	/* Never there: remembered for a second, then forgotten; nothing to observe. */
	struct got g[2] = { 0 };
	struct vault_secret *s = NULL;
	struct err e = ERR_INIT;
	CHECK(vault_cache_get(c, &f.b, "none", &s, on_secret, &g[0], NULL) == 0);
	answer_error(&f, "none", -ENOENT);
	await(&g[0]);
	CHECK(g[0].r == -ENOENT);
	for (int i = 0; i < 100; i++)
		CHECK(vault_cache_get(c, &f.b, "none", &s, on_secret, &g[1], &e) == -ENOENT);
	CHECK(e.code == ENOENT && e.msg[0] && asked(&f) == 1 && stats(c).entries == 1);
	advance(c, 1000);
	CHECK(stats(c).entries == 0);
	CHECK(vault_cache_get(c, &f.b, "none", &s, on_secret, &g[1], &e) == 0);
	answer_error(&f, "none", -EACCES);
	await(&g[1]);
	CHECK(g[1].r == -EACCES);
	check_silent(&h);
	CHECK(stats(c).fetch_errors == 0); /* a no is an answer */

	/* Taken away: the value goes at once, and comes back when the vault has it again. */
	load(c, &f, "a", 7, "x");
	check_heard(&h, "a", 0);
	const int no[] = { -ENOENT, -EACCES };
	for (int i = 0; i < 2; i++) {
		advance(c, 54000);
		answer_error(&f, "a", no[i]);
		check_heard(&h, "a", no[i]);
		CHECK(!peeks(c, &f, "a") && stats(c).bytes == 0);
		CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[1], &e) == no[i]);
		advance(c, 54000);
		answer_error(&f, "a", no[i]);
		check_silent(&h);
		advance(c, 54000);
		answer_value(&f, "a", 8, "y");
		check_heard(&h, "a", 0);
		check_hit(c, &f, "a", 8, "y");
	}
	vault_cache_free(c);
}

static void test_first_access_fails(void)
{
	struct fake f;
	fake_init(&f, "down", 60, 3600);
	struct vault_cache *c = cache(0, 0, 0);
	struct got g[2] = { 0 };
	struct vault_secret *s = NULL;
	struct err e = ERR_INIT;
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[0], NULL) == 0);
	answer_error(&f, "a", -EKEYREJECTED);
	await(&g[0]);
	CHECK(g[0].r == -EKEYREJECTED && strcmp(g[0].why.msg, "scripted failure") == 0);
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[1], &e) == -EKEYREJECTED && asked(&f) == 1);
	atomic_fetch_add(&fake_now, 1000);
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[1], &e) == 0);
	answer_value(&f, "a", 1, "x");
	await(&g[1]);
	CHECK(g[1].r == 0);
	got_clear(&g[1]);
	CHECK(stats(c).fetch_errors == 1);
	vault_cache_free(c);
}

static void test_bounds(void)
{
	struct fake f;
	fake_init(&f, "bounds", 60, 3600);
	struct vault_cache *c = cache(4, 0, 0);
	load(c, &f, "a", 1, "a");
	load(c, &f, "b", 1, "b");
	load(c, &f, "c", 1, "c");
	load(c, &f, "d", 1, "d");
	check_hit(c, &f, "a", 1, "a");
	cleanup_secret struct vault_secret *b = vault_cache_peek(c, &f.b, "b"); /* no use: peeking changes no order */
	load(c, &f, "e", 1, "e");
	CHECK(peeks(c, &f, "a") && !peeks(c, &f, "b") && peeks(c, &f, "c") && peeks(c, &f, "d") && peeks(c, &f, "e"));
	check_value(b, 1, "b"); /* evicted, and alive for those who hold it */
	CHECK(stats(c).entries == 4 && stats(c).evicted == 1);

	/* Who is waited for is never evicted, even when there are more of them than entries may be. */
	struct got g[8] = { 0 };
	char path[32];
	struct vault_secret *s = NULL;
	for (int i = 0; i < 8; i++) {
		snprintf(path, sizeof path, "w%d", i);
		CHECK(vault_cache_get(c, &f.b, path, &s, on_secret, &g[i], NULL) == 0);
	}
	CHECK(stats(c).entries == 8 && stats(c).evicted == 5);
	for (int i = 0; i < 8; i++) {
		snprintf(path, sizeof path, "w%d", i);
		answer_value(&f, path, 1, path);
		await(&g[i]);
		check_value(g[i].s, 1, path);
		got_clear(&g[i]);
	}
	CHECK(stats(c).entries == 4 && !peeks(c, &f, "w3") && peeks(c, &f, "w4") && peeks(c, &f, "w7"));
	/* A refresh changes no order either. */
	advance(c, 54000);
	for (int i = 7; i >= 4; i--) {
		snprintf(path, sizeof path, "w%d", i);
		answer_value(&f, path, 2, path);
	}
	load(c, &f, "x", 1, "x");
	CHECK(!peeks(c, &f, "w4") && peeks(c, &f, "w7"));
	vault_cache_free(c);

	/* One that is being refreshed stays, however old its last use; the next one goes. */
	c = cache(2, 0, 0);
	load(c, &f, "first", 1, "f");
	load(c, &f, "second", 1, "s");
	unsigned waves = asked(&f);
	while (asked(&f) == waves)
		advance(c, 50);
	bool first = find(&f, "first") != NULL;
	if (out(&f) == 2) /* both came along: the second's answer makes it the one that may go */
		answer_value(&f, "second", 1, "s");
	load(c, &f, "third", 1, "t");
	CHECK(peeks(c, &f, "third") && peeks(c, &f, "first") == first && peeks(c, &f, "second") == !first);
	answer_value(&f, first ? "first" : "second", 2, "new");
	check_hit(c, &f, first ? "first" : "second", 2, "new");
	vault_cache_free(c);

	/* Secrets and listings leave in one order. */
	c = cache(2, 0, 0);
	struct got names = { 0 };
	struct vault_listing *l = NULL;
	CHECK(vault_cache_list(c, &f.b, "app/", &l, on_listing, &names, NULL) == 0);
	answer(&f, "app/", 0, NULL, &(struct vault_names){ .n = 0 });
	await(&names);
	got_clear(&names);
	load(c, &f, "one", 1, "1");
	load(c, &f, "two", 1, "2"); /* the listing goes */
	CHECK(peeks(c, &f, "one") && peeks(c, &f, "two"));
	CHECK(vault_cache_list(c, &f.b, "app/", &l, on_listing, &names, NULL) == 0); /* "one" goes */
	answer(&f, "app/", 0, NULL, &(struct vault_names){ .n = 0 });
	await(&names);
	got_clear(&names);
	CHECK(!peeks(c, &f, "one") && peeks(c, &f, "two") && stats(c).entries == 2);
	vault_cache_free(c);

	size_t cost = vault_secret_bytes(b);
	c = cache(0, cost * 3, 0);
	load(c, &f, "a", 1, "a");
	load(c, &f, "b", 1, "b");
	load(c, &f, "c", 1, "c");
	CHECK(stats(c).entries == 3 && stats(c).bytes == 3 * cost);
	load(c, &f, "d", 1, "d");
	CHECK(!peeks(c, &f, "a") && peeks(c, &f, "b") && stats(c).bytes == 3 * cost);
	vault_cache_free(c);
}

static void test_larger_than_the_cache(void)
{
	struct fake f;
	fake_init(&f, "big", 60, 3600);
	char big[3000];
	memset(big, 'x', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	struct vault_cache *c = cache(0, 2000, 0);
	struct heard h = { 0 };
	vault_cache_observe(c, on_change, &h);
	load(c, &f, "small", 1, "s");
	check_heard(&h, "small", 0);
	load(c, &f, "a", 1, big);
	check_heard(&h, "a", -E2BIG);
	CHECK(!peeks(c, &f, "a") && peeks(c, &f, "small"));
	load(c, &f, "a", 2, big); /* asked for at every access */
	check_silent(&h);
	/* One that has grown takes its old value with it. */
	advance(c, 54000);
	answer_value(&f, "small", 2, big);
	check_heard(&h, "small", -E2BIG);
	CHECK(!peeks(c, &f, "small") && stats(c).bytes == 0 && out(&f) == 0);
	load(c, &f, "a", 3, "fits");
	check_heard(&h, "a", 0);
	check_hit(c, &f, "a", 3, "fits");
	vault_cache_free(c);
}

static void test_backends_never_share(void)
{
	struct fake f, g;
	fake_init(&f, "same", 60, 3600);
	fake_init(&g, "same", 60, 3600);
	struct vault_cache *c = cache(0, 0, 0);
	load(c, &f, "app/db", 1, "mine");
	CHECK(!peeks(c, &g, "app/db"));
	load(c, &g, "app/db", 1, "yours");
	check_hit(c, &f, "app/db", 1, "mine");
	check_hit(c, &g, "app/db", 1, "yours");
	/* Nor a secret and a folder of one name. */
	struct got got = { 0 };
	struct vault_listing *l = NULL;
	CHECK(vault_cache_list(c, &f.b, "app/db", &l, on_listing, &got, NULL) == 0);
	answer_error(&f, "app/db", -ENOENT);
	await(&got);
	check_hit(c, &f, "app/db", 1, "mine");
	vault_cache_drop(c, &f.b);
	CHECK(!peeks(c, &f, "app/db"));
	check_hit(c, &g, "app/db", 1, "yours");
	vault_cache_free(c);
}

struct dropper {
	struct vault_cache *c;
	struct vault_backend *b;
	bool returned;
};

static void *drop_thread(void *arg)
{
	struct dropper *d = arg;
	if (d->b)
		vault_cache_drop(d->c, d->b);
	else
		vault_cache_free(d->c);
	pthread_mutex_lock(&lock);
	d->returned = true;
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* Drop and free: waiters hear it at once, the call returns when nothing is out any more. */
static void end_while_fetching(bool whole_cache)
{
	struct fake f;
	fake_init(&f, "leaving", 60, 3600);
	struct vault_cache *c = cache(0, 0, 0);
	struct heard h = { 0 };
	struct got g[2] = { 0 };
	struct vault_secret *s = NULL;
	load(c, &f, "refreshed", 1, "x");
	advance(c, 54000);
	CHECK(out(&f) == 1);
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[0], NULL) == 0);
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[1], NULL) == 0);
	vault_cache_test_round(c);
	CHECK(out(&f) == 2);
	vault_cache_observe(c, on_change, &h);
	struct dropper d = { .c = c, .b = whole_cache ? NULL : &f.b };
	pthread_t t;
	CHECK(pthread_create(&t, NULL, drop_thread, &d) == 0);
	await(&g[0]);
	await(&g[1]);
	CHECK(g[0].r == -ECANCELED && g[1].r == -ECANCELED && g[0].why.msg[0]);
	answer_value(&f, "a", 1, "too late");
	pthread_mutex_lock(&lock);
	CHECK(!d.returned); /* the refresh is still out */
	pthread_mutex_unlock(&lock);
	answer_error(&f, "refreshed", -ECANCELED);
	pthread_join(t, NULL);
	CHECK(d.returned && g[0].calls == 1 && g[1].calls == 1);
	check_silent(&h);
	if (whole_cache)
		return;
	CHECK(stats(c).entries == 0 && stats(c).bytes == 0);
	load(c, &f, "a", 1, "again"); /* the backend may be used again */
	vault_cache_free(c);
}

static void test_drop_while_fetching(void)
{
	end_while_fetching(false);
}

static void test_free_while_waiting(void)
{
	end_while_fetching(true);
}

static void test_deadline(void)
{
	struct fake f;
	fake_init(&f, "slow", 60, 3600);
	struct vault_cache *c = cache(0, 0, 2000);
	struct got g[3] = { 0 };
	struct vault_secret *s = NULL;
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[0], NULL) == 0);
	advance(c, 1000);
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[1], NULL) == 0);
	advance(c, 1000);
	await(&g[0]);
	CHECK(g[0].r == -ETIMEDOUT && strstr(g[0].why.msg, "slow"));
	pthread_mutex_lock(&lock);
	CHECK(g[1].calls == 0); /* each has its own deadline */
	pthread_mutex_unlock(&lock);
	advance(c, 1000);
	await(&g[1]);
	CHECK(g[1].r == -ETIMEDOUT);
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[2], NULL) == 0);
	CHECK(asked(&f) == 1); /* still the same question */
	answer_value(&f, "a", 1, "late");
	await(&g[2]);
	CHECK(g[2].r == 0 && g[0].calls == 1 && g[1].calls == 1);
	got_clear(&g[2]);
	check_hit(c, &f, "a", 1, "late");
	vault_cache_free(c);
}

static void test_listing(void)
{
	struct fake f;
	fake_init(&f, "names", 60, 3600);
	struct vault_cache *c = cache(0, 0, 0);
	struct heard h = { 0 };
	vault_cache_observe(c, on_change, &h);
	char *two[] = { (char *)"api", (char *)"db/" }, *three[] = { (char *)"api", (char *)"db", (char *)"db/" };
	struct got g = { 0 };
	struct vault_listing *l = NULL, *m = NULL;
	CHECK(vault_cache_list(c, &f.b, "app/", &l, on_listing, &g, NULL) == 0);
	answer(&f, "app/", 0, NULL, &(struct vault_names){ .n = 2, .name = two });
	await(&g);
	CHECK(g.r == 0 && g.l->names.n == 2 && strcmp(g.l->names.name[0], "api") == 0);
	CHECK(strcmp(g.l->names.name[1], "db/") == 0);
	check_heard(&h, "app/", 0);
	CHECK(vault_cache_list(c, &f.b, "app/", &l, on_listing, &g, NULL) == 1 && l == g.l);
	CHECK(stats(c).bytes == 0); /* names are no secret bytes */

	advance(c, 54000);
	answer(&f, "app/", 0, NULL, &(struct vault_names){ .n = 2, .name = two });
	CHECK(vault_cache_list(c, &f.b, "app/", &m, on_listing, &g, NULL) == 1);
	CHECK(m == l && m->serial == l->serial);
	vault_listing_unref(m);
	check_silent(&h);

	advance(c, 54000);
	answer(&f, "app/", 0, NULL, &(struct vault_names){ .n = 3, .name = three });
	CHECK(vault_cache_list(c, &f.b, "app/", &m, on_listing, &g, NULL) == 1);
	CHECK(m->names.n == 3 && m->serial != l->serial && l->names.n == 2);
	check_heard(&h, "app/", 0);
	vault_listing_unref(m);
	vault_listing_unref(l);
	got_clear(&g);

	/* An empty folder is a listing, and the top folder's path is empty. */
	CHECK(vault_cache_list(c, &f.b, "", &l, on_listing, &g, NULL) == 0);
	answer(&f, "", 0, NULL, &(struct vault_names){ .n = 0 });
	await(&g);
	CHECK(g.r == 0 && g.l->names.n == 0);
	got_clear(&g);
	/* The vault away: the old names stay. */
	h.n = 0;
	advance(c, 54000);
	answer_error(&f, "", -EAGAIN);
	answer_error(&f, "app/", -EAGAIN);
	CHECK(vault_cache_list(c, &f.b, "app/", &m, on_listing, &g, NULL) == 1 && m->names.n == 3);
	vault_listing_unref(m);
	CHECK(h.n == 2 && h.r == -EAGAIN);
	vault_cache_free(c);
}

static void test_refresh_now(void)
{
	struct fake f, other;
	fake_init(&f, "now", 60, 3600);
	fake_init(&other, "other", 60, 3600);
	struct vault_cache *c = cache(0, 0, 0);
	load(c, &f, "a", 1, "x");
	load(c, &other, "a", 1, "x");
	vault_cache_refresh(c, &f.b);
	vault_cache_test_round(c);
	CHECK(out(&f) == 1 && out(&other) == 0);
	/* What is out may have been said before: once more after it. */
	vault_cache_refresh(c, NULL);
	answer_value(&f, "a", 2, "y");
	answer_value(&f, "a", 3, "z");
	answer_value(&other, "a", 2, "y");
	vault_cache_test_round(c);
	CHECK(out(&f) == 0 && out(&other) == 0);
	check_hit(c, &f, "a", 3, "z");
	/* A remembered error is not the answer any more. */
	struct got g[2] = { 0 };
	struct vault_secret *s = NULL;
	CHECK(vault_cache_get(c, &f.b, "none", &s, on_secret, &g[0], NULL) == 0);
	answer_error(&f, "none", -ENOENT);
	await(&g[0]);
	vault_cache_refresh(c, &f.b);
	CHECK(vault_cache_get(c, &f.b, "none", &s, on_secret, &g[1], NULL) == 0);
	answer_value(&f, "none", 1, "put");
	await(&g[1]);
	CHECK(g[1].r == 0);
	got_clear(&g[1]);
	answer_value(&f, "a", 3, "z");
	vault_cache_free(c);
}

/* A laptop wakes up: no timer has fired, a reader comes first. It is answered at once and the vault asked. */
static void test_suspend(void)
{
	struct fake f;
	fake_init(&f, "laptop", 60, 86400);
	struct vault_cache *c = cache(0, 0, 0);
	load(c, &f, "a", 1, "evening");
	load(c, &f, "b", 1, "evening");
	atomic_fetch_add(&fake_now, 8 * 3600 * 1000);
	check_hit(c, &f, "a", 1, "evening");
	answer_value(&f, "a", 2, "morning");
	answer_value(&f, "b", 2, "morning");
	check_hit(c, &f, "a", 2, "morning");
	check_hit(c, &f, "b", 2, "morning");
	CHECK(stats(c).oldest_ms == 0);
	atomic_fetch_add(&fake_now, 1234);
	CHECK(stats(c).oldest_ms == 1234);
	/* Longer than max_stale: nothing old is shown. */
	atomic_fetch_add(&fake_now, 2u * 86400 * 1000);
	struct got g = { 0 };
	struct vault_secret *s = NULL;
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g, NULL) == 0);
	answer_value(&f, "a", 3, "monday");
	await(&g);
	check_value(g.s, 3, "monday");
	got_clear(&g);
	answer_value(&f, "b", 3, "monday");
	vault_cache_free(c);
}

/* The same by the real clock and the real timer. */
static void test_real_time(void)
{
	vault_cache_test_clock(NULL);
	struct fake f;
	fake_init(&f, "real", 1, 3600);
	struct vault_cache *c = cache(0, 0, 60);
	struct got g = { 0 };
	struct vault_secret *s = NULL;
	uint64_t t = io_now_ms();
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g, NULL) == 0);
	await(&g);
	t = io_now_ms() - t;
	CHECK_MSG(g.r == -ETIMEDOUT && t >= 50, "%d after %llu ms", g.r, (unsigned long long)t);
	answer_value(&f, "a", 1, "x");
	for (int i = 0; i < 2; i++) {
		check_hit(c, &f, "a", 1, "x");
		t = io_now_ms();
		pthread_mutex_lock(&lock);
		AWAIT(f.out == 1);
		pthread_mutex_unlock(&lock);
		/* No upper bound here: a loaded machine may be late. The lower one shows that it waits at all. */
		CHECK_MSG(i == 0 || io_now_ms() - t >= 600, "%llu ms", (unsigned long long)(io_now_ms() - t));
		answer_value(&f, "a", 1, "x");
	}
	vault_cache_free(c);
	vault_cache_test_clock(stopped_clock);
}

/*
 * Everything at once, for the sanitizers: small bounds, many threads, drops and refreshes between. How much happens
 * between two drops is counted and not left to the scheduler.
 */
struct storm {
	struct vault_cache *c;
	struct fake *f;
	_Atomic bool over;
	_Atomic unsigned threads, waiting, answered, served;
};

static void storm_answer(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	struct storm *k = arg;
	CHECK_MSG((r == 0 && s) || (r == -ECANCELED && !s && e->msg[0]), "%d (%s)", r, e->msg);
	atomic_fetch_add(&k->served, r == 0);
	pthread_mutex_lock(&lock);
	atomic_fetch_add(&k->answered, 1);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void *storm_thread(void *arg)
{
	struct storm *k = arg;
	unsigned seed = atomic_fetch_add(&k->threads, 1);
	char path[32];
	while (!atomic_load(&k->over)) {
		snprintf(path, sizeof path, "p%d", rand_r(&seed) % 64);
		cleanup_secret struct vault_secret *s = NULL;
		struct err e = ERR_INIT;
		atomic_fetch_add(&k->waiting, 1);
		int r = vault_cache_get(k->c, &k->f->b, path, &s, storm_answer, k, &e);
		if (r != 0)
			atomic_fetch_sub(&k->waiting, 1);
		/* A reader waits for its answer; some do not, but not without bound: that would only drown the loop. */
		pthread_mutex_lock(&lock);
		AWAIT(atomic_load(&k->waiting) < atomic_load(&k->answered) + 64);
		pthread_mutex_unlock(&lock);
		if (r == 1)
			check_value(s, 1, path);
		else
			CHECK_MSG(r == 0 || r == -ECANCELED, "%s", e.msg);
		vault_secret_unref(vault_cache_peek(k->c, &k->f->b, path));
	}
	return NULL;
}

static void test_storm(void)
{
	vault_cache_test_clock(NULL);
	struct fake f;
	fake_init(&f, "storm", 1, 3600);
	f.answers_itself = true;
	struct storm k = { .c = cache(32, 0, 0), .f = &f };
	struct heard h = { 0 };
	vault_cache_observe(k.c, on_change, &h);
	pthread_t t[THREADS];
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_create(&t[i], NULL, storm_thread, &k) == 0);
	for (int round = 0; round < 30; round++) {
		struct vault_cache_stats before = stats(k.c), now;
		unsigned served = atomic_load(&k.served);
		uint64_t start = io_now_ms();
		do {
			sched_yield();
			now = stats(k.c);
			CHECK_MSG(io_now_ms() - start < 30000, "nothing happens");
		} while (now.hits < before.hits + 50 || now.evicted < before.evicted + 50 ||
			 atomic_load(&k.served) < served + 50);
		vault_cache_refresh(k.c, NULL);
		if (round % 3 == 2)
			vault_cache_drop(k.c, &f.b);
	}
	atomic_store(&k.over, true);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	pthread_mutex_lock(&lock);
	AWAIT(atomic_load(&k.answered) == atomic_load(&k.waiting));
	AWAIT(h.n > 0); /* told after the waiters */
	pthread_mutex_unlock(&lock);
	CHECK(stats(k.c).misses == atomic_load(&k.waiting));
	vault_cache_free(k.c);
	CHECK(atomic_load(&k.answered) == atomic_load(&k.waiting));
	vault_cache_test_clock(stopped_clock);
}

int main(void)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);
	CHECK_MSG(io_new(&io, &e) == 0, "%s", e.msg);
	vault_cache_test_clock(stopped_clock);
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{ "one fetch for a crowd", test_one_fetch_for_a_crowd },
		{ "refresh", test_refresh },
		{ "refresh is spread and bounded", test_refresh_is_spread_and_bounded },
		{ "waiting outranks refreshing", test_waiting_outranks_refreshing },
		{ "stale and recovery", test_stale_and_recovery },
		{ "max_stale", test_max_stale },
		{ "never stale", test_never_stale },
		{ "gone", test_gone },
		{ "first access fails", test_first_access_fails },
		{ "bounds", test_bounds },
		{ "larger than the cache", test_larger_than_the_cache },
		{ "backends never share", test_backends_never_share },
		{ "drop while fetching", test_drop_while_fetching },
		{ "free while waiting", test_free_while_waiting },
		{ "deadline", test_deadline },
		{ "listing", test_listing },
		{ "refresh now", test_refresh_now },
		{ "suspend", test_suspend },
		{ "real time", test_real_time },
		{ "storm", test_storm },
	};
	for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
		tests[i].run();
		printf("ok %s\n", tests[i].name);
		fflush(stdout);
	}
	io_free(io);
	return 0;
}
