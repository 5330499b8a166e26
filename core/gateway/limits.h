/* core/gateway/limits.h — an endpoint over all workers and generations, known by its route: how many requests it serves now, and how its
 * answers are counted for /metrics. Used by answer.c. */
#ifndef MP_LIMITS_H
#define MP_LIMITS_H
#include "core/script/generation.h"

struct mp_limit; /* one route's; lives as long as the process, so that generations that share a route share its count */

struct mp_limit *mp_limit_of(const char *route); /* any thread; takes a lock. "": requests that no endpoint answered */
/* One request more; false when that would be more than `most` (0: any number). Any thread, without a lock. */
bool mp_limit_enter(struct mp_limit *l, uint32_t most);
void mp_limit_leave(struct mp_limit *l);
uint32_t mp_limit_now(const struct mp_limit *l);

/* What a worker keeps to do all of this without a lock: the present generation's routes, and the series it counted in. */
struct mp_limits;
struct mp_limits *mp_limits_new(void);
void mp_limits_free(struct mp_limits *s); /* NULL is fine */
/* e: an endpoint of g, the generation that new requests get; NULL: "". */
struct mp_limit *mp_limits_find(struct mp_limits *s, const struct mp_generation *g, const struct mp_conf_endpoint *e);
/* One answer. model: NULL when none was called; compared by address. start: a literal. */
void mp_limits_count(struct mp_limits *s, const struct mp_limit *l, const char *model, const char *start, int status);

#endif
