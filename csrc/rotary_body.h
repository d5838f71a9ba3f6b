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
    while (first < last) { /* the heads of one batch, as far as they are ours */
        const ptrdiff_t batch = first / heads, head = first % heads;
        const ptrdiff_t count = last - first < heads - head ? last - first : heads - head;
        const REAL *x_start = x + batch * x_strides[0] + head * x_strides[1];
        REAL *y_start = y + batch * y_strides[0] + head * y_strides[1];
        /* Walk memory in its order: heads within a row where they lie closer together than rows do. */
        const int heads_inside = x_strides[1] < x_strides[2];
        for (ptrdiff_t i = 0; i < rows * count; i++) {
            const ptrdiff_t t = heads_inside ? i / count : i % rows, h = heads_inside ? i % count : i / rows;
            const REAL *x_row = x_start + h * x_strides[1] + t * x_strides[2];
            REAL *y_row = y_start + h * y_strides[1] + t * y_strides[2];
            const REAL *c = cos_t + t * pairs, *s = sin_t + t * pairs;
            if (interleaved)
                RR(rotate_row)(x_row + start, y_row + start, c, s, pairs, 2, 1, sign);
            else
                RR(rotate_row)(x_row + start, y_row + start, c, s, pairs, 1, pairs, sign);
            if (x_row == y_row) continue;
            for (ptrdiff_t f = 0; f < start; f++) y_row[f] = x_row[f];
            for (ptrdiff_t f = start + 2 * pairs; f < features; f++) y_row[f] = x_row[f];
        }
        first += count;
    }
    return 0;
}
