/* core/script/generation_impl.h — what run.c needs of a generation. Private to core/script. */
#ifndef MP_SCRIPT_GENERATION_IMPL_H
#define MP_SCRIPT_GENERATION_IMPL_H
#include "core/script/generation.h"

/* worker: its index; the number of workers: the control thread's VM (mp_generation_control). */
struct mp_script *mp_generation_script(const struct mp_generation *g, uint32_t worker);
struct mp_script *mp_generation_control(const struct mp_generation *g);

#endif
