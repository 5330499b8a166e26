/* core/script/policy.h — asking a policy. A policy function is pure: plain data in, a decision and its reason out. What waits, the clock, random
 * numbers and the environment raise in it (mp_script_pure); module state is out of its reach by contract only. `scale` and `evict` run on the control thread in the generation's control VM
 * (the one behind the workers'); `admit`, `rank` and `route` in the request's worker.
 *
 * One that raises, takes longer than its burst, or answers nonsense does not count: the default's answer does (lua/moonpool/policy/default.lua,
 * or what C knows to be the same), and that is logged (once per function and minute), counted (MP_METRIC_POLICY_ERRORS), put into the
 * ring of decisions, and named in status (mp_policy_errors). */
#ifndef MP_SCRIPT_POLICY_H
#define MP_SCRIPT_POLICY_H
#include "core/pool/facts.h"
#include "core/script/generation.h"
#include "core/script/run.h"

#define MP_POLICY_SLOTS(X) X(ADMIT, "admit") X(ROUTE, "route") X(RANK, "rank") X(SCALE, "scale") X(EVICT, "evict")
enum mp_policy_slot {
#define X(id, name) MP_POLICY_##id,
    MP_POLICY_SLOTS(X)
#undef X
        MP_N_POLICY_SLOTS
};

#define MP_POLICY_DEFAULT "default"                        /* the name of moonpool's own */
const char *mp_policy_slot_name(enum mp_policy_slot slot); /* "admit" */

/* The control thread's place: it runs scale and evict of any generation. `state` (a scale function's third argument, one table per model and
 * policy) lives here as JSON, so that it survives reloads. */
struct mp_policies;
struct mp_policies *mp_policies_new(void);
void mp_policies_free(struct mp_policies *p);

/* Both as struct mp_keeper_ops has them: replicas, or chosen's count; negative when even the default failed. Records the decision. */
int mp_policy_scale(struct mp_policies *p, struct mp_generation *g, const struct mp_pool_facts *f, double now,
                    char *reason, size_t n);
int mp_policy_evict(struct mp_policies *p, struct mp_generation *g, const struct mp_pool_facts *candidates, uint32_t n,
                    uint64_t need, double now, uint32_t *chosen, char *reason, size_t reason_n);

/* For status: what fell back since the process began, most recent first. False behind the last. Any thread. */
struct mp_policy_error {
    char policy[64], slot[16], kind[16], message[300]; /* kind: raised, late, memory, nonsense */
    uint64_t count;
    double age; /* seconds since the last */
};
bool mp_policy_errors(uint32_t i, struct mp_policy_error *out);

#endif
