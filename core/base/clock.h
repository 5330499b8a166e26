/* core/base/clock.h — the two clocks. Used everywhere. */
#ifndef MP_CLOCK_H
#define MP_CLOCK_H
#include <stdint.h>

uint64_t mp_clock_mono_ns(void); /* CLOCK_MONOTONIC, nanoseconds */
uint64_t mp_clock_wall_ns(void); /* CLOCK_REALTIME, nanoseconds since 1970 */

#endif
