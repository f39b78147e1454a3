/* SPDX-License-Identifier: Apache-2.0 */
#include "vault/openbao_json.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "base/secmem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ERROR_BODY_MAX = 64 * 1024 };

DEFINE_CLEANUP(vault_names_free, struct vault_names *)

static int parse(const char *body, size_t len, struct json **ret, struct err *e)
{
	struct err why = ERR_INIT;
	int r = json_parse(body, len, OPENBAO_BODY_MAX, ret, &why);
	if (r == -EBADMSG)
		return err_set(e, EPROTO, "the answer is no JSON (%s)", why.msg);
	if (r < 0)
		return err_set(e, r, "%s", why.msg);
	return 0;
}

static int two(const char *s)
{
	return s[0] >= '0' && s[0] <= '9' && s[1] >= '0' && s[1] <= '9' ? (s[0] - '0') * 10 + s[1] - '0' : -1;
}

int64_t openbao_parse_time(const char *s)
{
	/* 2006-01-02T15:04:05[.999999999](Z|+07:00) */
	static const char shape[] = "dddd-dd-ddTdd:dd:dd";
	if (!s || strnlen(s, 64) < sizeof shape)
		return 0;
	for (size_t i = 0; shape[i]; i++)
		if (shape[i] == 'd' ? s[i] < '0' || s[i] > '9' : s[i] != shape[i])
			return 0;
	struct tm tm = {
		.tm_year = two(s) * 100 + two(s + 2) - 1900,
		.tm_mon = two(s + 5) - 1,
		.tm_mday = two(s + 8),
		.tm_hour = two(s + 11),
		.tm_min = two(s + 14),
		.tm_sec = two(s + 17),
	};
	const char *p = s + sizeof shape - 1;
	if (*p == '.')
		p += 1 + strspn(p + 1, "0123456789");
	int64_t offset = 0;
	if (*p == '+' || *p == '-') {
		if (strlen(p) != 6 || p[3] != ':' || two(p + 1) < 0 || two(p + 4) < 0)
			return 0;
		offset = (two(p + 1) * 60LL + two(p + 4)) * 60 * (*p == '+' ? 1 : -1);
	} else if (p[0] != 'Z' || p[1]) {
		return 0;
	}
	int64_t t = (int64_t)timegm(&tm) - offset;
	return t > 0 ? t : 0;
}

int openbao_parse_secret(const char *body, size_t len, struct vault_secret **ret, struct err *e)
{
	cleanup_json struct json *j = NULL;
	int r = parse(body, len, &j, e);
	if (r < 0)
		return r;
	const struct json *data = json_path(j, "data.data"), *meta = json_path(j, "data.metadata");
	int64_t version = json_int(json_get(meta, "version"), 0);
	const char *deleted = json_string(json_get(meta, "deletion_time"));
	if (json_type(data) == JSON_NULL && version >= 1 &&
	    (json_bool(json_get(meta, "destroyed"), false) || (deleted && *deleted)))
		return err_set(e, ENOENT, "its newest version is deleted");
	if (json_type(data) != JSON_OBJECT || version < 1)
		return err_set(e, EPROTO, "the answer is not that of a KV version 2 store: check kv_mount");
	int64_t created = openbao_parse_time(json_string(json_get(meta, "created_time")));
	struct err why = ERR_INIT;
	r = vault_secret_from_json(data, (uint64_t)version, created, ret, &why);
	if (r == -EINVAL || r == -EEXIST)
		return err_set(e, EPROTO, "the answer is no secret: %s", why.msg);
	return r < 0 ? err_set(e, r, "%s", why.msg) : 0;
}

static bool name_possible(const char *s, size_t len)
{
	if (len == 0 || len > VAULT_PATH_MAX || memchr(s, '\0', len))
		return false;
	const char *slash = memchr(s, '/', len);
	if (slash && slash != s + len - 1)
		return false;
	size_t n = slash ? len - 1 : len;
	return n > 0 && !(n == 1 && s[0] == '.') && !(n == 2 && s[0] == '.' && s[1] == '.');
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int openbao_parse_list(const char *body, size_t len, struct vault_names **ret, struct err *e)
{
	cleanup_json struct json *j = NULL;
	int r = parse(body, len, &j, e);
	if (r < 0)
		return r;
	const struct json *keys = json_path(j, "data.keys");
	if (json_type(keys) != JSON_ARRAY)
		return err_set(e, EPROTO, "the answer is not that of a KV version 2 store: check kv_mount");
	size_t count = json_count(keys);
	if (count > OPENBAO_NAMES_MAX)
		return err_set(e, EMSGSIZE, "the folder has %zu names, more than %d", count, OPENBAO_NAMES_MAX);
	CLEANUP_WITH(vault_names_freep) struct vault_names *names = calloc(1, sizeof *names);
	if (names)
		names->name = calloc(count ? count : 1, sizeof *names->name);
	if (!names || !names->name)
		return err_set(e, ENOMEM, "out of memory");
	for (const struct json *k = json_first(keys); k; k = json_next(k)) {
		size_t n;
		const char *s = json_bytes(k, &n);
		if (!s)
			return err_set(e, EPROTO,
				       "the answer is not that of a KV version 2 store: a name is no string");
		if (!name_possible(s, n))
			continue;
		names->name[names->n] = strndup(s, n);
		if (!names->name[names->n])
			return err_set(e, ENOMEM, "out of memory");
		names->n++;
	}
	qsort(names->name, names->n, sizeof *names->name, by_name);
	size_t kept = 0;
	for (size_t i = 0; i < names->n; i++) {
		if (kept > 0 && strcmp(names->name[kept - 1], names->name[i]) == 0)
			free(names->name[i]);
		else
			names->name[kept++] = names->name[i];
	}
	names->n = kept;
	*ret = TAKE_PTR(names);
	return 0;
}

int openbao_parse_written(const char *body, size_t len, uint64_t *ret, struct err *e)
{
	cleanup_json struct json *j = NULL;
	int r = parse(body, len, &j, e);
	if (r < 0)
		return r;
	int64_t version = json_int(json_path(j, "data.version"), 0);
	if (version < 1)
		return err_set(e, EPROTO, "the answer names no version: check that kv_mount is a KV version 2 store");
	*ret = (uint64_t)version;
	return 0;
}

bool openbao_is_absent(const char *body, size_t len)
{
	cleanup_json struct json *j = NULL;
	if (json_parse(body, len, OPENBAO_BODY_MAX, &j, NULL) < 0)
		return false;
	const struct json *errors = json_get(j, "errors");
	if (json_type(errors) == JSON_ARRAY)
		return json_count(errors) == 0;
	/* deleted: data is null, and metadata says since when */
	return json_type(json_path(j, "data.metadata")) == JSON_OBJECT &&
	       json_type(json_path(j, "data.data")) == JSON_NULL;
}

void openbao_first_error(const char *body, size_t len, char *buf, size_t room)
{
	buf[0] = '\0';
	cleanup_json struct json *j = NULL;
	if (len > ERROR_BODY_MAX || json_parse(body, len, ERROR_BODY_MAX, &j, NULL) < 0)
		return;
	const char *s = json_string(json_first(json_get(j, "errors")));
	size_t n = 0;
	for (; s && *s && n + 1 < room; s++)
		if (n > 0 || *s != ' ')
			buf[n++] = *s >= 0x20 && *s < 0x7f ? *s : ' ';
	while (n > 0 && buf[n - 1] == ' ')
		n--;
	buf[n] = '\0';
}

int openbao_make_put(const struct vault_secret *s, uint32_t cas, char **ret, size_t *ret_len, struct err *e)
{
	cleanup_json struct json *body = json_object();
	errno = ENOMEM;
	struct json *data = body ? vault_secret_to_json(s) : NULL;
	if (body && !data && errno == EILSEQ)
		return err_set(e, EILSEQ, "a field's name is no UTF-8: the vault cannot keep it");
	if (!body || json_set(body, "data", data) < 0)
		return err_set(e, ENOMEM, "no secret memory left: raise RLIMIT_MEMLOCK (ulimit -l)");
	if (cas != VAULT_CAS_ANY) {
		struct json *options = json_object();
		if (!options || json_set(options, "cas", json_of_int(cas)) < 0) {
			json_free(options);
			return err_set(e, ENOMEM, "no secret memory left: raise RLIMIT_MEMLOCK (ulimit -l)");
		}
		if (json_set(body, "options", options) < 0)
			return err_set(e, ENOMEM, "no secret memory left: raise RLIMIT_MEMLOCK (ulimit -l)");
	}
	char *text = json_print(body, false, ret_len);
	if (!text)
		return err_set(e, ENOMEM, "no secret memory left: raise RLIMIT_MEMLOCK (ulimit -l)");
	*ret = text;
	return 0;
}

static char *encode(char *to, const char *s)
{
	static const char hex[] = "0123456789ABCDEF";
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/";
	for (; *s; s++) {
		if (strchr(plain, *s)) {
			*to++ = *s;
		} else {
			*to++ = '%';
			*to++ = hex[(unsigned char)*s >> 4];
			*to++ = hex[(unsigned char)*s & 15];
		}
	}
	*to = '\0';
	return to;
}

char *openbao_make_path(const char *mount, const char *what, const char *path)
{
	char *s = malloc(3 * (strlen(mount) + strlen(path)) + strlen(what) + 8);
	if (!s)
		return NULL;
	char *p = stpcpy(s, "/v1/");
	p = encode(p, mount);
	*p++ = '/';
	p = stpcpy(p, what);
	*p++ = '/';
	(void)encode(p, path);
	return s;
}

bool openbao_path_possible(const char *path)
{
	for (const char *p = path; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return false;
	return utf8_valid(path, strlen(path));
}
