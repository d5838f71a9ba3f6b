/* Included by swiglu.c through rr_sets.h. */
#include "rr_vec.h"

#include "rr_exp.h"
#include "rr_lanes.h"

/*
 * sigmoid(x), and sigmoid(-x) in *other. e^-|x| is at most 1, so nothing overflows and neither of the two is a
 * difference. NaN for NaN.
 */
RR_INLINE RR_TARGET VEC RR(sigmoid)(VEC x, VEC *other)
{
    const VEC e = RR(exp)(RR_WHERE(x > 0, -x, x)), near = 1 / (1 + e), far = e * near;
    *other = RR_WHERE(x > 0, far, near);
    return RR_WHERE(x > 0, near, far);
}

RR_INLINE RR_TARGET VEC RR(unit)(VEC gate, VEC up)
{
    VEC other;
    return gate * RR(sigmoid)(gate, &other) * up;
}

/* d silu(x) / dx = sigmoid(x) (1 + x sigmoid(-x)) */
RR_INLINE RR_TARGET void RR(unit_backward)(VEC dy, VEC gate, VEC up, VEC *dgate, VEC *dup)
{
    VEC other;
    const VEC s = RR(sigmoid)(gate, &other);
    *dgate = dy * up * (s * (1 + gate * other));
    *dup = dy * (gate * s);
}

static RR_TARGET void RR(gated_forward)(const REAL *gate, const REAL *up, REAL *y, const ptrdiff_t *row_steps,
                                        ptrdiff_t features, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t r = first; r < last; r++) {
        const REAL *g = gate + r * row_steps[0], *u = up + r * row_steps[1];
        REAL *to = y + r * row_steps[2];
        ptrdiff_t i = 0;
        for (; i + LANES <= features; i += LANES) RR(put)(to + i, RR(unit)(RR(get)(g + i), RR(get)(u + i)));
        if (i < features) {
            const ptrdiff_t n = features - i;
            RR(put_some)(to + i, n, RR(unit)(RR(get_some)(g + i, n, 0), RR(get_some)(u + i, n, 0)));
        }
    }
}

static RR_TARGET void RR(gated_backward)(const REAL *dy, const REAL *gate, const REAL *up, REAL *dgate, REAL *dup,
                                         const ptrdiff_t *row_steps, ptrdiff_t features, ptrdiff_t first,
                                         ptrdiff_t last)
{
    for (ptrdiff_t r = first; r < last; r++) {
        const REAL *from = dy + r * row_steps[0], *g = gate + r * row_steps[1], *u = up + r * row_steps[2];
        REAL *to_gate = dgate + r * row_steps[3], *to_up = dup + r * row_steps[4];
        VEC a, b;
        ptrdiff_t i = 0;
        for (; i + LANES <= features; i += LANES) {
            RR(unit_backward)(RR(get)(from + i), RR(get)(g + i), RR(get)(u + i), &a, &b);
            RR(put)(to_gate + i, a);
            RR(put)(to_up + i, b);
        }
        if (i < features) {
            const ptrdiff_t n = features - i;
            RR(unit_backward)(RR(get_some)(from + i, n, 0), RR(get_some)(g + i, n, 0), RR(get_some)(u + i, n, 0), &a,
                              &b);
            RR(put_some)(to_gate + i, n, a);
            RR(put_some)(to_up + i, n, b);
        }
    }
}

#ifdef RR_ENTRY

/* Whether rows [first, last) of `arrays` arrays fit, each with its own step. */
RR_INLINE int RR(gated_fits)(const ptrdiff_t *row_steps, int arrays, ptrdiff_t features, ptrdiff_t first,
                             ptrdiff_t last)
{
    int fits = rr_rows_fit(first, last, features);
    for (int i = 0; fits && i < arrays; i++) fits = rr_plus(rr_reach(last, row_steps[i]), features) >= 0;
    return fits;
}

/*
 * rr_swiglu_forward_f32 / _f64 - y = silu(gate) up, silu(x) = x sigmoid(x).
 *
 * Oracle   : refrope.nn.layers.swiglu_forward in float64, within 8 + |gate| units of the last place of |y| (rr_exp
 *            rounds gate / ln 2), and |gate up| times the smallest normal number: below it sigmoid is 0.
 * Source   : Shazeer 2020, arXiv:2002.05202, Eq. 6 (beta = 1).
 * Given    : gate, up [rows, features], row_steps [3]: elements from one row of gate, up, y to the next;
 *            rows [first, last)
 * Returned : y [rows, features], may be gate or up; 0 done, 1 bad size (nothing written)
 * Notes    : no allocation, no globals, no libm. gate = -inf gives NaN, as x sigmoid(x) does in IEEE arithmetic, and so
 *            does an infinite up where sigmoid is 0 because it is below the smallest normal number.
 */
int RR_EXPORT(swiglu_forward)(const REAL *gate, const REAL *up, REAL *y, const ptrdiff_t *row_steps, ptrdiff_t features,
                              ptrdiff_t first, ptrdiff_t last)
{
    if (!RR(gated_fits)(row_steps, 3, features, first, last)) return 1;
    if (features == 0) return 0;
    RR_CALL(gated_forward, gate, up, y, row_steps, features, first, last);
    return 0;
}

/*
 * rr_swiglu_backward_f32 / _f64 - gradients of rr_swiglu_forward.
 *
 * Oracle   : refrope.nn.layers.swiglu_backward in float64, within 8 + |gate| units of the last place of
 *            |dy up sigmoid(gate)| (1 + |gate| sigmoid(-gate)) for dgate, of |dup| for dup, and as above for small ones.
 * Given    : dy, gate, up [rows, features], row_steps [5]: of dy, gate, up, dgate, dup
 * Returned : dgate, dup, may be gate and up, or dy and another; 0 done, 1 bad size (nothing written)
 * Notes    : as in the forward call.
 */
int RR_EXPORT(swiglu_backward)(const REAL *dy, const REAL *gate, const REAL *up, REAL *dgate, REAL *dup,
                               const ptrdiff_t *row_steps, ptrdiff_t features, ptrdiff_t first, ptrdiff_t last)
{
    if (!RR(gated_fits)(row_steps, 5, features, first, last)) return 1;
    if (features == 0) return 0;
    RR_CALL(gated_backward, dy, gate, up, dgate, dup, row_steps, features, first, last);
    return 0;
}

#endif

#include "rr_sets_end.h"
