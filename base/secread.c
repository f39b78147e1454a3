/* SPDX-License-Identifier: Apache-2.0 */
/* Files into secret memory, by read(2) alone: stdio would leave its buffer behind. */
#include "base/cleanup.h"
#include "base/secmem.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

int sec_read_fd(int fd, size_t max, char **ret, size_t *ret_len, struct err *e)
{
	size_t cap = 1024, len = 0;
	cleanup_sec char *buf = sec_malloc(cap);
	if (!buf)
		return err_set(e, ENOMEM, "out of secret memory: raise RLIMIT_MEMLOCK (ulimit -l)");
	for (;;) {
		if (len + 1 >= cap) {
			if (len > max)
				return err_set(e, EMSGSIZE, "more than %zu bytes", max);
			char *bigger = sec_realloc(buf, cap * 2);
			if (!bigger)
				return err_set(e, ENOMEM, "out of secret memory: raise RLIMIT_MEMLOCK (ulimit -l)");
			buf = bigger;
			cap *= 2;
		}
		ssize_t n = read(fd, buf + len, cap - len - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, errno, "cannot read");
		if (n == 0)
			break;
		len += (size_t)n;
	}
	if (len > max)
		return err_set(e, EMSGSIZE, "more than %zu bytes", max);
	buf[len] = 0;
	*ret = TAKE_PTR(buf);
	if (ret_len)
		*ret_len = len;
	return 0;
}

int sec_read_file(const char *path, size_t max, bool private_only, char **ret, size_t *ret_len, struct err *e)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return err_sys(e, errno, "%s", path);
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "%s", path);
	if (S_ISDIR(st.st_mode))
		return err_set(e, EISDIR, "%s: is a folder", path);
	if (private_only && S_ISREG(st.st_mode) && (st.st_mode & 077))
		return err_set(e, EPERM, "%s: others may read or write it (mode %04o): chmod 600 it", path,
			       (unsigned)st.st_mode & 07777);
	int r = sec_read_fd(fd, max, ret, ret_len, e);
	return r < 0 ? err_wrap(e, "%s", path) : 0;
}
