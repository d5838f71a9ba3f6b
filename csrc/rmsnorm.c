/* rmsnorm.c - root-mean-square norm; rmsnorm_body.h holds it, for every element type and instruction set. */
#define RR_BODY "rmsnorm_body.h"
#include "rr_sets.h"
