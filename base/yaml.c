/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libyaml's events are read one at a time into a tree, so the depth is bounded before anything deep is built. Lines are
 * kept in a table beside the tree, sorted by node when the tree is done.
 */
#include "base/yaml.h"

#include "base/cleanup.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct place {
	const struct json *node;
	int line, twice;
};

struct yamldoc {
	struct json *root;
	struct place *places;
	size_t n, room;
};

struct parser {
	yaml_parser_t y;
	const char *text;
	size_t len;
	unsigned max_depth;
	struct yamldoc *doc;
	int *line; /* where the failure is */
	struct err *e;
};

static void event_deletep(yaml_event_t *ev)
{
	yaml_event_delete(ev);
}
#define cleanup_event CLEANUP_WITH(event_deletep)

static int line_of(yaml_mark_t mark)
{
	return (int)mark.line + 1;
}

static int line_at(const char *text, size_t offset)
{
	int line = 1;

	for (size_t i = 0; i < offset; i++)
		if (text[i] == '\n')
			line++;
	return line;
}

static int refuse(struct parser *p, int line, const char *why)
{
	*p->line = line;
	return err_set(p->e, EBADMSG, "%s", why);
}

static int no_memory(struct parser *p)
{
	return err_set(p->e, ENOMEM, "not enough memory for the document");
}

/* libyaml counts characters. */
static bool is_tab(const struct parser *p, size_t index)
{
	const char *s = p->text, *end = s + p->len;

	while (s < end && index--) {
		uint32_t cp;
		s += utf8_decode(s, (size_t)(end - s), &cp);
	}
	return s < end && *s == '\t';
}

static int libyaml_error(struct parser *p)
{
	const yaml_parser_t *y = &p->y;

	if (y->error == YAML_MEMORY_ERROR)
		return no_memory(p);
	const char *problem = y->problem ? y->problem : "not YAML";
	if (y->error == YAML_READER_ERROR) {
		*p->line = line_at(p->text, y->problem_offset < p->len ? y->problem_offset : p->len);
		return err_set(p->e, EBADMSG, "not valid YAML: %s", problem);
	}
	*p->line = line_of(y->problem_mark);
	if (is_tab(p, y->problem_mark.index))
		return err_set(p->e, EBADMSG, "a tab where YAML wants spaces");
	return err_set(p->e, EBADMSG, "not valid YAML: %s%s%s", problem, y->context ? " " : "",
		       y->context ? y->context : "");
}

static int next_event(struct parser *p, yaml_event_t *ev)
{
	if (!yaml_parser_parse(&p->y, ev))
		return libyaml_error(p);

	const yaml_char_t *anchor = NULL, *tag = NULL;
	switch (ev->type) {
	case YAML_ALIAS_EVENT:
		return refuse(p, line_of(ev->start_mark), "aliases (*name) are not supported here: write it out");
	case YAML_SCALAR_EVENT:
		anchor = ev->data.scalar.anchor;
		tag = ev->data.scalar.tag;
		break;
	case YAML_SEQUENCE_START_EVENT:
		anchor = ev->data.sequence_start.anchor;
		tag = ev->data.sequence_start.tag;
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = ev->data.mapping_start.anchor;
		tag = ev->data.mapping_start.tag;
		break;
	default:
		break;
	}
	if (anchor)
		return refuse(p, line_of(ev->start_mark), "anchors (&name) are not supported here");
	if (tag)
		return refuse(p, line_of(ev->start_mark), "tags (!name) are not supported here");
	return 0;
}

static int remember(struct parser *p, const struct json *node, int line)
{
	struct yamldoc *doc = p->doc;

	if (doc->n == doc->room) {
		size_t room = doc->room ? 2 * doc->room : 64;
		struct place *places = reallocarray(doc->places, room, sizeof *places);
		if (!places)
			return no_memory(p);
		doc->places = places;
		doc->room = room;
	}
	doc->places[doc->n++] = (struct place){ .node = node, .line = line };
	return 0;
}

static bool one_of(const char *s, const char *const *list)
{
	for (; *list; list++)
		if (strcmp(s, *list) == 0)
			return true;
	return false;
}

static struct json *scalar(const yaml_event_t *ev)
{
	static const char *const nulls[] = { "", "~", "null", "Null", "NULL", NULL };
	static const char *const trues[] = { "true", "True", "TRUE", NULL };
	static const char *const falses[] = { "false", "False", "FALSE", NULL };
	const char *s = (const char *)ev->data.scalar.value;
	size_t n = ev->data.scalar.length;

	if (ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strlen(s) == n) {
		size_t sign = s[0] == '-', digits = strspn(s + sign, "0123456789");

		if (one_of(s, nulls))
			return json_of_null();
		if (one_of(s, trues))
			return json_of_bool(true);
		if (one_of(s, falses))
			return json_of_bool(false);
		if (digits && digits <= 18 && sign + digits == n && (s[sign] != '0' || n == 1))
			return json_of_int(strtoll(s, NULL, 10));
	}
	return json_of_bytes(s, n);
}

struct member {
	const struct json *node;
	const char *name;
	size_t len;
	size_t place; /* in document order */
};

static int member_cmp(const void *pa, const void *pb)
{
	const struct member *a = pa, *b = pb;
	int c = memcmp(a->name, b->name, a->len < b->len ? a->len : b->len);

	if (c)
		return c;
	if (a->len != b->len)
		return a->len < b->len ? -1 : 1;
	return a->place < b->place ? -1 : a->place > b->place;
}

/* Marks the keys that `map` has twice. Its members' places came behind `first`. */
static int mark_twice(struct parser *p, const struct json *map, size_t first)
{
	size_t n = json_count(map), k = 0;
	if (n < 2)
		return 0;

	cleanup_free struct member *m = calloc(n, sizeof *m);
	if (!m)
		return no_memory(p);
	/* Places and members come in the same order; places of deeper nodes lie between. */
	for (const struct json *c = json_first(map); c; c = json_next(c)) {
		while (p->doc->places[first].node != c)
			first++;
		m[k].node = c;
		m[k].place = first;
		m[k].name = json_name_bytes(c, &m[k].len);
		k++;
	}
	qsort(m, n, sizeof *m, member_cmp);
	for (size_t i = 1; i < n; i++)
		if (m[i].len == m[i - 1].len && memcmp(m[i].name, m[i - 1].name, m[i].len) == 0)
			p->doc->places[m[i].place].twice = p->doc->places[m[i - 1].place].line;
	return 0;
}

static int build(struct parser *p, const yaml_event_t *ev, unsigned depth, int line, struct json **ret);

static int build_sequence(struct parser *p, struct json *seq, unsigned depth)
{
	for (;;) {
		cleanup_event yaml_event_t ev = { .type = YAML_NO_EVENT };
		struct json *item = NULL;
		int r = next_event(p, &ev);

		if (r < 0)
			return r;
		if (ev.type == YAML_SEQUENCE_END_EVENT)
			return 0;
		r = build(p, &ev, depth, line_of(ev.start_mark), &item);
		if (r < 0)
			return r;
		if (json_append(seq, item) < 0)
			return no_memory(p);
	}
}

static int build_mapping(struct parser *p, struct json *map, unsigned depth)
{
	size_t first = p->doc->n;

	for (;;) {
		cleanup_event yaml_event_t key = { .type = YAML_NO_EVENT }, ev = { .type = YAML_NO_EVENT };
		struct json *value = NULL;
		int r = next_event(p, &key);

		if (r < 0)
			return r;
		if (key.type == YAML_MAPPING_END_EVENT)
			return mark_twice(p, map, first);
		if (key.type != YAML_SCALAR_EVENT)
			return refuse(p, line_of(key.start_mark), "a key must be a name, not a list or a map");
		r = next_event(p, &ev);
		if (r < 0)
			return r;
		r = build(p, &ev, depth, line_of(key.start_mark), &value);
		if (r < 0)
			return r;
		if (json_set_bytes(map, (const char *)key.data.scalar.value, key.data.scalar.length, value) < 0)
			return no_memory(p);
	}
}

static int build(struct parser *p, const yaml_event_t *ev, unsigned depth, int line, struct json **ret)
{
	bool map = ev->type == YAML_MAPPING_START_EVENT;
	cleanup_json struct json *v = ev->type == YAML_SCALAR_EVENT ? scalar(ev) : map ? json_object() : json_array();
	int r;

	if (!v)
		return no_memory(p);
	r = remember(p, v, line);
	if (r < 0)
		return r;
	if (ev->type != YAML_SCALAR_EVENT) {
		if (depth == p->max_depth)
			return refuse(p, line_of(ev->start_mark), "nested too deep");
		r = map ? build_mapping(p, v, depth + 1) : build_sequence(p, v, depth + 1);
		if (r < 0)
			return r;
	}
	*ret = TAKE_PTR(v);
	return 0;
}

static int build_document(struct parser *p)
{
	bool content = false;

	for (;;) {
		cleanup_event yaml_event_t ev = { .type = YAML_NO_EVENT };
		int r = next_event(p, &ev);

		if (r < 0)
			return r;
		switch (ev.type) {
		case YAML_STREAM_START_EVENT:
		case YAML_DOCUMENT_END_EVENT:
			break;
		case YAML_DOCUMENT_START_EVENT:
			if (content)
				return refuse(p, line_of(ev.start_mark), "a second document: one file holds one");
			content = true;
			break;
		case YAML_STREAM_END_EVENT:
			if (!p->doc->root && !(p->doc->root = json_of_null()))
				return no_memory(p);
			return 0;
		default:
			r = build(p, &ev, 0, line_of(ev.start_mark), &p->doc->root);
			if (r < 0)
				return r;
		}
	}
}

static int place_cmp(const void *pa, const void *pb)
{
	const struct place *a = pa, *b = pb;

	return (uintptr_t)a->node < (uintptr_t)b->node ? -1 : (uintptr_t)a->node > (uintptr_t)b->node;
}

int yamldoc_parse(const char *text, size_t len, unsigned max_depth, struct yamldoc **ret, int *ret_line, struct err *e)
{
	struct parser p = { .text = text, .len = len, .max_depth = max_depth, .line = ret_line, .e = e };
	size_t good = utf8_span(text, len);
	if (good < len)
		return refuse(&p, line_at(text, good), "not UTF-8");
	const char *nul = len ? memchr(text, '\0', len) : NULL;
	if (nul)
		return refuse(&p, line_at(text, (size_t)(nul - text)), "a NUL byte");

	cleanup_yamldoc struct yamldoc *doc = calloc(1, sizeof *doc);
	if (!doc)
		return no_memory(&p);
	p.doc = doc;
	if (!yaml_parser_initialize(&p.y))
		return no_memory(&p);
	yaml_parser_set_encoding(&p.y, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&p.y, (const unsigned char *)text, len);
	int r = build_document(&p);
	yaml_parser_delete(&p.y);
	if (r < 0)
		return r;
	if (doc->n)
		qsort(doc->places, doc->n, sizeof *doc->places, place_cmp);
	*ret = TAKE_PTR(doc);
	return 0;
}

void yamldoc_free(struct yamldoc *y)
{
	if (!y)
		return;
	json_free(y->root);
	free(y->places);
	free(y);
}

const struct json *yamldoc_root(const struct yamldoc *y)
{
	return y->root;
}

static const struct place *place_of(const struct yamldoc *y, const struct json *node)
{
	struct place key = { .node = node };

	return y->n ? bsearch(&key, y->places, y->n, sizeof key, place_cmp) : NULL;
}

int yamldoc_line(const struct yamldoc *y, const struct json *node)
{
	const struct place *at = place_of(y, node);

	return at ? at->line : 1;
}

int yamldoc_twice(const struct yamldoc *y, const struct json *member)
{
	const struct place *at = place_of(y, member);

	return at ? at->twice : 0;
}
