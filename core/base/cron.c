/* core/base/cron.c — see cron.h. Local time is walked day by day, by day numbers; only a candidate minute is asked for its moment. Moments
 * grow with local times (one that is skipped happens when the next one does), which is all that the searches need. */
#include "core/base/cron.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { DAY_MINUTES = 1440, DAY = 86400, MAX_TEXT = 200 };
enum { SEARCH_DAYS = 366 * MP_CRON_YEARS };

/* ---- reading ---- */

struct field {
    const char *name;
    int least, most;
    const char *words; /* names, three letters each, from the value `least` (weekdays: from Sunday) on */
};

static const struct field fields[5] = {{"minute", 0, 59, ""},
                                       {"hour", 0, 23, ""},
                                       {"day of month", 1, 31, ""},
                                       {"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"},
                                       {"weekday", 0, 7, "sunmontuewedthufrisat"}};

static int bad(struct mp_err *err, const struct field *f, const char *item, size_t n, const char *what)
{
    return mp_err_set(err, MP_EINVAL, "%s '%.*s': %s", f->name, (int)(n < 40 ? n : 40), item, what);
}

/* A number or a name at *p. False: neither. */
static bool read_value(const struct field *f, const char **p, const char *end, int *out)
{
    const char *s = *p;
    int v = 0;
    for (; s < end && isdigit((unsigned char)*s) && s - *p < 5; s++)
        v = v * 10 + (*s - '0');
    if (s == *p) {
        size_t n = 0;
        while (s + n < end && isalpha((unsigned char)s[n]))
            n++;
        for (v = 0; f->words[3 * v] && n == 3; v++)
            if (strncasecmp(s, f->words + 3 * v, 3) == 0)
                break;
        if (n != 3 || !f->words[3 * v])
            return false;
        v += f->least;
        s += 3;
    }
    *p = s;
    *out = v;
    return true;
}

/* "*", "5", "1-5", "*\/15", "mon-fri/2" */
static int read_item(const struct field *f, const char *item, size_t n, uint64_t *set, struct mp_err *err)
{
    const char *p = item, *end = item + n;
    int first = f->least, last = f->most, step = 1;
    char range[60];
    if (n == 0)
        return mp_err_set(err, MP_EINVAL, "%s: a value is missing beside a comma", f->name);
    bool several = *p == '*';
    if (several) {
        p++;
        last = f == &fields[4] ? 6 : last;
    } else {
        if (!read_value(f, &p, end, &first))
            return bad(err, f, item, n, f->words[0] ? "neither a number nor a name" : "not a number");
        last = first;
        if (p < end && *p == '-') {
            p++;
            if (!read_value(f, &p, end, &last))
                return bad(err, f, item, n, "the range has no end");
            if (f == &fields[4] && last == 0 && first > 0)
                last = 7; /* fri-sun */
            several = true;
        }
    }
    if (p < end && *p == '/') {
        const char *digits = ++p;
        for (step = 0; p < end && isdigit((unsigned char)*p) && p - digits < 5; p++)
            step = step * 10 + (*p - '0');
        if (p == digits || step == 0)
            return bad(err, f, item, n, "a step is a number from 1 on");
        if (!several)
            return bad(err, f, item, n, "a step needs a range or '*' before it");
    }
    if (p < end)
        return bad(err, f, item, n, "not understood");
    if (first < f->least || last > f->most || first > f->most || last < f->least) {
        snprintf(range, sizeof range, "out of range (%d to %d)", f->least, f->most);
        return bad(err, f, item, n, range);
    }
    if (first > last)
        return bad(err, f, item, n, "the range ends before it begins");
    for (int v = first; v <= last; v += step)
        *set |= UINT64_C(1) << v;
    return 0;
}

static int read_field(const struct field *f, const char *text, size_t n, uint64_t *set, struct mp_err *err)
{
    const char *end = text + n;
    for (const char *p = text;; p++) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        size_t length = (size_t)((comma ? comma : end) - p);
        int rc = read_item(f, p, length, set, err);
        if (rc < 0 || !comma)
            return rc;
        p = comma;
    }
}

static const char *expand(const char *text, struct mp_err *err)
{
    static const char *const words[][2] = {
        {"@hourly", "0 * * * *"},  {"@daily", "0 0 * * *"},  {"@midnight", "0 0 * * *"}, {"@weekly", "0 0 * * 0"},
        {"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}};
    if (text[0] != '@')
        return text;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(text, words[i][0]) == 0)
            return words[i][1];
    mp_err_set(err, MP_EINVAL, "'%.40s' is unknown: there are @hourly, @daily, @weekly, @monthly and @yearly", text);
    return NULL;
}

/* The longest that a month with this number gets. */
static int longest(int month)
{
    return month == 2 ? 29 : month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

int mp_cron_parse(struct mp_cron *out, const char *text, struct mp_err *err)
{
    uint64_t sets[5] = {0};
    const char *begin[5];
    size_t length[5];
    int n = 0;
    bool comes = false;
    text = expand(text, err);
    if (!text)
        return MP_EINVAL;
    if (strlen(text) > MAX_TEXT)
        return mp_err_set(err, MP_EINVAL, "longer than %d bytes", MAX_TEXT);
    for (const char *p = text + strspn(text, " \t"); *p; p += strspn(p, " \t"), n++) {
        size_t word = strcspn(p, " \t");
        if (n < 5) {
            begin[n] = p;
            length[n] = word;
        }
        p += word;
    }
    if (n != 5)
        return mp_err_set(err, MP_EINVAL, "five fields are needed (minute, hour, day of month, month, weekday), not %d",
                          n);
    for (int i = 0; i < 5; i++) {
        int rc = read_field(&fields[i], begin[i], length[i], &sets[i], err);
        if (rc < 0)
            return rc;
    }
    struct mp_cron c = {.minutes = sets[0],
                        .hours = (uint32_t)sets[1],
                        .days = (uint32_t)sets[2],
                        .months = (uint32_t)sets[3],
                        .weekdays = (uint32_t)((sets[4] | sets[4] >> 7) & 0x7f),
                        .any_day = *begin[2] == '*',
                        .any_weekday = *begin[4] == '*'};
    comes = !c.any_day && !c.any_weekday; /* then a weekday suffices */
    for (int m = 1; m <= 12; m++)
        for (int d = 1; d <= longest(m); d++)
            comes = comes || ((c.months >> m & 1) && (c.days >> d & 1));
    if (!comes)
        return mp_err_set(err, MP_EINVAL, "day of month '%.*s' never comes in month '%.*s'", (int)length[2], begin[2],
                          (int)length[3], begin[3]);
    *out = c;
    return 0;
}

/* ---- walking ---- */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* day: days since 1970-01-01 of local time. */
static bool day_wanted(const struct mp_cron *c, int64_t day, struct mp_civil *l)
{
    mp_tz_civil(NULL, day * DAY, l);
    bool d = c->days >> l->day & 1, w = c->weekdays >> l->weekday & 1;
    if (!(c->months >> l->month & 1))
        return false;
    return c->any_day || c->any_weekday ? d && w : d || w;
}

static bool minute_wanted(const struct mp_cron *c, int minute)
{
    return (c->hours >> (minute / 60) & 1) && (c->minutes >> (minute % 60) & 1);
}

static int64_t moment(const struct mp_tz *tz, struct mp_civil *l, int minute)
{
    l->hour = minute / 60;
    l->minute = minute % 60;
    return mp_tz_unix(tz, l, NULL);
}

bool mp_cron_next(const struct mp_cron *c, const struct mp_tz *tz, int64_t after, int64_t *out)
{
    int64_t local = floor_div(after + mp_tz_offset(tz, after), 60), first = floor_div(local, DAY_MINUTES);
    struct mp_civil l;
    for (int64_t day = first; day <= first + SEARCH_DAYS; day++) {
        if (!day_wanted(c, day, &l))
            continue;
        for (int m = day == first ? (int)(local - first * DAY_MINUTES) : 0; m < DAY_MINUTES; m++) {
            int64_t t = minute_wanted(c, m) ? moment(tz, &l, m) : after;
            if (t > after) {
                *out = t;
                return true;
            }
        }
    }
    return false;
}

bool mp_cron_last(const struct mp_cron *c, const struct mp_tz *tz, int64_t at, int64_t *out)
{
    /* Where clocks went back a moment ago, local times later than the present one have come already. */
    int32_t offset = mp_tz_offset(tz, at), before = mp_tz_offset(tz, at - DAY);
    int64_t local = floor_div(at + (before > offset ? before : offset), 60), last = floor_div(local, DAY_MINUTES);
    struct mp_civil l;
    for (int64_t day = last; day >= last - SEARCH_DAYS; day--) {
        if (!day_wanted(c, day, &l))
            continue;
        for (int m = day == last ? (int)(local - last * DAY_MINUTES) : DAY_MINUTES - 1; m >= 0; m--) {
            int64_t t = minute_wanted(c, m) ? moment(tz, &l, m) : at + 1;
            if (t <= at) {
                *out = t;
                return true;
            }
        }
    }
    return false;
}
