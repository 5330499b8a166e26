/* core/cli/facts.h — what a server said, as tables for people. Used by status, models, devices and generations, which show the same rows. */
#ifndef MP_CLI_FACTS_H
#define MP_CLI_FACTS_H
#include "core/base/buf.h"
#include "core/cli/doc.h"

/* Each takes the list as the server gave it. wide: with what `moonpool models` adds. */
void mp_facts_models(const struct mp_val *models, bool wide, struct mp_buf *out);
void mp_facts_model(const struct mp_val *model, struct mp_buf *out); /* one, with everything that is known */
void mp_facts_devices(const struct mp_val *devices, struct mp_buf *out);
void mp_facts_generations(const struct mp_val *generations, struct mp_buf *out);
void mp_facts_jobs(const struct mp_val *jobs, struct mp_buf *out);
/* "loading 42%, 120.0 MiB of 300.0 MiB, 2s left" */
void mp_facts_state(const struct mp_val *model, struct mp_buf *out);

#endif
