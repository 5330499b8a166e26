/* core/script/route.h — routes as they are written ("GET /v1/models/{id}") and the table that finds them.
 * Used by decl_endpoint.c (checks) and generation.c (lookups). */
#ifndef MP_SCRIPT_ROUTE_H
#define MP_SCRIPT_ROUTE_H
#include "core/base/arena.h"
#include "core/script/generation.h"

/* Splits a route; MP_EINVAL says what is wrong with it. Strings are a's. */
int mp_route_parse(const char *route, struct mp_arena *a, const char **method, const char **pattern,
                   struct mp_err *err);
bool mp_route_same(const char *a, const char *b); /* two patterns that match the same paths */

struct mp_routes; /* immutable after new: a tree of path segments */

struct mp_routes *mp_routes_new(const struct mp_config *c); /* c outlives it */
void mp_routes_free(struct mp_routes *r);                   /* NULL is fine */
enum mp_route_result mp_routes_find(const struct mp_routes *r, const char *method, const char *path,
                                    struct mp_route_match *match);

/* Decodes %XX of one segment or value into out (n + 1 bytes are enough); '+' stays. The length, or -1 for a broken escape or
 * one that gives NUL. */
long mp_route_decode(const char *s, size_t n, char *out);

#endif
