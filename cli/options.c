/* SPDX-License-Identifier: Apache-2.0 */
/* The command line, --help and the words for the shell's completion, all from one table. */
#include "cli/common.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum { OPTIONS_MAX = 40, OPTION_BASE = 256 };

static const struct cli_option global_options[] = {
	{ 'c', "config", "FILE",
	  "configuration (root: /etc/cloudtaser/config.yaml, users: "
	  "~/.config/cloudtaser/config.yaml; neither has to be there)",
	  CLI_STRING, offsetof(struct cli, config) },
	{ 0, "log-level", "LEVEL", "error, warn, info or debug", CLI_STRING, offsetof(struct cli, log_level) },
	{ 0, "log-format", "FORMAT", "text or json, on standard error", CLI_STRING, offsetof(struct cli, log_format) },
	{ 'h', "help", NULL, "this text", CLI_FLAG, offsetof(struct cli, help) },
	{ 0, "version", NULL, "the version", CLI_FLAG, offsetof(struct cli, version) },
	{ .name = NULL },
};

static const struct cli_option vault_options[] = {
	{ 0, "vault", "VAULT",
	  "NAME from the configuration, an https:// URL, or file:PATH (default: the configuration's only "
	  "vault, else VAULT_ADDR, else the sealed file in its usual place)",
	  CLI_STRING, offsetof(struct cli, vault) },
	{ 0, "vault-address", "URL", NULL, CLI_STRING, offsetof(struct cli, vault) },
	{ 0, "passphrase-file", "FILE", "passphrase of a sealed vault: first line of a file that only you can read",
	  CLI_STRING, offsetof(struct cli, passphrase_file) },
	{ 0, "passphrase-fd", "N", "the same, from an open descriptor", CLI_FD, offsetof(struct cli, passphrase_fd) },
	{ 0, "token-file", "FILE", "token for OpenBao or Vault (default: ~/.vault-token; never from the environment)",
	  CLI_STRING, offsetof(struct cli, token_file) },
	{ 0, "token-fd", "N", "the same, from an open descriptor", CLI_FD, offsetof(struct cli, token_fd) },
	{ .name = NULL },
};

static const char usual_exits[] =
	"  0   done                          71  the system refused something\n"
	"  64  the command line is wrong     73  it is there already, or cannot be made\n"
	"  65  damaged or impossible data    74  input or output failed\n"
	"  66  not found                     75  the vault cannot be asked now: try again\n"
	"  69  a service is not there        76  the vault's answer is no answer\n"
	"                                    77  not allowed (wrong passphrase, token, rights)\n"
	"                                    78  the configuration is wrong\n";

/* Every option that a command knows, with the structure that it fills. */
struct known {
	const struct cli_option *option[OPTIONS_MAX];
	bool global[OPTIONS_MAX];
	size_t n;
};

static void know(struct known *k, const struct cli_option *table, bool global)
{
	for (; table && table->name && k->n < OPTIONS_MAX; table++) {
		k->option[k->n] = table;
		k->global[k->n++] = global;
	}
}

static void know_all(struct known *k, const struct cli_command *command)
{
	k->n = 0;
	if (command)
		know(k, command->options, false);
	if (!command || command->uses_vault)
		know(k, vault_options, true);
	know(k, global_options, true);
}

static int store(struct cli *c, const struct cli_option *o, void *base, const char *value)
{
	void *to = (char *)base + o->to;
	char *end;
	unsigned long number;
	struct cli_list *list;
	switch (o->kind) {
	case CLI_FLAG:
		*(bool *)to = true;
		return 0;
	case CLI_STRING:
		*(const char **)to = value;
		return 0;
	case CLI_NUMBER:
	case CLI_FD:
		errno = 0;
		number = strtoul(value, &end, 10);
		if (*value < '0' || *value > '9' || *end || errno || number > INT_MAX)
			return cli_usage(c, "--%s %s: not a number", o->name, value);
		if (o->kind == CLI_NUMBER) {
			*(unsigned *)to = (unsigned)number;
			return 0;
		}
		if (fcntl((int)number, F_GETFD) < 0)
			return cli_usage(c, "--%s %s: descriptor %s is not open", o->name, value, value);
		*(int *)to = (int)number;
		return 0;
	case CLI_LIST:
		list = to;
		list->v = reallocarray(list->v, list->n + 1, sizeof *list->v);
		if (!list->v)
			return EX_OSERR;
		list->v[list->n++] = value;
		return 0;
	}
	return EX_SOFTWARE;
}

/* 0, or an exit code. Operands are left in argv[optind...]. */
static int parse(struct cli *c, const struct cli_command *command, void *options, bool stops, int argc, char **argv)
{
	struct known k;
	know_all(&k, command);
	struct option longs[OPTIONS_MAX + 1] = { 0 };
	char shorts[2 * OPTIONS_MAX + 4] = "";
	size_t n = 0;
	if (stops)
		shorts[n++] = '+';
	shorts[n++] = ':';
	for (size_t i = 0; i < k.n; i++) {
		longs[i].name = k.option[i]->name;
		longs[i].has_arg = k.option[i]->arg ? required_argument : no_argument;
		longs[i].val = OPTION_BASE + (int)i;
		if (k.option[i]->key) {
			shorts[n++] = k.option[i]->key;
			if (k.option[i]->arg)
				shorts[n++] = ':';
		}
	}
	optind = 0; /* glibc: start anew */
	opterr = 0;
	int got;
	while ((got = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		if (got == ':')
			return cli_usage(c, "%s needs an argument", argv[optind - 1]);
		if (got == '?') {
			if (optopt > 0 && optopt < OPTION_BASE)
				return cli_usage(c, "there is no option -%c", optopt);
			if (optopt >= OPTION_BASE)
				return cli_usage(c, "--%s takes no argument", longs[optopt - OPTION_BASE].name);
			return cli_usage(c, "there is no option %.*s", (int)strcspn(argv[optind - 1], "="),
					 argv[optind - 1]);
		}
		for (size_t i = 0; i < k.n; i++)
			if (got == OPTION_BASE + (int)i || got == k.option[i]->key) {
				int r = store(c, k.option[i], k.global[i] ? (void *)c : options, optarg);
				if (r)
					return r;
				break;
			}
	}
	return 0;
}

/* Words of `text` from column `at` on; further lines begin at `indent`. */
static void print_wrapped(const char *text, int indent, int at)
{
	enum { WIDTH = 100 };
	bool first = true;
	while (*text) {
		int word = (int)strcspn(text, " ");
		if (!first && at + 1 + word > WIDTH) {
			(void)printf("\n%*s", indent, "");
			at = indent;
		} else if (!first) {
			(void)putchar(' ');
			at++;
		}
		(void)printf("%.*s", word, text);
		at += word;
		first = false;
		text += word;
		text += strspn(text, " ");
	}
	(void)putchar('\n');
}

static void print_options(const char *title, const struct cli_option *o)
{
	enum { COLUMN = 28 };
	if (!o || !o->name)
		return;
	(void)printf("\n%s:\n", title);
	for (; o->name; o++) {
		if (!o->help)
			continue;
		char left[64];
		int n = snprintf(left, sizeof left, "  %c%c%s--%s%s%s", o->key ? '-' : ' ', o->key ? o->key : ' ',
				 o->key ? ", " : "  ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		(void)printf("%-*s", COLUMN, left);
		if (n >= COLUMN)
			(void)printf("\n%*s", COLUMN, "");
		print_wrapped(o->help, COLUMN, COLUMN);
	}
}

static void print_help(const struct cli_command *command)
{
	if (!command) {
		(void)puts(
			"cloudtaser keeps secrets out of reach: they come from a vault, live in secret memory and are\n"
			"files where you mount them.\n\n"
			"Usage: cloudtaser COMMAND [OPTIONS] ...\n\nCommands:");
		for (size_t i = 0; cli_commands[i]; i++)
			(void)printf("  %-16s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
		(void)puts("\n`cloudtaser COMMAND --help` tells about each.");
		print_options("Options of every command", global_options);
		print_options("Options of commands that open a vault", vault_options);
		(void)printf("\nExit codes (`run` and `shell` end with the command's own; `validate` with 0, 1, 2 or "
			     "64):\n%s",
			     usual_exits);
		return;
	}
	(void)printf("Usage: cloudtaser %s %s\n\n%s\n", command->name, command->usage, command->help);
	print_options("Options", command->options);
	if (command->uses_vault)
		print_options("Vault", vault_options);
	print_options("Also", global_options);
	(void)printf("\nExit codes:\n%s", command->exits ? command->exits : usual_exits);
}

/* How many words of argv name this command; 0: another one. */
static int names(const struct cli_command *command, int argc, char **argv)
{
	const char *space = strchr(command->name, ' ');
	size_t first = space ? (size_t)(space - command->name) : strlen(command->name);
	if (argc < 1 || strlen(argv[0]) != first || strncmp(argv[0], command->name, first) != 0)
		return 0;
	if (!space)
		return 1;
	return argc >= 2 && strcmp(argv[1], space + 1) == 0 ? 2 : 0;
}

static const struct cli_command *find_command(int argc, char **argv, int *ret_words)
{
	for (size_t i = 0; cli_commands[i]; i++) {
		*ret_words = names(cli_commands[i], argc, argv);
		if (*ret_words)
			return cli_commands[i];
	}
	return NULL;
}

static void complete_options(const struct cli_option *o)
{
	for (; o && o->name; o++)
		if (o->help)
			(void)printf("--%s\n", o->name);
}

/*
 * `cloudtaser complete WORD...`, which help does not show: the words that may stand where the last WORD is being
 * written, for the completion script. Nothing: a file, or whatever the shell likes.
 */
static int complete(int argc, char **argv)
{
	const char *last = argc > 0 ? argv[argc - 1] : "";
	int before = argc > 0 ? argc - 1 : 0, words;
	const struct cli_command *command = find_command(before, argv, &words);
	if (command) {
		if (*last == '-') {
			complete_options(command->options);
			if (command->uses_vault)
				complete_options(vault_options);
			complete_options(global_options);
		}
		return 0;
	}
	if (before == 0 && *last == '-') {
		complete_options(global_options);
		complete_options(vault_options);
		return 0;
	}
	for (size_t i = 0; cli_commands[i]; i++) {
		const char *name = cli_commands[i]->name, *space = strchr(name, ' ');
		size_t first = space ? (size_t)(space - name) : strlen(name);
		if (before == 0)
			(void)printf("%.*s\n", (int)first, name);
		else if (before == 1 && space && strlen(argv[0]) == first && strncmp(argv[0], name, first) == 0)
			(void)puts(space + 1);
	}
	return 0;
}

static int no_command(struct cli *c, int argc, char **argv)
{
	if (argc < 1) {
		print_help(NULL);
		return EX_USAGE;
	}
	for (size_t i = 0; cli_commands[i]; i++) {
		const char *space = strchr(cli_commands[i]->name, ' ');
		if (space && strncmp(argv[0], cli_commands[i]->name, strlen(argv[0])) == 0 &&
		    cli_commands[i]->name + strlen(argv[0]) == space)
			return cli_usage(c, "%s: the command is `cloudtaser %s`", argv[0], cli_commands[i]->name);
	}
	return cli_usage(c, "there is no command %s", argv[0]);
}

int cli_main(int argc, char **argv)
{
	struct cli c = { .passphrase_fd = -1, .token_fd = -1 };
	int r = parse(&c, NULL, NULL, true, argc, argv);
	if (r)
		return r;
	char **rest = argv + optind;
	int n = argc - optind, words = 0;
	if (c.version) {
		(void)puts("cloudtaser " CT_VERSION);
		return 0;
	}
	if (n > 0 && strcmp(rest[0], "complete") == 0)
		return complete(n - 1, rest + 1);
	bool help = c.help;
	if (n > 0 && strcmp(rest[0], "help") == 0) {
		help = true;
		rest++;
		n--;
	}
	const struct cli_command *command = find_command(n, rest, &words);
	if (help) {
		if (!command && n > 0)
			return no_command(&c, n, rest);
		print_help(command);
		return 0;
	}
	if (!command)
		return no_command(&c, n, rest);

	c.command = command;
	cleanup_free void *options = calloc(1, command->options_size ? command->options_size : 1);
	if (!options)
		return EX_OSERR;
	for (const struct cli_option *o = command->options; o && o->name; o++)
		if (o->kind == CLI_FD)
			*(int *)(void *)((char *)options + o->to) = -1;
	/* getopt takes the word before the options for the program's name. */
	rest += words - 1;
	n -= words - 1;
	r = parse(&c, command, options, command->stops_at_operand, n, rest);
	if (r == 0 && c.help) {
		print_help(command);
	} else if (r == 0 && c.version) {
		(void)puts("cloudtaser " CT_VERSION);
	} else if (r == 0) {
		r = command->run(&c, options, n - optind, rest + optind);
	}
	for (const struct cli_option *o = command->options; o && o->name; o++)
		if (o->kind == CLI_LIST)
			free(((struct cli_list *)(void *)((char *)options + o->to))->v);
	return r;
}
