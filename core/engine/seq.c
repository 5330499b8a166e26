/* core/engine/seq.c — see seq.h. */
#include "core/engine/seq.h"

#include "core/base/mem.h"

#include <string.h>

enum { MAGIC = 0x73657121 };

struct mp_seq *mp_seq_new(struct mp_replica *r, uint64_t tag, const int32_t *ids, uint32_t n,
                          const struct mp_msg_start *set, uint32_t max_tokens, uint64_t now)
{
    struct mp_seq *s = mp_calloc(sizeof *s);
    *s = (struct mp_seq){
        .magic = MAGIC, .rep = r, .tag = tag, .n_prompt = n, .max_tokens = max_tokens, .set = *set, .t_start = now};
    s->stop = -1;
    s->prompt = mp_malloc(n * sizeof *s->prompt);
    memcpy(s->prompt, ids, n * sizeof *s->prompt);
    mp_text_init(&s->text, set->stops, set->n_stops);
    if (set->deadline_ns > 0 && !mp_add_u64(now, set->deadline_ns, &s->deadline))
        s->deadline = 0;
    return s;
}

void mp_seq_free(struct mp_seq *s)
{
    for (uint32_t g = 0; g < MP_MAX_KVS; g++)
        mp_free(s->pages[g]);
    mp_text_free(&s->text);
    mp_buf_free(&s->out);
    mp_free(s->prompt);
    s->magic = 0;
    mp_free(s);
}

bool mp_seq_token(struct mp_seq *s, const struct mp_vocab *v, int32_t id)
{
    size_t n = 0, was = s->out.len;
    s->last = id;
    s->n_made++;
    bool eog = !s->set.ignore_eog && v->is_eog && v->is_eog(v->ctx, id);
    const char *piece = !eog && v->piece ? v->piece(v->ctx, id, &n) : NULL;
    if (piece)
        s->stop = mp_text_feed(&s->text, piece, n, &s->out);
    bool ends = eog || s->stop >= 0 || s->n_made >= s->max_tokens;
    if (ends)
        s->finish = eog || s->stop >= 0 ? MP_MSG_FINISH_STOP : MP_MSG_FINISH_LENGTH;
    if (ends && s->stop < 0)
        mp_text_finish(&s->text, &s->out);
    s->produced += s->out.len - was;
    return ends;
}

bool mp_seq_prefilling(const struct mp_seq *s)
{
    return s->state == MP_SEQ_RUNNING && s->pos < s->n_prompt;
}

bool mp_seq_decodes(const struct mp_seq *s)
{
    bool reads = s->set.window == 0 || s->produced - s->taken <= s->set.window;
    return s->state == MP_SEQ_RUNNING && s->pos >= s->n_prompt && s->n_picked > 0 && s->n_picked < s->max_tokens &&
           reads;
}
