/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parsers of the sealed file. The first byte says what the rest is:
 *
 *   0  a header as found                     1  a header whose checksum is put right
 *   2  an index, decrypted: what is accepted is searched, listed, changed, and accepted again
 *   3  a value block, decrypted              4  a whole file under a known key, checksums and encryption put right
 */
#include "base/secmem.h"
#include "vault/sealed_format.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ALWAYS(c) \
	do { \
		if (!(c)) \
			abort(); \
	} while (0)

static struct sealed_keys keys;
static uint8_t file_id[SEALED_ID_LEN];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memset(keys.master, 7, sizeof keys.master);
	/* The ordinary heap: there the sanitizer sees every byte too far. */
	if (secmem_init(SECMEM_OFF, NULL) < 0 || sodium_init() < 0)
		return 1;
	sealed_keys_derive(&keys);
	return 0;
}

static uint8_t *copy(const uint8_t *data, size_t size)
{
	uint8_t *p = malloc(size ? size : 1);
	ALWAYS(p);
	if (size)
		memcpy(p, data, size);
	return p;
}

static void refused(int r, const struct err *e)
{
	ALWAYS((r == -EBADMSG || r == -EMSGSIZE || r == -ENOTSUP) && e->msg[0]);
}

static void fuzz_header(const uint8_t *data, size_t size, bool fix)
{
	struct err e = ERR_INIT;
	struct sealed_header h;
	uint8_t *p = copy(data, size), out[SEALED_HEADER_MAX];
	if (fix && size >= SEALED_HEADER_MIN) {
		size_t n = (size_t)p[24] % SEALED_SLOTS_MAX + 1,
		       len = SEALED_FIXED_LEN + n * SEALED_SLOT_LEN + SEALED_SUM_LEN;
		memcpy(p, SEALED_MAGIC, SEALED_MAGIC_LEN);
		memcpy(p + 16,
		       (uint8_t[]){ SEALED_VERSION, 0, 0, 0, (uint8_t)len, (uint8_t)(len >> 8), 0, 0, (uint8_t)n, 0, 0,
				    0 },
		       12);
		if (len <= size)
			sealed_sum(p, len - SEALED_SUM_LEN, p + len - SEALED_SUM_LEN);
	}
	/* As long as it says that it is, or as it happens to be. */
	uint64_t file_len = size;
	if (size >= 80 && (p[24] & 0x80 || fix))
		memcpy(&file_len, p + 72, sizeof file_len);
	int r = sealed_header_parse(p, size, file_len, &h, &e);
	if (r < 0) {
		refused(r, &e);
	} else {
		ALWAYS(sealed_header_len(&h) <= size && h.file_len == file_len && file_len <= SEALED_FILE_MAX);
		ALWAYS(sealed_data_at(&h) + sealed_data_len(&h) + SEALED_SUM_LEN == file_len);
		sealed_header_pack(&h, out);
		ALWAYS(!memcmp(out, p, sealed_header_len(&h)));
	}
	free(p);
}

static void list_folder(const struct sealed_index *x, const char *folder)
{
	struct err e = ERR_INIT;
	struct vault_names *names = NULL;
	int r = sealed_index_list(x, folder, &names, &e);
	ALWAYS(r == 0 || (r == -ENOENT && *folder));
	for (size_t i = 0; r == 0 && i < names->n; i++) {
		size_t len = strlen(names->name[i]);
		ALWAYS(len && memchr(names->name[i], '/', len - 1) == NULL);
		ALWAYS(!i || strcmp(names->name[i - 1], names->name[i]) < 0);
	}
	vault_names_free(names);
}

/* The index with one record changed is an index, and differs in nothing else. */
static void change(const struct sealed_index *x, const struct sealed_entry *entry)
{
	struct err e = ERR_INIT;
	uint8_t *bytes;
	size_t len, i;
	uint64_t data_len;
	struct sealed_index *y = NULL;
	bool known = sealed_index_find(x, entry->path, entry->path_len, &i);
	ALWAYS(sealed_index_with(x, entry, &bytes, &len, &data_len, &e) == 0);
	ALWAYS(sealed_index_parse(bytes, len, data_len, &y, &e) == 0);
	ALWAYS(y->n == x->n + !known && sealed_index_find(y, entry->path, entry->path_len, &i));
	struct sealed_entry is;
	sealed_index_at(y, i, &is);
	ALWAYS(is.n == entry->n && is.last == entry->last);
	sealed_index_free(y);
}

static void fuzz_index(const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;
	struct sealed_index *x = NULL;
	/* The length of the values: whatever the index says, which its first refusal does not tell; so, adds it up. */
	uint64_t data_len = 0;
	for (size_t at = SEALED_INDEX_HEAD; at + 12 <= size;) {
		size_t path = data[at] | (size_t)data[at + 1] << 8, n = data[at + 2];
		if (path + n * 44 > size - at - 12)
			break;
		for (size_t k = 0; k < n; k++) {
			uint32_t len;
			memcpy(&len, data + at + 12 + path + k * 44 + 16, sizeof len);
			data_len += len;
		}
		at += 12 + path + n * 44;
	}
	uint8_t *p = copy(data, size);
	int r = sealed_index_parse(p, size, data_len, &x, &e);
	if (r < 0) {
		refused(r, &e);
		free(p);
		return;
	}
	uint64_t total = 0;
	char path[VAULT_PATH_MAX + 2];
	list_folder(x, "");
	for (size_t i = 0; i < x->n; i++) {
		struct sealed_entry entry;
		size_t at;
		sealed_index_at(x, i, &entry);
		ALWAYS(sealed_index_find(x, entry.path, entry.path_len, &at) && at == i);
		for (unsigned k = 0; k < entry.n; k++) {
			ALWAYS(entry.version[k].data == total);
			total += entry.version[k].len;
		}
		if (i > 8)
			continue;
		memcpy(path, entry.path, entry.path_len);
		path[entry.path_len] = '/';
		path[entry.path_len + 1] = '\0';
		list_folder(x, path);
		char *slash = memchr(path, '/', entry.path_len);
		if (slash) {
			slash[1] = '\0';
			list_folder(x, path);
		}
		entry.n = 0;
		change(x, &entry);
		entry.n = 1;
		entry.version[0] = (struct sealed_version){ .version = entry.last, .len = 100 };
		change(x, &entry);
		if (entry.path_len < VAULT_PATH_MAX) {
			memcpy(path, entry.path, entry.path_len);
			path[entry.path_len] = '!';
			entry.path = path;
			entry.path_len++;
			change(x, &entry);
		}
	}
	ALWAYS(total == x->data_len);
	sealed_index_free(x);
}

static void fuzz_value(const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;
	struct vault_secret *s = NULL, *again = NULL;
	uint8_t *p = copy(data, size), *block = NULL;
	int r = sealed_value_parse(p, size, 3, 4, &s, &e);
	free(p);
	if (r < 0) {
		refused(r, &e);
		return;
	}
	struct sealed_version v = { .version = 3, .created = 4 };
	ALWAYS(sealed_value_seal(&keys, file_id, "a/b", 3, s, &v, &block, &e) == 0);
	ALWAYS(v.len == size + SEALED_TAG_LEN);
	ALWAYS(sealed_value_open(&keys, file_id, "a/b", 3, &v, block, &again, &e) == 0);
	ALWAYS(vault_secret_count(s) == vault_secret_count(again));
	for (size_t i = 0; i < vault_secret_count(s); i++) {
		const struct vault_field *f = vault_secret_at(s, i);
		const struct vault_field *g = vault_secret_find(again, f->name, f->name_len);
		ALWAYS(g && g->len == f->len && !memcmp(g->value, f->value, f->len));
	}
	vault_secret_unref(again);
	again = NULL;
	ALWAYS(sealed_value_open(&keys, file_id, "a/c", 3, &v, block, &again, &e) == -EBADMSG);
	v.version = 4;
	ALWAYS(sealed_value_open(&keys, file_id, "a/b", 3, &v, block, &again, &e) == -EBADMSG && !again);
	free(block);
	vault_secret_unref(s);
}

/* Header, index and the rest as one file; the encryption of the index is put right, that of values cannot be. */
static void fuzz_file(const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;
	if (size < SEALED_INDEX_HEAD + 2)
		return;
	size_t index_len = data[0] | (size_t)data[1] << 8;
	data += 2;
	size -= 2;
	if (index_len > size)
		index_len = size;
	struct sealed_header h = { .n_slots = 1, .generation = 1 };
	h.index_len = index_len + SEALED_TAG_LEN;
	h.file_len = sealed_data_at(&h) + (size - index_len) + SEALED_SUM_LEN;
	uint8_t header[SEALED_HEADER_MAX], *index = malloc(h.index_len);
	ALWAYS(index);
	sealed_header_pack(&h, header);
	sealed_index_seal(&keys, &h, header, data, index_len, index);
	struct sealed_header parsed;
	int r = sealed_header_parse(header, sealed_header_len(&h), h.file_len, &parsed, &e);
	size_t len;
	struct sealed_index *x = NULL;
	if (!r) {
		ALWAYS(sealed_index_open(&keys, &parsed, header, index, &len, &e) == 0 && len == index_len);
		r = sealed_index_parse(index, len, sealed_data_len(&parsed), &x, &e);
	}
	if (r < 0) {
		refused(r, &e);
		free(index);
		return;
	}
	ALWAYS(x);
	for (size_t i = 0; i < x->n; i++) {
		struct sealed_entry entry;
		struct vault_secret *s = NULL;
		sealed_index_at(x, i, &entry);
		for (unsigned k = 0; k < entry.n; k++)
			ALWAYS(sealed_value_open(&keys, h.file_id, entry.path, entry.path_len, &entry.version[k],
						 data + index_len + entry.version[k].data, &s, &e) == -EBADMSG);
	}
	sealed_index_free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	switch (data[0] % 5) {
	case 0:
	case 1:
		fuzz_header(data + 1, size - 1, data[0] % 5);
		break;
	case 2:
		fuzz_index(data + 1, size - 1);
		break;
	case 3:
		fuzz_value(data + 1, size - 1);
		break;
	default:
		fuzz_file(data + 1, size - 1);
	}
	return 0;
}
