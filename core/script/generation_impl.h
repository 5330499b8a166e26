/* core/script/generation_impl.h — what run.c needs of a generation. Private to core/script. */
#ifndef MP_SCRIPT_GENERATION_IMPL_H
#define MP_SCRIPT_GENERATION_IMPL_H
#include "core/script/generation.h"

struct mp_script *mp_generation_script(const struct mp_generation *g, uint32_t worker);

#endif
