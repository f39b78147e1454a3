/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The region. A range of 4 GiB of addresses is reserved without access; segments of memfd_secret are mapped into it as
 * they are needed, because RLIMIT_MEMLOCK counts what is mapped, and the size of one such file cannot change once set.
 * One range makes "is this pointer secret memory" two comparisons, and leaves an unmapped page at the end of every
 * 256 KiB slot. The descriptor is closed right after mmap: an open one could be taken with pidfd_getfd and mapped.
 */
#include "base/secregion.h"

#include "base/json.h"
#include "base/cleanup.h"
#include "base/log.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

uint8_t *sec_base;

static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t slot_used[SEC_SLOTS];
static unsigned slot_hint; /* no free slot below it */
static enum secmem_kind kind;
static bool initialised;
static _Atomic size_t mapped_bytes;

static int memfd_secret_fd(void)
{
	return (int)syscall(SYS_memfd_secret, O_CLOEXEC);
}

/* Maps one segment anywhere; MAP_FAILED with errno. */
static void *map_anywhere(size_t bytes)
{
	if (kind != SECMEM_KIND_SECRET) {
		void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED || mlock(p, bytes) == 0)
			return p;
		int why = errno;
		(void)munmap(p, bytes);
		errno = why;
		return MAP_FAILED;
	}
	cleanup_close int fd = memfd_secret_fd();
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return MAP_FAILED;
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

/*
 * Maps one segment at a fixed place inside the reserved range. Made elsewhere first and then moved there: a mapping
 * that is refused (RLIMIT_MEMLOCK) at a fixed place has already taken the reservation away, and the hole would become
 * somebody else's memory.
 */
static int map_at(void *where, size_t bytes)
{
	void *p = map_anywhere(bytes);
	if (p == MAP_FAILED)
		return -errno;
	/* A forked child must not hold a second copy (or, being shared memory, the same pages). */
	if (madvise(p, bytes, MADV_DONTFORK) < 0 || madvise(p, bytes, MADV_DONTDUMP) < 0 ||
	    mremap(p, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, where) == MAP_FAILED) {
		int r = -errno;
		(void)munmap(p, bytes);
		return r;
	}
	return 0;
}

/* First run of n unused slots, marked used; -1 when there is none. */
static int slots_take(unsigned n)
{
	SCOPED_LOCK(&slots_lock);
	for (unsigned i = slot_hint; i + n <= SEC_SLOTS; i++) {
		unsigned k = 0;
		while (k < n && !slot_used[i + k])
			k++;
		if (k == n) {
			memset(slot_used + i, 1, n);
			if (i == slot_hint)
				slot_hint = i + n;
			return (int)i;
		}
		i += k;
	}
	return -1;
}

static void slots_give(unsigned first, unsigned n)
{
	SCOPED_LOCK(&slots_lock);
	memset(slot_used + first, 0, n);
	if (first < slot_hint)
		slot_hint = first;
}

static unsigned slots_for(size_t bytes)
{
	return (unsigned)((bytes + SEC_PAGE + SEC_SLOT - 1) / SEC_SLOT);
}

void *sec_map(size_t bytes, bool at_end)
{
	if (bytes == 0 || bytes > (size_t)SEC_SLOT * SEC_SLOTS / 2) {
		errno = ENOMEM;
		return NULL;
	}
	unsigned n = slots_for(bytes);
	int first = slots_take(n);
	if (first < 0) {
		errno = ENOMEM;
		return NULL;
	}
	uint8_t *p = sec_base + (size_t)first * SEC_SLOT;
	if (at_end)
		p += (size_t)n * SEC_SLOT - SEC_PAGE - bytes;
	if (map_at(p, bytes) < 0) {
		slots_give((unsigned)first, n);
		errno = ENOMEM;
		return NULL;
	}
	atomic_fetch_add(&mapped_bytes, bytes);
	return p;
}

void sec_wipe_pages(void *p, size_t bytes)
{
	enum { AT_ONCE = 256 };
	unsigned char there[AT_ONCE];
	for (size_t at = 0; at < bytes; at += (size_t)AT_ONCE * SEC_PAGE) {
		uint8_t *from = (uint8_t *)p + at;
		size_t n = bytes - at < (size_t)AT_ONCE * SEC_PAGE ? bytes - at : (size_t)AT_ONCE * SEC_PAGE;
		bool known = mincore(from, n, there) == 0;
		for (size_t i = 0; i < n / SEC_PAGE; i++)
			if (!known || (there[i] & 1))
				mem_wipe(from + i * SEC_PAGE, SEC_PAGE);
	}
}

void sec_unmap(void *p, size_t bytes)
{
	sec_wipe_pages(p, bytes);
	/* Back to reserved: a plain munmap would let somebody else's mapping appear between segments. */
	(void)mmap(p, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
	slots_give((unsigned)((size_t)((uint8_t *)p - sec_base) / SEC_SLOT), slots_for(bytes));
	atomic_fetch_sub(&mapped_bytes, bytes);
}

static void *ossl_malloc(size_t n, const char *file, int line)
{
	(void)file, (void)line;
	return sec_malloc(n);
}

static void *ossl_realloc(void *p, size_t n, const char *file, int line)
{
	(void)file, (void)line;
	return sec_realloc(p, n);
}

static void ossl_free(void *p, const char *file, int line)
{
	(void)file, (void)line;
	sec_free(p);
}

/* CLOUDTASER_SECRET_MEMORY outranks the caller's mode. */
static int mode_from_environment(enum secmem_mode *mode, struct err *e)
{
	const char *s = getenv("CLOUDTASER_SECRET_MEMORY");
	if (!s || !*s)
		return 0;
	if (strcmp(s, "required") == 0)
		*mode = SECMEM_REQUIRED;
	else if (strcmp(s, "preferred") == 0)
		*mode = SECMEM_PREFERRED;
	else if (strcmp(s, "off") == 0)
		*mode = SECMEM_OFF;
	else
		return err_set(e, EINVAL, "CLOUDTASER_SECRET_MEMORY: %.20s is not one of required, preferred, off", s);
	return 0;
}

static int reserve(struct err *e)
{
	void *p = mmap(NULL, (size_t)SEC_SLOTS * SEC_SLOT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		       0);
	if (p == MAP_FAILED)
		return err_sys(e, errno, "cannot reserve addresses for secret memory");
	/* Nothing is there to dump but 4 GiB of nothing; segments of the fallback say it for themselves. */
	(void)madvise(p, (size_t)SEC_SLOTS * SEC_SLOT, MADV_DONTDUMP);
	/* Whole slots, so that a slot is found by a shift; the range itself need not be aligned. */
	sec_base = p;
	return 0;
}

static int try_kind(enum secmem_kind k)
{
	kind = k;
	void *p = sec_map(SEC_PAGE, false);
	if (!p) {
		kind = SECMEM_KIND_NONE;
		return -errno;
	}
	*(volatile uint8_t *)p = 1;
	sec_unmap(p, SEC_PAGE);
	return 0;
}

static int choose_kind(enum secmem_mode mode, struct err *e)
{
	int fd = memfd_secret_fd();
	int why = fd < 0 ? errno : 0;
	if (fd >= 0)
		close(fd);
	if (!why && try_kind(SECMEM_KIND_SECRET) == 0)
		return 0;
	if (mode == SECMEM_REQUIRED) {
		if (why)
			return err_sys(
				e, ENOSYS,
				"secret memory is required and memfd_secret(2) is not available (%s): Linux 5.14 or "
				"newer is needed, and before 6.5 the kernel parameter secretmem.enable=1; or set "
				"secret_memory: preferred",
				strerror(why));
		return err_set(
			e, ENOMEM,
			"secret memory cannot be mapped: raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=) or grant "
			"CAP_IPC_LOCK");
	}
	if (try_kind(SECMEM_KIND_LOCKED) < 0)
		return err_set(e, ENOMEM, "memory cannot be locked: raise RLIMIT_MEMLOCK (ulimit -l)");
	log_warn("memfd_secret is not available (%s): secrets are in locked ordinary memory, which root can read",
		 why ? strerror(why) : "RLIMIT_MEMLOCK");
	return 0;
}

int secmem_init(enum secmem_mode mode, struct err *e)
{
	if (initialised)
		return 0;
	int r = mode_from_environment(&mode, e);
	if (r < 0)
		return r;

	struct rlimit none = { 0, 0 };
	(void)setrlimit(RLIMIT_CORE, &none);
	/* RLIMIT_CORE does not stop a core_pattern that is a pipe; being undumpable does. */
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);

	if (mode == SECMEM_OFF) {
		log_warn("CLOUDTASER_SECRET_MEMORY=off: secrets are in ordinary memory; for tests only");
	} else {
		r = reserve(e);
		if (r < 0)
			return r;
		r = choose_kind(mode, e);
		if (r < 0)
			return r;
		secheap_init();
	}
	if (!CRYPTO_set_mem_functions(ossl_malloc, ossl_realloc, ossl_free))
		return err_set(e, EBUSY, "OpenSSL allocated memory before the secret heap was installed");
	json_init();
	if (sodium_init() < 0)
		return err_set(e, EIO, "libsodium does not start");
	initialised = true;
	return 0;
}

static size_t memlock_limit(void)
{
	struct rlimit rl;
	if (getrlimit(RLIMIT_MEMLOCK, &rl) < 0 || rl.rlim_cur == RLIM_INFINITY)
		return SIZE_MAX;
	/* CAP_IPC_LOCK in the initial user namespace lifts the limit; inside another one the kernel does not look. */
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3, .pid = 0 };
	struct __user_cap_data_struct d[2] = { { 0 } };
	if (syscall(SYS_capget, &h, d) == 0 && (d[0].effective & (1U << CAP_IPC_LOCK))) {
		cleanup_close int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
		char map[64] = "";
		if (fd < 0 || read(fd, map, sizeof map - 1) <= 0 || strstr(map, "4294967295"))
			return SIZE_MAX;
	}
	return (size_t)rl.rlim_cur;
}

void secmem_get_stats(struct secmem_stats *ret)
{
	*ret = (struct secmem_stats){
		.kind = kind,
		.mapped = atomic_load(&mapped_bytes),
		.used = secheap_used(),
		.limit = memlock_limit(),
	};
}

const char *secmem_kind_name(enum secmem_kind k)
{
	switch (k) {
	case SECMEM_KIND_SECRET:
		return "memfd_secret";
	case SECMEM_KIND_LOCKED:
		return "locked";
	case SECMEM_KIND_NONE:
		break;
	}
	return "none";
}

void mem_wipe(void *p, size_t n)
{
	explicit_bzero(p, n);
}

bool mem_equal(const void *a, const void *b, size_t n)
{
	return CRYPTO_memcmp(a, b, n) == 0;
}
