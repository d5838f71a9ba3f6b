/*
 * Included by attention.c for each element type and instruction set.
 *
 * Every product of two matrices here is one function, tile(): RR_ROWS rows by one or two vectors of columns, held in
 * registers while it walks along the summed axis. Scores lie transposed, [key][query], so that softmax works on whole
 * vectors of queries and never adds up the lanes of one. A panel is RR_PANEL queries.
 */
#include "rr_vec.h"
#include "rr_exp.h"

/* Vectors of columns in a tile: what leaves room for the accumulators in the register file. */
#if RR_VEC_BYTES == 64 || defined(__aarch64__)
#define PAIR 2
#else
#define PAIR 1
#endif

/* Columns that take part in tiles together: as many as a vector has lanes or a tile has rows. */
#define SPAN (LANES > RR_ROWS ? LANES : RR_ROWS)

/* Scores are needed up to this key for the span of column c, where column 0 sees keys 0 .. limit. */
RR_INLINE RR_TARGET ptrdiff_t RR(last_key)(ptrdiff_t limit, ptrdiff_t c)
{
    return limit + (c | (SPAN - 1));
}

/*
 * c[r][:] = start + sum over t < steps of a[r * a_row + t * a_step] * b[t * b_step + :] for r < RR_ROWS and `vectors`
 * vectors of columns, where start is 0, c (keep), or c[r] * factor[r] (keep, and factor not NULL).
 */
RR_INLINE RR_TARGET void RR(tile)(int vectors, const REAL *a, ptrdiff_t a_row, ptrdiff_t a_step, const REAL *b,
                                  ptrdiff_t b_step, ptrdiff_t steps, REAL *c, ptrdiff_t c_row, int keep,
                                  const REAL *factor)
{
    VEC sum[RR_ROWS][PAIR];
    if (!keep) {
        RR_UNROLL
        for (int r = 0; r < RR_ROWS; r++)
            RR_UNROLL
            for (int v = 0; v < vectors; v++) sum[r][v] = (VEC){0};
    } else {
        RR_UNROLL
        for (int r = 0; r < RR_ROWS; r++)
            RR_UNROLL
            for (int v = 0; v < vectors; v++) {
                sum[r][v] = RR(load)(c + r * c_row + v * LANES);
                if (factor) sum[r][v] *= factor[r];
            }
    }
    for (ptrdiff_t t = 0; t < steps; t++) {
        VEC x[PAIR];
        RR_UNROLL
        for (int v = 0; v < vectors; v++) x[v] = RR(load)(b + t * b_step + v * LANES);
        RR_UNROLL
        for (int r = 0; r < RR_ROWS; r++)
            RR_UNROLL
            for (int v = 0; v < vectors; v++) sum[r][v] += a[r * a_row + t * a_step] * x[v];
    }
    RR_UNROLL
    for (int r = 0; r < RR_ROWS; r++)
        RR_UNROLL
        for (int v = 0; v < vectors; v++) RR(store)(c + r * c_row + v * LANES, sum[r][v]);
}

/* y[r][:] = x[r][:] with zeros behind the d features (to `width`) and the rows (to a multiple of RR_PAD). */
static RR_TARGET void RR(pack)(const REAL *x, ptrdiff_t x_row, ptrdiff_t rows, ptrdiff_t d, REAL *y, ptrdiff_t width)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        memcpy(y + r * width, x + r * x_row, (size_t)d * sizeof *y);
        if (d < width) memset(y + r * width + d, 0, (size_t)(width - d) * sizeof *y);
    }
    memset(y + rows * width, 0, (size_t)((rr_padded(rows) - rows) * width) * sizeof *y);
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

/* How many key rows hold scores for column c: whole tiles, up to the last key of its span. */
RR_INLINE RR_TARGET ptrdiff_t RR(scored)(ptrdiff_t limit, ptrdiff_t c, ptrdiff_t keys)
{
    const ptrdiff_t n = RR(last_key)(limit, c) + RR_ROWS; /* >= 0 once rounded down */
    return n < RR_ROWS ? 0 : rr_least(keys, n / RR_ROWS * RR_ROWS);
}

/* scores[j][c] = keys row j . panel column c, for the pairs that see each other (and some around them). */
static RR_TARGET void RR(scores)(const REAL *keys_rows, const REAL *panel, ptrdiff_t width, ptrdiff_t d,
                                 ptrdiff_t keys, ptrdiff_t columns, ptrdiff_t limit, REAL *scores)
{
    for (ptrdiff_t c = 0; c < columns; c += PAIR * LANES)
        for (ptrdiff_t j = 0; j < keys; j += RR_ROWS) {
            const REAL *row = keys_rows + j * width;
            REAL *target = scores + j * RR_PANEL + c;
            const int second = PAIR == 2 && c + LANES < columns && j <= RR(last_key)(limit, c + LANES);
            if (j <= RR(last_key)(limit, c))
                if (second)
                    RR(tile)(PAIR, row, width, 1, panel + c, RR_PANEL, d, target, RR_PANEL, 0, NULL);
                else
                    RR(tile)(1, row, width, 1, panel + c, RR_PANEL, d, target, RR_PANEL, 0, NULL);
            else if (second)
                RR(tile)(1, row, width, 1, panel + c + LANES, RR_PANEL, d, target + LANES, RR_PANEL, 0, NULL);
            else
                break;
        }
}

/* out[c][:] = (keep: out[c][:] * factor[c]) + sum over the keys j that column c sees of weights[j][c] * values[j][:] */
static RR_TARGET void RR(sum_over_keys)(const REAL *weights, const REAL *values, ptrdiff_t width, ptrdiff_t keys,
                                        ptrdiff_t columns, ptrdiff_t limit, REAL *out, int keep, const REAL *factor)
{
    for (ptrdiff_t f = 0; f < width; f += PAIR * LANES)
        for (ptrdiff_t c = 0; c < columns; c += RR_ROWS) {
            const ptrdiff_t n = rr_seen(limit, c + RR_ROWS - 1, keys);
            const REAL *factors = factor ? factor + c : NULL;
            REAL *to = out + c * width + f;
            if (f + LANES < width)
                RR(tile)(PAIR, weights + c, 1, RR_PANEL, values + f, width, n, to, width, keep, factors);
            else
                RR(tile)(1, weights + c, 1, RR_PANEL, values + f, width, n, to, width, keep, factors);
        }
}

/* out[j][:] = (keep: out[j][:]) + sum over the columns c that see key j of weights[j][c] * rows[c][:] */
static RR_TARGET void RR(sum_over_queries)(const REAL *weights, const REAL *rows, ptrdiff_t width, ptrdiff_t keys,
                                           ptrdiff_t columns, ptrdiff_t limit, REAL *out, int keep)
{
    for (ptrdiff_t f = 0; f < width; f += PAIR * LANES)
        for (ptrdiff_t j = 0; j < keys; j += RR_ROWS) {
            const ptrdiff_t c = j <= limit ? 0 : j - limit < columns ? j - limit : columns;
            const REAL *weight = weights + j * RR_PANEL + c, *from = rows + c * width + f;
            REAL *to = out + j * width + f;
            if (f + LANES < width)
                RR(tile)(PAIR, weight, RR_PANEL, 1, from, width, columns - c, to, width, keep, NULL);
            else
                RR(tile)(1, weight, RR_PANEL, 1, from, width, columns - c, to, width, keep, NULL);
        }
}

/* What dropout multiplies weight (i, j) by, for a panel of queries from i0 and keys from j0: 0 or 1 / (1 - p). */
static RR_TARGET void RR(dropout_factors)(const rr_attention *call, rr_key key, ptrdiff_t i0, ptrdiff_t j0,
                                          ptrdiff_t keys, REAL *factors)
{
    const REAL kept = (REAL)(1.0 / (1.0 - call->threshold / 4294967296.0));
    const uint32_t threshold = call->threshold, n_k = (uint32_t)call->n_k;
    for (ptrdiff_t j = 0; j < keys; j++) {
        const uint32_t first = (uint32_t)i0 * n_k + (uint32_t)(j0 + j);
        for (uint32_t c = 0; c < RR_PANEL; c++)
            factors[j * RR_PANEL + c] = rr_random_bits(key, first + c * n_k) >= threshold ? kept : 0;
    }
}

static RR_TARGET void RR(multiply)(REAL *x, const REAL *y, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) x[i] *= y[i];
}

/* The scores of key j for columns c .. c + LANES - 1, -infinity where the column does not see the key. */
RR_INLINE RR_TARGET VEC RR(masked)(VEC x, ptrdiff_t j, ptrdiff_t c, ptrdiff_t limit)
{
    return RR_WHERE(RR(lane_numbers)() < (INT)(j - limit - c), RR(set)(-(REAL)INFINITY), x);
}

/*
 * One step of online softmax on a panel (Milakov & Gimelshein 2018, arXiv:1805.02867, Alg. 3): scores become
 * e^(score - maximum); `maximum` and `total` are brought up to date; `decay` is what earlier sums shrink by.
 */
static RR_TARGET void RR(softmax_step)(REAL *scores, ptrdiff_t keys, ptrdiff_t columns, ptrdiff_t limit, REAL *maximum,
                                       REAL *total, REAL *decay)
{
    for (ptrdiff_t c = 0; c < columns; c += LANES) {
        const ptrdiff_t all = rr_seen(limit, c, keys), some = RR(scored)(limit, c, keys);
        const VEC old = RR(load)(maximum + c);
        VEC top = old, sum = (VEC){0};
        for (ptrdiff_t j = 0; j < all; j++) top = RR(larger)(RR(load)(scores + j * RR_PANEL + c), top);
        for (ptrdiff_t j = all; j < some; j++) {
            const VEC x = RR(masked)(RR(load)(scores + j * RR_PANEL + c), j, c, limit);
            RR(store)(scores + j * RR_PANEL + c, x);
            top = RR(larger)(x, top);
        }
        for (ptrdiff_t j = 0; j < some; j++) {
            const VEC weight = RR(exp)(RR(load)(scores + j * RR_PANEL + c) - top);
            RR(store)(scores + j * RR_PANEL + c, weight);
            sum += weight;
        }
        const VEC shrink = RR(exp)(old - top);
        RR(store)(decay + c, shrink);
        RR(store)(maximum + c, top);
        RR(store)(total + c, RR(load)(total + c) * shrink + sum);
    }
}

/* Scores become weights P = e^(score - lse); grads, dL/dP before, become dL/dscore = P (dP - delta). */
static RR_TARGET void RR(softmax_backward)(REAL *scores, REAL *grads, ptrdiff_t keys, ptrdiff_t columns,
                                           ptrdiff_t limit, const REAL *shift, const REAL *delta)
{
    for (ptrdiff_t c = 0; c < columns; c += LANES) {
        const ptrdiff_t all = rr_seen(limit, c, keys), some = RR(scored)(limit, c, keys);
        const VEC top = RR(load)(shift + c), mean = RR(load)(delta + c);
        for (ptrdiff_t j = 0; j < some; j++) {
            REAL *score = scores + j * RR_PANEL + c, *grad = grads + j * RR_PANEL + c;
            VEC x = RR(load)(score) - top;
            if (j >= all) x = RR(masked)(x, j, c, limit);
            const VEC weight = RR(exp)(x);
            RR(store)(score, weight);
            RR(store)(grad, weight * (RR(load)(grad) - mean));
        }
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


/* The first address in the scratch buffer that suits the widest vector. */
RR_INLINE RR_TARGET REAL *RR(align)(void *scratch)
{
    return (REAL *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
}

/* to = (add: to) + factor * from, for one row of a packed array and one of the caller's */
RR_INLINE RR_TARGET void RR(put)(const REAL *from, ptrdiff_t d, REAL factor, int add, REAL *to)
{
    if (add)
        for (ptrdiff_t f = 0; f < d; f++) to[f] += factor * from[f];
    else
        for (ptrdiff_t f = 0; f < d; f++) to[f] = factor * from[f];
}

/* One slice forward: for each block of queries, the blocks of keys that they see; for each of these, panel by panel. */
static RR_TARGET void RR(forward_slice)(const rr_attention *call, ptrdiff_t s)
{
    const ptrdiff_t d = call->d, width = rr_padded(d), block = rr_query_block(call->n_q);
    const ptrdiff_t q_row = call->q.strides[2], k_row = call->k.strides[2], v_row = call->v.strides[2];
    const ptrdiff_t out_row = call->out.strides[2], offset = call->n_k - call->n_q;
    const REAL *q = (const REAL *)call->q.data + rr_offset(&call->q, call->heads, s);
    const REAL *k = (const REAL *)call->k.data + rr_offset(&call->k, call->heads, s);
    const REAL *v = (const REAL *)call->v.data + rr_offset(&call->v, call->heads, s);
    REAL *out = (REAL *)call->out.data + rr_offset(&call->out, call->heads, s);
    REAL *lse = (REAL *)call->lse + s * call->n_q;
    const rr_key key = rr_slice_key(call->seed, (uint32_t)s);

    REAL *panels = RR(align)(call->scratch);
    REAL *sums = panels + block * width;
    REAL *keys_rows = sums + block * width;
    REAL *values = keys_rows + RR_KEYS * width;
    REAL *weights = values + RR_KEYS * width;
    REAL *dropped = weights + RR_KEYS * RR_PANEL;
    REAL *maximum = dropped + RR_KEYS * RR_PANEL;
    REAL *total = maximum + block;
    REAL *decay = total + block;

    for (ptrdiff_t i0 = 0; i0 < call->n_q; i0 += block) {
        const ptrdiff_t rows = rr_least(block, call->n_q - i0);
        const ptrdiff_t seen = call->causal ? i0 + rows + offset : call->n_k;
        RR(pack)(q + i0 * q_row, q_row, rows, d, sums, width);
        RR(pack_panels)(sums, rows, width, (REAL)call->scale, panels);
        for (ptrdiff_t i = 0; i < block; i++) {
            maximum[i] = -REAL_MAX;
            total[i] = 0;
        }
        for (ptrdiff_t j0 = 0; j0 < seen; j0 += RR_KEYS) {
            const ptrdiff_t keys = rr_least(RR_KEYS, seen - j0);
            RR(pack)(k + j0 * k_row, k_row, keys, d, keys_rows, width);
            RR(pack)(v + j0 * v_row, v_row, keys, d, values, width);
            for (ptrdiff_t i = 0; i < rows; i += RR_PANEL) {
                const ptrdiff_t columns = rr_padded(rr_least(RR_PANEL, rows - i));
                const ptrdiff_t limit = call->causal ? rr_least(RR_KEYS, i0 + i + offset - j0) : RR_KEYS;
                if (limit + columns <= 0) continue;
                RR(scores)(keys_rows, panels + i * width, width, d, keys, columns, limit, weights);
                RR(softmax_step)(weights, keys, columns, limit, maximum + i, total + i, decay);
                if (call->threshold) {
                    RR(dropout_factors)(call, key, i0 + i, j0, keys, dropped);
                    RR(multiply)(weights, dropped, keys * RR_PANEL);
                }
                RR(sum_over_keys)(weights, values, width, keys, columns, limit, sums + i * width, j0 > 0, decay);
            }
        }
        for (ptrdiff_t i = 0; i < rows; i += LANES) {
            const VEC sum = RR(load)(total + i);
            RR(store)(maximum + i, RR(load)(maximum + i) + RR(log)(sum));
            RR(store)(total + i, 1 / sum);
        }
        for (ptrdiff_t i = 0; i < rows; i++) {
            lse[i0 + i] = maximum[i];
            RR(put)(sums + i * width, d, total[i], 0, out + (i0 + i) * out_row);
        }
    }
}

/* One slice backward. A block of dq is complete after its block of queries; dk and dv grow from block to block. */
static RR_TARGET void RR(backward_slice)(const rr_attention *call, ptrdiff_t s)
{
    const ptrdiff_t d = call->d, width = rr_padded(d), block = rr_query_block(call->n_q);
    const ptrdiff_t q_row = call->q.strides[2], k_row = call->k.strides[2], v_row = call->v.strides[2];
    const ptrdiff_t dout_row = call->dout.strides[2], out_row = call->out.strides[2];
    const ptrdiff_t dq_row = call->dq.strides[2], dk_row = call->dk.strides[2], dv_row = call->dv.strides[2];
    const ptrdiff_t offset = call->n_k - call->n_q;
    const REAL *q = (const REAL *)call->q.data + rr_offset(&call->q, call->heads, s);
    const REAL *k = (const REAL *)call->k.data + rr_offset(&call->k, call->heads, s);
    const REAL *v = (const REAL *)call->v.data + rr_offset(&call->v, call->heads, s);
    const REAL *dout = (const REAL *)call->dout.data + rr_offset(&call->dout, call->heads, s);
    const REAL *out = (const REAL *)call->out.data + rr_offset(&call->out, call->heads, s);
    REAL *dq = (REAL *)call->dq.data + rr_offset(&call->dq, call->heads, s);
    REAL *dk = (REAL *)call->dk.data + rr_offset(&call->dk, call->heads, s);
    REAL *dv = (REAL *)call->dv.data + rr_offset(&call->dv, call->heads, s);
    const REAL *lse = (const REAL *)call->lse + s * call->n_q;
    const rr_key key = rr_slice_key(call->seed, (uint32_t)s);
    const REAL scale = (REAL)call->scale;

    REAL *q_panels = RR(align)(call->scratch);
    REAL *dout_panels = q_panels + block * width;
    REAL *q_rows = dout_panels + block * width;
    REAL *dout_rows = q_rows + block * width;
    REAL *dq_rows = dout_rows + block * width;
    REAL *k_rows = dq_rows + block * width;
    REAL *v_rows = k_rows + RR_KEYS * width;
    REAL *dk_rows = v_rows + RR_KEYS * width;
    REAL *dv_rows = dk_rows + RR_KEYS * width;
    REAL *weights = dv_rows + RR_KEYS * width;
    REAL *grads = weights + RR_KEYS * RR_PANEL;
    REAL *dropped = grads + RR_KEYS * RR_PANEL;
    REAL *shift = dropped + RR_KEYS * RR_PANEL;
    REAL *delta = shift + block;

    ptrdiff_t written = 0; /* keys whose dk and dv hold something already */
    for (ptrdiff_t i0 = 0; i0 < call->n_q; i0 += block) {
        const ptrdiff_t rows = rr_least(block, call->n_q - i0);
        const ptrdiff_t seen = call->causal ? i0 + rows + offset : call->n_k;
        RR(pack)(q + i0 * q_row, q_row, rows, d, q_rows, width);
        RR(pack_panels)(q_rows, rows, width, (REAL)call->scale, q_panels);
        RR(pack)(dout + i0 * dout_row, dout_row, rows, d, dout_rows, width);
        RR(pack_panels)(dout_rows, rows, width, 1, dout_panels);
        RR(pack)(out + i0 * out_row, out_row, rows, d, dq_rows, width);
        RR(row_dots)(dout_rows, dq_rows, rows, width, delta);
        for (ptrdiff_t i = 0; i < block; i++) shift[i] = i < rows ? lse[i0 + i] : 0;
        for (ptrdiff_t j0 = 0; j0 < seen; j0 += RR_KEYS) {
            const ptrdiff_t keys = rr_least(RR_KEYS, seen - j0);
            int keep = 0;
            RR(pack)(k + j0 * k_row, k_row, keys, d, k_rows, width);
            RR(pack)(v + j0 * v_row, v_row, keys, d, v_rows, width);
            for (ptrdiff_t i = 0; i < rows; i += RR_PANEL) {
                const ptrdiff_t used = rr_least(RR_PANEL, rows - i), columns = rr_padded(used);
                const ptrdiff_t limit = call->causal ? rr_least(RR_KEYS, i0 + i + offset - j0) : RR_KEYS;
                if (limit + columns <= 0) continue;
                RR(scores)(k_rows, q_panels + i * width, width, d, keys, columns, limit, weights);
                /* dweights = dout v^T, from out = dropped weights @ v */
                RR(scores)(v_rows, dout_panels + i * width, width, d, keys, columns, limit, grads);
                if (call->threshold) {
                    RR(dropout_factors)(call, key, i0 + i, j0, keys, dropped);
                    RR(multiply)(grads, dropped, keys * RR_PANEL);
                }
                RR(softmax_backward)(weights, grads, keys, columns, limit, shift + i, delta + i);
                if (call->threshold) RR(multiply)(weights, dropped, keys * RR_PANEL);
                /* dv = weights^T dout, from out = weights @ v; dk = dscores^T q and dq = dscores k, from q k^T */
                RR(sum_over_queries)(weights, dout_rows + i * width, width, keys, used, limit, dv_rows, keep);
                RR(sum_over_queries)(grads, q_rows + i * width, width, keys, used, limit, dk_rows, keep);
                RR(sum_over_keys)(grads, k_rows, width, keys, columns, limit, dq_rows + i * width, j0 > 0, NULL);
                keep = 1;
            }
            for (ptrdiff_t j = 0; j < keys; j++) {
                RR(put)(dk_rows + j * width, d, scale, j0 + j < written, dk + (j0 + j) * dk_row);
                RR(put)(dv_rows + j * width, d, 1, j0 + j < written, dv + (j0 + j) * dv_row);
            }
        }
        for (ptrdiff_t i = 0; i < rows; i++) RR(put)(dq_rows + i * width, d, scale, 0, dq + (i0 + i) * dq_row);
        written = seen;
    }
    for (ptrdiff_t j = written; j < call->n_k; j++)
        for (ptrdiff_t f = 0; f < d; f++) dk[j * dk_row + f] = dv[j * dv_row + f] = 0;
}

/* Slices [first, last); the entry points below have checked the sizes. */
static RR_TARGET void RR(forward)(const rr_attention *call, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t s = first; s < last; s++) RR(forward_slice)(call, s);
}

static RR_TARGET void RR(backward)(const rr_attention *call, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t s = first; s < last; s++) RR(backward_slice)(call, s);
}

#ifdef RR_ENTRY

#ifdef RR_MULTIVERSION
#define RR_CALL(name, ...)                                                                                             \
    (__builtin_cpu_supports("x86-64-v4")   ? RR_PASTE(name, RR_TYPE, v4)(__VA_ARGS__)                                  \
     : __builtin_cpu_supports("x86-64-v3") ? RR_PASTE(name, RR_TYPE, v3)(__VA_ARGS__)                                  \
                                           : RR(name)(__VA_ARGS__))
#else
#define RR_CALL(name, ...) RR(name)(__VA_ARGS__)
#endif

/*
 * rr_attention_forward_f32 / _f64 - out = dropout(softmax(scale q k^T)) v for every slice, and the log-sum-exp.
 *
 * Oracle   : refrope.nn.attention.attention_forward in float64; within 2e-6 (float) or 1e-13 (double) of it for unit
 *            normal inputs. The same bits for any split of the slices.
 * Source   : Milakov & Gimelshein 2018, arXiv:1805.02867 (online softmax); tiles as in Dao et al. 2022,
 *            arXiv:2205.14135, Alg. 1, but with all key blocks inside the loop over query blocks.
 * Given    : q     [slices, n_q, d]  through its strides
 *            k, v  [slices, n_k, d]
 *            scale multiplies the scores
 *            causal 1: query i sees keys j <= i + n_k - n_q, n_q <= n_k;  0: all, n_k >= 1
 *            dropout_threshold, seed  weight (i, j) of slice s is kept where rr_random_bits(rr_slice_key(seed, s),
 *                  i n_k + j) >= threshold, and multiplied by 1 / (1 - threshold / 2^32); 0: no dropout, at no cost.
 *                  Otherwise n_q n_k < 2^32
 *            scratch [rr_attention_scratch(n_q, d, 0)]  of this call alone
 *            first, last  the slices to work on
 * Returned : out [slices, n_q, d] through its strides, no overlap with inputs; lse [slices, n_q] contiguous;
 *            0 done, 1 bad size
 * Notes    : no allocation, no globals, no libm. A row that sees NaN becomes NaN; rows near it may too (0 * NaN).
 */
int RR_EXPORT(attention_forward)(const REAL *q, const ptrdiff_t *q_strides, const REAL *k, const ptrdiff_t *k_strides,
                                 const REAL *v, const ptrdiff_t *v_strides, REAL *out, const ptrdiff_t *out_strides,
                                 REAL *lse, REAL *scratch, ptrdiff_t heads, ptrdiff_t n_q, ptrdiff_t n_k, ptrdiff_t d,
                                 double scale, int causal, uint32_t dropout_threshold, uint64_t seed, ptrdiff_t first,
                                 ptrdiff_t last)
{
    const rr_attention call = {
        .q = {(void *)q, q_strides}, .k = {(void *)k, k_strides}, .v = {(void *)v, v_strides},
        .out = {out, out_strides}, .lse = lse, .scratch = scratch, .heads = heads, .n_q = n_q, .n_k = n_k, .d = d,
        .scale = scale, .causal = causal, .threshold = dropout_threshold, .seed = seed,
    };
    if (!rr_fits(&call, first, last)) return 1;
    RR_CALL(forward, &call, first, last);
    return 0;
}

/*
 * rr_attention_backward_f32 / _f64 - gradients of q, k and v; the weights are computed again from lse.
 *
 * Oracle   : refrope.nn.attention.attention_backward in float64; within 1.5e-5 (float) or 1e-13 (double) of it for unit
 *            normal inputs. The same bits for any split of the slices.
 * Source   : Dao et al. 2022, arXiv:2205.14135, Alg. 4, with the loops in the other order.
 * Given    : as in the forward call, then dout like out, and out, lse as it returned them
 *            scratch [rr_attention_scratch(n_q, d, 1)]
 * Returned : dq, dk, dv like q, k, v through their strides, no overlap with inputs; 0 done, 1 bad size
 * Notes    : as in the forward call.
 */
int RR_EXPORT(attention_backward)(const REAL *q, const ptrdiff_t *q_strides, const REAL *k, const ptrdiff_t *k_strides,
                                  const REAL *v, const ptrdiff_t *v_strides, const REAL *dout,
                                  const ptrdiff_t *dout_strides, const REAL *out, const ptrdiff_t *out_strides,
                                  const REAL *lse, REAL *dq, const ptrdiff_t *dq_strides, REAL *dk,
                                  const ptrdiff_t *dk_strides, REAL *dv, const ptrdiff_t *dv_strides, REAL *scratch,
                                  ptrdiff_t heads, ptrdiff_t n_q, ptrdiff_t n_k, ptrdiff_t d, double scale, int causal,
                                  uint32_t dropout_threshold, uint64_t seed, ptrdiff_t first, ptrdiff_t last)
{
    const rr_attention call = {
        .q = {(void *)q, q_strides}, .k = {(void *)k, k_strides}, .v = {(void *)v, v_strides},
        .out = {(void *)out, out_strides}, .dout = {(void *)dout, dout_strides}, .dq = {dq, dq_strides},
        .dk = {dk, dk_strides}, .dv = {dv, dv_strides}, .lse = (void *)lse, .scratch = scratch, .heads = heads,
        .n_q = n_q, .n_k = n_k, .d = d, .scale = scale, .causal = causal, .threshold = dropout_threshold, .seed = seed,
    };
    if (!rr_fits(&call, first, last)) return 1;
    RR_CALL(backward, &call, first, last);
    return 0;
}

#undef RR_CALL
#endif

#undef SPAN
#undef PAIR
#undef LANES
#undef VEC
#undef UVEC
#undef IVEC
#undef REAL
#undef UINT
#undef INT
#undef REAL_MAX
#undef FRACTION_BITS
#undef EXPONENT_BIAS
#undef RR
#undef RR_TYPE
#undef RR_BITS
#undef RR_BITS_OF
#undef RR_FROM_BITS
#undef RR_WHERE
#undef RR_LOG2_E
#undef RR_LOG_2
