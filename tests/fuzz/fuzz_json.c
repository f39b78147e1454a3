/* SPDX-License-Identifier: Apache-2.0 */
/* What a vault may answer: any text is refused or comes out of json_print as a fixed point, and copies are equal. */
#include "base/json.h"
#include "base/secmem.h"

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
	/* The ordinary heap: there the sanitizer sees every byte too far. */
	return secmem_init(SECMEM_OFF, NULL) < 0 ? 1 : 0;
}

static void visit(const struct json *j)
{
	size_t n = 0, len = 0;

	(void)json_int(j, 0);
	(void)json_bool(j, false);
	const char *s = json_bytes(j, &len);
	ALWAYS((json_type(j) == JSON_STRING) == (s != NULL));
	ALWAYS(!s || (utf8_valid(s, len) && s[len] == '\0'));
	ALWAYS((json_type(j) == JSON_NUMBER) == (json_number(j) != NULL));
	for (const struct json *c = json_first(j); c; c = json_next(c), n++) {
		const char *name = json_name_bytes(c, &len);
		ALWAYS((json_type(j) == JSON_OBJECT) == (name != NULL));
		/* no key twice: the first one of this name is this one */
		ALWAYS(!name || n > 50 || strlen(name) != len || json_get(j, name) == c);
		visit(c);
	}
	ALWAYS(json_count(j) == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct json *j = NULL;
	struct err e = ERR_INIT;
	int r = json_parse((const char *)data, size, 1 << 20, &j, &e);

	if (r < 0) {
		ALWAYS(r == -EBADMSG || r == -EMSGSIZE);
		ALWAYS(!j && e.msg[0]);
		return 0;
	}
	visit(j);
	for (int pretty = 0; pretty < 2; pretty++) {
		size_t n = 0, n2 = 0, n3 = 0;
		struct json *again = NULL, *copy = json_copy(j);
		char *text = json_print(j, pretty, &n);
		ALWAYS(text && copy && json_parse(text, n, SIZE_MAX, &again, NULL) == 0);
		char *text2 = json_print(again, pretty, &n2), *text3 = json_print(copy, pretty, &n3);
		ALWAYS(text2 && n == n2 && memcmp(text, text2, n) == 0);
		ALWAYS(text3 && n == n3 && memcmp(text, text3, n) == 0);
		sec_free(text);
		sec_free(text2);
		sec_free(text3);
		json_free(again);
		json_free(copy);
	}
	json_free(j);
	return 0;
}
