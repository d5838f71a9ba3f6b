/* Included by rmsnorm.c through rr_sets.h. */
#include "rr_vec.h"

#include "rr_exp.h"
#include "rr_lanes.h"

/* Up to LANES elements of a row: all of them unless n is less. */
#define SOME(x) (n < LANES ? RR(get_some)(x, n, 0) : RR(get)(x))

/* The sum of a[i]^2, in four sums side by side: an addition need not wait for the one before it. */
RR_INLINE RR_TARGET REAL RR(sum_of_squares)(const REAL *a, ptrdiff_t d)
{
    VEC sum[4] = {RR(set)(0), RR(set)(0), RR(set)(0), RR(set)(0)};
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= d; i += 4 * LANES) {
        RR_UNROLL
        for (int k = 0; k < 4; k++) {
            const VEC x = RR(get)(a + i + k * LANES);
            sum[k] += x * x;
        }
    }
    for (; i < d; i += LANES) {
        const ptrdiff_t n = d - i;
        const VEC x = SOME(a + i);
        sum[0] += x * x;
    }
    return RR(sum_lanes)((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* The sum of (a[i] b[i]) c[i], likewise. */
RR_INLINE RR_TARGET REAL RR(sum_of_products)(const REAL *a, const REAL *b, const REAL *c, ptrdiff_t d)
{
    VEC sum[4] = {RR(set)(0), RR(set)(0), RR(set)(0), RR(set)(0)};
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= d; i += 4 * LANES) {
        RR_UNROLL
        for (int k = 0; k < 4; k++) {
            const ptrdiff_t at = i + k * LANES;
            sum[k] += RR(get)(a + at) * RR(get)(b + at) * RR(get)(c + at);
        }
    }
    for (; i < d; i += LANES) {
        const ptrdiff_t n = d - i;
        sum[0] += SOME(a + i) * SOME(b + i) * SOME(c + i);
    }
    return RR(sum_lanes)((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static RR_TARGET void RR(norm_forward)(const REAL *x, const REAL *gain, REAL *y, REAL *inv_rms, ptrdiff_t d, double eps,
                                       ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t r = first; r < last; r++) {
        const REAL *x_row = x + r * d;
        REAL *y_row = y + r * d;
        /* -fno-math-errno makes sqrt one instruction. */
        const REAL factor = (REAL)(1.0 / sqrt((double)RR(sum_of_squares)(x_row, d) / (double)d + eps));
        inv_rms[r] = factor;
        ptrdiff_t i = 0;
        for (; i + LANES <= d; i += LANES) RR(put)(y_row + i, RR(get)(x_row + i) * factor * RR(get)(gain + i));
        for (; i < d; i++) y_row[i] = x_row[i] * factor * gain[i];
    }
}

/* One row: dx, and its part of dgain. `bypass` is NULL in one of the two copies that the caller makes. */
RR_INLINE RR_TARGET void RR(norm_backward_row)(const REAL *dy, const REAL *x, const REAL *gain, REAL factor,
                                               const REAL *bypass, REAL *dx, REAL *dgain, ptrdiff_t d)
{
    const REAL pull = RR(sum_of_products)(dy, gain, x, d) / (REAL)d * factor * factor;
    ptrdiff_t i = 0;
    for (; i + LANES <= d; i += LANES) {
        const VEC dy_i = RR(get)(dy + i), x_i = RR(get)(x + i);
        VEC g = factor * (dy_i * RR(get)(gain + i) - x_i * pull);
        RR(put)(dgain + i, RR(get)(dgain + i) + dy_i * x_i * factor);
        if (bypass) g += RR(get)(bypass + i);
        RR(put)(dx + i, g);
    }
    for (; i < d; i++) {
        const REAL g = factor * (dy[i] * gain[i] - x[i] * pull);
        dgain[i] += dy[i] * x[i] * factor;
        dx[i] = bypass ? bypass[i] + g : g;
    }
}

static RR_TARGET void RR(norm_backward)(const REAL *dy, const REAL *x, const REAL *gain, const REAL *inv_rms,
                                        const REAL *residual, REAL *dx, REAL *dgain_rows, ptrdiff_t d, ptrdiff_t rows,
                                        ptrdiff_t block, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t b = first; b < last; b++) {
        REAL *dgain = dgain_rows + b * d;
        const ptrdiff_t end = rows - b * block > block ? (b + 1) * block : rows;
        for (ptrdiff_t i = 0; i < d; i++) dgain[i] = 0;
        if (residual)
            for (ptrdiff_t r = b * block; r < end; r++)
                RR(norm_backward_row)(dy + r * d, x + r * d, gain, inv_rms[r], residual + r * d, dx + r * d, dgain, d);
        else
            for (ptrdiff_t r = b * block; r < end; r++)
                RR(norm_backward_row)(dy + r * d, x + r * d, gain, inv_rms[r], NULL, dx + r * d, dgain, d);
    }
}

#ifdef RR_ENTRY

/*
 * rr_rmsnorm_forward_f32 / _f64 - divide every row by its root mean square and scale it by a gain.
 *
 * Oracle   : refrope.nn.layers.rmsnorm_forward, within rounding (a sum of d squares).
 * Source   : Zhang and Sennrich 2019, arXiv:1910.07467, Eq. 4, with eps inside the root as in T5.
 * Given    : x [rows, d], gain [d], eps >= 0; rows [first, last)
 * Returned : y [rows, d] = x * inv_rms * gain; inv_rms [rows] = 1 / sqrt(mean(x^2) + eps); 0 done, 1 bad size (nothing written)
 */
int RR_EXPORT(rmsnorm_forward)(const REAL *x, const REAL *gain, REAL *y, REAL *inv_rms, ptrdiff_t d, double eps,
                               ptrdiff_t first, ptrdiff_t last)
{
    if (d < 1 || !rr_rows_fit(first, last, d)) return 1;
    RR_CALL(norm_forward, x, gain, y, inv_rms, d, eps, first, last);
    return 0;
}

/*
 * rr_rmsnorm_backward_f32 / _f64 - gradients of rr_rmsnorm_forward.
 *
 * Oracle   : refrope.nn.layers.rmsnorm_backward, within rounding.
 * Given    : dy, x [rows, d]; gain [d]; inv_rms [rows]; blocks [first, last) of `block` rows each
 *            residual [rows, d] or NULL: the gradient that goes round the norm
 * Returned : dx [rows, d] = residual + inv_rms (g - x inv_rms^2 mean(g x)) with g = dy gain; may be dy or residual
 *            dgain_rows [blocks, d]: block b holds the sum of dy x inv_rms over its rows; the caller adds the blocks
 *            in order, so that the result does not depend on the number of threads. 0 done, 1 bad size (nothing written)
 */
int RR_EXPORT(rmsnorm_backward)(const REAL *dy, const REAL *x, const REAL *gain, const REAL *inv_rms,
                                const REAL *residual, REAL *dx, REAL *dgain_rows, ptrdiff_t d, ptrdiff_t rows,
                                ptrdiff_t block, ptrdiff_t first, ptrdiff_t last)
{
    if (d < 1 || block < 1 || !rr_rows_fit(0, rows, d) || !rr_rows_fit(first, last, d)) return 1;
    if (last > (rows > 0) + (rows - (rows > 0)) / block) return 1; /* more blocks than rows fill */
    RR_CALL(norm_backward, dy, x, gain, inv_rms, residual, dx, dgain_rows, d, rows, block, first, last);
    return 0;
}

#endif

#undef SOME
#include "rr_sets_end.h"
