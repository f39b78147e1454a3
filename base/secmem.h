/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secret memory: the only place where plaintext secrets, tokens, passphrases and keys live.
 *
 * Backed by memfd_secret(2) (Linux >= 5.14; before 6.5 the kernel needs secretmem.enable=1): its pages are taken out
 * of the kernel's direct map, so that /proc/PID/mem, process_vm_readv, ptrace PEEK, core files, swap and hibernation
 * cannot read them. It counts against RLIMIT_MEMLOCK as mapped. See docs/threat-model.md for what it does not stop.
 *
 * Two users of the same region:
 *   - the secret heap (sec_malloc and friends): installed into OpenSSL, libcurl and cJSON before anything else runs;
 *     blocks are wiped when freed. Working memory.
 *   - secret buffers (struct secbuf): what is kept; length known, canary behind the bytes, wiped when freed. Their own
 *     type, so that nothing prints one by mistake.
 *
 * Thread rules: everything here may be called from any thread after secmem_init has returned. A forked child does not
 * have the region at all (MADV_DONTFORK): touch no secret between fork and exec.
 */
#ifndef CT_BASE_SECMEM_H
#define CT_BASE_SECMEM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum secmem_mode {
	SECMEM_REQUIRED,  /* refuse to start without memfd_secret: services */
	SECMEM_PREFERRED, /* fall back to locked, guarded, undumpable memory with a warning: commands a person runs */
	SECMEM_OFF,	  /* ordinary heap. For tests alone, so that a memory scan can be seen to fail */
};

enum secmem_kind {
	SECMEM_KIND_NONE,   /* not initialised, or SECMEM_OFF */
	SECMEM_KIND_LOCKED, /* the fallback */
	SECMEM_KIND_SECRET, /* memfd_secret */
};

struct secmem_stats {
	enum secmem_kind kind;
	size_t mapped; /* bytes of secret memory mapped */
	size_t used;   /* bytes handed out, in whole blocks, with what threads keep at hand */
	size_t limit;  /* RLIMIT_MEMLOCK in bytes, SIZE_MAX when it does not bind */
};

/*
 * Sets up the region and installs the secret heap into OpenSSL and cJSON, makes the process undumpable and its core
 * limit 0. Call once, first thing in main (base/http.c hands the heap to libcurl). The environment variable
 * CLOUDTASER_SECRET_MEMORY (required, preferred, off) outranks `mode`: `off` is how a test sees a memory scan fail, is
 * logged as a warning, and shows in `status`.
 * -ENOSYS: no memfd_secret here; the message says what to do.
 */
int must_use secmem_init(enum secmem_mode mode, struct err *e);
void secmem_get_stats(struct secmem_stats *ret);
const char *secmem_kind_name(enum secmem_kind kind); /* "memfd_secret", "locked", "none" */

/* The secret heap. NULL with errno ENOMEM when the region cannot grow (sec_malloc(0) gives a unique block). */
void *sec_malloc(size_t n);
void *sec_calloc(size_t n, size_t m);
void *sec_realloc(void *p, size_t n);
void sec_free(void *p); /* wipes the whole block; NULL is fine */
char *sec_strdup(const char *s);
char *sec_strndup(const char *s, size_t n);
size_t sec_usable(const void *p);
bool sec_contains(const void *p); /* does p point into secret memory? */

static inline __attribute__((unused)) void sec_freep(void *p)
{
	void *q;
	__builtin_memcpy(&q, p, sizeof q);
	sec_free(q);
}
/* `cleanup_sec char *token = sec_strdup(...)` */
#define cleanup_sec __attribute__((cleanup(sec_freep)))

/* Wipes ordinary memory; the compiler may not leave it out. */
void mem_wipe(void *p, size_t n);
/* Constant-time equality of n bytes. */
bool mem_equal(const void *a, const void *b, size_t n);

/* Kept bytes. */
struct secbuf;

/* A buffer of n bytes (zeroed). NULL with errno ENOMEM. Owner: the caller. */
struct secbuf *secbuf_new(size_t n);
struct secbuf *secbuf_from(const void *p, size_t n);
void *secbuf_bytes(struct secbuf *b);
const void *secbuf_data(const struct secbuf *b);
size_t secbuf_len(const struct secbuf *b);
void secbuf_free(struct secbuf *b); /* wipes; a broken canary is logged and the buffer never reused */

/*
 * Runs fn(arg) on a thread whose stack lies in secret memory and waits for it: registers that ciphers and KDFs spill
 * stay inside. The thread may not fork. `stack` in bytes, 0 for the default (256 KiB).
 */
int must_use secthread_run(void *(*fn)(void *), void *arg, void **ret, size_t stack, struct err *e);

/* The same, going on by itself. secthread_join waits and frees. */
struct secthread;
int must_use secthread_start(const char *name, void *(*fn)(void *), void *arg, size_t stack, struct secthread **ret,
			     struct err *e);
void *secthread_join(struct secthread *t);

/* Reads a file or descriptor into secret memory with read(2): at most max bytes, then -EMSGSIZE. NUL-terminated
 * beyond *ret_len. sec_free() the result. Refuses a file that group or others can read when `private_only`. */
int must_use sec_read_fd(int fd, size_t max, char **ret, size_t *ret_len, struct err *e);
int must_use sec_read_file(const char *path, size_t max, bool private_only, char **ret, size_t *ret_len, struct err *e);

#endif
