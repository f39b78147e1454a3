/* SPDX-License-Identifier: Apache-2.0 */
/* A vault's answers. The first byte says which; any bytes give an error or a value that keeps what its header promises. */
#include "base/secmem.h"
#include "vault/openbao_json.h"

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

static void check_error(int r, const struct err *e)
{
	ALWAYS(r == -EPROTO || r == -EMSGSIZE || r == -ENOENT);
	ALWAYS(e->code == -r && e->msg[0] && memchr(e->msg, '\0', sizeof e->msg));
}

/* What was read goes out again, and comes back the same. */
static void check_round_trip(struct vault_secret *s)
{
	char *body;
	size_t len;
	struct err e = ERR_INIT;
	ALWAYS(openbao_make_put(s, 7, &body, &len, &e) == 0);
	ALWAYS(strlen(body) == len && strncmp(body, "{\"data\":{", 9) == 0);
	/* {"data": FIELDS, "options": ...} as the answer to a read */
	char *end = body + len - strlen(",\"options\":{\"cas\":7}}");
	size_t fields = (size_t)(end - body) - strlen("{\"data\":");
	static const char head[] = "{\"data\":{\"data\":", tail[] = ",\"metadata\":{\"version\":9}}}";
	char *answer = malloc(sizeof head + sizeof tail + fields);
	ALWAYS(answer);
	memcpy(answer, head, sizeof head - 1);
	memcpy(answer + sizeof head - 1, body + strlen("{\"data\":"), fields);
	memcpy(answer + sizeof head - 1 + fields, tail, sizeof tail);
	struct vault_secret *again;
	ALWAYS(openbao_parse_secret(answer, strlen(answer), &again, &e) == 0);
	ALWAYS(vault_secret_version(again) == 9 && vault_secret_count(again) == vault_secret_count(s));
	for (size_t i = 0; i < vault_secret_count(s); i++) {
		const struct vault_field *a = vault_secret_at(s, i), *b = vault_secret_at(again, i);
		ALWAYS(a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len) == 0);
		/* a text that looks like {"base64": ...} once more is still a text: only what is no UTF-8 is encoded */
		ALWAYS(a->len == b->len && memcmp(a->value, b->value, a->len) == 0);
	}
	vault_secret_unref(again);
	free(answer);
	sec_free(body);
}

static void read_secret(const char *body, size_t len)
{
	struct err e = ERR_INIT;
	struct vault_secret *s = NULL;
	int r = openbao_parse_secret(body, len, &s, &e);
	if (r < 0) {
		ALWAYS(!s);
		check_error(r, &e);
		return;
	}
	ALWAYS(vault_secret_version(s) >= 1 && vault_secret_created(s) >= 0 &&
	       vault_secret_count(s) <= VAULT_FIELDS_MAX);
	check_round_trip(s);
	vault_secret_unref(s);
}

static void read_list(const char *body, size_t len)
{
	struct err e = ERR_INIT;
	struct vault_names *n = NULL;
	int r = openbao_parse_list(body, len, &n, &e);
	if (r < 0) {
		ALWAYS(!n);
		check_error(r, &e);
		return;
	}
	for (size_t i = 0; i < n->n; i++) {
		const char *name = n->name[i];
		size_t at = strlen(name);
		ALWAYS(at > 0 && at <= VAULT_PATH_MAX && vault_path_check(name, true, NULL) == 0);
		ALWAYS(!memchr(name, '/', at - 1));
		ALWAYS(i == 0 || strcmp(n->name[i - 1], name) < 0);
	}
	vault_names_free(n);
}

static void read_error(const char *body, size_t len)
{
	char text[160];
	uint64_t version = 0;
	struct err e = ERR_INIT;
	openbao_first_error(body, len, text, sizeof text);
	ALWAYS(memchr(text, '\0', sizeof text));
	for (const char *p = text; *p; p++)
		ALWAYS(*p >= 0x20 && *p < 0x7f);
	(void)openbao_is_absent(body, len);
	ALWAYS(openbao_parse_time(body) >= 0);
	if (openbao_parse_written(body, len, &version, &e) == 0)
		ALWAYS(version >= 1);
	char *path = openbao_make_path(body, "data", body);
	ALWAYS(path && strncmp(path, "/v1/", 4) == 0 &&
	       path[strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				 "0123456789-._~/%")] == '\0');
	free(path);
	(void)openbao_path_possible(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	/* As http.h gives it: terminated, and exactly as large, so that a read beyond is seen. */
	char *body = malloc(size);
	ALWAYS(body);
	memcpy(body, data + 1, size - 1);
	body[size - 1] = '\0';
	switch (data[0] % 3) {
	case 0:
		read_secret(body, size - 1);
		break;
	case 1:
		read_list(body, size - 1);
		break;
	default:
		read_error(body, size - 1);
	}
	free(body);
	return 0;
}
