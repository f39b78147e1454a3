/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/daemons.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

struct status_options {
	const char *output;
};

static const struct cli_option status_options[] = {
	{ 'o', "output", "FORMAT", "json: {\"daemons\":[...]}", CLI_STRING, offsetof(struct status_options, output) },
	{ .name = NULL },
};

struct status {
	struct json *daemons;
	bool silent_one; /* somebody listens and does not answer */
};

/* Names and messages may come from a vault: cli_print_name keeps them from moving the cursor. */
static void line(const char *fmt, ...) printf_like(1, 2);
static void line(const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (n > 0)
		cli_print_name(STDOUT_FILENO, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

static const char *text(const struct json *j, const char *path)
{
	const char *s = json_string(json_path(j, path));
	return s ? s : "";
}

static int64_t number(const struct json *j, const char *path)
{
	return json_int(json_path(j, path), 0);
}

static const char *when(int64_t seconds, char out[32])
{
	time_t t = (time_t)seconds;
	struct tm tm;
	(void)strftime(out, 32, "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&t, &tm));
	return out;
}

static void print_mounts(const struct json *daemon)
{
	for (const struct json *m = json_first(json_get(daemon, "mounts")); m; m = json_next(m)) {
		line("  mount   %s: vault %s, %" PRId64 " names, %" PRId64 " open; %" PRId64 " opens, %" PRId64
		     " refused",
		     text(m, "path"), text(m, "vault"), number(m, "names"), number(m, "open"), number(m, "opens"),
		     number(m, "denied"));
		for (const struct json *p = json_first(json_get(m, "problems")); p; p = json_next(p))
			line("          problem: %s: %s", text(p, "path"), text(p, "message"));
	}
}

static void print_vaults(const struct json *daemon)
{
	for (const struct json *v = json_first(json_get(daemon, "vaults")); v; v = json_next(v)) {
		const char *where = *text(v, "file") ? text(v, "file") : text(v, "address"),
			   *error = text(v, "last_error");
		bool reachable = json_bool(json_get(v, "reachable"), false);
		line("  vault   %s: %s%s%s, %s%s%s", text(v, "name"), text(v, "kind"), *where ? " " : "", where,
		     reachable ? "answers" : "does not answer", *error ? "; last error: " : "", error);
	}
}

static void print_daemon(const struct json *d)
{
	char since[32];
	if (json_get(d, "error")) {
		line("%s: does not answer: %s", text(d, "socket"), text(d, "error"));
		return;
	}
	line("%s %s, pid %" PRId64 ", since %s", text(d, "program"), text(d, "version"), number(d, "pid"),
	     when(number(d, "started"), since));
	print_mounts(d);
	print_vaults(d);
	line("  cache   %" PRId64 " entries, %" PRId64 " bytes; %" PRId64 " hits, %" PRId64 " misses, %" PRId64
	     " served stale, %" PRId64 " failed fetches",
	     number(d, "cache.entries"), number(d, "cache.bytes"), number(d, "cache.hits"), number(d, "cache.misses"),
	     number(d, "cache.stale_served"), number(d, "cache.fetch_errors"));
	line("  memory  %s, %" PRId64 " of %" PRId64 " bytes in use", text(d, "secret_memory.kind"),
	     number(d, "secret_memory.used"), number(d, "secret_memory.mapped"));
	for (const struct json *k = json_first(json_get(d, "checks")); k; k = json_next(k))
		line("  check   %-8s %s: %s", text(k, "state"), text(k, "name"), text(k, "detail"));
}

static int look(void *arg, const char *socket, struct err *e)
{
	struct status *s = arg;
	struct err one = ERR_INIT;
	struct json *answer = NULL;
	int r = cli_ask_daemon(socket, "status", NULL, &answer, &one);
	/* A daemon that is ending hangs up; asked again, it is not there. */
	if (r == -EPROTO || r == -ECONNRESET || r == -EPIPE)
		r = cli_ask_daemon(socket, "status", NULL, &answer, &one);
	if (cli_daemon_absent(r))
		return 0;
	if (r < 0) {
		s->silent_one = true;
		answer = json_object();
		if (answer && json_set(answer, "error", json_of_string(err_msg(&one, r))) < 0)
			return err_set(e, ENOMEM, "out of memory");
	}
	if (!answer || json_set(answer, "socket", json_of_string(socket)) < 0 || json_append(s->daemons, answer) < 0)
		return err_set(e, ENOMEM, "out of memory");
	return 0;
}

static int print_all(const struct status *s, bool as_json, struct err *e)
{
	if (as_json) {
		cleanup_json struct json *out = json_object();
		if (!out || json_set(out, "daemons", json_copy(s->daemons)) < 0)
			return err_set(e, ENOMEM, "out of memory");
		return cli_write_json(STDOUT_FILENO, out, e);
	}
	if (!json_count(s->daemons))
		line("no cloudtaser daemon runs here that you may talk to");
	for (const struct json *d = json_first(s->daemons); d; d = json_next(d))
		print_daemon(d);
	return 0;
}

static int status(struct cli *c, void *options, int argc, char **argv)
{
	const struct status_options *o = options;
	struct err e = ERR_INIT;
	bool as_json;
	if (argc > 0)
		return cli_usage(c, "%s: no operand is expected", argv[0]);
	int r = cli_output(o->output, &as_json, &e);
	if (r == 0)
		r = cli_start(c, LOG_WARN, &e);
	if (r < 0)
		return cli_fail(c, r, &e);
	cleanup_json struct json *daemons = json_array();
	struct status s = { .daemons = daemons };
	r = daemons ? cli_each_daemon(c, look, &s, &e) : -ENOMEM;
	if (r == 0)
		r = print_all(&s, as_json, &e);
	if (r < 0)
		return cli_fail(c, r, &e);
	return s.silent_one ? EX_UNAVAILABLE : EX_OK;
}

const struct cli_command cli_status = {
	.name = "status",
	.summary = "mounts, vaults, cache and protection of the daemons here",
	.usage = "[-o json]",
	.help = "Asks every daemon that you may talk to: your own commands that mount, and the service. A check is "
		"`ok`, `no`,\n"
		"or `not yet` for what this version does not have. None running is no error.",
	.options = status_options,
	.options_size = sizeof(struct status_options),
	.run = status,
};
