/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: how other programs of this machine speak to a daemon (status, umount, reload; later issues add
 * secrets and keys, whose bytes never stand in a message but travel as descriptors beside it).
 *
 * A SOCK_SEQPACKET Unix socket, mode 0600, in a folder that nobody else may write. One packet is one message, at most
 * CONTROL_MESSAGE_MAX bytes of JSON. Format: docs/formats/control.md. Only the server's own user and root are served;
 * a client speaks only to a server of its own user or root.
 */
#ifndef CT_VAULT_CONTROL_H
#define CT_VAULT_CONTROL_H

#include "base/err.h"
#include "base/json.h"

#include <sys/types.h>

enum {
	CONTROL_VERSION = 1,
	CONTROL_MESSAGE_MAX = 64 << 10,
	CONTROL_VERB_MAX = 64,
	CONTROL_CLIENTS_MAX = 32,   /* more wait in the kernel's queue */
	CONTROL_DEADLINE_MS = 5000, /* for a client that says nothing, or does not read its answer */
};

/* Who asks, as the kernel says: at the moment of its connect. */
struct control_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

/*
 * Answers one request. 0: *ret (left NULL: null) is the result, now the server's. Negative: the client gets that errno
 * and the sentence in `e`. Runs on the server's own thread, one request at a time, so that a slow handler makes others
 * wait: do long work elsewhere. `request` is borrowed; members that the handler does not know are its own to refuse.
 */
typedef int control_fn(void *arg, const struct control_peer *peer, const struct json *request, struct json **ret,
		       struct err *e);
struct control_handler {
	const char *verb;
	control_fn *fn;
	void *arg;
};

/*
 * Serves `path` (absolute) from a thread of its own. The table is copied, the verbs' names are not. Missing folders
 * are made with mode 0700. [any thread]
 *   -EPERM         the folder belongs to somebody else, or others may write in it
 *   -EADDRINUSE    a live server listens there (the file of a dead one is replaced)
 *   -EEXIST        something that is no socket is there
 *   -EINVAL -ENAMETOOLONG  no path for a socket
 */
struct control_server;
int must_use control_server_new(const char *path, const struct control_handler *handlers, size_t n,
				struct control_server **ret, struct err *e);
/* Waits for the request that is being answered, closes all connections and removes the socket. Not from a handler. */
void control_server_free(struct control_server *s); /* NULL is fine */

/*
 * One request ({"verb": ..., ...}; the version is added) and its answer. The result belongs to the caller. Blocks, at
 * most timeout_ms (0: 10000). [any thread]
 *   -ECONNREFUSED  nobody listens at that path
 *   -EPERM         whoever does is neither our own user nor root
 *   -ETIMEDOUT -EPROTO -EMSGSIZE (the request)  no answer
 *   other          what the server says, with its sentence
 */
int must_use control_call(const char *path, const struct json *request, unsigned timeout_ms, struct json **ret,
			  struct err *e);

/*
 * The two parsers, for the server, the client and whoever wants to try them with other bytes.
 * Request: -EBADMSG no JSON object, -EPROTONOSUPPORT another version, -EINVAL no usable verb. *ret_verb lives as long
 * as *ret. Answer: as control_call returns it; *ret is NULL for null.
 */
int must_use control_parse_request(const char *text, size_t len, struct json **ret, const char **ret_verb,
				   struct err *e);
int must_use control_parse_answer(const char *text, size_t len, struct json **ret, struct err *e);

#endif
