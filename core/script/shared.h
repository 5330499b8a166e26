/* core/script/shared.h — mp.shared's dictionaries: process-wide, bounded in bytes, shared by all workers and generations. Any thread; each has
 * one lock, held for a lookup or a copy. A value is bytes to it, the first of which says what they are.
 *
 * Everything that an entry takes is counted: key, value, bookkeeping, its part of the table. What is past its time is gone; when room is
 * needed, what was not used for longest goes first.
 *
 * FLIGHTS: of those who want the same missing key at a time one computes, the others wait. A flight belongs to whoever began it until it
 * lands with a result, which all that wait get, or is dropped, which makes one of them its owner. */
#ifndef MP_SCRIPT_SHARED_H
#define MP_SCRIPT_SHARED_H
#include "core/base/buf.h"
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_config;
struct mp_shared;

enum {
    MP_SHARED_STRING = 's',  /* the bytes */
    MP_SHARED_NUMBER = 'n',  /* a double */
    MP_SHARED_BOOLEAN = 'b', /* 0 or 1 */
    MP_SHARED_JSON = 'j',    /* text */
    MP_SHARED_MAX_KEY = 1024,
};

/* The dictionary of that name; made with so many bytes when there is none. Each open is one reference. */
struct mp_shared *mp_shared_open(const char *name, uint64_t bytes);
void mp_shared_close(struct mp_shared *s); /* NULL is fine */
/* At the start and at each swap: dictionaries get the sizes that c declares, and those that it does not declare are forgotten: freed when the
 * last reference goes. NULL: all are. */
void mp_shared_declare(const struct mp_config *c);
uint64_t mp_shared_total(void); /* bytes that all dictionaries hold now */

struct mp_shared_status {
    uint64_t bytes, used; /* the most, and now */
    uint64_t entries, evicted;
};
void mp_shared_status(struct mp_shared *s, struct mp_shared_status *out);

/* False: not there. Else its bytes are appended to out (may be NULL). now: mp_clock_mono_ns(), as everywhere below. */
bool mp_shared_get(struct mp_shared *s, const char *key, size_t n, uint64_t now, struct mp_buf *out);
enum mp_shared_when { MP_SHARED_ALWAYS, MP_SHARED_ABSENT };
/* ttl_ns 0: it stays. 1: done; 0: ABSENT was asked for, and it is there; MP_ELIMIT: larger than the dictionary may ever hold. */
int mp_shared_set(struct mp_shared *s, const char *key, size_t n, const void *value, size_t value_n, uint64_t ttl_ns,
                  uint64_t now, enum mp_shared_when when, struct mp_err *err);
/* The same if it holds `old` now (NULL: nothing is there): 1, or 0 when it holds something else. */
int mp_shared_cas(struct mp_shared *s, const char *key, size_t n, const void *old, size_t old_n, const void *value,
                  size_t value_n, uint64_t ttl_ns, uint64_t now, struct mp_err *err);
/* Adds to a number; one that is not there counts from `init`, and lives for ttl_ns. MP_EINVAL: it holds no number, or the sum is not finite. */
int mp_shared_incr(struct mp_shared *s, const char *key, size_t n, double by, double init, uint64_t ttl_ns,
                   uint64_t now, double *out, struct mp_err *err);
/* Seconds that are left, or infinity; false: not there. */
bool mp_shared_ttl(struct mp_shared *s, const char *key, size_t n, uint64_t now, double *out);
bool mp_shared_expire(struct mp_shared *s, const char *key, size_t n, uint64_t ttl_ns, uint64_t now); /* 0: it stays */
bool mp_shared_del(struct mp_shared *s, const char *key, size_t n, uint64_t now);
/* At most so many keys, last used first: each with its length before it (mp_buf_u32). */
void mp_shared_keys(struct mp_shared *s, uint32_t most, uint64_t now, struct mp_buf *out);

/* ---- flights ---- */

struct mp_flight;

struct mp_flight_result { /* one for all that wait; the last one frees it */
    uint32_t refs;
    bool failed; /* the bytes are an error's JSON; else a value, or nothing */
    size_t n;
    char data[];
};

struct mp_flight_waiter {                  /* embedded in what waits; zeroed */
    struct mp_flight_waiter *next, **prev; /* under the flights' lock */
    struct mp_flight *flight;
    struct mp_flight_result *result;
    /* It was woken: result (mp_flight_release it), or without one the flight is the waiter's now. On any thread, under the flights' lock:
     * only tells the waiter's own thread. */
    void (*woken)(struct mp_flight_waiter *w);
};

/* Wants to compute a key. The flight is the caller's now; or NULL: w waits for it. owner: whoever is not to wait for itself; NULL and
 * *itself is set when the flight is its own. */
struct mp_flight *mp_flight_board(struct mp_shared *s, const char *key, size_t n, const void *owner,
                                  struct mp_flight_waiter *w, bool *itself);
void mp_flight_land(struct mp_flight *f, bool failed, const void *data, size_t n); /* by its owner: f is gone */
void mp_flight_drop(struct mp_flight *f); /* by its owner, without a result: another one's now, or gone */
/* It does not wait any more; fine when it was woken already: then its result is released, or its flight dropped. */
void mp_flight_leave(struct mp_flight_waiter *w);
void mp_flight_own(struct mp_flight *f, const void *owner); /* a waiter whose flight it has become says who it is */
void mp_flight_release(struct mp_flight_result *r);         /* NULL is fine; any thread */

#endif
