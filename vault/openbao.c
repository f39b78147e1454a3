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
#include "vault/openbao_internal.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "base/secmem.h"

#include <stdlib.h>
#include <string.h>

enum { TOKEN_MAX = 16 * 1024 }; /* batch and JWT-like tokens are long */

static struct openbao *of(struct vault_backend *b)
{
	return (struct openbao *)b;
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
		return err_set(e, EAGAIN, "token_file %s is empty: it should hold the token and nothing else",
			       b->token_file);
	if (strlen(text) + 16 < len || !token_ok(text))
		return err_set(e, EAGAIN, "token_file %s holds more than a token: it should be one line",
			       b->token_file);
	*ret = TAKE_PTR(text);
	return 0;
}

int openbao_ensure_token(struct openbao *b, struct err *e)
{
	return b->token ? 0 : read_token(b, &b->token, e);
}

/* After the token was found dead: 1 when there is another one now. */
int openbao_renew_token(struct openbao *b, struct err *e)
{
	if (!b->token_file)
		return err_set(e, EAGAIN, "the token has expired or was revoked: give a new one");
	cleanup_sec char *token = NULL;
	int r = read_token(b, &token, e);
	if (r < 0)
		return r;
	if (strlen(token) == strlen(b->token) && mem_equal(token, b->token, strlen(token)))
		return err_set(e, EAGAIN, "the token in %s has expired or was revoked: write a new one there",
			       b->token_file);
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
	bool changed = st.st_ino != s->ino || st.st_mtim.tv_sec != s->mtime.tv_sec ||
		       st.st_mtim.tv_nsec != s->mtime.tv_nsec;
	s->ino = st.st_ino;
	s->mtime = st.st_mtim;
	return changed;
}

bool openbao_files_changed(struct openbao *b)
{
	bool changed = false;
	for (size_t i = 0; i < sizeof b->stamps / sizeof *b->stamps; i++)
		changed |= stamp(&b->stamps[i]);
	return changed;
}

/* --- the interface */

void openbao_unref(struct openbao *b)
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

static const struct err no_memory = { .code = ENOMEM, .msg = "out of memory" };

static void openbao_get(struct vault_backend *b, const char *path, vault_get_fn *done, void *arg)
{
	struct op *o = op_new(of(b), OP_GET, "data", path);
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
	struct op *o = op_new(of(b), OP_LIST, "metadata", folder);
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
	struct op *o = op_new(of(b), OP_PUT, "data", path);
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
	struct op *o = op_new(of(b), kind, what, path);
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
		  copied(&b->kv_mount, conf->kv_mount ? conf->kv_mount : "secret") &&
		  copied(&b->ca_file, conf->ca_file) && copied(&b->namespace_, conf->namespace_) &&
		  copied(&b->token_file, conf->token_file) && copied(&b->cert_file, conf->cert_file) &&
		  copied(&b->key_file, conf->key_file);
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
	(void)openbao_files_changed(b);
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
