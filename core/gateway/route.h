/* core/gateway/route.h — from a request to its endpoint, or to the answer when it has none. Used by answer.c. */
#ifndef MP_GATEWAY_ROUTE_H
#define MP_GATEWAY_ROUTE_H
#include "core/net/request.h"
#include "core/script/generation.h"

/* True: *match is the generation's endpoint for it. False: it was answered here: GET /healthz and /readyz, unless the
 * configuration has its own; 404; 405 with Allow; 400 for a path that cannot be decoded. */
bool mp_route_find(struct mp_req *req, const struct mp_generation *g, bool draining, struct mp_route_match *match);

#endif
