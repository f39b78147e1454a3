/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers on the I/O loop, by libcurl's multi_socket interface; what libcurl says, translated. The only file that
 * sees libcurl.
 */
#include "base/http_internal.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum {
	HEADER_MAX = 64 * 1024,	   /* all header lines of an answer */
	UPLOAD_BUFFER = 16 * 1024, /* the least libcurl takes */
	BUFFER = 4 * 1024,
	RETRY_AFTER_MAX_S = 3600,
};
_Static_assert(sizeof(((struct transfer *)0)->reason) >= CURL_ERROR_SIZE, "room for libcurl's words");

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

void http_global_init(void)
{
	(void)curl_global_init_mem(CURL_GLOBAL_DEFAULT, sec_malloc, sec_free, sec_realloc, sec_strdup, sec_calloc);
}

int http_headers_add(struct curl_slist **list, const char *line)
{
	struct curl_slist *grown = curl_slist_append(*list, line);
	if (!grown)
		return -ENOMEM;
	*list = grown;
	return 0;
}

void http_headers_free(struct curl_slist *list)
{
	curl_slist_free_all(list);
}

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

void pool_free(struct pool *p)
{
	multi_close(p);
	if (p->share)
		(void)curl_share_cleanup(p->share);
	tls_unref(p->tls);
	free(p);
}
DEFINE_CLEANUP(pool_free, struct pool *)

int pool_new(struct http_client *c, struct pool **ret, struct err *e)
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

void pool_close_idle(struct pool *p)
{
	multi_close(p); /* opened again by the next transfer */
}

void pool_keep(struct pool *p, unsigned n)
{
	if (p->multi)
		(void)curl_multi_setopt(p->multi, CURLMOPT_MAXCONNECTS, (long)n);
}

void pool_retire(struct pool *p, struct pool **list)
{
	p->next = *list;
	*list = p;
}

void pool_drop_retired(struct pool **list)
{
	for (struct pool **at = list; *at;) {
		struct pool *p = *at;
		if (p->n_running > 0) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		pool_free(p);
	}
}

/* --- errors */

static int explain_tls_failure(const struct transfer *t, struct err *e)
{
	const char *peer = t->c->url.peer;
	/* OpenSSL's own words, as libcurl passes them on. */
	static const struct {
		const char *text, *says;
		int code;
	} known[] = {
		{ "alert certificate required", "asks for a client certificate: set cert_file and key_file",
		  EKEYREJECTED },
		{ "alert bad certificate", "refused the client certificate in cert_file", EKEYREJECTED },
		{ "alert unknown ca", "refused the client certificate in cert_file: it does not know its issuer",
		  EKEYREJECTED },
		{ "alert certificate expired", "refused the client certificate in cert_file: it has expired",
		  EKEYREJECTED },
		{ "alert certificate unknown", "refused the client certificate in cert_file", EKEYREJECTED },
		{ "alert certificate revoked", "refused the client certificate in cert_file: it was revoked",
		  EKEYREJECTED },
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
		return err_set(e, ETIMEDOUT, "%s did not answer within %u ms", t->c->url.peer, t->timeout_ms);
	if (!t->greeting)
		return err_set(e, ETIMEDOUT,
			       "%s accepted no connection within %u ms: is the address right, is a firewall in "
			       "between?",
			       t->c->url.peer, t->c->connect_timeout_ms);
	return err_set(e, ETIMEDOUT, "%s accepted the connection but did not answer the TLS handshake within %u ms",
		       t->c->url.peer, t->c->connect_timeout_ms);
}

static int explain_broken(const struct transfer *t, struct err *e)
{
	const char *peer = t->c->url.peer;
	long os = 0, connects = 0;
	(void)curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &os);
	(void)curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &connects);
	bool nothing_yet = t->header_len == 0;
	/* TLS 1.3: a client's certificate is judged when the client believes itself connected and sends. What the server
	 * says about it then races with its closing of the connection. */
	if (nothing_yet && connects > 0 && t->report.asked)
		return tls_has_certificate(t->pool->tls) ?
			       err_set(e, EKEYREJECTED,
				       "%s closed the connection when it had asked for a client certificate: it "
				       "seems to have refused the client certificate in cert_file",
				       peer) :
			       err_set(e, EKEYREJECTED, "%s asks for a client certificate: set cert_file and key_file",
				       peer);
	if (!nothing_yet && os != ECONNRESET)
		return err_set(e, EPROTO, "%s broke off in the middle of its answer", peer);
	return err_set(e, ECONNRESET, "%s closed the connection without an answer", peer);
}

static int explain(const struct transfer *t, CURLcode code, struct err *e)
{
	const char *peer = t->c->url.peer;
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
		return err_set(e, ENOMEM,
			       "no secret memory left to talk to %s: raise RLIMIT_MEMLOCK (ulimit -l, "
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
			return err_set(e, ECONNREFUSED, "%s refused the connection: is the server running there?",
				       peer);
		if (os == ETIMEDOUT)
			return err_set(e, ETIMEDOUT, "%s accepted no connection", peer);
		return err_set(e, EHOSTUNREACH, "%s cannot be reached: %s", peer,
			       os ? strerror((int)os) : "no route or no address");
	case CURLE_PEER_FAILED_VERIFICATION:
		return err_set(e, EKEYREJECTED,
			       "the certificate of %s is not for \"%s\": set server_name to a name in it", peer,
			       t->c->url.name);
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
		return err_set(e, EPROTO, "the answer of %s is not HTTP as it should be: %s", peer,
			       curl_easy_strerror(code));
	}
}

/* --- transfers */

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	if (size * n <= 2 && (line[0] == '\r' || line[0] == '\n'))
		t->head_ended = true;
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
	bool idempotent = strcmp(t->method, "POST") != 0 && strcmp(t->method, "PUT") != 0 &&
			  strcmp(t->method, "PATCH") != 0;
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

int pool_begin(struct pool *p, struct transfer *t, unsigned left_ms)
{
	if (!p->multi && multi_open(p) < 0)
		return -ENOMEM;
	t->pool = p;
	t->easy = curl_easy_init();
	if (t->easy && set_options(t, left_ms) == 0 && curl_multi_add_handle(p->multi, t->easy) == CURLM_OK) {
		p->n_running++;
		return 0;
	}
	if (t->easy)
		curl_easy_cleanup(t->easy);
	t->easy = NULL;
	t->pool = NULL;
	return -ENOMEM;
}

void pool_end(struct transfer *t)
{
	(void)curl_multi_remove_handle(t->pool->multi, t->easy);
	curl_easy_cleanup(t->easy);
	t->pool->n_running--;
	t->easy = NULL;
	t->pool = NULL;
}

static void complete(struct transfer *t, CURLcode code)
{
	int r;
	long status = 0;
	curl_off_t after = 0;
	(void)curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	if (code != CURLE_OK) {
		r = explain(t, code, &t->err);
	} else if (!t->head_ended) { /* libcurl takes what has come by the end of the connection for all of it */
		r = err_set(&t->err, EPROTO, "%s broke off in the middle of its answer", t->c->url.peer);
	} else if (status < 200 || status > 999) {
		r = err_set(&t->err, EPROTO, "the answer of %s has no HTTP status", t->c->url.peer);
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
	http_transfer_ended(t, r);
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
		http_deliver(c);
}
