/* core/pool/provider.h — the seam behind which replicas come from: our own engine (core/gateway/link.c) today; a process
 * that speaks HTTP or a remote address later. The second half is what a provider tells a call. */
#ifndef MP_PROVIDER_H
#define MP_PROVIDER_H
#include "core/pool/call.h"

struct mp_provider_ops {
    const char *name; /* "engine" */
    /* Control thread; ctx is what mp_pool_provide got. Both only begin: states come by mp_pool_model_report. */
    int (*start)(void *ctx, struct mp_pool_model *m, struct mp_err *err); /* load a replica; fine when it is loaded */
    int (*stop)(void *ctx, struct mp_pool_model *m, struct mp_err *err);  /* let it go */
    bool (*ready)(void *ctx);                                             /* can be talked to now */
    /* Worker's thread; link is what mp_pool_port_bind got. No event of the call may come from inside these. */
    int (*send)(void *link, struct mp_call *call,
                struct mp_err *err);              /* render and tokenize: leads to mp_call_on_prepared */
    void (*go)(void *link, struct mp_call *call); /* start generating */
    void (*cancel)(void *link,
                   struct mp_call *call); /* the call has ended for the worker; forget it: no event any more */
    void (*window)(void *link, struct mp_call *call, size_t bytes); /* room for so many bytes more */
};

/* The provider in a slot, and its ctx: for the control thread. */
const struct mp_provider_ops *mp_pool_provider(const struct mp_pool *p, uint32_t slot, void **ctx);

/* A call as its provider sees it. */
struct mp_pool_model *mp_call_model(const struct mp_call *c);
const struct mp_model_decl *mp_call_decl(const struct mp_call *c);
enum mp_call_kind mp_call_kind(const struct mp_call *c);
const void *mp_call_payload(const struct mp_call *c, size_t *n); /* kept until the end: it may be sent again */
const struct mp_call_settings *mp_call_settings(const struct mp_call *c);
bool mp_call_started(const struct mp_call *c);
void mp_call_set_tag(struct mp_call *c, void *tag); /* the provider's own word about the call */
void *mp_call_tag(const struct mp_call *c);

/* What happened, on the worker's thread. The call may be gone when these return: do not touch it after. Each is ignored
 * when the call has ended. */
void mp_call_on_prepared(struct mp_call *c, uint32_t prompt_tokens);
void mp_call_on_text(struct mp_call *c, const char *s, size_t n, const struct mp_usage *so_far);
void mp_call_on_done(struct mp_call *c, enum mp_finish finish, const struct mp_usage *usage);
void mp_call_on_failed(struct mp_call *c, const struct mp_err *err);

#endif
