/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference the filesystem is measured against: the smallest honest libfuse server. One file of 64 bytes, direct_io,
 * the library's default loop (-m: its multi-threaded one) and nothing else tuned. Not a part of the product.
 *
 *   refserver [-m] MOUNTPOINT      serves MOUNTPOINT/secret in the foreground until it is unmounted or gets a signal
 */
#include <fuse_lowlevel.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_INO = 2, FILE_SIZE = 64 };
static const char file_name[] = "secret";
static const char file_data[FILE_SIZE + 1] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";

static int stat_of(fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof *st);
	st->st_ino = ino;
	if (ino == FUSE_ROOT_ID) {
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
	} else if (ino == FILE_INO) {
		st->st_mode = S_IFREG | 0444;
		st->st_nlink = 1;
		st->st_size = FILE_SIZE;
	} else {
		return -ENOENT;
	}
	return 0;
}

static void ref_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	(void)fi;
	if (stat_of(ino, &st) < 0)
		fuse_reply_err(req, ENOENT);
	else
		fuse_reply_attr(req, &st, 1.0);
}

static void ref_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { .ino = FILE_INO, .attr_timeout = 1.0, .entry_timeout = 1.0 };
	if (parent != FUSE_ROOT_ID || strcmp(name, file_name) != 0) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	(void)stat_of(e.ino, &e.attr);
	fuse_reply_entry(req, &e);
}

static void ref_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (ino != FILE_INO) {
		fuse_reply_err(req, EISDIR);
		return;
	}
	if ((fi->flags & O_ACCMODE) != O_RDONLY) {
		fuse_reply_err(req, EROFS);
		return;
	}
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void ref_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	if (off < 0 || off >= FILE_SIZE) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	size_t left = FILE_SIZE - (size_t)off;
	fuse_reply_buf(req, file_data + off, size < left ? size : left);
}

static const struct fuse_lowlevel_ops ops = {
	.lookup = ref_lookup,
	.getattr = ref_getattr,
	.open = ref_open,
	.read = ref_read,
};

int main(int argc, char **argv)
{
	int mt = 0, opt;
	while ((opt = getopt(argc, argv, "m")) != -1) {
		if (opt != 'm')
			return 64;
		mt = 1;
	}
	if (optind != argc - 1) {
		fprintf(stderr, "usage: refserver [-m] MOUNTPOINT\n");
		return 64;
	}
	char *fuse_argv[] = { argv[0], (char *)(getuid() == 0 ? "-oallow_other" : "-ofsname=refserver"), NULL };
	struct fuse_args args = FUSE_ARGS_INIT(2, fuse_argv);
	struct fuse_session *se = fuse_session_new(&args, &ops, sizeof ops, NULL);
	if (!se)
		return 1;
	if (fuse_set_signal_handlers(se) != 0 || fuse_session_mount(se, argv[optind]) != 0)
		return 1;
	int r;
	if (mt) {
		struct fuse_loop_config *config = fuse_loop_cfg_create();
		r = config ? fuse_session_loop_mt(se, config) : -ENOMEM;
		fuse_loop_cfg_destroy(config);
	} else {
		r = fuse_session_loop(se);
	}
	fuse_session_unmount(se);
	fuse_remove_signal_handlers(se);
	fuse_session_destroy(se);
	return r < 0;
}
