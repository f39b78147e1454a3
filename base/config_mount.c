/* SPDX-License-Identifier: Apache-2.0 */
#include "base/config_read.h"

#include "base/cleanup.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOUNTS_MAX = 4096, NAME_BYTES_MAX = 255 };

/* ---- names ---- */

/* Bytes of a name as the mount shows it: '%' is shown as "%25". */
static size_t shown_length(const char *name, size_t n)
{
	size_t len = n;

	for (size_t i = 0; i < n; i++)
		if (name[i] == '%')
			len += 2;
	return len;
}

static const char *long_part(const char *path)
{
	for (;;) {
		size_t n = strcspn(path, "/");
		if (shown_length(path, n) > NAME_BYTES_MAX)
			return "has a part longer than 255 bytes (a '%' counts three, as it is shown)";
		if (!path[n])
			return NULL;
		path += n + 1;
	}
}

/* What is wrong with a file's name that the configuration gives to a field. */
static const char *file_name_fault(const char *name)
{
	if (strchr(name, '/'))
		return "must not hold a '/': it is the name of one file";
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return "must not be '.' or '..'";
	if (strcmp(name, ".json") == 0 || strcmp(name, ".version") == 0)
		return "must not be '.json' or '.version': every secret has files of these names already";
	if (shown_length(name, strlen(name)) > NAME_BYTES_MAX)
		return "is longer than 255 bytes (a '%' counts three, as it is shown)";
	return NULL;
}

/* Sorts pointers to strings; nobody asks for the order of equal ones. */
static int string_cmp(const void *pa, const void *pb)
{
	const char *const *a = pa, *const *b = pb;

	return strcmp(*a, *b);
}

/* ---- secrets ---- */

static void check_renames(struct reader *r, const struct at *at, const struct json *map, const struct config_secret *s)
{
	cleanup_free const char **to = calloc(s->n_fields, sizeof *to);
	size_t n = 0;

	if (!to) {
		r->no_memory = true;
		return;
	}
	for (size_t i = 0; i < s->n_fields; i++)
		if (s->fields[i].to)
			to[n++] = s->fields[i].to;
	qsort(to, n, sizeof *to, string_cmp);
	for (size_t i = 1; i < n; i++)
		if (strcmp(to[i], to[i - 1]) == 0)
			config_finding(r, yamldoc_line(r->doc, map), at, "two fields would be called '%s'",
				       config_shown(to[i]).s);
}

static void read_fields(struct reader *r, const struct at *at, const struct json *map, const struct key *k, void *out)
{
	struct config_secret *s = out;

	(void)k;
	if (!config_want(r, at, map, JSON_OBJECT, "a map from a field's name in the vault to its file's name"))
		return;
	if (!json_first(map))
		config_finding(r, yamldoc_line(r->doc, map), at, "is empty: leave the key out to show every field");
	for (const struct json *j = json_first(map); j; j = json_next(j)) {
		size_t len;
		const char *from = json_name_bytes(j, &len);
		struct at here = { .up = at, .key = from };
		int line = yamldoc_line(r->doc, j);

		if (!config_once(r, &here, j))
			continue;
		if (!len || strlen(from) != len)
			config_finding(r, line, &here, "a field's name is %s", len ? "one with a NUL byte" : "empty");
		const char *to = config_text(r, &here, j, "the name of a file");
		const char *fault = to ? file_name_fault(to) : NULL;
		if (fault)
			config_finding(r, line, &here, "%s", fault);
		struct config_rename *all = config_grow(r, s->fields, s->n_fields, sizeof *all);
		if (!all)
			return;
		s->fields = all;
		s->n_fields++;
		config_set_string(r, &all[s->n_fields - 1].from, from, len);
		if (to)
			config_set_string(r, &all[s->n_fields - 1].to, to, strlen(to));
	}
	check_renames(r, at, map, s);
}

static void read_binary(struct reader *r, const struct at *at, const struct json *list, const struct key *k, void *out)
{
	struct config_secret *s = out;
	struct at here = { .up = at };

	(void)k;
	if (!config_want(r, at, list, JSON_ARRAY, "a list of field names"))
		return;
	for (const struct json *j = json_first(list); j; j = json_next(j), here.index++) {
		const char *name = config_text(r, &here, j, "a field's name");
		if (!name)
			continue;
		char **all = config_grow(r, s->binary, s->n_binary, sizeof *all);
		if (!all)
			return;
		s->binary = all;
		config_set_string(r, &all[s->n_binary++], name, strlen(name));
	}
}

/* Kept as written; check_secret sees to it when it knows whether this is a tree. */
static void read_as(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	size_t len;
	const char *s = json_bytes(v, &len);

	(void)k;
	if (s && !len)
		config_set_string(r, out, "/", 1);
	else if (config_text(r, at, v, "a path below the mount"))
		config_set_string(r, out, s, len);
}

static void set_path(struct reader *r, const struct at *at, int line, struct config_secret *s, const char *path)
{
	size_t n = strlen(path);

	s->tree = path[n - 1] == '/';
	cleanup_free char *bare = strndup(path, n - s->tree);
	if (!bare) {
		r->no_memory = true;
		return;
	}
	/* "/" alone is the whole vault */
	const char *fault = bare[0] || !s->tree ? config_path_fault(bare) : NULL;
	if (fault)
		config_finding(r, line, at, "%s", fault);
	else
		config_set_string(r, &s->path, path, bare[0] ? n : 0);
}

static void read_secret_path(struct reader *r, const struct at *at, const struct json *v, const struct key *k,
			     void *out)
{
	const char *path = config_text(r, at, v, "a secret's path in the vault, or a tree ending with '/'");

	(void)k;
	if (path)
		set_path(r, at, yamldoc_line(r->doc, v), out, path);
}

#define AT(member) offsetof(struct config_secret, member)
static const struct key secret_keys[] = {
	{ "path", read_secret_path },
	{ "as", read_as, AT(as) },
	{ "fields", read_fields },
	{ "binary", read_binary },
	{ "mode", config_read_mode, AT(mode) },
	{ "owner", config_read_owner, AT(uid) },
	{ "group", config_read_group, AT(gid) },
	{ "optional", config_read_bool, AT(optional) },
};
#undef AT
enum { N_SECRET_KEYS = sizeof secret_keys / sizeof *secret_keys };

/* Where it appears: `as` without the slash of a tree, or its path. `v` is its value in the document. */
static void check_place(struct reader *r, const struct at *at, const struct json *v, struct config_secret *s)
{
	const struct json *given = json_get(v, "as");
	struct at here = { .up = given ? at : at->up, .key = given ? "as" : at->key, .index = at->index };
	int line = given ? yamldoc_line(r->doc, given) : s->line;

	if (!s->path || (given && !s->as))
		return;
	if (!s->as)
		config_set_string(r, &s->as, s->path, strlen(s->path));
	if (!s->as)
		return;
	size_t n = strlen(s->as);
	if (s->tree && n && s->as[n - 1] == '/')
		s->as[--n] = '\0';
	else if (given && strcmp(s->as, "/") == 0)
		s->as[--n] = '\0';
	if (!n) {
		if (!s->tree)
			config_finding(r, line, &here, "is empty: only a tree may take the mount's own place");
		return;
	}
	const char *fault = given ? config_path_fault(s->as) : NULL;
	if (!fault)
		fault = long_part(s->as);
	if (fault)
		config_finding(r, line, &here, "%s", fault);
}

static void check_binary(struct reader *r, const struct at *at, const struct json *v, const struct config_secret *s)
{
	const struct json *list = json_get(v, "binary");
	struct at here = { .up = at, .key = "binary" };

	if (!s->n_fields || !s->n_binary)
		return;
	cleanup_free const char **from = calloc(s->n_fields, sizeof *from);
	if (!from) {
		r->no_memory = true;
		return;
	}
	size_t n = 0;
	for (size_t i = 0; i < s->n_fields; i++)
		if (s->fields[i].from)
			from[n++] = s->fields[i].from;
	qsort(from, n, sizeof *from, string_cmp);
	for (size_t i = 0; i < s->n_binary; i++)
		if (s->binary[i] && !bsearch(&s->binary[i], from, n, sizeof *from, string_cmp))
			config_finding(r, yamldoc_line(r->doc, list), &here, "names '%s', which 'fields' does not show",
				       config_shown(s->binary[i]).s);
}

static void read_secret(struct reader *r, const struct at *at, const struct json *v, struct config_secret *s)
{
	s->line = yamldoc_line(r->doc, v);
	s->uid = (uid_t)-1;
	s->gid = (gid_t)-1;
	if (json_type(v) == JSON_STRING) {
		const char *path = config_text(r, at, v, "a secret's path");
		if (path)
			set_path(r, at, s->line, s, path);
	} else if (json_type(v) == JSON_OBJECT) {
		if (!(config_read_map(r, at, v, secret_keys, N_SECRET_KEYS, s) & 1))
			config_finding(r, s->line, at, "needs 'path', the secret's path in the vault");
		check_binary(r, at, v, s);
	} else {
		config_finding(r, s->line, at, "must be a path in the vault, or a map with 'path'");
	}
	check_place(r, at, v, s);
}

struct place {
	const char *as;
	size_t index;
	bool tree;
};

static int place_cmp(const void *pa, const void *pb)
{
	const struct place *a = pa, *b = pb;
	int c = strcmp(a->as, b->as);

	if (!c)
		c = a->tree - b->tree;
	return c ? c : a->index < b->index ? -1 : a->index > b->index;
}

/* A secret and a tree may share a place (the vault may have both, app/db and app/db/...), two of a kind may not. */
static void check_places(struct reader *r, const struct at *at, const struct config_mount *m)
{
	cleanup_free struct place *p = calloc(m->n_secrets, sizeof *p);
	size_t n = 0;

	if (!p) {
		r->no_memory = true;
		return;
	}
	for (size_t i = 0; i < m->n_secrets; i++)
		if (m->secrets[i].as)
			p[n++] = (struct place){ m->secrets[i].as, i, m->secrets[i].tree };
	qsort(p, n, sizeof *p, place_cmp);
	for (size_t i = 1; i < n; i++)
		if (p[i].tree == p[i - 1].tree && strcmp(p[i].as, p[i - 1].as) == 0) {
			struct at here = { .up = at, .index = p[i].index };
			config_finding(r, m->secrets[p[i].index].line, &here,
				       "appears at the same place as secrets[%zu] (line %d): give it another 'as'",
				       p[i - 1].index, m->secrets[p[i - 1].index].line);
		}
}

static void read_secrets(struct reader *r, const struct at *at, const struct json *list, const struct key *k, void *out)
{
	struct config_mount *m = out;
	struct at here = { .up = at };

	(void)k;
	if (!config_want(r, at, list, JSON_ARRAY, "a list of secrets and trees"))
		return;
	if (!json_first(list)) {
		config_finding(r, yamldoc_line(r->doc, list), at,
			       "is empty: leave the key out to show the whole vault");
		return;
	}
	for (const struct json *j = json_first(list); j; j = json_next(j), here.index++) {
		struct config_secret *all = config_grow(r, m->secrets, m->n_secrets, sizeof *all);
		if (!all)
			return;
		m->secrets = all;
		read_secret(r, &here, j, &all[m->n_secrets++]);
	}
	check_places(r, at, m);
}

/* ---- mounts ---- */

static void read_users(struct reader *r, const struct at *at, const struct json *list, const struct key *k, void *out)
{
	struct config_allow *allow = out;
	struct at here = { .up = at };

	(void)k;
	if (!config_want(r, at, list, JSON_ARRAY, "a list of users, names or numbers"))
		return;
	for (const struct json *j = json_first(list); j; j = json_next(j), here.index++) {
		uid_t *all = config_grow(r, allow->uids, allow->n_uids, sizeof *all);
		if (!all)
			return;
		allow->uids = all;
		config_read_owner(r, &here, j, NULL, &all[allow->n_uids++]);
	}
}

static void read_groups(struct reader *r, const struct at *at, const struct json *list, const struct key *k, void *out)
{
	struct config_allow *allow = out;
	struct at here = { .up = at };

	(void)k;
	if (!config_want(r, at, list, JSON_ARRAY, "a list of groups, names or numbers"))
		return;
	for (const struct json *j = json_first(list); j; j = json_next(j), here.index++) {
		gid_t *all = config_grow(r, allow->gids, allow->n_gids, sizeof *all);
		if (!all)
			return;
		allow->gids = all;
		config_read_group(r, &here, j, NULL, &all[allow->n_gids++]);
	}
}

static void read_allow(struct reader *r, const struct at *at, const struct json *map, const struct key *k, void *out)
{
	static const struct key keys[] = { { "users", read_users }, { "groups", read_groups } };

	(void)k;
	(void)config_read_map(r, at, map, keys, 2, out);
}

static const char *mount_path_fault(const char *path)
{
	if (!path[1])
		return "cannot be '/'";
	/* path begins with '/': behind it the rules of every other path hold */
	return config_path_fault(path + 1) ? "must be normalised: no '//', no '.' or '..', no '/' at its end" :
					     long_part(path + 1);
}

static void read_mount_path(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	char path[PATH_MAX];

	(void)k;
	if (!config_read_path(r, at, v, "the path of a folder", path, sizeof path))
		return;
	const char *fault = mount_path_fault(path);
	if (fault)
		config_finding(r, yamldoc_line(r->doc, v), at, "%s", fault);
	else
		config_set_string(r, out, path, strlen(path));
}

#define AT(member) offsetof(struct config_mount, member)
static const struct key mount_keys[] = {
	{ "path", read_mount_path, AT(path) },
	{ "vault", config_read_string, AT(vault) },
	{ "allow_other", config_read_bool, AT(allow_other) },
	{ "allow", read_allow, AT(allow) },
	{ "mode", config_read_mode, AT(mode) },
	{ "owner", config_read_owner, AT(uid) },
	{ "group", config_read_group, AT(gid) },
	{ "secrets", read_secrets },
};
#undef AT
enum { N_MOUNT_KEYS = sizeof mount_keys / sizeof *mount_keys };
enum { SEEN_PATH = 1, SEEN_VAULT = 2, SEEN_ALLOW_OTHER = 4 };

/* Does anybody but this process's own user get in? */
static bool names_others(const struct config_mount *m)
{
	uid_t self = geteuid();

	if (m->uid != self || m->allow.n_gids)
		return true;
	for (size_t i = 0; i < m->allow.n_uids; i++)
		if (m->allow.uids[i] != self)
			return true;
	return false;
}

static void read_mount(struct reader *r, const struct at *at, const struct json *v, struct config_mount *m)
{
	m->line = yamldoc_line(r->doc, v);
	m->mode = 0400;
	m->uid = geteuid();
	m->gid = getegid();

	size_t before = r->n_findings;
	uint64_t seen = config_read_map(r, at, v, mount_keys, N_MOUNT_KEYS, m);
	if (json_type(v) != JSON_OBJECT)
		return;
	if (!(seen & SEEN_PATH))
		config_finding(r, m->line, at, "needs 'path', the folder to mount at");
	if (!(seen & SEEN_VAULT))
		config_finding(r, m->line, at, "needs 'vault', a name from 'vaults'");
	if (!(seen & SEEN_ALLOW_OTHER)) {
		m->allow_other = names_others(m);
	} else if (!m->allow_other && names_others(m) && r->n_findings == before) {
		struct at here = { .up = at, .key = "allow_other" };
		config_finding(r, yamldoc_line(r->doc, json_get(v, "allow_other")), &here,
			       "is false, but 'owner' or 'allow' name others than the user who runs this");
	}
}

void config_read_mounts(struct reader *r, const struct at *at, const struct json *list, const struct key *k, void *out)
{
	struct config *c = r->c;
	struct at here = { .up = at };

	(void)k;
	(void)out;
	if (!config_want(r, at, list, JSON_ARRAY, "a list of mounts"))
		return;
	for (const struct json *j = json_first(list); j; j = json_next(j), here.index++) {
		if (c->n_mounts == MOUNTS_MAX) {
			config_finding(r, yamldoc_line(r->doc, j), at, "more than %d mounts", MOUNTS_MAX);
			return;
		}
		struct config_mount *all = config_grow(r, c->mounts, c->n_mounts, sizeof *all);
		if (!all)
			return;
		c->mounts = all;
		read_mount(r, &here, j, &all[c->n_mounts++]);
	}
}

/* A folder right before what is below it: '/' sorts before every other byte. */
static int path_cmp(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	int x = *a == '/' ? 1 : *a ? (unsigned char)*a + 1 : 0, y = *b == '/' ? 1 : *b ? (unsigned char)*b + 1 : 0;
	return x - y;
}

static int mount_cmp(const void *pa, const void *pb)
{
	const struct config_mount *a = *(const struct config_mount *const *)pa;
	const struct config_mount *b = *(const struct config_mount *const *)pb;
	int c = path_cmp(a->path, b->path);

	return c ? c : a < b ? -1 : a > b;
}

static void check_nesting(struct reader *r)
{
	const struct config *c = r->c;
	cleanup_free const struct config_mount **m = calloc(c->n_mounts + 1, sizeof *m);
	const struct config_mount *outer = NULL;
	const struct at mounts = { .key = "mounts" };
	size_t n = 0;

	if (!m) {
		r->no_memory = true;
		return;
	}
	for (size_t i = 0; i < c->n_mounts; i++)
		if (c->mounts[i].path)
			m[n++] = &c->mounts[i];
	qsort(m, n, sizeof *m, mount_cmp);
	for (size_t i = 0; i < n; i++) {
		size_t len = outer ? strlen(outer->path) : 0;
		struct at entry = { .up = &mounts, .index = (size_t)(m[i] - c->mounts) };
		struct at here = { .up = &entry, .key = "path" };

		if (!outer || strncmp(m[i]->path, outer->path, len) != 0 ||
		    (m[i]->path[len] && m[i]->path[len] != '/')) {
			outer = m[i];
			continue;
		}
		bool inside = m[i]->path[len];
		config_finding(r, m[i]->line, &here, "%s mounts[%zu] (line %d)%s",
			       inside ? "lies inside" : "is that of", (size_t)(outer - c->mounts), outer->line,
			       inside ? ": mounts may not be nested" : " already");
	}
}

void config_check_mounts(struct reader *r, const struct json *root)
{
	const struct json *vaults = json_get(root, "vaults");
	const struct json *j = json_first(json_get(root, "mounts"));
	const struct at mounts = { .key = "mounts" };

	for (size_t i = 0; i < r->c->n_mounts && j; i++, j = json_next(j)) {
		const char *vault = r->c->mounts[i].vault;
		struct at entry = { .up = &mounts, .index = i };
		struct at here = { .up = &entry, .key = "vault" };

		if (vault && !json_get(vaults, vault))
			config_finding(r, yamldoc_line(r->doc, json_get(j, "vault")), &here,
				       "'%s' is not one of 'vaults'", config_shown(vault).s);
	}
	check_nesting(r);
}
