/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/daemons.h"

#include "base/cleanup.h"
#include "fs/daemon.h"
#include "vault/control.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_socket(const struct dirent *d)
{
	size_t n = strlen(d->d_name);
	return n > 5 && strcmp(d->d_name + n - 5, ".sock") == 0;
}

int cli_each_daemon(const struct cli *c, int (*fn)(void *arg, const char *socket, struct err *e), void *arg,
		    struct err *e)
{
	cleanup_config struct config *config = NULL;
	int r = cli_config(c, &config, e);
	if (r < 0)
		return r;
	const char *service = config ? config->control_socket : "/run/cloudtaser/control.sock";
	r = service ? fn(arg, service, e) : 0;

	cleanup_free char *folder = fs_daemon_socket_path(0);
	struct dirent **names = NULL;
	int n = folder && r == 0 ? scandir(folder, &names, is_socket, versionsort) : 0;
	for (int i = 0; i < n; i++) {
		char *path;
		if (r == 0 && asprintf(&path, "%s/%s", folder, names[i]->d_name) >= 0) {
			if (!service || strcmp(path, service) != 0)
				r = fn(arg, path, e);
			free(path);
		}
		free(names[i]);
	}
	free(names);
	return r;
}

int cli_ask_daemon(const char *socket, const char *verb, const char *path, struct json **ret, struct err *e)
{
	cleanup_json struct json *request = json_object();
	if (!request || json_set(request, "verb", json_of_string(verb)) < 0)
		return err_set(e, ENOMEM, "out of memory");
	if (path && json_set(request, "path", json_of_bytes(path, strlen(path))) < 0)
		return err_set(e, EILSEQ, "%s: is not UTF-8", path);
	return control_call(socket, request, 0, ret, e);
}

bool cli_daemon_absent(int r)
{
	return r == -ECONNREFUSED || r == -ENOENT || r == -ENOTDIR || r == -EACCES || r == -EPERM || r == -ENAMETOOLONG;
}
