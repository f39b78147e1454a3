/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file that was read last stays open: its index and its value blocks belong together, whatever happens to the name.
 * A writer never changes a file, it puts another one in its place; so a look at (device, inode, size, times) tells a
 * reader whether its index is still the vault's.
 *
 * The checksum over the whole file is looked at when it is opened with a passphrase and whenever it is copied into its
 * successor (so that a write never passes damage on as sound). A reader that follows a replaced file checks header and
 * index, and each value block when it reads it: it must not stop the loop for the length of a file.
 */
#include "vault/sealed_file_internal.h"

#include "base/cleanup.h"
#include "base/secmem.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 1 << 20 };

void sealed_snapshot_close(struct sealed_snapshot *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

int sealed_name_file(const char *file, int r, struct err *e)
{
	if (!e)
		return r;
	if (r == -EBADMSG) {
		char where[160];
		(void)snprintf(where, sizeof where, "%.150s", e->msg);
		return err_set(e, r, "%s is damaged at %s; restore it from a backup", file, where);
	}
	return err_wrap(e, "%s", file);
}

int sealed_cannot_read(const char *file, int code, struct err *e)
{
	switch (code) {
	case EACCES:
	case EPERM:
		return err_sys(e, EACCES, "%s cannot be read", file);
	case ENOENT:
	case ENOTDIR:
		return err_set(e, EAGAIN,
			       "%s is not there any more; put it back, or make one with `cloudtaser vault init`", file);
	default:
		err_sys(e, code, "%s cannot be read", file);
		if (e)
			e->code = EAGAIN;
		return -EAGAIN;
	}
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* Reads exactly n bytes. A file that ends before is damaged: its length was compared with its header. */
static int read_at(const char *file, int fd, void *p, size_t n, uint64_t at, struct err *e)
{
	uint8_t *to = p;
	while (n) {
		ssize_t got = pread(fd, to, n, (off_t)at);
		if (got < 0) {
			if (errno == EINTR)
				continue;
			return sealed_cannot_read(file, errno, e);
		}
		if (!got) {
			(void)err_set(e, EBADMSG, "byte %llu (it ends there)", (unsigned long long)at);
			return sealed_name_file(file, -EBADMSG, e);
		}
		to += got;
		at += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

int sealed_check_whole(const char *file, int fd, uint64_t len, uint64_t suspect, sealed_take_fn *take, void *arg,
		       struct err *e)
{
	cleanup_free uint8_t *chunk = malloc(CHUNK);
	if (!chunk)
		return err_set(e, ENOMEM, "%s: no memory to read it", file);
	crypto_generichash_state sum;
	crypto_generichash_init(&sum, NULL, 0, SEALED_SUM_LEN);
	uint64_t end = len - SEALED_SUM_LEN;
	for (uint64_t at = 0; at < end;) {
		size_t n = end - at < CHUNK ? (size_t)(end - at) : CHUNK;
		int r = read_at(file, fd, chunk, n, at, e);
		if (r < 0)
			return r;
		crypto_generichash_update(&sum, chunk, n);
		r = take ? take(arg, chunk, n, at, e) : 0;
		if (r < 0)
			return r;
		at += n;
	}
	uint8_t is[SEALED_SUM_LEN], was[SEALED_SUM_LEN];
	crypto_generichash_final(&sum, is, sizeof is);
	int r = read_at(file, fd, was, sizeof was, end, e);
	if (r < 0)
		return r;
	if (memcmp(is, was, sizeof is) != 0) {
		(void)err_set(e, EBADMSG, "byte %llu to %llu (its checksum does not match)",
			      (unsigned long long)suspect, (unsigned long long)len);
		return sealed_name_file(file, -EBADMSG, e);
	}
	return 0;
}

static int snapshot_open(const char *file, struct sealed_snapshot *ret, struct err *e)
{
	/* O_NONBLOCK: a named pipe must not stop the loop. */
	CLEANUP_WITH(sealed_snapshot_close)
	struct sealed_snapshot s = { .fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK) };
	if (s.fd < 0)
		return sealed_cannot_read(file, errno, e);
	if (fstat(s.fd, &s.st) < 0)
		return sealed_cannot_read(file, errno, e);
	if (!S_ISREG(s.st.st_mode))
		return err_set(e, EINVAL, "%s is not a file", file);
	uint64_t len = (uint64_t)s.st.st_size;
	if (len > SEALED_FILE_MAX)
		return err_set(e, EMSGSIZE, "%s has %llu bytes, a vault has at most %d", file, (unsigned long long)len,
			       SEALED_FILE_MAX);
	size_t n = len < sizeof s.header_bytes ? (size_t)len : sizeof s.header_bytes;
	int r = read_at(file, s.fd, s.header_bytes, n, 0, e);
	if (r < 0)
		return r;
	r = sealed_header_parse(s.header_bytes, n, len, &s.header, e);
	if (r == -ENOTSUP) {
		/* Every version of the format ends with this checksum: tells a newer file from a damaged one. */
		struct err second = ERR_INIT;
		int r2 = sealed_check_whole(file, s.fd, len, 0, NULL, NULL, &second);
		if (r2 < 0) {
			if (e)
				*e = second;
			return r2;
		}
	}
	if (r < 0)
		return sealed_name_file(file, r, e);
	*ret = s;
	s.fd = -1;
	return 0;
}

static int index_load(const char *file, const struct sealed_snapshot *s, const struct sealed_keys *k,
		      struct sealed_index **ret, struct err *e)
{
	size_t len = (size_t)s->header.index_len;
	cleanup_free uint8_t *bytes = malloc(len);
	if (!bytes)
		return err_set(e, ENOMEM, "%s: no memory for its index of %zu bytes", file, len);
	int r = read_at(file, s->fd, bytes, len, sealed_header_len(&s->header), e);
	if (r < 0)
		return r;
	r = sealed_index_open(k, &s->header, s->header_bytes, bytes, &len, e);
	if (!r)
		r = sealed_index_parse(bytes, len, sealed_data_len(&s->header), ret, e);
	if (r < 0)
		return sealed_name_file(file, r, e);
	(void)TAKE_PTR(bytes);
	return 0;
}

/* Tries the passphrase on every slot. The key that it makes lives as long as this call. */
static int unlock(const char *file, const struct sealed_header *h, const void *passphrase, size_t len,
		  struct sealed_keys *keys, struct err *e)
{
	cleanup_sec uint8_t *key = sec_malloc(SEALED_KEY_LEN);
	if (!key)
		return err_set(e, ENOMEM, "%s: no secret memory for its key", file);
	bool tried = false;
	for (size_t i = 0; i < h->n_slots; i++) {
		if (h->slot[i].kind != SEALED_SLOT_PASSPHRASE)
			continue;
		tried = true;
		int r = sealed_kdf(&h->slot[i], passphrase, len, key, e);
		if (r < 0)
			return sealed_name_file(file, r, e);
		if (!sealed_slot_unwrap(h, i, key, keys->master)) {
			sealed_keys_derive(keys);
			return 0;
		}
	}
	if (!tried)
		return err_set(e, ENOTSUP, "%s: no passphrase opens it, only ways that this program does not know",
			       file);
	return err_set(e, EKEYREJECTED, "%s: wrong passphrase (the file itself is sound)", file);
}

char *sealed_absolute(const char *path)
{
	if (path[0] == '/')
		return strdup(path);
	/* A daemon changes its folder. */
	cleanup_free char *cwd = getcwd(NULL, 0);
	char *p = NULL;
	if (!cwd || asprintf(&p, "%s/%s", cwd, path) < 0)
		return NULL;
	return p;
}

static void sealed_file_freep(struct sealed_file **f)
{
	sealed_file_free(*f);
}

int sealed_file_open(const char *path, const void *passphrase, size_t len, struct sealed_file **ret, struct err *e)
{
	if (sodium_init() < 0)
		return err_set(e, EIO, "libsodium cannot be used on this system");
	CLEANUP_WITH(sealed_file_freep) struct sealed_file *f = calloc(1, sizeof *f);
	if (!f)
		return err_set(e, ENOMEM, "%s: no memory", path);
	f->now.fd = -1;
	f->path = sealed_absolute(path);
	f->keys = sec_malloc(sizeof *f->keys);
	if (!f->path || !f->keys)
		return err_set(e, ENOMEM, "%s: no memory for its keys", path);

	int r = access(f->path, F_OK);
	if (r < 0 && (errno == ENOENT || errno == ENOTDIR))
		return err_set(e, ENOENT, "there is no vault at %s; make one with `cloudtaser vault init`", path);
	r = snapshot_open(f->path, &f->now, e);
	if (r < 0)
		return r;
	/* Before the passphrase is tried: what is wrong then is the passphrase. */
	r = sealed_check_whole(f->path, f->now.fd, f->now.header.file_len, sealed_header_len(&f->now.header), NULL,
			       NULL, e);
	if (r < 0)
		return r;
	r = unlock(f->path, &f->now.header, passphrase, len, f->keys, e);
	if (r < 0)
		return r;
	r = index_load(f->path, &f->now, f->keys, &f->index, e);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(f);
	return 0;
}

void sealed_file_free(struct sealed_file *f)
{
	if (!f)
		return;
	sealed_snapshot_close(&f->now);
	sealed_index_free(f->index);
	sec_free(f->keys);
	free(f->lock_path);
	free(f->path);
	free(f);
}

const char *sealed_file_path(const struct sealed_file *f)
{
	return f->path;
}

const struct sealed_index *sealed_file_index(const struct sealed_file *f)
{
	return f->index;
}

int sealed_file_refresh(struct sealed_file *f, struct err *e)
{
	struct stat st;
	if (stat(f->path, &st) < 0)
		return sealed_cannot_read(f->path, errno, e);
	if (!f->doubtful && same_file(&st, &f->now.st))
		return 0;
	CLEANUP_WITH(sealed_snapshot_close) struct sealed_snapshot s = { .fd = -1 };
	int r = snapshot_open(f->path, &s, e);
	if (r < 0)
		return r;
	if (memcmp(s.header.file_id, f->now.header.file_id, SEALED_ID_LEN) != 0)
		return err_set(e, EKEYREJECTED, "%s was replaced by another vault; open it anew with its passphrase",
			       f->path);
	struct sealed_index *index = NULL;
	r = index_load(f->path, &s, f->keys, &index, e);
	if (r < 0)
		return r;
	sealed_index_free(f->index);
	f->index = index;
	sealed_snapshot_close(&f->now);
	f->now = s;
	s.fd = -1;
	f->doubtful = false;
	return 0;
}

int sealed_no_secret(const struct sealed_file *f, const char *path, struct err *e)
{
	return err_set(e, ENOENT, "%s holds no secret %.200s", f->path, path);
}

int sealed_file_get(struct sealed_file *f, const char *path, struct vault_secret **ret, struct err *e)
{
	size_t i, path_len = strlen(path);
	struct sealed_entry entry;
	if (!sealed_index_find(f->index, path, path_len, &i))
		return sealed_no_secret(f, path, e);
	sealed_index_at(f->index, i, &entry);
	if (!entry.n)
		return sealed_no_secret(f, path, e);
	const struct sealed_version *v = &entry.version[entry.n - 1];
	cleanup_free uint8_t *block = malloc(v->len);
	if (!block)
		return err_set(e, ENOMEM, "%s: no memory for %u bytes", f->path, v->len);
	uint64_t at = sealed_data_at(&f->now.header) + v->data;
	int r = read_at(f->path, f->now.fd, block, v->len, at, e);
	if (r < 0) {
		f->doubtful = true;
		return r;
	}
	r = sealed_value_open(f->keys, f->now.header.file_id, path, path_len, v, block, ret, e);
	if (r == -EBADMSG) {
		/* Somebody may have written into the file in place, within one tick of its clock. */
		f->doubtful = true;
		(void)err_set(e, r, "byte %llu to %llu (the value of %.80s is not what was written)",
			      (unsigned long long)at, (unsigned long long)(at + v->len), path);
	}
	return r < 0 ? sealed_name_file(f->path, r, e) : 0;
}
