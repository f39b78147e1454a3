/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP clients on the I/O loop: what waits, what runs, who is told. http.c under it runs the transfers with libcurl.
 *
 * A client holds a pool: one CURLM with the connections, one CURLSH with the TLS sessions (so that further connections
 * resume), one struct tls. Reading the certificates again makes a new pool; the old one goes with its last transfer, so
 * that no connection that was trusted by old certificates is used again. A client runs at most `cap` transfers at once,
 * the others wait in its queue, their deadline counting. Every connection is opened at once: no transfer waits for
 * another's handshake.
 *
 * A connection costs secret memory, idle ones too, so the pool shrinks after a burst: to KEEP_IDLE connections when a
 * moment has passed, to none when nothing was asked for longer.
 *
 * Callbacks of users never run inside libcurl's: a finished transfer is moved to a list, which is delivered after
 * libcurl has returned. A user may free the client in such a callback; hence the reference count.
 */
#include "base/http_internal.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
	CONNECT_TIMEOUT_MS = 5000,
	TIMEOUT_MS = 15000,
	KEEP_IDLE = 4,
	SHRINK_MS = 5000,
	IDLE_MS = 30000,
};
static const size_t BODY_MAX = 8 << 20;

/* --- lists */

static void list_init(struct list *l)
{
	l->first = NULL;
	l->tail = &l->first;
}

static void list_append(struct list *l, struct transfer *t)
{
	t->next = NULL;
	t->link = l->tail;
	*l->tail = t;
	l->tail = &t->next;
}

static void list_remove(struct list *l, struct transfer *t)
{
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	else
		l->tail = t->link;
}

static void transfer_free(struct transfer *t)
{
	http_headers_free(t->headers);
	sec_free(t->url);
	sec_free(t->body);
	sec_free(t->answer);
	sec_free(t);
}
DEFINE_CLEANUP(transfer_free, struct transfer *)

/* Fewer connections are kept when a burst is over, none when nobody asks. */
static void on_idle(void *arg)
{
	struct http_client *c = arg;
	c->idle_timer = NULL;
	uint64_t now = io_now_ms();
	if (c->wide && c->n_running <= KEEP_IDLE && now - c->last_burst >= SHRINK_MS) {
		c->wide = false;
		pool_keep(c->pool, KEEP_IDLE);
	}
	if (c->n_running > 0)
		return; /* the end of a transfer arms the timer again */
	if (now - c->last_use >= IDLE_MS) {
		pool_close_idle(c->pool);
		return; /* opened again by the next transfer */
	}
	uint64_t wait = c->wide ? SHRINK_MS : IDLE_MS - (now - c->last_use);
	c->idle_timer = io_after(c->io, (unsigned)wait, on_idle, c);
}

/* --- transfers */

/* Moves a transfer from `from` to the finished ones. */
static void finish(struct list *from, struct transfer *t, int r)
{
	list_remove(from, t);
	io_cancel(t->c->io, t->timer);
	t->timer = NULL;
	t->r = r;
	list_append(&t->c->finished, t);
}

void http_transfer_ended(struct transfer *t, int r)
{
	pool_end(t);
	t->c->n_running--;
	finish(&t->c->running, t, r);
}

static int busy(const struct transfer *t, struct err *e)
{
	return err_set(e, ETIMEDOUT, "all %u connections to %s were busy for %u ms", t->c->cap, t->c->url.peer,
		       t->timeout_ms);
}

static int no_memory(struct err *e)
{
	return err_set(e, ENOMEM, "no secret memory left: raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)");
}

static int begin(struct transfer *t, struct err *e)
{
	struct http_client *c = t->c;
	uint64_t now = io_now_ms();
	if (now >= t->deadline)
		return busy(t, e);
	if (pool_begin(c->pool, t, (unsigned)(t->deadline - now)) < 0)
		return no_memory(e);
	if (++c->n_running > KEEP_IDLE) {
		c->last_burst = now;
		if (!c->wide)
			pool_keep(c->pool, c->cap);
		c->wide = true;
	}
	return 0;
}

static void begin_queued(struct http_client *c)
{
	while (!c->closing && c->queued.first && c->n_running < c->cap) {
		struct transfer *t = c->queued.first;
		int r = begin(t, &t->err);
		if (r < 0) {
			finish(&c->queued, t, r);
			continue;
		}
		list_remove(&c->queued, t);
		io_cancel(c->io, t->timer);
		t->timer = NULL;
		list_append(&c->running, t);
	}
}

static void client_unref(struct http_client *c)
{
	if (--c->refs > 0)
		return;
	http_url_clear(&c->url);
	free(c->ca_file);
	free(c->cert_file);
	free(c->key_file);
	http_headers_free(c->connect_to);
	free(c);
}

void http_deliver(struct http_client *c)
{
	c->refs++;
	begin_queued(c);
	while (c->finished.first) {
		struct transfer *t = c->finished.first;
		list_remove(&c->finished, t);
		t->done(t->arg, t->r, t->r == 0 ? &t->resp : NULL, t->r == 0 ? NULL : &t->err);
		transfer_free(t);
		begin_queued(c);
	}
	if (!c->closing) {
		pool_drop_retired(&c->retired);
		c->last_use = io_now_ms();
		if (c->n_running == 0 && !c->idle_timer)
			c->idle_timer = io_after(c->io, SHRINK_MS, on_idle, c);
	}
	client_unref(c);
}

static void on_queued_timeout(void *arg)
{
	struct transfer *t = arg;
	struct http_client *c = t->c;
	t->timer = NULL;
	(void)busy(t, &t->err);
	finish(&c->queued, t, -ETIMEDOUT);
	http_deliver(c);
}

static bool header_ok(const char *s, bool name)
{
	if (name && !*s)
		return false;
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f || (name && (*s == ':' || *s == ' ')))
			return false;
	return true;
}

static int add_header(struct transfer *t, const char *name, const char *value)
{
	size_t n = strlen(name) + strlen(value) + 4;
	cleanup_sec char *line = sec_malloc(n);
	if (!line)
		return -ENOMEM;
	/* "Name;" is how libcurl is told to send a header without a value */
	if (*value)
		(void)snprintf(line, n, "%s: %s", name, value);
	else
		(void)snprintf(line, n, "%s;", name);
	return http_headers_add(&t->headers, line);
}

static int transfer_new(struct http_client *c, const struct http_request *req, struct transfer **ret, struct err *e)
{
	static const char *const methods[] = { "GET", "LIST", "PUT", "POST", "PATCH", "DELETE", "HEAD" };
	bool known = false;
	for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
		known = known || strcmp(req->method, methods[i]) == 0;
	if (!known || req->path[0] != '/')
		return err_set(e, EINVAL, "not a request: method %s", req->method);
	CLEANUP_WITH(transfer_freep) struct transfer *t = sec_calloc(1, sizeof *t);
	if (!t)
		return no_memory(e);
	t->c = c;
	(void)snprintf(t->method, sizeof t->method, "%s", req->method);
	size_t n = strlen(c->url.base) + strlen(req->path) + 1;
	t->url = sec_malloc(n);
	bool ok = t->url != NULL, type = false;
	if (ok)
		(void)snprintf(t->url, n, "%s%s", c->url.base, req->path);
	for (size_t i = 0; ok && i < req->n_headers; i++) {
		const struct http_header *h = &req->headers[i];
		if (!header_ok(h->name, true) || !header_ok(h->value, false))
			return err_set(e, EINVAL, "header %zu holds bytes that a header may not have", i + 1);
		type = type || strcasecmp(h->name, "Content-Type") == 0;
		ok = add_header(t, h->name, h->value) == 0;
	}
	if (ok && req->body) {
		t->body = sec_malloc(req->body_len ? req->body_len : 1);
		ok = t->body && http_headers_add(&t->headers, "Expect:") == 0;
		if (t->body) {
			memcpy(t->body, req->body, req->body_len);
			t->body_len = req->body_len;
		}
		if (ok && !type)
			ok = add_header(t, "Content-Type", "application/octet-stream") == 0;
	}
	if (!ok)
		return no_memory(e);
	t->timeout_ms = req->timeout_ms ? req->timeout_ms : c->timeout_ms;
	t->deadline = io_now_ms() + t->timeout_ms;
	*ret = TAKE_PTR(t);
	return 0;
}

int http_send(struct http_client *c, const struct http_request *req, http_done_fn *done, void *arg, struct err *e)
{
	if (c->closing || !c->io)
		return err_set(e, ECANCELED, "the connection to %s is being closed", c->url.peer);
	CLEANUP_WITH(transfer_freep) struct transfer *t = NULL;
	int r = transfer_new(c, req, &t, e);
	if (r < 0)
		return r;
	t->done = done;
	t->arg = arg;
	if (c->n_running < c->cap) {
		r = begin(t, e);
		if (r < 0)
			return r;
		list_append(&c->running, t);
	} else {
		t->timer = io_after(c->io, t->timeout_ms, on_queued_timeout, t);
		if (!t->timer)
			return err_set(e, ENOMEM, "out of memory");
		list_append(&c->queued, t);
	}
	(void)TAKE_PTR(t);
	return 0;
}

/* --- the client */

static void close_client(struct http_client *c)
{
	c->closing = true;
	while (c->running.first) {
		(void)err_set(&c->running.first->err, ECANCELED, "cancelled");
		http_transfer_ended(c->running.first, -ECANCELED);
	}
	while (c->queued.first) {
		(void)err_set(&c->queued.first->err, ECANCELED, "cancelled");
		finish(&c->queued, c->queued.first, -ECANCELED);
	}
	io_cancel(c->io, c->idle_timer);
	c->idle_timer = NULL;
	http_deliver(c);
	pool_drop_retired(&c->retired);
	if (c->pool)
		pool_free(TAKE_PTR(c->pool));
	io_on_end_remove(&c->end);
	c->io = NULL;
}

static void on_loop_end(void *arg)
{
	struct http_client *c = arg;
	c->refs++;
	close_client(c);
	client_unref(c);
}

void http_client_free(struct http_client *c)
{
	if (!c)
		return;
	if (c->io)
		close_client(c);
	client_unref(c);
}
DEFINE_CLEANUP(client_unref, struct http_client *)

unsigned http_client_connections(const struct http_client *c)
{
	return c->cap;
}

/* A quarter of what may be locked goes to connections; the cache, and the buffers of the mounts, live on the rest. */
static unsigned automatic_cap(void)
{
	struct secmem_stats s;
	secmem_get_stats(&s);
	if (s.kind == SECMEM_KIND_NONE || s.limit == SIZE_MAX)
		return HTTP_CONNECTIONS_MAX;
	size_t n = s.limit / 4 / HTTP_CONNECTION_COST;
	return n < HTTP_CONNECTIONS_MIN ? HTTP_CONNECTIONS_MIN :
	       n > HTTP_CONNECTIONS_MAX ? HTTP_CONNECTIONS_MAX :
					  (unsigned)n;
}

static bool copied(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to;
}

struct setup {
	struct http_client *c;
	struct err *e;
	int r;
};

/* On the loop, whose stack is secret: the client's private key is parsed here. */
static void setup_on_loop(void *arg)
{
	struct setup *s = arg;
	s->r = pool_new(s->c, &s->c->pool, s->e);
	if (s->r == 0)
		io_on_end(s->c->io, &s->c->end);
}

int http_client_new(struct io *io, const struct http_client_conf *conf, struct http_client **ret, struct err *e)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, http_global_init);
	CLEANUP_WITH(client_unrefp) struct http_client *c = calloc(1, sizeof *c);
	if (!c)
		return err_set(e, ENOMEM, "out of memory");
	c->refs = 1;
	c->io = io;
	c->end = (struct io_end){ .fn = on_loop_end, .arg = c };
	list_init(&c->queued);
	list_init(&c->running);
	list_init(&c->finished);
	int r = http_url_parse(conf->base_url, conf->server_name, &c->url, e);
	if (r < 0)
		return r;
	c->connect_timeout_ms = conf->connect_timeout_ms ? conf->connect_timeout_ms : CONNECT_TIMEOUT_MS;
	c->timeout_ms = conf->timeout_ms ? conf->timeout_ms : TIMEOUT_MS;
	c->max_body = conf->max_body ? conf->max_body : BODY_MAX;
	c->cap = conf->max_connections ? conf->max_connections : automatic_cap();
	c->wide = true;
	bool ok = copied(&c->ca_file, conf->ca_file) && copied(&c->cert_file, conf->cert_file) &&
		  copied(&c->key_file, conf->key_file);
	if (ok && c->url.connect_to)
		ok = http_headers_add(&c->connect_to, c->url.connect_to) == 0;
	if (!ok)
		return err_set(e, ENOMEM, "out of memory");
	struct setup s = { .c = c, .e = e };
	if (io_is_loop(io)) {
		setup_on_loop(&s);
	} else {
		r = io_call(io, setup_on_loop, &s);
		if (r < 0)
			return err_set(e, -r, "the I/O loop has ended");
	}
	if (s.r < 0)
		return s.r;
	*ret = TAKE_PTR(c);
	return 0;
}

int http_client_reload(struct http_client *c, struct err *e)
{
	if (c->closing || !c->io)
		return err_set(e, ECANCELED, "the connection to %s is being closed", c->url.peer);
	struct pool *p;
	int r = pool_new(c, &p, e);
	if (r < 0)
		return r;
	pool_retire(c->pool, &c->retired);
	c->pool = p;
	c->wide = true;
	pool_drop_retired(&c->retired);
	return 0;
}
