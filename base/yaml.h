/* SPDX-License-Identifier: Apache-2.0 */
/*
 * YAML into JSON values, with the line of every value. yaml.c is the only file that sees libyaml.
 *
 * One document of maps, sequences and scalars; anchors, aliases and tags are refused, keys are scalars. A plain scalar
 * is null (nothing, ~, null), a boolean (true, false) or an integer (decimal, no leading zero, 18 digits at most);
 * every other one, and every quoted one, is a string: 0400, yes, 1.5 and 10s are strings.
 * Keys that a map has twice are kept, both, and told apart by yamldoc_twice.
 * The values lie where json.c puts them; nothing else in here is secret memory, so no secret may come this way.
 * The names begin with yamldoc_: libyaml has a yaml_free of its own, and calls ours if there is one.
 * Thread rules: as json.h.
 */
#ifndef CT_BASE_YAML_H
#define CT_BASE_YAML_H

#include "base/err.h"
#include "base/json.h"

struct yamldoc;

/* -EBADMSG: the sentence in e and the line it is about in *ret_line. -ENOMEM. */
int must_use yamldoc_parse(const char *text, size_t len, unsigned max_depth, struct yamldoc **ret, int *ret_line,
			   struct err *e);
void yamldoc_free(struct yamldoc *y); /* NULL is fine */
static inline __attribute__((unused)) void yamldoc_freep(struct yamldoc **y)
{
	yamldoc_free(*y);
}
#define cleanup_yamldoc __attribute__((cleanup(yamldoc_freep)))

const struct json *yamldoc_root(const struct yamldoc *y);	       /* null for an empty document */
int yamldoc_line(const struct yamldoc *y, const struct json *node);    /* of its key, or of itself when it has none */
int yamldoc_twice(const struct yamldoc *y, const struct json *member); /* line of the same key before it, 0: none */

#endif
