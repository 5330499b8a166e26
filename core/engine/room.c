/* core/engine/room.c — see room.h. */
#include "core/engine/room.h"

#include "core/base/buf.h"
#include "core/base/mem.h"

struct mp_room {
    uint64_t limit;   /* 0: none */
    uint64_t loads;   /* bytes that loads hold */
    uint64_t beyond;  /* that sequences hold on top of it */
    uint32_t waiting; /* loads that wait for `beyond` to shrink */
};

struct mp_room *mp_room_new(void)
{
    return mp_calloc(sizeof(struct mp_room));
}

void mp_room_free(struct mp_room *r)
{
    mp_free(r);
}

void mp_room_limit(struct mp_room *r, uint64_t bytes)
{
    r->limit = bytes;
}

uint64_t mp_room_limit_get(const struct mp_room *r)
{
    return r->limit;
}

uint64_t mp_room_held(const struct mp_room *r)
{
    return r->loads + r->beyond;
}

static void put_size(struct mp_buf *out, uint64_t n)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)n;
    size_t unit = 0;
    for (; v >= 999.5 && unit + 1 < MP_COUNT(units); unit++)
        v /= 1024;
    mp_buf_printf(out, "%.3g %s", v, units[unit]);
}

int mp_room_refuse(uint64_t bytes, uint64_t taken, uint64_t limit, struct mp_err *err)
{
    struct mp_buf text = {0};
    mp_buf_puts(&text, "it needs ");
    put_size(&text, bytes);
    if (taken == 0) {
        mp_buf_puts(&text, ", the device has ");
        put_size(&text, limit);
        mp_buf_puts(&text, " in all");
    } else {
        mp_buf_puts(&text, ", ");
        put_size(&text, limit > taken ? limit - taken : 0);
        mp_buf_puts(&text, " of the device's ");
        put_size(&text, limit);
        mp_buf_puts(&text, " are free");
    }
    int rc = mp_err_set(err, MP_ENOMEM, "%s", mp_buf_cstr(&text));
    mp_buf_free(&text);
    return rc;
}

static bool fits(const struct mp_room *r, uint64_t taken, uint64_t bytes)
{
    return r->limit == 0 || (taken <= r->limit && bytes <= r->limit - taken);
}

int mp_room_load(struct mp_room *r, uint64_t bytes, struct mp_err *err)
{
    if (!fits(r, r->loads, bytes))
        return mp_room_refuse(bytes, r->loads, r->limit, err);
    if (!fits(r, r->loads + r->beyond, bytes))
        return mp_err_set(err, MP_EAGAIN, "the memory it needs is held by sequences that run");
    r->loads += bytes;
    return 0;
}

void mp_room_wait(struct mp_room *r, bool on)
{
    r->waiting += on ? 1u : UINT32_MAX;
}

bool mp_room_correct(struct mp_room *r, uint64_t from, uint64_t to)
{
    if (to > from && !fits(r, r->loads + r->beyond, to - from))
        return false;
    r->loads += to - from;
    return true;
}

void mp_room_unload(struct mp_room *r, uint64_t bytes)
{
    r->loads -= bytes;
}

bool mp_room_grow(struct mp_room *r, uint64_t bytes)
{
    if (bytes > 0 && (r->waiting > 0 || !fits(r, r->loads + r->beyond, bytes)))
        return false;
    r->beyond += bytes;
    return true;
}

void mp_room_shrink(struct mp_room *r, uint64_t bytes)
{
    r->beyond -= bytes;
}
