/* core/script/keys.c — see keys.h. A key that a later version builds stands here already, marked `later`, so that
 * setting it says so instead of being an unknown word. */
#include "core/script/keys.h"

#include "core/base/mem.h"

#include <math.h>

#define SCHEMA(fields)                               \
    {                                                \
        fields, sizeof(fields) / sizeof((fields)[0]) \
    }

/* ---- mp.server ---- */

static const struct mp_field listen_fields[] = {
    {"tls", MP_TYPE_TABLE, .later = true, .doc = "{ cert = …, key = … }"},
};
static const struct mp_schema listen_schema = SCHEMA(listen_fields);
static const struct mp_field listen_item = {.type = MP_TYPE_NAMED, .fields = &listen_schema};
static const struct mp_field use_item = {.type = MP_TYPE_NAMED};

static const struct mp_field limit_fields[] = {
    {"burst", MP_TYPE_SECONDS, .min = 0.001, .max = 10, .preset = "0.01", .also = "slice",
     .doc = "CPU time a handler may take without waiting"},
    {"cpu", MP_TYPE_SECONDS, .min = 0.001, .max = 60, .preset = "0.1", .also = "cpu_time",
     .doc = "CPU time a request's Lua may take in all"},
    {"run_memory", MP_TYPE_BYTES, .min = 65536, .max = 1073741824, .preset = "16777216", .also = "memory",
     .doc = "memory a request's Lua may hold"},
    {"vm_memory", MP_TYPE_BYTES, .min = 8388608, .max = 8589934592.0, .preset = "67108864",
     .doc = "memory a worker's Lua may hold in all"},
    {"json_values", MP_TYPE_INTEGER, .min = 1, .max = 10000000, .preset = "100000", .doc = "values in one JSON body"},
    {"body", MP_TYPE_BYTES, .min = 0, .max = 1073741824, .preset = "8388608", .also = "max_body body_size",
     .doc = "a request's body, where the endpoint sets no max_body"},
};
static const struct mp_schema limit_schema = SCHEMA(limit_fields);

static const struct mp_field server_fields[] = {
    {"listen", MP_TYPE_ONE_OR_LIST, .item = &listen_item, .min = 1, .max = 64,
     .preset = "[{\"name\":\"127.0.0.1:7171\",\"options\":{}}]", .also = "address bind port host",
     .doc = "addresses: \"127.0.0.1:7171\", \"[::1]:0\" (0: any free port)"},
    {"workers", MP_TYPE_INTEGER, .min = 1, .max = 64, .also = "threads processes",
     .doc = "threads that serve; default: one per two cores; changed by a restart only"},
    {"use", MP_TYPE_LIST, .item = &use_item, .max = 64, .preset = "[]", .also = "plugins middleware",
     .doc = "plugins around every endpoint, outermost first; their routes are added"},
    {"limits", MP_TYPE_TABLE, .fields = &limit_schema, .preset = "{}", .doc = "what a request's Lua may take"},
    {"policy", MP_TYPE_STRING, .min = 1, .max = 128, .also = "policies",
     .doc = "name of the mp.policy that decides; default: \"default\", moonpool's own"},
    {"metrics", MP_TYPE_BOOLEAN, .preset = "false", .also = "prometheus stats",
     .doc = "true: GET /metrics here too, not on the admin socket only"},
    {"admin", MP_TYPE_ANY, .later = true, .doc = "admin listener"},
    {"drain_timeout", MP_TYPE_SECONDS, .later = true, .doc = "time that open streams get when the server stops"},
};
const struct mp_schema mp_keys_server = SCHEMA(server_fields);

/* ---- mp.device ---- */

static const struct mp_field device_fields[] = {
    {"memory", MP_TYPE_BYTES, .min = 1048576, .max = 9007199254740992.0, .also = "max_memory memory_limit budget vram",
     .doc = "what may be reserved there at once; default: four fifths of what there is"},
    {"max_wait", MP_TYPE_SECONDS, .min = 0, .max = 86400, .preset = "10",
     .doc = "a request waits so long before a model that is in use makes room for its own"},
    {"min_residency", MP_TYPE_SECONDS, .min = 0, .max = 86400, .preset = "5",
     .doc = "a model that is in use stays so long before it makes room for another"},
    {"usd_per_hour", MP_TYPE_NUMBER, .later = true, .also = "price cost", .doc = "what its time costs"},
};
const struct mp_schema mp_keys_device = SCHEMA(device_fields);

/* ---- mp.model ---- */

static const char *const devices[] = {"cpu", "cuda", "fake", NULL};
static const char *const numerics[] = {"plain", NULL};
static const char *const numerics_later[] = {"exact", "fast", NULL};
static const struct mp_field device_item = {.type = MP_TYPE_ENUM, .choices = devices};
static const struct mp_field alias_item = {.type = MP_TYPE_STRING, .min = 1, .max = 256};
static const struct mp_field stop_item = {.type = MP_TYPE_STRING, .min = 1, .max = 256};

#define SAMPLING                                                                                                     \
    {"max_tokens",                                                                                                   \
     MP_TYPE_INTEGER,                                                                                                \
     .min = 1,                                                                                                       \
     .max = 1048576,                                                                                                 \
     .also = "max_completion_tokens n_predict max_new_tokens",                                                       \
     .doc = "tokens to generate at most; default: up to the context"},                                               \
        {"temperature", MP_TYPE_NUMBER, .min = 0, .max = 10, .also = "temp", .doc = "0 is greedy; default 1"},       \
        {"top_k", MP_TYPE_INTEGER, .min = 0, .max = 1048576, .doc = "choose among so many; 0: all"},                 \
        {"top_p", MP_TYPE_NUMBER, .min = 0, .max = 1,                                                                \
         .doc = "choose among the likeliest that make up so much; 1: all"},                                          \
        {"min_p", MP_TYPE_NUMBER, .min = 0, .max = 1,                                                                \
         .doc = "drop what is less likely than so much of the likeliest"},                                           \
    {                                                                                                                \
        "seed", MP_TYPE_INTEGER, .min = 0, .max = 9007199254740992.0, .doc = "same seed, same text; default: random" \
    }

static const struct mp_field sampling_fields[] = {SAMPLING};
static const struct mp_schema sampling_schema = SCHEMA(sampling_fields);

/* The ranges are those of MP_POOL_SETTINGS (a spec compares them). D: PRESET, or NO_PRESET where a missing key changes nothing. */
#define PRESET(json)    .preset = json
#define NO_PRESET(json) .preset = NULL
#define SETTINGS(D, queue, queue_preset)                                                                   \
    {"min_replicas",                                                                                       \
     MP_TYPE_INTEGER,                                                                                      \
     .min = 0,                                                                                             \
     .max = 1024,                                                                                          \
     .built_max = 1,                                                                                       \
     D("0"),                                                                                               \
     .also = "min_containers warm keep_warm",                                                              \
     .doc = "1: loaded at start and kept warm; 0: loaded by the first request"},                           \
        {"max_replicas",                                                                                   \
         MP_TYPE_INTEGER,                                                                                  \
         .min = 0,                                                                                         \
         .max = 1024,                                                                                      \
         .built_max = 1,                                                                                   \
         D("1"),                                                                                           \
         .also = "max_containers",                                                                         \
         .doc = "the cost ceiling; 0: requests are refused"},                                              \
        {"scaledown_window",                                                                               \
         MP_TYPE_SECONDS,                                                                                  \
         .min = 0,                                                                                         \
         .max = 31536000,                                                                                  \
         D("300"),                                                                                         \
         .also = "idle_timeout keep_alive idle ttl sleep_idle_seconds container_idle_timeout",             \
         .doc = "time without a request after which it goes cold"},                                        \
        {"startup_timeout",                                                                                \
         MP_TYPE_SECONDS,                                                                                  \
         .min = 0.001,                                                                                     \
         .max = 86400,                                                                                     \
         D("600"),                                                                                         \
         .also = "load_timeout",                                                                           \
         .doc = "time a load may take"},                                                                   \
        {"target_concurrency", MP_TYPE_INTEGER, .min = 1, .max = 1024,                                     \
         .doc = "requests per replica to scale for; default: 8, at most max_concurrency"},                 \
        {"max_concurrency",                                                                                \
         MP_TYPE_INTEGER,                                                                                  \
         .min = 1,                                                                                         \
         .max = 1024,                                                                                      \
         D("16"),                                                                                          \
         .also = "slots parallel n_parallel max_batch batch_size concurrency",                             \
         .doc = "requests that a replica takes at once"},                                                  \
    {                                                                                                      \
        "queue", MP_TYPE_TABLE, .fields = &queue, D(queue_preset), .also = "max_queue queue_size backlog", \
                                .doc = "requests that wait for a place"                                    \
    }
#define QUEUE(D)                                                                                                   \
    {"max",                                                                                                        \
     MP_TYPE_INTEGER,                                                                                              \
     .min = 0,                                                                                                     \
     .max = 1000000,                                                                                               \
     D("64"),                                                                                                      \
     .also = "size length",                                                                                        \
     .doc = "how many may wait; more are refused with 429"},                                                       \
    {                                                                                                              \
        "timeout", MP_TYPE_SECONDS, .min = 0, .max = 86400, D("30"), .also = "max_wait",                           \
                                    .doc = "how long one may wait, then 503; the time a load takes does not count" \
    }

static const struct mp_field queue_fields[] = {QUEUE(PRESET)}, queue_some_fields[] = {QUEUE(NO_PRESET)};
static const struct mp_schema queue_schema = SCHEMA(queue_fields), queue_some_schema = SCHEMA(queue_some_fields);
static const struct mp_field settings_fields[] = {SETTINGS(NO_PRESET, queue_some_schema, NULL)};
const struct mp_schema mp_keys_settings = SCHEMA(settings_fields);

static const struct mp_field schedule_fields[] = {
    {"cron", MP_TYPE_STRING, .required = true, .min = 1, .max = 256, .also = "at when schedule",
     .doc = "minute, hour, day of month, month, weekday, as in crontab; or @daily and the like"},
    {"tz", MP_TYPE_STRING, .min = 1, .max = 128, .also = "timezone zone",
     .doc = "an IANA time zone, like \"Europe/Berlin\"; default: UTC"},
    {"set", MP_TYPE_TABLE, .required = true, .fields = &mp_keys_settings, .also = "override settings",
     .doc = "what counts from then on: any of min_replicas, max_replicas, … queue"},
};
static const struct mp_schema schedule_schema = SCHEMA(schedule_fields);
static const struct mp_field schedule_item = {.type = MP_TYPE_TABLE, .fields = &schedule_schema};

static const struct mp_field model_fields[] = {
    {"source", MP_TYPE_STRING, .required = true, .min = 1, .max = 4096, .also = "file path model weights gguf",
     .doc = "a GGUF file: beside the configuration, in $MOONPOOL_MODELS, or in models/"},
    {"sha256", MP_TYPE_STRING, .also = "hash checksum digest", .doc = "the file's SHA-256; verified if given"},
    {"devices", MP_TYPE_ONE_OR_LIST, .item = &device_item, .min = 1, .max = 8, .preset = "[\"cpu\"]",
     .also = "device backend", .doc = "in order of preference; nothing else is used"},
    {"context", MP_TYPE_INTEGER, .min = 16, .max = 16777216, .also = "n_ctx ctx context_length max_context num_ctx",
     .doc = "tokens of prompt and answer together; default: the model's own"},
    {"numerics", MP_TYPE_ENUM, .choices = numerics, .unbuilt = numerics_later, .preset = "\"plain\"",
     .also = "precision", .doc = "how it computes"},
    {"alias", MP_TYPE_ONE_OR_LIST, .item = &alias_item, .max = 16, .preset = "[]", .also = "aliases names",
     .doc = "further names that requests may use"},
    {"sampling", MP_TYPE_TABLE, .fields = &sampling_schema, .also = "defaults parameters options",
     .doc = "defaults; a request may override each"},
    SETTINGS(PRESET, queue_schema, "{}"),
    {"schedules", MP_TYPE_LIST, .item = &schedule_item, .max = 64, .preset = "[]", .also = "schedule cron",
     .doc = "{ cron = \"0 8 * * 1-5\", tz = \"Europe/Berlin\", set = { min_replicas = 1 } }: from each tick on until "
            "another "
            "one sets the same key"},
    {"preload", MP_TYPE_BOOLEAN, .preset = "false", .also = "load_at_start eager warmup",
     .doc = "loaded once when it is declared, by a reload before it counts"},
    {"kv_type", MP_TYPE_STRING, .later = true, .also = "cache_type kv_cache_type",
     .doc = "element type of the KV cache"},
    {"command", MP_TYPE_LIST, .later = true, .doc = "a process that serves the model over HTTP"},
    {"url", MP_TYPE_STRING, .later = true, .also = "endpoint base_url",
     .doc = "a remote address that serves the model"},
};
const struct mp_schema mp_keys_model = SCHEMA(model_fields);

/* ---- model:chat{} and its kin ---- */

#define PRIORITY                                                                                                  \
    {                                                                                                             \
        "priority", MP_TYPE_INTEGER, .min = -1000, .max = 1000, .doc = "higher ones get a place first; default 0" \
    }

static const struct mp_field chat_fields[] = {
    {"messages", MP_TYPE_ANY, .required = true, .doc = "a list of { role = …, content = … }, at most 2,048"},
    SAMPLING,
    PRIORITY,
    {"stop", MP_TYPE_ONE_OR_LIST, .item = &stop_item, .max = 8,
     .doc = "texts that end the answer; at most 8 of 256 bytes"},
};
const struct mp_schema mp_keys_chat = SCHEMA(chat_fields);

static const struct mp_field complete_fields[] = {
    {"prompt", MP_TYPE_STRING, .required = true, .min = 1, .max = INFINITY, .also = "text input",
     .doc = "text to go on from"},
    SAMPLING,
    PRIORITY,
    {"stop", MP_TYPE_ONE_OR_LIST, .item = &stop_item, .max = 8,
     .doc = "texts that end the answer; at most 8 of 256 bytes"},
};
const struct mp_schema mp_keys_complete = SCHEMA(complete_fields);

/* ---- mp.endpoint ---- */

static const struct mp_field endpoint_fields[] = {
    {"route", MP_TYPE_STRING, .required = true, .min = 1, .max = 1024, .also = "path url uri",
     .doc = "\"POST /haiku\", \"GET /v1/models/{id}\""},
    {"handle", MP_TYPE_FUNCTION, .required = true, .also = "handler run fn callback",
     .doc = "function(req, res, input): what it returns is the answer"},
    {"input", MP_TYPE_TABLE, .also = "schema body params", .doc = "fields of the JSON body (of the query for GET)"},
    {"use", MP_TYPE_LIST, .item = &use_item, .max = 64, .preset = "[]", .also = "plugins middleware",
     .doc = "plugins around this endpoint, inside those of mp.server"},
    {"max_body", MP_TYPE_BYTES, .min = 0, .max = 1073741824, .also = "body_limit max_body_size",
     .doc = "a request's body; default: limits.body"},
    {"max_concurrency", MP_TYPE_INTEGER, .min = 1, .max = 1000000, .also = "concurrency limit",
     .doc = "requests at once, over all workers; more are refused with 429"},
    {"timeout", MP_TYPE_SECONDS, .min = 0.001, .max = 86400, .doc = "time a request may take in all, then 504"},
    {"half_close", MP_TYPE_BOOLEAN, .later = true, .doc = "a client that has closed its side is still answered"},
};
const struct mp_schema mp_keys_endpoint = SCHEMA(endpoint_fields);

/* ---- mp.plugin ---- */

static const struct mp_field route_item = {.type = MP_TYPE_TABLE, .fields = &mp_keys_endpoint};
static const struct mp_field plugin_fields[] = {
    {"version", MP_TYPE_STRING, .required = true, .min = 1, .max = 64, .doc = "of the plugin, like \"1.0.0\""},
    {"api", MP_TYPE_INTEGER, .required = true, .min = 1, .max = 1, .doc = "of this table: 1"},
    {"config", MP_TYPE_TABLE, .also = "schema options", .doc = "fields that `use = { { \"name\", … } }` may set"},
    {"routes", MP_TYPE_LIST, .item = &route_item, .max = 256, .preset = "[]", .also = "endpoints",
     .doc = "endpoints it brings: a list of what mp.endpoint takes"},
    {"admit", MP_TYPE_FUNCTION, .doc = "function(conf, req): true, or nil, err; before any handle"},
    {"handle", MP_TYPE_FUNCTION, .doc = "function(conf, req, res, next): around the endpoint"},
    {"start", MP_TYPE_FUNCTION, .later = true, .doc = "function(conf): once per generation"},
    {"delta", MP_TYPE_FUNCTION, .later = true, .doc = "function(conf, req, delta): each piece of a stream"},
    {"finish", MP_TYPE_FUNCTION, .later = true, .doc = "function(conf, record): after the last byte"},
};
const struct mp_schema mp_keys_plugin = SCHEMA(plugin_fields);

/* ---- mp.policy ---- */

static const struct mp_field policy_fields[] = {
    {"admit", MP_TYPE_FUNCTION, .doc = "function(req, pool, now): \"accept\", \"queue\", or nil, err; then a reason"},
    {"route", MP_TYPE_FUNCTION, .doc = "function(req, candidates, now): a candidate's name, a reason"},
    {"rank", MP_TYPE_FUNCTION, .also = "prioritize priority",
     .doc = "function(req, now): -1000 to 1000, higher ones start first, a reason"},
    {"scale", MP_TYPE_FUNCTION, .also = "autoscale", .doc = "function(pool, now, state): replicas, a reason"},
    {"evict", MP_TYPE_FUNCTION, .doc = "function(candidates, need, now): a list of names, a reason"},
    {"place", MP_TYPE_FUNCTION, .later = true, .doc = "function(model, devices, now): a device's name, a reason"},
};
const struct mp_schema mp_keys_policy = SCHEMA(policy_fields);

/* ---- mp.job, mp.shared ---- */

const char *const mp_job_overlaps[] = {"skip", "queue", "allow", NULL};
const char *const mp_job_places[] = {"node", "worker", NULL};

static const struct mp_field job_fields[] = {
    {"cron", MP_TYPE_STRING, .min = 1, .max = 200, .also = "at when schedule",
     .doc = "minute, hour, day of month, month, weekday, as in crontab; or @daily and the like"},
    {"tz", MP_TYPE_STRING, .min = 1, .max = 128, .also = "timezone zone",
     .doc = "of cron: an IANA time zone, like \"Europe/Berlin\"; default: UTC"},
    {"every", MP_TYPE_SECONDS, .min = 0.1, .max = 31622400, .also = "interval period", .doc = "instead of cron"},
    {"jitter", MP_TYPE_SECONDS, .min = 0, .max = 86400, .preset = "0", .also = "splay",
     .doc = "each tick is put off by up to so much, by name and tick"},
    {"overlap", MP_TYPE_ENUM, .choices = mp_job_overlaps, .preset = "\"skip\"", .also = "concurrency concurrencyPolicy",
     .doc = "a tick comes while it runs: drop it, run once behind, run too"},
    {"timeout", MP_TYPE_SECONDS, .min = 0.001, .max = 604800, .also = "deadline",
     .doc = "then it is stopped; default: never"},
    {"per", MP_TYPE_ENUM, .choices = mp_job_places, .preset = "\"node\"", .also = "scope",
     .doc = "once in the server, or in each worker"},
    {"run", MP_TYPE_FUNCTION, .required = true, .also = "handle fn func callback",
     .doc = "function(job): job.name, tick, late, missed"},
};
const struct mp_schema mp_keys_job = SCHEMA(job_fields);

static const struct mp_field shared_fields[] = {
    {"bytes", MP_TYPE_BYTES, .min = 65536, .max = 1099511627776.0, .preset = "16777216",
     .also = "size memory capacity max",
     .doc = "it holds at most, keys and bookkeeping counted; what was not used for longest goes first"},
};
const struct mp_schema mp_keys_shared = SCHEMA(shared_fields);

const char *const mp_later_kinds[] = {"budget", NULL};
const char *const mp_later_functions[] = {"secret", "http", "crypto", "base64", "re", "metric", NULL};

void mp_keys_document(struct mp_buf *out)
{
    static const struct {
        const char *title;
        const struct mp_schema *schema;
    } all[] = {
        {"mp.server { … }", &mp_keys_server},
        {"mp.device \"name\" { … }", &mp_keys_device},
        {"mp.model \"name\" { … }", &mp_keys_model},
        {"schedules = { { … }, … }", &schedule_schema},
        {"mp.endpoint { … }", &mp_keys_endpoint},
        {"mp.plugin \"name\" { … }", &mp_keys_plugin},
        {"mp.policy \"name\" { … }", &mp_keys_policy},
        {"mp.job \"name\" { … }", &mp_keys_job},
        {"mp.shared \"name\" { … }", &mp_keys_shared},
        {"model:chat { … }, model:chat_stream { … }", &mp_keys_chat},
        {"model:complete { … }, model:complete_stream { … }", &mp_keys_complete},
        {"model:scale { … }", &mp_keys_settings},
    };
    for (size_t i = 0; i < MP_COUNT(all); i++) {
        mp_buf_printf(out, "%s### `%s`\n\n", i ? "\n" : "", all[i].title);
        mp_schema_document(all[i].schema, out);
    }
}
