/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/common.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 64 };

struct ls_options {
	const char *output;
	bool recursive;
};

static const struct cli_option ls_options[] = {
	{ 'R', "recursive", NULL, "all secrets below, with their whole path", CLI_FLAG,
	  offsetof(struct ls_options, recursive) },
	{ 'o', "output", "FORMAT", "json: one array of names", CLI_STRING, offsetof(struct ls_options, output) },
	{ .name = NULL },
};

struct ls {
	struct cli_vault *v;
	const char *shown;
	bool json, recursive;
	struct json *names;
	bool unshowable;
};

static void names_freep(struct vault_names **n)
{
	vault_names_free(*n);
}
#define cleanup_names CLEANUP_WITH(names_freep)

/* One line or array element: the folder's shown prefix, and a name ("db", "db/") of it as a mount shows it. */
static int put_name(struct ls *l, const char *prefix, const char *name, size_t len, bool folder, struct err *e)
{
	char shown[FS_NAME_MAX + 1];
	if (fs_name_escape(name, len, shown) < 0) {
		l->unshowable = true;
		return 0;
	}
	char *line;
	int n = asprintf(&line, "%s%s%s", prefix, shown, folder ? "/" : "");
	if (n < 0)
		return err_set(e, ENOMEM, "out of memory");
	cleanup_free char *owned = line;
	if (!l->json) {
		cli_print_name(STDOUT_FILENO, owned, (size_t)n);
		return 0;
	}
	struct json *j = json_of_bytes(owned, (size_t)n);
	if (!j && errno == EILSEQ)
		return err_set(e, EILSEQ, "a name is not UTF-8, so JSON cannot hold it: list without -o json");
	return json_append(l->names, j) < 0 ? err_set(e, ENOMEM, "out of secret memory") : 0;
}

/* `prefix`: the folder as it is shown, "" when names stand alone. */
static int list_folder(struct ls *l, const char *folder, const char *prefix, int depth, struct err *e)
{
	cleanup_names struct vault_names *names = NULL;
	int r = vault_list_sync(l->v->backend, folder, &names, e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < names->n; i++) {
		const char *name = names->name[i];
		size_t len = strlen(name);
		bool is_folder = len && name[len - 1] == '/';
		if (!l->recursive || !is_folder) {
			r = put_name(l, prefix, name, len - is_folder, is_folder, e);
			if (r < 0)
				return r;
			continue;
		}
		char shown[FS_NAME_MAX + 1];
		if (fs_name_escape(name, len - 1, shown) < 0) {
			l->unshowable = true;
			continue;
		}
		if (depth >= DEPTH_MAX)
			return err_set(e, EMSGSIZE, "%s%s: folders are nested more than %d deep", folder, name,
				       DEPTH_MAX);
		char *below, *below_shown;
		if (asprintf(&below, "%s%s", folder, name) < 0)
			return err_set(e, ENOMEM, "out of memory");
		cleanup_free char *own = below;
		if (asprintf(&below_shown, "%s%s/", prefix, shown) < 0)
			return err_set(e, ENOMEM, "out of memory");
		cleanup_free char *own_shown = below_shown;
		r = list_folder(l, own, own_shown, depth + 1, e);
		if (r < 0 && r != -ENOENT) /* emptied meanwhile */
			return r;
	}
	return 0;
}

/* A secret, like the directory that a mount makes of it. */
static int list_secret(struct ls *l, const char *path, struct err *e)
{
	cleanup_secret struct vault_secret *s = NULL;
	int r = vault_get_sync(l->v->backend, path, &s, e);
	for (size_t i = 0; r == 0 && i < vault_secret_count(s); i++) {
		const struct vault_field *f = vault_secret_at(s, i);
		r = put_name(l, "", f->name, f->name_len, false, e);
	}
	return r;
}

static int list(struct ls *l, struct err *e)
{
	size_t len = strlen(l->shown);
	bool is_folder = !len || l->shown[len - 1] == '/';
	cleanup_free char *path = NULL, *folder = NULL;
	int r = cli_path(l->shown, true, &path, e);
	if (r < 0)
		return r;
	if (is_folder) {
		r = list_folder(l, path, l->recursive ? l->shown : "", 0, e);
		/* A vault without secrets has an empty top, whether it lists or denies it. */
		return r == -ENOENT && !len ? 0 : r;
	}
	struct err ignored = ERR_INIT;
	int as_secret = l->recursive ? -ENOENT : list_secret(l, path, e);
	if (as_secret < 0 && as_secret != -ENOENT)
		return as_secret;
	char *with_slash, *shown;
	if (asprintf(&with_slash, "%s/", path) < 0)
		return err_set(e, ENOMEM, "out of memory");
	folder = with_slash;
	if (asprintf(&shown, "%s/", l->shown) < 0)
		return err_set(e, ENOMEM, "out of memory");
	cleanup_free char *own = shown;
	r = list_folder(l, folder, l->recursive ? own : "", 0, &ignored);
	if (r == 0 || as_secret == 0)
		return 0;
	if (r == -ENOENT)
		return err_set(e, ENOENT, "%s: there is no such secret or folder", l->shown);
	*e = ignored;
	return r;
}

static int ls_body(void *arg, struct err *e)
{
	struct ls *l = arg;
	int r = cli_vault_open(l->v, NULL, e);
	if (r < 0)
		return r;
	if (l->json && !(l->names = json_array()))
		return err_set(e, ENOMEM, "out of secret memory");
	r = list(l, e);
	if (r == 0 && l->json)
		r = cli_write_json(STDOUT_FILENO, l->names, e);
	json_free(l->names);
	return r;
}

static int ls(struct cli *c, void *options, int argc, char **argv)
{
	const struct ls_options *o = options;
	struct err e = ERR_INIT;
	cleanup_cli_vault struct cli_vault v = CLI_VAULT_INIT;
	struct ls l = { .v = &v, .shown = argc ? argv[0] : "", .recursive = o->recursive };
	if (argc > 1)
		return cli_usage(c, "one folder at a time");
	if (strcmp(l.shown, "/") == 0)
		l.shown = "";
	int r = cli_output(o->output, &l.json, &e);
	if (r == 0)
		r = cli_start(c, LOG_WARN, &e);
	if (r == 0)
		r = cli_vault_choose(c, NULL, &v, &e);
	if (r == 0)
		r = cli_on_secret_stack(ls_body, &l, &e);
	if (r < 0)
		return cli_fail(c, r, &e);
	if (l.unshowable)
		(void)fprintf(stderr, "cloudtaser: warning: names longer than %d bytes are left out\n", FS_NAME_MAX);
	return 0;
}

const struct cli_command cli_ls = {
	.name = "ls",
	.summary = "list secrets, or the fields of one",
	.usage = "[FOLDER/ | SECRET] [-R] [-o json]",
	.help = "Lists the names in a folder, sorted; folders end in '/'. For a secret the names of its fields are "
		"listed. Names\n"
		"are shown as in a mount. With -R all secrets below the folder are listed with their whole path.",
	.options = ls_options,
	.options_size = sizeof(struct ls_options),
	.uses_vault = true,
	.run = ls,
};
