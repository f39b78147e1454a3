/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/common.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

struct rm {
	const struct cli *c;
	struct cli_vault *v;
	char **shown;
	int n;
	int exit_code; /* of the first that failed */
};

/*
 * Not every vault says that there was nothing to remove. Its folder's names do (a version marked as deleted is listed
 * still); where they may not be seen, the removal itself has to do.
 */
static int is_there(struct vault_backend *b, const char *path, struct err *e)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	cleanup_free char *folder = strndup(path, (size_t)(name - path));
	if (!folder)
		return err_set(e, ENOMEM, "out of memory");
	struct vault_names *names;
	int r = vault_list_sync(b, folder, &names, e);
	if (r == -EACCES)
		return 0;
	if (r == -ENOENT)
		return err_set(e, ENOENT, "%s: there is no such secret", path);
	if (r < 0)
		return r;
	r = -ENOENT;
	for (size_t i = 0; i < names->n && r < 0; i++)
		r = strcmp(names->name[i], name) == 0 ? 0 : -ENOENT;
	vault_names_free(names);
	return r < 0 ? err_set(e, ENOENT, "%s: there is no such secret", path) : 0;
}

static int rm_body(void *arg, struct err *e)
{
	struct rm *m = arg;
	int r = cli_vault_open(m->v, NULL, e);
	if (r < 0)
		return r;
	for (int i = 0; i < m->n; i++) {
		struct err one = ERR_INIT;
		cleanup_free char *path = NULL;
		r = cli_path(m->shown[i], false, &path, &one);
		if (r == 0)
			r = is_there(m->v->backend, path, &one);
		if (r == 0)
			r = vault_del_sync(m->v->backend, path, &one);
		if (r < 0) {
			int code = cli_fail(m->c, r, &one);
			m->exit_code = m->exit_code ? m->exit_code : code;
		}
	}
	return 0;
}

static int rm(struct cli *c, void *options, int argc, char **argv)
{
	(void)options;
	struct err e = ERR_INIT;
	cleanup_cli_vault struct cli_vault v = CLI_VAULT_INIT;
	struct rm m = { .c = c, .v = &v, .shown = argv, .n = argc };
	if (argc < 1)
		return cli_usage(c, "say which: SECRET ...");
	for (int i = 0; i < argc; i++) {
		/* All or nothing where the command line is wrong. */
		cleanup_free char *path = NULL;
		if (cli_path(argv[i], false, &path, &e) < 0)
			return cli_usage(c, "%s", e.msg);
	}
	int r = cli_start(c, LOG_WARN, &e);
	if (r == 0)
		r = cli_vault_choose(c, NULL, &v, &e);
	if (r == 0)
		r = cli_on_secret_stack(rm_body, &m, &e);
	return r < 0 ? cli_fail(c, r, &e) : m.exit_code;
}

const struct cli_command cli_rm = {
	.name = "rm",
	.summary = "remove secrets, with all their versions",
	.usage = "SECRET ...",
	.help = "Removes each secret with all its versions. When one cannot be removed the others still are; the exit "
		"code is\n"
		"that of the first failure.",
	.uses_vault = true,
	.run = rm,
};
