/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The OpenBao backend as a program, for tests: reads commands, a JSON array a line, and answers each with a JSON object
 * a line. Start: vaultcat '{"address": ..., "token_file": ..., ...}'
 *
 *   ["get", "app/db"]               ["list", "app/"]          ["put", "app/db", {fields}, cas or -1]
 *   ["del", "app/db"]               ["check"]                 ["status"]
 *   ["many", "app/db", n]           n reads at once: milliseconds, and the peak of secret memory meanwhile
 *   ["close"]                       closes the backend with a read under way, and ends
 *
 * Answers: {"r": 0 or negative errno, "errno": "ENOENT", "error": sentence, ...}. Field names and values are base64.
 */
#include "base/cleanup.h"
#include "base/json.h"
#include "base/secmem.h"
#include "vault/backend.h"

#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct io *io;
static struct vault_backend *backend;

static void die(const char *what, const struct err *e)
{
	fprintf(stderr, "vaultcat: %s: %s\n", what, e ? e->msg : "");
	exit(1);
}

static struct json *base64(const void *p, size_t n)
{
	size_t size = sodium_base64_encoded_len(n, sodium_base64_VARIANT_ORIGINAL);
	cleanup_sec char *text = sec_malloc(size);
	if (!text)
		die("base64", NULL);
	return json_of_string(sodium_bin2base64(text, size, p, n, sodium_base64_VARIANT_ORIGINAL));
}

static void add(struct json *obj, const char *name, struct json *v)
{
	if (json_set(obj, name, v) < 0)
		die("out of memory", NULL);
}

static void answer(struct json *j)
{
	size_t len;
	cleanup_sec char *text = json_print(j, false, &len);
	if (!text)
		die("out of memory", NULL);
	text[len++] = '\n';
	for (size_t at = 0; at < len;) {
		ssize_t n = write(1, text + at, len - at);
		if (n < 0 && errno != EINTR)
			exit(1);
		if (n > 0)
			at += (size_t)n;
	}
	json_free(j);
}

static struct json *result(int r, const struct err *e)
{
	struct json *j = json_object();
	add(j, "r", json_of_int(r));
	add(j, "errno", json_of_string(r < 0 ? strerrorname_np(-r) : ""));
	add(j, "error", json_of_string(r < 0 ? e->msg : ""));
	return j;
}

static void do_get(const char *path)
{
	struct err e = ERR_INIT;
	cleanup_secret struct vault_secret *s = NULL;
	int r = vault_get_sync(backend, path, &s, &e);
	struct json *j = result(r, &e);
	if (r == 0) {
		struct json *fields = json_array();
		for (size_t i = 0; i < vault_secret_count(s); i++) {
			const struct vault_field *f = vault_secret_at(s, i);
			struct json *pair = json_array();
			if (json_append(pair, base64(f->name, f->name_len)) < 0 ||
			    json_append(pair, base64(f->value, f->len)) < 0 || json_append(fields, pair) < 0)
				die("out of memory", NULL);
		}
		add(j, "fields", fields);
		add(j, "version", json_of_int((int64_t)vault_secret_version(s)));
		add(j, "created", json_of_int(vault_secret_created(s)));
	}
	answer(j);
}

static void do_list(const char *folder)
{
	struct err e = ERR_INIT;
	struct vault_names *names = NULL;
	int r = vault_list_sync(backend, folder, &names, &e);
	struct json *j = result(r, &e);
	if (r == 0) {
		struct json *a = json_array();
		for (size_t i = 0; i < names->n; i++)
			if (json_append(a, json_of_string(names->name[i])) < 0)
				die("out of memory", NULL);
		add(j, "names", a);
		vault_names_free(names);
	}
	answer(j);
}

static void do_put(const char *path, const struct json *fields, int64_t cas)
{
	struct err e = ERR_INIT;
	cleanup_secret struct vault_secret *s = NULL;
	uint64_t version = 0;
	int r = vault_secret_from_json(fields, 1, 0, &s, &e);
	if (r == 0)
		r = vault_put_sync(backend, path, s, cas < 0 ? VAULT_CAS_ANY : (uint32_t)cas, &version, &e);
	struct json *j = result(r, &e);
	add(j, "version", json_of_int((int64_t)version));
	answer(j);
}

struct many {
	const char *path;
	unsigned n, left, failed;
	size_t peak;
	struct io_timer *timer;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	struct err first;
};

static void sample(void *arg)
{
	struct many *m = arg;
	struct secmem_stats s;
	secmem_get_stats(&s);
	if (s.used > m->peak)
		m->peak = s.used;
	m->timer = m->left > 0 ? io_after(io, 1, sample, m) : NULL;
}

static void on_many(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	(void)s;
	struct many *m = arg;
	if (r < 0 && m->failed++ == 0)
		m->first = *e;
	if (--m->left > 0)
		return;
	io_cancel(io, m->timer);
	SCOPED_LOCK(&m->lock);
	m->done = true;
	pthread_cond_signal(&m->cond);
}

static void start_many(void *arg)
{
	struct many *m = arg;
	m->left = m->n;
	for (unsigned i = 0; i < m->n; i++)
		backend->ops->get(backend, m->path, on_many, m);
	sample(m);
}

static void do_many(const char *path, unsigned n)
{
	struct many m = { .path = path, .n = n, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
	struct secmem_stats s;
	secmem_get_stats(&s);
	uint64_t from = io_now_ms();
	if (io_post(io, start_many, &m) < 0)
		die("post", NULL);
	pthread_mutex_lock(&m.lock);
	while (!m.done)
		pthread_cond_wait(&m.cond, &m.lock);
	pthread_mutex_unlock(&m.lock);
	struct json *j = result(m.failed ? -m.first.code : 0, &m.first);
	add(j, "ms", json_of_int((int64_t)(io_now_ms() - from)));
	add(j, "failed", json_of_int(m.failed));
	add(j, "peak", json_of_int((int64_t)(m.peak - s.used)));
	answer(j);
}

static void do_check(void)
{
	struct err e = ERR_INIT;
	answer(result(vault_check_sync(backend, &e), &e));
}

static void do_del(const char *path)
{
	struct err e = ERR_INIT;
	answer(result(vault_del_sync(backend, path, &e), &e));
}

static void get_status(void *arg)
{
	*(struct json **)arg = backend->ops->status(backend);
}

static void do_status(void)
{
	struct json *j = NULL;
	if (io_call(io, get_status, &j) < 0 || !j)
		die("status", NULL);
	answer(j);
}

static void on_closed(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	(void)s;
	*(struct json **)arg = result(r, e);
}

static void close_under_way(void *arg)
{
	backend->ops->get(backend, "some/path", on_closed, arg);
	backend->ops->close(backend);
}

static void do_close(void)
{
	struct json *j = NULL;
	if (io_call(io, close_under_way, &j) < 0 || !j)
		die("close", NULL);
	answer(j);
}

/* One line of standard input, in secret memory; NULL at the end. */
static char *read_line(size_t *ret_len)
{
	static char *kept;
	static size_t have, room;
	for (;;) {
		char *end = have ? memchr(kept, '\n', have) : NULL;
		if (end) {
			size_t n = (size_t)(end - kept);
			char *line = sec_strndup(kept, n);
			memmove(kept, end + 1, have - n - 1);
			have -= n + 1;
			*ret_len = n;
			return line;
		}
		if (have == room) {
			room = room ? 2 * room : 65536;
			kept = sec_realloc(kept, room);
			if (!kept)
				die("out of memory", NULL);
		}
		ssize_t n = read(0, kept + have, room - have);
		if (n <= 0)
			return NULL;
		have += (size_t)n;
	}
}

static void open_backend(const char *text)
{
	struct err e = ERR_INIT;
	cleanup_json struct json *j = NULL;
	if (json_parse(text, strlen(text), 1 << 20, &j, &e) < 0)
		die("configuration", &e);
#define STRING(name) json_string(json_get(j, name))
	const struct vault_openbao_conf conf = {
		.name = "test",
		.address = STRING("address"),
		.kv_mount = STRING("kv_mount"),
		.namespace_ = STRING("namespace"),
		.token_file = STRING("token_file"),
		.token = STRING("token"),
		.ca_file = STRING("ca_file"),
		.cert_file = STRING("cert_file"),
		.key_file = STRING("key_file"),
		.server_name = STRING("server_name"),
		.connect_timeout_ms = (unsigned)json_int(json_get(j, "connect_timeout_ms"), 0),
		.timeout_ms = (unsigned)json_int(json_get(j, "timeout_ms"), 0),
		.max_connections = (unsigned)json_int(json_get(j, "max_connections"), 0),
		.refresh_s = 60,
		.max_stale_s = 60,
	};
	int r = vault_openbao_open(io, &conf, &backend, &e);
	answer(result(r, &e));
	if (r < 0)
		exit(0);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	if (argc != 2)
		die("usage: vaultcat CONFIGURATION", NULL);
	if (secmem_init(SECMEM_PREFERRED, &e) < 0 || io_new(&io, &e) < 0)
		die("start", &e);
	open_backend(argv[1]);
	for (;;) {
		size_t len = 0;
		cleanup_sec char *line = read_line(&len);
		cleanup_json struct json *j = NULL;
		if (!line)
			break;
		if (json_parse(line, len, 64 << 20, &j, &e) < 0)
			die("command", &e);
		const struct json *first = json_first(j), *second = json_next(first),
				  *third = second ? json_next(second) : NULL;
		const char *command = json_string(first), *path = json_string(second);
		if (strcmp(command, "get") == 0)
			do_get(path);
		else if (strcmp(command, "list") == 0)
			do_list(path);
		else if (strcmp(command, "put") == 0)
			do_put(path, third, json_int(json_next(third), -1));
		else if (strcmp(command, "del") == 0)
			do_del(path);
		else if (strcmp(command, "many") == 0)
			do_many(path, (unsigned)json_int(third, 1));
		else if (strcmp(command, "check") == 0)
			do_check();
		else if (strcmp(command, "status") == 0)
			do_status();
		else if (strcmp(command, "close") == 0) {
			do_close();
			backend = NULL;
			break;
		} else {
			die("unknown command", NULL);
		}
	}
	vault_backend_close_sync(backend);
	io_free(io);
	return 0;
}
