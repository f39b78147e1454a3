/* SPDX-License-Identifier: Apache-2.0 */
#include "base/config_read.h"

#include "base/cleanup.h"
#include "base/utf8.h"

#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- findings ---- */

struct shown config_shown(const char *name)
{
	struct shown out;
	size_t n = 0, left = strlen(name);

	while (left) {
		uint32_t cp = 0;
		size_t len = utf8_decode(name, left, &cp);
		bool plain = len && cp >= 0x20 && !(cp >= 0x7f && cp < 0xa0);

		if (n > 60) {
			n += (size_t)snprintf(out.s + n, sizeof out.s - n, "...");
			break;
		}
		if (plain)
			n += (size_t)snprintf(out.s + n, sizeof out.s - n, "%.*s", (int)len, name);
		else
			n += (size_t)snprintf(out.s + n, sizeof out.s - n, "\\x%02x", (unsigned char)*name);
		len = plain ? len : 1;
		name += len;
		left -= len;
	}
	out.s[n] = '\0';
	return out;
}

static void put_path(char *buf, size_t size, size_t *n, const struct at *at)
{
	if (!at || *n >= size)
		return;
	put_path(buf, size, n, at->up);
	if (*n >= size)
		return;
	if (at->key)
		*n += (size_t)snprintf(buf + *n, size - *n, "%s%s", *n ? "." : "", config_shown(at->key).s);
	else
		*n += (size_t)snprintf(buf + *n, size - *n, "[%zu]", at->index);
}

void config_finding(struct reader *r, int line, const struct at *at, const char *fmt, ...)
{
	if (r->n_findings++ >= FINDINGS_MAX)
		return;

	char path[256] = "", why[ERR_MSG_MAX];
	size_t n = 0;
	put_path(path, sizeof path, &n, at);
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);

	struct finding f = { .line = line, .nth = r->n_findings };
	if (asprintf(&f.text, "%s:%d: %s%s%s", r->file, line, path, path[0] ? ": " : "", why) < 0)
		f.text = NULL;
	struct finding *all = f.text ? reallocarray(r->findings, r->n_findings, sizeof *all) : NULL;
	if (!all) {
		free(f.text);
		r->n_findings--;
		r->no_memory = true;
		return;
	}
	r->findings = all;
	all[r->n_findings - 1] = f;
}

/* ---- maps ---- */

/* Letters to add, drop, change or swap to get from a to b, both short. */
static size_t distance(const char *a, const char *b)
{
	enum { N = 32 };
	size_t la = strlen(a), lb = strlen(b), d[N][N];

	if (la >= N || lb >= N)
		return SIZE_MAX;
	for (size_t i = 0; i <= la; i++)
		for (size_t j = 0; j <= lb; j++) {
			if (!i || !j) {
				d[i][j] = i + j;
				continue;
			}
			size_t least = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
			if (d[i - 1][j] + 1 < least)
				least = d[i - 1][j] + 1;
			if (d[i][j - 1] + 1 < least)
				least = d[i][j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    d[i - 2][j - 2] + 1 < least)
				least = d[i - 2][j - 2] + 1;
			d[i][j] = least;
		}
	return d[la][lb];
}

static bool begins(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

static void unknown_key(struct reader *r, int line, const struct at *at, const char *name, const struct key *keys,
			size_t n_keys)
{
	size_t best = SIZE_MAX;
	const char *near = NULL;
	char list[300] = "";

	if (r->n_findings >= FINDINGS_MAX) { /* nobody will see the suggestion */
		r->n_findings++;
		return;
	}
	for (size_t i = 0, n = 0; i < n_keys; i++) {
		size_t d = distance(name, keys[i].name);
		if (strlen(name) >= 2 && (begins(name, keys[i].name) || begins(keys[i].name, name)) && d > 1)
			d = 1;
		if (d < best) {
			best = d;
			near = keys[i].name;
		}
		if (n < sizeof list)
			n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", keys[i].name);
	}
	if (best <= 1 + strlen(name) / 4)
		config_finding(r, line, at, "unknown key; did you mean '%s'?", near);
	else
		config_finding(r, line, at, "unknown key; known here: %s", list);
}

bool config_once(struct reader *r, const struct at *at, const struct json *member)
{
	int first = yamldoc_twice(r->doc, member);

	if (first)
		config_finding(r, yamldoc_line(r->doc, member), at, "given twice; first in line %d", first);
	return !first;
}

uint64_t config_read_map(struct reader *r, const struct at *at, const struct json *map, const struct key *keys,
			 size_t n_keys, void *obj)
{
	uint64_t seen = 0;

	if (!config_want(r, at, map, JSON_OBJECT, "a map (key: value)"))
		return 0;
	for (const struct json *v = json_first(map); v; v = json_next(v)) {
		size_t len, i = 0;
		const char *name = json_name_bytes(v, &len);
		struct at here = { .up = at, .key = name };

		while (i < n_keys && (strlen(keys[i].name) != len || memcmp(keys[i].name, name, len) != 0))
			i++;
		if (i == n_keys) {
			unknown_key(r, yamldoc_line(r->doc, v), &here, name, keys, n_keys);
			continue;
		}
		if (!config_once(r, &here, v))
			continue;
		seen |= UINT64_C(1) << i;
		if (json_type(v) == JSON_NULL)
			config_finding(r, yamldoc_line(r->doc, v), &here,
				       "has no value: give it one, or leave the key out for its default");
		else
			keys[i].read(r, &here, v, &keys[i], (char *)obj + keys[i].offset);
	}
	return seen;
}

bool config_want(struct reader *r, const struct at *at, const struct json *v, enum json_type type, const char *what)
{
	if (json_type(v) == type)
		return true;
	config_finding(r, yamldoc_line(r->doc, v), at, "must be %s", what);
	return false;
}

const char *config_text(struct reader *r, const struct at *at, const struct json *v, const char *what)
{
	size_t len;
	const char *s = json_bytes(v, &len);
	int line = yamldoc_line(r->doc, v);

	if (!s) {
		bool scalar = json_type(v) == JSON_NUMBER || json_type(v) == JSON_BOOL;
		config_finding(r, line, at, "must be %s%s", what, scalar ? ": put it in quotes" : "");
	} else if (!len) {
		config_finding(r, line, at, "must be %s, and is empty", what);
	} else if (strlen(s) != len) {
		config_finding(r, line, at, "holds a NUL byte");
	} else {
		return s;
	}
	return NULL;
}

void *config_grow(struct reader *r, void *array, size_t n, size_t size)
{
	/* Doubling, known from n alone: a power of two is full. */
	if (n & (n - 1))
		return array;
	void *p = reallocarray(array, n ? 2 * n : 1, size);
	if (!p) {
		r->no_memory = true;
		return NULL;
	}
	memset((char *)p + n * size, 0, (n ? n : 1) * size);
	return p;
}

void config_set_string(struct reader *r, char **slot, const char *s, size_t n)
{
	free(*slot);
	*slot = strndup(s, n);
	if (!*slot)
		r->no_memory = true;
}

/* ---- values ---- */

void config_read_string(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	(void)k;
	const char *s = config_text(r, at, v, "a string");
	if (s)
		config_set_string(r, out, s, strlen(s));
}

static const char *home(char *buf, size_t size)
{
	const char *h = secure_getenv("HOME");
	if (h && h[0] == '/')
		return h;

	struct passwd pw, *found = NULL;
	return getpwuid_r(geteuid(), &pw, buf, size, &found) == 0 && found && found->pw_dir[0] == '/' ? found->pw_dir :
													NULL;
}

bool config_read_path(struct reader *r, const struct at *at, const struct json *v, const char *what, char *path,
		      size_t size)
{
	const char *s = config_text(r, at, v, what), *dir = "";
	int line = yamldoc_line(r->doc, v);
	char buf[4096];

	if (!s)
		return false;
	if (strncmp(s, "~/", 2) == 0) {
		dir = home(buf, sizeof buf);
		if (!dir) {
			config_finding(r, line, at, "~/ needs a home, and HOME is not set: write the path out");
			return false;
		}
		if (strcmp(dir, "/") == 0)
			dir = "";
		s++;
	}
	if (s[0] != '/') {
		config_finding(r, line, at, "must be an absolute path, or begin with ~/");
		return false;
	}
	int n = snprintf(path, size, "%s%s", dir, s);
	if (n < 0 || (size_t)n >= size) {
		config_finding(r, line, at, "is longer than %zu bytes", size - 1);
		return false;
	}
	return true;
}

void config_read_file(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	char path[PATH_MAX];

	if (!config_read_path(r, at, v, "the path of a file", path, k->max ? k->max : sizeof path))
		return;
	if (path[strlen(path) - 1] == '/')
		config_finding(r, yamldoc_line(r->doc, v), at, "must name a file, not a folder");
	else
		config_set_string(r, out, path, strlen(path));
}

const char *config_path_fault(const char *path)
{
	if (path[0] == '/')
		return "begins with '/': write it without";
	if (strlen(path) > 4096)
		return "is longer than 4096 bytes";
	for (;;) {
		size_t n = strcspn(path, "/");
		if (!n)
			return "has an empty part";
		if (path[0] == '.' && (n == 1 || (n == 2 && path[1] == '.')))
			return "has a '.' or '..' in it";
		if (!path[n])
			return NULL;
		path += n + 1;
	}
}

/* The digits that s begins with, as a number times `unit`; false when it does not fit. */
static bool number(const char *digits, size_t n, uint64_t unit, uint64_t *ret)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(digits[i] - '0'), &v))
			return false;
	return !__builtin_mul_overflow(v, unit, ret);
}

struct unit {
	const char *name;
	uint64_t factor;
};
static const struct unit time_units[] = {
	{ "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 },
};
static const struct unit size_units[] = { { "", 1 }, { "KiB", 1 << 10 }, { "MiB", 1 << 20 }, { "GiB", 1 << 30 } };

/* "64MiB" by these units. False: not of this shape, or too large for 64 bits (then *ret is UINT64_MAX). */
static bool with_unit(const struct json *v, const struct unit *units, size_t n_units, uint64_t *ret)
{
	const char *s = json_number(v) ? json_number(v) : json_string(v);

	*ret = 0;
	if (!s)
		return false;
	size_t digits = strspn(s, "0123456789");
	if (!digits)
		return false;
	if (strcmp(s, "0") == 0) /* needs no unit */
		return true;
	for (size_t i = 0; i < n_units; i++)
		if (strcmp(s + digits, units[i].name) == 0) {
			if (number(s, digits, units[i].factor, ret))
				return true;
			*ret = UINT64_MAX;
			return false;
		}
	return false;
}

static struct shown in_units(uint64_t v, const struct unit *units, size_t n_units)
{
	struct shown out;
	size_t i = n_units;

	while (i > 1 && v % units[i - 1].factor)
		i--;
	i = i ? i - 1 : 0;
	(void)snprintf(out.s, sizeof out.s, "%llu%s", (unsigned long long)(v ? v / units[i].factor : 0),
		       v ? units[i].name : "");
	return out;
}

static bool in_range(struct reader *r, const struct at *at, const struct json *v, uint64_t n, const struct key *k,
		     const struct unit *units, size_t n_units)
{
	if (n >= k->min && n <= k->max)
		return true;
	config_finding(r, yamldoc_line(r->doc, v), at, "must be from %s to %s", in_units(k->min, units, n_units).s,
		       in_units(k->max, units, n_units).s);
	return false;
}

static bool duration(struct reader *r, const struct at *at, const struct json *v, const struct key *k, uint64_t *ret)
{
	size_t n = sizeof time_units / sizeof *time_units;

	if (!with_unit(v, time_units, n, ret) && *ret != UINT64_MAX) {
		config_finding(r, yamldoc_line(r->doc, v), at,
			       "must be a duration: a whole number and its unit (ms, s, m, h or d), as in 10s");
		return false;
	}
	return in_range(r, at, v, *ret, k, time_units, n);
}

void config_read_ms(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	uint64_t ms;

	if (duration(r, at, v, k, &ms))
		*(unsigned *)out = (unsigned)ms;
}

void config_read_seconds(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	uint64_t ms;

	if (!duration(r, at, v, k, &ms))
		return;
	if (ms % 1000)
		config_finding(r, yamldoc_line(r->doc, v), at, "must be whole seconds");
	else
		*(unsigned *)out = (unsigned)(ms / 1000);
}

static bool whole_number(struct reader *r, const struct at *at, const struct json *v, const struct key *k,
			 uint64_t *ret)
{
	static const struct unit none[] = { { "", 1 } };

	if (!with_unit(v, none, 1, ret) && *ret != UINT64_MAX) {
		config_finding(r, yamldoc_line(r->doc, v), at, "must be a whole number");
		return false;
	}
	return in_range(r, at, v, *ret, k, none, 1);
}

void config_read_unsigned(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	uint64_t n;

	if (whole_number(r, at, v, k, &n))
		*(unsigned *)out = (unsigned)n;
}

void config_read_count(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	uint64_t n;

	if (whole_number(r, at, v, k, &n))
		*(size_t *)out = n;
}

void config_read_size(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	size_t n_units = sizeof size_units / sizeof *size_units;
	uint64_t n;

	if (!with_unit(v, size_units, n_units, &n) && n != UINT64_MAX)
		config_finding(
			r, yamldoc_line(r->doc, v), at,
			"must be a size: a whole number of bytes, or with its unit (KiB, MiB or GiB), as in 64MiB");
	else if (in_range(r, at, v, n, k, size_units, n_units))
		*(size_t *)out = n;
}

void config_read_mode(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	(void)k;
	const char *s = json_number(v) ? json_number(v) : json_string(v);
	int line = yamldoc_line(r->doc, v);
	unsigned mode = 0;
	size_t n = s ? strlen(s) : 0;

	if (!n || n > 5 || s[strspn(s, "01234567")]) {
		config_finding(r, line, at, "must be file permissions in octal, as in 0400");
		return;
	}
	for (; *s; s++)
		mode = mode << 3 | (unsigned)(*s - '0');
	if (mode & 0222)
		config_finding(r, line, at, "has write bits: a mount is read-only, secrets are changed in the vault");
	else if (mode & ~0444U)
		config_finding(r, line, at, "has bits besides reading: a secret is not a program");
	else if (!mode)
		config_finding(r, line, at, "lets nobody read");
	else
		*(mode_t *)out = mode;
}

void config_read_bool(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	(void)k;
	if (config_want(r, at, v, JSON_BOOL, "true or false"))
		*(bool *)out = json_bool(v, false);
}

/* A user or group as a number. 0: it is one; 1: it is a name, in *ret_name; -1: neither. */
static int id_number(struct reader *r, const struct at *at, const struct json *v, const char *what, uint32_t *ret,
		     const char **ret_name)
{
	const char *s = json_number(v);
	char kind[32];

	(void)snprintf(kind, sizeof kind, "a %s's name or number", what);
	if (!s)
		s = json_type(v) == JSON_STRING ? config_text(r, at, v, kind) : NULL;
	if (!s) {
		if (json_type(v) != JSON_STRING)
			config_finding(r, yamldoc_line(r->doc, v), at, "must be %s", kind);
		return -1;
	}
	size_t digits = strspn(s, "0123456789");
	if (s[digits] && s[0] != '-') {
		*ret_name = s;
		return 1;
	}
	uint64_t n;
	/* The largest number stands for "none" in the kernel's calls. */
	if (!digits || !number(s, digits, 1, &n) || n >= UINT32_MAX) {
		config_finding(r, yamldoc_line(r->doc, v), at, "must be %s; numbers go from 0 to %u", kind,
			       UINT32_MAX - 1);
		return -1;
	}
	*ret = (uint32_t)n;
	return 0;
}

/* What a look-up said beyond "not found", which systems spell in several ways (getpwnam(3)). */
static struct shown lookup_error(int e)
{
	struct shown out = { "" };

	if (e && e != ENOENT && e != ESRCH && e != EBADF && e != EPERM)
		(void)snprintf(out.s, sizeof out.s, ": %s", strerror(e));
	return out;
}

enum { NAME_BUFFER = 64 << 10 }; /* a group's entry lists its members */

void config_read_owner(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	(void)k;
	const char *name;
	uint32_t id = 0;
	int kind = id_number(r, at, v, "user", &id, &name);

	if (kind < 0)
		return;
	if (kind > 0) {
		cleanup_free char *buf = malloc(NAME_BUFFER);
		struct passwd pw, *found = NULL;
		if (!buf) {
			r->no_memory = true;
			return;
		}
		int e = getpwnam_r(name, &pw, buf, NAME_BUFFER, &found);
		if (!found) {
			config_finding(r, yamldoc_line(r->doc, v), at, "there is no user '%s' here%s",
				       config_shown(name).s, lookup_error(e).s);
			return;
		}
		id = found->pw_uid;
	}
	*(uid_t *)out = id;
}

void config_read_group(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	(void)k;
	const char *name;
	uint32_t id = 0;
	int kind = id_number(r, at, v, "group", &id, &name);

	if (kind < 0)
		return;
	if (kind > 0) {
		cleanup_free char *buf = malloc(NAME_BUFFER);
		struct group gr, *found = NULL;
		if (!buf) {
			r->no_memory = true;
			return;
		}
		int e = getgrnam_r(name, &gr, buf, NAME_BUFFER, &found);
		if (!found) {
			config_finding(r, yamldoc_line(r->doc, v), at, "there is no group '%s' here%s",
				       config_shown(name).s, lookup_error(e).s);
			return;
		}
		id = found->gr_gid;
	}
	*(gid_t *)out = id;
}
