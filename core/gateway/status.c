/* core/gateway/status.c — see status.h. */
#include "core/gateway/status.h"

#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/gateway/timetable.h"
#include "core/telemetry/decisions.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

/* ---- members: each writes a comma unless it is the first in its object ---- */

static void name(struct mp_buf *b, const char *key)
{
    if (b->len > 0 && !strchr("{[", b->data[b->len - 1]))
        mp_buf_putc(b, ',');
    mp_buf_printf(b, "\"%s\":", key);
}

static void text(struct mp_buf *b, const char *key, const char *v)
{
    name(b, key);
    mp_json_put_string(b, v, strlen(v));
}

static void count(struct mp_buf *b, const char *key, uint64_t v)
{
    name(b, key);
    mp_buf_printf(b, "%ju", (uintmax_t)v);
}

/* Seconds, to the millisecond. */
static void seconds(struct mp_buf *b, const char *key, double v)
{
    name(b, key);
    mp_json_put_number(b, isfinite(v) ? round(v * 1000) / 1000 : 0);
}

static void flag(struct mp_buf *b, const char *key, bool v)
{
    name(b, key);
    mp_buf_puts(b, v ? "true" : "false");
}

static double wall(void)
{
    return (double)(mp_clock_wall_ns() / 1000000) / 1000;
}

/* ---- models ---- */

/* The schedule that set a key last. */
static const char *schedule_of(const struct mp_conf_model *conf, uint32_t bit, int64_t now)
{
    const char *text = "";
    int64_t latest = INT64_MIN, tick;
    for (uint32_t i = 0; i < conf->n_schedules; i++) {
        const struct mp_pool_schedule *s = &conf->schedules[i];
        if (s->override.set & 1u << bit && mp_cron_last(&s->cron, s->tz, now, &tick) && tick >= latest) {
            latest = tick;
            text = s->text;
        }
    }
    return text;
}

/* Where each setting in force comes from is judged by its value: what differs from the declared one was scheduled, or asked for. */
static void settings(const struct mp_pool_settings *now, const struct mp_conf_model *conf, struct mp_buf *out)
{
    struct mp_pool_settings plain, base, scheduled;
    int64_t at = (int64_t)wall();
    mp_pool_settings_init(&plain);
    mp_pool_settings_at(&base, conf ? &conf->settings : &plain, NULL, 0, NULL, at);
    scheduled = base;
    if (conf && conf->n_schedules > 0)
        mp_pool_settings_at(&scheduled, &conf->settings, conf->schedules, conf->n_schedules, NULL, at);
    name(out, "settings");
    mp_buf_putc(out, '{');
#define X(key, path, type, def, least, most)                              \
    name(out, path);                                                      \
    mp_buf_puts(out, "{\"value\":");                                      \
    mp_json_put_number(out, (double)now->key);                            \
    text(out, "from",                                                     \
         now->key != scheduled.key   ? "asked for"                        \
         : scheduled.key != base.key ? "schedule"                         \
         : base.key != plain.key     ? "configuration"                    \
                                     : "default");                            \
    if (now->key == scheduled.key && scheduled.key != base.key)           \
        text(out, "schedule", schedule_of(conf, MP_SET_##key##_BIT, at)); \
    mp_buf_putc(out, '}');
    MP_POOL_SETTINGS(X)
#undef X
    mp_buf_putc(out, '}');
}

static void loading(const struct mp_pool_status *st, struct mp_buf *out)
{
    double left = st->load_seconds - st->state_seconds;
    if (st->load_seconds <= 0 && st->done > 0 && st->total >= st->done)
        left = st->state_seconds / (double)st->done * (double)(st->total - st->done);
    name(out, "loading");
    mp_buf_putc(out, '{');
    count(out, "done", st->done);
    count(out, "total", st->total);
    seconds(out, "left", left > 0 ? left : 0);
    mp_buf_putc(out, '}');
}

/* Why the model is in its state: the cause and the words of its last change, as the ring of decisions has it. */
static void why(const char *model, struct mp_buf *out)
{
    struct mp_buf reason = {0};
    if (mp_decisions_last("state", model, &reason))
        text(out, "why", mp_buf_cstr(&reason));
    mp_buf_free(&reason);
}

/* NULL: not declared; its name may be another model's alias now. */
static const struct mp_conf_model *declared(const struct mp_config *config, const struct mp_pool_model *m)
{
    const struct mp_conf_model *conf = mp_config_model(config, mp_pool_model_name(m));
    return conf && strcmp(conf->name, mp_pool_model_name(m)) == 0 ? conf : NULL;
}

void mp_status_model(const struct mp_status *s, struct mp_pool_model *m, struct mp_buf *out)
{
    const struct mp_conf_model *conf = declared(mp_generation_config(mp_reload_active(s->o->reloader)), m);
    struct mp_pool_status st;
    struct mp_pool_facts f;
    mp_pool_model_status(m, &st);
    mp_pool_model_facts(m, mp_pool_now(s->o->gateway->pool), &f);
    mp_buf_putc(out, '{');
    text(out, "name", f.name);
    text(out, "state", f.state == MP_MODEL_DECLARED ? "cold" : mp_model_state_name(f.state));
    why(f.name, out);
    if (st.reason[0])
        text(out, "reason", st.reason);
    if (st.error)
        text(out, "error", mp_err_name(st.error));
    seconds(out, "seconds", st.state_seconds);
    flag(out, "load_asked", st.load_asked);
    if (f.state == MP_MODEL_LOADING)
        loading(&st, out);
    text(out, "group", f.device);
    text(out, "device", st.device);
    count(out, "engine", st.lost ? 0 : st.engine);
    count(out, "replicas", f.replicas);
    count(out, "warm", f.warm);
    count(out, "in_flight", f.in_flight);
    count(out, "queued", f.queued);
    seconds(out, "oldest_wait", f.oldest_wait);
    seconds(out, "idle", f.idle);
    count(out, "calls", f.calls);
    count(out, "cold_starts", st.cold_starts);
    count(out, "warm_starts", f.calls > st.cold_starts ? f.calls - st.cold_starts : 0);
    count(out, "loads", f.loads);
    seconds(out, "load_seconds", st.load_seconds);
    count(out, "need", f.need);
    count(out, "reserved", f.memory);
    count(out, "memory", st.memory);
    count(out, "context", st.context);
    text(out, "arch", st.arch);
    settings(&f.settings, conf, out);
    flag(out, "declared", conf != NULL);
    if (conf) {
        text(out, "where", conf->where);
        text(out, "source", conf->source);
        name(out, "aliases");
        mp_buf_putc(out, '[');
        for (uint32_t i = 0; i < conf->n_aliases; i++) {
            mp_buf_puts(out, i ? "," : "");
            mp_json_put_string(out, conf->aliases[i], strlen(conf->aliases[i]));
        }
        mp_buf_putc(out, ']');
    }
    mp_buf_putc(out, '}');
}

bool mp_status_shown(const struct mp_config *config, const struct mp_pool_model *m)
{
    enum mp_model_state state = mp_pool_model_state(m);
    return declared(config, m) || state == MP_MODEL_LOADING || state == MP_MODEL_WARM || state == MP_MODEL_DRAINING;
}

void mp_status_models(const struct mp_status *s, struct mp_buf *out)
{
    const struct mp_config *config = mp_generation_config(mp_reload_active(s->o->reloader));
    struct mp_pool_model *m;
    bool first = true;
    mp_buf_puts(out, "{\"models\":[");
    for (size_t i = 0; (m = mp_pool_at(s->o->gateway->pool, i)) != NULL; i++) {
        if (!mp_status_shown(config, m))
            continue;
        mp_buf_puts(out, first ? "" : ",");
        mp_status_model(s, m, out);
        first = false;
    }
    mp_buf_puts(out, "]}");
}

/* ---- devices ---- */

static void device(const struct mp_status *s, const struct mp_engine *e, struct mp_buf *out)
{
    const struct mp_config *config = mp_generation_config(mp_reload_active(s->o->reloader));
    struct mp_keeper *keeper = mp_models_keeper(s->o->gateway->models);
    struct mp_device_room room = {0}, r;
    struct mp_engine_status st;
    mp_engine_status(e, &st);
    for (uint32_t i = 0; mp_keeper_room(keeper, i, &r); i++)
        if (strcmp(r.group, mp_engine_group(e)) == 0)
            room = r;
    mp_buf_putc(out, '{');
    text(out, "name", mp_engine_group(e));
    text(out, "device", st.device);
    count(out, "engine", st.pid);
    flag(out, "wanted", st.wanted);
    count(out, "memory", room.memory);
    count(out, "reserved", room.reserved);
    count(out, "used", st.pid ? st.used : 0);
    count(out, "loaded", room.loaded);
    count(out, "swaps", room.swaps);
    for (uint32_t i = 0; i < config->n_devices; i++)
        if (strcmp(config->devices[i].name, mp_engine_group(e)) == 0) {
            seconds(out, "max_wait", config->devices[i].max_wait);
            seconds(out, "min_residency", config->devices[i].min_residency);
        }
    mp_buf_putc(out, '}');
}

void mp_status_devices(const struct mp_status *s, struct mp_buf *out)
{
    const struct mp_engine *e;
    const char *line;
    mp_buf_puts(out, "{\"devices\":[");
    for (uint32_t i = 0; (e = mp_models_engine_at(s->o->gateway->models, i)) != NULL; i++) {
        mp_buf_puts(out, i ? "," : "");
        device(s, e, out);
    }
    mp_buf_puts(out, "],\"missing\":[");
    for (uint32_t i = 0; (line = mp_models_missing(i)) != NULL; i++) {
        mp_buf_puts(out, i ? "," : "");
        mp_json_put_string(out, line, strlen(line));
    }
    mp_buf_puts(out, "]}");
}

/* ---- the server ---- */

static void server(const struct mp_status *s, struct mp_buf *out)
{
    text(out, "version", MP_VERSION);
    count(out, "pid", (uint64_t)getppid());
    count(out, "gateway", (uint64_t)getpid());
    text(out, "configuration", s->conf);
    text(out, "socket", s->socket);
    text(out, "state", s->o->state);
    flag(out, "ready", *s->o->ready);
    flag(out, "stopping", atomic_load(&s->o->gateway->draining));
    count(out, "generation", mp_generation_number(mp_reload_active(s->o->reloader)));
    seconds(out, "uptime", wall() - s->started);
    seconds(out, "gateway_uptime", wall() - s->gateway_started);
    count(out, "workers", s->o->n_workers);
    name(out, "addresses");
    mp_buf_putc(out, '[');
    for (uint32_t i = 0; i < *s->o->n_addresses; i++) {
        char address[56];
        mp_address_format(&s->o->addresses[i], address);
        mp_buf_printf(out, "%s\"http://%s\"", i ? "," : "", address);
    }
    mp_buf_putc(out, ']');
}

void mp_status_server(const struct mp_status *s, struct mp_buf *out)
{
    mp_buf_putc(out, '{');
    server(s, out);
    mp_buf_putc(out, '}');
}

static void policies(const struct mp_status *s, struct mp_buf *out)
{
    struct mp_policy_error e;
    const struct mp_config *config = mp_generation_config(mp_reload_active(s->o->reloader));
    name(out, "policy");
    mp_buf_putc(out, '{');
    text(out, "name", config->server.policy ? config->server.policy : "default");
    name(out, "errors");
    mp_buf_putc(out, '[');
    for (uint32_t i = 0; mp_policy_errors(i, &e); i++) {
        mp_buf_puts(out, i ? ",{" : "{");
        text(out, "policy", e.policy);
        text(out, "slot", e.slot);
        text(out, "kind", e.kind);
        text(out, "message", e.message);
        count(out, "count", e.count);
        seconds(out, "age", e.age);
        mp_buf_putc(out, '}');
    }
    mp_buf_puts(out, "]}");
}

/* {"models":[…]} → "models":[…] in the object that is being written. */
static void inside(struct mp_buf *out, struct mp_buf *object)
{
    mp_buf_putc(out, ',');
    mp_buf_put(out, object->data + 1, object->len - 2);
    mp_buf_clear(object);
}

void mp_status_all(const struct mp_status *s, struct mp_buf *out)
{
    struct mp_buf part = {0};
    mp_buf_putc(out, '{');
    server(s, out);
    mp_status_models(s, &part);
    inside(out, &part);
    mp_status_devices(s, &part);
    inside(out, &part);
    policies(s, out);
    if (s->o->jobs) {
        name(out, "jobs");
        mp_timetable_list(s->o->jobs, out);
    }
    name(out, "generations");
    mp_reload_list(s->o->reloader, out);
    name(out, "last_reload");
    mp_reload_last(s->o->reloader, out);
    mp_buf_putc(out, '}');
    mp_buf_free(&part);
}
