/* core/net/request.h — one HTTP request as the gateway and scripts see it. Made by conn.c, answered through response.h. */
#ifndef MP_REQUEST_H
#define MP_REQUEST_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_arena;
struct mp_conn;
struct mp_res;

struct mp_header {
    const char *name;  /* lower case, NUL-terminated, an RFC 9110 token */
    const char *value; /* NUL-terminated, without NUL, CR, LF and outer white space; any other byte may occur */
    size_t name_len, value_len;
};

/* Everything below is read-only to the handler unless it says otherwise, and lives as long as the request. */
struct mp_req {
    uint32_t magic;
    struct mp_arena *arena; /* the handler may allocate from it too */
    char id[25];            /* 24 random hexadecimal digits */
    char remote[64];        /* "127.0.0.1:5123", "[::1]:5123", or "unix" */
    const char *method;     /* GET HEAD POST PUT DELETE OPTIONS PATCH */
    const char *target; /* the path as sent, still percent-encoded, without query: match routes segment by segment */
    const char *path;   /* the path decoded: valid UTF-8 without NUL; NUL-terminated. "*" for OPTIONS * */
    const char *query;  /* behind '?', still encoded; "" when there is none */
    const char *host;   /* Host header or the absolute target's authority; "" only for HTTP/1.0 without Host */
    size_t path_len, query_len;
    int minor;                       /* 1 for HTTP/1.1, 0 for HTTP/1.0 */
    const struct mp_header *headers; /* in order of arrival */
    size_t header_count;
    const char *body; /* complete from on_body on; NUL-terminated behind body_len; "" when there is none */
    size_t body_len;
    uint64_t started_ns; /* mp_clock_mono_ns of the first byte */

    uint64_t body_limit; /* on_request may set it: bytes */
    bool half_close;     /* on_request may set it: FIN from the client does not abort */
    void *user;          /* the handler's own */

    struct mp_res *res;   /* private */
    struct mp_conn *conn; /* private; NULL once the network side is done */
    uint32_t refs;        /* private */
    bool head;            /* private: method is HEAD */
    char *body_memory;    /* private: what body points to, or NULL */
};

struct mp_req *mp_req_new(void); /* http1.c's: one reference, an arena, an id */

void mp_req_ref(struct mp_req *req);   /* keeps the request's memory beyond on_end */
void mp_req_unref(struct mp_req *req); /* the last one frees it */
/* The first header of that (lower-case) name, or NULL. */
const struct mp_header *mp_req_header(const struct mp_req *req, const char *name);
/* Percent-decodes n bytes into the arena; plus: '+' is a space (queries and forms). Returns NULL when an escape is broken, or
 * the result holds NUL or is not UTF-8. */
char *mp_url_decode(struct mp_arena *a, const char *s, size_t n, bool plus, size_t *len);
/* The next name=value of a query or form body; at: 0 first. false at the end. Spans are still encoded. */
bool mp_query_next(const char *query, size_t n, size_t *at, const char **name, size_t *name_len, const char **value,
                   size_t *value_len);

#endif
