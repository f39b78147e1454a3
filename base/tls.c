/* SPDX-License-Identifier: Apache-2.0 */
#include "base/tls.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	CA_FILE_MAX = 8 << 20,
	CERT_FILE_MAX = 1 << 20,
};

/* Debian, Red Hat, SUSE, Alpine. */
static const char *const system_bundles[] = {
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
};

struct tls {
	_Atomic unsigned refs;
	X509_STORE *store;
	X509 *cert;
	STACK_OF(X509) * chain;
	EVP_PKEY *key;
	char *ca_file;
	const char *ca_origin; /* what to call it in a sentence */
};

DEFINE_CLEANUP(X509_free, X509 *)
DEFINE_CLEANUP(EVP_PKEY_free, EVP_PKEY *)
DEFINE_CLEANUP(X509_STORE_free, X509_STORE *)
DEFINE_CLEANUP(BIO_free_all, BIO *)

static void infos_freep(STACK_OF(X509_INFO) * *s)
{
	if (*s)
		sk_X509_INFO_pop_free(*s, X509_INFO_free);
}

static void chain_freep(STACK_OF(X509) * *s)
{
	if (*s)
		sk_X509_pop_free(*s, X509_free);
}

/* A key that wants a pass phrase is refused: never ask on a terminal, which is what OpenSSL does by default. */
static int no_passphrase(char *buf, int size, int rwflag, void *arg)
{
	(void)buf, (void)size, (void)rwflag;
	*(bool *)arg = true;
	return -1;
}

static int read_infos(const char *what, const char *file, size_t max, STACK_OF(X509_INFO) * *ret, struct err *e)
{
	cleanup_sec char *text = NULL;
	size_t len;
	int r = sec_read_file(file, max, false, &text, &len, e);
	if (r < 0) {
		(void)err_wrap(e, "%s", what);
		return r;
	}
	CLEANUP_WITH(BIO_free_allp) BIO *bio = BIO_new_mem_buf(text, (int)len);
	if (!bio)
		return err_set(e, ENOMEM, "%s %s: out of secret memory", what, file);
	bool asked = false;
	ERR_clear_error();
	*ret = PEM_X509_INFO_read_bio(bio, NULL, no_passphrase, &asked);
	unsigned long code = ERR_peek_last_error();
	ERR_clear_error();
	if (*ret)
		return 0;
	if (ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE)
		return err_set(e, ENOMEM, "%s %s: out of secret memory (RLIMIT_MEMLOCK)", what, file);
	return err_set(e, EINVAL, "%s %s is damaged: it should hold certificates in PEM form", what, file);
}

static int load_authorities(struct tls *t, const char *ca_file, struct err *e)
{
	const char *file = ca_file;
	for (size_t i = 0; !file && i < sizeof system_bundles / sizeof system_bundles[0]; i++)
		if (access(system_bundles[i], R_OK) == 0)
			file = system_bundles[i];
	if (!file)
		return err_set(e, ENOENT,
			       "no bundle of certificate authorities on this system: install ca-certificates, or "
			       "name the vault's own authority (ca_file)");
	CLEANUP_WITH(infos_freep) STACK_OF(X509_INFO) *infos = NULL;
	int r = read_infos("ca_file", file, CA_FILE_MAX, &infos, e);
	if (r < 0)
		return r;
	CLEANUP_WITH(X509_STORE_freep) X509_STORE *store = X509_STORE_new();
	if (!store)
		return err_set(e, ENOMEM, "out of secret memory");
	int n = 0;
	for (int i = 0; i < sk_X509_INFO_num(infos); i++) {
		const X509_INFO *info = sk_X509_INFO_value(infos, i);
		if (info->x509) {
			if (!X509_STORE_add_cert(store, info->x509))
				return err_set(e, ENOMEM, "ca_file %s: out of secret memory", file);
			n++;
		}
		if (info->crl && !X509_STORE_add_crl(store, info->crl))
			return err_set(e, ENOMEM, "ca_file %s: out of secret memory", file);
	}
	if (n == 0)
		return err_set(e, EINVAL, "ca_file %s holds no certificate: it should be PEM (BEGIN CERTIFICATE)",
			       file);
	/* As libcurl does: an intermediate in the file is trusted as it stands. */
	X509_STORE_set_flags(store, X509_V_FLAG_TRUSTED_FIRST | X509_V_FLAG_PARTIAL_CHAIN);
	t->ca_file = strdup(file);
	if (!t->ca_file)
		return err_set(e, ENOMEM, "out of memory");
	t->ca_origin = ca_file ? "ca_file" : "the system's authorities";
	t->store = TAKE_PTR(store);
	return 0;
}

static int load_certificate(struct tls *t, const char *file, struct err *e)
{
	CLEANUP_WITH(infos_freep) STACK_OF(X509_INFO) *infos = NULL;
	int r = read_infos("cert_file", file, CERT_FILE_MAX, &infos, e);
	if (r < 0)
		return r;
	CLEANUP_WITH(chain_freep) STACK_OF(X509) *chain = sk_X509_new_null();
	CLEANUP_WITH(X509_freep) X509 *cert = NULL;
	if (!chain)
		return err_set(e, ENOMEM, "out of secret memory");
	for (int i = 0; i < sk_X509_INFO_num(infos); i++) {
		X509_INFO *info = sk_X509_INFO_value(infos, i);
		if (!info->x509)
			continue;
		if (cert && !sk_X509_push(chain, info->x509))
			return err_set(e, ENOMEM, "out of secret memory");
		if (!cert)
			cert = info->x509;
		info->x509 = NULL;
	}
	if (!cert)
		return err_set(e, EINVAL, "cert_file %s holds no certificate: it should be PEM (BEGIN CERTIFICATE)",
			       file);
	t->cert = TAKE_PTR(cert);
	t->chain = TAKE_PTR(chain);
	return 0;
}

static int load_key(struct tls *t, const char *file, struct err *e)
{
	cleanup_sec char *text = NULL;
	size_t len;
	int r = sec_read_file(file, CERT_FILE_MAX, true, &text, &len, e);
	if (r < 0) {
		(void)err_wrap(e, "key_file");
		return r;
	}
	CLEANUP_WITH(BIO_free_allp) BIO *bio = BIO_new_mem_buf(text, (int)len);
	if (!bio)
		return err_set(e, ENOMEM, "out of secret memory");
	bool asked = false;
	CLEANUP_WITH(EVP_PKEY_freep) EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked);
	ERR_clear_error();
	if (!key && asked)
		return err_set(e, EINVAL,
			       "key_file %s is protected by a pass phrase, which nobody is there to type: give an "
			       "unprotected key, readable by its owner alone (openssl pkey -in ... -out ...)",
			       file);
	if (!key)
		return err_set(e, EINVAL, "key_file %s holds no private key that can be read: it should be PEM", file);
	if (X509_check_private_key(t->cert, key) != 1) {
		ERR_clear_error();
		return err_set(e, EINVAL, "key_file %s does not belong to the certificate in cert_file", file);
	}
	t->key = TAKE_PTR(key);
	return 0;
}

struct tls *tls_ref(struct tls *t)
{
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

void tls_unref(struct tls *t)
{
	if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
		return;
	X509_STORE_free(t->store);
	X509_free(t->cert);
	chain_freep(&t->chain);
	EVP_PKEY_free(t->key);
	free(t->ca_file);
	free(t);
}

bool tls_has_certificate(const struct tls *t)
{
	return t->cert != NULL;
}

int tls_new(const char *ca_file, const char *cert_file, const char *key_file, struct tls **ret, struct err *e)
{
	if (!cert_file != !key_file)
		return err_set(e, EINVAL, "%s needs %s beside it", cert_file ? "cert_file" : "key_file",
			       cert_file ? "key_file" : "cert_file");
	CLEANUP_WITH(tls_unrefp) struct tls *t = calloc(1, sizeof *t);
	if (!t)
		return err_set(e, ENOMEM, "out of memory");
	t->refs = 1;
	int r = load_authorities(t, ca_file, e);
	if (r == 0 && cert_file)
		r = load_certificate(t, cert_file, e);
	if (r == 0 && cert_file)
		r = load_key(t, key_file, e);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(t);
	return 0;
}

/* --- one connection */

static int report_ex_index;

static void make_report_index(void)
{
	report_ex_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

static int report_index(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, make_report_index);
	return report_ex_index;
}

static struct tls_report *report_of(const SSL *ssl)
{
	return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), report_index());
}

/* What a foreign certificate says goes into a message as printable ASCII only. */
static void append_text(char *buf, size_t room, const unsigned char *text, int len)
{
	size_t at = strlen(buf);
	for (int i = 0; i < len && at + 1 < room; i++)
		buf[at++] = (text[i] >= 0x20 && text[i] < 0x7f && text[i] != '"') ? (char)text[i] : '?';
	buf[at] = '\0';
}

static void describe_names(X509 *cert, char *buf, size_t room)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; names && i < sk_GENERAL_NAME_num(names) && i < 4; i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
		char ip[INET6_ADDRSTRLEN] = "";
		if (i > 0)
			append_text(buf, room, (const unsigned char *)", ", 2);
		if (g->type == GEN_DNS) {
			append_text(buf, room, ASN1_STRING_get0_data(g->d.dNSName), ASN1_STRING_length(g->d.dNSName));
		} else if (g->type == GEN_IPADD) {
			int len = ASN1_STRING_length(g->d.iPAddress);
			if ((len == 4 || len == 16) && inet_ntop(len == 4 ? AF_INET : AF_INET6,
								 ASN1_STRING_get0_data(g->d.iPAddress), ip, sizeof ip))
				append_text(buf, room, (const unsigned char *)ip, (int)strlen(ip));
		}
	}
	if (names)
		GENERAL_NAMES_free(names);
}

static void describe_entry(const X509_NAME *name, char *buf, size_t room)
{
	static const int nids[] = { NID_commonName, NID_organizationName };
	for (size_t i = 0; i < sizeof nids / sizeof nids[0]; i++) {
		int at = X509_NAME_get_index_by_NID(name, nids[i], -1);
		if (at < 0)
			continue;
		const ASN1_STRING *s = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
		append_text(buf, room, ASN1_STRING_get0_data(s), ASN1_STRING_length(s));
		return;
	}
}

static void describe_time(const ASN1_TIME *time, char *buf, size_t room)
{
	struct tm tm;
	if (!time || ASN1_TIME_to_tm(time, &tm) != 1 || strftime(buf, room, "%Y-%m-%d %H:%M UTC", &tm) == 0)
		buf[0] = '\0';
}

static int on_verify(int ok, X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_report *report = ssl ? report_of(ssl) : NULL;
	if (ok || !report || report->verify != X509_V_OK)
		return ok;
	report->verify = X509_STORE_CTX_get_error(store);
	report->depth = X509_STORE_CTX_get_error_depth(store);
	X509 *cert = X509_STORE_CTX_get_current_cert(store);
	if (!cert)
		return ok;
	describe_time(X509_get0_notBefore(cert), report->from, sizeof report->from);
	describe_time(X509_get0_notAfter(cert), report->until, sizeof report->until);
	report->name[0] = '\0';
	if (report->verify == X509_V_ERR_HOSTNAME_MISMATCH || report->verify == X509_V_ERR_IP_ADDRESS_MISMATCH)
		describe_names(cert, report->name, sizeof report->name);
	else
		describe_entry(X509_get_issuer_name(cert), report->name, sizeof report->name);
	return ok;
}

static int on_certificate_asked(SSL *ssl, void *arg)
{
	(void)arg;
	struct tls_report *report = report_of(ssl);
	if (report)
		report->asked = true;
	return 1;
}

int tls_apply(struct tls *t, void *ssl_ctx, const char *host, struct tls_report *report)
{
	SSL_CTX *ctx = ssl_ctx;
	memset(report, 0, sizeof *report);
	SSL_CTX_set1_cert_store(ctx, t->store);
	X509_VERIFY_PARAM *param = SSL_CTX_get0_param(ctx);
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (X509_VERIFY_PARAM_set1_ip_asc(param, host) != 1 && X509_VERIFY_PARAM_set1_host(param, host, 0) != 1)
		return -ENOMEM;
	ERR_clear_error();
	if (t->cert && SSL_CTX_use_cert_and_key(ctx, t->cert, t->key, t->chain, 1) != 1)
		return -ENOMEM;
	if (SSL_CTX_set_ex_data(ctx, report_index(), report) != 1)
		return -ENOMEM;
	/* Its write buffer is as large as the largest record: 16 KiB of secret memory for requests of some 300 bytes. */
	(void)SSL_CTX_set_max_send_fragment(ctx, 4096);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, on_verify);
	SSL_CTX_set_cert_cb(ctx, on_certificate_asked, NULL);
	/* libcurl would write the session's keys into the file that SSLKEYLOGFILE names. */
	SSL_CTX_set_keylog_callback(ctx, NULL);
	return 0;
}

int tls_explain(const struct tls *t, const struct tls_report *report, const char *peer, const char *host, struct err *e)
{
	const char *whose = report->depth > 0 ? "an authority's certificate above that of" : "the certificate of";
	switch (report->verify) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		return err_set(e, EKEYREJECTED, "%s %s expired on %s: renew it on the server", whose, peer,
			       report->until);
	case X509_V_ERR_CERT_NOT_YET_VALID:
		return err_set(e, EKEYREJECTED, "%s %s is valid only from %s: compare the clocks of both machines",
			       whose, peer, report->from);
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		return err_set(e, EKEYREJECTED,
			       "the certificate of %s is not for \"%s\" (it names: %s): use one of its names in the "
			       "address, or "
			       "set server_name",
			       peer, host, report->name[0] ? report->name : "nothing");
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_CERT_SIGNATURE_FAILURE:
		return err_set(e, EKEYREJECTED,
			       "the certificate of %s comes from an unknown issuer (\"%s\"), which is not in %s (%s): "
			       "give its "
			       "authority's certificate as ca_file",
			       peer, report->name, t->ca_origin, t->ca_file);
	default:
		return err_set(e, EKEYREJECTED, "%s %s was refused: %s", whose, peer,
			       X509_verify_cert_error_string(report->verify));
	}
}
