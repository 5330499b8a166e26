/* core/telemetry/metrics.h — what moonpool counts: one table, from which enum, names, help texts, labels and /metrics are made. Counters
 * are process-wide; any thread may add. A set of labels is made once per distinct values and found again without a lock where the caller
 * keeps the pointer; the number of sets per metric is bounded (the rest is counted under "other"). */
#ifndef MP_METRICS_H
#define MP_METRICS_H
#include "core/base/buf.h"

#include <stdint.h>

/* id, name without "moonpool_", kind (counter, gauge), labels (comma-separated), help */
#define MP_METRICS(X)                                                                                                 \
    X(REQUESTS, "requests_total", counter, "model,endpoint,start,status",                                             \
      "Requests answered; start: warm, cold, none")                                                                   \
    X(MODEL_LOADS, "model_loads_total", counter, "model,result", "Loads of a model: ok, failed, aborted")             \
    X(MODEL_UNLOADS, "model_unloads_total", counter, "model,cause", "Replicas let go: idle, evicted, asked, removed") \
    X(MODEL_STATE, "model_state", gauge, "model,state", "1 for the state that the model is in")                       \
    X(MODEL_IN_FLIGHT, "model_in_flight", gauge, "model", "Requests that have a place")                               \
    X(MODEL_QUEUED, "model_queued", gauge, "model", "Requests that wait for a place")                                 \
    X(MODEL_MEMORY, "model_memory_bytes", gauge, "model,device", "Bytes reserved for the model")                      \
    X(QUEUE_REFUSED, "queue_refused_total", counter, "model,reason",                                                  \
      "Requests refused: full, timeout, deadline, gone")                                                              \
    X(RELOADS, "reloads_total", counter, "result", "Reloads of the configuration: ok, failed, unchanged")             \
    X(GENERATION, "generation", gauge, "", "Number of the generation that serves")                                    \
    X(POLICY_ERRORS, "policy_errors_total", counter, "policy,slot,kind",                                              \
      "Decisions that fell back: raised, late, nonsense")                                                             \
    X(JOB_RUNS, "job_runs_total", counter, "job,result", "Runs of jobs: ok, failed, timeout, skipped")                \
    X(ENGINE_STARTS, "engine_starts_total", counter, "device", "Engine processes that answered")

enum mp_metric {
#define X(id, name, kind, labels, help) MP_METRIC_##id,
    MP_METRICS(X)
#undef X
        MP_N_METRICS
};

enum { MP_METRIC_MAX_LABELS = 4, MP_METRIC_MAX_SETS = 1000 };

struct mp_cell; /* one series: lives as long as the process */

/* values: one per label of the metric, copied at first use; NULL counts as "". Takes a lock: keep the pointer where it matters. */
struct mp_cell *mp_metric_cell(enum mp_metric m, const char *const *values);
void mp_cell_add(struct mp_cell *c, double v); /* any thread */
void mp_cell_set(struct mp_cell *c, double v);
double mp_cell_get(const struct mp_cell *c);
void mp_metric_forget(enum mp_metric m, const char *first_label); /* gauges of a model that was removed go away */
/* Prometheus text format 0.0.4, appended. */
void mp_metrics_print(struct mp_buf *out);
void mp_metrics_document(struct mp_buf *out); /* a table for people, in Markdown */

#endif
