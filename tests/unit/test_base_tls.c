/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP client's TLS against `openssl s_server`: who is trusted, which versions, client certificates. */
#include "base/secmem.h"
#include "tests/unit/http_calls.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

static char folder[] = "/tmp/ct-http-XXXXXX";

static const char *in(const char *file)
{
	static char paths[8][64];
	static int at;
	char *p = paths[at++ % 8];
	(void)snprintf(p, sizeof paths[0], "%s/%s", folder, file);
	return p;
}

/* Runs a command line in the folder. */
static void shell(const char *command)
{
	const char *argv[] = { "sh", "-c", command, NULL };
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int status;
	CHECK(posix_spawn_file_actions_init(&actions) == 0 &&
	      posix_spawn_file_actions_addchdir_np(&actions, folder) == 0 &&
	      posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0) == 0 &&
	      posix_spawn_file_actions_adddup2(&actions, 1, 2) == 0);
	CHECK(posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)argv, environ) == 0);
	posix_spawn_file_actions_destroy(&actions);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_MSG(status == 0, "%s", command);
}

struct s_server {
	pid_t pid;
	int port;
};

/*
 * openssl s_server -www: answers any GET with a page. It says where it listens when it does. posix_spawn, because the
 * child of a fork does not survive it while threads have their stacks in secret memory.
 */
static struct s_server s_server(const char *const *options)
{
	const char *argv[32] = { "setpriv",  "--pdeathsig", "KILL",	   "openssl",
				 "s_server", "-accept",	    "127.0.0.1:0", "-www" };
	int n = 8, p[2];
	while (*options)
		argv[n++] = *options++;
	CHECK(pipe2(p, O_CLOEXEC) == 0);
	posix_spawn_file_actions_t actions;
	struct s_server s;
	CHECK(posix_spawn_file_actions_init(&actions) == 0 &&
	      posix_spawn_file_actions_addchdir_np(&actions, folder) == 0 &&
	      posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) == 0 &&
	      posix_spawn_file_actions_adddup2(&actions, p[1], 1) == 0 &&
	      posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0) == 0);
	CHECK(posix_spawnp(&s.pid, argv[0], &actions, NULL, (char *const *)argv, environ) == 0);
	posix_spawn_file_actions_destroy(&actions);
	close(p[1]);
	char text[4096];
	size_t len = 0;
	const char *at = NULL;
	while (len + 1 < sizeof text && !(at && strchr(at, '\n'))) {
		ssize_t k = read(p[0], text + len, sizeof text - 1 - len);
		CHECK_MSG(k > 0, "openssl s_server ended");
		len += (size_t)k;
		text[len] = '\0';
		at = strstr(text, "ACCEPT 127.0.0.1:");
	}
	CHECK(at);
	s.port = atoi(at + strlen("ACCEPT 127.0.0.1:"));
	close(p[0]);
	return s;
}

static void s_server_stop(struct s_server s)
{
	kill(s.pid, SIGKILL);
	CHECK(waitpid(s.pid, NULL, 0) == s.pid);
}

#define OPTIONS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void make_certificates(void)
{
	CHECK(mkdtemp(folder));
	shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days "
	      "30 "
	      "-subj '/CN=unit authority'");
	shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout other.key -out other.pem "
	      "-days 30 -subj '/CN=other authority'");
	shell("touch index.txt; printf "
	      "'[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index.txt\\nserial=serial\\nnew_certs_dir=.\\n"
	      "default_md=sha256\\npolicy=p\\nunique_subject=no\\nrand_serial=yes\\n[p]\\ncommonName=supplied\\n"
	      "[ip]\\nsubjectAltName=IP:127.0.0.1\\n[name]\\nsubjectAltName=DNS:vault.example,DNS:two.example\\n' > "
	      "ca.cnf");
	shell("openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout s.key -out s.csr -subj /CN=s");
	shell("openssl ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in s.csr -days 3 -extensions ip -out "
	      "ip.pem");
	shell("openssl ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in s.csr -days 3 -extensions name -out "
	      "name.pem");
	shell("openssl ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in s.csr -startdate 20200101000000Z "
	      "-enddate 20210203040506Z -extensions ip -out expired.pem");
	shell("chmod 600 *.key");
}

static struct http_client *tls_client(int port, const char *server_name)
{
	return client_with((struct http_client_conf){ .ca_file = in("ca.pem"),
						      .server_name = server_name,
						      .timeout_ms = 5000 },
			   "https", port);
}

static void test_tls(void)
{
	struct s_server s = s_server(OPTIONS("-cert", "ip.pem", "-key", "s.key"));
	struct http_client *c = tls_client(s.port, NULL);
	CHECK_MSG(get(c, "/") == 0, "%s", last.err.msg);
	CHECK(last.status == 200);
	CHECK_MSG(strstr(last.body, "TLSv1.3"), "%s", last.body);
	/* other authorities after a reload, and back: a broken file leaves the old ones */
	client_end(c);
	c = client_with((struct http_client_conf){ .ca_file = in("other.pem") }, "https", s.port);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED,
		    "comes from an unknown issuer (\"unit authority\"), which is not in ca_file");
	client_end(c);
	c = tls_client(s.port, "vault.example");
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "is not for \"vault.example\" (it names: 127.0.0.1)");
	client_end(c);
	s_server_stop(s);

	s = s_server(OPTIONS("-cert", "name.pem", "-key", "s.key"));
	c = tls_client(s.port, NULL);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "is not for \"127.0.0.1\" (it names: vault.example, two.example)");
	client_end(c);
	c = tls_client(s.port, "two.example");
	CHECK_MSG(get(c, "/") == 0, "%s", last.err.msg);
	client_end(c);
	s_server_stop(s);

	s = s_server(OPTIONS("-cert", "expired.pem", "-key", "s.key"));
	c = tls_client(s.port, NULL);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "expired on 2021-02-03 04:05 UTC");
	client_end(c);
	s_server_stop(s);
}

static void test_tls_versions(void)
{
	struct s_server s = s_server(OPTIONS("-cert", "ip.pem", "-key", "s.key", "-tls1_2"));
	struct http_client *c = tls_client(s.port, NULL);
	CHECK_MSG(get(c, "/") == 0, "%s", last.err.msg);
	CHECK(strstr(last.body, "TLSv1.2"));
	client_end(c);
	s_server_stop(s);

	s = s_server(OPTIONS("-cert", "ip.pem", "-key", "s.key", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"));
	c = tls_client(s.port, NULL);
	CHECK_ERROR(get(c, "/"), -EPROTO, "speaks no TLS 1.2 or newer");
	client_end(c);
	s_server_stop(s);

	int port, silent = listen_on(&port);
	c = client_with((struct http_client_conf){ .ca_file = in("ca.pem"), .connect_timeout_ms = 200 }, "https", port);
	CHECK_ERROR(get(c, "/"), -ETIMEDOUT, "did not answer the TLS handshake within 200 ms");
	client_end(c);
	close(silent);
}

struct reload {
	struct http_client *c;
	struct err err;
	int r;
};

static void do_reload(void *arg)
{
	struct reload *l = arg;
	l->r = http_client_reload(l->c, &l->err);
}

static void test_client_certificates_and_reload(void)
{
	struct s_server s = s_server(OPTIONS("-cert", "ip.pem", "-key", "s.key", "-Verify", "1", "-verify_return_error",
					     "-CAfile", "other.pem"));
	struct http_client *c = tls_client(s.port, NULL);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "asks for a client certificate: set cert_file and key_file");
	client_end(c);
	shell("cp name.pem mine.pem; cp s.key mine.key");
	c = client_with((struct http_client_conf){ .ca_file = in("ca.pem"),
						   .cert_file = in("mine.pem"),
						   .key_file = in("mine.key") },
			"https", s.port);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "refused the client certificate in cert_file");
	struct reload l = { .c = c };
	shell("echo broken > mine.pem");
	CHECK(io_call(io, do_reload, &l) == 0);
	CHECK_MSG(l.r == -EINVAL && strstr(l.err.msg, "mine.pem holds no certificate"), "%s", l.err.msg);
	CHECK_ERROR(get(c, "/"), -EKEYREJECTED, "refused the client certificate in cert_file");
	shell("cp other.pem mine.pem; cp other.key mine.key");
	CHECK(io_call(io, do_reload, &l) == 0);
	CHECK_MSG(l.r == 0, "%s", l.err.msg);
	CHECK_MSG(get(c, "/") == 0, "%s", last.err.msg);
	client_end(c);
	s_server_stop(s);
}

int main(void)
{
	struct err e = ERR_INIT;
	(void)signal(SIGPIPE, SIG_IGN);
	make_certificates();
	int r = secmem_init(SECMEM_PREFERRED, &e);
	CHECK_MSG(r == 0, "%s", e.msg);
	r = io_new(&io, &e);
	CHECK_MSG(r == 0, "%s", e.msg);
	test_tls();
	test_tls_versions();
	test_client_certificates_and_reload();
	io_free(io);
	free(last.body);
	shell("rm -f ./*");
	CHECK(rmdir(folder) == 0);
	return 0;
}
