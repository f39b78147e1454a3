/* SPDX-License-Identifier: Apache-2.0 */
#include "base/config.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/ct-config-XXXXXX";
static char file[64];

static void put_file(const char *text, size_t len)
{
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	CHECK(fd >= 0);
	CHECK(write(fd, text, len) == (ssize_t)len);
	CHECK(close(fd) == 0);
}

/* The findings of a check, one a line, without the file's name. */
static char found[1 << 20];
static size_t found_len;

static void collect(void *arg, const char *finding)
{
	size_t prefix = strlen(file);

	(void)arg;
	if (strncmp(finding, file, prefix) == 0 && finding[prefix] == ':')
		finding += prefix + 1;
	found_len += (size_t)snprintf(found + found_len, sizeof found - found_len, "%s\n", finding);
	CHECK(found_len < sizeof found);
}

static int check_text(const char *text, size_t len)
{
	struct err e = ERR_INIT;

	put_file(text, len);
	found_len = 0;
	found[0] = '\0';
	int n = config_check(file, collect, NULL, &e);
	CHECK_MSG(n >= 0, "%s", e.msg);
	return n;
}

static struct config *good(const char *text)
{
	struct config *c = NULL;
	struct err e = ERR_INIT;

	CHECK_MSG(config_parse("test.yaml", text, strlen(text), &c, &e) == 0, "%s\n%s", e.msg, text);
	return c;
}

/* ---- every key has its effect ---- */

static void test_defaults(void)
{
	static const char *const nothing[] = { "", "\n# only a comment\n", "---\n", "~\n", "\xef\xbb\xbf", "{}\n" };

	for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
		cleanup_config struct config *c = good(nothing[i]);
		CHECK(strcmp(c->file, "test.yaml") == 0);
		CHECK(c->n_vaults == 0 && c->n_mounts == 0);
		CHECK(c->log_level == LOG_INFO && c->log_format == LOG_TEXT);
		CHECK(c->secret_memory == SECMEM_REQUIRED);
		CHECK(strcmp(c->control_socket, "/run/cloudtaser/control.sock") == 0);
		CHECK(c->cache_max_entries == 0 && c->cache_max_bytes == 0);
		CHECK(c->wait_ms == 10000);
	}

	cleanup_config struct config *bom = good("\xef\xbb\xbf"
						 "wait: 2s\n");
	CHECK(bom->wait_ms == 2000);

	cleanup_config struct config *c = good("vaults:\n"
					       "  s: {file: /v}\n"
					       "  o: {address: 'https://h'}\n"
					       "mounts:\n"
					       "- {path: /a, vault: s}\n"
					       "- {path: /b, vault: o, secrets: [x/y]}\n");
	const struct config_vault *s = config_find_vault(c, "s"), *o = config_find_vault(c, "o");
	CHECK(s && o && !config_find_vault(c, "x"));
	CHECK(s->kind == CONFIG_VAULT_SEALED && s->refresh_s == 2 && s->max_stale_s == 86400 && s->line == 2);
	CHECK(!s->passphrase_file && !s->address);
	CHECK(o->kind == CONFIG_VAULT_OPENBAO && o->refresh_s == 60 && o->max_stale_s == 86400 && o->line == 3);
	CHECK(strcmp(o->kv_mount, "secret") == 0 && !o->namespace_ && !o->token_file && !o->file);
	CHECK(!o->ca_file && !o->cert_file && !o->key_file && !o->server_name);
	CHECK(o->connect_timeout_ms == 5000 && o->timeout_ms == 15000 && o->max_connections == 0);

	CHECK(c->n_mounts == 2);
	const struct config_mount *m = &c->mounts[0];
	CHECK(m->line == 5 && m->mode == 0400 && m->uid == geteuid() && m->gid == getegid());
	CHECK(m->allow.n_uids == 0 && m->allow.n_gids == 0 && !m->allow_other && m->n_secrets == 0);
	const struct config_secret *x = c->mounts[1].secrets;
	CHECK(c->mounts[1].n_secrets == 1 && x->line == 6 && !x->tree && !x->optional);
	CHECK(strcmp(x->path, "x/y") == 0 && strcmp(x->as, "x/y") == 0);
	CHECK(x->n_fields == 0 && x->n_binary == 0 && x->mode == 0 && x->uid == (uid_t)-1 && x->gid == (gid_t)-1);
}

static void test_top(void)
{
	cleanup_config struct config *c = good("log: {level: debug, format: json}\n"
					       "secret_memory: preferred\n"
					       "control_socket: /tmp/x.sock\n"
					       "cache: {max_entries: 1234, max_bytes: 64MiB}\n"
					       "wait: 1500ms\n");
	CHECK(c->log_level == LOG_DEBUG && c->log_format == LOG_JSON);
	CHECK(c->secret_memory == SECMEM_PREFERRED);
	CHECK(strcmp(c->control_socket, "/tmp/x.sock") == 0);
	CHECK(c->cache_max_entries == 1234 && c->cache_max_bytes == 64 << 20);
	CHECK(c->wait_ms == 1500);

	static const struct {
		const char *text;
		size_t bytes;
	} sizes[] = {
		{ "70000", 70000 }, { "64KiB", 64 << 10 }, { "3GiB", (size_t)3 << 30 }, { "'128KiB'", 128 << 10 }
	};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		char text[64];
		snprintf(text, sizeof text, "cache:\n  max_bytes: %s\n", sizes[i].text);
		cleanup_config struct config *s = good(text);
		CHECK_MSG(s->cache_max_bytes == sizes[i].bytes, "%s: %zu", text, s->cache_max_bytes);
	}
	static const struct {
		const char *text;
		unsigned ms;
	} waits[] = { { "1ms", 1 }, { "2s", 2000 }, { "3m", 180000 }, { "1h", 3600000 } };
	for (size_t i = 0; i < sizeof waits / sizeof *waits; i++) {
		char text[64];
		snprintf(text, sizeof text, "wait: %s", waits[i].text);
		cleanup_config struct config *w = good(text);
		CHECK_MSG(w->wait_ms == waits[i].ms, "%s: %u", text, w->wait_ms);
	}
}

static void test_vaults(void)
{
	cleanup_config struct config *c = good("vaults:\n"
					       "  eu.west-1_b:\n"
					       "    address: https://vault.example.eu:8200/prefix/\n"
					       "    kv_mount: kv/\n"
					       "    namespace: team/a\n"
					       "    token_file: /t\n"
					       "    ca_file: /ca\n"
					       "    cert_file: /cert\n"
					       "    key_file: /key\n"
					       "    server_name: vault.internal\n"
					       "    connect_timeout: 100ms\n"
					       "    timeout: 1m\n"
					       "    max_connections: 8\n"
					       "    refresh: 1s\n"
					       "    max_stale: 0\n"
					       "  fast: {address: 'http://127.0.0.1:8200', timeout: 2s}\n"
					       "  local:\n"
					       "    file: ~/vault\n"
					       "    passphrase_file: /run/pp\n"
					       "    refresh: 30d\n"
					       "    max_stale: 2d\n");
	CHECK(c->n_vaults == 3);
	const struct config_vault *v = &c->vaults[0];
	CHECK(strcmp(v->name, "eu.west-1_b") == 0);
	CHECK(strcmp(v->address, "https://vault.example.eu:8200/prefix") == 0);
	CHECK(strcmp(v->kv_mount, "kv") == 0);
	CHECK(strcmp(v->namespace_, "team/a") == 0);
	CHECK(strcmp(v->token_file, "/t") == 0 && strcmp(v->ca_file, "/ca") == 0);
	CHECK(strcmp(v->cert_file, "/cert") == 0 && strcmp(v->key_file, "/key") == 0);
	CHECK(strcmp(v->server_name, "vault.internal") == 0);
	CHECK(v->connect_timeout_ms == 100 && v->timeout_ms == 60000 && v->max_connections == 8);
	CHECK(v->refresh_s == 1 && v->max_stale_s == 0);
	/* the whole is shorter than the default of the connect */
	CHECK(c->vaults[1].timeout_ms == 2000 && c->vaults[1].connect_timeout_ms == 2000);
	const struct config_vault *l = &c->vaults[2];
	CHECK(strcmp(l->file, "/home/of/test/vault") == 0 && strcmp(l->passphrase_file, "/run/pp") == 0);
	CHECK(l->refresh_s == 30 * 86400 && l->max_stale_s == 2 * 86400);

	static const char *const addresses[] = {
		"https://h",
		"https://h:1",
		"https://10.0.0.1:65535",
		"https://[2001:db8::1]",
		"https://[::1]:8200/x",
		"http://localhost:8200",
		"http://127.9.9.9",
		"http://[::1]:8200",
		"https://a-b_c.d",
	};
	for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
		char text[128];
		snprintf(text, sizeof text, "vaults: {v: {address: \"%s\"}}", addresses[i]);
		cleanup_config struct config *a = good(text);
		CHECK(strcmp(a->vaults[0].address, addresses[i]) == 0);
	}
}

static void test_mounts(void)
{
	cleanup_config struct config *c = good(
		"vaults: {v: {file: /v}}\n"
		"mounts:\n"
		"  - path: /secrets\n"
		"    vault: v\n"
		"    mode: 0440\n"
		"    owner: root\n"
		"    group: 1000\n"
		"    allow: {users: [root, 1001, \"1002\"], groups: [root, 7]}\n"
		"    secrets:\n"
		"      - app/\n"
		"      - path: app/db\n"
		"        as: database\n"
		"        fields: {password: pw, username: username}\n"
		"        binary: [password]\n"
		"        mode: \"0444\"\n"
		"        owner: 5\n"
		"        group: root\n"
		"        optional: true\n"
		"      - path: deep/tree/\n"
		"        as: t/\n"
		"      - path: whole/\n"
		"        as: ''\n"
		"      - app\n"
		"  - path: ~/s\n"
		"    vault: v\n"
		"    allow_other: true\n"
		"    mode: 400\n"
		"    secrets: [/]\n"
		"  - {path: /secrets-more, vault: v, secrets: [{path: a%b, as: \"x/y%\"}]}\n");
	CHECK(c->n_mounts == 3);
	const struct config_mount *m = &c->mounts[0];
	CHECK(m->line == 3 && strcmp(m->path, "/secrets") == 0 && strcmp(m->vault, "v") == 0);
	CHECK(m->mode == 0440 && m->uid == 0 && m->gid == 1000 && m->allow_other);
	CHECK(m->allow.n_uids == 3 && m->allow.uids[0] == 0 && m->allow.uids[1] == 1001 && m->allow.uids[2] == 1002);
	CHECK(m->allow.n_gids == 2 && m->allow.gids[0] == 0 && m->allow.gids[1] == 7);
	CHECK(m->n_secrets == 5);
	const struct config_secret *s = m->secrets;
	CHECK(s[0].line == 10 && s[0].tree && strcmp(s[0].path, "app/") == 0 && strcmp(s[0].as, "app") == 0);
	CHECK(s[1].line == 11 && !s[1].tree && strcmp(s[1].path, "app/db") == 0 && strcmp(s[1].as, "database") == 0);
	CHECK(s[1].n_fields == 2);
	CHECK(strcmp(s[1].fields[0].from, "password") == 0 && strcmp(s[1].fields[0].to, "pw") == 0);
	CHECK(strcmp(s[1].fields[1].from, "username") == 0 && strcmp(s[1].fields[1].to, "username") == 0);
	CHECK(s[1].n_binary == 1 && strcmp(s[1].binary[0], "password") == 0);
	CHECK(s[1].mode == 0444 && s[1].uid == 5 && s[1].gid == 0 && s[1].optional);
	CHECK(s[2].tree && strcmp(s[2].path, "deep/tree/") == 0 && strcmp(s[2].as, "t") == 0);
	CHECK(s[3].tree && strcmp(s[3].path, "whole/") == 0 && strcmp(s[3].as, "") == 0);
	CHECK(!s[4].tree && strcmp(s[4].as, "app") == 0); /* beside the tree of the same name */
	m = &c->mounts[1];
	CHECK(strcmp(m->path, "/home/of/test/s") == 0 && m->allow_other && m->mode == 0400);
	CHECK(m->n_secrets == 1 && m->secrets[0].tree);
	CHECK(strcmp(m->secrets[0].path, "") == 0 && strcmp(m->secrets[0].as, "") == 0);
	CHECK(strcmp(c->mounts[2].secrets[0].as, "x/y%") == 0);
}

/* ---- what is refused ---- */

#define V "vaults: {v: {file: /v}}\n"
#define M V "mounts:\n- path: /m\n  vault: v\n"
/* What is wrong with one vault, from line 3 on */
#define S "vaults:\n  v:\n    file: /v\n"
#define O "vaults:\n  v:\n    address: https://h\n"

struct bad {
	const char *text;
	/* LINE: KEY: what the sentence begins with; one a line */
	const char *want;
};

static const struct bad syntax[] = {
	{ "a: [1\n", "2: not valid YAML: did not find expected ',' or ']'" },
	{ "log:\n\tlevel: info\n", "2: a tab where YAML wants spaces" },
	{ "log: {level: info}\n---\nlog: {level: info}\n", "2: a second document" },
	{ "log: &a {level: info}\n", "1: anchors" },
	{ "log:\n  &k level: info\n", "2: anchors" },
	{ "wait: *a\n", "1: aliases" },
	{ "wait: !!str 10s\n", "1: tags" },
	{ "wait: ! 10s\n", "1: tags" },
	{ "log: !x\n  level: info\n", "1: tags" },
	{ "a: !!seq [1]\n", "1: tags" },
	{ "[a, b]: c\n", "1: a key must be a name" },
	{ "? {a: b}\n: c\n", "1: a key must be a name" },
	{ "log:\n  level: \xff\n", "2: not UTF-8" },
	{ "\xff\xfe"
	  "a",
	  "1: not UTF-8" },
	{ "log:\n  level: \x01\n", "2: not valid YAML: control characters are not allowed" },
	{ "a: [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]\n", "1: nested too deep" },
	{ "just a sentence\n", "1: must be a map" },
	{ "- a\n- b\n", "1: must be a map" },
};

static const struct bad top[] = {
	{ "lgo: {level: info}\n", "1: lgo: unknown key; did you mean 'log'?" },
	{ "\nwibble: 1\n",
	  "2: wibble: unknown key; known here: log, secret_memory, control_socket, cache, wait, vaults, mounts" },
	{ "a\\b\": 1\n", "1: a\\b\": unknown key" },
	{ "\"a\\nb\\e[31m\": 1\n", "1: a\\x0ab\\x1b[31m: unknown key" },
	{ "\"wait\\0\": 1s\n", "1: wait: unknown key" },
	{ "<<: {wait: 1s}\n", "1: <<: unknown key" },
	{ "wait: 1s\nlog: {}\nwait: 2s\n", "3: wait: given twice; first in line 1" },
	{ "log:\n  level: info\n  levle: info\n", "3: log.levle: unknown key; did you mean 'level'?" },
	{ "log: {level: loud}\n", "1: log.level: must be error, warn, info or debug" },
	{ "log: {level: [info]}\n", "1: log.level: must be error" },
	{ "log: {format: xml}\n", "1: log.format: must be text or json" },
	{ "log: info\n", "1: log: must be a map" },
	{ "log:\n", "1: log: has no value" },
	{ "log: {level: }\n", "1: log.level: has no value" },
	{ "secret_memory: off\n", "1: secret_memory: must be required or preferred" },
	{ "secret_memory: true\n", "1: secret_memory: must be required or preferred" },
	{ "control_socket: run/x\n", "1: control_socket: must be an absolute path" },
	{ "control_socket: /run/\n", "1: control_socket: must name a file" },
	{ "control_socket: 1\n", "1: control_socket: must be the path of a file: put it in quotes" },
	{ "control_socket: ''\n", "1: control_socket: must be the path of a file, and is empty" },
	{ "control_socket: \"/a\\0b\"\n", "1: control_socket: holds a NUL byte" },
	{ "control_socket: /a23456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"
	  "123456789012345678\n",
	  "1: control_socket: is longer than 107 bytes" },
	{ "cache: {max_entries: 0}\n", "1: cache.max_entries: must be from 1 to 100000000" },
	{ "cache: {max_entries: -1}\n", "1: cache.max_entries: must be a whole number" },
	{ "cache: {max_entries: 1.5}\n", "1: cache.max_entries: must be a whole number" },
	{ "cache: {max_entries: 64KiB}\n", "1: cache.max_entries: must be a whole number" },
	{ "cache: {max_bytes: 64MB}\n",
	  "1: cache.max_bytes: must be a size: a whole number of bytes, or with its unit" },
	{ "cache: {max_bytes: 1KiB}\n", "1: cache.max_bytes: must be from 64KiB to 1024GiB" },
	{ "cache: {max_bytes: 99999999999999999999}\n", "1: cache.max_bytes: must be from 64KiB to 1024GiB" },
	{ "cache: {max_bytes: 17179869184GiB}\n", "1: cache.max_bytes: must be from 64KiB to 1024GiB" },
	{ "wait: 10\n", "1: wait: must be a duration: a whole number and its unit (ms, s, m, h or d), as in 10s" },
	{ "wait: 10 s\n", "1: wait: must be a duration" },
	{ "wait: 1.5s\n", "1: wait: must be a duration" },
	{ "wait: -1s\n", "1: wait: must be a duration" },
	{ "wait: s\n", "1: wait: must be a duration" },
	{ "wait: [1s]\n", "1: wait: must be a duration" },
	{ "wait: 0\n", "1: wait: must be from 1ms to 1h" },
	{ "wait: 2h\n", "1: wait: must be from 1ms to 1h" },
	{ "wait: 18446744073709551616s\n", "1: wait: must be from 1ms to 1h" },
};

static const struct bad vaults[] = {
	{ "vaults: []\n", "1: vaults: must be a map of vaults" },
	{ "vaults: {v: }\n", "1: vaults.v: must be a map" },
	{ "vaults:\n  a/b: {file: /v}\n", "2: vaults.a/b: a vault's name has 1 to 63" },
	{ "vaults:\n  -x: {file: /v}\n", "2: vaults.-x: a vault's name has 1 to 63" },
	{ "vaults:\n  '': {file: /v}\n", "2: vaults.: a vault's name has 1 to 63" },
	{ "vaults:\n  a: {file: /v}\n  a: {file: /w}\n", "3: vaults.a: given twice; first in line 2" },
	{ "vaults:\n  v: {}\n", "2: vaults.v: needs 'address' (an OpenBao or Vault server) or 'file'" },
	{ "vaults:\n  v: {refresh: 2s}\n", "2: vaults.v: needs 'address'" },
	{ S "    address: https://h\n", "3: vaults.v.file: is a sealed local vault, 'address' a server" },
	{ S "    token_file: /t\n    kv_mount: x\n", "4: vaults.v.token_file: belongs to a server\n"
						     "5: vaults.v.kv_mount: belongs to a server" },
	{ O "    passphrase_file: /p\n", "4: vaults.v.passphrase_file: belongs to a sealed local vault" },
	{ S "    adress: https://h\n", "4: vaults.v.adress: unknown key; did you mean 'address'?" },
	{ S "    token: hvs.x\n", "4: vaults.v.token: unknown key; did you mean 'token_file'?" },
	{ S "    refresh: 999ms\n", "4: vaults.v.refresh: must be from 1s to 30d" },
	{ S "    refresh: 0\n", "4: vaults.v.refresh: must be from 1s to 30d" },
	{ S "    refresh: 1500ms\n", "4: vaults.v.refresh: must be whole seconds" },
	{ S "    max_stale: 366d\n", "4: vaults.v.max_stale: must be from 0 to 365d" },
	{ S "    passphrase_file: pp\n", "4: vaults.v.passphrase_file: must be an absolute path" },
	{ O "    cert_file: /c\n", "4: vaults.v.cert_file: needs 'key_file' beside it" },
	{ O "    key_file: /c\n", "4: vaults.v.key_file: needs 'cert_file' beside it" },
	{ O "    connect_timeout: 20s\n", "4: vaults.v.connect_timeout: is longer than 'timeout'" },
	{ O "    timeout: 99ms\n", "4: vaults.v.timeout: must be from 100ms to 1h" },
	{ O "    max_connections: 257\n", "4: vaults.v.max_connections: must be from 1 to 256" },
	{ O "    max_connections: many\n", "4: vaults.v.max_connections: must be a whole number" },
	{ O "    kv_mount: /kv\n", "4: vaults.v.kv_mount: begins with '/'" },
	{ O "    kv_mount: a//b\n", "4: vaults.v.kv_mount: has an empty part" },
	{ O "    namespace: a/../b\n", "4: vaults.v.namespace: has a '.' or '..' in it" },
	{ O "    server_name: h:8200\n", "4: vaults.v.server_name: must be a host's name" },
};

static const struct {
	const char *address, *want;
} addresses[] = {
	{ "h:8200", "must begin with https://" },
	{ "ftp://h", "must begin with https://" },
	{ "https://", "has no valid host" },
	{ "https:///x", "has no valid host" },
	{ "https://h:", "has no valid port" },
	{ "https://h:0", "has a port outside" },
	{ "https://h:65536", "has a port outside" },
	{ "https://h:123456", "has no valid port" },
	{ "https://h:8a", "has no valid port" },
	{ "https://[::1", "has no valid host" },
	{ "https://[]", "has no valid host" },
	{ "https://[x]", "has no valid IPv6" },
	{ "https://[::1]8200", "has no valid port" },
	{ "https://me:hunter2@h", "must not hold a user name or password" },
	{ "https://h?x", "must end before" },
	{ "https://h/#x", "must end before" },
	{ "https://h /x", "holds a space" },
	{ "https://h\xc3\xa4", "holds a space or a character outside ASCII" },
	{ "http://vault.example.eu:8200", "is http://, which shows secrets to the network" },
	{ "http://128.0.0.1", "is http://, which shows secrets" },
	{ "http://localhost.example.eu", "is http://, which shows secrets" },
	{ "http://127.0.0.1.example.eu", "is http://, which shows secrets" },
	{ "http://127.1", "is http://, which shows secrets" },
	{ "http://[::2]", "is http://, which shows secrets" },
};

static const struct bad mounts[] = {
	{ "mounts: {path: /m}\n", "1: mounts: must be a list of mounts" },
	{ "mounts: [/m]\n", "1: mounts[0]: must be a map" },
	{ V "mounts:\n- vault: v\n", "3: mounts[0]: needs 'path'" },
	{ V "mounts:\n- path: /m\n", "3: mounts[0]: needs 'vault'" },
	{ V "mounts:\n- path: /m\n  vault: w\n", "4: mounts[0].vault: 'w' is not one of 'vaults'" },
	{ V "mounts:\n- path: m\n  vault: v\n", "3: mounts[0].path: must be an absolute path" },
	{ V "mounts:\n- path: /\n  vault: v\n", "3: mounts[0].path: cannot be '/'" },
	{ V "mounts:\n- path: //\n  vault: v\n", "3: mounts[0].path: must be normalised" },
	{ V "mounts:\n- path: /m/\n  vault: v\n", "3: mounts[0].path: must be normalised" },
	{ V "mounts:\n- path: /a//m\n  vault: v\n", "3: mounts[0].path: must be normalised" },
	{ V "mounts:\n- path: /a/../m\n  vault: v\n", "3: mounts[0].path: must be normalised" },
	{ V "mounts:\n- path: /./m\n  vault: v\n", "3: mounts[0].path: must be normalised" },
	{ M "- path: /m\n  vault: v\n", "5: mounts[1].path: is that of mounts[0] (line 3) already" },
	{ M "- path: /m-x\n  vault: v\n- path: /m/y\n  vault: v\n",
	  "7: mounts[2].path: lies inside mounts[0] (line 3): mounts may not be nested" },
	{ V "mounts:\n- {path: /a/b, vault: v}\n- {path: /a, vault: v}\n- {path: /a/b/c, vault: v}\n",
	  "3: mounts[0].path: lies inside mounts[1] (line 4)\n5: mounts[2].path: lies inside mounts[1] (line 4)" },
	{ M "  mode: 0600\n", "5: mounts[0].mode: has write bits: a mount is read-only" },
	{ M "  mode: 0500\n", "5: mounts[0].mode: has bits besides reading" },
	{ M "  mode: 04400\n", "5: mounts[0].mode: has bits besides reading" },
	{ M "  mode: 0\n", "5: mounts[0].mode: lets nobody read" },
	{ M "  mode: 0800\n", "5: mounts[0].mode: must be file permissions in octal" },
	{ M "  mode: 0o400\n", "5: mounts[0].mode: must be file permissions in octal" },
	{ M "  mode: u=r\n", "5: mounts[0].mode: must be file permissions in octal" },
	{ M "  mode: 000400\n", "5: mounts[0].mode: must be file permissions in octal" },
	{ M "  mode: [4]\n", "5: mounts[0].mode: must be file permissions in octal" },
	{ M "  owner: no-such-user-here\n", "5: mounts[0].owner: there is no user 'no-such-user-here' here" },
	{ M "  group: no-such-group-here\n", "5: mounts[0].group: there is no group 'no-such-group-here' here" },
	{ M "  owner: -1\n", "5: mounts[0].owner: must be a user's name or number; numbers go from 0 to 4294967294" },
	{ M "  owner: 4294967295\n", "5: mounts[0].owner: must be a user's name or number" },
	{ M "  group: true\n", "5: mounts[0].group: must be a group's name or number" },
	{ M "  allow: [root]\n", "5: mounts[0].allow: must be a map" },
	{ M "  allow: {user: [root]}\n", "5: mounts[0].allow.user: unknown key; did you mean 'users'?" },
	{ M "  allow: {users: root}\n", "5: mounts[0].allow.users: must be a list" },
	{ M "  allow:\n    users:\n    - 0\n    - no-such-user-here\n    groups: [[]]\n",
	  "8: mounts[0].allow.users[1]: there is no user\n9: mounts[0].allow.groups[0]: must be a group's name or "
	  "number" },
	{ M "  allow_other: no\n", "5: mounts[0].allow_other: must be true or false" },
	{ M "  allow: {groups: [0]}\n  allow_other: false\n", "6: mounts[0].allow_other: is false" },
	{ M "  allow_other: false\n  allow: {users: [12345]}\n", "5: mounts[0].allow_other: is false" },
	{ M "  owner: 12345\n  allow_other: false\n",
	  "6: mounts[0].allow_other: is false, but 'owner' or 'allow' name others" },
};

#define N64 "1234567890123456789012345678901234567890123456789012345678901234"
#define N256 N64 N64 N64 N64

static const struct bad secrets[] = {
	{ M "  secrets: app/\n", "5: mounts[0].secrets: must be a list" },
	{ M "  secrets: []\n", "5: mounts[0].secrets: is empty: leave the key out to show the whole vault" },
	{ M "  secrets: [1]\n", "5: mounts[0].secrets[0]: must be a path in the vault, or a map" },
	{ M "  secrets: [~]\n", "5: mounts[0].secrets[0]: must be a path in the vault, or a map" },
	{ M "  secrets: ['']\n", "5: mounts[0].secrets[0]: must be a secret's path, and is empty" },
	{ M "  secrets: [/app/db]\n", "5: mounts[0].secrets[0]: begins with '/'" },
	{ M "  secrets: [//]\n", "5: mounts[0].secrets[0]: begins with '/'" },
	{ M "  secrets: [a//b]\n", "5: mounts[0].secrets[0]: has an empty part" },
	{ M "  secrets: [a//]\n", "5: mounts[0].secrets[0]: has an empty part" },
	{ M "  secrets: [a/./b]\n", "5: mounts[0].secrets[0]: has a '.' or '..'" },
	{ M "  secrets: [../b]\n", "5: mounts[0].secrets[0]: has a '.' or '..'" },
	{ M "  secrets:\n  - as: x\n", "6: mounts[0].secrets[0]: needs 'path'" },
	{ M "  secrets:\n  - path: a\n    ass: x\n", "7: mounts[0].secrets[0].ass: unknown key; did you mean 'as'?" },
	{ M "  secrets:\n  - path: a/../b\n    as: x\n", "6: mounts[0].secrets[0].path: has a '.' or '..'" },
	{ M "  secrets:\n  - path: a\n    as: /x\n", "7: mounts[0].secrets[0].as: begins with '/'" },
	{ M "  secrets:\n  - path: a\n    as: x/\n", "7: mounts[0].secrets[0].as: has an empty part" },
	{ M "  secrets:\n  - path: a\n    as: x/../y\n", "7: mounts[0].secrets[0].as: has a '.' or '..'" },
	{ M "  secrets:\n  - path: a\n    as: ''\n", "7: mounts[0].secrets[0].as: is empty: only a tree" },
	{ M "  secrets:\n  - path: a\n    as: /\n", "7: mounts[0].secrets[0].as: is empty: only a tree" },
	{ M "  secrets:\n  - path: a\n    as: 2024\n",
	  "7: mounts[0].secrets[0].as: must be a path below the mount: put it in quotes" },
	{ M "  secrets:\n  - a/" N256 "\n", "6: mounts[0].secrets[0]: has a part longer than 255 bytes" },
	{ M "  secrets:\n  - path: a\n    as: \"%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%" N64 N64 N64 "\"\n",
	  "7: mounts[0].secrets[0].as: has a part longer" },
	{ M "  secrets:\n  - a/b\n  - c\n  - a/b\n",
	  "8: mounts[0].secrets[2]: appears at the same place as secrets[0] (line 6)" },
	{ M "  secrets:\n  - x/\n  - {path: y/, as: x}\n",
	  "7: mounts[0].secrets[1]: appears at the same place as secrets[0]" },
	{ M "  secrets: [a/, a, {path: b/, as: a}]\n",
	  "5: mounts[0].secrets[2]: appears at the same place as secrets[0] (line 5)" },
	{ M "  secrets:\n  - b\n  - path: a\n    as: b\n  - path: c\n    as: b\n",
	  "7: mounts[0].secrets[1]: appears at the same place as secrets[0] (line 6)\n"
	  "9: mounts[0].secrets[2]: appears at the same place as secrets[1] (line 7)" },
	{ M "  secrets:\n  - path: a\n    fields: {}\n", "7: mounts[0].secrets[0].fields: is empty" },
	{ M "  secrets:\n  - path: a\n    fields: [x]\n", "7: mounts[0].secrets[0].fields: must be a map" },
	{ M "  secrets:\n  - path: a\n    fields:\n      x: a/b\n",
	  "8: mounts[0].secrets[0].fields.x: must not hold a '/'" },
	{ M "  secrets:\n  - path: a\n    fields:\n      x: \"a\\0b\"\n",
	  "8: mounts[0].secrets[0].fields.x: holds a NUL byte" },
	{ M "  secrets:\n  - path: a\n    fields:\n      x: ''\n",
	  "8: mounts[0].secrets[0].fields.x: must be the name of a file, and is empty" },
	{ M "  secrets:\n  - path: a\n    fields:\n      x:\n",
	  "8: mounts[0].secrets[0].fields.x: must be the name of a file" },
	{ M "  secrets:\n  - path: a\n    fields:\n      x: .json\n      y: .version\n",
	  "8: mounts[0].secrets[0].fields.x: must not be '.json' or '.version'\n"
	  "9: mounts[0].secrets[0].fields.y: must not be '.json' or '.version'" },
	{ M "  secrets:\n  - path: a\n    fields:\n      x: ..\n",
	  "8: mounts[0].secrets[0].fields.x: must not be '.' or '..'" },
	{ M "  secrets:\n  - path: a\n    fields:\n      x: n" N256 "\n",
	  "8: mounts[0].secrets[0].fields.x: is longer than 255 bytes" },
	{ M "  secrets:\n  - path: a\n    fields:\n      '': x\n",
	  "8: mounts[0].secrets[0].fields.: a field's name is empty" },
	{ M "  secrets:\n  - path: a\n    fields:\n      x: z\n      x: y\n",
	  "9: mounts[0].secrets[0].fields.x: given twice; first in line 8" },
	{ M "  secrets:\n  - path: a\n    fields: {x: z, y: z}\n",
	  "7: mounts[0].secrets[0].fields: two fields would be called 'z'" },
	{ M "  secrets:\n  - path: a\n    binary: x\n", "7: mounts[0].secrets[0].binary: must be a list" },
	{ M "  secrets:\n  - path: a\n    binary: [x, 1]\n",
	  "7: mounts[0].secrets[0].binary[1]: must be a field's name: put it in quotes" },
	{ M "  secrets:\n  - path: a\n    fields: {x: y}\n    binary: [x, y]\n",
	  "8: mounts[0].secrets[0].binary: names 'y', which 'fields' does not show" },
	{ M "  secrets:\n  - path: a\n    mode: 0200\n", "7: mounts[0].secrets[0].mode: has write bits" },
	{ M "  secrets:\n  - path: a\n    owner: no-such-user-here\n",
	  "7: mounts[0].secrets[0].owner: there is no user" },
	{ M "  secrets:\n  - path: a\n    group: no-such-group-here\n",
	  "7: mounts[0].secrets[0].group: there is no group" },
	{ M "  secrets:\n  - path: a\n    optional: yes\n", "7: mounts[0].secrets[0].optional: must be true or false" },
};

/* Each line of `want` begins one line of what was found, in order, and there are no others. */
static void compare(const char *text, const char *want)
{
	const char *f = found;

	for (;;) {
		size_t n = strcspn(want, "\n");
		CHECK_MSG(strncmp(f, want, n) == 0, "%s\nwanted: %s\nfound:  %s", text, want, found);
		f += strcspn(f, "\n");
		CHECK(*f == '\n');
		f++;
		if (!want[n])
			break;
		want += n + 1;
	}
	CHECK_MSG(!*f, "%s\nmore than wanted: %s", text, f);
}

static void refused(const char *text, size_t len, const char *want)
{
	struct config *c = (struct config *)&c;
	struct err e = ERR_INIT;
	int n = check_text(text, len);

	compare(text, want);
	CHECK_MSG(n > 0, "%s", text);
	CHECK(config_load(file, &c, &e) == -EINVAL);
	CHECK(c == (struct config *)&c);
	size_t first = strcspn(found, "\n"), prefix = strlen(file) + 1;
	CHECK_MSG(strncmp(e.msg, file, prefix - 1) == 0 && strncmp(e.msg + prefix, found, first) == 0, "%s", e.msg);
	CHECK((n > 1) == !!strstr(e.msg, "more: see cloudtaser validate config"));
}

static void test_refused(void)
{
	static const struct {
		const struct bad *cases;
		size_t n;
	} tables[] = {
#define TABLE(t) { t, sizeof t / sizeof *t }
		TABLE(syntax), TABLE(top), TABLE(vaults), TABLE(mounts), TABLE(secrets),
	};

	for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
		for (size_t i = 0; i < tables[t].n; i++)
			refused(tables[t].cases[i].text, strlen(tables[t].cases[i].text), tables[t].cases[i].want);
	for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
		char text[256], want[256];
		snprintf(text, sizeof text, "vaults:\n  v:\n    address: \"%s\"\n", addresses[i].address);
		snprintf(want, sizeof want, "3: vaults.v.address: %s", addresses[i].want);
		refused(text, strlen(text), want);
		CHECK(!strstr(found, "hunter2"));
	}
	refused("log: {}\nwait: \0 1s\n", 18, "2: a NUL byte");
}

/* Everything that is wrong is told, in the order of the lines. */
static void test_all_at_once(void)
{
	static const char text[] = "mounts:\n"
				   "- path: /a\n"
				   "  vault: nowhere\n"
				   "  mode: 0666\n"
				   "  secrets: [x, x]\n"
				   "vaults:\n"
				   "  v: {fil: /v}\n"
				   "wait: forever\n";
	int n = check_text(text, sizeof text - 1);

	compare(text, "3: mounts[0].vault: 'nowhere'\n4: mounts[0].mode: has write bits\n"
		      "5: mounts[0].secrets[1]: appears at the same place\n7: vaults.v.fil: unknown key\n"
		      "7: vaults.v: needs 'address'\n8: wait: must be a duration");
	CHECK(n == 6);
}

static void test_bounds(void)
{
	enum { MIB = 1 << 20 };
	char *big = malloc(MIB + 1);
	CHECK(big);

	memset(big, ' ', MIB + 1);
	memcpy(big, "wait: 1s\n#", 10);
	CHECK(check_text(big, MIB) == 0);
	refused(big, MIB + 1, "1: the file is larger than 1 MiB");

	/* a thousand findings are told, the rest counted */
	size_t n = 0, len = 0;
	while (len < 100000)
		len += (size_t)sprintf(big + len, "k%zu: 1\n", n++);
	CHECK(check_text(big, len) == (int)n);
	char more[64];
	snprintf(more, sizeof more, "\nand %zu more findings\n", n - 1000);
	CHECK(strstr(found, more));
	size_t lines = 0;
	for (const char *p = found; *p; p++)
		lines += *p == '\n';
	CHECK(lines == 1001);

	/* nesting: 16 levels are read, of which the schema then has its say */
	static const struct bad deep[] = {
		{ "wait: [[[[[[[[[[[[[[[]]]]]]]]]]]]]]]\n", "1: wait: must be a duration" },
		{ "wait: [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]\n", "1: nested too deep" },
	};
	for (size_t i = 0; i < 2; i++)
		refused(deep[i].text, strlen(deep[i].text), deep[i].want);
	free(big);
}

static void test_files(void)
{
	struct config *c = NULL;
	struct err e = ERR_INIT;

	CHECK(config_load("/nonexistent/config.yaml", &c, &e) == -ENOENT);
	CHECK(strstr(e.msg, "/nonexistent/config.yaml"));
	CHECK(config_check("/nonexistent/config.yaml", collect, NULL, &e) == -ENOENT);
	CHECK(config_load(dir, &c, &e) == -EISDIR);
	CHECK(!c);
}

static void test_examples(void)
{
	static const char *const names[] = { "examples/config-minimal.yaml", "examples/config-openbao.yaml" };

	for (size_t i = 0; i < 2; i++) {
		cleanup_config struct config *c = NULL;
		struct err e = ERR_INIT;
		CHECK_MSG(config_load(names[i], &c, &e) == 0, "%s", e.msg);
		CHECK(c->n_mounts == 1 && config_find_vault(c, c->mounts[0].vault));
	}
}

int main(void)
{
	CHECK(mkdtemp(dir));
	snprintf(file, sizeof file, "%s/config.yaml", dir);
	CHECK(setenv("HOME", "/home/of/test", 1) == 0);

	test_defaults();
	test_top();
	test_vaults();
	test_mounts();
	test_refused();
	test_all_at_once();
	test_bounds();
	test_files();
	test_examples();

	unlink(file);
	rmdir(dir);
	puts("ok");
	return 0;
}
