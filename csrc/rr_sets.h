/*
 * rr_sets.h - include RR_BODY once for every element type and instruction set. For kernels that are written in the
 * vectors of rr_vec.h, whose width is part of their code; RR_CLONES serves all others.
 *
 * Given    : RR_BODY  the file's name in quotes; it includes rr_vec.h first and rr_sets_end.h last
 * Returned : RR_ENTRY      defined while the exported functions are due, once for each type
 *            RR_CALL(name, ...)  calls the copy of a function that this machine can run, as RR_CLONES would choose
 * Notes    : -DRR_PLAIN builds without vectors, as compilers other than GCC and Clang do.
 */
#include <math.h>

#include "refrope.h"
#include "rr_config.h"
#include "rr_sizes.h"

#ifdef RR_MULTIVERSION
#define RR_CALL(name, ...)                                                                                             \
    (__builtin_cpu_supports("x86-64-v4")   ? RR_PASTE(name, RR_TYPE, v4)(__VA_ARGS__)                                  \
     : __builtin_cpu_supports("x86-64-v3") ? RR_PASTE(name, RR_TYPE, v3)(__VA_ARGS__)                                  \
                                           : RR(name)(__VA_ARGS__))
#define RR_SET v4
#define RR_TARGET __attribute__((target("arch=x86-64-v4")))
#define RR_VEC_BYTES 64
#define RR_BITS 32
#include RR_BODY
#define RR_BITS 64
#include RR_BODY
#undef RR_SET
#undef RR_TARGET
#undef RR_VEC_BYTES
#define RR_SET v3
#define RR_TARGET __attribute__((target("arch=x86-64-v3")))
#define RR_VEC_BYTES 32
#define RR_BITS 32
#include RR_BODY
#define RR_BITS 64
#include RR_BODY
#undef RR_SET
#undef RR_TARGET
#undef RR_VEC_BYTES
#else
#define RR_CALL(name, ...) RR(name)(__VA_ARGS__)
#endif

#define RR_SET base
#define RR_TARGET
#define RR_ENTRY
#if !defined(__GNUC__) || defined(RR_PLAIN)
#define RR_VEC_BYTES 0
#elif defined(__AVX512F__)
#define RR_VEC_BYTES 64
#elif defined(__AVX__)
#define RR_VEC_BYTES 32
#else
#define RR_VEC_BYTES 16
#endif
#define RR_BITS 32
#include RR_BODY
#define RR_BITS 64
#include RR_BODY
