/* core/base/clock.c — see clock.h. */
#include "core/base/clock.h"

#include <time.h>

static uint64_t now(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t mp_clock_mono_ns(void)
{
    return now(CLOCK_MONOTONIC);
}

uint64_t mp_clock_wall_ns(void)
{
    return now(CLOCK_REALTIME);
}
