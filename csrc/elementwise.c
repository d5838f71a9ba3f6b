#include <math.h>
#include <string.h>

#include "refrope.h"
#include "rr_config.h"
#include "rr_random.h"
#include "rr_sizes.h"

enum { RR_FLAT = 256 }; /* elements whose gradients are added before the step uses them, still in the nearest cache */

#define REAL float
#define RR_SQRT sqrtf
#define RR(name) rr_##name##_f32
#include "elementwise_body.h"
#undef REAL
#undef RR_SQRT
#undef RR

#define REAL double
#define RR_SQRT sqrt
#define RR(name) rr_##name##_f64
#include "elementwise_body.h"

const char *rr_compiler(void)
{
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#elif defined(_MSC_VER)
    return "msvc";
#else
    return "unknown C compiler";
#endif
}

const char *rr_flags(void)
{
    return RR_FLAGS;
}

/* Which of the copies that RR_CLONES makes the loader chose on this machine. */
const char *rr_simd(void)
{
    return RR_SIMD_IN_USE;
}
