/* core/cli/cmd_status.c — `moonpool status`: what a running server is, has and does. */
#include "core/cli/ask.h"
#include "core/cli/facts.h"
#include "core/cli/show.h"

static void head(const struct mp_val *v, struct mp_buf *out)
{
    const struct mp_val *addresses = mp_val_get(v, "addresses");
    mp_buf_printf(out, "moonpool %s, pid %.0f, up ", mp_val_text(v, "version"), mp_val_number(v, "pid"));
    mp_show_seconds(out, mp_val_number(v, "uptime"));
    if (mp_val_number(v, "uptime") - mp_val_number(v, "gateway_uptime") > 5) {
        mp_buf_puts(out, " (its gateway ");
        mp_show_seconds(out, mp_val_number(v, "gateway_uptime"));
        mp_buf_putc(out, ')');
    }
    mp_buf_puts(out, mp_val_true(v, "stopping") ? ", stopping" : mp_val_true(v, "ready") ? ", ready" : ", starting");
    mp_buf_puts(out, "\nconfiguration  ");
    mp_show_plain(out, mp_val_text(v, "configuration"));
    mp_buf_printf(out, ", generation %.0f\naddresses      ", mp_val_number(v, "generation"));
    for (const struct mp_val *a = addresses->first; a; a = a->next) {
        mp_buf_puts(out, a == addresses->first ? "" : ", ");
        mp_show_plain(out, a->text);
    }
    mp_buf_printf(out, "\nworkers        %.0f\npolicy         ", mp_val_number(v, "workers"));
    mp_show_plain(out, mp_val_text(mp_val_get(v, "policy"), "name"));
    mp_buf_putc(out, '\n');
}

/* What went wrong and is worth a line each. */
static void troubles(const struct mp_val *v, struct mp_buf *out)
{
    const struct mp_val *last = mp_val_get(v, "last_reload");
    if (last->type == MP_VAL_OBJECT && !mp_val_true(last, "ok")) {
        mp_buf_puts(out, "\nthe last reload failed, ");
        mp_show_seconds(out, mp_val_number(last, "age"));
        mp_buf_puts(out, " ago: ");
        mp_show_plain(out, mp_val_text(last, "text"));
        mp_buf_putc(out, '\n');
    }
    for (const struct mp_val *e = mp_val_get(mp_val_get(v, "policy"), "errors")->first; e; e = e->next) {
        mp_buf_puts(out, e == mp_val_get(mp_val_get(v, "policy"), "errors")->first ? "\n" : "");
        mp_buf_puts(out, "policy ");
        mp_show_plain(out, mp_val_text(e, "policy"));
        mp_buf_printf(out, ", %s: %s", mp_val_text(e, "slot"), mp_val_text(e, "kind"));
        if (mp_val_text(e, "message")[0]) {
            mp_buf_puts(out, ": ");
            mp_show_plain(out, mp_val_text(e, "message"));
        }
        mp_buf_printf(out, " (%.0f time%s, the last ", mp_val_number(e, "count"),
                      mp_val_number(e, "count") == 1 ? "" : "s");
        mp_show_seconds(out, mp_val_number(e, "age"));
        mp_buf_puts(out, " ago); the default decided\n");
    }
}

static int run(int argc, char **argv)
{
    struct mp_ask a = {.cmd = &mp_cmd_status};
    const struct mp_val *v;
    struct mp_buf out = {0};
    int code = MP_EXIT_USAGE;
    for (int i = 1; i < argc; i++) {
        int taken = mp_ask_option(&a, argc, argv, &i);
        if (taken < 0)
            goto out;
        if (taken)
            continue;
        if (argv[i][0] == '-' || a.conf) {
            mp_cli_usage(a.cmd, argv[i][0] == '-' ? "unknown option '%s'" : "one configuration, not also '%s'",
                         argv[i]);
            goto out;
        }
        a.conf = argv[i];
    }
    v = mp_ask_get(&a, "/status", &code);
    if (!v)
        goto out;
    head(v, &out);
    troubles(v, &out);
    mp_buf_putc(&out, '\n');
    mp_facts_models(mp_val_get(v, "models"), false, &out);
    if (mp_val_get(v, "devices")->first) {
        mp_buf_putc(&out, '\n');
        mp_facts_devices(mp_val_get(v, "devices"), &out);
    }
    if (mp_val_get(v, "jobs")->first) {
        mp_buf_putc(&out, '\n');
        mp_facts_jobs(mp_val_get(v, "jobs"), &out);
    }
    for (const struct mp_val *g = mp_val_get(v, "generations")->first; g; g = g->next)
        if (mp_val_true(g, "draining")) {
            mp_buf_puts(&out, "\n");
            mp_facts_generations(mp_val_get(v, "generations"), &out);
            break;
        }
    mp_show_out(&out);
out:
    mp_buf_free(&out);
    mp_ask_free(&a);
    return code;
}

const struct mp_cmd mp_cmd_status = {
    "status",
    "[--json] " MP_ASK_ARGS " [CONF]",
    "shows a running server: its models, devices, policy, jobs",
    "  CONF            the server of this configuration, when several run\n"
    "  --json          as one JSON object, as the server gives it\n" MP_ASK_HELP "\n" MP_ASK_EXIT,
    run,
};
