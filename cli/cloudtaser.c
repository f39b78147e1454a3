/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/common.h"

#include <stdio.h>
#include <sysexits.h>

const struct cli_command *const cli_commands[] = {
	&cli_vault_init,      &cli_put,	   &cli_get,   &cli_ls,	 &cli_rm,
	&cli_mount,	      &cli_umount, &cli_shell, &cli_run, &cli_status,
	&cli_validate_config, NULL,
};

int main(int argc, char **argv)
{
	int r = cli_main(argc, argv);
	/* A full disk must not look like success. */
	if (fflush(stdout) != 0 && r == 0) {
		perror("cloudtaser: cannot write the output");
		r = EX_IOERR;
	}
	return r;
}
