/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What /proc/TID/status says about a task.
 *
 * An open descriptor of that file belongs to the task, not to its number: once the task is reaped, a read gives -ESRCH,
 * whoever has the number by then. So a descriptor that still reads proves that the task is the one it was opened for.
 * (A thread that calls exec takes over the number of its thread group's leader, and the descriptor opened for the
 * leader follows: it is the same process.) The file is readable by everybody, of undumpable tasks too, unless /proc is
 * mounted with hidepid.
 *
 * Thread rules: no state; descriptors may be shared between threads (every read starts at offset 0).
 */
#ifndef CT_FS_PROC_H
#define CT_FS_PROC_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

struct fs_proc_status {
	pid_t pid; /* of the thread */
	pid_t tgid;
	pid_t ppid;   /* thread group of the real parent, not of a tracer; 0: none that we can see */
	pid_t tracer; /* thread id, 0: not traced (or by somebody in a pid namespace above ours) */
	uid_t ruid, euid, suid, fsuid;
};

/* /proc as an O_PATH descriptor, checked: it is procfs, and its numbers are those of our pid namespace. */
int must_use fs_proc_open(int *ret_fd, struct err *e);

/* -ESRCH when there is no such task (or none that we may see). Close-on-exec. */
int must_use fs_proc_status_open(int proc_fd, pid_t tid, int *ret_fd);

/* -ESRCH: the task is gone. -EPROTO: not understood. */
int must_use fs_proc_status_read(int fd, struct fs_proc_status *ret);
/* As read, of text; -EPROTO unless all of it is there and well-formed. The text need not be terminated. */
int must_use fs_proc_status_parse(const char *text, size_t len, struct fs_proc_status *ret);

/* Is one of the n groups among the task's supplementary ones? */
int must_use fs_proc_status_in_groups(int fd, const gid_t *groups, size_t n, bool *ret);
/* How many pid namespaces the task is in, counted from ours: 1 = ours, 2 = a child of it, ... */
int must_use fs_proc_status_level(int fd, unsigned *ret);

#endif
