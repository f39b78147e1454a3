/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/common.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

int cli_exit_code(int r)
{
	switch (r < 0 ? -r : r) {
	case 0:
		return EX_OK;
	case CLI_EUSAGE:
	case ENOTTY:
		return EX_USAGE;
	case EBADMSG:
	case EILSEQ:
	case EMSGSIZE:
		return EX_DATAERR;
	case ENOENT:
	case EISDIR:
	case ENOTDIR:
	case ENODATA:
		return EX_NOINPUT;
	case EHOSTUNREACH:
	case ECONNREFUSED:
	case ENODEV:
	case ENOSYS:
	case ENOTSUP:
	case ENOTCONN:
		return EX_UNAVAILABLE;
	case EEXIST:
	case EROFS:
	case ENOSPC:
	case ENOTEMPTY:
		return EX_CANTCREAT;
	case EIO:
		return EX_IOERR;
	case EAGAIN:
	case ETIMEDOUT:
	case EBUSY:
		return EX_TEMPFAIL;
	case EPROTO:
		return EX_PROTOCOL;
	case EPERM:
	case EACCES:
	case EKEYREJECTED:
		return EX_NOPERM;
	case EINVAL:
		return EX_CONFIG;
	case EINTR:
	case ECANCELED:
		return 130; /* as a shell tells of SIGINT */
	default:
		return EX_OSERR;
	}
}

static void say(const char *who, const char *sentence)
{
	char line[ERR_MSG_MAX + 128];
	(void)snprintf(line, sizeof line, "%s: %s", who, sentence);
	log_redact(line);
	cli_print_name(STDERR_FILENO, line, strlen(line));
}

static bool wants_json_log(const struct cli *c)
{
	return c->log_format && strcmp(c->log_format, "json") == 0;
}

int cli_fail(const struct cli *c, int r, const struct err *e)
{
	if (r == -CLI_EUSAGE)
		return cli_usage(c, "%s", err_msg(e, r));
	if (wants_json_log(c))
		log_error("%s", err_msg(e, r));
	else
		say("cloudtaser", err_msg(e, r));
	return cli_exit_code(r);
}

int cli_usage(const struct cli *c, const char *fmt, ...)
{
	char sentence[ERR_MSG_MAX], who[64];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(sentence, sizeof sentence, fmt, ap);
	va_end(ap);
	const char *name = c->command ? c->command->name : "";
	(void)snprintf(who, sizeof who, "cloudtaser%s%s", *name ? " " : "", name);
	say(who, sentence);
	char hint[96];
	(void)snprintf(hint, sizeof hint, "`%s --help` tells more", who);
	say(who, hint);
	return EX_USAGE;
}

int cli_start(const struct cli *c, enum log_level level, struct err *e)
{
	enum log_format format = LOG_TEXT;
	if (c->log_level && log_parse_level(c->log_level, &level) < 0)
		return err_set(e, CLI_EUSAGE, "--log-level %s: it is error, warn, info or debug", c->log_level);
	if (c->log_format && log_parse_format(c->log_format, &format) < 0)
		return err_set(e, CLI_EUSAGE, "--log-format %s: it is text or json", c->log_format);
	log_init("cloudtaser", level, format, STDERR_FILENO);
	return secmem_init(SECMEM_PREFERRED, e);
}

struct call {
	int (*fn)(void *arg, struct err *e);
	void *arg;
	struct err *e;
};

static void *call_it(void *p)
{
	struct call *c = p;
	return (void *)(intptr_t)c->fn(c->arg, c->e);
}

int cli_on_secret_stack(int (*fn)(void *arg, struct err *e), void *arg, struct err *e)
{
	struct call call = { fn, arg, e };
	void *result;
	int r = secthread_run(call_it, &call, &result, 0, e);
	return r < 0 ? r : (int)(intptr_t)result;
}

int cli_write(int fd, const void *p, size_t n, struct err *e)
{
	const char *from = p;
	while (n) {
		ssize_t done = write(fd, from, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno == EFAULT)
			return err_set(e, EIO,
				       "the output takes no bytes from secret memory (a file that is written without "
				       "the page cache): pipe it through cat");
		if (done < 0)
			return err_set(e, EIO, "cannot write the output: %s", strerror(errno));
		from += done;
		n -= (size_t)done;
	}
	return 0;
}

int cli_write_json(int fd, const struct json *j, struct err *e)
{
	size_t n;
	cleanup_sec char *text = j ? json_print(j, true, &n) : NULL;
	if (!text)
		return err_set(e, ENOMEM, "out of secret memory");
	int r = cli_write(fd, text, n, e);
	return r < 0 ? r : cli_write(fd, "\n", 1, e);
}

int cli_output(const char *format, bool *ret_json, struct err *e)
{
	*ret_json = format && strcmp(format, "json") == 0;
	if (format && !*ret_json && strcmp(format, "text") != 0)
		return err_set(e, CLI_EUSAGE, "--output %s: it is text or json", format);
	return 0;
}

/* A part without '%' is taken as it is: only what needs an escape has to have one. */
static int unescape(const char *part, size_t n, char *out, size_t *ret_len)
{
	char shown[FS_NAME_MAX + 1];
	if (!memchr(part, '%', n)) {
		if (n > FS_NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(out, part, n);
		out[n] = '\0';
		*ret_len = n;
		return 0;
	}
	if (n > FS_NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(shown, part, n);
	shown[n] = '\0';
	return fs_name_unescape(shown, out, ret_len);
}

static int bad_escape(struct err *e, int r, const char *part, size_t n)
{
	int shown = n > 80 ? 80 : (int)n;
	if (r == -ENAMETOOLONG)
		return err_set(e, CLI_EUSAGE, "\"%.*s...\": a name has at most %d bytes", shown, part, FS_NAME_MAX);
	return err_set(e, CLI_EUSAGE,
		       "\"%.*s\": %% stands before two hexadecimal digits here, as in the mount; write %% itself as "
		       "%%25",
		       shown, part);
}

int cli_path(const char *shown, bool folder, char **ret, struct err *e)
{
	size_t len = strnlen(shown, VAULT_PATH_MAX + 1), n = 0;
	if (len > VAULT_PATH_MAX)
		return err_set(e, CLI_EUSAGE, "a path has at most %d bytes", VAULT_PATH_MAX);
	cleanup_free char *raw = malloc(len + 1);
	if (!raw)
		return err_set(e, ENOMEM, "out of memory");
	for (const char *p = shown; *p;) {
		size_t part = strcspn(p, "/"), got = 0;
		if (part) {
			char name[FS_NAME_MAX + 1];
			/* A folder beside a field of the same name is shown with '%' behind it. */
			size_t bare = part > 1 && p[part - 1] == '%' && p[part] == '/' ? part - 1 : part;
			int r = unescape(p, bare, name, &got);
			if (r < 0)
				return bad_escape(e, r, p, part);
			if (memchr(name, '/', got) || memchr(name, '\0', got))
				return err_set(e, CLI_EUSAGE, "\"%s\": no part of a vault's path holds '/' or NUL",
					       shown);
			memcpy(raw + n, name, got);
			n += got;
		}
		p += part;
		if (*p == '/')
			raw[n++] = *p++;
	}
	raw[n] = '\0';
	int r = vault_path_check(raw, folder, e);
	if (r < 0) {
		e->code = CLI_EUSAGE; /* it was typed */
		return -CLI_EUSAGE;
	}
	*ret = TAKE_PTR(raw);
	return 0;
}

int cli_folder(const char *shown, char **ret, struct err *e)
{
	cleanup_free char *path = NULL;
	int r = cli_path(shown, true, &path, e);
	if (r < 0)
		return r;
	size_t n = strlen(path);
	if (asprintf(ret, "%s%s", path, n && path[n - 1] != '/' ? "/" : "") < 0)
		return err_set(e, ENOMEM, "out of memory");
	return 0;
}

int cli_field_name(const char *shown, char *out, size_t *ret_len, struct err *e)
{
	size_t n = strnlen(shown, VAULT_PATH_MAX);
	if (!n)
		return err_set(e, CLI_EUSAGE, "the name of a field is empty");
	int r = unescape(shown, n, out, ret_len);
	return r < 0 ? bad_escape(e, r, shown, n) : 0;
}

int cli_absolute(const char *path, char **ret, struct err *e)
{
	size_t len = strlen(path);
	while (len > 1 && path[len - 1] == '/')
		len--;
	if (!len)
		return err_set(e, CLI_EUSAGE, "the path is empty");
	cleanup_free char *trimmed = strndup(path, len);
	if (!trimmed)
		return err_set(e, ENOMEM, "out of memory");
	char *slash = strrchr(trimmed, '/');
	const char *last = slash ? slash + 1 : trimmed;
	char folder[PATH_MAX];
	if (strcmp(last, ".") == 0 || strcmp(last, "..") == 0 || strcmp(trimmed, "/") == 0) {
		if (!realpath(trimmed, folder))
			return err_sys(e, errno, "%s", path);
		*ret = strdup(folder);
		return *ret ? 0 : err_set(e, ENOMEM, "out of memory");
	}
	if (slash == trimmed) {
		*ret = TAKE_PTR(trimmed);
		return 0;
	}
	if (slash)
		*slash = '\0';
	if (!realpath(slash ? trimmed : ".", folder))
		return err_sys(e, errno, "%s", path);
	if (asprintf(ret, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, last) < 0)
		return err_set(e, ENOMEM, "out of memory");
	return 0;
}

void cli_print_name(int fd, const char *name, size_t len)
{
	char line[FS_NAME_MAX + ERR_MSG_MAX];
	bool terminal = isatty(fd) == 1 || fd == STDERR_FILENO;
	while (len) {
		size_t n = len < sizeof line - 1 ? len : sizeof line - 1;
		for (size_t i = 0; i < n; i++) {
			unsigned char c = (unsigned char)name[i];
			line[i] = terminal && (c < 0x20 || c == 0x7f) ? '?' : name[i];
		}
		name += n;
		len -= n;
		if (!len)
			line[n++] = '\n';
		if (cli_write(fd, line, n, NULL) < 0)
			return;
	}
}
