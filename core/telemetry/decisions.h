/* core/telemetry/decisions.h — the ring of decisions: what a policy was asked, what it answered and why, and what states followed. One per
 * process, any thread. `moonpool decisions` shows it. */
#ifndef MP_DECISIONS_H
#define MP_DECISIONS_H
#include "core/base/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum { MP_DECISIONS_KEPT = 4096, MP_DECISION_MAX = 8192 /* bytes of one; longer inputs are left out */ };

struct mp_decision {      /* all borrowed during the call */
    const char *kind;     /* "scale", "evict", "admit", "rank", "route", "state", "reload", "job" */
    const char *policy;   /* whose answer it is: "default", "thrifty"; "" when no policy was asked */
    const char *model;    /* or "" */
    const char *decision; /* "1", "accept", "loading -> warm" */
    const char *reason;   /* as the policy gave it, or the cause */
    const char *fallback; /* why the policy's own answer does not count ("raised: …", "late", "nonsense: …"), or NULL */
    const char *inputs; /* a JSON object, or NULL */
};

/* One that equals its kind's and model's last (kind, model, policy, decision, reason, fallback) only raises that one's `times`, unless kind is
 * "state", "reload" or "job". */
void mp_decide(const struct mp_decision *d);
/* Appends a JSON line per decision numbered above `after`, oldest first: {"n", "time", "kind", "policy"?, "model"?, "decision", "reason"?,
 * "fallback"?, "times", "inputs"?}. Returns the highest number there is. `most`: at most so many lines. */
uint64_t mp_decisions_print(uint64_t after, uint32_t most, struct mp_buf *out);

#endif
