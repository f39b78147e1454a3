/* SPDX-License-Identifier: Apache-2.0 */
/* Secret memory: what no outside read may see, and an allocator that keeps its promises under load. */
#include "base/cleanup.h"
#include "base/secmem.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_outside_read_fails(void)
{
	char *p = sec_strdup("canary-of-the-heap");
	struct secbuf *b = secbuf_from("canary-kept", 11);
	CHECK(p && b && sec_contains(p) && sec_contains(b));
	cleanup_close int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	char copy[8];
	CHECK(pread(fd, copy, sizeof copy, (off_t)(uintptr_t)p) < 0);
	CHECK(pread(fd, copy, sizeof copy, (off_t)(uintptr_t)secbuf_data(b)) < 0);
	char ordinary[8] = "visible";
	CHECK(pread(fd, copy, sizeof copy, (off_t)(uintptr_t)ordinary) == sizeof copy); /* so the check can fail */
	sec_free(p);
	secbuf_free(b);
}

static void test_child_has_nothing(void)
{
	char *p = sec_strdup("not inherited");
	CHECK(p);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		unsigned char vec;
		/* The child has no such mapping at all. */
		void *page = (void *)((uintptr_t)p & ~(uintptr_t)4095);
		_exit(mincore(page, 4096, &vec) < 0 && errno == ENOMEM ? 0 : 1);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	sec_free(p);
}

static void test_free_wipes(void)
{
	for (size_t n = 1; n < 70000; n = n * 3 / 2 + 1) {
		unsigned char *p = sec_malloc(n);
		CHECK(p);
		memset(p, 0xa5, sec_usable(p));
		size_t usable = sec_usable(p);
		CHECK(usable >= n);
		sec_free(p);
		/* The page is still there (one spare span of a class is kept, and the segment). */
		for (size_t i = sizeof(void *); i < usable; i++)
			CHECK(p[i] != 0xa5);
	}
	unsigned char *z = sec_calloc(1, 3000);
	CHECK(z);
	for (int i = 0; i < 3000; i++)
		CHECK(z[i] == 0);
	sec_free(z);
}

static void test_canary(void)
{
	struct secbuf *b = secbuf_new(24);
	CHECK(b && secbuf_len(b) == 24);
	((char *)secbuf_bytes(b))[24] ^= 1; /* one byte too far */
	struct secmem_stats before, after;
	secmem_get_stats(&before);
	secbuf_free(b); /* is set aside, and says so */
	secmem_get_stats(&after);
	CHECK(before.used == after.used);
}

static void test_realloc_keeps(void)
{
	char *p = NULL;
	for (size_t n = 1; n < 3000000; n = n * 2 + 7) {
		size_t had = p ? (n - 7) / 2 : 0;
		p = sec_realloc(p, n);
		CHECK(p);
		for (size_t i = 0; i < had && i < 64; i++)
			CHECK(p[i] == (char)i);
		for (size_t i = 0; i < n; i++)
			p[i] = (char)i;
	}
	sec_free(p);
}

/* Many sizes, four threads, blocks freed by another thread than took them; every block keeps its pattern. */
enum { LIVE = 512, STEPS = 60000 };
static struct {
	unsigned char *p;
	size_t n;
	unsigned char seed;
} shared[4][LIVE];
static pthread_mutex_t shared_lock[4] = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
					  PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER };

static void *churn(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg * 7919 + 1;
	for (int i = 0; i < STEPS; i++) {
		unsigned set = (unsigned)rand_r(&seed) % 4, slot = (unsigned)rand_r(&seed) % LIVE;
		SCOPED_LOCK(&shared_lock[set]);
		__typeof__(shared[0][0]) *s = &shared[set][slot];
		if (s->p) {
			CHECK(s->p[0] == s->seed && s->p[s->n / 2] == s->seed && s->p[s->n - 1] == s->seed);
			sec_free(s->p);
			s->p = NULL;
		} else {
			unsigned k = (unsigned)rand_r(&seed) % 100;
			s->n = 1 + (unsigned)rand_r(&seed) % (k < 90 ? 600 : k < 99 ? 20000 : 300000);
			s->seed = (unsigned char)i;
			s->p = sec_malloc(s->n);
			CHECK(s->p);
			memset(s->p, s->seed, s->n);
		}
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t t[4];
	for (uintptr_t i = 0; i < 4; i++)
		CHECK(pthread_create(&t[i], NULL, churn, (void *)i) == 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 4; i++)
		for (int k = 0; k < LIVE; k++)
			sec_free(shared[i][k].p);
}

static void *on_secret_stack(void *arg)
{
	char local[64];
	memset(local, 1, sizeof local);
	*(bool *)arg = sec_contains(local);
	return arg;
}

static void test_secthread(void)
{
	for (int i = 0; i < 20; i++) {
		bool inside = false;
		void *ret = NULL;
		struct err e = ERR_INIT;
		CHECK_MSG(secthread_run(on_secret_stack, &inside, &ret, 0, &e) == 0, "%s", e.msg);
		CHECK(inside && ret == &inside);
	}
}

static void *wait_for_it(void *arg)
{
	pthread_mutex_lock(arg);
	pthread_mutex_unlock(arg);
	return NULL;
}

/* A child of fork(2) lives, though threads on secret stacks run beside the one that forks. */
static void test_fork_beside_secthreads(void)
{
	pthread_mutex_t hold = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&hold);
	struct secthread *t;
	struct err e = ERR_INIT;
	CHECK_MSG(secthread_start("waits", wait_for_it, &hold, 0, &t, &e) == 0, "%s", e.msg);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		_exit(7);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
	pthread_mutex_unlock(&hold);
	CHECK(secthread_join(t) == NULL);
}

static void test_bounds(void)
{
	errno = 0;
	CHECK(!sec_malloc(SIZE_MAX / 2) && errno == ENOMEM);
	CHECK(!sec_calloc(SIZE_MAX / 2, 3));
	char *big = sec_malloc(40 << 20);
	CHECK(big);
	struct secmem_stats with, without;
	secmem_get_stats(&with);
	big[(40 << 20) - 1] = 1;
	sec_free(big);
	secmem_get_stats(&without);
	CHECK(with.mapped - without.mapped >= 40U << 20); /* given back, not kept */
	sec_free(NULL);
	CHECK(sec_usable(NULL) == 0);
}

static void test_read_file(void)
{
	char path[] = "/tmp/ct-secread-XXXXXX";
	cleanup_close int fd = mkstemp(path);
	CHECK(fd >= 0 && write(fd, "hunter2\n", 8) == 8);
	struct err e = ERR_INIT;
	char *s = NULL;
	size_t n = 0;
	CHECK(sec_read_file(path, 100, true, &s, &n, &e) == 0 && n == 8 && memcmp(s, "hunter2\n", 9) == 0 &&
	      sec_contains(s));
	sec_free(s);
	CHECK(sec_read_file(path, 7, true, &s, &n, &e) == -EMSGSIZE);
	CHECK(fchmod(fd, 0640) == 0);
	CHECK(sec_read_file(path, 100, true, &s, &n, &e) == -EPERM && strstr(e.msg, "chmod 600"));
	CHECK(sec_read_file("/nonexistent/x", 100, true, &s, &n, &e) == -ENOENT && strstr(e.msg, "/nonexistent/x"));
	unlink(path);
}

int main(void)
{
	struct err e = ERR_INIT;
	CHECK_MSG(secmem_init(SECMEM_REQUIRED, &e) == 0, "%s", e.msg);
	struct secmem_stats st;
	secmem_get_stats(&st);
	CHECK(st.kind == SECMEM_KIND_SECRET);
	test_outside_read_fails();
	test_child_has_nothing();
	test_free_wipes();
	test_canary();
	test_realloc_keeps();
	test_threads();
	test_secthread();
	test_fork_beside_secthreads();
	test_bounds();
	test_read_file();
	puts("secret memory: ok");
	return 0;
}
