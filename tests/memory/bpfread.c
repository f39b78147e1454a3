/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bpfread PID ADDRESS SIZE: what root can do. A BPF program on the tracepoint of every system call reads SIZE bytes at an
 * address of that process while it runs in the process's own context; the bytes go to standard output. Says "attached" on
 * standard error when it is there, and waits for a system call of the process. Plain bpf(2), no library.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SIZE_MAX_HERE = 4096, DEADLINE_S = 20, LOG_SIZE = 65536 };

/* The value of the map's one element. */
struct answer {
	int64_t state; /* 0: not yet, 1: read, negative: the errno of the read */
	uint8_t bytes[SIZE_MAX_HERE];
};

static long bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof *attr);
}

static _Noreturn void fail(const char *what)
{
	(void)fprintf(stderr, "bpfread: %s: %s\n", what, strerror(errno));
	exit(1);
}

#define INSN(c, d, s, o, i) \
	{ \
		.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (int32_t)(i) \
	}
#define MOVE(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SET(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD(d, i) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define CALL(f) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define LOAD64(d, kind, v) \
	INSN(BPF_LD | BPF_DW | BPF_IMM, d, kind, 0, (uint32_t)(v)), INSN(0, 0, 0, 0, (uint32_t)((uint64_t)(v) >> 32))

static int load(int map, uint32_t pid, uint64_t address, uint32_t size)
{
	const struct bpf_insn program[] = {
		/*  0 */ CALL(BPF_FUNC_get_current_pid_tgid),
		/*  1 */ INSN(BPF_ALU64 | BPF_RSH | BPF_K, BPF_REG_0, 0, 0, 32),
		/*  2 */ INSN(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_0, 0, 18, pid), /* to 21 */
		/*  3 */ INSN(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, -4, 0),
		/*  4 */ MOVE(BPF_REG_2, BPF_REG_10),
		/*  5 */ ADD(BPF_REG_2, -4),
		/*  6 */ LOAD64(BPF_REG_1, BPF_PSEUDO_MAP_FD, map),
		/*  8 */ CALL(BPF_FUNC_map_lookup_elem),
		/*  9 */ INSN(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 11, 0), /* to 21 */
		/* 10 */ MOVE(BPF_REG_6, BPF_REG_0),
		/* 11 */ MOVE(BPF_REG_1, BPF_REG_6),
		/* 12 */ ADD(BPF_REG_1, offsetof(struct answer, bytes)),
		/* 13 */ SET(BPF_REG_2, size),
		/* 14 */ LOAD64(BPF_REG_3, 0, address),
		/* 16 */ CALL(BPF_FUNC_probe_read_user),
		/* 17 */ INSN(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_0, 0, 1, 0), /* to 19 */
		/* 18 */ SET(BPF_REG_0, 1),
		/* 19 */ INSN(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_6, BPF_REG_0, offsetof(struct answer, state), 0),
		/* 20 */ SET(BPF_REG_0, 0),
		/* 21 */ SET(BPF_REG_0, 0),
		/* 22 */ INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	static char log[LOG_SIZE];
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT,
		.insns = (uintptr_t)program,
		.insn_cnt = sizeof program / sizeof *program,
		.license = (uintptr_t) "GPL", /* the kernel gives this helper to no other */
		.log_buf = (uintptr_t)log,
		.log_size = sizeof log,
		.log_level = 1,
	};
	int fd = (int)bpf(BPF_PROG_LOAD, &attr);
	if (fd < 0) {
		(void)fputs(log, stderr);
		fail("BPF_PROG_LOAD");
	}
	return fd;
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		(void)fprintf(stderr, "bpfread PID ADDRESS SIZE\n");
		return 64;
	}
	uint32_t pid = (uint32_t)strtoul(argv[1], NULL, 10), size = (uint32_t)strtoul(argv[3], NULL, 0);
	uint64_t address = strtoull(argv[2], NULL, 0);
	if (size == 0 || size > SIZE_MAX_HERE) {
		(void)fprintf(stderr, "bpfread: at most %d bytes\n", SIZE_MAX_HERE);
		return 64;
	}
	union bpf_attr make = {
		.map_type = BPF_MAP_TYPE_ARRAY,
		.key_size = 4,
		.value_size = sizeof(struct answer),
		.max_entries = 1,
	};
	int map = (int)bpf(BPF_MAP_CREATE, &make);
	if (map < 0)
		fail("BPF_MAP_CREATE");
	int program = load(map, pid, address, size);
	union bpf_attr attach = { .raw_tracepoint = { .name = (uintptr_t) "sys_enter", .prog_fd = (uint32_t)program } };
	if (bpf(BPF_RAW_TRACEPOINT_OPEN, &attach) < 0)
		fail("BPF_RAW_TRACEPOINT_OPEN");
	(void)fprintf(stderr, "attached\n");

	static struct answer answer;
	uint32_t key = 0;
	union bpf_attr look = { .map_fd = (uint32_t)map, .key = (uintptr_t)&key, .value = (uintptr_t)&answer };
	for (time_t until = time(NULL) + DEADLINE_S; time(NULL) < until;) {
		if (bpf(BPF_MAP_LOOKUP_ELEM, &look) < 0)
			fail("BPF_MAP_LOOKUP_ELEM");
		if (answer.state == 1)
			return fwrite(answer.bytes, 1, size, stdout) == size && fflush(stdout) == 0 ? 0 : 1;
		if (answer.state < 0) {
			errno = (int)-answer.state;
			fail("bpf_probe_read_user");
		}
		struct timespec moment = { .tv_nsec = 1000000 };
		(void)nanosleep(&moment, NULL);
	}
	(void)fprintf(stderr, "bpfread: process %u made no system call\n", pid);
	return 1;
}
