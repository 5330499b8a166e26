/* core/model/gguf.h — a GGUF file (version 2 and 3, little endian), opened for reading: its header is read, checked and
 * kept; tensor data is read on demand. Used by the tokenizer, the plan builder, the weight loader and `moonpool inspect`.
 *
 * The file is hostile until proven otherwise: mp_gguf_open accepts it only when every count, length, offset and shape was
 * checked, names are unique, tensors lie inside the file and do not overlap. It is read with pread, never mapped: a file that
 * shrinks under us gives an error, not a SIGBUS. Immutable once open: any number of threads may use it at once. */
#ifndef MP_GGUF_H
#define MP_GGUF_H
#include "core/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_gguf;

/* id in the file, name, bytes per value (0: varies) */
#define MP_GGUF_TYPES(X)  \
    X(U8, 0, "u8", 1)     \
    X(I8, 1, "i8", 1)     \
    X(U16, 2, "u16", 2)   \
    X(I16, 3, "i16", 2)   \
    X(U32, 4, "u32", 4)   \
    X(I32, 5, "i32", 4)   \
    X(F32, 6, "f32", 4)   \
    X(BOOL, 7, "bool", 1) \
    X(STR, 8, "str", 0)   \
    X(ARR, 9, "arr", 0)   \
    X(U64, 10, "u64", 8)  \
    X(I64, 11, "i64", 8)  \
    X(F64, 12, "f64", 8)
enum mp_gguf_type {
#define X(code, id, name, bytes) MP_GGUF_##code = id,
    MP_GGUF_TYPES(X)
#undef X
        MP_GGUF_N_TYPES
};
const char *mp_gguf_type_name(uint32_t type); /* "u32"; "?" for an unknown id */

/* What is refused with MP_ELIMIT although the format allows it. */
enum {
    MP_GGUF_MAX_KV = 65536,
    MP_GGUF_MAX_TENSORS = 65536,
    MP_GGUF_MAX_KEY = 1024,                /* bytes of a key */
    MP_GGUF_MAX_HEADER = 512 * 1024 * 1024 /* bytes before the tensor data */
};

struct mp_gguf_kv {   /* one metadata entry, borrowed from the mp_gguf */
    const char *key;  /* NUL-terminated; holds no other NUL */
    uint32_t type;    /* enum mp_gguf_type */
    uint32_t elem;    /* ARR: the elements' type, never ARR; else the same as type */
    uint64_t count;   /* ARR: elements; STR: bytes; else 1 */
    uint64_t bytes;   /* of the value at data */
    const void *data; /* the value as it stands in the file: little endian, unaligned; STR: its bytes, not terminated */
};

struct mp_gguf_tensor { /* borrowed from the mp_gguf */
    char name[64];      /* NUL-terminated */
    uint32_t type;      /* enum mp_type of gpu/blocks.h, known */
    uint32_t n_dims;    /* 1..4 */
    uint64_t ne[4];     /* ne[0] columns (fastest), each >= 1; 1 beyond n_dims */
    uint64_t n_values;  /* product of ne */
    uint64_t row_bytes; /* ne[0] values */
    uint64_t offset;    /* of its first byte in the file */
    uint64_t bytes;     /* offset + bytes <= the file's size */
};

struct mp_gguf_identity { /* what tells cheaply that a file has not changed */
    uint64_t dev, inode, size, mtime_ns;
};

/* path: a regular file. Errors name the file, then the key or tensor, then what is wrong; MP_ENOENT, MP_EIO, MP_EFORMAT,
 * MP_ELIMIT, MP_EUNSUPPORTED (version 1, byte-swapped, split over several files, a tensor type we do not know). */
int mp_gguf_open(struct mp_gguf **out, const char *path, struct mp_err *err);
/* The same from an open file, which is duplicated; name: for messages. */
int mp_gguf_open_fd(struct mp_gguf **out, int fd, const char *name, struct mp_err *err);
void mp_gguf_free(struct mp_gguf *g); /* NULL is fine; closes the file */

const char *mp_gguf_path(const struct mp_gguf *g);                 /* as it was named at open */
void mp_gguf_context(const struct mp_gguf *g, struct mp_err *err); /* puts "<path>: " before a message that lacks it */
uint32_t mp_gguf_version(const struct mp_gguf *g);
uint32_t mp_gguf_alignment(const struct mp_gguf *g);
uint64_t mp_gguf_data_offset(const struct mp_gguf *g); /* where tensor data begins: the size of the header */
const struct mp_gguf_identity *mp_gguf_identity(const struct mp_gguf *g);
/* Fails with MP_EIO when the file is not what it was at open (size, mtime). */
int mp_gguf_unchanged(const struct mp_gguf *g, struct mp_err *err);
int mp_gguf_fd(const struct mp_gguf *g); /* stays the mp_gguf's; for mp_sha256_fd */

/* Metadata. Iteration is in the file's order. */
uint32_t mp_gguf_n_kv(const struct mp_gguf *g);
const struct mp_gguf_kv *mp_gguf_kv(const struct mp_gguf *g, uint32_t i);        /* i < n_kv */
const struct mp_gguf_kv *mp_gguf_find(const struct mp_gguf *g, const char *key); /* NULL: absent */

/* Typed getters: 0 and *out; MP_ENOENT when the key is absent (*out untouched, so it may hold the default); MP_EFORMAT for a
 * value of another type or out of [min, max]. Integers of every width and sign are accepted where they fit; f32 and f64
 * alike, finite only. err says file, key and what is wrong. */
int mp_gguf_u32(const struct mp_gguf *g, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                struct mp_err *err);
int mp_gguf_f32(const struct mp_gguf *g, const char *key, float min, float max, float *out, struct mp_err *err);
int mp_gguf_bool(const struct mp_gguf *g, const char *key, bool *out, struct mp_err *err);
/* *s borrowed, not NUL-terminated; may hold any bytes. Longer than max bytes: MP_ELIMIT. */
int mp_gguf_str(const struct mp_gguf *g, const char *key, size_t max, const char **s, size_t *n, struct mp_err *err);
/* An array with elements of type elem, or (elem ARR) of any. MP_ENOENT and MP_EFORMAT as above. */
int mp_gguf_arr(const struct mp_gguf *g, const char *key, uint32_t elem, const struct mp_gguf_kv **out,
                struct mp_err *err);

/* Element i of an array (i < count), or a scalar itself (i = 0). False when it is not of that kind or out of range. */
bool mp_gguf_int_at(const struct mp_gguf_kv *kv, uint64_t i, int64_t *out); /* integers; u64 beyond INT64_MAX: false */
bool mp_gguf_num_at(const struct mp_gguf_kv *kv, uint64_t i, double *out);  /* integers and floats */
bool mp_gguf_bool_at(const struct mp_gguf_kv *kv, uint64_t i, bool *out);
/* Strings of an array in order: `size_t at = 0; while (mp_gguf_str_next(kv, &at, &s, &n))`. */
bool mp_gguf_str_next(const struct mp_gguf_kv *kv, size_t *at, const char **s, size_t *n);

/* Tensors. Iteration is in the file's order. */
uint32_t mp_gguf_n_tensors(const struct mp_gguf *g);
const struct mp_gguf_tensor *mp_gguf_tensor(const struct mp_gguf *g, uint32_t i);            /* i < n_tensors */
const struct mp_gguf_tensor *mp_gguf_tensor_find(const struct mp_gguf *g, const char *name); /* NULL: absent */
/* Reads n bytes of the tensor from byte at of its data; at + n <= t->bytes. */
int mp_gguf_read(const struct mp_gguf *g, const struct mp_gguf_tensor *t, uint64_t at, void *dst, size_t n,
                 struct mp_err *err);

#endif
