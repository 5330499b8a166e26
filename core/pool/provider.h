/* core/pool/provider.h — the seam behind which replicas come from: our own engine (core/gateway/link.c) today; a process
 * that speaks HTTP or a remote address later. The second half is what a provider tells a call. */
#ifndef MP_PROVIDER_H
#define MP_PROVIDER_H
#include "core/pool/call.h"

struct mp_provider_ops {
    const char *name; /* "engine" */
    /* Control thread; ctx is what mp_pool_provide got. start and stop only begin: states come by mp_pool_model_report. */
    int (*start)(void *ctx, struct mp_pool_model *m, struct mp_err *err); /* load a replica; fine when it is loaded */
    int (*stop)(void *ctx, struct mp_pool_model *m, struct mp_err *err);  /* let it go */
    bool (*ready)(void *ctx);                                             /* can be talked to now */
    /* Worker's thread; link is what mp_pool_port_bind got. No event of the call may come from inside these. */
    int (*send)(void *link, struct mp_call *call,
                struct mp_err *err);              /* render, tokenize: leads to mp_call_on_prepared */
    void (*go)(void *link, struct mp_call *call); /* start generating */
    void (*cancel)(void *link,
                   struct mp_call *call); /* it has ended for the worker: no event any more; may be freed next */
    void (*window)(void *link, struct mp_call *call, size_t bytes); /* room for so many bytes more */
};

/* The provider in a slot, and its ctx: for the control thread. */
const struct mp_provider_ops *mp_pool_provider(const struct mp_pool *p, uint32_t slot, void **ctx);

/* A call as its provider sees it. */
struct mp_pool_model *mp_call_model(const struct mp_call *c);
const struct mp_call_args *mp_call_args(const struct mp_call *c); /* the call's own copy: good until the end */
bool mp_call_started(const struct mp_call *c);
void mp_call_set_tag(struct mp_call *c, void *tag); /* the provider's own word about the call */
void *mp_call_tag(const struct mp_call *c);

/* What happened, on the worker's thread. Except for text's, the call may be gone when these return: do not touch it after,
 * nor after text's when mp_call_on_text said false. Each is ignored when the call has ended. */
void mp_call_on_prepared(struct mp_call *c, uint32_t prompt_tokens, uint32_t left);
bool mp_call_on_text(struct mp_call *c, const char *s, size_t n, const struct mp_usage *so_far); /* false: it ended */
void mp_call_on_done(struct mp_call *c, enum mp_msg_finish finish, const struct mp_usage *usage);
void mp_call_on_failed(struct mp_call *c, const struct mp_err *err, double retry_after);

#endif
