/* Included by decode.c once for float32 and once for float64. */

/* products[b][:] = x w over block b of the k rows of w, for the blocks of a thread */
static int RR(blocks)(const REAL *x, const REAL *w, REAL *products, ptrdiff_t k, ptrdiff_t columns, ptrdiff_t thread,
                      ptrdiff_t threads)
{
    const rr_part mine = rr_part_of(RR_BLOCKS, thread, threads);
    int failed = 0;
    for (ptrdiff_t b = mine.first; b < mine.last; b++) {
        const rr_part rows = rr_part_of(k, b, RR_BLOCKS);
        failed |= RR(row_product)(x + rows.first, w + rows.first * columns, products + b * columns,
                                  rows.last - rows.first, columns, 0, 0, 0, columns);
    }
    return failed;
}

/* y[c] = sum over b of products[b][c], or y[c] plus that, for columns [first, last) */
RR_CLONES static void RR(added)(const REAL *products, REAL *y, ptrdiff_t columns, int add, ptrdiff_t first,
                                ptrdiff_t last)
{
    RR_INDEPENDENT
    for (ptrdiff_t c = first; c < last; c++) {
        REAL sum = products[c];
        for (ptrdiff_t b = 1; b < RR_BLOCKS; b++) sum += products[b * columns + c];
        y[c] = add ? y[c] + sum : sum;
    }
}

/*
 * rr_decode_f32 / _f64 - a new token's row x through all layers: x += attention(rmsnorm(x)), x += swiglu(rmsnorm(x)).
 *
 * Oracle   : refrope.nn.Transformer.forward with the NumPy backend, within rounding. The same bits for any number of
 *            threads, since those of the kernels that it calls do not depend on the range.
 * Given    : x [d_model]
 *            weights [layers, 6], for each layer: gain [d_model], qkv [d_model, (heads + 2 kv_heads) d],
 *                    out [heads d, d_model], gain [d_model], in [d_model, 2 d_ff] (gate, up), back [d_ff, d_model]
 *            tables  [layers, 2], for each layer cos and sin [pairs[layer]], features j and j + pairs[layer] being a
 *                    pair; not read where pairs[layer] is 0: nothing turns
 *            keys, values  [layers, kv_heads, capacity, d], of which `length` rows are there
 *            window  1 .. length + 1: the keys that the token sees, its own included; 0: all
 *            scale   multiplies the scores; eps is that of rmsnorm
 *            scratch [rr_decode_scratch(...)], meeting [RR_MEETING] zeros; of this call alone, shared by its threads
 *            thread, threads  all of them call at the same time, with the same arguments but for the first, and wait
 *                    for each other: a call that is not made leaves the others waiting, until meeting[32] is set
 * Returned : x; row `length` of keys and values; 0 done, 1 bad size (nothing written, no thread waits), 2 called off
 *            (x and the row may hold anything)
 */
int RR(decode)(REAL *x, const REAL *const *weights, const REAL *const *tables, const ptrdiff_t *pairs, REAL *keys,
               REAL *values, REAL *scratch, int32_t *meeting, ptrdiff_t layers, ptrdiff_t d_model, ptrdiff_t heads,
               ptrdiff_t kv_heads, ptrdiff_t d, ptrdiff_t d_ff, ptrdiff_t capacity, ptrdiff_t length, ptrdiff_t window,
               double eps, double scale, ptrdiff_t thread, ptrdiff_t threads)
{
    if (thread < 0 || thread >= threads || layers < 0 || length < 0 || length >= capacity) return 1;
    if (window < 0 || window > length + 1) return 1;
    if (rr_decode_scratch(d_model, heads, kv_heads, d, d_ff, threads) < 0) return 1;
    if (rr_times(d_model, rr_times(d_ff, 2)) < 0 || rr_times(d_model, rr_times(heads + 2 * kv_heads, d)) < 0) return 1;
    if (rr_times(rr_times(rr_times(layers, kv_heads), capacity), d) < 0 || rr_times(layers, RR_WEIGHTS) < 0) return 1;
    for (ptrdiff_t i = 0; i < layers; i++)
        if (pairs[i] < 0 || pairs[i] > d / 2) return 1;

    const ptrdiff_t inner = heads * d, width = inner + 2 * kv_heads * d, kept = kv_heads * capacity * d;
    const ptrdiff_t by_head[3] = {0, d, 0}, by_key[3] = {0, capacity * d, d}, no_bias[4] = {0}, no_rows[3] = {0};
    const rr_part of_heads = rr_part_of(heads, thread, threads), of_model = rr_part_of(d_model, thread, threads);
    const rr_part of_ff = rr_part_of(d_ff, thread, threads);
    REAL *qkv = scratch, *o = qkv + width, *lse = o + inner, *h = lse + heads, *products = h + 2 * d_ff;
    REAL *own = products + RR_BLOCKS * rr_decode_widest(d_model, heads, kv_heads, d, d_ff);
    REAL *n = own + thread * rr_decode_own(d_model, d), *factor = n + d_model, *rest = factor + 1;
    int failed = 0;
    for (ptrdiff_t i = 0; i < layers; i++) {
        const REAL *const *w = weights + i * RR_WEIGHTS;
        REAL *k = keys + i * kept, *v = values + i * kept;

        failed |= RR(rmsnorm_forward)(x, w[0], n, factor, d_model, eps, 0, 1);
        failed |= RR(blocks)(n, w[1], products, d_model, width, thread, threads);
        if (rr_meet(meeting, threads)) return 2;
        if (thread == 0) { /* microseconds */
            RR(added)(products, qkv, width, 0, 0, width);
            if (pairs[i])
                failed |= RR(rotate)(qkv, by_head, qkv, by_head, tables[2 * i], tables[2 * i + 1], heads + kv_heads, 1,
                                     d, 0, pairs[i], 0, 0, 0, heads + kv_heads);
            for (ptrdiff_t g = 0; g < kv_heads; g++) {
                memcpy(k + (g * capacity + length) * d, qkv + inner + g * d, (size_t)d * sizeof(REAL));
                memcpy(v + (g * capacity + length) * d, qkv + inner + (kv_heads + g) * d, (size_t)d * sizeof(REAL));
            }
        }
        if (rr_meet(meeting, threads)) return 2;
        failed |= RR(attention_forward)(qkv, by_head, k, by_key, v, by_key, NULL, no_bias, o, by_head, lse, rest, heads,
                                        kv_heads, 1, length + 1, d, scale, 1, window, 0, 0, 0, 0, of_heads.first,
                                        of_heads.last);
        if (rr_meet(meeting, threads)) return 2;
        failed |= RR(blocks)(o, w[2], products, inner, d_model, thread, threads);
        if (rr_meet(meeting, threads)) return 2;
        RR(added)(products, x, d_model, 1, of_model.first, of_model.last);
        if (rr_meet(meeting, threads)) return 2;

        failed |= RR(rmsnorm_forward)(x, w[3], n, factor, d_model, eps, 0, 1);
        failed |= RR(blocks)(n, w[4], products, d_model, 2 * d_ff, thread, threads);
        if (rr_meet(meeting, threads)) return 2;
        RR(added)(products, h, 2 * d_ff, 0, of_ff.first, of_ff.last);
        RR(added)(products, h, 2 * d_ff, 0, d_ff + of_ff.first, d_ff + of_ff.last);
        failed |= RR(swiglu_forward)(h + of_ff.first, h + d_ff + of_ff.first, h + of_ff.first, no_rows,
                                     of_ff.last - of_ff.first, 0, 1);
        if (rr_meet(meeting, threads)) return 2;
        failed |= RR(blocks)(h, w[5], products, d_ff, d_model, thread, threads);
        if (rr_meet(meeting, threads)) return 2;
        RR(added)(products, x, d_model, 1, of_model.first, of_model.last);
        if (rr_meet(meeting, threads)) return 2;
    }
    return failed;
}
