/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two ways to a mount point that only this mount namespace sees. Where it is a directory already, FUSE is mounted right
 * over it. Where it is missing directly below /, the root is rebuilt:
 *
 *   1. a tmpfs over some directory, pivot_root(it, it/OLD): the tmpfs is the root now, everything else is below /OLD,
 *      and the directory that lent its place shows again what it had;
 *   2. every entry of /OLD gets an entry in the tmpfs and a recursive bind on it (recursive: in a user namespace the
 *      mounts below it are locked to it, and the kernel binds them together or not at all); symbolic links are copied;
 *   3. the mount point's directory, /OLD detached, the tmpfs made read-only: what is created in / by mistake fails
 *      instead of vanishing with the session.
 *
 * The kernel wants /dev/fuse opened by whoever has the mount's user namespace, hence after unshare.
 */
#include "fs/nsroot.h"

#include "base/cleanup.h"
#include "fs/mountpoint.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define OLD ".cloudtaser-old-root"

static inline void dir_closep(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}

/* The number in a file of /proc/sys, or `missing`. */
static long sysctl_number(const char *file, long missing)
{
	cleanup_close int fd = open(file, O_RDONLY | O_CLOEXEC);
	char text[32];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (n <= 0)
		return missing;
	text[n] = '\0';
	return strtol(text, NULL, 10);
}

/* Distributions close user namespaces with different switches: find the one that is set. */
static int no_user_namespace(int code, const char *did, struct err *e)
{
	static const char what[] = "a shell of one's own needs an unprivileged user namespace";
	if (sysctl_number("/proc/sys/kernel/unprivileged_userns_clone", 1) == 0)
		return err_set(e, EPERM,
			       "%s, and kernel.unprivileged_userns_clone is 0 here: ask the administrator for "
			       "`sysctl kernel.unprivileged_userns_clone=1`",
			       what);
	if (sysctl_number("/proc/sys/user/max_user_namespaces", 1) == 0)
		return err_set(e, EPERM,
			       "%s, and user.max_user_namespaces is 0 here: ask the administrator for "
			       "`sysctl user.max_user_namespaces=10000`",
			       what);
	if (sysctl_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) != 0)
		return err_set(e, EPERM,
			       "%s, and AppArmor restricts them here: ask the administrator for an AppArmor "
			       "profile for cloudtaser with `userns,` or for "
			       "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
			       what);
	if (code == ENOSPC)
		return err_set(e, EPERM,
			       "%s, and all that user.max_user_namespaces allows are in use (or they are nested "
			       "too deep)",
			       what);
	if (code == ENOSYS || code == EINVAL)
		return err_set(e, ENOSYS, "%s, and this kernel is built without them (CONFIG_USER_NS)", what);
	if (code == EPERM)
		return err_set(e, EPERM,
			       "%s, and %s is refused here: inside a container or a chroot, allow it there "
			       "(seccomp profile), or use `cloudtaser mount`",
			       what, did);
	return err_sys(e, code, "%s: %s", what, did);
}

static int write_proc(const char *file, const char *text)
{
	cleanup_close int fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static int enter_user_namespace(struct err *e)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	/* The files below /proc/self belong to root while a process may not be dumped. */
	if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0)
		return err_sys(e, errno, "prctl(PR_SET_DUMPABLE)");
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return no_user_namespace(errno, "unshare(2)", e);

	char map[64];
	/* The kernel wants setgroups closed before an unprivileged gid_map (user_namespaces(7)). */
	int r = write_proc("/proc/self/setgroups", "deny");
	if (r == 0) {
		(void)snprintf(map, sizeof map, "%u %u 1\n", uid, uid);
		r = write_proc("/proc/self/uid_map", map);
	}
	if (r == 0) {
		(void)snprintf(map, sizeof map, "%u %u 1\n", gid, gid);
		r = write_proc("/proc/self/gid_map", map);
	}
	return r < 0 ? no_user_namespace(-r, "writing its uid_map", e) : 0;
}

/* One entry of the old root, shown under the same name in the new one. */
static int show_entry(int old, const char *name, struct err *e)
{
	struct stat st;
	if (fstatat(old, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		/* Gone meanwhile, or a mount whose server is dead: nothing to show. */
		return errno == ENOENT || errno == ENOTCONN || errno == EACCES ? 0 : err_sys(e, errno, "/%s", name);
	}
	char from[sizeof "/" OLD "/" + NAME_MAX], to[1 + NAME_MAX + 1];
	(void)snprintf(from, sizeof from, "/" OLD "/%s", name);
	(void)snprintf(to, sizeof to, "/%s", name);

	if (S_ISLNK(st.st_mode)) {
		char target[PATH_MAX];
		ssize_t n = readlinkat(old, name, target, sizeof target - 1);
		if (n < 0)
			return errno == ENOENT ? 0 : err_sys(e, errno, "cannot read the link /%s", name);
		target[n] = '\0';
		return symlink(target, to) < 0 ? err_sys(e, errno, "cannot make the link /%s in the new root", name) :
						 0;
	}
	if (S_ISDIR(st.st_mode)) {
		if (mkdir(to, 0755) < 0)
			return err_sys(e, errno, "cannot make /%s in the new root", name);
	} else {
		cleanup_close int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0)
			return err_sys(e, errno, "cannot make /%s in the new root", name);
	}
	if (mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0) {
		if (errno == ENOENT && (S_ISDIR(st.st_mode) ? rmdir(to) : unlink(to)) == 0)
			return 0; /* gone meanwhile: shown gone */
		return err_sys(e, errno, "cannot show /%s in the new root", name);
	}
	return 0;
}

/* Some directory below / that a tmpfs can lie on for a moment. */
static int find_place(char *out, size_t size, struct err *e)
{
	static const char *const usual[] = { "/tmp", "/usr", "/etc", "/dev" };
	for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
		struct stat st;
		if (lstat(usual[i], &st) == 0 && S_ISDIR(st.st_mode)) {
			(void)snprintf(out, size, "%s", usual[i]);
			return 0;
		}
	}
	return err_set(e, ENOENT, "none of /tmp, /usr, /etc and /dev is a directory: the root cannot be rebuilt");
}

static int rebuild_root(const char *mountpoint, struct err *e)
{
	char place[16], old_place[16 + sizeof "/" OLD];
	int r = find_place(place, sizeof place, e);
	if (r < 0)
		return r;
	(void)snprintf(old_place, sizeof old_place, "%s/" OLD, place);
	if (mount("cloudtaser-root", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=4m") < 0)
		return err_sys(e, errno, "cannot mount a tmpfs for the new root");
	if (mkdir(old_place, 0700) < 0)
		return err_sys(e, errno, "cannot prepare the new root");
	if (chdir(place) < 0 || syscall(SYS_pivot_root, ".", OLD) < 0) {
		if (errno == EINVAL)
			return err_set(e, EINVAL,
				       "the root cannot be rebuilt here: / is no mount point of its own (a chroot) "
				       "or the initial RAM disk; make the folder %s and try again",
				       mountpoint);
		return err_sys(e, errno, "pivot_root");
	}
	if (chdir("/") < 0)
		return err_sys(e, errno, "/");

	CLEANUP_WITH(dir_closep) DIR *dir = opendir("/" OLD);
	if (!dir)
		return err_sys(e, errno, "cannot list the root folder");
	for (;;) {
		errno = 0;
		const struct dirent *d = readdir(dir);
		if (!d && errno)
			return err_sys(e, errno, "cannot list the root folder");
		if (!d)
			break;
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 || strcmp(d->d_name, OLD) == 0)
			continue;
		r = show_entry(dirfd(dir), d->d_name, e);
		if (r < 0)
			return r;
	}
	if (mkdir(mountpoint, 0755) < 0)
		return err_sys(e, errno, "cannot make %s in the new root", mountpoint);
	if (umount2("/" OLD, MNT_DETACH) < 0)
		return err_sys(e, errno, "cannot take the old root away");
	if (rmdir("/" OLD) < 0)
		return err_sys(e, errno, "cannot tidy the new root up");
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) < 0)
		return err_sys(e, errno, "cannot make the new root read-only");
	return 0;
}

/* Mounts FUSE on an existing directory. */
static int mount_fuse(const char *mountpoint, int *ret_fd, struct err *e)
{
	cleanup_close int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		struct stat st;
		if (errno == EACCES && stat("/dev/fuse", &st) == 0)
			return err_set(e, EACCES,
				       "/dev/fuse may not be opened (mode %04o; Debian's own is 0666): ask the "
				       "administrator for `chmod 0666 /dev/fuse`",
				       (unsigned)st.st_mode & 07777);
		if (errno == ENOENT || errno == ENXIO || errno == ENODEV)
			return err_set(e, ENODEV,
				       "there is no FUSE here (/dev/fuse): `modprobe fuse`, or give the "
				       "container the device");
		return err_sys(e, errno, "/dev/fuse");
	}
	char options[128];
	(void)snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u,max_read=%d", fd,
		       geteuid(), getegid(), FS_MAX_READ);
	if (mount("cloudtaser", mountpoint, "fuse.cloudtaser",
		  MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY | MS_NOATIME, options) < 0) {
		if (errno == ENODEV)
			return err_set(e, ENODEV, "this kernel has no FUSE: `modprobe fuse`");
		if (errno == EPERM && geteuid() != 0)
			return no_user_namespace(EPERM, "mounting FUSE in it", e);
		return err_sys(e, errno, "cannot mount FUSE at %s", mountpoint);
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* 1: a directory, mount over it. 0: missing, directly below /, so that rebuilding the root makes it. */
static int look_at(const char *mountpoint, struct err *e)
{
	if (*mountpoint != '/' || !mountpoint[strspn(mountpoint, "/")])
		return err_set(e, EINVAL, "mount point \"%s\": write it as an absolute path, like /secrets",
			       mountpoint);
	struct stat st;
	if (lstat(mountpoint, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return 1;
		return err_set(e, ENOTDIR, "mount point %s: %s; choose another one", mountpoint,
			       S_ISLNK(st.st_mode) ? "is a symbolic link" : "is not a folder");
	}
	if (errno != ENOENT)
		return err_sys(e, errno, "mount point %s", mountpoint);
	const char *name = mountpoint + strspn(mountpoint, "/");
	const char *end = name + strcspn(name, "/");
	if (end[strspn(end, "/")])
		return err_set(e, ENOENT,
			       "mount point %s: there is no such folder, and only one directly below / appears by "
			       "itself: `mkdir -p %s` first",
			       mountpoint, mountpoint);
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strlen(name) > NAME_MAX)
		return err_set(e, EINVAL, "mount point %s: no name for a folder", mountpoint);
	return 0;
}

int fs_nsroot_enter(const char *mountpoint, int *ret_fuse_fd, struct err *e)
{
	int exists = look_at(mountpoint, e);
	if (exists < 0)
		return exists;
	char here[PATH_MAX];
	if (!getcwd(here, sizeof here))
		(void)snprintf(here, sizeof here, "/");

	int r = 0;
	if (geteuid() != 0)
		r = enter_user_namespace(e);
	else if (unshare(CLONE_NEWNS) < 0)
		r = err_sys(e, errno,
			    "a mount namespace of one's own is refused here (a container without CAP_SYS_ADMIN?)");
	if (r < 0)
		return r;
	/* Nothing that happens in here may travel out, and pivot_root refuses shared mounts. */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return geteuid() != 0 && errno == EPERM ? no_user_namespace(EPERM, "mounting in it", e) :
							  err_sys(e, errno, "cannot make the mounts private");
	if (!exists) {
		r = rebuild_root(mountpoint, e);
		if (r < 0)
			return r;
	}
	cleanup_close int fd = -1;
	r = mount_fuse(mountpoint, &fd, e);
	if (r < 0)
		return r;
	if (chdir(here) < 0 && chdir("/") < 0)
		return err_sys(e, errno, "%s", here);
	*ret_fuse_fd = TAKE_FD(fd);
	return 0;
}
