/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/view.h"

#include "base/cleanup.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

static int keep(const void *p, size_t n, struct secbuf **ret, struct err *e)
{
	struct secbuf *b = secbuf_from(p, n);
	if (!b)
		return err_set(e, ENOMEM, "out of secret memory: raise RLIMIT_MEMLOCK (ulimit -l)");
	*ret = b;
	return 0;
}

int fs_view_json(const struct vault_secret *s, struct secbuf **ret, struct err *e)
{
	errno = 0;
	cleanup_json struct json *j = vault_secret_to_json(s);
	if (!j && errno == EILSEQ)
		return err_set(e, EILSEQ,
			       "has a field whose name is not UTF-8: .json cannot hold it, the field's own file can");
	size_t n = 0;
	cleanup_sec char *text = j ? json_print(j, true, &n) : NULL;
	if (!text)
		return err_set(e, ENOMEM, "out of secret memory: raise RLIMIT_MEMLOCK (ulimit -l)");
	text[n] = '\n'; /* where the NUL was; the length is what counts */
	return keep(text, n + 1, ret, e);
}

int fs_view_version(const struct vault_secret *s, struct secbuf **ret, struct err *e)
{
	char text[32];
	int n = snprintf(text, sizeof text, "%" PRIu64 "\n", vault_secret_version(s));
	return keep(text, (size_t)n, ret, e);
}

int fs_view_base64(const struct vault_field *f, struct secbuf **ret, struct err *e)
{
	cleanup_sec unsigned char *out = sec_malloc(f->len / 4 * 3 + 4);
	if (!out)
		return err_set(e, ENOMEM, "out of secret memory: raise RLIMIT_MEMLOCK (ulimit -l)");
	size_t n = 0;
	const char *end = NULL;
	const char *text = (const char *)f->value;
	int r = sodium_base642bin(out, f->len / 4 * 3 + 4, text, f->len, " \t\r\n", &n, &end,
				  sodium_base64_VARIANT_ORIGINAL);
	if (r != 0 || end != text + f->len)
		r = sodium_base642bin(out, f->len / 4 * 3 + 4, text, f->len, " \t\r\n", &n, &end,
				      sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
	if (r != 0 || end != text + f->len)
		return err_set(e, EILSEQ, "is configured as binary and its value in the vault is not base64");
	return keep(out, n, ret, e);
}
