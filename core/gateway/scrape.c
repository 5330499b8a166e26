/* core/gateway/scrape.c — see scrape.h. Costs some microseconds a model: no lock is held for longer than one model's. */
#include "core/gateway/scrape.h"

#include "core/gateway/tally.h"
#include "core/telemetry/metrics.h"

/* Not declared any more, and off its device. */
static bool gone(const struct mp_pool_model *m, const struct mp_config *config)
{
    enum mp_model_state state = mp_pool_model_state(m);
    return (state == MP_MODEL_COLD || state == MP_MODEL_DECLARED || state == MP_MODEL_FAILED) &&
           !mp_config_model(config, mp_pool_model_name(m));
}

void mp_scrape(struct mp_pool *pool, const struct mp_config *config, struct mp_buf *out)
{
    struct mp_pool_model *m;
    uint64_t now = mp_pool_now(pool);
    for (size_t i = 0; (m = mp_pool_at(pool, i)) != NULL; i++)
        if (gone(m, config))
            mp_tally_forget(m);
        else
            mp_tally_model(m, now);
    mp_metrics_print(out);
}
