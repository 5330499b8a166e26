/* core/gateway/check.c — see mp_models_check in models.h: a reload asks, before anything changes, whether the models that it brings can be
 * used. Each file is opened by the engine that would load it (it is untrusted: the gateway does not parse it). */
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/gateway/models_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE_NS (60 * UINT64_C(1000000000)) /* for an engine to come and to open a file */

struct item { /* a model that is looked at */
    struct mp_engine *engine;
    const struct mp_conf_model *conf;
    uint64_t n;    /* of its id */
    uint64_t need; /* bytes; 0: unknown */
    bool sent, over;
};

struct check {
    struct check *next;
    const struct mp_config *config;
    void (*done)(void *user, const struct mp_problems *problems);
    void *user;
    struct mp_problems problems;
    struct item *items;
    uint32_t n_items, left; /* left: not over */
    uint64_t deadline;
};

static void problem_at(struct check *c, const char *where, const char *text)
{
    const char *colon = where ? strrchr(where, ':') : NULL;
    char *file = colon ? mp_strndup(where, (size_t)(colon - where)) : NULL;
    uint32_t line = colon ? (uint32_t)strtoul(colon + 1, NULL, 10) : 0;
    mp_problems_add(&c->problems, NULL, file, line, 0, 0, NULL, "%s", text);
    mp_free(file);
}

static void problem(struct check *c, const struct mp_conf_model *m, const char *text)
{
    char *whole = mp_asprintf("mp.model \"%s\": %s", m->name, text);
    problem_at(c, m->where, whole);
    mp_free(whole);
}

static void over(struct check *c, struct item *it)
{
    c->left -= !it->over;
    it->over = true;
}

static struct item *item_of(struct mp_models *ms, uint64_t n, struct check **out)
{
    for (struct check *c = ms->checks; c; c = c->next)
        for (uint32_t i = 0; i < c->n_items; i++)
            if (c->items[i].n == n && !c->items[i].over) {
                *out = c;
                return &c->items[i];
            }
    return NULL;
}

/* A model as it stands: nothing to ask when its declaration and its file are those that its engine knows. */
static void add_item(struct mp_models *ms, struct check *c, const struct mp_conf_model *conf)
{
    struct item *it = &c->items[c->n_items];
    struct row *r = mp_models_row(ms, conf->name);
    struct mp_err err = {0};
    struct file_id file;
    const char *group = mp_models_group(conf, &err);
    *it = (struct item){.conf = conf, .n = ++ms->n_items};
    if (!group) {
        problem_at(c, conf->where, err.message); /* it names the model */
        return;
    }
    it->engine = mp_models_find_engine(ms, group);
    if (!it->engine) {
        problem(c, conf, "no engine serves its device");
        return;
    }
    if (r && r->engine != it->engine) {
        mp_err_set(&err, MP_EINVAL, "it is on %s, and a model's device cannot change to %s while the server runs",
                   mp_engine_group(r->engine), group);
        problem(c, conf, err.message);
        return;
    }
    mp_models_file_id(conf->path, &file);
    if (r && r->declared && r->known && strcmp(r->spec, conf->spec_json) == 0 && mp_models_same_file(&r->file, &file)) {
        struct mp_pool_status s;
        mp_pool_model_status(r->model, &s);
        it->need = s.need;
        it->over = true;
    } else
        c->left++;
    c->n_items++;
}

int mp_models_check(struct mp_models *ms, const struct mp_config *config,
                    void (*done)(void *user, const struct mp_problems *problems), void *user)
{
    struct check *c = mp_calloc(sizeof *c), **last = &ms->checks;
    c->config = config;
    c->done = done;
    c->user = user;
    c->deadline = mp_clock_mono_ns() + PATIENCE_NS;
    c->items = mp_calloc((config->n_models + 1u) * sizeof *c->items);
    for (uint32_t i = 0; i < config->n_models; i++)
        add_item(ms, c, &config->models[i]);
    while (*last)
        last = &(*last)->next;
    *last = c;
    for (uint32_t i = 0; i < ms->n_engines; i++)
        mp_checks_send(ms, ms->engines[i]);
    mp_models_turn(ms);
    return 0;
}

void mp_checks_send(struct mp_models *ms, struct mp_engine *e)
{
    for (struct check *c = ms->checks; c && mp_link_up(e->link); c = c->next)
        for (uint32_t i = 0; i < c->n_items; i++) {
            struct item *it = &c->items[i];
            struct mp_msg m = {.type = MP_MSG_MODEL_CHECK, .id = ASK_ID(ASK_CHECK, it->n)};
            struct mp_err err = {0};
            if (it->engine != e || it->sent || it->over)
                continue;
            m.u.model_check = (struct mp_msg_model_check){mp_span_of(it->conf->name), mp_span_of(it->conf->spec_json)};
            if (mp_link_send(e->link, &m, &err) == 0) {
                it->sent = true;
                continue;
            }
            problem(c, it->conf, err.message);
            over(c, it);
        }
}

void mp_checks_state(struct mp_models *ms, uint64_t n, const struct mp_msg_model_state *said)
{
    struct check *c;
    struct item *it = item_of(ms, n, &c);
    struct mp_err err = {0};
    if (!it)
        return;
    it->need = said->need;
    /* Not enough memory by the limit that counts now; what will count is judged at the end. */
    if (said->state == MP_MODEL_FAILED && !(said->error == MP_ENOMEM && said->need > 0)) {
        mp_err_set(&err, said->error, "%.*s", (int)said->reason.n, said->reason.n ? said->reason.p : "");
        problem(c, it->conf, err.message);
    }
    over(c, it);
}

void mp_checks_refused(struct mp_models *ms, uint64_t n, const char *why)
{
    struct check *c;
    struct item *it = item_of(ms, n, &c);
    if (!it)
        return;
    problem(c, it->conf, why);
    over(c, it);
}

void mp_checks_down(struct mp_models *ms, struct mp_engine *e, bool bye)
{
    for (struct check *c = ms->checks; c; c = c->next)
        for (uint32_t i = 0; i < c->n_items; i++) {
            struct item *it = &c->items[i];
            if (it->engine != e || !it->sent || it->over)
                continue;
            it->sent = false;
            if (bye)
                continue; /* the next one is asked */
            problem(c, it->conf, "the engine died while it looked at its file");
            over(c, it);
        }
}

bool mp_checks_want(const struct mp_models *ms, const struct mp_engine *e)
{
    for (const struct check *c = ms->checks; c; c = c->next)
        for (uint32_t i = 0; i < c->n_items; i++)
            if (c->items[i].engine == e && !c->items[i].over)
                return true;
    return false;
}

/* Each model must fit into its device alone, and those that are kept warm must fit together. */
static void judge(struct mp_models *ms, struct check *c)
{
    char text[300];
    for (uint32_t k = 0; k < ms->n_engines; k++) {
        uint64_t limit = mp_models_limit(c->config, ms->engines[k]->group), kept = 0;
        const struct mp_conf_model *last = NULL;
        for (uint32_t i = 0; i < c->n_items && limit > 0; i++) {
            const struct item *it = &c->items[i];
            if (it->engine != ms->engines[k])
                continue;
            if (it->need > limit) {
                snprintf(text, sizeof text, "needs %" PRIu64 " MiB, device \"%s\" has %" PRIu64 " MiB", it->need >> 20,
                         ms->engines[k]->group, limit >> 20);
                problem(c, it->conf, text);
            } else if (it->conf->settings.min_replicas > 0) {
                kept += it->need;
                last = it->conf;
            }
        }
        if (!last || kept <= limit)
            continue;
        snprintf(text, sizeof text,
                 "the models that are kept warm (min_replicas) need %" PRIu64
                 " MiB together, device \"%s\" has %" PRIu64 " MiB",
                 kept >> 20, ms->engines[k]->group, limit >> 20);
        problem(c, last, text);
    }
}

static void free_check(struct check *c)
{
    mp_problems_free(&c->problems);
    mp_free(c->items);
    mp_free(c);
}

uint64_t mp_checks_turn(struct mp_models *ms, uint64_t now_ns)
{
    uint64_t due = UINT64_MAX;
    for (struct check **p = &ms->checks; *p;) {
        struct check *c = *p;
        for (uint32_t i = 0; i < c->n_items && now_ns >= c->deadline; i++)
            if (!c->items[i].over) {
                problem(c, c->items[i].conf, "no engine came to look at its file");
                over(c, &c->items[i]);
            }
        if (c->left > 0) {
            due = c->deadline < due ? c->deadline : due;
            p = &c->next;
            continue;
        }
        *p = c->next;
        judge(ms, c);
        c->done(c->user, &c->problems);
        free_check(c);
        p = &ms->checks; /* done may have asked for another */
    }
    return due;
}

void mp_checks_free(struct mp_models *ms)
{
    while (ms->checks) {
        struct check *c = ms->checks;
        ms->checks = c->next;
        free_check(c);
    }
}
