/* core/model/weights.h — a plan's weights: found in the GGUF file, shapes checked before anything else happens, sized for a
 * device and streamed into its memory. Used by the engine's loader and `moonpool inspect`. */
#ifndef MP_WEIGHTS_H
#define MP_WEIGHTS_H
#include "core/base/err.h"
#include "core/base/sha256.h"
#include "gpu/device.h"

#include <stdbool.h>
#include <stdint.h>

struct mp_gguf;
struct mp_gguf_tensor;

struct mp_weights { /* arrays are per weight of the plan, in its order */
    uint32_t n;
    const struct mp_gguf_tensor **tensor; /* borrowed from the mp_gguf, which must outlive this */
    struct mp_wref *ref;                  /* copies of the plan's */
    uint32_t *type;                       /* enum mp_type of each: build()'s w_type */
    uint64_t *off;                        /* place of each in device memory, 256-aligned: build()'s w_off */
    uint64_t bytes;                       /* device memory of all, in the device's own layout */
    uint64_t file_bytes;                  /* bytes that loading reads */
};

/* Finds every weight and checks its shape, the type's support and sizes on dev. MP_ENOENT names a missing tensor, MP_EFORMAT
 * one of the wrong shape, MP_EUNSUPPORTED a type that the device cannot compute with. Nothing is read or reserved. */
int mp_weights_find(struct mp_weights **out, const struct mp_gguf *g, const struct mp_plan *plan,
                    const struct mp_device_ops *ops, struct mp_dev *dev, const struct mp_limits *lim,
                    struct mp_err *err);
void mp_weights_free(struct mp_weights *w); /* NULL is fine; device memory is not its */

/* Streams the file into mem, where w->bytes are committed from 0 on, through one buffer of a few MiB: nothing but w_put() is
 * called of the device, so that it may run beside steps. progress (may be NULL) gets bytes read of w->file_bytes, about every
 * buffer; false from it cancels (MP_ECANCELLED). What was put when it fails is of no use. */
int mp_weights_load(const struct mp_weights *w, const struct mp_gguf *g, const struct mp_device_ops *ops,
                    struct mp_mem *mem, mp_progress_fn *progress, void *ctx, struct mp_err *err);

#endif
