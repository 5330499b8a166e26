/* core/gateway/route.c — see route.h. */
#include "core/gateway/route.h"

#include "core/base/json.h"
#include "core/gateway/scrape.h"
#include "core/net/response.h"

#include <stdio.h>
#include <string.h>

#define JSON "application/json"

static void answer(struct mp_req *req, int status, const char *type, struct mp_buf *body, const char *allow)
{
    mp_res_status(req, status);
    mp_res_header(req, "content-type", 12, type, strlen(type), NULL);
    mp_res_header(req, "x-request-id", 12, req->id, strlen(req->id), NULL);
    if (allow)
        mp_res_header(req, "allow", 5, allow, strlen(allow), NULL);
    mp_res_send_take(req, body);
}

/* The same shape as everywhere: {"error":{"code","message","status","request_id"}}. */
static void refuse(struct mp_req *req, int status, const char *code, const char *message, const char *allow)
{
    struct mp_buf body = {0}, text = {0};
    mp_buf_printf(&text, "%s: %s %s", message, req->method, req->path);
    mp_buf_printf(&body, "{\"error\":{\"code\":\"%s\",\"message\":", code);
    mp_json_put_string(&body, text.data, text.len);
    mp_buf_printf(&body, ",\"status\":%d,\"request_id\":\"%s\"}}\n", status, req->id);
    answer(req, status, JSON, &body, allow);
    mp_buf_free(&text);
}

static bool built_in(struct mp_req *req, const struct mp_generation *g, struct mp_pool *pool, bool draining)
{
    const struct mp_config *config = mp_generation_config(g);
    bool ready = strcmp(req->path, "/readyz") == 0;
    bool metrics = config->server.metrics && strcmp(req->path, "/metrics") == 0;
    struct mp_buf body = {0};
    if (!ready && !metrics && strcmp(req->path, "/healthz") != 0)
        return false;
    if (strcmp(req->method, "GET") != 0 && strcmp(req->method, "HEAD") != 0) {
        refuse(req, 405, "method_not_allowed", "this path takes GET, HEAD", "GET, HEAD");
        return true;
    }
    if (metrics)
        mp_scrape(pool, config, &body);
    else
        mp_buf_puts(&body, !ready     ? "{\"status\":\"ok\"}\n"
                           : draining ? "{\"status\":\"stopping\"}\n"
                                      : "{\"status\":\"ready\"}\n");
    answer(req, ready && draining ? 503 : 200, metrics ? MP_SCRAPE_TYPE : JSON, &body, NULL);
    return true;
}

bool mp_route_find(struct mp_req *req, const struct mp_generation *g, struct mp_pool *pool, bool draining,
                   struct mp_route_match *match)
{
    switch (mp_generation_route(g, req->method, req->target, match)) {
    case MP_ROUTE_FOUND: return true;
    case MP_ROUTE_UNKNOWN_PATH:
        if (!built_in(req, g, pool, draining))
            refuse(req, 404, "not_found", "no endpoint has this path", NULL);
        return false;
    case MP_ROUTE_UNKNOWN_METHOD: {
        char text[200];
        snprintf(text, sizeof text, "this path takes %s", match->allow);
        refuse(req, 405, "method_not_allowed", text, match->allow);
        return false;
    }
    case MP_ROUTE_BAD_PATH: break;
    }
    refuse(req, 400, "invalid_argument", "the path's percent escapes are broken", NULL);
    return false;
}
