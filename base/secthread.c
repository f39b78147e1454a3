/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads whose stack lies in secret memory, so that what ciphers, KDFs and parsers spill stays inside.
 *
 * glibc puts a thread's control block and thread-local storage at the top of the stack it is given. Those must be
 * ordinary memory: the kernel refuses the shared futex behind pthread_join on memfd_secret (EFAULT), and fork(2) walks
 * all control blocks in the child, which has no secret memory. So the top of each stack (TOP) is ordinary, and the
 * thread steps over what is left of it before it runs its function:
 *
 *     unmapped guard | secret memory: the function's frames | ordinary: start_thread, TLS, control block
 */
#include "base/secregion.h"

#include "base/cleanup.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { STACK_DEFAULT = 256 * 1024, TOP = 64 * 1024 };

struct secthread {
	pthread_t id;
	void *(*fn)(void *);
	void *arg;
	char name[16];
	uint8_t *stack; /* NULL with secret memory off */
	uint8_t *secret_end;
	size_t size;
};

static __attribute__((noinline)) void *run(struct secthread *t)
{
	return t->fn(t->arg);
}

static void *secthread_main(void *p)
{
	struct secthread *t = p;
	(void)prctl(PR_SET_NAME, t->name, 0, 0, 0);
	uint8_t *here = __builtin_frame_address(0);
	if (t->stack && here > t->secret_end) {
		volatile uint8_t *step = __builtin_alloca((size_t)(here - t->secret_end));
		*step = 0;
	}
	return run(t);
}

static int make_stack(struct secthread *t, size_t stack, pthread_attr_t *attr)
{
	if (!sec_base)
		return pthread_attr_setstacksize(attr, stack + TOP);
	t->size = stack + TOP;
	t->stack = sec_map(t->size, true);
	if (!t->stack)
		return ENOMEM;
	t->secret_end = t->stack + stack;
	if (mmap(t->secret_end, TOP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	    MAP_FAILED)
		return errno;
	return pthread_attr_setstack(attr, t->stack, t->size);
}

static void secthread_free(struct secthread *t)
{
	if (t->stack)
		sec_unmap(t->stack, t->size);
	free(t);
}

int secthread_start(const char *name, void *(*fn)(void *), void *arg, size_t stack, struct secthread **ret,
		    struct err *e)
{
	struct secthread *t = calloc(1, sizeof *t);
	if (!t)
		return err_set(e, ENOMEM, "out of memory");
	t->fn = fn;
	t->arg = arg;
	(void)snprintf(t->name, sizeof t->name, "%s", name);
	stack = stack ? (stack + SEC_PAGE - 1) / SEC_PAGE * SEC_PAGE : STACK_DEFAULT;

	pthread_attr_t attr;
	pthread_attr_init(&attr);
	int r = make_stack(t, stack, &attr);
	/* Signals are the main thread's business. */
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (r == 0)
		r = pthread_create(&t->id, &attr, secthread_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (r != 0) {
		secthread_free(t);
		return err_sys(e, r, "cannot start a thread with a %zu KiB stack in secret memory", stack / 1024);
	}
	*ret = t;
	return 0;
}

void *secthread_join(struct secthread *t)
{
	if (!t)
		return NULL;
	void *result = NULL;
	(void)pthread_join(t->id, &result);
	secthread_free(t);
	return result;
}

int secthread_run(void *(*fn)(void *), void *arg, void **ret, size_t stack, struct err *e)
{
	struct secthread *t;
	int r = secthread_start("secret", fn, arg, stack, &t, e);
	if (r < 0)
		return r;
	void *result = secthread_join(t);
	if (ret)
		*ret = result;
	return 0;
}
