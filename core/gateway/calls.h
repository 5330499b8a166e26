/* core/gateway/calls.h — a worker's calls at one engine: the engine provider's worker side (core/pool/provider.h). Requests of
 * many clients share the link; ids tell them apart. Belongs to its worker's thread.
 *
 * The link is wanted while there are calls. When the engine goes, calls that had started fail with MP_EENGINE; those that had not are
 * prepared again by the next one: how long they may wait is the pool's to say (the queue's timeout, the model's startup_timeout). When
 * a model is replaced by another version, calls that have not started are prepared anew, so that none is a mix of both. */
#ifndef MP_CALLS_H
#define MP_CALLS_H
#include "core/gateway/models.h"
#include "core/net/evloop.h"
#include "core/pool/provider.h"

struct mp_calls;

struct mp_calls *mp_calls_new(struct mp_evloop *loop, struct mp_engine *engine);
void mp_calls_free(struct mp_calls *c); /* calls that still run fail first; NULL is fine */
/* How long a call that has its place waits for an engine that is away just then, before it fails with MP_EUNAVAILABLE: 30 s unless told
 * otherwise. */
void mp_calls_patience(struct mp_calls *c, uint32_t ms);
/* The engine's models were declared to it (again): sends what waited. */
void mp_calls_declared(struct mp_calls *c);

extern const struct mp_provider_ops mp_provider_engine; /* ctx: a struct mp_engine; link: a struct mp_calls */

#endif
