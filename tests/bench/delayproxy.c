/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network that is far away: forwards TCP connections, and hands every chunk from the server to the client over a
 * fixed time later. Chunks do not wait for each other, so what is asked at once is answered at once, one delay later.
 *
 *   delayproxy DELAY_MS TARGET_PORT      listens on 127.0.0.1, prints the port; ends with its standard input
 *
 * At the end it prints "connections N". Connecting itself is not delayed (the kernel does that before a proxy can): one
 * TLS 1.3 handshake costs one delay, one request another.
 *
 * All delays are equal, so one queue in order of arrival is in order of departure too.
 */
#include "base/cleanup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 64 * 1024, EVENTS = 64 };

struct side {
	struct pair *pair;
	int fd;
	bool ended; /* nothing more comes from here */
};

struct pair {
	struct side client, server;
	unsigned queued; /* chunks that refer to it */
	bool closed;
};

struct chunk {
	struct chunk *next;
	struct pair *pair;
	uint64_t due_ns;
	size_t len; /* 0: the server's end of file */
	char bytes[];
};

static struct chunk *first, **last = &first;
static uint64_t delay_ns;
static int epoll;
static struct sockaddr_in target;

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pair_unref(struct pair *p)
{
	if (!p->closed || p->queued)
		return;
	free(p);
}

static void pair_close(struct pair *p)
{
	if (p->closed)
		return;
	close(p->client.fd);
	close(p->server.fd);
	p->closed = true;
}

/* A reader that does not read stops this proxy for a moment: good enough for answers of a few KiB. */
static bool send_all(int fd, const char *bytes, size_t n)
{
	while (n > 0) {
		ssize_t w = send(fd, bytes, n, MSG_NOSIGNAL);
		if (w < 0 && errno == EAGAIN) {
			struct pollfd p = { .fd = fd, .events = POLLOUT };
			if (poll(&p, 1, 5000) > 0)
				continue;
		}
		if (w < 0)
			return false;
		bytes += w;
		n -= (size_t)w;
	}
	return true;
}

static int watch(struct side *s)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = s };
	return epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &ev);
}

static void pair_open(int listener)
{
	int one = 1, client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (client < 0)
		return;
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pair *p = calloc(1, sizeof *p);
	if (server < 0 || !p || connect(server, (struct sockaddr *)&target, sizeof target) < 0) {
		free(p);
		close(client);
		if (server >= 0)
			close(server);
		return;
	}
	fcntl(server, F_SETFL, O_NONBLOCK);
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	p->client = (struct side){ .pair = p, .fd = client };
	p->server = (struct side){ .pair = p, .fd = server };
	if (watch(&p->client) < 0 || watch(&p->server) < 0)
		abort();
}

static void side_end(struct side *s)
{
	epoll_ctl(epoll, EPOLL_CTL_DEL, s->fd, NULL);
	s->ended = true;
}

static void chunk_add(struct pair *p, const char *bytes, size_t n)
{
	struct chunk *c = malloc(sizeof *c + n);
	if (!c)
		abort();
	*c = (struct chunk){ .pair = p, .due_ns = now_ns() + delay_ns, .len = n };
	if (n)
		memcpy(c->bytes, bytes, n);
	p->queued++;
	*last = c;
	last = &c->next;
}

static void side_read(struct side *s)
{
	static char buf[CHUNK];
	struct pair *p = s->pair;
	bool from_client = s == &p->client;
	ssize_t n = recv(s->fd, buf, sizeof buf, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		side_end(s);
	if (!from_client) {
		chunk_add(p, buf, n > 0 ? (size_t)n : 0);
	} else if (n <= 0) {
		shutdown(p->server.fd, SHUT_WR);
	} else if (!send_all(p->server.fd, buf, (size_t)n)) {
		side_end(s);
	}
}

/* Hands over what is due; the time until the next is, or -1. */
static int64_t deliver(void)
{
	while (first) {
		struct chunk *c = first;
		uint64_t now = now_ns();
		if (c->due_ns > now)
			return (int64_t)(c->due_ns - now);
		struct pair *p = c->pair;
		p->queued--;
		if (!p->closed && (c->len == 0 || !send_all(p->client.fd, c->bytes, c->len)))
			pair_close(p);
		first = c->next;
		if (!first)
			last = &first;
		free(c);
		pair_unref(p);
	}
	return -1;
}

int main(int argc, char **argv)
{
	if (argc != 3 || atoi(argv[1]) < 0 || atoi(argv[2]) <= 0 || atoi(argv[2]) > UINT16_MAX) {
		fprintf(stderr, "usage: delayproxy DELAY_MS TARGET_PORT\n");
		return 64;
	}
	delay_ns = (uint64_t)atoi(argv[1]) * 1000000u;
	target = (struct sockaddr_in){ .sin_family = AF_INET,
				       .sin_port = htons((uint16_t)atoi(argv[2])),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof here;
	epoll = epoll_create1(EPOLL_CLOEXEC);
	cleanup_close int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (epoll < 0 || listener < 0 || bind(listener, (struct sockaddr *)&here, sizeof here) < 0 ||
	    listen(listener, 512) < 0 || getsockname(listener, (struct sockaddr *)&here, &len) < 0) {
		perror("delayproxy");
		return 1;
	}
	struct epoll_event on_listener = { .events = EPOLLIN, .data.ptr = &listener };
	struct epoll_event on_stdin = { .events = EPOLLIN, .data.ptr = NULL };
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &on_listener) < 0 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &on_stdin) < 0) {
		perror("delayproxy");
		return 1;
	}
	printf("%u\n", ntohs(here.sin_port));
	fflush(stdout);

	unsigned connections = 0;
	for (bool end = false; !end;) {
		int64_t wait = deliver();
		struct timespec t = { .tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000 };
		struct epoll_event events[EVENTS];
		int n = epoll_pwait2(epoll, events, EVENTS, wait < 0 ? NULL : &t, NULL);
		for (int i = 0; i < n; i++) {
			void *what = events[i].data.ptr;
			if (!what) {
				end = true;
			} else if (what == &listener) {
				pair_open(listener);
				connections++;
			} else if (!((struct side *)what)->pair->closed && !((struct side *)what)->ended) {
				side_read(what);
			}
		}
	}
	printf("connections %u\n", connections);
	return 0;
}
