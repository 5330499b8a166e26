/* core/cli/ask.c — see ask.h. HTTP/1.1 to our own server: one request a connection, answers with a length. */
#include "core/cli/ask.h"

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/cli/places.h"
#include "core/cli/show.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    MAX_SERVERS = 64,
    MAX_REPLY = 256 << 20,
    GATEWAY_MS = 60000, /* that a gateway may be away */
    LOOK_MS = 5000,     /* that one of several may take to say who it is */
    AGAIN_MS = 50,
    SAY_AFTER_MS = 1000,
};

struct server {
    int pid;
    char *socket;
};

static uint64_t now_ms(void)
{
    return mp_clock_mono_ns() / 1000000;
}

int mp_ask_failed(const struct mp_ask *a, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "moonpool %s: ", a->cmd->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return MP_EXIT_FAILED;
}

int mp_ask_option(struct mp_ask *a, int argc, char **argv, int *i)
{
    const char *timeout = NULL, **to = strcmp(argv[*i], "--runtime") == 0   ? &a->runtime
                                       : strcmp(argv[*i], "--conf") == 0    ? &a->conf
                                       : strcmp(argv[*i], "--timeout") == 0 ? &timeout
                                                                            : NULL;
    char *end;
    if (strcmp(argv[*i], "--json") == 0) {
        a->json = true;
        return 1;
    }
    if (!to)
        return 0;
    if (*i + 1 >= argc) {
        mp_cli_usage(a->cmd, "%s needs a value", argv[*i]);
        return -1;
    }
    *to = argv[++*i];
    if (!timeout)
        return 1;
    a->timeout = strtod(timeout, &end);
    if (end != timeout && !*end && a->timeout > 0 && a->timeout <= 86400)
        return 1;
    mp_cli_usage(a->cmd, "--timeout wants seconds, more than 0 and up to 86400, not '%s'", timeout);
    return -1;
}

bool mp_ask_options(struct mp_ask *a, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int taken = mp_ask_option(a, argc, argv, &i);
        if (taken == 0)
            mp_cli_usage(a->cmd, "unknown argument '%s'", argv[i]);
        if (taken <= 0)
            return false;
    }
    return true;
}

/* ---- one exchange ---- */

enum outcome { DONE, AWAY /* no server listens */, CUT /* the connection ended early */, LATE, BAD };

struct patience {
    const struct mp_ask *ask; /* NULL: nothing is said */
    uint64_t began, until;    /* ms */
    bool said;
};

static void say_waiting(struct patience *w)
{
    if (w->said || !w->ask || w->ask->quiet || now_ms() - w->began < SAY_AFTER_MS || !isatty(2))
        return;
    fprintf(stderr, "waiting for the server (pid %d)\n", w->ask->pid);
    w->said = true;
}

static bool wait_for(int fd, short events, struct patience *w)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        uint64_t now = now_ms();
        int n = now >= w->until ? 0 : poll(&p, 1, (int)(w->until - now < SAY_AFTER_MS ? w->until - now : SAY_AFTER_MS));
        if (n > 0)
            return true;
        if (now >= w->until)
            return false;
        say_waiting(w);
    }
}

static int dial(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd, e;
    if (strlen(path) >= sizeof un.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(un.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof un) < 0) {
        e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

/* The value of a header, in the head's n bytes; NULL. */
static const char *header(const char *head, size_t n, const char *name)
{
    size_t len = strlen(name);
    for (const char *p = head; p + len < head + n;) {
        if (strncasecmp(p, name, len) == 0 && p[len] == ':')
            return p + len + 1 + strspn(p + len + 1, " ");
        p = memchr(p, '\n', n - (size_t)(p - head));
        if (!p)
            break;
        p++;
    }
    return NULL;
}

/* All that came → the reply. False: not (yet) a whole one. */
static bool understand(struct mp_buf *in, struct mp_reply *r)
{
    const char *text = mp_buf_cstr(in), *end = strstr(text, "\r\n\r\n"), *v;
    size_t head, n;
    if (!end || strncmp(text, "HTTP/1.1 ", 9) != 0)
        return false;
    head = (size_t)(end - text) + 2;
    v = header(text, head, "content-length");
    n = v ? strtoull(v, NULL, 10) : 0;
    if (!v || in->len - head - 2 != n)
        return false;
    r->status = atoi(text + 9);
    v = header(text, head, "x-moonpool-last");
    r->last = v ? strtoull(v, NULL, 10) : 0;
    v = header(text, head, "x-moonpool-gateway");
    r->gateway = v ? strtoull(v, NULL, 10) : 0;
    mp_buf_clear(&r->body);
    mp_buf_put(&r->body, text + head + 2, n);
    return true;
}

static enum outcome exchange(const char *socket, const char *method, const char *path, const char *body,
                             struct patience *w, struct mp_reply *r)
{
    struct mp_buf out = {0}, in = {0};
    enum outcome o = AWAY;
    size_t sent = 0;
    ssize_t n;
    int fd = dial(socket);
    if (fd < 0) {
        o = errno == EAGAIN || errno == EINTR ? CUT : AWAY; /* EAGAIN: many wait there already */
        goto out;
    }
    mp_buf_printf(&out, "%s %s HTTP/1.1\r\nHost: moonpool\r\nConnection: close\r\n", method, path);
    if (body)
        mp_buf_printf(&out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    mp_buf_printf(&out, "\r\n%s", body ? body : "");
    o = CUT;
    while (sent < out.len) {
        n = send(fd, out.data + sent, out.len - sent, MSG_NOSIGNAL);
        if (n > 0)
            sent += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            goto out;
        else if (!wait_for(fd, POLLOUT, w)) {
            o = LATE;
            goto out;
        }
    }
    for (;;) {
        mp_buf_reserve(&in, 65536);
        n = recv(fd, in.data + in.len, 65536, 0);
        if (n > 0)
            in.len += (size_t)n;
        else if (n == 0)
            break;
        else if (errno != EAGAIN && errno != EINTR)
            goto out;
        else if (!wait_for(fd, POLLIN, w)) {
            o = LATE;
            goto out;
        }
        if (in.len > MAX_REPLY) {
            o = BAD;
            goto out;
        }
    }
    if (understand(&in, r))
        o = DONE;
    else if (in.len > 9 && strncmp(in.data, "HTTP/1.1 ", 9) != 0)
        o = BAD;
out:
    if (fd >= 0)
        close(fd);
    mp_buf_free(&out);
    mp_buf_free(&in);
    return o;
}

/* ---- which server ---- */

static bool listening(const char *socket)
{
    int fd = dial(socket), e = errno;
    if (fd >= 0)
        close(fd);
    return fd >= 0 || e == EAGAIN;
}

static int by_pid(const void *a, const void *b)
{
    return ((const struct server *)a)->pid - ((const struct server *)b)->pid;
}

/* RUNTIME/PID.admin of processes that live and listen. Returns how many, or -1: it was said why there can be none. */
static int scan(const struct mp_ask *a, const char *runtime, struct server out[MAX_SERVERS])
{
    struct stat st;
    struct dirent *e;
    int n = 0;
    DIR *d;
    if (lstat(runtime, &st) < 0 || !(d = opendir(runtime))) {
        if (errno == ENOENT)
            return 0;
        mp_ask_failed(a, "cannot look into %s: %s", runtime, strerror(errno));
        return -1;
    }
    if (st.st_uid != geteuid() && geteuid() != 0) { /* whoever owns it could play our server */
        closedir(d);
        mp_ask_failed(a, "%s belongs to another user: give --runtime DIR", runtime);
        return -1;
    }
    while ((e = readdir(d)) != NULL && n < MAX_SERVERS) {
        char *end, *path;
        long pid = strtol(e->d_name, &end, 10);
        if (pid <= 0 || pid > INT32_MAX || strcmp(end, ".admin") != 0 || (kill((pid_t)pid, 0) < 0 && errno == ESRCH))
            continue;
        path = mp_asprintf("%s/%s", runtime, e->d_name);
        if (listening(path))
            out[n++] = (struct server){(int)pid, mp_move(&path)};
        mp_free(path);
    }
    closedir(d);
    qsort(out, (size_t)n, sizeof out[0], by_pid);
    return n;
}

/* What a server says of itself; NULL: it does not answer. */
static const struct mp_val *introduce(struct mp_ask *a, const struct server *s)
{
    struct mp_reply r = {0};
    double ms = a->timeout > 0 && a->timeout * 1000 < LOOK_MS ? a->timeout * 1000 : LOOK_MS;
    struct patience w = {.until = now_ms() + (uint64_t)ms};
    const struct mp_val *v = NULL;
    if (exchange(s->socket, "GET", "/server", NULL, &w, &r) == DONE && r.status == 200)
        v = mp_doc_parse(a->arena, r.body.data, r.body.len, NULL);
    mp_reply_free(&r);
    return v;
}

static void list(struct mp_ask *a, const struct server *servers, int n)
{
    for (int i = 0; i < n; i++) {
        const struct mp_val *v = introduce(a, &servers[i]);
        struct mp_buf line = {0};
        mp_buf_printf(&line, "  pid %d", servers[i].pid);
        if (v) {
            mp_buf_puts(&line, ", configuration ");
            mp_show_plain(&line, mp_val_text(v, "configuration"));
            for (const struct mp_val *at = mp_val_get(v, "addresses")->first; at; at = at->next) {
                mp_buf_puts(&line, ", ");
                mp_show_plain(&line, at->text);
            }
        } else {
            mp_buf_puts(&line, ", does not answer");
        }
        fprintf(stderr, "%s\n", mp_buf_cstr(&line));
        mp_buf_free(&line);
    }
}

static int choose(struct mp_ask *a, const char *runtime, const struct server *servers, int n)
{
    char *absolute = a->conf ? realpath(a->conf, NULL) : NULL;
    int found = -1;
    if (n == 0) {
        mp_ask_failed(a, "no server runs here (looked for its socket in %s)", runtime);
    } else if (!a->conf && n == 1) {
        found = 0;
    } else if (!a->conf) {
        mp_ask_failed(a, "%d servers run here: say which by --conf CONF", n);
        list(a, servers, n);
    } else if (!absolute) {
        mp_ask_failed(a, "%s: %s", a->conf, strerror(errno));
    } else {
        int same = 0;
        for (int i = 0; i < n; i++) {
            const struct mp_val *v = introduce(a, &servers[i]);
            if (v && strcmp(mp_val_text(v, "configuration"), absolute) == 0 && same++ == 0)
                found = i;
        }
        if (same == 0) {
            mp_ask_failed(a, "no server here serves %s; there %s:", absolute, n == 1 ? "is" : "are");
            list(a, servers, n);
        } else if (same > 1) {
            mp_ask_failed(a, "%d servers here serve %s: give them runtime folders of their own (--runtime DIR)", same,
                          absolute);
            list(a, servers, n);
            found = -1;
        }
    }
    free(absolute); /* NOLINT: libc's own */
    return found;
}

int mp_ask_find(struct mp_ask *a)
{
    struct server servers[MAX_SERVERS];
    char *runtime = mp_place_runtime_path(a->runtime);
    int n = scan(a, runtime, servers), which;
    if (!a->arena)
        a->arena = mp_arena_new();
    which = n < 0 ? -1 : choose(a, runtime, servers, n);
    if (which >= 0) {
        a->pid = servers[which].pid;
        a->socket = mp_move(&servers[which].socket);
    }
    for (int i = 0; i < n; i++)
        mp_free(servers[i].socket);
    mp_free(runtime);
    return which >= 0 ? 0 : MP_EXIT_USAGE;
}

/* ---- a question ---- */

static int say_error(struct mp_ask *a, const struct mp_reply *r)
{
    const struct mp_val *v = mp_doc_parse(a->arena, r->body.data, r->body.len, NULL);
    const char *message = v ? mp_val_text(mp_val_get(v, "error"), "message") : "";
    size_t n = strlen(message);
    struct mp_buf b = {0};
    while (n > 0 && message[n - 1] == '\n')
        n--;
    if (memchr(message, '\n', n)) { /* a configuration's problems: as `moonpool check` prints them */
        for (size_t i = 0; i < n; i++)
            mp_buf_putc(&b, (unsigned char)message[i] < 0x20 && message[i] != '\n' && message[i] != '\t' ? '?'
                                                                                                         : message[i]);
        fprintf(stderr, "%s\n", mp_buf_cstr(&b));
    } else {
        char *line = mp_strndup(message, n);
        mp_show_plain(&b, n > 0 ? line : "the server's answer cannot be read");
        mp_ask_failed(a, "%s", mp_buf_cstr(&b));
        mp_free(line);
    }
    mp_buf_free(&b);
    return MP_EXIT_FAILED;
}

int mp_ask(struct mp_ask *a, const char *method, const char *path, const char *body, bool retry, struct mp_reply *r)
{
    uint64_t began = now_ms();
    bool cut = false;
    struct patience w = {.ask = a, .began = began, .until = UINT64_MAX};
    if (a->timeout > 0)
        w.until = began + (uint64_t)(a->timeout * 1000);
    else if (retry)
        w.until = began + GATEWAY_MS;
    for (;;) {
        enum outcome o = exchange(a->socket, method, path, body, &w, r);
        switch (o) {
        case DONE: return r->status < 300 ? 0 : say_error(a, r);
        case AWAY: return mp_ask_failed(a, "the server (pid %d) is gone", a->pid);
        case BAD: return mp_ask_failed(a, "what answers at %s is no moonpool", a->socket);
        case LATE:
            if (!cut)
                return mp_ask_failed(a, "the server (pid %d) has not answered in time (--timeout SECONDS)", a->pid);
            break;
        case CUT: cut = true; break;
        }
        if (!retry)
            return mp_ask_failed(a, "the gateway ended before it had answered, and is started again: `moonpool "
                                    "generations` tells what serves");
        if (now_ms() >= w.until)
            return mp_ask_failed(a, "the gateway of the server (pid %d) ends each time before it has answered", a->pid);
        say_waiting(&w);
        poll(NULL, 0, AGAIN_MS);
    }
}

const struct mp_val *mp_ask_get(struct mp_ask *a, const char *path, int *code)
{
    struct mp_reply r = {0};
    const struct mp_val *v = NULL;
    struct mp_err err = {0};
    *code = mp_ask_find(a);
    if (*code == 0)
        *code = mp_ask(a, "GET", path, NULL, true, &r);
    if (*code == 0 && a->json)
        mp_show_out(&r.body);
    else if (*code == 0 && !(v = mp_doc_parse(a->arena, r.body.data, r.body.len, &err)))
        *code = mp_ask_failed(a, "the server's answer cannot be read: %s", err.message);
    mp_reply_free(&r);
    return v;
}

static int print_reloaded(struct mp_ask *a, const struct mp_reply *r)
{
    struct mp_err err = {0};
    const struct mp_val *v;
    unsigned long long n;
    if (a->json) {
        mp_show_out(&r->body);
        return MP_EXIT_OK;
    }
    v = mp_doc_parse(a->arena, r->body.data, r->body.len, &err);
    if (!v)
        return mp_ask_failed(a, "the server's answer cannot be read: %s", err.message);
    n = (unsigned long long)mp_val_number(v, "generation");
    if (mp_val_true(v, "unchanged"))
        printf("nothing changed: generation %llu serves\n", n);
    else if (mp_val_true(v, "dry_run"))
        printf("fine: it would be generation %llu\n", n);
    else
        printf("generation %llu serves\n", n);
    for (const char *p = mp_val_text(v, "text"); *p;) { /* a line each */
        struct mp_buf line = {0};
        size_t len = strcspn(p, "\n");
        char *one = mp_strndup(p, len);
        mp_show_plain(&line, one);
        printf("  %s\n", mp_buf_cstr(&line));
        mp_free(one);
        mp_buf_free(&line);
        p += len + (p[len] == '\n');
    }
    return MP_EXIT_OK;
}

int mp_ask_reload(struct mp_ask *a, const char *path, const char *body)
{
    struct mp_reply r = {0};
    int code = mp_ask_find(a);
    if (code == 0)
        code = mp_ask(a, "POST", path, body, false, &r);
    if (code == 0)
        code = print_reloaded(a, &r);
    mp_reply_free(&r);
    return code;
}

void mp_reply_free(struct mp_reply *r)
{
    mp_buf_free(&r->body);
}

void mp_ask_free(struct mp_ask *a)
{
    mp_free(a->socket);
    mp_arena_free(a->arena);
}
