/* gpu/fake/fake.h — what specs may do to the scripted device beyond gpu/device.h: move its clock, read what it was asked, and
 * whether its caller broke a rule. What it does by itself: README.md. From the owning thread, as everything else. */
#ifndef MP_FAKE_H
#define MP_FAKE_H
#include "core/base/buf.h"
#include "gpu/device.h"

/* Virtual time (time=virtual) goes on by ns. */
void mp_fake_advance(struct mp_dev *dev, uint64_t ns);
/* The device's clock, ns. */
uint64_t mp_fake_now(struct mp_dev *dev);
/* Appends what was asked so far, a line each, and forgets it:
 *   forward ticket=1 exec=1 tok=6 out=2 | slot=0 pos=0 n=5 | slot=3 pos=7 n=1
 *   sample ticket=2 | slot=0 index=5 | slot=3 index=8
 *   done ticket=1                       when its work was carried out
 *   slot_set exec=1 slot=0 n=0   execs are numbered as they are built
 * At most 1 MiB is kept; what would go beyond is dropped. */
void mp_fake_log(struct mp_dev *dev, struct mp_buf *out);
/* Rules that the caller broke so far; the text of the first is appended to out (NULL is fine). */
uint32_t mp_fake_violations(struct mp_dev *dev, struct mp_buf *out);

#endif
