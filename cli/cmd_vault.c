/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/common.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

DEFINE_CLEANUP(secbuf_free, struct secbuf *)

struct vault_init_options {
	const char *file;
	unsigned memory, ops;
};

static const struct cli_option init_options[] = {
	{ 'f', "file", "PATH",
	  "where to make it (default: $XDG_DATA_HOME/cloudtaser/vault, or what --vault file:PATH says)", CLI_STRING,
	  offsetof(struct vault_init_options, file) },
	{ 0, "kdf-memory", "MIB", "memory that Argon2id takes per guess (default 256)", CLI_NUMBER,
	  offsetof(struct vault_init_options, memory) },
	{ 0, "kdf-ops", "N", "passes of Argon2id over it (default 3)", CLI_NUMBER,
	  offsetof(struct vault_init_options, ops) },
	{ .name = NULL },
};

/* The new passphrase, asked for twice where nobody gave it. */
static int new_passphrase(const struct cli *c, const char *file, struct secbuf **ret, struct err *e)
{
	if (c->passphrase_file || c->passphrase_fd >= 0)
		return cli_given_passphrase(c, ret, e);
	char prompt[256];
	(void)snprintf(prompt, sizeof prompt, "New passphrase for %s: ", file);
	CLEANUP_WITH(secbuf_freep) struct secbuf *first = NULL, *second = NULL;
	int r = cli_prompt(prompt, &first, e);
	if (r == -ENOTTY)
		return err_set(e, ENOTTY,
			       "a new vault needs a passphrase and there is no terminal to ask on: give "
			       "--passphrase-file FILE or --passphrase-fd N");
	if (r < 0)
		return r;
	if (!secbuf_len(first))
		return err_set(e, CLI_EUSAGE, "the passphrase is empty; nothing was made");
	r = cli_prompt("The same again: ", &second, e);
	if (r < 0)
		return r;
	if (secbuf_len(first) != secbuf_len(second) ||
	    !mem_equal(secbuf_data(first), secbuf_data(second), secbuf_len(first)))
		return err_set(e, EKEYREJECTED, "the two are not the same; nothing was made");
	*ret = TAKE_PTR(first);
	return 0;
}

struct init_body {
	const char *file;
	const struct secbuf *passphrase;
	struct vault_sealed_kdf kdf;
};

static int init_body(void *arg, struct err *e)
{
	const struct init_body *b = arg;
	return vault_sealed_init(b->file, secbuf_data(b->passphrase), secbuf_len(b->passphrase), &b->kdf, e);
}

static int vault_init(struct cli *c, void *options, int argc, char **argv)
{
	const struct vault_init_options *o = options;
	struct err e = ERR_INIT;
	if (argc > 0)
		return cli_usage(c, "%s: no operand is expected; a place is given with --file", argv[0]);
	if (c->vault && (o->file || strncmp(c->vault, "file:", 5) != 0 || !c->vault[5]))
		return cli_usage(c, "--vault %s: a new vault is made at --file PATH or --vault file:PATH", c->vault);
	int r = cli_start(c, LOG_WARN, &e);
	if (r < 0)
		return cli_fail(c, r, &e);

	cleanup_free char *usual = NULL;
	const char *file = o->file ? o->file : c->vault ? c->vault + 5 : (usual = vault_default_file());
	if (!file)
		return cli_usage(c, "no home folder: say where with --file PATH");
	if (access(file, F_OK) == 0) {
		r = err_set(&e, EEXIST, "%s is there already; nothing was changed", file);
		return cli_fail(c, r, &e);
	}
	CLEANUP_WITH(secbuf_freep) struct secbuf *passphrase = NULL;
	r = new_passphrase(c, file, &passphrase, &e);
	struct init_body body = { file, passphrase, { .mem_mib = o->memory, .ops = o->ops } };
	if (r == 0)
		r = cli_on_secret_stack(init_body, &body, &e);
	if (r < 0)
		return cli_fail(c, r, &e);
	(void)fprintf(stderr, "cloudtaser: made the sealed vault %s\n", file);
	return 0;
}

const struct cli_command cli_vault_init = {
	.name = "vault init",
	.summary = "make a sealed local vault",
	.usage = "[--file PATH] [--kdf-memory MIB] [--kdf-ops N] [--passphrase-file FILE | --passphrase-fd N]",
	.help = "Makes an empty vault: one file, encrypted with a key that Argon2id derives from a passphrase. The "
		"passphrase\n"
		"is asked for twice on the terminal, or read from a file or descriptor (its first line). There is no "
		"way back\n"
		"from a lost passphrase.",
	.options = init_options,
	.options_size = sizeof(struct vault_init_options),
	.uses_vault = true,
	.run = vault_init,
};
