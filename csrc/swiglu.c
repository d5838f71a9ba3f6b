/* swiglu.c - the gated unit of a feed-forward layer; swiglu_body.h holds it, for every type and instruction set. */
#define RR_BODY "swiglu_body.h"
#include "rr_sets.h"
