/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a sealed vault changes: the lock, the successor of a file, and what of the old file is carried into it. Value
 * blocks are copied as they are, encrypted: their associated data names secret and version, not the place.
 */
#include "vault/sealed_file_internal.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static int cannot_write(const char *file, const char *what, int code, struct err *e)
{
	/* Some codes mean something else to who asks a backend: "may not", and not "no such secret". */
	if (code == EPERM || code == EROFS)
		return err_set(e, EACCES, "%s: %s: %s", file, what, strerror(code));
	if (code == ENOENT)
		return err_set(e, EAGAIN, "%s: %s: %s", file, what, strerror(code));
	return err_sys(e, code, "%s: %s", file, what);
}

/* A file beside the vault belongs to whom the vault belongs, so that root may write into a user's vault. Where that
 * cannot be, nobody but the writer gets a right. */
static int like_vault(int fd, const struct stat *vault)
{
	struct stat st;
	mode_t mode = vault->st_mode & 0777;
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((st.st_uid != vault->st_uid || st.st_gid != vault->st_gid) && fchown(fd, vault->st_uid, vault->st_gid) < 0)
		mode &= 0700;
	return fchmod(fd, mode) < 0 ? -errno : 0;
}

static int lock_take(const char *lock_path, const struct stat *vault, int *ret_fd, struct err *e)
{
	cleanup_close int fd = open(lock_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT) {
		fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
		if (fd >= 0 && vault)
			(void)like_vault(fd, vault);
	}
	if (fd < 0)
		return cannot_write(lock_path, "cannot open the lock of the vault", errno, e);
	int r;
	do
		r = flock(fd, LOCK_EX | LOCK_NB);
	while (r < 0 && errno == EINTR);
	if (r < 0 && errno == EWOULDBLOCK)
		return err_set(e, EWOULDBLOCK, "%s is held by another writer", lock_path);
	if (r < 0)
		return cannot_write(lock_path, "cannot lock the vault", errno, e);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int sealed_file_lock(struct sealed_file *f, int *ret_fd, struct err *e)
{
	/* One lock for one file, by whatever links it was reached. */
	cleanup_free char *real = realpath(f->path, NULL);
	if (!real)
		return sealed_cannot_read(f->path, errno, e);
	free(f->lock_path);
	f->lock_path = NULL;
	if (asprintf(&f->lock_path, "%s.lock", real) < 0) {
		f->lock_path = NULL;
		return err_set(e, ENOMEM, "%s: no memory", f->path);
	}
	return lock_take(f->lock_path, &f->now.st, ret_fd, e);
}

const char *sealed_file_lock_path(const struct sealed_file *f)
{
	return f->lock_path ? f->lock_path : f->path;
}

/* The file that is going to be the vault. Goes away again unless it was put in place. */
struct successor {
	int fd;
	char *path; /* NULL: nothing to remove */
	const char *vault;
	crypto_generichash_state sum;
};

static void successor_free(struct successor *n)
{
	if (n->fd >= 0)
		close(n->fd);
	if (n->path)
		(void)unlink(n->path);
	free(n->path);
}

static int successor_open(struct successor *n, const char *real, const struct stat *like, struct err *e)
{
	char *path;
	if (asprintf(&path, "%s.new", real) < 0)
		return err_set(e, ENOMEM, "%s: no memory", n->vault);
	/* Under the lock there is one writer: what has this name is what one left who died. */
	if (unlink(path) < 0 && errno != ENOENT) {
		int r = cannot_write(path, "cannot remove what an earlier writer left", errno, e);
		free(path);
		return r;
	}
	n->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (n->fd < 0) {
		int r = cannot_write(path, "cannot be made", errno, e);
		free(path);
		return r;
	}
	n->path = path;
	crypto_generichash_init(&n->sum, NULL, 0, SEALED_SUM_LEN);
	int r = like ? like_vault(n->fd, like) : 0;
	return r < 0 ? cannot_write(n->path, "cannot be given the vault's mode", -r, e) : 0;
}

static int write_all(const struct successor *n, const uint8_t *p, size_t len, struct err *e)
{
	while (len) {
		ssize_t put = write(n->fd, p, len);
		if (put < 0) {
			if (errno == EINTR)
				continue;
			return cannot_write(n->path, "cannot be written", errno, e);
		}
		p += put;
		len -= (size_t)put;
	}
	return 0;
}

static int successor_add(struct successor *n, const void *p, size_t len, struct err *e)
{
	crypto_generichash_update(&n->sum, p, len);
	return write_all(n, p, len, e);
}

/* Ends it with the checksum, makes it last, puts it in place. */
static int successor_commit(struct successor *n, const char *real, unsigned flags, struct err *e)
{
	uint8_t sum[SEALED_SUM_LEN];
	crypto_generichash_final(&n->sum, sum, sizeof sum);
	int r = write_all(n, sum, sizeof sum, e);
	if (r < 0)
		return r;
	if (fsync(n->fd) < 0)
		return cannot_write(n->path, "cannot be synced", errno, e);

	cleanup_free char *folder = strdup(real);
	if (!folder)
		return err_set(e, ENOMEM, "%s: no memory", n->vault);
	char *slash = strrchr(folder, '/');
	slash[slash == folder] = '\0';
	cleanup_close int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return cannot_write(folder, "cannot be opened to sync it", errno, e);

	if (renameat2(AT_FDCWD, n->path, AT_FDCWD, real, flags) < 0) {
		if (!flags || (errno != EINVAL && errno != ENOSYS))
			return cannot_write(real, "cannot be put in place", errno, e);
		/* Not every filesystem can do that; link(2) does not replace either. */
		if (link(n->path, real) < 0)
			return cannot_write(real, "cannot be put in place", errno, e);
		(void)unlink(n->path);
	}
	free(n->path);
	n->path = NULL;
	if (fsync(dir) < 0)
		return cannot_write(real, "is written, but its folder cannot be synced: a power cut may undo it", errno,
				    e);
	return 0;
}

/* What of the old values goes into the successor: all but one stretch, and a new block at the end of that record. */
struct carry {
	struct successor *to;
	uint64_t data_at, data_end;
	uint64_t skip_from, skip_to; /* left out */
	uint64_t insert_at;	     /* >= skip_to */
	const uint8_t *block;
	size_t block_len; /* 0: nothing to insert, or inserted */
};

static int carry_range(struct carry *c, const uint8_t *p, uint64_t at, uint64_t from, uint64_t to, uint64_t n,
		       struct err *e)
{
	if (from < at)
		from = at;
	if (to > at + n)
		to = at + n;
	return from < to ? successor_add(c->to, p + (from - at), (size_t)(to - from), e) : 0;
}

static int carry_insert(struct carry *c, struct err *e)
{
	int r = c->block_len ? successor_add(c->to, c->block, c->block_len, e) : 0;
	c->block_len = 0;
	return r;
}

static int carry_take(void *arg, const uint8_t *p, size_t n, uint64_t at, struct err *e)
{
	struct carry *c = arg;
	int r = carry_range(c, p, at, c->data_at, c->skip_from, n, e);
	if (!r)
		r = carry_range(c, p, at, c->skip_to, c->insert_at, n, e);
	if (!r && at + n >= c->insert_at)
		r = carry_insert(c, e);
	if (!r)
		r = carry_range(c, p, at, c->insert_at, c->data_end, n, e);
	return r;
}

/* Writes the file in which `entry` is what it says; `block` is its newest version's (NULL: it has none). */
static int replace(struct sealed_file *f, const struct sealed_entry *entry, const uint8_t *block, size_t block_len,
		   struct err *e)
{
	size_t i;
	bool known = sealed_index_find(f->index, entry->path, entry->path_len, &i);
	uint64_t from = i < f->index->n ? f->index->record[i].data : f->index->data_len, to = from;
	if (known)
		to = i + 1 < f->index->n ? f->index->record[i + 1].data : f->index->data_len;

	cleanup_free uint8_t *bytes = NULL;
	size_t len;
	uint64_t data_len;
	int r = sealed_index_with(f->index, entry, &bytes, &len, &data_len, e);
	if (r < 0)
		return sealed_name_file(f->path, r, e);
	CLEANUP_WITH(sealed_snapshot_close) struct sealed_snapshot s = { .fd = -1, .header = f->now.header };
	struct sealed_header *h = &s.header;
	h->generation++;
	h->index_len = len + SEALED_TAG_LEN;
	h->file_len = sealed_data_at(h) + data_len + SEALED_SUM_LEN;
	if (h->file_len > SEALED_FILE_MAX)
		return err_set(e, EMSGSIZE, "%s would have more than %d bytes; remove secrets, or make a second vault",
			       f->path, SEALED_FILE_MAX);
	randombytes_buf(h->index_nonce, sizeof h->index_nonce);
	sealed_header_pack(h, s.header_bytes);
	cleanup_free uint8_t *sealed = malloc(h->index_len);
	if (!sealed)
		return err_set(e, ENOMEM, "%s: no memory for its index", f->path);
	sealed_index_seal(f->keys, h, s.header_bytes, bytes, len, sealed);

	cleanup_free char *real = realpath(f->path, NULL);
	if (!real)
		return sealed_cannot_read(f->path, errno, e);
	CLEANUP_WITH(successor_free) struct successor next = { .fd = -1, .vault = f->path };
	r = successor_open(&next, real, &f->now.st, e);
	if (!r)
		r = successor_add(&next, s.header_bytes, sealed_header_len(h), e);
	if (!r)
		r = successor_add(&next, sealed, h->index_len, e);
	if (r < 0)
		return r;
	uint64_t data_at = sealed_data_at(&f->now.header);
	struct carry carry = { .to = &next,
			       .data_at = data_at,
			       .data_end = data_at + f->index->data_len,
			       .skip_from = data_at + from,
			       .insert_at = data_at + to,
			       .block = block,
			       .block_len = block_len };
	/* The versions that stay are the last of the old ones, so what goes is one stretch. */
	uint64_t kept = 0;
	for (unsigned k = 0; k + (block ? 1 : 0) < entry->n; k++)
		kept += entry->version[k].len;
	carry.skip_to = carry.insert_at - kept;
	r = sealed_check_whole(f->path, f->now.fd, f->now.header.file_len, sealed_header_len(&f->now.header),
			       carry_take, &carry, e);
	if (!r)
		r = carry_insert(&carry, e);
	if (!r)
		r = successor_commit(&next, real, 0, e);
	if (r < 0)
		return r;

	/* The new file is the vault; what it holds is known, so it is not read again. */
	struct sealed_index *index;
	if (fstat(next.fd, &s.st) < 0 || sealed_index_parse(bytes, len, data_len, &index, e) < 0) {
		f->doubtful = true;
		return 0;
	}
	(void)TAKE_PTR(bytes);
	sealed_index_free(f->index);
	f->index = index;
	sealed_snapshot_close(&f->now);
	f->now = s;
	f->now.fd = TAKE_FD(next.fd);
	return 0;
}

int sealed_file_put(struct sealed_file *f, const char *path, const struct vault_secret *s, uint32_t cas,
		    uint64_t *ret_version, struct err *e)
{
	size_t i;
	struct sealed_entry entry = { .path = path, .path_len = strlen(path) };
	if (sealed_index_find(f->index, path, entry.path_len, &i))
		sealed_index_at(f->index, i, &entry);
	uint64_t is = entry.n ? entry.last : 0;
	if (cas != VAULT_CAS_ANY && cas != is)
		return err_set(e, EEXIST, "%.200s has version %llu now (0: it is not there), not %u; read it again",
			       path, (unsigned long long)is, cas);
	if (entry.last == UINT64_MAX)
		return err_set(e, EOVERFLOW, "%.200s has no version numbers left", path);
	if (entry.n == SEALED_KEEP)
		memmove(entry.version, entry.version + 1, --entry.n * sizeof *entry.version);
	struct sealed_version *v = &entry.version[entry.n++];
	*v = (struct sealed_version){ .version = ++entry.last, .created = (int64_t)time(NULL) };
	cleanup_free uint8_t *block = NULL;
	int r = sealed_value_seal(f->keys, f->now.header.file_id, path, entry.path_len, s, v, &block, e);
	if (r < 0)
		return sealed_name_file(f->path, r, e);
	r = replace(f, &entry, block, v->len, e);
	if (r < 0)
		return r;
	*ret_version = entry.last;
	return 0;
}

int sealed_file_del(struct sealed_file *f, const char *path, struct err *e)
{
	size_t i;
	struct sealed_entry entry;
	if (!sealed_index_find(f->index, path, strlen(path), &i))
		return sealed_no_secret(f, path, e);
	sealed_index_at(f->index, i, &entry);
	if (!entry.n)
		return sealed_no_secret(f, path, e);
	entry.n = 0;
	return replace(f, &entry, NULL, 0, e);
}

/* ---- a new vault ---- */

static int make_parents(const char *file, struct err *e)
{
	cleanup_free char *p = strdup(file);
	if (!p)
		return err_set(e, ENOMEM, "%s: no memory", file);
	for (char *slash = strchr(p + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(p, 0700) < 0 && errno != EEXIST)
			return cannot_write(p, "the folder cannot be made", errno, e);
		*slash = '/';
	}
	return 0;
}

static void keys_freep(struct sealed_keys **k)
{
	sec_free(*k);
}

int sealed_file_create(const char *path, const void *passphrase, size_t len, const struct vault_sealed_kdf *kdf,
		       struct err *e)
{
	if (sodium_init() < 0)
		return err_set(e, EIO, "libsodium cannot be used on this system");
	if (!len)
		return err_set(e, EINVAL, "an empty passphrase protects nothing; give another");
	uint64_t mem_mib = kdf && kdf->mem_mib ? kdf->mem_mib : 256;
	uint32_t ops = kdf && kdf->ops ? kdf->ops : 3;
	if (mem_mib > SEALED_KDF_MEM_MAX >> 20 || ops > SEALED_KDF_OPS_MAX)
		return err_set(e, EINVAL, "Argon2id takes at most %llu MiB and %d passes here",
			       (unsigned long long)(SEALED_KDF_MEM_MAX >> 20), SEALED_KDF_OPS_MAX);
	cleanup_free char *full = sealed_absolute(path);
	if (!full)
		return err_set(e, ENOMEM, "%s: no memory", path);
	struct stat st;
	if (lstat(full, &st) == 0)
		return err_set(e, EEXIST, "there is a file at %s already; it is left as it is", path);

	/* All of it in memory before the disk is touched: a failure leaves nothing behind. */
	CLEANUP_WITH(keys_freep) struct sealed_keys *keys = sec_malloc(sizeof *keys);
	cleanup_sec uint8_t *key = sec_malloc(SEALED_KEY_LEN);
	if (!keys || !key)
		return err_set(e, ENOMEM, "%s: no secret memory for its keys", path);
	struct sealed_header h = { .n_slots = 1, .generation = 1, .index_len = SEALED_INDEX_HEAD + SEALED_TAG_LEN };
	h.slot[0] = (struct sealed_slot){ .kind = SEALED_SLOT_PASSPHRASE, .ops = ops, .mem = mem_mib << 20 };
	h.file_len = sealed_data_at(&h) + SEALED_SUM_LEN;
	randombytes_buf(h.file_id, sizeof h.file_id);
	randombytes_buf(h.slot[0].salt, sizeof h.slot[0].salt);
	randombytes_buf(h.index_nonce, sizeof h.index_nonce);
	randombytes_buf(keys->master, sizeof keys->master);
	sealed_keys_derive(keys);
	int r = sealed_kdf(&h.slot[0], passphrase, len, key, e);
	if (r < 0)
		return sealed_name_file(path, r, e);
	sealed_slot_wrap(&h, 0, key, keys->master);
	uint8_t header[SEALED_HEADER_MAX], index[SEALED_INDEX_HEAD + SEALED_TAG_LEN];
	static const uint8_t nothing[SEALED_INDEX_HEAD];
	sealed_header_pack(&h, header);
	sealed_index_seal(keys, &h, header, nothing, sizeof nothing, index);

	r = make_parents(full, e);
	if (r < 0)
		return r;
	cleanup_free char *lock_path = NULL;
	if (asprintf(&lock_path, "%s.lock", full) < 0) {
		lock_path = NULL;
		return err_set(e, ENOMEM, "%s: no memory", path);
	}
	cleanup_close int lock = -1;
	r = lock_take(lock_path, NULL, &lock, e);
	if (r == -EWOULDBLOCK)
		return err_set(e, EAGAIN, "%s is held by somebody who makes or writes a vault there", lock_path);
	if (r < 0)
		return r;
	CLEANUP_WITH(successor_free) struct successor next = { .fd = -1, .vault = full };
	r = successor_open(&next, full, NULL, e);
	if (!r)
		r = successor_add(&next, header, sealed_header_len(&h), e);
	if (!r)
		r = successor_add(&next, index, sizeof index, e);
	if (!r)
		r = successor_commit(&next, full, RENAME_NOREPLACE, e);
	return r == -EEXIST ? err_set(e, EEXIST, "there is a file at %s already; it is left as it is", path) : r;
}
