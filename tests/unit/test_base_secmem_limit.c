/* SPDX-License-Identifier: Apache-2.0 */
/* Secret memory at the end of RLIMIT_MEMLOCK: every call says so, nothing is harmed, and what is freed can be had again. */
#include "base/secregion.h"
#include "tests/unit/check.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { LIMIT = 3 << 20, BLOCK = 900 << 10, NOBODY = 65534 };

static void check_reserved(void)
{
	/* A hole would become somebody else's memory, which sec_free would then take for its own. */
	for (size_t i = 0; i < SEC_SLOTS; i++) {
		void *p = mmap(sec_base + i * SEC_SLOT, SEC_PAGE, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		CHECK_MSG(p == MAP_FAILED, "slot %zu of the region is not reserved any more", i);
	}
}

static void *nothing(void *arg)
{
	return arg;
}

int main(void)
{
	struct err e = ERR_INIT;
	/* The limit does not bind root. */
	struct rlimit rl = { LIMIT, LIMIT };
	CHECK(setrlimit(RLIMIT_MEMLOCK, &rl) == 0);
	if (geteuid() == 0)
		CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
	CHECK_MSG(secmem_init(SECMEM_REQUIRED, &e) == 0, "%s", e.msg);
	struct secmem_stats st;
	secmem_get_stats(&st);
	CHECK(st.limit == LIMIT);

	char *block[8], *keep = sec_strdup("kept");
	size_t n = 0;
	CHECK(keep);
	while (n < 8 && (block[n] = sec_malloc(BLOCK)))
		n++;
	CHECK(n > 0 && n < 4 && errno == ENOMEM);
	check_reserved();
	CHECK(!secbuf_new(BLOCK) && errno == ENOMEM);
	CHECK(!sec_calloc(2, BLOCK));
	CHECK(!sec_realloc(keep, BLOCK) && strcmp(keep, "kept") == 0);
	CHECK(secthread_run(nothing, NULL, NULL, BLOCK, &e) == -ENOMEM && strstr(e.msg, "stack"));
	check_reserved();
	secmem_get_stats(&st);
	CHECK(st.mapped <= LIMIT);

	sec_free(block[--n]);
	block[n] = sec_malloc(BLOCK / 2);
	CHECK(block[n] && strcmp(keep, "kept") == 0);
	for (size_t i = 0; i <= n; i++)
		sec_free(block[i]);
	sec_free(keep);
	check_reserved();
	puts("secret memory at its limit: ok");
	return 0;
}
