/* SPDX-License-Identifier: Apache-2.0 */
#include "base/http_url.h"

#include "base/cleanup.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { URL_MAX = 2048 };

static bool is_loopback(const char *host)
{
	struct in_addr a;
	struct in6_addr b;
	if (strcasecmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &a) == 1)
		return (ntohl(a.s_addr) >> 24) == 127;
	return inet_pton(AF_INET6, host, &b) == 1 && IN6_IS_ADDR_LOOPBACK(&b);
}

/* A host name or an IPv4 address; what else libcurl would take (escapes, spaces, other alphabets) is refused. */
static bool host_ok(const char *s)
{
	if (!*s || strlen(s) > 253 || *s == '.' || *s == '-')
		return false;
	return s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")] == '\0';
}

void http_url_clear(struct http_url *u)
{
	free(u->host);
	free(u->name);
	free(u->base);
	free(u->peer);
	free(u->connect_to);
	*u = (struct http_url){ 0 };
}

static int split_authority(char *authority, char **ret_host, unsigned *ret_port, bool *ret_v6)
{
	char *port = NULL;
	*ret_v6 = authority[0] == '[';
	if (*ret_v6) {
		char *end = strchr(authority, ']');
		struct in6_addr a;
		if (!end || (end[1] && end[1] != ':'))
			return -EINVAL;
		*end = '\0';
		*ret_host = authority + 1;
		if (end[1] == ':')
			port = end + 2;
		if (inet_pton(AF_INET6, *ret_host, &a) != 1)
			return -EINVAL;
	} else {
		*ret_host = authority;
		port = strchr(authority, ':');
		if (port)
			*port++ = '\0';
		if (!host_ok(*ret_host))
			return -EINVAL;
	}
	if (!port)
		return 0;
	if (!*port || strlen(port) > 5 || port[strspn(port, "0123456789")])
		return -EINVAL;
	unsigned n = (unsigned)strtoul(port, NULL, 10);
	if (n == 0 || n > UINT16_MAX)
		return -EINVAL;
	*ret_port = n;
	return 0;
}

int http_url_parse(const char *url, const char *server_name, struct http_url *ret, struct err *e)
{
	static const char says[] = "an address looks like https://vault.example:8200";
	CLEANUP_WITH(http_url_clear) struct http_url u = { 0 };
	const char *rest;
	if (strlen(url) > URL_MAX)
		return err_set(e, EINVAL, "the address is too long: %s", says);
	if (strncasecmp(url, "https://", 8) == 0) {
		u.tls = true;
		rest = url + 8;
	} else if (strncasecmp(url, "http://", 7) == 0) {
		rest = url + 7;
	} else {
		return err_set(e, EINVAL, "\"%s\" is no address: %s", url, says);
	}
	size_t n = strcspn(rest, "/?#");
	if (memchr(rest, '@', n))
		/* not shown: it may hold a password */
		return err_set(e, EINVAL, "an address may not hold a user name or a password: %s", says);
	if (rest[n + strcspn(rest + n, "?#")] || rest[strspn(rest, "!\"#$%&'()*+,-./0123456789:;<=>?@"
								   "ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`"
								   "abcdefghijklmnopqrstuvwxyz{|}~")])
		return err_set(e, EINVAL,
			       "\"%s\" is no address: it may have no query, fragment, spaces or control bytes; %s", url,
			       says);
	cleanup_free char *authority = strndup(rest, n);
	if (!authority)
		return err_set(e, ENOMEM, "out of memory");
	char *host = NULL;
	unsigned port = u.tls ? 443 : 80;
	bool v6;
	if (split_authority(authority, &host, &port, &v6) < 0)
		return err_set(e, EINVAL, "\"%s\" is no address: wrong host or port; %s", url, says);
	if (!u.tls && !is_loopback(host))
		return err_set(e, EINVAL,
			       "\"%s\" would send secrets in the clear: use https:// (http:// is for loopback "
			       "addresses alone)",
			       url);
	struct in6_addr a;
	bool name_v6 = server_name ? inet_pton(AF_INET6, server_name, &a) == 1 : v6;
	if (server_name && !u.tls)
		return err_set(e, EINVAL, "server_name is for https:// addresses");
	if (server_name && !name_v6 && !host_ok(server_name))
		return err_set(e, EINVAL, "server_name \"%s\" is no host name", server_name);
	size_t prefix = strlen(rest + n);
	while (prefix > 0 && rest[n + prefix - 1] == '/')
		prefix--;
	const char *name = server_name ? server_name : host;
	u.host = strdup(host);
	u.name = strdup(name);
	bool ok = u.host && u.name;
	ok = ok && asprintf(&u.base, "%s://%s%s%s:%u%.*s", u.tls ? "https" : "http", name_v6 ? "[" : "", name,
			    name_v6 ? "]" : "", port, (int)prefix, rest + n) >= 0;
	ok = ok && asprintf(&u.peer, "%s%s%s:%u", v6 ? "[" : "", host, v6 ? "]" : "", port) >= 0;
	if (ok && server_name)
		ok = asprintf(&u.connect_to, "%s%s%s:%u:%s%s%s:%u", name_v6 ? "[" : "", name, name_v6 ? "]" : "", port,
			      v6 ? "[" : "", host, v6 ? "]" : "", port) >= 0;
	if (!ok)
		return err_set(e, ENOMEM, "out of memory");
	*ret = u;
	u = (struct http_url){ 0 };
	return 0;
}
