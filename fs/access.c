/* SPDX-License-Identifier: Apache-2.0 */
/*
 * By uid and gid nothing is asked of the system: the request carries them. Supplementary groups are read from
 * /proc/TID/status only where the answer hangs on them.
 *
 * By process tree, each request needs: is the caller in the tree, is the tree's root alive, is the caller traced, and
 * are its uids all the one that the request shows. Membership is found by walking up the parents, and remembered
 * together with an open descriptor of the caller's status file (fs/proc.h: it belongs to the task, not to the number).
 * So for a caller that is known one pread says both that it is still the same task, which is what the remembered
 * membership was about, and what must never be remembered: tracer and uids. A task cannot leave the tree while the root
 * lives (the root is a subreaper), so membership does not go stale.
 *
 * Cost of a check by tree, measured with tests/unit/test_fs_access (2 cores, VM, 6.18; nearly all of it is the kernel
 * writing the status file): known caller 8 us, unknown child of the root 20 us, by uid 0.003 us.
 *
 * The walk goes by numbers, which can be reused while it goes. So each link is read again after the parent's file was
 * opened: a child that still names the same parent proves that the number was the parent's all the while.
 *
 * A task in a pid namespace below the root's is refused, although it descends from the root: whoever has the tree's uid
 * can enter such a namespace from outside and leave an orphan there, which the kernel then hands to that namespace's
 * init, in the tree.
 *
 * Only the tracer of the asking thread is looked at. Who attaches, changes the program and lets go again before it asks
 * is not seen here; that is the guard's work.
 */
#include "fs/access.h"

#include "base/cleanup.h"
#include "fs/proc.h"

#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	KNOWN_SETS = 64,
	KNOWN_WAYS = 4,	 /* least recently used of a set goes out */
	DEPTH_MAX = 128, /* generations between caller and root */
};

struct known {
	pid_t tid; /* 0: free */
	int fd;
	unsigned pins; /* checks that read fd just now; it is not closed meanwhile */
	uint64_t used;
};

struct policy {
	struct fs_access base;
	uid_t *uids;
	size_t n_uids;
	gid_t *gids;
	size_t n_gids;
	int proc;

	pid_t tree; /* 0: none */
	int root;   /* pidfd */
	unsigned level;
	pthread_mutex_t lock; /* of what follows */
	uint64_t clock;
	struct known known[KNOWN_SETS][KNOWN_WAYS];
};

/* A task of the tree: its status, and the descriptor that it was read from (pinned in `k`, or our own). */
struct member {
	struct fs_proc_status st;
	int fd;
	struct known *k;
};

static bool has(const unsigned *list, size_t n, unsigned id)
{
	for (size_t i = 0; i < n; i++)
		if (list[i] == id)
			return true;
	return false;
}

static bool root_lives(const struct policy *p)
{
	struct pollfd pfd = { .fd = p->root, .events = POLLIN };
	return poll(&pfd, 1, 0) == 0;
}

static struct known *set_of(struct policy *p, pid_t tid)
{
	return p->known[(unsigned)tid % KNOWN_SETS];
}

static struct known *known_pin(struct policy *p, pid_t tid)
{
	SCOPED_LOCK(&p->lock);
	struct known *set = set_of(p, tid);
	for (int i = 0; i < KNOWN_WAYS; i++)
		if (set[i].tid == tid) {
			set[i].pins++;
			set[i].used = ++p->clock;
			return &set[i];
		}
	return NULL;
}

static void known_unpin(struct policy *p, struct known *k)
{
	SCOPED_LOCK(&p->lock);
	k->pins--;
}

/* Takes the descriptor when there is room for it; returns the entry pinned, or NULL and the descriptor stays yours. */
static struct known *known_put(struct policy *p, pid_t tid, int fd)
{
	SCOPED_LOCK(&p->lock);
	struct known *set = set_of(p, tid), *victim = NULL;
	for (int i = 0; i < KNOWN_WAYS; i++) {
		if (set[i].tid == tid) { /* a dead owner of the number, or another thread was quicker */
			victim = set[i].pins ? NULL : &set[i];
			break;
		}
		if (!set[i].pins && (!victim || set[i].used < victim->used))
			victim = &set[i];
	}
	if (!victim)
		return NULL;
	if (victim->tid)
		close(victim->fd);
	*victim = (struct known){ .tid = tid, .fd = fd, .pins = 1, .used = ++p->clock };
	return victim;
}

static void member_release(struct policy *p, struct member *m)
{
	if (m->k)
		known_unpin(p, m->k);
	else if (m->fd >= 0)
		close(m->fd);
}

/* A live task that was proven a member before. */
static bool member_known(struct policy *p, pid_t tid, struct member *ret)
{
	struct member m = { .k = known_pin(p, tid) };
	if (!m.k)
		return false;
	m.fd = m.k->fd;
	if (fs_proc_status_read(m.fd, &m.st) < 0) {
		known_unpin(p, m.k);
		return false;
	}
	*ret = m;
	return true;
}

struct link {
	pid_t tid;
	int fd;
	struct fs_proc_status st;
};

static int link_open(struct policy *p, pid_t tid, struct link *ret)
{
	cleanup_close int fd = -1;
	struct fs_proc_status st;
	int r = fs_proc_status_open(p->proc, tid, &fd);
	if (r == 0)
		r = fs_proc_status_read(fd, &st);
	if (r < 0)
		return r;
	*ret = (struct link){ .tid = tid, .fd = TAKE_FD(fd), .st = st };
	return 0;
}

/*
 * Fills chain[*n] upwards from chain[0], which is open, until the root or a known member is the next parent. The caller
 * polls the root afterwards: alive then, its number was its own all the while.
 */
static bool walk_up(struct policy *p, struct link *chain, size_t *n)
{
	for (int steps = 0; steps < 2 * DEPTH_MAX; steps++) {
		struct link *child = &chain[*n - 1], parent = { .fd = -1 };
		struct member known;
		if (child->st.tgid == p->tree || child->st.ppid == p->tree)
			return true;
		pid_t ppid = child->st.ppid;
		bool up = member_known(p, ppid, &known);
		if (up) {
			member_release(p, &known);
		} else if (ppid == 0 || *n == DEPTH_MAX) {
			return false;
		} else {
			int r = link_open(p, ppid, &parent);
			if (r < 0 && r != -ESRCH)
				return false;
		}
		/* A parent that died meanwhile is followed by the one that took the child over. */
		if (fs_proc_status_read(child->fd, &child->st) < 0) {
			if (parent.fd >= 0)
				close(parent.fd);
			return false;
		}
		if (child->st.ppid == ppid && up)
			return true;
		if (child->st.ppid == ppid && parent.fd >= 0)
			chain[(*n)++] = parent;
		else if (parent.fd >= 0)
			close(parent.fd);
	}
	return false;
}

static bool member_prove(struct policy *p, pid_t tid, struct member *ret)
{
	struct link chain[DEPTH_MAX];
	unsigned level;
	size_t n = 1;
	if (link_open(p, tid, &chain[0]) < 0)
		return false;
	/* Levels only grow downwards: equal here, equal at everybody between. */
	bool ok = fs_proc_status_level(chain[0].fd, &level) == 0 && level == p->level && walk_up(p, chain, &n) &&
		  root_lives(p);
	for (size_t i = n; i-- > 1;) {
		struct known *k = ok ? known_put(p, chain[i].tid, chain[i].fd) : NULL;
		if (k)
			known_unpin(p, k);
		else
			close(chain[i].fd);
	}
	if (!ok) {
		close(chain[0].fd);
		return false;
	}
	*ret = (struct member){
		.st = chain[0].st,
		.fd = chain[0].fd,
		.k = known_put(p, tid, chain[0].fd),
	};
	return true;
}

static bool member_get(struct policy *p, pid_t tid, struct member *ret)
{
	return member_known(p, tid, ret) || member_prove(p, tid, ret);
}

/* A debugger in the tree may look; one that is traced itself counts as outside. */
static bool traced_from_outside(struct policy *p, struct member *m)
{
	pid_t by = m->st.tracer;
	struct member tracer;
	if (by == 0)
		return false;
	if (!member_get(p, by, &tracer))
		return true;
	bool outside = tracer.st.tracer != 0;
	member_release(p, &tracer);
	return outside || fs_proc_status_read(m->fd, &m->st) < 0 || m->st.tracer != by;
}

static bool in_tree(struct policy *p, const struct fs_access_request *r)
{
	struct member m;
	if (!member_get(p, r->tid, &m))
		return false;
	/* All four: a set-uid program that has changed back for a while still is one. */
	const struct fs_proc_status *s = &m.st;
	bool ok = !traced_from_outside(p, &m) && s->ruid == r->uid && s->euid == r->uid && s->suid == r->uid &&
		  s->fsuid == r->uid && root_lives(p);
	member_release(p, &m);
	return ok;
}

/* One of the groups among the caller's supplementary ones? What cannot be found out is an error, and refused. */
static int has_supplementary(struct policy *p, const struct fs_access_request *r, const gid_t *gids, size_t n,
			     bool *ret)
{
	cleanup_close int fd = -1;
	struct fs_proc_status st;
	int x = fs_proc_status_open(p->proc, r->tid, &fd);
	if (x == 0)
		x = fs_proc_status_in_groups(fd, gids, n, ret);
	if (x == 0)
		x = fs_proc_status_read(fd, &st);
	if (x == 0 && st.fsuid != r->uid)
		x = -ESRCH; /* not the one who asked */
	return x;
}

static bool admitted(struct policy *p, const struct fs_access_request *r)
{
	bool by_uid = has(p->uids, p->n_uids, r->uid), by_group = false;
	if (p->tree)
		return by_uid && in_tree(p, r);
	if (by_uid || has(p->gids, p->n_gids, r->gid))
		return true;
	if (p->n_gids == 0)
		return false;
	return has_supplementary(p, r, p->gids, p->n_gids, &by_group) == 0 && by_group;
}

/* Every operation that is asked about reads: file data, a directory's names, an attribute's value. */
static bool mode_allows(struct policy *p, const struct fs_access_request *r)
{
	bool group = r->mode & 0040, other = r->mode & 0004, member = false;
	if (r->uid == 0 && has(p->uids, p->n_uids, 0))
		return true;
	if (r->uid == r->owner)
		return r->mode & 0400;
	if (r->gid == r->group || group == other)
		return group;
	if (has_supplementary(p, r, &r->group, 1, &member) < 0)
		return false;
	return member ? group : other;
}

static int policy_check(struct fs_access *a, const struct fs_access_request *r)
{
	struct policy *p = (struct policy *)a;
	if (r->tid <= 0)
		return -EACCES;
	return admitted(p, r) && mode_allows(p, r) ? 0 : -EACCES;
}

static void policy_free(struct fs_access *a)
{
	struct policy *p = (struct policy *)a;
	for (size_t s = 0; s < KNOWN_SETS; s++)
		for (size_t w = 0; w < KNOWN_WAYS; w++)
			if (p->known[s][w].tid)
				close(p->known[s][w].fd);
	pthread_mutex_destroy(&p->lock);
	if (p->root >= 0)
		close(p->root);
	if (p->proc >= 0)
		close(p->proc);
	free(p->gids);
	free(p->uids);
	free(p);
}

static int copy_ids(const unsigned *from, size_t n, unsigned **ret, const char *what, struct err *e)
{
	if (n == 0)
		return 0;
	if (has(from, n, (unsigned)-1))
		return err_set(e, EINVAL, "%s 4294967295 stands for nobody: leave it out", what);
	unsigned *to = calloc(n, sizeof *to);
	if (!to)
		return err_set(e, ENOMEM, "out of memory");
	memcpy(to, from, n * sizeof *to);
	*ret = to;
	return 0;
}

static int tree_open(struct policy *p, pid_t tree, struct err *e)
{
	cleanup_close int fd = -1;
	p->root = (int)syscall(SYS_pidfd_open, tree, 0);
	if (p->root < 0)
		return err_sys(e, errno, "cannot watch process %d, the root of the process tree", (int)tree);
	/* The number was the root's if the root is alive behind it. */
	int r = fs_proc_status_open(p->proc, tree, &fd);
	if (r == 0)
		r = fs_proc_status_level(fd, &p->level);
	if (r < 0)
		return err_sys(e, r, "cannot read /proc/%d/status (is /proc mounted with hidepid?)", (int)tree);
	if (!root_lives(p))
		return err_set(e, ESRCH, "process %d, the root of the process tree, has ended", (int)tree);
	p->tree = tree;
	return 0;
}

int fs_access_policy_new(const struct fs_policy *policy, struct fs_access **ret, struct err *e)
{
	struct policy *p = calloc(1, sizeof *p);
	if (!p)
		return err_set(e, ENOMEM, "out of memory");
	*p = (struct policy){
		.base = { .check = policy_check, .free = policy_free },
		.n_uids = policy->n_uids,
		.n_gids = policy->n_gids,
		.proc = -1,
		.root = -1,
		.lock = PTHREAD_MUTEX_INITIALIZER,
	};
	int r = copy_ids(policy->uids, policy->n_uids, &p->uids, "uid", e);
	if (r == 0)
		r = copy_ids(policy->gids, policy->n_gids, &p->gids, "gid", e);
	if (r == 0)
		r = fs_proc_open(&p->proc, e);
	if (r == 0 && policy->tree != 0)
		r = tree_open(p, policy->tree, e);
	if (r < 0) {
		policy_free(&p->base);
		return r;
	}
	*ret = &p->base;
	return 0;
}

void fs_access_free(struct fs_access *a)
{
	if (a)
		a->free(a);
}
