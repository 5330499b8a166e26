/* core/base/log.h — log lines on stderr. Used everywhere; safe from any thread.
 *
 * One write(2) per line: `2026-11-24T08:00:00.123Z warn  engine cpu: text key=value`. Values never hold a newline or a
 * control character (they are escaped). Prompts are never logged. */
#ifndef MP_LOG_H
#define MP_LOG_H
#include <stdbool.h>

enum mp_log_level { MP_LOG_DEBUG, MP_LOG_INFO, MP_LOG_WARN, MP_LOG_ERROR };

void mp_log_role(const char *role);          /* prefix of every line from now on; copied. Call before threads start. */
void mp_log_level(enum mp_log_level lowest); /* lines below it are dropped; default INFO */
int mp_log_level_parse(const char *s);       /* "debug" "info" "warn" "error" -> level, or MP_EINVAL */
bool mp_log_enabled(enum mp_log_level level);
void mp_log(enum mp_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define mp_debug(...) mp_log(MP_LOG_DEBUG, __VA_ARGS__)
#define mp_info(...)  mp_log(MP_LOG_INFO, __VA_ARGS__)
#define mp_warn(...)  mp_log(MP_LOG_WARN, __VA_ARGS__)
#define mp_error(...) mp_log(MP_LOG_ERROR, __VA_ARGS__)

#endif
