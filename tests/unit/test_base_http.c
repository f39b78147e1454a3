/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O loop and the HTTP client against small servers on loopback, and `openssl s_server` for TLS. */
#include "base/http.h"
#include "base/http_url.h"
#include "base/secmem.h"
#include "tests/unit/check.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

static struct io *io;

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

static int listen_on(int *ret_port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof a;
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 128) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	*ret_port = ntohs(a.sin_port);
	return fd;
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

/* --- one request, waited for */

struct call {
	struct http_client *c;
	struct http_request req;
	struct err err;
	int r, status;
	char *body;
	size_t body_len;
	unsigned retry_after_s;
	struct call *group; /* counts down */
	int left;
	bool done;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};

static void on_done(void *arg, int r, const struct http_response *resp, const struct err *e)
{
	struct call *c = arg;
	c->r = r;
	CHECK((r == 0) == (resp != NULL));
	CHECK((r < 0) == (e != NULL));
	if (resp) {
		c->status = resp->status;
		c->body_len = resp->body_len;
		c->retry_after_s = resp->retry_after_s;
		CHECK(resp->body[resp->body_len] == '\0');
		c->body = malloc(resp->body_len + 1);
		CHECK(c->body);
		memcpy(c->body, resp->body, resp->body_len + 1);
	} else {
		CHECK(e->code == -r && e->msg[0]);
		c->err = *e;
	}
	struct call *g = c->group;
	pthread_mutex_lock(&g->lock);
	if (--g->left == 0) {
		g->done = true;
		pthread_cond_signal(&g->cond);
	}
	pthread_mutex_unlock(&g->lock);
}

static void start_calls(void *arg)
{
	struct call *c = arg;
	for (int i = 0, n = c->left; i < n; i++) {
		c[i].group = c;
		int r = http_send(c[i].c, &c[i].req, on_done, &c[i], &c[i].err);
		if (r < 0) {
			c[i].r = r;
			pthread_mutex_lock(&c->lock);
			c->done = --c->left == 0;
			pthread_mutex_unlock(&c->lock);
		}
	}
}

static void wait_calls(struct call *c)
{
	pthread_mutex_lock(&c->lock);
	while (!c->done)
		pthread_cond_wait(&c->cond, &c->lock);
	pthread_mutex_unlock(&c->lock);
}

static void run_calls(struct call *c, int n)
{
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->cond, NULL);
	c->left = n;
	CHECK(io_call(io, start_calls, c) == 0);
	wait_calls(c);
}

/* The last answer stays until the next call. */
static struct call last;

static int request(struct http_client *c, const struct http_request *req)
{
	free(last.body);
	last = (struct call){ .c = c, .req = *req };
	run_calls(&last, 1);
	return last.r;
}

static int get(struct http_client *c, const char *path)
{
	return request(c, &(struct http_request){ .method = "GET", .path = path });
}

static struct http_client *client_with(struct http_client_conf conf, const char *scheme, int port)
{
	char url[64];
	struct err e = ERR_INIT;
	struct http_client *c = NULL;
	(void)snprintf(url, sizeof url, "%s://127.0.0.1:%d", scheme, port);
	conf.base_url = url;
	int r = http_client_new(io, &conf, &c, &e);
	CHECK_MSG(r == 0, "%s", e.msg);
	return c;
}

static struct http_client *client(int port)
{
	return client_with((struct http_client_conf){ .timeout_ms = 5000 }, "http", port);
}

static void free_on_loop(void *c)
{
	http_client_free(c);
}

static void client_end(struct http_client *c)
{
	CHECK(io_call(io, free_on_loop, c) == 0);
}

#define CHECK_ERROR(call, code, text) \
	do { \
		int r_ = (call); \
		CHECK_MSG(r_ == (code), "%d %s", r_, last.err.msg); \
		CHECK_MSG(strstr(last.err.msg, (text)), "\"%s\"", last.err.msg); \
	} while (0)

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
	while (round == mine)
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

/* --- TLS */

static char folder[] = "/tmp/ct-http-XXXXXX";

static const char *in(const char *file)
{
	static char paths[8][64];
	static int at;
	char *p = paths[at++ % 8];
	(void)snprintf(p, sizeof paths[0], "%s/%s", folder, file);
	return p;
}

static void shell(const char *command)
{
	char line[1024];
	(void)snprintf(line, sizeof line, "cd %s && (%s) >/dev/null 2>&1", folder, command);
	int status = system(line);
	CHECK_MSG(status == 0, "%s", command);
}

struct s_server {
	pid_t pid;
	int port;
};

/*
 * openssl s_server -www: answers any GET with a page. It says where it listens when it does. posix_spawn, because the
 * child of a fork does not survive it while threads have their stacks in secret memory.
 */
static struct s_server s_server(const char *const *options)
{
	const char *argv[32] = { "setpriv",  "--pdeathsig", "KILL",	   "openssl",
				 "s_server", "-accept",	    "127.0.0.1:0", "-www" };
	int n = 8, p[2];
	while (*options)
		argv[n++] = *options++;
	CHECK(pipe2(p, O_CLOEXEC) == 0);
	posix_spawn_file_actions_t actions;
	struct s_server s;
	CHECK(posix_spawn_file_actions_init(&actions) == 0 &&
	      posix_spawn_file_actions_addchdir_np(&actions, folder) == 0 &&
	      posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) == 0 &&
	      posix_spawn_file_actions_adddup2(&actions, p[1], 1) == 0 &&
	      posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0) == 0);
	CHECK(posix_spawnp(&s.pid, argv[0], &actions, NULL, (char *const *)argv, environ) == 0);
	posix_spawn_file_actions_destroy(&actions);
	close(p[1]);
	char text[4096];
	size_t len = 0;
	const char *at = NULL;
	while (len + 1 < sizeof text && !(at && strchr(at, '\n'))) {
		ssize_t k = read(p[0], text + len, sizeof text - 1 - len);
		CHECK_MSG(k > 0, "openssl s_server ended");
		len += (size_t)k;
		text[len] = '\0';
		at = strstr(text, "ACCEPT 127.0.0.1:");
	}
	CHECK(at);
	s.port = atoi(at + strlen("ACCEPT 127.0.0.1:"));
	close(p[0]);
	return s;
}

static void s_server_stop(struct s_server s)
{
	kill(s.pid, SIGKILL);
	CHECK(waitpid(s.pid, NULL, 0) == s.pid);
}

#define OPTIONS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void make_certificates(void)
{
	CHECK(mkdtemp(folder));
	shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days "
	      "30 "
	      "-subj '/CN=unit authority'");
	shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout other.key -out other.pem "
	      "-days 30 -subj '/CN=other authority'");
	shell("touch index.txt; printf "
	      "'[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index.txt\\nserial=serial\\nnew_certs_dir=.\\n"
	      "default_md=sha256\\npolicy=p\\nunique_subject=no\\nrand_serial=yes\\n[p]\\ncommonName=supplied\\n"
	      "[ip]\\nsubjectAltName=IP:127.0.0.1\\n[name]\\nsubjectAltName=DNS:vault.example,DNS:two.example\\n' > "
	      "ca.cnf");
	shell("openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout s.key -out s.csr -subj /CN=s");
	shell("openssl ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in s.csr -days 3 -extensions ip -out "
	      "ip.pem");
	shell("openssl ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in s.csr -days 3 -extensions name -out "
	      "name.pem");
	shell("openssl ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in s.csr -startdate 20200101000000Z "
	      "-enddate 20210203040506Z -extensions ip -out expired.pem");
	shell("chmod 600 *.key");
}

static struct http_client *tls_client(int port, const char *server_name)
{
	return client_with((struct http_client_conf){ .ca_file = in("ca.pem"),
						      .server_name = server_name,
						      .timeout_ms = 5000 },
			   "https", port);
}

static void test_tls(void)
{
	struct s_server s = s_server(OPTIONS("-cert", "ip.pem", "-key", "s.key"));
	struct http_client *c = tls_client(s.port, NULL);
	CHECK_MSG(get(c, "/") == 0, "%s", last.err.msg);
	CHECK(last.status == 200);
	CHECK_MSG(strstr(last.body, "TLSv1.3"), "%s", last.body);
	/* other authorities after a reload, and back: a broken file leaves the old ones */
	client_end(c);
	c = client_with((struct http_client_conf){ .ca_file = in("other.pem") }, "https", s.port);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED,
		    "comes from an unknown issuer (\"unit authority\"), which is not in ca_file");
	client_end(c);
	c = tls_client(s.port, "vault.example");
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "is not for \"vault.example\" (it names: 127.0.0.1)");
	client_end(c);
	s_server_stop(s);

	s = s_server(OPTIONS("-cert", "name.pem", "-key", "s.key"));
	c = tls_client(s.port, NULL);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "is not for \"127.0.0.1\" (it names: vault.example, two.example)");
	client_end(c);
	c = tls_client(s.port, "two.example");
	CHECK_MSG(get(c, "/") == 0, "%s", last.err.msg);
	client_end(c);
	s_server_stop(s);

	s = s_server(OPTIONS("-cert", "expired.pem", "-key", "s.key"));
	c = tls_client(s.port, NULL);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "expired on 2021-02-03 04:05 UTC");
	client_end(c);
	s_server_stop(s);
}

static void test_tls_versions(void)
{
	struct s_server s = s_server(OPTIONS("-cert", "ip.pem", "-key", "s.key", "-tls1_2"));
	struct http_client *c = tls_client(s.port, NULL);
	CHECK_MSG(get(c, "/") == 0, "%s", last.err.msg);
	CHECK(strstr(last.body, "TLSv1.2"));
	client_end(c);
	s_server_stop(s);

	s = s_server(OPTIONS("-cert", "ip.pem", "-key", "s.key", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"));
	c = tls_client(s.port, NULL);
	CHECK_ERROR(get(c, "/"), -EPROTO, "speaks no TLS 1.2 or newer");
	client_end(c);
	s_server_stop(s);

	struct server plain;
	server_start(&plain, echo);
	c = tls_client(plain.port, NULL);
	/* the server waits for the end of a request that is none: its answer never comes, ours is a deadline */
	client_end(c);
	c = client_with((struct http_client_conf){ .ca_file = in("ca.pem"), .connect_timeout_ms = 200 }, "https",
			plain.port);
	CHECK_ERROR(get(c, "/"), -ETIMEDOUT, "did not answer the TLS handshake within 200 ms");
	client_end(c);
	server_stop(&plain);
}

struct reload {
	struct http_client *c;
	struct err err;
	int r;
};

static void do_reload(void *arg)
{
	struct reload *l = arg;
	l->r = http_client_reload(l->c, &l->err);
}

static void test_client_certificates_and_reload(void)
{
	struct s_server s = s_server(OPTIONS("-cert", "ip.pem", "-key", "s.key", "-Verify", "1", "-verify_return_error",
					     "-CAfile", "other.pem"));
	struct http_client *c = tls_client(s.port, NULL);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "asks for a client certificate: set cert_file and key_file");
	client_end(c);
	shell("cp name.pem mine.pem; cp s.key mine.key");
	c = client_with((struct http_client_conf){ .ca_file = in("ca.pem"),
						   .cert_file = in("mine.pem"),
						   .key_file = in("mine.key") },
			"https", s.port);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "refused the client certificate in cert_file");
	struct reload l = { .c = c };
	shell("echo broken > mine.pem");
	CHECK(io_call(io, do_reload, &l) == 0);
	CHECK_MSG(l.r == -EINVAL && strstr(l.err.msg, "mine.pem holds no certificate"), "%s", l.err.msg);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "refused the client certificate in cert_file");
	shell("cp other.pem mine.pem; cp other.key mine.key");
	CHECK(io_call(io, do_reload, &l) == 0);
	CHECK_MSG(l.r == 0, "%s", l.err.msg);
	CHECK_MSG(get(c, "/") == 0, "%s", last.err.msg);
	client_end(c);
	s_server_stop(s);
}

int main(void)
{
	struct err e = ERR_INIT;
	(void)signal(SIGPIPE, SIG_IGN);
	/* Nothing of this may be followed. */
	setenv("http_proxy", "http://127.0.0.1:1", 1);
	setenv("https_proxy", "http://127.0.0.1:1", 1);
	setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
	make_certificates();
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
	test_tls();
	test_tls_versions();
	test_client_certificates_and_reload();
	test_end_of_loop();
	free(last.body);
	shell("rm -f *; cd / && rmdir $OLDPWD");
	return 0;
}
