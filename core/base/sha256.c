/* core/base/sha256.c — see sha256.h. */
#include "core/base/sha256.h"

#include "core/base/mem.h"

#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 20, REPORT_EVERY = 16 };

int mp_sha256(const void *data, size_t n, uint8_t out[32], struct mp_err *err)
{
    if (EVP_Digest(data, n, out, NULL, EVP_sha256(), NULL) != 1)
        return mp_err_set(err, MP_EINTERNAL, "libcrypto offers no SHA-256");
    return 0;
}

int mp_sha256_fd(int fd, const char *name, uint8_t out[32], mp_progress_fn *progress, void *ctx, struct mp_err *err)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned char *piece = mp_malloc(PIECE);
    struct stat st;
    uint64_t done = 0;
    int rc = 0, pieces = 0;
    if (!md || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        rc = mp_err_set(err, MP_EINTERNAL, "libcrypto offers no SHA-256");
        goto out;
    }
    if (fstat(fd, &st) < 0) {
        rc = mp_err_errno(err, MP_EIO, "%s", name);
        goto out;
    }
    for (;;) {
        ssize_t got = pread(fd, piece, PIECE, (off_t)done);
        if (got < 0) {
            rc = mp_err_errno(err, MP_EIO, "%s: cannot read at byte %llu", name, (unsigned long long)done);
            goto out;
        }
        if (got == 0)
            break;
        done += (uint64_t)got;
        if (EVP_DigestUpdate(md, piece, (size_t)got) != 1) {
            rc = mp_err_set(err, MP_EINTERNAL, "SHA-256 of %s failed", name);
            goto out;
        }
        if (++pieces % REPORT_EVERY == 0 && progress && !progress(ctx, done, (uint64_t)st.st_size)) {
            rc = mp_err_set(err, MP_ECANCELLED, "%s: cancelled", name);
            goto out;
        }
    }
    if (EVP_DigestFinal_ex(md, out, NULL) != 1)
        rc = mp_err_set(err, MP_EINTERNAL, "SHA-256 of %s failed", name);
    else if (progress)
        progress(ctx, done, (uint64_t)st.st_size);
out:
    mp_free(piece);
    EVP_MD_CTX_free(md);
    return rc;
}

void mp_sha256_hex(const uint8_t sum[32], char out[65])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        out[2 * i] = digits[sum[i] >> 4];
        out[2 * i + 1] = digits[sum[i] & 15];
    }
    out[64] = 0;
}
