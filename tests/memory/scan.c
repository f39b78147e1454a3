/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan PID... | --file FILE: looks for patterns in everything that processes have mapped, as root sees it through /proc/PID/mem
 * (or in a file, a core say).
 *
 * Patterns come on standard input, each as two lengths (32 bits, of this machine's order), a name and bytes. Any WINDOW
 * bytes of a pattern that stand somewhere are a hit, so that halves are found. Each process is stopped (SIGSTOP) while
 * it is looked at, so that nothing moves from where the scan will be to where it was; --running leaves it running.
 *
 * Prints, separated by tabs:
 *   mapping    START-END PERMS FLAGS NAME  every mapping, with the flags of /proc/PID/smaps (lo, dd, dc, ...)
 *   hit        PATTERN OFFSET LENGTH ADDRESS, and the mapping as above
 *   secret     memfd_secret mapping that could not be read, as it has to be
 *   unreadable START-END PERMS FLAGS NAME  a mapping that holds pages which could not be read
 *   scanned    PID BYTES MAPPINGS
 *
 * Not only readable mappings are read: what was made inaccessible (mprotect) is still there. Pages of anonymous memory
 * that were never touched are left out, by /proc/PID/pagemap: there may be gigabytes of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <dirent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	WINDOW = 16,
	PAGE = 4096,
	CHUNK = 1 << 20,
	FILTER_BITS = 22,
	STOP_DEADLINE_S = 10,
	EXIT_GONE = 3, /* the process went away under the scan */
};

struct pattern {
	char *name;
	uint8_t *bytes;
	uint32_t len;
};

struct window {
	const struct pattern *pattern;
	uint32_t offset;
	struct window *next;
};

static pid_t stopped; /* by us; it goes on when we end, however that is */

static struct pattern *patterns;
static size_t n_patterns;
static struct window **table;		       /* by the hash of a window's first 8 bytes */
static uint8_t filter[1 << (FILTER_BITS - 3)]; /* a bit a slot that is taken: stays in the processor's cache */

struct mapping {
	uint64_t start, end;
	char perms[8], name[512], flags[256];
	bool anonymous; /* no file behind it */
};

struct scan {
	pid_t pid;
	int mem, pagemap;
	uint8_t *buf; /* WINDOW - 1 bytes of what came before, then a chunk */
	size_t tail;
	uint64_t tail_end, bytes;
	unsigned n_mappings;
	uint64_t reported_end; /* of the last hit */
};

static _Noreturn void die(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	(void)fputs("scan: ", stderr);
	(void)vfprintf(stderr, fmt, ap);
	(void)fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

static void go_on(void)
{
	if (stopped)
		(void)kill(stopped, SIGCONT);
	stopped = 0;
}

static void *must(void *p)
{
	if (!p)
		die("out of memory");
	return p;
}

/* --- patterns */

static bool read_all(void *p, size_t n)
{
	size_t got = fread(p, 1, n, stdin);
	if (got == 0 && feof(stdin))
		return false;
	if (got != n)
		die("a pattern ends too early");
	return true;
}

static size_t slot_of(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof v);
	return (size_t)((v * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - FILTER_BITS));
}

static const struct window *find_window(const uint8_t *p)
{
	for (const struct window *w = table[slot_of(p)]; w; w = w->next)
		if (memcmp(w->pattern->bytes + w->offset, p, WINDOW) == 0)
			return w;
	return NULL;
}

static void read_patterns(void)
{
	table = must(calloc((size_t)1 << FILTER_BITS, sizeof(struct window *)));
	uint32_t len[2];
	while (read_all(len, sizeof len)) {
		if (len[0] > 4096 || len[1] < WINDOW || len[1] > 1 << 24)
			die("a pattern of %u bytes", len[1]);
		patterns = must(reallocarray(patterns, n_patterns + 1, sizeof *patterns));
		struct pattern *p = &patterns[n_patterns++];
		p->name = must(calloc(1, len[0] + 1));
		p->bytes = must(malloc(len[1]));
		p->len = len[1];
		if (!read_all(p->name, len[0]) || !read_all(p->bytes, len[1]))
			die("a pattern ends too early");
	}
	if (!n_patterns)
		die("no patterns");
	/* Only now: patterns[] does not move any more. */
	for (size_t i = 0; i < n_patterns; i++) {
		for (uint32_t o = 0; o + WINDOW <= patterns[i].len; o++) {
			if (find_window(patterns[i].bytes + o))
				continue;
			struct window *w = must(malloc(sizeof *w));
			size_t slot = slot_of(patterns[i].bytes + o);
			*w = (struct window){ &patterns[i], o, table[slot] };
			table[slot] = w;
			filter[slot / 8] |= (uint8_t)(1U << slot % 8);
		}
	}
}

/* --- reading */

static void print_mapping(const char *what, const struct mapping *m)
{
	(void)printf("%s\t%" PRIx64 "-%" PRIx64 "\t%s\t%s\t%s\n", what, m->start, m->end, m->perms, m->flags, m->name);
}

static void look(struct scan *s, const struct mapping *m, uint64_t at, size_t n)
{
	const uint8_t *p = s->buf + WINDOW - 1;
	size_t before = 0;
	if (s->tail && s->tail_end == at)
		before = s->tail;
	p -= before;
	n += before;
	at -= before;
	for (size_t i = 0; i + WINDOW <= n; i++) {
		size_t slot = slot_of(p + i);
		if (!(filter[slot / 8] >> slot % 8 & 1))
			continue;
		const struct window *w = find_window(p + i);
		if (!w || at + i + WINDOW <= s->reported_end)
			continue;
		size_t len = WINDOW;
		while (i + len < n && w->offset + len < w->pattern->len &&
		       p[i + len] == w->pattern->bytes[w->offset + len])
			len++;
		(void)printf("hit\t%s\t%u\t%zu\t%" PRIx64 "\t%" PRIx64 "-%" PRIx64 "\t%s\t%s\t%s\n", w->pattern->name,
			     w->offset, len, at + i, m->start, m->end, m->perms, m->flags, m->name);
		s->reported_end = at + i + len;
	}
	s->bytes += n - before;
	s->tail = n < WINDOW - 1 ? n : WINDOW - 1;
	s->tail_end = at + n;
	memmove(s->buf + WINDOW - 1 - s->tail, p + n - s->tail, s->tail);
}

/* Whether the page is there: in memory (bit 63) or swapped out (bit 62). */
static bool page_present(const struct scan *s, uint64_t at)
{
	uint64_t entry = 0;
	if (pread(s->pagemap, &entry, sizeof entry, (off_t)(at / PAGE * sizeof entry)) != sizeof entry)
		return true;
	return entry >> 62;
}

static bool is_special(const struct mapping *m)
{
	/* Pages of the kernel's, the same for every process. */
	return strncmp(m->name, "[vvar", 5) == 0 || strcmp(m->name, "[vsyscall]") == 0;
}

static bool is_secret(const struct mapping *m)
{
	return strncmp(m->name, "/secretmem", 10) == 0;
}

/* A range that is read in one go, or page by page when that fails. False: some of it holds what cannot be read. */
static bool read_range(struct scan *s, const struct mapping *m, uint64_t at, uint64_t end)
{
	bool all = true;
	while (at < end) {
		size_t want = end - at < CHUNK ? (size_t)(end - at) : CHUNK;
		ssize_t n = pread(s->mem, s->buf + WINDOW - 1, want, (off_t)at);
		if (n > 0) {
			look(s, m, at, (size_t)n);
			at += (uint64_t)n;
			continue;
		}
		if (n == 0)
			exit(EXIT_GONE); /* no memory any more: it is a zombie */
		if (page_present(s, at))
			all = false;
		at = (at / PAGE + 1) * PAGE;
	}
	return all;
}

/* Only what was ever touched. */
static bool read_present(struct scan *s, const struct mapping *m)
{
	enum { MANY = 4096 };
	static uint64_t entry[MANY];
	bool all = true;
	uint64_t from = 0; /* of a run of pages that are there; 0: none */
	for (uint64_t at = m->start; at < m->end;) {
		size_t pages = (size_t)((m->end - at) / PAGE);
		if (pages > MANY)
			pages = MANY;
		ssize_t n = pread(s->pagemap, entry, pages * sizeof *entry, (off_t)(at / PAGE * sizeof *entry));
		if (n <= 0)
			return read_range(s, m, at, m->end) && all;
		pages = (size_t)n / sizeof *entry;
		for (size_t i = 0; i < pages; i++) {
			bool here = entry[i] >> 62;
			if (here && !from)
				from = at + i * PAGE;
			if (!here && from) {
				all = read_range(s, m, from, at + i * PAGE) && all;
				from = 0;
			}
		}
		at += pages * PAGE;
	}
	return !from || (read_range(s, m, from, m->end) && all);
}

static void scan_mapping(struct scan *s, const struct mapping *m)
{
	print_mapping("mapping", m);
	s->n_mappings++;
	if (is_special(m))
		return;
	bool all = m->anonymous ? read_present(s, m) : read_range(s, m, m->start, m->end);
	if (is_secret(m)) {
		if (!all)
			print_mapping("secret", m);
		return;
	}
	if (!all)
		print_mapping("unreadable", m);
}

static struct mapping *read_mappings(pid_t pid, size_t *ret_n)
{
	char path[64], line[1024];
	(void)snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
	FILE *f = fopen(path, "re");
	if (!f)
		exit(EXIT_GONE);
	struct mapping *list = NULL;
	size_t n = 0;
	while (fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		uint64_t start, end, inode;
		int name_at = 0;
		char perms[8];
		/* A line of a value, "Rss: ", has no '-' where an address ends. */
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*x %*x:%*x %" SCNu64 " %n", &start, &end, perms, &inode,
			   &name_at) >= 4) {
			list = must(reallocarray(list, n + 1, sizeof *list));
			struct mapping *m = &list[n++];
			*m = (struct mapping){ .start = start, .end = end, .anonymous = inode == 0 };
			memcpy(m->perms, perms, sizeof perms);
			(void)snprintf(m->name, sizeof m->name, "%s", name_at ? line + name_at : "");
		} else if (n && strncmp(line, "VmFlags: ", 9) == 0) {
			(void)snprintf(list[n - 1].flags, sizeof list[n - 1].flags, "%.250s", line + 9);
		}
	}
	(void)fclose(f);
	*ret_n = n;
	return list;
}

/* --- stopping */

/* The state letter of one thread; 'X' when there is none. */
static char state_of(pid_t pid, const char *tid)
{
	char path[512], text[512];
	(void)snprintf(path, sizeof path, "/proc/%d/task/%s/stat", (int)pid, tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 'X';
	ssize_t n = read(fd, text, sizeof text - 1);
	(void)close(fd);
	if (n <= 0)
		return 'X';
	text[n] = 0;
	const char *p = strrchr(text, ')');
	return p && p[1] ? p[2] : 'X';
}

static bool all_stopped(pid_t pid)
{
	char path[64];
	(void)snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
	DIR *d = opendir(path);
	if (!d)
		exit(EXIT_GONE);
	bool all = true;
	const struct dirent *e;
	while ((e = readdir(d))) {
		if (*e->d_name == '.')
			continue;
		char state = state_of(pid, e->d_name);
		if (state == 'Z')
			exit(EXIT_GONE);
		all = all && (state == 'T' || state == 't' || state == 'X');
	}
	(void)closedir(d);
	return all;
}

static void stop(pid_t pid)
{
	if (kill(pid, SIGSTOP) < 0)
		exit(EXIT_GONE);
	stopped = pid;
	for (time_t until = time(NULL) + STOP_DEADLINE_S; !all_stopped(pid);) {
		if (time(NULL) > until)
			die("process %d does not stop", (int)pid);
		struct timespec moment = { .tv_nsec = 100000 };
		(void)nanosleep(&moment, NULL);
	}
}

static void scan_process(pid_t pid, bool running)
{
	char number[16], path[64];
	(void)snprintf(number, sizeof number, "%d", (int)pid);
	char state = state_of(pid, number);
	if (!running && state != 'T' && state != 't')
		stop(pid);
	struct scan s = { .pid = pid };
	(void)snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
	s.mem = open(path, O_RDONLY | O_CLOEXEC);
	(void)snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
	s.pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (s.mem < 0 || s.pagemap < 0) {
		if (errno == ENOENT || errno == ESRCH)
			exit(EXIT_GONE);
		die("process %d cannot be looked at: %s", (int)pid, strerror(errno));
	}
	s.buf = must(malloc(CHUNK + WINDOW));
	size_t n = 0;
	struct mapping *list = read_mappings(pid, &n);
	for (size_t i = 0; i < n; i++)
		scan_mapping(&s, &list[i]);
	go_on();
	(void)printf("scanned\t%d\t%" PRIu64 "\t%u\n", (int)pid, s.bytes, s.n_mappings);
	free(list);
	free(s.buf);
	(void)close(s.mem);
	(void)close(s.pagemap);
}

static void scan_file(const char *path)
{
	struct scan s = { .mem = open(path, O_RDONLY | O_CLOEXEC) };
	if (s.mem < 0)
		die("%s: %s", path, strerror(errno));
	s.buf = must(malloc(CHUNK + WINDOW));
	struct mapping whole = { .perms = "r--p", .flags = "" };
	(void)snprintf(whole.name, sizeof whole.name, "%s", path);
	ssize_t n;
	for (uint64_t at = 0; (n = pread(s.mem, s.buf + WINDOW - 1, CHUNK, (off_t)at)) != 0; at += (uint64_t)n) {
		if (n < 0)
			die("%s: %s", path, strerror(errno));
		look(&s, &whole, at, (size_t)n);
	}
	(void)printf("scanned\t0\t%" PRIu64 "\t1\n", s.bytes);
	free(s.buf);
	(void)close(s.mem);
}

int main(int argc, char **argv)
{
	int first = 1;
	if (argc == 3 && strcmp(argv[1], "--file") == 0) {
		read_patterns();
		scan_file(argv[2]);
		return fflush(stdout) == 0 ? 0 : 1;
	}
	bool running = argc > 1 && strcmp(argv[1], "--running") == 0;
	if (running)
		first++;
	if (argc <= first)
		die("scan [--running] PID... | --file FILE");
	(void)atexit(go_on);
	read_patterns();
	for (int i = first; i < argc; i++) {
		long pid = strtol(argv[i], NULL, 10);
		if (pid <= 1)
			die("%s is no process", argv[i]);
		scan_process((pid_t)pid, running);
	}
	return fflush(stdout) == 0 ? 0 : 1;
}
