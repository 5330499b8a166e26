/* core/telemetry/decisions.h — the ring of decisions: what a policy was asked, what it answered and why, and what states followed. One per
 * process, any thread. `moonpool decisions` shows it. */
#ifndef MP_DECISIONS_H
#define MP_DECISIONS_H
#include "core/base/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    MP_DECISIONS_KEPT = 4096,
    MP_DECISIONS_BYTES = 8388608, /* of all that are kept: the oldest go first */
    MP_DECISION_MAX = 8192,       /* bytes of one: longer inputs are left out, then longer texts cut */
};

struct mp_decision {      /* all borrowed during the call */
    const char *kind;     /* "scale", "evict", "admit", "rank", "route", "state", "reload", "job" */
    const char *policy;   /* who was asked: "default", "thrifty"; "" when no policy was */
    const char *model;    /* or "" */
    const char *decision; /* "1", "accept", "loading -> warm" */
    const char *reason;   /* as the policy gave it, or the cause */
    const char *
        fallback; /* why the policy's own answer does not count ("raised: …", "late: …", "memory: …", "nonsense: …"): it is the default's; or NULL */
    const char *inputs; /* a JSON object, or NULL */
};

/* One that equals its kind's and model's last (kind, model, policy, decision, reason, fallback) only raises that one's `times`, unless kind is
 * "state", "reload" or "job". NULL texts count as "". */
void mp_decide(const struct mp_decision *d);
/* When d, whatever its inputs, would only raise the last one's `times`: does that, and true. So whoever decides often makes the inputs' JSON only
 * when it is wanted. */
bool mp_decide_again(const struct mp_decision *d);
/* Appends a JSON line per decision numbered above `after`, oldest first: {"n", "time", "kind", "policy"?, "model"?, "decision", "reason"?,
 * "fallback"?, "times", "last"?, "inputs"?}; time and last (when times > 1) are Unix seconds; absent where "". At most `most` lines.
 * Returns the number of the last one printed, or the highest there is when none was: the next call's `after`. */
uint64_t mp_decisions_print(uint64_t after, uint32_t most, struct mp_buf *out);
/* Appends the reason of the last decision of a kind about a model; false: there is none, or it is too long ago to be kept. */
bool mp_decisions_last(const char *kind, const char *model, struct mp_buf *reason);
/* wake(ctx) is called once, by whoever makes the next decision, with the ring's lock held: it only posts. One watcher; NULL: none any more.
 * True: the watch before this one was still armed: it has not been, and will not be, called. */
bool mp_decisions_watch(void (*wake)(void *ctx), void *ctx);

#endif
