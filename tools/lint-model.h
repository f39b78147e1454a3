/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clang's analyzer cannot see across files; `make lint` puts it in front of every file, no program includes it.
 *
 * The functions of base/err.h return a negative number, always. Without knowing that, the analyzer follows each
 * failure into the code behind `if (r < 0) return r;` and finds uninitialised out-parameters there.
 */
#ifndef CT_TOOLS_LINT_MODEL_H
#define CT_TOOLS_LINT_MODEL_H

#include "base/err.h"

static inline __attribute__((unused)) int lint_negative(int r)
{
	if (r >= 0)
		__builtin_unreachable();
	return r;
}

#ifndef CT_LINT_NO_MODEL
#define err_set(...) lint_negative((err_set)(__VA_ARGS__))
#define err_sys(...) lint_negative((err_sys)(__VA_ARGS__))
#define err_wrap(...) lint_negative((err_wrap)(__VA_ARGS__))
#endif

#endif
