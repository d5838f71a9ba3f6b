/* Included by rotary.c once for float32 and once for float64. */

#define RR_TABLE (RR_TABLE_BYTES / (ptrdiff_t)sizeof(REAL))

/* Cos and sin for `rows` rows as the loops below want them: (c) and (s), or (c, c) and (-s, s) for every pair. */
RR_INLINE void RR(spread)(const REAL *cos_t, const REAL *sin_t, ptrdiff_t table_row, REAL *c, REAL *s, ptrdiff_t rows,
                          ptrdiff_t pairs, REAL sign)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        RR_INDEPENDENT
        for (ptrdiff_t j = 0; j < pairs; j++) {
            c[2 * (r * pairs + j)] = c[2 * (r * pairs + j) + 1] = cos_t[r * table_row + j];
            s[2 * (r * pairs + j)] = -sign * sin_t[r * table_row + j];
            s[2 * (r * pairs + j) + 1] = sign * sin_t[r * table_row + j];
        }
    }
}

/*
 * One pair of each layout, y = R x for sign = 1. Both members are read before either is written: y may be x. With the
 * signs in the table, (2j, 2j + 1) is x times c plus x with its neighbours swapped times s: one shuffle for a vector.
 */
RR_INLINE void RR(half_pair)(const REAL *x, REAL *y, ptrdiff_t partner, const REAL *c, const REAL *s, REAL sign)
{
    const REAL a = x[0], b = x[partner], turn = sign * s[0];
    y[0] = a * c[0] - b * turn;
    y[partner] = a * turn + b * c[0];
}

RR_INLINE void RR(interleaved_pair)(const REAL *x, REAL *y, const REAL *c, const REAL *s)
{
    const REAL a = x[0], b = x[1];
    y[0] = a * c[0] + b * s[0];
    y[1] = b * c[1] + a * s[1];
}

/*
 * `rows` rows of pairs, as far apart as the row steps say. Loops of their own with few variables, so that all of them
 * stay in registers, and chunks of a fixed number of pairs, which become straight lines of vector instructions.
 */
RR_INLINE void RR(half_rows)(const REAL *x, ptrdiff_t x_row, REAL *y, ptrdiff_t y_row, const REAL *c, const REAL *s,
                             ptrdiff_t table_row, ptrdiff_t rows, ptrdiff_t pairs, ptrdiff_t partner, REAL sign)
{
    for (; rows > 0; rows--) {
        ptrdiff_t j = 0;
        for (; j + RR_CHUNK <= pairs; j += RR_CHUNK) {
            RR_INDEPENDENT
            for (int l = 0; l < RR_CHUNK; l++)
                RR(half_pair)(x + j + l, y + j + l, partner, c + j + l, s + j + l, sign);
        }
        RR_INDEPENDENT
        for (ptrdiff_t l = j; l < pairs; l++) RR(half_pair)(x + l, y + l, partner, c + l, s + l, sign);
        x += x_row;
        y += y_row;
        c += table_row;
        s += table_row;
    }
}

RR_INLINE void RR(interleaved_rows)(const REAL *x, ptrdiff_t x_row, REAL *y, ptrdiff_t y_row, const REAL *c,
                                    const REAL *s, ptrdiff_t table_row, ptrdiff_t rows, ptrdiff_t pairs)
{
    for (; rows > 0; rows--) {
        ptrdiff_t j = 0;
        for (; j + RR_CHUNK <= pairs; j += RR_CHUNK) {
            RR_INDEPENDENT
            for (int l = 0; l < RR_CHUNK; l++)
                RR(interleaved_pair)(x + 2 * (j + l), y + 2 * (j + l), c + 2 * (j + l), s + 2 * (j + l));
        }
        RR_INDEPENDENT
        for (ptrdiff_t l = j; l < pairs; l++) RR(interleaved_pair)(x + 2 * l, y + 2 * l, c + 2 * l, s + 2 * l);
        x += x_row;
        y += y_row;
        c += table_row;
        s += table_row;
    }
}

/*
 * All pairs of rows [t, t + height) of `count` heads: a few rows of the tables at a time serve all heads, so that they
 * come from the nearest cache for all but the first. Strides are those of heads and rows.
 */
RR_INLINE void RR(rotate_block)(const REAL *x, const ptrdiff_t *x_strides, REAL *y, const ptrdiff_t *y_strides,
                                const REAL *cos_t, const REAL *sin_t, ptrdiff_t table_row, ptrdiff_t count,
                                ptrdiff_t height, ptrdiff_t pairs, ptrdiff_t partner, int interleaved, REAL sign)
{
    REAL c[RR_TABLE], s[RR_TABLE]; /* for the interleaved layout */
    if (interleaved) RR(spread)(cos_t, sin_t, table_row, c, s, height, pairs, sign);
    /* Walk memory in its order: heads within a row where they lie closer together than rows do. */
    const int heads_inside = x_strides[0] < x_strides[1];
    const ptrdiff_t outer = heads_inside ? height : count, inner = heads_inside ? count : height;
    const ptrdiff_t x_outer = x_strides[heads_inside], x_inner = x_strides[!heads_inside];
    const ptrdiff_t y_outer = y_strides[heads_inside], y_inner = y_strides[!heads_inside];
    for (ptrdiff_t i = 0; i < outer; i++) {
        const ptrdiff_t t = heads_inside ? i : 0;
        if (interleaved)
            RR(interleaved_rows)(x + i * x_outer, x_inner, y + i * y_outer, y_inner, c + 2 * t * pairs,
                                 s + 2 * t * pairs, heads_inside ? 0 : 2 * pairs, inner, pairs);
        else
            RR(half_rows)(x + i * x_outer, x_inner, y + i * y_outer, y_inner, cos_t + t * table_row,
                          sin_t + t * table_row, heads_inside ? 0 : table_row, inner, pairs, partner, sign);
    }
}

/* The features that are not turned, of `count` heads, unless y is x. */
RR_INLINE void RR(copy_others)(const REAL *x, const ptrdiff_t *x_strides, REAL *y, const ptrdiff_t *y_strides,
                               ptrdiff_t count, ptrdiff_t rows, ptrdiff_t features, ptrdiff_t start, ptrdiff_t pairs)
{
    if (x == y || 2 * pairs == features) return;
    for (ptrdiff_t h = 0; h < count; h++)
        for (ptrdiff_t t = 0; t < rows; t++) {
            const REAL *x_row = x + h * x_strides[0] + t * x_strides[1];
            REAL *y_row = y + h * y_strides[0] + t * y_strides[1];
            for (ptrdiff_t f = 0; f < start; f++) y_row[f] = x_row[f];
            for (ptrdiff_t f = start + 2 * pairs; f < features; f++) y_row[f] = x_row[f];
        }
}

/*
 * Table rows [0, height) at positions[0 .. height), for `pairs` pairs. Where a position follows the one before, so does
 * its place in the period: a division is dear, and most positions do.
 */
RR_INLINE void RR(look_up)(const REAL *cos_p, const REAL *sin_p, const int64_t *starts, const int64_t *periods,
                           const int64_t *positions, ptrdiff_t height, ptrdiff_t pairs, REAL *c, REAL *s)
{
    int64_t places[RR_PAIRS];
    for (ptrdiff_t t = 0; t < height; t++) {
        const int follows = t > 0 && positions[t - 1] < INT64_MAX && positions[t] == positions[t - 1] + 1;
        for (ptrdiff_t j = 0; j < pairs; j++) {
            if (follows) {
                places[j] = places[j] + 1 == periods[j] ? 0 : places[j] + 1;
            } else {
                const int64_t rest = positions[t] % periods[j];
                places[j] = rest < 0 ? rest + periods[j] : rest;
            }
            c[t * pairs + j] = cos_p[starts[j] + places[j]];
            s[t * pairs + j] = sin_p[starts[j] + places[j]];
        }
    }
}

/* Whether the sizes that both kernels below are given fit: features, and which of them turn. */
RR_INLINE int RR(features_fit)(ptrdiff_t features, ptrdiff_t start, ptrdiff_t pairs)
{
    return features >= 0 && features <= RR_MOST && pairs >= 0 && pairs <= features / 2 && start >= 0 &&
           start <= features - 2 * pairs;
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
 * Returned : y of x's shape, either x itself or without overlap; 0 done, 1 bad size (y untouched)
 * Notes    : no allocation, no globals, no libm; rows are independent.
 */
RR_CLONES int RR(rotate)(const REAL *x, const ptrdiff_t *x_strides, REAL *y, const ptrdiff_t *y_strides,
                         const REAL *cos_t, const REAL *sin_t, ptrdiff_t heads, ptrdiff_t rows, ptrdiff_t features,
                         ptrdiff_t start, ptrdiff_t pairs, int interleaved, int transpose, ptrdiff_t first,
                         ptrdiff_t last)
{
    if (heads < 1 || !RR(features_fit)(features, start, pairs) || !rr_rows_fit(0, rows, features)) return 1;
    if (!rr_rows_fit(first, last, rows * features)) return 1;
    if (first == last || rows * features == 0) return 0;
    const ptrdiff_t batches = (last - 1) / heads + 1, width_of_batch = heads < last ? heads : last;
    if (!rr_walk_fits(x_strides, batches, width_of_batch, rows, features)) return 1;
    if (!rr_walk_fits(y_strides, batches, width_of_batch, rows, features)) return 1;
    const REAL sign = transpose ? (REAL)-1 : (REAL)1;
    while (first < last) { /* the heads of one batch, as far as they are ours */
        const ptrdiff_t batch = first / heads, head = first % heads;
        const ptrdiff_t count = last - first < heads - head ? last - first : heads - head;
        const REAL *x_start = x + batch * x_strides[0] + head * x_strides[1];
        REAL *y_start = y + batch * y_strides[0] + head * y_strides[1];
        first += count;
        for (ptrdiff_t p = 0; p < pairs; p += RR_PAIRS) {
            const ptrdiff_t width = pairs - p < RR_PAIRS ? pairs - p : RR_PAIRS;
            const ptrdiff_t block = RR_TABLE / (2 * width), place = start + (interleaved ? 2 * p : p);
            for (ptrdiff_t t = 0; t < rows; t += block)
                RR(rotate_block)(x_start + t * x_strides[2] + place, x_strides + 1,
                                 y_start + t * y_strides[2] + place, y_strides + 1, cos_t + t * pairs + p,
                                 sin_t + t * pairs + p, pairs, count, rows - t < block ? rows - t : block, width,
                                 pairs, interleaved, sign);
        }
        RR(copy_others)(x_start, x_strides + 1, y_start, y_strides + 1, count, rows, features, start, pairs);
    }
    return 0;
}

/*
 * rr_rotate_periodic_f32 / _f64 - rr_rotate with tables that hold one period of every pair.
 *
 * Oracle   : refrope.rotary.rotate_periodic, equal bit for bit.
 * Source   : Wang et al. 2024, arXiv:2403.00071, Theorem 1: position n has the angles of n mod period.
 * Given    : x            [batches, heads, rows, features] through its strides
 *            cos_p, sin_p pair j's entry for place p at starts[j] + p, 0 <= p < periods[j]
 *            starts, periods [pairs], periods >= 1; positions [rows], any of int64
 *            first, last  the rows to work on; the others as in rr_rotate
 * Returned : y of x's shape, either x itself or without overlap; 0 done, 1 bad size (y untouched)
 * Notes    : no allocation, no globals, no libm. A few rows are looked up at a time, then all batches and heads turned.
 */
RR_CLONES int RR(rotate_periodic)(const REAL *x, const ptrdiff_t *x_strides, REAL *y, const ptrdiff_t *y_strides,
                                  const REAL *cos_p, const REAL *sin_p, const int64_t *starts, const int64_t *periods,
                                  const int64_t *positions, ptrdiff_t batches, ptrdiff_t heads, ptrdiff_t features,
                                  ptrdiff_t start, ptrdiff_t pairs, int interleaved, int transpose, ptrdiff_t first,
                                  ptrdiff_t last)
{
    const ptrdiff_t slices = rr_times(batches, heads);
    if (slices < 0 || !RR(features_fit)(features, start, pairs)) return 1;
    if (!rr_rows_fit(first, last, features) || rr_times(slices, last * features) < 0) return 1;
    if (first == last || slices * features == 0) return 0;
    if (!rr_walk_fits(x_strides, batches, heads, last, features)) return 1;
    if (!rr_walk_fits(y_strides, batches, heads, last, features)) return 1;
    const REAL sign = transpose ? (REAL)-1 : (REAL)1;
    REAL c[RR_TABLE / 4], s[RR_TABLE / 4];
    for (ptrdiff_t p = 0; p < pairs; p += RR_PAIRS) {
        const ptrdiff_t width = pairs - p < RR_PAIRS ? pairs - p : RR_PAIRS;
        const ptrdiff_t block = RR_TABLE / 4 / width, place = start + (interleaved ? 2 * p : p);
        for (ptrdiff_t t = first; t < last; t += block) {
            const ptrdiff_t height = last - t < block ? last - t : block;
            RR(look_up)(cos_p, sin_p, starts + p, periods + p, positions + t, height, width, c, s);
            for (ptrdiff_t b = 0; b < batches; b++)
                RR(rotate_block)(x + b * x_strides[0] + t * x_strides[2] + place, x_strides + 1,
                                 y + b * y_strides[0] + t * y_strides[2] + place, y_strides + 1, c, s, width, heads,
                                 height, width, pairs, interleaved, sign);
        }
    }
    for (ptrdiff_t b = 0; b < batches; b++)
        RR(copy_others)(x + b * x_strides[0] + first * x_strides[2], x_strides + 1,
                        y + b * y_strides[0] + first * y_strides[2], y_strides + 1, heads, last - first, features,
                        start, pairs);
    return 0;
}

#undef RR_TABLE
