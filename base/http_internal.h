/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between http_client.c (clients, queues, delivery) and http.c (libcurl): a pool is what libcurl keeps for a client.
 * Everything is [loop] only.
 */
#ifndef CT_BASE_HTTP_INTERNAL_H
#define CT_BASE_HTTP_INTERNAL_H

#include "base/http.h"

#include "base/http_url.h"
#include "base/ioloop.h"
#include "base/tls.h"

enum {
	HTTP_CONNECTIONS_MAX = 44,
	HTTP_CONNECTIONS_MIN = 2,
	/* Bytes of secret memory that one more TLS connection takes at its peak: tests/vault/test_openbao.py measures. */
	HTTP_CONNECTION_COST = 96 * 1024,
};

struct curl_slist;
struct pool;
struct http_client;

struct transfer {
	struct transfer *next, **link; /* in one of the client's lists */
	struct http_client *c;
	struct pool *pool; /* while it runs */
	void *easy;	   /* libcurl's handle, while it runs */
	http_done_fn *done;
	void *arg;
	uint64_t deadline;
	struct io_timer *timer; /* while it is queued */
	unsigned timeout_ms;
	/* the request */
	char method[12];
	char *url;
	struct curl_slist *headers;
	char *body;
	size_t body_len;
	/* the answer */
	char *answer;
	size_t answer_len, answer_room, header_len;
	bool too_large, no_memory;
	bool head_ended; /* the empty line behind the headers came */
	bool greeting;	 /* connected, the TLS handshake has begun */
	struct tls_report report;
	char reason[256]; /* libcurl's, never shown: it may quote the peer */
	int r;
	struct http_response resp;
	struct err err;
};

struct list {
	struct transfer *first, **tail;
};

struct http_client {
	struct io *io; /* NULL once the loop has ended */
	struct io_end end;
	unsigned refs;
	bool closing;
	struct http_url url;
	char *ca_file, *cert_file, *key_file;
	unsigned connect_timeout_ms, timeout_ms, cap;
	size_t max_body;
	struct curl_slist *connect_to;
	struct pool *pool, *retired;
	struct list queued, running, finished;
	unsigned n_running;
	struct io_timer *idle_timer;
	uint64_t last_burst, last_use;
	bool wide; /* the pool may keep `cap` connections */
};

/* http.c */
void http_global_init(void); /* libcurl on the secret heap; once */
int must_use http_headers_add(struct curl_slist **list, const char *line);
void http_headers_free(struct curl_slist *list);
int must_use pool_new(struct http_client *c, struct pool **ret, struct err *e);
void pool_free(struct pool *p);		    /* nothing runs in it any more */
void pool_close_idle(struct pool *p);	    /* closes all connections; nothing runs */
void pool_keep(struct pool *p, unsigned n); /* how many connections to keep when transfers end */
void pool_retire(struct pool *p, struct pool **list);
void pool_drop_retired(struct pool **list); /* those in which nothing runs any more */
int must_use pool_begin(struct pool *p, struct transfer *t, unsigned left_ms); /* -ENOMEM */
void pool_end(struct transfer *t); /* takes a running transfer out, finished or not */

/* http_client.c: `t` has ended, t->resp or t->err is filled in; then, outside libcurl, deliver. */
void http_transfer_ended(struct transfer *t, int r);
void http_deliver(struct http_client *c);

#endif
