/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the cache share, and two hooks for tests. Nobody else includes this.
 *
 * Everything in these structures is guarded by vault_cache.lock, except where [loop] says that only the I/O loop's
 * thread writes it (then the loop may read it without the lock).
 */
#ifndef CT_VAULT_CACHE_INTERNAL_H
#define CT_VAULT_CACHE_INTERNAL_H

#include "vault/cache.h"

#include <pthread.h>
#include <stdbool.h>

/* Intrusive circular list; a link that is in no list points at itself. */
struct link {
	struct link *prev, *next;
};
#define LINK_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void link_init(struct link *l)
{
	l->prev = l->next = l;
}
static inline bool link_empty(const struct link *l)
{
	return l->next == l;
}
static inline void link_del(struct link *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	link_init(l);
}
/* Puts l right behind `after`: behind the head it becomes the first, behind head->prev the last. */
static inline void link_add(struct link *after, struct link *l)
{
	l->prev = after;
	l->next = after->next;
	after->next->prev = l;
	after->next = l;
}
static inline void link_add_last(struct link *head, struct link *l)
{
	link_add(head->prev, l);
}

enum cache_kind { CACHE_SECRET, CACHE_LISTING, CACHE_KINDS };

enum cache_state {
	CACHE_IDLE,
	CACHE_REFRESH, /* waits in own->refresh for one of the slots of background refreshes */
	CACHE_URGENT,  /* waits in own->urgent: somebody waits for it */
	CACHE_FETCHING,
};

/* What the observer was last told. */
enum cache_health {
	CACHE_GOOD,
	CACHE_STALE,   /* the vault cannot be asked, an old value is there */
	CACHE_EXPIRED, /* ... and none is */
	CACHE_GONE,
	CACHE_DENIED,
	CACHE_TOO_BIG,
};

struct cache_waiter {
	struct link on_entry;
	struct link on_clock; /* all waiters of a cache, in the order of their deadlines */
	struct cache_entry *entry;
	uint64_t deadline;
	union {
		vault_get_fn *secret;
		vault_listing_fn *listing;
	} done;
	void *arg;
};

/* One backend and what is cached of it. */
struct cache_owner {
	struct cache_owner *next;
	struct vault_backend *b;
	struct link entries;
	struct link urgent, refresh; /* entries to fetch */
	unsigned refreshing;	     /* background refreshes in flight */
	unsigned fetching;	     /* all fetches in flight */
	bool dropping;
};

struct cache_entry {
	struct cache_entry *hash_next; /* also chains garbage */
	uint64_t hash;
	struct vault_backend *b;
	struct vault_cache *c;
	struct cache_owner *own;
	struct link siblings; /* in own->entries */
	struct link lru;      /* in c->lru[kind], unless pinned */
	struct link queue;    /* in own->urgent or own->refresh, or in a list of the loop's own */
	struct link tell;     /* in a list of the loop's own: the observer is to be told */
	struct link waiters;
	union {
		struct vault_secret *secret;
		struct vault_listing *listing;
		void *value;
	};		    /* [loop], but evicted by any thread unless `state` is CACHE_FETCHING or `held` */
	size_t cost;	    /* of value: bytes */
	uint64_t used;	    /* c->use at the last use: tells which list's tail is older */
	uint64_t started;   /* [loop] of the fetch in flight */
	uint64_t good_at;   /* when the last good answer was asked for: the value is at least that new */
	uint64_t expires;   /* the value is not served after that */
	uint64_t due;	    /* ask again; UINT64_MAX: not by itself */
	uint64_t wake;	    /* heap key: next moment at which something is to be done */
	uint64_t err_until; /* `err` is the answer until then */
	int err;	    /* [loop] the last answer's error; 0 when it was good */
	char *why;	    /* [loop] its sentence; NULL: none, or no memory for it */
	unsigned fails;	    /* transient errors in a row */
	unsigned heap_at;   /* place in the heap + 1; 0: not there */
	unsigned path_len;
	uint8_t kind;	 /* enum cache_kind */
	uint8_t state;	 /* enum cache_state */
	uint8_t health;	 /* enum cache_health */
	bool had;	 /* there was a value once: keep asking */
	bool again;	 /* ask again as soon as the fetch in flight has answered */
	bool dead;	 /* dropped while it was fetched */
	bool pinned;	 /* somebody waits, or waited for the fetch in flight: never evicted */
	bool held;	 /* the loop is using it outside the lock: never evicted */
	bool background; /* the fetch in flight counts in own->refreshing */
	char path[];
};

struct vault_cache {
	pthread_mutex_t lock;
	pthread_cond_t settled; /* a fetch in flight ended, an owner went, a posted call ran */
	struct io *io;
	size_t max_entries, max_bytes, max_pinned;
	unsigned wait_ms;

	struct cache_entry **bucket;
	size_t n_buckets; /* a power of two */
	size_t n_entries, n_pinned;
	uint64_t seed, random;
	struct link lru[CACHE_KINDS]; /* newest first */
	size_t bytes[CACHE_KINDS];
	uint64_t use;
	struct cache_entry **heap;
	size_t n_heap, heap_cap;
	struct link clock; /* waiters */
	struct cache_owner *owners;
	size_t fetching;
	uint64_t serial;

	struct io_timer *timer; /* [loop] */
	uint64_t timer_at;	/* UINT64_MAX: not armed */
	uint64_t walked_at;
	bool posted; /* a call of the loop is on its way */
	bool closing;

	vault_change_fn *observer;
	void *observer_arg;
	uint64_t hits, misses, fetches, fetch_errors, stale_served, evicted;
};

/* Listings may take this much ordinary memory. */
enum { CACHE_LISTING_BYTES = 64 << 20 };

/* cache_table.c: all with the lock held, except cache_garbage_free */
struct cache_entry *cache_find(struct vault_cache *c, enum cache_kind kind, struct vault_backend *b, const char *path,
			       size_t len, uint64_t hash);
uint64_t cache_hash(const struct vault_cache *c, enum cache_kind kind, const struct vault_backend *b, const char *path,
		    size_t len);
struct cache_owner *cache_find_owner(struct vault_cache *c, const struct vault_backend *b);
int must_use cache_add(struct vault_cache *c, enum cache_kind kind, struct vault_backend *b, const char *path,
		       size_t len, uint64_t hash, struct cache_entry **ret, struct err *e);
/* Out of every list; what was freed lies in *garbage, to be given to cache_garbage_free without the lock. An entry
 * that is being fetched is only marked dead: whoever sees the answer puts it there. */
void cache_remove(struct vault_cache *c, struct cache_entry *e, struct cache_entry **garbage);
void cache_garbage_free(struct cache_entry *garbage);
void cache_touch(struct vault_cache *c, struct cache_entry *e);
void cache_pin(struct vault_cache *c, struct cache_entry *e);
void cache_unpin(struct vault_cache *c, struct cache_entry *e);
/* Gives e another value (or none) and returns the old one: the caller unrefs it without the lock. */
void *cache_swap_value(struct vault_cache *c, struct cache_entry *e, void *value, size_t cost);
void cache_value_unref(enum cache_kind kind, void *value);
/* Evicts until the bounds hold, or nothing more can go. */
void cache_trim(struct vault_cache *c, struct cache_entry **garbage);
/* Sets e->wake to the earliest moment at which something is to be done, and moves it in the heap. */
void cache_wake_at(struct vault_cache *c, struct cache_entry *e, uint64_t wake);

/* cache_run.c */
uint64_t cache_now(void);
const char *cache_label(const struct cache_entry *e);		   /* its path, for messages */
void cache_take_waiters(struct cache_entry *e, struct link *list); /* lock held; linked by on_entry */
void cache_call_waiter(struct cache_waiter *w, enum cache_kind kind, int r, void *value, const struct err *e);
void cache_queue(struct cache_entry *e, enum cache_state state);   /* lock held: CACHE_URGENT or CACHE_REFRESH */
void cache_schedule(struct vault_cache *c, struct cache_entry *e); /* lock held, after anything of e changed */
int must_use cache_kick(struct vault_cache *c);			   /* lock held: a round, soon */
void cache_round(struct vault_cache *c);			   /* [loop] */

/* cache_listing.c */
struct vault_listing *cache_listing_new(const struct vault_names *names, uint64_t serial); /* NULL: ENOMEM */
bool cache_listing_equal(const struct vault_listing *l, const struct vault_names *names);
size_t cache_listing_cost(const struct vault_listing *l);

/* For tests (cache_run.c): the clock of all caches (NULL: io_now_ms); one round of the loop's work, now, returning when it is done. */
void vault_cache_test_clock(uint64_t (*now)(void));
void vault_cache_test_round(struct vault_cache *c);

#endif
