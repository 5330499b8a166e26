/* core/gateway/sockets.c — see sockets.h. */
#include "core/gateway/sockets.h"

#include "core/base/log.h"

#include <string.h>
#include <unistd.h>

const struct mp_socket *mp_sockets_find(const struct mp_sockets *s, const struct mp_address *asked)
{
    for (uint32_t i = 0; s && i < s->n; i++)
        if (strcmp(s->list[i].asked.host, asked->host) == 0 && s->list[i].asked.port == asked->port)
            return &s->list[i];
    return NULL;
}

static int ask(struct mp_socket *out, const struct mp_sockets_options *o, const struct mp_address *a,
               struct mp_err *err)
{
    struct mp_ctl_msg m = {.type = MP_CTL_LISTEN, .count = o->workers, .address = *a};
    uint32_t n = 0;
    int rc = mp_ctl_ask(o->ctl_fd, &m, out->fds, &n, err);
    if (rc == 0 && n != o->workers) {
        while (n > 0)
            close(out->fds[--n]);
        rc = mp_err_set(err, MP_EINTERNAL, "the supervisor did not give a socket per worker");
    }
    out->asked = *a;
    out->real = m.address;
    return rc;
}

static int add(struct mp_sockets *s, const struct mp_sockets_options *o, const char *text,
               const struct mp_sockets *have, struct mp_err *err)
{
    struct mp_address a;
    const struct mp_socket *there;
    int rc = s->n == MP_SOCKETS_MAX ? mp_err_set(err, MP_ELIMIT, "more than %d addresses to listen on", MP_SOCKETS_MAX)
                                    : mp_address_parse(&a, text, err);
    if (rc < 0)
        return rc;
    if (!a.loopback)
        return mp_err_set(
            err, MP_EINVAL,
            "%s%s: without API keys moonpool listens on loopback only (127.0.0.1, [::1]), and keys are not yet "
            "built",
            o->n_given ? "--listen " : "mp.server: listen ", text);
    there = mp_sockets_find(have, &a);
    if (there)
        s->list[s->n] = *there;
    else
        rc = ask(&s->list[s->n], o, &a, err);
    s->n += rc == 0;
    return rc;
}

int mp_sockets_get(struct mp_sockets *out, const struct mp_sockets_options *o, const struct mp_config *config,
                   const struct mp_sockets *have, struct mp_problems *problems)
{
    uint32_t n = o->n_given ? o->n_given : config->server.n_listen;
    int rc = 0;
    *out = (struct mp_sockets){.workers = o->workers};
    for (uint32_t i = 0; i < n; i++) {
        struct mp_err err = {0};
        if (add(out, o, o->n_given ? o->given[i] : config->server.listen[i].text, have, &err) < 0) {
            mp_problems_add(problems, NULL, NULL, 0, 0, 0, NULL, "%s", err.message);
            rc = err.code;
        }
    }
    if (rc < 0)
        mp_sockets_drop(out, o, have);
    return rc;
}

static void socket_close(struct mp_socket *s, uint32_t workers)
{
    for (uint32_t k = 0; k < workers; k++)
        close(s->fds[k]);
}

void mp_sockets_drop(struct mp_sockets *s, const struct mp_sockets_options *o, const struct mp_sockets *keep)
{
    for (uint32_t i = 0; i < s->n; i++) {
        struct mp_socket *a = &s->list[i];
        struct mp_ctl_msg m = {.type = MP_CTL_UNLISTEN, .address = a->asked};
        if (mp_sockets_find(keep, &a->asked))
            continue;
        socket_close(a, s->workers);
        if (mp_ctl_send(o->ctl_fd, &m, NULL, 0) < 0)
            mp_warn("cannot tell the supervisor that an address is not listened on any more");
    }
    s->n = 0;
}

void mp_sockets_close(struct mp_sockets *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        socket_close(&s->list[i], s->workers);
    s->n = 0;
}
