/* core/gateway/admin.c — see admin.h. */
#include "core/gateway/admin.h"

#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/gateway/scrape.h"
#include "core/gateway/status.h"
#include "core/net/response.h"
#include "core/script/schema.h"
#include "core/telemetry/decisions.h"
#include "core/telemetry/metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

enum {
    MAX_BODY = 65536,
    MAX_PATH = 4,         /* segments */
    MAX_WAIT = 60,        /* seconds that /decisions waits */
    MAX_LINES = 4096,     /* of one answer of /decisions */
    MAX_CONNECTIONS = 64, /* of them: */
    MAX_WAITING = 32,     /* that wait, so that others are still answered */
};

struct pending { /* a request that is answered later; its req->user */
    struct pending *next, **prev;
    struct mp_admin *admin;
    struct mp_req *req; /* referenced; NULL when its client has left */
    bool reload;        /* a reload's or rollback's; else one that waits for decisions */
    bool dry_run;
    uint64_t after, due_ms;
    uint32_t most;
};

struct mp_admin {
    struct mp_admin_options o;
    struct mp_status status;
    struct mp_server *server;
    struct mp_evloop *loop;
    struct pending *pending;
    uint32_t n_pending;
    uv_timer_t timer;   /* of what waits for decisions */
    bool armed, closed; /* armed: a watch of the ring may post, or did; closed: the timer is */
    bool freed;
};

/* ---- answers ---- */

static void answer(struct mp_req *req, const char *type, struct mp_buf *body)
{
    mp_res_header(req, "content-type", 12, type, strlen(type), NULL);
    mp_res_header(req, "cache-control", 13, "no-store", 8, NULL);
    mp_res_send_take(req, body);
}

static void answer_json(struct mp_req *req, struct mp_buf *body)
{
    mp_buf_putc(body, '\n');
    answer(req, "application/json", body);
}

static void refuse(struct mp_req *req, const struct mp_err *err)
{
    mp_res_error(req, mp_err_status(err->code), mp_err_name(err->code), err->message, (int)ceil(err->retry_after));
}

/* ---- what is asked for ---- */

static const struct mp_config *config_of(const struct mp_admin *a)
{
    return mp_generation_config(mp_reload_active(a->o.reloader));
}

/* The model of a name or an alias; else NULL, and the error says which there are. */
static struct mp_pool_model *find_model(struct mp_admin *a, const char *name, struct mp_err *err)
{
    const struct mp_config *config = config_of(a);
    const struct mp_conf_model *conf = mp_config_model(config, name);
    struct mp_pool_model *m = mp_pool_find(a->o.gateway->pool, conf ? conf->name : name);
    const char **names, *near;
    struct mp_buf all = {0};
    if (m && mp_status_shown(config, m))
        return m;
    names = mp_malloc((config->n_models + 1) * sizeof *names);
    for (uint32_t i = 0; i < config->n_models; i++) {
        names[i] = config->models[i].name;
        if (i < 20)
            mp_buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
    }
    near = mp_nearest(name, names, config->n_models);
    if (config->n_models == 0)
        mp_err_set(err, MP_ENOENT, "no model '%.200s': the configuration declares none", name);
    else if (near)
        mp_err_set(err, MP_ENOENT, "no model '%.200s': did you mean '%s'?", name, near);
    else
        mp_err_set(err, MP_ENOENT, "no model '%.200s'; there are: %s%s", name, mp_buf_cstr(&all),
                   config->n_models > 20 ? ", …" : "");
    mp_free(names);
    mp_buf_free(&all);
    return NULL;
}

/* A whole number of the query. */
static int query_number(const struct mp_req *req, const char *name, uint64_t most, uint64_t *out, struct mp_err *err)
{
    const char *key, *value;
    size_t at = 0, key_len, value_len;
    while (mp_query_next(req->query, req->query_len, &at, &key, &key_len, &value, &value_len)) {
        char text[24], *end;
        unsigned long long v;
        if (key_len != strlen(name) || memcmp(key, name, key_len) != 0)
            continue;
        snprintf(text, sizeof text, "%.*s", (int)(value_len < sizeof text ? value_len : sizeof text - 1), value);
        v = strtoull(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || value_len >= sizeof text - 4 || v > most)
            return mp_err_set(err, MP_EINVAL, "%s must be a whole number from 0 to %ju", name, (uintmax_t)most);
        *out = v;
    }
    return 0;
}

/* The one member that a body may have. Nothing given: *tok is MP_JSON_NULL. */
static int body_member(const struct mp_req *req, const char *name, enum mp_json_tok *tok, double *number,
                       struct mp_err *err)
{
    struct mp_json j;
    enum mp_json_tok t;
    int rc = 0;
    *tok = MP_JSON_NULL;
    if (req->body_len == 0)
        return 0;
    mp_json_init(&j, req->body, req->body_len, 4, 100);
    if (mp_json_next(&j) != MP_JSON_OBJECT)
        rc = mp_err_set(err, MP_EINVAL, "the body must be a JSON object");
    while (rc == 0 && (t = mp_json_next(&j)) == MP_JSON_KEY) {
        if (j.len != strlen(name) || memcmp(j.text, name, j.len) != 0) {
            rc = mp_err_set(err, MP_EINVAL, "unknown key '%.*s': there is only '%s'", (int)(j.len < 100 ? j.len : 100),
                            j.text, name);
            break;
        }
        *tok = mp_json_next(&j);
        *number = j.integer ? j.number : -1;
        if (*tok == MP_JSON_OBJECT || *tok == MP_JSON_ARRAY)
            mp_json_skip(&j, *tok);
    }
    if (rc == 0 && (t != MP_JSON_OBJECT_END || mp_json_next(&j) != MP_JSON_END))
        rc = mp_err_set(err, MP_EINVAL, "the body is no JSON object: %s", j.err.message);
    mp_json_free(&j);
    return rc;
}

static int set_setting(const char *key, double v, struct mp_pool_override *o, struct mp_err *err)
{
#define X(name, path, type, def, least, most)                                                                 \
    if (strcmp(key, path) == 0) {                                                                             \
        if (!(v >= least && v <= most) || (double)(type)v != v)                                               \
            return mp_err_set(err, MP_EINVAL, "'%s' must be %s from %.10g to %.10g, not %.10g", path,         \
                              (type)1.5 == 1 ? "a whole number" : "seconds", (double)least, (double)most, v); \
        o->value.name = (type)v;                                                                              \
        o->set |= 1u << MP_SET_##name##_BIT;                                                                  \
        return 0;                                                                                             \
    }
    MP_POOL_SETTINGS(X)
#undef X
    return MP_ENOENT;
}

static uint32_t setting_bit(const char *key)
{
#define X(name, path, type, def, least, most) \
    if (strcmp(key, path) == 0)               \
        return 1u << MP_SET_##name##_BIT;
    MP_POOL_SETTINGS(X)
#undef X
    return 0;
}

static int unknown_setting(const char *key, struct mp_err *err)
{
    static const char *const keys[] = {
#define X(name, path, type, def, least, most) path,
        MP_POOL_SETTINGS(X)
#undef X
    };
    const char *near = mp_nearest(key, keys, MP_COUNT(keys));
    struct mp_buf all = {0};
    for (size_t i = 0; i < MP_COUNT(keys); i++)
        mp_buf_printf(&all, "%s%s", i ? ", " : "", keys[i]);
    if (near)
        mp_err_set(err, MP_EINVAL, "unknown setting '%.100s': did you mean '%s'?", key, near);
    else
        mp_err_set(err, MP_EINVAL, "unknown setting '%.100s'; there are: %s", key, mp_buf_cstr(&all));
    mp_buf_free(&all);
    return MP_EINVAL;
}

/* {"min_replicas": 1, "queue.max": null}: numbers set, null forgets. The keeper applies them in its next turn, before our next request. */
static int parse_settings(const struct mp_req *req, struct mp_pool_override *o, uint32_t *reset, struct mp_err *err)
{
    struct mp_json j;
    enum mp_json_tok t = MP_JSON_ERROR;
    int rc = 0;
    mp_json_init(&j, req->body, req->body_len, 4, 100);
    if (mp_json_next(&j) != MP_JSON_OBJECT)
        rc = mp_err_set(err, MP_EINVAL, "the body must be a JSON object of settings, like {\"min_replicas\": 1}");
    while (rc == 0 && (t = mp_json_next(&j)) == MP_JSON_KEY) {
        char key[101];
        uint32_t bit;
        snprintf(key, sizeof key, "%.*s", (int)(j.len < 100 ? j.len : 100), j.text);
        bit = setting_bit(key);
        t = mp_json_next(&j);
        if (bit == 0)
            rc = unknown_setting(key, err);
        else if ((o->set | *reset) & bit)
            rc = mp_err_set(err, MP_EINVAL, "'%s' is given twice", key);
        else if (t == MP_JSON_NULL)
            *reset |= bit;
        else if (t == MP_JSON_NUMBER)
            rc = set_setting(key, j.number, o, err);
        else
            rc = mp_err_set(err, MP_EINVAL, "'%s' must be a number, or null for what is declared", key);
    }
    if (rc == 0 && (t != MP_JSON_OBJECT_END || mp_json_next(&j) != MP_JSON_END))
        rc = mp_err_set(err, MP_EINVAL, "the body is no JSON object: %s", j.err.message);
    if (rc == 0 && (o->set | *reset) == 0)
        rc = mp_err_set(err, MP_EINVAL, "no setting is given");
    mp_json_free(&j);
    return rc;
}

/* ---- requests that are answered later ---- */

static struct pending *pending_new(struct mp_admin *a, struct mp_req *req)
{
    struct pending *p = mp_calloc(sizeof *p);
    *p = (struct pending){.next = a->pending, .prev = &a->pending, .admin = a, .req = req};
    if (p->next)
        p->next->prev = &p->next;
    a->pending = p;
    a->n_pending++;
    mp_req_ref(req);
    req->user = p;
    return p;
}

static void pending_free(struct pending *p)
{
    *p->prev = p->next;
    if (p->next)
        p->next->prev = p->prev;
    p->admin->n_pending--;
    if (p->req) {
        p->req->user = NULL;
        mp_req_unref(p->req);
    }
    mp_free(p);
}

static void answer_decisions(struct mp_req *req, uint64_t last, struct mp_buf *lines)
{
    char text[24];
    snprintf(text, sizeof text, "%ju", (uintmax_t)last);
    mp_res_header(req, "x-moonpool-last", 15, text, strlen(text), NULL);
    snprintf(text, sizeof text, "%ju", (uintmax_t)getpid());
    mp_res_header(req, "x-moonpool-gateway", 18, text, strlen(text), NULL);
    answer(req, "application/jsonl", lines);
}

static void wait_on(struct mp_admin *a);

/* Answers those that wait for decisions and have some, or whose time is over. */
static void look_again(struct mp_admin *a)
{
    uint64_t now = mp_evloop_now_ms(a->loop);
    wait_on(a); /* first: what is decided from now on wakes us again */
    for (struct pending *p = a->pending, *next; p; p = next) {
        struct mp_buf lines = {0};
        uint64_t last;
        next = p->next;
        if (p->reload)
            continue;
        last = mp_decisions_print(p->after, p->most, &lines);
        if (lines.len > 0 || now >= p->due_ms) {
            answer_decisions(p->req, last, &lines);
            pending_free(p);
        }
        mp_buf_free(&lines);
    }
    wait_on(a);
}

static void on_timer(uv_timer_t *t)
{
    look_again(t->data);
}

static void maybe_gone(struct mp_admin *a);

static void on_decision(void *arg) /* on the control thread */
{
    struct mp_admin *a = arg;
    a->armed = false;
    if (a->freed)
        maybe_gone(a);
    else
        look_again(a);
}

static void wake(void *ctx) /* any thread, with the ring locked */
{
    struct mp_admin *a = ctx;
    mp_evloop_post(a->loop, on_decision, a);
}

/* Arms the watch and the timer for those that wait. */
static void wait_on(struct mp_admin *a)
{
    uint64_t due = UINT64_MAX, now = mp_evloop_now_ms(a->loop);
    for (const struct pending *p = a->pending; p; p = p->next)
        if (!p->reload && p->due_ms < due)
            due = p->due_ms;
    if (due == UINT64_MAX) {
        uv_timer_stop(&a->timer);
        return;
    }
    uv_timer_start(&a->timer, on_timer, due > now ? due - now : 0, 0);
    if (!a->armed) {
        a->armed = true;
        mp_decisions_watch(wake, a);
    }
}

static void get_decisions(struct mp_admin *a, struct mp_req *req)
{
    struct mp_err err = {0};
    struct mp_buf lines = {0};
    uint64_t after = 0, wait = 0, most = MAX_LINES, newest = UINT64_MAX, gateway = (uint64_t)getpid(), last;
    if (query_number(req, "after", (uint64_t)1 << 53, &after, &err) < 0 ||
        query_number(req, "wait", MAX_WAIT, &wait, &err) < 0 || query_number(req, "most", MAX_LINES, &most, &err) < 0 ||
        query_number(req, "newest", MAX_LINES, &newest, &err) < 0 ||
        query_number(req, "gateway", INT32_MAX, &gateway, &err) < 0) {
        refuse(req, &err);
        return;
    }
    if (gateway != (uint64_t)getpid()) /* `after` is a number of another one: all of ours is new */
        after = wait = 0;
    if (newest != UINT64_MAX) { /* not more than so many */
        last = mp_decisions_print(UINT64_MAX, 0, &lines);
        if (last > newest && last - newest > after)
            after = last - newest;
    }
    if (wait > 0 && a->n_pending < MAX_WAITING) {
        struct pending *p = pending_new(a, req);
        p->after = after;
        p->most = (uint32_t)most;
        p->due_ms = mp_evloop_now_ms(a->loop) + wait * 1000;
        look_again(a);
        return;
    }
    last = mp_decisions_print(after, (uint32_t)most, &lines);
    answer_decisions(req, last, &lines);
    mp_buf_free(&lines);
}

static void on_reloaded(void *user, const struct mp_reload_result *r)
{
    struct pending *p = user;
    struct mp_buf out = {0};
    if (!p->req) {
        pending_free(p);
        return;
    }
    if (r->ok) {
        mp_buf_printf(&out, "{\"ok\":true,\"dry_run\":%s,\"unchanged\":%s,\"generation\":%ju,\"text\":",
                      p->dry_run ? "true" : "false", r->unchanged ? "true" : "false", (uintmax_t)r->generation);
        mp_json_put_string(&out, r->text, strlen(r->text));
        mp_buf_putc(&out, '}');
        answer_json(p->req, &out);
    } else {
        mp_res_error(p->req, 422, "refused", r->text, 0);
    }
    pending_free(p);
    mp_buf_free(&out);
}

static void ask_reload(struct mp_admin *a, struct mp_req *req, enum mp_reload_what what, uint64_t number)
{
    if (a->n_pending >= MAX_WAITING) {
        mp_res_error(req, 503, "busy", "too many requests wait here already", 1);
        return;
    }
    struct pending *p = pending_new(a, req);
    p->reload = true;
    p->dry_run = what == MP_RELOAD_DRY;
    mp_reload_ask(a->o.reloader, what, number, on_reloaded, p);
}

/* ---- the table ---- */

static void get_server(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_buf out = {0};
    (void)name;
    mp_status_server(&a->status, &out);
    answer_json(req, &out);
}

static void get_status(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_buf out = {0};
    (void)name;
    mp_status_all(&a->status, &out);
    answer_json(req, &out);
}

static void get_models(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_buf out = {0};
    (void)name;
    mp_status_models(&a->status, &out);
    answer_json(req, &out);
}

static void answer_model(struct mp_admin *a, struct mp_req *req, struct mp_pool_model *m)
{
    struct mp_buf out = {0};
    mp_status_model(&a->status, m, &out);
    answer_json(req, &out);
}

static void get_model(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_err err = {0};
    struct mp_pool_model *m = find_model(a, name, &err);
    if (m)
        answer_model(a, req, m);
    else
        refuse(req, &err);
}

static void get_devices(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_buf out = {0};
    (void)name;
    mp_status_devices(&a->status, &out);
    answer_json(req, &out);
}

static void get_generations(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_buf out = {0};
    (void)name;
    mp_buf_puts(&out, "{\"generations\":");
    mp_reload_list(a->o.reloader, &out);
    mp_buf_putc(&out, '}');
    answer_json(req, &out);
}

static void get_decisions_row(struct mp_admin *a, struct mp_req *req, const char *name)
{
    (void)name;
    get_decisions(a, req);
}

static void get_metrics(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_buf out = {0};
    (void)name;
    mp_scrape(a->o.gateway->pool, config_of(a), &out);
    answer(req, MP_SCRAPE_TYPE, &out);
}

static void post_reload(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_err err = {0};
    enum mp_json_tok tok;
    double number = 0;
    int rc = body_member(req, "dry_run", &tok, &number, &err);
    (void)name;
    if (rc == 0 && tok != MP_JSON_NULL && tok != MP_JSON_TRUE && tok != MP_JSON_FALSE)
        rc = mp_err_set(&err, MP_EINVAL, "'dry_run' must be true or false");
    if (rc < 0)
        refuse(req, &err);
    else
        ask_reload(a, req, tok == MP_JSON_TRUE ? MP_RELOAD_DRY : MP_RELOAD, 0);
}

static void post_rollback(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_err err = {0};
    enum mp_json_tok tok;
    double number = 0;
    int rc = body_member(req, "generation", &tok, &number, &err);
    (void)name;
    if (rc == 0 && tok != MP_JSON_NULL && (tok != MP_JSON_NUMBER || number < 1))
        rc = mp_err_set(&err, MP_EINVAL, "'generation' must be a generation's number");
    if (rc < 0)
        refuse(req, &err);
    else
        ask_reload(a, req, MP_RELOAD_ROLLBACK, tok == MP_JSON_NUMBER ? (uint64_t)number : 0);
}

static void ask_keeper(struct mp_admin *a, struct mp_req *req, const char *name,
                       int (*ask)(struct mp_keeper *, struct mp_pool_model *, struct mp_err *))
{
    struct mp_err err = {0};
    struct mp_pool_model *m = find_model(a, name, &err);
    if (!m || ask(mp_models_keeper(a->o.gateway->models), m, &err) < 0) {
        refuse(req, &err);
        return;
    }
    mp_models_turn(a->o.gateway->models);
    answer_model(a, req, m);
}

static void post_load(struct mp_admin *a, struct mp_req *req, const char *name)
{
    ask_keeper(a, req, name, mp_keeper_load);
}

static void post_unload(struct mp_admin *a, struct mp_req *req, const char *name)
{
    ask_keeper(a, req, name, mp_keeper_unload);
}

static void post_scale(struct mp_admin *a, struct mp_req *req, const char *name)
{
    struct mp_err err = {0};
    struct mp_pool_override o = {0};
    uint32_t reset = 0;
    struct mp_pool_model *m = find_model(a, name, &err);
    if (!m || parse_settings(req, &o, &reset, &err) < 0 || mp_pool_model_ask(m, &o, reset, &err) < 0) {
        refuse(req, &err);
        return;
    }
    mp_models_turn(a->o.gateway->models);
    answer_model(a, req, m);
}

static const struct row {
    const char *method, *path; /* "*": a model's name */
    void (*run)(struct mp_admin *a, struct mp_req *req, const char *name);
} rows[] = {
    {"GET", "server", get_server},           {"GET", "status", get_status},
    {"GET", "models", get_models},           {"GET", "models/*", get_model},
    {"GET", "devices", get_devices},         {"GET", "generations", get_generations},
    {"GET", "decisions", get_decisions_row}, {"GET", "metrics", get_metrics},
    {"POST", "reload", post_reload},         {"POST", "rollback", post_rollback},
    {"POST", "models/*/load", post_load},    {"POST", "models/*/unload", post_unload},
    {"POST", "models/*/scale", post_scale},
};

/* Does a path, without its first slash, match a row's; what stands for "*" is still encoded. */
static bool match(const char *pattern, const char *path, const char **name, size_t *name_len)
{
    for (;;) {
        size_t want = strcspn(pattern, "/"), have = strcspn(path, "/");
        if (want == 1 && *pattern == '*' && have > 0) {
            *name = path;
            *name_len = have;
        } else if (want != have || memcmp(pattern, path, want) != 0) {
            return false;
        }
        if (pattern[want] != path[have])
            return false;
        if (!pattern[want])
            return true;
        pattern += want + 1;
        path += have + 1;
    }
}

static void on_request(void *ctx, struct mp_req *req)
{
    (void)ctx;
    req->body_limit = MAX_BODY;
    req->half_close = strcmp(req->method, "POST") == 0; /* who stopped writing still gets the answer */
}

static void on_body(void *ctx, struct mp_req *req)
{
    struct mp_admin *a = ctx;
    const char *name = NULL, *decoded = "";
    const char *method = strcmp(req->method, "HEAD") == 0 ? "GET" : req->method, *allow = NULL;
    size_t n = 0;
    for (size_t i = 0; i < MP_COUNT(rows); i++) {
        if (req->target[0] != '/' || !match(rows[i].path, req->target + 1, &name, &n))
            continue;
        allow = rows[i].method;
        if (strcmp(allow, method) != 0)
            continue;
        if (name && !(decoded = mp_url_decode(req->arena, name, n, false, &n)))
            mp_res_error(req, 400, "invalid_argument", "the path's percent escapes are broken", 0);
        else
            rows[i].run(a, req, decoded);
        return;
    }
    if (allow) {
        struct mp_buf text = {0};
        mp_buf_printf(&text, "%s takes %s", req->path, allow);
        mp_res_error(req, 405, "method_not_allowed", mp_buf_cstr(&text), 0);
        mp_buf_free(&text);
    } else {
        mp_res_error(req, 404, "not_found",
                     "there are: /server, /status, /models, /devices, /generations, /decisions, /metrics, /reload, "
                     "/rollback",
                     0);
    }
}

static void on_abort(void *ctx, struct mp_req *req, enum mp_abort why)
{
    struct pending *p = req->user;
    (void)ctx;
    (void)why;
    if (!p)
        return;
    req->user = NULL;
    if (p->reload) { /* goes on; its answer goes nowhere */
        p->req = NULL;
        mp_req_unref(req);
    } else {
        pending_free(p);
    }
}

/* ---- life ---- */

/* Where the socket lies, and since when: since the server began. */
static void find_socket(struct mp_status *s, int fd)
{
    struct sockaddr_un un = {0};
    socklen_t n = sizeof un;
    struct stat st;
    s->gateway_started = s->started = (double)(mp_clock_wall_ns() / 1000000) / 1000;
    if (getsockname(fd, (struct sockaddr *)&un, &n) == 0 && un.sun_family == AF_UNIX)
        s->socket = mp_strndup(un.sun_path, sizeof un.sun_path);
    else
        s->socket = mp_strdup("");
    if (stat(s->socket, &st) == 0)
        s->started = (double)st.st_mtim.tv_sec + (double)(st.st_mtim.tv_nsec / 1000000) / 1000;
}

struct mp_admin *mp_admin_new(const struct mp_admin_options *options, struct mp_err *err)
{
    struct mp_admin *a = mp_calloc(sizeof *a);
    struct mp_net_limits limits;
    const struct mp_handler handler = {.ctx = a, .on_request = on_request, .on_body = on_body, .on_abort = on_abort};
    char *absolute = realpath(options->conf, NULL);
    a->o = *options;
    a->loop = options->gateway->control;
    a->status.o = &a->o;
    a->status.conf = mp_strdup(absolute ? absolute : options->conf);
    free(absolute); /* NOLINT: libc's own */
    find_socket(&a->status, options->fd);
    mp_cell_set(mp_metric_cell(MP_METRIC_BUILD_INFO, (const char *[]){MP_VERSION}), 1);
    mp_cell_set(mp_metric_cell(MP_METRIC_START_TIME, NULL), a->status.gateway_started);
    uv_timer_init(mp_evloop_uv(a->loop), &a->timer);
    a->timer.data = a;
    mp_net_limits_init(&limits);
    limits.connections = MAX_CONNECTIONS;
    limits.keepalive_ms = 10000; /* one that stays silent takes another's place for so long */
    limits.body_bytes = MAX_BODY;
    a->server = mp_server_new(a->loop, &limits, &handler);
    if (mp_server_listen(a->server, options->fd, err) < 0) {
        mp_admin_free(a);
        return NULL;
    }
    return a;
}

static void maybe_gone(struct mp_admin *a)
{
    if (!a->closed || a->armed)
        return;
    mp_free(a->status.conf);
    mp_free(a->status.socket);
    mp_free(a);
}

static void on_closed(uv_handle_t *h)
{
    struct mp_admin *a = h->data;
    a->closed = true;
    maybe_gone(a);
}

void mp_admin_free(struct mp_admin *a)
{
    if (!a)
        return;
    a->freed = true;
    if (a->armed && mp_decisions_watch(NULL, NULL)) /* nothing was posted, nor will be */
        a->armed = false;
    mp_server_free(a->server); /* aborts what waits */
    while (a->pending)
        pending_free(a->pending);
    uv_close((uv_handle_t *)&a->timer, on_closed);
}
