/* spec/fuzz/wire_fuzz.c — arbitrary bytes as the wire reads them: as a stream of frames through a connection, and as the payload
 * of every message. Whatever decodes must encode to the very same bytes. */
#include "core/base/mem.h"
#include "core/wire/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Spans must lie inside what was decoded: re-encoding reads every byte of them, so ASan sees one that does not. */
static void same_again(const struct mp_msg *m, const void *frame, size_t n)
{
    struct mp_buf out = {0};
    struct mp_err err = {0};
    int rc = mp_msg_encode(&out, m, &err);
    if (rc < 0 || out.len != n || memcmp(out.data, frame, n) != 0) {
        fprintf(stderr, "message %s did not encode to what it was decoded from: %s\n", mp_msg_name(m->type),
                err.message);
        abort();
    }
    mp_buf_free(&out);
}

static void as_payload(const uint8_t *data, size_t n)
{
    for (uint16_t type = 0; type < 30; type++) { /* and some that there are not */
        /* A copy of exactly that size, so that a read past the end is seen. */
        uint8_t *frame = mp_malloc(MP_FRAME_HEAD + n);
        uint32_t rest = (uint32_t)(MP_FRAME_HEAD - 4 + n);
        struct mp_msg m;
        memset(frame, 0, MP_FRAME_HEAD);
        memcpy(frame, &rest, 4);
        memcpy(frame + 4, &type, 2);
        frame[8] = 7;
        if (n > 0)
            memcpy(frame + MP_FRAME_HEAD, data, n);
        if (mp_msg_decode(&m, type, 0, 7, frame + MP_FRAME_HEAD, n, NULL) == 0)
            same_again(&m, frame, MP_FRAME_HEAD + n);
        mp_free(frame);
    }
}

static void as_stream(const uint8_t *data, size_t n)
{
    int fds[2];
    struct mp_err err = {0};
    struct mp_msg m;
    if (n > 16384 || mp_wire_pair(fds, &err) < 0)
        return;
    struct mp_wire *w = mp_wire_new(fds[0], MP_PEER_ENGINE), *peer = mp_wire_new(fds[1], MP_PEER_GATEWAY);
    int rc = 0;
    /* The first byte says whether a proper HELLO comes first. */
    if (n > 0 && data[0] & 1)
        rc = mp_wire_writable(peer, &err);
    if (rc == 0 && n > 1)
        rc = send(fds[1], data + 1, n - 1, MSG_NOSIGNAL) == (ssize_t)(n - 1) ? 0 : -1;
    (void)shutdown(fds[1], SHUT_WR);
    while (rc == 0) {
        rc = mp_wire_readable(w, &err);
        int got;
        while ((got = mp_wire_next(w, &m, &err)) == 1) {
            struct mp_buf out = {0};
            if (mp_msg_encode(&out, &m, &err) < 0)
                abort();
            mp_buf_free(&out);
        }
        if (got < 0 && err.message[0] == 0)
            abort(); /* every refusal says why */
        rc = rc < 0 ? rc : got;
    }
    mp_wire_free(w);
    mp_wire_free(peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    as_payload(data, n);
    as_stream(data, n);
    return 0;
}
