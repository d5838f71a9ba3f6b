/* Part of calls_body.h: attention. Sizes heads, kv_heads, n_q, n_k, d, batch; flags causal, bias, dropout, by distance. */

static ptrdiff_t N(bias_place)(const array *a, ptrdiff_t b, ptrdiff_t h, ptrdiff_t i, ptrdiff_t j)
{
    return N(place)(a, b, h, i) + j * a->strides[3];
}

/*
 * A bias [batch, heads, n_q, n_k], or the gradient of one: keys adjacent, queries adjacent, or a table by distance, which
 * has no memory for the pairs that a causal mask hides.
 */
static void N(make_bias)(call *c, source *from, int output)
{
    const ptrdiff_t heads = c->sizes[0], n_q = c->sizes[2], n_k = c->sizes[3], batch = c->sizes[5];
    if (!c->flags[1]) {
        N(reals)(c, 0);
        return;
    }
    if (c->flags[3]) {
        const ptrdiff_t reach = c->flags[0] ? n_k : n_q + n_k - 1;
        array *a = N(walked)(c, from, batch, heads, 1, n_q && n_k ? reach : 0, output);
        a->start += c->flags[0] ? n_k - n_q : n_k - 1;
        a->strides[2] = 1;
        a->strides[3] = -1;
    } else if (take(from) & 1) {
        array *a = N(walked)(c, from, batch, heads, n_k, n_q, output);
        a->strides[3] = a->strides[2];
        a->strides[2] = 1;
    } else {
        N(walked)(c, from, batch, heads, n_q, n_k, output)->strides[3] = 1;
    }
}

static void N(make_scores)(call *c, source *from)
{
    c->sizes[1] = take_size(from, 1, 4);
    c->sizes[0] = c->sizes[1] * take_size(from, 1, 4);
    c->sizes[5] = take_size(from, 0, 2);
    c->sizes[4] = take_size(from, 1, 40);
    const ptrdiff_t n = take_size(from, 0, c->sizes[4] < 6 && c->sizes[0] < 3 ? 600 : 150);
    c->sizes[2] = n;
    c->sizes[3] = n + take_size(from, c->flags[0] || !n ? 0 : 1 - n, 150);
    if (n && c->sizes[3] < 1) c->sizes[3] = 1;
    if (c->flags[2]) c->threshold = take(from) * 0x00f00000u;
    c->seed = take(from);
    c->first_number = take(from);
    c->scale = 1 / sqrt((double)c->sizes[4]);
    for (int i = 0; i < 3; i++) {
        const ptrdiff_t heads = c->sizes[i > 0], rows = c->sizes[2 + (i > 0)];
        N(walked)(c, from, c->sizes[5], heads, rows, c->sizes[4], 0);
    }
    N(make_bias)(c, from, 0);
    if (c->flags[0] && take(from) & 1) c->window = take_size(from, 0, c->sizes[3]);
}

#define WALK(i) AT(i) + c->arrays[i].start, c->arrays[i].strides
#define BIAS(i) c->flags[1] ? AT(i) + c->arrays[i].start : NULL, c->arrays[i].strides
#define OPTIONS                                                                                                        \
    c->sizes[0], c->sizes[1], c->sizes[2], c->sizes[3], c->sizes[4], c->scale, c->flags[0], c->window, c->add, c->threshold,   \
        c->seed, c->first_number

static REAL *N(scratch)(const call *c, int backward)
{
    const ptrdiff_t elements = rr_attention_scratch(c->sizes[2], c->sizes[4], backward);
    return elements < 0 || elements > 1 << 24 ? NULL : allocate((size_t)elements * sizeof(REAL));
}

static int N(run_attention)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    REAL *scratch = N(scratch)(c, 0);
    const int status = N(rr_attention_forward)(WALK(0), WALK(1), WALK(2), BIAS(3), WALK(4), AT(5), scratch, OPTIONS,
                                               first, last);
    free(scratch);
    return status;
}

static int N(run_attention_back)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    REAL *scratch = N(scratch)(c, 1);
    const int status = N(rr_attention_backward)(WALK(0), WALK(1), WALK(2), BIAS(3), WALK(4), WALK(5), AT(6), WALK(7),
                                                WALK(8), WALK(9), BIAS(10), scratch, OPTIONS, first, last);
    free(scratch);
    return status;
}

/* Row [features] of an array [batch, heads, rows, features]; that of the keys' head which query head h uses. */
static const REAL *N(row)(const call *c, int i, ptrdiff_t b, ptrdiff_t h, ptrdiff_t t)
{
    const ptrdiff_t head = i == 1 || i == 2 ? h / (c->sizes[0] / c->sizes[1]) : h;
    return IN(i) + N(place)(&c->arrays[i], b, head, t);
}

/* The weights of one query before dropout and what dropout multiplies them by; returns log-sum-exp. */
static double N(weigh)(const call *c, ptrdiff_t b, ptrdiff_t h, ptrdiff_t i, double *weights, double *factors)
{
    const ptrdiff_t n_k = c->sizes[3], seen = c->flags[0] ? i + n_k - c->sizes[2] + 1 : n_k, d = c->sizes[4];
    const rr_key key = rr_slice_key(c->seed, c->first_number + (uint32_t)(b * c->sizes[0] + h));
    double top = -INFINITY, total = 0;
    for (ptrdiff_t j = 0; j < n_k; j++) {
        const REAL *q = N(row)(c, 0, b, h, i), *k = N(row)(c, 1, b, h, j);
        weights[j] = 0;
        for (ptrdiff_t f = 0; f < d; f++) weights[j] += c->scale * q[f] * k[f];
        if (c->flags[1] && j < seen) weights[j] += IN(3)[N(bias_place)(&c->arrays[3], b, h, i, j)];
        if (j >= seen || (c->window && j < seen - c->window)) weights[j] = -INFINITY;
        top = weights[j] > top ? weights[j] : top;
        const int kept = rr_random_bits(key, (uint32_t)(i * n_k + j)) >= c->threshold;
        factors[j] = kept ? 1 / (1 - c->threshold / 4294967296.0) : 0;
    }
    for (ptrdiff_t j = 0; j < n_k; j++) total += weights[j] = exp(weights[j] - top);
    for (ptrdiff_t j = 0; j < n_k; j++) weights[j] /= total;
    return top + log(total);
}

static void N(expect_attention)(const call *c)
{
    const ptrdiff_t heads = c->sizes[0], n_q = c->sizes[2], n_k = c->sizes[3], d = c->sizes[4];
    double *weights = allocate((size_t)n_k * sizeof(double)), *factors = allocate((size_t)n_k * sizeof(double));
    for (ptrdiff_t r = 0; r < c->sizes[5] * heads * n_q; r++) {
        const ptrdiff_t b = r / n_q / heads, h = r / n_q % heads, i = r % n_q;
        WANT(5)[r] = N(weigh)(c, b, h, i, weights, factors);
        double *out = WANT(4) + N(place)(&c->arrays[4], b, h, i);
        for (ptrdiff_t f = 0; f < d; f++) out[f] = 0;
        for (ptrdiff_t j = 0; j < n_k; j++)
            for (ptrdiff_t f = 0; f < d; f++) out[f] += weights[j] * factors[j] * N(row)(c, 2, b, h, j)[f];
    }
    free(weights);
    free(factors);
}

static void N(expect_attention_back)(const call *c)
{
    const ptrdiff_t heads = c->sizes[0], group = heads / c->sizes[1], n_q = c->sizes[2], n_k = c->sizes[3];
    const ptrdiff_t d = c->sizes[4];
    double *weights = allocate((size_t)n_k * sizeof(double)), *factors = allocate((size_t)n_k * sizeof(double));
    for (ptrdiff_t r = 0; r < c->sizes[5] * c->sizes[1] * n_k; r++)
        for (ptrdiff_t f = 0; f < d; f++)
            for (int g = 8; g < 10; g++)
                WANT(g)[N(place)(&c->arrays[g], r / n_k / c->sizes[1], r / n_k % c->sizes[1], r % n_k) + f] = 0;
    for (ptrdiff_t r = 0; r < c->sizes[5] * heads * n_q; r++) {
        const ptrdiff_t b = r / n_q / heads, h = r / n_q % heads, i = r % n_q;
        const ptrdiff_t seen = c->flags[0] ? i + n_k - n_q + 1 : n_k;
        const REAL *q = N(row)(c, 0, b, h, i), *dout = N(row)(c, 4, b, h, i), *out = N(row)(c, 5, b, h, i);
        double *dq = WANT(7) + N(place)(&c->arrays[7], b, h, i), delta = 0;
        N(weigh)(c, b, h, i, weights, factors);
        for (ptrdiff_t f = 0; f < d; f++) delta += (double)dout[f] * out[f], dq[f] = 0;
        for (ptrdiff_t j = 0; j < seen; j++) {
            const REAL *k = N(row)(c, 1, b, h, j), *v = N(row)(c, 2, b, h, j);
            double *dk = WANT(8) + N(place)(&c->arrays[8], b, h / group, j);
            double *dv = WANT(9) + N(place)(&c->arrays[9], b, h / group, j), dweight = 0;
            for (ptrdiff_t f = 0; f < d; f++) dweight += (double)dout[f] * v[f];
            const double dscore = weights[j] * (dweight * factors[j] - delta);
            if (c->flags[1]) WANT(10)[N(bias_place)(&c->arrays[10], b, h, i, j)] += dscore;
            for (ptrdiff_t f = 0; f < d; f++) {
                dv[f] += weights[j] * factors[j] * dout[f];
                dk[f] += c->scale * dscore * q[f];
                dq[f] += c->scale * dscore * k[f];
            }
        }
    }
    free(weights);
    free(factors);
}

static void N(finish)(call *c, void (*reference)(const call *), double tolerance)
{
    c->reference = c->values ? NULL : reference; /* of special numbers, rounding decides which become NaN */
    c->tolerance = tolerance;
}

static void N(make_attention)(call *c, source *from)
{
    c->name = "attention_forward";
    c->any_heads = 1;
    N(make_scores)(c, from);
    N(walked)(c, from, c->sizes[5], c->sizes[0], c->sizes[2], c->sizes[4], 1);
    N(output)(c, (size_t)(c->sizes[5] * c->sizes[0] * c->sizes[2]));
    c->count = c->sizes[5] * c->sizes[0];
    c->run = N(run_attention);
    N(finish)(c, N(expect_attention), TOLERANCE / (1 - c->threshold / 4294967296.0));
}

static void N(make_attention_back)(call *c, source *from)
{
    c->name = "attention_backward";
    N(make_scores)(c, from);
    N(walked)(c, from, c->sizes[5], c->sizes[0], c->sizes[2], c->sizes[4], 0);
    N(walked)(c, from, c->sizes[5], c->sizes[0], c->sizes[2], c->sizes[4], 0);
    array *lse = N(reals)(c, (size_t)(c->sizes[5] * c->sizes[0] * c->sizes[2]));
    for (int i = 7; i < 10; i++) {
        const int keys = i > 7;
        N(walked)(c, from, c->sizes[5], c->sizes[keys], c->sizes[2 + keys], c->sizes[4], 1);
    }
    N(make_bias)(c, from, 1);
    c->arrays[10].fresh = 0; /* added to */
    c->arrays[10].output = c->flags[1];
    c->arrays[10].unwritten = 0;
    c->count = c->sizes[5] * c->sizes[1];
    c->run = N(run_attention_back);
    N(finish)(c, N(expect_attention_back), TOLERANCE * 10 / (1 - c->threshold / 4294967296.0));
    /* `out` is any array here, as the formulas take it; lse must be that of the scores, or the weights overflow. */
    double *weights = allocate((size_t)c->sizes[3] * sizeof(double));
    double *factors = allocate((size_t)c->sizes[3] * sizeof(double));
    for (ptrdiff_t r = 0; !c->values && r < (ptrdiff_t)lse->count; r++) {
        const ptrdiff_t n_q = c->sizes[2], heads = c->sizes[0];
        ((REAL *)lse->initial)[r] = (REAL)N(weigh)(c, r / n_q / heads, r / n_q % heads, r % n_q, weights, factors);
    }
    free(weights);
    free(factors);
}

#undef WALK
#undef BIAS
#undef OPTIONS
