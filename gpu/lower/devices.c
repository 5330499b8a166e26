/* gpu/lower/devices.c — the table of devices and the names of numerics; see gpu/device.h. */
#include "gpu/device.h"

#include <string.h>

static const struct mp_device_ops *const devices[] = {&mp_device_cpu, &mp_device_fake, NULL};

const struct mp_device_ops *mp_device_find(const char *name)
{
    for (size_t i = 0; devices[i]; i++)
        if (!strcmp(devices[i]->name, name))
            return devices[i];
    return NULL;
}

static const char *const numerics[MP_N_NUMERICS] = {
#define X(code, name) name,
    MP_NUMERICS(X)
#undef X
};

const char *mp_numerics_name(uint32_t n)
{
    return n < MP_N_NUMERICS ? numerics[n] : "unknown";
}

int mp_numerics_parse(const char *name)
{
    for (int i = 0; i < MP_N_NUMERICS; i++)
        if (!strcmp(numerics[i], name))
            return i;
    return MP_EINVAL;
}
