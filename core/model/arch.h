/* core/model/arch.h — from a model file's metadata to its plan, by the architecture's Lua file (lua/moonpool/arch).
 * Used by the engine at load and by `moonpool inspect --plan`.
 *
 * The Lua file runs once, in a VM of its own with bounded steps and memory: metadata is hostile. What it emits is
 * converted and checked here, and hyper-parameters agree with the tensors' shapes before anything is computed. */
#ifndef MP_ARCH_H
#define MP_ARCH_H
#include "core/base/buf.h"
#include "core/base/err.h"
#include "gpu/plan.h"

#include <stdint.h>

struct mp_gguf;

struct mp_arch_opts {
    uint32_t context; /* the most positions wanted; 0: the file's context_length. More than that is refused */
};

/* *out: a plan that passed mp_plan_check, the caller's (mp_plan_free); every weight it names is a tensor of the file with
 * that shape. Errors: MP_EUNSUPPORTED (an architecture we do not know, listing those we do; mixture of experts; …),
 * MP_EFORMAT (metadata missing, out of range or at odds with the tensors; the key or tensor is named). */
int mp_arch_build(const struct mp_gguf *g, const struct mp_arch_opts *opts, struct mp_plan **out, struct mp_err *err);
/* Names of the architectures that are built in, sorted, with ", " between. */
void mp_arch_names(struct mp_buf *out);

#endif
