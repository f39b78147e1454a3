/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The secret heap: size classes in spans of pages, a cache a thread in front.
 *
 * Our own and not jemalloc with extent hooks: Debian's libjemalloc takes over the whole process's malloc as soon as it
 * is linked, and it neither wipes what is freed nor keeps guard pages. tests/bench/heap.c shows what this one costs.
 *
 *   segment   256 KiB less a guard page, from sec_map; belongs to one arena
 *   span      1 to 255 pages of a segment: either blocks of one size class, or one large block
 *   huge      larger than a segment: mapped alone, unmapped when freed
 *
 * Two arenas: working memory (OpenSSL, libcurl, cJSON) and kept secret buffers, so that an overflow in the one meets an
 * unmapped page before it meets the other. What describes pages lies outside, in ordinary memory: it is no secret, and
 * an overflow cannot reach it. Only the link of a free block lies in the block (its first 8 bytes).
 *
 * Every block is wiped when it is freed, so free memory is zero but for those links; sec_calloc relies on that.
 */
#include "base/secregion.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

enum {
	CLASSES = 32,
	SMALL_MAX = 4096,
	SPAN_PAGES = 4, /* blocks up to 512 bytes */
	SPAN_PAGES_BIG = 8,
	SEGMENT_PAGES = SEC_SLOT_PAGES - 1,
	BATCH = 32,
	LARGE_BINS = 9, /* large blocks of up to 8 pages are kept at hand, too: buffers of TLS and HTTP */
	LARGE_KEEP = 3,
	ASK_MAX = 8,
	NONE = UINT32_MAX,
};

enum page_kind { PAGE_FREE, PAGE_SMALL, PAGE_LARGE, PAGE_HUGE };

/* One a page of the region; what concerns a span stands at its first page. */
struct page {
	uint8_t kind;
	uint8_t cls;
	uint8_t arena;
	uint8_t back;	 /* pages back to the first of the span */
	uint32_t npages; /* of the span; of a huge block */
	uint16_t nfree, nblocks;
	uint32_t prev, next; /* partly used spans of a class */
	uint16_t carved;     /* blocks that were ever handed out; those behind were never touched */
	uint8_t asked;	     /* how often the kernel was asked about the pages of a large block */
	bool touched;	     /* of each page: it has been written since its segment was mapped */
	void *free;
};

struct segment {
	uint32_t first; /* page number */
	uint32_t nfree; /* pages */
	uint64_t used[SEC_SLOT_PAGES / 64];
};

struct arena {
	pthread_mutex_t lock;
	uint32_t partial[CLASSES]; /* spans with a free block, NONE */
	struct segment *segments;
	size_t n_segments, cap_segments;
};

enum { ARENA_WORK, ARENA_KEPT };
static struct arena arenas[2] = {
	{ .lock = PTHREAD_MUTEX_INITIALIZER },
	{ .lock = PTHREAD_MUTEX_INITIALIZER },
};
static struct page *pages;
static _Atomic size_t used_bytes;

struct bin {
	void *head;
	unsigned n;
};

struct cache {
	struct bin bin[CLASSES], large[LARGE_BINS]; /* by class; by pages */
	bool registered;
};
static __thread struct cache cache;
static pthread_key_t cache_key;
static uint64_t canary_key;

static const uint16_t class_size[CLASSES] = {
	16,  32,  48,  64,   80,   96,	 112,  128,  160,  192,	 224,  256,  320, 384, 448, 512,
	640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 0,	  0,   0,   0,
};
static uint8_t class_table[SMALL_MAX / 16 + 1];

static void *load_link(const void *block)
{
	void *next;
	memcpy(&next, block, sizeof next);
	return next;
}

static void store_link(void *block, void *next)
{
	memcpy(block, &next, sizeof next);
}

static void cache_flush_all(void *unused);

void secheap_init(void)
{
	size_t n = (size_t)SEC_SLOTS * SEC_SLOT_PAGES * sizeof *pages;
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		abort(); /* before anything runs */
	(void)madvise(p, n, MADV_DONTDUMP);
	pages = p;
	unsigned c = 0;
	for (unsigned i = 0; i <= SMALL_MAX / 16; i++) {
		while (class_size[c] < i * 16)
			c++;
		class_table[i] = (uint8_t)c;
	}
	for (unsigned a = 0; a < 2; a++)
		for (c = 0; c < CLASSES; c++)
			arenas[a].partial[c] = NONE;
	(void)pthread_key_create(&cache_key, cache_flush_all);
	if (getrandom(&canary_key, sizeof canary_key, 0) != sizeof canary_key)
		canary_key = 0x5ec2e7b0f5a1d0c3ULL; /* it catches mistakes, it keeps no secret */
}

size_t secheap_used(void)
{
	return atomic_load_explicit(&used_bytes, memory_order_relaxed);
}

/* Blocks that a thread keeps at hand count as used, so that the hot path shares no counter. */
static void count(ssize_t bytes)
{
	atomic_fetch_add_explicit(&used_bytes, (size_t)bytes, memory_order_relaxed);
}

static uint32_t page_of(const void *p)
{
	return (uint32_t)((size_t)((const uint8_t *)p - sec_base) / SEC_PAGE);
}

static void *page_address(uint32_t i)
{
	return sec_base + (size_t)i * SEC_PAGE;
}

static uint32_t span_of(const void *p)
{
	uint32_t i = page_of(p);
	return i - pages[i].back;
}

static bool page_used(const struct segment *s, unsigned i)
{
	return s->used[i / 64] >> (i % 64) & 1;
}

static void pages_mark(struct segment *s, unsigned first, unsigned n, bool used)
{
	for (unsigned i = first; i < first + n; i++) {
		if (used)
			s->used[i / 64] |= 1ULL << (i % 64);
		else
			s->used[i / 64] &= ~(1ULL << (i % 64));
	}
	s->nfree = used ? s->nfree - n : s->nfree + n;
}

/* First fit in one segment; -1. */
static int pages_find(const struct segment *s, unsigned n)
{
	if (s->nfree < n)
		return -1;
	for (unsigned i = 0; i + n <= SEGMENT_PAGES;) {
		unsigned k = 0;
		if (s->used[i / 64] == UINT64_MAX) {
			i = (i / 64 + 1) * 64;
			continue;
		}
		while (k < n && !page_used(s, i + k))
			k++;
		if (k == n)
			return (int)i;
		i += k + 1;
	}
	return -1;
}

static struct segment *segment_add(struct arena *a)
{
	if (a->n_segments == a->cap_segments) {
		size_t cap = a->cap_segments ? a->cap_segments * 2 : 16;
		struct segment *s = realloc(a->segments, cap * sizeof *s);
		if (!s)
			return NULL;
		a->segments = s;
		a->cap_segments = cap;
	}
	void *p = sec_map((size_t)SEGMENT_PAGES * SEC_PAGE, false);
	if (!p)
		return NULL;
	struct segment *s = &a->segments[a->n_segments++];
	*s = (struct segment){ .first = page_of(p), .nfree = SEGMENT_PAGES };
	for (uint32_t i = 0; i < SEGMENT_PAGES; i++)
		pages[s->first + i].touched = false;
	return s;
}

static uint32_t span_alloc(unsigned arena, unsigned n, enum page_kind kind)
{
	struct arena *a = &arenas[arena];
	struct segment *seg = NULL;
	int at = -1;
	for (size_t i = 0; i < a->n_segments && at < 0; i++) {
		seg = &a->segments[i];
		at = pages_find(seg, n);
	}
	if (at < 0) {
		seg = segment_add(a);
		if (!seg)
			return NONE;
		at = 0;
	}
	pages_mark(seg, (unsigned)at, n, true);
	uint32_t first = seg->first + (uint32_t)at;
	pages[first] = (struct page){
		.kind = (uint8_t)kind,
		.arena = (uint8_t)arena,
		.npages = n,
		.prev = NONE,
		.next = NONE,
		.touched = pages[first].touched,
	};
	for (unsigned i = 1; i < n; i++)
		pages[first + i] = (struct page){
			.kind = (uint8_t)kind,
			.arena = (uint8_t)arena,
			.back = (uint8_t)i,
			.touched = pages[first + i].touched,
		};
	return first;
}

/* The span's memory is zero again already. Gives a whole free segment back when another one has room. */
static void span_free(unsigned arena, uint32_t first)
{
	struct arena *a = &arenas[arena];
	unsigned n = pages[first].npages;
	size_t i = 0;
	while (i < a->n_segments && (first < a->segments[i].first || first >= a->segments[i].first + SEGMENT_PAGES))
		i++;
	if (i == a->n_segments)
		return;
	struct segment *s = &a->segments[i];
	for (unsigned k = 0; k < n; k++)
		pages[first + k] = (struct page){ .kind = PAGE_FREE, .touched = pages[first + k].touched };
	pages_mark(s, first - s->first, n, false);
	if (s->nfree < SEGMENT_PAGES || a->n_segments == 1)
		return;
	size_t spare = 0;
	for (size_t k = 0; k < a->n_segments; k++)
		spare += k == i ? 0 : a->segments[k].nfree;
	if (spare < SEGMENT_PAGES / 2)
		return;
	sec_unmap(page_address(s->first), (size_t)SEGMENT_PAGES * SEC_PAGE);
	a->segments[i] = a->segments[--a->n_segments];
}

static void partial_push(struct arena *a, uint32_t span)
{
	struct page *p = &pages[span];
	p->prev = NONE;
	p->next = a->partial[p->cls];
	if (p->next != NONE)
		pages[p->next].prev = span;
	a->partial[p->cls] = span;
}

static void partial_remove(struct arena *a, uint32_t span)
{
	struct page *p = &pages[span];
	if (p->prev != NONE)
		pages[p->prev].next = p->next;
	else
		a->partial[p->cls] = p->next;
	if (p->next != NONE)
		pages[p->next].prev = p->prev;
}

static uint32_t small_span(unsigned arena, unsigned cls)
{
	size_t size = class_size[cls];
	unsigned n = size <= 512 ? SPAN_PAGES : SPAN_PAGES_BIG;
	uint32_t span = span_alloc(arena, n, PAGE_SMALL);
	if (span == NONE)
		return NONE;
	struct page *p = &pages[span];
	p->cls = (uint8_t)cls;
	p->nblocks = p->nfree = (uint16_t)((size_t)n * SEC_PAGE / size);
	for (unsigned i = 1; i < n; i++)
		pages[span + i].cls = (uint8_t)cls;
	partial_push(&arenas[arena], span);
	return span;
}

/* Takes one block: one that was given back, or the next that was never touched. */
static void *block_take(uint32_t span)
{
	struct page *p = &pages[span];
	void *b = p->free;
	if (b)
		p->free = load_link(b);
	else
		b = (uint8_t *)page_address(span) + (size_t)p->carved++ * class_size[p->cls];
	p->nfree--;
	return b;
}

/* Would the next block be the first on its page? A page that nobody touched yet costs a fault that every core feels. */
static bool needs_fresh_page(const struct page *p)
{
	size_t begin = (size_t)p->carved * class_size[p->cls], end = begin + class_size[p->cls];
	return !p->free && (begin + SEC_PAGE - 1) / SEC_PAGE < (end + SEC_PAGE - 1) / SEC_PAGE;
}

/* Up to `want` blocks as a list; returns how many. */
static unsigned central_take(unsigned arena, unsigned cls, unsigned want, void **ret_list)
{
	struct arena *a = &arenas[arena];
	SCOPED_LOCK(&a->lock);
	void *list = NULL;
	unsigned n = 0;
	bool enough = false;
	while (n < want && !enough) {
		uint32_t span = a->partial[cls];
		if (span == NONE) {
			if (n)
				break; /* what there is will do */
			span = small_span(arena, cls);
			if (span == NONE)
				break;
		}
		struct page *p = &pages[span];
		while (p->nfree && n < want && !enough) {
			enough = n && needs_fresh_page(p);
			if (enough)
				break;
			void *b = block_take(span);
			store_link(b, list);
			list = b;
			n++;
		}
		if (!p->nfree)
			partial_remove(a, span);
	}
	count(n * (ssize_t)class_size[cls]);
	*ret_list = list;
	return n;
}

/* Takes n blocks (wiped but for the link) from the head of the list back; returns the rest. */
static void *central_give(unsigned arena, void *list, unsigned n)
{
	struct arena *a = &arenas[arena];
	SCOPED_LOCK(&a->lock);
	count(-(ssize_t)n * class_size[pages[span_of(list)].cls]);
	while (n-- && list) {
		void *b = list;
		list = load_link(b);
		uint32_t span = span_of(b);
		struct page *p = &pages[span];
		store_link(b, p->free);
		p->free = b;
		if (p->nfree++ == 0)
			partial_push(a, span);
		/* One wholly free span of a class stays, so that a block taken and given again and again costs nothing. */
		if (p->nfree == p->nblocks && (p->prev != NONE || p->next != NONE)) {
			partial_remove(a, span);
			memset(page_address(span), 0, (size_t)p->carved * class_size[p->cls]); /* the links */
			span_free(arena, span);
		}
	}
	return list;
}

static void cache_register(void)
{
	if (!cache.registered) {
		cache.registered = true;
		(void)pthread_setspecific(cache_key, &cache);
	}
}

static void *cache_pop(struct bin *bin)
{
	void *b = bin->head;
	bin->head = load_link(b);
	bin->n--;
	return b;
}

static void cache_push(struct bin *bin, void *b)
{
	store_link(b, bin->head);
	bin->head = b;
	bin->n++;
}

/* A wiped large block goes back to its segment. */
static void large_free(void *p)
{
	uint32_t span = page_of(p);
	unsigned arena = pages[span].arena;
	count(-(ssize_t)pages[span].npages * SEC_PAGE);
	SCOPED_LOCK(&arenas[arena].lock);
	span_free(arena, span);
}

static void cache_flush_all(void *unused)
{
	(void)unused;
	for (unsigned c = 0; c < CLASSES; c++) {
		if (cache.bin[c].n)
			central_give(ARENA_WORK, cache.bin[c].head, cache.bin[c].n);
		cache.bin[c].head = NULL;
		cache.bin[c].n = 0;
	}
	for (unsigned n = 0; n < LARGE_BINS; n++) {
		while (cache.large[n].n) {
			void *b = cache_pop(&cache.large[n]);
			store_link(b, NULL);
			large_free(b);
		}
	}
	cache.registered = false;
}

static unsigned cache_max(unsigned cls)
{
	return class_size[cls] <= 512 ? 2 * BATCH : class_size[cls] <= 2048 ? BATCH / 2 : BATCH / 4;
}

static void *small_alloc(unsigned cls)
{
	struct bin *bin = &cache.bin[cls];
	if (!bin->n) {
		cache_register();
		bin->n = central_take(ARENA_WORK, cls, cache_max(cls) / 2, &bin->head);
		if (!bin->n)
			return NULL;
	}
	return cache_pop(bin);
}

/* Most blocks are small, and a call of memset costs more than wiping them. */
static void wipe_small(void *b, size_t size)
{
	typedef uint64_t pair __attribute__((vector_size(16), may_alias));
	if (size > 256) {
		memset(b, 0, size);
		__asm__ volatile("" : : "r"(b) : "memory");
		return;
	}
	for (pair *p = b, *end = p + size / sizeof *p; p < end; p++) {
		*p = (pair){ 0 };
		__asm__ volatile("" : : : "memory"); /* or the compiler makes it that call */
	}
}

static void small_free(void *b, unsigned cls)
{
	struct bin *bin = &cache.bin[cls];
	wipe_small(b, class_size[cls]);
	cache_register();
	cache_push(bin, b);
	if (bin->n >= cache_max(cls)) {
		unsigned n = cache_max(cls) / 2;
		bin->head = central_give(ARENA_WORK, bin->head, n);
		bin->n -= n;
	}
}

static void *large_alloc(unsigned arena, size_t n)
{
	size_t np = (n + SEC_PAGE - 1) / SEC_PAGE;
	if (arena == ARENA_WORK && np < LARGE_BINS && cache.large[np].n)
		return cache_pop(&cache.large[np]);
	if (np <= SEGMENT_PAGES) {
		SCOPED_LOCK(&arenas[arena].lock);
		uint32_t span = span_alloc(arena, (unsigned)np, PAGE_LARGE);
		if (span == NONE)
			return NULL;
		count((ssize_t)np * SEC_PAGE);
		return page_address(span);
	}
	void *p = sec_map(np * SEC_PAGE, false);
	if (!p)
		return NULL;
	pages[page_of(p)] = (struct page){ .kind = PAGE_HUGE, .npages = (uint32_t)np };
	count((ssize_t)np * SEC_PAGE);
	return p;
}

static void *block_alloc(unsigned arena, size_t n)
{
	void *p;
	if (n > (size_t)SEC_SLOT * SEC_SLOTS / 2) {
		errno = ENOMEM;
		return NULL;
	}
	if (n <= SMALL_MAX) {
		unsigned cls = class_table[(n + 15) / 16];
		if (arena == ARENA_WORK)
			p = small_alloc(cls);
		else if (!central_take(arena, cls, 1, &p))
			p = NULL;
	} else {
		p = large_alloc(arena, n);
	}
	if (!p) {
		errno = ENOMEM;
		return NULL;
	}
	return p;
}

/*
 * Wipes the pages of a large block. Of pages not known to have been written the kernel is asked: a fresh one is zero,
 * and touching it would cost a fault that every core feels.
 */
static void wipe_large(uint32_t first, unsigned n)
{
	unsigned char there[SEC_SLOT_PAGES];
	for (unsigned i = 0, end; i < n; i = end) {
		bool touched = pages[first + i].touched;
		for (end = i + 1; end < n && pages[first + end].touched == touched; end++)
			;
		/* A block that comes again and again is not asked about for ever. */
		if (touched || pages[first].asked >= ASK_MAX ||
		    mincore(page_address(first + i), (size_t)(end - i) * SEC_PAGE, there) < 0) {
			mem_wipe(page_address(first + i), (size_t)(end - i) * SEC_PAGE);
			for (unsigned k = i; k < end; k++)
				pages[first + k].touched = true;
			continue;
		}
		pages[first].asked++;
		for (unsigned k = i; k < end; k++) {
			if (!(there[k - i] & 1))
				continue;
			mem_wipe(page_address(first + k), SEC_PAGE);
			pages[first + k].touched = true;
		}
	}
}

static void block_free(void *p)
{
	struct page *pg = &pages[page_of(p)]; /* of a small block any page of its span, else the first */
	size_t size;
	switch (pg->kind) {
	case PAGE_SMALL:
		size = class_size[pg->cls];
		if (pg->arena == ARENA_WORK) {
			small_free(p, pg->cls);
		} else {
			memset(p, 0, size);
			store_link(p, NULL);
			central_give(pg->arena, p, 1);
		}
		break;
	case PAGE_LARGE:
		wipe_large(page_of(p), pg->npages);
		if (pg->arena == ARENA_WORK && pg->npages < LARGE_BINS && cache.large[pg->npages].n < LARGE_KEEP) {
			cache_register();
			cache_push(&cache.large[pg->npages], p);
			pg->touched = true;
		} else {
			large_free(p);
		}
		break;
	case PAGE_HUGE:
		size = (size_t)pg->npages * SEC_PAGE;
		pg->kind = PAGE_FREE;
		sec_unmap(p, size);
		count(-(ssize_t)size);
		break;
	default:
		log_error("secret heap: a block was freed twice; ignored");
		return;
	}
}

size_t sec_usable(const void *p)
{
	if (!p || !sec_in_region(p))
		return 0;
	const struct page *pg = &pages[span_of(p)];
	return pg->kind == PAGE_SMALL ? class_size[pg->cls] : (size_t)pg->npages * SEC_PAGE;
}

bool sec_contains(const void *p)
{
	return sec_in_region(p);
}

void *sec_malloc(size_t n)
{
	if (!sec_base)
		return malloc(n ? n : 1);
	return block_alloc(ARENA_WORK, n);
}

void *sec_calloc(size_t n, size_t m)
{
	size_t total;
	if (__builtin_mul_overflow(n, m, &total)) {
		errno = ENOMEM;
		return NULL;
	}
	void *p = sec_malloc(total);
	if (p && sec_base)
		memset(p, 0,
		       total < sizeof(void *) ? total : sizeof(void *)); /* free memory is zero but for its link */
	else if (p)
		memset(p, 0, total);
	return p;
}

void *sec_realloc(void *p, size_t n)
{
	if (!sec_base)
		return realloc(p, n ? n : 1);
	if (!p)
		return sec_malloc(n);
	if (n == 0) {
		sec_free(p);
		return NULL;
	}
	size_t have = sec_usable(p);
	if (n <= have && n > have / 2) /* what is cut off may show again: the block is ours, and wiped at the end */
		return p;
	void *q = sec_malloc(n);
	if (!q)
		return NULL;
	memcpy(q, p, n < have ? n : have);
	sec_free(p);
	return q;
}

void sec_free(void *p)
{
	if (!p)
		return;
	if (!sec_in_region(p)) {
		free(p);
		return;
	}
	block_free(p);
}

char *sec_strndup(const char *s, size_t n)
{
	n = strnlen(s, n);
	char *p = sec_malloc(n + 1);
	if (p) {
		memcpy(p, s, n);
		p[n] = 0;
	}
	return p;
}

char *sec_strdup(const char *s)
{
	return sec_strndup(s, strlen(s));
}

/* Kept bytes: length, bytes, canary. */
struct secbuf {
	size_t len;
	uint64_t canary;
	uint8_t bytes[];
};

static uint64_t canary_of(const struct secbuf *b)
{
	return ((uint64_t)(uintptr_t)b ^ canary_key) + b->len;
}

struct secbuf *secbuf_new(size_t n)
{
	size_t total;
	if (__builtin_add_overflow(n, sizeof(struct secbuf) + sizeof(uint64_t), &total)) {
		errno = ENOMEM;
		return NULL;
	}
	struct secbuf *b = sec_base ? block_alloc(ARENA_KEPT, total) : calloc(1, total);
	if (!b)
		return NULL;
	b->len = n;
	uint64_t canary = b->canary = canary_of(b);
	memcpy(b->bytes + n, &canary, sizeof canary);
	return b;
}

struct secbuf *secbuf_from(const void *p, size_t n)
{
	struct secbuf *b = secbuf_new(n);
	if (b && n)
		memcpy(b->bytes, p, n);
	return b;
}

void *secbuf_bytes(struct secbuf *b)
{
	return b->bytes;
}

const void *secbuf_data(const struct secbuf *b)
{
	return b->bytes;
}

size_t secbuf_len(const struct secbuf *b)
{
	return b->len;
}

void secbuf_free(struct secbuf *b)
{
	if (!b)
		return;
	uint64_t canary = canary_of(b);
	if (b->canary != canary || memcmp(b->bytes + b->len, &canary, sizeof canary) != 0) {
		/* Its length cannot be believed; the block is given up, not handed out again. */
		log_error("a secret buffer was written beyond its end; the block is set aside");
		return;
	}
	if (sec_in_region(b))
		block_free(b);
	else
		free(b);
}
