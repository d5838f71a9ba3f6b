/*
 * attention_few.h - part of attention_body.h: few queries against many keys, as when text is generated token by token.
 *
 * Here the time goes into reading k and v from memory. They are read once for all queries that share them, where they
 * lie: a block of keys for every query, then the same block's values. Scores lie along the keys. While one block is
 * worked on, memory brings the next one.
 */

/* What a query's work on a block has brought of the next block: `lines` of memory for each key, from `next` on. */
typedef struct {
    const char *next;
    ptrdiff_t lines;
} RR(ahead);

RR_INLINE RR_TARGET void RR(bring)(RR(ahead) *ahead, ptrdiff_t keys)
{
    for (ptrdiff_t i = 0; i < keys * ahead->lines; i++) RR_FETCH(ahead->next + i * RR_LINE_BYTES);
    ahead->next += keys * ahead->lines * RR_LINE_BYTES;
}

/* The part of query r of `rows` in bringing rows x[j] for a whole block of keys, where they lie without gaps. */
RR_INLINE RR_TARGET RR(ahead) RR(part_of_next)(const REAL *x, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n_k, ptrdiff_t d,
                                               ptrdiff_t r, ptrdiff_t rows)
{
    const ptrdiff_t all = (d * (ptrdiff_t)sizeof(REAL) + RR_LINE_BYTES - 1) / RR_LINE_BYTES;
    const ptrdiff_t lines = (all + rows - 1) / rows;
    if (row != d || j + RR_KEYS > n_k || (r + 1) * lines > all) return (RR(ahead)){(const char *)x, 0};
    return (RR(ahead)){(const char *)(x + j * row) + r * RR_KEYS * lines * RR_LINE_BYTES, lines};
}

/* Vectors of the output that grow together: enough to keep the adders busy. */
#define FEW_VECTORS (RR_VEC_BYTES == 64 ? 4 : 8)

/* scores[j] = q . k[j][:] for n keys: partial sums of LANES keys, transposed, then added; behind them -infinity. */
static RR_TARGET void RR(few_scores)(const REAL *q, const REAL *k, ptrdiff_t k_row, ptrdiff_t n, ptrdiff_t d,
                                     RR(ahead) ahead, REAL *scores)
{
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const REAL *row[LANES];
        VEC part[LANES], sum = (VEC){0};
        ptrdiff_t f = 0;
        RR(bring)(&ahead, LANES);
        RR_UNROLL
        for (int i = 0; i < LANES; i++) {
            row[i] = k + rr_least(j + i, n - 1) * k_row;
            part[i] = (VEC){0};
        }
        for (; f + LANES <= d; f += LANES) {
            const VEC x = RR(load)(q + f);
            RR_UNROLL
            for (int i = 0; i < LANES; i++) part[i] += x * RR(load_anywhere)(row[i] + f);
        }
        RR(transpose)(part);
        RR_UNROLL
        for (int i = 0; i < LANES; i++) sum += part[i];
        RR(store)(scores + j, sum);
        for (; f < d; f++)
            for (int i = 0; i < LANES; i++) scores[j + i] += q[f] * row[i][f];
    }
    for (ptrdiff_t j = n; j % LANES; j++) scores[j] = -(REAL)INFINITY;
}

/* sum[:] = sum[:] * decay + sum over j < n of weights[j] * v[j][:] for `vectors` vectors of features. */
RR_INLINE RR_TARGET void RR(few_features)(int vectors, const REAL *weights, const REAL *v, ptrdiff_t v_row, ptrdiff_t n,
                                          REAL decay, RR(ahead) ahead, REAL *sum)
{
    VEC part[FEW_VECTORS];
    RR_UNROLL
    for (int i = 0; i < vectors; i++) part[i] = (VEC){0};
    for (ptrdiff_t j = 0; j < n; j++) {
        RR(bring)(&ahead, 1);
        RR_UNROLL
        for (int i = 0; i < vectors; i++) part[i] += weights[j] * RR(load_anywhere)(v + j * v_row + i * LANES);
    }
    RR_UNROLL
    for (int i = 0; i < vectors; i++) RR(store)(sum + i * LANES, RR(load)(sum + i * LANES) * decay + part[i]);
}

static RR_TARGET void RR(few_sum)(const REAL *weights, const REAL *v, ptrdiff_t v_row, ptrdiff_t n, ptrdiff_t d,
                                  REAL decay, RR(ahead) ahead, REAL *sum)
{
    ptrdiff_t f = 0;
    for (; f + FEW_VECTORS * LANES <= d; f += FEW_VECTORS * LANES, ahead.lines = 0)
        RR(few_features)(FEW_VECTORS, weights, v + f, v_row, n, decay, ahead, sum + f);
    for (; f + LANES <= d; f += LANES, ahead.lines = 0)
        RR(few_features)(1, weights, v + f, v_row, n, decay, ahead, sum + f);
    for (; f < d; f++) {
        REAL part = 0;
        for (ptrdiff_t j = 0; j < n; j++) part += weights[j] * v[j * v_row + f];
        sum[f] = sum[f] * decay + part;
    }
}

/* Softmax of n scores, one step: e^(score - maximum); the return value is what earlier sums shrink by. */
RR_INLINE RR_TARGET REAL RR(few_softmax_step)(REAL *scores, ptrdiff_t n, REAL *maximum, REAL *total)
{
    REAL lanes[LANES], top = *maximum, sum = 0;
    VEC tops = RR(set)(top), sums = (VEC){0};
    for (ptrdiff_t j = 0; j < n; j += LANES) tops = RR(larger)(RR(load)(scores + j), tops);
    RR(store_anywhere)(lanes, tops);
    for (int i = 0; i < LANES; i++) top = lanes[i] > top ? lanes[i] : top;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const VEC weight = RR(exp)(RR(load)(scores + j) - top);
        RR(store)(scores + j, weight);
        sums += weight;
    }
    RR(store_anywhere)(lanes, sums);
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    RR(store_anywhere)(lanes, RR(exp)(RR(set)(*maximum - top)));
    *maximum = top;
    *total = *total * lanes[0] + sum;
    return lanes[0];
}

/* All queries of slices s .. s + count - 1, which share their keys; count * n_q <= RR_PANEL. */
static RR_TARGET void RR(forward_few)(const rr_attention *call, ptrdiff_t s, ptrdiff_t count)
{
    const ptrdiff_t d = call->d, width = rr_padded(d), rows = count * call->n_q, offset = call->n_k - call->n_q;
    const ptrdiff_t k_row = call->k.strides[2], v_row = call->v.strides[2];
    const REAL *k = (const REAL *)call->k.data + rr_kv_offset(call, &call->k, s);
    const REAL *v = (const REAL *)call->v.data + rr_kv_offset(call, &call->v, s);
    REAL *queries = RR(align)(call->scratch);
    REAL *sums = queries + RR_PANEL * width;
    REAL *weights = sums + RR_PANEL * width;
    REAL *dropped = weights + RR_KEYS;
    REAL *maximum = dropped + RR_KEYS;
    REAL *total = maximum + RR_PANEL;

    for (ptrdiff_t r = 0; r < rows; r++) {
        const REAL *q = (const REAL *)call->q.data + rr_offset(&call->q, call->heads, s + r / call->n_q) +
                        r % call->n_q * call->q.strides[2];
        for (ptrdiff_t f = 0; f < d; f++) queries[r * width + f] = (REAL)call->scale * q[f];
        const ptrdiff_t slice = s + r / call->n_q, i = r % call->n_q;
        const REAL before = call->add ? ((REAL *)call->lse)[slice * call->n_q + i] : -(REAL)INFINITY;
        const int none = before == -(REAL)INFINITY;
        memset(sums + r * width, 0, (size_t)width * sizeof *sums);
        if (!none) { /* one key of score lse and value out, as in forward_slice */
            const REAL *out = (const REAL *)call->out.data + rr_offset(&call->out, call->heads, slice) +
                              i * call->out.strides[2];
            for (ptrdiff_t f = 0; f < d; f++) sums[r * width + f] = out[f];
        }
        maximum[r] = none ? -REAL_MAX : before;
        total[r] = none ? 0 : 1;
    }
    for (ptrdiff_t j0 = rr_key_block(rr_first_key(call, 0)); j0 < call->n_k; j0 += RR_KEYS)
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t slice = s + r / call->n_q, i = r % call->n_q;
            const ptrdiff_t left = (call->causal ? i + offset + 1 : call->n_k) - j0, n = rr_least(RR_KEYS, left);
            const ptrdiff_t before = rr_first_key(call, i) - j0; /* keys that lie before the window */
            if (n <= 0 || before >= n) continue;
            const ptrdiff_t next = j0 + RR_KEYS;
            RR(few_scores)(queries + r * width, k + j0 * k_row, k_row, n, d,
                           RR(part_of_next)(k, k_row, next, call->n_k, d, r, rows), weights);
            if (call->bias.data) {
                const REAL *bias = call->bias.data;
                const ptrdiff_t at = rr_bias_offset(call, &call->bias, slice, i, j0);
                for (ptrdiff_t j = 0; j < n; j++) weights[j] += bias[at + j * call->bias.strides[3]];
            }
            for (ptrdiff_t j = 0; j < before; j++) weights[j] = -(REAL)INFINITY;
            const REAL decay = RR(few_softmax_step)(weights, n, maximum + r, total + r);
            if (call->threshold) {
                const rr_key key = rr_slice_key(call->seed, call->first_slice + (uint32_t)slice);
                const uint32_t first = (uint32_t)(i * call->n_k + j0);
                const REAL kept = (REAL)(1.0 / (1.0 - call->threshold / 4294967296.0));
                for (uint32_t j = 0; j < RR_KEYS; j++)
                    dropped[j] = rr_random_bits(key, first + j) >= call->threshold ? kept : 0;
                for (ptrdiff_t j = 0; j < n; j++) weights[j] *= dropped[j];
            }
            RR(few_sum)(weights, v + j0 * v_row, v_row, n, d, decay,
                        RR(part_of_next)(v, v_row, next, call->n_k, d, r, rows), sums + r * width);
        }
    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t slice = s + r / call->n_q, i = r % call->n_q;
        REAL *out = (REAL *)call->out.data + rr_offset(&call->out, call->heads, slice) + i * call->out.strides[2];
        REAL lanes[LANES];
        RR(store_anywhere)(lanes, RR(log)(RR(set)(total[r])));
        ((REAL *)call->lse)[slice * call->n_q + i] = maximum[r] + lanes[0];
        RR(put)(sums + r * width, d, 1 / total[r], 0, out);
    }
}
