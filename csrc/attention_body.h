/*
 * attention_body.h - all of attention for one element type and instruction set; included by attention.c for each.
 */
#include "rr_vec.h"
#include "rr_exp.h"

/* The first address in the scratch buffer that suits the widest vector. */
RR_INLINE RR_TARGET REAL *RR(align)(void *scratch)
{
    return (REAL *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
}

#include "attention_tile.h"
#include "attention_softmax.h"
#include "attention_few.h"
#include "attention_forward.h"
#include "attention_backward.h"
#ifdef RR_ENTRY
#include "attention_entry.h"
#endif

#undef FEW_VECTORS
#undef ROWS
#undef PAIR
#include "rr_sets_end.h"
