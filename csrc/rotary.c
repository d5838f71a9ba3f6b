#include "refrope.h"
#include "rr_config.h"
#include "rr_sizes.h"

enum {
    RR_CHUNK = 16,         /* pairs that are turned in one go: the lanes of the widest vector */
    RR_PAIRS = 256,        /* pairs that are worked on together */
    RR_TABLE_BYTES = 32768 /* of cos, and as many of sin, that serve all heads in turn: part of the second cache */
};

#define REAL float
#define RR(name) rr_##name##_f32
#include "rotary_body.h"
#undef REAL
#undef RR

#define REAL double
#define RR(name) rr_##name##_f64
#include "rotary_body.h"
