/* SPDX-License-Identifier: Apache-2.0 */
/* What the two sides of the control socket share. */
#ifndef CT_VAULT_CONTROL_INTERNAL_H
#define CT_VAULT_CONTROL_INTERNAL_H

#include "vault/control.h"

#include <sys/socket.h>
#include <sys/un.h>

/* -EINVAL: not absolute (so never an abstract name); -ENAMETOOLONG. */
int must_use control_address(const char *path, struct sockaddr_un *ret, struct err *e);

#endif
