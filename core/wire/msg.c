/* core/wire/msg.c — see msg.h. Encoder and decoder are made from the same field lists, so that they cannot disagree. */
#include "core/wire/msg.h"

#include "core/base/mem.h"

#include <math.h>
#include <string.h>

struct coder { /* one message on its way in or out */
    struct mp_buf *out;
    struct mp_rd in;
    const char *bad; /* the first field that was missing or out of its range */
};

struct mp_span mp_span_of(const char *s)
{
    size_t n = s ? strlen(s) : 0;
    return (struct mp_span){s, n > UINT32_MAX ? UINT32_MAX : (uint32_t)n};
}

static void check(struct coder *c, const char *field, bool good)
{
    if (!good && !c->bad)
        c->bad = field;
}

#define CODE_UNSIGNED(KIND, type, fn)                                                 \
    static void put_##KIND(struct coder *c, const char *field, type v, uint64_t most) \
    {                                                                                 \
        check(c, field, v <= most);                                                   \
        mp_buf_##fn(c->out, v);                                                       \
    }                                                                                 \
    static type get_##KIND(struct coder *c, const char *field, uint64_t most)         \
    {                                                                                 \
        type v = mp_rd_##fn(&c->in);                                                  \
        check(c, field, !c->in.bad && v <= most);                                     \
        return v;                                                                     \
    }
CODE_UNSIGNED(U8, uint8_t, u8)
CODE_UNSIGNED(U16, uint16_t, u16)
CODE_UNSIGNED(U32, uint32_t, u32)
CODE_UNSIGNED(U64, uint64_t, u64)

static void put_I32(struct coder *c, const char *field, int32_t v, int64_t most)
{
    check(c, field, v >= -most && v <= most);
    mp_buf_u32(c->out, (uint32_t)v);
}

static int32_t get_I32(struct coder *c, const char *field, int64_t most)
{
    int32_t v = (int32_t)mp_rd_u32(&c->in);
    check(c, field, !c->in.bad && v >= -most && v <= most);
    return v;
}

static void put_F32(struct coder *c, const char *field, float v, float most)
{
    check(c, field, isfinite(v) && fabsf(v) <= most);
    mp_buf_f32(c->out, v);
}

static float get_F32(struct coder *c, const char *field, float most)
{
    float v = mp_rd_f32(&c->in);
    check(c, field, !c->in.bad && isfinite(v) && fabsf(v) <= most);
    return v;
}

static void put_SPAN(struct coder *c, const char *field, struct mp_span v, uint32_t most)
{
    check(c, field, v.n <= most);
    mp_buf_u32(c->out, v.n);
    if (v.n > 0 && v.n <= most)
        mp_buf_put(c->out, v.p, v.n);
}

static struct mp_span get_SPAN(struct coder *c, const char *field, uint32_t most)
{
    struct mp_span v = {NULL, mp_rd_u32(&c->in)};
    check(c, field, !c->in.bad && v.n <= most);
    v.p = mp_rd_bytes(&c->in, v.n);
    check(c, field, !c->in.bad);
    if (c->bad)
        v = (struct mp_span){NULL, 0};
    return v;
}

static void put_STOPS(struct coder *c, const char *field, const struct mp_span *v, uint8_t n)
{
    bool good = n <= MP_MSG_MAX_STOPS;
    mp_buf_u8(c->out, n);
    for (uint32_t i = 0; good && i < n; i++) {
        good = v[i].n >= 1 && v[i].n <= MP_MSG_MAX_STOP;
        if (good) {
            mp_buf_u16(c->out, (uint16_t)v[i].n);
            mp_buf_put(c->out, v[i].p, v[i].n);
        }
    }
    check(c, field, good);
}

static uint8_t get_STOPS(struct coder *c, const char *field, struct mp_span *v)
{
    uint8_t n = mp_rd_u8(&c->in);
    check(c, field, !c->in.bad && n <= MP_MSG_MAX_STOPS);
    for (uint32_t i = 0; !c->bad && i < n; i++) {
        v[i].n = mp_rd_u16(&c->in);
        check(c, field, v[i].n >= 1 && v[i].n <= MP_MSG_MAX_STOP);
        v[i].p = mp_rd_bytes(&c->in, v[i].n);
        check(c, field, !c->in.bad);
    }
    return c->bad ? 0 : n;
}

#define PUT_FIELD(kind, name, most) PUT_##kind(name, most)
#define PUT_U8(name, most)          put_U8(c, #name, m->name, most);
#define PUT_U16(name, most)         put_U16(c, #name, m->name, most);
#define PUT_U32(name, most)         put_U32(c, #name, m->name, most);
#define PUT_U64(name, most)         put_U64(c, #name, m->name, most);
#define PUT_I32(name, most)         put_I32(c, #name, m->name, most);
#define PUT_F32(name, most)         put_F32(c, #name, m->name, most);
#define PUT_SPAN(name, most)        put_SPAN(c, #name, m->name, most);
#define PUT_STOPS(name, most)       put_STOPS(c, #name, m->name, m->n_##name);
#define GET_FIELD(kind, name, most) GET_##kind(name, most)
#define GET_U8(name, most)          m->name = get_U8(c, #name, most);
#define GET_U16(name, most)         m->name = get_U16(c, #name, most);
#define GET_U32(name, most)         m->name = get_U32(c, #name, most);
#define GET_U64(name, most)         m->name = get_U64(c, #name, most);
#define GET_I32(name, most)         m->name = get_I32(c, #name, most);
#define GET_F32(name, most)         m->name = get_F32(c, #name, most);
#define GET_SPAN(name, most)        m->name = get_SPAN(c, #name, most);
#define GET_STOPS(name, most)       m->n_##name = get_STOPS(c, #name, m->name);

/* put_hello(), get_hello(), … from the field lists; `cancel` and `models` have no fields and no struct. */
struct mp_msg_cancel;
struct mp_msg_models;
#define X(num, NAME, name)                                                 \
    static void put_##name(struct coder *c, const struct mp_msg_##name *m) \
    {                                                                      \
        (void)c;                                                           \
        (void)m;                                                           \
        MP_##NAME##_FIELDS(PUT_FIELD)                                      \
    }                                                                      \
    static void get_##name(struct coder *c, struct mp_msg_##name *m)       \
    {                                                                      \
        (void)c;                                                           \
        (void)m;                                                           \
        MP_##NAME##_FIELDS(GET_FIELD)                                      \
    }
MP_MESSAGES(X)
#undef X

const char *mp_msg_name(uint32_t type)
{
    switch (type) {
#define X(num, NAME, name) \
    case num: return #name;
        MP_MESSAGES(X)
#undef X
    }
    return NULL;
}

const char *mp_model_state_name(uint32_t s)
{
    static const char *const names[] = {
#define X(code, name) name,
        MP_MODEL_STATES(X)
#undef X
    };
    return s < MP_COUNT(names) ? names[s] : "unknown";
}

const char *mp_msg_finish_name(uint32_t f)
{
    static const char *const names[] = {
#define X(code, name) name,
        MP_MSG_FINISHES(X)
#undef X
    };
    return f < MP_COUNT(names) ? names[f] : "unknown";
}

void mp_msg_start_init(struct mp_msg_start *s)
{
    *s = (struct mp_msg_start){.max_tokens = UINT32_MAX, .temperature = 1, .top_p = 1, .repetition = 1};
}

int mp_msg_encode(struct mp_buf *out, const struct mp_msg *m, struct mp_err *err)
{
    struct coder c = {.out = out};
    const char *name = mp_msg_name(m->type);
    size_t from = out->len;
    if (!name || m->flags)
        return mp_err_set(err, MP_EINVAL, "no message of type %u with flags %u", m->type, m->flags);
    mp_buf_u32(out, 0);
    mp_buf_u16(out, m->type);
    mp_buf_u16(out, 0);
    mp_buf_u64(out, m->id);
    switch (m->type) {
#define X(num, NAME, name) \
    case num: put_##name(&c, (const void *)&m->u); break;
        MP_MESSAGES(X)
#undef X
    }
    size_t n = out->len - from;
    if (n > MP_FRAME_MAX && !c.bad)
        c.bad = "(its size)";
    if (c.bad) {
        out->len = from;
        return mp_err_set(err, MP_EINVAL, "message %s: %s is out of range", name, c.bad);
    }
    uint32_t rest = (uint32_t)n - 4;
    for (int i = 0; i < 4; i++)
        out->data[from + i] = (char)(rest >> 8 * i);
    return 0;
}

int mp_msg_decode(struct mp_msg *m, uint16_t type, uint16_t flags, uint64_t id, const void *payload, size_t n,
                  struct mp_err *err)
{
    struct coder c = {0};
    const char *name = mp_msg_name(type);
    memset(m, 0, sizeof *m);
    m->type = type;
    m->id = id;
    if (!name || flags)
        return mp_err_set(err, MP_EPROTO, "no message of type %u with flags %u", type, flags);
    mp_rd_init(&c.in, payload, n);
    switch (type) {
#define X(num, NAME, name) \
    case num: get_##name(&c, (void *)&m->u); break;
        MP_MESSAGES(X)
#undef X
    }
    if (c.bad)
        return mp_err_set(err, MP_EPROTO, "message %s: %s is missing or out of range", name, c.bad);
    if (mp_rd_left(&c.in) > 0)
        return mp_err_set(err, MP_EPROTO, "message %s: %zu bytes too many", name, mp_rd_left(&c.in));
    return 0;
}

int mp_msg_next(struct mp_msg *m, const void *data, size_t n, size_t *used, struct mp_err *err)
{
    struct mp_rd r;
    if (n < 4)
        return 0;
    mp_rd_init(&r, data, n);
    uint32_t rest = mp_rd_u32(&r);
    if (rest < MP_FRAME_HEAD - 4 || rest > MP_FRAME_MAX - 4)
        return mp_err_set(err, MP_EPROTO, "a frame of %u bytes (least %d, most %d)", rest, MP_FRAME_HEAD - 4,
                          MP_FRAME_MAX - 4);
    if (n - 4 < rest)
        return 0;
    uint16_t type = mp_rd_u16(&r), flags = mp_rd_u16(&r);
    uint64_t id = mp_rd_u64(&r);
    int rc = mp_msg_decode(m, type, flags, id, r.p, rest - (MP_FRAME_HEAD - 4), err);
    if (rc < 0)
        return rc;
    *used = 4 + (size_t)rest;
    return 1;
}

void mp_msg_set_error(struct mp_msg *m, uint64_t id, const struct mp_err *err)
{
    *m = (struct mp_msg){.type = MP_MSG_ERROR, .id = id};
    m->u.error.code = mp_span_of(mp_err_name(err->code));
    m->u.error.message = mp_span_of(err->message);
}
