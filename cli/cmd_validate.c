/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/common.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

enum { ALL_MET = 0, FINDINGS = 1, COULD_NOT_LOOK = 2 };

struct validate_options {
	const char *output;
};

static const struct cli_option validate_options[] = {
	{ 'o', "output", "FORMAT", "json: {\"file\",\"findings\":[...]}", CLI_STRING,
	  offsetof(struct validate_options, output) },
	{ .name = NULL },
};

struct findings {
	struct json *list; /* NULL: print */
	int r;
};

static void on_finding(void *arg, const char *finding)
{
	struct findings *f = arg;
	if (!f->list)
		cli_print_name(STDOUT_FILENO, finding, strlen(finding));
	else if (json_append(f->list, json_of_bytes(finding, strlen(finding))) < 0)
		f->r = -ENOMEM;
}

static int could_not_look(const struct cli *c, int r, const struct err *e)
{
	(void)cli_fail(c, r, e);
	return COULD_NOT_LOOK;
}

static int validate_config(struct cli *c, void *options, int argc, char **argv)
{
	const struct validate_options *o = options;
	struct err e = ERR_INIT;
	bool as_json;
	if (argc != 1)
		return cli_usage(c, argc ? "one file at a time" : "say which FILE");
	int r = cli_output(o->output, &as_json, &e);
	if (r < 0)
		return cli_usage(c, "%s", e.msg);
	r = cli_start(c, LOG_WARN, &e);
	if (r < 0)
		return could_not_look(c, r, &e);

	cleanup_json struct json *out = as_json ? json_object() : NULL, *list = as_json ? json_array() : NULL;
	if (as_json && (!out || !list))
		return could_not_look(c, -ENOMEM, NULL);
	struct findings f = { .list = list };
	int n = config_check(argv[0], on_finding, &f, &e);
	if (n < 0 || f.r < 0)
		return could_not_look(c, n < 0 ? n : f.r, &e);
	if (as_json) {
		if (json_set(out, "file", json_of_bytes(argv[0], strlen(argv[0]))) < 0 ||
		    json_set(out, "findings", TAKE_PTR(list)) < 0)
			return could_not_look(c, -ENOMEM, NULL);
		r = cli_write_json(STDOUT_FILENO, out, &e);
		if (r < 0)
			return could_not_look(c, r, &e);
	} else if (!n) {
		(void)printf("%s: no findings\n", argv[0]);
	}
	return n ? FINDINGS : ALL_MET;
}

const struct cli_command cli_validate_config = {
	.name = "validate config",
	.summary = "check a configuration file",
	.usage = "FILE [-o json]",
	.help = "Checks a configuration as a whole and prints every finding as FILE:LINE: KEY: what is wrong. Nothing "
		"is opened\n"
		"or asked but the file itself.",
	.exits = "  0   no findings                   2   the file could not be looked at\n"
		 "  1   findings                      64  the command line is wrong\n",
	.options = validate_options,
	.options_size = sizeof(struct validate_options),
	.run = validate_config,
};
