/* SPDX-License-Identifier: Apache-2.0 */
/* What stays in the key cache and what leaves it, how long anybody waits, and how it ends. */
#include "tests/unit/cache_fake.h"

enum { STORM = 8 };

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
	/* Who comes right behind does not wait all over again; a second later somebody does. */
	struct err e = ERR_INIT;
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[2], &e) == -ETIMEDOUT && strstr(e.msg, "within 2000 ms"));
	advance(c, 1000);
	CHECK(vault_cache_get(c, &f.b, "a", &s, on_secret, &g[2], NULL) == 0);
	CHECK(asked(&f) == 1); /* still the same question */
	answer_value(&f, "a", 1, "late");
	await(&g[2]);
	CHECK(g[2].r == 0 && g[0].calls == 1 && g[1].calls == 1);
	got_clear(&g[2]);
	check_hit(c, &f, "a", 1, "late");
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
	pthread_t t[STORM];
	for (int i = 0; i < STORM; i++)
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
	for (int i = 0; i < STORM; i++)
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
	static const struct test tests[] = {
		{ "bounds", test_bounds },
		{ "larger than the cache", test_larger_than_the_cache },
		{ "backends never share", test_backends_never_share },
		{ "drop while fetching", test_drop_while_fetching },
		{ "free while waiting", test_free_while_waiting },
		{ "deadline", test_deadline },
		{ "real time", test_real_time },
		{ "storm", test_storm },
	};
	return run_tests(tests, sizeof tests / sizeof tests[0]);
}
