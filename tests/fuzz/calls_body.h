/* Included by calls.h for float and for double: how each kernel is called, and what it should give, in plain loops. */

#define IN(i) ((REAL *)c->arrays[i].initial)
#define AT(i) ((REAL *)c->arrays[i].data)
#define WANT(i) (c->arrays[i].expected)

static REAL N(special)(call *c)
{
    const REAL list[] = {0, (REAL)-0.0, 1, -1, (REAL)INFINITY, -(REAL)INFINITY, (REAL)NAN, SMALLEST, SMALLEST / 8,
                         -SMALLEST / 64, (REAL)1e30, (REAL)-1e-30};
    return list[next_random(c) % (sizeof list / sizeof *list)];
}

/* A floating-point array with values, or an output. */
static array *N(reals)(call *c, size_t count)
{
    array *a = new_array(c, count, sizeof(REAL));
    REAL *to = a->initial;
    for (size_t i = 0; i < count; i++) {
        const uint64_t bits = next_random(c);
        to[i] = (REAL)((double)(bits >> 40) / 8388608.0 - 1.0);
        if (c->values == 1) to[i] = N(special)(c);
        if (c->values == 2) memcpy(to + i, &bits, sizeof *to);
    }
    if (c->values == 3 && count) to[next_random(c) % count] = N(special)(c);
    return a;
}

static array *N(output)(call *c, size_t count)
{
    array *a = N(reals)(c, count);
    a->output = a->fresh = 1;
    return a;
}

static array *N(walked)(call *c, source *from, ptrdiff_t n0, ptrdiff_t n1, ptrdiff_t n2, ptrdiff_t width, int output)
{
    const ptrdiff_t shape[3] = {n0, n1, n2};
    array layout;
    size_t inside;
    const size_t span = lay_out(from, shape, width, output, &layout, &inside);
    array *a = output ? N(output)(c, span) : N(reals)(c, span);
    a->start = layout.start;
    memcpy(a->strides, layout.strides, sizeof layout.strides);
    if (output) a->unwritten = span - inside;
    return a;
}

static ptrdiff_t N(place)(const array *a, ptrdiff_t i, ptrdiff_t j, ptrdiff_t k)
{
    return a->start + i * a->strides[0] + j * a->strides[1] + k * a->strides[2];
}

/* ---- rotary: sizes heads, rows, features, start, pairs, batches; flags interleaved, transpose, in place ---- */

static void N(turn)(const call *c, ptrdiff_t b, ptrdiff_t h, ptrdiff_t t, const REAL *cos_t, const REAL *sin_t,
                    const int64_t *at)
{
    const array *x = &c->arrays[0], *y = &c->arrays[c->flags[2] ? 0 : 1];
    const REAL *from = (const REAL *)x->initial + N(place)(x, b, h, t);
    double *to = y->expected + N(place)(y, b, h, t);
    const ptrdiff_t start = c->sizes[3], pairs = c->sizes[4];
    for (ptrdiff_t f = 0; f < c->sizes[2]; f++) to[f] = from[f];
    for (ptrdiff_t j = 0; j < pairs; j++) {
        const ptrdiff_t one = start + (c->flags[0] ? 2 * j : j), two = c->flags[0] ? one + 1 : one + pairs;
        const REAL a = from[one], d = from[two], cs = cos_t[at[j]], sn = c->flags[1] ? -sin_t[at[j]] : sin_t[at[j]];
        const REAL left = a * cs - d * sn, right = a * sn + d * cs;
        to[one] = left;
        to[two] = right;
    }
}

static void N(make_turning)(call *c, source *from)
{
    c->sizes[5] = take_size(from, 0, 3);
    c->sizes[0] = take_size(from, 1, 5);
    c->sizes[1] = take_size(from, 0, 40);
    c->sizes[4] = take_size(from, 0, c->sizes[1] > 9 ? 40 : 530);
    const ptrdiff_t others = 2 * take_size(from, 0, 5);
    c->sizes[2] = 2 * c->sizes[4] + others;
    c->sizes[3] = others ? take_size(from, 0, others) : 0;
    N(walked)(c, from, c->sizes[5], c->sizes[0], c->sizes[1], c->sizes[2], c->flags[2]);
    N(walked)(c, from, c->sizes[5], c->sizes[0], c->sizes[1], c->sizes[2], !c->flags[2]);
    c->arrays[0].fresh = 0;
    c->arrays[0].unwritten = 0;
}

static int N(run_rotate)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    const array *x = &c->arrays[0], *y = &c->arrays[c->flags[2] ? 0 : 1];
    return N(rr_rotate)(AT(0) + x->start, x->strides, (REAL *)y->data + y->start, y->strides, AT(2), AT(3), c->sizes[0],
                        c->sizes[1], c->sizes[2], c->sizes[3], c->sizes[4], c->flags[0], c->flags[1], first, last);
}

static void N(expect_rotate)(const call *c)
{
    int64_t *at = allocate((size_t)c->sizes[4] * sizeof *at);
    for (ptrdiff_t b = 0; b < c->sizes[5]; b++)
        for (ptrdiff_t h = 0; h < c->sizes[0]; h++)
            for (ptrdiff_t t = 0; t < c->sizes[1]; t++) {
                for (ptrdiff_t j = 0; j < c->sizes[4]; j++) at[j] = t * c->sizes[4] + j;
                N(turn)(c, b, h, t, IN(2), IN(3), at);
            }
    free(at);
}

static void N(make_rotate)(call *c, source *from)
{
    c->name = "rotate";
    c->any_heads = 1;
    N(make_turning)(c, from);
    for (int i = 0; i < 2; i++) N(reals)(c, (size_t)(c->sizes[1] * c->sizes[4]));
    c->count = c->sizes[5] * c->sizes[0];
    c->run = N(run_rotate);
    c->reference = N(expect_rotate);
}

static int N(run_periodic)(const call *c, ptrdiff_t first, ptrdiff_t last)
{
    const array *x = &c->arrays[0], *y = &c->arrays[c->flags[2] ? 0 : 1];
    const int64_t *positions = c->arrays[6].data, *starts = c->arrays[4].data, *periods = c->arrays[5].data;
    return N(rr_rotate_periodic)(AT(0) + x->start, x->strides, (REAL *)y->data + y->start, y->strides, AT(2), AT(3),
                                 starts, periods, positions, c->sizes[5], c->sizes[0], c->sizes[2], c->sizes[3],
                                 c->sizes[4], c->flags[0], c->flags[1], first, last);
}

static void N(expect_periodic)(const call *c)
{
    const int64_t *starts = c->arrays[4].initial, *periods = c->arrays[5].initial, *positions = c->arrays[6].initial;
    int64_t *at = allocate((size_t)c->sizes[4] * sizeof *at);
    for (ptrdiff_t t = 0; t < c->sizes[1]; t++) {
        for (ptrdiff_t j = 0; j < c->sizes[4]; j++)
            at[j] = starts[j] + (positions[t] % periods[j] + periods[j]) % periods[j];
        for (ptrdiff_t b = 0; b < c->sizes[5]; b++)
            for (ptrdiff_t h = 0; h < c->sizes[0]; h++) N(turn)(c, b, h, t, IN(2), IN(3), at);
    }
    free(at);
}

static void N(make_periodic)(call *c, source *from)
{
    c->name = "rotate_periodic";
    N(make_turning)(c, from);
    const size_t pairs = (size_t)c->sizes[4], rows = (size_t)c->sizes[1];
    const int64_t longest = (int64_t)take_size(from, 1, 100), entries = pairs ? 2 * longest : 0;
    for (int i = 0; i < 2; i++) N(reals)(c, (size_t)entries);
    new_integers(c, pairs, 0, longest);
    new_integers(c, pairs, 1, longest);
    int64_t *positions = (int64_t *)new_integers(c, rows, INT64_MIN, INT64_MAX - 1);
    for (size_t t = 1; t < rows; t++)
        if (c->flags[3] && positions[t - 1] < INT64_MAX) positions[t] = positions[t - 1] + 1;
    c->count = c->sizes[1];
    c->run = N(run_periodic);
    c->reference = N(expect_periodic);
}

#include "calls_attention.h"
#include "calls_layers.h"

#undef IN
#undef AT
#undef WANT
