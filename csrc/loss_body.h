/* Included by loss.c through rr_sets.h. */
#include "rr_vec.h"

#include "rr_exp.h"
#include "rr_lanes.h"

/* The largest of n elements; NaNs do not count. The last vector may overlap the one before. */
RR_INLINE RR_TARGET REAL RR(row_max)(const REAL *x, ptrdiff_t n)
{
    if (n < LANES) return RR(max_lanes)(RR(larger)(RR(get_some)(x, n, -INFINITY), RR(set)(-INFINITY)));
    VEC most = RR(larger)(RR(get)(x + n - LANES), RR(set)(-INFINITY));
    for (ptrdiff_t i = 0; i + LANES <= n; i += LANES) most = RR(larger)(RR(get)(x + i), most);
    return RR(max_lanes)(most);
}

/* y = e^(x - most) and its sum. y may be x: the last vector, which may overlap the one before, is read first. */
RR_INLINE RR_TARGET REAL RR(row_exp)(const REAL *x, REAL *y, ptrdiff_t n, REAL most)
{
    const ptrdiff_t rest = n % LANES;
    if (n < LANES) {
        const VEC few = RR(exp)(RR(get_some)(x, n, most) - most);
        RR(put_some)(y, n, few);
        return RR(sum_lanes)(RR_WHERE(RR(lane_numbers)() < (INT)n, few, RR(set)(0)));
    }
    const VEC end = RR(get)(x + n - LANES);
    VEC sum = {0};
    for (ptrdiff_t i = 0; i + LANES <= n;) { /* added up in blocks: rounding grows with a block and their number */
        VEC part = {0};
        for (int v = 0; v < RR_LOSS_BLOCK && i + LANES <= n; v++, i += LANES) {
            const VEC e = RR(exp)(RR(get)(x + i) - most);
            RR(put)(y + i, e);
            part += e;
        }
        sum += part;
    }
    if (rest) {
        const VEC e = RR(exp)(end - most);
        RR(put)(y + n - LANES, e);
        sum += RR_WHERE(RR(lane_numbers)() >= (INT)(LANES - rest), e, RR(set)(0));
    }
    return RR(sum_lanes)(sum);
}

RR_INLINE RR_TARGET void RR(row_scale)(REAL *y, ptrdiff_t n, REAL factor)
{
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) RR(put)(y + i, RR(get)(y + i) * factor);
    if (i < n) RR(put_some)(y + i, n - i, RR(get_some)(y + i, n - i, 0) * factor);
}

static RR_TARGET void RR(cross_entropy)(const REAL *logits, const int64_t *targets, REAL *probabilities,
                                        REAL *likelihoods, ptrdiff_t classes, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t start = first; start < last; start += RR_LOSS_ROWS) {
        const ptrdiff_t rows = last - start < RR_LOSS_ROWS ? last - start : RR_LOSS_ROWS;
        REAL chosen[RR_LOSS_ROWS] = {0}, sums[RR_LOSS_ROWS] = {0};
        for (ptrdiff_t r = 0; r < rows; r++) {
            const REAL *x = logits + (start + r) * classes;
            REAL *y = probabilities + (start + r) * classes;
            const REAL most = RR(row_max)(x, classes);
            chosen[r] = x[targets[start + r]] - most;
            sums[r] = RR(row_exp)(x, y, classes, most);
            RR(row_scale)(y, classes, 1 / sums[r]);
        }
        for (int r = 0; r < RR_LOSS_ROWS; r += LANES)
            RR(put)(chosen + r, RR(get)(chosen + r) - RR(log)(RR(get)(sums + r)));
        for (ptrdiff_t r = 0; r < rows; r++) likelihoods[start + r] = chosen[r];
    }
}

#ifdef RR_ENTRY

/*
 * rr_cross_entropy_forward_f32 / _f64 - softmax of every row, and the logarithm of its probability at the target.
 *
 * Oracle   : refrope.nn.layers.cross_entropy_forward in float64; for up to 50,000 classes a probability is within
 *            32 + distance units of its last place, where distance is how far its logit lies below the largest (rr_exp
 *            rounds distance / ln 2), a likelihood within 32 + distance units of the last place at 1. A row has the same
 *            bits in any range.
 * Given    : logits [rows, classes], classes >= 1; targets [rows] in [0, classes), checked by the caller
 * Returned : probabilities [rows, classes], may be logits; below the smallest normal number they are 0
 *            likelihoods [rows] = log softmax(logits)[target]; 0 done, 1 bad size (nothing written)
 * Notes    : no allocation, no globals, no libm. A row with NaN or +inf becomes NaN, its likelihood too; the likelihood
 *            of a target at -inf is -inf.
 */
int RR_EXPORT(cross_entropy_forward)(const REAL *logits, const int64_t *targets, REAL *probabilities, REAL *likelihoods,
                                     ptrdiff_t classes, ptrdiff_t first, ptrdiff_t last)
{
    if (classes < 1 || !rr_rows_fit(first, last, classes)) return 1;
    RR_CALL(cross_entropy, logits, targets, probabilities, likelihoods, classes, first, last);
    return 0;
}

#endif

#include "rr_sets_end.h"
