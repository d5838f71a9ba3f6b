/*
 * attention_backward.h - part of attention_body.h: slices backward, in tiles.
 */

/*
 * One slice of queries backward. A block of dq is complete after its block of queries; dk and dv grow from block to
 * block, and from slice to slice where several share their keys: `add` says that dk and dv hold something already.
 */
static RR_TARGET void RR(backward_slice)(const rr_attention *call, ptrdiff_t s, int add)
{
    const ptrdiff_t d = call->d, width = rr_padded(d), block = rr_query_block(call->n_q);
    const ptrdiff_t q_row = call->q.strides[2], k_row = call->k.strides[2], v_row = call->v.strides[2];
    const ptrdiff_t dout_row = call->dout.strides[2], out_row = call->out.strides[2];
    const ptrdiff_t dq_row = call->dq.strides[2], dk_row = call->dk.strides[2], dv_row = call->dv.strides[2];
    const ptrdiff_t offset = call->n_k - call->n_q;
    const REAL *q = (const REAL *)call->q.data + rr_offset(&call->q, call->heads, s);
    const REAL *k = (const REAL *)call->k.data + rr_kv_offset(call, &call->k, s);
    const REAL *v = (const REAL *)call->v.data + rr_kv_offset(call, &call->v, s);
    const REAL *dout = (const REAL *)call->dout.data + rr_offset(&call->dout, call->heads, s);
    const REAL *out = (const REAL *)call->out.data + rr_offset(&call->out, call->heads, s);
    REAL *dq = (REAL *)call->dq.data + rr_offset(&call->dq, call->heads, s);
    REAL *dk = (REAL *)call->dk.data + rr_kv_offset(call, &call->dk, s);
    REAL *dv = (REAL *)call->dv.data + rr_kv_offset(call, &call->dv, s);
    const REAL *lse = (const REAL *)call->lse + s * call->n_q;
    const rr_key key = rr_slice_key(call->seed, call->first_slice + (uint32_t)s);
    const REAL scale = (REAL)call->scale;
    const int biased = call->bias.data != NULL;

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
    REAL *dropped = weights + RR_KEYS * RR_LINE;
    REAL *grads = dropped + RR_KEYS * RR_LINE + RR_PAD;
    REAL *shift = grads + RR_KEYS * RR_LINE;
    REAL *delta = shift + block;
    for (ptrdiff_t j = 0; j <= RR_KEYS; j++) memset(grads + j * RR_LINE - RR_PAD, 0, RR_PAD * sizeof *grads);

    ptrdiff_t written = add ? call->n_k : 0; /* keys whose dk and dv hold something already */
    for (; written < rr_key_block(rr_first_key(call, 0)); written++) /* keys that lie before every window */
        for (ptrdiff_t f = 0; f < d; f++) dk[written * dk_row + f] = dv[written * dv_row + f] = 0;
    for (ptrdiff_t i0 = 0; i0 < call->n_q; i0 += block) {
        const ptrdiff_t rows = rr_least(block, call->n_q - i0);
        const ptrdiff_t seen = call->causal ? i0 + rows + offset : call->n_k;
        RR(pack)(q + i0 * q_row, q_row, rows, d, q_rows, width);
        RR(pack_panels)(q_rows, rows, width, scale, q_panels);
        RR(pack)(dout + i0 * dout_row, dout_row, rows, d, dout_rows, width);
        RR(pack_panels)(dout_rows, rows, width, 1, dout_panels);
        RR(pack)(out + i0 * out_row, out_row, rows, d, dq_rows, width);
        RR(row_dots)(dout_rows, dq_rows, rows, width, delta);
        for (ptrdiff_t i = 0; i < block; i++) shift[i] = i < rows ? lse[i0 + i] : 0;
        for (ptrdiff_t j0 = rr_key_block(rr_first_key(call, i0)); j0 < seen; j0 += RR_KEYS) {
            const ptrdiff_t keys = rr_least(RR_KEYS, seen - j0);
            int keep = 0;
            RR(pack)(k + j0 * k_row, k_row, keys, d, k_rows, width);
            RR(pack)(v + j0 * v_row, v_row, keys, d, v_rows, width);
            for (ptrdiff_t i = 0; i < rows; i += RR_PANEL) {
                const ptrdiff_t used = rr_least(RR_PANEL, rows - i), columns = rr_padded(used);
                const ptrdiff_t limit = call->causal ? rr_least(RR_KEYS, i0 + i + offset - j0) : RR_KEYS;
                const ptrdiff_t low = rr_first_key(call, i0 + i) - j0; /* the first key that column 0 sees */
                if (limit + columns <= 0 || low >= keys) continue;
                if (biased)
                    RR(take_bias)(&call->bias, rr_bias_offset(call, &call->bias, s, i0 + i, j0), keys, used, limit,
                                  weights);
                RR(scores)(k_rows, q_panels + i * width, width, d, keys, columns, limit, weights, biased);
                RR(mask_beyond)(call, i0 + i, j0, keys, weights);
                /* dweights = dout v^T, from out = dropped weights @ v */
                RR(scores)(v_rows, dout_panels + i * width, width, d, keys, columns, limit, grads, 0);
                if (call->threshold) {
                    RR(dropout_factors)(call, key, i0 + i, j0, keys, dropped);
                    RR(drop)(grads, dropped, keys);
                }
                RR(softmax_backward)(weights, grads, keys, columns, limit, shift + i, delta + i);
                if (call->threshold) RR(drop)(weights, dropped, keys);
                /* dbias = dscores, from scores = scale q k^T + bias */
                if (call->dbias.data)
                    RR(give_bias)(&call->dbias, rr_bias_offset(call, &call->dbias, s, i0 + i, j0), keys, used, limit,
                                  grads);
                /* dv = weights^T dout, from out = weights @ v; dk = dscores^T q and dq = dscores k, from q k^T */
                RR(sum_over_queries)(weights, dout_rows + i * width, width, keys, used, limit, dv_rows, keep);
                RR(sum_over_queries)(grads, q_rows + i * width, width, keys, used, limit, dk_rows, keep);
                RR(sum_over_keys)(grads, k_rows, width, keys, columns, limit, dq_rows + i * width, low < 0, NULL);
                keep = 1;
            }
            for (ptrdiff_t j = 0; j < keys; j++) {
                RR(put)(dk_rows + j * width, d, scale, j0 + j < written, dk + (j0 + j) * dk_row);
                RR(put)(dv_rows + j * width, d, 1, j0 + j < written, dv + (j0 + j) * dv_row);
            }
        }
        for (ptrdiff_t i = 0; i < rows; i++) RR(put)(dq_rows + i * width, d, scale, call->add, dq + (i0 + i) * dq_row);
        if (seen > written) written = seen;
    }
    for (ptrdiff_t j = written; j < call->n_k; j++)
        for (ptrdiff_t f = 0; f < d; f++) dk[j * dk_row + f] = dv[j * dv_row + f] = 0;
}

/* Slices [first, last) of keys, each with all slices of queries that use it. */
static RR_TARGET void RR(backward)(const rr_attention *call, ptrdiff_t first, ptrdiff_t last)
{
    const ptrdiff_t group = call->heads / call->kv_heads;
    for (ptrdiff_t s = first * group; s < last * group; s++) RR(backward_slice)(call, s, call->add || s % group > 0);
}
