/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/mountconf.h"

#include <stdlib.h>
#include <string.h>

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static bool copy_string(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to;
}

static bool copy_bytes(void *to, const void *from, size_t n)
{
	void *p = n ? malloc(n) : NULL;
	if (n && !p)
		return false;
	if (n)
		memcpy(p, from, n);
	memcpy(to, &p, sizeof p);
	return true;
}

static bool secret_copy(struct config_secret *to, const struct config_secret *from)
{
	*to = *from;
	to->fields = NULL;
	to->binary = NULL;
	to->n_fields = to->n_binary = 0;
	bool ok = copy_string(&to->path, from->path) & copy_string(&to->as, from->as);
	if (from->n_fields && (to->fields = calloc(from->n_fields, sizeof *to->fields))) {
		to->n_fields = from->n_fields;
		for (size_t i = 0; i < to->n_fields; i++)
			ok &= copy_string(&to->fields[i].from, from->fields[i].from) &
			      copy_string(&to->fields[i].to, from->fields[i].to);
	}
	if (from->n_binary && (to->binary = calloc(from->n_binary, sizeof *to->binary))) {
		to->n_binary = from->n_binary;
		for (size_t i = 0; i < to->n_binary; i++)
			ok &= copy_string(&to->binary[i], from->binary[i]);
	}
	return ok && to->n_fields == from->n_fields && to->n_binary == from->n_binary;
}

int fs_mountconf_copy(const struct config_mount *m, struct config_mount **ret, struct err *e)
{
	struct config_mount *c = malloc(sizeof *c);
	if (!c)
		return err_set(e, ENOMEM, "out of memory");
	*c = *m;
	c->secrets = NULL;
	c->n_secrets = 0;
	c->allow.uids = NULL;
	c->allow.gids = NULL;
	bool ok = copy_string(&c->path, m->path) & copy_string(&c->vault, m->vault) &
		  copy_bytes(&c->allow.uids, m->allow.uids, m->allow.n_uids * sizeof *m->allow.uids) &
		  copy_bytes(&c->allow.gids, m->allow.gids, m->allow.n_gids * sizeof *m->allow.gids);
	if (ok && m->n_secrets && (c->secrets = calloc(m->n_secrets, sizeof *c->secrets))) {
		c->n_secrets = m->n_secrets;
		for (size_t i = 0; i < m->n_secrets; i++)
			ok &= secret_copy(&c->secrets[i], &m->secrets[i]);
	}
	if (!ok || c->n_secrets != m->n_secrets) {
		fs_mountconf_free(c);
		return err_set(e, ENOMEM, "out of memory");
	}
	*ret = c;
	return 0;
}

void fs_mountconf_free(struct config_mount *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n_secrets; i++) {
		struct config_secret *s = &m->secrets[i];
		for (size_t k = 0; k < s->n_fields; k++) {
			free(s->fields[k].from);
			free(s->fields[k].to);
		}
		for (size_t k = 0; k < s->n_binary; k++)
			free(s->binary[k]);
		free(s->fields);
		free(s->binary);
		free(s->path);
		free(s->as);
	}
	free(m->secrets);
	free(m->allow.uids);
	free(m->allow.gids);
	free(m->path);
	free(m->vault);
	free(m);
}

static bool secret_equal(const struct config_secret *a, const struct config_secret *b)
{
	if (!same(a->path, b->path) || !same(a->as, b->as) || a->tree != b->tree || a->mode != b->mode ||
	    a->uid != b->uid || a->gid != b->gid || a->optional != b->optional || a->n_fields != b->n_fields ||
	    a->n_binary != b->n_binary)
		return false;
	for (size_t i = 0; i < a->n_fields; i++)
		if (!same(a->fields[i].from, b->fields[i].from) || !same(a->fields[i].to, b->fields[i].to))
			return false;
	for (size_t i = 0; i < a->n_binary; i++)
		if (!same(a->binary[i], b->binary[i]))
			return false;
	return true;
}

bool fs_mountconf_equal(const struct config_mount *a, const struct config_mount *b)
{
	if (!same(a->path, b->path) || !same(a->vault, b->vault) || a->mode != b->mode || a->uid != b->uid ||
	    a->gid != b->gid || a->allow_other != b->allow_other || a->allow.n_uids != b->allow.n_uids ||
	    a->allow.n_gids != b->allow.n_gids || a->n_secrets != b->n_secrets)
		return false;
	if (a->allow.n_uids && memcmp(a->allow.uids, b->allow.uids, a->allow.n_uids * sizeof *a->allow.uids) != 0)
		return false;
	if (a->allow.n_gids && memcmp(a->allow.gids, b->allow.gids, a->allow.n_gids * sizeof *a->allow.gids) != 0)
		return false;
	for (size_t i = 0; i < a->n_secrets; i++)
		if (!secret_equal(&a->secrets[i], &b->secrets[i]))
			return false;
	return true;
}
