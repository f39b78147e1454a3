/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A line is put together on the stack and leaves in one write(2), so that lines of several threads and processes do
 * not mix. Messages are redacted before they are escaped: an escape ("\n" as two characters) would put a letter in
 * front of a token and hide its beginning.
 */
#include "base/log.h"

#include "base/utf8.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 4096, PROGRAM_MAX = 64 };

static const char *const level_names[] = { "error", "warn", "info", "debug" };
static char program_name[PROGRAM_MAX] = "cloudtaser";
static int log_fd = STDERR_FILENO;
static bool on_terminal;
static atomic_int level_now = LOG_INFO;
static atomic_int format_now = LOG_TEXT;

void log_init(const char *program, enum log_level level, enum log_format format, int fd)
{
	(void)snprintf(program_name, sizeof program_name, "%s", program);
	log_fd = fd;
	on_terminal = isatty(fd) == 1;
	log_set(level, format);
}

void log_set(enum log_level level, enum log_format format)
{
	atomic_store(&level_now, (int)level);
	atomic_store(&format_now, (int)format);
}

enum log_level log_level(void)
{
	return (enum log_level)atomic_load(&level_now);
}

int log_parse_level(const char *s, enum log_level *ret)
{
	for (int i = 0; i <= LOG_DEBUG; i++)
		if (strcmp(s, level_names[i]) == 0) {
			*ret = (enum log_level)i;
			return 0;
		}
	return -EINVAL;
}

int log_parse_format(const char *s, enum log_format *ret)
{
	if (strcmp(s, "text") == 0)
		*ret = LOG_TEXT;
	else if (strcmp(s, "json") == 0)
		*ret = LOG_JSON;
	else
		return -EINVAL;
	return 0;
}

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_hex(char c)
{
	return (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') || (c >= '0' && c <= '9');
}

/* Length of the token prefix at p, 0 for none. The one-letter prefixes count only at the start of a word, or every
 * "hosts.example" would be taken for one; a percent escape before it ends a word too. */
static size_t token_prefix(const char *start, const char *p)
{
	if (p[0] == 'h' && p[1] == 'v' && (p[2] == 's' || p[2] == 'b' || p[2] == 'r') && p[3] == '.')
		return 4;
	if ((p[0] == 's' || p[0] == 'b') && p[1] == '.') {
		if (p == start || !is_alnum(p[-1]))
			return 2;
		if (p - start >= 3 && p[-3] == '%' && is_hex(p[-2]) && is_hex(p[-1]))
			return 2;
	}
	return 0;
}

/* `cut`: the line was longer, so a token at its end may be the beginning of one. */
static void redact(char *line, bool cut)
{
	static const char hidden[] = "[redacted]";
	const char *r = line;
	char *w = line;

	while (*r) {
		size_t prefix = token_prefix(line, r), run = 0;

		if (prefix)
			while (is_alnum(r[prefix + run]) || r[prefix + run] == '_' || r[prefix + run] == '-')
				run++;
		if (prefix && run >= 20) {
			memcpy(w, hidden, sizeof hidden - 1);
			w += sizeof hidden - 1;
			r += prefix + run;
		} else if (prefix && cut && !r[prefix + run]) {
			break;
		} else {
			*w++ = *r++;
		}
	}
	*w = '\0';
}

void log_redact(char *line)
{
	redact(line, false);
}

struct out {
	size_t n;
	char b[LINE_MAX_BYTES];
};

/* All or nothing, and always leaving `reserve` bytes for the end of the line. */
static bool put(struct out *o, const char *s, size_t n, size_t reserve)
{
	if (n + reserve > sizeof o->b - o->n)
		return false;
	memcpy(o->b + o->n, s, n);
	o->n += n;
	return true;
}

/* Puts s with what could break the line, the JSON or a terminal escaped. */
static void put_escaped(struct out *o, const char *s, bool json, size_t reserve)
{
	size_t left = strlen(s);

	while (left) {
		uint32_t cp = 0;
		size_t len = utf8_decode(s, left, &cp), n;
		char buf[16];

		if (!len) {
			len = 1;
			n = (size_t)(json ? snprintf(buf, sizeof buf, "\\ufffd") :
					    snprintf(buf, sizeof buf, "\\x%02x", (unsigned char)*s));
		} else if (cp == '\n' || cp == '\r' || cp == '\t') {
			n = (size_t)snprintf(buf, sizeof buf, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
		} else if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0)) {
			n = (size_t)(json ? snprintf(buf, sizeof buf, "\\u%04x", cp) :
					    snprintf(buf, sizeof buf, "\\x%02x", cp));
		} else if (json && (cp == '"' || cp == '\\')) {
			n = (size_t)snprintf(buf, sizeof buf, "\\%c", (char)cp);
		} else {
			memcpy(buf, s, len);
			n = len;
		}
		if (!put(o, buf, n, reserve))
			return;
		s += len;
		left -= len;
	}
}

static void put_str(struct out *o, const char *s)
{
	(void)put(o, s, strlen(s), 0);
}

static void put_time(struct out *o)
{
	struct timespec now;
	struct tm tm;
	char buf[64];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	size_t n = strftime(buf, sizeof buf, "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(buf + n, sizeof buf - n, ".%03dZ", (int)(now.tv_nsec / 1000000));
	put_str(o, buf);
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	if ((int)level > atomic_load(&level_now))
		return;

	int saved = errno;
	char msg[LINE_MAX_BYTES];
	va_list ap;
	va_start(ap, fmt);
	int len = vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	if (len < 0) {
		errno = saved;
		return;
	}
	redact(msg, (size_t)len >= sizeof msg);

	struct out o;
	o.n = 0;
	if (atomic_load(&format_now) == LOG_JSON) {
		put_str(&o, "{\"time\":\"");
		put_time(&o);
		put_str(&o, "\",\"level\":\"");
		put_str(&o, level_names[level]);
		put_str(&o, "\",\"program\":\"");
		put_escaped(&o, program_name, true, 0);
		put_str(&o, "\",\"message\":\"");
		put_escaped(&o, msg, true, 3);
		put_str(&o, "\"}\n");
	} else {
		if (!on_terminal) {
			put_time(&o);
			put_str(&o, " ");
		}
		put_str(&o, level_names[level]);
		put_str(&o, " ");
		put_escaped(&o, program_name, false, 0);
		put_str(&o, ": ");
		put_escaped(&o, msg, false, 1);
		put_str(&o, "\n");
	}

	ssize_t w;
	do
		w = write(log_fd, o.b, o.n);
	while (w < 0 && errno == EINTR);
	errno = saved;
}
