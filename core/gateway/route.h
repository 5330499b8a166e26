/* core/gateway/route.h — from a request to its endpoint, or to the answer when it has none. Used by answer.c. */
#ifndef MP_GATEWAY_ROUTE_H
#define MP_GATEWAY_ROUTE_H
#include "core/net/request.h"
#include "core/pool/pool.h"
#include "core/script/generation.h"

/* True: *match is the generation's endpoint for it. False: it was answered here: GET /healthz, /readyz, and /metrics where the configuration
 * asks for it, unless it has its own; 404; 405 with Allow; 400 for a path that cannot be decoded. pool: /metrics tells of it. */
bool mp_route_find(struct mp_req *req, const struct mp_generation *g, struct mp_pool *pool, bool draining,
                   struct mp_route_match *match);

#endif
