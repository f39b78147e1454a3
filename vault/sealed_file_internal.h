/* SPDX-License-Identifier: Apache-2.0 */
/* What sealed_file.c (reading) and sealed_write.c (replacing) share. For these two alone. */
#ifndef CT_VAULT_SEALED_FILE_INTERNAL_H
#define CT_VAULT_SEALED_FILE_INTERNAL_H

#include "vault/sealed_file.h"

/* One file as it was when its header was read. */
struct sealed_snapshot {
	int fd;
	struct stat st;
	struct sealed_header header;
	uint8_t header_bytes[SEALED_HEADER_MAX];
};
void sealed_snapshot_close(struct sealed_snapshot *s);

struct sealed_file {
	char *path;
	char *lock_path;
	struct sealed_keys *keys; /* secret memory */
	struct sealed_snapshot now;
	struct sealed_index *index;
	bool doubtful; /* a value block was wrong: read the index again even when the file looks the same */
};

/* Names the file in a sentence of the format's; for -EBADMSG, where that said only the place, says the whole of it. */
int sealed_name_file(const char *file, int r, struct err *e);
/* What the system says when a vault cannot be read, in the words of backend.h. ENOENT there means a secret, so a file
 * that went away is a vault that cannot be asked. */
int sealed_cannot_read(const char *file, int code, struct err *e);
int sealed_no_secret(const struct sealed_file *f, const char *path, struct err *e);

/*
 * Compares the checksum at the end of a file with all that is before it. `take` (may be NULL) is shown every piece and
 * its place on the way. suspect: from where on the damage must be.
 */
typedef int sealed_take_fn(void *arg, const uint8_t *p, size_t n, uint64_t at, struct err *e);
int must_use sealed_check_whole(const char *file, int fd, uint64_t len, uint64_t suspect, sealed_take_fn *take,
				void *arg, struct err *e);

/* A path that stays right when the process changes its folder. NULL on ENOMEM. */
char *sealed_absolute(const char *path);

#endif
