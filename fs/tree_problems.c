/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a mount could not show, and why: logged once when it begins and once when it ends, kept for `status`.
 *
 * Whoever may read decides how often something fails, so the log has bounds: another reason for the same path is told
 * once a minute, and so is any problem beyond those that are kept.
 */
#include "fs/tree_internal.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

static void problem_remove(struct fs_tree *t, size_t i)
{
	free(t->problem[i].path);
	free(t->problem[i].message);
	memmove(t->problem + i, t->problem + i + 1, (--t->n_problems - i) * sizeof *t->problem); /* stays in order */
}

void fs_problem_set(struct fs_tree *t, const char *path, const char *message)
{
	time_t now = time(NULL);
	size_t i = 0;
	while (i < t->n_problems && strcmp(t->problem[i].path, path) != 0)
		i++;
	bool fresh = i == t->n_problems, crowded = fresh && i == PROBLEMS_MAX;
	if (!fresh && strcmp(t->problem[i].message, message) == 0)
		return;
	struct fs_problem p = { .path = strdup(path), .message = strdup(message), .since = now };
	if (!fresh) {
		p.since = t->problem[i].since;
		p.logged = t->problem[i].logged;
	}
	time_t last = crowded ? t->crowded : p.logged;
	if (last == 0 || now - last >= PROBLEM_LOG_S) {
		log_warn("mount %s: %s: %s%s", t->m->path, path, message,
			 crowded ? " (so are many more; not all of them are logged)" : "");
		p.logged = now;
		if (crowded)
			t->crowded = now;
	}
	if (!p.path || !p.message) {
		free(p.path);
		free(p.message);
		return;
	}
	if (!fresh)
		problem_remove(t, i);
	else if (crowded)
		problem_remove(t, 0); /* the oldest makes room */
	t->problem[t->n_problems++] = p;
}

void fs_problem_clear(struct fs_tree *t, const char *path)
{
	for (size_t i = 0; i < t->n_problems; i++) {
		if (strcmp(t->problem[i].path, path) != 0)
			continue;
		if (t->problem[i].logged)
			log_info("mount %s: %s: can be had again", t->m->path, path);
		problem_remove(t, i);
		return;
	}
}
