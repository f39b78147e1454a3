/* SPDX-License-Identifier: Apache-2.0 */
#include "base/config_read.h"

#include "base/cleanup.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VAULTS_MAX = 1024, HOST_MAX = 253 };

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_host(const char *s, size_t n)
{
	if (!n || n > HOST_MAX)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!is_alnum(s[i]) && s[i] != '.' && s[i] != '-' && s[i] != '_')
			return false;
	return true;
}

static bool is_loopback(const char *host)
{
	struct in_addr v4;

	return strcmp(host, "localhost") == 0 || (inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127);
}

/* The authority of a URL: "host", "host:port", "[v6]", "[v6]:port". */
static const char *authority_fault(const char *s, size_t n, bool *ret_loopback)
{
	char host[HOST_MAX + 1];
	size_t len;

	if (n && s[0] == '[') {
		struct in6_addr v6;
		const char *end = memchr(s, ']', n);
		len = end ? (size_t)(end - s) - 1 : 0;
		if (!len || len >= sizeof host)
			return "has no valid host in it";
		memcpy(host, s + 1, len);
		host[len] = '\0';
		if (inet_pton(AF_INET6, host, &v6) != 1)
			return "has no valid IPv6 address in its brackets";
		*ret_loopback = IN6_IS_ADDR_LOOPBACK(&v6);
		len += 2;
	} else {
		const char *colon = memchr(s, ':', n);
		len = colon ? (size_t)(colon - s) : n;
		if (!is_host(s, len))
			return "has no valid host in it";
		memcpy(host, s, len);
		host[len] = '\0';
		*ret_loopback = is_loopback(host);
	}
	if (len == n)
		return NULL;

	unsigned port = 0;
	if (s[len] != ':' || len + 1 == n || n - len > 6)
		return "has no valid port behind its host";
	for (size_t i = len + 1; i < n; i++) {
		if (s[i] < '0' || s[i] > '9')
			return "has no valid port behind its host";
		port = port * 10 + (unsigned)(s[i] - '0');
	}
	return port >= 1 && port <= 65535 ? NULL : "has a port outside 1 to 65535";
}

static const char *address_fault(const char *s)
{
	bool plain = strncmp(s, "http://", 7) == 0, loopback = false;

	if (!plain && strncmp(s, "https://", 8) != 0)
		return "must begin with https://";
	s += plain ? 7 : 8;
	for (const char *p = s; *p; p++)
		if (*p <= ' ' || *p >= 0x7f)
			return "holds a space or a character outside ASCII";
	if (strpbrk(s, "?#"))
		return "must end before '?' or '#'";

	size_t n = strcspn(s, "/");
	if (memchr(s, '@', n))
		return "must not hold a user name or password";
	const char *fault = authority_fault(s, n, &loopback);
	if (fault)
		return fault;
	return plain && !loopback ?
		       "is http://, which shows secrets to the network: use https:// (http:// only to this "
		       "machine itself)" :
		       NULL;
}

static void read_address(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	(void)k;
	const char *s = config_text(r, at, v, "a URL, as in https://vault.example.eu:8200");
	const char *fault = s ? address_fault(s) : NULL;

	if (fault) {
		config_finding(r, yamldoc_line(r->doc, v), at, "%s", fault);
	} else if (s) {
		size_t n = strlen(s);
		while (s[n - 1] == '/')
			n--;
		config_set_string(r, out, s, n);
	}
}

static void read_server_name(struct reader *r, const struct at *at, const struct json *v, const struct key *k,
			     void *out)
{
	(void)k;
	const char *s = config_text(r, at, v, "a host's name");

	if (s && !is_host(s, strlen(s)))
		config_finding(r, yamldoc_line(r->doc, v), at, "must be a host's name, without a port");
	else if (s)
		config_set_string(r, out, s, strlen(s));
}

/* A KV mount or a namespace: "team/a", also as vaults print them, "team/a/". */
static void read_vault_path(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	(void)k;
	const char *s = config_text(r, at, v, "a path in the vault");
	size_t n = s ? strlen(s) : 0;

	if (!s)
		return;
	if (n > 1 && s[n - 1] == '/')
		n--;
	cleanup_free char *path = strndup(s, n);
	const char *fault = path ? config_path_fault(path) : NULL;
	if (!path)
		r->no_memory = true;
	else if (fault)
		config_finding(r, yamldoc_line(r->doc, v), at, "%s", fault);
	else
		config_set_string(r, out, path, n);
}

/* In the order of vault_keys. */
enum vault_key {
	FILE_KEY,
	PASSPHRASE_FILE,
	ADDRESS,
	KV_MOUNT,
	NAMESPACE,
	TOKEN_FILE,
	CA_FILE,
	CERT_FILE,
	KEY_FILE,
	SERVER_NAME,
	CONNECT_TIMEOUT,
	TIMEOUT,
	MAX_CONNECTIONS,
	REFRESH,
	MAX_STALE,
	N_VAULT_KEYS
};
enum { SECOND = 1000, HOUR = 3600 * SECOND };

#define AT(member) offsetof(struct config_vault, member)
static const struct key vault_keys[N_VAULT_KEYS] = {
	[FILE_KEY] = { "file", config_read_file, AT(file) },
	[PASSPHRASE_FILE] = { "passphrase_file", config_read_file, AT(passphrase_file) },
	[ADDRESS] = { "address", read_address, AT(address) },
	[KV_MOUNT] = { "kv_mount", read_vault_path, AT(kv_mount) },
	[NAMESPACE] = { "namespace", read_vault_path, AT(namespace_) },
	[TOKEN_FILE] = { "token_file", config_read_file, AT(token_file) },
	[CA_FILE] = { "ca_file", config_read_file, AT(ca_file) },
	[CERT_FILE] = { "cert_file", config_read_file, AT(cert_file) },
	[KEY_FILE] = { "key_file", config_read_file, AT(key_file) },
	[SERVER_NAME] = { "server_name", read_server_name, AT(server_name) },
	[CONNECT_TIMEOUT] = { "connect_timeout", config_read_ms, AT(connect_timeout_ms), 100, HOUR },
	[TIMEOUT] = { "timeout", config_read_ms, AT(timeout_ms), 100, HOUR },
	[MAX_CONNECTIONS] = { "max_connections", config_read_unsigned, AT(max_connections), 1, 256 },
	[REFRESH] = { "refresh", config_read_seconds, AT(refresh_s), SECOND, UINT64_C(30) * 24 * HOUR },
	[MAX_STALE] = { "max_stale", config_read_seconds, AT(max_stale_s), 0, UINT64_C(365) * 24 * HOUR },
};
#undef AT

static bool has(uint64_t seen, enum vault_key k)
{
	return seen >> k & 1;
}

static int line_of(const struct reader *r, const struct json *map, enum vault_key k)
{
	return yamldoc_line(r->doc, json_get(map, vault_keys[k].name));
}

/* What the keys of one vault must be to each other. */
static void check_vault(struct reader *r, const struct at *at, const struct json *map, uint64_t seen,
			struct config_vault *v)
{
	if (!has(seen, FILE_KEY) && !has(seen, ADDRESS)) {
		config_finding(r, v->line, at,
			       "needs 'address' (an OpenBao or Vault server) or 'file' (a sealed local vault)");
		return;
	}
	v->kind = has(seen, ADDRESS) ? CONFIG_VAULT_OPENBAO : CONFIG_VAULT_SEALED;
	if (has(seen, FILE_KEY) && has(seen, ADDRESS)) {
		struct at key = { .up = at, .key = "file" };
		config_finding(r, line_of(r, map, FILE_KEY), &key,
			       "is a sealed local vault, 'address' a server: a vault is one of them");
		return;
	}

	bool sealed = v->kind == CONFIG_VAULT_SEALED;
	enum vault_key first = sealed ? KV_MOUNT : PASSPHRASE_FILE, end = sealed ? REFRESH : ADDRESS;
	for (enum vault_key k = first; k < end; k++)
		if (has(seen, k)) {
			struct at key = { .up = at, .key = vault_keys[k].name };
			config_finding(
				r, line_of(r, map, k), &key,
				sealed ? "belongs to a server ('address'); this is a sealed local vault ('file')" :
					 "belongs to a sealed local vault ('file'); this is a server ('address')");
		}
	if (has(seen, CERT_FILE) != has(seen, KEY_FILE)) {
		enum vault_key there = has(seen, CERT_FILE) ? CERT_FILE : KEY_FILE;
		struct at key = { .up = at, .key = vault_keys[there].name };
		config_finding(r, line_of(r, map, there), &key, "needs '%s' beside it",
			       vault_keys[there == CERT_FILE ? KEY_FILE : CERT_FILE].name);
	}
	if (v->connect_timeout_ms > v->timeout_ms) {
		struct at key = { .up = at, .key = "connect_timeout" };
		if (has(seen, CONNECT_TIMEOUT))
			config_finding(r, line_of(r, map, CONNECT_TIMEOUT), &key,
				       "is longer than 'timeout', which bounds the whole exchange");
		else
			v->connect_timeout_ms = v->timeout_ms;
	}
	if (sealed && !has(seen, REFRESH))
		v->refresh_s = 2; /* a local file costs nothing to look at */
}

static bool is_vault_name(const char *s, size_t n)
{
	if (!n || n > 63 || !is_alnum(s[0]))
		return false;
	for (size_t i = 1; i < n; i++)
		if (!is_alnum(s[i]) && s[i] != '.' && s[i] != '-' && s[i] != '_')
			return false;
	return true;
}

void config_read_vaults(struct reader *r, const struct at *at, const struct json *map, const struct key *k, void *out)
{
	struct config *c = r->c;

	(void)k;
	(void)out;
	if (!config_want(r, at, map, JSON_OBJECT, "a map of vaults, each with its name as the key"))
		return;
	for (const struct json *j = json_first(map); j; j = json_next(j)) {
		size_t len;
		const char *name = json_name_bytes(j, &len);
		struct at here = { .up = at, .key = name };
		int line = yamldoc_line(r->doc, j);

		if (c->n_vaults == VAULTS_MAX) {
			config_finding(r, line, at, "more than %d vaults", VAULTS_MAX);
			return;
		}
		if (!config_once(r, &here, j))
			continue;
		if (!is_vault_name(name, len))
			config_finding(r, line, &here,
				       "a vault's name has 1 to 63 letters, digits, '.', '-' or '_', beginning with a "
				       "letter or digit");
		struct config_vault *all = config_grow(r, c->vaults, c->n_vaults, sizeof *all);
		if (!all)
			return;
		c->vaults = all;
		struct config_vault *v = &all[c->n_vaults++];
		*v = (struct config_vault){
			.line = line,
			.connect_timeout_ms = 5000,
			.timeout_ms = 15000,
			.refresh_s = 60,
			.max_stale_s = 86400,
		};
		config_set_string(r, &v->name, name, len);
		config_set_string(r, &v->kv_mount, "secret", 6);
		uint64_t seen = config_read_map(r, &here, j, vault_keys, N_VAULT_KEYS, v);
		if (json_type(j) == JSON_OBJECT)
			check_vault(r, &here, j, seen, v);
	}
}
