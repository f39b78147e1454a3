/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a sealed vault file: parsing and writing, without any file. The layout, byte by byte, is in
 * docs/formats/sealed-vault.md:
 *
 *   header (key slots, where the index is; unkeyed checksum) | index (AEAD) | value blocks (AEAD each) | checksum
 *
 * Every bound is checked here. A structure that is not what was written is -EBADMSG, and the sentence then is only the
 * place ("byte 344 (...)"): the caller knows the file's name and says what to do. Other codes come as whole sentences.
 * Thread rules: no globals; objects belong to one thread at a time. Functions that touch keys want a secret stack.
 */
#ifndef CT_VAULT_SEALED_FORMAT_H
#define CT_VAULT_SEALED_FORMAT_H

#include "vault/backend.h"

#include <sodium.h>

enum {
	SEALED_VERSION = 1,
	SEALED_MAGIC_LEN = 16,
	SEALED_ID_LEN = 32,
	SEALED_SUM_LEN = 32,
	SEALED_KEY_LEN = 32,
	SEALED_NONCE_LEN = 24,
	SEALED_TAG_LEN = 16,
	SEALED_SALT_LEN = 16,
	SEALED_FIXED_LEN = 128, /* of the header, before the slots */
	SEALED_SLOT_LEN = 128,
	SEALED_SLOTS_MAX = 8,
	SEALED_HEADER_MIN = SEALED_FIXED_LEN + SEALED_SLOT_LEN + SEALED_SUM_LEN,
	SEALED_HEADER_MAX = SEALED_FIXED_LEN + SEALED_SLOTS_MAX * SEALED_SLOT_LEN + SEALED_SUM_LEN,
	SEALED_INDEX_HEAD = 8,
	SEALED_SLOT_PASSPHRASE = 1,
	SEALED_KEEP = 10, /* versions of a secret */
	SEALED_ENTRIES_MAX = 1000000,
	SEALED_FILE_MAX = 1 << 30,
	SEALED_KDF_OPS_MAX = 64,
};
#define SEALED_MAGIC "cloudtaser vault"
#define SEALED_KDF_MEM_MAX (UINT64_C(4) << 30)
/* All values and names of the largest secret, and the lengths between them. */
#define SEALED_BLOCK_MAX (2u * VAULT_SECRET_MAX + 8u * VAULT_FIELDS_MAX + 4u + SEALED_TAG_LEN)

/* One way to unlock the master key. */
struct sealed_slot {
	uint32_t kind; /* others than SEALED_SLOT_PASSPHRASE are kept and passed over */
	uint32_t ops;
	uint64_t mem; /* bytes */
	uint8_t salt[SEALED_SALT_LEN];
	uint8_t nonce[SEALED_NONCE_LEN];
	uint8_t wrapped[SEALED_KEY_LEN + SEALED_TAG_LEN];
	uint8_t reserved[24]; /* zero for kind 1 */
};

struct sealed_header {
	uint32_t n_slots;
	uint8_t file_id[SEALED_ID_LEN];
	uint64_t generation; /* counts the writes */
	uint64_t file_len;
	uint64_t index_len; /* encrypted, with its tag */
	uint8_t index_nonce[SEALED_NONCE_LEN];
	struct sealed_slot slot[SEALED_SLOTS_MAX];
};

static inline size_t sealed_header_len(const struct sealed_header *h)
{
	return SEALED_FIXED_LEN + h->n_slots * (size_t)SEALED_SLOT_LEN + SEALED_SUM_LEN;
}

/* Where the value blocks begin, and how many bytes they have. */
static inline uint64_t sealed_data_at(const struct sealed_header *h)
{
	return sealed_header_len(h) + h->index_len;
}

static inline uint64_t sealed_data_len(const struct sealed_header *h)
{
	return h->file_len - SEALED_SUM_LEN - sealed_data_at(h);
}

/* Writes sealed_header_len(h) bytes, checksum included. */
void sealed_header_pack(const struct sealed_header *h, uint8_t *out);
/* `p` holds the first n bytes of a file of file_len bytes; SEALED_HEADER_MAX of them are always enough. -ENOTSUP: the
 * bytes name a format version that this program does not read. */
int must_use sealed_header_parse(const uint8_t *p, size_t n, uint64_t file_len, struct sealed_header *ret,
				 struct err *e);

/* The vault's keys. In secret memory alone. */
struct sealed_keys {
	uint8_t master[SEALED_KEY_LEN]; /* random; what the slots wrap */
	uint8_t index[SEALED_KEY_LEN];	/* derived from it, as is the next */
	uint8_t value[SEALED_KEY_LEN];
};
void sealed_keys_derive(struct sealed_keys *k); /* fills index and value from master */

/* Argon2id; `key` (SEALED_KEY_LEN) in secret memory. -EMSGSIZE: parameters out of bounds; -ENOMEM. */
int must_use sealed_kdf(const struct sealed_slot *s, const void *passphrase, size_t len, uint8_t *key, struct err *e);
/* Fills nonce and wrapped of slot i. */
void sealed_slot_wrap(struct sealed_header *h, size_t i, const uint8_t *key, const uint8_t *master);
/* -EKEYREJECTED: not this key. */
int must_use sealed_slot_unwrap(const struct sealed_header *h, size_t i, const uint8_t *key, uint8_t *ret_master);

/*
 * The index, decrypted, as it is in the file (paths are no secrets, so in ordinary memory), and the place of every
 * record. Sorted by path, memcmp order; value blocks lie in the file in the order of the records, without gaps.
 */
struct sealed_record {
	uint64_t data; /* offset of its first value block from the first of all */
	uint32_t at;   /* offset in bytes[] */
};
struct sealed_index {
	uint8_t *bytes;
	size_t len;
	size_t n;
	uint64_t data_len;
	struct sealed_record *record;
};
struct sealed_version {
	uint64_t version;
	int64_t created;
	uint64_t data; /* offset from the first value block of the file */
	uint32_t len;  /* encrypted, with its tag */
	uint8_t nonce[SEALED_NONCE_LEN];
};
struct sealed_entry {
	const char *path; /* borrowed from the index, not terminated */
	size_t path_len;
	uint64_t last;				    /* the newest version number ever given; goes on after a removal */
	unsigned n;				    /* versions kept; 0: removed */
	struct sealed_version version[SEALED_KEEP]; /* ascending */
};

/* Takes `bytes` (malloc'd) when it succeeds. */
int must_use sealed_index_parse(uint8_t *bytes, size_t len, uint64_t data_len, struct sealed_index **ret,
				struct err *e);
void sealed_index_free(struct sealed_index *x); /* NULL is fine */
static inline __attribute__((unused)) void sealed_index_freep(struct sealed_index **x)
{
	sealed_index_free(*x);
}
void sealed_index_at(const struct sealed_index *x, size_t i, struct sealed_entry *ret);
/* True when there is a record (a removed secret has one too); *ret its place, or where it would have to be. */
bool sealed_index_find(const struct sealed_index *x, const char *path, size_t len, size_t *ret);
/* Names directly below a folder ("" or "app/"), sorted. -ENOENT when there is none and the folder is not "". */
int must_use sealed_index_list(const struct sealed_index *x, const char *folder, struct vault_names **ret,
			       struct err *e);
/* The bytes of the same index with one record put in, or replaced when there is one (malloc'd). -EMSGSIZE: too many
 * records. data_len becomes the new index's. */
int must_use sealed_index_with(const struct sealed_index *x, const struct sealed_entry *entry, uint8_t **ret,
			       size_t *ret_len, uint64_t *ret_data_len, struct err *e);

/* The index, encrypted; the whole header as written is the associated data. `out` has room for len + SEALED_TAG_LEN. */
void sealed_index_seal(const struct sealed_keys *k, const struct sealed_header *h, const uint8_t *header_bytes,
		       const uint8_t *bytes, size_t len, uint8_t *out);
/* Decrypts in place. -EBADMSG: not what was written under this key. */
int must_use sealed_index_open(const struct sealed_keys *k, const struct sealed_header *h, const uint8_t *header_bytes,
			       uint8_t *bytes, size_t *ret_len, struct err *e);

/* One version of a secret as a value block: ordinary memory (malloc'd), it is encrypted. Fills len and nonce of *v,
 * whose version is set. */
int must_use sealed_value_seal(const struct sealed_keys *k, const uint8_t *file_id, const char *path, size_t path_len,
			       const struct vault_secret *s, struct sealed_version *v, uint8_t **ret, struct err *e);
int must_use sealed_value_open(const struct sealed_keys *k, const uint8_t *file_id, const char *path, size_t path_len,
			       const struct sealed_version *v, const uint8_t *block, struct vault_secret **ret,
			       struct err *e);
/* The plain bytes of a block: for the fuzzer. */
int must_use sealed_value_parse(const uint8_t *p, size_t n, uint64_t version, int64_t created,
				struct vault_secret **ret, struct err *e);

/* Unkeyed checksums: BLAKE2b, 32 bytes. */
void sealed_sum(const void *p, size_t n, uint8_t *out);

#endif
