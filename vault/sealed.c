/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backend of a sealed file: a queue in front of sealed_file.c. A call only queues; a timer of 0 ms runs the queue,
 * so that no answer comes from within the call. Reads are answered where they stand; a write that finds the lock taken
 * steps aside (reads go on) and tries again every few milliseconds, for LOCK_WAIT_MS at most. Every attempt holds the
 * lock within one run of the timer, so a backend never waits for itself.
 */
#include "vault/backend.h"
#include "vault/sealed_file.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	LOCK_WAIT_MS = 5000,
	RUN_MAX = 64, /* operations in one turn of the loop, which has other work too */
};

enum op_kind { OP_GET, OP_LIST, OP_PUT, OP_DEL, OP_CHECK };

struct op {
	struct op *next;
	enum op_kind kind;
	char *path; /* of a list: the folder */
	struct vault_secret *secret;
	uint32_t cas;
	uint64_t give_up; /* io_now_ms; 0: not tried yet */
	union {
		vault_get_fn *get;
		vault_list_fn *list;
		vault_done_fn *done;
	};
	void *arg;
};

struct sealed {
	struct vault_backend base;
	char *name;
	struct sealed_file *file;
	struct op *head, **tail;
	struct io_timer *timer;
	bool *gone;	       /* set when a callback closed the backend under a running queue */
	struct err last_error; /* code 0: the vault answered when last asked */
};

static struct sealed *sealed_of(struct vault_backend *b)
{
	return (struct sealed *)b; /* its first member */
}

static void op_free(struct op *op)
{
	vault_secret_unref(op->secret);
	free(op->path);
	free(op);
}

static void op_fail(const struct op *op, int r, const struct err *e)
{
	switch (op->kind) {
	case OP_GET:
		op->get(op->arg, r, NULL, e);
		break;
	case OP_LIST:
		op->list(op->arg, r, NULL, e);
		break;
	default:
		op->done(op->arg, r, 0, e);
	}
}

static void run_queue(void *arg);

static bool wake(struct sealed *s, unsigned ms)
{
	if (!s->timer)
		s->timer = io_after(s->base.io, ms, run_queue, s);
	return s->timer;
}

/* Takes its reference of `secret` itself. */
static void queue(struct vault_backend *b, struct op op, const char *path, struct vault_secret *secret)
{
	struct sealed *s = sealed_of(b);
	cleanup_free char *copy = strdup(path);
	struct op *o = malloc(sizeof *o);
	if (!copy || !o || !wake(s, 0)) {
		/* Nothing can be queued, not even the answer: the one case where it comes at once. */
		struct err e = ERR_INIT;
		int r = err_set(&e, ENOMEM, "vault %s: no memory for a request", s->name);
		free(o);
		op_fail(&op, r, &e);
		return;
	}
	*o = op;
	o->path = TAKE_PTR(copy);
	o->secret = secret ? vault_secret_ref(secret) : NULL;
	*s->tail = o;
	s->tail = &o->next;
}

static void sealed_get(struct vault_backend *b, const char *path, vault_get_fn *done, void *arg)
{
	queue(b, (struct op){ .kind = OP_GET, .get = done, .arg = arg }, path, NULL);
}

static void sealed_list(struct vault_backend *b, const char *folder, vault_list_fn *done, void *arg)
{
	queue(b, (struct op){ .kind = OP_LIST, .list = done, .arg = arg }, folder, NULL);
}

static void sealed_put(struct vault_backend *b, const char *path, struct vault_secret *s, uint32_t cas,
		       vault_done_fn *done, void *arg)
{
	queue(b, (struct op){ .kind = OP_PUT, .cas = cas, .done = done, .arg = arg }, path, s);
}

static void sealed_del(struct vault_backend *b, const char *path, vault_done_fn *done, void *arg)
{
	queue(b, (struct op){ .kind = OP_DEL, .done = done, .arg = arg }, path, NULL);
}

static void sealed_check(struct vault_backend *b, vault_done_fn *done, void *arg)
{
	queue(b, (struct op){ .kind = OP_CHECK, .done = done, .arg = arg }, "", NULL);
}

/* ---- running ---- */

static int refresh(struct sealed *s, struct err *e)
{
	int r = sealed_file_refresh(s->file, e);
	if (r < 0)
		s->last_error = *e;
	else
		s->last_error.code = 0;
	return r;
}

static void run_get(struct sealed *s, const struct op *op)
{
	struct err e = ERR_INIT;
	cleanup_secret struct vault_secret *secret = NULL;
	int r = vault_path_check(op->path, false, &e);
	if (!r)
		r = refresh(s, &e);
	if (!r) {
		r = sealed_file_get(s->file, op->path, &secret, &e);
		if (r == -EBADMSG)
			s->last_error = e;
	}
	op->get(op->arg, r, secret, &e);
}

static void run_list(struct sealed *s, const struct op *op)
{
	struct err e = ERR_INIT;
	struct vault_names *names = NULL;
	size_t len = strlen(op->path);
	int r = vault_path_check(op->path, true, &e);
	if (!r && len && op->path[len - 1] != '/')
		r = err_set(&e, EINVAL, "\"%.200s\": the name of a folder ends in '/'", op->path);
	if (!r)
		r = refresh(s, &e);
	if (!r) {
		r = sealed_index_list(sealed_file_index(s->file), op->path, &names, &e);
		if (r == -ENOENT)
			r = err_set(&e, r, "%s holds nothing in %.200s", sealed_file_path(s->file), op->path);
	}
	op->list(op->arg, r, names, &e);
	vault_names_free(names);
}

/* -EWOULDBLOCK: another writer has the lock. */
static int try_write(struct sealed *s, const struct op *op, uint64_t *version, struct err *e)
{
	int r = vault_path_check(op->path, false, e);
	if (r < 0)
		return r;
	cleanup_close int lock = -1;
	r = sealed_file_lock(s->file, &lock, e);
	/* What others wrote meanwhile has to be in what is written now. */
	if (!r)
		r = refresh(s, e);
	if (r < 0)
		return r;
	return op->kind == OP_PUT ? sealed_file_put(s->file, op->path, op->secret, op->cas, version, e) :
				    sealed_file_del(s->file, op->path, e);
}

/* False: the write has to wait for the lock. */
static bool run_write(struct sealed *s, struct op *op, uint64_t *version, int *ret_r, struct err *e)
{
	int r = try_write(s, op, version, e);
	if (r == -EWOULDBLOCK) {
		if (!op->give_up || io_now_ms() < op->give_up)
			return false;
		r = err_set(e, EAGAIN, "another writer has held %s for %d seconds; find it (fuser %s) or try again",
			    sealed_file_lock_path(s->file), LOCK_WAIT_MS / 1000, sealed_file_lock_path(s->file));
	}
	*ret_r = r;
	return true;
}

static void run_queue(void *arg)
{
	struct sealed *s = arg;
	bool gone = false, locked_out = false, more = false;
	s->timer = NULL;
	s->gone = &gone;
	struct op **at = &s->head;
	for (unsigned done = 0; *at;) {
		struct op *op = *at;
		if (done == RUN_MAX) {
			more = true;
			break;
		}
		bool write = op->kind == OP_PUT || op->kind == OP_DEL;
		struct err e = ERR_INIT;
		uint64_t version = 0;
		int r = 0;
		if (write && (locked_out || !run_write(s, op, &version, &r, &e))) {
			locked_out = true; /* for those behind it too: writes stay in order */
			if (!op->give_up)
				op->give_up = io_now_ms() + LOCK_WAIT_MS;
			at = &op->next;
			continue;
		}
		done++;
		*at = op->next;
		if (!op->next)
			s->tail = at;
		if (op->kind == OP_GET) {
			run_get(s, op);
		} else if (op->kind == OP_LIST) {
			run_list(s, op);
		} else {
			if (op->kind == OP_CHECK)
				r = refresh(s, &e);
			op->done(op->arg, r, version, &e);
		}
		op_free(op);
		if (gone)
			return;
	}
	s->gone = NULL;
	/* The holder may be gone for microseconds only between two writes of its own: look often, never in step. */
	if (s->head && !wake(s, more ? 0 : 1 + randombytes_uniform(4))) {
		struct err e = ERR_INIT;
		int r = err_set(&e, ENOMEM, "vault %s: no memory for a timer", s->name);
		struct op *op = s->head;
		s->head = NULL;
		s->tail = &s->head;
		while (op) {
			struct op *next = op->next;
			op_fail(op, r, &e);
			op_free(op);
			op = next;
		}
	}
}

static struct json *sealed_status(struct vault_backend *b)
{
	struct sealed *s = sealed_of(b);
	struct err e = ERR_INIT;
	bool reachable = !refresh(s, &e) && !s->last_error.code;
	cleanup_json struct json *j = json_object();
	if (!j || json_set(j, "kind", json_of_string("sealed")) < 0 ||
	    json_set(j, "reachable", json_of_bool(reachable)) < 0 ||
	    json_set(j, "records", json_of_int((int64_t)sealed_file_index(s->file)->n)) < 0)
		return NULL;
	/* A file's name need not be UTF-8, and then no JSON string can be it. */
	struct json *file = json_of_string(sealed_file_path(s->file));
	struct json *error = s->last_error.code ? json_of_string(err_msg(&s->last_error, 0)) : json_of_null();
	if (json_set(j, "file", file ? file : json_of_null()) < 0)
		return NULL;
	if (json_set(j, "last_error", error ? error : json_of_null()) < 0)
		return NULL;
	return TAKE_PTR(j);
}

static void sealed_close(struct vault_backend *b)
{
	struct sealed *s = sealed_of(b);
	if (s->gone)
		*s->gone = true;
	while (s->head) {
		struct op *op = s->head;
		s->head = op->next;
		if (!s->head)
			s->tail = &s->head;
		struct err e = ERR_INIT;
		int r = err_set(&e, ECANCELED, "vault %s is being closed", s->name);
		op_fail(op, r, &e);
		op_free(op);
	}
	io_cancel(s->base.io, s->timer);
	sealed_file_free(s->file);
	free(s->name);
	free(s);
}

static const struct vault_backend_ops sealed_ops = {
	.kind = "sealed",
	.get = sealed_get,
	.list = sealed_list,
	.put = sealed_put,
	.del = sealed_del,
	.check = sealed_check,
	.status = sealed_status,
	.close = sealed_close,
};

/* ---- making and opening: on a secret stack, which ciphers and key derivation may spill to ---- */

struct job {
	const char *file;
	const void *passphrase;
	size_t len;
	const struct vault_sealed_kdf *kdf;
	struct sealed_file *opened;
	int r;
	struct err err;
};

static void *create_job(void *arg)
{
	struct job *j = arg;
	j->r = sealed_file_create(j->file, j->passphrase, j->len, j->kdf, &j->err);
	return NULL;
}

static void *open_job(void *arg)
{
	struct job *j = arg;
	j->r = sealed_file_open(j->file, j->passphrase, j->len, &j->opened, &j->err);
	return NULL;
}

static int run_job(void *(*fn)(void *), struct job *j, struct err *e)
{
	int r = secthread_run(fn, j, NULL, 0, e);
	if (r < 0)
		return r;
	if (j->r < 0 && e)
		*e = j->err;
	return j->r;
}

int vault_sealed_init(const char *file, const void *passphrase, size_t len, const struct vault_sealed_kdf *kdf,
		      struct err *e)
{
	struct job j = { .file = file, .passphrase = passphrase, .len = len, .kdf = kdf };
	return run_job(create_job, &j, e);
}

int vault_sealed_open(struct io *io, const struct vault_sealed_conf *conf, const void *passphrase, size_t len,
		      struct vault_backend **ret, struct err *e)
{
	struct sealed *s = calloc(1, sizeof *s);
	cleanup_free char *name = strdup(conf->name ? conf->name : conf->file);
	if (!s || !name) {
		free(s);
		return err_set(e, ENOMEM, "%s: no memory", conf->file);
	}
	struct job j = { .file = conf->file, .passphrase = passphrase, .len = len };
	int r = run_job(open_job, &j, e);
	if (r < 0) {
		free(s);
		return r;
	}
	s->name = TAKE_PTR(name);
	s->file = j.opened;
	s->tail = &s->head;
	s->base = (struct vault_backend){ .ops = &sealed_ops,
					  .io = io,
					  .name = s->name,
					  .refresh_s = conf->refresh_s,
					  .max_stale_s = conf->max_stale_s };
	*ret = &s->base;
	return 0;
}
