/* SPDX-License-Identifier: Apache-2.0 */
/* The service: a configuration's vaults and mounts, until SIGTERM. It does not go to the background; systemd does that. */
#include "base/cleanup.h"
#include "base/config.h"
#include "base/log.h"
#include "fs/daemon.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <time.h>

static const char usage[] =
	"Usage: cloudtaserd -c FILE [--check]\n"
	"\n"
	"Serves the mounts of a configuration from its vaults, in secret memory, until SIGTERM or SIGINT. SIGHUP reads "
	"the\n"
	"configuration again; one that cannot be met changes nothing.\n"
	"\n"
	"  -c, --config FILE     the configuration (default /etc/cloudtaser/config.yaml)\n"
	"      --check           check the configuration, print what is wrong with it, and end\n"
	"      --log-level LEVEL error, warn, info or debug (default: the configuration's)\n"
	"      --log-format FMT  text or json (default: the configuration's)\n"
	"  -h, --help            this text\n"
	"      --version         the version\n"
	"\n"
	"Readiness is told to $NOTIFY_SOCKET, as sd_notify(3) does.\n"
	"\n"
	"Exit codes:\n"
	"  0   ended as asked, or --check found nothing     71  the system refused something\n"
	"  64  the command line is wrong                    75  a vault cannot be asked now\n"
	"  66  a file is not there                          77  not allowed (wrong passphrase, token, rights)\n"
	"  69  no secret memory, no FUSE                    78  the configuration is wrong\n";

struct service {
	const char *file;
	const char *level, *format; /* NULL: the configuration's */
	struct fs_daemon *daemon;
};

DEFINE_CLEANUP(fs_daemon_free, struct fs_daemon *)

static int exit_code(int r)
{
	switch (-r) {
	case ENOENT:
	case EISDIR:
		return EX_NOINPUT;
	case ENOSYS:
	case ENODEV:
	case ENOTSUP:
		return EX_UNAVAILABLE;
	case EAGAIN:
	case ETIMEDOUT:
		return EX_TEMPFAIL;
	case EACCES:
	case EPERM:
	case EKEYREJECTED:
		return EX_NOPERM;
	case EBADMSG:
	case EMSGSIZE:
		return EX_DATAERR;
	case EINVAL:
		return EX_CONFIG;
	default:
		return EX_OSERR;
	}
}

/* What sd_notify(3) does. Who does not listen does not matter, and who listens and does not read is not waited for. */
static void notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof to.sun_path)
		return;
	size_t n = strlen(path);
	memcpy(to.sun_path, path, n);
	if (*path == '@')
		to.sun_path[0] = '\0';
	cleanup_close int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){ .tv_sec = 1 }, sizeof(struct timeval));
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (*path == '/'));
	(void)!sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to, len);
}

static void set_log(const struct service *s, const struct config *c)
{
	enum log_level level = c->log_level;
	enum log_format format = c->log_format;
	/* Both were checked when the command line was read. */
	if ((s->level && log_parse_level(s->level, &level) < 0) ||
	    (s->format && log_parse_format(s->format, &format) < 0))
		return;
	log_set(level, format);
}

static int reload(void *arg, struct err *e)
{
	struct service *s = arg;
	char text[128];
	struct timespec now;
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	(void)snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
		       (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
	notify(text);
	cleanup_config struct config *c = NULL;
	int r = config_load(s->file, &c, e);
	if (r == 0)
		r = fs_daemon_apply(s->daemon, c, e);
	if (r == 0)
		set_log(s, c);
	notify("READY=1");
	return r;
}

static void print_finding(void *arg, const char *finding)
{
	(void)arg;
	log_error("%s", finding);
}

static int check(const char *file)
{
	struct err e = ERR_INIT;
	int n = config_check(file, print_finding, NULL, &e);
	if (n < 0) {
		log_error("%s", err_msg(&e, n));
		return exit_code(n);
	}
	return n ? EX_CONFIG : EX_OK;
}

static int serve(struct service *s)
{
	struct err e = ERR_INIT;
	/* The configuration holds no secrets and says what secret memory is to be, so it comes before that. */
	cleanup_config struct config *c = NULL;
	int r = config_load(s->file, &c, &e);
	if (r == 0) {
		set_log(s, c);
		r = secmem_init(c->secret_memory, &e);
	}
	CLEANUP_WITH(fs_daemon_freep) struct fs_daemon *d = NULL;
	if (r == 0) {
		const struct fs_daemon_conf conf = {
			.cache_max_entries = c->cache_max_entries,
			.cache_max_bytes = c->cache_max_bytes,
			.wait_ms = c->wait_ms,
		};
		r = fs_daemon_new(&conf, &d, &e);
	}
	if (r == 0) {
		s->daemon = d;
		r = fs_daemon_apply(d, c, &e);
	}
	if (r == 0)
		r = fs_daemon_control(d, c->control_socket, reload, s, &e);
	if (r < 0) {
		log_error("%s", err_msg(&e, r));
		return exit_code(r);
	}
	config_free(TAKE_PTR(c));
	log_info("ready, %zu mounts", fs_daemon_mounts(d));
	notify("READY=1");
	/* Without mounts a service goes on: a reload may bring some. */
	while (fs_daemon_wait(d, -1) == 1)
		log_warn("the last mount is gone");
	notify("STOPPING=1");
	log_info("ending");
	return EX_OK;
}

static int bad_usage(const char *sentence, const char *what)
{
	(void)fprintf(stderr, "cloudtaserd: %s%s\ncloudtaserd: `cloudtaserd --help` tells more\n", sentence, what);
	return EX_USAGE;
}

int main(int argc, char **argv)
{
	enum { CHECK = 256, LEVEL, FORMAT, SHOW_VERSION };
	static const struct option longs[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check", no_argument, NULL, CHECK },
		{ "log-level", required_argument, NULL, LEVEL },
		{ "log-format", required_argument, NULL, FORMAT },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, SHOW_VERSION },
		{ 0 },
	};
	struct service s = { .file = "/etc/cloudtaser/config.yaml" };
	enum log_level level = LOG_INFO;
	enum log_format format = LOG_TEXT;
	bool only_check = false;
	fs_daemon_block_signals();
	int got;
	opterr = 0;
	while ((got = getopt_long(argc, argv, ":c:h", longs, NULL)) != -1) {
		switch (got) {
		case 'c':
			s.file = optarg;
			break;
		case CHECK:
			only_check = true;
			break;
		case LEVEL:
			s.level = optarg;
			if (log_parse_level(optarg, &level) < 0)
				return bad_usage("--log-level is error, warn, info or debug, not ", optarg);
			break;
		case FORMAT:
			s.format = optarg;
			if (log_parse_format(optarg, &format) < 0)
				return bad_usage("--log-format is text or json, not ", optarg);
			break;
		case 'h':
			(void)fputs(usage, stdout);
			return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
		case SHOW_VERSION:
			(void)puts("cloudtaserd " CT_VERSION);
			return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
		case ':':
			return bad_usage("an argument is missing behind ", argv[optind - 1]);
		default:
			return bad_usage("there is no option ", argv[optind - 1]);
		}
	}
	if (optind < argc)
		return bad_usage("no operand is expected: ", argv[optind]);
	log_init("cloudtaserd", level, format, STDERR_FILENO);
	return only_check ? check(s.file) : serve(&s);
}
