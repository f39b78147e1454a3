/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O loop and the HTTP client against small servers on loopback. */
#include "base/http.h"
#include "base/http_url.h"
#include "base/secmem.h"
#include "tests/unit/http_calls.h"

#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>

/* --- a server: one thread that accepts, one thread a connection, a function that answers each request */

struct server;
/* Answers one request on fd; false: close. `n` counts the connection's requests from 1. */
typedef bool answer_fn(struct server *s, int fd, const char *request, int n);

struct server {
	answer_fn *answer;
	int fd, port;
	_Atomic int accepted, requests, busy, most_busy;
	pthread_t thread;
	char last[4096]; /* the last request's head */
	pthread_mutex_t lock;
	pthread_cond_t idle;
	int open; /* connections */
};

struct served {
	struct server *s;
	int fd;
};

static void send_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
		if (k <= 0)
			return;
		p += k;
		n -= (size_t)k;
	}
}

static void say(int fd, const char *text)
{
	send_all(fd, text, strlen(text));
}

/* Reads a request with its body; 0 at the end. Servers here see no second request before they have answered. */
static size_t read_request(int fd, char *buf, size_t room)
{
	size_t n = 0;
	while (n + 1 < room) {
		ssize_t k = recv(fd, buf + n, room - 1 - n, 0);
		if (k <= 0)
			return 0;
		n += (size_t)k;
		buf[n] = '\0';
		const char *end = strstr(buf, "\r\n\r\n"), *length = strcasestr(buf, "\r\nContent-Length:");
		if (end && n >= (size_t)(end + 4 - buf) + (length ? strtoul(length + 17, NULL, 10) : 0))
			return n;
	}
	return 0;
}

static void *serve_one(void *arg)
{
	struct served v = *(struct served *)arg;
	free(arg);
	char *buf = malloc(1 << 20);
	CHECK(buf);
	for (int n = 1; read_request(v.fd, buf, 1 << 20) > 0; n++) {
		v.s->requests++;
		pthread_mutex_lock(&v.s->lock);
		(void)snprintf(v.s->last, sizeof v.s->last, "%s", buf);
		pthread_mutex_unlock(&v.s->lock);
		int busy = ++v.s->busy;
		if (busy > v.s->most_busy)
			v.s->most_busy = busy;
		bool keep = v.s->answer(v.s, v.fd, buf, n);
		v.s->busy--;
		if (!keep)
			break;
	}
	free(buf);
	close(v.fd);
	pthread_mutex_lock(&v.s->lock);
	if (--v.s->open == 0)
		pthread_cond_signal(&v.s->idle);
	pthread_mutex_unlock(&v.s->lock);
	return NULL;
}

static void *serve(void *arg)
{
	struct server *s = arg;
	for (;;) {
		int fd = accept(s->fd, NULL, NULL);
		if (fd < 0)
			return NULL;
		s->accepted++;
		pthread_mutex_lock(&s->lock);
		s->open++;
		pthread_mutex_unlock(&s->lock);
		struct served *v = malloc(sizeof *v);
		CHECK(v);
		*v = (struct served){ s, fd };
		pthread_t t;
		CHECK(pthread_create(&t, NULL, serve_one, v) == 0);
		pthread_detach(t);
	}
}

static void server_start(struct server *s, answer_fn *answer)
{
	*s = (struct server){ .answer = answer, .lock = PTHREAD_MUTEX_INITIALIZER, .idle = PTHREAD_COND_INITIALIZER };
	s->fd = listen_on(&s->port);
	CHECK(pthread_create(&s->thread, NULL, serve, s) == 0);
}

static void server_stop(struct server *s)
{
	shutdown(s->fd, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->fd);
	pthread_mutex_lock(&s->lock);
	while (s->open > 0) /* the client has closed, or will when it reads */
		pthread_cond_wait(&s->idle, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

static struct http_client *client(int port)
{
	return client_with((struct http_client_conf){ .timeout_ms = 5000 }, "http", port);
}

/* --- addresses */

static void test_urls(void)
{
	static const struct {
		const char *url, *server_name, *base, *peer, *connect_to;
	} good[] = {
		{ "https://vault.example", NULL, "https://vault.example:443", "vault.example:443", NULL },
		{ "HTTPS://vault.example:8200/", NULL, "https://vault.example:8200", "vault.example:8200", NULL },
		{ "https://10.0.0.1:8200/proxy/vault//", NULL, "https://10.0.0.1:8200/proxy/vault", "10.0.0.1:8200",
		  NULL },
		{ "https://[2001:db8::1]:8200", NULL, "https://[2001:db8::1]:8200", "[2001:db8::1]:8200", NULL },
		{ "https://10.0.0.1:8200", "vault.example", "https://vault.example:8200", "10.0.0.1:8200",
		  "vault.example:8200:10.0.0.1:8200" },
		{ "https://[::1]", "v.example", "https://v.example:443", "[::1]:443", "v.example:443:[::1]:443" },
		{ "http://127.8.9.1:1", NULL, "http://127.8.9.1:1", "127.8.9.1:1", NULL },
		{ "http://localhost", NULL, "http://localhost:80", "localhost:80", NULL },
		{ "http://[::1]:8200", NULL, "http://[::1]:8200", "[::1]:8200", NULL },
	};
	static const struct {
		const char *url, *server_name, *says;
	} bad[] = {
		{ "", NULL, "no address" },
		{ "vault.example:8200", NULL, "no address" },
		{ "file:///etc/passwd", NULL, "no address" },
		{ "https://", NULL, "wrong host or port" },
		{ "https://:8200", NULL, "wrong host or port" },
		{ "https://h:", NULL, "wrong host or port" },
		{ "https://h:123456", NULL, "wrong host or port" },
		{ "https://h:+1", NULL, "wrong host or port" },
		{ "https://-h", NULL, "wrong host or port" },
		{ "https://h%00", NULL, "wrong host or port" },
		{ "https://[::1", NULL, "wrong host or port" },
		{ "https://[::g]", NULL, "wrong host or port" },
		{ "https://[::1]x", NULL, "wrong host or port" },
		{ "https://h/\r\nX: y", NULL, "no address" },
		{ "https://h/?q", NULL, "no query" },
		{ "https://h#f", NULL, "no query" },
		{ "https://u:p@h", NULL, "user name" },
		{ "http://10.0.0.1", NULL, "in the clear" },
		{ "http://128.0.0.1", NULL, "in the clear" },
		{ "http://localhost.example", NULL, "in the clear" },
		{ "http://127.0.0.1.example", NULL, "in the clear" },
		{ "http://[::2]", NULL, "in the clear" },
		{ "http://127.0.0.1", "vault.example", "server_name is for https" },
		{ "https://h", "a b", "no host name" },
		{ "https://h", "a:1", "no host name" },
	};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct http_url u;
		struct err e = ERR_INIT;
		CHECK_MSG(http_url_parse(good[i].url, good[i].server_name, &u, &e) == 0, "%s", e.msg);
		CHECK_MSG(strcmp(u.base, good[i].base) == 0, "%s", u.base);
		CHECK_MSG(strcmp(u.peer, good[i].peer) == 0, "%s", u.peer);
		CHECK(!u.connect_to == !good[i].connect_to);
		CHECK(!u.connect_to || strcmp(u.connect_to, good[i].connect_to) == 0);
		http_url_clear(&u);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct http_url u;
		struct err e = ERR_INIT;
		CHECK_MSG(http_url_parse(bad[i].url, bad[i].server_name, &u, &e) == -EINVAL, "%s", bad[i].url);
		CHECK_MSG(strstr(e.msg, bad[i].says), "%s: %s", bad[i].url, e.msg);
		CHECK(!strstr(e.msg, "u:p"));
	}
}

/* --- the loop */

struct order {
	char seen[16];
	struct io_timer *never;
	int left;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};
static struct order order = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

static void note(char c)
{
	pthread_mutex_lock(&order.lock);
	order.seen[strlen(order.seen)] = c;
	if (--order.left == 0)
		pthread_cond_signal(&order.cond);
	pthread_mutex_unlock(&order.lock);
}

static void note_a(void *arg)
{
	(void)arg;
	note('a');
}
static void note_b(void *arg)
{
	(void)arg;
	note('b');
}
static void note_a_then_b(void *arg)
{
	CHECK(io_after(io, 0, note_b, arg));
	note('a');
}
static void note_c(void *arg)
{
	io_cancel(io, order.never);
	CHECK(io_after(io, 0, note_a_then_b, arg));
	note('c');
}
static void note_x(void *arg)
{
	(void)arg;
	note('x');
}

static void start_timers(void *arg)
{
	CHECK(io_after(io, 20, note_c, arg)); /* adds an 'a' and a 'b' at once, takes the 'x' away */
	order.never = io_after(io, 30, note_x, arg);
	CHECK(order.never);
	CHECK(io_after(io, 0, note_b, arg));
	CHECK(io_after(io, 0, note_a, arg));
	note('>'); /* nothing runs from within the call */
}

static void test_timers(void)
{
	order.left = 6;
	uint64_t from = io_now_ms();
	CHECK(io_call(io, start_timers, NULL) == 0);
	pthread_mutex_lock(&order.lock);
	while (order.left > 0)
		pthread_cond_wait(&order.cond, &order.lock);
	pthread_mutex_unlock(&order.lock);
	CHECK_MSG(strcmp(order.seen, ">bacab") == 0, "%s", order.seen);
	CHECK(io_now_ms() - from >= 20);
}

static void call_from_loop(void *arg)
{
	*(int *)arg = io_call(io, note_x, NULL);
}

static _Atomic int posted;
static void count_post(void *arg)
{
	(void)arg;
	posted++;
}

static void *post_many(void *arg)
{
	for (int i = 0; i < 1000; i++)
		CHECK(io_post(arg, count_post, NULL) == 0);
	return NULL;
}

static void test_posts(void)
{
	int r = 0;
	CHECK(io_call(io, call_from_loop, &r) == 0);
	CHECK(r == -EDEADLK);
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&t[i], NULL, post_many, io) == 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	CHECK(io_call(io, count_post, NULL) == 0); /* behind all others */
	CHECK(posted == 4001);
}

/* --- requests */

static bool echo(struct server *s, int fd, const char *request, int n)
{
	(void)s, (void)n;
	char head[128];
	size_t len = strlen(request);
	bool no_body = strncmp(request, "HEAD ", 5) == 0;
	(void)snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", len);
	say(fd, head);
	if (!no_body)
		send_all(fd, request, len);
	return true;
}

static void test_methods(void)
{
	struct server s;
	server_start(&s, echo);
	struct http_client *c = client(s.port);
	static const char *const bare[] = { "GET", "LIST", "DELETE" };
	for (size_t i = 0; i < 3; i++) {
		char line[64];
		CHECK(request(c, &(struct http_request){ .method = bare[i], .path = "/v1/a%2Fb/../c" }) == 0);
		CHECK(last.status == 200);
		(void)snprintf(line, sizeof line, "%s /v1/a%%2Fb/../c HTTP/1.1\r\n", bare[i]);
		CHECK_MSG(strncmp(last.body, line, strlen(line)) == 0, "%s", last.body);
		CHECK(!strcasestr(last.body, "content-length") && !strcasestr(last.body, "accept-encoding"));
		CHECK(strcasestr(last.body, "\r\nUser-Agent: cloudtaser/"));
	}
	CHECK(request(c, &(struct http_request){ .method = "HEAD", .path = "/" }) == 0);
	CHECK(last.status == 200 && last.body_len == 0);
	static const char *const with[] = { "POST", "PUT", "PATCH" };
	for (size_t i = 0; i < 3; i++) {
		const struct http_header h[] = { { "Content-Type", "application/json" },
						 { "X-Token", "abc" },
						 { "X-Empty", "" } };
		CHECK(request(c, &(struct http_request){ .method = with[i],
							 .path = "/p",
							 .headers = h,
							 .n_headers = 3,
							 .body = "{\"a\":1}",
							 .body_len = 7 }) == 0);
		CHECK(strncmp(last.body, with[i], strlen(with[i])) == 0);
		CHECK(strcasestr(last.body, "\r\nContent-Type: application/json\r\n"));
		CHECK(!strcasestr(last.body, "urlencoded"));
		CHECK(strcasestr(last.body, "\r\nContent-Length: 7\r\n"));
		CHECK(strstr(last.body, "\r\nX-Token: abc\r\n"));
		CHECK(strstr(last.body, "\r\nX-Empty:"));
		CHECK(!strcasestr(last.body, "Expect"));
		CHECK(strcmp(last.body + last.body_len - 7, "{\"a\":1}") == 0);
	}
	CHECK(request(c, &(struct http_request){ .method = "POST", .path = "/none" }) == 0);
	CHECK(strcasestr(last.body, "\r\nContent-Length: 0\r\n"));
	CHECK(request(c, &(struct http_request){ .method = "BREW", .path = "/" }) == -EINVAL);
	CHECK(request(c, &(struct http_request){ .method = "GET", .path = "no-slash" }) == -EINVAL);
	static const struct http_header evil[] = {
		{ "X", "a\r\nY: b" }, { "X\n", "a" }, { "X:", "a" }, { "", "a" }, { "X", "\x01" }
	};
	int before = s.requests;
	for (size_t i = 0; i < sizeof evil / sizeof *evil; i++) {
		CHECK(request(c,
			      &(struct http_request){
				      .method = "GET", .path = "/", .headers = &evil[i], .n_headers = 1 }) == -EINVAL);
		CHECK(!strstr(last.err.msg, "Y: b")); /* a header's value may be a token */
	}
	CHECK(s.requests == before);
	client_end(c);
	server_stop(&s);
}

static void test_keep_alive(void)
{
	struct server s;
	server_start(&s, echo);
	struct http_client *c = client(s.port);
	for (int i = 0; i < 10; i++)
		CHECK(get(c, "/") == 0);
	CHECK(s.accepted == 1 && s.requests == 10);
	client_end(c);
	server_stop(&s);
}

/* Answers when four are there at once, so that it is seen that they run at once. */
static bool answer_four(struct server *s, int fd, const char *request, int n)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	static int waiting, round;
	pthread_mutex_lock(&lock);
	int mine = round;
	if (++waiting == 4) {
		waiting = 0;
		round++;
		pthread_cond_broadcast(&cond);
	}
	while (round == mine) /* NOLINT(bugprone-infinite-loop): another thread changes it, under the lock */
		pthread_cond_wait(&cond, &lock);
	pthread_mutex_unlock(&lock);
	return echo(s, fd, request, n);
}

static void test_cap(void)
{
	struct server s;
	server_start(&s, answer_four);
	struct http_client *c = client_with((struct http_client_conf){ .max_connections = 4 }, "http", s.port);
	CHECK(http_client_connections(c) == 4);
	enum { N = 40 };
	static struct call calls[N];
	for (int i = 0; i < N; i++)
		calls[i] = (struct call){ .c = c, .req = { .method = "GET", .path = "/" } };
	run_calls(calls, N);
	for (int i = 0; i < N; i++) {
		CHECK_MSG(calls[i].r == 0 && calls[i].status == 200, "%s", calls[i].err.msg);
		free(calls[i].body);
	}
	CHECK(s.accepted == 4 && s.most_busy == 4 && s.requests == N);
	client_end(c);
	server_stop(&s);
}

static bool never(struct server *s, int fd, const char *request, int n)
{
	(void)s, (void)request, (void)n;
	char b;
	return recv(fd, &b, 1, 0) > 0;
}

static void test_timeouts(void)
{
	struct server s;
	server_start(&s, never);
	struct http_client *c = client_with((struct http_client_conf){ .timeout_ms = 5000, .max_connections = 1 },
					    "http", s.port);
	uint64_t from = io_now_ms();
	static struct call calls[2];
	for (int i = 0; i < 2; i++)
		calls[i] = (struct call){ .c = c, .req = { .method = "GET", .path = "/", .timeout_ms = 150 } };
	run_calls(calls, 2);
	CHECK(io_now_ms() - from >= 140 && io_now_ms() - from < 4000);
	CHECK(calls[0].r == -ETIMEDOUT && strstr(calls[0].err.msg, "did not answer within 150 ms"));
	CHECK(calls[1].r == -ETIMEDOUT); /* its time ran while it was queued */
	CHECK_MSG(strstr(calls[1].err.msg, "all 1 connections to") || strstr(calls[1].err.msg, "did not answer"), "%s",
		  calls[1].err.msg);
	client_end(c);
	server_stop(&s);
}

static const char *scripted;
static size_t scripted_len;
static bool script(struct server *s, int fd, const char *request, int n)
{
	(void)s, (void)request, (void)n;
	send_all(fd, scripted, scripted_len);
	return false;
}

static void test_broken_answers(void)
{
	struct server s;
	server_start(&s, script);
	struct http_client *c = client_with((struct http_client_conf){ .max_body = 1000 }, "http", s.port);
	static const struct {
		const char *text;
		int r;
		const char *says;
	} cases[] = {
		{ "garbage\r\n\r\nmore", -EPROTO, "not HTTP" },
		{ "\x16\x03\x01\x02", -EPROTO, "not HTTP" },
		{ "HTTP/1.1 abc\r\n\r\n", -EPROTO, "" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", -EPROTO, "broke off in the middle" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", -EPROTO, "" },
		{ "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", -EPROTO, "broke off in the middle" },
		{ "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", -EPROTO, "" },
		{ "HTTP/1.1 200 OK\r\nContent-Len", -EPROTO, "broke off in the middle" },
		{ "", -ECONNRESET, "without an answer" },
	};
	int r;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		scripted = cases[i].text;
		scripted_len = strlen(scripted);
		r = get(c, "/");
		CHECK_MSG(r == cases[i].r, "%s: %d %s", cases[i].text, r, last.err.msg);
		CHECK_MSG(strstr(last.err.msg, cases[i].says), "%s: %s", cases[i].text, last.err.msg);
		CHECK(!strstr(last.err.msg, "garbage") && !strstr(last.err.msg, "half")); /* nothing of it is quoted */
	}
	static char big[300000];
	int n = snprintf(big, sizeof big, "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n");
	memset(big + n, 'x', 2000);
	scripted = big;
	scripted_len = (size_t)n + 1001;
	CHECK_ERROR(get(c, "/"), -EMSGSIZE, "is larger than 1000 bytes");
	n = snprintf(big, sizeof big, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
	memset(big + n, 'x', 1000);
	scripted_len = (size_t)n + 1000;
	CHECK(get(c, "/") == 0);
	CHECK(last.body_len == 1000 && strspn(last.body, "x") == 1000);
	n = snprintf(big, sizeof big, "HTTP/1.1 200 OK\r\n\r\n"); /* until the connection ends */
	memset(big + n, 'x', 2000);
	scripted_len = (size_t)n + 2000;
	CHECK_ERROR(get(c, "/"), -EMSGSIZE, "is larger");
	n = snprintf(big, sizeof big, "HTTP/1.1 200 OK\r\n");
	while (n < 200000)
		n += snprintf(big + n, sizeof big - (size_t)n, "X-%d: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", n);
	n += snprintf(big + n, sizeof big - (size_t)n, "\r\n");
	scripted_len = (size_t)n;
	CHECK_ERROR(get(c, "/"), -EMSGSIZE, "is larger");
	/* other statuses are answers */
	static const char *const answers[] = {
		"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 503 Sealed\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 429 Slow\r\nRetry-After: 99999999\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 204 None\r\n\r\n",
	};
	static const int statuses[] = { 302, 503, 429, 204 };
	static const unsigned waits[] = { 0, 7, 3600, 0 };
	for (size_t i = 0; i < 4; i++) {
		scripted = answers[i];
		scripted_len = strlen(scripted);
		CHECK_MSG(get(c, "/") == 0, "%s", last.err.msg);
		CHECK(last.status == statuses[i]);
		CHECK(last.retry_after_s == waits[i]);
	}
	client_end(c);
	server_stop(&s);
}

static bool reset(struct server *s, int fd, const char *request, int n)
{
	(void)s, (void)request, (void)n;
	struct linger l = { .l_onoff = 1 };
	CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l) == 0);
	return false;
}

static void test_no_server(void)
{
	struct server s;
	server_start(&s, reset);
	struct http_client *c = client(s.port);
	CHECK_ERROR(get(c, "/"), -ECONNRESET, "closed the connection without an answer");
	server_stop(&s);
	CHECK_ERROR(get(c, "/"), -ECONNREFUSED, "refused the connection: is the server running there?");
	client_end(c);
	struct err e = ERR_INIT;
	CHECK(http_client_new(io, &(struct http_client_conf){ .base_url = "https://no-such-host.invalid" }, &c, &e) ==
	      0);
	CHECK_ERROR(get(c, "/"), -EHOSTUNREACH, "the name \"no-such-host.invalid\" is not known");
	client_end(c);
}

/* Answers the first request of a connection, drops it at the second. */
static bool only_first(struct server *s, int fd, const char *request, int n)
{
	return n == 1 ? echo(s, fd, request, n) : false;
}

static void test_dropped_keep_alive(void)
{
	struct server s;
	server_start(&s, only_first);
	struct http_client *c = client(s.port);
	CHECK(get(c, "/1") == 0);
	CHECK(s.accepted == 1);
	CHECK(get(c, "/2") == 0); /* sent again on a new connection */
	CHECK(s.accepted == 2 && s.requests == 3);
	CHECK(request(c, &(struct http_request){ .method = "POST", .path = "/3", .body = "x", .body_len = 1 }) == 0);
	CHECK(s.accepted == 3 && s.requests == 4); /* a write never takes the risk: a connection of its own */
	client_end(c);
	server_stop(&s);
}

/* --- the end */

static struct http_client *to_free;
static void free_in_callback(void *arg, int r, const struct http_response *resp, const struct err *e)
{
	struct http_client *c = to_free;
	to_free = NULL;
	http_client_free(c); /* the others get -ECANCELED from within */
	on_done(arg, r, resp, e);
}

static void start_and_free(void *arg)
{
	struct call *c = arg;
	struct err e = ERR_INIT;
	to_free = c[0].c;
	for (int i = 0; i < 5; i++) {
		c[i].group = c;
		CHECK(http_send(c[0].c, &c[0].req, free_in_callback, &c[i], &e) == 0);
	}
}

static void test_free_in_callback(void)
{
	struct server s;
	server_start(&s, echo);
	struct http_client *c = client_with((struct http_client_conf){ .max_connections = 2 }, "http", s.port);
	static struct call calls[5];
	calls[0] = (struct call){ .c = c, .req = { .method = "GET", .path = "/" } };
	calls[0].left = 5;
	pthread_mutex_init(&calls[0].lock, NULL);
	pthread_cond_init(&calls[0].cond, NULL);
	CHECK(io_call(io, start_and_free, calls) == 0);
	wait_calls(calls);
	int cancelled = 0;
	for (int i = 0; i < 5; i++) {
		cancelled += calls[i].r == -ECANCELED;
		free(calls[i].body);
	}
	CHECK(cancelled >= 3);
	server_stop(&s);
}

static _Atomic int ended;
static void on_ended(void *arg, int r, const struct http_response *resp, const struct err *e)
{
	(void)resp, (void)e;
	struct err err = ERR_INIT;
	CHECK(r == -ECANCELED);
	/* nothing new is taken while it ends */
	CHECK(http_send(arg, &(struct http_request){ .method = "GET", .path = "/" }, on_ended, arg, &err) ==
	      -ECANCELED);
	ended++;
}

static void start_three(void *arg)
{
	struct err e = ERR_INIT;
	for (int i = 0; i < 3; i++)
		CHECK(http_send(arg, &(struct http_request){ .method = "GET", .path = "/" }, on_ended, arg, &e) == 0);
	CHECK(io_after(io, 100000, note_x, NULL));
}

static void test_end_of_loop(void)
{
	struct server s;
	server_start(&s, never);
	struct http_client *c = client_with((struct http_client_conf){ .max_connections = 2 }, "http", s.port);
	CHECK(io_call(io, start_three, c) == 0);
	io_free(io);
	CHECK(ended == 3);
	http_client_free(c); /* after io_free */
	server_stop(&s);
	io_free(NULL);
}

int main(void)
{
	struct err e = ERR_INIT;
	(void)signal(SIGPIPE, SIG_IGN);
	/* Nothing of this may be followed. */
	setenv("http_proxy", "http://127.0.0.1:1", 1);
	setenv("https_proxy", "http://127.0.0.1:1", 1);
	setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
	int r = secmem_init(SECMEM_PREFERRED, &e);
	CHECK_MSG(r == 0, "%s", e.msg);
	test_urls();
	r = io_new(&io, &e);
	CHECK_MSG(r == 0, "%s", e.msg);
	test_timers();
	test_posts();
	test_methods();
	test_keep_alive();
	test_cap();
	test_timeouts();
	test_broken_answers();
	test_no_server();
	test_dropped_keep_alive();
	test_free_in_callback();
	test_end_of_loop();
	free(last.body);
	return 0;
}
