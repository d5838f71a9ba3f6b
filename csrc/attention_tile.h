/*
 * attention_tile.h - part of attention_body.h: products of matrices, and the packing that they need.
 *
 * Every product of two matrices in attention is one function, tile(): a few rows by one or two vectors of columns, held
 * in registers while it walks along the summed axis. Scores lie transposed, [key][query], so that softmax works on
 * whole vectors of queries and never adds up the lanes of one. A panel is RR_PANEL queries.
 */

/*
 * Rows and vectors of columns in a tile. A step loads ROWS + PAIR times for ROWS * PAIR multiply-adds, and as many sums
 * must be under way as the adders take (latency 4, two units: 8). With 16 registers of which 8 hold the sums, 4 x 2
 * reaches the peak of a Zen 3 core (8 x 1: two thirds to five sixths; 6 x 2: no more than 4 x 2, and multiples of 16
 * are no multiples of 6). With 32 registers there is room for more.
 */
#if RR_VEC_BYTES == 64 || defined(__aarch64__)
#define ROWS 8
#define PAIR 2
#elif RR_VEC_BYTES > 0
#define ROWS 4
#define PAIR 2
#else
#define ROWS 8
#define PAIR 1
#endif

/*
 * c[r][:] = start + sum over t < steps of a[r * a_row + t * a_step] * b[t * b_step + :] for r < ROWS and `vectors`
 * vectors of columns, where start is 0, c (keep), or c[r] * factor[r] (keep, and factor not NULL). It is added last:
 * then the sum is rounded at its own size, and nothing waits for it.
 */
RR_INLINE RR_TARGET void RR(tile)(int vectors, const REAL *a, ptrdiff_t a_row, ptrdiff_t a_step, const REAL *b,
                                  ptrdiff_t b_step, ptrdiff_t steps, REAL *c, ptrdiff_t c_row, int keep,
                                  const REAL *factor)
{
    VEC sum[ROWS][PAIR];
    RR_UNROLL
    for (int r = 0; r < ROWS; r++)
        RR_UNROLL
        for (int v = 0; v < vectors; v++) sum[r][v] = (VEC){0};
    for (ptrdiff_t t = 0; t < steps; t++) {
        VEC x[PAIR];
        RR_UNROLL
        for (int v = 0; v < vectors; v++) x[v] = RR(load)(b + t * b_step + v * LANES);
        RR_UNROLL
        for (int r = 0; r < ROWS; r++)
            RR_UNROLL
            for (int v = 0; v < vectors; v++) sum[r][v] += a[r * a_row + t * a_step] * x[v];
    }
    RR_UNROLL
    for (int r = 0; r < ROWS; r++)
        RR_UNROLL
        for (int v = 0; v < vectors; v++) {
            REAL *to = c + r * c_row + v * LANES;
            if (keep && factor)
                sum[r][v] += RR(load)(to) * factor[r];
            else if (keep)
                sum[r][v] += RR(load)(to);
            RR(store)(to, sum[r][v]);
        }
}

/* y[r][:] = x[r][:] with zeros behind the d features (to `width`) and the rows (to a multiple of RR_PAD). */
static RR_TARGET void RR(pack)(const REAL *x, ptrdiff_t x_row, ptrdiff_t rows, ptrdiff_t d, REAL *y, ptrdiff_t width)
{
    for (ptrdiff_t r = 0; r < rows; r++, x += x_row, y += width) {
        ptrdiff_t f = 0;
        for (; f + LANES <= d; f += LANES) RR(store)(y + f, RR(load_anywhere)(x + f));
        for (; f < d; f++) y[f] = x[f];
        for (; f < width; f++) y[f] = 0;
    }
    memset(y, 0, (size_t)((rr_padded(rows) - rows) * width) * sizeof *y);
}

/* to = (add: to) + factor * from, for one row of a packed array and one of the caller's */
RR_INLINE RR_TARGET void RR(put)(const REAL *from, ptrdiff_t d, REAL factor, int add, REAL *to)
{
    ptrdiff_t f = 0;
    if (add) {
        for (; f + LANES <= d; f += LANES)
            RR(store_anywhere)(to + f, RR(load_anywhere)(to + f) + factor * RR(load)(from + f));
        for (; f < d; f++) to[f] += factor * from[f];
    } else {
        for (; f + LANES <= d; f += LANES) RR(store_anywhere)(to + f, factor * RR(load)(from + f));
        for (; f < d; f++) to[f] = factor * from[f];
    }
}

/* x[i][j] <-> x[j][i] in LANES vectors: swap blocks of LANES/2 x LANES/2, then of half that size, ... */
RR_INLINE RR_TARGET void RR(transpose)(VEC *x)
{
#if RR_VEC_BYTES > 0 && defined(RR_SHUFFLE)
    const IVEC lane = RR(lane_numbers)();
    RR_UNROLL
    for (int half = LANES / 2; half > 0; half /= 2) {
        const IVEC upper = (lane & half) != 0;
        const IVEC low = lane + (upper & (LANES - half)), high = low + half;
        RR_UNROLL
        for (int i = 0; i < LANES; i++)
            if (!(i & half)) {
                const VEC a = x[i], b = x[i + half];
                x[i] = RR_SHUFFLE(a, b, low);
                x[i + half] = RR_SHUFFLE(a, b, high);
            }
    }
#elif RR_VEC_BYTES > 0
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            const REAL swap = x[i][j];
            x[i][j] = x[j][i];
            x[j][i] = swap;
        }
#else
    (void)x;
#endif
}

/* Packed rows [rows][width] to panels [rows / RR_PANEL][width][RR_PANEL], multiplied by `factor`. */
static RR_TARGET void RR(pack_panels)(const REAL *x, ptrdiff_t rows, ptrdiff_t width, REAL factor, REAL *y)
{
    for (ptrdiff_t r = 0; r < rr_padded(rows); r += LANES)
        for (ptrdiff_t f = 0; f < width; f += LANES) {
            REAL *block = y + r / RR_PANEL * width * RR_PANEL + f * RR_PANEL + r % RR_PANEL;
            VEC lines[LANES];
            RR_UNROLL
            for (int i = 0; i < LANES; i++) lines[i] = RR(load)(x + (r + i) * width + f);
            RR(transpose)(lines);
            RR_UNROLL
            for (int i = 0; i < LANES; i++) RR(store)(block + i * RR_PANEL, lines[i] * factor);
        }
}

/* sums[r] = x[r][:] . y[r][:] for packed rows: partial sums of LANES rows, transposed, then added. */
static RR_TARGET void RR(row_dots)(const REAL *x, const REAL *y, ptrdiff_t rows, ptrdiff_t width, REAL *sums)
{
    for (ptrdiff_t r = 0; r < rr_padded(rows); r += LANES) {
        VEC part[LANES], sum = (VEC){0};
        RR_UNROLL
        for (int i = 0; i < LANES; i++) part[i] = (VEC){0};
        for (ptrdiff_t f = 0; f < width; f += LANES)
            RR_UNROLL
            for (int i = 0; i < LANES; i++)
                part[i] += RR(load)(x + (r + i) * width + f) * RR(load)(y + (r + i) * width + f);
        RR(transpose)(part);
        RR_UNROLL
        for (int i = 0; i < LANES; i++) sum += part[i];
        RR(store)(sums + r, sum);
    }
}

/*
 * scores[j][c] = (keep: scores[j][c]) + keys row j . panel column c, for the pairs that see each other and some around
 * them: a vector of columns gets the rows of keys, ROWS at a time, up to the last that one of its columns sees.
 */
static RR_TARGET void RR(scores)(const REAL *keys_rows, const REAL *panel, ptrdiff_t width, ptrdiff_t d,
                                 ptrdiff_t keys, ptrdiff_t columns, ptrdiff_t limit, REAL *scores, int keep)
{
    for (ptrdiff_t c = 0; c < columns; c += PAIR * LANES)
        for (ptrdiff_t j = 0; j < keys; j += ROWS) {
            const REAL *row = keys_rows + j * width;
            REAL *target = scores + j * RR_LINE + c;
            const int one = j < limit + c + LANES;
            const int two = PAIR == 2 && c + LANES < columns && j < limit + c + 2 * LANES;
            if (one && two)
                RR(tile)(PAIR, row, width, 1, panel + c, RR_PANEL, d, target, RR_LINE, keep, NULL);
            else if (one)
                RR(tile)(1, row, width, 1, panel + c, RR_PANEL, d, target, RR_LINE, keep, NULL);
            else if (two)
                RR(tile)(1, row, width, 1, panel + c + LANES, RR_PANEL, d, target + LANES, RR_LINE, keep, NULL);
            else
                break;
        }
}

/* out[c][:] = (keep: out[c][:] * factor[c]) + sum over the keys j that column c sees of weights[j][c] * values[j][:] */
static RR_TARGET void RR(sum_over_keys)(const REAL *weights, const REAL *values, ptrdiff_t width, ptrdiff_t keys,
                                        ptrdiff_t columns, ptrdiff_t limit, REAL *out, int keep, const REAL *factor)
{
    for (ptrdiff_t f = 0; f < width; f += PAIR * LANES)
        for (ptrdiff_t c = 0; c < columns; c += ROWS) {
            const ptrdiff_t n = rr_seen(limit, c + ROWS - 1, keys);
            const REAL *factors = factor ? factor + c : NULL;
            REAL *to = out + c * width + f;
            if (f + LANES < width)
                RR(tile)(PAIR, weights + c, 1, RR_LINE, values + f, width, n, to, width, keep, factors);
            else
                RR(tile)(1, weights + c, 1, RR_LINE, values + f, width, n, to, width, keep, factors);
        }
}

/* out[j][:] = (keep: out[j][:]) + sum over the columns c that see key j of weights[j][c] * rows[c][:] */
static RR_TARGET void RR(sum_over_queries)(const REAL *weights, const REAL *rows, ptrdiff_t width, ptrdiff_t keys,
                                           ptrdiff_t columns, ptrdiff_t limit, REAL *out, int keep)
{
    for (ptrdiff_t f = 0; f < width; f += PAIR * LANES)
        for (ptrdiff_t j = 0; j < keys; j += ROWS) {
            const ptrdiff_t c = rr_least(columns, rr_first_column(limit, j));
            const REAL *weight = weights + j * RR_LINE + c, *from = rows + c * width + f;
            REAL *to = out + j * width + f;
            if (f + LANES < width)
                RR(tile)(PAIR, weight, RR_LINE, 1, from, width, columns - c, to, width, keep, NULL);
            else
                RR(tile)(1, weight, RR_LINE, 1, from, width, columns - c, to, width, keep, NULL);
        }
}
