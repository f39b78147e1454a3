/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/common.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	PATCH_TRIES = 20,
	/* A value may be six times its length as JSON (\u0001); more than this is no secret. */
	JSON_MAX = 4 * VAULT_SECRET_MAX,
};

struct put_options {
	bool json, patch, literal;
};

static const struct cli_option put_options[] = {
	{ 0, "patch", NULL, "change only these fields of a secret that is there, and keep its others", CLI_FLAG,
	  offsetof(struct put_options, patch) },
	{ 0, "json", NULL, "read the whole secret from standard input, as one JSON object", CLI_FLAG,
	  offsetof(struct put_options, json) },
	{ 0, "literal", NULL, "allow NAME=VALUE. Every user of this machine can see such a value with ps", CLI_FLAG,
	  offsetof(struct put_options, literal) },
	{ .name = NULL },
};

enum source { FROM_STDIN, FROM_FILE, FROM_ARGV };

struct field {
	char name[FS_NAME_MAX + 1];
	size_t name_len;
	enum source source;
	char *from; /* file, or the value itself: borrowed from argv */
	char *value;
	size_t len;
};

struct put {
	struct cli_vault v;
	char *path;
	struct field *field;
	size_t n;
	bool patch, is_json;
	char *json;
	size_t json_len;
	uint64_t version;
};

static void put_free(struct put *p)
{
	for (size_t i = 0; i < p->n; i++)
		sec_free(p->field[i].value);
	sec_free(p->json);
	free(p->field);
	free(p->path);
	cli_vault_close(&p->v);
}

/* NAME=@FILE, NAME@FILE, NAME=-, NAME=VALUE. No sentence here repeats what may be a value. */
static int parse_field(char *arg, bool literal, struct field *f, struct err *e)
{
	size_t n = strcspn(arg, "=");
	bool equals = arg[n] == '=';
	if (!equals)
		n = strcspn(arg, "@");
	if (!arg[n] || n == 0)
		return err_set(e, CLI_EUSAGE, "a field is written NAME=@FILE, or NAME=- for standard input");
	char shown[3 * FS_NAME_MAX + 1];
	if (n >= sizeof shown)
		return err_set(e, CLI_EUSAGE, "a field name has at most %d bytes", FS_NAME_MAX);
	memcpy(shown, arg, n);
	shown[n] = '\0';
	int r = cli_field_name(shown, f->name, &f->name_len, e);
	if (r < 0)
		return r;
	char *rest = arg + n + (equals ? 1 : 0);
	if (*rest == '@') {
		f->source = FROM_FILE;
		f->from = rest + 1;
		return *f->from ? 0 : err_set(e, CLI_EUSAGE, "%s: there is no file name behind the @", shown);
	}
	if (strcmp(rest, "-") == 0) {
		f->source = FROM_STDIN;
		return 0;
	}
	if (!literal)
		return err_set(
			e, CLI_EUSAGE,
			"%s: a value on the command line can be seen by every user of this machine (ps): use %s=- or "
			"%s=@FILE, or --literal if you mean it",
			shown, shown, shown);
	f->source = FROM_ARGV;
	f->from = rest;
	return 0;
}

/* Standard input whole; where it is a terminal, one line without echo. */
static int read_stdin(const char *what, char **ret, size_t *ret_len, struct err *e)
{
	if (isatty(STDIN_FILENO) != 1) {
		int r = sec_read_fd(STDIN_FILENO, VAULT_SECRET_MAX, ret, ret_len, e);
		return r < 0 ? err_wrap(e, "standard input") : 0;
	}
	char prompt[FS_NAME_MAX + 16];
	(void)snprintf(prompt, sizeof prompt, "%s: ", what);
	struct secbuf *line;
	int r = cli_prompt(prompt, &line, e);
	if (r < 0)
		return r;
	size_t len = secbuf_len(line);
	char *copy = sec_malloc(len + 1);
	if (copy) {
		memcpy(copy, secbuf_data(line), len);
		*ret = copy;
		*ret_len = len;
	}
	secbuf_free(line);
	return copy ? 0 : err_set(e, ENOMEM, "out of secret memory");
}

static int read_field(struct field *f, struct err *e)
{
	int r;
	switch (f->source) {
	case FROM_STDIN:
		return read_stdin(f->name, &f->value, &f->len, e);
	case FROM_FILE:
		r = sec_read_file(f->from, VAULT_SECRET_MAX, false, &f->value, &f->len, e);
		return r;
	case FROM_ARGV:
		f->len = strlen(f->from);
		f->value = sec_strndup(f->from, f->len);
		if (!f->value)
			return err_set(e, ENOMEM, "out of secret memory");
		mem_wipe(f->from, f->len); /* ps shows it no longer; who looked before has it */
		return 0;
	}
	return -EINVAL;
}

/* The secret to write: what was given, and with --patch the fields that `now` has besides. */
static int make_secret(const struct put *p, const struct vault_secret *now, struct vault_secret **ret, struct err *e)
{
	size_t have = now ? vault_secret_count(now) : 0, n = 0;
	cleanup_free struct vault_field *fields = calloc(have + p->n + 1, sizeof *fields);
	if (!fields)
		return err_set(e, ENOMEM, "out of memory");
	for (; n < p->n; n++)
		fields[n] = (struct vault_field){ p->field[n].name, p->field[n].name_len,
						  (const uint8_t *)p->field[n].value, p->field[n].len };
	for (size_t i = 0; i < have; i++) {
		const struct vault_field *f = vault_secret_at(now, i);
		bool given = false;
		for (size_t k = 0; k < p->n && !given; k++)
			given = p->field[k].name_len == f->name_len &&
				memcmp(p->field[k].name, f->name, f->name_len) == 0;
		if (!given)
			fields[n++] = *f;
	}
	return vault_secret_new(fields, n, 0, 0, ret, e);
}

static int put_whole(struct put *p, struct err *e)
{
	cleanup_secret struct vault_secret *s = NULL;
	int r;
	if (p->is_json) {
		cleanup_json struct json *j = NULL;
		r = json_parse(p->json, p->json_len, JSON_MAX, &j, e);
		if (r < 0)
			return err_wrap(e, "standard input is no JSON object");
		r = vault_secret_from_json(j, 0, 0, &s, e);
		if (r < 0) {
			if (r == -EINVAL)
				e->code = EBADMSG;
			return err_wrap(e, "standard input");
		}
	} else {
		r = make_secret(p, NULL, &s, e);
		if (r < 0)
			return r;
	}
	return vault_put_sync(p->v.backend, p->path, s, VAULT_CAS_ANY, &p->version, e);
}

static int put_patch(struct put *p, struct err *e)
{
	int r = -EEXIST;
	for (int i = 0; i < PATCH_TRIES && r == -EEXIST; i++) {
		cleanup_secret struct vault_secret *now = NULL, *s = NULL;
		r = vault_get_sync(p->v.backend, p->path, &now, e);
		if (r == -ENOENT)
			return err_set(e, ENOENT, "%s: there is no such secret to patch; without --patch it is made",
				       p->path);
		if (r < 0)
			return r;
		uint64_t version = vault_secret_version(now);
		if (version >= VAULT_CAS_ANY)
			return err_set(e, EMSGSIZE, "%s: has too many versions", p->path);
		r = make_secret(p, now, &s, e);
		if (r < 0)
			return r;
		r = vault_put_sync(p->v.backend, p->path, s, (uint32_t)version, &p->version, e);
	}
	if (r == -EEXIST)
		return err_set(e, EAGAIN, "%s: somebody else keeps writing it; try again", p->path);
	return r;
}

static int put_body(void *arg, struct err *e)
{
	struct put *p = arg;
	int r = cli_vault_open(&p->v, NULL, e);
	if (r < 0)
		return r;
	return p->patch ? put_patch(p, e) : put_whole(p, e);
}

/* Everything that can be wrong on the command line, before anything is read or asked. */
static int parse_put(struct cli *c, const struct put_options *o, int argc, char **argv, struct put *p, struct err *e)
{
	bool takes_stdin = o->json;
	if (argc < 1)
		return err_set(e, CLI_EUSAGE, "say where: SECRET NAME=@FILE ...");
	if (o->json && argc > 1)
		return err_set(e, CLI_EUSAGE, "with --json the whole secret comes from standard input: name no fields");
	if (o->json && o->patch)
		return err_set(e, CLI_EUSAGE, "--json writes the whole secret: it does not go with --patch");
	if (!o->json && argc < 2)
		return err_set(e, CLI_EUSAGE, "%s: say which fields: NAME=@FILE, or NAME=- for standard input",
			       argv[0]);
	int r = cli_path(argv[0], false, &p->path, e);
	if (r < 0)
		return r;
	p->patch = o->patch;
	p->is_json = o->json;
	p->field = calloc((size_t)argc, sizeof *p->field);
	if (!p->field)
		return err_set(e, ENOMEM, "out of memory");
	for (int i = 1; i < argc; i++) {
		struct field *f = &p->field[p->n++];
		r = parse_field(argv[i], o->literal, f, e);
		if (r < 0)
			return r;
		for (size_t k = 0; k + 1 < p->n; k++)
			if (p->field[k].name_len == f->name_len && memcmp(p->field[k].name, f->name, f->name_len) == 0)
				return err_set(e, CLI_EUSAGE, "%s: this field is given twice", f->name);
		if (f->source == FROM_STDIN && takes_stdin)
			return err_set(e, CLI_EUSAGE, "%s: standard input is read once, and another field takes it",
				       f->name);
		takes_stdin |= f->source == FROM_STDIN;
	}
	if (takes_stdin && (c->passphrase_fd == STDIN_FILENO || c->token_fd == STDIN_FILENO))
		return err_set(e, CLI_EUSAGE, "standard input cannot be a value and a %s at once",
			       c->token_fd == STDIN_FILENO ? "token" : "passphrase");
	return 0;
}

static int put(struct cli *c, void *options, int argc, char **argv)
{
	const struct put_options *o = options;
	struct err e = ERR_INIT;
	CLEANUP_WITH(put_free) struct put p = { .v = CLI_VAULT_INIT };
	int r = parse_put(c, o, argc, argv, &p, &e);
	if (r == 0)
		r = cli_start(c, LOG_WARN, &e);
	bool warned = false;
	for (size_t i = 0; r == 0 && i < p.n; i++)
		if (p.field[i].source == FROM_ARGV) {
			/* First of all: the sooner it is off the command line the better. */
			r = read_field(&p.field[i], &e);
			if (!warned)
				(void)fprintf(stderr,
					      "cloudtaser: warning: a value on the command line could be seen by every "
					      "user of this machine (ps), and your shell may keep it in its history\n");
			warned = true;
		}
	if (r == 0)
		r = cli_vault_choose(c, NULL, &p.v, &e);
	for (size_t i = 0; r == 0 && i < p.n; i++)
		if (p.field[i].source != FROM_ARGV)
			r = read_field(&p.field[i], &e);
	if (r == 0 && p.is_json) {
		r = sec_read_fd(STDIN_FILENO, JSON_MAX, &p.json, &p.json_len, &e);
		if (r < 0)
			r = err_wrap(&e, "standard input");
	}
	if (r == 0)
		r = cli_on_secret_stack(put_body, &p, &e);
	if (r < 0)
		return cli_fail(c, r, &e);
	(void)printf("%s: version %" PRIu64 "\n", argv[0], p.version);
	return 0;
}

const struct cli_command cli_put = {
	.name = "put",
	.summary = "write a secret",
	.usage = "SECRET NAME=@FILE | NAME=- ...  |  SECRET --json",
	.help = "Writes a new version of a secret and prints its number. NAME=@FILE (or NAME@FILE) takes the bytes of "
		"a file,\n"
		"NAME=- those of standard input (once), newline and all; where standard input is a terminal, one line "
		"is asked\n"
		"for without echo. The new version has these fields and no others, unless --patch is given.\n"
		"With --json a value that is no text is written {\"base64\": \"...\"}.\n"
		"Names are written as a mount shows them: %2F for a slash in a name, %25 for a per cent sign.",
	.options = put_options,
	.options_size = sizeof(struct put_options),
	.uses_vault = true,
	.run = put,
};
