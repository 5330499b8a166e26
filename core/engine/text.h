/* core/engine/text.h — a completion's bytes on their way out: stop strings found across token borders, UTF-8 never cut, bytes
 * that are not UTF-8 made U+FFFD. One per sequence; used by seq.c. What comes out does not depend on how the bytes were cut. */
#ifndef MP_TEXT_H
#define MP_TEXT_H
#include "core/base/buf.h"
#include "core/wire/msg.h"

struct mp_text {
    struct mp_buf held; /* bytes that may still begin a stop string, or a character */
    struct mp_stop {
        uint16_t n;
        char bytes[MP_MSG_MAX_STOP];
    } * stop; /* [n_stop] */
    uint32_t n_stop;
};

void mp_text_init(struct mp_text *t, const struct mp_span *stops, uint32_t n); /* stops are copied */
void mp_text_free(struct mp_text *t);
/* Takes a token's bytes; appends what is safe to show to out. Returns the stop that ended first (among those, the longest), and
 * then everything before it has been appended and the rest dropped; or -1. */
int mp_text_feed(struct mp_text *t, const char *s, size_t n, struct mp_buf *out);
void mp_text_finish(struct mp_text *t, struct mp_buf *out); /* no more bytes come: appends what was held back */

#endif
