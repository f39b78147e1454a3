/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where secrets come from: one interface, two backends (sealed file, OpenBao/Vault).
 *
 * A backend object is one (vault, identity) pair: what it fetched may be shared by whoever was given this object, and
 * by nobody else. Every operation runs on the I/O loop's thread ([loop]) and answers through its callback, once, on the
 * same thread, never from within the call.
 *
 * Errors, the same for all backends:
 *   -ENOENT       the vault says that there is no such secret (or folder)
 *   -EACCES       the vault says that this identity may not
 *   -EAGAIN       the vault cannot be asked now: network, time-out, sealed, 429, 5xx, token expired and no new one yet
 *   -EPROTO       the answer is no answer: garbage, half a body
 *   -EMSGSIZE     larger than the bounds
 *   -EKEYREJECTED wrong passphrase, certificate not accepted
 *   -EBADMSG      damaged sealed file
 *   -EEXIST       put with `cas` and the version moved
 */
#ifndef CT_VAULT_BACKEND_H
#define CT_VAULT_BACKEND_H

#include "base/err.h"
#include "base/http.h"
#include "vault/secret.h"

struct vault_backend;

typedef void vault_get_fn(void *arg, int r, struct vault_secret *s /* borrowed: ref to keep */, const struct err *e);
typedef void vault_done_fn(void *arg, int r, uint64_t version, const struct err *e);

/* Names directly below a folder, sorted, as the vault tells them: "db" a secret, "db/" a folder; both may be there. */
struct vault_names {
	size_t n;
	char **name;
};
typedef void vault_list_fn(void *arg, int r, const struct vault_names *names, const struct err *e);

enum { VAULT_CAS_ANY = UINT32_MAX };

struct vault_backend_ops {
	const char *kind; /* "sealed", "openbao" */
	void (*get)(struct vault_backend *b, const char *path, vault_get_fn *done, void *arg);
	/* folder: "" for the top, otherwise "app/" */
	void (*list)(struct vault_backend *b, const char *folder, vault_list_fn *done, void *arg);
	/* Writes a new version. `cas`: VAULT_CAS_ANY, or the version that must be there (0: none). */
	void (*put)(struct vault_backend *b, const char *path, struct vault_secret *s, uint32_t cas,
		    vault_done_fn *done, void *arg);
	/* Removes all versions. */
	void (*del)(struct vault_backend *b, const char *path, vault_done_fn *done, void *arg);
	/*
	 * Asks the vault whether it is there and this identity accepted (a network backend logs in here if it has to).
	 * Every other operation does that by itself where needed.
	 */
	void (*check)(struct vault_backend *b, vault_done_fn *done, void *arg);
	/* [loop] What `status` shows: {"kind","address" or "file","reachable","last_error",...}. Never a secret. */
	struct json *(*status)(struct vault_backend *b);
	void (*close)(struct vault_backend *b); /* [loop] frees; outstanding callbacks get -ECANCELED first */
};

/* First member of every backend's own structure. */
struct vault_backend {
	const struct vault_backend_ops *ops;
	struct io *io;
	const char *name;   /* as the configuration names it, for messages; owned by the backend */
	unsigned refresh_s; /* how old a secret may get before it is asked for again */
	unsigned max_stale_s;
};

/* One thread's way to call a backend and wait (commands): any thread but the loop. */
int must_use vault_get_sync(struct vault_backend *b, const char *path, struct vault_secret **ret, struct err *e);
int must_use vault_list_sync(struct vault_backend *b, const char *folder, struct vault_names **ret, struct err *e);
int must_use vault_put_sync(struct vault_backend *b, const char *path, struct vault_secret *s, uint32_t cas,
			    uint64_t *ret_version, struct err *e);
int must_use vault_del_sync(struct vault_backend *b, const char *path, struct err *e);
int must_use vault_check_sync(struct vault_backend *b, struct err *e);
void vault_backend_close_sync(struct vault_backend *b); /* NULL is fine */
void vault_names_free(struct vault_names *n);

/* The sealed file (vault/sealed.c; format in docs/formats/sealed-vault.md). */
struct vault_sealed_conf {
	const char *name;
	const char *file;
	unsigned refresh_s, max_stale_s;
};
struct vault_sealed_kdf {
	unsigned mem_mib; /* 0: 256 */
	unsigned ops;	  /* 0: 3 */
};
/* Makes a new, empty vault file (mode 0600, parent folders 0700). -EEXIST when there is one. */
int must_use vault_sealed_init(const char *file, const void *passphrase, size_t len, const struct vault_sealed_kdf *kdf,
			       struct err *e);
/* Opens one: derives the key (on a secret stack), checks the whole file. [any thread but the loop] */
int must_use vault_sealed_open(struct io *io, const struct vault_sealed_conf *conf, const void *passphrase, size_t len,
			       struct vault_backend **ret, struct err *e);

/* OpenBao and HashiCorp Vault, KV version 2, token login (vault/openbao.c). */
struct vault_openbao_conf {
	const char *name;
	const char *address;	/* https://host:port */
	const char *kv_mount;	/* NULL: "secret" */
	const char *namespace_; /* NULL: none (X-Vault-Namespace) */
	const char *token_file; /* read again when the token stops working; NULL: the token below */
	const char *token;	/* in secret memory, copied; NULL when token_file */
	const char *ca_file, *cert_file, *key_file, *server_name;
	unsigned connect_timeout_ms, timeout_ms;
	unsigned max_connections;
	unsigned refresh_s, max_stale_s;
};
int must_use vault_openbao_open(struct io *io, const struct vault_openbao_conf *conf, struct vault_backend **ret,
				struct err *e);

#endif
