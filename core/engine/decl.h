/* core/engine/decl.h — what MODEL_DECLARE and MODEL_CHECK say of a model: their specification, taken apart and checked. Used by served.c.
 * The keys are in README.md. */
#ifndef MP_ENGINE_DECL_H
#define MP_ENGINE_DECL_H
#include "core/base/err.h"
#include "core/wire/msg.h"

#include <stdbool.h>

enum { MP_MODEL_MAX_CONCURRENCY = 256 };

struct mp_model_decl {
    char *path, *sha256; /* owned; sha256 may be NULL */
    uint32_t context;    /* 0: the model's own */
    uint32_t max_seq;    /* max_concurrency */
    uint8_t numerics;    /* enum mp_numerics */
};

/* group: this engine's, which `devices` must name if it is given. On failure d holds nothing. */
int mp_model_decl_parse(struct mp_span spec, const char *group, struct mp_model_decl *d, struct mp_err *err);
void mp_model_decl_free(struct mp_model_decl *d); /* leaves it empty */
/* Says the same but for limits: the model is no other. */
bool mp_model_decl_same(const struct mp_model_decl *a, const struct mp_model_decl *b);

#endif
