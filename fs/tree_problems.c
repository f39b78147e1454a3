/* SPDX-License-Identifier: Apache-2.0 */
/* What a mount could not show, and why: logged once when it begins and once when it ends, kept for `status`. */
#include "fs/tree_internal.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

void fs_problem_set(struct fs_tree *t, const char *path, const char *message)
{
	struct fs_problem *p = NULL;
	for (size_t i = 0; i < t->n_problems && !p; i++)
		if (strcmp(t->problem[i].path, path) == 0)
			p = &t->problem[i];
	if (p && strcmp(p->message, message) == 0)
		return;
	log_warn("mount %s: %s: %s", t->m->path, path, message);
	if (!p) {
		if (t->n_problems == PROBLEMS_MAX) { /* the oldest makes room */
			free(t->problem[0].path);
			free(t->problem[0].message);
			memmove(t->problem, t->problem + 1, (PROBLEMS_MAX - 1) * sizeof *t->problem);
			t->n_problems--;
		}
		p = &t->problem[t->n_problems];
		*p = (struct fs_problem){ .path = strdup(path), .since = time(NULL) };
		if (!p->path)
			return;
		t->n_problems++;
	} else {
		free(p->message);
	}
	p->message = strdup(message);
	if (!p->message) {
		free(p->path);
		*p = t->problem[--t->n_problems];
	}
}

void fs_problem_clear(struct fs_tree *t, const char *path)
{
	for (size_t i = 0; i < t->n_problems; i++) {
		struct fs_problem *p = &t->problem[i];
		if (strcmp(p->path, path) != 0)
			continue;
		log_info("mount %s: %s: can be had again", t->m->path, path);
		free(p->path);
		free(p->message);
		*p = t->problem[--t->n_problems];
		return;
	}
}
