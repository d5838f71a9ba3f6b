/*
 * Included by elementwise.c once for float32 and once for float64. Nothing here adds more than two numbers at a time
 * and contraction is off: every function equals its NumPy twin bit for bit. Arrays are flat, and [first, last) are
 * elements, where nothing else is said. Returned: 0 done, 1 bad size (nothing written).
 */

/* rr_relu_forward - y = max(x, 0), a NaN stays. Oracle: refrope.nn.layers.relu_forward. y may be x. */
RR_CLONES int RR(relu_forward)(const REAL *x, REAL *y, ptrdiff_t first, ptrdiff_t last)
{
    if (!rr_rows_fit(first, last, 1)) return 1;
    RR_INDEPENDENT
    for (ptrdiff_t i = first; i < last; i++) y[i] = x[i] <= 0 ? (REAL)0 : x[i];
    return 0;
}

/* rr_relu_backward - dx = dy where y > 0, else 0. Oracle: refrope.nn.layers.relu_backward. dx may be dy. */
RR_CLONES int RR(relu_backward)(const REAL *dy, const REAL *y, REAL *dx, ptrdiff_t first, ptrdiff_t last)
{
    if (!rr_rows_fit(first, last, 1)) return 1;
    RR_INDEPENDENT
    for (ptrdiff_t i = first; i < last; i++) dx[i] = y[i] > 0 ? dy[i] : (REAL)0;
    return 0;
}

/*
 * rr_dropout - y = x / (1 - p) where the random bits of element i reach the threshold p 2^32, else 0.
 *
 * Oracle : refrope.nn.dropout.dropout; it is its own backward pass. y may be x.
 * Notes  : element i uses counter start + i < 2^32. The bits depend on seed and counter alone,
 *          so on neither thread nor range.
 */
RR_CLONES int RR(dropout)(const REAL *x, REAL *y, uint32_t threshold, uint64_t seed, uint32_t start, ptrdiff_t first,
                          ptrdiff_t last)
{
    if (!rr_rows_fit(first, last, 1) || (uint64_t)last > UINT32_MAX + (uint64_t)1 - start) return 1;
    const rr_key key = rr_slice_key(seed, 0);
    const REAL scale = (REAL)(1.0 / (1.0 - (double)threshold / 4294967296.0));
    RR_INDEPENDENT
    for (ptrdiff_t i = first; i < last; i++)
        y[i] = rr_random_bits(key, start + (uint32_t)i) >= threshold ? x[i] * scale : (REAL)0;
    return 0;
}

/*
 * rr_adamw - one step of AdamW on flat arrays, in place.
 *
 * Oracle   : refrope.nn.optim.adamw_update.
 * Source   : Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2, in the order of operations of PyTorch.
 * Given    : grads [parts, size], added in order: the parts of a batch that were worked on side by side
 *            settings [8] = 1 - lr * weight_decay, beta1, 1 - beta1, beta2, 1 - beta2,
 *            lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), eps
 * Returned : weight, moment1, moment2 [size] updated
 */
RR_CLONES int RR(adamw)(REAL *weight, REAL *moment1, REAL *moment2, const REAL *grads, const double *settings,
                        ptrdiff_t parts, ptrdiff_t size, ptrdiff_t first, ptrdiff_t last)
{
    if (parts < 1 || !rr_rows_fit(first, last, 1) || last > size || rr_times(parts, size) < 0) return 1;
    const REAL keep = (REAL)settings[0], beta1 = (REAL)settings[1], new1 = (REAL)settings[2];
    const REAL beta2 = (REAL)settings[3], new2 = (REAL)settings[4], step = (REAL)settings[5];
    const REAL correction = (REAL)settings[6], eps = (REAL)settings[7];
    for (ptrdiff_t start = first; start < last; start += RR_FLAT) {
        const ptrdiff_t n = last - start < RR_FLAT ? last - start : RR_FLAT;
        const REAL *grad = grads + start;
        REAL *w = weight + start, *m1 = moment1 + start, *m2 = moment2 + start, sum[RR_FLAT];
        for (ptrdiff_t part = 1; part < parts; part++) {
            const REAL *more = grads + part * size + start;
            RR_INDEPENDENT
            for (ptrdiff_t i = 0; i < n; i++) sum[i] = grad[i] + more[i];
            grad = sum;
        }
        RR_INDEPENDENT
        for (ptrdiff_t i = 0; i < n; i++) {
            const REAL m = beta1 * m1[i] + new1 * grad[i];
            const REAL v = beta2 * m2[i] + new2 * (grad[i] * grad[i]);
            m1[i] = m;
            m2[i] = v;
            w[i] = keep * w[i] - step * m / (RR_SQRT(v) * correction + eps);
        }
    }
    return 0;
}

/*
 * rr_cross_entropy_backward - (softmax - one-hot) factor, over the softmax.
 *
 * Oracle   : refrope.nn.layers.cross_entropy_backward.
 * Given    : probabilities [rows, classes], targets [rows] in [0, classes) (checked by the caller),
 *            factors [rows] = weight / total; rows [first, last)
 * Returned : probabilities overwritten
 */
RR_CLONES int RR(cross_entropy_backward)(REAL *probabilities, const int64_t *targets, const REAL *factors,
                                         ptrdiff_t classes, ptrdiff_t first, ptrdiff_t last)
{
    if (classes < 1 || !rr_rows_fit(first, last, classes)) return 1;
    for (ptrdiff_t r = first; r < last; r++) {
        REAL *row = probabilities + r * classes;
        const REAL factor = factors[r];
        row[targets[r]] -= 1;
        RR_INDEPENDENT
        for (ptrdiff_t i = 0; i < classes; i++) row[i] *= factor;
    }
    return 0;
}

/* rr_embedding_forward - y[r] = table[tokens[r]] for rows [first, last). Oracle: refrope.nn.layers.embedding_forward. */
int RR(embedding_forward)(const int64_t *tokens, const REAL *table, REAL *y, ptrdiff_t d, ptrdiff_t first,
                          ptrdiff_t last)
{
    if (!rr_rows_fit(first, last, d)) return 1;
    for (ptrdiff_t r = first; r < last; r++)
        memcpy(y + r * d, table + (ptrdiff_t)tokens[r] * d, (size_t)d * sizeof(REAL));
    return 0;
}

/*
 * rr_embedding_backward - dtable[tokens[r]] += dy[r], one row after the other.
 *
 * Oracle   : np.add.at(dtable, tokens, dy), equal bit for bit; refrope.nn.layers.embedding_backward within rounding.
 * Given    : dy [rows, d], tokens [rows] of rows of dtable (checked by the caller); columns [first, last)
 * Returned : dtable [.., d], added to
 * Notes    : threads take columns, so that every element is summed in the order of the rows for any number of them.
 */
RR_CLONES int RR(embedding_backward)(const REAL *dy, const int64_t *tokens, REAL *dtable, ptrdiff_t rows, ptrdiff_t d,
                                     ptrdiff_t first, ptrdiff_t last)
{
    if (!rr_rows_fit(0, rows, d) || !rr_rows_fit(first, last, 1) || last > d) return 1;
    for (ptrdiff_t r = 0; r < rows; r++) {
        const REAL *from = dy + r * d;
        REAL *to = dtable + (ptrdiff_t)tokens[r] * d;
        RR_INDEPENDENT
        for (ptrdiff_t i = first; i < last; i++) to[i] += from[i];
    }
    return 0;
}
