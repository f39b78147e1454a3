/* SPDX-License-Identifier: Apache-2.0 */
#include "vault/open.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSPHRASE_MAX = 4096 };

DEFINE_CLEANUP(secbuf_free, struct secbuf *)

int vault_open(struct io *io, const struct config_vault *conf, const struct vault_credentials *cred,
	       struct vault_backend **ret, struct err *e)
{
	const struct secbuf *given = cred ? cred->passphrase : NULL, *token = cred ? cred->token : NULL;

	if (conf->kind == CONFIG_VAULT_SEALED) {
		CLEANUP_WITH(secbuf_freep) struct secbuf *read = NULL;
		if (!given) {
			if (!conf->passphrase_file)
				return err_set(
					e, EINVAL,
					"vault %s: no passphrase: name a passphrase_file in the configuration, or "
					"give --passphrase-file or --passphrase-fd",
					conf->name);
			int r = vault_read_passphrase(conf->passphrase_file, -1, &read, e);
			if (r < 0)
				return err_wrap(e, "vault %s", conf->name);
			given = read;
		}
		const struct vault_sealed_conf sealed = {
			.name = conf->name,
			.file = conf->file,
			.refresh_s = conf->refresh_s,
			.max_stale_s = conf->max_stale_s,
		};
		return vault_sealed_open(io, &sealed, secbuf_data(given), secbuf_len(given), ret, e);
	}

	if (!token && !conf->token_file)
		return err_set(e, EINVAL,
			       "vault %s: no token: name a token_file in the configuration, or give "
			       "--token-file or --token-fd",
			       conf->name);
	/* The backend takes a terminated string: a copy, as long as it needs to make its own. */
	cleanup_sec char *text = NULL;
	if (token) {
		text = sec_strndup(secbuf_data(token), secbuf_len(token));
		if (!text)
			return err_set(e, ENOMEM, "vault %s: out of secret memory", conf->name);
	}
	const struct vault_openbao_conf openbao = {
		.name = conf->name,
		.address = conf->address,
		.kv_mount = conf->kv_mount,
		.namespace_ = conf->namespace_,
		.token_file = token ? NULL : conf->token_file,
		.token = text,
		.ca_file = conf->ca_file,
		.cert_file = conf->cert_file,
		.key_file = conf->key_file,
		.server_name = conf->server_name,
		.connect_timeout_ms = conf->connect_timeout_ms,
		.timeout_ms = conf->timeout_ms,
		.max_connections = conf->max_connections,
		.refresh_s = conf->refresh_s,
		.max_stale_s = conf->max_stale_s,
	};
	return vault_openbao_open(io, &openbao, ret, e);
}

void config_vault_free(struct config_vault *v)
{
	if (!v)
		return;
	char *const owned[] = { v->name,      v->file,	     v->passphrase_file, v->address,
				v->kv_mount,  v->namespace_, v->token_file,	 v->ca_file,
				v->cert_file, v->key_file,   v->server_name };
	for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
		free(owned[i]);
	free(v);
}
DEFINE_CLEANUP(config_vault_free, struct config_vault *)

static int no_memory(struct err *e)
{
	return err_set(e, ENOMEM, "out of memory");
}

/* *ret := a copy of s, or NULL for NULL. */
static int copy_string(char **ret, const char *s)
{
	*ret = s ? strdup(s) : NULL;
	return s && !*ret ? -ENOMEM : 0;
}

static int copy_vault(const struct config_vault *from, struct config_vault **ret, struct err *e)
{
	CLEANUP_WITH(config_vault_freep) struct config_vault *v = malloc(sizeof *v);
	if (!v)
		return no_memory(e);
	*v = *from;
	char **const to[] = { &v->name,	     &v->file,	     &v->passphrase_file, &v->address,
			      &v->kv_mount,  &v->namespace_, &v->token_file,	  &v->ca_file,
			      &v->cert_file, &v->key_file,   &v->server_name };
	bool failed = false;
	for (size_t i = 0; i < sizeof to / sizeof *to; i++)
		failed |= copy_string(to[i], *to[i]) < 0; /* goes on, so that no pointer stays borrowed */
	if (failed)
		return no_memory(e);
	*ret = TAKE_PTR(v);
	return 0;
}

static int sealed_at(const char *file, struct config_vault **ret, struct err *e)
{
	const struct config_vault v = {
		.name = (char *)file,
		.kind = CONFIG_VAULT_SEALED,
		.file = (char *)file,
		.refresh_s = 2,
		.max_stale_s = 86400,
	};
	return copy_vault(&v, ret, e);
}

/* The vault tools' variables, OpenBao's name first. An empty one counts as not set. */
static char *vault_env(const char *what)
{
	static const char *const prefixes[] = { "BAO_", "VAULT_" };
	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
		char name[64];
		(void)snprintf(name, sizeof name, "%s%s", prefixes[i], what);
		char *value = secure_getenv(name);
		if (value && *value)
			return value;
	}
	return NULL;
}

/* NULL stays NULL. */
static int absolute(const char *path, char **ret, struct err *e)
{
	char here[PATH_MAX];
	int n;
	if (!path)
		return 0;
	if (*path == '/')
		n = asprintf(ret, "%s", path);
	else if (getcwd(here, sizeof here))
		n = asprintf(ret, "%s/%s", here, path);
	else
		return err_sys(e, errno, "%s: there is no working directory", path);
	return n < 0 ? no_memory(e) : 0;
}

static int openbao_at(const char *url, struct config_vault **ret, struct err *e)
{
	size_t len = strlen(url);
	while (len && url[len - 1] == '/')
		len--;
	cleanup_free char *address = strndup(url, len), *ca = NULL, *cert = NULL, *key = NULL;
	if (!address)
		return no_memory(e);
	/* They may be read again when the working directory is another one. */
	int r = absolute(vault_env("CACERT"), &ca, e);
	if (r == 0)
		r = absolute(vault_env("CLIENT_CERT"), &cert, e);
	if (r == 0)
		r = absolute(vault_env("CLIENT_KEY"), &key, e);
	if (r < 0)
		return r;
	const struct config_vault v = {
		.name = address,
		.kind = CONFIG_VAULT_OPENBAO,
		.address = address,
		.kv_mount = (char *)"secret",
		.namespace_ = vault_env("NAMESPACE"),
		.ca_file = ca,
		.cert_file = cert,
		.key_file = key,
		.server_name = vault_env("TLS_SERVER_NAME"),
		.connect_timeout_ms = 5000,
		.timeout_ms = 15000,
		.refresh_s = 60,
		.max_stale_s = 86400,
	};
	return copy_vault(&v, ret, e);
}

/* "a, b, c": as many of the configuration's vaults as there is room for. */
static void list_names(const struct config *c, char *out, size_t size)
{
	size_t n = 0;
	*out = '\0';
	for (size_t i = 0; i < c->n_vaults; i++) {
		int k = snprintf(out + n, size - n, "%s%s", i ? ", " : "", c->vaults[i].name);
		if (k < 0 || (size_t)k >= size - n) {
			out[n] = '\0'; /* whole names only */
			break;
		}
		n += (size_t)k;
	}
}

int vault_resolve(const struct config *config, const char *vault, struct config_vault **ret, struct err *e)
{
	char names[200];
	if (!vault && config && config->n_vaults == 1)
		return copy_vault(&config->vaults[0], ret, e);
	if (!vault && config && config->n_vaults > 1) {
		list_names(config, names, sizeof names);
		return err_set(e, EINVAL, "the configuration has %zu vaults (%s): say which with --vault NAME",
			       config->n_vaults, names);
	}
	if (!vault) {
		const char *address = vault_env("ADDR");
		if (address)
			return openbao_at(address, ret, e);
		cleanup_free char *file = vault_default_file();
		if (!file)
			return err_set(e, ENOENT, "no home folder: say where the vault is with --vault");
		return sealed_at(file, ret, e);
	}
	if (strncmp(vault, "file:", 5) == 0) {
		if (!vault[5])
			return err_set(e, EINVAL, "--vault file: needs a path behind the colon");
		cleanup_free char *path = NULL;
		int r = absolute(vault + 5, &path, e);
		return r < 0 ? r : sealed_at(path, ret, e);
	}
	if (strstr(vault, "://"))
		return openbao_at(vault, ret, e);
	const struct config_vault *found = config ? config_find_vault(config, vault) : NULL;
	if (found)
		return copy_vault(found, ret, e);
	if (!config || !config->n_vaults)
		return err_set(e, ENOENT,
			       "--vault %s: there is no configuration that names a vault; give a URL, or file:PATH",
			       vault);
	list_names(config, names, sizeof names);
	return err_set(e, ENOENT, "--vault %s: the configuration has no such vault (it has %s)", vault, names);
}

char *vault_default_file(void)
{
	char *path = NULL;
	const char *data = secure_getenv("XDG_DATA_HOME"), *home = secure_getenv("HOME");
	if (data && *data == '/') /* the specification tells to ignore a relative one */
		return asprintf(&path, "%s/cloudtaser/vault", data) < 0 ? NULL : path;
	if (!home || *home != '/') {
		const struct passwd *pw = getpwuid(geteuid());
		home = pw ? pw->pw_dir : NULL;
	}
	if (!home || *home != '/')
		return NULL;
	return asprintf(&path, "%s/.local/share/cloudtaser/vault", home) < 0 ? NULL : path;
}

int vault_read_passphrase(const char *file, int fd, struct secbuf **ret, struct err *e)
{
	cleanup_sec char *text = NULL;
	size_t len = 0;
	char what[64] = "";
	if (file) {
		int r = sec_read_file(file, PASSPHRASE_MAX, true, &text, &len, e);
		if (r < 0)
			return err_wrap(e, "passphrase file");
		char *end = memchr(text, '\n', len);
		if (end)
			len = (size_t)(end - text);
	} else {
		(void)snprintf(what, sizeof what, "descriptor %d", fd);
		text = sec_malloc(PASSPHRASE_MAX + 1);
		if (!text)
			return err_set(e, ENOMEM, "out of secret memory");
		/* One byte at a time: what stands behind the line may be for somebody else, and a pipe may stay open. */
		for (;;) {
			ssize_t n = read(fd, text + len, 1);
			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0)
				return err_sys(e, errno, "cannot read the passphrase from %s", what);
			if (n == 0 || text[len] == '\n')
				break;
			if (++len > PASSPHRASE_MAX)
				return err_set(e, EMSGSIZE, "the passphrase from %s has more than %d bytes", what,
					       PASSPHRASE_MAX);
		}
	}
	if (!len)
		return err_set(e, EINVAL, "the passphrase is empty: %s has nothing in its first line",
			       file ? file : what);
	struct secbuf *b = secbuf_from(text, len);
	if (!b)
		return err_set(e, ENOMEM, "out of secret memory");
	*ret = b;
	return 0;
}
