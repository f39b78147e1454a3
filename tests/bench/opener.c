/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load: readers that do open, read, close of a file for some seconds. Nothing is pinned.
 *
 *   opener [-n READERS] [-s SECONDS] [-p] [-w MICROSECONDS] [-j] PATH
 *
 * -p makes the readers processes instead of threads; -w lets each reader sleep between two rounds (sparse load); -j
 * prints JSON. Latency is one open+read+close by CLOCK_MONOTONIC; p50 and p99 are over the samples of all readers
 * together. Exit 1 when a read fails or is empty.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_READERS = 64 };
/* 64 buckets an octave: constant memory whatever the rate, resolution 1.6 %. */
enum { SUB = 64, BUCKETS = 40 * SUB };

struct reader {
	uint64_t count;
	uint64_t sum_ns;
	uint64_t max_ns;
	int error; /* errno of the first failure */
	uint32_t hist[BUCKETS];
};

struct shared {
	_Atomic bool stop;
	_Atomic int ready;
	_Atomic bool go;
	struct reader readers[];
};

static struct shared *shared;
static const char *path;
static unsigned pause_us;

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static unsigned bucket_of(uint64_t ns)
{
	if (ns < SUB)
		return (unsigned)ns;
	unsigned top = 63u - (unsigned)__builtin_clzll(ns);
	unsigned shift = top - 6;
	unsigned b = (shift + 1) * SUB + (unsigned)((ns >> shift) & (SUB - 1));
	return b < BUCKETS ? b : BUCKETS - 1;
}

static double bucket_mid(unsigned b)
{
	if (b < SUB)
		return b;
	unsigned shift = b / SUB - 1;
	return (double)((uint64_t)(SUB + b % SUB) << shift) + 0.5 * (double)(1ull << shift);
}

static int one_round(void)
{
	char buf[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	ssize_t n = read(fd, buf, sizeof buf);
	int r = n < 0 ? errno : n == 0 ? ENODATA : 0;
	close(fd);
	return r;
}

static void *reader_run(void *arg)
{
	struct reader *me = arg;
	/* the first rounds fill caches (entries, attributes, the server's own): they are not what is measured */
	for (int i = 0; i < 50 && !me->error; i++)
		me->error = one_round();
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->go))
		usleep(1000);
	while (!me->error && !atomic_load_explicit(&shared->stop, memory_order_relaxed)) {
		uint64_t start = now_ns();
		me->error = one_round();
		uint64_t took = now_ns() - start;
		me->hist[bucket_of(took)]++;
		me->count++;
		me->sum_ns += took;
		if (took > me->max_ns)
			me->max_ns = took;
		if (pause_us)
			usleep(pause_us);
	}
	return NULL;
}

static double quantile(const uint64_t *hist, uint64_t total, double q)
{
	double want = q * (double)total, seen = 0;
	for (unsigned b = 0; b < BUCKETS; b++) {
		seen += (double)hist[b];
		if (hist[b] && seen >= want)
			return bucket_mid(b) / 1000.0;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int n = 1, opt;
	double seconds = 2;
	bool processes = false, json = false;
	while ((opt = getopt(argc, argv, "n:s:pw:j")) != -1) {
		switch (opt) {
		case 'n':
			n = atoi(optarg);
			break;
		case 's':
			seconds = atof(optarg);
			break;
		case 'p':
			processes = true;
			break;
		case 'w':
			pause_us = (unsigned)atoi(optarg);
			break;
		case 'j':
			json = true;
			break;
		default:
			return 64;
		}
	}
	if (optind != argc - 1 || n < 1 || n > MAX_READERS || seconds <= 0) {
		fprintf(stderr, "usage: opener [-n READERS] [-s SECONDS] [-p] [-w MICROSECONDS] [-j] PATH\n");
		return 64;
	}
	path = argv[optind];

	shared = mmap(NULL, sizeof *shared + (size_t)n * sizeof(struct reader), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (shared == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	pthread_t threads[MAX_READERS];
	pid_t pids[MAX_READERS];
	for (int i = 0; i < n; i++) {
		if (processes) {
			pids[i] = fork();
			if (pids[i] == 0) {
				reader_run(&shared->readers[i]);
				_exit(0);
			}
		} else if (pthread_create(&threads[i], NULL, reader_run, &shared->readers[i]) != 0) {
			return 1;
		}
	}
	while (atomic_load(&shared->ready) < n)
		usleep(1000);
	uint64_t start = now_ns();
	atomic_store(&shared->go, true);
	struct timespec t = { .tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9) };
	nanosleep(&t, NULL);
	atomic_store(&shared->stop, true);
	uint64_t elapsed = now_ns() - start;
	for (int i = 0; i < n; i++) {
		if (processes)
			waitpid(pids[i], NULL, 0);
		else
			pthread_join(threads[i], NULL);
	}

	static uint64_t hist[BUCKETS];
	uint64_t total = 0, sum = 0, max = 0;
	for (int i = 0; i < n; i++) {
		const struct reader *r = &shared->readers[i];
		if (r->error) {
			fprintf(stderr, "opener: %s: %s\n", path, strerror(r->error));
			return 1;
		}
		for (unsigned b = 0; b < BUCKETS; b++)
			hist[b] += r->hist[b];
		total += r->count;
		sum += r->sum_ns;
		max = r->max_ns > max ? r->max_ns : max;
	}
	if (total == 0) {
		fprintf(stderr, "opener: no round finished in %g s\n", seconds);
		return 1;
	}
	double p50 = quantile(hist, total, 0.5), p99 = quantile(hist, total, 0.99);
	double p999 = quantile(hist, total, 0.999), mean = (double)sum / (double)total / 1000;
	double rate = (double)total * 1e9 / (double)elapsed;
	if (json)
		printf("{\"readers\": %d, \"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"mean_us\": %.2f, "
		       "\"max_us\": %.1f, \"ops_per_s\": %.0f}\n",
		       n, p50, p99, p999, mean, (double)max / 1000, rate);
	else
		printf("readers %d  p50 %.2f us  p99 %.2f us  p99.9 %.2f us  mean %.2f us  max %.1f us  %.0f ops/s\n",
		       n, p50, p99, p999, mean, (double)max / 1000, rate);
	return 0;
}
