/* Included by rotary.c once for float32 and once for float64. */

/* One row: sign = +1 turns forward, -1 backward. Reads both members of a pair before it writes them: y may be x. */
RR_INLINE void RR(rotate_row)(const REAL *x, REAL *y, const REAL *cos_t, const REAL *sin_t, ptrdiff_t pairs,
                              ptrdiff_t step, ptrdiff_t partner, REAL sign)
{
    RR_INDEPENDENT
    for (ptrdiff_t j = 0; j < pairs; j++) {
        const REAL a = x[j * step], b = x[j * step + partner];
        const REAL c = cos_t[j], s = sign * sin_t[j];
        y[j * step] = a * c - b * s;
        y[j * step + partner] = a * s + b * c;
    }
}

/*
 * rr_rotate_f32 / _f64 - turn the feature pairs of every row of x by tabulated angles.
 *
 * Oracle   : refrope.rotary.rotate, equal bit for bit (nothing is summed but two products, contraction off).
 * Source   : Su et al. 2021, arXiv:2104.09864, Eq. 34.
 * Given    : x            [slices, rows, features] through its strides
 *            cos_t, sin_t [rows, pairs] contiguous, attention factor included
 *            start, pairs features start .. start + 2 pairs - 1 are turned, the others copied
 *            interleaved  0: pair j = (j, j + pairs);  1: pair j = (2j, 2j + 1), counted from start
 *            transpose    0: y = R x;  1: y = R^T x (backward)
 *            first, last  the slices to work on
 * Returned : y of x's shape, either x itself or without overlap; 0 done, 1 bad size
 * Notes    : no allocation, no globals, no libm; rows are independent.
 */
RR_CLONES int RR(rotate)(const REAL *x, const ptrdiff_t *x_strides, REAL *y, const ptrdiff_t *y_strides,
                         const REAL *cos_t, const REAL *sin_t, ptrdiff_t heads, ptrdiff_t rows, ptrdiff_t features,
                         ptrdiff_t start, ptrdiff_t pairs, int interleaved, int transpose, ptrdiff_t first,
                         ptrdiff_t last)
{
    if (heads < 1 || rows < 0 || pairs < 0 || start < 0 || start + 2 * pairs > features) return 1;
    const REAL sign = transpose ? (REAL)-1 : (REAL)1;
    for (ptrdiff_t s = first; s < last; s++) {
        const REAL *x_slice = x + s / heads * x_strides[0] + s % heads * x_strides[1];
        REAL *y_slice = y + s / heads * y_strides[0] + s % heads * y_strides[1];
        for (ptrdiff_t t = 0; t < rows; t++) {
            const REAL *x_row = x_slice + t * x_strides[2];
            REAL *y_row = y_slice + t * y_strides[2];
            if (interleaved)
                RR(rotate_row)(x_row + start, y_row + start, cos_t + t * pairs, sin_t + t * pairs, pairs, 2, 1, sign);
            else
                RR(rotate_row)(x_row + start, y_row + start, cos_t + t * pairs, sin_t + t * pairs, pairs, 1, pairs, sign);
            if (x_row == y_row) continue;
            for (ptrdiff_t f = 0; f < start; f++) y_row[f] = x_row[f];
            for (ptrdiff_t f = start + 2 * pairs; f < features; f++) y_row[f] = x_row[f];
        }
    }
    return 0;
}
