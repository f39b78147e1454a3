/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/common.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct get_options {
	const char *output;
};

static const struct cli_option get_options[] = {
	{ 'o', "output", "FORMAT", "json: the whole secret, {\"path\",\"version\",\"created\",\"data\"}", CLI_STRING,
	  offsetof(struct get_options, output) },
	{ .name = NULL },
};

struct get {
	struct cli_vault *v;
	const char *shown; /* as it was typed */
	bool json;
};

/* "name, password": the fields of a secret for a sentence, as many as there is room for. */
static void list_fields(const struct vault_secret *s, char *out, size_t size)
{
	size_t n = 0;
	for (size_t i = 0; i < vault_secret_count(s); i++) {
		const struct vault_field *f = vault_secret_at(s, i);
		char shown[FS_NAME_MAX + 1];
		int len = fs_name_escape(f->name, f->name_len, shown);
		if (len < 0)
			continue;
		if (n + (size_t)len + 8 > size) {
			(void)snprintf(out + n, size - n, ", ...");
			return;
		}
		n += (size_t)snprintf(out + n, size - n, "%s%s", n ? ", " : "", shown);
	}
	if (!n)
		(void)snprintf(out, size, "none");
}

static int print_secret(const char *path, const struct vault_secret *s, struct err *e)
{
	cleanup_json struct json *data = vault_secret_to_json(s);
	if (!data && errno == EILSEQ)
		return err_set(e, EILSEQ,
			       "%s: a field name is not UTF-8, so JSON cannot hold it: get the fields one by one",
			       path);
	cleanup_json struct json *j = json_object();
	if (!data || !j)
		return err_set(e, ENOMEM, "out of secret memory");
	char when[32];
	time_t created = (time_t)vault_secret_created(s);
	struct tm tm;
	(void)strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&created, &tm));
	if (json_set(j, "path", json_of_bytes(path, strlen(path))) < 0 ||
	    json_set(j, "version", json_of_int((int64_t)vault_secret_version(s))) < 0 ||
	    json_set(j, "created", created ? json_of_string(when) : json_of_null()) < 0 ||
	    json_set(j, "data", TAKE_PTR(data)) < 0)
		return err_set(e, EILSEQ, "%s: cannot be shown as JSON", path);
	return cli_write_json(STDOUT_FILENO, j, e);
}

static int print_field(const struct vault_field *f, struct err *e)
{
	int r = cli_write(STDOUT_FILENO, f->value, f->len, e);
	/* The bytes and nothing else, unless a prompt would stick to them. */
	bool newline = r == 0 && isatty(STDOUT_FILENO) == 1 && (!f->len || f->value[f->len - 1] != '\n');
	return newline ? cli_write(STDOUT_FILENO, "\n", 1, e) : r;
}

/* There is no such field. Perhaps a whole secret was named: then say how to go on. */
static int no_field(struct get *g, int r, struct err *e)
{
	cleanup_secret struct vault_secret *whole = NULL;
	cleanup_free char *path = NULL;
	struct err ignored = ERR_INIT;
	if (cli_path(g->shown, false, &path, &ignored) == 0 &&
	    vault_get_sync(g->v->backend, path, &whole, &ignored) == 0) {
		char fields[300];
		list_fields(whole, fields, sizeof fields);
		return err_set(e, CLI_EUSAGE, "%s is a whole secret: add a field (%s), or -o json for all of it",
			       g->shown, fields);
	}
	return r;
}

static int get_field(struct get *g, struct err *e)
{
	const char *slash = strrchr(g->shown, '/');
	char name[FS_NAME_MAX + 1];
	size_t len = 0;
	if (!slash) {
		int r = err_set(e, CLI_EUSAGE,
				"%s: which field of it? Write SECRET/FIELD, or -o json for the whole secret", g->shown);
		return no_field(g, r, e);
	}
	if (!slash[1])
		return err_set(e, CLI_EUSAGE, "%s is a folder: `cloudtaser ls %s` lists it", g->shown, g->shown);
	cleanup_free char *shown = strndup(g->shown, (size_t)(slash - g->shown)), *path = NULL;
	if (!shown)
		return err_set(e, ENOMEM, "out of memory");
	int r = cli_path(shown, false, &path, e);
	if (r == 0)
		r = cli_field_name(slash + 1, name, &len, e);
	if (r < 0)
		return r;

	cleanup_secret struct vault_secret *s = NULL;
	r = vault_get_sync(g->v->backend, path, &s, e);
	if (r == -ENOENT || r == -EACCES)
		return no_field(g, r, e);
	if (r < 0)
		return r;
	const struct vault_field *f = vault_secret_find(s, name, len);
	if (!f) {
		char fields[300];
		list_fields(s, fields, sizeof fields);
		r = err_set(e, ENOENT, "%s: there is no field %s; there is: %s", shown, slash + 1, fields);
		return no_field(g, r, e);
	}
	return print_field(f, e);
}

static int get_body(void *arg, struct err *e)
{
	struct get *g = arg;
	int r = cli_vault_open(g->v, NULL, e);
	if (r < 0)
		return r;
	if (!g->json)
		return get_field(g, e);
	cleanup_free char *path = NULL;
	cleanup_secret struct vault_secret *s = NULL;
	r = cli_path(g->shown, false, &path, e);
	if (r == 0)
		r = vault_get_sync(g->v->backend, path, &s, e);
	return r < 0 ? r : print_secret(path, s, e);
}

static int get(struct cli *c, void *options, int argc, char **argv)
{
	const struct get_options *o = options;
	struct err e = ERR_INIT;
	cleanup_cli_vault struct cli_vault v = CLI_VAULT_INIT;
	struct get g = { .v = &v, .shown = argc == 1 ? argv[0] : NULL };
	if (argc != 1)
		return cli_usage(c, argc ? "one at a time: SECRET/FIELD, or SECRET with -o json" :
					   "say what: SECRET/FIELD, or SECRET with -o json");
	int r = cli_output(o->output, &g.json, &e);
	if (r == 0)
		r = cli_start(c, LOG_WARN, &e);
	if (r == 0)
		r = cli_vault_choose(c, NULL, &v, &e);
	if (r == 0)
		r = cli_on_secret_stack(get_body, &g, &e);
	return r < 0 ? cli_fail(c, r, &e) : 0;
}

const struct cli_command cli_get = {
	.name = "get",
	.summary = "print a field, or a whole secret as JSON",
	.usage = "SECRET/FIELD | SECRET -o json",
	.help = "Prints the bytes of a field as they are; a newline behind them only on a terminal. With -o json the "
		"whole\n"
		"secret is printed; a value that is no UTF-8 text stands there as {\"base64\": \"...\"}.\n"
		"Names are written as a mount shows them: %2F for a slash in a name, %25 for a per cent sign.",
	.options = get_options,
	.options_size = sizeof(struct get_options),
	.uses_vault = true,
	.run = get,
};
