/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside secret memory (base/secmem.c, secheap.c, secthread.c): one reserved range of addresses, mapped in segments.
 * Not for other folders.
 */
#ifndef CT_BASE_SECREGION_H
#define CT_BASE_SECREGION_H

#include "base/secmem.h"

enum {
	SEC_PAGE = 4096,
	SEC_SLOT = 256 << 10, /* segments lie in slots of this size; the last page of every slot stays unmapped */
	SEC_SLOT_PAGES = SEC_SLOT / SEC_PAGE,
	SEC_SLOTS = 16384, /* 4 GiB of addresses */
};

extern uint8_t *sec_base; /* NULL before secmem_init and with SECMEM_OFF */

static inline bool sec_in_region(const void *p)
{
	return sec_base && (const uint8_t *)p >= sec_base &&
	       (const uint8_t *)p < sec_base + (size_t)SEC_SLOTS * SEC_SLOT;
}

/*
 * Maps `bytes` (whole pages) of secret memory into as many adjacent slots as it takes, at their beginning, or at their
 * end when `at_end` (stacks: the unmapped rest below is the guard). NULL with errno ENOMEM.
 */
void *sec_map(size_t bytes, bool at_end);
void sec_unmap(void *p, size_t bytes); /* wipes first */
/* Wipes whole pages, those that were ever touched: a fresh one is zero, and its fault would interrupt every core. */
void sec_wipe_pages(void *p, size_t bytes);

void secheap_init(void);
size_t secheap_used(void);

#endif
