/* core/script/config.h — what a configuration declared: plain data, checked, immutable after load (h2o's rule).
 * Made by decl.c from the tables that mp.server, mp.model, mp.endpoint and mp.plugin were given; read by core/gateway
 * (listeners, engines, limits) and by every worker's VM. All strings live as long as the mp_config. */
#ifndef MP_SCRIPT_CONFIG_H
#define MP_SCRIPT_CONFIG_H
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
    uint32_t context;         /* tokens; 0: the model's own */
    const char *numerics;     /* "plain" */
    uint32_t min_replicas;    /* 0: cold at start; 1: loaded at start and kept warm */
    uint32_t max_concurrency; /* requests in its batch at once; 16 */
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
    const struct mp_schema *input; /* or NULL: the handler gets no checked input */
};

struct mp_conf_plugin {
    const char *name, *version;
    const char *where; /* file:line of its mp.plugin */
};

struct mp_config {
    struct mp_conf_server server;
    struct mp_conf_model *models; /* in order of declaration */
    uint32_t n_models;
    struct mp_conf_endpoint *endpoints; /* the configuration's own, then those the plugins brought */
    uint32_t n_endpoints;
    struct mp_conf_plugin *plugins; /* in order of first use */
    uint32_t n_plugins;
    struct mp_arena *arena; /* everything above lives in it */
    const char *json;       /* everything declared as data, what `moonpool check --json` prints */
};

/* By name or alias; NULL when unknown. Any thread. */
const struct mp_conf_model *mp_config_model(const struct mp_config *c, const char *name);

#endif
