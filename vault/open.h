/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a vault's entry in the configuration to a backend.
 * Thread rules: any thread but the loop's.
 */
#ifndef CT_VAULT_OPEN_H
#define CT_VAULT_OPEN_H

#include "base/config.h"
#include "vault/backend.h"

/* What a person or a file handed over, in secret memory; borrowed. NULL members: use what the configuration names. */
struct vault_credentials {
	const struct secbuf *passphrase; /* sealed; else passphrase_file */
	const struct secbuf *token;	 /* openbao; else token_file */
};

/*
 * Sealed: derives the key and checks the file. OpenBao: checks the settings, asks the network nothing. Errors name the
 * vault and say what to do.
 */
int must_use vault_open(struct io *io, const struct config_vault *conf, const struct vault_credentials *cred,
			struct vault_backend **ret, struct err *e);

/*
 * `--vault NAME|URL|file:PATH` as people type it, into an entry of its own: NAME from the configuration's vaults, an
 * https:// (or http:// loopback) address, or file:PATH. NULL: the configuration's only vault; else VAULT_ADDR or
 * BAO_ADDR (with their _NAMESPACE, _CACERT, _CLIENT_CERT, _CLIENT_KEY, _TLS_SERVER_NAME; never a token from the
 * environment); else the sealed file in its default place. `config` may be NULL. Free with config_vault_free.
 */
int must_use vault_resolve(const struct config *config, const char *vault, struct config_vault **ret, struct err *e);
void config_vault_free(struct config_vault *v);

/* $XDG_DATA_HOME/cloudtaser/vault, or ~/.local/share/cloudtaser/vault. free() it. */
char *vault_default_file(void);

/* Reads a passphrase: first line of a file or descriptor, without its newline; empty is -EINVAL. */
int must_use vault_read_passphrase(const char *file, int fd, struct secbuf **ret, struct err *e);

#endif
