/* SPDX-License-Identifier: Apache-2.0 */
/* One operation of the OpenBao backend: sent, answered, sent again. openbao.c tells how it all hangs together. */
#include "vault/openbao_internal.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "base/secmem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOT_BEFORE_MAX_S = 60 };

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
void op_fail(struct op *o, int r, const struct err *e)
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

/* --- requests and answers */

static void on_answer(void *arg, int r, const struct http_response *resp, const struct err *e);

static int op_send(struct op *o, struct err *e)
{
	struct openbao *b = o->b;
	static const char *const methods[] = {
		[OP_GET] = "GET",    [OP_LIST] = "LIST", [OP_PUT] = "POST",  [OP_DEL_LOOK] = "GET",
		[OP_DEL] = "DELETE", [OP_CHECK] = "GET", [OP_PROBE] = "GET",
	};
	int r = openbao_ensure_token(b, e);
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
				   o->kind == OP_LIST			       ? "list" :
				   o->kind == OP_GET || o->kind == OP_DEL_LOOK ? "read" :
				   o->kind == OP_PUT			       ? "write" :
										 "delete",
				   o->path);
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
		p->url = strdup(OPENBAO_LOOKUP_SELF);
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
		return err_set(e, EAGAIN, "%s sends us elsewhere (%d): give the address of the active node", at,
			       resp->status);
	case 404:
		if (strstr(said, "namespace not found"))
			return err_set(e, EAGAIN, "%s has no namespace \"%s\"", at, b->namespace_ ? b->namespace_ : "");
		if (strstr(said, "no handler for route"))
			return err_set(e, EAGAIN, "%s has no store mounted at \"%s/\": check kv_mount%s", at,
				       b->kv_mount, b->namespace_ ? " and namespace" : "");
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
		return err_set(e, EAGAIN, "%s answers %d: what stands before the vault does not reach it", at,
			       resp->status);
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
	return err_set(e, EPROTO, "%s answers %d%s%s", at, resp->status, quote && said[0] ? ": " : "",
		       quote ? said : "");
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
		r = openbao_renew_token(b, &e);
		op_end(o, r, &e);
		break;
	case OP_CHECK:
		r = o->generation != b->generation ? 1 : openbao_renew_token(b, &e);
		if (r == 1 && o->sent_again)
			r = err_set(&e, EAGAIN,
				    "the token has expired or was revoked, and so was the one that replaced it");
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
	if ((r == -EKEYREJECTED || r == -EAGAIN) && !b->closing && openbao_files_changed(b) &&
	    http_client_reload(b->http, NULL) == 0 && r == -EKEYREJECTED && !o->sent_again) {
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
			(void)fail(o, -EEXIST, "\"%s\" has another version than expected: somebody else has written it",
				   o->path);
		} else if (o->kind == OP_PUT && resp->status == 400 &&
			   strstr(said, "check-and-set parameter required")) {
			(void)fail(o, -EINVAL, "\"%s\" may only be written by saying which version it has (cas)",
				   o->path);
		} else {
			int code = explain_status(b, resp, o->kind != OP_PUT, &why);
			keep_away(b, resp, &why);
			b->reachable = code != -EAGAIN;
			op_broken(o, code, &why);
		}
	}
	openbao_unref(b);
}

/* For what fails before it is sent: the answer comes from the loop, not from within the call. */
static void answer_late(void *arg)
{
	struct openbao *b = arg;
	while (!b->closing && b->late)
		op_fail(b->late, b->late->r, &b->late->err);
	openbao_unref(b);
}

void op_fail_late(struct op *o, int r, const struct err *e)
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

void op_start(struct op *o, bool possible)
{
	struct openbao *b = o->b;
	struct err e = ERR_INIT;
	int r;
	if (!o->path || !o->url)
		r = err_set(&e, ENOMEM, "out of memory");
	else if (!possible)
		r = o->kind == OP_PUT ?
			    err_set(&e, EINVAL,
				    "the vault keeps no secret under a name with control bytes or "
				    "bytes that are no UTF-8") :
			    err_set(&e, ENOENT, "there is no such name: it has control bytes, or is no UTF-8");
	else if (b->not_before > io_now_ms())
		r = err_set(&e, EAGAIN, "%s", b->not_before_why.msg);
	else
		r = op_send(o, &e);
	if (r < 0)
		op_fail_late(o, r, &e);
}

struct op *op_new(struct openbao *b, enum op_kind kind, const char *what, const char *path)
{
	struct op *o = calloc(1, sizeof *o);
	if (!o)
		return NULL;
	o->b = b;
	o->kind = kind;
	o->path = strdup(path);
	o->url = what ? openbao_make_path(b->kv_mount, what, path) : strdup(OPENBAO_LOOKUP_SELF);
	link_to(o, &b->ops);
	return o;
}
