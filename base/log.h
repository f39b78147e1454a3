/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging to standard error, as text or JSON lines. Messages go through one redacting function (log_redact), which
 * hides anything shaped like a vault token; values never get here in the first place.
 * Thread rules: any thread. log_init once in main; the default is text at level info. The library code that can
 * return an error does so instead of logging.
 */
#ifndef CT_BASE_LOG_H
#define CT_BASE_LOG_H

#include "base/err.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };

void log_init(const char *program, enum log_level level, enum log_format format, int fd);
void log_set(enum log_level level, enum log_format format);
int must_use log_parse_level(const char *s, enum log_level *ret);   /* "error" "warn" "info" "debug"; -EINVAL */
int must_use log_parse_format(const char *s, enum log_format *ret); /* "text" "json"; -EINVAL */
enum log_level log_level(void);

/* One line. Text: "<RFC 3339 UTC> level program: message". JSON: {"time","level","program","message"}. */
void log_msg(enum log_level level, const char *fmt, ...) printf_like(2, 3);

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)

/* Replaces vault tokens (hvs. hvb. hvr. s. b. followed by 20 or more token characters) in place by "[redacted]". */
void log_redact(char *line);

#endif
