/* core/gateway/ready.h — what `moonpool serve` shows a person on stderr: progress while models load, and the ready block.
 * Used by control.c, on its thread. */
#ifndef MP_READY_H
#define MP_READY_H
#include "core/gateway/address.h"
#include "core/gateway/models.h"
#include "core/pool/pool.h"
#include "core/script/config.h"

/* Version, addresses, routes, models with device and state, what was not found, and last the line `ready http://ADDRESS`. */
void mp_ready_print(const struct mp_config *config, struct mp_pool *pool, const struct mp_address *addresses,
                    uint32_t n);
/* One line, overwritten by the next, on a terminal; nothing elsewhere. */
void mp_ready_progress(struct mp_pool_model *m);
void mp_ready_progress_end(void); /* takes the line away */

#endif
