/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP requests that a test waits for: what test_base_http.c and test_base_tls.c share. */
#ifndef CT_TESTS_HTTP_CALLS_H
#define CT_TESTS_HTTP_CALLS_H

#include "base/http.h"
#include "tests/unit/check.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static struct io *io;

static inline int listen_on(int *ret_port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof a;
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 128) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	*ret_port = ntohs(a.sin_port);
	return fd;
}

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
		CHECK(e && e->code == -r && e->msg[0]);
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

#endif
