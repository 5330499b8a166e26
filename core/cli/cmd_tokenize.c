/* core/cli/cmd_tokenize.c — `moonpool tokenize`: the ids that a text becomes, and what each stands for. */
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/cli/cli.h"
#include "core/cli/paths.h"
#include "core/cli/show.h"
#include "core/model/gguf.h"
#include "core/model/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_STDIN = 64 << 20 };

static int read_stdin(struct mp_buf *text, struct mp_err *err)
{
    for (;;) {
        mp_buf_reserve(text, 65536);
        ssize_t got = read(0, text->data + text->len, 65536);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return mp_err_errno(err, MP_EIO, "cannot read the text");
        if (got == 0)
            return 0;
        text->len += (size_t)got;
        if (text->len > MAX_STDIN)
            return mp_err_set(err, MP_ELIMIT, "the text is longer than %d MiB", MAX_STDIN >> 20);
    }
}

static void print(const struct mp_tok *tok, const struct mp_ids *ids, bool json, bool only_ids)
{
    struct mp_buf out = {0};
    size_t n;
    if (json) {
        mp_buf_puts(&out, "{\"ids\":[");
        for (size_t i = 0; i < ids->len; i++)
            mp_buf_printf(&out, "%s%d", i ? "," : "", ids->data[i]);
        mp_buf_puts(&out, "],\"pieces\":[");
        for (size_t i = 0; i < ids->len; i++) {
            const char *piece = mp_tok_text(tok, ids->data[i], &n);
            mp_buf_puts(&out, i ? "," : "");
            mp_json_put_string(&out, piece, n);
        }
        mp_buf_puts(&out, "]}\n");
    } else if (only_ids) {
        for (size_t i = 0; i < ids->len; i++)
            mp_buf_printf(&out, "%s%d", i ? " " : "", ids->data[i]);
        mp_buf_putc(&out, '\n');
    } else {
        for (size_t i = 0; i < ids->len; i++) {
            const char *piece = mp_tok_text(tok, ids->data[i], &n);
            mp_buf_printf(&out, "%7d  ", ids->data[i]);
            mp_show_text(&out, piece, n, SIZE_MAX);
            mp_buf_puts(&out, mp_tok_is_control(tok, ids->data[i]) ? "  control\n" : "\n");
        }
    }
    fwrite(out.data, 1, out.len, stdout);
    mp_buf_free(&out);
}

static int run_tokenize(int argc, char **argv)
{
    const char *args[2] = {NULL, NULL};
    bool only_ids = false, special = false, json = false, options = true;
    int n_args = 0, rc;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!options || strncmp(a, "--", 2) != 0) {
            if (n_args == 2)
                return mp_cli_usage(&mp_cmd_tokenize, "MODEL and one TEXT are wanted; '%s' is a third (quote the text)",
                                    a);
            args[n_args++] = a;
        } else if (strcmp(a, "--") == 0) {
            options = false;
        } else if (strcmp(a, "--ids") == 0) {
            only_ids = true;
        } else if (strcmp(a, "--special") == 0) {
            special = true;
        } else if (strcmp(a, "--json") == 0) {
            json = true;
        } else {
            return mp_cli_usage(&mp_cmd_tokenize, "unknown option '%s'", a);
        }
    }
    if (n_args < 2)
        return mp_cli_usage(&mp_cmd_tokenize, "%s is missing", n_args ? "TEXT" : "MODEL");

    struct mp_err err = {0};
    struct mp_gguf *g = NULL;
    struct mp_tok *tok = NULL;
    struct mp_ids ids = {0};
    struct mp_buf text = {0};
    char *path = mp_cli_model_path(args[0], &err);
    rc = path ? mp_gguf_open(&g, path, &err) : err.code;
    if (rc == 0)
        rc = mp_tok_new(&tok, g, &err);
    if (rc == 0 && strcmp(args[1], "-") == 0)
        rc = read_stdin(&text, &err);
    else if (rc == 0)
        mp_buf_puts(&text, args[1]);
    if (rc == 0)
        rc = mp_tok_encode(tok, text.data ? text.data : "", text.len, NULL, special ? MP_TOK_SPECIAL : 0, &ids, &err);
    if (rc == 0)
        print(tok, &ids, json, only_ids);
    else
        fprintf(stderr, "moonpool tokenize: %s\n", err.message);
    mp_ids_free(&ids);
    mp_buf_free(&text);
    mp_tok_free(tok);
    mp_gguf_free(g);
    mp_free(path);
    return rc == 0 ? MP_EXIT_OK : MP_EXIT_USAGE;
}

const struct mp_cmd mp_cmd_tokenize = {
    "tokenize",
    "MODEL TEXT|- [--ids] [--special] [--json]",
    "shows the tokens of a text",
    "MODEL is a file, or its name in $MOONPOOL_MODELS (else models/). TEXT - reads standard input.\n"
    "\n"
    "  --ids      the ids only, on one line\n"
    "  --special  recognise control tokens in the text (<|im_start|> and its like); off, they are plain characters\n"
    "  --json     {\"ids\": […], \"pieces\": […]}; bytes that are not UTF-8 are U+FFFD there\n"
    "  --         what follows is no option\n"
    "\n"
    "Exit code: 0; 2 for a bad command line or model file.\n",
    run_tokenize,
};
