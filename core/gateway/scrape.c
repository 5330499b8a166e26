/* core/gateway/scrape.c — see scrape.h. Costs some microseconds a model: no lock is held for longer than one model's. */
#include "core/gateway/scrape.h"

#include "core/telemetry/metrics.h"

static void set(enum mp_metric m, const char *first, const char *second, double v)
{
    mp_cell_set(mp_metric_cell(m, (const char *[]){first, second}), v);
}

static void model(struct mp_pool_model *m, uint64_t now_ns)
{
    struct mp_pool_facts f;
    mp_pool_model_facts(m, now_ns, &f);
    for (int s = 0; s < MP_N_MODEL_STATES; s++) {
        enum mp_model_state state = f.state == MP_MODEL_DECLARED ? MP_MODEL_COLD : f.state;
        if (s != MP_MODEL_DECLARED)
            set(MP_METRIC_MODEL_STATE, f.name, mp_model_state_name(s), s == (int)state);
    }
    set(MP_METRIC_MODEL_IN_FLIGHT, f.name, NULL, f.in_flight);
    set(MP_METRIC_MODEL_QUEUED, f.name, NULL, f.queued);
    set(MP_METRIC_MODEL_MEMORY, f.name, f.device, (double)f.memory);
}

static bool gone(const struct mp_pool_model *m, const struct mp_config *config)
{
    static const enum mp_metric gauges[] = {MP_METRIC_MODEL_STATE, MP_METRIC_MODEL_IN_FLIGHT, MP_METRIC_MODEL_QUEUED,
                                            MP_METRIC_MODEL_MEMORY};
    const char *name = mp_pool_model_name(m);
    enum mp_model_state state = mp_pool_model_state(m);
    if ((state != MP_MODEL_COLD && state != MP_MODEL_DECLARED && state != MP_MODEL_FAILED) ||
        mp_config_model(config, name))
        return false;
    for (size_t i = 0; i < sizeof gauges / sizeof gauges[0]; i++)
        mp_metric_forget(gauges[i], name);
    return true;
}

void mp_scrape(struct mp_pool *pool, const struct mp_config *config, struct mp_buf *out)
{
    struct mp_pool_model *m;
    uint64_t now = mp_pool_now(pool);
    set(MP_METRIC_BUILD_INFO, MP_VERSION, NULL, 1);
    for (size_t i = 0; (m = mp_pool_at(pool, i)) != NULL; i++)
        if (!gone(m, config))
            model(m, now);
    mp_metrics_print(out);
}

void mp_scrape_devices(const struct mp_keeper *k)
{
    struct mp_device_room room;
    for (uint32_t i = 0; mp_keeper_room(k, i, &room); i++) {
        set(MP_METRIC_DEVICE_MEMORY, room.group, NULL, (double)room.memory);
        set(MP_METRIC_DEVICE_RESERVED, room.group, NULL, (double)room.reserved);
        set(MP_METRIC_DEVICE_SWAPS, room.group, NULL, (double)room.swaps);
    }
}
