/* core/cli/ask.h — asking a running server by its admin socket: which server, the question, the answer. Used by status, models, devices,
 * reload, rollback, generations, decisions. All that goes wrong is printed on stderr here, and an exit code returned. */
#ifndef MP_ASK_H
#define MP_ASK_H
#include "core/base/arena.h"
#include "core/base/buf.h"
#include "core/cli/cli.h"
#include "core/cli/doc.h"

#include <stdbool.h>
#include <stdint.h>

struct mp_ask { /* zero-initialised but for cmd */
    const struct mp_cmd *cmd;
    const char *runtime, *conf; /* --runtime, --conf; NULL: not given */
    double timeout;             /* --timeout; 0: not given */
    bool json;
    bool quiet;             /* an answer that takes a while is nothing to tell of */
    char *socket;           /* of the server that was found */
    int pid;                /* the server's */
    struct mp_arena *arena; /* of documents */
};

struct mp_reply {
    int status;
    struct mp_buf body;
    uint64_t last, gateway; /* /decisions: where to go on; whose numbers those are */
};

#define MP_ASK_ARGS "[--runtime DIR] [--conf CONF] [--timeout SECONDS]"
#define MP_ASK_HELP                                                                       \
    "  --runtime DIR   where the server's sockets lie; default as for `moonpool serve`\n" \
    "  --conf CONF     the server of this configuration, when several run\n"              \
    "  --timeout SECONDS\n"                                                               \
    "                  how long to wait for its answer (60; a reload: as long as it takes)\n"
#define MP_ASK_EXIT "Exit codes: 0 done; 1 the server refused or failed; 2 bad command line, or no server.\n"

/* Takes argv[*i] when it is one of the options all share (--runtime DIR, --conf CONF, --timeout SECONDS, --json), moving *i over
 * its value. 1: taken; 0: not one of them; -1: it lacks its value, or that is none (the usage was printed). */
int mp_ask_option(struct mp_ask *a, int argc, char **argv, int *i);
/* The whole command line of a command that takes no other; false: the usage was printed. */
bool mp_ask_options(struct mp_ask *a, int argc, char **argv);
/* Finds the server: by --conf where given, else the only one. 0 or an exit code. */
int mp_ask_find(struct mp_ask *a);
/* One question; waits while a gateway is being started again. body: JSON, or NULL. retry: it may be asked again when the gateway ended
 * before it had answered. An answer that is an error is printed, as the server's words. 0 or an exit code. */
int mp_ask(struct mp_ask *a, const char *method, const char *path, const char *body, bool retry,
           struct mp_reply *reply);
/* mp_ask_find, a GET; prints the answer itself with --json and gives NULL with *code 0; else the document. NULL: *code says. */
const struct mp_val *mp_ask_get(struct mp_ask *a, const char *path, int *code);
/* mp_ask_find, then a POST that makes another generation serve (/reload, /rollback); prints what it did, for people, or as it is with --json.
 * 0 or an exit code. */
int mp_ask_reload(struct mp_ask *a, const char *path, const char *body);
/* What a command says of a failure, on stderr. Returns MP_EXIT_FAILED. */
int mp_ask_failed(const struct mp_ask *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void mp_reply_free(struct mp_reply *r);
void mp_ask_free(struct mp_ask *a);

#endif
