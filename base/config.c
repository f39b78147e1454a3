/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The document becomes a tree (base/yaml.c), and one walk over it fills the structures and collects findings: a value
 * that is wrong leaves its member at the default and the walk goes on, so one run tells everything. Only when there is
 * no finding does anybody get the structure.
 */
#include "base/config.h"

#include "base/cleanup.h"
#include "base/config_read.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

enum { FILE_MAX = 1 << 20, NESTING_MAX = 16 };

static void read_level(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	const char *s = json_string(v);
	enum log_level level;

	(void)k;
	if (!s || log_parse_level(s, &level) < 0)
		config_finding(r, yamldoc_line(r->doc, v), at, "must be error, warn, info or debug");
	else
		*(enum log_level *)out = level;
}

static void read_format(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	const char *s = json_string(v);
	enum log_format format;

	(void)k;
	if (!s || log_parse_format(s, &format) < 0)
		config_finding(r, yamldoc_line(r->doc, v), at, "must be text or json");
	else
		*(enum log_format *)out = format;
}

static void read_log(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	static const struct key keys[] = {
		{ "level", read_level, offsetof(struct config, log_level) },
		{ "format", read_format, offsetof(struct config, log_format) },
	};

	(void)k;
	(void)config_read_map(r, at, v, keys, 2, out);
}

static void read_cache(struct reader *r, const struct at *at, const struct json *v, const struct key *k, void *out)
{
	static const struct key keys[] = {
		{ "max_entries", config_read_count, offsetof(struct config, cache_max_entries), 1, 100000000 },
		{ "max_bytes", config_read_size, offsetof(struct config, cache_max_bytes), 64 << 10,
		  UINT64_C(1) << 40 },
	};

	(void)k;
	(void)config_read_map(r, at, v, keys, 2, out);
}

static void read_secret_memory(struct reader *r, const struct at *at, const struct json *v, const struct key *k,
			       void *out)
{
	const char *s = json_string(v);

	(void)k;
	if (s && strcmp(s, "required") == 0)
		*(enum secmem_mode *)out = SECMEM_REQUIRED;
	else if (s && strcmp(s, "preferred") == 0)
		*(enum secmem_mode *)out = SECMEM_PREFERRED;
	else
		config_finding(r, yamldoc_line(r->doc, v), at, "must be required or preferred");
}

static const struct key root_keys[] = {
	{ "log", read_log },
	{ "secret_memory", read_secret_memory, offsetof(struct config, secret_memory) },
	{ "control_socket", config_read_file, offsetof(struct config, control_socket),
	  .max = sizeof((struct sockaddr_un *)0)->sun_path },
	{ "cache", read_cache },
	{ "wait", config_read_ms, offsetof(struct config, wait_ms), 1, 3600000 },
	{ "vaults", config_read_vaults },
	{ "mounts", config_read_mounts },
};

static int finding_cmp(const void *pa, const void *pb)
{
	const struct finding *a = pa, *b = pb;

	if (a->line != b->line)
		return a->line < b->line ? -1 : 1;
	return a->nth < b->nth ? -1 : a->nth > b->nth;
}

static size_t kept(const struct reader *r)
{
	return r->n_findings < FINDINGS_MAX ? r->n_findings : FINDINGS_MAX;
}

static void reader_free(struct reader *r)
{
	for (size_t i = 0; i < kept(r); i++)
		free(r->findings[i].text);
	free(r->findings);
	config_free(r->c);
}
#define cleanup_reader CLEANUP_WITH(reader_free)

static int read_text(struct reader *r, const char *name, const char *text, size_t len, struct err *e)
{
	cleanup_yamldoc struct yamldoc *doc = NULL;
	int line = 1;

	r->file = name;
	r->c = calloc(1, sizeof *r->c);
	if (!r->c)
		return err_set(e, ENOMEM, "not enough memory to read %s", name);
	r->c->wait_ms = 10000;
	r->c->log_level = LOG_INFO;
	config_set_string(r, &r->c->file, name, strlen(name));
	config_set_string(r, &r->c->control_socket, "/run/cloudtaser/control.sock", PATH_MAX);

	if (len > FILE_MAX) {
		config_finding(r, 1, NULL, "the file is larger than 1 MiB");
	} else {
		struct err why = ERR_INIT;
		int n = yamldoc_parse(text, len, NESTING_MAX, &doc, &line, &why);
		if (n == -ENOMEM)
			return err_set(e, ENOMEM, "not enough memory to read %s", name);
		if (n < 0)
			config_finding(r, line, NULL, "%s", why.msg);
	}
	r->doc = doc;
	if (doc && json_type(yamldoc_root(doc)) != JSON_NULL) { /* an empty file is all defaults */
		(void)config_read_map(r, NULL, yamldoc_root(doc), root_keys, sizeof root_keys / sizeof *root_keys,
				      r->c);
		config_check_mounts(r, yamldoc_root(doc));
	}
	r->doc = NULL;
	if (r->no_memory)
		return err_set(e, ENOMEM, "not enough memory to read %s", name);
	if (r->n_findings)
		qsort(r->findings, kept(r), sizeof *r->findings, finding_cmp);
	return 0;
}

/* One byte more than allowed is enough to know that it is too large. No secrets in it: ordinary memory. */
static int read_file(const char *file, char **ret, size_t *ret_len, struct err *e)
{
	cleanup_close int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return err_sys(e, errno, "cannot open the configuration %s", file);

	cleanup_free char *text = malloc(FILE_MAX + 1);
	if (!text)
		return err_set(e, ENOMEM, "not enough memory to read %s", file);
	size_t len = 0;
	while (len < FILE_MAX + 1) {
		ssize_t n = read(fd, text + len, FILE_MAX + 1 - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, errno, "cannot read the configuration %s", file);
		if (n == 0)
			break;
		len += (size_t)n;
	}
	*ret = TAKE_PTR(text);
	*ret_len = len;
	return 0;
}

int config_parse(const char *name, const char *text, size_t len, struct config **ret, struct err *e)
{
	cleanup_reader struct reader r = { 0 };
	int n = read_text(&r, name, text, len, e);

	if (n < 0)
		return n;
	if (r.n_findings > 1)
		return err_set(e, EINVAL, "%s (and %zu more: see cloudtaser validate config)", r.findings[0].text,
			       r.n_findings - 1);
	if (r.n_findings)
		return err_set(e, EINVAL, "%s", r.findings[0].text);
	*ret = TAKE_PTR(r.c);
	return 0;
}

int config_load(const char *file, struct config **ret, struct err *e)
{
	cleanup_free char *text = NULL;
	size_t len = 0;
	int n = read_file(file, &text, &len, e);

	return n < 0 ? n : config_parse(file, text, len, ret, e);
}

int config_check(const char *file, void (*fn)(void *arg, const char *finding), void *arg, struct err *e)
{
	cleanup_reader struct reader r = { 0 };
	cleanup_free char *text = NULL;
	size_t len = 0;
	int n = read_file(file, &text, &len, e);

	if (n == 0)
		n = read_text(&r, file, text, len, e);
	if (n < 0)
		return n;
	for (size_t i = 0; i < kept(&r); i++)
		fn(arg, r.findings[i].text);
	if (r.n_findings > kept(&r)) {
		char more[128];
		(void)snprintf(more, sizeof more, "and %zu more findings", r.n_findings - kept(&r));
		fn(arg, more);
	}
	return (int)r.n_findings;
}

static void vault_clear(struct config_vault *v)
{
	free(v->name);
	free(v->file);
	free(v->passphrase_file);
	free(v->address);
	free(v->kv_mount);
	free(v->namespace_);
	free(v->token_file);
	free(v->ca_file);
	free(v->cert_file);
	free(v->key_file);
	free(v->server_name);
}

static void secret_clear(struct config_secret *s)
{
	free(s->path);
	free(s->as);
	for (size_t i = 0; i < s->n_fields; i++) {
		free(s->fields[i].from);
		free(s->fields[i].to);
	}
	free(s->fields);
	for (size_t i = 0; i < s->n_binary; i++)
		free(s->binary[i]);
	free(s->binary);
}

void config_free(struct config *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_vaults; i++)
		vault_clear(&c->vaults[i]);
	free(c->vaults);
	for (size_t i = 0; i < c->n_mounts; i++) {
		struct config_mount *m = &c->mounts[i];
		for (size_t k = 0; k < m->n_secrets; k++)
			secret_clear(&m->secrets[k]);
		free(m->secrets);
		free(m->allow.uids);
		free(m->allow.gids);
		free(m->path);
		free(m->vault);
	}
	free(c->mounts);
	free(c->file);
	free(c->control_socket);
	free(c);
}

const struct config_vault *config_find_vault(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_vaults; i++)
		if (strcmp(c->vaults[i].name, name) == 0)
			return &c->vaults[i];
	return NULL;
}
