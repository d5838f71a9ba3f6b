/* Part of calls_body.h: the layers around attention, dropout and AdamW. */

/* ---- rmsnorm: sizes d, rows, block; flags residual ---- */

static int N(run_norm)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_rmsnorm_forward)(AT(0), AT(1), AT(2), AT(3), c->sizes[0], c->scale, first, last);
}

static void N(expect_norm)(const call *c)
{
    const ptrdiff_t d = c->sizes[0];
    for (ptrdiff_t r = 0; r < c->sizes[1]; r++) {
        double sum = 0;
        for (ptrdiff_t i = 0; i < d; i++) sum += (double)IN(0)[r * d + i] * IN(0)[r * d + i];
        WANT(3)[r] = 1 / sqrt(sum / (double)d + c->scale);
        for (ptrdiff_t i = 0; i < d; i++) WANT(2)[r * d + i] = IN(0)[r * d + i] * WANT(3)[r] * IN(1)[i];
    }
}

static void N(make_norm)(call *c, source *from)
{
    c->name = "rmsnorm_forward";
    c->sizes[0] = take_size(from, 1, 300);
    c->sizes[1] = take_size(from, 0, 40);
    c->scale = 1e-3;
    N(reals)(c, (size_t)(c->sizes[0] * c->sizes[1]));
    N(reals)(c, (size_t)c->sizes[0]);
    N(output)(c, (size_t)(c->sizes[0] * c->sizes[1]));
    N(output)(c, (size_t)c->sizes[1]);
    c->count = c->sizes[1];
    c->run = N(run_norm);
    N(finish)(c, N(expect_norm), TOLERANCE);
}

static int N(run_norm_back)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_rmsnorm_backward)(AT(0), AT(1), AT(2), AT(3), c->flags[0] ? AT(4) : NULL, AT(c->flags[1] ? 0 : 5), AT(6),
                                  c->sizes[0], c->sizes[1], c->sizes[2], first, last);
}

static void N(expect_norm_back)(const call *c)
{
    const ptrdiff_t d = c->sizes[0];
    for (ptrdiff_t i = 0; i < c->count * d; i++) WANT(6)[i] = 0;
    for (ptrdiff_t r = 0; r < c->sizes[1]; r++) {
        const REAL *dy = IN(0) + r * d, *x = IN(1) + r * d, factor = IN(3)[r];
        double pull = 0;
        for (ptrdiff_t i = 0; i < d; i++) pull += (double)dy[i] * IN(2)[i] * x[i];
        pull *= (double)factor * factor / (double)d;
        for (ptrdiff_t i = 0; i < d; i++) {
            const double g = factor * ((double)dy[i] * IN(2)[i] - x[i] * pull);
            WANT(c->flags[1] ? 0 : 5)[r * d + i] = g + (c->flags[0] ? IN(4)[r * d + i] : 0);
            WANT(6)[r / c->sizes[2] * d + i] += (double)dy[i] * x[i] * factor;
        }
    }
}

static void N(make_norm_back)(call *c, source *from)
{
    c->name = "rmsnorm_backward";
    const ptrdiff_t d = c->sizes[0] = take_size(from, 1, 300), rows = c->sizes[1] = take_size(from, 0, 40);
    c->sizes[2] = take_size(from, 1, 10);
    c->count = (rows + c->sizes[2] - 1) / c->sizes[2];
    const size_t size = (size_t)(d * rows);
    N(reals)(c, size)->output = c->flags[1];
    N(reals)(c, size);
    N(reals)(c, (size_t)d);
    N(reals)(c, (size_t)rows);
    N(reals)(c, c->flags[0] ? size : 0);
    N(output)(c, c->flags[1] ? 0 : size);
    N(output)(c, (size_t)(c->count * d));
    c->run = N(run_norm_back);
    N(finish)(c, N(expect_norm_back), TOLERANCE);
}

/* ---- cross-entropy: sizes classes, rows; flags in place ---- */

static int N(run_loss)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_cross_entropy_forward)(AT(0), c->arrays[1].data, AT(c->flags[0] ? 0 : 2), AT(3), c->sizes[0], first, last);
}

static void N(expect_loss)(const call *c)
{
    const ptrdiff_t n = c->sizes[0];
    const int64_t *targets = c->arrays[1].initial;
    for (ptrdiff_t r = 0; r < c->sizes[1]; r++) {
        double sum = 0, *y = WANT(c->flags[0] ? 0 : 2) + r * n;
        for (ptrdiff_t i = 0; i < n; i++) sum += y[i] = exp(IN(0)[r * n + i]);
        for (ptrdiff_t i = 0; i < n; i++) y[i] /= sum;
        WANT(3)[r] = IN(0)[r * n + targets[r]] - log(sum);
    }
}

static void N(make_loss)(call *c, source *from)
{
    c->name = "cross_entropy_forward";
    c->sizes[0] = take_size(from, 1, 3000);
    c->sizes[1] = take_size(from, 0, 40);
    const size_t size = (size_t)(c->sizes[0] * c->sizes[1]);
    N(reals)(c, size)->output = c->flags[0];
    new_integers(c, (size_t)c->sizes[1], 0, c->sizes[0] - 1);
    N(output)(c, c->flags[0] ? 0 : size);
    N(output)(c, (size_t)c->sizes[1]);
    c->count = c->sizes[1];
    c->run = N(run_loss);
    N(finish)(c, N(expect_loss), TOLERANCE);
}

static int N(run_loss_back)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_cross_entropy_backward)(AT(0), c->arrays[1].data, AT(2), c->sizes[0], first, last);
}

static void N(expect_loss_back)(const call *c)
{
    const int64_t *targets = c->arrays[1].initial;
    for (ptrdiff_t i = 0; i < c->sizes[0] * c->sizes[1]; i++) {
        const ptrdiff_t r = i / c->sizes[0];
        const REAL p = IN(0)[i] - (i % c->sizes[0] == targets[r] ? (REAL)1 : (REAL)0);
        const REAL y = (i % c->sizes[0] == targets[r] ? p : IN(0)[i]) * IN(2)[r];
        WANT(0)[i] = y;
    }
}

static void N(make_loss_back)(call *c, source *from)
{
    c->name = "cross_entropy_backward";
    c->sizes[0] = take_size(from, 1, 300);
    c->sizes[1] = take_size(from, 0, 40);
    N(reals)(c, (size_t)(c->sizes[0] * c->sizes[1]))->output = 1;
    new_integers(c, (size_t)c->sizes[1], 0, c->sizes[0] - 1);
    N(reals)(c, (size_t)c->sizes[1]);
    c->count = c->sizes[1];
    c->run = N(run_loss_back);
    c->reference = N(expect_loss_back);
}

/* ---- swiglu: sizes features, rows, row steps; flags in place ---- */

static int N(run_gated)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    const ptrdiff_t steps[3] = {c->sizes[2], c->sizes[3], c->sizes[c->flags[0] ? 2 : 4]};
    return N(rr_swiglu_forward)(AT(0), AT(1), AT(c->flags[0] ? 0 : 2), steps, c->sizes[0], first, last);
}

static void N(expect_gated)(const call *c)
{
    for (ptrdiff_t r = 0; r < c->sizes[1]; r++)
        for (ptrdiff_t i = 0; i < c->sizes[0]; i++) {
            const double x = IN(0)[r * c->sizes[2] + i], up = IN(1)[r * c->sizes[3] + i];
            WANT(c->flags[0] ? 0 : 2)[r * c->sizes[c->flags[0] ? 2 : 4] + i] = x / (1 + exp(-x)) * up;
        }
}

/* An array of rows a step apart, which is left in sizes[2 + number of the array]. */
static array *N(stepped)(call *c, source *from, int output)
{
    const ptrdiff_t features = c->sizes[0], rows = c->sizes[1], step = features + take(from) % 5;
    const ptrdiff_t span = rows && features ? (rows - 1) * step + features : 0;
    c->sizes[2 + c->used] = step;
    c->steps = 2;
    array *a = output ? N(output)(c, (size_t)span) : N(reals)(c, (size_t)span);
    if (output) a->unwritten = (size_t)(span - rows * features);
    return a;
}

static void N(make_gated)(call *c, source *from)
{
    c->name = "swiglu_forward";
    c->sizes[0] = take_size(from, 0, 100);
    c->sizes[1] = take_size(from, 0, 20);
    N(stepped)(c, from, 0)->output = c->flags[0];
    N(stepped)(c, from, 0);
    if (!c->flags[0]) N(stepped)(c, from, 1);
    c->count = c->sizes[1];
    c->run = N(run_gated);
    N(finish)(c, N(expect_gated), TOLERANCE);
}

static int N(run_gated_back)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    const ptrdiff_t steps[5] = {c->sizes[2], c->sizes[3], c->sizes[4], c->sizes[5], c->sizes[6]};
    return N(rr_swiglu_backward)(AT(0), AT(1), AT(2), AT(3), AT(4), steps, c->sizes[0], first, last);
}

static void N(expect_gated_back)(const call *c)
{
    for (ptrdiff_t r = 0; r < c->sizes[1]; r++)
        for (ptrdiff_t i = 0; i < c->sizes[0]; i++) {
            const double dy = IN(0)[r * c->sizes[2] + i], x = IN(1)[r * c->sizes[3] + i];
            const double up = IN(2)[r * c->sizes[4] + i], s = 1 / (1 + exp(-x));
            WANT(3)[r * c->sizes[5] + i] = dy * up * (s * (1 + x * (1 - s)));
            WANT(4)[r * c->sizes[6] + i] = dy * (x * s);
        }
}

static void N(make_gated_back)(call *c, source *from)
{
    c->name = "swiglu_backward";
    c->sizes[0] = take_size(from, 0, 100);
    c->sizes[1] = take_size(from, 0, 20);
    for (int i = 0; i < 5; i++) N(stepped)(c, from, i > 2);
    c->count = c->sizes[1];
    c->run = N(run_gated_back);
    N(finish)(c, N(expect_gated_back), TOLERANCE);
}

/* ---- element-wise: sizes n; flags in place ---- */

static int N(run_relu)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_relu_forward)(AT(0), AT(c->flags[0] ? 0 : 1), first, last);
}

static void N(expect_relu)(const call *c)
{
    for (ptrdiff_t i = 0; i < c->count; i++) WANT(c->flags[0] ? 0 : 1)[i] = IN(0)[i] <= 0 ? 0.0 : (double)IN(0)[i];
}

static void N(make_relu)(call *c, source *from)
{
    c->name = "relu_forward";
    c->count = take_size(from, 0, 1000);
    N(reals)(c, (size_t)c->count)->output = c->flags[0];
    if (!c->flags[0]) N(output)(c, (size_t)c->count);
    c->run = N(run_relu);
    c->reference = N(expect_relu);
}

static int N(run_relu_back)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_relu_backward)(AT(0), AT(1), AT(c->flags[0] ? 0 : 2), first, last);
}

static void N(expect_relu_back)(const call *c)
{
    for (ptrdiff_t i = 0; i < c->count; i++) WANT(c->flags[0] ? 0 : 2)[i] = IN(1)[i] > 0 ? (double)IN(0)[i] : 0.0;
}

static void N(make_relu_back)(call *c, source *from)
{
    c->name = "relu_backward";
    c->count = take_size(from, 0, 1000);
    N(reals)(c, (size_t)c->count)->output = c->flags[0];
    N(reals)(c, (size_t)c->count);
    if (!c->flags[0]) N(output)(c, (size_t)c->count);
    c->run = N(run_relu_back);
    c->reference = N(expect_relu_back);
}

static int N(run_dropout)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_dropout)(AT(0), AT(c->flags[0] ? 0 : 1), c->threshold, c->seed, c->first_number, first, last);
}

static void N(expect_dropout)(const call *c)
{
    const REAL kept = (REAL)(1.0 / (1.0 - c->threshold / 4294967296.0));
    const rr_key key = rr_slice_key(c->seed, 0);
    for (ptrdiff_t i = 0; i < c->count; i++) {
        const REAL y = IN(0)[i] * kept;
        const int keep = rr_random_bits(key, c->first_number + (uint32_t)i) >= c->threshold;
        WANT(c->flags[0] ? 0 : 1)[i] = keep ? (double)y : 0.0;
    }
}

static void N(make_dropout)(call *c, source *from)
{
    c->name = "dropout";
    c->count = take_size(from, 0, 1000);
    c->threshold = take(from) * 0x01010101u;
    c->seed = next_random(c);
    c->first_number = take(from) & 1 ? UINT32_MAX - (uint32_t)c->count : take(from);
    N(reals)(c, (size_t)c->count)->output = c->flags[0];
    if (!c->flags[0]) N(output)(c, (size_t)c->count);
    c->run = N(run_dropout);
    c->reference = N(expect_dropout);
}

/* ---- AdamW: sizes parts, size ---- */

static int N(run_adamw)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_adamw)(AT(0), AT(1), AT(2), AT(3), c->arrays[4].data, c->sizes[0], c->sizes[1], first, last);
}

static void N(expect_adamw)(const call *c)
{
    const double *s = c->arrays[4].initial;
    for (ptrdiff_t i = 0; i < c->sizes[1]; i++) {
        REAL g = IN(3)[i];
        for (ptrdiff_t part = 1; part < c->sizes[0]; part++) g = g + IN(3)[part * c->sizes[1] + i];
        const REAL m = (REAL)s[1] * IN(1)[i] + (REAL)s[2] * g, v = (REAL)s[3] * IN(2)[i] + (REAL)s[4] * (g * g);
        const REAL root = sizeof(REAL) == 4 ? (REAL)sqrtf((float)v) : (REAL)sqrt((double)v);
        const REAL w = (REAL)s[0] * IN(0)[i] - (REAL)s[5] * m / (root * (REAL)s[6] + (REAL)s[7]);
        WANT(0)[i] = w;
        WANT(1)[i] = m;
        WANT(2)[i] = v;
    }
}

static void N(make_adamw)(call *c, source *from)
{
    c->name = "adamw_update";
    c->sizes[0] = take_size(from, 1, 4);
    c->sizes[1] = take_size(from, 0, 1000);
    c->count = c->sizes[1];
    for (int i = 0; i < 3; i++) N(reals)(c, (size_t)c->sizes[1])->output = 1;
    N(reals)(c, (size_t)(c->sizes[0] * c->sizes[1]));
    const double settings[8] = {0.99, 0.9, 0.1, 0.999, 0.001, 0.01, 1.5, 1e-8};
    memcpy(new_array(c, 8, sizeof(double))->initial, settings, sizeof settings);
    c->run = N(run_adamw);
    c->reference = N(expect_adamw);
}

/* ---- embedding: sizes d, rows, vocabulary ---- */

static int N(run_embedding)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_embedding_forward)(c->arrays[0].data, AT(1), AT(2), c->sizes[0], first, last);
}

static void N(expect_embedding)(const call *c)
{
    const int64_t *tokens = c->arrays[0].initial;
    for (ptrdiff_t i = 0; i < c->sizes[0] * c->sizes[1]; i++)
        WANT(2)[i] = IN(1)[tokens[i / c->sizes[0]] * c->sizes[0] + i % c->sizes[0]];
}

static void N(make_embedding)(call *c, source *from)
{
    c->name = "embedding_forward";
    const ptrdiff_t d = c->sizes[0] = take_size(from, 0, 100), rows = c->sizes[1] = take_size(from, 0, 40);
    c->sizes[2] = take_size(from, 1, 20);
    new_integers(c, (size_t)rows, 0, c->sizes[2] - 1);
    N(reals)(c, (size_t)(c->sizes[2] * d));
    N(output)(c, (size_t)(rows * d));
    c->count = rows;
    c->run = N(run_embedding);
    c->reference = N(expect_embedding);
}

static int N(run_embedding_back)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    return N(rr_embedding_backward)(AT(1), c->arrays[0].data, AT(2), c->sizes[1], c->sizes[0], first, last);
}

static void N(expect_embedding_back)(const call *c)
{
    const int64_t *tokens = c->arrays[0].initial;
    for (ptrdiff_t i = 0; i < c->sizes[0] * c->sizes[1]; i++) {
        double *to = WANT(2) + tokens[i / c->sizes[0]] * c->sizes[0] + i % c->sizes[0];
        *to = (double)((REAL)*to + IN(1)[i]);
    }
}

static void N(make_embedding_back)(call *c, source *from)
{
    c->name = "embedding_backward";
    const ptrdiff_t d = c->sizes[0] = take_size(from, 0, 100), rows = c->sizes[1] = take_size(from, 0, 40);
    c->sizes[2] = take_size(from, 1, 20);
    new_integers(c, (size_t)rows, 0, c->sizes[2] - 1);
    N(reals)(c, (size_t)(rows * d));
    N(reals)(c, (size_t)(c->sizes[2] * d))->output = 1;
    c->count = d;
    c->run = N(run_embedding_back);
    c->reference = N(expect_embedding_back);
}
