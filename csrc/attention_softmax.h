/*
 * attention_softmax.h - part of attention_body.h: from scores to weights and back, dropout and bias.
 *
 * All of it works on a block [keys][RR_LINE] of a panel's scores. Where a column does not see a key, weights and
 * gradients become 0 in every vector that a tile may read: tiles of ROWS rows or columns reach less than ROWS keys
 * beyond the last that a vector of columns sees.
 */

/* What dropout multiplies weight (i, j) by, for a panel of queries from i0 and keys from j0: 0 or 1 / (1 - p). */
static RR_TARGET void RR(dropout_factors)(const rr_attention *call, rr_key key, ptrdiff_t i0, ptrdiff_t j0,
                                          ptrdiff_t keys, REAL *factors)
{
    const REAL kept = (REAL)(1.0 / (1.0 - call->threshold / 4294967296.0));
    const uint32_t threshold = call->threshold, n_k = (uint32_t)call->n_k;
    for (ptrdiff_t j = 0; j < keys; j++) {
        const uint32_t first = (uint32_t)i0 * n_k + (uint32_t)(j0 + j);
        for (ptrdiff_t c = 0; c < RR_PANEL; c++)
            factors[j * RR_LINE + c] = rr_random_bits(key, first + (uint32_t)c * n_k) >= threshold ? kept : 0;
    }
}

/* x *= factors, in the columns of a block */
static RR_TARGET void RR(drop)(REAL *x, const REAL *factors, ptrdiff_t keys)
{
    for (ptrdiff_t j = 0; j < keys; j++)
        for (ptrdiff_t c = 0; c < RR_PANEL; c++) x[j * RR_LINE + c] *= factors[j * RR_LINE + c];
}

/*
 * scores[j][c] = the bias of query c and key j where the query sees the key, else 0. `bias` is that of query 0 and key
 * 0, which may be masked: then nothing needs to lie there, and this reads nothing there.
 */
static RR_TARGET void RR(take_bias)(const rr_bias *bias, ptrdiff_t at, ptrdiff_t keys, ptrdiff_t used, ptrdiff_t limit,
                                    REAL *scores)
{
    const REAL *data = bias->data;
    const ptrdiff_t i_step = bias->strides[2], j_step = bias->strides[3];
    for (ptrdiff_t j = 0; j < rr_padded(keys); j++) {
        const ptrdiff_t first = j < keys ? rr_least(used, rr_first_column(limit, j)) : used;
        const ptrdiff_t start = at + j * j_step;
        REAL *line = scores + j * RR_LINE;
        ptrdiff_t c = first;
        memset(line, 0, (size_t)first * sizeof *line);
        if (i_step == 1)
            for (; c + LANES <= used; c += LANES) RR(store_anywhere)(line + c, RR(load_anywhere)(data + start + c));
        for (; c < used; c++) line[c] = data[start + c * i_step];
        memset(line + used, 0, (size_t)(RR_PANEL - used) * sizeof *line);
    }
}

/* dbias += grads for the pairs that see each other, each through the strides of dbias. */
static RR_TARGET void RR(give_each)(const rr_bias *dbias, ptrdiff_t at, ptrdiff_t keys, ptrdiff_t used,
                                    ptrdiff_t limit, const REAL *grads)
{
    REAL *data = dbias->data;
    const ptrdiff_t i_step = dbias->strides[2], j_step = dbias->strides[3];
    for (ptrdiff_t c = 0; c < used; c++) {
        const ptrdiff_t seen = rr_seen(limit, c, keys);
        for (ptrdiff_t j = 0; j < seen; j++) data[at + c * i_step + j * j_step] += grads[j * RR_LINE + c];
    }
}

/*
 * The same for a whole panel of a dbias that is a table by distance, where a step to the next query and the next key
 * leads to the same entry: the sums along LANES diagonals grow in a register. A vector of diagonals leaves the block on
 * both sides; there it reads the zeros between the lines of `grads` (and before the first).
 */
static RR_TARGET void RR(give_diagonals)(const rr_bias *dbias, ptrdiff_t at, ptrdiff_t keys, ptrdiff_t limit,
                                         const REAL *grads)
{
    REAL *data = dbias->data;
    for (ptrdiff_t c = -rr_least(limit, keys - 1); c < RR_PANEL; c += LANES) { /* c: the column at key 0 */
        const ptrdiff_t first = c + LANES > 0 ? 0 : 1 - c - LANES, last = rr_least(keys, RR_PANEL - c);
        VEC sum = (VEC){0};
        for (ptrdiff_t j = first; j < last; j++) sum += RR(load_anywhere)(grads + j * RR_LINE + j + c);
        if (c + LANES <= RR_PANEL) {
            RR(store_anywhere)(data + at + c, RR(load_anywhere)(data + at + c) + sum);
        } else {
            REAL lanes[LANES];
            RR(store_anywhere)(lanes, sum);
            for (ptrdiff_t i = 0; c + i < RR_PANEL; i++) data[at + c + i] += lanes[i];
        }
    }
}

static RR_TARGET void RR(give_bias)(const rr_bias *dbias, ptrdiff_t at, ptrdiff_t keys, ptrdiff_t used,
                                    ptrdiff_t limit, const REAL *grads)
{
    if (dbias->strides[2] == 1 && dbias->strides[3] == -1 && used == RR_PANEL && limit + RR_PANEL > 0)
        RR(give_diagonals)(dbias, at, keys, limit, grads);
    else
        RR(give_each)(dbias, at, keys, used, limit, grads);
}

/* The scores of key j for columns c .. c + LANES - 1, -infinity where the column does not see the key. */
RR_INLINE RR_TARGET VEC RR(masked)(VEC x, ptrdiff_t j, ptrdiff_t c, ptrdiff_t limit)
{
    return RR_WHERE(RR(lane_numbers)() < (INT)(j - limit - c), RR(set)(-(REAL)INFINITY), x);
}

/* -infinity where a key of a panel's block lies before the window of the query. */
static RR_TARGET void RR(mask_beyond)(const rr_attention *call, ptrdiff_t i0, ptrdiff_t j0, ptrdiff_t keys,
                                      REAL *scores)
{
    if (!call->window) return;
    /* The column that sees key j as the last in its window is window - 1 queries after the key's own. */
    const ptrdiff_t own = j0 - i0 - (call->n_k - call->n_q);
    for (ptrdiff_t j = 0; j < keys; j++)
        for (ptrdiff_t c = rr_most(0, own + j + call->window); c < RR_PANEL; c++)
            scores[j * RR_LINE + c] = -(REAL)INFINITY;
}

/* Zeros in LANES columns of the lines that a tile may reach from the first `seen` keys. */
RR_INLINE RR_TARGET void RR(clear_beyond)(REAL *column, ptrdiff_t seen)
{
    for (ptrdiff_t j = seen; j < rr_least(RR_KEYS, seen + ROWS); j++) RR(store)(column + j * RR_LINE, (VEC){0});
}

/*
 * One step of online softmax on a panel (Milakov & Gimelshein 2018, arXiv:1805.02867, Alg. 3): scores become
 * e^(score - maximum); `maximum` and `total` are brought up to date; `decay` is what earlier sums shrink by.
 */
static RR_TARGET void RR(softmax_step)(REAL *scores, ptrdiff_t keys, ptrdiff_t columns, ptrdiff_t limit, REAL *maximum,
                                       REAL *total, REAL *decay)
{
    for (ptrdiff_t c = 0; c < columns; c += LANES) {
        const ptrdiff_t all = rr_seen(limit, c, keys), some = rr_seen(limit, c + LANES - 1, keys);
        const VEC old = RR(load)(maximum + c);
        VEC top = old, sum = (VEC){0};
        for (ptrdiff_t j = 0; j < all; j++) top = RR(larger)(RR(load)(scores + j * RR_LINE + c), top);
        for (ptrdiff_t j = all; j < some; j++) {
            const VEC x = RR(masked)(RR(load)(scores + j * RR_LINE + c), j, c, limit);
            RR(store)(scores + j * RR_LINE + c, x);
            top = RR(larger)(x, top);
        }
        for (ptrdiff_t j = 0; j < some; j++) {
            const VEC weight = RR(exp)(RR(load)(scores + j * RR_LINE + c) - top);
            RR(store)(scores + j * RR_LINE + c, weight);
            sum += weight;
        }
        RR(clear_beyond)(scores + c, some);
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
        const ptrdiff_t all = rr_seen(limit, c, keys), some = rr_seen(limit, c + LANES - 1, keys);
        const VEC top = RR(load)(shift + c), mean = RR(load)(delta + c);
        for (ptrdiff_t j = 0; j < some; j++) {
            REAL *score = scores + j * RR_LINE + c, *grad = grads + j * RR_LINE + c;
            VEC x = RR(load)(score) - top;
            if (j >= all) x = RR(masked)(x, j, c, limit);
            const VEC weight = RR(exp)(x);
            RR(store)(score, weight);
            RR(store)(grad, weight * (RR(load)(grad) - mean));
        }
        RR(clear_beyond)(scores + c, some);
        RR(clear_beyond)(grads + c, some);
    }
}
