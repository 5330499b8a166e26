/* core/cli/cmd_decisions.c — `moonpool decisions`: what policies decided in a running server, why, and what followed. */
#include "core/cli/ask.h"
#include "core/cli/show.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NEWEST = 50, WAIT_S = 30 };

static void when(double unix_seconds, char out[32])
{
    double ms = floor(unix_seconds * 1000 + 0.5);
    time_t t = (time_t)(ms / 1000);
    struct tm tm;
    size_t n = localtime_r(&t, &tm) ? strftime(out, 32, "%H:%M:%S", &tm) : 0;
    snprintf(out + n, 32 - n, ".%03d", (int)(ms - (double)t * 1000));
}

/* "13:05:00.123  scale  smol  1  3 wait  [thrifty]". Columns have fixed widths: lines come one by one. */
static void put_line(const struct mp_val *d, struct mp_buf *out)
{
    const char *fallback = mp_val_text(d, "fallback"), *policy = mp_val_text(d, "policy");
    char time[32];
    when(mp_val_number(d, "time"), time);
    mp_buf_printf(out, "%s  %-6s ", time, mp_val_text(d, "kind"));
    size_t from = out->len;
    mp_show_plain(out, mp_val_text(d, "model")[0] ? mp_val_text(d, "model") : "-");
    while (out->len - from < 16)
        mp_buf_putc(out, ' ');
    mp_buf_putc(out, ' ');
    from = out->len;
    mp_show_plain(out, mp_val_text(d, "decision"));
    while (out->len - from < 20)
        mp_buf_putc(out, ' ');
    mp_buf_putc(out, ' ');
    mp_show_plain(out, mp_val_text(d, "reason"));
    if (policy[0]) {
        mp_buf_puts(out, "  [");
        mp_show_plain(out, policy);
        mp_buf_putc(out, ']');
    }
    if (fallback[0]) {
        mp_buf_puts(out, "  fell back: ");
        mp_show_plain(out, fallback);
    }
    if (mp_val_number(d, "times") > 1)
        mp_buf_printf(out, "  x%.0f", mp_val_number(d, "times"));
    while (out->len > 0 && out->data[out->len - 1] == ' ')
        out->len--;
    mp_buf_putc(out, '\n');
}

static int print(struct mp_ask *a, const struct mp_reply *r)
{
    struct mp_buf out = {0};
    struct mp_err err = {0};
    int code = 0;
    if (a->json)
        mp_buf_put(&out, r->body.data, r->body.len);
    for (const char *p = r->body.data, *end = p + r->body.len; !a->json && p < end && code == 0;) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        struct mp_arena *arena = mp_arena_new();
        const struct mp_val *d = mp_doc_parse(arena, p, stop ? (size_t)(stop - p) : (size_t)(end - p), &err);
        if (d)
            put_line(d, &out);
        else
            code = mp_ask_failed(a, "the server's answer cannot be read: %s", err.message);
        mp_arena_free(arena);
        p = stop ? stop + 1 : end;
    }
    mp_show_out(&out);
    if (fflush(stdout) != 0)
        code = MP_EXIT_FAILED; /* nobody reads any more */
    mp_buf_free(&out);
    return code;
}

static int follow(struct mp_ask *a, uint64_t after, bool all, bool on)
{
    uint64_t gateway = 0;
    int wait = a->timeout > 0 && a->timeout < 2 * WAIT_S ? (int)ceil(a->timeout / 2) : WAIT_S;
    char path[160];
    int code;
    do {
        struct mp_reply r = {0};
        int n = snprintf(path, sizeof path, "/decisions?after=%ju", (uintmax_t)after);
        if (!all)
            n += snprintf(path + n, sizeof path - (size_t)n, "&newest=%d", NEWEST);
        if (on && gateway)
            snprintf(path + n, sizeof path - (size_t)n, "&gateway=%ju&wait=%d", (uintmax_t)gateway, wait);
        a->quiet = on && gateway;
        code = mp_ask(a, "GET", path, NULL, true, &r);
        if (code == 0 && gateway && r.gateway != gateway && !a->json)
            printf("the gateway was started again\n");
        if (code == 0)
            code = print(a, &r);
        after = r.last;
        all = true;
        gateway = r.gateway;
        mp_reply_free(&r);
    } while (on && code == 0);
    return code;
}

static int run(int argc, char **argv)
{
    struct mp_ask a = {.cmd = &mp_cmd_decisions};
    const char *after = NULL;
    unsigned long long number = 0;
    bool on = false;
    int code = MP_EXIT_USAGE;
    for (int i = 1; i < argc; i++) {
        int taken = mp_ask_option(&a, argc, argv, &i);
        if (taken < 0)
            goto out;
        if (taken)
            continue;
        if (strcmp(argv[i], "--follow") == 0) {
            on = true;
        } else if (strcmp(argv[i], "--after") == 0 && i + 1 < argc) {
            char *end;
            after = argv[++i];
            number = strtoull(after, &end, 10);
            if (after[0] < '0' || after[0] > '9' || *end || number >> 53) {
                mp_cli_usage(a.cmd, "--after wants a decision's number, not '%s'", after);
                goto out;
            }
        } else {
            mp_cli_usage(a.cmd, strcmp(argv[i], "--after") == 0 ? "%s needs a value" : "unknown argument '%s'",
                         argv[i]);
            goto out;
        }
    }
    code = mp_ask_find(&a);
    if (code == 0)
        code = follow(&a, number, after != NULL, on);
out:
    mp_ask_free(&a);
    return code;
}

const struct mp_cmd mp_cmd_decisions = {
    "decisions",
    "[--follow] [--after N] [--json] " MP_ASK_ARGS,
    "shows what policies decided in a running server, and why",
    "The newest 50, oldest first: time, kind (scale, evict, admit, rank, route, state, reload, job), model, decision, "
    "reason,\n"
    "[policy]; `fell back`: the policy's own answer did not count, and why. Equal ones in a row are one line: x12.\n\n"
    "  --follow        go on as they come\n"
    "  --after N       those numbered above N instead of the newest\n"
    "  --json          a JSON object a line, with its number and what the policy was told (inputs)\n" MP_ASK_HELP
    "\n" MP_ASK_EXIT,
    run,
};
