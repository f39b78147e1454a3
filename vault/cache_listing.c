/* SPDX-License-Identifier: Apache-2.0 */
/* A folder's names as one block of ordinary memory (names are no secrets): structure, pointers, bytes. */
#include "vault/cache_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct vault_listing *cache_listing_new(const struct vault_names *names, uint64_t serial)
{
	size_t size = sizeof(struct vault_listing) + names->n * sizeof(char *);
	for (size_t i = 0; i < names->n; i++)
		size += strlen(names->name[i]) + 1;
	struct vault_listing *l = malloc(size);
	if (!l)
		return NULL;
	char **name = (char **)(void *)(l + 1);
	char *at = (char *)(name + names->n);
	for (size_t i = 0; i < names->n; i++) {
		size_t len = strlen(names->name[i]) + 1;
		memcpy(at, names->name[i], len);
		name[i] = at;
		at += len;
	}
	l->names.n = names->n;
	l->names.name = name;
	l->serial = serial;
	atomic_init(&l->refs, 1);
	return l;
}

bool cache_listing_equal(const struct vault_listing *l, const struct vault_names *names)
{
	if (l->names.n != names->n)
		return false;
	for (size_t i = 0; i < names->n; i++)
		if (strcmp(l->names.name[i], names->name[i]) != 0)
			return false;
	return true;
}

size_t cache_listing_cost(const struct vault_listing *l)
{
	if (!l->names.n)
		return sizeof *l;
	/* The bytes lie behind the pointers in one block, so the last name's end is the block's. */
	const char *last = l->names.name[l->names.n - 1];
	return (size_t)(last + strlen(last) + 1 - (const char *)l);
}

struct vault_listing *vault_listing_ref(struct vault_listing *l)
{
	atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
	return l;
}

void vault_listing_unref(struct vault_listing *l)
{
	if (l && atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) == 1)
		free(l);
}
