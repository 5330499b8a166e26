/* core/base/err.h — error codes and the one struct that carries what a person will read. Used everywhere.
 *
 * Functions return 0 or one of these negative codes, and fill the caller's mp_err if one was passed (NULL is fine
 * everywhere below). Add context as the error rises; never print and return both. */
#ifndef MP_ERR_H
#define MP_ERR_H

/* code, name (stable: scripts and clients see it as err.code), HTTP status it answers with when nothing else says. */
#define MP_ERRORS(X)                                    \
    X(MP_EINVAL, -1, "invalid_argument", 400)           \
    X(MP_ENOMEM, -2, "out_of_memory", 503)              \
    X(MP_EIO, -3, "io_error", 500)                      \
    X(MP_ENOENT, -4, "not_found", 404)                  \
    X(MP_EFORMAT, -5, "bad_format", 400)                \
    X(MP_ELIMIT, -6, "limit_exceeded", 413)             \
    X(MP_EUNSUPPORTED, -7, "unsupported", 501)          \
    X(MP_ESTATE, -8, "wrong_state", 500)                \
    X(MP_ECLOSED, -9, "closed", 499)                    \
    X(MP_ETIMEOUT, -10, "timeout", 504)                 \
    X(MP_EAGAIN, -11, "again", 503)                     \
    X(MP_EBUSY, -12, "busy", 503)                       \
    X(MP_EVERSION, -13, "version_mismatch", 502)        \
    X(MP_EPROTO, -14, "protocol_error", 502)            \
    X(MP_ECONTEXT, -15, "context_length_exceeded", 400) \
    X(MP_ECANCELLED, -16, "cancelled", 499)             \
    X(MP_EENGINE, -17, "engine_lost", 502)              \
    X(MP_EUNAVAILABLE, -18, "unavailable", 503)         \
    X(MP_EDEVICE, -19, "device_error", 500)             \
    X(MP_ENAN, -20, "bad_logits", 500)                  \
    X(MP_EQUEUE, -21, "queue_full", 429)                \
    X(MP_ESCRIPT, -22, "script_error", 500)             \
    X(MP_ECPU, -23, "cpu_limit", 500)                   \
    X(MP_EMEMORY, -24, "memory_limit", 500)             \
    X(MP_EUSAGE, -25, "usage", 500)                     \
    X(MP_EINTERNAL, -26, "internal", 500)               \
    X(MP_EDEADLINE, -27, "deadline", 503)               \
    X(MP_EQTIMEOUT, -28, "queue_timeout", 503)          \
    X(MP_EREFUSED, -29, "refused", 429)

enum mp_error {
#define X(code, num, name, status) code = num,
    MP_ERRORS(X)
#undef X
};

/* message: one or more lines without a final newline; outermost context first. Messages longer than the field are cut;
 * control characters but newline and tab become '?', for messages quote what came from outside and end on terminals. */
struct mp_err {
    int code;           /* an enum mp_error, or 0 */
    char message[1000]; /* UTF-8, NUL-terminated */
    double retry_after; /* seconds after which another try makes sense; 0: unknown. mp_err_set sets it to 0 */
};

const char *mp_err_name(int code);   /* "invalid_argument"; "ok" for 0; "unknown" otherwise. Static. */
int mp_err_status(int code);         /* HTTP status from the table; 500 for unknown codes */
int mp_err_from_name(const char *s); /* the code with that name, or 0 */

/* Sets code and message; returns code, so that `return mp_err_set(err, MP_EINVAL, …)` reads well. err may be NULL. */
int mp_err_set(struct mp_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same with ": <strerror(errno)>" behind. */
int mp_err_errno(struct mp_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "<text>: " before the message that is there; keeps the code. */
void mp_err_context(struct mp_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
