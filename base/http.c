/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP transfers on the I/O loop, by libcurl's multi_socket interface.
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
#include "base/http.h"

#include "base/cleanup.h"
#include "base/http_url.h"
#include "base/ioloop.h"
#include "base/secmem.h"
#include "base/tls.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>

enum {
	CONNECT_TIMEOUT_MS = 5000,
	TIMEOUT_MS = 15000,
	HEADER_MAX = 64 * 1024, /* all header lines of an answer */
	CONNECTIONS_MAX = 50,
	CONNECTIONS_MIN = 2,
	/* Measured (tests/unit/test_base_http.c prints it): the peak of one more TLS connection, in bytes. */
	CONNECTION_COST = 96 * 1024,
	UPLOAD_BUFFER = 16 * 1024, /* the least libcurl takes */
	BUFFER = 4 * 1024,
	KEEP_IDLE = 4,
	SHRINK_MS = 5000,
	IDLE_MS = 30000,
	RETRY_AFTER_MAX_S = 3600,
};
static const size_t BODY_MAX = 8 << 20;

struct pool {
	struct http_client *c;
	CURLM *multi;
	CURLSH *share;
	struct tls *tls; /* NULL for http:// */
	struct io_timer *timer;
	struct pool_watch *watches;
	unsigned n_running;
	struct pool *next; /* among the retired */
};

struct pool_watch {
	struct pool *pool;
	struct pool_watch *next, **link;
	struct io_watch *w;
	curl_socket_t fd;
};

struct transfer {
	struct transfer *next, **link; /* in one of the client's lists */
	struct http_client *c;
	struct pool *pool; /* while it runs */
	CURL *easy;
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
	bool greeting; /* connected, the TLS handshake has begun */
	struct tls_report report;
	char reason[CURL_ERROR_SIZE]; /* libcurl's, never shown: it may quote the peer */
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
	char *peer; /* host:port, for sentences */
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
	if (t->easy)
		curl_easy_cleanup(t->easy);
	curl_slist_free_all(t->headers);
	sec_free(t->url);
	sec_free(t->body);
	sec_free(t->answer);
	sec_free(t);
}
DEFINE_CLEANUP(transfer_free, struct transfer *)

/* --- the pool: libcurl's sockets and timer on the loop */

static void pool_check(struct pool *p);

static void on_fd(void *arg, uint32_t events)
{
	const struct pool_watch *w = arg;
	struct pool *p = w->pool;
	int mask = 0, running;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP))
		mask |= CURL_CSELECT_IN;
	if (events & EPOLLOUT)
		mask |= CURL_CSELECT_OUT;
	if (events & EPOLLERR)
		mask |= CURL_CSELECT_ERR;
	(void)curl_multi_socket_action(p->multi, w->fd, mask, &running);
	pool_check(p);
}

static void on_timer(void *arg)
{
	struct pool *p = arg;
	int running;
	p->timer = NULL;
	(void)curl_multi_socket_action(p->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	pool_check(p);
}

static int set_timer(CURLM *multi, long ms, void *arg)
{
	(void)multi;
	struct pool *p = arg;
	io_cancel(p->c->io, p->timer);
	p->timer = NULL;
	if (ms >= 0)
		p->timer = io_after(p->c->io, (unsigned)ms, on_timer, p);
	return 0;
}

static void watch_free(struct pool_watch *w)
{
	io_unwatch(w->pool->c->io, w->w);
	*w->link = w->next;
	if (w->next)
		w->next->link = w->link;
	free(w);
}

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	(void)easy;
	struct pool *p = arg;
	struct pool_watch *w = socket_arg;
	if (what == CURL_POLL_REMOVE) {
		if (w)
			watch_free(w);
		return 0;
	}
	uint32_t events = 0;
	if (what & CURL_POLL_IN)
		events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		events |= EPOLLOUT;
	/* Without a watch the transfer ends at its deadline: that is all that can be done here about no memory. */
	if (w) {
		(void)!io_watch_events(p->c->io, w->w, events);
		return 0;
	}
	w = calloc(1, sizeof *w);
	if (!w)
		return 0;
	w->pool = p;
	w->fd = fd;
	w->w = io_watch(p->c->io, fd, events, on_fd, w);
	if (!w->w) {
		free(w);
		return 0;
	}
	w->next = p->watches;
	w->link = &p->watches;
	if (w->next)
		w->next->link = &w->next;
	p->watches = w;
	(void)curl_multi_assign(p->multi, fd, w);
	return 0;
}

static void multi_close(struct pool *p)
{
	if (p->multi)
		(void)curl_multi_cleanup(p->multi);
	p->multi = NULL;
	while (p->watches)
		watch_free(p->watches);
	io_cancel(p->c->io, p->timer);
	p->timer = NULL;
}

static int multi_open(struct pool *p)
{
	p->multi = curl_multi_init();
	if (!p->multi)
		return -ENOMEM;
	curl_multi_setopt(p->multi, CURLMOPT_SOCKETFUNCTION, set_socket);
	curl_multi_setopt(p->multi, CURLMOPT_SOCKETDATA, p);
	curl_multi_setopt(p->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(p->multi, CURLMOPT_TIMERDATA, p);
	curl_multi_setopt(p->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
	curl_multi_setopt(p->multi, CURLMOPT_MAXCONNECTS, (long)p->c->cap);
	return 0;
}

static void pool_free(struct pool *p)
{
	multi_close(p);
	if (p->share)
		(void)curl_share_cleanup(p->share);
	tls_unref(p->tls);
	free(p);
}
DEFINE_CLEANUP(pool_free, struct pool *)

static int pool_new(struct http_client *c, struct pool **ret, struct err *e)
{
	CLEANUP_WITH(pool_freep) struct pool *p = calloc(1, sizeof *p);
	if (!p)
		return err_set(e, ENOMEM, "out of memory");
	p->c = c;
	if (c->url.tls) {
		int r = tls_new(c->ca_file, c->cert_file, c->key_file, &p->tls, e);
		if (r < 0)
			return r;
	}
	p->share = curl_share_init();
	if (!p->share || multi_open(p) < 0)
		return err_set(e, ENOMEM, "out of secret memory: raise RLIMIT_MEMLOCK (ulimit -l)");
	(void)curl_share_setopt(p->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
	*ret = TAKE_PTR(p);
	return 0;
}

static void drop_retired(struct http_client *c)
{
	for (struct pool **at = &c->retired; *at;) {
		struct pool *p = *at;
		if (p->n_running > 0) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		pool_free(p);
	}
}

/* Fewer connections are kept when a burst is over, none when nobody asks. */
static void on_idle(void *arg)
{
	struct http_client *c = arg;
	c->idle_timer = NULL;
	uint64_t now = io_now_ms();
	if (c->wide && c->n_running <= KEEP_IDLE && now - c->last_burst >= SHRINK_MS) {
		c->wide = false;
		curl_multi_setopt(c->pool->multi, CURLMOPT_MAXCONNECTS, (long)KEEP_IDLE);
	}
	if (c->n_running > 0)
		return; /* the end of a transfer arms the timer again */
	if (now - c->last_use >= IDLE_MS) {
		multi_close(c->pool);
		return; /* opened again by the next transfer */
	}
	uint64_t wait = c->wide ? SHRINK_MS : IDLE_MS - (now - c->last_use);
	c->idle_timer = io_after(c->io, (unsigned)wait, on_idle, c);
}

/* --- errors */

static int explain_tls_failure(const struct transfer *t, struct err *e)
{
	const char *peer = t->c->peer;
	/* OpenSSL's own words, as libcurl passes them on. */
	static const struct {
		const char *text, *says;
		int code;
	} known[] = {
		{ "alert certificate required", "asks for a client certificate: set cert_file and key_file", EKEYREJECTED },
		{ "alert bad certificate", "refused the client certificate in cert_file", EKEYREJECTED },
		{ "alert unknown ca", "refused the client certificate in cert_file: it does not know its issuer",
		  EKEYREJECTED },
		{ "alert certificate expired", "refused the client certificate in cert_file: it has expired", EKEYREJECTED },
		{ "alert certificate unknown", "refused the client certificate in cert_file", EKEYREJECTED },
		{ "alert certificate revoked", "refused the client certificate in cert_file: it was revoked", EKEYREJECTED },
		{ "unsupported protocol", "speaks no TLS 1.2 or newer", EPROTO },
		{ "alert protocol version", "speaks no TLS 1.2 or newer", EPROTO },
		{ "wrong version number", "does not speak TLS there: is the address an http:// one?", EPROTO },
		{ "packet length too long", "does not speak TLS there: is the address an http:// one?", EPROTO },
		{ "no protocols available", "speaks no TLS 1.2 or newer", EPROTO },
		{ "dh key too small", "offers keys that are too weak", EPROTO },
		{ "ee key too small", "has a certificate whose key is too weak", EKEYREJECTED },
		{ "md too weak", "has a certificate whose signature is too weak", EKEYREJECTED },
	};
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
		if (strcasestr(t->reason, known[i].text))
			return err_set(e, known[i].code, "%s %s", peer, known[i].says);
	return 0;
}

static int explain_timeout(const struct transfer *t, struct err *e)
{
	curl_off_t ready = 0;
	(void)curl_easy_getinfo(t->easy, CURLINFO_PRETRANSFER_TIME_T, &ready);
	if (ready > 0)
		return err_set(e, ETIMEDOUT, "%s did not answer within %u ms", t->c->peer, t->timeout_ms);
	if (!t->greeting)
		return err_set(e, ETIMEDOUT, "%s accepted no connection within %u ms: is the address right, is a firewall in "
					     "between?",
			       t->c->peer, t->c->connect_timeout_ms);
	return err_set(e, ETIMEDOUT, "%s accepted the connection but did not answer the TLS handshake within %u ms",
		       t->c->peer, t->c->connect_timeout_ms);
}

static int explain_broken(const struct transfer *t, struct err *e)
{
	const char *peer = t->c->peer;
	long os = 0, connects = 0;
	(void)curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &os);
	(void)curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &connects);
	bool nothing_yet = t->header_len == 0;
	/* TLS 1.3: a client's certificate is judged when the client believes itself connected and sends. What the server
	 * says about it then races with its closing of the connection. */
	if (nothing_yet && connects > 0 && t->report.asked)
		return tls_has_certificate(t->pool->tls) ?
			       err_set(e, EKEYREJECTED, "%s closed the connection when it had asked for a client certificate: it "
							"seems to have refused the client certificate in cert_file",
				       peer) :
			       err_set(e, EKEYREJECTED, "%s asks for a client certificate: set cert_file and key_file", peer);
	if (!nothing_yet && os != ECONNRESET)
		return err_set(e, EPROTO, "%s broke off in the middle of its answer", peer);
	return err_set(e, ECONNRESET, "%s closed the connection without an answer", peer);
}

static int explain(const struct transfer *t, CURLcode code, struct err *e)
{
	const char *peer = t->c->peer;
	long os = 0;
	if (t->too_large)
		return err_set(e, EMSGSIZE, "the answer of %s is larger than %zu bytes", peer, t->c->max_body);
	if (t->no_memory)
		code = CURLE_OUT_OF_MEMORY;
	if (t->report.verify != 0 && t->pool->tls)
		return tls_explain(t->pool->tls, &t->report, peer, t->c->url.name, e);
	int r = explain_tls_failure(t, e);
	if (r < 0)
		return r;
	switch (code) {
	case CURLE_OUT_OF_MEMORY:
		return err_set(e, ENOMEM, "no secret memory left to talk to %s: raise RLIMIT_MEMLOCK (ulimit -l, "
					  "LimitMEMLOCK=)",
			       peer);
	case CURLE_OPERATION_TIMEDOUT:
		return explain_timeout(t, e);
	case CURLE_COULDNT_RESOLVE_HOST:
		return err_set(e, EHOSTUNREACH, "the name \"%s\" is not known: check the address and the name server",
			       t->c->url.host);
	case CURLE_COULDNT_CONNECT:
		(void)curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &os);
		if (os == ECONNREFUSED)
			return err_set(e, ECONNREFUSED, "%s refused the connection: is the server running there?", peer);
		if (os == ETIMEDOUT)
			return err_set(e, ETIMEDOUT, "%s accepted no connection", peer);
		return err_set(e, EHOSTUNREACH, "%s cannot be reached: %s", peer,
			       os ? strerror((int)os) : "no route or no address");
	case CURLE_PEER_FAILED_VERIFICATION:
		return err_set(e, EKEYREJECTED, "the certificate of %s is not for \"%s\": set server_name to a name in it",
			       peer, t->c->url.name);
	case CURLE_SSL_CONNECT_ERROR:
		(void)curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &os);
		if (os == ECONNRESET || strcasestr(t->reason, "reset") || strcasestr(t->reason, "SSL_ERROR_SYSCALL") ||
		    strcasestr(t->reason, "unexpected eof"))
			return err_set(e, ECONNRESET, "%s closed the connection during the TLS handshake", peer);
		return err_set(e, EPROTO, "the TLS handshake with %s failed", peer);
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
		return explain_broken(t, e);
	default:
		return err_set(e, EPROTO, "the answer of %s is not HTTP as it should be: %s", peer, curl_easy_strerror(code));
	}
}

/* --- transfers */

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
	(void)line;
	struct transfer *t = arg;
	t->header_len += size * n;
	if (t->header_len > HEADER_MAX) {
		t->too_large = true;
		return 0;
	}
	return size * n;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	n *= size;
	if (n > t->c->max_body - t->answer_len) {
		t->too_large = true;
		return 0;
	}
	if (t->answer_len + n >= t->answer_room) {
		size_t room = t->answer_room ? 2 * t->answer_room : 2048;
		while (room <= t->answer_len + n)
			room *= 2;
		char *grown = sec_realloc(t->answer, room);
		if (!grown) {
			t->no_memory = true;
			return 0;
		}
		t->answer = grown;
		t->answer_room = room;
	}
	memcpy(t->answer + t->answer_len, data, n);
	t->answer_len += n;
	t->answer[t->answer_len] = '\0';
	return n;
}

static CURLcode on_ssl_ctx(CURL *easy, void *ssl_ctx, void *arg)
{
	(void)easy;
	struct transfer *t = arg;
	t->greeting = true;
	return tls_apply(t->pool->tls, ssl_ctx, t->c->url.name, &t->report) < 0 ? CURLE_OUT_OF_MEMORY : CURLE_OK;
}

static int set_options(struct transfer *t, unsigned left_ms)
{
	struct http_client *c = t->c;
	CURL *h = t->easy;
	CURLcode rc = CURLE_OK;
#define SET(option, value) \
	do { \
		if (rc == CURLE_OK) \
			rc = curl_easy_setopt(h, option, value); \
	} while (0)
	bool idempotent = strcmp(t->method, "POST") != 0 && strcmp(t->method, "PUT") != 0 && strcmp(t->method, "PATCH") != 0;
	SET(CURLOPT_PRIVATE, t);
	SET(CURLOPT_ERRORBUFFER, t->reason);
	SET(CURLOPT_URL, t->url);
	SET(CURLOPT_PATH_AS_IS, 1L);
	SET(CURLOPT_PROTOCOLS_STR, c->url.tls ? "https" : "http");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NOPROXY, "*");
	SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_QUICK_EXIT, 1L); /* never wait for a name look-up that hangs */
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_HTTP09_ALLOWED, 0L);
	SET(CURLOPT_HTTP_CONTENT_DECODING, 0L);
	SET(CURLOPT_PIPEWAIT, 0L);
	SET(CURLOPT_TCP_NODELAY, 1L);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_CONNECT_TO, c->connect_to);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)c->connect_timeout_ms);
	SET(CURLOPT_TIMEOUT_MS, (long)left_ms);
	SET(CURLOPT_USERAGENT, "cloudtaser/" CT_VERSION);
	SET(CURLOPT_HTTPHEADER, t->headers);
	SET(CURLOPT_HEADERFUNCTION, on_header);
	SET(CURLOPT_HEADERDATA, t);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, t);
	SET(CURLOPT_SHARE, t->pool->share);
	/* Pages of secret memory are dear (some 30 us for the first touch of each), libcurl's default is 64 + 16 KiB. */
	SET(CURLOPT_UPLOAD_BUFFERSIZE, (long)UPLOAD_BUFFER);
	SET(CURLOPT_BUFFERSIZE, (long)BUFFER);
	/* libcurl repeats what a kept connection swallowed without a byte of answer; what is no repeatable gets a new
	 * connection, so that it is never sent twice. */
	SET(CURLOPT_FRESH_CONNECT, idempotent ? 0L : 1L);
	if (c->url.tls) {
		SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
		SET(CURLOPT_SSL_VERIFYPEER, 1L);
		SET(CURLOPT_SSL_VERIFYHOST, 2L);
		/* tls_apply gives the authorities: libcurl must not parse a bundle of its own for each connection */
		SET(CURLOPT_CAINFO, NULL);
		SET(CURLOPT_CAPATH, NULL);
		SET(CURLOPT_SSL_CTX_FUNCTION, on_ssl_ctx);
		SET(CURLOPT_SSL_CTX_DATA, t);
	}
	if (strcmp(t->method, "HEAD") == 0) {
		SET(CURLOPT_NOBODY, 1L);
	} else if (t->body || !idempotent) {
		SET(CURLOPT_POST, 1L);
		SET(CURLOPT_POSTFIELDS, t->body ? t->body : "");
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)t->body_len);
		SET(CURLOPT_CUSTOMREQUEST, t->method);
	} else {
		SET(CURLOPT_HTTPGET, 1L);
		SET(CURLOPT_CUSTOMREQUEST, t->method);
	}
#undef SET
	return rc == CURLE_OK ? 0 : -ENOMEM;
}

/* Moves a transfer from `from` to the finished ones. */
static void finish(struct list *from, struct transfer *t, int r)
{
	list_remove(from, t);
	io_cancel(t->c->io, t->timer);
	t->timer = NULL;
	t->r = r;
	list_append(&t->c->finished, t);
}

static void finish_running(struct transfer *t, int r)
{
	struct pool *p = t->pool;
	(void)curl_multi_remove_handle(p->multi, t->easy);
	curl_easy_cleanup(t->easy);
	t->easy = NULL;
	t->pool = NULL;
	p->n_running--;
	t->c->n_running--;
	finish(&t->c->running, t, r);
}

static void complete(struct transfer *t, CURLcode code)
{
	int r;
	long status = 0;
	curl_off_t after = 0;
	(void)curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	if (code != CURLE_OK) {
		r = explain(t, code, &t->err);
	} else if (status < 200 || status > 999) {
		r = err_set(&t->err, EPROTO, "the answer of %s has no HTTP status", t->c->peer);
	} else {
		(void)curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &after);
		if (after < 0)
			after = 0;
		t->resp = (struct http_response){
			.status = (int)status,
			.body = t->answer ? t->answer : "",
			.body_len = t->answer_len,
			.retry_after_s = after > RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : (unsigned)after,
		};
		r = 0;
	}
	finish_running(t, r);
}

static int begin(struct transfer *t, struct err *e)
{
	struct http_client *c = t->c;
	struct pool *p = c->pool;
	uint64_t now = io_now_ms();
	if (now >= t->deadline)
		return err_set(e, ETIMEDOUT, "all %u connections to %s were busy for %u ms", c->cap, c->peer, t->timeout_ms);
	if (!p->multi && multi_open(p) < 0)
		return err_set(e, ENOMEM, "no secret memory left: raise RLIMIT_MEMLOCK (ulimit -l)");
	t->pool = p;
	t->easy = curl_easy_init();
	if (!t->easy || set_options(t, (unsigned)(t->deadline - now)) < 0 ||
	    curl_multi_add_handle(p->multi, t->easy) != CURLM_OK) {
		if (t->easy)
			curl_easy_cleanup(t->easy);
		t->easy = NULL;
		t->pool = NULL;
		return err_set(e, ENOMEM, "no secret memory left: raise RLIMIT_MEMLOCK (ulimit -l)");
	}
	p->n_running++;
	if (++c->n_running > KEEP_IDLE) {
		c->last_burst = now;
		if (!c->wide) {
			c->wide = true;
			curl_multi_setopt(p->multi, CURLMOPT_MAXCONNECTS, (long)c->cap);
		}
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
	free(c->peer);
	curl_slist_free_all(c->connect_to);
	free(c);
}

static void deliver(struct http_client *c)
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
		drop_retired(c);
		c->last_use = io_now_ms();
		if (c->n_running == 0 && !c->idle_timer)
			c->idle_timer = io_after(c->io, SHRINK_MS, on_idle, c);
	}
	client_unref(c);
}

static void pool_check(struct pool *p)
{
	struct http_client *c = p->c;
	CURLMsg *m;
	int left;
	bool any = false;
	while ((m = curl_multi_info_read(p->multi, &left))) {
		struct transfer *t = NULL;
		if (m->msg != CURLMSG_DONE || curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t) != CURLE_OK || !t)
			continue;
		complete(t, m->data.result);
		any = true;
	}
	if (any)
		deliver(c);
}

static void on_queued_timeout(void *arg)
{
	struct transfer *t = arg;
	struct http_client *c = t->c;
	t->timer = NULL;
	(void)err_set(&t->err, ETIMEDOUT, "all %u connections to %s were busy for %u ms", c->cap, c->peer, t->timeout_ms);
	finish(&c->queued, t, -ETIMEDOUT);
	deliver(c);
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
	struct curl_slist *grown = curl_slist_append(t->headers, line);
	if (!grown)
		return -ENOMEM;
	t->headers = grown;
	return 0;
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
		return err_set(e, ENOMEM, "no secret memory left: raise RLIMIT_MEMLOCK (ulimit -l)");
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
		ok = t->body && add_header(t, "Expect", "") == 0;
		if (t->body) {
			memcpy(t->body, req->body, req->body_len);
			t->body_len = req->body_len;
		}
		if (ok && !type)
			ok = add_header(t, "Content-Type", "application/octet-stream") == 0;
	}
	if (!ok)
		return err_set(e, ENOMEM, "no secret memory left: raise RLIMIT_MEMLOCK (ulimit -l)");
	t->timeout_ms = req->timeout_ms ? req->timeout_ms : c->timeout_ms;
	t->deadline = io_now_ms() + t->timeout_ms;
	*ret = TAKE_PTR(t);
	return 0;
}

int http_send(struct http_client *c, const struct http_request *req, http_done_fn *done, void *arg, struct err *e)
{
	if (c->closing || !c->io)
		return err_set(e, ECANCELED, "the connection to %s is being closed", c->peer);
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
		finish_running(c->running.first, -ECANCELED);
	}
	while (c->queued.first) {
		(void)err_set(&c->queued.first->err, ECANCELED, "cancelled");
		finish(&c->queued, c->queued.first, -ECANCELED);
	}
	io_cancel(c->io, c->idle_timer);
	c->idle_timer = NULL;
	deliver(c);
	drop_retired(c);
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
		return CONNECTIONS_MAX;
	size_t n = s.limit / 4 / CONNECTION_COST;
	return n < CONNECTIONS_MIN ? CONNECTIONS_MIN : n > CONNECTIONS_MAX ? CONNECTIONS_MAX : (unsigned)n;
}

static void curl_start(void)
{
	(void)curl_global_init_mem(CURL_GLOBAL_DEFAULT, sec_malloc, sec_free, sec_realloc, sec_strdup, sec_calloc);
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
	pthread_once(&once, curl_start);
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
		  copied(&c->key_file, conf->key_file) && copied(&c->peer, c->url.peer);
	if (ok && c->url.connect_to) {
		c->connect_to = curl_slist_append(NULL, c->url.connect_to);
		ok = c->connect_to != NULL;
	}
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
		return err_set(e, ECANCELED, "the connection to %s is being closed", c->peer);
	struct pool *p;
	int r = pool_new(c, &p, e);
	if (r < 0)
		return r;
	c->pool->next = c->retired;
	c->retired = c->pool;
	c->pool = p;
	c->wide = true;
	drop_retired(c);
	return 0;
}
