/* core/engine/load.c — see load.h. */
#include "core/engine/load.h"

#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/model/arch.h"
#include "core/model/gguf.h"
#include "core/model/weights.h"

#include <stdatomic.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static _Atomic uint64_t n_sources; /* serials given out */

struct mp_source {
    _Atomic uint32_t refs; /* any thread */
    _Atomic bool verified; /* loader threads: the checksum was right */
    char *path, *sha256;
    struct mp_gguf *gguf;
    struct mp_tok *tok;
    struct mp_plan *plan;
    uint32_t context;
    uint64_t identity, serial;
    char arch[64];
};

struct mp_loaded {
    const struct mp_device_ops *ops;
    struct mp_dev *dev;
    struct mp_source *src;
    struct mp_weights *weights;
    struct mp_mem *w, *scratch;
    struct mp_body body;
    uint64_t scratch_bytes, granule;
    struct mp_need need;
    uint64_t w_taken;
    struct mp_room *room; /* which holds need.total; NULL: none does */
};

/* FNV-1a: the same in every process, unlike mp_hash; nobody gains by a collision with his own file. */
static uint64_t fnv(uint64_t h, const void *p, size_t n)
{
    const unsigned char *b = p;
    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

static int default_context(struct mp_source *s, uint32_t wanted, struct mp_err *err)
{
    char key[96];
    struct mp_buf b = {0};
    uint32_t own = MP_SOURCE_CONTEXT;
    mp_buf_printf(&b, "%s.context_length", s->arch);
    size_t n = b.len < sizeof key - 1 ? b.len : sizeof key - 1;
    memcpy(key, b.data, n);
    key[n] = 0;
    mp_buf_free(&b);
    int rc = mp_gguf_u32(s->gguf, key, 1, INT32_MAX, &own, err);
    if (rc < 0 && rc != MP_ENOENT)
        return rc;
    if (wanted > own)
        return mp_err_set(err, MP_EINVAL, "a context of %u was asked for, the model was made for %u", wanted, own);
    s->context = wanted > 0 ? wanted : own < MP_SOURCE_CONTEXT ? own : MP_SOURCE_CONTEXT;
    return 0;
}

static int open_parts(struct mp_source *s, uint32_t context, struct mp_err *err)
{
    struct mp_template *t = NULL;
    const char *arch = NULL;
    size_t n = 0;
    int rc = mp_gguf_open(&s->gguf, s->path, err);
    if (rc < 0)
        return rc;
    rc = mp_gguf_str(s->gguf, "general.architecture", sizeof s->arch - 1, &arch, &n, err);
    if (rc < 0)
        return rc;
    memcpy(s->arch, arch, n);
    s->arch[n] = 0;
    rc = default_context(s, context, err);
    if (rc == 0)
        rc = mp_tok_new(&s->tok, s->gguf, err);
    if (rc == 0)
        rc = mp_arch_build(s->gguf, &(struct mp_arch_opts){.context = s->context}, &s->plan, err);
    if (rc == 0)
        rc = mp_template_new(&t, s->gguf, err);
    mp_template_free(t);
    if (rc == 0 && s->plan->n_vocab == 0)
        rc = mp_err_set(err, MP_EUNSUPPORTED, "the model has no logits: it does not generate text");
    if (rc == 0 && s->plan->n_vocab < mp_tok_n_vocab(s->tok))
        rc = mp_err_set(err, MP_EFORMAT, "the tokenizer has %u tokens, the model's head only %u rows",
                        mp_tok_n_vocab(s->tok), s->plan->n_vocab);
    return rc;
}

int mp_source_open(struct mp_source **out, const struct mp_source_conf *conf, struct mp_err *err)
{
    struct mp_source *s = mp_calloc(sizeof *s);
    atomic_init(&s->refs, 1);
    s->serial = atomic_fetch_add(&n_sources, 1) + 1;
    s->path = mp_strdup(conf->path);
    s->sha256 = conf->sha256 ? mp_strdup(conf->sha256) : NULL;
    int rc = open_parts(s, conf->context, err);
    if (rc < 0) {
        if (err && !strstr(err->message, s->path))
            mp_err_context(err, "%s", s->path);
        goto out;
    }
    const struct mp_gguf_identity *id = mp_gguf_identity(s->gguf);
    s->identity = fnv(0xcbf29ce484222325u, s->path, strlen(s->path));
    s->identity = fnv(s->identity, id, sizeof *id);
    s->identity = fnv(s->identity, &s->context, sizeof s->context);
    *out = mp_move(&s);
out:
    mp_source_free(s);
    return rc;
}

struct mp_source *mp_source_ref(struct mp_source *s)
{
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void mp_source_free(struct mp_source *s)
{
    if (!s || atomic_fetch_sub(&s->refs, 1) > 1)
        return;
    mp_plan_free(s->plan);
    mp_tok_free(s->tok);
    mp_gguf_free(s->gguf);
    mp_free(s->path);
    mp_free(s->sha256);
    mp_free(s);
}

const struct mp_gguf *mp_source_gguf(const struct mp_source *s)
{
    return s->gguf;
}

const struct mp_tok *mp_source_tok(const struct mp_source *s)
{
    return s->tok;
}

const struct mp_plan *mp_source_plan(const struct mp_source *s)
{
    return s->plan;
}

uint32_t mp_source_context(const struct mp_source *s)
{
    return s->context;
}

const char *mp_source_arch(const struct mp_source *s)
{
    return s->arch;
}

uint64_t mp_source_identity(const struct mp_source *s)
{
    return s->identity;
}

uint64_t mp_source_serial(const struct mp_source *s)
{
    return s->serial;
}

bool mp_source_intact(const struct mp_source *s)
{
    return mp_gguf_unchanged(s->gguf, NULL) == 0;
}

bool mp_source_current(const struct mp_source *s)
{
    const struct mp_gguf_identity *id = mp_gguf_identity(s->gguf);
    struct stat st;
    if (stat(s->path, &st) < 0)
        return false;
    uint64_t mtime = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
    return id->dev == (uint64_t)st.st_dev && id->inode == (uint64_t)st.st_ino && id->size == (uint64_t)st.st_size &&
           id->mtime_ns == mtime;
}

static const char *piece(void *ctx, int32_t id, size_t *n)
{
    return mp_tok_piece(ctx, id, false, n);
}

static bool is_eog(void *ctx, int32_t id)
{
    return mp_tok_is_eog(ctx, id);
}

struct mp_vocab mp_source_vocab(const struct mp_source *s)
{
    return (struct mp_vocab){.ctx = s->tok, .piece = piece, .is_eog = is_eog};
}

/* Prompts */

static int chat(const struct mp_source *s, struct mp_template *t, const char *payload, size_t n, struct mp_ids *ids,
                struct mp_err *err)
{
    struct mp_buf request = {0}, text = {0}, trust = {0};
    size_t at = 0;
    while (at < n && strchr(" \t\r\n", payload[at]))
        at++;
    bool bare = at < n && payload[at] == '[';
    if (bare)
        mp_buf_puts(&request, "{\"messages\":");
    mp_buf_put(&request, payload, n);
    if (bare)
        mp_buf_putc(&request, '}');
    int rc = mp_template_render(t, request.data, request.len, NULL, &text, &trust, err);
    if (rc == 0)
        rc = mp_tok_encode(s->tok, text.data, text.len, (const uint8_t *)trust.data, 0, ids, err);
    mp_buf_free(&request);
    mp_buf_free(&text);
    mp_buf_free(&trust);
    return rc;
}

static int raw_ids(const struct mp_source *s, const char *payload, size_t n, struct mp_ids *ids, struct mp_err *err)
{
    struct mp_rd r;
    if (n % 4 != 0)
        return mp_err_set(err, MP_EINVAL, "token ids come in 4 bytes each");
    int32_t *data = mp_try_realloc(ids->data, (ids->len + n / 4) * sizeof *data + 1);
    if (!data)
        return mp_err_set(err, MP_ENOMEM, "no memory for %zu token ids", n / 4);
    ids->data = data;
    ids->cap = ids->len + n / 4;
    mp_rd_init(&r, payload, n);
    for (size_t i = 0; i < n / 4; i++) {
        uint32_t id = mp_rd_u32(&r);
        if (id >= s->plan->n_vocab)
            return mp_err_set(err, MP_EINVAL, "token %zu of the prompt is %u: the vocabulary has %u", i, id,
                              s->plan->n_vocab);
        ids->data[ids->len++] = (int32_t)id;
    }
    return 0;
}

int mp_source_prompt(const struct mp_source *s, struct mp_template *t, uint32_t kind, bool special, const char *payload,
                     size_t n, struct mp_ids *ids, struct mp_err *err)
{
    int rc = MP_EINVAL;
    if (kind == MP_PREPARE_CHAT)
        rc = chat(s, t, payload, n, ids, err);
    else if (kind == MP_PREPARE_TEXT && n > 0)
        rc = mp_tok_encode(s->tok, payload, n, NULL, MP_TOK_BOS | (special ? MP_TOK_SPECIAL : 0), ids, err);
    else if (kind == MP_PREPARE_IDS)
        rc = raw_ids(s, payload, n, ids, err);
    else if (n == 0)
        rc = 0;
    else
        mp_err_set(err, MP_EINVAL, "no prompt of kind %u", kind);
    if (rc < 0)
        return rc;
    if (ids->len == 0)
        return mp_err_set(err, MP_EINVAL, "the prompt is empty");
    if (ids->len > s->context)
        return mp_err_set(err, MP_ECONTEXT, "the prompt has %zu tokens, the model's context holds %u", ids->len,
                          s->context);
    return 0;
}

/* Loading */

static int verify(struct mp_source *s, mp_progress_fn *progress, void *ctx, struct mp_err *err)
{
    uint8_t sum[32];
    char hex[65];
    if (!s->sha256 || atomic_load(&s->verified))
        return 0;
    int rc = mp_sha256_fd(mp_gguf_fd(s->gguf), s->path, sum, progress, ctx, err);
    if (rc < 0)
        return rc;
    mp_sha256_hex(sum, hex);
    if (strcasecmp(hex, s->sha256) != 0)
        return mp_err_set(err, MP_EFORMAT, "%s: its sha256 is %s, declared is %s", s->path, hex, s->sha256);
    atomic_store(&s->verified, true);
    return 0;
}

/* Flops: of one token without attention, and of attending to one position (q·k and p·v are two flops a column each). */
static void costs(const struct mp_plan *plan, struct mp_body *b)
{
    b->tok_cost = (double)mp_plan_flops(plan);
    b->kv_cost = 0;
    for (uint32_t i = 0; i < plan->n_nodes; i++)
        if (plan->nodes[i].op == MP_OP_ATTN)
            b->kv_cost += 4.0 * plan->vals[plan->nodes[i].in[0]].n;
}

static int set_limits(struct mp_loaded *l, const struct mp_load_conf *conf, struct mp_err *err)
{
    struct mp_caps caps = {0};
    struct mp_body *b = &l->body;
    const struct mp_plan *plan = l->src->plan;
    l->ops->caps(l->dev, &caps);
    if (!(caps.numerics & 1u << conf->numerics))
        return mp_err_set(err, MP_EUNSUPPORTED, "%s does not compute in '%s' numerics", caps.name,
                          mp_numerics_name(conf->numerics));
    uint32_t max_seq = conf->max_seq > 0 ? conf->max_seq : 16;
    uint32_t max_tok = conf->max_tok > 0 ? conf->max_tok : 512;
    uint32_t per_seq = (l->src->context + caps.page_tokens - 1) / caps.page_tokens;
    uint64_t pages = (uint64_t)per_seq * max_seq;
    if (pages > UINT32_MAX)
        return mp_err_set(err, MP_ELIMIT, "%u sequences of %u tokens are too many pages", max_seq, l->src->context);
    b->lim = (struct mp_limits){.max_tok = max_tok > max_seq ? max_tok : max_seq,
                                .max_seq = max_seq,
                                .max_out = conf->max_out > max_seq ? conf->max_out : max_seq,
                                .max_slot = max_seq,
                                .max_pages = (uint32_t)pages,
                                .max_seq_pages = per_seq,
                                .numerics = conf->numerics,
                                .invariant = caps.invariant};
    l->granule = caps.granule > 0 ? caps.granule : 1;
    b->page_tokens = caps.page_tokens;
    b->n_kvs = plan->n_kvs;
    b->n_vocab = plan->n_vocab;
    costs(plan, b);
    return 0;
}

/* Sums up what begin() found. */
static int sum_up(struct mp_loaded *l, struct mp_err *err)
{
    struct mp_need *n = &l->need;
    struct mp_body *b = &l->body;
    bool good = mp_align_u64(l->weights->bytes, l->granule, &n->weights) &&
                mp_align_u64(l->scratch_bytes, l->granule, &n->scratch);
    for (uint32_t g = 0; g < b->n_kvs && good; g++) {
        uint64_t page = 0, bytes = 0;
        good = mp_align_u64(b->page_bytes[g], l->granule, &page) && mp_mul_u64(page, b->lim.max_seq_pages, &bytes) &&
               mp_add_u64(n->kv, bytes, &n->kv);
    }
    n->beside = l->ops->beside ? l->ops->beside(l->dev, l->src->plan, &b->lim) : 0;
    good = good && mp_add_u64(n->weights, n->scratch, &n->total) && mp_add_u64(n->total, n->beside, &n->total) &&
           mp_add_u64(n->total, n->kv, &n->total);
    return good ? 0 : mp_err_set(err, MP_ELIMIT, "%s: the memory it needs cannot be counted", l->src->path);
}

int mp_load_begin(struct mp_loaded **out, struct mp_source *src, const struct mp_device_ops *ops, struct mp_dev *dev,
                  const struct mp_load_conf *conf, struct mp_err *err)
{
    struct mp_loaded *l = mp_calloc(sizeof *l);
    l->ops = ops;
    l->dev = dev;
    l->src = mp_source_ref(src);
    int rc = set_limits(l, conf, err);
    if (rc == 0)
        rc = mp_weights_find(&l->weights, src->gguf, src->plan, ops, dev, &l->body.lim, err);
    if (rc == 0)
        rc = ops->need(dev, src->plan, &l->body.lim, &l->scratch_bytes, l->body.page_bytes, err);
    if (rc == 0)
        rc = sum_up(l, err);
    if (rc == 0)
        *out = mp_move(&l);
    mp_loaded_free(l);
    return rc;
}

int mp_load_need(struct mp_source *src, const struct mp_device_ops *ops, const char *spec,
                 const struct mp_load_conf *conf, struct mp_need *out, struct mp_err *err)
{
    struct mp_loaded *l = NULL;
    struct mp_dev *dev = NULL;
    int rc = ops->open_dry ? ops->open_dry(&dev, spec, err) : ops->open(&dev, spec, err);
    if (rc == 0)
        rc = mp_load_begin(&l, src, ops, dev, conf, err);
    if (rc == 0)
        *out = l->need;
    mp_loaded_free(l);
    if (dev)
        ops->close(dev);
    return rc;
}

/* What the device counts of the last calls, or what was planned where it does not count. */
static uint64_t taken(const struct mp_loaded *l, uint64_t before, uint64_t planned)
{
    return l->ops->used ? l->ops->used(l->dev) - before : planned;
}

static uint64_t used_now(const struct mp_loaded *l)
{
    return l->ops->used ? l->ops->used(l->dev) : 0;
}

int mp_load_claim(struct mp_loaded *l, struct mp_room *room, struct mp_err *err)
{
    uint64_t before = used_now(l), bytes = l->weights->bytes;
    int rc = room ? mp_room_load(room, l->need.total, err) : 0;
    if (rc < 0)
        return rc;
    l->room = room;
    rc = l->ops->mem_reserve(l->dev, bytes, &l->w, err);
    if (rc == 0)
        rc = l->ops->mem_commit(l->w, 0, bytes, true, err);
    if (rc < 0) {
        mp_err_context(err, "%s: its weights need %llu bytes", l->src->path, (unsigned long long)bytes);
        return rc;
    }
    l->w_taken = taken(l, before, l->need.weights);
    return 0;
}

struct reading { /* who asks, behind the device's own measure of progress */
    mp_progress_fn *progress;
    void *ctx;
    uint64_t bytes;
};

static bool ask_only(void *ctx, uint64_t done, uint64_t total)
{
    const struct reading *r = ctx;
    (void)done;
    return r->progress(r->ctx, 0, total);
}

static bool in_bytes(void *ctx, uint64_t done, uint64_t total)
{
    const struct reading *r = ctx;
    double part = total > 0 ? (double)done / (double)total : 0;
    return r->progress(r->ctx, done >= total ? r->bytes : (uint64_t)(part * (double)r->bytes), r->bytes);
}

int mp_load_read(struct mp_loaded *l, mp_progress_fn *progress, void *ctx, struct mp_err *err)
{
    /* Where the device has work left when the file was read, its progress is what is told. */
    struct reading r = {progress, ctx, l->weights->file_bytes};
    bool waits = l->ops->w_wait && progress;
    int rc = mp_gguf_unchanged(l->src->gguf, err);
    if (rc == 0)
        rc = verify(l->src, progress, ctx, err);
    if (rc == 0)
        rc = mp_weights_load(l->weights, l->src->gguf, l->ops, l->w, waits ? ask_only : progress,
                             waits ? (void *)&r : ctx, err);
    if (rc == 0 && l->ops->w_wait)
        rc = l->ops->w_wait(l->w, progress ? in_bytes : NULL, &r, err);
    return rc;
}

/* What was planned is replaced by what the device took. */
static int correct(struct mp_loaded *l, uint64_t build_taken, struct mp_err *err)
{
    struct mp_need n = l->need;
    n.weights = l->w_taken;
    n.scratch = l->need.scratch < build_taken ? l->need.scratch : build_taken;
    n.beside = build_taken - n.scratch;
    n.total = n.weights + build_taken + n.kv;
    if (l->room && !mp_room_correct(l->room, l->need.total, n.total))
        return mp_room_refuse(n.total, mp_room_held(l->room) - l->need.total, mp_room_limit_get(l->room), err);
    l->need = n;
    return 0;
}

int mp_load_build(struct mp_loaded *l, struct mp_err *err)
{
    struct mp_body *b = &l->body;
    uint64_t before = used_now(l);
    int rc = l->ops->mem_reserve(l->dev, l->scratch_bytes, &l->scratch, err);
    if (rc == 0)
        rc = l->ops->mem_commit(l->scratch, 0, l->scratch_bytes, true, err);
    for (uint32_t g = 0; rc == 0 && g < b->n_kvs; g++) {
        uint64_t bytes = 0;
        if (!mp_mul_u64(b->page_bytes[g], b->lim.max_pages, &bytes))
            rc = mp_err_set(err, MP_ELIMIT, "KV pages of %llu bytes, %u of them, are too many",
                            (unsigned long long)b->page_bytes[g], b->lim.max_pages);
        if (rc == 0)
            rc = l->ops->mem_reserve(l->dev, bytes, &b->kv[g], err);
    }
    if (rc == 0)
        rc = l->ops->build(l->dev, l->src->plan, &b->lim, l->w, l->weights->off, l->weights->type, l->scratch, b->kv,
                           &b->exec, err);
    if (rc == 0 && l->ops->warm)
        rc = l->ops->warm(b->exec, err);
    if (rc == 0)
        rc = correct(l, taken(l, before, l->need.scratch + l->need.beside), err);
    return rc;
}

void mp_loaded_free(struct mp_loaded *l)
{
    if (!l)
        return;
    l->ops->exec_free(l->body.exec);
    for (uint32_t g = 0; g < MP_MAX_KVS; g++)
        l->ops->mem_free(l->body.kv[g]);
    l->ops->mem_free(l->scratch);
    l->ops->mem_free(l->w);
    if (l->room)
        mp_room_unload(l->room, l->need.total);
    mp_weights_free(l->weights);
    mp_source_free(l->src);
    mp_free(l);
}

const struct mp_body *mp_loaded_body(const struct mp_loaded *l)
{
    return &l->body;
}

const struct mp_need *mp_loaded_need(const struct mp_loaded *l)
{
    return &l->need;
}
