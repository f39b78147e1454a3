/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O loop: one thread (on a secret stack) that runs HTTP transfers, timers and posted calls. http.c is the only
 * file that sees libcurl.
 *
 * HTTP/1.1 only (libcurl 7.88 gives nghttp2 no allocator: HTTP/2 leaves bodies in the ordinary heap), keep-alive, TLS
 * 1.2 at least. Everything a transfer touches is secret memory: libcurl and OpenSSL allocate from the secret heap,
 * client keys and CA files are read with read(2) and handed over as blobs. No proxy from the environment, no redirects
 * followed, no cookies, no .netrc.
 *
 * Thread rules: io_post may be called from any thread; everything else marked [loop] only on the loop's thread, where
 * all callbacks run. No callback is called from within the call that registers it.
 */
#ifndef CT_BASE_HTTP_H
#define CT_BASE_HTTP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct io;

int must_use io_new(struct io **ret, struct err *e); /* starts the thread */
void io_free(struct io *io); /* cancels transfers (their callbacks get -ECANCELED) and timers, joins the thread */

/* Runs fn(arg) on the loop. -ENOMEM, -ESHUTDOWN once io_free began. */
int must_use io_post(struct io *io, void (*fn)(void *arg), void *arg);
/* The same, and waits until fn has returned. Not from the loop itself. */
int must_use io_call(struct io *io, void (*fn)(void *arg), void *arg);

/* [loop] Timer: fn(arg) once, in `ms` milliseconds. NULL on ENOMEM. io_cancel frees one that has not fired. */
struct io_timer;
struct io_timer *io_after(struct io *io, unsigned ms, void (*fn)(void *arg), void *arg);
void io_cancel(struct io *io, struct io_timer *t); /* NULL is fine */
uint64_t io_now_ms(void);			   /* CLOCK_BOOTTIME */

/* One server and how to talk to it. Shared by transfers; connections are kept and reused per client. */
struct http_client;
struct http_client_conf {
	const char *base_url;	     /* https://host[:port][/prefix]; http:// only for loopback addresses */
	const char *ca_file;	     /* NULL: the system's bundle */
	const char *cert_file;	     /* client certificate chain, PEM; NULL: none */
	const char *key_file;	     /* its private key, PEM, readable by its owner alone */
	const char *server_name;     /* NULL: the URL's host. SNI and certificate name */
	unsigned connect_timeout_ms; /* 0: 5000 */
	unsigned timeout_ms;	     /* whole transfer, 0: 15000 */
	size_t max_body;	     /* answer, bytes; 0: 8 MiB */
	unsigned max_connections;    /* 0: by the locked-memory budget, see http_client_connections */
};
/* Checks the URL, reads certificate files. Errors name the file and what to do. [any thread] */
int must_use http_client_new(struct io *io, const struct http_client_conf *conf, struct http_client **ret,
			     struct err *e);
void http_client_free(struct http_client *c); /* [loop] or after io_free; transfers of it get -ECANCELED */
unsigned http_client_connections(const struct http_client *c); /* the cap in force */
/* [loop] Reads the certificate files again (they may have been renewed); the old ones stay on error. */
int must_use http_client_reload(struct http_client *c, struct err *e);

struct http_header {
	const char *name, *value; /* both copied into secret memory */
};

struct http_request {
	const char *method; /* "GET" "LIST" "PUT" "POST" "PATCH" "DELETE" "HEAD" */
	const char *path;   /* appended to base_url; already percent-encoded */
	const struct http_header *headers;
	size_t n_headers;
	const void *body; /* copied into secret memory; NULL: none */
	size_t body_len;
	unsigned timeout_ms; /* 0: the client's */
};

struct http_response {
	int status;	  /* 200, 404, ...; 0 when the transfer itself failed */
	const char *body; /* secret memory, NUL-terminated beyond body_len; borrowed for the callback */
	size_t body_len;
	unsigned retry_after_s; /* from Retry-After, 0 when absent */
};

/*
 * r == 0: an answer of any status is in *resp. r < 0: there is none, e says why:
 *   -ECONNREFUSED -EHOSTUNREACH -ENOENT(name not found is -EHOSTUNREACH, never ENOENT) -ETIMEDOUT -ECONNRESET
 *   -EPROTO (garbage, half a body) -EMSGSIZE (larger than max_body) -EKEYREJECTED (certificate: expired, wrong name,
 *   unknown issuer; e says which) -ENOMEM (secret memory) -ECANCELED
 */
typedef void http_done_fn(void *arg, int r, const struct http_response *resp, const struct err *e);

/* [loop] Starts a transfer; queued when all connections are busy. */
int must_use http_send(struct http_client *c, const struct http_request *req, http_done_fn *done, void *arg,
		       struct err *e);

#endif
