/* core/engine/harness.c — see harness.h. */
#include "core/engine/harness.h"

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/engine/load.h"
#include "core/engine/pages.h"

#include <string.h>

struct mp_harness {
    const struct mp_device_ops *ops;
    struct mp_dev *dev;
    struct mp_source *src;
    struct mp_loaded *loaded;
    struct mp_caps caps;
};

int mp_harness_open(struct mp_harness **out, const char *path, const char *device, uint32_t context, struct mp_err *err)
{
    struct mp_harness *h = mp_calloc(sizeof *h);
    const char *colon = strchr(device, ':');
    char *name = mp_strndup(device, colon ? (size_t)(colon - device) : strlen(device));
    struct mp_source_conf conf = {.path = path, .context = context > 0 ? context : 2048};
    struct mp_load_conf load = {
        .max_seq = MP_HARNESS_MAX_SEQ, .max_tok = MP_HARNESS_MAX_TOK, .max_out = MP_HARNESS_MAX_TOK};
    int rc = MP_ENOENT;
    h->ops = mp_device_find(name);
    if (!h->ops) {
        mp_err_set(err, rc, "no device is called '%s'", name);
        goto out;
    }
    rc = mp_source_open(&h->src, &conf, err);
    if (rc == MP_EINVAL && context == 0) { /* the model was made for less */
        conf.context = 0;
        rc = mp_source_open(&h->src, &conf, err);
    }
    if (rc == 0)
        rc = h->ops->open(&h->dev, colon ? colon + 1 : "", err);
    if (rc == 0)
        rc = mp_load_begin(&h->loaded, h->src, h->ops, h->dev, &load, err);
    if (rc == 0)
        rc = mp_load_claim(h->loaded, NULL, err);
    if (rc == 0)
        rc = mp_load_read(h->loaded, NULL, NULL, err);
    if (rc == 0)
        rc = mp_load_build(h->loaded, err);
    if (rc < 0)
        goto out;
    h->ops->caps(h->dev, &h->caps);
    *out = mp_move(&h);
out:
    mp_harness_free(h);
    mp_free(name);
    return rc;
}

void mp_harness_free(struct mp_harness *h)
{
    if (!h)
        return;
    mp_loaded_free(h->loaded);
    if (h->dev)
        h->ops->close(h->dev);
    mp_source_free(h->src);
    mp_free(h);
}

uint32_t mp_harness_n_vocab(const struct mp_harness *h)
{
    return mp_loaded_body(h->loaded)->n_vocab;
}

const char *mp_harness_device(const struct mp_harness *h)
{
    return h->caps.name;
}

int mp_harness_tokenize(const struct mp_harness *h, const char *text, size_t n, int32_t *ids, uint32_t max,
                        struct mp_err *err)
{
    struct mp_ids got = {0};
    int rc = mp_tok_encode(mp_source_tok(h->src), text, n, NULL, 0, &got, err);
    if (rc == 0 && got.len > max)
        rc = mp_err_set(err, MP_ELIMIT, "%zu ids, there is room for %u", got.len, max);
    if (rc == 0 && got.len > 0)
        memcpy(ids, got.data, got.len * sizeof *ids);
    if (rc == 0)
        rc = (int)got.len;
    mp_ids_free(&got);
    return rc;
}

struct run { /* one mp_harness_logits */
    struct mp_harness *h;
    const struct mp_body *body;
    struct mp_pages *pages[MP_MAX_KVS];
    uint32_t n_seq, chunk;
    uint32_t first[MP_HARNESS_MAX_SEQ], len[MP_HARNESS_MAX_SEQ], pos[MP_HARNESS_MAX_SEQ], n_pages[MP_HARNESS_MAX_SEQ];
    uint32_t *table[MP_MAX_KVS]; /* [n_seq][max_seq_pages] */
    const int32_t *ids;
    float *logits, *row;
    uint64_t *hash;
    struct mp_harness_stats stats;
    uint64_t seqs, toks;
};

static int make_pages(struct run *r, uint32_t s, uint32_t upto, struct mp_err *err)
{
    uint32_t need = (upto + r->body->page_tokens - 1) / r->body->page_tokens;
    for (; r->n_pages[s] < need; r->n_pages[s]++)
        for (uint32_t g = 0; g < r->body->n_kvs; g++) {
            uint32_t *to = &r->table[g][(size_t)s * r->body->lim.max_seq_pages + r->n_pages[s]];
            int rc = mp_pages_take(r->pages[g], to, err);
            if (rc < 0)
                return rc;
        }
    return 0;
}

static int keep_rows(struct run *r, const uint32_t *row_of, uint32_t n, struct mp_err *err)
{
    static const uint64_t key[2] = {1, 2};
    uint32_t n_vocab = r->body->n_vocab;
    for (uint32_t i = 0; i < n; i++) {
        float *to = r->logits ? r->logits + (size_t)row_of[i] * n_vocab : r->row;
        int rc = r->h->ops->read(r->body->exec, "logits", i, to, n_vocab, err);
        if (rc < 0)
            return rc;
        if (r->hash)
            r->hash[row_of[i]] = mp_hash_keyed(to, n_vocab * sizeof *to, key);
    }
    return 0;
}

/* One ragged step over every prompt that is not done; false in *more when all are. */
static int step(struct run *r, bool *more, struct mp_err *err)
{
    enum { TOK = MP_HARNESS_MAX_TOK, SEQ = MP_HARNESS_MAX_SEQ };
    int32_t tok[TOK], pos[TOK];
    uint32_t out[TOK], row_of[TOK], start[SEQ + 1] = {0}, kv_len[SEQ], slot[SEQ];
    uint32_t stride = r->body->lim.max_seq_pages, *pages[MP_MAX_KVS] = {0};
    struct mp_step st = {.tok = tok, .pos = pos, .start = start, .kv_len = kv_len, .slot = slot, .out = out};
    struct mp_done done;
    mp_ticket ticket = 0;
    int rc = 0;
    for (uint32_t g = 0; g < r->body->n_kvs; g++) {
        pages[g] = mp_calloc((size_t)SEQ * stride * sizeof **pages);
        st.pages[g] = pages[g];
        st.stride[g] = stride;
    }
    for (uint32_t s = 0; s < r->n_seq && rc == 0; s++) {
        uint32_t n = r->len[s] - r->pos[s];
        n = n < r->chunk ? n : r->chunk;
        n = n < TOK - st.n_tok ? n : TOK - st.n_tok;
        if (n == 0)
            continue;
        rc = make_pages(r, s, r->pos[s] + n, err);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t at = st.n_tok++;
            tok[at] = r->ids[r->first[s] + r->pos[s] + i];
            pos[at] = (int32_t)(r->pos[s] + i);
            out[at] = at;
            row_of[at] = r->first[s] + r->pos[s] + i;
        }
        for (uint32_t g = 0; g < r->body->n_kvs; g++)
            memcpy(pages[g] + (size_t)st.n_seq * stride, r->table[g] + (size_t)s * stride,
                   r->n_pages[s] * sizeof **pages);
        r->pos[s] += n;
        kv_len[st.n_seq] = r->pos[s];
        slot[st.n_seq] = s;
        start[++st.n_seq] = st.n_tok;
    }
    st.n_out = st.n_tok;
    *more = st.n_tok > 0;
    if (rc == 0 && *more)
        rc = r->h->ops->forward(r->body->exec, &st, &ticket, err);
    if (rc == 0 && *more) {
        rc = r->h->ops->wait(r->h->dev, ticket, MP_WAIT_FOREVER, &done);
        if (rc == 0 && done.rc < 0)
            rc = mp_err_set(err, done.rc, "%s", done.err.message);
        r->stats.busy_ns += rc == 0 ? done.busy_ns : 0;
        r->stats.steps++;
        r->seqs += st.n_seq;
        r->toks += st.n_tok;
    }
    if (rc == 0 && *more)
        rc = keep_rows(r, row_of, st.n_tok, err);
    for (uint32_t g = 0; g < MP_MAX_KVS; g++)
        mp_free(pages[g]);
    return rc;
}

int mp_harness_logits(struct mp_harness *h, const int32_t *ids, const uint32_t *len, uint32_t n_seq, uint32_t chunk,
                      float *logits, uint64_t *hash, struct mp_harness_stats *stats, struct mp_err *err)
{
    struct run r = {.h = h,
                    .body = mp_loaded_body(h->loaded),
                    .n_seq = n_seq,
                    .chunk = chunk,
                    .ids = ids,
                    .logits = logits,
                    .hash = hash};
    uint32_t all = 0;
    int rc = 0;
    if (n_seq < 1 || n_seq > MP_HARNESS_MAX_SEQ || chunk < 1 || chunk > MP_HARNESS_MAX_TOK)
        return mp_err_set(err, MP_EINVAL, "1 to %d prompts, chunks of 1 to %d", MP_HARNESS_MAX_SEQ, MP_HARNESS_MAX_TOK);
    for (uint32_t s = 0; s < n_seq; s++) {
        if (len[s] > mp_source_context(h->src))
            return mp_err_set(err, MP_ECONTEXT, "the prompt has %u tokens, the model's context holds %u", len[s],
                              mp_source_context(h->src));
        r.first[s] = all;
        r.len[s] = len[s];
        all += len[s];
    }
    for (uint32_t i = 0; i < all; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= r.body->n_vocab)
            return mp_err_set(err, MP_EINVAL, "token %u is %d: the vocabulary has %u", i, ids[i], r.body->n_vocab);
    r.row = mp_malloc(r.body->n_vocab * sizeof *r.row);
    for (uint32_t g = 0; g < r.body->n_kvs; g++) {
        r.pages[g] = mp_pages_new(h->ops, r.body->kv[g], r.body->lim.max_pages, r.body->page_bytes[g]);
        r.table[g] = mp_calloc((size_t)n_seq * r.body->lim.max_seq_pages * sizeof *r.table[g]);
    }
    for (uint32_t s = 0; s < n_seq && rc == 0; s++)
        rc = h->ops->slot_set(r.body->exec, s, NULL, 0);
    for (bool more = rc == 0; more && rc == 0;)
        rc = step(&r, &more, err);
    if (rc == 0 && r.stats.steps > 0) {
        r.stats.mean_seq = (double)r.seqs / r.stats.steps;
        r.stats.mean_tok = (double)r.toks / r.stats.steps;
    }
    if (stats)
        *stats = r.stats;
    for (uint32_t g = 0; g < r.body->n_kvs; g++) {
        for (uint32_t s = 0; s < n_seq; s++)
            for (uint32_t i = 0; i < r.n_pages[s]; i++)
                mp_pages_give(r.pages[g], r.table[g][(size_t)s * r.body->lim.max_seq_pages + i]);
        mp_pages_trim(r.pages[g], 0);
        mp_pages_free(r.pages[g]);
        mp_free(r.table[g]);
    }
    mp_free(r.row);
    return rc;
}
