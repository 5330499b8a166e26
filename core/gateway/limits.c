/* core/gateway/limits.c — see limits.h. */
#include "core/gateway/limits.h"

#include "core/base/mem.h"
#include "core/telemetry/metrics.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct mp_limit {
    struct mp_limit *next;     /* guarded by lock */
    uint32_t number;           /* set once: in each worker's table of series */
    _Atomic uint32_t requests; /* workers */
    char route[];              /* set once */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mp_limit *all; /* guarded by lock; as many as there ever were routes in this process */
static uint32_t n_all;       /* guarded by lock */

struct mp_limit *mp_limit_of(const char *route)
{
    struct mp_limit *l;
    pthread_mutex_lock(&lock);
    for (l = all; l && strcmp(l->route, route) != 0; l = l->next)
        ;
    if (!l) {
        l = mp_calloc(sizeof *l + strlen(route) + 1);
        memcpy(l->route, route, strlen(route) + 1);
        l->number = n_all++;
        l->next = all;
        all = l;
    }
    pthread_mutex_unlock(&lock);
    return l;
}

bool mp_limit_enter(struct mp_limit *l, uint32_t most)
{
    uint32_t before = atomic_fetch_add_explicit(&l->requests, 1, memory_order_relaxed);
    if (most == 0 || before < most)
        return true;
    mp_limit_leave(l);
    return false;
}

void mp_limit_leave(struct mp_limit *l)
{
    atomic_fetch_sub_explicit(&l->requests, 1, memory_order_relaxed);
}

uint32_t mp_limit_now(const struct mp_limit *l)
{
    return atomic_load_explicit(&l->requests, memory_order_relaxed);
}

/* ---- a worker's ---- */

enum { SERIES = 8 }; /* kept per route: models × warm or cold × the usual statuses */

struct series {
    const char *model, *start;
    int status;
    struct mp_cell *cell;
};

struct route {
    uint32_t next; /* to be replaced */
    struct series series[SERIES];
};

struct mp_limits {
    struct mp_limit *none;    /* of "" */
    uint64_t generation;      /* whose endpoints `limits` holds; 0: none's */
    struct mp_limit **limits; /* by endpoint's index */
    struct route **routes;    /* by limit's number; NULL: not counted yet */
    uint32_t n_routes;
};

struct mp_limits *mp_limits_new(void)
{
    struct mp_limits *s = mp_calloc(sizeof *s);
    s->none = mp_limit_of("");
    return s;
}

void mp_limits_free(struct mp_limits *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_routes; i++)
        mp_free(s->routes[i]);
    mp_free(s->routes);
    mp_free(s->limits);
    mp_free(s);
}

struct mp_limit *mp_limits_find(struct mp_limits *s, const struct mp_generation *g, const struct mp_conf_endpoint *e)
{
    if (!e)
        return s->none;
    if (s->generation != mp_generation_number(g)) {
        const struct mp_config *c = mp_generation_config(g);
        mp_free(s->limits);
        s->limits = mp_calloc(c->n_endpoints * sizeof *s->limits);
        for (uint32_t i = 0; i < c->n_endpoints; i++)
            s->limits[i] = mp_limit_of(c->endpoints[i].route);
        s->generation = mp_generation_number(g);
    }
    return s->limits[e->index];
}

static struct route *route_of(struct mp_limits *s, uint32_t number)
{
    if (number >= s->n_routes) {
        uint32_t n = number + 16;
        s->routes = mp_realloc(s->routes, n * sizeof *s->routes);
        memset(s->routes + s->n_routes, 0, (n - s->n_routes) * sizeof *s->routes);
        s->n_routes = n;
    }
    if (!s->routes[number])
        s->routes[number] = mp_calloc(sizeof *s->routes[number]);
    return s->routes[number];
}

void mp_limits_count(struct mp_limits *s, const struct mp_limit *l, const char *model, const char *start, int status)
{
    struct route *r = route_of(s, l->number);
    for (uint32_t i = 0; i < SERIES; i++) {
        const struct series *at = &r->series[i];
        if (at->cell && at->status == status && at->model == model && at->start == start) {
            mp_cell_add(at->cell, 1);
            return;
        }
    }
    char text[12];
    snprintf(text, sizeof text, "%d", status);
    const char *values[] = {model, l->route, start, text};
    struct series *to = &r->series[r->next++ % SERIES];
    *to = (struct series){model, start, status, mp_metric_cell(MP_METRIC_REQUESTS, values)};
    mp_cell_add(to->cell, 1);
}
