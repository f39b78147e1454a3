/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The FUSE operations. A handler finds the entry, asks for access, replies once.
 *
 * LOOKUP, OPENDIR and OPEN may have to wait for the vault; no serving thread does. Such a request becomes a `call`: the
 * tree resumes it on the I/O loop's thread and the operation runs from its beginning again. Who owns the request of a
 * waiting call (the resumption, an INTERRUPT because the reader was killed, or the unmount) is decided by one atomic
 * exchange; whoever gets it replies.
 */
#include "fs/mount.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES_MAX = 16, LISTING_MAX = 128 * 1024 };

enum call_op { CALL_LOOKUP, CALL_OPENDIR, CALL_OPEN };

struct call {
	struct fs_wait wait; /* first */
	struct fs_mount *m;
	pthread_mutex_t setup; /* held until a waiting call is complete */
	_Atomic(fuse_req_t) waiting;
	fuse_req_t req;
	struct call *prev, *next; /* of m->calls */
	enum call_op op;
	unsigned tries;
	bool interrupted; /* while it was being armed */
	fuse_ino_t ino;
	struct fuse_file_info fi;
	char *name;
};

struct fs_mount {
	struct fs_tree *tree;
	struct fs_access *access;
	struct fs_device *device;
	void (*gone)(void *arg);
	void *arg;
	struct call *calls; /* waiting */
	unsigned resuming;
	_Atomic uint64_t opens, reads, denied, waits, errors;
};

/* Guards the lists of waiting calls and call.m: an unmount lets go of its calls, which the cache may still resume. */
static pthread_mutex_t calls_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t calls_resumed = PTHREAD_COND_INITIALIZER;
/* This thread is inside fuse_req_interrupt_func, which may call on_interrupt and uses the request afterwards. */
static __thread bool arming;

static struct fs_mount *mount_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static void count(_Atomic uint64_t *n)
{
	atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
}

static int may(fuse_req_t req, enum fs_access_op op, const struct fs_owner *o)
{
	struct fs_mount *m = mount_of(req);
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct fs_access_request r = {
		.op = op,
		.tid = ctx->pid,
		.uid = ctx->uid,
		.gid = ctx->gid,
		.owner = o->uid,
		.group = o->gid,
		.mode = o->mode,
	};
	int a = fs_access_check(m->access, &r);
	if (a < 0)
		count(&m->denied);
	return a;
}

static int may_node(fuse_req_t req, enum fs_access_op op, fuse_ino_t ino)
{
	struct fs_owner o;
	int r = fs_tree_owner(mount_of(req)->tree, ino, &o);
	return r < 0 ? r : may(req, op, &o);
}

static void reply_error(fuse_req_t req, int r)
{
	if (r == -EIO)
		count(&mount_of(req)->errors);
	(void)fuse_reply_err(req, -r);
}

static void entry_of(const struct stat *st, double keep, struct fuse_entry_param *ret)
{
	*ret = (struct fuse_entry_param){
		.ino = st->st_ino,
		.attr = *st,
		.entry_timeout = keep,
		/* A file's size changes with its version; a directory's attributes do not change at all. */
		.attr_timeout = S_ISDIR(st->st_mode) ? 60.0 : 0.0,
	};
}

/* Runs the operation; replies unless it has to wait (-EINPROGRESS). */
static int call_step(struct call *c)
{
	struct fs_mount *m = c->m;
	int r;
	switch (c->op) {
	case CALL_LOOKUP: {
		struct stat st;
		double keep = 0;
		r = fs_tree_lookup(m->tree, c->ino, c->name, &c->wait, &st, &keep);
		if (r == 0) {
			struct fuse_entry_param ep;
			entry_of(&st, keep, &ep);
			(void)fuse_reply_entry(c->req, &ep);
		}
		break;
	}
	case CALL_OPENDIR:
		r = fs_tree_opendir(m->tree, c->ino, &c->wait);
		if (r == 0)
			(void)fuse_reply_open(c->req, &c->fi);
		break;
	case CALL_OPEN: {
		struct fs_handle *h;
		r = fs_tree_open(m->tree, c->ino, &c->wait, &h);
		if (r < 0)
			break;
		count(&m->opens);
		c->fi.fh = (uint64_t)(uintptr_t)h;
		c->fi.direct_io = 1; /* the bytes must not reach the page cache */
		c->fi.noflush = 1;   /* nothing to flush: spares close a round trip */
		if (fuse_reply_open(c->req, &c->fi) < 0)
			fs_tree_close(m->tree, h); /* the open was given up; there will be no RELEASE */
		break;
	}
	default:
		r = -ENOSYS;
	}
	if (r < 0 && r != -EINPROGRESS)
		reply_error(c->req, r);
	return r == -EINPROGRESS ? r : 0;
}

static void call_free(struct call *c)
{
	pthread_mutex_destroy(&c->setup);
	free(c->name);
	free(c);
}

static void list_add(struct call *c)
{
	struct fs_mount *m = c->m;
	SCOPED_LOCK(&calls_lock);
	c->prev = NULL;
	c->next = m->calls;
	if (c->next)
		c->next->prev = c;
	m->calls = c;
}

static void list_remove(struct call *c) /* calls_lock held */
{
	if (c->prev)
		c->prev->next = c->next;
	else
		c->m->calls = c->next;
	if (c->next)
		c->next->prev = c->prev;
	c->prev = c->next = NULL;
}

/* The reader was killed: it should not stay until the vault's deadline. */
static void on_interrupt(fuse_req_t req, void *data)
{
	struct call *c = data;
	if (arming) {
		c->interrupted = true;
		return;
	}
	if (atomic_exchange(&c->waiting, NULL))
		(void)fuse_reply_err(req, EINTR);
}

static void call_run(struct call *c)
{
	pthread_mutex_lock(&c->setup);
	if (++c->tries > TRIES_MAX) {
		reply_error(c->req, -EIO);
	} else if (call_step(c) == -EINPROGRESS) {
		count(&c->m->waits);
		atomic_store(&c->waiting, c->req);
		list_add(c);
		arming = true;
		fuse_req_interrupt_func(c->req, on_interrupt, c);
		arming = false;
		if (c->interrupted && atomic_exchange(&c->waiting, NULL))
			(void)fuse_reply_err(c->req, EINTR);
		pthread_mutex_unlock(&c->setup);
		return;
	}
	pthread_mutex_unlock(&c->setup);
	call_free(c);
}

/* On the I/O loop's thread. */
static void call_resume(struct fs_wait *w, int r)
{
	struct call *c = (struct call *)w;
	pthread_mutex_lock(&c->setup); /* the thread that began the wait has finished with it */
	pthread_mutex_unlock(&c->setup);
	fuse_req_t req = NULL;
	struct fs_mount *m;
	{
		SCOPED_LOCK(&calls_lock);
		m = c->m;
		if (m) {
			list_remove(c);
			req = atomic_exchange(&c->waiting, NULL);
			m->resuming++;
		}
	}
	if (!req) {
		call_free(c);
	} else {
		fuse_req_interrupt_func(req, NULL, NULL);
		if (r < 0) {
			reply_error(req, r);
			call_free(c);
		} else {
			call_run(c);
		}
	}
	if (!m)
		return;
	SCOPED_LOCK(&calls_lock);
	if (--m->resuming == 0)
		pthread_cond_broadcast(&calls_resumed);
}

static void call_start(fuse_req_t req, enum call_op op, fuse_ino_t ino, const char *name,
		       const struct fuse_file_info *fi)
{
	struct call *c = calloc(1, sizeof *c);
	char *copy = name ? strdup(name) : NULL;
	if (!c || (name && !copy)) {
		free(c);
		free(copy);
		(void)fuse_reply_err(req, ENOMEM);
		return;
	}
	pthread_mutex_init(&c->setup, NULL);
	c->wait.resume = call_resume;
	c->m = mount_of(req);
	c->req = req;
	c->op = op;
	c->ino = ino;
	c->name = copy;
	if (fi)
		c->fi = *fi;
	call_run(c);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->want &= ~(unsigned)FUSE_CAP_ASYNC_DIO; /* a caller stays where it is until the reply */
	conn->want |= conn->capable & (FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_PARALLEL_DIROPS);
	conn->max_read = 128 * 1024;
	conn->max_write = 128 * 1024; /* libfuse derives the pages of one request from it */
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	call_start(req, CALL_LOOKUP, parent, name, NULL);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)fi;
	struct stat st;
	int r = fs_tree_getattr(mount_of(req)->tree, ino, &st);
	if (r < 0)
		reply_error(req, r);
	else
		(void)fuse_reply_attr(req, &st, S_ISDIR(st.st_mode) ? 60.0 : 0.0);
}

static void op_access(fuse_req_t req, fuse_ino_t ino, int mask)
{
	int r = mask & R_OK ? may_node(req, FS_ACCESS_OPEN, ino) : 0;
	(void)fuse_reply_err(req, r < 0 ? -r : mask & W_OK ? EROFS : 0);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if ((fi->flags & O_ACCMODE) != O_RDONLY || fi->flags & O_TRUNC) {
		(void)fuse_reply_err(req, EROFS);
		return;
	}
	int r = may_node(req, FS_ACCESS_OPEN, ino);
	if (r < 0)
		reply_error(req, r);
	else
		call_start(req, CALL_OPEN, ino, NULL, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	struct fs_mount *m = mount_of(req);
	struct fs_handle *h = (struct fs_handle *)(uintptr_t)fi->fh;
	struct fs_owner o = fs_handle_owner(m->tree, h);
	int r = may(req, FS_ACCESS_READ, &o);
	if (r < 0) {
		reply_error(req, r);
		return;
	}
	count(&m->reads);
	/* read(2) past the page cache names its lock owner; what fills the cache (a mapping, sendfile) has none. */
	if (fi->lock_owner == 0)
		atomic_store_explicit(&h->paged, true, memory_order_relaxed);
	size_t at = off < 0 || (uint64_t)off > h->len ? h->len : (size_t)off;
	size_t n = h->len - at < size ? h->len - at : size;
	(void)fuse_reply_buf(req, (const char *)h->data + at, n);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs_mount *m = mount_of(req);
	struct fs_handle *h = (struct fs_handle *)(uintptr_t)fi->fh;
	/* Nobody waits for this answer: give it first. */
	(void)fuse_reply_err(req, 0);
	if (atomic_load_explicit(&h->paged, memory_order_relaxed))
		fs_device_drop_pages(m->device, ino);
	fs_tree_close(m->tree, h);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int r = may_node(req, FS_ACCESS_OPENDIR, ino);
	if (r < 0)
		reply_error(req, r);
	else
		call_start(req, CALL_OPENDIR, ino, NULL, fi);
}

struct listing {
	fuse_req_t req;
	char *buf;
	size_t size, used;
	bool plus;
};

static int list_one(void *arg, const char *name, const struct stat *st, uint64_t next, double keep)
{
	struct listing *l = arg;
	size_t n;
	if (l->plus) {
		struct fuse_entry_param ep;
		entry_of(st, keep, &ep);
		if (keep == 0)
			ep.ino = 0; /* . and .. are no look-ups */
		n = fuse_add_direntry_plus(l->req, l->buf + l->used, l->size - l->used, name, &ep, (off_t)next);
	} else {
		n = fuse_add_direntry(l->req, l->buf + l->used, l->size - l->used, name, st, (off_t)next);
	}
	if (n > l->size - l->used)
		return 1;
	l->used += n;
	return 0;
}

static void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	int r = may_node(req, FS_ACCESS_READDIR, ino);
	if (size > LISTING_MAX)
		size = LISTING_MAX;
	struct listing l = { .req = req, .buf = r < 0 ? NULL : malloc(size), .size = size, .plus = plus };
	if (r == 0 && !l.buf)
		r = -ENOMEM;
	if (r == 0)
		r = fs_tree_readdir(mount_of(req)->tree, ino, (uint64_t)off, list_one, &l);
	if (r < 0)
		reply_error(req, r);
	else
		(void)fuse_reply_buf(req, l.buf, l.used);
	free(l.buf);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	read_directory(req, ino, size, off, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	read_directory(req, ino, size, off, true);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino, (void)fi;
	(void)fuse_reply_err(req, 0);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	(void)ino, (void)nlookup; /* nodes live as long as the mount */
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t n, struct fuse_forget_data *list)
{
	(void)n, (void)list;
	fuse_reply_none(req);
}

static const struct fuse_lowlevel_ops ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.access = op_access,
	.open = op_open,
	.read = op_read,
	.release = op_release,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
};

static void device_gone(void *userdata)
{
	struct fs_mount *m = userdata;
	if (m->gone)
		m->gone(m->arg);
}

int fs_mount_new(struct fs_server *s, int fd, struct fs_tree *tree, struct fs_access *access, void (*gone)(void *arg),
		 void *arg, struct fs_mount **ret, struct err *e)
{
	struct fs_mount *m = calloc(1, sizeof *m);
	if (!m) {
		close(fd);
		fs_access_free(access);
		fs_tree_unref(tree);
		return err_set(e, ENOMEM, "out of memory");
	}
	m->tree = tree;
	m->access = access;
	m->gone = gone;
	m->arg = arg;
	int r = fs_device_new(s, fd, &ops, sizeof ops, device_gone, m, &m->device, e);
	if (r < 0) {
		fs_mount_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

void fs_mount_free(struct fs_mount *m)
{
	if (!m)
		return;
	fs_device_stop(m->device);
	pthread_mutex_lock(&calls_lock);
	/* A call that is being resumed is the loop's until it is answered or waits again; then it is ours to end. */
	while (m->calls || m->resuming) {
		struct call *c = m->calls;
		if (m->resuming) {
			pthread_cond_wait(&calls_resumed, &calls_lock);
			continue;
		}
		list_remove(c);
		c->m = NULL;
		fuse_req_t req = atomic_exchange(&c->waiting, NULL);
		if (req) {
			fuse_req_interrupt_func(req, NULL, NULL);
			(void)fuse_reply_err(req, ENOTCONN);
		}
	}
	pthread_mutex_unlock(&calls_lock);
	fs_device_free(m->device);
	fs_tree_close_all(m->tree);
	fs_tree_unref(m->tree);
	fs_access_free(m->access);
	free(m);
}

struct fs_tree *fs_mount_tree(struct fs_mount *m)
{
	return m->tree;
}

void fs_mount_get_stats(const struct fs_mount *m, struct fs_mount_stats *ret)
{
	*ret = (struct fs_mount_stats){
		.opens = atomic_load(&m->opens),
		.reads = atomic_load(&m->reads),
		.denied = atomic_load(&m->denied),
		.waits = atomic_load(&m->waits),
		.errors = atomic_load(&m->errors),
	};
}
