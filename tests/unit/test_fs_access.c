/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is let in, with real processes. Every process of the test reports its id on a pipe and then waits for the end of
 * another pipe, which only the test itself holds open: nothing sleeps, nothing stays behind.
 */
#include "base/cleanup.h"
#include "fs/access.h"
#include "fs/proc.h"
#include "tests/unit/check.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum who { ROOT, CHILD, THREAD, GRANDCHILD, DAEMON, DEBUGGER, DEBUGGED, NESTED, SETUID, MANY };
struct report {
	enum who who;
	pid_t tid;
};

static int report_pipe[2], hold_pipe[2];

static void pipes_open(void)
{
	CHECK(pipe2(report_pipe, O_CLOEXEC) == 0 && pipe2(hold_pipe, O_CLOEXEC) == 0);
}

static void pipes_close(void)
{
	close(report_pipe[0]);
	close(report_pipe[1]);
	close(hold_pipe[0]);
	close(hold_pipe[1]);
}

static void report(enum who who, pid_t tid)
{
	struct report r = { who, tid };
	CHECK(write(report_pipe[1], &r, sizeof r) == sizeof r);
}

static struct report next_report(void)
{
	struct report r;
	CHECK(read(report_pipe[0], &r, sizeof r) == sizeof r);
	return r;
}

static void hold(void)
{
	char c;
	ssize_t n;
	while ((n = read(hold_pipe[0], &c, 1)) < 0 && errno == EINTR)
		;
	_exit(n == 0 ? 0 : 1);
}

/* fork for the processes of a test: none keeps the end open whose closing ends them all. */
static pid_t branch(void)
{
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		close(hold_pipe[1]);
	return pid;
}

static bool allows(struct fs_access *a, pid_t tid, uid_t uid, gid_t gid)
{
	static const enum fs_access_op ops[] = { FS_ACCESS_OPEN, FS_ACCESS_OPENDIR, FS_ACCESS_READ, FS_ACCESS_READDIR,
						 FS_ACCESS_GETXATTR };
	int first = 1;
	for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
		struct fs_access_request r = {
			.op = ops[i], .tid = tid, .uid = uid, .gid = gid, .owner = uid, .group = gid, .mode = 0400
		};
		int x = fs_access_check(a, &r);
		CHECK(x == 0 || x == -EACCES);
		CHECK(first == 1 || first == x); /* no operation is a way around another */
		first = x;
	}
	return first == 0;
}

static bool mode_ok(struct fs_access *a, uid_t uid, gid_t gid, uid_t owner, gid_t group, mode_t mode)
{
	struct fs_access_request r = { .op = FS_ACCESS_OPEN,
				       .tid = getpid(),
				       .uid = uid,
				       .gid = gid,
				       .owner = owner,
				       .group = group,
				       .mode = mode };
	return fs_access_check(a, &r) == 0;
}

static struct fs_access *policy(struct fs_policy p)
{
	struct fs_access *a = NULL;
	struct err e = ERR_INIT;
	int r = fs_access_policy_new(&p, &a, &e);
	CHECK_MSG(r == 0 && a, "%s", err_msg(&e, r));
	return a;
}

static struct fs_access *tree_policy(pid_t root)
{
	uid_t me = getuid();
	return policy((struct fs_policy){ .uids = &me, .n_uids = 1, .tree = root });
}

static void test_ids(void)
{
	struct fs_access *none = policy((struct fs_policy){ 0 });
	CHECK(!allows(none, getpid(), getuid(), getgid()));
	CHECK(!allows(none, getpid(), 0, 0));
	fs_access_free(none);

	uid_t uids[] = { 1000, 1001 };
	gid_t gids[] = { 500 };
	struct fs_access *a = policy((struct fs_policy){ .uids = uids, .n_uids = 2, .gids = gids, .n_gids = 1 });
	uids[0] = 7; /* copied */
	CHECK(allows(a, 1, 1000, 9) && allows(a, 1, 1001, 9));
	CHECK(allows(a, 1, 2000, 500));
	CHECK(!allows(a, getpid(), 7, 9) && !allows(a, getpid(), 2000, 501));
	CHECK(!allows(a, 0, 1000, 500) && !allows(a, -1, 1000, 500)); /* nobody we could name */
	CHECK(!allows(a, getpid(), 0, 0));			      /* root is nobody special */
	fs_access_free(a);
	fs_access_free(NULL);

	struct err e = ERR_INIT;
	uid_t nobody = (uid_t)-1;
	a = NULL;
	CHECK(fs_access_policy_new(&(struct fs_policy){ .uids = &nobody, .n_uids = 1 }, &a, &e) == -EINVAL && !a);
}

static void test_modes(void)
{
	/* Group 77 and 99 are no supplementary groups of ours, uids are the process's own where /proc is asked. */
	uid_t me = getuid();
	uid_t uids[] = { 5, 6, me };
	struct fs_access *a = policy((struct fs_policy){ .uids = uids, .n_uids = me ? 3 : 2 });
	CHECK(mode_ok(a, 5, 77, 5, 77, 0400) && !mode_ok(a, 5, 77, 5, 77, 0044)); /* the owner's bits are the owner's */
	CHECK(mode_ok(a, 6, 77, 5, 77, 0040) && !mode_ok(a, 6, 77, 5, 77, 0404));
	CHECK(mode_ok(a, 6, 77, 5, 99, 0044) && !mode_ok(a, 6, 77, 5, 99, 0400));
	CHECK(!mode_ok(a, 6, 77, 5, 77, 0333)); /* it is reading that is asked */
	CHECK(!mode_ok(a, 0, 77, 5, 99, 0400)); /* root that nobody listed */
	/* The groups of a task that is not the one who asks decide nothing. */
	CHECK(!mode_ok(a, me == 5 ? 6 : 5, 77, 1, 99, 0004) || me == 5);
	fs_access_free(a);

	uid_t root = 0;
	a = policy((struct fs_policy){ .uids = &root, .n_uids = 1 });
	CHECK(mode_ok(a, 0, 0, 5, 99, 0000) && mode_ok(a, 0, 0, 0, 0, 0000));
	CHECK(!mode_ok(a, 5, 0, 5, 0, 0777));
	fs_access_free(a);
	gid_t group = 0; /* let in by group only: the bits hold */
	a = policy((struct fs_policy){ .gids = &group, .n_gids = 1 });
	CHECK(!mode_ok(a, 0, 0, 5, 99, 0000) && mode_ok(a, 0, 0, 5, 0, 0040));
	fs_access_free(a);
}

/* Root only: nobody else may choose groups. */
static void test_supplementary(void)
{
	enum { N = 4000, UID = 65534, GID = 65533, FIRST = 100000 };
	pipes_open();
	pid_t pid = branch();
	if (pid == 0) {
		gid_t groups[N];
		for (int i = 0; i < N; i++)
			groups[i] = (gid_t)(FIRST + i);
		CHECK(setgroups(N, groups) == 0 && setresgid(GID, GID, GID) == 0 && setresuid(UID, UID, UID) == 0);
		report(CHILD, getpid());
		hold();
	}
	CHECK(next_report().tid == pid);
	cleanup_close int proc = -1, fd = -1;
	CHECK(fs_proc_open(&proc, NULL) == 0 && fs_proc_status_open(proc, pid, &fd) == 0);
	for (int i = 0; i < N; i++) { /* some lie across the pieces in which the line is read */
		bool in = false;
		CHECK(fs_proc_status_in_groups(fd, (gid_t[]){ (gid_t)(FIRST + i) }, 1, &in) == 0);
		CHECK_MSG(in, "group %d", FIRST + i);
	}
	for (int i = -2; i < N + 2; i += i < 10 || i > N - 10 ? 1 : 97) {
		gid_t g = (gid_t)(FIRST + i);
		bool in = i >= 0 && i < N;
		struct fs_access *a = policy((struct fs_policy){ .gids = &g, .n_gids = 1 });
		CHECK_MSG(allows(a, pid, UID, GID) == in, "group %u", g);
		CHECK(!allows(a, pid, UID - 1, GID)); /* the task is not the one who asks */
		fs_access_free(a);
	}
	uid_t uid = UID;
	struct fs_access *a = policy((struct fs_policy){ .uids = &uid, .n_uids = 1 });
	struct fs_access_request r = {
		.tid = pid, .uid = UID, .gid = GID, .owner = 1, .group = FIRST + N - 1, .mode = 0040
	};
	CHECK(fs_access_check(a, &r) == 0);
	r.mode = 0004; /* a member of the group is not "the others" */
	CHECK(fs_access_check(a, &r) == -EACCES);
	r.group = FIRST + N;
	CHECK(fs_access_check(a, &r) == 0);
	r.mode = 0040;
	CHECK(fs_access_check(a, &r) == -EACCES);
	fs_access_free(a);
	gid_t g = FIRST;
	a = policy((struct fs_policy){ .gids = &g, .n_gids = 1 });
	pipes_close();
	CHECK(waitpid(pid, NULL, 0) == pid);
	CHECK(!allows(a, pid, UID, GID)); /* gone: nothing to read */
	fs_access_free(a);
}

static void *thread_main(void *arg)
{
	(void)arg;
	report(THREAD, gettid());
	hold();
	return NULL;
}

static void tree_root(void)
{
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	if (branch() == 0) {
		if (branch() == 0) {
			report(GRANDCHILD, getpid());
			hold();
		}
		pthread_t t;
		CHECK(pthread_create(&t, NULL, thread_main, NULL) == 0);
		report(CHILD, getpid());
		hold();
	}
	pid_t between = branch();
	if (between == 0) {
		if (branch() == 0) {
			CHECK(setsid() > 0);
			report(DAEMON, getpid());
			hold();
		}
		_exit(0);
	}
	CHECK(waitpid(between, NULL, 0) == between);
	if (branch() == 0) {
		pid_t debugged = branch();
		if (debugged == 0)
			hold();
		CHECK(ptrace(PTRACE_SEIZE, debugged, 0, 0) == 0);
		report(DEBUGGED, debugged);
		report(DEBUGGER, getpid());
		hold();
	}
	report(ROOT, getpid()); /* from here on the daemonised one has its new parent */
	hold();
}

static void test_tree(void)
{
	enum { REPORTS = 7 };
	pid_t at[MANY] = { 0 };
	uid_t me = getuid();
	gid_t gid = getgid();

	pipes_open();
	pid_t root = branch();
	if (root == 0)
		tree_root();
	pid_t outside = branch();
	if (outside == 0)
		hold();
	for (int i = 0; i < REPORTS; i++) {
		struct report r = next_report();
		at[r.who] = r.tid;
	}
	CHECK(at[ROOT] == root && at[THREAD] != at[CHILD]);

	struct fs_access *a = tree_policy(root);
	for (int round = 0; round < 2; round++) { /* unknown, then known */
		CHECK(!allows(a, outside, me, gid));
		CHECK(!allows(a, getpid(), me, gid)); /* the root's own parent */
		CHECK(!allows(a, 1, me, gid) && !allows(a, 0, me, gid));
		for (int w = ROOT; w <= DEBUGGED; w++)
			CHECK_MSG(allows(a, at[w], me, gid), "member %d, round %d", w, round);
		CHECK(!allows(a, at[CHILD], me + 1, gid)); /* a request of somebody else */
	}

	/* A tracer from outside shuts the member out, for as long as it is there. */
	enum who traced[] = { GRANDCHILD, THREAD };
	for (size_t i = 0; i < 2; i++) {
		pid_t t = at[traced[i]];
		CHECK(ptrace(PTRACE_SEIZE, t, 0, 0) == 0);
		CHECK(!allows(a, t, me, gid));
		CHECK(allows(a, at[CHILD], me, gid));
		struct fs_access *fresh = tree_policy(root);
		CHECK(!allows(fresh, t, me, gid));
		fs_access_free(fresh);
		CHECK(ptrace(PTRACE_INTERRUPT, t, 0, 0) == 0 && waitpid(t, NULL, __WALL) == t);
		CHECK(!allows(a, t, me, gid));
		CHECK(ptrace(PTRACE_DETACH, t, 0, 0) == 0);
		CHECK(allows(a, t, me, gid));
	}
	/* A debugger in the tree that is itself traced from outside counts as outside. */
	CHECK(ptrace(PTRACE_SEIZE, at[DEBUGGER], 0, 0) == 0);
	CHECK(!allows(a, at[DEBUGGED], me, gid) && !allows(a, at[DEBUGGER], me, gid));
	CHECK(ptrace(PTRACE_INTERRUPT, at[DEBUGGER], 0, 0) == 0 && waitpid(at[DEBUGGER], NULL, __WALL) > 0);
	CHECK(ptrace(PTRACE_DETACH, at[DEBUGGER], 0, 0) == 0);
	CHECK(allows(a, at[DEBUGGED], me, gid));

	/* By tree, a group lets nobody in; and nobody at all is let in without a uid. */
	struct fs_access *by_group = policy((struct fs_policy){ .gids = &gid, .n_gids = 1, .tree = root });
	CHECK(!allows(by_group, at[CHILD], me, gid));
	fs_access_free(by_group);

	/* With the root dies the right, of members known and unknown. The dead root may still wait to be reaped. */
	struct fs_access *unknown = tree_policy(root);
	CHECK(kill(root, SIGKILL) == 0);
	siginfo_t si;
	CHECK(waitid(P_PID, (id_t)root, &si, WEXITED | WNOWAIT) == 0);
	for (int reaped = 0; reaped < 2; reaped++) {
		for (int w = CHILD; w <= DEBUGGED; w++) {
			CHECK(kill(at[w] == at[THREAD] ? at[CHILD] : at[w], 0) == 0); /* they live */
			CHECK(!allows(a, at[w], me, gid) && !allows(unknown, at[w], me, gid));
		}
		CHECK(waitpid(root, NULL, 0) == (reaped ? -1 : root));
	}
	fs_access_free(unknown);
	fs_access_free(a);
	struct err e = ERR_INIT;
	a = NULL;
	CHECK(fs_access_policy_new(&(struct fs_policy){ .uids = &me, .n_uids = 1, .tree = root }, &a, &e) < 0 && !a);
	CHECK(e.msg[0]);
	pipes_close();
	CHECK(waitpid(outside, NULL, 0) == outside);
}

/* Root only: a set-uid program of the tree, as it looks while it has both, and while it has changed back. */
static void test_set_uid(void)
{
	/* real, effective, saved, file system; the last is nobody special, so that the check can pass. */
	static const uid_t ids[][4] = {
		{ 65534, 0, 0, 0 },	    { 0, 65534, 0, 65534 }, { 0, 0, 65534, 0 }, { 65534, 65534, 0, 65534 },
		{ 65534, 0, 65534, 65534 }, { 0, 0, 0, 65534 },	    { 0, 0, 0, 0 }
	};
	enum { N = sizeof ids / sizeof *ids };
	pid_t pid[N];
	pipes_open();
	pid_t root = branch();
	if (root == 0) {
		for (size_t i = 0; i < N; i++)
			if (branch() == 0) {
				CHECK(setresuid(ids[i][0], ids[i][1], ids[i][2]) == 0);
				(void)setfsuid(ids[i][3]);
				CHECK((uid_t)setfsuid(ids[i][3]) == ids[i][3]);
				report((enum who)i, getpid());
				hold();
			}
		hold();
	}
	for (size_t i = 0; i < N; i++) {
		struct report r = next_report();
		pid[r.who] = r.tid;
	}
	uid_t both[] = { 0, 65534 };
	struct fs_access *a = policy((struct fs_policy){ .uids = both, .n_uids = 2, .tree = root });
	for (size_t i = 0; i < N - 1; i++)
		CHECK_MSG(!allows(a, pid[i], 0, 0) && !allows(a, pid[i], 65534, 0), "ids %zu", i);
	CHECK(allows(a, pid[N - 1], 0, 0) && !allows(a, pid[N - 1], 65534, 0));
	fs_access_free(a);
	pipes_close();
	CHECK(waitpid(root, NULL, 0) == root);
}

static unsigned open_files(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");
	CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Does a descriptor of ours lead to that task's status file? */
static bool remembered(pid_t tid)
{
	bool found = false;
	DIR *d = opendir("/proc/self/fd");
	CHECK(d);
	for (struct dirent *de; (de = readdir(d));) {
		char to[64], want[64];
		(void)snprintf(want, sizeof want, "/proc/%d/status", tid);
		ssize_t n = readlinkat(dirfd(d), de->d_name, to, sizeof to - 1);
		if (n > 0) {
			to[n] = '\0';
			found |= !strcmp(to, want);
		}
	}
	closedir(d);
	return found;
}

static double micros(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

struct hammer {
	struct fs_access *a;
	const pid_t *pid;
	size_t n;
	unsigned seed;
};

static void *hammer(void *arg)
{
	struct hammer *h = arg;
	for (unsigned i = 0; i < 3000; i++) {
		h->seed = h->seed * 1103515245 + 12345;
		struct fs_access_request r = {
			.tid = h->pid[h->seed / 65536 % h->n], .uid = getuid(), .owner = getuid(), .mode = 0400
		};
		CHECK(fs_access_check(h->a, &r) == 0);
	}
	return NULL;
}

/* More members than are remembered; several threads; what it costs. */
static void test_many(void)
{
	enum { N = 330, SETS = 64, THREADS = 4, ROUNDS = 4000 };
	pid_t pid[N], same_set[N];
	size_t n_same = 0;
	uid_t me = getuid();
	pipes_open();
	pid_t root = branch();
	if (root == 0) {
		for (int i = 0; i < N; i++)
			if (branch() == 0) {
				report(MANY, getpid());
				hold();
			}
		hold();
	}
	for (int i = 0; i < N; i++)
		pid[i] = next_report().tid;
	unsigned before = open_files();
	struct fs_access *a = tree_policy(root);
	unsigned with_policy = open_files();
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < N; i++)
			CHECK(allows(a, pid[i], me, getgid()) && remembered(pid[i]));
		CHECK(open_files() > with_policy + 200 && open_files() <= with_policy + 256);
	}
	pthread_t t[THREADS];
	struct hammer h[THREADS];
	for (unsigned i = 0; i < THREADS; i++) {
		h[i] = (struct hammer){ .a = a, .pid = pid, .n = N, .seed = i };
		CHECK(pthread_create(&t[i], NULL, hammer, &h[i]) == 0);
	}
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_join(t[i], NULL) == 0);
	CHECK(open_files() <= with_policy + 256);

	size_t in_set[SETS] = { 0 }, full = 0;
	for (int i = 0; i < N; i++)
		if (++in_set[pid[i] % SETS] > in_set[full])
			full = (size_t)(pid[i] % SETS);
	for (int i = 0; i < N; i++)
		if ((size_t)(pid[i] % SETS) == full)
			same_set[n_same++] = pid[i];
	CHECK(n_same > 4); /* N / SETS is: so that asked in turn, each has been forgotten */
	struct fs_access_request r = { .tid = pid[0], .uid = me, .owner = me, .mode = 0400 };
	struct fs_access *by_uid = policy((struct fs_policy){ .uids = &me, .n_uids = 1 });
	double start = micros();
	for (int i = 0; i < ROUNDS; i++)
		CHECK(fs_access_check(a, &r) == 0);
	double known = micros();
	for (int i = 0; i < ROUNDS; i++) {
		r.tid = same_set[(size_t)i % n_same];
		CHECK(fs_access_check(a, &r) == 0);
	}
	double unknown = micros();
	for (int i = 0; i < ROUNDS * 100; i++)
		CHECK(fs_access_check(by_uid, &r) == 0);
	double uid = micros();
	fprintf(stderr, "a check by tree: known caller %.1f us, unknown %.1f us; by uid %.3f us\n",
		(known - start) / ROUNDS, (unknown - known) / ROUNDS, (uid - unknown) / (ROUNDS * 100));
	fs_access_free(by_uid);
	fs_access_free(a);
	CHECK(open_files() == before);
	pipes_close();
	CHECK(waitpid(root, NULL, 0) == root);
}

/* The promise that everything rests on: a status file belongs to the task. */
static void test_descriptor_is_the_task(void)
{
	cleanup_close int proc = -1, fd = -1;
	struct fs_proc_status st;
	unsigned level;
	bool in;
	struct err e = ERR_INIT;
	CHECK(fs_proc_open(&proc, &e) == 0);
	pipes_open();
	pid_t pid = branch();
	if (pid == 0)
		hold();
	CHECK(fs_proc_status_open(proc, pid, &fd) == 0);
	CHECK(fs_proc_status_read(fd, &st) == 0);
	CHECK(st.pid == pid && st.tgid == pid && st.ppid == getpid() && st.tracer == 0);
	CHECK(st.ruid == getuid() && st.euid == geteuid() && st.fsuid == geteuid());
	CHECK(fs_proc_status_level(fd, &level) == 0 && level == 1);
	pipes_close();
	CHECK(waitpid(pid, NULL, 0) == pid);
	CHECK(fs_proc_status_read(fd, &st) == -ESRCH);
	CHECK(fs_proc_status_level(fd, &level) == -ESRCH);
	CHECK(fs_proc_status_in_groups(fd, (gid_t[]){ 0 }, 1, &in) == -ESRCH);
	int other = -1;
	CHECK(fs_proc_status_open(proc, pid, &other) == -ESRCH && other == -1);
	CHECK(fs_proc_status_open(proc, 0, &other) == -ESRCH && fs_proc_status_open(proc, -5, &other) == -ESRCH);
}

static bool parses(const char *s, struct fs_proc_status *st)
{
	/* An exact copy without terminator: a sanitizer build sees any byte too many. */
	size_t n = strlen(s);
	cleanup_free char *copy = malloc(n ? n : 1);
	CHECK(copy);
	memcpy(copy, s, n);
	int r = fs_proc_status_parse(copy, n, st);
	CHECK(r == 0 || r == -EPROTO);
	return r == 0;
}

static void test_parse(void)
{
	static const char good[] =
		"Name:\ta\\nUid:\t0\t0\t0\t0\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t7\nNgid:\t0\n"
		"Pid:\t8\nPPid:\t6\nTracerPid:\t5\nUid:\t1\t2\t3\t4294967294\n";
	struct fs_proc_status st;
	CHECK(parses(good, &st));
	CHECK(st.tgid == 7 && st.pid == 8 && st.ppid == 6 && st.tracer == 5);
	CHECK(st.ruid == 1 && st.euid == 2 && st.suid == 3 && st.fsuid == 4294967294U);
	for (size_t n = 0; n < sizeof good - 1; n++) { /* cut off anywhere */
		char part[sizeof good];
		memcpy(part, good, n);
		part[n] = '\0';
		CHECK(!parses(part, &st));
	}
	CHECK(!parses("Tgid:\t7\nPid:\t8\nPPid:\t6\nTracerPid:\t5\nUid:\t1\t2\t3\n", &st));
	CHECK(!parses("Tgid:\t7\nPid:\t8\nPPid:\t6\nTracerPid:\t5\nUid:\t1\t2\t3\t4\t5\n", &st));
	CHECK(!parses("Tgid:\t7\nPid:\t8\nPPid:\t-6\nTracerPid:\t5\nUid:\t1\t2\t3\t4\n", &st));
	CHECK(!parses("Tgid:\t7\nPid:\t8\nPPid:\t\nTracerPid:\t5\nUid:\t1\t2\t3\t4\n", &st));
	CHECK(!parses("Tgid:\t7x\nPid:\t8\nPPid:\t6\nTracerPid:\t5\nUid:\t1\t2\t3\t4\n", &st));
	CHECK(!parses("Tgid:\t7\nPid:\t8\nPPid:\t6\nTracerPid:\t5\nUid:\t1\t2\t3\t4294967296\n", &st));
	CHECK(!parses("Tgid:\t4000000000\nPid:\t8\nPPid:\t6\nTracerPid:\t5\nUid:\t1\t2\t3\t4\n", &st));
	CHECK(!parses("Tgid:\t99999999999999999999999\nPid:\t8\nPPid:\t6\nTracerPid:\t5\nUid:\t1\t2\t3\t4\n", &st));
}

static void write_file(const char *path, const char *text)
{
	cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK_MSG(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %m", path);
}

/* The next process of this pid namespace gets this number. */
static void next_pid(pid_t pid)
{
	char text[16];
	(void)snprintf(text, sizeof text, "%d", pid - 1);
	write_file("/proc/sys/kernel/ns_last_pid", text);
}

/* A process below a helper that reaps it when told, so that its number is free again. */
static void reaper_main(int order, enum who who)
{
	char c;
	pid_t pid = branch();
	if (pid == 0) {
		report(who, getpid());
		hold();
	}
	CHECK(read(order, &c, 1) == 1);
	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
	report(who, 0);
	CHECK(read(order, &c, 1) == 1); /* the second one: with a number that we are told by where it is written */
	pid = branch();
	if (pid == 0) {
		report(who, getpid());
		hold();
	}
	hold();
}

/* In a pid namespace of its own, where it may choose numbers. */
static void reuse_inside(void)
{
	uid_t me = getuid();
	gid_t gid = getgid();
	CHECK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	CHECK_MSG(mount("proc", "/proc", "proc", 0, NULL) == 0, "%m");
	pipes_open();
	int in_order[2], out_order[2];
	CHECK(pipe2(in_order, O_CLOEXEC) == 0 && pipe2(out_order, O_CLOEXEC) == 0);
	pid_t root = branch();
	if (root == 0)
		reaper_main(in_order[0], GRANDCHILD);
	pid_t member = next_report().tid;
	pid_t out_parent = branch();
	if (out_parent == 0)
		reaper_main(out_order[0], DAEMON);
	pid_t outside = next_report().tid;

	struct fs_access *a = tree_policy(root);
	CHECK(allows(a, member, me, gid) && !allows(a, outside, me, gid));
	CHECK(write(in_order[1], "x", 1) == 1 && next_report().tid == 0);
	CHECK(!allows(a, member, me, gid)); /* dead */
	CHECK(write(out_order[1], "x", 1) == 1 && next_report().tid == 0);

	/* The dead member's number goes to somebody outside, the outsider's to a member. */
	next_pid(member);
	CHECK(write(out_order[1], "x", 1) == 1);
	CHECK(next_report().tid == member);
	CHECK(!allows(a, member, me, gid));
	next_pid(outside);
	CHECK(write(in_order[1], "x", 1) == 1);
	CHECK(next_report().tid == outside);
	CHECK(allows(a, outside, me, gid));
	fs_access_free(a);
	pipes_close();
	_exit(0);
}

/* A child of a member in a pid namespace below: a descendant, but one whose parents can be borrowed. */
static void nested_inside(void)
{
	uid_t me = getuid();
	pipes_open();
	pid_t root = branch();
	if (root == 0) {
		report(ROOT, getpid());
		CHECK(unshare(CLONE_NEWPID) == 0);
		pid_t nested = branch();
		if (nested == 0)
			hold();
		report(NESTED, nested);
		hold();
	}
	CHECK(next_report().tid == root);
	pid_t nested = next_report().tid;
	struct fs_access *a = tree_policy(root);
	CHECK(allows(a, root, me, getgid()));
	CHECK(!allows(a, nested, me, getgid()));
	fs_access_free(a);
	pipes_close();
	_exit(0);
}

static void become_root_of_namespaces(int extra)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	char map[64];
	CHECK_MSG(unshare((uid ? CLONE_NEWUSER : 0) | extra) == 0,
		  "unshare: %m (this test needs root, or user namespaces for users)");
	if (uid == 0)
		return;
	write_file("/proc/self/setgroups", "deny");
	(void)snprintf(map, sizeof map, "%u %u 1", uid, uid);
	write_file("/proc/self/uid_map", map);
	(void)snprintf(map, sizeof map, "%u %u 1", gid, gid);
	write_file("/proc/self/gid_map", map);
}

static void run_apart(void (*fn)(void), int extra)
{
	int status;
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		become_root_of_namespaces(extra);
		pid_t in = fork(); /* the first process of a new pid namespace */
		CHECK(in >= 0);
		if (in == 0)
			fn();
		CHECK(waitpid(in, &status, 0) == in);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
	test_parse();
	test_ids();
	test_modes();
	test_descriptor_is_the_task();
	test_tree();
	test_many();
	run_apart(reuse_inside, CLONE_NEWPID | CLONE_NEWNS);
	run_apart(nested_inside, 0);
	if (getuid() == 0) {
		test_supplementary();
		test_set_uid();
	} else {
		printf("not run: supplementary groups and set-uid programs (need root)\n");
	}
	return 0;
}
