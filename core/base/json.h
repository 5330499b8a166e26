/* core/base/json.h — JSON (RFC 8259): a strict pull reader over untrusted bytes, and a writer.
 * Used by the wire's PREPARE payloads, chat templates, mp.json and every HTTP body. */
#ifndef MP_JSON_H
#define MP_JSON_H
#include "core/base/buf.h"
#include "core/base/err.h"

enum mp_json_tok {
    MP_JSON_ERROR, /* the reader's err says what and where; every later call gives ERROR again */
    MP_JSON_END,   /* the one value is complete and only white space follows */
    MP_JSON_NULL,
    MP_JSON_TRUE,
    MP_JSON_FALSE,
    MP_JSON_NUMBER, /* number, and text as written */
    MP_JSON_STRING, /* text: unescaped, valid UTF-8, may hold NUL */
    MP_JSON_KEY,    /* as STRING; the member's value follows */
    MP_JSON_OBJECT,
    MP_JSON_OBJECT_END,
    MP_JSON_ARRAY,
    MP_JSON_ARRAY_END,
};

enum { MP_JSON_MAX_DEPTH = 64, MP_JSON_MAX_VALUES = 100000 };

struct mp_json {
    const char *text;  /* of STRING, KEY, NUMBER: valid until the next call */
    size_t len;        /* bytes in text */
    double number;     /* finite */
    bool integer;      /* NUMBER was written without fraction and exponent and lies within ±2^53 */
    size_t start;      /* byte offset of the token just returned in the input */
    struct mp_err err; /* MP_EFORMAT, or MP_ELIMIT for depth and number of values; "line 1, column 7: …" */
    /* private */
    const char *in;
    size_t n, at;
    uint32_t depth, values, max_depth, max_values;
    uint8_t state, stack[MP_JSON_MAX_DEPTH];
    struct mp_buf scratch;
};

/* in: n bytes, borrowed until mp_json_free. max_depth 1..64 and max_values, 0 for the defaults above. */
void mp_json_init(struct mp_json *j, const char *in, size_t n, uint32_t max_depth, uint32_t max_values);
void mp_json_free(struct mp_json *j);
enum mp_json_tok mp_json_next(struct mp_json *j);
/* After OBJECT or ARRAY (or a scalar): reads to its end. Returns 0 or the error's code. tok: the token just returned. */
int mp_json_skip(struct mp_json *j, enum mp_json_tok tok);
/* Offset just behind the token last returned; with `start`, the span of a skipped value. */
size_t mp_json_offset(const struct mp_json *j);
/* True when the n bytes are one valid JSON value within the limits; else err says where. */
int mp_json_check(const char *in, size_t n, uint32_t max_depth, uint32_t max_values, struct mp_err *err);

/* Writer: appends; the caller puts commas and brackets. Bytes that are not UTF-8 become U+FFFD. */
void mp_json_put_string(struct mp_buf *b, const char *s, size_t n); /* with quotes */
void mp_json_put_number(struct mp_buf *b, double v);                /* shortest form that reads back equal; v finite */
void mp_json_put_int(struct mp_buf *b, int64_t v);

#endif
