/*
 * rr_config.h - every #ifdef on compilers and machines stands here.
 *
 * RR_CLONES      before a function: one copy per instruction set, chosen by the loader when the module is loaded.
 *                setup.py defines RR_MULTIVERSION only after a probe program compiled, linked and ran.
 * RR_INDEPENDENT before a loop: no iteration reads what another one writes.
 * RR_INLINE      a helper that must become part of its caller, so that it is compiled for the caller's instruction set.
 * RR_FETCH       brings the line of memory at an address nearer, while other work goes on.
 * RR_SIMD_IN_USE a string: which copy the loader chose.
 */
#ifndef RR_CONFIG_H
#define RR_CONFIG_H

#if defined(RR_MULTIVERSION) && defined(__x86_64__) && defined(__GNUC__)
#define RR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RR_CLONES
#endif

/* The copy that the loader picks, for build_info(). */
#if defined(RR_MULTIVERSION) && defined(__x86_64__) && defined(__GNUC__)
#define RR_SIMD_IN_USE                                                                                                 \
    (__builtin_cpu_supports("x86-64-v4")   ? "x86-64-v4 (AVX-512)"                                                     \
     : __builtin_cpu_supports("x86-64-v3") ? "x86-64-v3 (AVX2, FMA)"                                                   \
                                           : "x86-64 (SSE2)")
#else
#define RR_SIMD_IN_USE "as compiled"
#endif

#ifndef RR_FLAGS /* the compiler flags as a string, from setup.py */
#define RR_FLAGS "unknown"
#endif

#if defined(__clang__)
/* RR_INDEPENDENT and RR_UNROLL are hints: where a machine has no use for one, nothing is wrong. */
#pragma clang diagnostic ignored "-Wpass-failed"
#define RR_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define RR_INDEPENDENT _Pragma("GCC ivdep")
#else
#define RR_INDEPENDENT
#endif

#define RR_LINE_BYTES 64 /* of memory; where a line has more, some are brought twice */
#if defined(__GNUC__)
#define RR_FETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define RR_FETCH(address) ((void)(address))
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define RR_INLINE static __forceinline
#elif defined(__GNUC__)
#define RR_INLINE static inline __attribute__((always_inline))
#else
#define RR_INLINE static inline
#endif

#endif
