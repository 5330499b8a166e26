/* gpu/lower/step.c — see step.h. */
#include "gpu/lower/step.h"

void mp_step_rules(struct mp_step_rules *r, const struct mp_plan *plan, const struct mp_limits *lim,
                   uint32_t page_tokens)
{
    *r = (struct mp_step_rules){.lim = lim, .n_kvs = plan->n_kvs, .page_tokens = page_tokens};
    uint64_t reach = (uint64_t)lim->max_seq_pages * page_tokens;
    r->n_positions = plan->n_kvs && reach < plan->n_context ? (uint32_t)reach : plan->n_context;
    for (uint32_t i = 0; i < plan->n_kvs; i++)
        r->windows[i] = plan->kvs[i].window;
    for (uint32_t i = 0; i < plan->n_nodes; i++)
        if (plan->nodes[i].op == MP_OP_EMBED) {
            uint32_t rows = plan->weights[plan->nodes[i].w[0]].ne[1];
            r->n_embed = r->n_embed && r->n_embed < rows ? r->n_embed : rows;
        }
}

void mp_step_pages(const struct mp_step_rules *r, const struct mp_step *s, uint32_t seq, uint32_t g, uint32_t *first,
                   uint32_t *end)
{
    uint32_t pos = (uint32_t)s->pos[s->start[seq]], window = r->windows[g];
    *first = (window && pos >= window ? pos - window + 1 : 0) / r->page_tokens;
    *end = (s->kv_len[seq] + r->page_tokens - 1) / r->page_tokens;
}

static int check_tokens(const struct mp_step_rules *r, const struct mp_step *s, uint32_t seq, struct mp_err *err)
{
    for (uint32_t t = s->start[seq]; t < s->start[seq + 1]; t++) {
        int32_t id = s->tok[t], pos = s->pos[t];
        if (pos < 0 || (uint32_t)pos >= r->n_positions || (t > s->start[seq] && pos != s->pos[t - 1] + 1))
            return mp_err_set(err, MP_EINVAL, "step: sequence %u: position %d is out of range or out of order", seq,
                              pos);
        if (id != MP_TOK_LAST && r->n_embed && (id < 0 || (uint32_t)id >= r->n_embed))
            return mp_err_set(err, MP_EINVAL, "step: sequence %u: token %d; there are %u", seq, id, r->n_embed);
    }
    uint32_t len = (uint32_t)s->pos[s->start[seq + 1] - 1] + 1;
    if (s->kv_len[seq] != len)
        return mp_err_set(err, MP_EINVAL, "step: sequence %u: %u positions in the cache, but its last token makes %u",
                          seq, s->kv_len[seq], len);
    return 0;
}

static int check_pages(const struct mp_step_rules *r, const struct mp_step *s, uint32_t seq, struct mp_err *err)
{
    for (uint32_t g = 0; g < r->n_kvs; g++) {
        uint32_t first, end;
        mp_step_pages(r, s, seq, g, &first, &end);
        if (end > s->stride[g])
            return mp_err_set(err, MP_EINVAL, "step: sequence %u: %u positions need %u pages, its table has %u", seq,
                              s->kv_len[seq], end, s->stride[g]);
        for (uint32_t i = first; i < end; i++) {
            uint32_t page = s->pages[g][(uint64_t)seq * s->stride[g] + i];
            if (page >= r->lim->max_pages)
                return mp_err_set(err, MP_EINVAL, "step: sequence %u: page %u of kv group %u; there are %u", seq, page,
                                  g, r->lim->max_pages);
        }
    }
    return 0;
}

int mp_step_check(const struct mp_step_rules *r, const struct mp_step *s, struct mp_err *err)
{
    const struct mp_limits *lim = r->lim;
    if (s->n_tok < 1 || s->n_tok > lim->max_tok || s->n_seq < 1 || s->n_seq > lim->max_seq || s->n_out > lim->max_out)
        return mp_err_set(err, MP_EINVAL, "step: %u tokens, %u sequences, %u outputs; built for %u, %u, %u", s->n_tok,
                          s->n_seq, s->n_out, lim->max_tok, lim->max_seq, lim->max_out);
    if (!s->tok || !s->pos || !s->start || !s->kv_len || !s->slot || (s->n_out && !s->out))
        return mp_err_set(err, MP_EINVAL, "step: an array is missing");
    for (uint32_t g = 0; g < r->n_kvs; g++)
        if (!s->pages[g] || s->stride[g] > lim->max_seq_pages)
            return mp_err_set(err, MP_EINVAL, "step: the page table of kv group %u is missing or too wide", g);
    uint32_t at = 0;
    for (uint32_t i = 0; i < s->n_seq; i++) {
        if (s->start[i] != at || s->start[i + 1] <= at || s->start[i + 1] > s->n_tok)
            return mp_err_set(err, MP_EINVAL, "step: sequence %u: bad offsets", i);
        at = s->start[i + 1];
        if (s->slot[i] >= lim->max_slot)
            return mp_err_set(err, MP_EINVAL, "step: sequence %u: slot %u; there are %u", i, s->slot[i], lim->max_slot);
        int rc = check_tokens(r, s, i, err);
        if (!rc)
            rc = check_pages(r, s, i, err);
        if (rc)
            return rc;
    }
    if (at != s->n_tok)
        return mp_err_set(err, MP_EINVAL, "step: %u tokens, but its sequences have %u", s->n_tok, at);
    for (uint32_t i = 0; i < s->n_out; i++)
        if (s->out[i] >= s->n_tok || (i && s->out[i] <= s->out[i - 1]))
            return mp_err_set(err, MP_EINVAL, "step: output row %u is out of range or out of order", s->out[i]);
    return 0;
}
