/* gpu/cpu/kernel_avx2.c — kernel.inc for AVX2 and F16C; compiled with these flags, run only where device.c found them. */
#define KERNELS cpu_kernels_avx2
#define ISA     "avx2"
#include "gpu/cpu/kernel.inc"
