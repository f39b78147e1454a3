/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache's table: who is in it, in what order they leave, when each is to be looked at next. No decisions about
 * secrets, those are in cache.c.
 *
 * Hash table with chains, keyed by (kind, backend, path); a binary heap of entries by the moment at which each needs
 * something; one least-recently-used list a kind. The heap has room for every entry in the table before one is added,
 * so that no later move can fail.
 */
#include "vault/cache_internal.h"

#include <stdlib.h>
#include <string.h>

static uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 p = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15) * (b ^ 0xe7037ed1a0b428db);
	return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* Seeded: who may name secrets must not be able to make chains long. */
uint64_t cache_hash(const struct vault_cache *c, enum cache_kind kind, const struct vault_backend *b, const char *path,
		    size_t len)
{
	uint64_t h = mix(c->seed ^ (uint64_t)(uintptr_t)b, c->seed + len * CACHE_KINDS + kind);
	uint64_t w;
	for (; len >= sizeof w; path += sizeof w, len -= sizeof w) {
		memcpy(&w, path, sizeof w);
		h = mix(h ^ c->seed, w);
	}
	w = 0;
	memcpy(&w, path, len);
	return mix(h ^ c->seed, w);
}

struct cache_entry *cache_find(struct vault_cache *c, enum cache_kind kind, struct vault_backend *b, const char *path,
			       size_t len, uint64_t hash)
{
	for (struct cache_entry *e = c->bucket[hash & (c->n_buckets - 1)]; e; e = e->hash_next)
		if (e->hash == hash && e->b == b && e->kind == kind && e->path_len == len &&
		    memcmp(e->path, path, len) == 0)
			return e;
	return NULL;
}

struct cache_owner *cache_find_owner(struct vault_cache *c, const struct vault_backend *b)
{
	struct cache_owner *o = c->owners;
	while (o && o->b != b)
		o = o->next;
	return o;
}

static int grow(struct vault_cache *c)
{
	if (c->n_entries >= c->heap_cap) {
		size_t cap = c->heap_cap ? c->heap_cap * 2 : 256;
		struct cache_entry **heap = reallocarray(c->heap, cap, sizeof *heap);
		if (!heap)
			return -ENOMEM;
		c->heap = heap;
		c->heap_cap = cap;
	}
	if (c->n_buckets && c->n_entries < c->n_buckets)
		return 0;
	size_t n = c->n_buckets ? c->n_buckets * 2 : 256;
	struct cache_entry **bucket = calloc(n, sizeof *bucket);
	if (!bucket)
		return c->n_buckets ? 0 : -ENOMEM; /* longer chains will do */
	for (size_t i = 0; i < c->n_buckets; i++) {
		for (struct cache_entry *e = c->bucket[i], *next; e; e = next) {
			next = e->hash_next;
			e->hash_next = bucket[e->hash & (n - 1)];
			bucket[e->hash & (n - 1)] = e;
		}
	}
	free(c->bucket);
	c->bucket = bucket;
	c->n_buckets = n;
	return 0;
}

static struct cache_owner *owner_new(struct vault_cache *c, struct vault_backend *b)
{
	struct cache_owner *o = calloc(1, sizeof *o);
	if (!o)
		return NULL;
	o->b = b;
	link_init(&o->entries);
	link_init(&o->urgent);
	link_init(&o->refresh);
	o->next = c->owners;
	c->owners = o;
	return o;
}

int cache_add(struct vault_cache *c, enum cache_kind kind, struct vault_backend *b, const char *path, size_t len,
	      uint64_t hash, struct cache_entry **ret, struct err *e)
{
	if (grow(c) < 0)
		return err_set(e, ENOMEM, "no memory for another entry in the key cache");
	struct cache_owner *o = cache_find_owner(c, b);
	if (o && o->dropping)
		return err_set(e, ECANCELED, "vault %s is being closed", b->name);
	struct cache_entry *n = calloc(1, sizeof *n + len + 1);
	if (n && !o)
		o = owner_new(c, b);
	if (!n || !o) {
		free(n);
		return err_set(e, ENOMEM, "no memory for another entry in the key cache");
	}
	n->hash = hash;
	n->b = b;
	n->c = c;
	n->own = o;
	n->kind = (uint8_t)kind;
	n->path_len = (unsigned)len;
	n->due = n->wake = UINT64_MAX;
	memcpy(n->path, path, len);
	link_add_last(&o->entries, &n->siblings);
	link_init(&n->queue);
	link_init(&n->tell);
	link_init(&n->waiters);
	n->used = ++c->use;
	link_add(&c->lru[kind], &n->lru);
	n->hash_next = c->bucket[hash & (c->n_buckets - 1)];
	c->bucket[hash & (c->n_buckets - 1)] = n;
	c->n_entries++;
	*ret = n;
	return 0;
}

void cache_remove(struct vault_cache *c, struct cache_entry *e, struct cache_entry **garbage)
{
	struct cache_entry **at = &c->bucket[e->hash & (c->n_buckets - 1)];
	while (*at != e)
		at = &(*at)->hash_next;
	*at = e->hash_next;
	c->n_entries--;
	c->bytes[e->kind] -= e->cost;
	e->cost = 0;
	cache_wake_at(c, e, UINT64_MAX);
	if (e->pinned) {
		e->pinned = false;
		c->n_pinned--;
	}
	link_del(&e->lru);
	link_del(&e->siblings);
	if (e->state == CACHE_FETCHING) {
		e->dead = true;
		return;
	}
	link_del(&e->queue);
	e->hash_next = *garbage;
	*garbage = e;
}

void cache_garbage_free(struct cache_entry *garbage)
{
	while (garbage) {
		struct cache_entry *e = garbage;
		garbage = e->hash_next;
		cache_value_unref((enum cache_kind)e->kind, e->value);
		free(e->why);
		free(e);
	}
}

void cache_touch(struct vault_cache *c, struct cache_entry *e)
{
	e->used = ++c->use;
	if (e->pinned || c->lru[e->kind].next == &e->lru)
		return;
	link_del(&e->lru);
	link_add(&c->lru[e->kind], &e->lru);
}

/* Pinned entries are in no list, so that looking for a victim never walks over thousands of them. */
void cache_pin(struct vault_cache *c, struct cache_entry *e)
{
	if (e->pinned)
		return;
	e->pinned = true;
	c->n_pinned++;
	link_del(&e->lru);
}

void cache_unpin(struct vault_cache *c, struct cache_entry *e)
{
	if (!e->pinned)
		return;
	e->pinned = false;
	c->n_pinned--;
	e->used = ++c->use;
	link_add(&c->lru[e->kind], &e->lru);
}

void *cache_swap_value(struct vault_cache *c, struct cache_entry *e, void *value, size_t cost)
{
	void *old = e->value;
	c->bytes[e->kind] -= e->cost;
	e->value = value;
	e->cost = cost;
	c->bytes[e->kind] += cost;
	return old;
}

void cache_value_unref(enum cache_kind kind, void *value)
{
	if (kind == CACHE_SECRET)
		vault_secret_unref(value);
	else
		vault_listing_unref(value);
}

/* The oldest of one list that may go. Unpinned entries in flight are background refreshes, of which there are few. */
static struct cache_entry *oldest(struct vault_cache *c, enum cache_kind kind, bool with_value)
{
	for (struct link *l = c->lru[kind].prev; l != &c->lru[kind]; l = l->prev) {
		struct cache_entry *e = LINK_OF(l, struct cache_entry, lru);
		if (e->state != CACHE_FETCHING && !e->held && (e->value || !with_value))
			return e;
	}
	return NULL;
}

static bool evict(struct vault_cache *c, struct cache_entry *e, struct cache_entry **garbage)
{
	if (!e)
		return false;
	cache_remove(c, e, garbage);
	c->evicted++;
	return true;
}

void cache_trim(struct vault_cache *c, struct cache_entry **garbage)
{
	const size_t max[CACHE_KINDS] = { [CACHE_SECRET] = c->max_bytes, [CACHE_LISTING] = CACHE_LISTING_BYTES };
	for (int k = 0; k < CACHE_KINDS; k++)
		while (c->bytes[k] > max[k] && evict(c, oldest(c, (enum cache_kind)k, true), garbage))
			;
	while (c->n_entries > c->max_entries) {
		struct cache_entry *s = oldest(c, CACHE_SECRET, false), *l = oldest(c, CACHE_LISTING, false);
		if (!evict(c, s && (!l || s->used < l->used) ? s : l, garbage))
			return;
	}
}

static void heap_put(struct vault_cache *c, size_t at, struct cache_entry *e)
{
	c->heap[at] = e;
	e->heap_at = (unsigned)at + 1;
}

static void heap_settle(struct vault_cache *c, size_t at, struct cache_entry *e)
{
	while (at > 0 && c->heap[(at - 1) / 2]->wake > e->wake) {
		heap_put(c, at, c->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	for (size_t child; (child = at * 2 + 1) < c->n_heap; at = child) {
		if (child + 1 < c->n_heap && c->heap[child + 1]->wake < c->heap[child]->wake)
			child++;
		if (c->heap[child]->wake >= e->wake)
			break;
		heap_put(c, at, c->heap[child]);
	}
	heap_put(c, at, e);
}

void cache_wake_at(struct vault_cache *c, struct cache_entry *e, uint64_t wake)
{
	e->wake = wake;
	if (wake != UINT64_MAX) {
		heap_settle(c, e->heap_at ? e->heap_at - 1 : c->n_heap++, e);
		return;
	}
	if (!e->heap_at)
		return;
	size_t at = e->heap_at - 1;
	e->heap_at = 0;
	struct cache_entry *last = c->heap[--c->n_heap];
	if (last != e)
		heap_settle(c, at, last);
}
