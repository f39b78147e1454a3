/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between openbao.c (the interface, the token, opening and closing) and openbao_op.c (one operation's way). [loop] only.
 */
#ifndef CT_VAULT_OPENBAO_INTERNAL_H
#define CT_VAULT_OPENBAO_INTERNAL_H

#include "vault/backend.h"

#include "vault/openbao_json.h"

#include <sys/stat.h>

#define OPENBAO_LOOKUP_SELF "/v1/auth/token/lookup-self"

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

/* openbao.c */
void openbao_unref(struct openbao *b);
int must_use openbao_ensure_token(struct openbao *b, struct err *e);
int must_use openbao_renew_token(struct openbao *b, struct err *e); /* it is dead: 1 when there is another one now */
bool openbao_files_changed(struct openbao *b);			    /* the certificates, since the last time */

/* openbao_op.c. A failure before an operation is sent is answered from the loop, too. */
struct op *op_new(struct openbao *b, enum op_kind kind, const char *what, const char *path); /* NULL: ENOMEM */
void op_start(struct op *o, bool possible);
void op_fail(struct op *o, int r, const struct err *e);
void op_fail_late(struct op *o, int r, const struct err *e);

#endif
