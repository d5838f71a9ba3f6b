/*
 * decode.c - one row through all layers of a model, as when a text grows by one token.
 *
 * Nearly all of the time goes into reading the weights once. Called one by one, the kernels of a layer are over before
 * threads could share them; so here all threads go through all layers together and meet where one needs what the others
 * have made.
 *
 * A thread reads whole rows of a weight, one behind the other: some columns of all rows would come at two thirds of the
 * speed. What each block of rows gives is kept by itself, and all blocks are added in their order, however many threads
 * there are.
 */
#include <string.h>

#include "refrope.h"
#include "rr_config.h"
#include "rr_meet.h"
#include "rr_sizes.h"

enum {
    RR_WEIGHTS = 6, /* of a layer */
    RR_BLOCKS = 8   /* of a weight's rows, whose products are added at the end */
};

/* A thread's part of [0, n). */
typedef struct {
    ptrdiff_t first, last;
} rr_part;

RR_INLINE rr_part rr_part_of(ptrdiff_t n, ptrdiff_t thread, ptrdiff_t threads)
{
    return (rr_part){n / threads * thread + n % threads * thread / threads,
                     n / threads * (thread + 1) + n % threads * (thread + 1) / threads};
}

/* Elements that each thread has for itself: a normalised row, its factor, and what attention needs. */
RR_INLINE ptrdiff_t rr_decode_own(ptrdiff_t d_model, ptrdiff_t d)
{
    return rr_plus(rr_plus(d_model, 1), rr_attention_scratch(1, d, 0));
}

/* Columns of the widest weight. */
RR_INLINE ptrdiff_t rr_decode_widest(ptrdiff_t d_model, ptrdiff_t heads, ptrdiff_t kv_heads, ptrdiff_t d,
                                     ptrdiff_t d_ff)
{
    const ptrdiff_t width = rr_times(rr_plus(heads, rr_times(kv_heads, 2)), d), inside = rr_times(d_ff, 2);
    const ptrdiff_t wider = width > inside ? width : inside;
    return width < 0 || inside < 0 ? -1 : d_model > wider ? d_model : wider;
}

/*
 * rr_decode_scratch - elements of the scratch buffer of a call: q, k, v, what attention returns, its lse, the inside of
 * the feed-forward layer, the products of blocks, and each thread's own. -1: bad size.
 */
ptrdiff_t rr_decode_scratch(ptrdiff_t d_model, ptrdiff_t heads, ptrdiff_t kv_heads, ptrdiff_t d, ptrdiff_t d_ff,
                            ptrdiff_t threads)
{
    if (d_model < 1 || heads < 1 || kv_heads < 1 || heads % kv_heads || d < 1 || d_ff < 1 || threads < 1) return -1;
    const ptrdiff_t rows = rr_times(rr_plus(rr_times(heads, 2), rr_times(kv_heads, 2)), d);
    const ptrdiff_t blocks = rr_times(RR_BLOCKS, rr_decode_widest(d_model, heads, kv_heads, d, d_ff));
    const ptrdiff_t shared = rr_plus(rr_plus(rr_plus(rows, heads), rr_times(d_ff, 2)), blocks);
    return rr_plus(shared, rr_times(threads, rr_decode_own(d_model, d)));
}

#define REAL float
#define RR(name) rr_##name##_f32
#include "decode_body.h"
#undef REAL
#undef RR

#define REAL double
#define RR(name) rr_##name##_f64
#include "decode_body.h"
