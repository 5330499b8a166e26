/* core/gateway/tally.h — what people see of models as they come and go: log lines, metrics, the ring of decisions. Used by models.c, on
 * the control thread; gauges of models by scrape.c on any. */
#ifndef MP_TALLY_H
#define MP_TALLY_H
#include "core/pool/keeper.h"

/* A state changed: logged, counted, recorded. */
void mp_tally_transition(const struct mp_transition *t);
void mp_tally_model(struct mp_pool_model *m, uint64_t now_ns); /* its gauges, as it is now */
void mp_tally_forget(const struct mp_pool_model *m);           /* it was removed: its gauges go */
void mp_tally_device(const struct mp_device_room *room);
void mp_tally_engine(const char *group, bool up);
void mp_tally_engine_start(const char *group);

#endif
