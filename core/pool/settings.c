/* core/pool/settings.c — see settings.h. */
#include "core/pool/settings.h"

void mp_pool_settings_init(struct mp_pool_settings *s)
{
#define X(name, key, type, def, least, most) s->name = def;
    MP_POOL_SETTINGS(X)
#undef X
}
