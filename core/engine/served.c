/* core/engine/served.c — the states of declared models, on the socket thread; see host.h.
 *
 *   declared ─ OPEN ─► cold ─ BEGIN, LOAD, BUILD ─► warm ─ DRAIN ─► draining ─► cold
 *      any of them ─► failed; tried again when asked, no sooner than the backoff (1 s, doubling to 60 s) allows
 */
#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/engine/host.h"

#include <string.h>

enum { BACKOFF_MOST_S = 60, MAX_CONCURRENCY = 256 };

static bool same(struct mp_span a, const char *b)
{
    return strlen(b) == a.n && memcmp(a.n ? a.p : "", b, a.n) == 0;
}

struct mp_served *mp_served_find(struct mp_host *h, struct mp_span name)
{
    for (struct mp_served *m = h->models; m; m = m->next)
        if (!m->retired && same(name, m->name))
            return m;
    return NULL;
}

uint64_t mp_served_retry_ns(const struct mp_served *m)
{
    uint64_t now = mp_clock_mono_ns();
    return m->state == MP_MODEL_FAILED && m->retry_at > now ? m->retry_at - now : 0;
}

static void fill_state(const struct mp_served *m, uint64_t id, struct mp_msg *msg)
{
    struct mp_msg_model_state *s = &msg->u.model_state;
    *msg = (struct mp_msg){.type = MP_MSG_MODEL_STATE, .id = id};
    s->name = mp_span_of(m->name);
    s->state = m->state;
    s->done = m->done;
    s->total = m->total;
    s->loads = m->loads;
    s->load_ns = m->load_ns;
    if (m->source) {
        s->identity = mp_source_identity(m->source) + m->numerics;
        s->context = mp_source_context(m->source);
        s->n_vocab = mp_source_plan(m->source)->n_vocab;
        s->arch = mp_span_of(mp_source_arch(m->source));
    }
    s->running = m->n_running;
    s->waiting = m->n_requests - m->n_running;
    s->memory = m->bytes + m->kv_bytes;
    s->device = mp_span_of(m->device);
    if (m->state == MP_MODEL_FAILED) {
        s->error = m->err.code;
        s->reason = mp_span_of(m->err.message);
        s->retry_ns = mp_served_retry_ns(m);
    }
}

static void send_state(struct mp_host *h, struct mp_line *c, const struct mp_served *m, uint64_t id)
{
    struct mp_msg msg;
    fill_state(m, id, &msg);
    mp_host_send(h, c, &msg);
}

static void changed(struct mp_host *h, struct mp_served *m)
{
    struct mp_msg msg;
    if (m->retired)
        return;
    fill_state(m, 0, &msg);
    mp_host_broadcast(h, &msg);
}

static void enter(struct mp_host *h, struct mp_served *m, enum mp_model_state state)
{
    m->state = (uint8_t)state;
    mp_info("model '%s' is %s", m->name, mp_model_state_name(state));
    changed(h, m);
}

/* Who declared it, or asked for its states while it was being opened. */
static void answer_askers(struct mp_host *h, struct mp_served *m)
{
    while (m->askers) {
        struct mp_asker *a = m->askers;
        m->askers = a->next;
        send_state(h, mp_host_line(h, a->line), m, a->id);
        mp_free(a);
    }
}

static void failed(struct mp_host *h, struct mp_served *m, const struct mp_err *err)
{
    uint64_t seconds = m->failures < 6 ? UINT64_C(1) << m->failures : BACKOFF_MOST_S;
    m->err = *err;
    m->failures++;
    m->retry_at = mp_clock_mono_ns() + seconds * 1000000000u;
    m->reopen = true; /* a mended file is another file */
    m->load_next = false;
    m->done = m->total = 0;
    mp_warn("model '%s' failed: %s", m->name, err->message);
    enter(h, m, MP_MODEL_FAILED);
    answer_askers(h, m);
    mp_ask_model_failed(h, m, err);
}

/* Sending letters */

static struct mp_mail *letter(struct mp_served *m, enum mp_mail_kind kind)
{
    m->letters++;
    return mp_mail_new(kind, m, 0);
}

static void open_source(struct mp_host *h, struct mp_served *m)
{
    struct mp_mail *l = letter(m, MP_MAIL_OPEN);
    mp_buf_put(&l->bytes, m->path, strlen(m->path) + 1);
    size_t at = l->bytes.len;
    if (m->sha256)
        mp_buf_put(&l->bytes, m->sha256, strlen(m->sha256) + 1);
    l->open = (struct mp_source_conf){
        .path = l->bytes.data, .sha256 = m->sha256 ? l->bytes.data + at : NULL, .context = m->context};
    m->opening = true;
    mp_jobs_put(h->front, l);
}

static void load(struct mp_host *h, struct mp_served *m)
{
    if (!m->source || m->reopen || !mp_source_current(m->source)) {
        m->load_next = true;
        if (!m->opening)
            open_source(h, m);
        return;
    }
    struct mp_mail *l = letter(m, MP_MAIL_BEGIN);
    l->source = mp_source_ref(m->source);
    l->load = (struct mp_load_conf){.max_seq = m->max_seq, .numerics = m->numerics};
    m->load_next = false;
    m->load_began = mp_clock_mono_ns();
    m->done = m->total = 0;
    mp_runner_put(h->runner, l);
    enter(h, m, MP_MODEL_LOADING);
}

static void drain(struct mp_host *h, struct mp_served *m)
{
    m->drain_next = false;
    enter(h, m, MP_MODEL_DRAINING);
    mp_runner_put(h->runner, letter(m, MP_MAIL_DRAIN));
}

static int check_backoff(const struct mp_served *m, struct mp_err *err)
{
    uint64_t wait = mp_served_retry_ns(m);
    if (wait == 0)
        return 0;
    return mp_err_set(err, MP_EUNAVAILABLE, "model '%s' cannot be loaded: %s", m->name, m->err.message);
}

int mp_served_want_open(struct mp_host *h, struct mp_served *m, struct mp_err *err)
{
    int rc = check_backoff(m, err);
    if (rc == 0 && !m->opening) {
        open_source(h, m);
        if (m->state == MP_MODEL_FAILED)
            enter(h, m, MP_MODEL_DECLARED);
    }
    return rc;
}

int mp_served_want_warm(struct mp_host *h, struct mp_served *m, struct mp_err *err)
{
    int rc = check_backoff(m, err);
    if (rc == 0 && (m->state == MP_MODEL_COLD || m->state == MP_MODEL_FAILED))
        load(h, m);
    else if (rc == 0 && m->state == MP_MODEL_DECLARED)
        m->load_next = true;
    if (rc == 0 && m->state == MP_MODEL_FAILED) /* it is being opened again first */
        enter(h, m, MP_MODEL_DECLARED);
    return rc;
}

/* Letters that came back */

static bool anyone_waits(const struct mp_served *m)
{
    for (const struct mp_ask *r = m->requests; r; r = r->next)
        if (r->state == MP_ASK_LOADING)
            return true;
    return false;
}

static void opened(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    m->opening = false;
    if (l->err.code < 0) {
        failed(h, m, &l->err);
        return;
    }
    mp_source_free(m->source);
    m->source = mp_move(&l->source);
    m->reopen = false;
    m->err = (struct mp_err){0};
    enter(h, m, MP_MODEL_COLD);
    answer_askers(h, m);
    mp_ask_model_opened(h, m);
    if (m->load_next || anyone_waits(m))
        load(h, m);
}

static void began(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    if (l->err.code < 0) {
        failed(h, m, &l->err);
        return;
    }
    size_t n = l->bytes.len < sizeof m->device - 1 ? l->bytes.len : sizeof m->device - 1;
    memcpy(m->device, l->bytes.data, n);
    m->device[n] = 0;
    struct mp_mail *next = letter(m, MP_MAIL_LOAD);
    next->source = mp_move(&l->source);
    next->loaded = mp_move(&l->loaded);
    mp_jobs_put(h->loader, next);
}

static void was_read(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    struct mp_mail *next = letter(m, l->err.code < 0 ? MP_MAIL_DRAIN : MP_MAIL_BUILD);
    next->source = mp_move(&l->source);
    next->loaded = mp_move(&l->loaded);
    mp_runner_put(h->runner, next);
    if (l->err.code < 0) {
        m->device[0] = 0;
        failed(h, m, &l->err);
    }
}

static void built(struct mp_host *h, struct mp_served *m, struct mp_mail *l)
{
    if (l->err.code < 0) {
        m->device[0] = 0;
        failed(h, m, &l->err);
        return;
    }
    m->loads++;
    m->failures = 0;
    m->load_ns = mp_clock_mono_ns() - m->load_began;
    m->bytes = l->done;
    enter(h, m, MP_MODEL_WARM);
    mp_ask_model_warm(h, m);
    if (m->drain_next)
        drain(h, m);
}

static void drained(struct mp_host *h, struct mp_served *m)
{
    if (m->state != MP_MODEL_DRAINING)
        return; /* the remains of a load that failed */
    m->bytes = m->kv_bytes = m->done = m->total = 0;
    m->device[0] = 0;
    enter(h, m, MP_MODEL_COLD);
    if (anyone_waits(m))
        load(h, m);
}

void mp_served_letter(struct mp_host *h, struct mp_mail *l)
{
    struct mp_served *m = l->model;
    m->letters -= l->kind != MP_MAIL_PROGRESS && l->kind != MP_MAIL_STATS;
    switch (l->kind) {
    case MP_MAIL_OPEN: opened(h, m, l); break;
    case MP_MAIL_BEGIN: began(h, m, l); break;
    case MP_MAIL_LOAD: was_read(h, m, l); break;
    case MP_MAIL_BUILD: built(h, m, l); break;
    case MP_MAIL_DRAIN: drained(h, m); break;
    case MP_MAIL_STATS: m->kv_bytes = l->done; break;
    case MP_MAIL_PROGRESS:
        m->done = l->done;
        m->total = l->total;
        changed(h, m);
        break;
    }
}

/* Declarations */

struct decl {
    char *path, *sha256;
    uint32_t context, max_seq;
    uint8_t numerics;
    bool here; /* its devices name this engine's group */
};

static void free_decl(struct decl *d)
{
    mp_free(d->path);
    mp_free(d->sha256);
}

static int want(struct mp_json *j, enum mp_json_tok tok, enum mp_json_tok wanted, const char *key, const char *what,
                struct mp_err *err)
{
    if (tok == wanted)
        return 0;
    if (tok == MP_JSON_ERROR)
        return mp_err_set(err, MP_EINVAL, "%s", j->err.message);
    return mp_err_set(err, MP_EINVAL, "%s: must be %s", key, what);
}

static int count(struct mp_json *j, const char *key, double most, uint32_t *out, struct mp_err *err)
{
    int rc = want(j, mp_json_next(j), MP_JSON_NUMBER, key, "a whole number", err);
    if (rc == 0 && (!j->integer || j->number < 1 || j->number > most))
        rc = mp_err_set(err, MP_EINVAL, "%s: must be a whole number from 1 to %.0f", key, most);
    if (rc == 0)
        *out = (uint32_t)j->number;
    return rc;
}

static int text(struct mp_json *j, const char *key, char **out, struct mp_err *err)
{
    int rc = want(j, mp_json_next(j), MP_JSON_STRING, key, "a string", err);
    if (rc == 0 && (j->len == 0 || memchr(j->text, 0, j->len)))
        rc = mp_err_set(err, MP_EINVAL, "%s: must be a string, not empty, without NUL", key);
    if (rc == 0) {
        mp_free(*out);
        *out = mp_strndup(j->text, j->len);
    }
    return rc;
}

static int devices(struct mp_json *j, const char *group, bool *here, struct mp_err *err)
{
    int rc = want(j, mp_json_next(j), MP_JSON_ARRAY, "devices", "a list of strings", err);
    *here = false;
    while (rc == 0) {
        enum mp_json_tok tok = mp_json_next(j);
        if (tok == MP_JSON_ARRAY_END)
            break;
        rc = want(j, tok, MP_JSON_STRING, "devices", "a list of strings", err);
        if (rc == 0 && strlen(group) == j->len && memcmp(group, j->text, j->len) == 0)
            *here = true;
    }
    return rc;
}

/* One member of the specification, its key just read. */
static int member(struct mp_json *j, const char *key, const char *group, struct decl *d, struct mp_err *err)
{
    char *word = NULL;
    int rc = 0;
    if (strcmp(key, "source") == 0) {
        rc = text(j, key, &d->path, err);
    } else if (strcmp(key, "sha256") == 0) {
        rc = text(j, key, &d->sha256, err);
        if (rc == 0 && (strlen(d->sha256) != 64 || strspn(d->sha256, "0123456789abcdefABCDEF") != 64))
            rc = mp_err_set(err, MP_EINVAL, "sha256: must be 64 hex digits");
    } else if (strcmp(key, "context") == 0) {
        rc = count(j, key, 1 << 24, &d->context, err);
    } else if (strcmp(key, "max_concurrency") == 0) {
        rc = count(j, key, MAX_CONCURRENCY, &d->max_seq, err);
    } else if (strcmp(key, "devices") == 0) {
        rc = devices(j, group, &d->here, err);
    } else if (strcmp(key, "numerics") == 0) {
        rc = text(j, key, &word, err);
        int n = rc == 0 ? mp_numerics_parse(word) : 0;
        if (rc == 0 && n < 0)
            rc = mp_err_set(err, MP_EINVAL, "numerics: '%s' is none of plain, exact, fast", word);
        d->numerics = (uint8_t)(rc == 0 ? n : 0);
    } else if (strcmp(key, "kv_type") == 0) {
        rc = text(j, key, &word, err);
        if (rc == 0 && strcmp(word, "f32") != 0)
            rc = mp_err_set(err, MP_EUNSUPPORTED, "kv_type: '%s' is not built yet (f32 is)", word);
    } else {
        rc = mp_err_set(err, MP_EINVAL, "unknown key '%s'", key);
    }
    mp_free(word);
    return rc;
}

static int parse_spec(struct mp_span spec, const char *group, struct decl *d, struct mp_err *err)
{
    struct mp_json j;
    char key[32] = "";
    *d = (struct decl){.here = true};
    mp_json_init(&j, spec.n ? spec.p : "", spec.n, 4, 1000);
    int rc = want(&j, mp_json_next(&j), MP_JSON_OBJECT, "the specification", "a JSON object", err);
    while (rc == 0) {
        enum mp_json_tok tok = mp_json_next(&j);
        if (tok == MP_JSON_OBJECT_END)
            break;
        rc = want(&j, tok, MP_JSON_KEY, "the specification", "a JSON object", err);
        size_t n = j.len < sizeof key - 1 ? j.len : sizeof key - 1;
        if (rc == 0) {
            memcpy(key, j.text, n);
            key[n] = 0;
            rc = member(&j, key, group, d, err);
        }
    }
    if (rc == 0)
        rc = want(&j, mp_json_next(&j), MP_JSON_END, "the specification", "one JSON object", err);
    if (rc == 0 && !d->path)
        rc = mp_err_set(err, MP_EINVAL, "source: must be given");
    if (rc == 0 && !d->here)
        rc = mp_err_set(err, MP_EUNSUPPORTED, "devices: '%s' is not among them", group);
    mp_json_free(&j);
    return rc;
}

static void add_asker(struct mp_served *m, const struct mp_line *c, uint64_t id)
{
    struct mp_asker *a = mp_calloc(sizeof *a);
    *a = (struct mp_asker){.next = m->askers, .line = c->number, .id = id};
    m->askers = a;
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_identity(const struct mp_served *m, const struct decl *d)
{
    return same_text(m->path, d->path) && same_text(m->sha256, d->sha256) && m->context == d->context &&
           m->numerics == d->numerics && (!m->source || m->reopen || mp_source_current(m->source));
}

/* Another takes its name; those who use it finish. */
static void retire(struct mp_host *h, struct mp_served *m)
{
    answer_askers(h, m);
    m->retired = true;
    m->load_next = false;
    if (m->state == MP_MODEL_WARM)
        drain(h, m);
    else if (m->state == MP_MODEL_LOADING)
        m->drain_next = true;
}

static struct mp_served *new_model(struct mp_host *h, struct mp_span name, struct decl *d)
{
    struct mp_served *m = mp_calloc(sizeof *m);
    m->name = mp_strndup(name.p, name.n);
    m->path = mp_move(&d->path);
    m->sha256 = mp_move(&d->sha256);
    m->context = d->context;
    m->numerics = d->numerics;
    m->state = MP_MODEL_DECLARED;
    m->next = h->models;
    h->models = m;
    h->n_models++;
    return m;
}

void mp_served_declare(struct mp_host *h, struct mp_line *c, const struct mp_msg *msg)
{
    const struct mp_msg_model_declare *q = &msg->u.model_declare;
    struct mp_served *m = mp_served_find(h, q->name);
    struct decl d;
    struct mp_err err = {0};
    int rc = parse_spec(q->spec, h->conf->group, &d, &err);
    if (rc == 0 && (q->name.n == 0 || memchr(q->name.p, 0, q->name.n)))
        rc = mp_err_set(&err, MP_EINVAL, "name: must not be empty, nor hold NUL");
    if (rc == 0 && !m && h->n_models >= MP_HOST_MAX_MODELS)
        rc = mp_err_set(&err, MP_ELIMIT, "%d models are declared already", MP_HOST_MAX_MODELS);
    if (rc < 0) {
        mp_err_context(&err, "model '%.*s'", (int)q->name.n, q->name.n ? q->name.p : "");
        mp_host_send_error(h, c, msg->id, &err);
        goto out;
    }
    if (m && !same_identity(m, &d)) {
        retire(h, m);
        m = NULL;
    }
    if (!m)
        m = new_model(h, q->name, &d);
    m->max_seq = d.max_seq; /* applies at the next load */
    if (m->state == MP_MODEL_FAILED || (m->state == MP_MODEL_DECLARED && !m->opening)) {
        m->retry_at = 0; /* told anew: the file may have been mended */
        (void)mp_served_want_open(h, m, &err);
    }
    if (m->state == MP_MODEL_DECLARED)
        add_asker(m, c, msg->id);
    else
        send_state(h, c, m, msg->id);
out:
    free_decl(&d);
}

static struct mp_served *named(struct mp_host *h, struct mp_line *c, uint64_t id, struct mp_span name)
{
    struct mp_served *m = mp_served_find(h, name);
    struct mp_err err;
    if (m)
        return m;
    mp_err_set(&err, MP_ENOENT, "no model '%.*s' is declared", (int)name.n, name.n ? name.p : "");
    mp_host_send_error(h, c, id, &err);
    return NULL;
}

void mp_served_load(struct mp_host *h, struct mp_line *c, const struct mp_msg *msg)
{
    struct mp_served *m = named(h, c, msg->id, msg->u.model_load.name);
    struct mp_err err;
    if (!m)
        return;
    m->drain_next = false;
    m->retry_at = 0; /* the backoff is for requests: who asks by name means now */
    (void)mp_served_want_warm(h, m, &err);
    send_state(h, c, m, msg->id);
}

void mp_served_unload(struct mp_host *h, struct mp_line *c, const struct mp_msg *msg)
{
    struct mp_served *m = named(h, c, msg->id, msg->u.model_unload.name);
    if (!m)
        return;
    m->load_next = false;
    if (m->state == MP_MODEL_WARM)
        drain(h, m);
    else if (m->state == MP_MODEL_LOADING)
        m->drain_next = true;
    send_state(h, c, m, msg->id);
}

void mp_served_list(struct mp_host *h, struct mp_line *c, uint64_t id)
{
    struct mp_msg end = {.type = MP_MSG_MODELS_END, .id = id};
    for (const struct mp_served *m = h->models; m; m = m->next)
        if (!m->retired) {
            send_state(h, c, m, id);
            end.u.models_end.count++;
        }
    mp_host_send(h, c, &end);
}

static void free_model(struct mp_host *h, struct mp_served *m)
{
    for (struct mp_served **p = &h->models; *p; p = &(*p)->next)
        if (*p == m) {
            *p = m->next;
            break;
        }
    h->n_models--;
    for (struct mp_asker *a = m->askers, *next; a; a = next) {
        next = a->next;
        mp_free(a);
    }
    mp_source_free(m->source);
    mp_free(m->name);
    mp_free(m->path);
    mp_free(m->sha256);
    mp_free(m);
}

void mp_served_tick(struct mp_host *h, uint64_t now)
{
    (void)now;
    for (struct mp_served *m = h->models, *next; m; m = next) {
        next = m->next;
        if (m->retired && m->letters == 0 && m->n_requests == 0 && m->state == MP_MODEL_WARM)
            drain(h, m); /* warmed once more for a request that came before it was replaced */
        else if (m->retired && m->letters == 0 && m->n_requests == 0)
            free_model(h, m);
    }
}

void mp_served_free_all(struct mp_host *h)
{
    while (h->models)
        free_model(h, h->models);
}
