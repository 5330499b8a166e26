/* core/model/weights.c — see weights.h. */
#include "core/model/weights.h"

#include "core/base/mem.h"
#include "core/model/gguf.h"
#include "gpu/blocks.h"

#include <string.h>

enum {
    ALIGN = 256,           /* of a weight's place on the device: what any device's loads want */
    BUFFER = 4 << 20,      /* bytes read at once, where a group of rows is not larger */
    ROWS = 64,             /* w_put takes whole groups of rows */
    MAX_GROUP = 256 << 20, /* bytes of such a group: no model has rows of 4 MiB */
};

/* "[576, 49152]", as the file orders dimensions. */
static const char *shape_text(const struct mp_gguf_tensor *t, char text[96])
{
    struct mp_buf b = {0};
    for (uint32_t d = 0; d < t->n_dims; d++)
        mp_buf_printf(&b, "%s%llu", d ? ", " : "", (unsigned long long)t->ne[d]);
    size_t n = b.len < 90 ? b.len : 90;
    text[0] = '[';
    memcpy(text + 1, b.data, n);
    text[1 + n] = ']';
    text[2 + n] = 0;
    mp_buf_free(&b);
    return text;
}

static int find_one(struct mp_weights *w, uint32_t i, const struct mp_gguf *g, const struct mp_device_ops *ops,
                    struct mp_dev *dev, const struct mp_limits *lim, struct mp_err *err)
{
    const struct mp_wref *ref = &w->ref[i];
    const struct mp_gguf_tensor *t = mp_gguf_tensor_find(g, ref->name);
    char shape[96];
    uint64_t bytes, group;
    if (!t)
        return mp_err_set(err, MP_ENOENT, "%s: tensor '%s' is missing", mp_gguf_path(g), ref->name);
    if (t->ne[0] != ref->ne[0] || t->ne[1] != ref->ne[1] || t->ne[2] != 1 || t->ne[3] != 1)
        return mp_err_set(err, MP_EFORMAT, "%s: tensor '%s': has the shape %s; the model needs [%u, %u]",
                          mp_gguf_path(g), ref->name, shape_text(t, shape), ref->ne[0], ref->ne[1]);
    if (!mp_mul_u64(t->row_bytes, ref->ne[1] < ROWS ? ref->ne[1] : ROWS, &group) || group > MAX_GROUP)
        return mp_err_set(err, MP_ELIMIT, "%s: tensor '%s': has rows of %llu bytes; %d at most", mp_gguf_path(g),
                          ref->name, (unsigned long long)t->row_bytes, MAX_GROUP / ROWS);
    int rc = ops->w_size(dev, ref, t->type, lim, &bytes, err);
    if (rc < 0) {
        mp_err_context(err, "%s: tensor '%s'", mp_gguf_path(g), ref->name);
        return rc;
    }
    w->tensor[i] = t;
    w->type[i] = t->type;
    w->off[i] = w->bytes;
    if (!mp_add_u64(w->bytes, bytes, &w->bytes) || !mp_align_u64(w->bytes, ALIGN, &w->bytes) ||
        !mp_add_u64(w->file_bytes, t->bytes, &w->file_bytes))
        return mp_err_set(err, MP_EFORMAT, "%s: the sizes of its tensors overflow", mp_gguf_path(g));
    return 0;
}

int mp_weights_find(struct mp_weights **out, const struct mp_gguf *g, const struct mp_plan *plan,
                    const struct mp_device_ops *ops, struct mp_dev *dev, const struct mp_limits *lim,
                    struct mp_err *err)
{
    struct mp_weights *w = mp_calloc(sizeof *w);
    int rc = 0;
    w->n = plan->n_weights; /* bounded by the plan's own check */
    w->tensor = mp_calloc(w->n * sizeof *w->tensor);
    w->ref = mp_calloc(w->n * sizeof *w->ref);
    w->type = mp_calloc(w->n * sizeof *w->type);
    w->off = mp_calloc(w->n * sizeof *w->off);
    if (w->n)
        memcpy(w->ref, plan->weights, w->n * sizeof *w->ref);
    for (uint32_t i = 0; i < w->n && rc == 0; i++)
        rc = find_one(w, i, g, ops, dev, lim, err);
    if (rc == 0)
        *out = mp_move(&w);
    mp_weights_free(w);
    return rc;
}

void mp_weights_free(struct mp_weights *w)
{
    if (!w)
        return;
    mp_free(w->tensor);
    mp_free(w->ref);
    mp_free(w->type);
    mp_free(w->off);
    mp_free(w);
}

/* Rows read at once: whole groups that fill the buffer, at least one group. */
static uint64_t rows_at_once(const struct mp_gguf_tensor *t, uint64_t rows)
{
    uint64_t n = BUFFER / t->row_bytes / ROWS * ROWS;
    n = n < ROWS ? ROWS : n;
    return n < rows ? n : rows;
}

int mp_weights_load(const struct mp_weights *w, const struct mp_gguf *g, const struct mp_device_ops *ops,
                    struct mp_mem *mem, mp_progress_fn *progress, void *ctx, struct mp_err *err)
{
    unsigned char *buffer = NULL;
    uint64_t largest = 0, done = 0;
    int rc = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        uint64_t bytes =
            rows_at_once(w->tensor[i], w->ref[i].ne[1]) * w->tensor[i]->row_bytes; /* <= MAX_GROUP or BUFFER */
        largest = bytes > largest ? bytes : largest;
    }
    buffer = mp_try_malloc(largest);
    if (!buffer) {
        rc = mp_err_set(err, MP_ENOMEM, "%s: no memory for a buffer of %llu bytes", mp_gguf_path(g),
                        (unsigned long long)largest);
        goto out;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        const struct mp_gguf_tensor *t = w->tensor[i];
        uint64_t rows = w->ref[i].ne[1], step = rows_at_once(t, rows);
        for (uint64_t row = 0; row < rows; row += step) {
            uint64_t n = rows - row < step ? rows - row : step;
            rc = mp_gguf_read(g, t, row * t->row_bytes, buffer, n * t->row_bytes, err);
            if (rc < 0)
                goto out;
            rc = ops->w_put(mem, w->off[i], &w->ref[i], t->type, row, n, buffer, err);
            if (rc < 0) {
                mp_err_context(err, "%s: tensor '%s'", mp_gguf_path(g), t->name);
                goto out;
            }
            done += n * t->row_bytes;
            if (progress && !progress(ctx, done, w->file_bytes)) {
                rc = mp_err_set(err, MP_ECANCELLED, "%s: loading was cancelled", mp_gguf_path(g));
                goto out;
            }
        }
    }
    rc = mp_gguf_unchanged(g, err); /* rewritten in place meanwhile: half old, half new */
out:
    mp_free(buffer);
    return rc;
}
