/*
 * Included by row_product.c through rr_sets.h.
 *
 * The time goes into reading the matrix from memory, once. It is read row by row: one stream of addresses is what
 * machines fetch ahead best, and several rows side by side come at half the speed.
 */
#include "rr_vec.h"

#include "rr_lanes.h"

/* Up to LANES elements: all of them unless n is less. */
#define SOME(x) (n < LANES ? RR(get_some)(x, n, 0) : RR(get)(x))

/* Elements between what is added and what memory brings meanwhile. */
#define AHEAD (3072 / (ptrdiff_t)sizeof(REAL))

/* y[first .. last) += factor row[first .. last); `more`: AHEAD elements behind the row belong to the matrix too */
RR_INLINE RR_TARGET void RR(row_added)(int more, REAL factor, const REAL *row, REAL *y, ptrdiff_t first,
                                       ptrdiff_t last)
{
    const VEC factors = RR(set)(factor);
    ptrdiff_t i = first;
    for (; i + 4 * LANES <= last; i += 4 * LANES) {
        VEC part[4];
        if (more)
            for (ptrdiff_t j = 0; j < 4 * LANES; j += RR_LINE_BYTES / (ptrdiff_t)sizeof(REAL))
                RR_FETCH(row + i + j + AHEAD);
        RR_UNROLL
        for (int j = 0; j < 4; j++) part[j] = RR(get)(row + i + j * LANES);
        RR_UNROLL
        for (int j = 0; j < 4; j++)
            RR(put)(y + i + j * LANES, RR(get)(y + i + j * LANES) + factors * part[j]);
    }
    for (; i < last; i += LANES) {
        const ptrdiff_t n = last - i;
        const VEC sum = SOME(y + i) + factors * SOME(row + i);
        if (n < LANES)
            RR(put_some)(y + i, n, sum);
        else
            RR(put)(y + i, sum);
    }
}

static RR_TARGET void RR(columns)(const REAL *x, const REAL *w, REAL *y, ptrdiff_t k, ptrdiff_t step, int add,
                                  ptrdiff_t first, ptrdiff_t last)
{
    if (!add)
        for (ptrdiff_t i = first; i < last; i++) y[i] = 0;
    for (ptrdiff_t r = 0; r < k; r++)
        RR(row_added)((k - 1 - r) * step >= AHEAD, x[r], w + r * step, y, first, last);
}

/* Four sums side by side: an addition need not wait for the one before it. */
static RR_TARGET void RR(dots)(const REAL *x, const REAL *w, REAL *y, ptrdiff_t k, ptrdiff_t step, int add,
                               ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t r = first; r < last; r++) {
        const REAL *row = w + r * step;
        VEC sum[4] = {RR(set)(0), RR(set)(0), RR(set)(0), RR(set)(0)};
        ptrdiff_t i = 0;
        for (; i + 4 * LANES <= k; i += 4 * LANES) {
            RR_UNROLL
            for (int j = 0; j < 4; j++) sum[j] += RR(get)(x + i + j * LANES) * RR(get)(row + i + j * LANES);
        }
        for (; i < k; i += LANES) {
            const ptrdiff_t n = k - i;
            sum[0] += SOME(x + i) * SOME(row + i);
        }
        const REAL whole = RR(sum_lanes)((sum[0] + sum[1]) + (sum[2] + sum[3]));
        y[r] = add ? y[r] + whole : whole;
    }
}

#ifdef RR_ENTRY

/*
 * rr_row_product_f32 / _f64 - one row times a matrix, as when a text grows by one token.
 *
 * Oracle   : numpy.matmul in float64, within rounding (a sum of k products).
 * Given    : x [k]
 *            w  transposed 0: [k, columns], row r at w + r step; columns [first, last) of the product are due
 *               transposed 1: [columns, k], row c at w + c step, step >= k: the product with its transpose
 *            add  1: the product is added to what y holds
 * Returned : y [columns], no overlap with x or w; 0 done, 1 bad size (nothing written)
 * Notes    : no allocation, no globals, no libm. The numbers of a column do not depend on the range.
 */
int RR_EXPORT(row_product)(const REAL *x, const REAL *w, REAL *y, ptrdiff_t k, ptrdiff_t step, int transposed, int add,
                           ptrdiff_t first, ptrdiff_t last)
{
    if (!rr_rows_fit(first, last, 1) || rr_times(k, step) < 0) return 1;
    if (transposed ? step < k || rr_times(last, step) < 0 : last > step) return 1;
    if (transposed)
        RR_CALL(dots, x, w, y, k, step, add, first, last);
    else
        RR_CALL(columns, x, w, y, k, step, add, first, last);
    return 0;
}

#endif

#undef SOME
#undef AHEAD
#include "rr_sets_end.h"
