/*
 * rr_sizes.h - whether the sizes of a call can belong to arrays in memory; every exported function asks before it
 * touches any.
 *
 * Notes : no product or sum is taken before it is sure to fit. A size that is negative, or one beyond RR_MOST elements,
 *         becomes -1, and whatever is made of -1 is -1, so that one test at the end of a chain is enough.
 */
#ifndef RR_SIZES_H
#define RR_SIZES_H

#include <stddef.h>
#include <stdint.h>

#include "rr_config.h"

/* Elements that an array may have or span: their bytes, up to 8 each, can be counted in ptrdiff_t. */
#define RR_MOST (PTRDIFF_MAX / 8)

/* a b, or -1 */
RR_INLINE ptrdiff_t rr_times(ptrdiff_t a, ptrdiff_t b)
{
    if (a < 0 || b < 0 || a > RR_MOST || b > RR_MOST) return -1;
    return b && a > RR_MOST / b ? -1 : a * b;
}

/* a + b, or -1 */
RR_INLINE ptrdiff_t rr_plus(ptrdiff_t a, ptrdiff_t b)
{
    if (a < 0 || b < 0 || a > RR_MOST || b > RR_MOST) return -1;
    return a > RR_MOST - b ? -1 : a + b;
}

/* The distance that n steps of `stride` lead: one step more than the axis has, as a loop takes it. */
RR_INLINE ptrdiff_t rr_reach(ptrdiff_t n, ptrdiff_t stride)
{
    if (stride < -RR_MOST) return -1;
    return rr_times(n, stride < 0 ? -stride : stride);
}

/* Whether [first, last) is a range of rows of an array with `width` elements in a row. */
RR_INLINE int rr_rows_fit(ptrdiff_t first, ptrdiff_t last, ptrdiff_t width)
{
    return first >= 0 && first <= last && last <= RR_MOST && rr_times(last, width) >= 0;
}

/* Whether an array [n0, n1, n2, width] fits that is walked by three strides, its last axis without gaps. */
RR_INLINE int rr_walk_fits(const ptrdiff_t *strides, ptrdiff_t n0, ptrdiff_t n1, ptrdiff_t n2, ptrdiff_t width)
{
    const ptrdiff_t outer = rr_plus(rr_reach(n0, strides[0]), rr_reach(n1, strides[1]));
    return rr_plus(rr_plus(outer, rr_reach(n2, strides[2])), width) >= 0;
}

#endif
