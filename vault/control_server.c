/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's side of the control socket: one thread, one poll loop.
 *
 * A packet socket keeps messages apart, so there are no half messages to put together and one receive buffer serves
 * all clients. A client is in one of two states: waiting to be heard (POLLIN; closed when it says nothing for
 * CONTROL_DEADLINE_MS) or with an answer that its socket would not take yet (POLLOUT; the same deadline, and nothing
 * is read from it meanwhile). Beyond CONTROL_CLIENTS_MAX connections stay in the kernel's queue until one ends, which
 * the deadlines see to.
 *
 * Of two servers that start at once one wins: looking for a live one, removing a dead one's file and binding are done
 * under a lock of the folder. A socket's file is only ever removed while it is known to be ours or dead.
 */
#include "vault/control_internal.h"

#include "base/cleanup.h"
#include "base/http.h"
#include "base/secmem.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

enum { ACCEPT_PAUSE_MS = 100 };

struct client {
	int fd; /* -1: free */
	struct control_peer peer;
	uint64_t deadline;
	char *out; /* the answer that is still to be sent */
	size_t out_len;
};

struct control_server {
	int dirfd, fd, stop;
	char *name; /* the socket's, within dirfd */
	dev_t dev;
	ino_t ino;
	struct control_handler *handlers;
	size_t n_handlers;
	pthread_t thread;
	bool running;
	char *in;	       /* CONTROL_MESSAGE_MAX + 1 */
	uint64_t accept_after; /* no descriptors left: do not spin */
	struct client clients[CONTROL_CLIENTS_MAX];
};

/* ---- answers ---- */

static char *literal_answer(const char *text, size_t *ret_len)
{
	*ret_len = strlen(text);
	return sec_strdup(text);
}

/* A sentence may hold a path, and a path any byte; a message is UTF-8. */
static void make_utf8(char *s)
{
	if (utf8_valid(s, strlen(s)))
		return;
	for (; *s; s++)
		if ((unsigned char)*s >= 0x80)
			*s = '?';
}

static char *error_answer(int r, const struct err *why, size_t *ret_len)
{
	char message[ERR_MSG_MAX];
	snprintf(message, sizeof message, "%s", err_msg(why, r));
	make_utf8(message);
	const char *code = strerrorname_np(-r);
	cleanup_json struct json *j = json_object();
	struct json *error = json_object();
	if (!j || json_set(error, "code", json_of_string(code ? code : "EIO")) < 0 ||
	    json_set(error, "message", json_of_string(message)) < 0) {
		json_free(error);
		return NULL;
	}
	if (json_set(j, "v", json_of_int(CONTROL_VERSION)) < 0 || json_set(j, "ok", json_of_bool(false)) < 0) {
		json_free(error);
		return NULL;
	}
	return json_set(j, "error", error) < 0 ? NULL : json_print(j, false, ret_len);
}

static char *result_answer(struct json *result, size_t *ret_len)
{
	cleanup_json struct json *j = json_object();
	if (!j || json_set(j, "v", json_of_int(CONTROL_VERSION)) < 0 || json_set(j, "ok", json_of_bool(true)) < 0) {
		json_free(result);
		return NULL;
	}
	return json_set(j, "result", result ? result : json_of_null()) < 0 ? NULL : json_print(j, false, ret_len);
}

static int run_verb(const struct control_server *s, const struct control_peer *peer, const struct json *request,
		    const char *verb, struct json **ret, struct err *e)
{
	char known[256] = "";
	size_t at = 0;
	for (size_t i = 0; i < s->n_handlers; i++) {
		const struct control_handler *h = &s->handlers[i];
		if (strcmp(h->verb, verb) == 0)
			return h->fn(h->arg, peer, request, ret, e);
		int n = snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", h->verb);
		if (n > 0 && (size_t)n < sizeof known - at)
			at += (size_t)n;
	}
	return err_set(e, EOPNOTSUPP, "'%s' is no verb of this server, which knows: %s", verb, known);
}

static char *answer_to(const struct control_server *s, const struct control_peer *peer, size_t len, int flags,
		       size_t *ret_len)
{
	cleanup_json struct json *request = NULL;
	struct json *result = NULL;
	const char *verb;
	struct err e = ERR_INIT;
	int r;
	if (flags & MSG_CTRUNC)
		r = err_set(&e, EINVAL, "this server takes no descriptors beside a message");
	else if ((flags & MSG_TRUNC) || len > CONTROL_MESSAGE_MAX)
		r = err_set(&e, EMSGSIZE, "the request is longer than %d bytes", CONTROL_MESSAGE_MAX);
	else
		r = control_parse_request(s->in, len, &request, &verb, &e);
	if (r == 0)
		r = run_verb(s, peer, request, verb, &result, &e);
	char *text = NULL;
	if (r == 0) {
		text = result_answer(result, ret_len);
		if (text && *ret_len > CONTROL_MESSAGE_MAX) {
			r = err_set(&e, EMSGSIZE, "the answer would have %zu bytes, more than %d", *ret_len,
				    CONTROL_MESSAGE_MAX);
			sec_free(TAKE_PTR(text));
		}
	}
	if (r < 0)
		text = error_answer(r, &e, ret_len);
	return text ? text :
		      literal_answer("{\"v\":1,\"ok\":false,\"error\":{\"code\":\"ENOMEM\","
				     "\"message\":\"no secret memory for the answer\"}}",
				     ret_len);
}

/* ---- clients ---- */

static void client_close(struct client *c)
{
	close(TAKE_FD(c->fd));
	sec_free(TAKE_PTR(c->out));
	c->out_len = 0;
}

static void client_send(struct client *c)
{
	ssize_t n = send(c->fd, c->out, c->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		client_close(c);
		return;
	}
	sec_free(TAKE_PTR(c->out));
	c->deadline = io_now_ms() + CONTROL_DEADLINE_MS;
}

static void client_answer(struct client *c, char *text, size_t len)
{
	if (!text) { /* not even memory for saying so */
		client_close(c);
		return;
	}
	c->out = text;
	c->out_len = len;
	c->deadline = io_now_ms() + CONTROL_DEADLINE_MS;
	client_send(c);
}

static void client_read(struct control_server *s, struct client *c)
{
	struct iovec iov = { .iov_base = s->in, .iov_len = CONTROL_MESSAGE_MAX + 1 };
	/* No room for control messages: the kernel itself throws descriptors away, and says so. */
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) { /* the end; an empty packet looks the same, and is no message either */
		client_close(c);
		return;
	}
	size_t len = 0;
	char *text = answer_to(s, &c->peer, (size_t)n, m.msg_flags, &len);
	mem_wipe(s->in, (size_t)n);
	client_answer(c, text, len);
}

static void accept_client(struct control_server *s, struct client *c)
{
	int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			s->accept_after = io_now_ms() + ACCEPT_PAUSE_MS;
		return;
	}
	struct ucred peer;
	socklen_t len = sizeof peer;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		close(fd);
		return;
	}
	c->fd = fd;
	c->peer = (struct control_peer){ .pid = peer.pid, .uid = peer.uid, .gid = peer.gid };
	c->deadline = io_now_ms() + CONTROL_DEADLINE_MS;
	if (peer.uid == geteuid() || peer.uid == 0)
		return;
	struct err e;
	size_t n = 0;
	int r = err_set(&e, EACCES, "user %u may not use this socket", peer.uid);
	char *text = error_answer(r, &e, &n);
	client_answer(c, text, n);
	if (c->fd >= 0)
		client_close(c);
}

static struct client *free_client(struct control_server *s)
{
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (s->clients[i].fd < 0)
			return &s->clients[i];
	return NULL;
}

/* Until the earliest deadline; -1 when there is none. */
static int poll_timeout(const struct control_server *s, uint64_t now, bool paused)
{
	uint64_t next = paused ? s->accept_after : UINT64_MAX;
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (s->clients[i].fd >= 0 && s->clients[i].deadline < next)
			next = s->clients[i].deadline;
	if (next == UINT64_MAX)
		return -1;
	return next > now ? (int)(next - now) : 0;
}

static void *serve(void *arg)
{
	struct control_server *s = arg;
	for (;;) {
		uint64_t now = io_now_ms();
		bool paused = now < s->accept_after;
		struct pollfd p[2 + CONTROL_CLIENTS_MAX] = { { .fd = s->stop, .events = POLLIN } };
		p[1] = (struct pollfd){ .fd = !paused && free_client(s) ? s->fd : -1, .events = POLLIN };
		for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
			p[2 + i] = (struct pollfd){ .fd = s->clients[i].fd,
						    .events = s->clients[i].out ? POLLOUT : POLLIN };
		if (poll(p, sizeof p / sizeof p[0], poll_timeout(s, now, paused)) < 0 && errno != EINTR)
			return NULL;
		if (p[0].revents)
			return NULL;
		now = io_now_ms();
		for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
			struct client *c = &s->clients[i];
			if (c->fd < 0)
				continue;
			if (p[2 + i].revents && c->out)
				client_send(c);
			else if (p[2 + i].revents)
				client_read(s, c);
			else if (now >= c->deadline)
				client_close(c);
		}
		struct client *c = free_client(s);
		if (p[1].revents && c)
			accept_client(s, c);
	}
}

/* ---- the socket ---- */

static int make_folders(char *dir, struct err *e)
{
	for (char *at = dir + 1;; at++) {
		if (*at != '/' && *at)
			continue;
		char was = *at;
		*at = '\0';
		int r = mkdir(dir, 0700) < 0 && errno != EEXIST ? errno : 0;
		if (r && access(dir, F_OK) == 0) /* a read-only file system says EROFS for what is there */
			r = 0;
		if (r)
			return err_sys(e, r, "cannot make the folder %s", dir);
		*at = was;
		if (!was)
			return 0;
	}
}

static int open_folder(const char *path, int *ret, struct err *e)
{
	cleanup_free char *dir = strdup(path);
	if (!dir)
		return err_set(e, ENOMEM, "no memory");
	char *slash = strrchr(dir, '/');
	slash[slash == dir] = '\0';
	int r = make_folders(dir, e);
	if (r < 0)
		return r;
	cleanup_close int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(e, errno, "%s", dir);
	if (st.st_uid != geteuid())
		return err_set(e, EPERM, "%s belongs to user %u: the control socket needs a folder of our own", dir,
			       st.st_uid);
	if (st.st_mode & 022)
		return err_set(e, EPERM, "others may write in %s: chmod go-w it, or put the control socket elsewhere",
			       dir);
	*ret = TAKE_FD(fd);
	return 0;
}

/* For the moments of starting and stopping. Whoever can open the folder can hold this lock, so it is not worth waiting
 * for long: without it two servers that start at once could at worst both believe that they listen. */
static void lock_folder(int dirfd)
{
	for (int i = 0; i < 200 && flock(dirfd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
}

/* Removes the file of a dead server. */
static int clear_the_way(const struct control_server *s, const struct sockaddr_un *a, struct err *e)
{
	struct stat st;
	if (fstatat(s->dirfd, s->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(e, errno, "%s", a->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, EEXIST, "%s is there already, and no socket", a->sun_path);
	cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(e, errno, "cannot make a socket");
	if (connect(fd, (const struct sockaddr *)a, sizeof *a) == 0 || errno != ECONNREFUSED)
		return err_set(e, EADDRINUSE, "a server listens at %s already", a->sun_path);
	if (unlinkat(s->dirfd, s->name, 0) < 0 && errno != ENOENT)
		return err_sys(e, errno, "cannot remove the dead socket %s", a->sun_path);
	return 0;
}

static int listen_at(struct control_server *s, const struct sockaddr_un *a, struct err *e)
{
	int r = clear_the_way(s, a, e);
	if (r < 0)
		return r;
	s->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return err_sys(e, errno, "cannot make a socket");
	/* Before bind this sets the mode that the file is made with: it is never wider, not for a moment. */
	if (fchmod(s->fd, 0600) < 0 || bind(s->fd, (const struct sockaddr *)a, sizeof *a) < 0)
		return err_sys(e, errno, "%s", a->sun_path);
	struct stat st;
	if (fstatat(s->dirfd, s->name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISSOCK(st.st_mode))
		return err_set(e, EPERM, "%s was moved while the socket was made", a->sun_path);
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	if ((st.st_mode & 077) && fchmodat(s->dirfd, s->name, 0600, 0) < 0)
		return err_sys(e, errno, "cannot make %s private", a->sun_path);
	if (listen(s->fd, CONTROL_CLIENTS_MAX) < 0)
		return err_sys(e, errno, "%s", a->sun_path);
	return 0;
}

void control_server_free(struct control_server *s)
{
	if (!s)
		return;
	if (s->running) {
		uint64_t one = 1;
		while (write(s->stop, &one, sizeof one) < 0 && errno == EINTR)
			;
		pthread_join(s->thread, NULL);
	}
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (s->clients[i].fd >= 0)
			client_close(&s->clients[i]);
	struct stat st;
	if (s->ino) {
		lock_folder(s->dirfd);
		if (fstatat(s->dirfd, s->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == s->dev &&
		    st.st_ino == s->ino)
			(void)!unlinkat(s->dirfd, s->name, 0);
	}
	if (s->fd >= 0)
		close(s->fd);
	if (s->stop >= 0)
		close(s->stop);
	if (s->dirfd >= 0)
		close(s->dirfd);
	sec_free(s->in);
	free(s->handlers);
	free(s->name);
	free(s);
}
DEFINE_CLEANUP(control_server_free, struct control_server *)

/* Signals are for the threads that wait for them. */
static int start(struct control_server *s, struct err *e)
{
	sigset_t all, was;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &was);
	int r = pthread_create(&s->thread, NULL, serve, s);
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	if (r)
		return err_sys(e, r, "cannot start the control socket's thread");
	s->running = true;
	(void)pthread_setname_np(s->thread, "ct-control");
	return 0;
}

int control_server_new(const char *path, const struct control_handler *handlers, size_t n, struct control_server **ret,
		       struct err *e)
{
	struct sockaddr_un a;
	int r = control_address(path, &a, e);
	if (r < 0)
		return r;
	CLEANUP_WITH(control_server_freep) struct control_server *s = calloc(1, sizeof *s);
	if (!s)
		return err_set(e, ENOMEM, "no memory for the control socket");
	s->dirfd = s->fd = s->stop = -1;
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		s->clients[i].fd = -1;
	s->name = strdup(strrchr(path, '/') + 1);
	s->handlers = calloc(n ? n : 1, sizeof *handlers);
	s->in = sec_malloc(CONTROL_MESSAGE_MAX + 1);
	if (!s->name || !s->handlers || !s->in)
		return err_set(e, ENOMEM, "no memory for the control socket");
	memcpy(s->handlers, handlers, n * sizeof *handlers);
	s->n_handlers = n;
	s->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop < 0)
		return err_sys(e, errno, "cannot make an event descriptor");
	r = open_folder(path, &s->dirfd, e);
	if (r < 0)
		return r;
	lock_folder(s->dirfd);
	r = listen_at(s, &a, e);
	(void)flock(s->dirfd, LOCK_UN);
	if (r < 0)
		return r;
	r = start(s, e);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}
