/* core/base/utf8.h — UTF-8 (RFC 3629): checks on bytes that came from outside or out of a model. Used by json, net, engine. */
#ifndef MP_UTF8_H
#define MP_UTF8_H
#include "core/base/buf.h"

#define MP_UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

size_t mp_utf8_sequence(const char *s, size_t n);     /* length 1..4 of the valid sequence at s; 0 when there is none */
size_t mp_utf8_valid_prefix(const char *s, size_t n); /* bytes before the first that is not valid; n when all are */
size_t mp_utf8_decode(const char *s, size_t n, uint32_t *cp); /* as _sequence, and the code point */
size_t mp_utf8_encode(uint32_t cp, char out[4]);              /* cp: a scalar value; returns 1..4 */
/* Bytes at the end that begin a sequence which more bytes could complete (0..3): what a stream holds back. */
size_t mp_utf8_partial_tail(const char *s, size_t n);
/* Appends s with each maximal invalid part replaced by U+FFFD (Unicode 15, section 3.9, best practice). */
void mp_utf8_clean(struct mp_buf *out, const char *s, size_t n);

#endif
