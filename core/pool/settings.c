/* core/pool/settings.c — see settings.h. */
#include "core/pool/settings.h"

void mp_pool_settings_init(struct mp_pool_settings *s)
{
#define X(name, key, type, def, least, most) s->name = def;
    MP_POOL_SETTINGS(X)
#undef X
}

int mp_pool_override_check(const struct mp_pool_override *o, struct mp_err *err)
{
    if (o->set >> MP_N_POOL_SETTINGS)
        return mp_err_set(err, MP_EINVAL, "settings with numbers that nobody knows: %#x", (unsigned)o->set);
#define X(name, key, type, def, least, most)                                                                      \
    if (o->set & 1u << MP_SET_##name##_BIT && !((double)o->value.name >= least && (double)o->value.name <= most)) \
        return mp_err_set(err, MP_EINVAL, "'%s' must be from %.10g to %.10g, not %.10g", key, (double)least,      \
                          (double)most, (double)o->value.name);
    MP_POOL_SETTINGS(X)
#undef X
    return 0;
}

void mp_pool_override_add(struct mp_pool_override *to, const struct mp_pool_override *o, uint32_t reset)
{
    to->set = (to->set & ~reset) | o->set;
#define X(name, key, type, def, least, most) \
    if (o->set & 1u << MP_SET_##name##_BIT)  \
        to->value.name = o->value.name;
    MP_POOL_SETTINGS(X)
#undef X
}

void mp_pool_settings_at(struct mp_pool_settings *out, const struct mp_pool_settings *base,
                         const struct mp_pool_schedule *schedules, uint32_t n, const struct mp_pool_asked *asked,
                         int64_t now)
{
    int64_t set_at[MP_N_POOL_SETTINGS];
    *out = *base;
    for (uint32_t k = 0; k < MP_N_POOL_SETTINGS; k++)
        set_at[k] = INT64_MIN;
    for (uint32_t i = 0; i < n; i++) {
        const struct mp_pool_schedule *s = &schedules[i];
        int64_t tick;
        if (!mp_cron_last(&s->cron, s->tz, now, &tick))
            continue;
#define X(name, key, type, def, least, most)                                                  \
    if (s->override.set & 1u << MP_SET_##name##_BIT && tick >= set_at[MP_SET_##name##_BIT]) { \
        out->name = s->override.value.name;                                                   \
        set_at[MP_SET_##name##_BIT] = tick;                                                   \
    }
        MP_POOL_SETTINGS(X)
#undef X
    }
#define X(name, key, type, def, least, most)                           \
    if (asked && asked->override.set & 1u << MP_SET_##name##_BIT &&    \
        asked->at[MP_SET_##name##_BIT] >= set_at[MP_SET_##name##_BIT]) \
        out->name = asked->override.value.name;
    MP_POOL_SETTINGS(X)
#undef X
    if (out->target_concurrency > out->max_concurrency)
        out->target_concurrency = out->max_concurrency;
    if (out->min_replicas > out->max_replicas)
        out->min_replicas = out->max_replicas;
}

bool mp_pool_settings_next(const struct mp_pool_schedule *schedules, uint32_t n, int64_t now, int64_t *out)
{
    bool found = false;
    for (uint32_t i = 0; i < n; i++) {
        int64_t tick;
        if (mp_cron_next(&schedules[i].cron, schedules[i].tz, now, &tick) && (!found || tick < *out)) {
            *out = tick;
            found = true;
        }
    }
    return found;
}

bool mp_pool_settings_equal(const struct mp_pool_settings *a, const struct mp_pool_settings *b)
{
#define X(name, key, type, def, least, most) \
    if (a->name != b->name)                  \
        return false;
    MP_POOL_SETTINGS(X)
#undef X
    return true;
}
