/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenBao and HashiCorp Vault: KV version 2 over HTTP, token login.
 *
 * Every call is an operation (struct op) that sends one request, in two cases two (see below), and is answered once.
 * Nothing is repeated here when the vault cannot be asked: the answer is -EAGAIN with a sentence, and the cache above
 * backs off. Only what the vault said itself is kept: until the moment that a Retry-After named, operations are answered
 * -EAGAIN without asking.
 *
 * A 403 has two meanings, and the vault does not say which: the policy denies this path, or the token is dead. So the
 * token is asked about itself (auth/token/lookup-self), once for all operations that got a 403 meanwhile. If the vault
 * answers, the denial was meant. If that is a 403 too, the token file is read again: with another token in it the
 * operations are sent once more, otherwise the answer is -EAGAIN until somebody brings a new token. A token file is read
 * at the first use, so that a token that comes late needs no restart.
 *
 * Certificates are read again when one was refused and its file has changed since.
 */
#include "vault/backend.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "base/secmem.h"
#include "vault/openbao_json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
	TOKEN_MAX = 16 * 1024, /* batch and JWT-like tokens are long */
	NOT_BEFORE_MAX_S = 60,
};

static const char lookup_self[] = "/v1/auth/token/lookup-self";

enum op_kind {
	OP_GET,
	OP_LIST,
	OP_PUT,
	OP_DEL_LOOK, /* is it there? DELETE alone answers 204 for what never was */
	OP_DEL,
	OP_CHECK,
	OP_PROBE, /* nobody's: lookup-self after a 403 */
};

struct op {
	struct op *next, **link;
	struct openbao *b;
	enum op_kind kind;
	char *path; /* as the caller wrote it */
	char *url;
	char *body;
	size_t body_len;
	vault_get_fn *got;
	vault_list_fn *listed;
	vault_done_fn *done;
	void *arg;
	unsigned generation; /* of the token it was sent with */
	bool sent_again;
	int r; /* of an operation that ended before it was sent, and waits to be told so */
	struct err err;
};

struct file_stamp {
	const char *file;
	struct timespec mtime;
	ino_t ino;
};

struct openbao {
	struct vault_backend base;
	unsigned refs; /* a callback may close the backend */
	bool closing;
	char *name, *address, *kv_mount, *namespace_, *token_file;
	char *ca_file, *cert_file, *key_file;
	struct file_stamp stamps[3];
	struct http_client *http;
	char *token; /* secret memory; NULL: not read yet */
	unsigned generation;
	bool probing;
	struct op *ops, *waiting; /* those that wait got a 403 and the probe is out */
	struct op *late;	  /* ended before they were sent: answered in the next pass of the loop */
	uint64_t not_before;
	struct err not_before_why;
	/* status */
	bool asked, reachable;
	struct err last_error;
};

static struct openbao *of(struct vault_backend *b)
{
	return (struct openbao *)b;
}

/* --- operations */

static void op_free(struct op *o)
{
	free(o->path);
	free(o->url);
	sec_free(o->body);
	free(o);
}

static void unlink_from(struct op *o)
{
	*o->link = o->next;
	if (o->next)
		o->next->link = o->link;
}

static void link_to(struct op *o, struct op **list)
{
	o->next = *list;
	o->link = list;
	if (o->next)
		o->next->link = &o->next;
	*list = o;
}

/* Answers with an error and frees. The sentence gets the vault's name. */
static void op_fail(struct op *o, int r, const struct err *e)
{
	struct openbao *b = o->b;
	struct err err = *e;
	(void)err_wrap(&err, "vault %s", b->name);
	err.code = -r;
	if (r != -ECANCELED && r != -ENOENT && r != -EACCES && r != -EEXIST)
		b->last_error = err;
	unlink_from(o);
	if (o->got)
		o->got(o->arg, r, NULL, &err);
	else if (o->listed)
		o->listed(o->arg, r, NULL, &err);
	else if (o->done)
		o->done(o->arg, r, 0, &err);
	op_free(o);
}

static int fail(struct op *o, int r, const char *fmt, ...) printf_like(3, 4);
static int fail(struct op *o, int r, const char *fmt, ...)
{
	struct err e = { .code = -r };
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(e.msg, sizeof e.msg, fmt, ap);
	va_end(ap);
	op_fail(o, r, &e);
	return r;
}

static void op_done(struct op *o, uint64_t version)
{
	unlink_from(o);
	if (o->done)
		o->done(o->arg, 0, version, NULL);
	op_free(o);
}

/* --- the token */

static void trim(char *text)
{
	size_t n = strlen(text);
	while (n > 0 && strchr(" \r\n", text[n - 1]))
		text[--n] = '\0';
}

static bool token_ok(const char *text)
{
	for (; *text; text++)
		if (*text <= ' ' || *text >= 0x7f)
			return false;
	return true;
}

static int read_token(struct openbao *b, char **ret, struct err *e)
{
	cleanup_sec char *text = NULL;
	size_t len;
	struct err why = ERR_INIT;
	int r = sec_read_file(b->token_file, TOKEN_MAX, true, &text, &len, &why);
	if (r < 0)
		return err_set(e, r == -ENOMEM ? ENOMEM : EAGAIN, "token_file: %s", why.msg);
	trim(text);
	if (!*text)
		return err_set(e, EAGAIN, "token_file %s is empty: it should hold the token and nothing else", b->token_file);
	if (strlen(text) + 16 < len || !token_ok(text))
		return err_set(e, EAGAIN, "token_file %s holds more than a token: it should be one line", b->token_file);
	*ret = TAKE_PTR(text);
	return 0;
}

static int ensure_token(struct openbao *b, struct err *e)
{
	return b->token ? 0 : read_token(b, &b->token, e);
}

/* After the token was found dead: 1 when there is another one now. */
static int renew_token(struct openbao *b, struct err *e)
{
	if (!b->token_file)
		return err_set(e, EAGAIN, "the token has expired or was revoked: give a new one");
	cleanup_sec char *token = NULL;
	int r = read_token(b, &token, e);
	if (r < 0)
		return r;
	if (strlen(token) == strlen(b->token) && mem_equal(token, b->token, strlen(token)))
		return err_set(e, EAGAIN, "the token in %s has expired or was revoked: write a new one there", b->token_file);
	sec_free(b->token);
	b->token = TAKE_PTR(token);
	b->generation++;
	return 1;
}

/* --- certificates that were renewed */

static bool stamp(struct file_stamp *s)
{
	struct stat st;
	if (!s->file || stat(s->file, &st) < 0)
		return false;
	bool changed = st.st_ino != s->ino || st.st_mtim.tv_sec != s->mtime.tv_sec || st.st_mtim.tv_nsec != s->mtime.tv_nsec;
	s->ino = st.st_ino;
	s->mtime = st.st_mtim;
	return changed;
}

static bool stamp_all(struct openbao *b)
{
	bool changed = false;
	for (size_t i = 0; i < sizeof b->stamps / sizeof *b->stamps; i++)
		changed |= stamp(&b->stamps[i]);
	return changed;
}

/* --- requests and answers */

static void on_answer(void *arg, int r, const struct http_response *resp, const struct err *e);

static int op_send(struct op *o, struct err *e)
{
	struct openbao *b = o->b;
	static const char *const methods[] = {
		[OP_GET] = "GET",	   [OP_LIST] = "LIST",	 [OP_PUT] = "POST",  [OP_DEL_LOOK] = "GET",
		[OP_DEL] = "DELETE", [OP_CHECK] = "GET", [OP_PROBE] = "GET",
	};
	int r = ensure_token(b, e);
	if (r < 0)
		return r;
	struct http_header headers[4] = {
		{ "X-Vault-Request", "true" },
		{ "X-Vault-Token", b->token },
	};
	size_t n = 2;
	if (b->namespace_)
		headers[n++] = (struct http_header){ "X-Vault-Namespace", b->namespace_ };
	if (o->body)
		headers[n++] = (struct http_header){ "Content-Type", "application/json" };
	const struct http_request req = {
		.method = methods[o->kind],
		.path = o->url,
		.headers = headers,
		.n_headers = n,
		.body = o->body,
		.body_len = o->body_len,
	};
	o->generation = b->generation;
	return http_send(b->http, &req, on_answer, o, e);
}

static void op_end(struct op *o, int r, const struct err *e);

static void op_send_again(struct op *o)
{
	struct err e = ERR_INIT;
	o->sent_again = true;
	int r = op_send(o, &e);
	if (r < 0)
		op_end(o, r, &e);
}


static void openbao_unref(struct openbao *b)
{
	if (--b->refs > 0)
		return;
	free(b->name);
	free(b->address);
	free(b->kv_mount);
	free(b->namespace_);
	free(b->token_file);
	free(b->ca_file);
	free(b->cert_file);
	free(b->key_file);
	sec_free(b->token);
	free(b);
}
DEFINE_CLEANUP(openbao_unref, struct openbao *)

/* Every operation that waits for the token's fate: sent again (r == 1), or answered r. */
static void settle(struct openbao *b, int r, const struct err *e)
{
	b->refs++;
	while (!b->closing && b->waiting) {
		struct op *o = b->waiting;
		unlink_from(o);
		link_to(o, &b->ops);
		if (r == 1)
			op_send_again(o);
		else if (r == -EACCES)
			(void)fail(o, r, "the token's policies do not allow to %s \"%s\"",
				   o->kind == OP_LIST ? "list" : o->kind == OP_GET || o->kind == OP_DEL_LOOK ? "read" :
				   o->kind == OP_PUT ? "write" : "delete", o->path);
		else
			op_fail(o, r, e);
	}
	openbao_unref(b);
}

/* As op_fail, also for the probe itself. */
static void op_end(struct op *o, int r, const struct err *e)
{
	struct openbao *b = o->b;
	if (o->kind != OP_PROBE) {
		op_fail(o, r, e);
		return;
	}
	unlink_from(o);
	op_free(o);
	b->probing = false;
	settle(b, r, e);
}

/* Asks the token about itself, on behalf of `o` and whoever comes until the answer is there. */
static void probe(struct openbao *b, struct op *o)
{
	unlink_from(o);
	link_to(o, &b->waiting);
	if (b->probing)
		return;
	struct err e = ERR_INIT;
	struct op *p = calloc(1, sizeof *p);
	if (p) {
		p->b = b;
		p->kind = OP_PROBE;
		p->url = strdup(lookup_self);
	}
	if (!p || !p->url) {
		if (p)
			op_free(p);
		(void)err_set(&e, ENOMEM, "out of memory");
		settle(b, -ENOMEM, &e);
		return;
	}
	link_to(p, &b->ops);
	b->probing = true;
	int r = op_send(p, &e);
	if (r < 0)
		op_end(p, r, &e);
}

/* The sentence for an answer that says neither yes nor no; the errno. */
static int explain_status(struct openbao *b, const struct http_response *resp, bool quote, struct err *e)
{
	char said[160] = "";
	openbao_first_error(resp->body, resp->body_len, said, sizeof said);
	const char *at = b->address;
	switch (resp->status) {
	case 301:
	case 302:
	case 303:
	case 307:
	case 308:
		return err_set(e, EAGAIN, "%s sends us elsewhere (%d): give the address of the active node", at, resp->status);
	case 404:
		if (strstr(said, "namespace not found"))
			return err_set(e, EAGAIN, "%s has no namespace \"%s\"", at, b->namespace_ ? b->namespace_ : "");
		if (strstr(said, "no handler for route"))
			return err_set(e, EAGAIN, "%s has no store mounted at \"%s/\": check kv_mount%s", at, b->kv_mount,
				       b->namespace_ ? " and namespace" : "");
		return err_set(e, EPROTO, "%s answers 404, but not as a vault does: check the address", at);
	case 412:
		return err_set(e, EAGAIN, "%s has not caught up with an earlier write yet", at);
	case 413:
		return err_set(e, EMSGSIZE, "%s takes no request as large as this", at);
	case 429:
		return err_set(e, EAGAIN, "%s limits the rate of requests%s%s%s", at, said[0] ? " (" : "", said,
			       said[0] ? ")" : "");
	case 502:
	case 504:
		return err_set(e, EAGAIN, "%s answers %d: what stands before the vault does not reach it", at, resp->status);
	case 503:
		if (strcasestr(said, "sealed"))
			return err_set(e, EAGAIN, "%s is sealed: somebody has to unseal it", at);
		return err_set(e, EAGAIN, "%s is not available now (503)", at);
	default:
		break;
	}
	if (strcasestr(said, "not yet initialized"))
		return err_set(e, EAGAIN, "%s is not initialised", at);
	if (strstr(said, "value being too large"))
		return err_set(e, EMSGSIZE, "%s keeps no secret as large as this (its storage sets the bound)", at);
	if (strcasestr(said, "standby") || strcasestr(said, "node not active"))
		return err_set(e, EAGAIN, "%s is a standby that knows no active node", at);
	if (resp->status >= 500)
		return err_set(e, EAGAIN, "%s answers %d (an error of its own)", at, resp->status);
	if (resp->status == 400 && memmem(resp->body, resp->body_len, "HTTP request to an HTTPS", 24))
		return err_set(e, EPROTO, "%s speaks TLS there: write https://", at);
	/* What it says may quote the request: only of requests without a body. */
	return err_set(e, EPROTO, "%s answers %d%s%s", at, resp->status, quote && said[0] ? ": " : "", quote ? said : "");
}

static void keep_away(struct openbao *b, const struct http_response *resp, struct err *e)
{
	if (resp->retry_after_s == 0 || (resp->status != 429 && resp->status < 500))
		return;
	unsigned s = resp->retry_after_s > NOT_BEFORE_MAX_S ? NOT_BEFORE_MAX_S : resp->retry_after_s;
	char was[ERR_MSG_MAX];
	memcpy(was, e->msg, sizeof was);
	(void)err_set(e, e->code, "%.400s; it asks to wait for %u s", was, resp->retry_after_s);
	b->not_before = io_now_ms() + 1000ULL * s;
	b->not_before_why = *e;
}

static void answer_get(struct op *o, const struct http_response *resp)
{
	struct err e = ERR_INIT;
	cleanup_secret struct vault_secret *s = NULL;
	int r = openbao_parse_secret(resp->body, resp->body_len, &s, &e);
	if (r < 0) {
		(void)err_wrap(&e, "\"%s\"", o->path);
		op_fail(o, r, &e);
		return;
	}
	unlink_from(o);
	o->got(o->arg, 0, s, NULL);
	op_free(o);
}

static void answer_names(struct op *o, const struct vault_names *names)
{
	unlink_from(o);
	o->listed(o->arg, 0, names, NULL);
	op_free(o);
}

DEFINE_CLEANUP(vault_names_free, struct vault_names *)

static void answer_list(struct op *o, const struct http_response *resp)
{
	struct err e = ERR_INIT;
	CLEANUP_WITH(vault_names_freep) struct vault_names *names = NULL;
	int r = openbao_parse_list(resp->body, resp->body_len, &names, &e);
	if (r < 0) {
		(void)err_wrap(&e, "\"%s\"", o->path);
		op_fail(o, r, &e);
		return;
	}
	answer_names(o, names);
}

static void answer_put(struct op *o, const struct http_response *resp)
{
	struct err e = ERR_INIT;
	uint64_t version = 0;
	int r = openbao_parse_written(resp->body, resp->body_len, &version, &e);
	if (r < 0)
		op_fail(o, r, &e);
	else
		op_done(o, version);
}

static void send_delete(struct op *o)
{
	struct err e = ERR_INIT;
	o->kind = OP_DEL;
	int r = op_send(o, &e);
	if (r < 0)
		op_fail(o, r, &e);
}

static void answer_good(struct op *o, const struct http_response *resp)
{
	switch (o->kind) {
	case OP_GET:
		answer_get(o, resp);
		break;
	case OP_LIST:
		answer_list(o, resp);
		break;
	case OP_PUT:
		answer_put(o, resp);
		break;
	case OP_DEL_LOOK:
		send_delete(o);
		break;
	case OP_DEL:
	case OP_CHECK:
		op_done(o, 0);
		break;
	case OP_PROBE:
		op_end(o, -EACCES, NULL);
		break;
	}
}

static void answer_absent(struct op *o)
{
	static const struct vault_names none = { 0 };
	if (o->kind == OP_LIST && !o->path[0]) /* an empty store */
		answer_names(o, &none);
	else if (o->kind == OP_LIST)
		(void)fail(o, -ENOENT, "there is no folder \"%s\"", o->path);
	else
		(void)fail(o, -ENOENT, "there is no secret \"%s\"", o->path);
}

static void answer_denied(struct op *o)
{
	struct openbao *b = o->b;
	struct err e = ERR_INIT;
	int r;
	switch (o->kind) {
	case OP_PROBE:
		r = renew_token(b, &e);
		op_end(o, r, &e);
		break;
	case OP_CHECK:
		r = o->generation != b->generation ? 1 : renew_token(b, &e);
		if (r == 1 && o->sent_again)
			r = err_set(&e, EAGAIN, "the token has expired or was revoked, and so was the one that replaced it");
		if (r == 1)
			op_send_again(o);
		else
			op_fail(o, r, &e);
		break;
	case OP_DEL_LOOK: /* deleting may be allowed without reading */
		send_delete(o);
		break;
	default:
		if (o->generation != b->generation && !o->sent_again)
			op_send_again(o); /* with the token that came meanwhile */
		else
			probe(b, o);
	}
}

static void op_broken(struct op *o, int r, const struct err *e)
{
	struct openbao *b = o->b;
	switch (r) {
	case -EPROTO:
	case -EMSGSIZE:
	case -EKEYREJECTED:
	case -ENOMEM:
	case -ECANCELED:
		break;
	default:
		r = -EAGAIN;
	}
	/* Renewed certificates may lie there already. */
	if ((r == -EKEYREJECTED || r == -EAGAIN) && !b->closing && stamp_all(b) && http_client_reload(b->http, NULL) == 0 &&
	    r == -EKEYREJECTED && !o->sent_again) {
		op_send_again(o);
		return;
	}
	op_end(o, r, e);
}

static void on_answer(void *arg, int r, const struct http_response *resp, const struct err *e)
{
	struct op *o = arg;
	struct openbao *b = o->b;
	b->refs++;
	b->asked = true;
	b->reachable = r == 0;
	if (r < 0) {
		op_broken(o, r, e);
	} else if (resp->status == 200 || resp->status == 204) {
		answer_good(o, resp);
	} else if (resp->status == 403) {
		answer_denied(o);
	} else if (resp->status == 404 && o->kind != OP_CHECK && o->kind != OP_PROBE && o->kind != OP_PUT &&
		   openbao_is_absent(resp->body, resp->body_len)) {
		answer_absent(o);
	} else {
		struct err why = ERR_INIT;
		char said[160];
		openbao_first_error(resp->body, resp->body_len, said, sizeof said);
		if (o->kind == OP_PUT && resp->status == 400 && strstr(said, "check-and-set parameter did not match")) {
			(void)fail(o, -EEXIST, "\"%s\" has another version than expected: somebody else has written it", o->path);
		} else if (o->kind == OP_PUT && resp->status == 400 && strstr(said, "check-and-set parameter required")) {
			(void)fail(o, -EINVAL, "\"%s\" may only be written by saying which version it has (cas)", o->path);
		} else {
			int code = explain_status(b, resp, o->kind != OP_PUT, &why);
			keep_away(b, resp, &why);
			b->reachable = code != -EAGAIN;
			op_broken(o, code, &why);
		}
	}
	openbao_unref(b);
}

/* --- the interface */

/* For what fails before it is sent: the answer comes from the loop, not from within the call. */
static void answer_late(void *arg)
{
	struct openbao *b = arg;
	while (!b->closing && b->late)
		op_fail(b->late, b->late->r, &b->late->err);
	openbao_unref(b);
}

static void op_fail_late(struct op *o, int r, const struct err *e)
{
	struct openbao *b = o->b;
	o->r = r;
	o->err = *e;
	unlink_from(o);
	link_to(o, &b->late);
	if (o->next)
		return; /* the call that is posted already answers this one too */
	b->refs++;
	if (io_post(b->base.io, answer_late, b) < 0) /* no memory, or the loop ends: better early than never */
		answer_late(b);
}

static void op_start(struct op *o, bool possible)
{
	struct openbao *b = o->b;
	struct err e = ERR_INIT;
	int r;
	if (!o->path || !o->url)
		r = err_set(&e, ENOMEM, "out of memory");
	else if (!possible)
		r = o->kind == OP_PUT ? err_set(&e, EINVAL, "the vault keeps no secret under a name with control bytes or "
							    "bytes that are no UTF-8") :
					err_set(&e, ENOENT, "there is no such name: it has control bytes, or is no UTF-8");
	else if (b->not_before > io_now_ms())
		r = err_set(&e, EAGAIN, "%s", b->not_before_why.msg);
	else
		r = op_send(o, &e);
	if (r < 0)
		op_fail_late(o, r, &e);
}

static struct op *op_new(struct vault_backend *backend, enum op_kind kind, const char *what, const char *path)
{
	struct openbao *b = of(backend);
	struct op *o = calloc(1, sizeof *o);
	if (!o)
		return NULL;
	o->b = b;
	o->kind = kind;
	o->path = strdup(path);
	o->url = what ? openbao_make_path(b->kv_mount, what, path) : strdup(lookup_self);
	link_to(o, &b->ops);
	return o;
}

static const struct err no_memory = { .code = ENOMEM, .msg = "out of memory" };

static void openbao_get(struct vault_backend *b, const char *path, vault_get_fn *done, void *arg)
{
	struct op *o = op_new(b, OP_GET, "data", path);
	if (!o) {
		done(arg, -ENOMEM, NULL, &no_memory);
		return;
	}
	o->got = done;
	o->arg = arg;
	op_start(o, openbao_path_possible(path));
}

static void openbao_list(struct vault_backend *b, const char *folder, vault_list_fn *done, void *arg)
{
	struct op *o = op_new(b, OP_LIST, "metadata", folder);
	if (!o) {
		done(arg, -ENOMEM, NULL, &no_memory);
		return;
	}
	o->listed = done;
	o->arg = arg;
	op_start(o, openbao_path_possible(folder));
}

static void openbao_put(struct vault_backend *b, const char *path, struct vault_secret *s, uint32_t cas,
			vault_done_fn *done, void *arg)
{
	struct op *o = op_new(b, OP_PUT, "data", path);
	if (!o) {
		done(arg, -ENOMEM, 0, &no_memory);
		return;
	}
	o->done = done;
	o->arg = arg;
	struct err e = ERR_INIT;
	int r = openbao_make_put(s, cas, &o->body, &o->body_len, &e);
	if (r < 0)
		op_fail_late(o, r, &e);
	else
		op_start(o, openbao_path_possible(path));
}

static void start_done(struct vault_backend *b, enum op_kind kind, const char *what, const char *path,
		       vault_done_fn *done, void *arg)
{
	struct op *o = op_new(b, kind, what, path);
	if (!o) {
		done(arg, -ENOMEM, 0, &no_memory);
		return;
	}
	o->done = done;
	o->arg = arg;
	op_start(o, openbao_path_possible(path));
}

static void openbao_del(struct vault_backend *b, const char *path, vault_done_fn *done, void *arg)
{
	start_done(b, OP_DEL_LOOK, "metadata", path, done, arg);
}

static void openbao_check(struct vault_backend *b, vault_done_fn *done, void *arg)
{
	start_done(b, OP_CHECK, NULL, "", done, arg);
}

static struct json *openbao_status(struct vault_backend *backend)
{
	const struct openbao *b = of(backend);
	struct json *j = json_object();
	bool ok = j && json_set(j, "kind", json_of_string("openbao")) == 0 &&
		  json_set(j, "address", json_of_string(b->address)) == 0 &&
		  json_set(j, "kv_mount", json_of_string(b->kv_mount)) == 0 &&
		  json_set(j, "namespace", b->namespace_ ? json_of_string(b->namespace_) : json_of_null()) == 0 &&
		  json_set(j, "connections", json_of_int(http_client_connections(b->http))) == 0 &&
		  /* null: nothing has been asked yet */
		  json_set(j, "reachable", b->asked ? json_of_bool(b->reachable) : json_of_null()) == 0 &&
		  json_set(j, "last_error",
			   b->last_error.msg[0] ? json_of_string(b->last_error.msg) : json_of_null()) == 0;
	if (ok)
		return j;
	json_free(j);
	return NULL;
}

static void openbao_close(struct vault_backend *backend)
{
	struct openbao *b = of(backend);
	static const struct err cancelled = { .code = ECANCELED, .msg = "closed" };
	b->closing = true;
	http_client_free(b->http); /* answers what is under way: -ECANCELED */
	b->http = NULL;
	struct op **lists[] = { &b->ops, &b->waiting, &b->late };
	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
		while (*lists[i])
			op_fail(*lists[i], -ECANCELED, &cancelled);
	openbao_unref(b);
}

static const struct vault_backend_ops openbao_ops = {
	.kind = "openbao",
	.get = openbao_get,
	.list = openbao_list,
	.put = openbao_put,
	.del = openbao_del,
	.check = openbao_check,
	.status = openbao_status,
	.close = openbao_close,
};

static bool copied(char **to, const char *from)
{
	*to = from && *from ? strdup(from) : NULL;
	return !from || !*from || *to;
}

int vault_openbao_open(struct io *io, const struct vault_openbao_conf *conf, struct vault_backend **ret, struct err *e)
{
	CLEANUP_WITH(openbao_unrefp) struct openbao *b = calloc(1, sizeof *b);
	if (!b)
		return err_set(e, ENOMEM, "out of memory");
	b->refs = 1;
	if (!conf->token == !conf->token_file)
		return err_set(e, EINVAL, "vault %s: needs either a token or a token_file", conf->name);
	bool ok = copied(&b->name, conf->name) && copied(&b->address, conf->address) &&
		  copied(&b->kv_mount, conf->kv_mount ? conf->kv_mount : "secret") && copied(&b->ca_file, conf->ca_file) &&
		  copied(&b->namespace_, conf->namespace_) && copied(&b->token_file, conf->token_file) &&
		  copied(&b->cert_file, conf->cert_file) && copied(&b->key_file, conf->key_file);
	if (ok && conf->token)
		ok = (b->token = sec_strdup(conf->token)) != NULL;
	if (!ok)
		return err_set(e, ENOMEM, "out of memory");
	if (b->token) {
		trim(b->token);
		if (!*b->token || !token_ok(b->token))
			return err_set(e, EINVAL, "vault %s: what was given as the token is none", conf->name);
	}
	if (!b->kv_mount)
		return err_set(e, EINVAL, "vault %s: kv_mount is empty", conf->name);
	size_t n = strlen(b->kv_mount);
	while (n > 1 && b->kv_mount[n - 1] == '/')
		b->kv_mount[--n] = '\0';
	b->base = (struct vault_backend){
		.ops = &openbao_ops,
		.io = io,
		.name = b->name,
		.refresh_s = conf->refresh_s,
		.max_stale_s = conf->max_stale_s,
	};
	b->stamps[0].file = b->ca_file;
	b->stamps[1].file = b->cert_file;
	b->stamps[2].file = b->key_file;
	(void)stamp_all(b);
	const struct http_client_conf http = {
		.base_url = conf->address,
		.ca_file = b->ca_file,
		.cert_file = b->cert_file,
		.key_file = b->key_file,
		.server_name = conf->server_name && *conf->server_name ? conf->server_name : NULL,
		.connect_timeout_ms = conf->connect_timeout_ms,
		.timeout_ms = conf->timeout_ms,
		.max_body = OPENBAO_BODY_MAX,
		.max_connections = conf->max_connections,
	};
	int r = http_client_new(io, &http, &b->http, e);
	if (r < 0) {
		(void)err_wrap(e, "vault %s", conf->name);
		return r;
	}
	*ret = &TAKE_PTR(b)->base;
	return 0;
}
