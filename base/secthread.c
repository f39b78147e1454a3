/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads whose stack lies in secret memory, so that what ciphers, KDFs and parsers spill stays inside.
 *
 * Such a thread is detached and its end is told by a condition of ours: pthread_join waits on a futex in the thread's
 * own control block, which glibc puts on the stack, and the kernel refuses shared futexes on memfd_secret (EFAULT), so
 * the wake-up at the thread's exit would never come. For the same reason the stack may be unmapped only when the kernel
 * has let go of it: the thread's tid is looked up until it is gone.
 */
#include "base/secregion.h"

#include "base/cleanup.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

enum { STACK_DEFAULT = 256 * 1024 };

struct secthread {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool done;
	void *(*fn)(void *);
	void *arg, *result;
	char name[16];
	void *stack; /* NULL with secret memory off */
	size_t stack_size;
	pid_t tid;
};

static void *secthread_main(void *p)
{
	struct secthread *t = p;
	t->tid = (pid_t)syscall(SYS_gettid);
	(void)prctl(PR_SET_NAME, t->name, 0, 0, 0);
	void *result = t->fn(t->arg);
	SCOPED_LOCK(&t->lock);
	t->result = result;
	t->done = true;
	pthread_cond_signal(&t->ended);
	return NULL;
}

int secthread_start(const char *name, void *(*fn)(void *), void *arg, size_t stack, struct secthread **ret,
		    struct err *e)
{
	struct secthread *t = calloc(1, sizeof *t);
	if (!t)
		return err_set(e, ENOMEM, "out of memory");
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->ended, NULL);
	t->fn = fn;
	t->arg = arg;
	(void)snprintf(t->name, sizeof t->name, "%s", name);
	t->stack_size = stack ? (stack + SEC_PAGE - 1) / SEC_PAGE * SEC_PAGE : STACK_DEFAULT;

	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int r = 0;
	if (sec_base) {
		t->stack = sec_map(t->stack_size, true);
		r = t->stack ? pthread_attr_setstack(&attr, t->stack, t->stack_size) : ENOMEM;
	} else {
		r = pthread_attr_setstacksize(&attr, t->stack_size);
	}
	/* Signals are the main thread's business. */
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_t id;
	if (r == 0)
		r = pthread_create(&id, &attr, secthread_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (r != 0) {
		if (t->stack)
			sec_unmap(t->stack, t->stack_size);
		free(t);
		return err_sys(e, r, "cannot start a thread with a %zu KiB stack in secret memory",
			       (stack ? stack : STACK_DEFAULT) / 1024);
	}
	*ret = t;
	return 0;
}

void *secthread_join(struct secthread *t)
{
	if (!t)
		return NULL;
	pthread_mutex_lock(&t->lock);
	while (!t->done)
		pthread_cond_wait(&t->ended, &t->lock);
	pthread_mutex_unlock(&t->lock);
	/* It is on its way out and its last instructions still use the stack. */
	struct timespec pause = { .tv_nsec = 20000 };
	while (syscall(SYS_tgkill, getpid(), t->tid, 0) == 0)
		nanosleep(&pause, NULL);
	if (t->stack)
		sec_unmap(t->stack, t->stack_size);
	void *result = t->result;
	pthread_cond_destroy(&t->ended);
	pthread_mutex_destroy(&t->lock);
	free(t);
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
