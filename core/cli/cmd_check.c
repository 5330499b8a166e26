/* core/cli/cmd_check.c — `moonpool check CONF [--json]`: judges a configuration without serving it; --keys and --metrics
 * print what the documents under conf/ are made of. */
#include "core/base/buf.h"
#include "core/cli/cli.h"
#include "core/script/generation.h"
#include "core/script/keys.h"
#include "core/telemetry/metrics.h"

#include <stdio.h>
#include <string.h>

static void print(FILE *f, const struct mp_buf *b)
{
    fwrite(b->data, 1, b->len, f);
}

static int check(const char *path, bool json)
{
    struct mp_sources *sources = NULL;
    struct mp_generation *g = NULL;
    struct mp_problems problems = {0};
    struct mp_generation_options options = {.workers = 1, .number = 1};
    struct mp_buf out = {0};
    struct mp_err err = {0};
    int code = MP_EXIT_USAGE;
    if (mp_sources_open(&sources, path, &err) < 0) {
        fprintf(stderr, "moonpool check: %s\n", err.message);
        goto out;
    }
    if (mp_generation_build(&g, sources, &options, &problems) < 0) {
        mp_problems_print(&problems, &out);
        print(stderr, &out);
        goto out;
    }
    sources = NULL; /* the generation's now */
    const struct mp_config *c = mp_generation_config(g);
    if (json)
        printf("%s\n", c->json);
    else
        printf("ok: %u model%s, %u endpoint%s, %u plugin%s\n", c->n_models, c->n_models == 1 ? "" : "s", c->n_endpoints,
               c->n_endpoints == 1 ? "" : "s", c->n_plugins, c->n_plugins == 1 ? "" : "s");
    code = MP_EXIT_OK;
out:
    mp_problems_free(&problems);
    mp_generation_free(g);
    mp_sources_free(sources);
    mp_buf_free(&out);
    return code;
}

static int run(int argc, char **argv)
{
    const char *path = NULL;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (strcmp(argv[i], "--keys") == 0 || strcmp(argv[i], "--metrics") == 0) {
            struct mp_buf b = {0};
            (argv[i][2] == 'k' ? mp_keys_document : mp_metrics_document)(&b);
            print(stdout, &b);
            mp_buf_free(&b);
            return MP_EXIT_OK;
        } else if (argv[i][0] == '-' && argv[i][1]) {
            return mp_cli_usage(&mp_cmd_check, "no option '%s'", argv[i]);
        } else if (path) {
            return mp_cli_usage(&mp_cmd_check, "one configuration at a time");
        } else {
            path = argv[i];
        }
    }
    if (!path)
        return mp_cli_usage(&mp_cmd_check, "which configuration?");
    return check(path, json);
}

const struct mp_cmd mp_cmd_check = {
    "check",
    "CONF [--json]",
    "judges a configuration without serving it",
    "Runs CONF, prints every problem with its file and line, or \"ok\" and what it declares.\n\n"
    "  --json      print everything it declares as one JSON object; functions as {\"function\": \"file:line\"}\n"
    "  --keys      print the keys of every declaration as Markdown tables\n"
    "  --metrics   print the metrics that a server has, as a Markdown table\n\n"
    "Exit code: 0 without problems, 2 with.\n",
    run,
};
