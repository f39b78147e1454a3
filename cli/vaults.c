/* SPDX-License-Identifier: Apache-2.0 */
/* Which vault a command means, and what opens it. */
#include "cli/common.h"

#include "base/cleanup.h"
#include "base/http.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_MAX = 8192 };

static char *home_file(const char *below)
{
	const char *home = secure_getenv("HOME");
	if (!home || *home != '/') {
		const struct passwd *pw = getpwuid(geteuid());
		home = pw ? pw->pw_dir : NULL;
	}
	char *path = NULL;
	return home && asprintf(&path, "%s/%s", home, below) >= 0 ? path : NULL;
}

static char *default_config(void)
{
	if (geteuid() == 0)
		return strdup("/etc/cloudtaser/config.yaml");
	const char *base = secure_getenv("XDG_CONFIG_HOME");
	char *path = NULL;
	if (base && *base == '/')
		return asprintf(&path, "%s/cloudtaser/config.yaml", base) < 0 ? NULL : path;
	return home_file(".config/cloudtaser/config.yaml");
}

int cli_config(const struct cli *c, struct config **ret, struct err *e)
{
	*ret = NULL;
	if (c->config)
		return config_load(c->config, ret, e);
	cleanup_free char *file = default_config();
	if (!file)
		return 0;
	int r = config_load(file, ret, e);
	if (r == -ENOENT) {
		*e = (struct err)ERR_INIT;
		return 0;
	}
	return r;
}

int cli_given_passphrase(const struct cli *c, struct secbuf **ret, struct err *e)
{
	if (c->passphrase_file && c->passphrase_fd >= 0)
		return err_set(e, CLI_EUSAGE, "--passphrase-file and --passphrase-fd: give one of them");
	int r = vault_read_passphrase(c->passphrase_file, c->passphrase_fd, ret, e);
	if (r == -EINVAL) { /* an empty one: the file is wrong, not the configuration */
		e->code = EBADMSG;
		return -EBADMSG;
	}
	return r;
}

static int passphrase(const struct cli *c, struct cli_vault *v, struct err *e)
{
	const struct config_vault *conf = v->conf;
	if (access(conf->file, F_OK) < 0 && errno == ENOENT)
		return err_set(e, ENOENT,
			       "there is no sealed vault at %s: make one with `cloudtaser vault init`, or name "
			       "another one with --vault",
			       conf->file);
	if (c->passphrase_file || c->passphrase_fd >= 0)
		return cli_given_passphrase(c, &v->passphrase, e);
	if (conf->passphrase_file)
		return 0; /* vault_open reads it */
	char prompt[256];
	(void)snprintf(prompt, sizeof prompt, "Passphrase of the vault %s: ", conf->name);
	int r = cli_prompt(prompt, &v->passphrase, e);
	if (r == -ENOTTY)
		return err_set(e, ENOTTY,
			       "the vault %s needs its passphrase and there is no terminal to ask on: give "
			       "--passphrase-file FILE or --passphrase-fd N",
			       conf->name);
	if (r == 0 && secbuf_len(v->passphrase) == 0)
		return err_set(e, EKEYREJECTED, "the passphrase is empty");
	return r;
}

/* A token given by descriptor: its first line. */
static int token_of_fd(int fd, struct secbuf **ret, struct err *e)
{
	cleanup_sec char *text = NULL;
	size_t len;
	int r = sec_read_fd(fd, TOKEN_MAX, &text, &len, e);
	if (r < 0)
		return err_wrap(e, "--token-fd %d", fd);
	len = strcspn(text, "\r\n");
	if (!len)
		return err_set(e, EKEYREJECTED, "--token-fd %d: there is no token in it", fd);
	*ret = secbuf_from(text, len);
	return *ret ? 0 : err_set(e, ENOMEM, "out of secret memory");
}

static int token(const struct cli *c, struct cli_vault *v, struct err *e)
{
	struct config_vault *conf = v->conf;
	if (c->token_fd >= 0)
		return token_of_fd(c->token_fd, &v->token, e);
	cleanup_free char *file = NULL;
	if (c->token_file) {
		/* It is read again when the token stops working; `mount -d` is at / then. */
		int r = cli_absolute(c->token_file, &file, e);
		if (r < 0)
			return err_wrap(e, "--token-file");
	} else if (conf->token_file) {
		return 0;
	} else {
		file = home_file(".vault-token");
		if (file && access(file, F_OK) < 0)
			return err_set(e, EKEYREJECTED,
				       "vault %s: no token: give --token-file FILE or --token-fd N, or put one into "
				       "~/.vault-token (%s)",
				       conf->name,
				       getenv("VAULT_TOKEN") || getenv("BAO_TOKEN") ?
					       "VAULT_TOKEN and BAO_TOKEN are not used: an environment shows" :
					       "a token in the environment is not used");
	}
	if (!file)
		return err_set(e, ENOMEM, "out of memory");
	free(conf->token_file);
	conf->token_file = TAKE_PTR(file);
	return 0;
}

int cli_vault_choose(const struct cli *c, const char *name, struct cli_vault *v, struct err *e)
{
	if (c->token_file && c->token_fd >= 0)
		return err_set(e, CLI_EUSAGE, "--token-file and --token-fd: give one of them");
	int r = v->config ? 0 : cli_config(c, &v->config, e);
	if (r < 0)
		return r;
	r = vault_resolve(v->config, name ? name : c->vault, &v->conf, e);
	if (r == -EINVAL) {
		e->code = CLI_EUSAGE; /* not which one, or not well written: it is --vault that has to change */
		return -CLI_EUSAGE;
	}
	if (r < 0)
		return r;
	return v->conf->kind == CONFIG_VAULT_SEALED ? passphrase(c, v, e) : token(c, v, e);
}

int cli_vault_open(struct cli_vault *v, struct io *io, struct err *e)
{
	if (!io) {
		int r = io_new(&v->io, e);
		if (r < 0)
			return r;
		io = v->io;
	}
	const struct vault_credentials cred = { .passphrase = v->passphrase, .token = v->token };
	int r = vault_open(io, v->conf, &cred, &v->backend, e);
	/* The backend has what it needs: the sooner the passphrase is gone, the better. */
	secbuf_free(TAKE_PTR(v->passphrase));
	secbuf_free(TAKE_PTR(v->token));
	return r;
}

void cli_vault_close(struct cli_vault *v)
{
	vault_backend_close_sync(TAKE_PTR(v->backend));
	if (v->io)
		io_free(TAKE_PTR(v->io));
	if (v->passphrase)
		secbuf_free(TAKE_PTR(v->passphrase));
	if (v->token)
		secbuf_free(TAKE_PTR(v->token));
	config_vault_free(TAKE_PTR(v->conf));
	config_free(TAKE_PTR(v->config));
}
