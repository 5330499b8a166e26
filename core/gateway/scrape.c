/* core/gateway/scrape.c — see scrape.h. Costs some microseconds a model: no lock is held for longer than one model's. */
#include "core/gateway/scrape.h"

#include "core/gateway/status.h"
#include "core/gateway/tally.h"
#include "core/telemetry/metrics.h"

void mp_scrape(struct mp_pool *pool, const struct mp_config *config, struct mp_buf *out)
{
    struct mp_pool_model *m;
    uint64_t now = mp_pool_now(pool);
    for (size_t i = 0; (m = mp_pool_at(pool, i)) != NULL; i++)
        if (mp_status_shown(config, m))
            mp_tally_model(m, now);
        else
            mp_tally_forget(m);
    mp_metrics_print(out);
}
