/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "base/log.h"
#include "base/secmem.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <pty.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOKEN20 "abcdefghij0123456789"

static int reader = -1;
static char line[8192];

/* What one call wrote: a datagram socket keeps writes apart, so this is one write or the test fails. */
static const char *written(void)
{
	ssize_t n = recv(reader, line, sizeof line - 1, MSG_DONTWAIT);
	if (n < 0)
		return NULL;
	line[n] = '\0';
	CHECK(strlen(line) == (size_t)n);
	return line;
}

/* The line behind its timestamp, whose shape is checked. */
static const char *text_line(void)
{
	static const char shape[] = "dddd-dd-ddTdd:dd:dd.dddZ ";
	const char *s = written();

	CHECK(s);
	for (size_t i = 0; shape[i]; i++)
		CHECK_MSG(shape[i] == 'd' ? s[i] >= '0' && s[i] <= '9' : s[i] == shape[i], "%s", s);
	CHECK(s[strlen(s) - 1] == '\n');
	CHECK(strchr(s, '\n') == s + strlen(s) - 1);
	return s + sizeof shape - 1;
}

static struct json *json_line(void)
{
	struct json *j = NULL;
	struct err e = ERR_INIT;
	const char *s = written();

	CHECK(s);
	CHECK(s[strlen(s) - 1] == '\n');
	CHECK(strchr(s, '\n') == s + strlen(s) - 1);
	CHECK_MSG(json_parse(s, strlen(s), sizeof line, &j, &e) == 0, "%s: %s", e.msg, s);
	CHECK(json_count(j) == 4);
	CHECK(json_string(json_get(j, "time")));
	return j;
}

static void test_levels(void)
{
	enum log_level level;
	enum log_format format;

	log_set(LOG_WARN, LOG_TEXT);
	CHECK(log_level() == LOG_WARN);
	log_info("not this");
	CHECK(!written());
	errno = ENOTTY;
	log_warn("this, %d", 1);
	CHECK(errno == ENOTTY);
	CHECK(strcmp(text_line(), "warn test: this, 1\n") == 0);
	log_error("%s", "");
	CHECK(strcmp(text_line(), "error test: \n") == 0);
	log_set(LOG_DEBUG, LOG_TEXT);
	log_debug("deep");
	CHECK(strcmp(text_line(), "debug test: deep\n") == 0);

	CHECK(log_parse_level("debug", &level) == 0 && level == LOG_DEBUG);
	CHECK(log_parse_level("error", &level) == 0 && level == LOG_ERROR);
	CHECK(log_parse_level("Error", &level) == -EINVAL && level == LOG_ERROR);
	CHECK(log_parse_level("", &level) == -EINVAL);
	CHECK(log_parse_format("json", &format) == 0 && format == LOG_JSON);
	CHECK(log_parse_format("text", &format) == 0 && format == LOG_TEXT);
	CHECK(log_parse_format("xml", &format) == -EINVAL && format == LOG_TEXT);
}

static void test_escapes(void)
{
	static const char nasty[] = "a\nb\r\t\x1b[31m\x7f \"q\" \\ \xc3\xa4 \xff \xc2\x9b";

	log_set(LOG_INFO, LOG_TEXT);
	log_info("%s", nasty);
	const char *s = text_line();
	CHECK_MSG(strcmp(s, "info test: a\\nb\\r\\t\\x1b[31m\\x7f \"q\" \\ \xc3\xa4 \\xff \\x9b\n") == 0, "%s", s);

	log_set(LOG_INFO, LOG_JSON);
	log_info("%s", nasty);
	cleanup_json struct json *j = json_line();
	CHECK(strcmp(json_string(json_get(j, "message")),
		     "a\nb\r\t\x1b[31m\x7f \"q\" \\ \xc3\xa4 \xef\xbf\xbd \xc2\x9b") == 0);
	CHECK(strcmp(json_string(json_get(j, "level")), "info") == 0);
	CHECK(strcmp(json_string(json_get(j, "program")), "test") == 0);
}

static void test_bounds(void)
{
	char *big = malloc(20001);
	CHECK(big);

	/* six bytes each in JSON: the escapes are cut, the object is whole */
	memset(big, 1, 20000);
	big[20000] = '\0';
	log_set(LOG_INFO, LOG_JSON);
	log_info("%s", big);
	cleanup_json struct json *j = json_line();
	size_t n = strlen(json_string(json_get(j, "message")));
	CHECK_MSG(n > 600 && n < 700, "%zu", n);

	memset(big, 'x', 20000);
	log_set(LOG_INFO, LOG_TEXT);
	log_info("%s", big);
	CHECK(text_line());
	CHECK_MSG(strlen(line) == 4096, "%zu", strlen(line));

	log_set(LOG_INFO, LOG_JSON);
	log_info("%s", big);
	cleanup_json struct json *whole = json_line();
	n = strlen(json_string(json_get(whole, "message")));
	CHECK_MSG(n > 3900 && n < 4096, "%zu", n);

	/* A token that the bound cuts: not even its beginning, which redacting the ones before it has brought near. */
	log_set(LOG_INFO, LOG_TEXT);
	for (size_t at = 4000; at < 4096; at++) {
		memset(big, 'x', 20000);
		for (size_t k = 0; k < 10; k++)
			memcpy(big + k * 50, " hvs." TOKEN20 TOKEN20 " ", 46);
		memcpy(big + at, " hvs." TOKEN20 TOKEN20 " ", 46);
		log_info("%s", big);
		CHECK(text_line());
		CHECK_MSG(!strstr(line, "hvs."), "cut at %zu: %s", at, line);
	}
	free(big);
}

static void test_redact(void)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{ "hvs." TOKEN20, "[redacted]" },
		{ "a hvs." TOKEN20 "_-Z, b", "a [redacted], b" },
		{ "hvb." TOKEN20 " hvr." TOKEN20, "[redacted] [redacted]" },
		{ "token=s." TOKEN20 "1234&x", "token=[redacted]&x" },
		{ "b." TOKEN20, "[redacted]" },
		{ "\ns." TOKEN20 "\n", "\n[redacted]\n" },
		{ "%0As." TOKEN20, "%0A[redacted]" },
		{ "xhvs." TOKEN20, "x[redacted]" },
		{ "\"s." TOKEN20 ".nsid\"", "\"[redacted].nsid\"" },
		{ "hvs.abcdefghij012345678", "hvs.abcdefghij012345678" }, /* 19 */
		{ "vaults." TOKEN20, "vaults." TOKEN20 },
		{ "app/secrets.json", "app/secrets.json" },
		{ "hvs. " TOKEN20, "hvs. " TOKEN20 },
		{ "", "" },
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char buf[256];
		snprintf(buf, sizeof buf, "%s", cases[i].in);
		log_redact(buf);
		CHECK_MSG(strcmp(buf, cases[i].out) == 0, "%s became %s", cases[i].in, buf);
	}
	/* every line goes through it, before the escapes put letters in front of a token */
	for (int f = LOG_TEXT; f <= LOG_JSON; f++) {
		log_set(LOG_INFO, (enum log_format)f);
		log_info("login\ns.%s\r%s", TOKEN20, "hvs." TOKEN20);
		const char *s = written();
		CHECK(s && strstr(s, "login\\n[redacted]\\r[redacted]"));
		CHECK(!strstr(s, TOKEN20));
	}
}

/* Where nobody can read it, a line is lost and nothing else happens. */
static void test_nowhere(void)
{
	log_init("test", LOG_INFO, LOG_TEXT, -1);
	errno = 0;
	log_error("lost");
	CHECK(errno == 0);
}

/* On a terminal a person reads: no timestamp. */
static void test_terminal(void)
{
	int master, slave;

	CHECK(openpty(&master, &slave, NULL, NULL, NULL) == 0);
	log_init("cloudtaser", LOG_INFO, LOG_TEXT, slave);
	log_warn("hello");
	ssize_t n = read(master, line, sizeof line - 1);
	CHECK(n > 0);
	line[n] = '\0';
	CHECK_MSG(strcmp(line, "warn cloudtaser: hello\r\n") == 0, "%s", line);
	close(master);
	close(slave);
}

int main(void)
{
	struct err e = ERR_INIT;
	int pair[2];

	CHECK_MSG(secmem_init(SECMEM_PREFERRED, &e) == 0, "%s", e.msg);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) == 0);
	reader = pair[1];
	log_init("test", LOG_INFO, LOG_TEXT, pair[0]);

	test_levels();
	test_escapes();
	test_bounds();
	test_redact();
	test_nowhere();
	test_terminal();
	puts("ok");
	return 0;
}
