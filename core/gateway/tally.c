/* core/gateway/tally.c — see tally.h. */
#include "core/gateway/tally.h"

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/telemetry/decisions.h"
#include "core/telemetry/metrics.h"

#include <stdio.h>

static struct mp_cell *cell(enum mp_metric m, const char *a, const char *b, const char *c, const char *d)
{
    const char *const values[MP_METRIC_MAX_LABELS] = {a, b, c, d};
    return mp_metric_cell(m, values);
}

static void count(const struct mp_transition *t)
{
    const char *name = mp_pool_model_name(t->model), *cause = mp_cause_name(t->cause);
    const char *from = mp_model_state_name((uint32_t)t->from), *to = mp_model_state_name((uint32_t)t->to);
    mp_cell_add(cell(MP_METRIC_MODEL_TRANSITIONS, name, from, to, cause), 1);
    mp_cell_add(cell(MP_METRIC_MODEL_STATE_SECONDS, name, from, NULL, NULL), t->seconds);
    if (t->from == MP_MODEL_LOADING) {
        const char *result = t->to == MP_MODEL_WARM ? "ok" : t->to == MP_MODEL_FAILED ? "failed" : "aborted";
        mp_cell_add(cell(MP_METRIC_MODEL_LOADS, name, result, NULL, NULL), 1);
        if (t->to == MP_MODEL_WARM)
            mp_cell_add(cell(MP_METRIC_MODEL_LOAD_SECONDS, name, NULL, NULL, NULL), t->seconds);
    } else if (t->from == MP_MODEL_WARM && t->to == MP_MODEL_DRAINING)
        mp_cell_add(cell(MP_METRIC_MODEL_UNLOADS, name, cause, NULL, NULL), 1);
}

void mp_tally_transition(const struct mp_transition *t)
{
    const char *name = mp_pool_model_name(t->model), *reason = t->reason ? t->reason : "";
    bool bad = t->to == MP_MODEL_FAILED || t->cause == MP_CAUSE_ENGINE_LOST;
    char change[64], why[1100];
    snprintf(change, sizeof change, "%s -> %s", mp_model_state_name((uint32_t)t->from),
             mp_model_state_name((uint32_t)t->to));
    snprintf(why, sizeof why, "%s%s%s", mp_cause_name(t->cause), reason[0] ? ": " : "", reason);
    mp_log(bad ? MP_LOG_WARN : MP_LOG_INFO, "model '%s': %s after %.1f s (%s)", name, change, t->seconds, why);
    count(t);
    mp_decide(&(struct mp_decision){.kind = "state", .policy = "", .model = name, .decision = change, .reason = why});
}

void mp_tally_model(struct mp_pool_model *m, uint64_t now_ns)
{
    const char *name = mp_pool_model_name(m);
    struct mp_pool_facts f;
    enum mp_model_state state = mp_pool_model_state(m);
    if (state == MP_MODEL_DECLARED) /* to people there is no difference */
        state = MP_MODEL_COLD;
    mp_pool_model_facts(m, now_ns, &f);
    for (uint32_t s = 0; s < MP_N_MODEL_STATES; s++)
        if (s != MP_MODEL_DECLARED)
            mp_cell_set(cell(MP_METRIC_MODEL_STATE, name, mp_model_state_name(s), NULL, NULL), s == (uint32_t)state);
    mp_cell_set(cell(MP_METRIC_MODEL_IN_FLIGHT, name, NULL, NULL, NULL), f.in_flight);
    mp_cell_set(cell(MP_METRIC_MODEL_QUEUED, name, NULL, NULL, NULL), f.queued);
    mp_cell_set(cell(MP_METRIC_MODEL_MEMORY, name, f.device, NULL, NULL), (double)f.memory);
}

void mp_tally_forget(const struct mp_pool_model *m)
{
    static const enum mp_metric gauges[] = {MP_METRIC_MODEL_STATE, MP_METRIC_MODEL_IN_FLIGHT, MP_METRIC_MODEL_QUEUED,
                                            MP_METRIC_MODEL_MEMORY};
    for (size_t i = 0; i < MP_COUNT(gauges); i++)
        mp_metric_forget(gauges[i], mp_pool_model_name(m));
}

void mp_tally_device(const struct mp_device_room *room)
{
    mp_cell_set(cell(MP_METRIC_DEVICE_MEMORY, room->group, NULL, NULL, NULL), (double)room->memory);
    mp_cell_set(cell(MP_METRIC_DEVICE_RESERVED, room->group, NULL, NULL, NULL), (double)room->reserved);
    mp_cell_set(cell(MP_METRIC_DEVICE_SWAPS, room->group, NULL, NULL, NULL), (double)room->swaps);
}

void mp_tally_engine(const char *group, bool up)
{
    mp_cell_set(cell(MP_METRIC_ENGINE_UP, group, NULL, NULL, NULL), up);
}

void mp_tally_engine_start(const char *group)
{
    mp_cell_add(cell(MP_METRIC_ENGINE_STARTS, group, NULL, NULL, NULL), 1);
}
