/*
 * attention_forward.h - part of attention_body.h: slices forward, in tiles.
 */

/* One slice forward: for each block of queries, the blocks of keys that they see; for each of these, panel by panel. */
static RR_TARGET void RR(forward_slice)(const rr_attention *call, ptrdiff_t s)
{
    const ptrdiff_t d = call->d, width = rr_padded(d), block = rr_query_block(call->n_q);
    const ptrdiff_t q_row = call->q.strides[2], k_row = call->k.strides[2], v_row = call->v.strides[2];
    const ptrdiff_t out_row = call->out.strides[2], offset = call->n_k - call->n_q;
    const REAL *q = (const REAL *)call->q.data + rr_offset(&call->q, call->heads, s);
    const REAL *k = (const REAL *)call->k.data + rr_kv_offset(call, &call->k, s);
    const REAL *v = (const REAL *)call->v.data + rr_kv_offset(call, &call->v, s);
    REAL *out = (REAL *)call->out.data + rr_offset(&call->out, call->heads, s);
    REAL *lse = (REAL *)call->lse + s * call->n_q;
    const rr_key key = rr_slice_key(call->seed, call->first_slice + (uint32_t)s);
    const int biased = call->bias.data != NULL;

    REAL *panels = RR(align)(call->scratch);
    REAL *sums = panels + block * width;
    REAL *keys_rows = sums + block * width;
    REAL *values = keys_rows + RR_KEYS * width;
    REAL *weights = values + RR_KEYS * width;
    REAL *dropped = weights + RR_KEYS * RR_LINE;
    REAL *maximum = dropped + RR_KEYS * RR_LINE;
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
        if (call->add) { /* one key of score lse and value out; none where lse is -infinity */
            RR(pack)(out + i0 * out_row, out_row, rows, d, sums, width);
            for (ptrdiff_t i = 0; i < rows; i++) {
                const int none = lse[i0 + i] == -(REAL)INFINITY;
                maximum[i] = none ? -REAL_MAX : lse[i0 + i];
                total[i] = none ? 0 : 1;
                if (none) memset(sums + i * width, 0, (size_t)width * sizeof *sums);
            }
        }
        for (ptrdiff_t j0 = rr_key_block(rr_first_key(call, i0)); j0 < seen; j0 += RR_KEYS) {
            const ptrdiff_t keys = rr_least(RR_KEYS, seen - j0);
            RR(pack)(k + j0 * k_row, k_row, keys, d, keys_rows, width);
            RR(pack)(v + j0 * v_row, v_row, keys, d, values, width);
            for (ptrdiff_t i = 0; i < rows; i += RR_PANEL) {
                const ptrdiff_t used = rr_least(RR_PANEL, rows - i), columns = rr_padded(used);
                const ptrdiff_t limit = call->causal ? rr_least(RR_KEYS, i0 + i + offset - j0) : RR_KEYS;
                const ptrdiff_t low = rr_first_key(call, i0 + i) - j0; /* the first key that column 0 sees */
                if (limit + columns <= 0 || low >= keys) continue;
                if (biased)
                    RR(take_bias)(&call->bias, rr_bias_offset(call, &call->bias, s, i0 + i, j0), keys, used, limit,
                                  weights);
                RR(scores)(keys_rows, panels + i * width, width, d, keys, columns, limit, weights, biased);
                RR(mask_beyond)(call, i0 + i, j0, keys, weights);
                RR(softmax_step)(weights, keys, columns, limit, maximum + i, total + i, decay);
                if (call->threshold) {
                    RR(dropout_factors)(call, key, i0 + i, j0, keys, dropped);
                    RR(drop)(weights, dropped, keys);
                }
                const int keep = call->add || low < 0; /* `sums` hold something */
                RR(sum_over_keys)(weights, values, width, keys, columns, limit, sums + i * width, keep, decay);
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

/* Slices [first, last). Few queries go through forward_few, those of as many heads at once as share their keys. */
static RR_TARGET void RR(forward)(const rr_attention *call, ptrdiff_t first, ptrdiff_t last)
{
    const ptrdiff_t group = call->heads / call->kv_heads;
    ptrdiff_t s = first;
    while (s < last) {
        if (call->n_q > RR_FEW || call->n_q == 0) {
            RR(forward_slice)(call, s++);
        } else {
            const ptrdiff_t count = rr_least(rr_least(group - s % group, last - s), RR_PANEL / call->n_q);
            RR(forward_few)(call, s, count);
            s += count;
        }
    }
}
