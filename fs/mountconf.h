/* SPDX-License-Identifier: Apache-2.0 */
/* A copy of a mount's entry in the configuration, so that mounts outlive the configuration they came from. */
#ifndef CT_FS_MOUNTCONF_H
#define CT_FS_MOUNTCONF_H

#include "base/config.h"
#include "base/err.h"

int must_use fs_mountconf_copy(const struct config_mount *m, struct config_mount **ret, struct err *e);
void fs_mountconf_free(struct config_mount *m); /* NULL is fine */
/* Would the same mount come of both (lines in the file aside)? */
bool fs_mountconf_equal(const struct config_mount *a, const struct config_mount *b);

#endif
