/* core/gateway/scrape.h — what /metrics answers: gauges of what is known anyway are set, then everything is printed. Used by admin.c and,
 * where the configuration asks for it, by route.c on the workers. */
#ifndef MP_SCRAPE_H
#define MP_SCRAPE_H
#include "core/base/buf.h"
#include "core/pool/pool.h"
#include "core/script/config.h"

#define MP_SCRAPE_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Any thread. config: of the generation that serves; models that it does not declare are shown until they have drained. */
void mp_scrape(struct mp_pool *pool, const struct mp_config *config, struct mp_buf *out);

#endif
