/* gpu/cpu/kernel_avx512.c — kernel.inc for AVX-512 (F, BW, DQ, VL); compiled with these flags, run only where device.c found them. */
#define KERNELS cpu_kernels_avx512
#define ISA     "avx512"
#include "gpu/cpu/kernel.inc"
