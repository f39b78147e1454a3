/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the secret heap costs beside glibc's: two threads replay what OpenSSL, libcurl and cJSON asked of their allocator
 * during 100 HTTPS GETs over one connection (heap.trace, recorded), each block touched at both ends.
 *
 *   heap [-j] [-r ROUNDS] [TRACE]
 *
 * The two take turns, round by round, in one process; printed are the medians and the median of the rounds' ratios.
 */
#include "base/cleanup.h"
#include "base/secmem.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 2, GET_REPEATS = 47, REPLAYS = 20, WARM_UP = 2, MAX_ROUNDS = 201 };

struct op {
	char what; /* + malloc, * calloc, = realloc, - free */
	uint32_t slot;
	uint32_t size;
};

struct part {
	struct op *ops;
	size_t n;
};

struct trace {
	struct part connect, get;
	uint32_t n_slots;
};

struct allocator {
	const char *name;
	void *(*malloc)(size_t);
	void *(*calloc)(size_t, size_t);
	void *(*realloc)(void *, size_t);
	void (*free)(void *);
};

static const struct allocator allocators[] = {
	{ "glibc", malloc, calloc, realloc, free },
	{ "secret heap", sec_malloc, sec_calloc, sec_realloc, sec_free },
};

struct worker {
	pthread_t thread;
	const struct allocator *alloc;
	void **slots;
	uint64_t started_ns, ended_ns;
	bool failed;
};

static struct trace trace;
static pthread_barrier_t barrier;

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int part_add(struct part *p, struct op op)
{
	if ((p->n & (p->n - 1)) == 0) {
		struct op *bigger = realloc(p->ops, (p->n ? p->n * 2 : 1) * sizeof *bigger);
		if (!bigger)
			return -ENOMEM;
		p->ops = bigger;
	}
	p->ops[p->n++] = op;
	return 0;
}

static int line_load(char *line, struct part *part)
{
	char *save = NULL;
	for (char *word = strtok_r(line, ",\n", &save); word; word = strtok_r(NULL, ",\n", &save)) {
		while (*word == ' ')
			word++;
		struct op op = { .what = *word };
		char *end = NULL;
		if (!strchr("+*=-", op.what) || !isdigit((unsigned char)word[1]))
			return -EINVAL;
		op.slot = (uint32_t)strtoul(word + 1, &end, 10);
		if (op.what != '-')
			op.size = (uint32_t)strtoul(end, &end, 10);
		if (*end != '\0' || op.slot >= 1000000 || op.size > 1 << 20)
			return -EINVAL;
		if (op.slot >= trace.n_slots)
			trace.n_slots = op.slot + 1;
		int r = part_add(part, op);
		if (r < 0)
			return r;
	}
	return 0;
}

/* A trace that frees what is not there would measure something else. */
static int part_check(const struct part *p, bool *live)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct op *op = &p->ops[i];
		bool new = op->what == '+' || op->what == '*';
		if (live[op->slot] == new)
			return -EINVAL;
		live[op->slot] = op->what != '-';
	}
	return 0;
}

static int trace_load(const char *path)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return -errno;
	char line[256];
	struct part *part = NULL;
	int r = 0;
	while (r == 0 && fgets(line, sizeof line, f)) {
		if (line[0] == '#')
			continue;
		if (strcmp(line, "connect\n") == 0)
			part = &trace.connect;
		else if (strcmp(line, "get\n") == 0)
			part = &trace.get;
		else
			r = part ? line_load(line, part) : -EINVAL;
	}
	fclose(f);
	if (r < 0 || trace.connect.n == 0 || trace.get.n == 0)
		return r < 0 ? r : -EINVAL;
	cleanup_free bool *live = calloc(trace.n_slots, sizeof *live);
	if (!live)
		return -ENOMEM;
	r = part_check(&trace.connect, live);
	for (int i = 0; i < 2 && r == 0; i++)
		r = part_check(&trace.get, live);
	return r;
}

static bool part_run(const struct part *p, const struct allocator *a, void **slots)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct op *op = &p->ops[i];
		void **slot = &slots[op->slot];
		switch (op->what) {
		case '+':
			*slot = a->malloc(op->size);
			break;
		case '*':
			*slot = a->calloc(1, op->size);
			break;
		case '=':
			*slot = a->realloc(*slot, op->size);
			break;
		default:
			a->free(*slot);
			*slot = NULL;
			continue;
		}
		if (!*slot)
			return false;
		volatile char *bytes = *slot;
		if (op->size > 0) {
			bytes[0] = 1;
			bytes[op->size - 1] = 1;
		}
	}
	return true;
}

static void *worker_run(void *arg)
{
	struct worker *w = arg;
	pthread_barrier_wait(&barrier);
	w->started_ns = now_ns();
	for (int i = 0; i < REPLAYS && !w->failed; i++) {
		w->failed = !part_run(&trace.connect, w->alloc, w->slots);
		for (int k = 0; k < GET_REPEATS && !w->failed; k++)
			w->failed = !part_run(&trace.get, w->alloc, w->slots);
		for (uint32_t s = 0; s < trace.n_slots; s++) {
			if (w->slots[s])
				w->alloc->free(w->slots[s]);
			w->slots[s] = NULL;
		}
	}
	w->ended_ns = now_ns();
	return NULL;
}

/* Nanoseconds an operation, from when the first thread starts until the last is done; negative when memory ran out. */
static double round_run(const struct allocator *a, void **slots)
{
	struct worker workers[THREADS] = { 0 };
	for (int i = 0; i < THREADS; i++) {
		workers[i].alloc = a;
		workers[i].slots = slots + (size_t)i * trace.n_slots;
		if (pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]) != 0)
			abort();
	}
	uint64_t first = UINT64_MAX, last = 0;
	bool failed = false;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		first = workers[i].started_ns < first ? workers[i].started_ns : first;
		last = workers[i].ended_ns > last ? workers[i].ended_ns : last;
		failed = failed || workers[i].failed;
	}
	size_t ops = REPLAYS * (trace.connect.n + GET_REPEATS * trace.get.n);
	return failed ? -1 : (double)(last - first) / (double)ops;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof *v, compare);
	return v[n / 2];
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	int r = secmem_init(SECMEM_REQUIRED, &e);
	if (r < 0) {
		fprintf(stderr, "heap: %s\n", err_msg(&e, r));
		return 1;
	}
	bool json = false;
	int rounds = 21, opt;
	while ((opt = getopt(argc, argv, "jr:")) != -1) {
		if (opt == 'j')
			json = true;
		else if (opt == 'r')
			rounds = atoi(optarg);
		else
			return 64;
	}
	if (rounds < 1 || rounds > MAX_ROUNDS || optind < argc - 1) {
		fprintf(stderr, "usage: heap [-j] [-r ROUNDS] [TRACE]\n");
		return 64;
	}
	const char *path = optind < argc ? argv[optind] : "tests/bench/heap.trace";
	r = trace_load(path);
	if (r < 0) {
		fprintf(stderr, "heap: %s: %s\n", path, strerror(-r));
		return 1;
	}
	cleanup_free void **slots = calloc((size_t)THREADS * trace.n_slots, sizeof *slots);
	if (!slots || pthread_barrier_init(&barrier, NULL, THREADS) != 0)
		return 1;

	double ns[2][MAX_ROUNDS], ratio[MAX_ROUNDS];
	for (int i = -WARM_UP; i < rounds; i++) {
		for (int which = 0; which < 2; which++) {
			double took = round_run(&allocators[which], slots);
			if (took < 0) {
				fprintf(stderr, "heap: %s: no memory\n", allocators[which].name);
				return 1;
			}
			if (i >= 0)
				ns[which][i] = took;
		}
		if (i >= 0)
			ratio[i] = ns[1][i] / ns[0][i];
	}
	struct secmem_stats stats;
	secmem_get_stats(&stats);
	double glibc = median(ns[0], rounds), sec = median(ns[1], rounds), middle = median(ratio, rounds);
	if (json)
		printf("{\"glibc_ns\": %.2f, \"secret_ns\": %.2f, \"ratio\": %.3f, \"memory\": \"%s\", \"threads\": "
		       "%d}\n",
		       glibc, sec, middle, secmem_kind_name(stats.kind), THREADS);
	else
		printf("glibc %.1f ns, secret heap (%s) %.1f ns an operation of each of %d threads: %.2fx\n", glibc,
		       secmem_kind_name(stats.kind), sec, THREADS, middle);
	return 0;
}
