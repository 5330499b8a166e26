/* core/base/log.c — see log.h. */
#include "core/base/log.h"

#include "core/base/err.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char role[64];                          /* set before threads start */
static _Atomic int lowest_level = MP_LOG_INFO; /* any thread */
static const char *const names[] = {"debug", "info", "warn", "error"};

void mp_log_role(const char *name)
{
    snprintf(role, sizeof role, "%s", name);
}

void mp_log_level(enum mp_log_level lowest)
{
    atomic_store(&lowest_level, (int)lowest);
}

int mp_log_level_parse(const char *s)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(s, names[i]) == 0)
            return i;
    return MP_EINVAL;
}

bool mp_log_enabled(enum mp_log_level level)
{
    return (int)level >= atomic_load_explicit(&lowest_level, memory_order_relaxed);
}

/* Control characters become \xNN, so that one call is one line whatever a client sent. Returns the new length. */
static size_t escape(char *out, size_t cap, const char *in)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = 0;
    for (; *in && n + 5 < cap; in++) {
        unsigned char c = (unsigned char)*in;
        if (c >= 32 && c != 127) {
            out[n++] = (char)c;
        } else {
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[c >> 4];
            out[n++] = hex[c & 15];
        }
    }
    return n;
}

void mp_log(enum mp_log_level level, const char *fmt, ...)
{
    if (!mp_log_enabled(level))
        return;
    char text[2048], line[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);

    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03dZ %-5s %s: ", (int)(ts.tv_nsec / 1000000), names[level],
                          role[0] ? role : "moonpool");
    n += escape(line + n, sizeof line - n - 1, text);
    line[n++] = '\n';
    for (size_t at = 0; at < n;) {
        ssize_t w = write(STDERR_FILENO, line + at, n - at);
        if (w <= 0)
            break;
        at += (size_t)w;
    }
}
