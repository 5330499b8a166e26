/* core/engine/versions.c — declarations of models, and one version taking another's place; see host.h and served.c, which has their states.
 *
 *   current ──── declared anew, another identity ────► the new one is opened; cannot be: the current one goes on
 *   new: current, draining until the old one is off the device (its sequences end there) ─► loading ─► warm: the old one is freed
 *                                                                        └─ cannot be loaded: the old one is current again, and loads
 *
 * Requests that do not run go over to whichever is current; ask.c prepares them again. */
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/engine/host.h"

#include <string.h>

/* The first n - 1 bytes of both, never a part of a character. */
static void set_cause(struct mp_served *m, const char *text, const char *why)
{
    struct mp_buf b = {0};
    mp_buf_printf(&b, "%s%s%s", text, *why ? ": " : "", why);
    size_t n = b.len < sizeof m->cause - 1 ? b.len : sizeof m->cause - 1;
    while (n > 0 && n < b.len && ((unsigned char)b.data[n] & 0xc0) == 0x80)
        n--;
    memcpy(m->cause, mp_buf_cstr(&b), n);
    m->cause[n] = 0;
    mp_buf_free(&b);
}

static void add_asker(struct mp_served *m, const struct mp_line *c, uint64_t id)
{
    struct mp_asker *a = mp_calloc(sizeof *a);
    *a = (struct mp_asker){.next = m->askers, .line = c->number, .id = id};
    m->askers = a;
}

void mp_version_answer(struct mp_host *h, struct mp_served *asked, const struct mp_served *m)
{
    while (asked->askers) {
        struct mp_asker *a = asked->askers;
        asked->askers = a->next;
        mp_served_say(h, mp_host_line(h, a->line), m, a->id);
        mp_free(a);
    }
}

static struct mp_served *new_version(struct mp_host *h, struct mp_span name, struct mp_model_decl *d)
{
    struct mp_served *m = mp_calloc(sizeof *m);
    m->name = mp_strndup(name.p, name.n);
    m->decl = *d;
    *d = (struct mp_model_decl){0};
    m->state = MP_MODEL_DECLARED;
    atomic_init(&m->stop, false);
    m->link = h->models;
    h->models = m;
    h->n_models++;
    return m;
}

static void free_version(struct mp_host *h, struct mp_served *m)
{
    for (struct mp_served **p = &h->models; *p; p = &(*p)->link)
        if (*p == m) {
            *p = m->link;
            break;
        }
    h->n_models--;
    for (struct mp_asker *a = m->askers, *next; a; a = next) {
        next = a->next;
        mp_free(a);
    }
    mp_source_free(m->source);
    mp_model_decl_free(&m->decl);
    mp_free(m->name);
    mp_free(m);
}

/* ---- one in another's place ---- */

bool mp_version_waits(const struct mp_host *h, const struct mp_served *m)
{
    for (const struct mp_served *o = h->models; o; o = o->link)
        if (o != m && o->retired && mp_served_on_device(o) && strcmp(o->name, m->name) == 0)
            return true;
    return false;
}

/* What was to replace it is not wanted any more. */
static void drop_next(struct mp_host *h, struct mp_served *m)
{
    struct mp_served *next = m->next;
    if (!next)
        return;
    m->next = NULL;
    next->old = NULL;
    mp_version_answer(h, next, m);
}

/* The new version was opened: the name is its from now on. */
static void replace(struct mp_host *h, struct mp_served *next)
{
    struct mp_served *m = next->old;
    bool wanted = m->state == MP_MODEL_WARM || (m->state == MP_MODEL_LOADING && !m->giving_up) || m->load_next;
    m->next = NULL;
    m->retired = true;
    next->retired = false;
    next->loads = m->loads;
    next->load_ns = m->load_ns;
    next->load_next = wanted;
    /* Who comes back if it fails: the last one that worked, or was about to. */
    next->old = !wanted ? NULL : m->old ? m->old : m->source && !m->reopen ? m : NULL;
    m->old = NULL;
    mp_info("model '%s' is replaced", next->name);
    mp_ask_move(h, m, next);
    mp_served_let_go(h, m);
    mp_served_go_on(h, next);
    mp_version_answer(h, m, next);
    mp_version_answer(h, next, next);
}

static void cannot_open(struct mp_host *h, struct mp_served *next, const struct mp_err *err)
{
    struct mp_served *m = next->old;
    bool intact = !m->source || mp_source_intact(m->source);
    m->next = next->old = NULL;
    set_cause(m,
              intact ? "the old version goes on; the new one cannot be used"
                     : "the old version goes on, until it is unloaded: its file was overwritten in place; the new one "
                       "cannot be used",
              err->message);
    mp_warn("model '%s': the old version goes on; the new one cannot be used: %s", m->name, err->message);
    mp_served_tell(h, m);
    mp_version_answer(h, next, m);
}

/* MODEL_CHECK: its own state is the answer. */
static void checked(struct mp_host *h, struct mp_served *m, const struct mp_err *err)
{
    m->state = err->code < 0 ? MP_MODEL_FAILED : MP_MODEL_COLD;
    m->err = *err;
    mp_version_answer(h, m, m);
}

bool mp_version_opened(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    if (!m->retired || m->giving_up)
        return false;
    if (l->err.code == 0 && h->limit > 0 && l->need > h->limit)
        l->err.code = mp_room_refuse(l->need, 0, h->limit, &l->err);
    if (l->err.code == 0 || m->checking) {
        m->source = mp_move(&l->source);
        m->need = l->need;
    }
    if (m->checking)
        checked(h, m, &l->err);
    else if (m->old && l->err.code < 0)
        cannot_open(h, m, &l->err);
    else if (m->old)
        replace(h, m);
    return true; /* else nobody waits for it any more */
}

bool mp_version_failed(struct mp_host *h, struct mp_served *m, const struct mp_err *err)
{
    struct mp_served *old = m->old;
    if (!old)
        return false;
    m->old = NULL;
    m->retired = true;
    m->state = MP_MODEL_COLD;
    old->retired = false;
    old->loads = m->loads;
    old->reopen = false;
    old->pinned = true;
    old->next = m->next; /* a third one, on its way */
    if (old->next)
        old->next->old = old;
    m->next = NULL;
    set_cause(old,
              mp_source_intact(old->source)
                  ? "the old version is back; the new one cannot be used"
                  : "the old version cannot come back: its file was overwritten in place; the new one cannot be used",
              err->message);
    mp_warn("model '%s': %s", m->name, old->cause);
    mp_ask_move(h, m, old);
    old->load_next = true;
    mp_served_go_on(h, old);
    mp_version_answer(h, m, old);
    return true;
}

void mp_version_off(struct mp_host *h, struct mp_served *m)
{
    for (struct mp_served *o = h->models; o; o = o->link)
        if (!o->retired && o->behind && strcmp(o->name, m->name) == 0) {
            mp_served_go_on(h, o);
            return;
        }
}

/* ---- messages ---- */

static bool unchanged(const struct mp_served *m, const struct mp_model_decl *d)
{
    return mp_model_decl_same(&m->decl, d) && (!m->source || m->reopen || mp_source_current(m->source));
}

/* 0, or the answer went out. */
static int take_apart(struct mp_host *h, struct mp_line *c, uint64_t id, struct mp_span name, struct mp_span spec,
                      struct mp_model_decl *d)
{
    struct mp_err err = {0};
    int rc = mp_model_decl_parse(spec, h->conf->group, d, &err);
    if (rc == 0 && (name.n == 0 || memchr(name.p, 0, name.n)))
        rc = mp_err_set(&err, MP_EINVAL, "name: must not be empty, nor hold NUL");
    if (rc == 0 && h->n_models >= MP_HOST_MAX_MODELS)
        rc = mp_err_set(&err, MP_ELIMIT, "%d models are declared already", MP_HOST_MAX_MODELS);
    if (rc < 0) {
        mp_err_context(&err, "model '%.*s'", (int)name.n, name.n ? name.p : "");
        mp_host_send_error(h, c, id, &err);
        mp_model_decl_free(d);
    }
    return rc;
}

/* The same model; what was asked before it is void, limits apply at once. */
static void declare_again(struct mp_host *h, struct mp_line *c, uint64_t id, struct mp_served *m,
                          const struct mp_model_decl *d)
{
    struct mp_err err;
    drop_next(h, m);
    if (m->decl.max_seq != d->max_seq) {
        m->decl.max_seq = d->max_seq;
        mp_served_replan(h, m);
    }
    if (m->state == MP_MODEL_FAILED || (m->state == MP_MODEL_DECLARED && !m->opening)) {
        m->retry_at = 0; /* told anew: the file may have been mended */
        (void)mp_served_want_open(h, m, &err);
    }
    if (m->state == MP_MODEL_DECLARED)
        add_asker(m, c, id);
    else
        mp_served_say(h, c, m, id);
}

void mp_version_declare(struct mp_host *h, struct mp_line *c, const struct mp_msg *msg)
{
    const struct mp_msg_model_declare *q = &msg->u.model_declare;
    struct mp_served *m = mp_served_find(h, q->name), *made = NULL;
    struct mp_model_decl d;
    if (take_apart(h, c, msg->id, q->name, q->spec, &d) < 0)
        return;
    if (m && unchanged(m, &d)) {
        declare_again(h, c, msg->id, m, &d);
    } else if (m && m->next && mp_model_decl_same(&m->next->decl, &d)) { /* it is being opened */
        m->next->decl.max_seq = d.max_seq;
        add_asker(m->next, c, msg->id);
    } else {
        made = new_version(h, q->name, &d);
        add_asker(made, c, msg->id);
    }
    if (made && m && (mp_served_on_device(m) || m->behind)) {
        drop_next(h, m);
        m->cause[0] = 0;
        m->next = made;
        made->old = m;
        made->retired = true;
        mp_served_tell(h, m);
    } else if (made && m) { /* nothing runs on it: at once */
        m->retired = true;
        made->loads = m->loads;
        mp_version_answer(h, m, made);
        mp_ask_move(h, m, made);
    }
    if (made)
        mp_served_open(h, made);
    mp_model_decl_free(&d);
}

void mp_version_check(struct mp_host *h, struct mp_line *c, const struct mp_msg *msg)
{
    const struct mp_msg_model_check *q = &msg->u.model_check;
    struct mp_model_decl d;
    if (take_apart(h, c, msg->id, q->name, q->spec, &d) < 0)
        return;
    struct mp_served *m = new_version(h, q->name, &d);
    m->retired = m->checking = true;
    add_asker(m, c, msg->id);
    mp_served_open(h, m);
}

void mp_version_forget(struct mp_host *h, struct mp_line *c, const struct mp_msg *msg)
{
    struct mp_served *m = mp_served_named(h, c, msg->id, msg->u.model_forget.name);
    struct mp_err err = {0};
    if (!m)
        return;
    drop_next(h, m);
    m->old = NULL;
    m->load_next = false;
    mp_err_set(&err, MP_ENOENT, "model '%s' was removed", m->name);
    mp_ask_model_gone(h, m, &err);
    mp_served_let_go(h, m);
    mp_version_answer(h, m, m);
    mp_served_say(h, c, m, msg->id);
    m->retired = true;
    mp_info("model '%s' was removed", m->name);
}

/* ---- the end ---- */

static bool named_by_another(const struct mp_host *h, const struct mp_served *m)
{
    for (const struct mp_served *o = h->models; o; o = o->link)
        if (o->old == m || o->next == m)
            return true;
    return false;
}

void mp_version_tick(struct mp_host *h)
{
    for (struct mp_served *m = h->models, *link; m; m = link) {
        link = m->link;
        if (m->retired && m->letters == 0 && m->n_requests == 0 && !mp_served_on_device(m) && !named_by_another(h, m))
            free_version(h, m);
    }
}

void mp_version_free_all(struct mp_host *h)
{
    while (h->models)
        free_version(h, h->models);
}
