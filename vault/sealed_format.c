/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading is one pass over the bytes with a cursor that knows what is left; nothing is trusted before it was compared
 * with that. The layout has no offsets of single blocks: lengths add up, so blocks can neither overlap nor leave gaps.
 */
#include "vault/sealed_format.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(SEALED_KEY_LEN == crypto_aead_xchacha20poly1305_ietf_KEYBYTES, "key");
_Static_assert(SEALED_NONCE_LEN == crypto_aead_xchacha20poly1305_ietf_NPUBBYTES, "nonce");
_Static_assert(SEALED_TAG_LEN == crypto_aead_xchacha20poly1305_ietf_ABYTES, "tag");
_Static_assert(SEALED_SALT_LEN == crypto_pwhash_argon2id_SALTBYTES, "salt");
_Static_assert(SEALED_KEY_LEN == crypto_kdf_KEYBYTES, "kdf");

enum {
	RECORD_HEAD = 12,
	VERSION_LEN = 44,
	SLOT_AD = 56, /* bytes of a slot before the wrapped key */
	VALUE_HEAD = 4,
	FIELD_HEAD = 8,
};

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static void put64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static unsigned get16(const uint8_t *p)
{
	return p[0] | (unsigned)p[1] << 8;
}

static uint32_t get32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static bool is_zero(const uint8_t *p, size_t n)
{
	uint8_t any = 0;
	for (size_t i = 0; i < n; i++)
		any |= p[i];
	return !any;
}

void sealed_sum(const void *p, size_t n, uint8_t *out)
{
	crypto_generichash(out, SEALED_SUM_LEN, p, n, NULL, 0);
}

/* ---- header ---- */

static void slot_pack(const struct sealed_slot *s, uint8_t *p)
{
	put32(p, s->kind);
	put32(p + 4, s->ops);
	put64(p + 8, s->mem);
	memcpy(p + 16, s->salt, sizeof s->salt);
	memcpy(p + 32, s->nonce, sizeof s->nonce);
	memcpy(p + 56, s->wrapped, sizeof s->wrapped);
	memcpy(p + 104, s->reserved, sizeof s->reserved);
}

static void slot_parse(const uint8_t *p, struct sealed_slot *s)
{
	s->kind = get32(p);
	s->ops = get32(p + 4);
	s->mem = get64(p + 8);
	memcpy(s->salt, p + 16, sizeof s->salt);
	memcpy(s->nonce, p + 32, sizeof s->nonce);
	memcpy(s->wrapped, p + 56, sizeof s->wrapped);
	memcpy(s->reserved, p + 104, sizeof s->reserved);
}

void sealed_header_pack(const struct sealed_header *h, uint8_t *out)
{
	size_t len = sealed_header_len(h);
	memset(out, 0, len);
	memcpy(out, SEALED_MAGIC, SEALED_MAGIC_LEN);
	put32(out + 16, SEALED_VERSION);
	put32(out + 20, (uint32_t)len);
	put32(out + 24, h->n_slots);
	memcpy(out + 32, h->file_id, SEALED_ID_LEN);
	put64(out + 64, h->generation);
	put64(out + 72, h->file_len);
	put64(out + 80, h->index_len);
	memcpy(out + 88, h->index_nonce, SEALED_NONCE_LEN);
	for (size_t i = 0; i < h->n_slots; i++)
		slot_pack(&h->slot[i], out + SEALED_FIXED_LEN + i * SEALED_SLOT_LEN);
	sealed_sum(out, len - SEALED_SUM_LEN, out + len - SEALED_SUM_LEN);
}

int sealed_header_parse(const uint8_t *p, size_t n, uint64_t file_len, struct sealed_header *ret, struct err *e)
{
	if (!n)
		return err_set(e, EBADMSG, "byte 0 (it is empty)");
	size_t magic = n < SEALED_MAGIC_LEN ? n : SEALED_MAGIC_LEN;
	if (memcmp(p, SEALED_MAGIC, magic) != 0)
		return err_set(e, EBADMSG, "byte 0 (it does not begin as a vault does)");
	if (n < SEALED_HEADER_MIN || file_len < SEALED_HEADER_MIN)
		return err_set(e, EBADMSG, "byte %zu (it ends inside its header)", n);
	if (get32(p + 16) != SEALED_VERSION)
		return err_set(e, ENOTSUP, "its format has version %u, this program reads version %d; use a newer one",
			       get32(p + 16), SEALED_VERSION);

	struct sealed_header h = { .n_slots = get32(p + 24) };
	if (h.n_slots < 1 || h.n_slots > SEALED_SLOTS_MAX || get32(p + 20) != sealed_header_len(&h))
		return err_set(e, EBADMSG, "byte 20 (the length of the header)");
	size_t len = sealed_header_len(&h);
	if (n < len)
		return err_set(e, EBADMSG, "byte %zu (it ends inside its header)", n);
	uint8_t sum[SEALED_SUM_LEN];
	sealed_sum(p, len - SEALED_SUM_LEN, sum);
	if (memcmp(sum, p + len - SEALED_SUM_LEN, sizeof sum) != 0)
		return err_set(e, EBADMSG, "byte 0 to %zu (the checksum of the header does not match)", len);
	if (get32(p + 28) || !is_zero(p + 112, SEALED_FIXED_LEN - 112))
		return err_set(e, EBADMSG, "byte 28 or 112 (reserved bytes are not zero)");

	memcpy(h.file_id, p + 32, SEALED_ID_LEN);
	h.generation = get64(p + 64);
	h.file_len = get64(p + 72);
	h.index_len = get64(p + 80);
	memcpy(h.index_nonce, p + 88, SEALED_NONCE_LEN);
	if (h.file_len > SEALED_FILE_MAX)
		return err_set(e, EMSGSIZE, "it says that it has %llu bytes, a vault has at most %d",
			       (unsigned long long)h.file_len, SEALED_FILE_MAX);
	if (h.file_len != file_len)
		return err_set(e, EBADMSG, "byte %llu (it was written with %llu bytes and has %llu)",
			       (unsigned long long)(file_len < h.file_len ? file_len : h.file_len),
			       (unsigned long long)h.file_len, (unsigned long long)file_len);
	if (h.file_len < len + SEALED_SUM_LEN || h.index_len > h.file_len - len - SEALED_SUM_LEN ||
	    h.index_len < SEALED_INDEX_HEAD + SEALED_TAG_LEN)
		return err_set(e, EBADMSG, "byte 80 (the length of the index)");
	for (size_t i = 0; i < h.n_slots; i++) {
		slot_parse(p + SEALED_FIXED_LEN + i * SEALED_SLOT_LEN, &h.slot[i]);
		if (h.slot[i].kind == SEALED_SLOT_PASSPHRASE && !is_zero(h.slot[i].reserved, sizeof h.slot[i].reserved))
			return err_set(e, EBADMSG, "byte %zu (reserved bytes of a key slot are not zero)",
				       SEALED_FIXED_LEN + i * SEALED_SLOT_LEN + 104);
	}
	*ret = h;
	return 0;
}

/* ---- keys ---- */

void sealed_keys_derive(struct sealed_keys *k)
{
	static const char context[crypto_kdf_CONTEXTBYTES] = { 'c', 't', 'v', 'a', 'u', 'l', 't', '1' };
	crypto_kdf_derive_from_key(k->index, sizeof k->index, 1, context, k->master);
	crypto_kdf_derive_from_key(k->value, sizeof k->value, 2, context, k->master);
}

int sealed_kdf(const struct sealed_slot *s, const void *passphrase, size_t len, uint8_t *key, struct err *e)
{
	if (s->mem > SEALED_KDF_MEM_MAX || s->ops > SEALED_KDF_OPS_MAX)
		return err_set(e, EMSGSIZE,
			       "opening it would take %llu MiB of memory and %u passes, the bounds are %llu MiB and %d",
			       (unsigned long long)(s->mem >> 20), s->ops,
			       (unsigned long long)(SEALED_KDF_MEM_MAX >> 20), SEALED_KDF_OPS_MAX);
	if (s->mem < crypto_pwhash_argon2id_MEMLIMIT_MIN || s->ops < crypto_pwhash_argon2id_OPSLIMIT_MIN)
		return err_set(e, EBADMSG, "byte %d (the parameters of Argon2id)", SEALED_FIXED_LEN + 4);
	if (crypto_pwhash_argon2id(key, SEALED_KEY_LEN, passphrase, len, s->salt, s->ops, (size_t)s->mem,
				   crypto_pwhash_argon2id_ALG_ARGON2ID13) != 0)
		return err_set(e, ENOMEM, "there are no %llu MiB of memory to derive its key (Argon2id)",
			       (unsigned long long)(s->mem >> 20));
	return 0;
}

enum { WRAP_AD_LEN = SEALED_MAGIC_LEN + 4 + SEALED_ID_LEN + SLOT_AD };

static void wrap_ad(const struct sealed_header *h, size_t i, uint8_t ad[WRAP_AD_LEN])
{
	uint8_t slot[SEALED_SLOT_LEN];
	slot_pack(&h->slot[i], slot);
	memcpy(ad, SEALED_MAGIC, SEALED_MAGIC_LEN);
	put32(ad + SEALED_MAGIC_LEN, SEALED_VERSION);
	memcpy(ad + SEALED_MAGIC_LEN + 4, h->file_id, SEALED_ID_LEN);
	memcpy(ad + SEALED_MAGIC_LEN + 4 + SEALED_ID_LEN, slot, SLOT_AD);
}

void sealed_slot_wrap(struct sealed_header *h, size_t i, const uint8_t *key, const uint8_t *master)
{
	struct sealed_slot *s = &h->slot[i];
	randombytes_buf(s->nonce, sizeof s->nonce);
	uint8_t ad[WRAP_AD_LEN];
	wrap_ad(h, i, ad);
	crypto_aead_xchacha20poly1305_ietf_encrypt(s->wrapped, NULL, master, SEALED_KEY_LEN, ad, sizeof ad, NULL,
						   s->nonce, key);
}

int sealed_slot_unwrap(const struct sealed_header *h, size_t i, const uint8_t *key, uint8_t *ret_master)
{
	const struct sealed_slot *s = &h->slot[i];
	uint8_t ad[WRAP_AD_LEN];
	wrap_ad(h, i, ad);
	if (crypto_aead_xchacha20poly1305_ietf_decrypt(ret_master, NULL, NULL, s->wrapped, sizeof s->wrapped, ad,
						       sizeof ad, s->nonce, key) != 0)
		return -EKEYREJECTED;
	return 0;
}

/* ---- index ---- */

static size_t record_len(const uint8_t *p)
{
	return RECORD_HEAD + get16(p) + (size_t)p[2] * VERSION_LEN;
}

static int path_cmp(const char *a, size_t an, const char *b, size_t bn)
{
	size_t both = an < bn ? an : bn;
	int c = both ? memcmp(a, b, both) : 0;
	if (c)
		return c;
	return an < bn ? -1 : an > bn;
}

static void path_of(const struct sealed_index *x, size_t i, const char **ret, size_t *ret_len)
{
	const uint8_t *p = x->bytes + x->record[i].at;
	*ret = (const char *)p + RECORD_HEAD;
	*ret_len = get16(p);
}

/* One record at p, with `left` bytes from there on. Adds what its blocks take. */
static bool record_check(const uint8_t *p, size_t left, uint64_t *data)
{
	if (left < RECORD_HEAD || p[2] > SEALED_KEEP || p[3])
		return false;
	size_t path_len = get16(p);
	if (!path_len || path_len > VAULT_PATH_MAX || left < record_len(p) || memchr(p + RECORD_HEAD, 0, path_len))
		return false;
	/* As vault_path_check, which wants a terminated string. */
	char path[VAULT_PATH_MAX + 1];
	memcpy(path, p + RECORD_HEAD, path_len);
	path[path_len] = '\0';
	if (vault_path_check(path, false, NULL) < 0)
		return false;
	uint64_t last = get64(p + 4), before = 0;
	const uint8_t *v = p + RECORD_HEAD + path_len;
	for (unsigned i = 0; i < p[2]; i++, v += VERSION_LEN) {
		uint64_t version = get64(v);
		uint32_t len = get32(v + 16);
		if (version <= before || len < SEALED_TAG_LEN + VALUE_HEAD || len > SEALED_BLOCK_MAX)
			return false;
		before = version;
		*data += len; /* at most 10 million blocks of 34 MB: no overflow */
	}
	return last && (!p[2] || last == before);
}

int sealed_index_parse(uint8_t *bytes, size_t len, uint64_t data_len, struct sealed_index **ret, struct err *e)
{
	if (len < SEALED_INDEX_HEAD || len > SEALED_FILE_MAX)
		return err_set(e, EBADMSG, "its index (the length)");
	uint32_t n = get32(bytes);
	if (n > SEALED_ENTRIES_MAX)
		return err_set(e, EMSGSIZE, "it says that it holds %u secrets, a vault holds at most %d", n,
			       SEALED_ENTRIES_MAX);
	if (get32(bytes + 4) || n > (len - SEALED_INDEX_HEAD) / (RECORD_HEAD + 1))
		return err_set(e, EBADMSG, "its index (the number of secrets)");
	CLEANUP_WITH(sealed_index_freep) struct sealed_index *x = calloc(1, sizeof *x);
	if (!x)
		return err_set(e, ENOMEM, "no memory for its index");
	x->record = malloc((n ? n : 1) * sizeof *x->record);
	if (!x->record)
		return err_set(e, ENOMEM, "no memory for its index of %u secrets", n);

	size_t at = SEALED_INDEX_HEAD;
	const uint8_t *before = NULL;
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *p = bytes + at;
		x->record[i] = (struct sealed_record){ .data = x->data_len, .at = (uint32_t)at };
		if (!record_check(p, len - at, &x->data_len))
			return err_set(e, EBADMSG, "its index (entry %u)", i);
		if (before && path_cmp((const char *)before + RECORD_HEAD, get16(before), (const char *)p + RECORD_HEAD,
				       get16(p)) >= 0)
			return err_set(e, EBADMSG, "its index (the order of entry %u)", i);
		before = p;
		at += record_len(p);
	}
	if (at != len)
		return err_set(e, EBADMSG, "its index (there is something behind it)");
	if (x->data_len != data_len)
		return err_set(e, EBADMSG, "its index (the values do not fill the file)");
	x->bytes = bytes;
	x->len = len;
	x->n = n;
	*ret = TAKE_PTR(x);
	return 0;
}

void sealed_index_free(struct sealed_index *x)
{
	if (!x)
		return;
	free(x->record);
	free(x->bytes);
	free(x);
}

void sealed_index_at(const struct sealed_index *x, size_t i, struct sealed_entry *ret)
{
	const uint8_t *p = x->bytes + x->record[i].at;
	ret->path = (const char *)p + RECORD_HEAD;
	ret->path_len = get16(p);
	ret->last = get64(p + 4);
	ret->n = p[2];
	uint64_t data = x->record[i].data;
	const uint8_t *v = p + RECORD_HEAD + ret->path_len;
	for (unsigned k = 0; k < ret->n; k++, v += VERSION_LEN) {
		struct sealed_version *to = &ret->version[k];
		to->version = get64(v);
		to->created = (int64_t)get64(v + 8);
		to->len = get32(v + 16);
		memcpy(to->nonce, v + 20, SEALED_NONCE_LEN);
		to->data = data;
		data += to->len;
	}
}

/* The first record from `from` on whose path is not less than `path`. */
static size_t lower_bound(const struct sealed_index *x, size_t from, const char *path, size_t len)
{
	size_t lo = from, hi = x->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2, n;
		const char *p;
		path_of(x, mid, &p, &n);
		if (path_cmp(p, n, path, len) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

bool sealed_index_find(const struct sealed_index *x, const char *path, size_t len, size_t *ret)
{
	size_t i = lower_bound(x, 0, path, len), n;
	const char *p;
	*ret = i;
	if (i == x->n)
		return false;
	path_of(x, i, &p, &n);
	return path_cmp(p, n, path, len) == 0;
}

static int names_add(struct vault_names *names, size_t *room, const char *name, size_t len)
{
	if (names->n == *room) {
		size_t more = *room ? *room * 2 : 16;
		char **p = realloc(names->name, more * sizeof *p);
		if (!p)
			return -ENOMEM;
		names->name = p;
		*room = more;
	}
	char *copy = strndup(name, len);
	if (!copy)
		return -ENOMEM;
	names->name[names->n++] = copy;
	return 0;
}

static void names_freep(struct vault_names **n)
{
	vault_names_free(*n);
}

int sealed_index_list(const struct sealed_index *x, const char *folder, struct vault_names **ret, struct err *e)
{
	CLEANUP_WITH(names_freep) struct vault_names *names = calloc(1, sizeof *names);
	if (!names)
		return err_set(e, ENOMEM, "no memory for a list");
	size_t room = 0, prefix = strlen(folder), n;
	for (size_t i = lower_bound(x, 0, folder, prefix); i < x->n;) {
		const char *p;
		path_of(x, i, &p, &n);
		if (n < prefix || memcmp(p, folder, prefix) != 0)
			break;
		const char *slash = memchr(p + prefix, '/', n - prefix);
		size_t name = slash ? (size_t)(slash - p) - prefix + 1 : n - prefix;
		/* A removed secret is no name; one that is left anywhere below makes a folder. */
		if (!x->bytes[x->record[i].at + 2] || !name) {
			i++;
			continue;
		}
		if (names_add(names, &room, p + prefix, name) < 0)
			return err_set(e, ENOMEM, "no memory for a list of %zu names", names->n);
		i++;
		if (slash) {
			/* Past the whole folder: '0' is the byte behind '/'. */
			char end[VAULT_PATH_MAX];
			memcpy(end, p, prefix + name);
			end[prefix + name - 1] = '/' + 1;
			i = lower_bound(x, i, end, prefix + name);
		}
	}
	if (!names->n && prefix)
		return err_set(e, ENOENT, "there is no such folder");
	*ret = TAKE_PTR(names);
	return 0;
}

static size_t record_write(const struct sealed_entry *entry, uint8_t *p)
{
	put16(p, (unsigned)entry->path_len);
	p[2] = (uint8_t)entry->n;
	p[3] = 0;
	put64(p + 4, entry->last);
	memcpy(p + RECORD_HEAD, entry->path, entry->path_len);
	uint8_t *v = p + RECORD_HEAD + entry->path_len;
	for (unsigned i = 0; i < entry->n; i++, v += VERSION_LEN) {
		const struct sealed_version *from = &entry->version[i];
		put64(v, from->version);
		put64(v + 8, (uint64_t)from->created);
		put32(v + 16, from->len);
		memcpy(v + 20, from->nonce, SEALED_NONCE_LEN);
	}
	return (size_t)(v - p);
}

int sealed_index_with(const struct sealed_index *x, const struct sealed_entry *entry, uint8_t **ret, size_t *ret_len,
		      uint64_t *ret_data_len, struct err *e)
{
	size_t at;
	bool replace = sealed_index_find(x, entry->path, entry->path_len, &at);
	/* Removed secrets leave a record that only keeps their numbers going: in a full vault they make room. */
	bool sweep = !replace && x->n >= SEALED_ENTRIES_MAX;

	uint8_t *out = malloc(x->len + RECORD_HEAD + entry->path_len + (size_t)entry->n * VERSION_LEN);
	if (!out)
		return err_set(e, ENOMEM, "no memory for its index");
	size_t len = SEALED_INDEX_HEAD, n = 0;
	uint64_t data = x->data_len;
	if (!sweep) {
		size_t from = at < x->n ? x->record[at].at : x->len;
		size_t behind = replace ? from + record_len(x->bytes + from) : from;
		memcpy(out, x->bytes, from);
		len = from + record_write(entry, out + from);
		memcpy(out + len, x->bytes + behind, x->len - behind);
		len += x->len - behind;
		n = x->n + !replace;
		if (replace)
			data -= (at + 1 < x->n ? x->record[at + 1].data : x->data_len) - x->record[at].data;
	} else {
		for (size_t i = 0; i <= x->n; i++) {
			if (i == at) {
				len += record_write(entry, out + len);
				n++;
			}
			const uint8_t *p = i < x->n ? x->bytes + x->record[i].at : NULL;
			if (p && p[2]) {
				memcpy(out + len, p, record_len(p));
				len += record_len(p);
				n++;
			}
		}
	}
	for (unsigned i = 0; i < entry->n; i++)
		data += entry->version[i].len;
	if (n > SEALED_ENTRIES_MAX) {
		free(out);
		return err_set(e, EMSGSIZE, "a vault holds at most %d secrets; remove some, or make a second vault",
			       SEALED_ENTRIES_MAX);
	}
	put32(out, (uint32_t)n);
	put32(out + 4, 0);
	*ret = out;
	*ret_len = len;
	*ret_data_len = data;
	return 0;
}

void sealed_index_seal(const struct sealed_keys *k, const struct sealed_header *h, const uint8_t *header_bytes,
		       const uint8_t *bytes, size_t len, uint8_t *out)
{
	crypto_aead_xchacha20poly1305_ietf_encrypt(out, NULL, bytes, len, header_bytes, sealed_header_len(h), NULL,
						   h->index_nonce, k->index);
}

int sealed_index_open(const struct sealed_keys *k, const struct sealed_header *h, const uint8_t *header_bytes,
		      uint8_t *bytes, size_t *ret_len, struct err *e)
{
	unsigned long long len;
	if (crypto_aead_xchacha20poly1305_ietf_decrypt(bytes, &len, NULL, bytes, h->index_len, header_bytes,
						       sealed_header_len(h), h->index_nonce, k->index) != 0)
		return err_set(e, EBADMSG, "byte %zu (its index is not what was written)", sealed_header_len(h));
	*ret_len = (size_t)len;
	return 0;
}

/* ---- value blocks ---- */

enum { VALUE_AD_MAX = SEALED_MAGIC_LEN + SEALED_ID_LEN + 8 + VAULT_PATH_MAX };

static size_t value_ad(const uint8_t *file_id, const char *path, size_t path_len, uint64_t version, uint8_t *ad)
{
	memcpy(ad, "cloudtaser value", SEALED_MAGIC_LEN);
	memcpy(ad + SEALED_MAGIC_LEN, file_id, SEALED_ID_LEN);
	put64(ad + SEALED_MAGIC_LEN + SEALED_ID_LEN, version);
	memcpy(ad + SEALED_MAGIC_LEN + SEALED_ID_LEN + 8, path, path_len);
	return SEALED_MAGIC_LEN + SEALED_ID_LEN + 8 + path_len;
}

int sealed_value_seal(const struct sealed_keys *k, const uint8_t *file_id, const char *path, size_t path_len,
		      const struct vault_secret *s, struct sealed_version *v, uint8_t **ret, struct err *e)
{
	size_t n = vault_secret_count(s), len = VALUE_HEAD;
	for (size_t i = 0; i < n; i++) {
		const struct vault_field *f = vault_secret_at(s, i);
		len += FIELD_HEAD + f->name_len + f->len; /* both bounded by vault_secret_new */
	}
	cleanup_sec uint8_t *plain = sec_malloc(len);
	cleanup_free uint8_t *block = malloc(len + SEALED_TAG_LEN);
	if (!plain || !block)
		return err_set(e, ENOMEM, "no secret memory for %zu bytes (raise the locked memory limit, ulimit -l)",
			       len);
	put32(plain, (uint32_t)n);
	uint8_t *p = plain + VALUE_HEAD;
	for (size_t i = 0; i < n; i++) {
		const struct vault_field *f = vault_secret_at(s, i);
		put32(p, (uint32_t)f->name_len);
		put32(p + 4, (uint32_t)f->len);
		memcpy(p + FIELD_HEAD, f->name, f->name_len);
		memcpy(p + FIELD_HEAD + f->name_len, f->value, f->len);
		p += FIELD_HEAD + f->name_len + f->len;
	}
	uint8_t ad[VALUE_AD_MAX];
	size_t ad_len = value_ad(file_id, path, path_len, v->version, ad);
	randombytes_buf(v->nonce, sizeof v->nonce);
	crypto_aead_xchacha20poly1305_ietf_encrypt(block, NULL, plain, len, ad, ad_len, NULL, v->nonce, k->value);
	v->len = (uint32_t)(len + SEALED_TAG_LEN);
	*ret = TAKE_PTR(block);
	return 0;
}

int sealed_value_parse(const uint8_t *p, size_t n, uint64_t version, int64_t created, struct vault_secret **ret,
		       struct err *e)
{
	static const char where[] = "the value (its fields)";
	if (n < VALUE_HEAD)
		return err_set(e, EBADMSG, "%s", where);
	uint32_t count = get32(p);
	size_t left = n - VALUE_HEAD;
	p += VALUE_HEAD;
	if (count > VAULT_FIELDS_MAX || count > left / FIELD_HEAD)
		return err_set(e, EBADMSG, "%s", where);
	cleanup_free struct vault_field *f = malloc((count ? count : 1) * sizeof *f);
	if (!f)
		return err_set(e, ENOMEM, "no memory for a secret of %u fields", count);
	for (uint32_t i = 0; i < count; i++) {
		if (left < FIELD_HEAD)
			return err_set(e, EBADMSG, "%s", where);
		size_t name = get32(p), value = get32(p + 4);
		left -= FIELD_HEAD;
		p += FIELD_HEAD;
		if (name > left || value > left - name)
			return err_set(e, EBADMSG, "%s", where);
		f[i] = (struct vault_field){ (const char *)p, name, p + name, value };
		left -= name + value;
		p += name + value;
	}
	if (left)
		return err_set(e, EBADMSG, "%s", where);
	int r = vault_secret_new(f, count, version, created, ret, e);
	/* Bounds and doubled names were looked at before it was written. */
	return r == -EMSGSIZE || r == -EEXIST ? err_set(e, EBADMSG, "%s", where) : r;
}

int sealed_value_open(const struct sealed_keys *k, const uint8_t *file_id, const char *path, size_t path_len,
		      const struct sealed_version *v, const uint8_t *block, struct vault_secret **ret, struct err *e)
{
	if (v->len < SEALED_TAG_LEN)
		return err_set(e, EBADMSG, "the value (its length)");
	size_t len = v->len - SEALED_TAG_LEN;
	cleanup_sec uint8_t *plain = sec_malloc(len);
	if (!plain)
		return err_set(e, ENOMEM, "no secret memory for %zu bytes (raise the locked memory limit, ulimit -l)",
			       len);
	uint8_t ad[VALUE_AD_MAX];
	size_t ad_len = value_ad(file_id, path, path_len, v->version, ad);
	if (crypto_aead_xchacha20poly1305_ietf_decrypt(plain, NULL, NULL, block, v->len, ad, ad_len, v->nonce,
						       k->value) != 0)
		return err_set(e, EBADMSG, "the value (it is not what was written)");
	return sealed_value_parse(plain, len, v->version, v->created, ret, e);
}
