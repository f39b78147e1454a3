/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key cache: what the vault said, kept in secret memory, so that a read never waits for the network twice.
 *
 * Keyed by (backend object, path); a backend object is one (vault, identity), so what one identity fetched is never
 * served to another. One fetch in flight per entry, however many wait. Every entry is asked for again before it is one
 * refresh interval old (in the background, with jitter). When the vault cannot be asked, the old value is served up to
 * max_stale after the last good answer, with back-off and jitter per path. Bounded in entries and bytes; the least
 * recently used entry goes first. Folder listings are cached the same way.
 *
 * Thread rules: any thread. Callbacks run on the I/O loop's thread (or on the caller's, before the call returns, when
 * the answer is there: see the return value).
 */
#ifndef CT_VAULT_CACHE_H
#define CT_VAULT_CACHE_H

#include "vault/backend.h"

struct vault_cache;

struct vault_cache_conf {
	size_t max_entries; /* 0: 100,000 */
	size_t max_bytes;   /* secret bytes, 0: 64 MiB or half of RLIMIT_MEMLOCK where that is less */
	unsigned wait_ms;   /* how long the first access to an entry may wait, 0: 10000 */
};

int must_use vault_cache_new(struct io *io, const struct vault_cache_conf *conf, struct vault_cache **ret,
			     struct err *e);
/* No backend given to it may be closed before. Waiting callbacks get -ECANCELED. Waits for fetches in flight: not from
 * the loop, and before io_free. */
void vault_cache_free(struct vault_cache *c);

/*
 * 1: *ret holds a reference, done is not called. 0: not there yet; done(arg, ...) will be called once, at the latest
 * after wait_ms (-ETIMEDOUT). Negative: the answer is known to be that error, done is not called: what the vault said
 * (-ENOENT, -EACCES), why it could not be asked (vault/backend.h; -EAGAIN once an old value may not be served any
 * more), -ENOMEM, -ENAMETOOLONG, -ECANCELED while the backend is dropped. Errors are remembered for a moment (at most
 * 1 s) so that a storm of readers asks the vault once; so is -ETIMEDOUT, so that who had to queue for the question (the
 * kernel sends one look-up of a name at a time) does not wait all over again.
 *
 * The same pointer as before means the same secret: an answer with equal version and fields keeps the old object. A
 * value that is there is answered at once, also while it is asked for again. max_stale_s below refresh_s (0: never
 * serve stale) means that a value is served for one refresh interval.
 */
int must_use vault_cache_get(struct vault_cache *c, struct vault_backend *b, const char *path,
			     struct vault_secret **ret, vault_get_fn *done, void *arg, struct err *e);

/* As above. A listing is a shared, immutable object. `serial` changes whenever the listing does. */
struct vault_listing {
	struct vault_names names;
	uint64_t serial;
	/* private */
	_Atomic unsigned refs;
};
typedef void vault_listing_fn(void *arg, int r, struct vault_listing *l /* borrowed */, const struct err *e);
struct vault_listing *vault_listing_ref(struct vault_listing *l);
void vault_listing_unref(struct vault_listing *l);
int must_use vault_cache_list(struct vault_cache *c, struct vault_backend *b, const char *folder,
			      struct vault_listing **ret, vault_listing_fn *done, void *arg, struct err *e);

/* What is cached now, without asking or waiting: a reference or NULL. */
struct vault_secret *vault_cache_peek(struct vault_cache *c, struct vault_backend *b, const char *path);
struct vault_listing *vault_cache_peek_list(struct vault_cache *c, struct vault_backend *b, const char *folder);
/* Was the vault's last word that this secret (or folder) is not there? False also when it was never asked. */
bool vault_cache_is_gone(struct vault_cache *c, struct vault_backend *b, const char *path, bool folder);

/* Forgets every entry of a backend (before it is closed; its waiters get -ECANCELED). Waits for fetches in flight:
 * not from the loop. The backend may be used again afterwards. */
void vault_cache_drop(struct vault_cache *c, struct vault_backend *b);
/* The same, and closes the backend: what is in flight is cancelled, and a vault that says nothing not waited for. */
void vault_cache_close(struct vault_cache *c, struct vault_backend *b);
/* Asks again now for everything cached of a backend (all when NULL). */
void vault_cache_refresh(struct vault_cache *c, struct vault_backend *b);

/*
 * Called on the loop thread, after the waiters, when a secret got a new version (r == 0; also at its first fetch, so
 * that a change during an eviction is not missed, and when the vault answers again for a stale one) or went away
 * (-ENOENT, -EACCES), or when it could not be refreshed (other r; once per change of state, for logs: the vault's error
 * while an old value is served, -EAGAIN when it became too old, -E2BIG when it is larger than the whole cache and
 * therefore not kept). Versions are taken as the vault tells them, also when they go back. Listings too: their path is
 * "" or ends in '/'. One observer; NULL: none.
 */
typedef void vault_change_fn(void *arg, struct vault_backend *b, const char *path, int r, const struct err *e);
void vault_cache_observe(struct vault_cache *c, vault_change_fn *fn, void *arg);

struct vault_cache_stats {
	size_t entries, bytes;
	uint64_t hits, misses, fetches, fetch_errors, stale_served, evicted;
	uint64_t oldest_ms; /* age of the oldest good answer */
};
void vault_cache_get_stats(struct vault_cache *c, struct vault_cache_stats *ret);

#endif
