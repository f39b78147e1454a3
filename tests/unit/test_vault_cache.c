/* SPDX-License-Identifier: Apache-2.0 */
/* What the key cache serves, how old that may be, and what it remembers of errors. */
#include "tests/unit/cache_fake.h"

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

int main(void)
{
	static const struct test tests[] = {
		{ "one fetch for a crowd", test_one_fetch_for_a_crowd },
		{ "refresh", test_refresh },
		{ "refresh is spread and bounded", test_refresh_is_spread_and_bounded },
		{ "waiting outranks refreshing", test_waiting_outranks_refreshing },
		{ "stale and recovery", test_stale_and_recovery },
		{ "max_stale", test_max_stale },
		{ "never stale", test_never_stale },
		{ "gone", test_gone },
		{ "first access fails", test_first_access_fails },
		{ "listing", test_listing },
		{ "refresh now", test_refresh_now },
		{ "suspend", test_suspend },
	};
	return run_tests(tests, sizeof tests / sizeof tests[0]);
}
