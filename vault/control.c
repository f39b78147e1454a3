/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket's messages, and the client's side. The server is control_server.c. */
#include "vault/control_internal.h"

#include "base/cleanup.h"
#include "base/http.h"
#include "base/secmem.h"

#include <inttypes.h>
#include <string.h>
#include <sys/time.h>

/* errno names are the same on every architecture, their numbers are not. */
static int code_by_name(const char *name)
{
	enum { ERRNO_MAX = 133 };
	for (int i = 1; name && i <= ERRNO_MAX; i++) {
		const char *known = strerrorname_np(i);
		if (known && strcmp(known, name) == 0)
			return i;
	}
	return EIO;
}

static int parse_envelope(const char *text, size_t len, struct json **ret, struct err *e)
{
	cleanup_json struct json *j = NULL;
	int r = json_parse(text, len, CONTROL_MESSAGE_MAX, &j, e);
	if (r < 0)
		return r;
	if (json_type(j) != JSON_OBJECT)
		return err_set(e, EBADMSG, "a control message is one JSON object");
	int64_t v = json_int(json_get(j, "v"), 0);
	if (v != CONTROL_VERSION)
		return err_set(e, EPROTONOSUPPORT,
			       "control messages of version %" PRId64 " are not understood here, only version %d", v,
			       CONTROL_VERSION);
	*ret = TAKE_PTR(j);
	return 0;
}

static bool verb_ok(const char *verb, size_t len)
{
	if (len == 0 || len > CONTROL_VERB_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!((verb[i] >= 'a' && verb[i] <= 'z') || (verb[i] >= '0' && verb[i] <= '9') || verb[i] == '-'))
			return false;
	return true;
}

int control_parse_request(const char *text, size_t len, struct json **ret, const char **ret_verb, struct err *e)
{
	cleanup_json struct json *j = NULL;
	int r = parse_envelope(text, len, &j, e);
	if (r < 0)
		return r;
	size_t n = 0;
	const char *verb = json_bytes(json_get(j, "verb"), &n);
	if (!verb || !verb_ok(verb, n))
		return err_set(e, EINVAL, "a request needs a \"verb\": at most %d of a-z, 0-9 and '-'",
			       CONTROL_VERB_MAX);
	*ret_verb = verb;
	*ret = TAKE_PTR(j);
	return 0;
}

int control_parse_answer(const char *text, size_t len, struct json **ret, struct err *e)
{
	cleanup_json struct json *j = NULL;
	int r = parse_envelope(text, len, &j, e);
	if (r == -EPROTONOSUPPORT || r == -ENOMEM)
		return r;
	if (r < 0)
		return err_set(e, EPROTO, "the server's answer is no control message");
	const struct json *ok = json_get(j, "ok");
	if (json_type(ok) != JSON_BOOL)
		return err_set(e, EPROTO, "the server's answer does not say whether it is one");
	if (!json_bool(ok, false)) {
		const struct json *error = json_get(j, "error");
		const char *message = json_string(json_get(error, "message"));
		if (json_type(error) != JSON_OBJECT || !json_string(json_get(error, "code")))
			return err_set(e, EPROTO, "the server's answer is an error that does not say which");
		int code = code_by_name(json_string(json_get(error, "code")));
		return err_set(e, code, "%s", message && *message ? message : strerror(code));
	}
	const struct json *result = json_get(j, "result");
	struct json *copy = NULL;
	if (result && json_type(result) != JSON_NULL) {
		copy = json_copy(result);
		if (!copy)
			return err_set(e, ENOMEM, "no secret memory for the answer");
	}
	*ret = copy;
	return 0;
}

int control_address(const char *path, struct sockaddr_un *ret, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	size_t len = path ? strlen(path) : 0;
	if (len < 2 || path[0] != '/' || path[len - 1] == '/')
		return err_set(e, EINVAL, "the control socket needs an absolute path, not '%s'", path ? path : "");
	if (len >= sizeof a.sun_path)
		return err_set(e, ENAMETOOLONG, "%s: a socket's path has at most %zu bytes", path,
			       sizeof a.sun_path - 1);
	memcpy(a.sun_path, path, len);
	*ret = a;
	return 0;
}

/* ---- client ---- */

static char *request_text(const struct json *request, size_t *ret_len)
{
	cleanup_json struct json *j = json_object();
	if (!j || json_set(j, "v", json_of_int(CONTROL_VERSION)) < 0)
		return NULL;
	for (const struct json *m = json_first(request); m; m = json_next(m)) {
		if (strcmp(json_name(m), "v") != 0 && json_set(j, json_name(m), json_copy(m)) < 0)
			return NULL;
	}
	return json_print(j, false, ret_len);
}

/* What is left of the time goes to the next system call: 0 would mean for ever. */
static int set_timeout(int fd, int option, uint64_t until, const char *path, struct err *e)
{
	uint64_t now = io_now_ms();
	if (now >= until)
		return err_set(e, ETIMEDOUT, "%s: no answer in time", path);
	uint64_t ms = until - now;
	const struct timeval t = { .tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000) };
	if (setsockopt(fd, SOL_SOCKET, option, &t, sizeof t) < 0)
		return err_sys(e, errno, "%s", path);
	return 0;
}

static int connect_server(int fd, const char *path, uint64_t until, struct err *e)
{
	struct sockaddr_un a;
	int r = control_address(path, &a, e);
	if (r < 0)
		return r;
	for (;;) {
		r = set_timeout(fd, SO_SNDTIMEO, until, path, e); /* connect waits no longer than that either */
		if (r < 0)
			return r;
		if (connect(fd, (const struct sockaddr *)&a, sizeof a) == 0)
			break;
		switch (errno) {
		case EINTR:
			continue;
		case ENOENT:
		case ECONNREFUSED:
			return err_set(e, ECONNREFUSED, "nobody listens at %s: is the daemon running?", path);
		case EAGAIN:
			return err_set(e, ETIMEDOUT, "%s: the server is too busy to take a connection", path);
		case EPROTOTYPE:
			return err_set(e, EPROTO, "%s is a socket, but no control socket", path);
		default:
			return err_sys(e, errno, "%s", path);
		}
	}
	struct ucred peer;
	socklen_t len = sizeof peer;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return err_sys(e, errno, "%s", path);
	if (peer.uid != geteuid() && peer.uid != 0)
		return err_set(e, EPERM, "%s belongs to a server of user %u, neither you nor root: not used", path,
			       peer.uid);
	return 0;
}

int control_call(const char *path, const struct json *request, unsigned timeout_ms, struct json **ret, struct err *e)
{
	const uint64_t until = io_now_ms() + (timeout_ms ? timeout_ms : 10000);
	size_t len;
	cleanup_sec char *text = request_text(request, &len);
	cleanup_sec char *answer = sec_malloc(CONTROL_MESSAGE_MAX + 1);
	if (!text || !answer)
		return err_set(e, ENOMEM, "no secret memory for a request to %s", path);
	if (len > CONTROL_MESSAGE_MAX)
		return err_set(e, EMSGSIZE, "a request to %s has %zu bytes, more than %d", path, len,
			       CONTROL_MESSAGE_MAX);
	cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(e, errno, "cannot make a socket");
	int r = connect_server(fd, path, until, e);
	if (r < 0)
		return r;
	ssize_t n;
	do {
		r = set_timeout(fd, SO_SNDTIMEO, until, path, e);
		n = r < 0 ? 0 : send(fd, text, len, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		r = err_set(e, ETIMEDOUT, "%s: the server takes no request", path);
	/* A server that closed at once may have said why before. */
	else if (n < 0 && errno != EPIPE && errno != ECONNRESET)
		r = err_sys(e, errno, "%s", path);
	if (r < 0)
		return r;
	do {
		r = set_timeout(fd, SO_RCVTIMEO, until, path, e);
		if (r < 0)
			return r;
		n = recv(fd, answer, CONTROL_MESSAGE_MAX + 1, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return err_set(e, ETIMEDOUT, "%s: no answer in time", path);
	if (n <= 0)
		return err_set(e, EPROTO, "%s: the server closed the connection without an answer", path);
	if (n > CONTROL_MESSAGE_MAX)
		return err_set(e, EPROTO, "%s: the server's answer is longer than %d bytes", path, CONTROL_MESSAGE_MAX);
	return control_parse_answer(answer, (size_t)n, ret, e);
}
