/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors: a negative errno as the return value, and its sentence beside it.
 *
 * Every fallible call returns 0 (or a count) or a negative errno, and takes `struct err *` as its last argument. The
 * structure has a fixed size, so that a failure path allocates nothing. It may be NULL where the caller does not want
 * the sentence. A message says what is wrong, where, and what to do; it never holds a secret value.
 * Thread rules: an err belongs to one thread at a time.
 */
#ifndef CT_BASE_ERR_H
#define CT_BASE_ERR_H

#include <errno.h>
#include <stddef.h>

#define must_use __attribute__((warn_unused_result))
#define printf_like(f, a) __attribute__((format(printf, f, a)))

enum { ERR_MSG_MAX = 512 };

struct err {
	int code; /* positive errno, 0 when nothing failed */
	char msg[ERR_MSG_MAX];
};

#define ERR_INIT \
	{ \
		.code = 0, .msg = "" \
	}

/* Records errno value `code` (positive or negative) and the sentence; returns -|code|. */
int err_set(struct err *e, int code, const char *fmt, ...) printf_like(3, 4);

/* As err_set, with ": " and strerror(code) behind the sentence. */
int err_sys(struct err *e, int code, const char *fmt, ...) printf_like(3, 4);

/* Puts "context: " before the sentence that is already there; returns -e->code. */
int err_wrap(struct err *e, const char *fmt, ...) printf_like(2, 3);

/* The sentence, or strerror(-r) when e is NULL or empty. Valid as long as e is. */
const char *err_msg(const struct err *e, int r);

#endif
