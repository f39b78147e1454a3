/* SPDX-License-Identifier: Apache-2.0 */
/*
 * holder PLACE: keeps the 64 bytes that it reads from standard input in one place of its memory, and nowhere else; says
 * "ready" and waits for the end of its input. What the scan is tried on.
 */
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BYTES = 64, PAGE = 4096, HALF = 24 };

static uint8_t in_data[BYTES];
static sem_t ready;

static void need(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

/* Reads with the help of no buffer: the bytes are where `to` is, and nowhere else. */
static void fill(uint8_t *to, size_t n)
{
	while (n) {
		ssize_t got = read(STDIN_FILENO, to, n);
		need(got > 0, "read");
		to += got;
		n -= (size_t)got;
	}
}

static void *page_of(int flags, int fd, size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, flags, fd, 0);
	need(p != MAP_FAILED, "mmap");
	return p;
}

static void *on_stack(void *arg)
{
	volatile uint8_t here[BYTES];
	fill((uint8_t *)here, sizeof here);
	need(sem_post(&ready) == 0, "sem_post");
	(void)pause();
	return (void *)((uintptr_t)here[0] + (uintptr_t)arg);
}

static int memory_file(const char *kind)
{
	int fd = -1;
	if (strcmp(kind, "memfd") == 0)
		fd = memfd_create("holder", MFD_CLOEXEC);
	else
		fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
	need(fd >= 0 && ftruncate(fd, PAGE) == 0, kind);
	return fd;
}

static void keep(const char *place)
{
	const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
	if (strcmp(place, "nothing") == 0) {
		return;
	} else if (strcmp(place, "data") == 0) {
		fill(in_data, BYTES);
	} else if (strcmp(place, "heap") == 0) {
		uint8_t *p = malloc(1 << 16);
		need(p != NULL, "malloc");
		fill(p + 1001, BYTES);
	} else if (strcmp(place, "half") == 0) {
		uint8_t *p = page_of(anonymous, -1, PAGE);
		fill(p + 100, BYTES);
		memset(p + 100, 0, BYTES - HALF);
	} else if (strcmp(place, "boundary") == 0) {
		/* Across the place where the scan goes from one read to the next. */
		uint8_t *p = page_of(anonymous, -1, 4 << 20);
		memset(p, 1, 4 << 20);
		fill(p + (1 << 20) - 20, BYTES);
	} else if (strcmp(place, "hidden") == 0) {
		uint8_t *p = page_of(anonymous, -1, PAGE);
		fill(p, BYTES);
		need(mprotect(p, PAGE, PROT_NONE) == 0, "mprotect");
	} else if (strcmp(place, "reserved") == 0) {
		/* One page in the midst of many that nobody touched. */
		uint8_t *p = page_of(anonymous | MAP_NORESERVE, -1, (size_t)1 << 32);
		fill(p + ((size_t)3 << 30), BYTES);
	} else if (strcmp(place, "shared") == 0) {
		fill(page_of(MAP_SHARED | MAP_ANONYMOUS, -1, PAGE), BYTES);
	} else if (strcmp(place, "memfd") == 0) {
		int fd = memory_file(place);
		fill(page_of(MAP_SHARED, fd, PAGE), BYTES);
	} else if (strcmp(place, "untouched") == 0) {
		/* Mapped anew, and not looked at since: only the file has it. */
		int fd = memory_file("memfd");
		uint8_t *p = page_of(MAP_SHARED, fd, PAGE);
		fill(p, BYTES);
		need(munmap(p, PAGE) == 0, "munmap");
		(void)page_of(MAP_SHARED, fd, PAGE);
	} else if (strcmp(place, "secret") == 0) {
		int fd = memory_file(place);
		fill(page_of(MAP_SHARED, fd, PAGE), BYTES);
		(void)close(fd);
	} else if (strcmp(place, "stack") == 0) {
		pthread_t t;
		need(sem_init(&ready, 0, 0) == 0, "sem_init");
		need(pthread_create(&t, NULL, on_stack, NULL) == 0, "pthread_create");
		need(sem_wait(&ready) == 0, "sem_wait");
	} else {
		(void)fprintf(stderr, "holder: no place %s\n", place);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	need(argc == 2, "holder PLACE");
	keep(argv[1]);
	(void)!write(STDOUT_FILENO, "ready\n", 6);
	char end;
	(void)!read(STDIN_FILENO, &end, 1);
	return 0;
}
