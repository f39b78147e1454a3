/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: both sides of it, and raw sockets that behave badly on either. */
#include "base/http.h"
#include "base/secmem.h"
#include "tests/unit/check.h"
#include "vault/control.h"

#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64];

static char *at(const char *name)
{
	static char path[4][256];
	static int i;
	char *p = path[i++ & 3];
	snprintf(p, sizeof path[0], "%s/%s", dir, name);
	return p;
}

static struct json *request(const char *verb)
{
	struct json *j = json_object();
	CHECK(json_set(j, "verb", json_of_string(verb)) == 0);
	return j;
}

/* ---- handlers ---- */

static int on_status(void *arg, const struct control_peer *peer, const struct json *req, struct json **ret,
		     struct err *e)
{
	(void)e;
	CHECK(strcmp(arg, "the arg") == 0);
	CHECK(peer->pid == getpid() && peer->uid == geteuid() && peer->gid == getegid());
	CHECK(json_int(json_get(req, "v"), 0) == CONTROL_VERSION);
	struct json *j = json_object();
	CHECK(json_set(j, "said", json_copy(json_get(req, "say"))) == 0);
	CHECK(json_set(j, "null", json_of_null()) == 0);
	*ret = j;
	return 0;
}

static int on_umount(void *arg, const struct control_peer *peer, const struct json *req, struct json **ret,
		     struct err *e)
{
	(void)arg, (void)peer, (void)req, (void)ret;
	return err_set(e, ENOENT, "nothing is mounted at /caf\xc3\xa9\xff");
}

static int on_nothing(void *arg, const struct control_peer *peer, const struct json *req, struct json **ret,
		      struct err *e)
{
	(void)arg, (void)peer, (void)req, (void)ret, (void)e;
	return 0;
}

static int on_much(void *arg, const struct control_peer *peer, const struct json *req, struct json **ret, struct err *e)
{
	(void)arg, (void)peer, (void)e;
	size_t n = (size_t)json_int(json_get(req, "bytes"), 0);
	char *s = malloc(n + 1);
	CHECK(s);
	memset(s, 'x', n);
	s[n] = '\0';
	*ret = json_of_string(s);
	free(s);
	return *ret ? 0 : -ENOMEM;
}

static const struct control_handler handlers[] = {
	{ "status", on_status, (void *)"the arg" },
	{ "umount", on_umount, NULL },
	{ "nothing", on_nothing, NULL },
	{ "much", on_much, NULL },
};

static struct control_server *server(const char *path)
{
	struct control_server *s;
	struct err e = ERR_INIT;
	CHECK_MSG(control_server_new(path, handlers, sizeof handlers / sizeof handlers[0], &s, &e) == 0, "%s", e.msg);
	return s;
}

static int refused(const char *path, struct err *e)
{
	struct control_server *s = NULL;
	*e = (struct err)ERR_INIT;
	int r = control_server_new(path, handlers, 1, &s, e);
	CHECK_MSG(r < 0 && !s && e->code == -r && e->msg[0], "%s: %d", path, r);
	return r;
}

/* ---- raw sockets ---- */

static int raw_connect(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
	return fd;
}

static void readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	CHECK_MSG(poll(&p, 1, 30000) == 1, "no answer within 30 s");
}

/* Sends bytes, expects an error answer with this code. */
static void raw_error(int fd, const void *bytes, size_t n, int code)
{
	CHECK(send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
	static char in[CONTROL_MESSAGE_MAX + 1];
	readable(fd);
	ssize_t len = recv(fd, in, sizeof in, 0);
	CHECK(len > 0);
	struct json *j = NULL;
	struct err e = ERR_INIT;
	int r = control_parse_answer(in, (size_t)len, &j, &e);
	CHECK_MSG(r == -code && !j && e.msg[0], "%d (%s) to %.*s", r, e.msg, (int)n, (const char *)bytes);
}

/* ---- tests ---- */

static void test_calls(void)
{
	char *path = at("new/folder/control.sock");
	mode_t mask = umask(0);
	struct control_server *s = server(path);
	umask(mask);
	struct stat st;
	CHECK(stat(path, &st) == 0 && S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0600);
	CHECK(stat(at("new"), &st) == 0 && (st.st_mode & 07777) == 0700);
	CHECK(stat(at("new/folder"), &st) == 0 && (st.st_mode & 07777) == 0700);

	struct err e = ERR_INIT;
	cleanup_json struct json *req = request("status"), *result = NULL;
	CHECK(json_set(req, "say", json_of_string("gr\xc3\xbc\xc3\x9f")) == 0);
	CHECK(json_set(req, "v", json_of_int(99)) == 0); /* the version is the library's business */
	CHECK_MSG(control_call(path, req, 0, &result, &e) == 0, "%s", e.msg);
	CHECK(strcmp(json_string(json_get(result, "said")), "gr\xc3\xbc\xc3\x9f") == 0);
	CHECK(json_get(result, "null") && json_type(json_get(result, "null")) == JSON_NULL);

	cleanup_json struct json *umount = request("umount"), *none = NULL;
	CHECK(control_call(path, umount, 0, &none, &e) == -ENOENT && !none);
	CHECK_MSG(strcmp(e.msg, "nothing is mounted at /caf???") == 0, "%s", e.msg);

	cleanup_json struct json *nothing = request("nothing"), *null = request("x");
	json_free(null);
	CHECK(control_call(path, nothing, 0, &null, &e) == 0 && !null);

	cleanup_json struct json *unknown = request("selfdestruct");
	CHECK(control_call(path, unknown, 0, &none, &e) == -EOPNOTSUPP && strstr(e.msg, "status, umount"));

	/* Sizes: what fits exactly, and one byte more, each way. */
	cleanup_json struct json *most = request("much"), *more = request("much"), *big = NULL;
	const int64_t room = CONTROL_MESSAGE_MAX - (int64_t)strlen("{\"v\":1,\"ok\":true,\"result\":\"\"}");
	CHECK(json_set(most, "bytes", json_of_int(room)) == 0 && json_set(more, "bytes", json_of_int(room + 1)) == 0);
	CHECK_MSG(control_call(path, most, 0, &big, &e) == 0, "%s", e.msg);
	CHECK(strlen(json_string(big)) == (size_t)room);
	CHECK(control_call(path, more, 0, &none, &e) == -EMSGSIZE);
	static char text[CONTROL_MESSAGE_MAX];
	memset(text, 'y', sizeof text - 1);
	cleanup_json struct json *long_one = request("nothing");
	CHECK(json_set(long_one, "say", json_of_string(text)) == 0);
	CHECK(control_call(path, long_one, 0, &none, &e) == -EMSGSIZE && !none);

	control_server_free(s);
	CHECK(access(path, F_OK) < 0 && errno == ENOENT);
	CHECK(control_call(path, req, 0, &none, &e) == -ECONNREFUSED && strstr(e.msg, path));
}

static void test_bad_requests(void)
{
	char *path = at("s");
	struct control_server *s = server(path);
	static const struct {
		const char *text;
		int code;
	} bad[] = {
		{ "x", EBADMSG },
		{ "[]", EBADMSG },
		{ "{\"v\":1,\"verb\":\"status\"", EBADMSG },
		{ "{}", EPROTONOSUPPORT },
		{ "{\"verb\":\"status\"}", EPROTONOSUPPORT },
		{ "{\"v\":2,\"verb\":\"status\"}", EPROTONOSUPPORT },
		{ "{\"v\":\"1\",\"verb\":\"status\"}", EPROTONOSUPPORT },
		{ "{\"v\":1}", EINVAL },
		{ "{\"v\":1,\"verb\":7}", EINVAL },
		{ "{\"v\":1,\"verb\":\"\"}", EINVAL },
		{ "{\"v\":1,\"verb\":\"STATUS\"}", EINVAL },
		{ "{\"v\":1,\"verb\":\"status\\u0000\"}", EINVAL },
		{ "{\"v\":1,\"verb\":\"a/b\"}", EINVAL },
		{ "{\"v\":1,\"verb\":\"reload\"}", EOPNOTSUPP },
	};
	int fd = raw_connect(path); /* one connection for all of them: a bad request costs nobody the connection */
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		raw_error(fd, bad[i].text, strlen(bad[i].text), bad[i].code);
	static char big[CONTROL_MESSAGE_MAX + 1000];
	memset(big, ' ', sizeof big);
	raw_error(fd, big, CONTROL_MESSAGE_MAX + 1, EMSGSIZE);
	raw_error(fd, big, sizeof big, EMSGSIZE);
	raw_error(fd, big, CONTROL_MESSAGE_MAX, EBADMSG);

	/* A descriptor beside a message is thrown away, not kept. */
	int pipefd[2];
	CHECK(pipe2(pipefd, O_CLOEXEC) == 0);
	const char ask[] = "{\"v\":1,\"verb\":\"nothing\"}";
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)ask, .iov_len = sizeof ask - 1 };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
	};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &pipefd[1], sizeof(int));
	CHECK(sendmsg(fd, &m, MSG_NOSIGNAL) > 0);
	close(pipefd[1]);
	raw_error(fd, "x", 1, EINVAL); /* this reads the answer to the message with the descriptor */
	readable(pipefd[0]);
	char c;
	CHECK(read(pipefd[0], &c, 1) == 0); /* no writer is left */
	close(pipefd[0]);
	close(fd);
	control_server_free(s);
}

/* More connections than there are places: the silent ones are closed in the end, and everybody else is served. */
static void test_crowd_and_deadline(void)
{
	char *path = at("s");
	struct control_server *s = server(path);
	int silent[CONTROL_CLIENTS_MAX];
	uint64_t t = io_now_ms();
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		silent[i] = raw_connect(path);
	cleanup_json struct json *req = request("nothing"), *none = NULL;
	struct err e = ERR_INIT;
	CHECK(control_call(path, req, 100, &none, &e) == -ETIMEDOUT && e.msg[0]);
	CHECK_MSG(control_call(path, req, 30000, &none, &e) == 0, "%s", e.msg);
	CHECK(io_now_ms() - t >= CONTROL_DEADLINE_MS - 100);
	char c;
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		readable(silent[i]);
		CHECK(recv(silent[i], &c, 1, 0) == 0);
		close(silent[i]);
	}
	control_server_free(s);
}

/* A client that asks and asks and reads no answer: it alone suffers, and loses its connection. */
static void test_peer_that_never_reads(void)
{
	char *path = at("s");
	struct control_server *s = server(path);
	int fd = raw_connect(path);
	const char ask[] = "{\"v\":1,\"verb\":\"much\",\"bytes\":60000}";
	int sent = 0;
	while (send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
		sent++;
	CHECK(errno == EAGAIN && sent > 3);
	cleanup_json struct json *req = request("nothing"), *none = NULL;
	struct err e = ERR_INIT;
	CHECK_MSG(control_call(path, req, 0, &none, &e) == 0, "%s", e.msg);
	struct pollfd p = { .fd = fd, .events = 0 };
	CHECK_MSG(poll(&p, 1, 30000) == 1 && (p.revents & POLLHUP), "not closed within 30 s");
	close(fd);
	control_server_free(s);
}

static void test_places(void)
{
	struct err e;
	CHECK(refused("control.sock", &e) == -EINVAL);
	CHECK(refused("@abstract", &e) == -EINVAL);
	CHECK(refused("", &e) == -EINVAL);
	CHECK(refused("/tmp/", &e) == -EINVAL);
	char deep[200];
	memset(deep, 'd', sizeof deep - 1);
	deep[0] = '/';
	deep[sizeof deep - 1] = '\0';
	CHECK(refused(deep, &e) == -ENAMETOOLONG);

	const mode_t wide[] = { 0770, 0707, 01777 };
	CHECK(mkdir(at("open"), 0700) == 0);
	for (int i = 0; i < 3; i++) {
		CHECK(chmod(at("open"), wide[i]) == 0);
		CHECK(refused(at("open/s"), &e) == -EPERM && strstr(e.msg, at("open")));
	}
	CHECK(chmod(at("open"), 0755) == 0);
	control_server_free(server(at("open/s")));
	if (geteuid() == 0) {
		CHECK(chown(at("open"), 12345, 0) == 0);
		CHECK(refused(at("open/s"), &e) == -EPERM && strstr(e.msg, "12345"));
	} else {
		CHECK(refused("/etc/s", &e) == -EPERM);
	}

	int fd = open(at("file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && close(fd) == 0);
	CHECK(refused(at("file"), &e) == -EEXIST && access(at("file"), F_OK) == 0);
	CHECK(refused(at("file/s"), &e) == -ENOTDIR);
	CHECK(symlink("nowhere", at("link")) == 0);
	CHECK(refused(at("link"), &e) == -EEXIST);
}

static void test_dead_and_live(void)
{
	char *path = at("s");
	/* A server that was killed leaves its file. */
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	int dead = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK(dead >= 0 && bind(dead, (struct sockaddr *)&a, sizeof a) == 0 && listen(dead, 1) == 0);
	struct err e;
	CHECK(refused(path, &e) == -EADDRINUSE); /* not dead yet */
	close(dead);
	CHECK(access(path, F_OK) == 0);
	struct control_server *s = server(path);
	CHECK(refused(path, &e) == -EADDRINUSE && strstr(e.msg, path));
	cleanup_json struct json *req = request("nothing"), *none = NULL;
	CHECK(control_call(path, req, 0, &none, NULL) == 0); /* and the live one lives on */

	/* What took the place of a removed socket is not ours to remove. */
	CHECK(unlink(path) == 0);
	struct control_server *t = server(path);
	control_server_free(s);
	CHECK(control_call(path, req, 0, &none, NULL) == 0);
	control_server_free(t);
	CHECK(access(path, F_OK) < 0);
}

/* ---- the client against servers that are none of ours ---- */

struct liar {
	int fd;
	const char *answer; /* NULL: closes without one */
	size_t len;
};

static void *lie(void *arg)
{
	struct liar *l = arg;
	int c = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
	CHECK(c >= 0);
	static char in[CONTROL_MESSAGE_MAX];
	CHECK(recv(c, in, sizeof in, 0) > 0);
	if (l->answer)
		CHECK(send(c, l->answer, l->len, MSG_NOSIGNAL) == (ssize_t)l->len);
	close(c);
	return NULL;
}

static int listener(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 8) == 0);
	return fd;
}

static void test_bad_answers(void)
{
	char *path = at("liar");
	int fd = listener(path);
	static char big[CONTROL_MESSAGE_MAX + 1];
	memset(big, ' ', sizeof big);
	const struct {
		const char *text;
		size_t len;
		int code;
	} lies[] = {
		{ NULL, 0, EPROTO },
		{ "junk", 4, EPROTO },
		{ "[]", 2, EPROTO },
		{ "{\"v\":2,\"ok\":true}", 17, EPROTONOSUPPORT },
		{ "{\"v\":1}", 7, EPROTO },
		{ "{\"v\":1,\"ok\":1}", 14, EPROTO },
		{ "{\"v\":1,\"ok\":false}", 18, EPROTO },
		{ "{\"v\":1,\"ok\":false,\"error\":\"EPERM\"}", 34, EPROTO },
		{ "{\"v\":1,\"ok\":false,\"error\":{\"code\":\"EWHATEVER\"}}", 47, EIO },
		{ "{\"v\":1,\"ok\":false,\"error\":{\"code\":\"EBUSY\"}}", 43, EBUSY },
		{ big, sizeof big, EPROTO },
	};
	cleanup_json struct json *req = request("status");
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		struct liar l = { .fd = fd, .answer = lies[i].text, .len = lies[i].len };
		pthread_t t;
		CHECK(pthread_create(&t, NULL, lie, &l) == 0);
		struct json *result = NULL;
		struct err e = ERR_INIT;
		int r = control_call(path, req, 0, &result, &e);
		CHECK_MSG(r == -lies[i].code && !result && e.msg[0], "lie %zu: %d (%s)", i, r, e.msg);
		pthread_join(t, NULL);
	}
	/* One that says nothing at all. */
	struct err e = ERR_INIT;
	struct json *result = NULL;
	uint64_t t = io_now_ms();
	CHECK(control_call(path, req, 50, &result, &e) == -ETIMEDOUT && io_now_ms() - t >= 45);
	close(fd);
	CHECK(control_call(path, req, 0, &result, &e) == -ECONNREFUSED);
	/* And a socket of another kind. */
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s", at("stream"));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 8) == 0);
	CHECK(control_call(a.sun_path, req, 0, &result, &e) == -EPROTO);
	close(fd);
}

/* Runs fn in a child that is user 12345, and waits for it. */
static void as_stranger(void (*fn)(void))
{
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		if (setgid(12345) < 0 || setuid(12345) < 0)
			_exit(2);
		fn();
		_exit(0);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %#x", (unsigned)status);
}

/* The file's mode would stop a stranger before; here it is opened, to see the second line of defence. No secret memory
 * in a forked child, so this is a raw client. */
static void stranger_asks(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s/s", dir);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		_exit(3);
	char in[512] = "";
	struct pollfd p = { .fd = fd, .events = POLLIN };
	if (poll(&p, 1, 30000) != 1 || recv(fd, in, sizeof in - 1, 0) <= 0 || !strstr(in, "\"EACCES\""))
		_exit(4);
	if (recv(fd, in, sizeof in, 0) != 0)
		_exit(5);
}

static int stranger_fd = -1;
static void stranger_listens(void)
{
	if (listen(stranger_fd, 1) < 0) /* the kernel remembers who did this */
		_exit(3);
}

static void test_strangers(void)
{
	if (geteuid() != 0) {
		printf("skip strangers: only root can become somebody else\n");
		return;
	}
	struct control_server *s = server(at("s"));
	CHECK(chmod(dir, 0711) == 0 && chmod(at("s"), 0666) == 0);
	as_stranger(stranger_asks);
	control_server_free(s);

	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s", at("theirs"));
	stranger_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK(stranger_fd >= 0 && bind(stranger_fd, (struct sockaddr *)&a, sizeof a) == 0);
	as_stranger(stranger_listens);
	cleanup_json struct json *req = request("status"), *none = NULL;
	struct err e = ERR_INIT;
	CHECK(control_call(a.sun_path, req, 0, &none, &e) == -EPERM && strstr(e.msg, "12345"));
	close(stranger_fd);
	CHECK(chmod(dir, 0700) == 0);
}

struct caller {
	const char *path;
	_Atomic unsigned done;
};

static void *call_often(void *arg)
{
	struct caller *k = arg;
	for (int i = 0; i < 100; i++) {
		cleanup_json struct json *req = request("status"), *result = NULL;
		struct err e = ERR_INIT;
		CHECK(json_set(req, "say", json_of_int(i)) == 0);
		CHECK_MSG(control_call(k->path, req, 30000, &result, &e) == 0, "%s", e.msg);
		CHECK(json_int(json_get(result, "said"), -1) == i);
		atomic_fetch_add(&k->done, 1);
	}
	return NULL;
}

static void test_many_clients(void)
{
	struct caller k = { .path = at("crowd") };
	struct control_server *s = server(k.path);
	pthread_t t[8];
	for (int i = 0; i < 8; i++)
		CHECK(pthread_create(&t[i], NULL, call_often, &k) == 0);
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	CHECK(atomic_load(&k.done) == 800);
	control_server_free(s);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

int main(void)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);
	snprintf(dir, sizeof dir, "/tmp/ct-control-XXXXXX");
	CHECK(mkdtemp(dir));
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{ "calls", test_calls },
		{ "bad requests", test_bad_requests },
		{ "places", test_places },
		{ "dead and live", test_dead_and_live },
		{ "bad answers", test_bad_answers },
		{ "strangers", test_strangers },
		{ "many clients", test_many_clients },
		{ "crowd and deadline", test_crowd_and_deadline },
		{ "peer that never reads", test_peer_that_never_reads },
	};
	for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
		tests[i].run();
		printf("ok %s\n", tests[i].name);
		fflush(stdout);
	}
	CHECK(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0);
	return 0;
}
