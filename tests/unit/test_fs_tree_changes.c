/* SPDX-License-Identifier: Apache-2.0 */
/* How a tree follows a vault that changes, is half there, or says nothing: over a vault of the test's own. */
#include "base/cleanup.h"
#include "base/log.h"
#include "fs/tree.h"
#include "tests/unit/check.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct io *io;
static struct vault_cache *cache;
static struct err e;

/* --- the vault: secrets with one field each; answers are held back while it is frozen */

enum { SECRETS_MAX = 64, NAMES_MAX = 256, WAIT_S = 20 };

struct question {
	struct question *next;
	char *path;
	vault_get_fn *get;
	vault_list_fn *list;
	void *arg;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t asked = PTHREAD_COND_INITIALIZER;
static struct {
	const char *path, *field;
	uint64_t version;
} secrets[SECRETS_MAX];
static size_t n_secrets, n_questions;
static bool frozen;
static int get_error, list_error;
static struct question *questions, **questions_end = &questions;

static void set(const char *path, const char *field)
{
	SCOPED_LOCK(&lock);
	size_t i = 0;
	while (i < n_secrets && strcmp(secrets[i].path, path) != 0)
		i++;
	CHECK(i < SECRETS_MAX);
	if (i == n_secrets)
		secrets[n_secrets++].version = 0;
	secrets[i].path = path;
	secrets[i].field = field;
	secrets[i].version++;
}

static void drop(const char *path)
{
	SCOPED_LOCK(&lock);
	for (size_t i = 0; i < n_secrets; i++)
		if (strcmp(secrets[i].path, path) == 0) {
			secrets[i] = secrets[--n_secrets];
			return;
		}
}

static void answer_get(const struct question *q)
{
	cleanup_secret struct vault_secret *s = NULL;
	struct err why = ERR_INIT;
	int r = -ENOENT;
	{
		SCOPED_LOCK(&lock);
		for (size_t i = 0; i < n_secrets; i++) {
			if (strcmp(secrets[i].path, q->path) != 0)
				continue;
			const char *f = secrets[i].field;
			struct vault_field field = { f, strlen(f), (const uint8_t *)f, strlen(f) };
			r = vault_secret_new(&field, 1, secrets[i].version, 0, &s, &why);
		}
		if (get_error)
			r = get_error;
	}
	if (r < 0)
		err_set(&why, r, "the vault's no");
	q->get(q->arg, r, r < 0 ? NULL : s, &why);
}

static void answer_list(const struct question *q)
{
	char *name[NAMES_MAX];
	struct vault_names names = { 0, name };
	int r;
	{
		SCOPED_LOCK(&lock);
		size_t len = strlen(q->path);
		for (size_t i = 0; i < n_secrets; i++) {
			const char *rest = secrets[i].path + len;
			if (strncmp(secrets[i].path, q->path, len) != 0)
				continue;
			char *n = strndup(rest, strcspn(rest, "/") + (strchr(rest, '/') ? 1 : 0));
			size_t k = 0;
			while (k < names.n && strcmp(name[k], n) != 0)
				k++;
			if (k < names.n)
				free(n);
			else
				name[names.n++] = n;
		}
		r = list_error ? list_error : names.n ? 0 : -ENOENT;
	}
	struct err why = ERR_INIT;
	if (r < 0)
		err_set(&why, r, "the vault's no");
	q->list(q->arg, r, r < 0 ? NULL : &names, &why);
	while (names.n)
		free(name[--names.n]);
}

/* [loop] Answers what there is, the oldest first. */
static void answer(void *arg)
{
	(void)arg;
	for (;;) {
		struct question *q;
		{
			SCOPED_LOCK(&lock);
			q = frozen ? NULL : questions;
			if (!q)
				return;
			questions = q->next;
			if (!questions)
				questions_end = &questions;
		}
		if (q->get)
			answer_get(q);
		else
			answer_list(q);
		free(q->path);
		free(q);
	}
}

static void ask(const char *path, vault_get_fn *get, vault_list_fn *list, void *arg)
{
	struct question *q = malloc(sizeof *q);
	CHECK(q);
	*q = (struct question){ .path = strdup(path), .get = get, .list = list, .arg = arg };
	{
		SCOPED_LOCK(&lock);
		*questions_end = q;
		questions_end = &q->next;
		n_questions++;
		pthread_cond_broadcast(&asked);
	}
	CHECK(io_post(io, answer, NULL) == 0);
}

static void vault_get(struct vault_backend *b, const char *path, vault_get_fn *done, void *arg)
{
	(void)b;
	ask(path, done, NULL, arg);
}

static void vault_list(struct vault_backend *b, const char *folder, vault_list_fn *done, void *arg)
{
	(void)b;
	ask(folder, NULL, done, arg);
}

static const struct vault_backend_ops ops = { .kind = "test", .get = vault_get, .list = vault_list };
static struct vault_backend vault = { .ops = &ops, .name = "test", .refresh_s = 3600, .max_stale_s = 3600 };

static void freeze(bool on)
{
	{
		SCOPED_LOCK(&lock);
		frozen = on;
	}
	if (!on)
		CHECK(io_post(io, answer, NULL) == 0);
}

static void wait_asked(size_t n)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_S;
	SCOPED_LOCK(&lock);
	while (n_questions < n)
		CHECK(pthread_cond_timedwait(&asked, &lock, &until) == 0);
}

/* --- who asks the tree */

struct waiting {
	struct fs_wait w; /* first */
	pthread_cond_t cond;
	bool resumed;
	int r;
};

static void resumed(struct fs_wait *w, int r)
{
	struct waiting *x = (struct waiting *)w;
	SCOPED_LOCK(&lock);
	x->resumed = true;
	x->r = r;
	pthread_cond_signal(&x->cond);
}

static unsigned waits; /* of the last question */

#define ASK(call) \
	({ \
		int r_; \
		waits = 0; \
		for (;;) { \
			struct waiting x = { .w.resume = resumed, .cond = PTHREAD_COND_INITIALIZER }; \
			struct fs_wait *w = &x.w; \
			r_ = (call); \
			if (r_ != -EINPROGRESS) \
				break; \
			waits++; \
			pthread_mutex_lock(&lock); \
			while (!x.resumed) \
				pthread_cond_wait(&x.cond, &lock); \
			pthread_mutex_unlock(&lock); \
			if (x.r < 0) { \
				r_ = x.r; \
				break; \
			} \
		} \
		r_; \
	})

static int look(struct fs_tree *t, const char *path, struct stat *st)
{
	uint64_t at = 1;
	char part[256];
	unsigned all = 0;
	*st = (struct stat){ .st_ino = 1 };
	while (*path) {
		size_t n = strcspn(path, "/");
		memcpy(part, path, n);
		part[n] = 0;
		path += n + (path[n] == '/');
		double keep;
		int r = ASK(fs_tree_lookup(t, at, part, w, st, &keep));
		all += waits;
		if (r < 0)
			return r;
		at = st->st_ino;
	}
	waits = all;
	return 0;
}

static int open_and_close(struct fs_tree *t, const char *path)
{
	struct stat st;
	struct fs_handle *h = NULL;
	int r = look(t, path, &st);
	if (r == 0)
		r = ASK(fs_tree_open(t, st.st_ino, w, &h));
	if (r == 0)
		fs_tree_close(t, h);
	return r;
}

static int collect(void *arg, const char *name, const struct stat *st, uint64_t next, double keep)
{
	(void)next, (void)keep;
	char *out = arg;
	if (name[0] == '.')
		return 0;
	strcat(out, name);
	strcat(out, S_ISDIR(st->st_mode) ? "/ " : " ");
	return 0;
}

static const char *list(struct fs_tree *t, const char *path)
{
	static char out[4096];
	struct stat st;
	out[0] = 0;
	int r = look(t, path, &st);
	if (r == 0)
		r = ASK(fs_tree_opendir(t, st.st_ino, w));
	if (r < 0)
		return strerror(-r);
	CHECK(fs_tree_readdir(t, st.st_ino, 2, collect, out) == 0);
	return out;
}
#define LISTS(t, path, names) CHECK_MSG(strcmp(list(t, path), names) == 0, "%s: %s", path, list(t, path))

static struct fs_tree *tree(struct config_secret *c, size_t n)
{
	struct config_mount m = {
		.path = (char *)"/m", .vault = (char *)"v", .mode = 0400, .secrets = c, .n_secrets = n
	};
	for (size_t i = 0; i < n; i++)
		c[i].uid = c[i].gid = (uid_t)-1;
	struct fs_tree *t;
	CHECK_MSG(fs_tree_new(&m, cache, &vault, &t, &e) == 0, "%s", e.msg);
	return t;
}

/* The vault is asked again for all that is known, and has answered when this returns. */
static void refresh(void)
{
	size_t before;
	struct vault_cache_stats st;
	vault_cache_get_stats(cache, &st);
	{
		SCOPED_LOCK(&lock);
		before = n_questions;
	}
	vault_cache_refresh(cache, &vault);
	wait_asked(before + st.entries);
	/* Behind the answers in the loop's queue. */
	for (int i = 0; i < 2; i++)
		CHECK(io_call(io, answer, NULL) == 0);
}

static void clean(struct fs_tree *t)
{
	fs_tree_close_all(t);
	fs_tree_unref(t);
	freeze(false);
	vault_cache_drop(cache, &vault);
	SCOPED_LOCK(&lock);
	n_secrets = 0;
	get_error = list_error = 0;
}

/* --- tests */

static void test_what_is_gone_is_not_shown(void)
{
	set("a/one", "x");
	set("b/one", "x");
	struct config_secret c[] = { { .path = (char *)"a/", .tree = true }, { .path = (char *)"b/one" } };
	struct fs_tree *t = tree(c, 2);
	struct stat st;
	CHECK(open_and_close(t, "a/one/x") == 0 && open_and_close(t, "b/one/x") == 0);
	LISTS(t, "a", "one/ ");
	drop("a/one"); /* the last of its folder: the vault knows neither any more */
	drop("b/one");
	refresh();
	CHECK(look(t, "a/one", &st) == -ENOENT);
	LISTS(t, "a", "");
	CHECK(waits == 0);
	CHECK(look(t, "b/one/x", &st) == -ENOENT);
	set("a/one", "x");
	set("b/one", "x");
	refresh();
	CHECK(open_and_close(t, "a/one/x") == 0 && open_and_close(t, "b/one/x") == 0);
	clean(t);
}

static void test_secret_and_folder_part(void)
{
	set("d", "field");
	set("d/kid", "x");
	set("e", "field");
	struct fs_tree *t = tree(NULL, 0);
	LISTS(t, "d", "field kid/ ");
	drop("d"); /* still a folder */
	refresh();
	LISTS(t, "", "d/ e/ ");
	LISTS(t, "d", "kid/ ");
	set("d", "field");
	drop("d/kid"); /* still a secret */
	refresh();
	LISTS(t, "d", "field ");
	clean(t);
}

static void test_a_field_takes_a_childs_name(void)
{
	set("d", "field");
	set("d/kid", "x");
	struct fs_tree *t = tree(NULL, 0);
	struct stat st;
	LISTS(t, "d", "field kid/ ");
	CHECK(look(t, "d/field", &st) == 0);
	uint64_t field = st.st_ino;
	set("d", "kid");
	refresh();
	/* Who follows the new version first is an open, and the listing did not change. */
	struct fs_handle *h;
	CHECK(ASK(fs_tree_open(t, field, w, &h)) == -ENOENT);
	LISTS(t, "d", "kid kid%/ ");
	CHECK(open_and_close(t, "d/kid%/x") == 0);
	clean(t);
}

static void test_the_configurations_names_stay(void)
{
	set("d", "kid");
	set("other", "x");
	struct config_secret c[] = { { .path = (char *)"d" }, { .path = (char *)"other", .as = (char *)"d/kid" } };
	struct fs_tree *t = tree(c, 2);
	LISTS(t, "d", "kid/ ");
	CHECK(open_and_close(t, "d/kid/x") == 0);
	cleanup_json struct json *j = fs_tree_status(t);
	const struct json *p = json_first(json_get(j, "problems"));
	CHECK(p && strstr(json_string(json_get(p, "message")), "something else of their name"));
	clean(t);
}

static void test_no_is_the_vaults_word_alone(void)
{
	set("d", "field");
	set("d/kid", "x");
	struct config_secret c[] = { { .path = (char *)"d" }, { .path = (char *)"d/", .tree = true } };
	struct fs_tree *t = tree(c, 2);
	struct stat st;
	get_error = -EAGAIN;
	CHECK(look(t, "d/field", &st) == -EIO); /* listed, but its fields cannot be had */
	CHECK(look(t, "d/kid", &st) == 0);
	clean(t);
	set("d", "field");
	set("d/kid", "x");
	t = tree(c, 2);
	list_error = -EACCES;
	CHECK(look(t, "d/field", &st) == 0);
	CHECK(look(t, "d/kid", &st) == -EACCES);
	list_error = 0;
	clean(t);
}

/* As fs/ops.c does: asks again on the loop, from within the resumption. */
struct again {
	struct fs_wait w; /* first */
	struct fs_tree *t;
	unsigned tries;
	int r;
	pthread_cond_t cond;
};

static void opendir_again(struct fs_wait *w, int r)
{
	struct again *x = (struct again *)w;
	x->tries++;
	if (r == 0)
		r = fs_tree_opendir(x->t, 1, w);
	if (r == -EINPROGRESS)
		return;
	SCOPED_LOCK(&lock);
	x->r = r;
	pthread_cond_signal(&x->cond);
}

static void test_many_optional(void)
{
	enum { N = 40 };
	static char path[N][16];
	struct config_secret c[N] = { 0 };
	for (int i = 0; i < N; i++) {
		(void)snprintf(path[i], sizeof path[i], "opt%d", i);
		c[i] = (struct config_secret){ .path = path[i], .optional = true };
	}
	set("opt7", "x");
	set("opt33", "x");
	struct fs_tree *t = tree(c, N);
	freeze(true);
	fs_tree_prefetch(t);
	struct again x = { .w.resume = opendir_again, .t = t, .r = 1, .cond = PTHREAD_COND_INITIALIZER };
	CHECK(fs_tree_opendir(t, 1, &x.w) == -EINPROGRESS);
	freeze(false);
	{
		SCOPED_LOCK(&lock);
		while (x.r == 1)
			pthread_cond_wait(&x.cond, &lock);
	}
	CHECK(x.r == 0);
	CHECK_MSG(x.tries <= 4, "%u tries", x.tries); /* fs/ops.c gives up after 16 */
	LISTS(t, "", "opt7/ opt33/ ");
	clean(t);
}

static void test_optional_beside_a_frozen_vault(void)
{
	set("here", "x");
	set("plain", "x");
	struct config_secret c[] = {
		{ .path = (char *)"here", .optional = true },
		{ .path = (char *)"later", .optional = true },
		{ .path = (char *)"plain" },
	};
	struct fs_tree *t = tree(c, 3);
	struct stat st;
	LISTS(t, "", "here/ plain/ ");
	vault_cache_drop(cache, &vault); /* nothing is cached any more */
	freeze(true);
	LISTS(t, "", "here/ plain/ ");
	CHECK(waits == 0); /* known before: answered as it was */
	CHECK(look(t, "here", &st) == 0 && waits == 0);
	set("later", "x");
	drop("here");
	freeze(false);
	struct timespec pause = { .tv_nsec = 10000000 }; /* nothing tells of the background's answer */
	for (int i = 0; strcmp(list(t, ""), "later/ plain/ ") != 0; i++) {
		CHECK(i < WAIT_S * 100);
		nanosleep(&pause, NULL);
	}
	clean(t);
}

struct known {
	pthread_cond_t cond;
	bool done;
};

static void listed(void *arg, int r, struct vault_listing *l, const struct err *why)
{
	(void)r, (void)l, (void)why;
	struct known *k = arg;
	SCOPED_LOCK(&lock);
	k->done = true;
	pthread_cond_signal(&k->cond);
}

static size_t lines(int fd)
{
	char c;
	size_t n = 0;
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	while (read(fd, &c, 1) == 1)
		n += c == '\n';
	return n;
}

static void test_failing_reads_do_not_fill_the_log(void)
{
	enum { N = 100 };
	static char path[N][16];
	struct config_secret c[N] = { 0 };
	char name[] = "/tmp/ct-log-XXXXXX";
	cleanup_close int fd = mkstemp(name);
	CHECK(fd >= 0 && unlink(name) == 0);
	log_init("test", LOG_INFO, LOG_TEXT, fd);
	for (int i = 0; i < N; i++) {
		(void)snprintf(path[i], sizeof path[i], "p%d", i);
		c[i] = (struct config_secret){ .path = path[i] };
	}
	struct fs_tree *t = tree(c, N);
	struct stat st;
	get_error = -EAGAIN;
	char file[32];
	for (int i = 0; i < 5 * N; i++) {
		(void)snprintf(file, sizeof file, "%s/x", path[i % N]);
		CHECK(look(t, file, &st) == -EIO);
	}
	size_t n = lines(fd);
	CHECK_MSG(n >= 64 && n <= 66, "%zu lines", n);
	cleanup_json struct json *j = fs_tree_status(t);
	CHECK(json_int(json_get(j, "n_problems"), 0) == 64);
	clean(t);
	log_init("test", LOG_INFO, LOG_TEXT, STDERR_FILENO);
}

static void test_deep_folders(void)
{
	static char deep[VAULT_PATH_MAX];
	size_t n = 0;
	while (n + 4 < sizeof deep) {
		deep[n++] = 'a';
		deep[n++] = '/';
	}
	deep[n++] = 'z';
	set(deep, "x");
	/* Everything but the two uppermost folders is listed: what the background finds at once, it goes through at once. */
	char folder[VAULT_PATH_MAX];
	for (size_t i = 4; i < n; i += 2) {
		struct vault_listing *l = NULL;
		memcpy(folder, deep, i);
		folder[i] = 0;
		struct known k = { .cond = PTHREAD_COND_INITIALIZER };
		if (vault_cache_list(cache, &vault, folder, &l, listed, &k, &e) == 0) {
			SCOPED_LOCK(&lock);
			while (!k.done)
				pthread_cond_wait(&k.cond, &lock);
		}
		vault_listing_unref(l);
	}
	struct fs_tree *t = tree(NULL, 0);
	fs_tree_prefetch(t);
	LISTS(t, "", "a/ ");
	clean(t);
}

int main(void)
{
	CHECK_MSG(secmem_init(SECMEM_REQUIRED, &e) == 0, "%s", e.msg);
	CHECK_MSG(io_new(&io, &e) == 0, "%s", e.msg);
	vault.io = io;
	struct vault_cache_conf conf = { .wait_ms = 5000 };
	CHECK_MSG(vault_cache_new(io, &conf, &cache, &e) == 0, "%s", e.msg);
	test_what_is_gone_is_not_shown();
	test_secret_and_folder_part();
	test_a_field_takes_a_childs_name();
	test_the_configurations_names_stay();
	test_no_is_the_vaults_word_alone();
	test_many_optional();
	test_optional_beside_a_frozen_vault();
	test_failing_reads_do_not_fill_the_log();
	test_deep_folders();
	vault_cache_free(cache);
	io_free(io);
	puts("tree, changing: ok");
	return 0;
}
