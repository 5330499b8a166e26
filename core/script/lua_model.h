/* core/script/lua_model.h — from the arguments of model:chat{} and its kin to a call of core/pool. Private to lua_model.c
 * (answers in one piece) and lua_stream.c (streams). */
#ifndef MP_SCRIPT_LUA_MODEL_H
#define MP_SCRIPT_LUA_MODEL_H
#include "core/pool/call.h"
#include "core/script/run_impl.h"

struct model_args {
    const struct mp_conf_model *conf; /* of the model that is called */
    const char *asked;                /* the name of the one that was asked for: a policy may route to another */
    struct mp_call_args call; /* events and user are the caller's to set; payload and stops live as long as the run */
};

/* self (the model) is at 1, the table of arguments at 2. True: *out is ready. False: nil, err are on the stack (an argument out
 * of range, no such model, no engine); misuse raises. fn: "model:chat". chat: messages, else prompt. */
bool model_read_args(lua_State *L, struct mp_run *run, const char *fn, bool chat, struct model_args *out);
/* The call: every one of a run is made here. NULL with err when it is refused at once. */
struct mp_call *model_call(struct mp_run *run, const struct model_args *args, struct mp_err *err);
/* How long a call waited, for the answer's headers: once for each call, when it has started or ended. */
void model_note_wait(struct mp_run *run, const struct mp_call *call);
/* A call failed: err becomes what scripts and clients see (without the weights' path; of a refusal with a time to try again). A refusal is
 * counted. */
void model_failed(const struct mp_conf_model *conf, struct mp_err *err, double retry_after);
/* Its client has left: counted when it waits for a place. call: NULL is fine. */
void model_gone(const struct mp_conf_model *conf, const struct mp_call *call);
/* Pushes { text, finish_reason, usage = { prompt_tokens, completion_tokens, device_seconds, queue_seconds, … } }. */
void model_push_result(lua_State *L, const char *text, size_t n, enum mp_msg_finish finish,
                       const struct mp_usage *usage);

/* lua_stream.c: model:chat_stream{}, model:complete_stream{} */
int lua_model_chat_stream(lua_State *L);
int lua_model_complete_stream(lua_State *L);

#endif
