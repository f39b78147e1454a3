/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sealed vault as a backend. Run with arguments it is a writing process for the tests of many writers, and for
 * tests/vault/test_sealed_kill.py:
 *
 *   init FILE               a new vault
 *   loop FILE PATH N        N puts to PATH and to "both", counting up "count" by compare-and-set; N = 0: for ever.
 *                           After each round it writes the round's number as one line to standard output
 *   show FILE PATH          "VERSION VALUE" as one line
 */
#include "tests/unit/sealed_help.h"
#include "vault/sealed_file_internal.h"

#include <sys/file.h>

static struct io *io;
static const char *folder;

static const char *path_in(const char *name)
{
	static char path[512];
	(void)snprintf(path, sizeof path, "%s/%s", folder, name);
	return path;
}

static void check_names(struct vault_backend *b, const char *where, const char *want)
{
	struct err e = ERR_INIT;
	struct vault_names *names = NULL;
	CHECK_MSG(vault_list_sync(b, where, &names, &e) == 0, "%s", e.msg);
	char got[1024] = "";
	for (size_t i = 0; i < names->n; i++) {
		strcat(got, names->name[i]);
		strcat(got, " ");
		CHECK(i == 0 || strcmp(names->name[i - 1], names->name[i]) < 0);
	}
	CHECK_MSG(!strcmp(got, want), "%s: [%s]", where, got);
	vault_names_free(names);
}

static void test_basics(void)
{
	char *file = strdup(path_in("deep/er/vault"));
	struct vault_secret *s = NULL;
	struct vault_backend *b = NULL;
	struct stat st;
	EXPECT_FAIL(ENOENT, try_open(io, file, &b, &e));
	make_vault(file);
	CHECK(stat(file, &st) == 0 && (st.st_mode & 07777) == 0600);
	CHECK(stat(path_in("deep/er"), &st) == 0 && (st.st_mode & 07777) == 0700);
	EXPECT_FAIL(EEXIST, vault_sealed_init(file, PASS, strlen(PASS), &test_kdf, &e));
	EXPECT_FAIL(EINVAL, vault_sealed_init(path_in("x"), "", 0, &test_kdf, &e));
	EXPECT_FAIL(EINVAL, vault_sealed_init(path_in("x"), "y", 1, &(struct vault_sealed_kdf){ .mem_mib = 5000 }, &e));
	EXPECT_FAIL(EINVAL, vault_sealed_init(path_in("x"), "y", 1, &(struct vault_sealed_kdf){ .ops = 65 }, &e));
	CHECK(stat(path_in("x"), &st) < 0 && stat(path_in("x.lock"), &st) < 0);

	const struct vault_sealed_conf conf = { .name = "test", .file = file };
	EXPECT_FAIL(EKEYREJECTED, vault_sealed_open(io, &conf, "wrong", 5, &b, &e));
	EXPECT_FAIL(EKEYREJECTED, vault_sealed_open(io, &conf, "", 0, &b, &e));
	CHECK(!b);
	b = open_vault(io, file);
	check_names(b, "", "");
	EXPECT_FAIL(ENOENT, vault_list_sync(b, "app/", &(struct vault_names *){ NULL }, &e));
	EXPECT_FAIL(ENOENT, vault_get_sync(b, "app/db", &s, &e));
	EXPECT_FAIL(EINVAL, vault_get_sync(b, "app//db", &s, &e));
	EXPECT_FAIL(EINVAL, vault_get_sync(b, "app/", &s, &e));
	EXPECT_FAIL(EINVAL, try_put(b, "/app", "x", VAULT_CAS_ANY, NULL, &e));
	EXPECT_FAIL(EINVAL, vault_list_sync(b, "app", &(struct vault_names *){ NULL }, &e));
	EXPECT_FAIL(ENOENT, vault_del_sync(b, "app/db", &e));
	CHECK(vault_check_sync(b, NULL) == 0);

	int64_t before = time(NULL);
	CHECK(put(b, "app/db", "one") == 1);
	EXPECT(b, "app/db", "one", 1);
	CHECK(put(b, "app/db", "two") == 2);
	EXPECT(b, "app/db", "two", 2);
	CHECK(vault_get_sync(b, "app/db", &s, NULL) == 0);
	CHECK(vault_secret_created(s) >= before && vault_secret_created(s) <= time(NULL));
	vault_secret_unref(TAKE_PTR(s));

	/* Compare and set. */
	uint64_t version = 0;
	EXPECT_FAIL(EEXIST, try_put(b, "app/db", "x", 0, &version, &e));
	EXPECT_FAIL(EEXIST, try_put(b, "app/db", "x", 1, &version, &e));
	EXPECT_FAIL(EEXIST, try_put(b, "app/new", "x", 1, &version, &e));
	EXPECT(b, "app/db", "two", 2);
	CHECK(try_put(b, "app/db", "three", 2, &version, NULL) == 0 && version == 3);
	CHECK(try_put(b, "app/new", "n", 0, &version, NULL) == 0 && version == 1);

	/* Removed; its numbers go on, so that no watcher takes a new value for an old one. */
	CHECK(vault_del_sync(b, "app/db", NULL) == 0);
	EXPECT_FAIL(ENOENT, vault_get_sync(b, "app/db", &s, &e));
	EXPECT_FAIL(ENOENT, vault_del_sync(b, "app/db", &e));
	check_names(b, "app/", "new ");
	CHECK(try_put(b, "app/db", "four", 0, &version, NULL) == 0 && version == 4);
	EXPECT(b, "app/db", "four", 4);
	check_names(b, "app/", "db new ");

	/* All of it is in the file. */
	vault_backend_close_sync(b);
	b = open_vault(io, file);
	EXPECT(b, "app/db", "four", 4);
	EXPECT(b, "app/new", "n", 1);
	vault_backend_close_sync(b);
	vault_backend_close_sync(NULL);
	free(file);
}

static void test_list(void)
{
	const char *file = path_in("list");
	make_vault(file);
	struct vault_backend *b = open_vault(io, file);
	static const char *const paths[] = {
		"db", "db/a", "db/b/c", "db-x", "db.x/y", "db0", "e/f/g/h", "z", "gone/x"
	};
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
		put(b, paths[i], paths[i]);
	CHECK(vault_del_sync(b, "gone/x", NULL) == 0);
	check_names(b, "", "db db-x db.x/ db/ db0 e/ z ");
	check_names(b, "db/", "a b/ ");
	check_names(b, "db/b/", "c ");
	check_names(b, "e/", "f/ ");
	check_names(b, "e/f/g/", "h ");
	EXPECT_FAIL(ENOENT, vault_list_sync(b, "z/", &(struct vault_names *){ NULL }, &e));
	EXPECT_FAIL(ENOENT, vault_list_sync(b, "gone/", &(struct vault_names *){ NULL }, &e));
	EXPECT_FAIL(ENOENT, vault_list_sync(b, "d/", &(struct vault_names *){ NULL }, &e));
	CHECK(vault_del_sync(b, "db/a", NULL) == 0);
	check_names(b, "db/", "b/ ");
	CHECK(vault_del_sync(b, "db/b/c", NULL) == 0);
	check_names(b, "", "db db-x db.x/ db0 e/ z ");
	vault_backend_close_sync(b);
}

/* The last ten versions of a secret are in the file, each with the value it was put with. */
static void test_versions(void)
{
	struct err e = ERR_INIT;
	const char *file = path_in("versions");
	make_vault(file);
	struct vault_backend *b = open_vault(io, file);
	char text[32];
	for (int i = 1; i <= 13; i++) {
		(void)snprintf(text, sizeof text, "value %d", i);
		CHECK(put(b, "m", text) == (uint64_t)i);
		if (i == 5) { /* with neighbours on both sides that must not be touched */
			put(b, "a", "first");
			put(b, "z", "last");
		}
	}
	EXPECT(b, "a", "first", 1);
	EXPECT(b, "m", "value 13", 13);
	EXPECT(b, "z", "last", 1);
	vault_backend_close_sync(b);

	struct sealed_file *f = NULL;
	CHECK_MSG(sealed_file_open(file, PASS, strlen(PASS), &f, &e) == 0, "%s", e.msg);
	size_t i, len;
	struct sealed_entry m;
	CHECK(sealed_index_find(f->index, "m", 1, &i));
	sealed_index_at(f->index, i, &m);
	CHECK(m.n == SEALED_KEEP && m.last == 13);
	cleanup_free uint8_t *bytes = read_whole(file, &len);
	for (unsigned k = 0; k < m.n; k++) {
		CHECK(m.version[k].version == 13 - SEALED_KEEP + 1 + k);
		struct vault_secret *s = NULL;
		CHECK(sealed_value_open(f->keys, f->now.header.file_id, "m", 1, &m.version[k],
					bytes + sealed_data_at(&f->now.header) + m.version[k].data, &s, &e) == 0);
		(void)snprintf(text, sizeof text, "value %u", 13 - SEALED_KEEP + 1 + k);
		CHECK(is_text(s, text));
		vault_secret_unref(s);
	}
	sealed_file_free(f);
}

/* Two open vaults on one file: each sees what the other wrote, at the next call. */
static void test_replaced(void)
{
	char *file = strdup(path_in("replaced")), *other = strdup(path_in("other")), *link = strdup(path_in("link"));
	struct vault_secret *s = NULL;
	make_vault(file);
	make_vault(other);
	struct vault_backend *a = open_vault(io, file);
	CHECK(symlink(file, link) == 0);
	struct vault_backend *b = open_vault(io, link);
	put(a, "k", "from a");
	EXPECT(b, "k", "from a", 1);
	CHECK(put(b, "k", "from b") == 2);
	EXPECT(a, "k", "from b", 2);
	put(a, "only/a", "1");
	put(b, "only/b", "1");
	check_names(a, "only/", "a b ");
	struct stat st;
	CHECK(lstat(link, &st) == 0 && S_ISLNK(st.st_mode)); /* written through, not over */
	CHECK(lstat(path_in("link.lock"), &st) < 0 && lstat(path_in("replaced.lock"), &st) == 0);

	/* A mode that somebody gave it stays. */
	CHECK(chmod(file, 0640) == 0);
	put(a, "k", "mode");
	CHECK(stat(file, &st) == 0 && (st.st_mode & 07777) == 0640);

	/* Another vault, no vault, nothing: told apart, and over when the vault is back. */
	size_t len, other_len;
	cleanup_free uint8_t *good = read_whole(file, &len), *strange = read_whole(other, &other_len);
	write_whole(file, strange, other_len);
	EXPECT_FAIL(EKEYREJECTED, vault_get_sync(a, "k", &s, &e));
	EXPECT_FAIL(EKEYREJECTED, try_put(a, "k", "x", VAULT_CAS_ANY, NULL, &e));
	write_whole(file, "some text", 9);
	EXPECT_FAIL(EBADMSG, vault_get_sync(a, "k", &s, &e));
	EXPECT_FAIL(EBADMSG, vault_list_sync(a, "", &(struct vault_names *){ NULL }, &e));
	EXPECT_FAIL(EBADMSG, try_put(a, "k", "x", VAULT_CAS_ANY, NULL, &e));
	EXPECT_FAIL(EBADMSG, vault_check_sync(a, &e));
	CHECK(unlink(file) == 0);
	EXPECT_FAIL(EAGAIN, vault_get_sync(a, "k", &s, &e)); /* not ENOENT: that would say that there is no secret k */
	EXPECT_FAIL(EAGAIN, try_put(a, "k", "x", VAULT_CAS_ANY, NULL, &e));
	CHECK(mkdir(file, 0700) == 0);
	EXPECT_FAIL(EINVAL, vault_get_sync(a, "k", &s, &e));
	CHECK(rmdir(file) == 0);
	CHECK(mkfifo(file, 0600) == 0);
	EXPECT_FAIL(EINVAL, vault_get_sync(a, "k", &s, &e));
	CHECK(unlink(file) == 0);
	write_whole(file, good, len);
	EXPECT(a, "k", "mode", 3);
	CHECK(vault_check_sync(a, NULL) == 0);
	vault_backend_close_sync(a);
	vault_backend_close_sync(b);
	free(file);
	free(other);
	free(link);
}

struct slow_put {
	struct vault_backend *b;
	_Atomic int r;
	char msg[ERR_MSG_MAX];
	double took;
};

static void *slow_put(void *arg)
{
	struct slow_put *p = arg;
	struct err e = ERR_INIT;
	double start = seconds();
	p->r = try_put(p->b, "late", "x", VAULT_CAS_ANY, NULL, &e);
	p->took = seconds() - start;
	memcpy(p->msg, e.msg, sizeof p->msg);
	return NULL;
}

static void test_lock(void)
{
	const char *file = path_in("locked");
	make_vault(file);
	struct vault_backend *b = open_vault(io, file);
	put(b, "k", "v");
	int lock = open(path_in("locked.lock"), O_RDWR | O_CLOEXEC);
	CHECK(lock >= 0 && flock(lock, LOCK_EX) == 0);

	struct slow_put p = { .b = b, .r = 1 }, behind = { .b = b, .r = 1 };
	pthread_t t, t2;
	CHECK(!pthread_create(&t, NULL, slow_put, &p) && !pthread_create(&t2, NULL, slow_put, &behind));
	/* Readers do not wait for a writer that waits. */
	double start = seconds();
	for (int i = 0; i < 100; i++)
		EXPECT(b, "k", "v", 1);
	CHECK(seconds() - start < 2 && p.r == 1);
	pthread_join(t, NULL);
	pthread_join(t2, NULL);
	CHECK_MSG(p.r == -EAGAIN && strstr(p.msg, "locked.lock"), "%s", p.msg);
	CHECK_MSG(p.took > 4.5 && p.took < 8, "%f", p.took);
	CHECK_MSG(behind.r == -EAGAIN && behind.took < 8, "%f", behind.took);

	/* Given back in time: then it is only late. */
	p.r = 1;
	CHECK(!pthread_create(&t, NULL, slow_put, &p));
	for (int i = 0; i < 100; i++)
		EXPECT(b, "k", "v", 1);
	CHECK(p.r == 1);
	CHECK(flock(lock, LOCK_UN) == 0);
	pthread_join(t, NULL);
	CHECK_MSG(p.r == 0, "%s", p.msg);
	EXPECT(b, "late", "x", 1);
	close(lock);
	vault_backend_close_sync(b);
}

/* ---- many writers ---- */

static uint64_t count_up(struct vault_backend *b)
{
	for (;;) {
		struct err e = ERR_INIT;
		struct vault_secret *s = NULL;
		uint64_t is = 0, version;
		char text[32];
		int r = vault_get_sync(b, "count", &s, &e);
		CHECK_MSG(r == 0 || r == -ENOENT, "%s", e.msg);
		if (!r) {
			is = vault_secret_version(s);
			(void)snprintf(text, sizeof text, "%llu", (unsigned long long)is);
			CHECK(is_text(s, text));
			vault_secret_unref(s);
		}
		(void)snprintf(text, sizeof text, "%llu", (unsigned long long)is + 1);
		r = try_put(b, "count", text, (uint32_t)is, &version, &e);
		if (!r)
			return version;
		CHECK_MSG(r == -EEXIST, "%s", e.msg);
	}
}

struct writer {
	const char *file, *path;
	int rounds;
	bool tell;
};

static void *write_rounds(void *arg)
{
	const struct writer *w = arg;
	struct vault_backend *b = open_vault(io, w->file);
	for (int i = 1; !w->rounds || i <= w->rounds; i++) {
		char text[32];
		int n = snprintf(text, sizeof text, "%d\n", i);
		text[n - 1] = '\0';
		put(b, w->path, text);
		put(b, "both", w->path);
		count_up(b);
		text[n - 1] = '\n';
		if (w->tell && write(STDOUT_FILENO, text, (size_t)n) != n)
			exit(1);
	}
	vault_backend_close_sync(b);
	return NULL;
}

static void test_writers(void)
{
	enum { ROUNDS = 20 };
	const char *file = path_in("writers");
	make_vault(file);
	pid_t pid[2];
	for (int i = 0; i < 2; i++)
		pid[i] = spawn(
			(const char *const[]){ "test", "loop", file, i ? "process/b" : "process/a", "20", NULL });
	pthread_t t[2];
	struct writer w[2] = { { file, "thread/a", ROUNDS, false }, { file, "thread/b", ROUNDS, false } };
	for (int i = 0; i < 2; i++)
		CHECK(!pthread_create(&t[i], NULL, write_rounds, &w[i]));
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], NULL);
		int status = wait_status(pid[i]);
		CHECK_MSG(status == 0, "wait status %#x", status);
	}
	struct vault_backend *b = open_vault(io, file);
	EXPECT(b, "process/a", "20", ROUNDS);
	EXPECT(b, "process/b", "20", ROUNDS);
	EXPECT(b, "thread/a", "20", ROUNDS);
	EXPECT(b, "thread/b", "20", ROUNDS);
	EXPECT(b, "count", "80", 4 * ROUNDS);
	struct vault_secret *s = NULL;
	CHECK(vault_get_sync(b, "both", &s, NULL) == 0 && vault_secret_version(s) == 4 * ROUNDS);
	vault_secret_unref(s);
	vault_backend_close_sync(b);
}

/* ---- from the loop itself ---- */

struct inside {
	struct vault_backend *b;
	struct vault_secret *s;
	bool in_call;
	int answers, cancelled;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool finished;
};

static void finish(struct inside *in)
{
	SCOPED_LOCK(&in->lock);
	in->finished = true;
	pthread_cond_signal(&in->cond);
}

static void wait_finished(struct inside *in)
{
	SCOPED_LOCK(&in->lock);
	while (!in->finished)
		pthread_cond_wait(&in->cond, &in->lock);
	in->finished = false;
}

static void inside_cancelled(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	struct inside *in = arg;
	CHECK(r == -ECANCELED && !s && e->msg[0]);
	in->cancelled++;
}

static void inside_put_cancelled(void *arg, int r, uint64_t version, const struct err *e)
{
	struct inside *in = arg;
	(void)version;
	CHECK(r == -ECANCELED && e->msg[0]);
	in->cancelled++;
}

static void inside_got(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	struct inside *in = arg;
	CHECK_MSG(!r && is_text(s, "v"), "%s", e->msg);
	CHECK(!in->in_call);
	if (++in->answers < 200)
		return;
	/* Closing from a callback: what is still waiting hears of it, before the close returns. */
	in->b->ops->get(in->b, "k", inside_cancelled, in);
	in->b->ops->put(in->b, "k", in->s, VAULT_CAS_ANY, inside_put_cancelled, in);
	in->b->ops->close(in->b);
	CHECK(in->cancelled == 2);
	finish(in);
}

static void inside_start(void *arg)
{
	struct inside *in = arg;
	in->in_call = true;
	for (int i = 0; i < 200; i++) /* more than are run in one turn of the loop */
		in->b->ops->get(in->b, "k", inside_got, in);
	in->in_call = false;
}

static void inside_status(void *arg)
{
	struct inside *in = arg;
	cleanup_json struct json *j = in->b->ops->status(in->b);
	CHECK(j && json_bool(json_get(j, "reachable"), false) && !strcmp(json_string(json_get(j, "kind")), "sealed"));
	CHECK(strstr(json_string(json_get(j, "file")), "/inside"));
	CHECK(json_type(json_get(j, "last_error")) == JSON_NULL);
}

static void test_inside(void)
{
	const char *file = path_in("inside");
	make_vault(file);
	struct inside in = { .b = open_vault(io, file), .s = text_secret("v") };
	pthread_mutex_init(&in.lock, NULL);
	pthread_cond_init(&in.cond, NULL);
	put(in.b, "k", "v");
	CHECK(io_call(io, inside_status, &in) == 0);
	CHECK(io_post(io, inside_start, &in) == 0);
	wait_finished(&in);
	CHECK(in.answers == 200 && in.cancelled == 2);
	vault_secret_unref(in.s);
}

/* ---- everything got is everything put ---- */

static uint64_t seed;

static uint32_t rnd(uint32_t below)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(seed >> 33) % below;
}

static struct vault_secret *random_secret(void)
{
	static uint8_t bytes[8 * 24 + 8 * 3000];
	struct vault_field f[8];
	size_t n = rnd(9), at = 0;
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)rnd(rnd(2) ? 256 : 2);
	for (size_t i = 0; i < n; i++) {
		f[i].name = (char *)bytes + at;
		f[i].name_len = rnd(24);
		at += f[i].name_len;
		f[i].len = rnd(4) ? rnd(40) : rnd(3000);
		f[i].value = bytes + at;
		at += f[i].len;
	}
	struct vault_secret *s = NULL;
	int r = vault_secret_new(f, n, 0, 0, &s, NULL);
	return r == -EEXIST ? random_secret() : s;
}

static bool equal(const struct vault_secret *a, const struct vault_secret *b)
{
	if (vault_secret_count(a) != vault_secret_count(b))
		return false;
	for (size_t i = 0; i < vault_secret_count(a); i++) {
		const struct vault_field *x = vault_secret_at(a, i), *y = vault_secret_at(b, i);
		if (x->name_len != y->name_len || x->len != y->len || memcmp(x->name, y->name, x->name_len) != 0 ||
		    memcmp(x->value, y->value, x->len) != 0)
			return false;
	}
	return true;
}

static void test_property(void)
{
	enum { PATHS = 12, STEPS = 600 };
	static const char *const path[PATHS] = { "a",	"a/b", "a/b/c", "a-b",		 "b\n\xff",	  "b/%2F",
						 "c/d", "c/e", "d",	"x/y/z/1/2/3/4", "x/y/z/1/2/3/5", "zz" };
	struct vault_secret *model[PATHS] = { NULL };
	uint64_t last[PATHS] = { 0 };
	const char *given = getenv("CT_SEED"), *file = path_in("property");
	seed = given ? strtoull(given, NULL, 10) : 20240607;
	printf("property: seed %llu (CT_SEED)\n", (unsigned long long)seed);
	make_vault(file);
	struct vault_backend *b = open_vault(io, file);
	unsigned gets = 0;
	for (int step = 0; step < STEPS; step++) {
		struct err e = ERR_INIT;
		unsigned what = rnd(20), i = rnd(PATHS);
		if (what < 9) {
			cleanup_secret struct vault_secret *s = random_secret();
			uint64_t version = 0;
			CHECK_MSG(vault_put_sync(b, path[i], s, VAULT_CAS_ANY, &version, &e) == 0, "%s", e.msg);
			CHECK(version == ++last[i]);
			vault_secret_unref(model[i]);
			model[i] = vault_secret_ref(s);
		} else if (what < 11) {
			CHECK(vault_del_sync(b, path[i], &e) == (model[i] ? 0 : -ENOENT));
			vault_secret_unref(TAKE_PTR(model[i]));
		} else if (what < 12) {
			vault_backend_close_sync(b);
			b = open_vault(io, file);
		} else {
			cleanup_secret struct vault_secret *s = NULL;
			int r = vault_get_sync(b, path[i], &s, &e);
			CHECK_MSG(r == (model[i] ? 0 : -ENOENT), "step %d: %s", step, e.msg);
			CHECK(r < 0 || (equal(s, model[i]) && vault_secret_version(s) == last[i]));
			gets += !r;
		}
	}
	CHECK(gets > STEPS / 10);
	for (int i = 0; i < PATHS; i++)
		vault_secret_unref(model[i]);
	vault_backend_close_sync(b);
}

/* Sizes at the edges: nothing, one byte, 1 MiB, 10,000 fields. */
static void test_sizes(void)
{
	const char *file = path_in("sizes");
	make_vault(file);
	struct vault_backend *b = open_vault(io, file);
	cleanup_free uint8_t *large = malloc(1 << 20);
	cleanup_free struct vault_field *f = calloc(10000, sizeof *f);
	cleanup_free char *names = calloc(10000, 8);
	CHECK(large && f && names);
	for (size_t i = 0; i < 1 << 20; i++)
		large[i] = (uint8_t)(i * 7 + i / 251);
	for (size_t i = 0; i < 10000; i++) {
		(void)snprintf(names + 8 * i, 8, "f%zu", i);
		f[i] = (struct vault_field){ names + 8 * i, strlen(names + 8 * i), large + i, i % 50 };
	}
	struct vault_field one = { "v", 1, large, 1 << 20 }, none = { "", 0, large, 0 };
	const struct {
		const char *path;
		const struct vault_field *f;
		size_t n;
	} cases[] = { { "large", &one, 1 }, { "fields", f, 10000 }, { "nothing", NULL, 0 }, { "empty", &none, 1 } };
	for (size_t i = 0; i < 4; i++) {
		cleanup_secret struct vault_secret *s = NULL, *got = NULL;
		struct err e = ERR_INIT;
		CHECK_MSG(vault_secret_new(cases[i].f, cases[i].n, 0, 0, &s, &e) == 0, "%s", e.msg);
		CHECK_MSG(vault_put_sync(b, cases[i].path, s, VAULT_CAS_ANY, NULL, &e) == 0, "%s", e.msg);
		CHECK_MSG(vault_get_sync(b, cases[i].path, &got, &e) == 0, "%s", e.msg);
		CHECK(equal(s, got));
	}
	vault_backend_close_sync(b);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);
	if (argc == 3 && !strcmp(argv[1], "init")) {
		make_vault(argv[2]);
		return 0;
	}
	CHECK_MSG(io_new(&io, &e) == 0, "%s", e.msg);
	if (argc == 5 && !strcmp(argv[1], "loop")) {
		write_rounds(&(struct writer){ argv[2], argv[3], atoi(argv[4]), true });
	} else if (argc == 4 && !strcmp(argv[1], "show")) {
		struct vault_backend *b = open_vault(io, argv[2]);
		struct vault_secret *s = NULL;
		CHECK_MSG(vault_get_sync(b, argv[3], &s, &e) == 0, "%s", e.msg);
		const struct vault_field *f = vault_secret_find(s, "value", 5);
		CHECK(f);
		printf("%llu %.*s\n", (unsigned long long)vault_secret_version(s), (int)f->len, (const char *)f->value);
		vault_secret_unref(s);
		vault_backend_close_sync(b);
	} else {
		CHECK(argc == 1);
		folder = test_folder();
		test_basics();
		test_list();
		test_versions();
		test_replaced();
		test_writers();
		test_inside();
		test_property();
		test_sizes();
		test_lock();
		remove_folder(folder);
	}
	io_free(io);
	return 0;
}
