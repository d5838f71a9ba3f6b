#include <math.h>

#include "refrope.h"
#include "rr_config.h"

#define REAL float
#define RR(name) rr_##name##_f32
#include "rmsnorm_body.h"
#undef REAL
#undef RR

#define REAL double
#define RR(name) rr_##name##_f64
#include "rmsnorm_body.h"
