/* SPDX-License-Identifier: Apache-2.0 */
/* What a client may send, and what a server may answer: any packet is refused with a sentence or is what it claims. */
#include "base/secmem.h"
#include "vault/control.h"

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* A copy of exactly this size: a packet is not NUL-terminated. */
	char *text = malloc(size ? size : 1);
	ALWAYS(text);
	memcpy(text, data, size);

	struct err e = ERR_INIT;
	struct json *j = NULL;
	const char *verb = NULL;
	int r = control_parse_request(text, size, &j, &verb, &e);
	if (r < 0) {
		ALWAYS(!j && !verb && e.code == -r && e.msg[0]);
	} else {
		ALWAYS(r == 0 && json_type(j) == JSON_OBJECT && size <= CONTROL_MESSAGE_MAX);
		ALWAYS(json_int(json_get(j, "v"), 0) == CONTROL_VERSION);
		size_t n = strlen(verb);
		ALWAYS(n > 0 && n <= CONTROL_VERB_MAX && strspn(verb, "abcdefghijklmnopqrstuvwxyz0123456789-") == n);
		json_free(j);
	}

	e = (struct err)ERR_INIT;
	j = NULL;
	r = control_parse_answer(text, size, &j, &e);
	ALWAYS(r <= 0 && (r == 0 || (!j && e.code == -r && e.msg[0])));
	ALWAYS(!j || json_type(j) != JSON_NULL);
	json_free(j);
	free(text);
	return 0;
}
