/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sealed vault file on disk: found, checked, read, replaced. Everything here is synchronous file I/O; sealed.c calls
 * it from the loop.
 *
 * Errors are backend.h's, with sentences that name the file. Beyond those: -ENOENT (opening: there is none), -ENOTSUP
 * (written by a newer program), and what the system said when a new file could not be written (-ENOSPC and the like).
 * Thread rules: a sealed_file belongs to one thread at a time; functions want a secret stack.
 */
#ifndef CT_VAULT_SEALED_FILE_H
#define CT_VAULT_SEALED_FILE_H

#include "vault/sealed_format.h"

#include <sys/stat.h>

struct sealed_file;

/* As vault_sealed_init, on the caller's stack. */
int must_use sealed_file_create(const char *path, const void *passphrase, size_t len,
				const struct vault_sealed_kdf *kdf, struct err *e);
/* Checks all of the file, then derives the key. The passphrase is not kept. */
int must_use sealed_file_open(const char *path, const void *passphrase, size_t len, struct sealed_file **ret,
			      struct err *e);
void sealed_file_free(struct sealed_file *f); /* NULL is fine */

const char *sealed_file_path(const struct sealed_file *f); /* absolute */
const struct sealed_index *sealed_file_index(const struct sealed_file *f);

/*
 * Looks whether the file was replaced, and reads header and index of the new one. On failure the old index stays where
 * it is but must not be served; the next call tries again.
 */
int must_use sealed_file_refresh(struct sealed_file *f, struct err *e);

/* The newest version of a secret, out of the file as last refreshed. */
int must_use sealed_file_get(struct sealed_file *f, const char *path, struct vault_secret **ret, struct err *e);

/* The right to write: a descriptor, closing it gives the right back. -EWOULDBLOCK: somebody else has it. */
int must_use sealed_file_lock(struct sealed_file *f, int *ret_fd, struct err *e);
/* The name of the lock's file, for a sentence. */
const char *sealed_file_lock_path(const struct sealed_file *f);

/*
 * Under the lock, after a refresh. Both write the whole new file beside the old one, sync it, rename it into place, sync
 * the folder: whoever dies on the way leaves the old file. cas as in backend.h.
 */
int must_use sealed_file_put(struct sealed_file *f, const char *path, const struct vault_secret *s, uint32_t cas,
			     uint64_t *ret_version, struct err *e);
int must_use sealed_file_del(struct sealed_file *f, const char *path, struct err *e);

#endif
