/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS material of one HTTP client, read once and shared by all its connections: the trusted authorities (one X509_STORE
 * instead of one parse of the bundle per connection), the client's certificate chain and key. tls.c sees OpenSSL and no
 * libcurl. Call on a thread with a secret stack: the key is parsed and used there.
 */
#ifndef CT_BASE_TLS_H
#define CT_BASE_TLS_H

#include "base/err.h"

#include <stdbool.h>

struct tls;

/* Files as in struct http_client_conf; all may be NULL, cert_file and key_file only together. */
int must_use tls_new(const char *ca_file, const char *cert_file, const char *key_file, struct tls **ret, struct err *e);
struct tls *tls_ref(struct tls *t);
void tls_unref(struct tls *t); /* NULL is fine */
static inline __attribute__((unused)) void tls_unrefp(struct tls **t)
{
	tls_unref(*t);
}
bool tls_has_certificate(const struct tls *t);

/* What one handshake found. Kept by whoever starts it until its connection is up or closed. */
struct tls_report {
	bool asked;	/* the server asked for a client certificate */
	long verify;	/* X509_V_OK, or why its certificate was refused */
	int depth;	/* 0: its own certificate, otherwise one above it in the chain */
	char name[128]; /* the names or the issuer in it, printable ASCII */
	char until[32], from[32];
};

/* Prepares the SSL_CTX of one connection: trust, client certificate, `host` as the name to be proven. 0 or -ENOMEM. */
int must_use tls_apply(struct tls *t, void *ssl_ctx, const char *host, struct tls_report *report);

/* The sentence for a certificate that was refused; returns -EKEYREJECTED. */
int tls_explain(const struct tls *t, const struct tls_report *report, const char *peer, const char *host,
		struct err *e);

#endif
