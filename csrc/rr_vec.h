/*
 * rr_vec.h - short vectors for the attention kernels. Included once for every element type and instruction set, so it
 * has no guard of its own; rr_vec_end below takes the names back.
 *
 * Given    : RR_BITS       32 or 64: the element type is float or double
 *            RR_VEC_BYTES  16, 32 or 64: bytes in a vector; 0: a vector is one element (any C99 compiler)
 *            RR_SET        a word that ends the names of this inclusion
 *            RR_TARGET     the attribute that selects the instruction set, or nothing
 * Returned : REAL, UINT, INT  scalars of RR_BITS;  VEC, UVEC, IVEC  vectors of LANES of them;  RR(name)
 * Notes    : written in the vector extensions of GCC and Clang (a + b, a < b on whole vectors), no intrinsics.
 */
#include <float.h>
#include <math.h> /* INFINITY alone: nothing is called */
#include <stdint.h>
#include <string.h>

#include "rr_config.h"

#ifndef RR_VEC_ONCE
#define RR_VEC_ONCE
#define RR_PASTE_(name, type, set) rr_##name##_##type##_##set
#define RR_PASTE(name, type, set) RR_PASTE_(name, type, set)
#define RR_EXPORT_(name, type) rr_##name##_##type
#define RR_EXPORT__(name, type) RR_EXPORT_(name, type)
#define RR_EXPORT(name) RR_EXPORT__(name, RR_TYPE)
#if defined(__GNUC__) && !defined(__clang__)
#define RR_SHUFFLE(x, y, lanes) __builtin_shuffle(x, y, lanes)
#define RR_UNROLL _Pragma("GCC unroll 16")
#elif defined(__clang__)
#define RR_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RR_UNROLL
#endif
#endif

#define RR(name) RR_PASTE(name, RR_TYPE, RR_SET)
#if RR_BITS == 32
#define RR_TYPE f32
#define REAL float
#define UINT uint32_t
#define INT int32_t
#define REAL_MAX FLT_MAX
#define FRACTION_BITS 23
#define EXPONENT_BIAS 127
#else
#define RR_TYPE f64
#define REAL double
#define UINT uint64_t
#define INT int64_t
#define REAL_MAX DBL_MAX
#define FRACTION_BITS 52
#define EXPONENT_BIAS 1023
#endif
#define VEC RR(vec)
#define UVEC RR(uvec)
#define IVEC RR(ivec)

#if RR_VEC_BYTES > 0
#define LANES (RR_VEC_BYTES / (RR_BITS / 8))
typedef REAL VEC __attribute__((vector_size(RR_VEC_BYTES), may_alias));
typedef REAL RR(anywhere) __attribute__((vector_size(RR_VEC_BYTES), may_alias, aligned(RR_BITS / 8)));
typedef UINT UVEC __attribute__((vector_size(RR_VEC_BYTES)));
typedef INT IVEC __attribute__((vector_size(RR_VEC_BYTES)));
#define RR_BITS_OF(x) ((UVEC)(x))
#define RR_FROM_BITS(x) ((VEC)(x))
/* mask is all ones or all zeros in each lane: GCC makes it one blend. */
#define RR_WHERE(mask, x, y) ((VEC)(((UVEC)(x) & (UVEC)(mask)) | ((UVEC)(y) & ~(UVEC)(mask))))
#else
#define LANES 1
typedef REAL VEC;
typedef REAL RR(anywhere);
typedef UINT UVEC;
typedef INT IVEC;
RR_INLINE UINT RR(bits_of)(REAL x)
{
    UINT bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
RR_INLINE REAL RR(from_bits)(UINT bits)
{
    REAL x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
#define RR_BITS_OF(x) RR(bits_of)(x)
#define RR_FROM_BITS(x) RR(from_bits)(x)
#define RR_WHERE(mask, x, y) ((mask) ? (x) : (y))
#endif

RR_INLINE RR_TARGET VEC RR(load)(const REAL *x)
{
    return *(const VEC *)x;
}

RR_INLINE RR_TARGET void RR(store)(REAL *x, VEC y)
{
    *(VEC *)x = y;
}

/* The same at addresses that are multiples of no more than an element. */
RR_INLINE RR_TARGET VEC RR(load_anywhere)(const REAL *x)
{
    return *(const RR(anywhere) *)x;
}

RR_INLINE RR_TARGET void RR(store_anywhere)(REAL *x, VEC y)
{
    *(RR(anywhere) *)x = y;
}

RR_INLINE RR_TARGET VEC RR(set)(REAL x)
{
    return x - (VEC){0};
}

/* 0, 1, 2 .. LANES - 1 */
RR_INLINE RR_TARGET IVEC RR(lane_numbers)(void)
{
#if LANES == 16
    return (IVEC){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif LANES == 8
    return (IVEC){0, 1, 2, 3, 4, 5, 6, 7};
#elif LANES == 4
    return (IVEC){0, 1, 2, 3};
#elif LANES == 2
    return (IVEC){0, 1};
#else
    return 0;
#endif
}

/* The larger of two; y where x is NaN. */
RR_INLINE RR_TARGET VEC RR(larger)(VEC x, VEC y)
{
    return RR_WHERE(x > y, x, y);
}
