/*
 * attention_entry.h - part of attention_body.h: the exported functions, once for each element type.
 */
/*
 * rr_attention_forward_f32 / _f64 - out = dropout(softmax(scale q k^T + bias)) v, and the log-sum-exp.
 *
 * Oracle   : refrope.nn.attention.attention_forward in float64; within 2e-6 (float) or 1e-13 (double) of it for unit
 *            normal inputs. The same bits for any split of the slices.
 * Source   : Milakov & Gimelshein 2018, arXiv:1805.02867 (online softmax); tiles as in Dao et al. 2022,
 *            arXiv:2205.14135, Alg. 1, but with all key blocks inside the loop over query blocks.
 * Given    : q     [batch, heads, n_q, d]  through its strides; slice s is batch s / heads, head s % heads
 *            k, v  [batch, kv_heads, n_k, d]  head h of q uses head h / (heads / kv_heads) of k and v
 *            bias  [batch, heads, n_q, n_k]  through its four strides, which may be 0 or negative; NULL: none. Entries
 *                  of pairs that do not see each other are not read and need not exist
 *            scale multiplies the scores
 *            causal 1: query i sees keys j <= i + n_k - n_q, n_q <= n_k;  0: all, n_k >= 1
 *            window 1 .. n_k: only keys j > i + n_k - n_q - window, causal only; 0: no window. The bias of keys before
 *                  it is read, but does not matter
 *            add   1: out and lse hold the result over other keys, to which these are added, as if all had been there;
 *                  lse is -infinity where there was none
 *            dropout_threshold, seed, first_slice  weight (i, j) of slice s is kept where
 *                  rr_random_bits(rr_slice_key(seed, first_slice + s), i n_k + j) >= threshold, and multiplied by
 *                  1 / (1 - threshold / 2^32); 0: no dropout, at no cost. Otherwise n_q n_k < 2^32
 *            scratch [rr_attention_scratch(n_q, d, 0)]  of this call alone
 *            first, last  the slices to work on
 * Returned : out like q through its strides, no overlap with inputs; lse [batch, heads, n_q] contiguous;
 *            0 done, 1 bad size (nothing written)
 * Notes    : no allocation, no globals, no libm. A row that sees NaN becomes NaN; rows near it may too (0 * NaN).
 *            With up to RR_FEW queries k and v are read once for all heads in [first, last) that share them.
 */
int RR_EXPORT(attention_forward)(const REAL *q, const ptrdiff_t *q_strides, const REAL *k, const ptrdiff_t *k_strides,
                                 const REAL *v, const ptrdiff_t *v_strides, const REAL *bias,
                                 const ptrdiff_t *bias_strides, REAL *out, const ptrdiff_t *out_strides, REAL *lse,
                                 REAL *scratch, ptrdiff_t heads, ptrdiff_t kv_heads, ptrdiff_t n_q, ptrdiff_t n_k,
                                 ptrdiff_t d, double scale, int causal, ptrdiff_t window, int add,
                                 uint32_t dropout_threshold, uint64_t seed, uint32_t first_slice, ptrdiff_t first,
                                 ptrdiff_t last)
{
    const rr_attention call = {
        .q = {(void *)q, q_strides}, .k = {(void *)k, k_strides}, .v = {(void *)v, v_strides},
        .bias = {(void *)bias, bias_strides}, .out = {out, out_strides}, .lse = lse, .scratch = scratch,
        .heads = heads, .kv_heads = kv_heads, .n_q = n_q, .n_k = n_k, .d = d, .scale = scale, .causal = causal,
        .window = window, .add = add, .threshold = dropout_threshold, .first_slice = first_slice, .seed = seed,
    };
    const ptrdiff_t group = kv_heads > 0 ? heads / kv_heads : 0;
    if (!rr_fits(&call, first, last, group > 0 && last > 0 ? (last - 1) / group + 1 : 0)) return 1;
    RR_CALL(forward, &call, first, last);
    return 0;
}

/*
 * rr_attention_backward_f32 / _f64 - gradients of q, k, v and bias; the weights are computed again from lse.
 *
 * Oracle   : refrope.nn.attention.attention_backward in float64; within 1.5e-5 (float) or 1e-13 (double) of it for unit
 *            normal inputs. The same bits for any split of the slices.
 * Source   : Dao et al. 2022, arXiv:2205.14135, Alg. 4, with the loops in the other order.
 * Given    : as in the forward call, then dout like out, and out, lse as it returned them
 *            scratch [rr_attention_scratch(n_q, d, 1)]
 *            add   1: dq, dk and dv are added to
 *            first, last  slices of k and v: batch * kv_heads of them, each with all heads of q that use it
 * Returned : dq, dk, dv like q, k, v through their strides, no overlap with inputs; 0 done, 1 bad size (nothing
 *            written)
 *            dbias like bias: dL/dscore of each pair that sees the other is added to its entry, 0 where the window
 *                  hides it; NULL: none. Entries of one slice may share memory, those of two slices must
 *                  not. Entries of other pairs are not touched
 * Notes    : as in the forward call.
 */
int RR_EXPORT(attention_backward)(const REAL *q, const ptrdiff_t *q_strides, const REAL *k, const ptrdiff_t *k_strides,
                                  const REAL *v, const ptrdiff_t *v_strides, const REAL *bias,
                                  const ptrdiff_t *bias_strides, const REAL *dout, const ptrdiff_t *dout_strides,
                                  const REAL *out, const ptrdiff_t *out_strides, const REAL *lse, REAL *dq,
                                  const ptrdiff_t *dq_strides, REAL *dk, const ptrdiff_t *dk_strides, REAL *dv,
                                  const ptrdiff_t *dv_strides, REAL *dbias, const ptrdiff_t *dbias_strides,
                                  REAL *scratch, ptrdiff_t heads, ptrdiff_t kv_heads, ptrdiff_t n_q, ptrdiff_t n_k,
                                  ptrdiff_t d, double scale, int causal, ptrdiff_t window, int add,
                                  uint32_t dropout_threshold, uint64_t seed, uint32_t first_slice, ptrdiff_t first,
                                  ptrdiff_t last)
{
    const rr_attention call = {
        .q = {(void *)q, q_strides}, .k = {(void *)k, k_strides}, .v = {(void *)v, v_strides},
        .bias = {(void *)bias, bias_strides}, .dout = {(void *)dout, dout_strides}, .out = {(void *)out, out_strides},
        .dq = {dq, dq_strides}, .dk = {dk, dk_strides}, .dv = {dv, dv_strides}, .dbias = {dbias, dbias_strides},
        .lse = (void *)lse, .scratch = scratch, .heads = heads, .kv_heads = kv_heads, .n_q = n_q, .n_k = n_k, .d = d,
        .scale = scale, .causal = causal, .window = window, .add = add,
        .threshold = dropout_threshold, .first_slice = first_slice, .seed = seed,
    };
    const ptrdiff_t group = kv_heads > 0 ? heads / kv_heads : 0;
    if (first < 0 || !rr_fits(&call, rr_times(first, group), rr_times(last, group), last)) return 1;
    RR_CALL(backward, &call, first, last);
    return 0;
}
