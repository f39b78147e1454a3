/* SPDX-License-Identifier: Apache-2.0 */
/* What a mount shows, over a real sealed vault and the real cache, without FUSE. */
#include "base/cleanup.h"
#include "fs/tree.h"
#include "tests/unit/check.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct io *io;
static struct vault_cache *cache;
static struct vault_backend *vault;
static struct err e;

static void put(const char *path, const char *const *pairs)
{
	struct vault_field f[16];
	size_t n = 0;
	for (; pairs[n * 2]; n++)
		f[n] = (struct vault_field){ pairs[n * 2], strlen(pairs[n * 2]), (const uint8_t *)pairs[n * 2 + 1],
					     strlen(pairs[n * 2 + 1]) };
	cleanup_secret struct vault_secret *s = NULL;
	CHECK_MSG(vault_secret_new(f, n, 0, 0, &s, &e) == 0, "%s", e.msg);
	CHECK_MSG(vault_put_sync(vault, path, s, VAULT_CAS_ANY, NULL, &e) == 0, "%s", e.msg);
}
#define PUT(path, ...) put(path, (const char *const[]){ __VA_ARGS__, NULL })

/* The cache tells of every change; a test waits for the next. */
static pthread_mutex_t change_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned changes;

static void on_change(void *arg, struct vault_backend *b, const char *path, int r, const struct err *why)
{
	(void)arg, (void)b, (void)path, (void)r, (void)why;
	SCOPED_LOCK(&change_lock);
	changes++;
	pthread_cond_signal(&changed);
}

static void wait_change(unsigned seen)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	SCOPED_LOCK(&change_lock);
	while (changes == seen)
		CHECK(pthread_cond_timedwait(&changed, &change_lock, &until) == 0);
}

/* A wait that the test itself waits for. */
struct waiting {
	struct fs_wait w; /* first */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool resumed;
	int r;
};

static void resumed(struct fs_wait *w, int r)
{
	struct waiting *x = (struct waiting *)w;
	SCOPED_LOCK(&x->lock);
	x->resumed = true;
	x->r = r;
	pthread_cond_signal(&x->cond);
}

#define ASK(call) \
	({ \
		int r_; \
		for (;;) { \
			struct waiting x = { .w.resume = resumed, \
					     .lock = PTHREAD_MUTEX_INITIALIZER, \
					     .cond = PTHREAD_COND_INITIALIZER }; \
			struct fs_wait *w = &x.w; \
			r_ = (call); \
			if (r_ != -EINPROGRESS) \
				break; \
			pthread_mutex_lock(&x.lock); \
			while (!x.resumed) \
				pthread_cond_wait(&x.cond, &x.lock); \
			pthread_mutex_unlock(&x.lock); \
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
	*st = (struct stat){ .st_ino = 1 };
	while (*path) {
		size_t n = strcspn(path, "/");
		memcpy(part, path, n);
		part[n] = 0;
		path += n + (path[n] == '/');
		double keep;
		int r = ASK(fs_tree_lookup(t, at, part, w, st, &keep));
		if (r < 0)
			return r;
		at = st->st_ino;
	}
	return 0;
}

static struct fs_handle *open_file(struct fs_tree *t, const char *path)
{
	struct stat st;
	struct fs_handle *h = NULL;
	int r = look(t, path, &st);
	if (r == 0)
		r = ASK(fs_tree_open(t, st.st_ino, w, &h));
	errno = -r;
	return r < 0 ? NULL : h;
}

static bool holds(const struct fs_handle *h, const char *text)
{
	return h && h->len == strlen(text) && memcmp(h->data, text, h->len) == 0;
}

static bool reads(struct fs_tree *t, const char *path, const char *text)
{
	struct fs_handle *h = open_file(t, path);
	bool ok = holds(h, text);
	if (h)
		fs_tree_close(t, h);
	return ok;
}

static int collect(void *arg, const char *name, const struct stat *st, uint64_t next, double keep)
{
	(void)next, (void)keep;
	char *out = arg;
	strcat(out, name);
	strcat(out, S_ISDIR(st->st_mode) ? "/ " : " ");
	return 0;
}

static const char *list(struct fs_tree *t, const char *path)
{
	static char out[4096];
	struct stat st;
	out[0] = 0;
	if (look(t, path, &st) < 0)
		return "(not there)";
	int r = ASK(fs_tree_opendir(t, st.st_ino, w));
	if (r < 0)
		return strerror(-r);
	CHECK(fs_tree_readdir(t, st.st_ino, 2, collect, out) == 0);
	return out;
}

static struct fs_tree *tree(struct config_secret *secrets, size_t n)
{
	struct config_mount m = { .path = (char *)"/m",
				  .vault = (char *)"v",
				  .mode = 0400,
				  .uid = 7,
				  .gid = 8,
				  .secrets = secrets,
				  .n_secrets = n };
	for (size_t i = 0; i < n; i++) {
		if (!secrets[i].uid)
			secrets[i].uid = (uid_t)-1;
		if (!secrets[i].gid)
			secrets[i].gid = (gid_t)-1;
	}
	struct fs_tree *t;
	CHECK_MSG(fs_tree_new(&m, cache, vault, &t, &e) == 0, "%s", e.msg);
	return t;
}

static void test_whole_vault(void)
{
	PUT("app/db", "password", "hunter2", "user", "bob");
	PUT("app/db/user", "x", "y");
	PUT("app/db/other", "x", "z");
	struct fs_tree *t = tree(NULL, 0);
	struct stat st;
	CHECK(reads(t, "app/db/password", "hunter2"));
	CHECK(reads(t, "app/db/.version", "1\n"));
	CHECK(reads(t, "app/db/user", "bob"));	/* the field wins */
	CHECK(reads(t, "app/db/user%/x", "y")); /* the child appears beside it */
	CHECK(reads(t, "app/db/other/x", "z"));
	CHECK(look(t, "app/nothing", &st) == -ENOENT);
	CHECK(look(t, "app/db/password/x", &st) == -ENOTDIR);
	CHECK(look(t, "app/db/password", &st) == 0 && st.st_size == 7 && st.st_mode == (S_IFREG | 0400) &&
	      st.st_uid == 7);
	CHECK(look(t, "app", &st) == 0 && st.st_mode == (S_IFDIR | 0500) && st.st_gid == 8);
	CHECK(strcmp(list(t, "app"), "db/ ") == 0);
	CHECK(strcmp(list(t, "app/db"), "password user other/ user%/ .json .version ") == 0);
	fs_tree_unref(t);
}

static void test_configured(void)
{
	PUT("app/tls", "certificate", "aGVsbG8=", "key", "k", "bad", "!!!");
	PUT("lib/a", "x", "1");
	struct config_rename fields[] = { { (char *)"key", (char *)"tls.key" } };
	char *binary[] = { (char *)"certificate", (char *)"bad" };
	struct config_secret c[] = {
		{ .path = (char *)"app/tls",
		  .as = (char *)"tls/server",
		  .fields = fields,
		  .n_fields = 1,
		  .mode = 0440,
		  .uid = 5 },
		{ .path = (char *)"app/tls", .as = (char *)"bin", .binary = binary, .n_binary = 2 },
		{ .path = (char *)"lib/", .tree = true, .as = (char *)"lib" },
		{ .path = (char *)"not/there", .as = (char *)"optional", .optional = true },
		{ .path = (char *)"not/there", .as = (char *)"required" },
	};
	struct fs_tree *t = tree(c, 5);
	fs_tree_prefetch(t);
	struct stat st;
	CHECK(reads(t, "tls/server/tls.key", "k"));
	CHECK(look(t, "tls/server/key", &st) == -ENOENT);
	CHECK(look(t, "tls/server/tls.key", &st) == 0 && st.st_mode == (S_IFREG | 0440) && st.st_uid == 5 &&
	      st.st_gid == 8);
	CHECK(look(t, "tls/server", &st) == 0 && st.st_mode == (S_IFDIR | 0550));
	CHECK(reads(t, "bin/certificate", "hello"));
	CHECK(look(t, "bin/certificate", &st) == 0 && st.st_size == 5);
	CHECK(!open_file(t, "bin/bad") && errno == EIO);
	CHECK(reads(t, "lib/a/x", "1"));
	CHECK(look(t, "optional", &st) == -ENOENT);
	CHECK(look(t, "required", &st) == 0);
	CHECK(look(t, "required/password", &st) == -ENOENT);
	CHECK(strcmp(list(t, ""), "tls/ bin/ lib/ required/ ") == 0);
	unsigned seen = changes;
	PUT("not/there", "now", "it is");
	vault_cache_refresh(cache, vault);
	for (; !reads(t, "optional/now", "it is"); seen = changes) /* the vault's "no" is remembered for a moment */
		wait_change(seen);
	CHECK(strcmp(list(t, ""), "tls/ bin/ lib/ optional/ required/ ") == 0);
	fs_tree_unref(t);
}

static void test_versions(void)
{
	PUT("v", "x", "a longer value", "gone", "1");
	struct fs_tree *t = tree(NULL, 0);
	struct fs_handle *old = open_file(t, "v/x");
	struct fs_handle *gone = open_file(t, "v/gone");
	CHECK(holds(old, "a longer value") && holds(gone, "1"));
	unsigned seen = changes;
	PUT("v", "x", "short", "new", "2");
	vault_cache_refresh(cache, vault);
	for (; !reads(t, "v/x", "short"); seen = changes)
		wait_change(seen);
	struct stat st;
	CHECK(holds(old, "a longer value"));
	CHECK(look(t, "v/x", &st) == 0 && st.st_size == 14); /* the largest of the open versions */
	CHECK(reads(t, "v/new", "2"));
	CHECK(look(t, "v/gone", &st) == -ENOENT);
	CHECK(holds(gone, "1"));
	uint64_t ino = st.st_ino;
	CHECK(fs_tree_getattr(t, ino, &st) == 0);
	fs_tree_close(t, old);
	CHECK(look(t, "v/x", &st) == 0 && st.st_size == 5);
	fs_tree_close(t, gone);
	CHECK(strcmp(list(t, "v"), "x new .json .version ") == 0);
	fs_tree_unref(t);
}

static void test_awkward_names(void)
{
	char longest[300];
	memset(longest, 'n', sizeof longest);
	longest[299] = 0;
	struct vault_field f[] = {
		{ "..", 2, (const uint8_t *)"dots", 4 },
		{ "a/b", 3, (const uint8_t *)"slash", 5 },
		{ "n\0l", 3, (const uint8_t *)"nul", 3 },
		{ "%2F", 3, (const uint8_t *)"percent", 7 },
		{ ".json", 5, (const uint8_t *)"not a view", 10 },
		{ longest, 299, (const uint8_t *)"too long", 8 },
		{ "empty", 5, (const uint8_t *)"", 0 },
		{ "\xc3\xa9", 2, (const uint8_t *)"unicode", 7 },
	};
	cleanup_secret struct vault_secret *s = NULL;
	CHECK(vault_secret_new(f, 8, 0, 0, &s, &e) == 0);
	CHECK_MSG(vault_put_sync(vault, "awk", s, VAULT_CAS_ANY, NULL, &e) == 0, "%s", e.msg);
	struct fs_tree *t = tree(NULL, 0);
	CHECK(reads(t, "awk/%2E%2E", "dots"));
	CHECK(reads(t, "awk/a%2Fb", "slash"));
	CHECK(reads(t, "awk/n%00l", "nul"));
	CHECK(reads(t, "awk/%252F", "percent"));
	CHECK(reads(t, "awk/%2Ejson", "not a view"));
	CHECK(reads(t, "awk/empty", ""));
	CHECK(reads(t, "awk/\xc3\xa9", "unicode"));
	cleanup_json struct json *j = fs_tree_status(t);
	const struct json *p = json_first(json_get(j, "problems"));
	CHECK(p && strcmp(json_string(json_get(p, "path")), "awk") == 0);
	CHECK(strstr(json_string(json_get(p, "message")), "longer than 255"));
	fs_tree_unref(t);
}

int main(void)
{
	CHECK_MSG(secmem_init(SECMEM_REQUIRED, &e) == 0, "%s", e.msg);
	CHECK_MSG(io_new(&io, &e) == 0, "%s", e.msg);
	struct vault_cache_conf conf = { .wait_ms = 5000 };
	CHECK_MSG(vault_cache_new(io, &conf, &cache, &e) == 0, "%s", e.msg);
	vault_cache_observe(cache, on_change, NULL);
	char folder[] = "/tmp/ct-tree-XXXXXX", file[64];
	CHECK(mkdtemp(folder));
	(void)snprintf(file, sizeof file, "%s/vault", folder);
	struct vault_sealed_kdf kdf = { .mem_mib = 8, .ops = 1 };
	CHECK_MSG(vault_sealed_init(file, "pw", 2, &kdf, &e) == 0, "%s", e.msg);
	struct vault_sealed_conf sc = { .name = "v", .file = file, .refresh_s = 1, .max_stale_s = 3600 };
	CHECK_MSG(vault_sealed_open(io, &sc, "pw", 2, &vault, &e) == 0, "%s", e.msg);
	test_whole_vault();
	vault_cache_drop(cache, vault);
	test_configured();
	vault_cache_drop(cache, vault);
	test_versions();
	vault_cache_drop(cache, vault);
	test_awkward_names();
	vault_cache_drop(cache, vault);
	vault_cache_free(cache);
	vault_backend_close_sync(vault);
	io_free(io);
	unlink(file);
	strcat(file, ".lock");
	unlink(file);
	rmdir(folder);
	puts("tree: ok");
	return 0;
}
