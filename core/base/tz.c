/* core/base/tz.c — see tz.h. A zone is a table of moments at which the offset changes and, behind the table, a rule that repeats every year
 * (RFC 8536, section 3; the rule is POSIX's TZ string). Only offsets are kept: nobody here asks for abbreviations. */
#include "core/base/tz.h"

#include "core/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE = 1 << 20, MAX_NAME = 255, HEADER = 44, DAY = 86400, MAX_FOLD = 26 * 3600 };
enum { MIN_OFFSET = -89999, MAX_OFFSET = 93599 }; /* RFC 8536, 3.2 */

#define TZ_DISTANT (INT64_C(1) << 54) /* moments beyond 570 million years are taken for this one: no sum overflows */

struct when { /* a day of every year */
    enum { JULIAN, ZERO_BASED, WEEKDAY } kind;
    int day;         /* JULIAN: 1..365, 29 February is never counted; ZERO_BASED: 0..365; WEEKDAY: 0 (Sunday)..6 */
    int month, week; /* WEEKDAY: week 5 is the month's last */
    int32_t seconds; /* of local time behind that day's midnight; may be negative, or beyond a day */
};

struct mp_tz {
    char *name;
    uint32_t n;
    int64_t *at;        /* n ascending moments */
    int32_t *offset;    /* n + 1: offset[0] before at[0], offset[i + 1] from at[i] on */
    bool rule, has_dst; /* rule: what counts from at[n - 1] on is below */
    int32_t std, dst;
    struct when start, end; /* of dst; in local time of what was before */
};

/* ---- the calendar (proleptic Gregorian): days since 1970-01-01; after Howard Hinnant's "chrono-compatible date algorithms" ---- */

static int64_t days_of(int64_t y, int m, int d)
{
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static void civil_of(int64_t local_s, struct mp_civil *out)
{
    int64_t days = floor_div(local_s, DAY), z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097, yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153, second = local_s - days * DAY;
    out->day = (int)(doy - (153 * mp + 2) / 5 + 1);
    out->month = (int)(mp < 10 ? mp + 3 : mp - 9);
    out->year = yoe + era * 400 + (out->month <= 2);
    out->hour = (int)(second / 3600);
    out->minute = (int)(second % 3600 / 60);
    out->second = (int)(second % 60);
    out->weekday = (int)((days % 7 + 11) % 7); /* 1970-01-01 was a Thursday */
}

static bool leap_year(int64_t y)
{
    return (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
}

/* ---- the rule behind the table ---- */

/* Midnight of the day in year y, plus its seconds, as if local time were UTC. */
static int64_t when_of(const struct when *w, int64_t y)
{
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int64_t day;
    if (w->kind == JULIAN) {
        day = days_of(y, 1, 1) + w->day - 1 + (leap_year(y) && w->day >= 60);
    } else if (w->kind == ZERO_BASED) {
        day = days_of(y, 1, 1) + w->day;
    } else {
        int64_t first = days_of(y, w->month, 1), weekday = ((first % 7) + 11) % 7;
        int length = lengths[w->month - 1] + (w->month == 2 && leap_year(y));
        int d = (int)((w->day - weekday + 7) % 7) + 7 * (w->week - 1);
        day = first + (d < length ? d : d - 7);
    }
    return day * DAY + w->seconds;
}

struct segment { /* one offset counts in start <= t < end */
    int64_t start, end;
    int32_t offset;
};

static void rule_segment(const struct mp_tz *tz, int64_t t, struct segment *out)
{
    struct mp_civil now;
    *out = (struct segment){-TZ_DISTANT, TZ_DISTANT, tz->std};
    if (!tz->has_dst)
        return;
    civil_of(t + tz->std, &now);
    for (int64_t y = now.year - 1; y <= now.year + 1; y++)
        for (int i = 1; i >= 0; i--) { /* where both fall together (daylight saving all year) the beginning counts */
            int64_t at = i ? when_of(&tz->end, y) - tz->dst : when_of(&tz->start, y) - tz->std;
            if (at <= t && at >= out->start) {
                out->start = at;
                out->offset = i ? tz->std : tz->dst;
            }
            if (at > t && at < out->end)
                out->end = at;
        }
}

static void segment_at(const struct mp_tz *tz, int64_t t, struct segment *out)
{
    uint32_t lo = 0, hi = tz->n; /* the number of changes at or before t */
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (tz->at[mid] <= t)
            lo = mid + 1;
        else
            hi = mid;
    }
    int64_t start = lo ? tz->at[lo - 1] : -TZ_DISTANT;
    if (lo == tz->n && tz->rule) {
        rule_segment(tz, t, out);
        if (out->start < start)
            out->start = start;
        return;
    }
    *out = (struct segment){start, lo < tz->n ? tz->at[lo] : TZ_DISTANT, tz->offset[lo]};
}

/* ---- reading the rule: "CET-1CEST,M3.5.0,M10.5.0/3" ---- */

static bool read_abbreviation(const char **p)
{
    const char *s = *p;
    if (*s == '<') {
        for (s++; isalnum((unsigned char)*s) || *s == '+' || *s == '-'; s++)
            ;
        if (*s++ != '>')
            return false;
    } else {
        for (; isalpha((unsigned char)*s); s++)
            ;
    }
    bool ok = s > *p;
    *p = s;
    return ok;
}

static bool read_int(const char **p, int least, int most, int *out)
{
    int v = 0, digits = 0;
    for (; isdigit((unsigned char)**p) && digits < 4; (*p)++, digits++)
        v = v * 10 + (**p - '0');
    *out = v;
    return digits > 0 && v >= least && v <= most;
}

/* [+-]h[:mm[:ss]] in seconds */
static bool read_time(const char **p, int most_hours, int32_t *out)
{
    int sign = **p == '-' ? -1 : 1, h, m = 0, s = 0;
    if (**p == '-' || **p == '+')
        (*p)++;
    if (!read_int(p, 0, most_hours, &h))
        return false;
    if (**p == ':' && ((*p)++, !read_int(p, 0, 59, &m)))
        return false;
    if (**p == ':' && ((*p)++, !read_int(p, 0, 59, &s)))
        return false;
    *out = sign * (h * 3600 + m * 60 + s);
    return true;
}

static bool read_when(const char **p, struct when *w)
{
    bool ok;
    if (*(*p)++ != ',')
        return false;
    w->seconds = 2 * 3600;
    if (**p == 'J') {
        (*p)++;
        w->kind = JULIAN;
        ok = read_int(p, 1, 365, &w->day);
    } else if (**p == 'M') {
        (*p)++;
        w->kind = WEEKDAY;
        ok = read_int(p, 1, 12, &w->month) && *(*p)++ == '.' && read_int(p, 1, 5, &w->week) && *(*p)++ == '.' &&
             read_int(p, 0, 6, &w->day);
    } else {
        w->kind = ZERO_BASED;
        ok = read_int(p, 0, 365, &w->day);
    }
    if (ok && **p == '/') {
        (*p)++;
        ok = read_time(p, 167, &w->seconds); /* RFC 8536, 3.3.1 */
    }
    return ok;
}

static bool read_rule(struct mp_tz *tz, const char *p)
{
    int32_t west;
    if (!read_abbreviation(&p) || !read_time(&p, 24, &west))
        return false;
    tz->rule = true;
    tz->std = -west;
    if (!*p)
        return true;
    if (!read_abbreviation(&p))
        return false;
    tz->has_dst = true;
    tz->dst = tz->std + 3600;
    if (*p && *p != ',') {
        if (!read_time(&p, 24, &west))
            return false;
        tz->dst = -west;
    }
    return read_when(&p, &tz->start) && read_when(&p, &tz->end) && !*p;
}

/* ---- reading the file ---- */

struct cursor {
    const unsigned char *p;
    size_t left;
};

static uint64_t big_endian(const unsigned char *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v = v << 8 | p[i];
    return v;
}

struct counts {
    uint32_t isut, isstd, leap, time, type, chars;
};

static bool read_header(struct cursor *c, struct counts *n, int *version)
{
    uint32_t v[6];
    if (c->left < HEADER || memcmp(c->p, "TZif", 4) != 0)
        return false;
    *version = c->p[4] == 0 ? 1 : c->p[4] - '0';
    for (int i = 0; i < 6; i++)
        v[i] = (uint32_t)big_endian(c->p + 20 + 4 * i, 4);
    *n = (struct counts){v[0], v[1], v[2], v[3], v[4], v[5]};
    c->p += HEADER;
    c->left -= HEADER;
    return *version >= 1;
}

/* What a block of data takes: every count is below 2^32, so the sum is far below 2^64. */
static uint64_t block_size(const struct counts *n, uint64_t time_size)
{
    return n->time * (time_size + 1) + n->type * UINT64_C(6) + n->chars + n->leap * (time_size + 4) + n->isstd +
           n->isut;
}

/* NULL, or what is wrong with it. */
static const char *read_table(struct mp_tz *tz, struct cursor *c, const struct counts *n, int time_size)
{
    uint64_t size = block_size(n, (uint64_t)time_size);
    if (size > c->left)
        return "it is cut short";
    if (n->type < 1 || n->type > 256)
        return "its number of types is wrong";
    if (n->leap)
        return "it counts leap seconds";
    const unsigned char *times = c->p, *kinds = times + (size_t)n->time * (size_t)time_size, *types = kinds + n->time;
    tz->n = n->time; /* bounded by the file's size */
    tz->at = mp_malloc(((size_t)n->time + 1) * sizeof *tz->at);
    tz->offset = mp_malloc(((size_t)n->time + 1) * sizeof *tz->offset);
    for (uint32_t i = 0; i <= n->time; i++) {
        uint32_t kind = i ? kinds[i - 1] : 0; /* before the first change the first type counts */
        if (kind >= n->type)
            return "a change names a type that it does not have";
        tz->offset[i] = (int32_t)(uint32_t)big_endian(types + (size_t)kind * 6, 4);
        if (tz->offset[i] < MIN_OFFSET || tz->offset[i] > MAX_OFFSET)
            return "an offset is out of range";
    }
    for (uint32_t i = 0; i < n->time; i++) {
        uint64_t raw = big_endian(times + (size_t)i * (size_t)time_size, time_size);
        int64_t t = time_size == 8 ? (int64_t)raw : (int32_t)(uint32_t)raw;
        tz->at[i] = t < -TZ_DISTANT ? -TZ_DISTANT : t > TZ_DISTANT ? TZ_DISTANT : t;
        if (i && tz->at[i] <= tz->at[i - 1])
            return "its changes are out of order";
    }
    c->p += size;
    c->left -= size;
    return NULL;
}

static const char *read_zone(struct mp_tz *tz, const unsigned char *data, size_t size)
{
    struct cursor c = {data, size};
    struct counts n;
    int version;
    const char *bad;
    char rule[256];
    if (!read_header(&c, &n, &version))
        return "it is no TZif file";
    if (version == 1)
        return read_table(tz, &c, &n, 4);
    uint64_t skip = block_size(&n, 4);
    if (skip > c.left)
        return "it is cut short";
    c.p += skip;
    c.left -= skip;
    if (!read_header(&c, &n, &version))
        return "its second header is wrong";
    bad = read_table(tz, &c, &n, 8);
    if (bad)
        return bad;
    const unsigned char *end = c.left > 1 && c.p[0] == '\n' ? memchr(c.p + 1, '\n', c.left - 1) : NULL;
    if (!end || (size_t)(end - c.p) > sizeof rule)
        return "its footer is wrong";
    size_t length = (size_t)(end - c.p) - 1;
    memcpy(rule, c.p + 1, length);
    rule[length] = 0;
    return length == 0 || read_rule(tz, rule) ? NULL : "the rule in its footer is wrong";
}

static int read_file(const char *path, unsigned char **out, size_t *size)
{
    struct stat st;
    unsigned char *data = NULL;
    size_t done = 0;
    int rc = MP_EFORMAT, fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? MP_ENOENT : MP_EIO;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > MAX_FILE)
        goto out;
    data = mp_malloc((size_t)st.st_size);
    rc = MP_EIO;
    while (done < (size_t)st.st_size) {
        ssize_t n = read(fd, data + done, (size_t)st.st_size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            goto out;
        done += (size_t)n;
    }
    *size = done;
    *out = mp_move(&data);
    rc = 0;
out:
    mp_free(data);
    close(fd);
    return rc;
}

static bool good_name(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("_+-/.", name[i]))
            return false;
    return n <= MAX_NAME && name[0] != '/' && !strstr(name, "..");
}

static int missing(const char *name, const char *folder, struct mp_err *err)
{
    struct stat st;
    if (stat(folder, &st) < 0)
        return mp_err_set(err, MP_ENOENT,
                          "time zone '%s' cannot be found: this system has none (there is no %s; on Debian the package "
                          "tzdata brings it)",
                          name, folder);
    return mp_err_set(err, MP_ENOENT,
                      "there is no time zone '%s' in %s: names are like \"Europe/Berlin\", \"America/New_York\", "
                      "\"UTC\"",
                      name, folder);
}

int mp_tz_open(struct mp_tz **out, const char *name, struct mp_err *err)
{
    const char *folder = getenv("TZDIR"), *bad = NULL;
    struct mp_tz *tz = NULL;
    unsigned char *data = NULL;
    char *path = NULL;
    size_t size = 0;
    int rc = 0;
    if (!folder || !folder[0])
        folder = "/usr/share/zoneinfo";
    if (!name || !name[0])
        name = "UTC";
    if (!good_name(name))
        return mp_err_set(err, MP_EINVAL, "'%.60s' is no name of a time zone: names are like \"Europe/Berlin\"", name);
    tz = mp_calloc(sizeof *tz);
    tz->name = mp_strdup(name);
    tz->rule = strcmp(name, "UTC") == 0 || strcmp(name, "Etc/UTC") == 0; /* need no file */
    if (!tz->rule) {
        path = mp_asprintf("%s/%s", folder, name);
        rc = read_file(path, &data, &size);
        bad = rc == 0 ? read_zone(tz, data, size) : rc == MP_EFORMAT ? "it is no file of fitting size" : NULL;
        if (bad)
            rc = mp_err_set(err, MP_EFORMAT, "time zone '%s': %s cannot be used: %s", name, path, bad);
        else if (rc == MP_ENOENT)
            rc = missing(name, folder, err);
        else if (rc < 0)
            rc = mp_err_errno(err, rc, "time zone '%s': %s cannot be read", name, path);
    }
    if (rc == 0)
        *out = mp_move(&tz);
    mp_tz_free(tz);
    mp_free(data);
    mp_free(path);
    return rc;
}

void mp_tz_free(struct mp_tz *tz)
{
    if (!tz)
        return;
    mp_free(tz->name);
    mp_free(tz->at);
    mp_free(tz->offset);
    mp_free(tz);
}

const char *mp_tz_name(const struct mp_tz *tz)
{
    return tz ? tz->name : "UTC";
}

/* ---- asking ---- */

static int64_t clamp(int64_t t)
{
    return t < -TZ_DISTANT ? -TZ_DISTANT : t >= TZ_DISTANT ? TZ_DISTANT - 1 : t;
}

int32_t mp_tz_offset(const struct mp_tz *tz, int64_t unix_s)
{
    struct segment s = {0};
    if (tz)
        segment_at(tz, clamp(unix_s), &s);
    return s.offset;
}

void mp_tz_civil(const struct mp_tz *tz, int64_t unix_s, struct mp_civil *out)
{
    civil_of(clamp(unix_s) + mp_tz_offset(tz, unix_s), out);
}

int64_t mp_tz_unix(const struct mp_tz *tz, const struct mp_civil *l, int *skipped)
{
    int64_t year = l->year > 500000000 ? 500000000 : l->year < -500000000 ? -500000000 : l->year;
    int64_t local =
        days_of(year, l->month, l->day) * DAY + l->hour * INT64_C(3600) + l->minute * INT64_C(60) + l->second;
    struct segment s;
    if (skipped)
        *skipped = 0;
    if (!tz)
        return local;
    /* From a segment that ends before the local time, or holds its first coming, forward. */
    for (segment_at(tz, local - MAX_FOLD, &s); local - s.offset >= s.end; segment_at(tz, s.end, &s))
        ;
    if (local - s.offset >= s.start)
        return local - s.offset;
    if (skipped)
        *skipped = 1;
    return s.start;
}
