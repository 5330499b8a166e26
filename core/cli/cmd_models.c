/* core/cli/cmd_models.c — `moonpool models`: the models of a running server; loading, letting go, and other settings for one. */
#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/cli/ask.h"
#include "core/cli/facts.h"
#include "core/cli/show.h"
#include "core/pool/settings.h"
#include "core/script/schema.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_MS = 100, MAX_WORDS = 32 };

/* "/models/NAME/verb", the name percent-encoded. */
static char *path_of(const char *name, const char *verb)
{
    struct mp_buf b = {0};
    mp_buf_puts(&b, "/models/");
    for (const char *p = name; *p; p++)
        if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("-._~", *p))
            mp_buf_putc(&b, *p);
        else
            mp_buf_printf(&b, "%%%02X", (unsigned char)*p);
    if (verb)
        mp_buf_printf(&b, "/%s", verb);
    return mp_buf_take(&b, NULL);
}

/* Asks; prints the answer with --json, else gives the document in *out. 0 or an exit code. */
static int ask(struct mp_ask *a, const char *method, const char *path, const char *body, const struct mp_val **out)
{
    struct mp_reply r = {0};
    struct mp_err err = {0};
    int code = mp_ask(a, method, path, body, true, &r);
    *out = NULL;
    if (code == 0 && !(*out = mp_doc_parse(a->arena, r.body.data, r.body.len, &err)))
        code = mp_ask_failed(a, "the server's answer cannot be read: %s", err.message);
    else if (code == 0 && a->json && strcmp(method, "GET") == 0)
        mp_show_out(&r.body);
    mp_reply_free(&r);
    return code;
}

static void print(struct mp_buf *b)
{
    mp_show_out(b);
    mp_buf_free(b);
}

static int show(struct mp_ask *a, const char *name)
{
    const struct mp_val *v;
    struct mp_buf out = {0};
    char *path = name ? path_of(name, NULL) : mp_strdup("/models");
    int code;
    v = mp_ask_get(a, path, &code);
    if (v && name)
        mp_facts_model(v, &out);
    else if (v)
        mp_facts_models(mp_val_get(v, "models"), true, &out);
    print(&out);
    mp_free(path);
    return code;
}

/* ---- load, unload ---- */

static void progress(const struct mp_val *v, bool on)
{
    struct mp_buf b = {0};
    if (!isatty(2))
        return;
    if (on) {
        mp_show_plain(&b, mp_val_text(v, "name"));
        mp_buf_puts(&b, ": ");
        mp_facts_state(v, &b);
        if (strcmp(mp_val_text(v, "state"), "cold") == 0)
            mp_buf_puts(&b, ", waits for its device");
    }
    fprintf(stderr, "\r\033[K%s", mp_buf_cstr(&b));
    fflush(stderr);
    mp_buf_free(&b);
}

/* Has what was asked for happened (1), failed (-1), or is it on its way (0)? elapsed: seconds since it was asked for; failed: how long the
 * model had been failed then, or 0. Until the keeper has taken the order it is so still. */
static int over(const struct mp_val *v, bool load, double elapsed, double failed)
{
    const char *state = mp_val_text(v, "state");
    if (strcmp(state, "failed") == 0)
        return !load ? 1 : failed == 0 || mp_val_number(v, "seconds") < elapsed + failed / 2 ? -1 : 0;
    if (load && strcmp(state, "cold") == 0 && !mp_val_true(v, "load_asked"))
        return -1; /* somebody called it off */
    if (load)
        return strcmp(state, "warm") == 0;
    if (strcmp(state, "draining") != 0 && mp_val_number(v, "seconds") < elapsed)
        return 1; /* gone, and back already for requests that waited */
    return strcmp(state, "cold") == 0;
}

static int wait_for(struct mp_ask *a, const char *name, bool load, const struct mp_val **v)
{
    char *path = path_of(name, NULL);
    bool json = a->json;
    uint64_t began = mp_clock_mono_ns();
    double failed = strcmp(mp_val_text(*v, "state"), "failed") == 0 ? mp_val_number(*v, "seconds") : 0;
    int code, end = 0;
    a->json = false; /* only the last answer is printed */
    for (;;) {
        code = ask(a, "GET", path, NULL, v);
        if (code != 0)
            break;
        end = over(*v, load, (double)(mp_clock_mono_ns() - began) / 1e9, failed);
        if (end != 0)
            break;
        progress(*v, true);
        poll(NULL, 0, LOOK_MS);
        if (mp_arena_bytes(a->arena) > 4 << 20) { /* many answers */
            mp_arena_free(a->arena);
            a->arena = mp_arena_new();
        }
    }
    progress(*v, false);
    a->json = json;
    if (code == 0 && json)
        code = ask(a, "GET", path, NULL, v);
    if (code == 0 && end < 0 && strcmp(mp_val_text(*v, "state"), "cold") == 0)
        code =
            mp_ask_failed(a, "the load of model '%s' was called off: by `models unload`, or because max_replicas is 0",
                          mp_val_text(*v, "name"));
    else if (code == 0 && end < 0)
        code = mp_ask_failed(a, "model '%s' cannot be loaded: %s", mp_val_text(*v, "name"),
                             mp_val_text(*v, "reason")[0] ? mp_val_text(*v, "reason") : mp_val_text(*v, "why"));
    mp_free(path);
    return code;
}

static int move(struct mp_ask *a, bool load, const char *name, bool wait)
{
    const struct mp_val *v = NULL;
    struct mp_buf out = {0};
    char *path = path_of(name, load ? "load" : "unload"), *plain = path_of(name, NULL);
    int code = mp_ask_find(a);
    if (code == 0)
        code = ask(a, "POST", path, NULL, &v);
    if (code == 0)
        code = wait ? wait_for(a, name, load, &v) : ask(a, "GET", plain, NULL, &v);
    if (code == 0 && !a->json) {
        mp_show_plain(&out, mp_val_text(v, "name"));
        mp_buf_puts(&out, ": ");
        mp_facts_state(v, &out);
        if (wait && load && mp_val_number(v, "load_seconds") > 0) {
            mp_buf_puts(&out, " (the load took ");
            mp_show_seconds(&out, mp_val_number(v, "load_seconds"));
            mp_buf_putc(&out, ')');
        }
        mp_buf_putc(&out, '\n');
        print(&out);
    }
    mp_free(path);
    mp_free(plain);
    return code;
}

/* ---- scale ---- */

static bool in_seconds(const char *key)
{
#define X(name, path, type, def, least, most) \
    if (strcmp(key, path) == 0)               \
        return (type)1.5 != 1;
    MP_POOL_SETTINGS(X)
#undef X
    return false;
}

/* "queue.max=10" → its member; whether the key exists and the value is in its range is the server's to judge. */
static int put_setting(struct mp_ask *a, char *word, struct mp_buf *body)
{
    char *equals = strchr(word, '='), *end;
    const char *value;
    double v;
    if (!equals || equals == word)
        return mp_cli_usage(a->cmd, "'%s' is not KEY=VALUE", word);
    *equals = '\0';
    value = equals + 1;
    mp_buf_puts(body, body->len > 1 ? "," : "");
    mp_json_put_string(body, word, strlen(word));
    if (strcmp(value, "default") == 0) {
        mp_buf_puts(body, ":null");
        return 0;
    }
    v = strtod(value, &end);
    if ((end == value || *end || !(v > -1e15 && v < 1e15)) && !(in_seconds(word) && mp_parse_seconds(value, &v)))
        return mp_cli_usage(a->cmd, "%s=%s: that is no number%s; `default` is what the configuration says", word, value,
                            in_seconds(word) ? " and no time like 5m" : "");
    mp_buf_putc(body, ':');
    mp_json_put_number(body, v);
    return 0;
}

static int scale(struct mp_ask *a, const char *name, char **words, int n)
{
    const struct mp_val *v;
    struct mp_buf body = {0}, out = {0};
    char *path = path_of(name, "scale"), *plain = path_of(name, NULL);
    int code = 0;
    mp_buf_putc(&body, '{');
    for (int i = 0; i < n && code == 0; i++)
        code = put_setting(a, words[i], &body);
    mp_buf_putc(&body, '}');
    if (code == 0)
        code = mp_ask_find(a);
    if (code == 0)
        code = ask(a, "POST", path, mp_buf_cstr(&body), &v);
    if (code == 0)
        code = ask(a, "GET", plain, NULL, &v); /* as it is when the keeper has seen it */
    if (code == 0 && !a->json)
        for (int i = 0; i < n; i++) { /* each key ends at its NUL now */
            const struct mp_val *s = mp_val_get(mp_val_get(v, "settings"), words[i]);
            mp_buf_printf(&out, "%s %.10g (%s)\n", words[i], mp_val_number(s, "value"), mp_val_text(s, "from"));
        }
    print(&out);
    mp_buf_free(&body);
    mp_free(path);
    mp_free(plain);
    return code;
}

static int run(int argc, char **argv)
{
    struct mp_ask a = {.cmd = &mp_cmd_models};
    char *words[MAX_WORDS];
    int n = 0, code = MP_EXIT_USAGE;
    bool wait = false;
    const char *verb;
    for (int i = 1; i < argc; i++) {
        int taken = mp_ask_option(&a, argc, argv, &i);
        if (taken < 0)
            goto out;
        if (taken)
            continue;
        if (strcmp(argv[i], "--wait") == 0) {
            wait = true;
        } else if (argv[i][0] == '-' || n == MAX_WORDS) {
            mp_cli_usage(a.cmd, "unknown option '%s'", argv[i]);
            goto out;
        } else {
            words[n++] = argv[i];
        }
    }
    verb = n > 0 ? words[0] : "";
    bool load = strcmp(verb, "load") == 0;
    if (load || strcmp(verb, "unload") == 0) {
        if (n == 2)
            code = move(&a, load, words[1], wait);
        else
            mp_cli_usage(a.cmd, n < 2 ? "%s which model?" : "%s one model at a time", verb);
    } else if (wait) {
        mp_cli_usage(a.cmd, "--wait is for load and unload");
    } else if (strcmp(verb, "scale") == 0) {
        if (n >= 3)
            code = scale(&a, words[1], words + 2, n - 2);
        else
            mp_cli_usage(a.cmd, n == 1 ? "scale which model?" : "which settings? scale NAME min_replicas=1");
    } else if (n > 1) {
        mp_cli_usage(a.cmd, "'%s' is none of load, unload, scale", verb);
    } else {
        code = show(&a, n == 1 ? verb : NULL);
    }
out:
    mp_ask_free(&a);
    return code;
}

const struct mp_cmd mp_cmd_models = {
    "models",
    "[--json] " MP_ASK_ARGS " [NAME | load NAME [--wait] | unload NAME [--wait] | scale NAME KEY=VALUE...]",
    "shows the models of a running server; loads one, lets it go, scales it",
    "Without more: all of them. NAME: everything about one, with its settings and where each comes from.\n\n"
    "  load NAME       load it now; it then stays as long as its settings say\n"
    "  unload NAME     let it go when its requests have ended, even where min_replicas keeps it; a request brings it "
    "back\n"
    "  scale NAME KEY=VALUE...\n"
    "                  other settings from now on: min_replicas=1 scaledown_window=10m queue.max=10; KEY=default: as\n"
    "                  configured. They hold until a schedule or a reload says otherwise, or the gateway is\n"
    "                  started anew (a crash, a restart)\n"
    "  --wait          of load and unload: until it is done, with progress on a terminal\n"
    "  --json          as JSON, as the server gives it\n" MP_ASK_HELP "\n"
    "WARM and COLD count requests that found their model warm, or had to wait for it.\n" MP_ASK_EXIT,
    run,
};
