/*
 * Included by elementwise.c once for float32 and once for float64. Nothing here adds more than two numbers and
 * contraction is off: every function equals its NumPy twin bit for bit. Arrays are flat; elements [first, last).
 */

/* rr_relu_forward - y = max(x, 0), a NaN stays. Oracle: refrope.nn.layers.relu_forward. y may be x. */
RR_CLONES int RR(relu_forward)(const REAL *x, REAL *y, ptrdiff_t first, ptrdiff_t last)
{
    RR_INDEPENDENT
    for (ptrdiff_t i = first; i < last; i++) y[i] = x[i] <= 0 ? (REAL)0 : x[i];
    return 0;
}

/* rr_relu_backward - dx = dy where y > 0, else 0. Oracle: refrope.nn.layers.relu_backward. dx may be dy. */
RR_CLONES int RR(relu_backward)(const REAL *dy, const REAL *y, REAL *dx, ptrdiff_t first, ptrdiff_t last)
{
    RR_INDEPENDENT
    for (ptrdiff_t i = first; i < last; i++) dx[i] = y[i] > 0 ? dy[i] : (REAL)0;
    return 0;
}

/*
 * rr_dropout - y = x / (1 - p) where the random bits of element i reach the threshold p 2^32, else 0.
 *
 * Oracle : refrope.nn.dropout.dropout; it is its own backward pass. y may be x.
 * Notes  : the bits depend on seed and i alone, so on neither thread nor range; i < 2^32 (checked by the caller).
 */
RR_CLONES int RR(dropout)(const REAL *x, REAL *y, uint32_t threshold, uint64_t seed, ptrdiff_t first, ptrdiff_t last)
{
    const rr_key key = rr_slice_key(seed, 0);
    const REAL scale = (REAL)(1.0 / (1.0 - (double)threshold / 4294967296.0));
    RR_INDEPENDENT
    for (ptrdiff_t i = first; i < last; i++)
        y[i] = rr_random_bits(key, (uint32_t)i) >= threshold ? x[i] * scale : (REAL)0;
    return 0;
}

/*
 * rr_adamw - one step of AdamW on flat arrays, in place.
 *
 * Oracle   : refrope.nn.optim.adamw_update.
 * Source   : Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2, in the order of operations of PyTorch.
 * Given    : settings [8] = 1 - lr * weight_decay, beta1, 1 - beta1, beta2, 1 - beta2,
 *            lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), eps
 * Returned : weight, moment1, moment2 updated
 */
RR_CLONES int RR(adamw)(REAL *weight, REAL *moment1, REAL *moment2, const REAL *grad, const double *settings,
                        ptrdiff_t first, ptrdiff_t last)
{
    const REAL keep = (REAL)settings[0], beta1 = (REAL)settings[1], new1 = (REAL)settings[2];
    const REAL beta2 = (REAL)settings[3], new2 = (REAL)settings[4], step = (REAL)settings[5];
    const REAL correction = (REAL)settings[6], eps = (REAL)settings[7];
    RR_INDEPENDENT
    for (ptrdiff_t i = first; i < last; i++) {
        const REAL m = beta1 * moment1[i] + new1 * grad[i];
        const REAL v = beta2 * moment2[i] + new2 * (grad[i] * grad[i]);
        moment1[i] = m;
        moment2[i] = v;
        weight[i] = keep * weight[i] - step * m / (RR_SQRT(v) * correction + eps);
    }
    return 0;
}
