/* SPDX-License-Identifier: Apache-2.0 */
/* What a person types as a path, a field or a file, and which exit code an error becomes. */
#include "cli/common.h"
#include "tests/unit/check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

/* The table is a program's own; nothing here runs a command. */
const struct cli_command *const cli_commands[] = { NULL };

static void path_is(const char *shown, bool folder, const char *expected)
{
	struct err e = ERR_INIT;
	char *path = NULL;
	int r = cli_path(shown, folder, &path, &e);
	CHECK_MSG(r == (expected ? 0 : -CLI_EUSAGE), "%s: %d %s", shown, r, e.msg);
	CHECK_MSG(expected ? strcmp(path, expected) == 0 : e.msg[0] != '\0', "%s: %s", shown, expected ? path : e.msg);
	free(path);
}

static void paths(void)
{
	path_is("app/db", false, "app/db");
	path_is("100%25/a%25b", false, "100%/a%b");
	path_is("app%/db", false, "app/db"); /* a folder beside a field of its name */
	path_is(".json/x", false, ".json/x");
	path_is("%2Ejson", false, ".json");
	path_is("", true, "");
	path_is("app/", true, "app/");
	path_is("", false, NULL);
	path_is("app/", false, NULL);
	path_is("/app", false, NULL);
	path_is("a//b", true, NULL);
	path_is("..", false, NULL);
	path_is("a/./b", false, NULL);
	path_is("%2E%2E/b", false, NULL);
	path_is("a%2Fb", false, NULL);
	path_is("a%00b", false, NULL);
	path_is("100%", false, NULL);
	path_is("%zz", false, NULL);
	path_is("%2", false, NULL);

	char *name = malloc(VAULT_PATH_MAX + 8);
	CHECK(name);
	memset(name, 'a', VAULT_PATH_MAX + 7);
	name[VAULT_PATH_MAX + 7] = '\0';
	path_is(name, false, NULL);
	name[FS_NAME_MAX + 1] = '\0';
	path_is(name, false, NULL);
	name[FS_NAME_MAX] = '\0';
	path_is(name, false, name);
	free(name);
}

static void folders(void)
{
	struct err e = ERR_INIT;
	char *path;
	CHECK(cli_folder("app", &path, &e) == 0 && strcmp(path, "app/") == 0);
	free(path);
	CHECK(cli_folder("app/web/", &path, &e) == 0 && strcmp(path, "app/web/") == 0);
	free(path);
	CHECK(cli_folder("", &path, &e) == 0 && strcmp(path, "") == 0);
	free(path);
	CHECK(cli_folder("../x", &path, &e) < 0);
}

static void fields(void)
{
	struct err e = ERR_INIT;
	char name[FS_NAME_MAX + 1];
	size_t n;
	CHECK(cli_field_name("a%2Fb", name, &n, &e) == 0 && n == 3 && memcmp(name, "a/b", 3) == 0);
	CHECK(cli_field_name("a%00", name, &n, &e) == 0 && n == 2 && name[1] == '\0');
	CHECK(cli_field_name("", name, &n, &e) == -CLI_EUSAGE);
	CHECK(cli_field_name("50%", name, &n, &e) == -CLI_EUSAGE);
	CHECK(cli_field_name("%2f", name, &n, &e) == -CLI_EUSAGE); /* one name, one way to write it */
}

static void absolute_is(const char *typed, const char *expected)
{
	struct err e = ERR_INIT;
	char *path = NULL;
	CHECK_MSG(cli_absolute(typed, &path, &e) == 0, "%s: %s", typed, e.msg);
	CHECK_MSG(strcmp(path, expected) == 0, "%s: %s, not %s", typed, path, expected);
	free(path);
}

static void absolutes(void)
{
	char here[] = "/tmp/ct-unit-XXXXXX", below[64], dots[64];
	struct err e = ERR_INIT;
	char *path;
	CHECK(mkdtemp(here) && chdir(here) == 0 && mkdir("d", 0700) == 0);
	(void)snprintf(below, sizeof below, "%s/m", here);
	(void)snprintf(dots, sizeof dots, "%s/d/../m/", here);
	absolute_is("/secrets", "/secrets");
	absolute_is("/secrets//", "/secrets");
	absolute_is("/", "/");
	absolute_is("m", below); /* need not exist */
	absolute_is("./m/", below);
	absolute_is(dots, below);
	absolute_is(".", here);
	absolute_is("d/..", here);
	CHECK(cli_absolute("none/m", &path, &e) == -ENOENT);
	CHECK(cli_absolute("", &path, &e) == -CLI_EUSAGE);
	CHECK(rmdir("d") == 0 && chdir("/") == 0 && rmdir(here) == 0);
}

static void exit_codes(void)
{
	static const struct {
		int r, code;
	} of[] = {
		{ 0, EX_OK },
		{ -CLI_EUSAGE, EX_USAGE },
		{ -EBADMSG, EX_DATAERR },
		{ -EMSGSIZE, EX_DATAERR },
		{ -ENOENT, EX_NOINPUT },
		{ -EHOSTUNREACH, EX_UNAVAILABLE },
		{ -ECONNREFUSED, EX_UNAVAILABLE },
		{ -EEXIST, EX_CANTCREAT },
		{ -EIO, EX_IOERR },
		{ -EAGAIN, EX_TEMPFAIL },
		{ -ETIMEDOUT, EX_TEMPFAIL },
		{ -EPROTO, EX_PROTOCOL },
		{ -EACCES, EX_NOPERM },
		{ -EKEYREJECTED, EX_NOPERM },
		{ -EINVAL, EX_CONFIG },
		{ -ENOMEM, EX_OSERR },
	};
	for (size_t i = 0; i < sizeof of / sizeof *of; i++)
		CHECK_MSG(cli_exit_code(of[i].r) == of[i].code, "%d: %d", of[i].r, cli_exit_code(of[i].r));
}

int main(void)
{
	paths();
	folders();
	fields();
	absolutes();
	exit_codes();
	return 0;
}
