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
