/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Serving: one epoll set for all mounts' devices, a few threads, at most one of them in a device.
 *
 * A device is armed for one event at a time (EPOLLONESHOT). The thread that gets it reads and answers until there is
 * nothing left, then polls the device for a moment before it lets go: on a machine whose idle processors halt, the
 * wake-up of a sleeping server is most of what a small read costs, and a reader's OPEN, READ and RELEASE follow each
 * other at once. It polls only while that pays: after an OPEN, or when requests have been coming fast (`hot`); a poll in
 * vain doubles a pause in which there is none (`off_until`), so that sparse requests cost next to nothing and an idle
 * daemon sleeps. While it polls or is kept busy by one device it looks at the others now and then (serve_others).
 *
 * More threads do not make one mount faster: they wake each other and take each other's requests across processors
 * (measured; docs/benchmarks.md). A long scheduling slice keeps a reader that was just woken from displacing the thread
 * before it has polled.
 *
 * Devices are found by number, not by pointer: an event may be on its way while the device is taken out.
 */
#include "fs/device.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/secmem.h"
#include "fs/bounce.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

enum {
	MAX_IO = FS_BOUNCE_MAX,
	REQUEST_SIZE = MAX_IO + 8192, /* what the kernel may hand over at once: it refuses smaller buffers */
	SPIN_NS = 100 * 1000,
	SLICE_NS = 100 * 1000 * 1000,
	FAST_NS = 150 * 1000, /* requests closer than this are hot */
	HOT_ENOUGH = 4,
	HOT_MAX = 8,
	BACKOFF_MIN_NS = 1000 * 1000,
	BACKOFF_MAX_NS = 64 * 1000 * 1000,
	WINS_FORGIVE = 64, /* so many polls that paid make the pause short again */
	OTHERS_EVERY_NS = 20 * 1000,
	OTHERS_RUN = 64, /* requests of one device before the others get their turn */
	INIT_WAIT_S = 10,
	NOTIFIER_STACK = 128 * 1024,
};

struct fs_device {
	struct fs_server *server;
	struct fuse_session *session;
	void (*gone)(void *userdata);
	void *userdata;
	uint64_t number;
	int fd;
	bool fd_given; /* the session closes it */
	/* guarded by server->lock */
	unsigned busy;	  /* threads inside */
	unsigned notices; /* to the kernel, queued or being written */
	bool stopping, inited, refused, dead;
	_Atomic bool quit; /* for the serving loop */
	/* The serving thread's, of which there is one at a time. */
	struct {
		unsigned hot, wins;
		uint64_t last, until, off_until, backoff;
	} spin;
	struct fs_device *next;
};

struct notice {
	struct notice *next;
	struct fs_device *device;
	uint64_t ino;
};

/* What a thread needs is made before it starts: one that found itself without could tell nobody. */
struct serving {
	struct fs_server *server;
	struct secthread *thread;
	uint8_t *bounce;
	void *request; /* NULL: the notifier */
};

struct fs_server {
	int epoll, stop_event;
	bool shared; /* holds the shared bounce buffer */
	unsigned n_threads;
	struct serving *serving;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct fs_device *devices;
	struct serving notifier;
	pthread_cond_t notice_came;
	struct notice *notices, **notices_end;
	uint64_t next_number;
	_Atomic bool stop;
	_Atomic uint64_t requests, spins, sleeps;
};

static void libfuse_log(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char line[256];
	(void)vsnprintf(line, sizeof line, fmt, ap);
	line[strcspn(line, "\n")] = 0;
	log_msg(level <= FUSE_LOG_ERR ? LOG_ERROR : LOG_DEBUG, "libfuse: %s", line);
}

/* This thread is answering INIT. */
static __thread bool answers_init;

static ssize_t device_writev(int fd, struct iovec *iov, int n, void *userdata)
{
	(void)userdata;
	/*
	 * libfuse before 3.17 does not pass this on, whatever it was asked for: the kernel then sends one look-up of a
	 * directory at a time, and who waits for the vault holds up everybody else there, in a wait that no signal ends.
	 */
	if (answers_init && n == 2 && iov[1].iov_len >= offsetof(struct fuse_init_out, max_background))
		((struct fuse_init_out *)iov[1].iov_base)->flags |= FUSE_PARALLEL_DIROPS;
	return fs_bounce_writev(fd, iov, n);
}

static ssize_t device_read(int fd, void *buf, size_t n, void *userdata)
{
	(void)userdata;
	return read(fd, buf, n);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* From here on another thread may serve the device; the lock hands over what this one wrote in it. */
static void arm(struct fs_server *s, struct fs_device *d)
{
	SCOPED_LOCK(&s->lock);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = d->number };
	(void)epoll_ctl(s->epoll, EPOLL_CTL_MOD, d->fd, &ev);
}

static struct fs_device *enter(struct fs_server *s, uint64_t number)
{
	SCOPED_LOCK(&s->lock);
	struct fs_device *d = s->devices;
	while (d && d->number != number)
		d = d->next;
	if (!d || d->dead || atomic_load(&d->quit))
		return NULL;
	d->busy++;
	return d;
}

static void leave(struct fs_server *s, struct fs_device *d)
{
	SCOPED_LOCK(&s->lock);
	d->busy--;
	pthread_cond_broadcast(&s->changed);
}

static void died(struct fs_server *s, struct fs_device *d)
{
	{
		SCOPED_LOCK(&s->lock);
		if (d->dead || d->stopping)
			return;
		d->dead = true;
		atomic_store(&d->quit, true);
		pthread_cond_broadcast(&s->changed);
	}
	(void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, d->fd, NULL);
	d->gone(d->userdata);
}

static bool waited_for(uint32_t opcode)
{
	return opcode != FUSE_RELEASE && opcode != FUSE_RELEASEDIR && opcode != FUSE_FORGET &&
	       opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT;
}

/* Whether to poll after this request, and until when. */
static void spin_plan(struct fs_device *d, uint32_t opcode)
{
	if (!waited_for(opcode))
		return; /* what comes next belongs to the request before */
	uint64_t now = now_ns();
	if (now - d->spin.last >= FAST_NS)
		d->spin.hot = 0;
	else if (d->spin.hot < HOT_MAX)
		d->spin.hot++;
	d->spin.last = now;
	bool pays = d->spin.hot >= HOT_ENOUGH || opcode == FUSE_OPEN;
	d->spin.until = pays && now >= d->spin.off_until ? now + SPIN_NS : 0;
}

static void spin_won(struct fs_device *d)
{
	if (++d->spin.wins >= WINS_FORGIVE) {
		d->spin.wins = 0;
		d->spin.backoff = BACKOFF_MIN_NS;
	}
}

static void spin_lost(struct fs_device *d, uint64_t now)
{
	d->spin.wins = 0;
	d->spin.until = 0;
	if (d->spin.backoff < BACKOFF_MIN_NS)
		d->spin.backoff = BACKOFF_MIN_NS;
	d->spin.off_until = now + d->spin.backoff;
	if (d->spin.backoff < BACKOFF_MAX_NS)
		d->spin.backoff *= 2;
}

static void process(struct fs_server *s, struct fs_device *d, void *mem, size_t n)
{
	const struct fuse_in_header *in = mem;
	uint32_t opcode = n >= sizeof *in ? in->opcode : 0;
	struct fuse_buf buf = { .mem = mem, .size = n, .fd = -1 };
	answers_init = opcode == FUSE_INIT;
	fuse_session_process_buf(d->session, &buf);
	answers_init = false;
	atomic_fetch_add_explicit(&s->requests, 1, memory_order_relaxed);
	spin_plan(d, opcode);
	if (opcode == FUSE_INIT) {
		SCOPED_LOCK(&s->lock);
		d->inited = true;
		d->refused = fuse_session_exited(d->session);
		pthread_cond_broadcast(&s->changed);
	}
}

/* One read; > 0 processed, 0 nothing there, < 0 the device is no more. */
static int serve_one(struct fs_server *s, struct fs_device *d, void *mem)
{
	ssize_t n = read(d->fd, mem, REQUEST_SIZE);
	if (n > 0) {
		process(s, d, mem, (size_t)n);
		return 1;
	}
	if (n == 0 || errno == EAGAIN || errno == EINTR)
		return 0;
	if (errno == ENOENT) /* the request was taken back */
		return 1;
	return -1;
}

/* What is there of other devices, without polling for more. */
static void serve_others(struct fs_server *s, void *mem)
{
	struct epoll_event ev;
	while (epoll_wait(s->epoll, &ev, 1, 0) == 1 && ev.data.u64 != 0) {
		struct fs_device *d = enter(s, ev.data.u64);
		if (!d)
			continue;
		int r = 1;
		for (unsigned i = 0; i < OTHERS_RUN && r > 0 && !atomic_load_explicit(&d->quit, memory_order_relaxed);
		     i++)
			r = serve_one(s, d, mem);
		if (r < 0)
			died(s, d);
		else
			arm(s, d);
		leave(s, d);
	}
}

static void serve(struct fs_server *s, struct fs_device *d, void *mem)
{
	unsigned run = 0;
	bool spinning = false;
	uint64_t others_at = 0;
	while (!atomic_load_explicit(&d->quit, memory_order_relaxed)) {
		int r = serve_one(s, d, mem);
		if (r < 0) {
			died(s, d);
			return;
		}
		if (r > 0) {
			if (spinning)
				spin_won(d);
			spinning = false;
			if (++run % OTHERS_RUN == 0)
				serve_others(s, mem);
			continue;
		}
		uint64_t now = now_ns();
		if (now >= d->spin.until) {
			if (spinning)
				spin_lost(d, now);
			break;
		}
		if (!spinning) {
			spinning = true;
			others_at = now + OTHERS_EVERY_NS;
			atomic_fetch_add_explicit(&s->spins, 1, memory_order_relaxed);
		} else if (now >= others_at) {
			others_at = now + OTHERS_EVERY_NS;
			serve_others(s, mem);
		}
		__builtin_ia32_pause();
	}
	atomic_fetch_add_explicit(&s->sleeps, 1, memory_order_relaxed);
	arm(s, d);
}

/* struct sched_attr of linux/sched/types.h, which clashes with glibc's sched.h in some versions. */
struct slice_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static void long_slice(void)
{
	/* EEVDF takes sched_runtime of SCHED_OTHER as the wished slice since 6.12; older kernels ignore it. */
	struct slice_attr a = { .size = sizeof a };
	if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) < 0 || a.policy != SCHED_OTHER)
		return;
	a.runtime = SLICE_NS;
	(void)syscall(SYS_sched_setattr, 0, &a, 0);
}

static void *serving_thread(void *arg)
{
	long_slice();
	struct serving *me = arg;
	struct fs_server *s = me->server;
	fs_bounce_use(me->bounce);
	while (!atomic_load(&s->stop)) {
		struct epoll_event ev;
		int n = epoll_wait(s->epoll, &ev, 1, -1);
		if (n <= 0 || ev.data.u64 == 0)
			continue;
		struct fs_device *d = enter(s, ev.data.u64);
		if (!d)
			continue;
		serve(s, d, me->request);
		leave(s, d);
	}
	return NULL;
}

/*
 * Notices to the kernel have a thread of their own: dropping a page waits for its lock, and whoever holds that lock may
 * be waiting for a serving thread's answer.
 */
static void *notifying_thread(void *arg)
{
	struct serving *me = arg;
	struct fs_server *s = me->server;
	fs_bounce_use(me->bounce);
	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!s->notices && !atomic_load(&s->stop))
			pthread_cond_wait(&s->notice_came, &s->lock);
		struct notice *n = s->notices;
		if (!n)
			break;
		s->notices = n->next;
		if (!s->notices)
			s->notices_end = &s->notices;
		pthread_mutex_unlock(&s->lock);
		(void)fuse_lowlevel_notify_inval_inode(n->device->session, n->ino, 0, 0);
		pthread_mutex_lock(&s->lock);
		n->device->notices--;
		pthread_cond_broadcast(&s->changed);
		free(n);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

void fs_device_drop_pages(struct fs_device *d, uint64_t ino)
{
	struct fs_server *s = d->server;
	struct notice *n = malloc(sizeof *n);
	if (!n) {
		log_error("out of memory: pages of a mapped file stay in the page cache until it needs room");
		return;
	}
	*n = (struct notice){ .device = d, .ino = ino };
	SCOPED_LOCK(&s->lock);
	if (d->stopping) {
		free(n);
		return;
	}
	d->notices++;
	*s->notices_end = n;
	s->notices_end = &n->next;
	pthread_cond_signal(&s->notice_came);
}

static int serving_start(struct fs_server *s, struct serving *t, bool notifier, struct err *e)
{
	t->server = s;
	t->bounce = fs_bounce_new();
	if (!t->bounce)
		return err_set(e, ENOMEM, "cannot lock a reply buffer: raise RLIMIT_MEMLOCK (ulimit -l)");
	if (notifier)
		return secthread_start("fuse-notice", notifying_thread, t, NOTIFIER_STACK, &t->thread, e);
	/* Pages that are pinned while the kernel fills them: not secret memory. Requests hold names, no values. */
	void *p = mmap(NULL, REQUEST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return err_set(e, ENOMEM, "out of memory");
	t->request = p;
	return secthread_start("fuse", serving_thread, t, 0, &t->thread, e);
}

static void serving_end(struct serving *t)
{
	secthread_join(t->thread);
	fs_bounce_free(t->bounce);
	if (t->request)
		munmap(t->request, REQUEST_SIZE);
}

int fs_server_new(unsigned threads, struct fs_server **ret, struct err *e)
{
	if (threads == 0) {
		long n = sysconf(_SC_NPROCESSORS_ONLN);
		threads = n < 4 ? 1 : n > 8 ? 4 : (unsigned)n / 2;
	}
	struct fs_server *s = calloc(1, sizeof *s);
	struct serving *serving = calloc(threads, sizeof *serving);
	if (!s || !serving) {
		free(s);
		free(serving);
		return err_set(e, ENOMEM, "out of memory");
	}
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_t ca;
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &ca);
	pthread_condattr_destroy(&ca);
	pthread_cond_init(&s->notice_came, NULL);
	s->notices_end = &s->notices;
	s->serving = serving;
	s->next_number = 1;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->stop_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = 0 };
	int r = 0;
	if (s->epoll < 0 || s->stop_event < 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->stop_event, &ev) < 0)
		r = err_sys(e, errno, "epoll");
	fuse_set_log_func(libfuse_log);
	if (r == 0) {
		s->shared = fs_bounce_share() == 0;
		if (!s->shared)
			r = err_set(e, ENOMEM, "cannot lock a reply buffer: raise RLIMIT_MEMLOCK (ulimit -l)");
	}
	while (r == 0 && s->n_threads < threads)
		r = serving_start(s, &s->serving[s->n_threads++], false, e);
	if (r == 0)
		r = serving_start(s, &s->notifier, true, e);
	if (r < 0) {
		fs_server_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void fs_server_free(struct fs_server *s)
{
	if (!s)
		return;
	atomic_store(&s->stop, true);
	uint64_t one = 1;
	if (s->stop_event >= 0)
		(void)!write(s->stop_event, &one, sizeof one); /* never read: stays true for every thread */
	for (unsigned i = 0; i < s->n_threads; i++)
		serving_end(&s->serving[i]);
	pthread_mutex_lock(&s->lock);
	pthread_cond_signal(&s->notice_came);
	pthread_mutex_unlock(&s->lock);
	serving_end(&s->notifier);
	if (s->shared)
		fs_bounce_unshare();
	if (s->epoll >= 0)
		close(s->epoll);
	if (s->stop_event >= 0)
		close(s->stop_event);
	pthread_cond_destroy(&s->changed);
	pthread_cond_destroy(&s->notice_came);
	pthread_mutex_destroy(&s->lock);
	free(s->serving);
	free(s);
}

unsigned fs_server_threads(const struct fs_server *s)
{
	return s->n_threads;
}

static int wait_for_init(struct fs_server *s, struct fs_device *d, struct err *e)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += INIT_WAIT_S;
	SCOPED_LOCK(&s->lock);
	while (!d->inited) {
		if (d->dead)
			return err_set(e, ENODEV, "the mount was taken away before it answered");
		if (pthread_cond_timedwait(&s->changed, &s->lock, &until) == ETIMEDOUT)
			return err_set(e, ETIMEDOUT, "the kernel did not begin to use the mount within %d s",
				       INIT_WAIT_S);
	}
	if (d->refused)
		return err_set(e, EPROTO, "libfuse and the kernel did not agree on a protocol; the log says more");
	return 0;
}

int fs_device_new(struct fs_server *s, int fd, const struct fuse_lowlevel_ops *ops, size_t ops_size,
		  void (*gone)(void *userdata), void *userdata, struct fs_device **ret, struct err *e)
{
	struct fs_device *d = calloc(1, sizeof *d);
	if (!d) {
		close(fd);
		return err_set(e, ENOMEM, "out of memory");
	}
	d->server = s;
	d->fd = fd;
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	d->gone = gone;
	d->userdata = userdata;
	/* The same number stands in the mount's options (fs/mountpoint.h); libfuse wants it here too. */
	char option[32];
	(void)snprintf(option, sizeof option, "-omax_read=%d", MAX_IO);
	char *argv[] = { (char *)"cloudtaser", option, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(2, argv);
	d->session = fuse_session_new(&args, ops, ops_size, userdata);
	fuse_opt_free_args(&args);
	static const struct fuse_custom_io io = { .writev = device_writev, .read = device_read };
	int r = 0;
	if (!d->session)
		r = err_set(e, ENOMEM, "libfuse does not make a session");
	else if (fuse_session_custom_io(d->session, &io, fd) != 0)
		r = err_set(e, ENOTSUP, "this libfuse has no custom I/O: 3.14 or newer is needed");
	if (r < 0) {
		fs_device_free(d);
		return r;
	}
	d->fd_given = true;
	{
		SCOPED_LOCK(&s->lock);
		d->number = s->next_number++;
		d->next = s->devices;
		s->devices = d;
	}
	struct epoll_event ev = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = d->number };
	if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &ev) < 0)
		r = err_sys(e, errno, "epoll does not take the FUSE descriptor");
	else
		r = wait_for_init(s, d, e);
	if (r < 0) {
		fs_device_free(d);
		return r;
	}
	*ret = d;
	return 0;
}

void fs_device_stop(struct fs_device *d)
{
	if (!d)
		return;
	struct fs_server *s = d->server;
	SCOPED_LOCK(&s->lock);
	d->stopping = true;
	while (d->notices && !d->dead) /* needs us to go on serving, see notifying_thread */
		pthread_cond_wait(&s->changed, &s->lock);
	atomic_store(&d->quit, true);
	(void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, d->fd, NULL);
	while (d->busy || d->notices)
		pthread_cond_wait(&s->changed, &s->lock);
	for (struct fs_device **p = &s->devices; *p; p = &(*p)->next) {
		if (*p == d) {
			*p = d->next;
			break;
		}
	}
}

void fs_device_free(struct fs_device *d)
{
	if (!d)
		return;
	fs_device_stop(d);
	/* Closing the last descriptor ends the connection: readers get ENOTCONN. libfuse closes what it was given. */
	if (d->session)
		fuse_session_destroy(d->session);
	if (!d->fd_given)
		close(d->fd);
	free(d);
}

void fs_server_get_stats(const struct fs_server *s, struct fs_device_stats *ret)
{
	*ret = (struct fs_device_stats){
		.requests = atomic_load(&s->requests),
		.spins = atomic_load(&s->spins),
		.sleeps = atomic_load(&s->sleeps),
	};
}
