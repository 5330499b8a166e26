/* core/base/cron.h — "0 8 * * 1-5": five fields (minute, hour, day of month, month, weekday) as in crontab(5), names ("mon", "jan"),
 * lists, ranges, steps, and @hourly, @daily, @weekly, @monthly, @yearly. Pure: the time is an argument. Used by schedules and jobs.
 *
 * Over a change of the clocks every wanted local time happens exactly once: one that the clocks jump over happens at the moment of the
 * jump, one that comes twice happens the first time. So an hourly tick leaves out the hour that is there twice; who wants equal
 * distances uses seconds, not cron. */
#ifndef MP_CRON_H
#define MP_CRON_H
#include "core/base/tz.h"

#include <stdbool.h>

enum { MP_CRON_YEARS = 16 }; /* how far is looked; the rarest that can be written (a weekday of a date) takes 12 */

struct mp_cron { /* bit n: that value is wanted */
    uint64_t minutes;
    uint32_t hours, days, months, weekdays;
    bool any_day,
        any_weekday; /* it begins with '*': else, when both are restricted, either one suffices (crontab's rule) */
};

/* MP_EINVAL names the field and what is wrong with it; a date that never comes ("0 0 31 2 *") is an error too. */
int mp_cron_parse(struct mp_cron *out, const char *text, struct mp_err *err);
/* The first tick after `after`; false: none within MP_CRON_YEARS. Unix seconds. */
bool mp_cron_next(const struct mp_cron *c, const struct mp_tz *tz, int64_t after, int64_t *out);
/* The last tick at or before `at`. */
bool mp_cron_last(const struct mp_cron *c, const struct mp_tz *tz, int64_t at, int64_t *out);

#endif
