/* core/gateway/ready.c — see ready.h. */
#include "core/gateway/ready.h"

#include "core/base/buf.h"
#include "core/base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR = 30 };

static bool progress_shown;

static void put_out(const struct mp_buf *b)
{
    for (size_t at = 0; at < b->len;) {
        ssize_t n = write(STDERR_FILENO, b->data + at, b->len - at);
        if (n <= 0)
            break;
        at += (size_t)n;
    }
}

static void put_routes(struct mp_buf *b, const struct mp_config *config)
{
    for (uint32_t i = 0; i < config->n_endpoints; i++) {
        const struct mp_conf_endpoint *e = &config->endpoints[i];
        mp_buf_printf(b, "  %-11s%s", i == 0 ? "routes" : "", e->route);
        if (e->plugin)
            mp_buf_printf(b, "  (plugin %s)", e->plugin);
        mp_buf_putc(b, '\n');
    }
    mp_buf_printf(b, "  %-11sGET /healthz, /readyz\n", config->n_endpoints == 0 ? "routes" : "");
}

static void put_models(struct mp_buf *b, const struct mp_config *config, struct mp_pool *pool)
{
    for (uint32_t i = 0; i < config->n_models; i++) {
        const struct mp_conf_model *m = &config->models[i];
        struct mp_pool_model *pooled = mp_pool_find(pool, m->name);
        struct mp_pool_status s = {0};
        if (pooled)
            mp_pool_model_status(pooled, &s);
        mp_buf_printf(b, "  %-11s%s: %s, %s", i == 0 ? "models" : "", m->name, s.device,
                      mp_model_state_name((uint32_t)s.state));
        if (s.memory > 0)
            mp_buf_printf(b, ", %" PRIu64 " MiB", s.memory >> 20);
        else if (s.need > 0) /* rounded up */
            mp_buf_printf(b, ", needs %" PRIu64 " MiB", (s.need + (1 << 20) - 1) >> 20);
        if (s.reason[0])
            mp_buf_printf(b, " (%s)", s.reason);
        mp_buf_putc(b, '\n');
    }
}

void mp_ready_print(const struct mp_config *config, struct mp_pool *pool, const struct mp_address *addresses,
                    uint32_t n)
{
    struct mp_buf b = {0};
    char text[56];
    const char *line;
    mp_ready_progress_end();
    mp_buf_printf(&b, "moonpool %s\n", MP_VERSION);
    for (uint32_t i = 0; i < n; i++) {
        mp_address_format(&addresses[i], text);
        mp_buf_printf(&b, "  %-11shttp://%s\n", i == 0 ? "listens" : "", text);
    }
    put_routes(&b, config);
    put_models(&b, config, pool);
    for (uint32_t i = 0; (line = mp_models_missing(i)) != NULL; i++)
        mp_buf_printf(&b, "  %-11s%s\n", i == 0 ? "not found" : "", line);
    mp_address_format(&addresses[0], text);
    for (uint32_t i = 0; i < config->n_endpoints && config->n_models > 0; i++)
        if (strcmp(config->endpoints[i].route, "POST /v1/chat/completions") == 0)
            mp_buf_printf(
                &b,
                "  %-11scurl http://%s/v1/chat/completions -d '{\"model\":\"%s\",\"messages\":[{\"role\":\"user\","
                "\"content\":\"Hello!\"}]}'\n",
                "try", text, config->models[0].name);
    mp_buf_printf(&b, "ready http://%s\n", text);
    put_out(&b);
    mp_buf_free(&b);
}

void mp_ready_progress(struct mp_pool_model *m)
{
    struct mp_pool_status s;
    struct mp_buf b = {0};
    if (!isatty(STDERR_FILENO))
        return;
    mp_pool_model_status(m, &s);
    if (s.state != MP_MODEL_LOADING || s.total == 0)
        return;
    uint64_t done = s.done < s.total ? s.done : s.total;
    int filled = (int)((double)done / (double)s.total * BAR);
    mp_buf_printf(&b, "\r\033[Kloading %s [%.*s%*s] %d %%, %" PRIu64 " of %" PRIu64 " MiB", mp_pool_model_name(m),
                  filled, "##############################", BAR - filled, "",
                  (int)((double)done / (double)s.total * 100), done >> 20, s.total >> 20);
    put_out(&b);
    mp_buf_free(&b);
    progress_shown = true;
}

void mp_ready_progress_end(void)
{
    struct mp_buf b = {0};
    if (!progress_shown)
        return;
    mp_buf_puts(&b, "\r\033[K");
    put_out(&b);
    mp_buf_free(&b);
    progress_shown = false;
}
