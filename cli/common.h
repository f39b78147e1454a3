/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the subcommands share: the command table and its options, exit codes, how a vault is chosen and opened, how a
 * person is asked for a passphrase.
 *
 * A command is one entry of the table: its options are described once, and the parser, `--help` and the completion are
 * made from that. Commands that handle values run their body on a secret stack (cli_on_secret_stack), and write values
 * with cli_write, never with stdio.
 */
#ifndef CT_CLI_COMMON_H
#define CT_CLI_COMMON_H

#include "base/config.h"
#include "base/err.h"
#include "base/json.h"
#include "base/secmem.h"
#include "fs/name.h"
#include "vault/open.h"

#include <stdbool.h>
#include <stddef.h>

enum cli_kind {
	CLI_FLAG,   /* bool */
	CLI_STRING, /* const char *, borrowed from argv */
	CLI_NUMBER, /* unsigned */
	CLI_FD,	    /* int, an open descriptor */
	CLI_LIST,   /* struct cli_list */
};

/* May be given several times. */
struct cli_list {
	const char **v;
	size_t n;
};

struct cli_option {
	char key;	  /* one letter, or 0 */
	const char *name; /* NULL ends a table */
	const char *arg;  /* what its argument is called; NULL for a flag */
	const char *help; /* NULL: an alias that help does not show */
	enum cli_kind kind;
	size_t to; /* offsetof its member in the command's options structure */
};

/* The global options. */
struct cli {
	const struct cli_command *command;
	const char *config;
	const char *vault;
	const char *passphrase_file;
	int passphrase_fd; /* -1 */
	const char *token_file;
	int token_fd; /* -1 */
	const char *log_level, *log_format;
	bool help, version;
};

struct cli_command {
	const char *name;    /* one or two words, "vault init" */
	const char *summary; /* half a line */
	const char *usage;   /* what stands behind the name */
	const char *help;    /* paragraphs */
	const char *exits;   /* NULL: the usual codes */
	const struct cli_option *options;
	size_t options_size;   /* of the structure that `options` fill; it is zeroed, CLI_FD members are -1 */
	bool stops_at_operand; /* options end at the first operand: what follows belongs to another program */
	bool uses_vault;       /* takes the vault's options too */
	int (*run)(struct cli *c, void *options, int argc, char **argv); /* operands; the exit code */
};

extern const struct cli_command cli_vault_init, cli_put, cli_get, cli_ls, cli_rm, cli_mount, cli_umount, cli_shell,
	cli_run, cli_status, cli_validate_config;

/* --- the table (cloudtaser.c) and its parser (options.c) */

extern const struct cli_command *const cli_commands[]; /* NULL ends it; cloudtaser.c */
/* Reads the command line up to the command and behind it. Negative: go on; otherwise the exit code. */
int cli_main(int argc, char **argv);

/* --- what a command says at its end (common.c) */

/* The errno of "the command line is wrong": one that no call of ours answers. */
#define CLI_EUSAGE E2BIG
int cli_exit_code(int r);				       /* sysexits(3) for a negative errno */
int cli_fail(const struct cli *c, int r, const struct err *e); /* prints the sentence; the exit code */
/* "cloudtaser put: sentence"; EX_USAGE */
int cli_usage(const struct cli *c, const char *fmt, ...) printf_like(2, 3);

/* Logging, then secret memory (preferred). Before it nothing secret may be touched, behind it there is no fork. */
int must_use cli_start(const struct cli *c, enum log_level level, struct err *e);
/* fn on a secret stack; what it returns, or a negative errno of the thread's own. */
int cli_on_secret_stack(int (*fn)(void *arg, struct err *e), void *arg, struct err *e);

/* write(2), all of it; straight from secret memory. */
int must_use cli_write(int fd, const void *p, size_t n, struct err *e);
int must_use cli_write_json(int fd, const struct json *j, struct err *e);
/* -o json; text is the default. EINVAL with a sentence. */
int must_use cli_output(const char *format, bool *ret_json, struct err *e);

/*
 * Paths and field names are written as a mount shows them, so that what `ls` prints can be typed back: parts of a path
 * have %2F and the like turned into bytes. *ret: the vault's path; free() it.
 */
int must_use cli_path(const char *shown, bool folder, char **ret, struct err *e);
/* The same for a folder, written with or without its '/'; *ret has it, or is "" for the whole vault. */
int must_use cli_folder(const char *shown, char **ret, struct err *e);
/* `out` holds FS_NAME_MAX + 1 bytes. */
int must_use cli_field_name(const char *shown, char *out, size_t *ret_len, struct err *e);
/* An absolute path; the last part need not exist, and is not looked at (a dead mount must not get in the way). */
int must_use cli_absolute(const char *path, char **ret, struct err *e);
/* Prints a name or a sentence; bytes that could move a terminal's cursor become '?'. */
void cli_print_name(int fd, const char *name, size_t len);

/* --- passphrases (prompt.c) */

/*
 * Asks on the terminal, without echo; the answer without its newline, in secret memory. The terminal is restored on
 * signals too. Only from the main thread. -ENOTTY: there is no terminal; -ENODATA: end of file; -EINTR.
 */
int must_use cli_prompt(const char *prompt, struct secbuf **ret, struct err *e);

/* --- vaults (vaults.c) */

struct cli_vault {
	struct config *config; /* NULL: there is none */
	struct config_vault *conf;
	struct secbuf *passphrase, *token;
	struct io *io; /* ours */
	struct vault_backend *backend;
};
#define CLI_VAULT_INIT \
	{ \
		.config = NULL \
	}

/* --config, or the default file where there is one. *ret NULL: none. */
int must_use cli_config(const struct cli *c, struct config **ret, struct err *e);
/* Configuration, the vault meant (`name`: NULL for --vault), its passphrase or token; may prompt: main thread. */
int must_use cli_vault_choose(const struct cli *c, const char *name, struct cli_vault *v, struct err *e);
/* The passphrase that --passphrase-file or --passphrase-fd names. */
int must_use cli_given_passphrase(const struct cli *c, struct secbuf **ret, struct err *e);
/* Opens it; on `io`, or with NULL on a loop of its own. */
int must_use cli_vault_open(struct cli_vault *v, struct io *io, struct err *e);
void cli_vault_close(struct cli_vault *v);
#define cleanup_cli_vault CLEANUP_WITH(cli_vault_close)

#endif
