/* core/script/shared.c — see shared.h. */
#include "core/script/shared.h"

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/script/config.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { MALLOC_OVERHEAD = 16, MIN_BUCKETS = 16, MAX_BUCKETS = 1 << 28 };

struct entry {
    struct entry *next;          /* in its bucket */
    struct entry *newer, *older; /* by last use */
    uint64_t expires;            /* 0: never */
    uint64_t hash;
    size_t key_n, value_n;
    char data[]; /* the key, then the value */
};

struct mp_shared {
    struct mp_shared *next; /* in the registry */
    char *name;
    uint32_t refs;        /* under the registry's lock */
    pthread_mutex_t lock; /* of everything below */
    uint64_t bytes, used, n, evicted;
    struct entry **buckets;
    uint64_t n_buckets; /* a power of two */
    struct entry *newest, *oldest;
};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mp_shared *registry;
static _Atomic uint64_t total;

/* ---- entries; under the dictionary's lock ---- */

static uint64_t cost_of(size_t key_n, size_t value_n)
{
    return sizeof(struct entry) + MALLOC_OVERHEAD + key_n + value_n;
}

static void charge(struct mp_shared *s, uint64_t more, uint64_t less)
{
    s->used += more - less;
    atomic_fetch_add(&total, more - less);
}

static struct entry **find(struct mp_shared *s, const char *key, size_t n, uint64_t hash)
{
    struct entry **at = &s->buckets[hash & (s->n_buckets - 1)];
    while (*at && !((*at)->hash == hash && (*at)->key_n == n && memcmp((*at)->data, key, n) == 0))
        at = &(*at)->next;
    return at;
}

static void unlink_use(struct mp_shared *s, struct entry *e)
{
    *(e->newer ? &e->newer->older : &s->newest) = e->older;
    *(e->older ? &e->older->newer : &s->oldest) = e->newer;
}

static void link_newest(struct mp_shared *s, struct entry *e)
{
    e->newer = NULL;
    e->older = s->newest;
    *(s->newest ? &s->newest->newer : &s->oldest) = e;
    s->newest = e;
}

static void drop(struct mp_shared *s, struct entry **at)
{
    struct entry *e = *at;
    *at = e->next;
    unlink_use(s, e);
    s->n--;
    charge(s, 0, cost_of(e->key_n, e->value_n));
    mp_free(e);
}

/* NULL when it is not there, or past its time. */
static struct entry *look_up(struct mp_shared *s, const char *key, size_t n, uint64_t now)
{
    struct entry **at = find(s, key, n, mp_hash(key, n)), *e = *at;
    if (e && e->expires && e->expires <= now) {
        drop(s, at);
        return NULL;
    }
    if (e && e != s->newest) {
        unlink_use(s, e);
        link_newest(s, e);
    }
    return e;
}

static void evict_down_to(struct mp_shared *s, uint64_t bytes, uint64_t now)
{
    while (s->oldest && s->used > bytes) {
        struct entry *e = s->oldest;
        s->evicted += !(e->expires && e->expires <= now);
        drop(s, find(s, e->data, e->key_n, e->hash));
    }
}

static void rehash(struct mp_shared *s, uint64_t n_buckets)
{
    struct entry **buckets = mp_calloc(n_buckets * sizeof *buckets);
    for (uint64_t i = 0; i < s->n_buckets; i++)
        for (struct entry *e = s->buckets[i], *next; e; e = next) {
            struct entry **at = &buckets[e->hash & (n_buckets - 1)];
            next = e->next;
            e->next = *at;
            *at = e;
        }
    charge(s, n_buckets * sizeof *buckets, s->n_buckets * sizeof *buckets);
    mp_free(s->buckets);
    s->buckets = buckets;
    s->n_buckets = n_buckets;
}

/* Puts a value that fits in place of what is there. */
static int put(struct mp_shared *s, const char *key, size_t n, const void *value, size_t value_n, uint64_t ttl_ns,
               uint64_t now, struct mp_err *err)
{
    uint64_t cost = cost_of(n, value_n), hash = mp_hash(key, n);
    struct entry *e;
    if (cost > s->bytes || s->bytes - cost < MIN_BUCKETS * sizeof *s->buckets)
        return mp_err_set(err, MP_ELIMIT,
                          "a value of %zu bytes does not fit into shared dictionary \"%s\" (%ju bytes in all)", value_n,
                          s->name, (uintmax_t)s->bytes);
    e = mp_try_malloc(sizeof *e + n + value_n);
    if (!e)
        return mp_err_set(err, MP_ENOMEM, "out of memory for shared dictionary \"%s\"", s->name);
    e->hash = hash;
    e->expires = ttl_ns ? now + ttl_ns : 0;
    e->key_n = n;
    e->value_n = value_n;
    memcpy(e->data, key, n);
    memcpy(e->data + n, value, value_n);
    struct entry **at = find(s, key, n, hash);
    if (*at)
        drop(s, at);
    for (int i = 0; i < 2 && s->oldest && s->oldest->expires && s->oldest->expires <= now; i++)
        drop(s, find(s, s->oldest->data, s->oldest->key_n, s->oldest->hash));
    evict_down_to(s, s->bytes - cost, now);
    if (s->used + cost > s->bytes) /* only the table of a dictionary that was fuller once is left */
        rehash(s, MIN_BUCKETS);
    uint64_t table = s->n_buckets * sizeof *s->buckets;
    if (s->n >= s->n_buckets && s->n_buckets < MAX_BUCKETS && s->used + cost + table <= s->bytes)
        rehash(s, s->n_buckets * 2);
    at = &s->buckets[hash & (s->n_buckets - 1)];
    e->next = *at;
    *at = e;
    link_newest(s, e);
    s->n++;
    charge(s, cost, 0);
    return 1;
}

/* ---- the registry ---- */

static void free_shared(struct mp_shared *s)
{
    evict_down_to(s, 0, 0);
    charge(s, 0, s->n_buckets * sizeof *s->buckets);
    mp_free(s->buckets);
    pthread_mutex_destroy(&s->lock);
    mp_free(s->name);
    mp_free(s);
}

struct mp_shared *mp_shared_open(const char *name, uint64_t bytes)
{
    struct mp_shared *s;
    pthread_mutex_lock(&registry_lock);
    for (s = registry; s && strcmp(s->name, name) != 0; s = s->next)
        ;
    if (!s) {
        s = mp_calloc(sizeof *s);
        s->name = mp_strdup(name);
        s->bytes = bytes;
        s->refs = 1; /* the registry's */
        pthread_mutex_init(&s->lock, NULL);
        rehash(s, MIN_BUCKETS);
        s->next = registry;
        registry = s;
    }
    s->refs++;
    pthread_mutex_unlock(&registry_lock);
    return s;
}

void mp_shared_close(struct mp_shared *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&registry_lock);
    bool last = --s->refs == 0;
    pthread_mutex_unlock(&registry_lock);
    if (last)
        free_shared(s);
}

static void resize(struct mp_shared *s, uint64_t bytes)
{
    pthread_mutex_lock(&s->lock);
    s->bytes = bytes;
    if (s->used > bytes) {
        uint64_t n_buckets = MIN_BUCKETS;
        evict_down_to(s, bytes, mp_clock_mono_ns());
        while (n_buckets < s->n)
            n_buckets *= 2;
        rehash(s, n_buckets);
    }
    pthread_mutex_unlock(&s->lock);
}

void mp_shared_declare(const struct mp_config *c)
{
    struct mp_shared *gone = NULL;
    pthread_mutex_lock(&registry_lock);
    for (struct mp_shared **at = &registry, *s; (s = *at) != NULL;) {
        const struct mp_conf_shared *mine = NULL;
        for (uint32_t i = 0; c && i < c->n_shared; i++)
            if (strcmp(c->shared[i].name, s->name) == 0)
                mine = &c->shared[i];
        if (mine) {
            resize(s, mine->bytes);
            at = &s->next;
            continue;
        }
        *at = s->next;
        s->next = NULL;
        if (--s->refs == 0) {
            s->next = gone;
            gone = s;
        }
    }
    pthread_mutex_unlock(&registry_lock);
    for (struct mp_shared *s = gone, *next; s; s = next) {
        next = s->next;
        free_shared(s);
    }
}

uint64_t mp_shared_total(void)
{
    return atomic_load(&total);
}

void mp_shared_status(struct mp_shared *s, struct mp_shared_status *out)
{
    pthread_mutex_lock(&s->lock);
    *out = (struct mp_shared_status){s->bytes, s->used, s->n, s->evicted};
    pthread_mutex_unlock(&s->lock);
}

/* ---- values ---- */

bool mp_shared_get(struct mp_shared *s, const char *key, size_t n, uint64_t now, struct mp_buf *out)
{
    pthread_mutex_lock(&s->lock);
    const struct entry *e = look_up(s, key, n, now);
    if (e && out)
        mp_buf_put(out, e->data + n, e->value_n);
    pthread_mutex_unlock(&s->lock);
    return e != NULL;
}

int mp_shared_set(struct mp_shared *s, const char *key, size_t n, const void *value, size_t value_n, uint64_t ttl_ns,
                  uint64_t now, enum mp_shared_when when, struct mp_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (when == MP_SHARED_ALWAYS || !look_up(s, key, n, now))
        rc = put(s, key, n, value, value_n, ttl_ns, now, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int mp_shared_cas(struct mp_shared *s, const char *key, size_t n, const void *old, size_t old_n, const void *value,
                  size_t value_n, uint64_t ttl_ns, uint64_t now, struct mp_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    const struct entry *e = look_up(s, key, n, now);
    if (e ? old && e->value_n == old_n && memcmp(e->data + n, old, old_n) == 0 : !old)
        rc = put(s, key, n, value, value_n, ttl_ns, now, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int mp_shared_incr(struct mp_shared *s, const char *key, size_t n, double by, double init, uint64_t ttl_ns,
                   uint64_t now, double *out, struct mp_err *err)
{
    char value[1 + sizeof(double)] = {MP_SHARED_NUMBER};
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    struct entry *e = look_up(s, key, n, now);
    double sum = init;
    if (e && (e->value_n != sizeof value || e->data[n] != MP_SHARED_NUMBER))
        rc = mp_err_set(err, MP_EINVAL, "it does not hold a number");
    else if (e)
        memcpy(&sum, e->data + n + 1, sizeof sum);
    sum += by;
    if (rc == 0 && !isfinite(sum))
        rc = mp_err_set(err, MP_EINVAL, "the sum is not a finite number");
    if (rc == 0) {
        memcpy(value + 1, &sum, sizeof sum);
        if (e)
            memcpy(e->data + n, value, sizeof value);
        else
            rc = put(s, key, n, value, sizeof value, ttl_ns, now, err);
        *out = sum;
    }
    pthread_mutex_unlock(&s->lock);
    return rc < 0 ? rc : 0;
}

bool mp_shared_ttl(struct mp_shared *s, const char *key, size_t n, uint64_t now, double *out)
{
    pthread_mutex_lock(&s->lock);
    const struct entry *e = look_up(s, key, n, now);
    if (e)
        *out = e->expires ? (double)(e->expires - now) / 1e9 : INFINITY;
    pthread_mutex_unlock(&s->lock);
    return e != NULL;
}

bool mp_shared_expire(struct mp_shared *s, const char *key, size_t n, uint64_t ttl_ns, uint64_t now)
{
    pthread_mutex_lock(&s->lock);
    struct entry *e = look_up(s, key, n, now);
    if (e)
        e->expires = ttl_ns ? now + ttl_ns : 0;
    pthread_mutex_unlock(&s->lock);
    return e != NULL;
}

bool mp_shared_del(struct mp_shared *s, const char *key, size_t n, uint64_t now)
{
    pthread_mutex_lock(&s->lock);
    bool there = look_up(s, key, n, now) != NULL;
    if (there)
        drop(s, find(s, key, n, mp_hash(key, n)));
    pthread_mutex_unlock(&s->lock);
    return there;
}

void mp_shared_keys(struct mp_shared *s, uint32_t most, uint64_t now, struct mp_buf *out)
{
    pthread_mutex_lock(&s->lock);
    for (const struct entry *e = s->newest; e && most; e = e->older)
        if (!e->expires || e->expires > now) {
            mp_buf_u32(out, (uint32_t)e->key_n);
            mp_buf_put(out, e->data, e->key_n);
            most--;
        }
    pthread_mutex_unlock(&s->lock);
}

/* ---- flights ---- */

struct mp_flight { /* under flights_lock */
    struct mp_flight *next, **prev;
    const struct mp_shared *shared;
    const void *owner;
    struct mp_flight_waiter *waiters, **last; /* first come first */
    size_t n;
    char key[];
};

static pthread_mutex_t flights_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mp_flight *flights; /* as many as runs compute: few */

static void unlink_waiter(struct mp_flight *f, struct mp_flight_waiter *w)
{
    *w->prev = w->next;
    if (w->next)
        w->next->prev = w->prev;
    else
        f->last = w->prev;
    w->next = NULL;
    w->prev = NULL;
}

static void unlink_flight(struct mp_flight *f)
{
    *f->prev = f->next;
    if (f->next)
        f->next->prev = f->prev;
}

struct mp_flight *mp_flight_board(struct mp_shared *s, const char *key, size_t n, const void *owner,
                                  struct mp_flight_waiter *w, bool *itself)
{
    struct mp_flight *f, *mine = NULL;
    pthread_mutex_lock(&flights_lock);
    for (f = flights; f && !(f->shared == s && f->n == n && memcmp(f->key, key, n) == 0); f = f->next)
        ;
    *itself = f && f->owner == owner;
    if (!f) {
        mine = mp_calloc(sizeof *mine + n);
        mine->shared = s;
        mine->owner = owner;
        mine->last = &mine->waiters;
        mine->n = n;
        memcpy(mine->key, key, n);
        mine->prev = &flights;
        mine->next = flights;
        if (flights)
            flights->prev = &mine->next;
        flights = mine;
    } else if (!*itself) {
        w->flight = f;
        w->result = NULL;
        w->next = NULL;
        w->prev = f->last;
        *f->last = w;
        f->last = &w->next;
    }
    pthread_mutex_unlock(&flights_lock);
    return mine;
}

void mp_flight_land(struct mp_flight *f, bool failed, const void *data, size_t n)
{
    struct mp_flight_result *r = mp_calloc(sizeof *r + n);
    uint32_t refs = 0;
    r->failed = failed;
    r->n = n;
    if (n)
        memcpy(r->data, data, n);
    pthread_mutex_lock(&flights_lock);
    unlink_flight(f);
    for (struct mp_flight_waiter *w = f->waiters; w; w = w->next)
        refs++;
    r->refs = refs;
    while (f->waiters) {
        struct mp_flight_waiter *w = f->waiters;
        unlink_waiter(f, w);
        w->flight = NULL;
        w->result = r;
        w->woken(w);
    }
    pthread_mutex_unlock(&flights_lock);
    if (!refs)
        mp_free(r);
    mp_free(f);
}

/* Under the lock: true when nobody waits: f is to be freed. */
static bool pass_on(struct mp_flight *f)
{
    struct mp_flight_waiter *w = f->waiters;
    f->owner = NULL;
    if (!w) {
        unlink_flight(f);
        return true;
    }
    unlink_waiter(f, w);
    w->woken(w);
    return false;
}

void mp_flight_drop(struct mp_flight *f)
{
    pthread_mutex_lock(&flights_lock);
    bool gone = pass_on(f);
    pthread_mutex_unlock(&flights_lock);
    if (gone)
        mp_free(f);
}

void mp_flight_leave(struct mp_flight_waiter *w)
{
    struct mp_flight *gone = NULL;
    struct mp_flight_result *r = NULL;
    pthread_mutex_lock(&flights_lock);
    if (w->prev)
        unlink_waiter(w->flight, w);
    else if (w->result)
        r = mp_move(&w->result);
    else if (w->flight && pass_on(w->flight)) /* it had become its own a moment ago */
        gone = w->flight;
    w->flight = NULL;
    pthread_mutex_unlock(&flights_lock);
    mp_flight_release(r);
    mp_free(gone);
}

void mp_flight_own(struct mp_flight *f, const void *owner)
{
    pthread_mutex_lock(&flights_lock);
    f->owner = owner;
    pthread_mutex_unlock(&flights_lock);
}

void mp_flight_release(struct mp_flight_result *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&flights_lock);
    bool last = --r->refs == 0;
    pthread_mutex_unlock(&flights_lock);
    if (last)
        mp_free(r);
}
