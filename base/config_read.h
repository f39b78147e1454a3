/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the configuration's own files share: findings, and reading one YAML value into one member of a structure.
 * base/config*.c include it, nobody else.
 */
#ifndef CT_BASE_CONFIG_READ_H
#define CT_BASE_CONFIG_READ_H

#include "base/config.h"
#include "base/yaml.h"

struct finding {
	int line;
	size_t nth; /* order of discovery, for findings of one line */
	char *text;
};

struct reader {
	const char *file;
	const struct yamldoc *doc;
	struct config *c;
	struct finding *findings; /* at most FINDINGS_MAX */
	size_t n_findings;	  /* all of them */
	bool no_memory;
};
enum { FINDINGS_MAX = 1000 };

/* Where a value is: a chain that ends at the document (NULL), printed as "mounts[0].secrets[1].mode". */
struct at {
	const struct at *up;
	const char *key; /* NULL: the index counts */
	size_t index;
};

void config_finding(struct reader *r, int line, const struct at *at, const char *fmt, ...) printf_like(4, 5);

/* A name from the file as a message may show it: control characters escaped, at most some 60 bytes. */
struct shown {
	char s[96];
};
struct shown config_shown(const char *name);

struct key;
/* Reads v, which is not null, into *out (at the key's offset); a finding when it cannot. */
typedef void config_read_fn(struct reader *r, const struct at *at, const struct json *v, const struct key *k,
			    void *out);

struct key {
	const char *name;
	config_read_fn *read;
	size_t offset;
	uint64_t min, max; /* numbers; durations in milliseconds */
};

/* Reads a map by its keys into obj; returns the set of keys that were there, bit i for keys[i] (64 at most). Unknown
 * keys, keys without a value and keys given twice are findings. */
uint64_t config_read_map(struct reader *r, const struct at *at, const struct json *map, const struct key *keys,
			 size_t n_keys, void *obj);

/* Is it of this type? A finding if not, or if the key was there before. */
bool config_want(struct reader *r, const struct at *at, const struct json *v, enum json_type type, const char *what);
/* A string without NUL inside and not empty, or NULL and a finding. */
const char *config_text(struct reader *r, const struct at *at, const struct json *v, const char *what);
bool config_once(struct reader *r, const struct at *at, const struct json *member);

/* Grows *array (of elements of `size` bytes) to n + 1, the new one zeroed; NULL and r->no_memory. */
void *config_grow(struct reader *r, void *array, size_t n, size_t size);
void config_set_string(struct reader *r, char **slot, const char *s, size_t n);

config_read_fn config_read_string, config_read_file, config_read_ms, config_read_seconds, config_read_unsigned,
	config_read_count, config_read_size, config_read_mode, config_read_bool, config_read_owner, config_read_group;

/* An absolute path into `path`, a leading ~/ expanded. */
bool config_read_path(struct reader *r, const struct at *at, const struct json *v, const char *what, char *path,
		      size_t size);
/* What is wrong with a path inside a vault ("app/db"), or NULL. */
const char *config_path_fault(const char *path);

/* config_vault.c and config_mount.c. What needs the whole document is config_check_mounts's. */
config_read_fn config_read_vaults, config_read_mounts;
void config_check_mounts(struct reader *r, const struct json *root);

#endif
