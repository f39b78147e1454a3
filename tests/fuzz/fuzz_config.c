/* SPDX-License-Identifier: Apache-2.0 */
/* A configuration: any text gives a sentence with the file's name, or a structure that keeps what config.h promises. */
#include "base/config.h"
#include "base/secmem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ALWAYS(c) \
	do { \
		if (!(c)) \
			abort(); \
	} while (0)

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	return secmem_init(SECMEM_OFF, NULL) < 0 ? 1 : 0;
}

static void check_mount(const struct config *c, const struct config_mount *m)
{
	ALWAYS(m->path && m->path[0] == '/' && m->path[1] && !strstr(m->path, "//") && !strstr(m->path, "/../"));
	ALWAYS(m->vault && config_find_vault(c, m->vault));
	ALWAYS(m->mode && !(m->mode & ~0444U));
	for (size_t i = 0; i < m->n_secrets; i++) {
		const struct config_secret *s = &m->secrets[i];
		size_t n = strlen(s->path);
		ALWAYS(s->as && s->as[0] != '/' && (s->as[0] || s->tree));
		ALWAYS(s->tree == (n == 0 || s->path[n - 1] == '/'));
		ALWAYS(!(s->mode & ~0444U));
		for (size_t k = 0; k < s->n_fields; k++)
			ALWAYS(s->fields[k].from[0] && s->fields[k].to[0] && !strchr(s->fields[k].to, '/'));
		for (size_t k = 0; k < s->n_binary; k++)
			ALWAYS(s->binary[k][0]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *c = NULL;
	struct err e = ERR_INIT;
	int r = config_parse("fuzz.yaml", (const char *)data, size, &c, &e);

	if (r < 0) {
		ALWAYS(r == -EINVAL && !c);
		ALWAYS(strncmp(e.msg, "fuzz.yaml:", 10) == 0 && e.msg[10] >= '1' && e.msg[10] <= '9');
		return 0;
	}
	for (size_t i = 0; i < c->n_vaults; i++) {
		const struct config_vault *v = &c->vaults[i];
		ALWAYS(v->name[0] && config_find_vault(c, v->name) == v);
		ALWAYS(v->kind == CONFIG_VAULT_SEALED ? v->file && !v->address : v->address && !v->file);
		ALWAYS(v->refresh_s >= 1 && v->connect_timeout_ms <= v->timeout_ms);
	}
	for (size_t i = 0; i < c->n_mounts; i++)
		check_mount(c, &c->mounts[i]);
	config_free(c);
	return 0;
}
