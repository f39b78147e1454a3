/* SPDX-License-Identifier: Apache-2.0 */
/* The address of a server, checked and taken apart. Pure: no network. */
#ifndef CT_BASE_HTTP_URL_H
#define CT_BASE_HTTP_URL_H

#include "base/err.h"

#include <stdbool.h>

struct http_url {
	bool tls;
	char *host;	  /* without brackets */
	char *name;	  /* the name to be proven by the certificate: server_name or host */
	char *base;	  /* scheme://name[:port][/prefix], without a slash at its end */
	char *peer;	  /* host:port, for sentences */
	char *connect_to; /* "name:port:host:port" for libcurl when name is not host, otherwise NULL */
};

/* Accepts https://host[:port][/prefix], and http:// to a loopback address. -EINVAL with a sentence. */
int must_use http_url_parse(const char *url, const char *server_name, struct http_url *ret, struct err *e);
void http_url_clear(struct http_url *u);

#endif
