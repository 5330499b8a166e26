/* core/base/err.c — see err.h. */
#include "core/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct row {
    int code, status;
    const char *name;
} rows[] = {
#define X(code, num, name, status) {num, status, name},
    MP_ERRORS(X)
#undef X
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static const struct row *find(int code)
{
    return code < 0 && code >= -N_ROWS ? &rows[-code - 1] : NULL;
}

const char *mp_err_name(int code)
{
    const struct row *r = find(code);
    return r ? r->name : code == 0 ? "ok" : "unknown";
}

int mp_err_status(int code)
{
    const struct row *r = find(code);
    return r ? r->status : 500;
}

int mp_err_from_name(const char *s)
{
    for (int i = 0; i < N_ROWS; i++)
        if (strcmp(rows[i].name, s) == 0)
            return rows[i].code;
    return 0;
}

/* Messages quote files, requests and scripts, and end on terminals: control characters but newline and tab become '?', those
 * of C1 (U+0080..U+009F in UTF-8) too. */
static void defuse(char *s)
{
    for (unsigned char *p = (unsigned char *)s; *p; p++) {
        if ((*p < 0x20 && *p != '\n' && *p != '\t') || *p == 0x7f)
            *p = '?';
        else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            p[0] = p[1] = '?';
    }
}

int mp_err_set(struct mp_err *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        err->retry_after = 0;
        vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
        defuse(err->message);
    }
    return code;
}

int mp_err_errno(struct mp_err *err, int code, const char *fmt, ...)
{
    if (err) {
        char why[128];
        const char *text = strerror_r(errno, why, sizeof why);
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        err->retry_after = 0;
        vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
        size_t n = strlen(err->message);
        snprintf(err->message + n, sizeof err->message - n, ": %s", text);
        defuse(err->message);
    }
    return code;
}

void mp_err_context(struct mp_err *err, const char *fmt, ...)
{
    if (!err)
        return;
    char old[sizeof err->message];
    memcpy(old, err->message, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    size_t n = strlen(err->message);
    snprintf(err->message + n, sizeof err->message - n, ": %s", old);
    defuse(err->message);
}
