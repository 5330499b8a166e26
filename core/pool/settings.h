/* core/pool/settings.h — how many replicas a model may have, how many requests they take, how long things wait: what a configuration
 * declares, what schedules put over it by time of day, and what someone asked for at run time. Pure: the time is an argument. Filled by
 * core/script (from mp.model), applied by the keeper on the control thread. */
#ifndef MP_POOL_SETTINGS_H
#define MP_POOL_SETTINGS_H
#include "core/base/cron.h"

#include <stdbool.h>
#include <stdint.h>

/* name, key as scripts write it, type, default, smallest, most. Seconds are doubles. */
#define MP_POOL_SETTINGS(X)                                           \
    X(min_replicas, "min_replicas", uint32_t, 0, 0, 1024)             \
    X(max_replicas, "max_replicas", uint32_t, 1, 0, 1024)             \
    X(scaledown_window, "scaledown_window", double, 300, 0, 31536000) \
    X(startup_timeout, "startup_timeout", double, 600, 0.001, 86400)  \
    X(target_concurrency, "target_concurrency", uint32_t, 8, 1, 1024) \
    X(max_concurrency, "max_concurrency", uint32_t, 16, 1, 1024)      \
    X(queue_max, "queue.max", uint32_t, 64, 0, 1000000)               \
    X(queue_timeout, "queue.timeout", double, 30, 0, 86400) /* 0: no limit */

struct mp_pool_settings {
#define X(name, key, type, def, least, most) type name;
    MP_POOL_SETTINGS(X)
#undef X
};

enum mp_pool_setting { /* bits of mp_pool_override.set */
#define X(name, key, type, def, least, most) MP_SET_##name##_BIT,
                       MP_POOL_SETTINGS(X)
#undef X
                           MP_N_POOL_SETTINGS
};

struct mp_pool_override { /* some of them */
    uint32_t set;         /* 1 << MP_SET_…_BIT for each that counts */
    struct mp_pool_settings value;
};

struct mp_pool_asked { /* at run time, each key at its own moment */
    struct mp_pool_override override;
    int64_t at[MP_N_POOL_SETTINGS]; /* Unix seconds */
};

struct mp_pool_schedule { /* from each of its ticks on, until another one sets the same key */
    struct mp_cron cron;
    struct mp_tz *tz; /* NULL: UTC; borrowed */
    struct mp_pool_override override;
    const char *text; /* "0 8 * * 1-5 Europe/Berlin": logs and status name it; borrowed */
};

void mp_pool_settings_init(struct mp_pool_settings *s); /* the defaults */
/* Each value that is set is in its range; else MP_EINVAL names the key. */
int mp_pool_override_check(const struct mp_pool_override *o, struct mp_err *err);
bool mp_pool_settings_equal(const struct mp_pool_settings *a, const struct mp_pool_settings *b);
/* Forgets the keys of reset, then takes o's: a key in both is set. */
void mp_pool_override_add(struct mp_pool_override *to, const struct mp_pool_override *o, uint32_t reset);
/* What counts at a moment. Per key the latest wins: of the schedules their last ticks at or before now (of two that tick together, the
 * later one in the list), `asked` at its own time (NULL: nothing), base when nothing was ever set. target_concurrency is cut to
 * max_concurrency, min_replicas to max_replicas. */
void mp_pool_settings_at(struct mp_pool_settings *out, const struct mp_pool_settings *base,
                         const struct mp_pool_schedule *schedules, uint32_t n, const struct mp_pool_asked *asked,
                         int64_t now);
/* The next moment at which mp_pool_settings_at may change; false: never. */
bool mp_pool_settings_next(const struct mp_pool_schedule *schedules, uint32_t n, int64_t now, int64_t *out);

#endif
