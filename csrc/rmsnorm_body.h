/* Included by rmsnorm.c once for float32 and once for float64. */

#define RR_LANES 16 /* partial sums kept apart, so that a compiler may add them side by side in the same order everywhere */

RR_INLINE REAL RR(sum_lanes)(const REAL *lanes)
{
    REAL total = 0;
    for (int i = 0; i < RR_LANES; i++) total += lanes[i];
    return total;
}

/* sum of a[i] * b[i] * c[i]; c may be NULL for ones */
RR_INLINE REAL RR(dot3)(const REAL *a, const REAL *b, const REAL *c, ptrdiff_t d)
{
    REAL lanes[RR_LANES] = {0};
    ptrdiff_t i = 0;
    for (; i + RR_LANES <= d; i += RR_LANES)
        for (int l = 0; l < RR_LANES; l++) lanes[l] += a[i + l] * b[i + l] * (c ? c[i + l] : (REAL)1);
    REAL total = RR(sum_lanes)(lanes);
    for (; i < d; i++) total += a[i] * b[i] * (c ? c[i] : (REAL)1);
    return total;
}

/* 1 / sqrt(x) for finite x > 0 without libm's errno: the compiler turns sqrt into one instruction (-fno-math-errno). */
RR_INLINE REAL RR(inv_sqrt)(double x)
{
    return (REAL)(1.0 / sqrt(x));
}

/*
 * rr_rmsnorm_forward_f32 / _f64 - divide every row by its root mean square and scale it by a gain.
 *
 * Oracle   : refrope.nn.layers.rmsnorm_forward, within rounding (a sum of d squares).
 * Source   : Zhang and Sennrich 2019, arXiv:1910.07467, Eq. 4, with eps inside the root as in T5.
 * Given    : x [rows, d], gain [d], eps >= 0; rows [first, last)
 * Returned : y [rows, d] = x * inv_rms * gain; inv_rms [rows] = 1 / sqrt(mean(x^2) + eps); 0 done, 1 bad size
 */
RR_CLONES int RR(rmsnorm_forward)(const REAL *x, const REAL *gain, REAL *y, REAL *inv_rms, ptrdiff_t d, double eps,
                                  ptrdiff_t first, ptrdiff_t last)
{
    if (d < 1) return 1;
    for (ptrdiff_t r = first; r < last; r++) {
        const REAL *x_row = x + r * d;
        REAL *y_row = y + r * d;
        const REAL scale = RR(inv_sqrt)((double)RR(dot3)(x_row, x_row, NULL, d) / (double)d + eps);
        inv_rms[r] = scale;
        RR_INDEPENDENT
        for (ptrdiff_t i = 0; i < d; i++) y_row[i] = x_row[i] * scale * gain[i];
    }
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
 *            in order, so that the result does not depend on the number of threads. 0 done, 1 bad size
 */
RR_CLONES int RR(rmsnorm_backward)(const REAL *dy, const REAL *x, const REAL *gain, const REAL *inv_rms,
                                   const REAL *residual, REAL *dx, REAL *dgain_rows, ptrdiff_t d, ptrdiff_t rows,
                                   ptrdiff_t block, ptrdiff_t first, ptrdiff_t last)
{
    if (d < 1 || rows < 0 || block < 1) return 1;
    for (ptrdiff_t b = first; b < last; b++) {
        REAL *dgain = dgain_rows + b * d;
        const ptrdiff_t end = (b + 1) * block < rows ? (b + 1) * block : rows;
        for (ptrdiff_t i = 0; i < d; i++) dgain[i] = 0;
        for (ptrdiff_t r = b * block; r < end; r++) {
            const REAL *dy_row = dy + r * d, *x_row = x + r * d;
            REAL *dx_row = dx + r * d;
            const REAL scale = inv_rms[r];
            const REAL pull = RR(dot3)(dy_row, x_row, gain, d) / (REAL)d * scale * scale;
            RR_INDEPENDENT
            for (ptrdiff_t i = 0; i < d; i++) {
                const REAL g = scale * (dy_row[i] * gain[i] - x_row[i] * pull);
                dgain[i] += dy_row[i] * x_row[i] * scale;
                dx_row[i] = residual ? residual[r * d + i] + g : g;
            }
        }
    }
    return 0;
}

#undef RR_LANES
