/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names as a mount shows them. A field or a part of a secret's path may hold any byte; a directory entry may not hold
 * '/' or NUL, may not be "." or "..", and may not be longer than 255 bytes. The mapping is one to one, so that two
 * names never meet and a shown name leads back to exactly one raw name.
 *
 * Secrets, folders and fields have the same rule, because a path that is secret and folder is one directory.
 *
 * Nothing that fs_name_escape makes ends in a bare '%': the tree appends one ("name%") to a child that stands beside a
 * field of the same name. fs_name_unescape refuses such a name; whoever may meet one takes the '%' off first.
 */
#ifndef CT_FS_NAME_H
#define CT_FS_NAME_H

#include "base/err.h"

enum { FS_NAME_MAX = 255 };

/*
 * '/', NUL and '%' become %2F, %00 and %25; the whole names ".", "..", ".json" and ".version" (the last two are the
 * views beside a secret's fields) have each dot written as %2E. All other bytes stay as they are. -ENAMETOOLONG when
 * the result passes 255 bytes, -EINVAL for an empty name. `out` holds FS_NAME_MAX + 1 bytes and is terminated; it is
 * undefined after an error. Returns the length.
 */
int must_use fs_name_escape(const char *raw, size_t len, char *out);

/*
 * The other way; accepts exactly what fs_name_escape makes, anything else is -EINVAL. `out` holds FS_NAME_MAX + 1 bytes
 * and is terminated, but the name itself may hold NUL: *ret_len counts.
 */
int must_use fs_name_unescape(const char *shown, char *out, size_t *ret_len);

#endif
