/* core/pool/want.c — what the keeper wants of a model at a turn: its settings by the time of day, its facts, and from them whether it is to be
 * loaded, how much, and why. Called by keeper.c. */
#include "core/pool/keeper_impl.h"

#include <stdio.h>

/* What was asked since the last turn counts from now on. */
static void take_asked(struct mp_keeper *k, struct mp_row *r)
{
    struct mp_pool_model *m = r->m;
    pthread_mutex_lock(&m->lock);
    struct mp_pool_override o = m->asked;
    uint32_t reset = m->asked_reset;
    m->asked.set = m->asked_reset = 0;
    pthread_mutex_unlock(&m->lock);
    if (o.set == 0 && reset == 0)
        return;
    mp_pool_override_add(&r->asked.override, &o, reset);
    for (uint32_t i = 0; i < MP_N_POOL_SETTINGS; i++)
        if (o.set & 1u << i)
            r->asked.at[i] = k->wall_s;
    r->unsettled = true;
}

static void settle(struct mp_keeper *k, struct mp_row *r)
{
    struct mp_pool_settings s;
    int64_t next;
    take_asked(k, r);
    if (r->unsettled || k->wall_s < r->settled_s || k->wall_s >= r->unsettled_s) {
        mp_pool_settings_at(&s, &r->base, r->schedules, r->n_schedules, &r->asked, k->wall_s);
        r->unsettled_s = mp_pool_settings_next(r->schedules, r->n_schedules, k->wall_s, &next) ? next : INT64_MAX;
        r->settled_s = k->wall_s;
        r->unsettled = false;
        if (s.min_replicas > r->f.settings.min_replicas) /* scaled, scheduled or configured since it was let go */
            r->down = false;
        uint64_t again =
            r->unsettled_s == INT64_MAX ? 0 : k->now_ns + (uint64_t)(r->unsettled_s - k->wall_s) * UINT64_C(1000000000);
        mp_queue_settings(r->m, &s, again);
    }
    if (r->unsettled_s != INT64_MAX)
        mp_keeper_due_in(k, (double)(r->unsettled_s - k->wall_s));
}

/* The keeper's own rule: as many as the requests ask for, and none once nobody asked for scaledown_window. */
static int own_rule(const struct mp_pool_facts *f, char *reason, size_t n)
{
    uint32_t requests = f->queued + f->in_flight;
    if (requests > 0) {
        snprintf(reason, n, "%u request%s", requests, requests == 1 ? "" : "s");
        return (int)((requests + f->settings.target_concurrency - 1) / f->settings.target_concurrency);
    }
    snprintf(reason, n, "idle for %.1f s of %g", f->idle, f->settings.scaledown_window);
    return f->replicas > 0 && f->idle < f->settings.scaledown_window;
}

static int ask_scale(struct mp_keeper *k, struct mp_row *r)
{
    int want = -1;
    if (k->ops->scale) {
        r->reason[0] = '\0';
        want = k->ops->scale(k->ctx, &r->f, (double)k->wall_s, r->reason, sizeof r->reason);
        mp_keeper_due_in(k, 1); /* what it says may depend on the time alone */
    }
    if (want < 0)
        want = own_rule(&r->f, r->reason, sizeof r->reason);
    return want;
}

static void due_when_idle(struct mp_keeper *k, const struct mp_row *r)
{
    double window = r->f.settings.scaledown_window;
    if (r->f.state == MP_MODEL_WARM && r->f.idle < window)
        mp_keeper_due_in(k, window - r->f.idle);
}

/* What sequences hold beyond one context comes and goes: the engine's last word on what is warm counts. */
static void count_memory(struct mp_row *r)
{
    enum mp_model_state state = mp_row_state(r);
    pthread_mutex_lock(&r->m->lock);
    uint64_t said = r->m->said.reserved;
    pthread_mutex_unlock(&r->m->lock);
    if ((state == MP_MODEL_WARM || state == MP_MODEL_DRAINING) && said > 0)
        mp_row_reserve(r, said);
}

void mp_row_judge(struct mp_keeper *k, struct mp_row *r)
{
    const struct mp_pool_settings *s = &r->f.settings;
    uint32_t want;
    bool requests, kept;
    settle(k, r);
    count_memory(r);
    mp_pool_model_facts(r->m, k->now_ns, &r->f);
    if (r->f.state == MP_MODEL_DECLARED)
        r->f.state = MP_MODEL_COLD;
    requests = r->f.queued + r->f.in_flight > 0;
    if (r->f.queued > 0)
        r->down = false;
    if (r->removed) { /* who waits for it is served */
        r->level = requests ? MP_LEVEL_BUSY : MP_LEVEL_NONE;
        snprintf(r->reason, sizeof r->reason, "removed from the configuration");
        return;
    }
    want = (uint32_t)ask_scale(k, r);
    if (s->max_replicas == 0 && r->load_cause == MP_CAUSE_ASKED)
        r->load_asked = false; /* as one that is asked for now is refused */
    kept = s->min_replicas > 0 || r->load_asked;
    if (want == 0 && r->lost && r->f.idle < s->scaledown_window) {
        want = 1;
        snprintf(r->reason, sizeof r->reason, "it was loaded when its engine was lost");
    }
    if (want == 0 && kept) {
        want = 1;
        snprintf(r->reason, sizeof r->reason, "%s", r->load_asked ? "a load was asked for" : "min_replicas");
    }
    if (want > 0 && s->max_replicas == 0) {
        want = 0;
        snprintf(r->reason, sizeof r->reason, "max_replicas is 0");
    }
    if (want > 0 && r->down) {
        want = 0;
        snprintf(r->reason, sizeof r->reason, "unloaded by hand");
    }
    r->level = want == 0 ? MP_LEVEL_NONE : requests ? MP_LEVEL_BUSY : kept ? MP_LEVEL_PIN : MP_LEVEL_KEEP;
    due_when_idle(k, r);
}
