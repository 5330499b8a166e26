/* core/telemetry/metrics.h — what moonpool counts: one table, from which enum, names, help texts, labels, /metrics and conf/METRICS.md are
 * made. Counters are process-wide; any thread may add. A series (a metric with one set of labels) is made at its first use and lives as
 * long as the process, so that its cell may be kept and added to without a lock. The number of series per metric is bounded: further ones
 * of a counter are counted under "other", further ones of a gauge are not shown. */
#ifndef MP_METRICS_H
#define MP_METRICS_H
#include "core/base/buf.h"

#include <stdint.h>

/* id, name without "moonpool_", kind (counter, gauge), labels (comma-separated), help */
#define MP_METRICS(X)                                                                                                  \
    X(BUILD_INFO, "build_info", gauge, "version", "1, of the version that runs")                                       \
    X(START_TIME, "start_time_seconds", gauge, "", "When the gateway started, seconds since 1970")                     \
    X(GENERATION, "generation", gauge, "", "Number of the generation that serves")                                     \
    X(RELOADS, "reloads_total", counter, "result", "Reloads of the configuration: ok, failed, unchanged")              \
    X(REQUESTS, "requests_total", counter, "model,endpoint,start,status",                                              \
      "Requests answered; start: warm, cold, none")                                                                    \
    X(MODEL_STATE, "model_state", gauge, "model,state", "1 for the state that the model is in, 0 for the others")      \
    X(MODEL_IN_FLIGHT, "model_in_flight", gauge, "model", "Requests that have a place")                                \
    X(MODEL_QUEUED, "model_queued", gauge, "model", "Requests that wait for a place")                                  \
    X(MODEL_MEMORY, "model_memory_bytes", gauge, "model,device", "Bytes of its device reserved for the model")         \
    X(MODEL_LOADS, "model_loads_total", counter, "model,result", "Loads of a model: ok, failed, aborted")              \
    X(MODEL_LOAD_SECONDS, "model_load_seconds_total", counter, "model", "Seconds spent on loads that went well")       \
    X(MODEL_UNLOADS, "model_unloads_total", counter, "model,cause",                                                    \
      "Replicas let go; cause as in logs: idle, evicted, asked, removed and so on")                                    \
    X(MODEL_TRANSITIONS, "model_transitions_total", counter, "model,from,to,cause", "Changes of a model's state")      \
    X(MODEL_STATE_SECONDS, "model_state_seconds_total", counter, "model,state",                                        \
      "Seconds spent in a state, added when it ends")                                                                  \
    X(QUEUE_REFUSED, "queue_refused_total", counter, "model,reason",                                                   \
      "Requests that got no place: full, timeout, deadline, gone")                                                     \
    X(DEVICE_MEMORY, "device_memory_bytes", gauge, "device", "Bytes that may be reserved at once; 0: no limit")        \
    X(DEVICE_RESERVED, "device_reserved_bytes", gauge, "device", "Bytes reserved now")                                 \
    X(DEVICE_SWAPS, "device_swaps_total", counter, "device", "Loads that had to let another model go")                 \
    X(ENGINE_STARTS, "engine_starts_total", counter, "device", "Engine processes that answered")                       \
    X(ENGINE_UP, "engine_up", gauge, "device", "1 while an engine process runs, 0 while none is needed or it is away") \
    X(POLICY_ERRORS, "policy_errors_total", counter, "policy,slot,kind",                                               \
      "Decisions that fell back; kind: raised, late, memory, nonsense")                                                \
    X(JOB_RUNS, "job_runs_total", counter, "job,result", "Runs of jobs: ok, failed, timeout, skipped")

enum mp_metric {
#define X(id, name, kind, labels, help) MP_METRIC_##id,
    MP_METRICS(X)
#undef X
        MP_N_METRICS
};

enum {
    MP_METRIC_MAX_LABELS = 4,
    MP_METRIC_MAX_SETS = 4096, /* series of one metric */
    MP_METRIC_MAX_VALUE = 200, /* bytes of a label's value; longer ones are cut */
};

struct mp_cell; /* one series: lives as long as the process */

/* values: one per label of the metric, copied at first use; NULL counts as "". Takes a lock: keep the pointer where it matters. */
struct mp_cell *mp_metric_cell(enum mp_metric m, const char *const *values);
/* Any thread, without a lock. What would lower a counter, or is no number, is ignored. A gauge that was forgotten is shown again. */
void mp_cell_add(struct mp_cell *c, double v);
void mp_cell_set(struct mp_cell *c, double v); /* a gauge, or a counter that is kept elsewhere and copied here */
double mp_cell_get(const struct mp_cell *c);
/* Gauges of a model that was removed go away: every series whose first label is that, until it is set again. Counters stay. */
void mp_metric_forget(enum mp_metric m, const char *first_label);

/* Prometheus text format 0.0.4, appended: metrics in the table's order, series by their labels. Holds no lock while it formats. Any thread. */
void mp_metrics_print(struct mp_buf *out);
void mp_metrics_document(struct mp_buf *out); /* what each means, in Markdown: conf/METRICS.md */

#endif
