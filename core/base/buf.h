/* core/base/buf.h — a growable byte buffer, and a bounds-checked cursor over bytes that came from outside.
 * Used by wire, net, json, model files. Numbers are little endian. */
#ifndef MP_BUF_H
#define MP_BUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_buf { /* zero-initialised is empty and valid */
    char *data; /* owned; not NUL-terminated unless mp_buf_cstr was called */
    size_t len, cap;
};

void mp_buf_free(struct mp_buf *b);                  /* leaves it empty */
void mp_buf_clear(struct mp_buf *b);                 /* len 0, memory kept */
void mp_buf_reserve(struct mp_buf *b, size_t extra); /* aborts when memory is out */
void mp_buf_put(struct mp_buf *b, const void *p, size_t n);
void mp_buf_puts(struct mp_buf *b, const char *s);
void mp_buf_putc(struct mp_buf *b, char c);
void mp_buf_printf(struct mp_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void mp_buf_u8(struct mp_buf *b, uint8_t v);
void mp_buf_u16(struct mp_buf *b, uint16_t v);
void mp_buf_u32(struct mp_buf *b, uint32_t v);
void mp_buf_u64(struct mp_buf *b, uint64_t v);
void mp_buf_f32(struct mp_buf *b, float v);
void mp_buf_f64(struct mp_buf *b, double v);
void mp_buf_drop(struct mp_buf *b, size_t n);   /* removes n bytes at the front; n <= len */
const char *mp_buf_cstr(struct mp_buf *b);      /* NUL behind the data, not counted in len */
char *mp_buf_take(struct mp_buf *b, size_t *n); /* NUL-terminated, now the caller's (mp_free); the buffer is empty */

/* Reading: after the first read past the end `bad` stays true and every read gives 0; check it once at the end. */
struct mp_rd {
    const unsigned char *p, *end;
    bool bad;
};

void mp_rd_init(struct mp_rd *r, const void *data, size_t n);
size_t mp_rd_left(const struct mp_rd *r);
uint8_t mp_rd_u8(struct mp_rd *r);
uint16_t mp_rd_u16(struct mp_rd *r);
uint32_t mp_rd_u32(struct mp_rd *r);
uint64_t mp_rd_u64(struct mp_rd *r);
float mp_rd_f32(struct mp_rd *r);
double mp_rd_f64(struct mp_rd *r);
const void *mp_rd_bytes(struct mp_rd *r, size_t n); /* borrowed; NULL and bad when fewer are left */

#endif
