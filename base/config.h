/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file (YAML 1.1 as libyaml reads it), checked as a whole before anything of it is used.
 *
 * Errors name file, line and key: "/etc/cloudtaser/config.yaml:7: mounts[0].secrets[1].mode: ...". Unknown keys are
 * refused (with the nearest known one), duplicates too; anchors and aliases, tags and multiple documents are refused.
 * Bounds: file 1 MiB, nesting 16. The file holds no secret values, only the names of files that do.
 * Reference: docs/configuration.md.
 * Thread rules: a config is immutable after config_load.
 */
#ifndef CT_BASE_CONFIG_H
#define CT_BASE_CONFIG_H

#include "base/err.h"
#include "base/log.h"
#include "base/secmem.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum config_vault_kind { CONFIG_VAULT_SEALED, CONFIG_VAULT_OPENBAO };

struct config_vault {
	char *name;
	int line;
	enum config_vault_kind kind;
	/* sealed */
	char *file;
	char *passphrase_file;
	/* openbao */
	char *address;	  /* https:// (http:// only to a loopback address) */
	char *kv_mount;	  /* "secret" */
	char *namespace_; /* NULL */
	char *token_file;
	char *ca_file, *cert_file, *key_file, *server_name;
	unsigned connect_timeout_ms; /* 5000 */
	unsigned timeout_ms;	     /* 15000 */
	unsigned max_connections;    /* 0: automatic */
	/* both */
	unsigned refresh_s;   /* 60; sealed: 2 */
	unsigned max_stale_s; /* 86400 */
};

struct config_rename {
	char *from, *to;
};

struct config_secret {
	int line;
	char *path; /* "app/db", or a tree "app/" ("/" is the whole vault, kept as "") */
	bool tree;
	char *as; /* where it appears below the mount, without a slash at either end, "" only for a tree at the mount's
		   * root; default: its path. Parts are names in the vault's spelling: the mount escapes them */
	struct config_rename *fields; /* when n_fields > 0 only these fields appear, renamed */
	size_t n_fields;
	char **binary; /* field names whose value is base64 in the vault */
	size_t n_binary;
	mode_t mode; /* of files; 0: the mount's */
	uid_t uid;   /* (uid_t)-1: the mount's */
	gid_t gid;
	bool optional;
};

struct config_allow {
	uid_t *uids;
	size_t n_uids;
	gid_t *gids;
	size_t n_gids;
};

struct config_mount {
	int line;
	char *path;  /* absolute */
	char *vault; /* a name in vaults */
	mode_t mode; /* files, default 0400; folders get x where r */
	uid_t uid;   /* default: the daemon's effective uid */
	gid_t gid;
	struct config_allow allow; /* nobody listed: only `uid` */
	bool allow_other;	   /* needed when allow names anybody but the daemon's own uid; default: as needed */
	struct config_secret *secrets; /* none: the whole vault */
	size_t n_secrets;
};

struct config {
	char *file;
	struct config_vault *vaults;
	size_t n_vaults;
	struct config_mount *mounts;
	size_t n_mounts;
	size_t cache_max_entries; /* 0: default */
	size_t cache_max_bytes;
	unsigned wait_ms;		/* first access to a secret waits at most this long; 10000 */
	enum secmem_mode secret_memory; /* required */
	enum log_level log_level;
	enum log_format log_format;
	char *control_socket; /* /run/cloudtaser/control.sock */
};

/* -ENOENT: no such file; -EINVAL: findings in it (the first in e). */
int must_use config_load(const char *file, struct config **ret, struct err *e);
int must_use config_parse(const char *name, const char *text, size_t len, struct config **ret, struct err *e);
void config_free(struct config *c); /* NULL is fine */
static inline __attribute__((unused)) void config_freep(struct config **c)
{
	config_free(*c);
}
#define cleanup_config __attribute__((cleanup(config_freep)))
const struct config_vault *config_find_vault(const struct config *c, const char *name);

/*
 * All findings of a file, for `cloudtaser validate`: calls fn for each ("FILE:LINE: KEY: sentence"). Returns their
 * number, or a negative errno when the file cannot be read.
 */
int config_check(const char *file, void (*fn)(void *arg, const char *finding), void *arg, struct err *e);

#endif
