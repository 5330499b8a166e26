/* core/script/policy_impl.h — asking one function of a policy: shared by policy.c (control: scale, evict) and policy_call.c (workers: admit,
 * route, rank). Everything with L runs protected and may raise when memory is out. */
#ifndef MP_SCRIPT_POLICY_IMPL_H
#define MP_SCRIPT_POLICY_IMPL_H
#include "core/script/lua_model.h"
#include "core/script/policy.h"
#include "core/script/script.h"

#define POLICY_FAULTS(X) X(NONE, "") X(RAISED, "raised") X(LATE, "late") X(MEMORY, "memory") X(NONSENSE, "nonsense")
enum policy_fault {
#define X(id, name) POLICY_##id,
    POLICY_FAULTS(X)
#undef X
};

struct policy_asked { /* one question and what came of it */
    enum mp_policy_slot slot;
    const char *policy, *model;
    struct mp_buf *inputs;   /* where the arguments go as JSON; the caller's */
    enum policy_fault fault; /* of the policy's own function: the default's answer counts */
    char why[300];           /* the fault's */
    char decision[256], reason[300];
};

/* The policy that counts in s, by name. */
const char *policy_name(const struct mp_script *s);
/* The table of arguments at the top, by name, becomes a's inputs. -0 +0 */
void policy_inputs(lua_State *L, struct policy_asked *a);
/* Calls the function below its nargs arguments: charged to an account of its own, watched, kept from what is not pure. outer: the watch runs
 * for a request already. True: its two results are on the stack; false: a->fault and why. -(nargs+1) +2 or +0 */
bool policy_ask(lua_State *L, struct mp_script *s, struct mp_watch *watch, bool nested, int nargs,
                struct policy_asked *a);
/* Its answer means nothing; false. */
bool policy_nonsense(struct policy_asked *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The reason at idx: text, or nothing; else nonsense. */
bool policy_reason(lua_State *L, int idx, struct policy_asked *a);
const char *policy_what(lua_State *L, int idx); /* "a table", "3": how an answer is named; pushes nothing */
/* A fault is counted, logged and kept for status. Into the ring of decisions: true when it is there as one that came again; else a's inputs must
 * be made, and policy_record_inputs puts it there. */
bool policy_record(const struct policy_asked *a);
void policy_record_inputs(const struct policy_asked *a);

/* policy_call.c. After the arguments of a call were read: another model may be asked; it may be refused: then nil, err are on the stack alone. */
void policy_route(lua_State *L, struct mp_run *run, struct model_args *args);
bool policy_admit(lua_State *L, struct mp_run *run, struct model_args *args);
void policy_rank(lua_State *L, struct mp_run *run, struct model_args *args);

#endif
