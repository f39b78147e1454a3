/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backend called from an ordinary thread: the call is posted to the loop, the caller sleeps until its answer came.
 * The answer is copied out (or referenced) on the loop's thread, before the caller wakes.
 */
#include "vault/backend.h"

#include "base/cleanup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct waiter {
	struct vault_backend *b;
	const char *path;
	struct vault_secret *put;
	uint32_t cas;

	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int r;
	struct vault_secret *secret;
	struct vault_names *names;
	uint64_t version;
	struct err err;
};

void vault_names_free(struct vault_names *n)
{
	if (!n)
		return;
	for (size_t i = 0; i < n->n; i++)
		free(n->name[i]);
	free(n->name);
	free(n);
}

static struct vault_names *names_copy(const struct vault_names *from)
{
	struct vault_names *n = calloc(1, sizeof *n);
	if (!n)
		return NULL;
	n->name = calloc(from->n ? from->n : 1, sizeof *n->name);
	if (!n->name) {
		free(n);
		return NULL;
	}
	for (; n->n < from->n; n->n++) {
		n->name[n->n] = strdup(from->name[n->n]);
		if (!n->name[n->n]) {
			vault_names_free(n);
			return NULL;
		}
	}
	return n;
}

static void answer(struct waiter *w, int r, const struct err *e)
{
	SCOPED_LOCK(&w->lock);
	w->r = r;
	if (r < 0) {
		/* The sentence may be missing, the code may not: a caller may want only w->err. */
		w->err.code = -r;
		(void)snprintf(w->err.msg, sizeof w->err.msg, "%s", err_msg(e, r));
	}
	w->done = true;
	/* Under the lock: once it is free, the waiter may return and take `w` with it. */
	pthread_cond_signal(&w->cond);
}

static void on_get(void *arg, int r, struct vault_secret *s, const struct err *e)
{
	struct waiter *w = arg;
	if (!r)
		w->secret = vault_secret_ref(s);
	answer(w, r, e);
}

static void on_list(void *arg, int r, const struct vault_names *names, const struct err *e)
{
	struct waiter *w = arg;
	if (!r) {
		w->names = names_copy(names);
		if (!w->names) {
			answer(w, -ENOMEM, NULL);
			return;
		}
	}
	answer(w, r, e);
}

static void on_done(void *arg, int r, uint64_t version, const struct err *e)
{
	struct waiter *w = arg;
	w->version = version;
	answer(w, r, e);
}

static void start_get(void *arg)
{
	struct waiter *w = arg;
	w->b->ops->get(w->b, w->path, on_get, w);
}

static void start_list(void *arg)
{
	struct waiter *w = arg;
	w->b->ops->list(w->b, w->path, on_list, w);
}

static void start_put(void *arg)
{
	struct waiter *w = arg;
	w->b->ops->put(w->b, w->path, w->put, w->cas, on_done, w);
}

static void start_del(void *arg)
{
	struct waiter *w = arg;
	w->b->ops->del(w->b, w->path, on_done, w);
}

static void start_check(void *arg)
{
	struct waiter *w = arg;
	w->b->ops->check(w->b, on_done, w);
}

static int wait_for(struct waiter *w, void (*start)(void *), struct err *e)
{
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	int r = io_post(w->b->io, start, w);
	if (r < 0) {
		r = err_sys(e, r, "vault %s: cannot be asked", w->b->name);
	} else {
		{
			SCOPED_LOCK(&w->lock);
			while (!w->done)
				pthread_cond_wait(&w->cond, &w->lock);
		}
		r = w->r;
		if (r < 0 && e)
			*e = w->err;
	}
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->lock);
	return r;
}

int vault_get_sync(struct vault_backend *b, const char *path, struct vault_secret **ret, struct err *e)
{
	struct waiter w = { .b = b, .path = path };
	int r = wait_for(&w, start_get, e);
	if (!r)
		*ret = w.secret;
	return r;
}

int vault_list_sync(struct vault_backend *b, const char *folder, struct vault_names **ret, struct err *e)
{
	struct waiter w = { .b = b, .path = folder };
	int r = wait_for(&w, start_list, e);
	if (!r)
		*ret = w.names;
	return r;
}

int vault_put_sync(struct vault_backend *b, const char *path, struct vault_secret *s, uint32_t cas,
		   uint64_t *ret_version, struct err *e)
{
	struct waiter w = { .b = b, .path = path, .put = s, .cas = cas };
	int r = wait_for(&w, start_put, e);
	if (!r && ret_version)
		*ret_version = w.version;
	return r;
}

int vault_del_sync(struct vault_backend *b, const char *path, struct err *e)
{
	struct waiter w = { .b = b, .path = path };
	return wait_for(&w, start_del, e);
}

int vault_check_sync(struct vault_backend *b, struct err *e)
{
	struct waiter w = { .b = b };
	return wait_for(&w, start_check, e);
}

static void start_close(void *arg)
{
	struct vault_backend *b = arg;
	b->ops->close(b);
}

void vault_backend_close_sync(struct vault_backend *b)
{
	/* Where the loop cannot be reached any more, nobody may touch what belongs to it: better a leak. */
	if (b && io_call(b->io, start_close, b) < 0)
		return;
}
