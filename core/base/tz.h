/* core/base/tz.h — time zones by their IANA names, from the system's TZif files (RFC 8536), for any number of zones at once: libc's
 * TZ is one for the whole process. Immutable once opened: any thread. Used by schedules, jobs and budgets. */
#ifndef MP_TZ_H
#define MP_TZ_H
#include "core/base/err.h"

#include <stdint.h>

struct mp_tz;

struct mp_civil { /* a local time; month 1..12, weekday 0 (Sunday)..6 */
    int64_t year;
    int month, day, hour, minute, second, weekday;
};

/* name: "Europe/Berlin", "UTC"; NULL or "" is UTC. The file is $TZDIR/name or /usr/share/zoneinfo/name; a name with "..", or one that
 * starts with '/', is MP_EINVAL; one that is not there MP_ENOENT, and says so if the system has no zones at all. The file is
 * untrusted input. */
int mp_tz_open(struct mp_tz **out, const char *name, struct mp_err *err);
void mp_tz_free(struct mp_tz *tz); /* NULL is fine */
const char *mp_tz_name(const struct mp_tz *tz);
int32_t mp_tz_offset(const struct mp_tz *tz, int64_t unix_s); /* seconds east of UTC at that moment; tz NULL: 0 */
void mp_tz_civil(const struct mp_tz *tz, int64_t unix_s, struct mp_civil *out);
/* When a local time is: the only moment; the first of two (clocks went back); where clocks jumped over it, the moment of the jump, and
 * *skipped (may be NULL) is set. */
int64_t mp_tz_unix(const struct mp_tz *tz, const struct mp_civil *local, int *skipped);

#endif
