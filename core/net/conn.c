/* core/net/conn.c — see conn.h. What happens to a connection happens in three places: on_poll (bytes came, the client left),
 * flush (before the loop sleeps: heads, frames, one write, what follows a complete answer) and on_timer (deadlines). */
#include "core/net/conn.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/net/response.h"
#include "core/net/response_state.h"
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>

enum { CONN_MAGIC = 0x6e6e6f63, AHEAD = MP_READ_CHUNK, KEEP_BUFFER = 16384 };

enum state {
    IDLE,    /* between requests */
    HEAD,    /* some bytes of one */
    BODY,    /* on_request was called, the body is coming */
    WAIT,    /* the request is read (or answered early); the answer is under way */
    CLOSING, /* a refusal is being written */
    LINGER,  /* everything is written; what the client still sends is dropped, so that it can read the answer */
    CLOSED,
};

struct mp_conn {
    uint32_t magic;
    enum state state;
    struct mp_conn_host *host;
    struct mp_conn *next, **prev;             /* all connections */
    struct mp_conn *dirty_next, **dirty_prev; /* dirty_prev: NULL when not listed */
    uv_poll_t poll;
    uv_timer_t timer;
    int handles; /* open uv handles; the last one to close frees */
    int watched; /* events that poll waits for */
    struct mp_transport io;
    struct mp_http1 http;
    struct mp_buf in; /* read, behind the current request */
    size_t in_at;
    struct mp_buf out; /* ready for the wire */
    size_t out_at;
    struct mp_req *req; /* from on_request to on_end */
    uint64_t requests;
    bool close_after; /* no request after this answer */
    bool blocked;     /* the kernel takes no more at present */
    bool gone;        /* FIN was seen */
    char remote[64];
    uint64_t since_ms;    /* the state's start */
    uint64_t byte_ms;     /* last byte of the body */
    uint64_t body_bytes;  /* as they came, framing included */
    uint64_t progress_ms; /* the kernel last took something, or had nothing to take */
    uint64_t timer_due;   /* 0: not running */
};

static uint64_t now_ms(const struct mp_conn *c)
{
    return mp_evloop_now_ms(c->host->loop);
}

static void enter(struct mp_conn *c, enum state state)
{
    c->state = state;
    c->since_ms = now_ms(c);
}

/* An idle handle that runs keeps the loop from sleeping; that is all it is for. */
static void stay_awake(uv_idle_t *idle)
{
    (void)idle;
}

void mp_conn_wake(struct mp_conn_host *h)
{
    if (!h->awake_on)
        uv_idle_start(&h->awake, stay_awake);
    h->awake_on = true;
}

void mp_conn_dirty(struct mp_conn *c)
{
    struct mp_conn_host *h = c->host;
    if (c->state == CLOSED || c->dirty_prev)
        return;
    c->dirty_next = h->dirty;
    if (h->dirty)
        h->dirty->dirty_prev = &c->dirty_next;
    c->dirty_prev = &h->dirty;
    h->dirty = c;
    mp_conn_wake(h);
}

static void clean(struct mp_conn *c)
{
    if (!c->dirty_prev)
        return;
    *c->dirty_prev = c->dirty_next;
    if (c->dirty_next)
        c->dirty_next->dirty_prev = c->dirty_prev;
    c->dirty_prev = NULL;
}

size_t mp_conn_unsent(const struct mp_conn *c)
{
    size_t n = c->out.len - c->out_at;
    if (c->req)
        n += c->req->res->data.len + c->req->res->body.len - c->req->res->body_at;
    return n;
}

size_t mp_conn_high_water(const struct mp_conn *c)
{
    return c->host->limits.high_water;
}

uint64_t mp_conn_now_ms(const struct mp_conn *c)
{
    return now_ms(c);
}

bool mp_conn_idle(const struct mp_conn *c)
{
    return c->state == IDLE;
}

struct mp_conn *mp_conn_next(const struct mp_conn *c)
{
    return c->next;
}

/* ---- the end of a request, the end of a connection ---- */

static void end_request(struct mp_conn *c)
{
    struct mp_conn_host *h = c->host;
    struct mp_req *req = mp_move(&c->req);
    req->conn = NULL;
    mp_gauge_add(h, requests, -1);
    mp_gauge_add(h, served, 1);
    if (h->handler.on_end)
        h->handler.on_end(h->handler.ctx, req);
    mp_req_unref(req);
}

static void abort_request(struct mp_conn *c, enum mp_abort why)
{
    struct mp_conn_host *h = c->host;
    struct mp_req *req = c->req;
    if (!req)
        return;
    if (!mp_res_ended(req)) {
        req->res->aborted = true;
        if (!req->res->head_made)
            req->res->status = 499;
        h->handler.on_abort(h->handler.ctx, req, why);
    }
    end_request(c);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct mp_conn *c = handle->data;
    if (--c->handles)
        return;
    mp_http1_free(&c->http);
    mp_buf_free(&c->in);
    mp_buf_free(&c->out);
    c->magic = 0;
    mp_free(c);
}

void mp_conn_close(struct mp_conn *c, enum mp_abort why)
{
    struct mp_conn_host *h = c->host;
    if (c->state == CLOSED)
        return;
    clean(c);
    c->state = CLOSED;
    uv_close((uv_handle_t *)&c->poll, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    c->io.ops->close(c->io.ctx, c->io.fd);
    *c->prev = c->next;
    if (c->next)
        c->next->prev = c->prev;
    mp_gauge_add(h, connections, -1);
    abort_request(c, why);
    h->removed(h);
}

/* Nothing more will be written. Closing while the client still sends would reset the connection, and the reset can destroy
 * the answer on its way: read on for a while where something may be coming. */
static void finish(struct mp_conn *c)
{
    int unread = 0;
    ioctl(c->io.fd, FIONREAD, &unread);
    bool quiet = unread == 0 && c->in.len == c->in_at && mp_http1_done(&c->http);
    if (c->gone || quiet) {
        mp_conn_close(c, MP_ABORT_CLIENT);
        return;
    }
    c->io.ops->finish(c->io.ctx, c->io.fd);
    mp_buf_free(&c->in);
    c->in_at = 0;
    enter(c, LINGER);
    mp_conn_dirty(c);
}

static const char *refusal_code(int status)
{
    switch (status) {
    case 408: return "request_timeout";
    case 413: return "body_too_large";
    case 414: return "uri_too_long";
    case 417: return "expectation_failed";
    case 431: return "headers_too_large";
    case 501: return "not_implemented";
    case 505: return "version_not_supported";
    default: return "bad_request";
    }
}

static const char *http_date(struct mp_conn_host *h)
{
    uint64_t s = mp_clock_wall_ns() / 1000000000;
    if (s != h->date_s) {
        time_t t = (time_t)s;
        struct tm tm;
        strftime(h->date, sizeof h->date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&t, &tm));
        h->date_s = s;
    }
    return h->date;
}

/* The server's own answer to what cannot be read as a request; the connection ends with it. */
static void refuse(struct mp_conn *c, int status, const char *reason, enum mp_abort why)
{
    mp_gauge_add(c->host, refused, 1);
    mp_debug("%s: refused with %d: %s", c->remote, status, reason);
    char id[sizeof c->req->id] = "";
    bool begun = false, head = c->http.head_done && llhttp_get_method(&c->http.parser) == HTTP_HEAD;
    if (c->req) {
        memcpy(id, c->req->id, sizeof id);
        begun = mp_res_started(c->req);
        abort_request(c, why);
    }
    if (c->state == CLOSED)
        return;
    if (begun) { /* in mid-answer no other can be sent */
        mp_conn_close(c, why);
        return;
    }
    struct mp_buf body = {0};
    mp_res_error_body(&body, status, refusal_code(status), reason, id[0] ? id : NULL);
    mp_buf_printf(&c->out,
                  "HTTP/1.1 %d %s\r\ndate: %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n"
                  "connection: close\r\n\r\n",
                  status, mp_status_text(status), http_date(c->host), body.len);
    if (!head)
        mp_buf_put(&c->out, body.data, body.len);
    mp_buf_free(&body);
    enter(c, CLOSING);
    mp_conn_dirty(c);
}

/* ---- reading ---- */

static void on_body_complete(struct mp_conn *c)
{
    struct mp_req *req = c->req;
    struct mp_handler *handler = &c->host->handler;
    enter(c, WAIT);
    if (mp_res_ended(req))
        return;
    if (c->http.body.len) {
        req->body = req->body_memory = mp_buf_take(&c->http.body, &req->body_len);
    }
    handler->on_body(handler->ctx, req);
}

static void on_head_complete(struct mp_conn *c)
{
    struct mp_req *req = c->req = mp_http1_take(&c->http);
    struct mp_handler *handler = &c->host->handler;
    memcpy(req->remote, c->remote, sizeof req->remote);
    req->conn = c;
    c->requests++;
    c->body_bytes = 0;
    c->byte_ms = now_ms(c);
    enter(c, BODY);
    mp_gauge_add(c->host, requests, 1);
    handler->on_request(handler->ctx, req);
    if (c->state == CLOSED)
        return;
    c->http.body_limit = req->body_limit;
    if (!mp_http1_body_fits(&c->http) && !mp_res_ended(req)) {
        refuse(c, c->http.status, c->http.reason, MP_ABORT_BODY);
    } else if (mp_http1_done(&c->http)) {
        on_body_complete(c);
    } else if (c->http.expect_continue && !mp_res_started(req)) { /* not when answered without its body */
        mp_buf_puts(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
        mp_conn_dirty(c);
    }
}

/* Returns how many bytes were of this request; the rest is the next one's. */
static size_t feed(struct mp_conn *c, const char *data, size_t n)
{
    size_t at = 0;
    while (at < n && c->state <= BODY) {
        size_t used;
        enum mp_http1_event event = mp_http1_feed(&c->http, data + at, n - at, &used);
        at += used;
        if (c->state == IDLE && c->http.started)
            enter(c, HEAD);
        if (c->state == BODY && used) {
            c->body_bytes += used;
            c->byte_ms = now_ms(c);
        }
        if (event == MP_HTTP1_HEAD) {
            on_head_complete(c);
        } else if (event == MP_HTTP1_DONE) {
            on_body_complete(c);
        } else if (event == MP_HTTP1_ERROR && c->req && mp_res_ended(c->req)) {
            enter(c, WAIT); /* answered already; the unfinished body closes the connection */
        } else if (event == MP_HTTP1_ERROR) {
            refuse(c, c->http.status, c->http.reason, MP_ABORT_BODY);
        }
    }
    return at;
}

/* What came behind the last request. */
static void feed_ahead(struct mp_conn *c)
{
    if (c->in_at < c->in.len)
        c->in_at += feed(c, c->in.data + c->in_at, c->in.len - c->in_at);
    if (c->in_at == c->in.len) {
        mp_buf_free(&c->in);
        c->in_at = 0;
    }
}

static void on_gone(struct mp_conn *c)
{
    if (c->gone)
        return;
    c->gone = c->close_after = true;
    if (c->state <= BODY || c->state == LINGER || (c->req && !mp_res_ended(c->req) && !c->req->half_close))
        mp_conn_close(c, MP_ABORT_CLIENT);
}

static void read_some(struct mp_conn *c)
{
    struct mp_conn_host *h = c->host;
    ssize_t got = c->io.ops->read(c->io.ctx, c->io.fd, h->scratch, h->read_cap);
    if (got == MP_EAGAIN)
        return;
    if (got < 0) {
        mp_conn_close(c, MP_ABORT_CLIENT);
        return;
    }
    if (got == 0) {
        on_gone(c);
        return;
    }
    size_t n = (size_t)got, used = 0;
    mp_gauge_add(h, bytes_in, n);
    if (c->state <= BODY)
        used = feed(c, h->scratch, n);
    if (used < n && c->state == WAIT && mp_http1_done(&c->http))
        mp_buf_put(&c->in, h->scratch + used, n - used);
}

static bool may_read(const struct mp_conn *c)
{
    return !c->gone && c->state != CLOSING && c->in.len - c->in_at < AHEAD;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct mp_conn *c = poll->data;
    if (c->magic != CONN_MAGIC)
        abort();
    if (status < 0) { /* reset */
        mp_conn_close(c, MP_ABORT_CLIENT);
        return;
    }
    if ((events & UV_READABLE) && may_read(c))
        read_some(c);
    if ((events & UV_DISCONNECT) && c->state >= WAIT && c->state != LINGER && c->state != CLOSED)
        on_gone(c);
    if (events & UV_WRITABLE)
        c->blocked = false;
    mp_conn_dirty(c); /* flush decides what to watch from now on, once per turn */
}

/* ---- writing ---- */

static void make_head(struct mp_conn *c)
{
    struct mp_req *req = c->req;
    struct mp_res *res = req->res;
    bool keep = c->http.keep_alive && !c->close_after && !c->host->stopping && mp_http1_done(&c->http) &&
                c->requests < c->host->limits.keepalive_requests;
    bool no_body = res->status == 204 || res->status == 304;
    res->chunked = !res->whole && !no_body && req->minor == 1;
    if (!res->whole && !no_body && req->minor == 0)
        keep = false; /* HTTP/1.0: the end of the stream is the end of the connection */
    c->close_after = !keep;
    mp_buf_printf(&c->out, "HTTP/1.1 %d %s\r\ndate: %s\r\n", res->status, mp_status_text(res->status),
                  http_date(c->host));
    mp_buf_put(&c->out, res->headers.data, res->headers.len);
    if (res->whole && !no_body)
        mp_buf_printf(&c->out, "content-length: %zu\r\n", res->body.len);
    if (res->chunked)
        mp_buf_puts(&c->out, "transfer-encoding: chunked\r\n");
    if (!keep)
        mp_buf_puts(&c->out, "connection: close\r\n");
    else if (req->minor == 0)
        mp_buf_puts(&c->out, "connection: keep-alive\r\n");
    mp_buf_puts(&c->out, "\r\n");
    if (mp_res_bodiless(req)) {
        mp_buf_free(&res->body);
        res->chunked = false;
    }
    res->head_made = true;
}

/* Moves what the handler wrote to the wire's buffer. */
static void frame(struct mp_conn *c)
{
    struct mp_res *res = c->req->res;
    if (res->state == MP_RES_OPEN || res->aborted)
        return;
    if (!res->head_made)
        make_head(c);
    if (res->whole)
        return;
    if (res->data.len) {
        if (res->chunked)
            mp_buf_printf(&c->out, "%zx\r\n", res->data.len);
        mp_buf_put(&c->out, res->data.data, res->data.len);
        if (res->chunked)
            mp_buf_puts(&c->out, "\r\n");
        mp_buf_clear(&res->data);
    }
    if (res->state == MP_RES_ENDED && res->chunked) {
        mp_buf_puts(&c->out, "0\r\n\r\n");
        res->chunked = false;
    }
}

static int write_out(struct mp_conn *c)
{
    struct mp_res *res = c->req ? c->req->res : NULL;
    if (!c->blocked)
        c->progress_ms = now_ms(c);
    while (!c->blocked) {
        struct iovec iov[2];
        int count = 0;
        size_t out_left = c->out.len - c->out_at, body_left = res && res->head_made ? res->body.len - res->body_at : 0;
        if (out_left)
            iov[count++] = (struct iovec){c->out.data + c->out_at, out_left};
        if (body_left)
            iov[count++] = (struct iovec){res->body.data + res->body_at, body_left};
        if (!count)
            break;
        ssize_t put = c->io.ops->writev(c->io.ctx, c->io.fd, iov, count);
        if (put == MP_EAGAIN)
            c->blocked = true;
        else if (put < 0)
            return MP_EIO;
        if (put <= 0)
            break;
        size_t n = (size_t)put, of_out = n < out_left ? n : out_left;
        c->progress_ms = now_ms(c);
        mp_gauge_add(c->host, bytes_out, n);
        c->out_at += of_out;
        if (res) {
            res->body_at += n - of_out;
            res->sent += n;
        }
    }
    if (c->out_at == c->out.len) {
        c->out_at = 0;
        if (c->out.cap > KEEP_BUFFER)
            mp_buf_free(&c->out);
        else
            mp_buf_clear(&c->out);
    } else if (c->out_at > KEEP_BUFFER && c->out_at > c->out.len / 2) {
        mp_buf_drop(&c->out, c->out_at);
        c->out_at = 0;
    }
    return 0;
}

static void answer_complete(struct mp_conn *c)
{
    bool close = c->close_after || c->host->stopping || !mp_http1_done(&c->http);
    end_request(c);
    if (c->state == CLOSED)
        return;
    if (close) {
        finish(c);
        return;
    }
    mp_http1_reset(&c->http);
    enter(c, IDLE);
    feed_ahead(c);
}

static void watch(struct mp_conn *c)
{
    int want = c->blocked ? UV_WRITABLE : 0;
    if (may_read(c))
        want |= UV_READABLE;
    if (!c->gone && c->state != LINGER)
        want |= UV_DISCONNECT;
    if (want == c->watched)
        return;
    c->watched = want;
    if (want)
        uv_poll_start(&c->poll, want, on_poll);
    else
        uv_poll_stop(&c->poll);
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool pings(const struct mp_conn *c)
{
    return c->req && c->req->res->sse && !mp_res_ended(c->req) && mp_conn_unsent(c) == 0;
}

static uint64_t deadline(const struct mp_conn *c)
{
    const struct mp_net_limits *l = &c->host->limits;
    uint64_t due = UINT64_MAX;
    if (c->state == IDLE)
        due = c->since_ms + l->keepalive_ms;
    else if (c->state == HEAD)
        due = c->since_ms + l->header_ms;
    else if (c->state == LINGER)
        due = c->since_ms + l->linger_ms;
    if (c->state == BODY) {
        due = sooner(c->byte_ms + l->body_idle_ms, c->since_ms + l->body_ms);
        if (l->body_rate)
            due = sooner(due, c->since_ms + l->body_grace_ms + c->body_bytes * 1000 / l->body_rate);
    }
    if (c->blocked)
        due = sooner(due, c->progress_ms + l->write_ms);
    if (pings(c))
        due = sooner(due, c->req->res->touched_ms + l->sse_ping_ms);
    return due;
}

static void on_timer(uv_timer_t *timer);

/* The timer may run to an older, sooner deadline: it then looks again. */
static void arm(struct mp_conn *c)
{
    uint64_t due = deadline(c), now = now_ms(c);
    if (due == UINT64_MAX || (c->timer_due && c->timer_due <= due))
        return;
    c->timer_due = due > now ? due : now + 1;
    uv_timer_start(&c->timer, on_timer, c->timer_due - now, 0);
}

static void on_timer(uv_timer_t *timer)
{
    struct mp_conn *c = timer->data;
    uint64_t now = now_ms(c);
    c->timer_due = 0;
    if (now < deadline(c)) {
        arm(c);
        return;
    }
    if (c->blocked && now >= c->progress_ms + c->host->limits.write_ms) {
        mp_conn_close(c, MP_ABORT_TIMEOUT);
    } else if (c->state == IDLE || c->state == LINGER) {
        mp_conn_close(c, MP_ABORT_CLIENT);
    } else if (c->state == HEAD) {
        refuse(c, 408, "the headers took too long", MP_ABORT_TIMEOUT);
    } else if (pings(c) && now >= c->req->res->touched_ms + c->host->limits.sse_ping_ms) {
        mp_res_write(c->req, ":\n\n", 3);
    } else if (c->state == BODY) {
        refuse(c, 408, "the body took too long", MP_ABORT_TIMEOUT);
    }
    mp_conn_dirty(c);
}

static void flush(struct mp_conn *c)
{
    struct mp_handler *handler = &c->host->handler;
    if (c->req && c->req->res->given_up) {
        mp_conn_close(c, MP_ABORT_CLIENT);
        return;
    }
    if (c->req)
        frame(c);
    if (write_out(c) < 0) {
        mp_conn_close(c, MP_ABORT_CLIENT);
        return;
    }
    struct mp_res *res = c->req ? c->req->res : NULL;
    if (res && res->full && mp_conn_unsent(c) <= mp_conn_high_water(c) / 4) {
        res->full = false;
        if (!mp_res_ended(c->req) && handler->on_writable)
            handler->on_writable(handler->ctx, c->req);
    }
    if (c->state != CLOSED && mp_conn_unsent(c) == 0) {
        if (res && res->state == MP_RES_ENDED && !res->given_up)
            answer_complete(c);
        else if (c->state == CLOSING)
            finish(c);
    }
    if (c->state == CLOSED)
        return;
    watch(c);
    arm(c);
}

void mp_conn_flush_all(struct mp_conn_host *h)
{
    struct mp_conn *batch = mp_move(&h->dirty);
    if (batch)
        batch->dirty_prev = &batch;
    while (batch) {
        struct mp_conn *c = batch;
        clean(c);
        flush(c);
    }
}

struct mp_conn *mp_conn_new(struct mp_conn_host *h, int fd, const char *remote, struct mp_err *err)
{
    struct mp_conn *c = mp_calloc(sizeof *c);
    uv_loop_t *loop = mp_evloop_uv(h->loop);
    c->magic = CONN_MAGIC;
    c->host = h;
    c->io = (struct mp_transport){&mp_transport_plain, NULL, fd};
    int rc = uv_poll_init(loop, &c->poll, fd);
    if (rc < 0) {
        mp_err_set(err, MP_EIO, "cannot watch a connection: %s", uv_strerror(rc));
        c->io.ops->close(c->io.ctx, fd);
        mp_free(c);
        return NULL;
    }
    uv_timer_init(loop, &c->timer);
    c->handles = 2;
    c->poll.data = c->timer.data = c;
    strncpy(c->remote, remote, sizeof c->remote - 1);
    mp_http1_init(&c->http, &h->limits);
    enter(c, IDLE);
    c->next = h->conns;
    if (h->conns)
        h->conns->prev = &c->next;
    c->prev = &h->conns;
    h->conns = c;
    mp_gauge_add(h, connections, 1);
    mp_gauge_add(h, accepted, 1);
    mp_conn_dirty(c);
    return c;
}
