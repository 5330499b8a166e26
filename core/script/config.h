/* core/script/config.h — what a configuration declared: plain data, checked, immutable after load (h2o's rule).
 * Made by decl.c from the tables that mp.server, mp.model, mp.endpoint and mp.plugin were given; read by core/gateway
 * (listeners, engines, limits) and by every worker's VM. All strings live as long as the mp_config. */
#ifndef MP_SCRIPT_CONFIG_H
#define MP_SCRIPT_CONFIG_H
#include "core/pool/settings.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_arena;
struct mp_schema; /* a compiled table of fields: core/script/schema.h */

struct mp_conf_listen {
    const char *text; /* "127.0.0.1:7171", "[::1]:7171" */
    const char *host; /* "127.0.0.1", "::1" (without brackets) */
    uint32_t port;    /* 0: any free one */
    bool loopback;    /* 127.0.0.0/8, ::1 or localhost: others are refused until keys exist */
};

struct mp_conf_limits {
    double burst;         /* CPU seconds a run may take without waiting; 0.010 */
    double cpu;           /* CPU seconds a run may take in all; 0.100 */
    uint64_t run_memory;  /* bytes a run may hold; 16 MiB */
    uint64_t vm_memory;   /* bytes one worker's VM may hold; 64 MiB */
    uint32_t json_values; /* values in one JSON body; 100,000 */
    uint64_t body;        /* bytes of a request's body where the endpoint says nothing; 8 MiB */
};

struct mp_conf_server {
    struct mp_conf_listen *listen; /* at least one */
    uint32_t n_listen;
    uint32_t workers; /* 1..64; 0: the gateway chooses (one per two cores, at least one) */
    struct mp_conf_limits limits;
    const char *policy; /* name of the mp.policy that counts; NULL: the default */
    bool metrics;       /* /metrics on the public listeners too */
};

struct mp_conf_device {
    const char *name; /* a device group: "cpu" */
    uint64_t
        memory; /* bytes that may be reserved at once; 0: not given: four fifths of what the machine (or cgroup) has */
    double max_wait;      /* seconds that a request may wait for another model to be let go; 10 */
    double min_residency; /* seconds that a model stays before it makes room while requests come; 5 */
    const char *where;
};

/* Sampling defaults of a model. NaN, or -1 for integers: not given. Ranges are checked; core/wire/msg.h has the last word. */
struct mp_conf_sampling {
    double temperature, top_p, min_p;
    int64_t top_k, seed, max_tokens;
};

struct mp_conf_model {
    const char *name;
    const char *where;          /* "conf/moonpool.lua:14" */
    const char *source;         /* as written */
    const char *path;           /* the file found for it, absolute */
    const char *sha256;         /* 64 lower-case hex digits, or NULL */
    const char *const *devices; /* in order of preference: "cpu", "fake", "cuda" */
    uint32_t n_devices;         /* at least 1 */
    const char *const *aliases;
    uint32_t n_aliases;
    uint32_t context;     /* tokens; 0: the model's own */
    const char *numerics; /* "plain" */
    struct mp_pool_settings settings;
    struct mp_pool_schedule *schedules; /* tz is the config's own */
    uint32_t n_schedules;
    bool preload; /* loaded before a reload that brings it counts */
    struct mp_conf_sampling sampling;
    /* What the engine is told, one JSON object: {"source": path, "sha256"?, "context"?, "numerics", "max_concurrency",
     * "devices": […]}; what is absent is the engine's default. */
    const char *spec_json;
};

struct mp_conf_endpoint {
    uint32_t index;                /* in mp_config.endpoints */
    const char *method;            /* "GET", "POST", … upper case */
    const char *pattern;           /* "/v1/models/{id}" */
    const char *route;             /* "GET /v1/models/{id}": logs and metrics name an endpoint so */
    const char *plugin;            /* the plugin that brought it, or NULL */
    const char *where;             /* "conf/moonpool.lua:12" */
    uint64_t body;                 /* bytes a request's body may have → 413 */
    uint32_t max_concurrency;      /* requests at once, over all workers and generations → 429; 0: no limit */
    double timeout;                /* seconds a request may take in all → 504; 0: no limit */
    const struct mp_schema *input; /* or NULL: the handler gets no checked input */
};

struct mp_conf_plugin {
    const char *name, *version;
    const char *where; /* file:line of its mp.plugin */
};

/* The function slots that the policies of a configuration fill (core/script/policy.h). */
struct mp_conf_policy {
    const char *name, *where;
    uint32_t slots; /* 1 << enum mp_policy_slot */
};

struct mp_conf_job {
    const char *name, *where;
    const char *what;      /* cron and zone, or seconds, as text: a declaration that says something else begins anew */
    const char *cron_text; /* or NULL: every */
    struct mp_cron cron;
    struct mp_tz *tz;              /* the config's own; NULL: UTC */
    double every, jitter, timeout; /* seconds; timeout 0: none */
    enum {
        MP_JOB_SKIP,
        MP_JOB_QUEUE,
        MP_JOB_ALLOW
    } overlap;       /* a tick comes while a run is under way: drop it; run once behind; run too */
    bool per_worker; /* else once per node */
    uint32_t index;  /* in mp_config.jobs */
};

struct mp_conf_shared { /* core/script/shared.h */
    const char *name, *where;
    uint64_t bytes;
};

struct mp_config {
    struct mp_conf_server server;
    struct mp_conf_model *models; /* in order of declaration */
    uint32_t n_models;
    struct mp_conf_endpoint *endpoints; /* the configuration's own, then those the plugins brought */
    uint32_t n_endpoints;
    struct mp_conf_plugin *plugins; /* in order of first use */
    uint32_t n_plugins;
    struct mp_conf_device *devices;
    uint32_t n_devices;
    struct mp_conf_policy *policies;
    uint32_t n_policies;
    struct mp_conf_job *jobs;
    uint32_t n_jobs;
    struct mp_conf_shared *shared;
    uint32_t n_shared;
    struct mp_arena *arena; /* everything above lives in it */
    struct mp_tz **zones;   /* opened for schedules and jobs; freed with the config */
    uint32_t n_zones;
    const char *json; /* everything declared as data, what `moonpool check --json` prints */
};

/* By name or alias; NULL when unknown. Any thread. */
const struct mp_conf_model *mp_config_model(const struct mp_config *c, const char *name);

#endif
