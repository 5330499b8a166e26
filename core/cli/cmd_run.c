/* core/cli/cmd_run.c — `moonpool run MODEL PROMPT`: one process, no sockets: the engine's own loop on this thread, text to the
 * terminal as it comes. */
#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/cli/cli.h"
#include "core/cli/paths.h"
#include "core/engine/load.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_MAX_TOKENS = 512, BAR = 30, PROMPT_MOST = 8 << 20, INTERRUPTED = 130 };

struct opts {
    const char *model, *prompt, *system, *isa, *device;
    bool raw;
    uint32_t threads, context;
    struct mp_msg_start set;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* Numbers on the command line: the whole word, in range. */
static bool number(const char *s, double min, double max, double *out)
{
    char *end = NULL;
    errno = 0;
    *out = strtod(s, &end);
    return s[0] && !*end && errno == 0 && isfinite(*out) && *out >= min && *out <= max;
}

static bool integer(const char *s, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end = NULL;
    errno = 0;
    *out = strtoull(s, &end, 10);
    return s[0] >= '0' && s[0] <= '9' && !*end && errno == 0 && *out >= min && *out <= max;
}

/* Sets one option; false when its value is no good. */
static bool set_option(struct opts *o, const char *name, const char *value)
{
    double d = 0;
    uint64_t u = 0;
    bool good = true;
    if (strcmp(name, "--max-tokens") == 0 && (good = integer(value, 0, UINT32_MAX - 1, &u)))
        o->set.max_tokens = (uint32_t)u;
    else if (strcmp(name, "--temperature") == 0 && (good = number(value, 0, 100, &d)))
        o->set.temperature = (float)d;
    else if (strcmp(name, "--top-p") == 0 && (good = number(value, 1e-6, 1, &d)))
        o->set.top_p = (float)d;
    else if (strcmp(name, "--min-p") == 0 && (good = number(value, 0, 1, &d)))
        o->set.min_p = (float)d;
    else if (strcmp(name, "--top-k") == 0 && (good = integer(value, 0, INT32_MAX, &u)))
        o->set.top_k = (int32_t)u;
    else if (strcmp(name, "--seed") == 0 && (good = integer(value, 0, UINT64_MAX, &u)))
        o->set.seed = u;
    else if (strcmp(name, "--threads") == 0 && (good = integer(value, 1, 1024, &u)))
        o->threads = (uint32_t)u;
    else if (strcmp(name, "--context") == 0 && (good = integer(value, 1, 1 << 24, &u)))
        o->context = (uint32_t)u;
    else if (strcmp(name, "--isa") == 0)
        o->isa = value;
    else if (strcmp(name, "--device") == 0)
        o->device = value;
    else if (strcmp(name, "--system") == 0)
        o->system = value;
    return good;
}

static bool takes_value(const char *name)
{
    static const char *const names[] = {"--max-tokens", "--temperature", "--top-p", "--min-p",  "--top-k", "--seed",
                                        "--threads",    "--context",     "--isa",   "--device", "--system"};
    for (size_t i = 0; i < MP_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static int parse(struct opts *o, int argc, char **argv)
{
    bool words = false; /* behind "--" everything is a word */
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!words && strcmp(a, "--") == 0) {
            words = true;
        } else if (!words && strcmp(a, "--raw") == 0) {
            o->raw = true;
        } else if (!words && takes_value(a)) {
            if (i + 1 == argc)
                return mp_cli_usage(&mp_cmd_run, "%s needs a value", a);
            if (!set_option(o, a, argv[++i]))
                return mp_cli_usage(&mp_cmd_run, "%s: '%s' is no number in its range", a, argv[i]);
        } else if (!words && a[0] == '-' && a[1]) {
            return mp_cli_usage(&mp_cmd_run, "no option '%s'", a);
        } else if (!o->model) {
            o->model = a;
        } else if (!o->prompt) {
            o->prompt = a;
        } else {
            return mp_cli_usage(&mp_cmd_run, "one prompt only: quote it ('%s' is too much)", a);
        }
    }
    if (!o->model)
        return mp_cli_usage(&mp_cmd_run, "which model?");
    if (!o->prompt)
        return mp_cli_usage(&mp_cmd_run, "what prompt? ('-' reads it from standard input)");
    if (o->raw && o->system)
        return mp_cli_usage(&mp_cmd_run, "--system has no place in a --raw prompt");
    return 0;
}

struct progress {
    uint64_t started_ns, drawn_ns;
    bool terminal, drawn;
};

/* A bar once loading has taken a second, redrawn ten times a second. */
static bool on_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct progress *p = ctx;
    uint64_t now = mp_clock_mono_ns();
    if (p->terminal && now - p->started_ns > 1000000000u && (now - p->drawn_ns > 100000000u || done == total)) {
        int full = total > 0 ? (int)((double)done / (double)total * BAR) : 0;
        fprintf(stderr, "\rloading [%.*s%*s] %3d%%", full, "##############################", BAR - full, "",
                total > 0 ? (int)((double)done / (double)total * 100) : 0);
        p->drawn_ns = now;
        p->drawn = true;
    }
    return !interrupted;
}

static int read_prompt(struct mp_buf *out, struct mp_err *err)
{
    for (;;) {
        mp_buf_reserve(out, 65536);
        ssize_t n = read(STDIN_FILENO, out->data + out->len, 65536);
        if (n < 0 && errno != EINTR)
            return mp_err_errno(err, MP_EIO, "cannot read the prompt");
        if (n == 0)
            return 0;
        out->len += n > 0 ? (size_t)n : 0;
        if (out->len > PROMPT_MOST)
            return mp_err_set(err, MP_ELIMIT, "the prompt is longer than %d bytes", PROMPT_MOST);
        if (interrupted)
            return mp_err_set(err, MP_ECANCELLED, "interrupted");
    }
}

static int make_prompt(const struct opts *o, const struct mp_source *src, struct mp_ids *ids, struct mp_err *err)
{
    struct mp_template *t = NULL;
    struct mp_buf text = {0}, chat = {0};
    int rc = strcmp(o->prompt, "-") == 0 ? read_prompt(&text, err) : 0;
    if (rc == 0 && text.len == 0 && strcmp(o->prompt, "-") != 0)
        mp_buf_puts(&text, o->prompt);
    if (rc == 0 && !o->raw)
        rc = mp_template_new(&t, mp_source_gguf(src), err);
    if (rc == 0 && o->raw)
        rc = mp_source_prompt(src, NULL, MP_PREPARE_TEXT, false, text.data, text.len, ids, err);
    if (rc == 0 && !o->raw) {
        mp_buf_puts(&chat, "[");
        if (o->system) {
            mp_buf_puts(&chat, "{\"role\":\"system\",\"content\":");
            mp_json_put_string(&chat, o->system, strlen(o->system));
            mp_buf_puts(&chat, "},");
        }
        mp_buf_puts(&chat, "{\"role\":\"user\",\"content\":");
        mp_json_put_string(&chat, text.data, text.len);
        mp_buf_puts(&chat, "}]");
        rc = mp_source_prompt(src, t, MP_PREPARE_CHAT, false, chat.data, chat.len, ids, err);
    }
    mp_template_free(t);
    mp_buf_free(&text);
    mp_buf_free(&chat);
    return rc;
}

static bool put(const char *s, size_t n)
{
    while (n > 0) {
        ssize_t w = write(STDOUT_FILENO, s, n);
        if (w < 0 && errno != EINTR)
            return false;
        s += w > 0 ? w : 0;
        n -= w > 0 ? (size_t)w : 0;
    }
    return true;
}

static double per_second(uint32_t n, uint64_t ns)
{
    return ns > 0 ? n / ((double)ns / 1e9) : 0;
}

static void say_figures(const struct mp_msg_done *d, const char *device, const char *numerics)
{
    uint64_t decode_ns = d->device_ns > d->prefill_ns ? d->device_ns - d->prefill_ns : 0;
    uint32_t decoded = d->completion_tokens > 0 ? d->completion_tokens - 1 : 0;
    fprintf(stderr, "prompt: %u tokens, %.1f tokens/s; answer: %u tokens (%s), %.1f tokens/s; %s, %s\n",
            d->prompt_tokens, per_second(d->prompt_tokens, d->prefill_ns), d->completion_tokens,
            mp_msg_finish_name(d->finish), per_second(decoded, decode_ns), device, numerics);
}

/* Turns the loop until the one request is over. */
static int generate(struct mp_loop *loop, struct mp_replica *r, const struct opts *o, const struct mp_ids *ids,
                    const char *device, struct mp_err *err)
{
    struct mp_msg m = {0};
    char last = '\n';
    bool gone = false; /* nobody takes the answer any more */
    int why = 0;       /* the errno that says so */
    struct mp_seq *s = mp_loop_submit(r, 1, ids->data, (uint32_t)ids->len, &o->set, err);
    if (!s)
        return err->code;
    while (m.type != MP_MSG_DONE && m.type != MP_MSG_ERROR) {
        if (interrupted || gone)
            mp_seq_cancel(s);
        (void)mp_loop_turn(loop, 50000000);
        while (m.type != MP_MSG_DONE && m.type != MP_MSG_ERROR && mp_loop_event(loop, &m)) {
            struct mp_span text = m.type == MP_MSG_TOKENS ? m.u.tokens.text : (struct mp_span){0};
            text = m.type == MP_MSG_DONE ? m.u.done.text : text;
            if (text.n > 0) {
                if (!gone && !put(text.p, text.n)) {
                    gone = true;
                    why = errno;
                }
                last = text.p[text.n - 1];
            }
        }
    }
    if (last != '\n' && !gone)
        why = put("\n", 1) ? 0 : errno;
    if (m.type == MP_MSG_ERROR) {
        struct mp_buf code = {0};
        mp_buf_put(&code, m.u.error.code.p, m.u.error.code.n);
        int rc = mp_err_set(err, mp_err_from_name(mp_buf_cstr(&code)), "%.*s", (int)m.u.error.message.n,
                            m.u.error.message.p);
        mp_buf_free(&code);
        return rc < 0 ? rc : MP_EINTERNAL;
    }
    say_figures(&m.u.done, device, mp_numerics_name(MP_NUM_PLAIN));
    if (why != 0 && why != EPIPE) /* a reader that has enough is fine */
        return mp_err_set(err, MP_EIO, "cannot write the answer: %s", strerror(why));
    return interrupted ? mp_err_set(err, MP_ECANCELLED, "interrupted") : 0;
}

static int run_model(const struct opts *o, const char *path, struct mp_err *err)
{
    const struct mp_device_ops *ops = mp_device_find(o->device);
    struct mp_load_conf load = {.max_seq = 1, .numerics = MP_NUM_PLAIN};
    struct progress progress = {.started_ns = mp_clock_mono_ns(), .terminal = isatty(STDERR_FILENO)};
    struct mp_source *src = NULL;
    struct mp_loaded *loaded = NULL;
    struct mp_dev *dev = NULL;
    struct mp_loop *loop = NULL;
    struct mp_replica *rep = NULL;
    struct mp_ids ids = {0};
    struct mp_buf spec = {0};
    struct mp_caps caps = {0};
    int rc = MP_ENOENT;
    if (!ops) {
        mp_err_set(err, rc, "no device is called '%s'", o->device);
        goto out;
    }
    rc = mp_source_open(&src, &(struct mp_source_conf){.path = path, .context = o->context}, err);
    if (rc == 0)
        rc = make_prompt(o, src, &ids, err);
    if (rc < 0)
        goto out;
    if (o->threads > 0)
        mp_buf_printf(&spec, "threads=%u", o->threads);
    if (o->isa)
        mp_buf_printf(&spec, "%sisa=%s", spec.len > 0 ? "," : "", o->isa);
    rc = ops->open(&dev, mp_buf_cstr(&spec), err);
    if (rc < 0)
        goto out;
    ops->caps(dev, &caps);
    rc = mp_load_begin(&loaded, src, ops, dev, &load, err);
    if (rc == 0)
        rc = mp_load_claim(loaded, NULL, err);
    if (rc == 0)
        rc = mp_load_read(loaded, on_progress, &progress, err);
    if (progress.drawn)
        fprintf(stderr, "\r%*s\r", BAR + 20, "");
    if (rc == 0)
        rc = mp_load_build(loaded, err);
    if (rc < 0)
        goto out;
    struct mp_vocab vocab = mp_source_vocab(src);
    loop = mp_loop_new(ops, dev, NULL);
    rep = mp_replica_new(loop, mp_source_context(src), &vocab, mp_loaded_body(loaded));
    rc = generate(loop, rep, o, &ids, caps.name, err);
out:
    mp_replica_free(rep);
    mp_loop_free(loop);
    mp_loaded_free(loaded);
    if (dev)
        ops->close(dev);
    mp_source_free(src);
    mp_ids_free(&ids);
    mp_buf_free(&spec);
    return rc;
}

static int run(int argc, char **argv)
{
    struct opts o = {.device = "cpu"};
    struct mp_err err = {0};
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND}; /* a second Ctrl-C ends at once */
    mp_msg_start_init(&o.set);
    o.set.temperature = 0;
    o.set.max_tokens = DEFAULT_MAX_TOKENS;
    o.set.seed = mp_clock_wall_ns();
    int rc = parse(&o, argc, argv);
    if (rc != 0)
        return rc;
    (void)sigaction(SIGINT, &act, NULL);
    (void)sigaction(SIGTERM, &act, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    char *path = mp_cli_model_path(o.model, &err);
    rc = path ? run_model(&o, path, &err) : err.code;
    mp_free(path);
    if (rc == MP_ECANCELLED && interrupted)
        return INTERRUPTED;
    if (rc < 0) {
        fprintf(stderr, "moonpool run: %s\n", err.message);
        return rc == MP_ENOENT || rc == MP_EINVAL || rc == MP_EFORMAT || rc == MP_EUNSUPPORTED ? MP_EXIT_USAGE
                                                                                               : MP_EXIT_FAILED;
    }
    return MP_EXIT_OK;
}

const struct mp_cmd mp_cmd_run = {
    "run", "[OPTIONS] MODEL PROMPT", "answers one prompt on the terminal",
    "MODEL is a GGUF file, or its name in $MOONPOOL_MODELS (else models/), with or without .gguf.\n"
    "PROMPT is one user message for the model's chat template; '-' reads it from standard input.\n\n"
    "  --raw              no chat template: continue the prompt as plain text\n"
    "  --system TEXT      a system message before the prompt\n"
    "  --max-tokens N     stop after N tokens (512, or what the context leaves)\n"
    "  --temperature T    0 takes the likeliest token each time (0, the default)\n"
    "  --top-p P, --min-p P, --top-k K\n"
    "                     narrow the choice when the temperature is above 0 (all off)\n"
    "  --seed S           same seed, same answer (from the clock)\n"
    "  --context N        tokens of prompt and answer together (the model's own, at most 8192)\n"
    "  --threads N        CPU threads (all cores)\n"
    "  --isa X            instruction set of the CPU device (the best there is)\n"
    "  --device NAME      cpu (the default)\n\n"
    "The answer goes to standard output, figures to standard error. Ctrl-C ends it.\n"
    "Exit codes: 0 answered, 1 failed, 2 bad command line or model file, 130 interrupted.\n",
    run};
