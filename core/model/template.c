/* core/model/template.c — see template.h. The renderer is lua/moonpool/jinja.lua. */
#include "core/model/template.h"

#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/model/gguf.h"
#include "core/vm/vm.h"

#include <lauxlib.h>
#include <lua.h>
#include <string.h>

enum { RENDER_VALUES = 1000000, RENDER_STEPS = 4000000, RENDER_OUTPUT = 16 << 20, RENDER_DEPTH = 200 };
enum { RENDER_MEMORY = 64 << 20, VM_MEMORY = 512 << 20 };

/* What models trained on ChatML expect, and what files without a template get. */
static const char chatml[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}";

struct mp_template {
    struct mp_vm *vm;
    char *bos, *eos;
    int parsed; /* reference to what parse gave, in the registry */
    bool is_default;
};

static void push_function(lua_State *L, const char *name)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moonpool.jinja");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, name);
    lua_remove(L, -2);
}

struct parse_job {
    struct mp_template *t;
    const char *text;
    size_t n;
};

static int parse(lua_State *L)
{
    struct parse_job *job = lua_touserdata(L, 1);
    push_function(L, "parse");
    lua_pushlstring(L, job->text, job->n);
    lua_call(L, 1, 1);
    job->t->parsed = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

int mp_template_new_text(struct mp_template **out, const char *text, size_t n, const char *bos, const char *eos,
                         struct mp_err *err)
{
    if (n > MP_TEMPLATE_MAX)
        return mp_err_set(err, MP_ELIMIT, "the chat template has %zu bytes; the most is %d", n, MP_TEMPLATE_MAX);
    struct mp_vm_opts opts = {.memory = VM_MEMORY};
    struct mp_template *t = mp_calloc(sizeof *t);
    struct parse_job job = {t, text, n};
    int rc = MP_ENOMEM;
    t->bos = mp_strdup(bos ? bos : "");
    t->eos = mp_strdup(eos ? eos : "");
    t->vm = mp_vm_new(&opts, err);
    if (!t->vm)
        goto out;
    rc = mp_vm_cpcall(t->vm, parse, &job, err);
    if (rc == 0)
        *out = mp_move(&t);
out:
    mp_template_free(t);
    return rc;
}

/* The text of the token whose id stands under key; "" when there is none. The caller's. */
static char *token_text(const struct mp_gguf *g, const char *key)
{
    const struct mp_gguf_kv *tokens;
    uint32_t id;
    const char *s = "";
    size_t at = 0, n = 0;
    if (mp_gguf_u32(g, key, 0, UINT32_MAX - 1, &id, NULL) == 0 &&
        mp_gguf_arr(g, "tokenizer.ggml.tokens", MP_GGUF_STR, &tokens, NULL) == 0 && id < tokens->count)
        for (uint32_t i = 0; i <= id; i++)
            if (!mp_gguf_str_next(tokens, &at, &s, &n))
                return mp_strdup("");
    return mp_strndup(s, n);
}

int mp_template_new(struct mp_template **out, const struct mp_gguf *g, struct mp_err *err)
{
    const char *text = chatml;
    size_t n = sizeof chatml - 1;
    int rc = mp_gguf_str(g, "tokenizer.chat_template", MP_TEMPLATE_MAX, &text, &n, err);
    if (rc < 0 && rc != MP_ENOENT)
        return rc;
    bool is_default = rc == MP_ENOENT;
    char *bos = token_text(g, "tokenizer.ggml.bos_token_id"), *eos = token_text(g, "tokenizer.ggml.eos_token_id");
    rc = mp_template_new_text(out, text, n, bos, eos, err);
    if (rc == 0)
        (*out)->is_default = is_default;
    mp_free(bos);
    mp_free(eos);
    return rc;
}

void mp_template_free(struct mp_template *t)
{
    if (!t)
        return;
    mp_vm_free(t->vm);
    mp_free(t->bos);
    mp_free(t->eos);
    mp_free(t);
}

bool mp_template_is_default(const struct mp_template *t)
{
    return t->is_default;
}

struct render_job {
    const struct mp_template *t;
    const char *request;
    size_t n;
    const struct mp_template_limits *limits;
    struct mp_buf *text, *trust;
};

static void set_number(lua_State *L, const char *key, double v)
{
    lua_pushnumber(L, v);
    lua_setfield(L, -2, key);
}

static int render(lua_State *L)
{
    struct render_job *job = lua_touserdata(L, 1);
    push_function(L, "render");
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->t->parsed);
    lua_pushlstring(L, job->request, job->n);
    lua_pushstring(L, job->t->bos);
    lua_pushstring(L, job->t->eos);
    lua_createtable(L, 0, 4);
    set_number(L, "steps", (double)job->limits->steps);
    set_number(L, "output", (double)job->limits->output);
    set_number(L, "depth", job->limits->depth);
    set_number(L, "now", (double)job->limits->now);
    lua_call(L, 5, 2);
    size_t n, m;
    const char *text = luaL_checklstring(L, -2, &n), *trust = luaL_checklstring(L, -1, &m);
    if (n != m)
        return luaL_error(L, "the chat template's trust has %d bytes for %d of text", (int)m, (int)n);
    mp_buf_put(job->text, text, n);
    mp_buf_put(job->trust, trust, n);
    return 0;
}

int mp_template_render(struct mp_template *t, const char *request, size_t n, const struct mp_template_limits *limits,
                       struct mp_buf *text, struct mp_buf *trust, struct mp_err *err)
{
    struct mp_template_limits lim = limits ? *limits : (struct mp_template_limits){0};
    lim.steps = lim.steps ? lim.steps : RENDER_STEPS;
    lim.output = lim.output ? lim.output : RENDER_OUTPUT;
    lim.depth = lim.depth ? lim.depth : RENDER_DEPTH;
    lim.memory = lim.memory ? lim.memory : RENDER_MEMORY;
    lim.now = lim.now ? lim.now : (int64_t)(mp_clock_wall_ns() / 1000000000);
    size_t text_was = text->len, trust_was = trust->len;
    int rc = mp_json_check(request, n, 0, RENDER_VALUES, err);
    if (rc < 0)
        return rc;
    struct mp_vm_account account = {0};
    size_t memory;
    if (!mp_mul_size(n, 16, &memory) || !mp_add_size(memory, lim.memory, &memory))
        return mp_err_set(err, MP_ELIMIT, "the request is too large for a chat template");
    rc = mp_vm_account_open(t->vm, &account, memory, err);
    if (rc < 0)
        return rc;
    struct mp_vm_account *was = mp_vm_charge(t->vm, &account);
    struct render_job job = {t, request, n, &lim, text, trust};
    rc = mp_vm_cpcall(t->vm, render, &job, err);
    mp_vm_charge(t->vm, was);
    mp_vm_account_close(t->vm, &account);
    if (rc < 0) {
        text->len = text_was;
        trust->len = trust_was;
    }
    if (rc == MP_EMEMORY)
        return mp_err_set(err, rc, "the chat template needs more than %zu MiB of memory for this request",
                          memory >> 20);
    return rc;
}
