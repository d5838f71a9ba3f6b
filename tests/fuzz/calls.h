/*
 * calls.h - from bytes to a call of any kernel, on arrays of exactly the elements that the call may touch, so that
 * AddressSanitizer sees one too many. Included once by each program of this folder.
 *
 * A call is made of a kernel, sizes, layouts, flags and values. `run` executes a range of it; what the arrays held
 * before stands in `initial`, so that it can be executed again.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "refrope.h"
#include "rr_random.h"

enum { ARRAYS = 16, SIZES = 8 };

typedef struct {
    const uint8_t *data;
    size_t left;
} source;

typedef struct {
    void *data, *initial;
    double *expected;    /* what the reference gives, for an output */
    size_t count, bytes; /* elements, and bytes of each */
    size_t unwritten;    /* elements between those that an output has */
    ptrdiff_t start;     /* of element [0, 0, 0, 0] */
    ptrdiff_t strides[4];
    int output, fresh; /* fresh: what it held before does not matter */
} array;

typedef struct call call;
struct call {
    const char *name;
    int (*run)(const call *, ptrdiff_t first, ptrdiff_t last);
    void (*reference)(const call *); /* fills `expected` of the outputs; NULL for values that rounding would decide */
    double tolerance;                /* of a result, relative to 1 + |expected|; 0: the same bits */
    ptrdiff_t count;                 /* ranges cover [0, count) */
    array arrays[ARRAYS];
    int used, values; /* arrays; what kind of numbers: 0 moderate, 1 special ones, 2 any bits, 3 one special */
    ptrdiff_t sizes[SIZES];
    int any_heads;  /* sizes[0] only says which slices belong to one batch: all that memory holds may */
    unsigned steps; /* sizes from this one on are steps, which may be negative */
    int flags[4];
    ptrdiff_t window;
    int add;
    uint32_t threshold, first_number;
    uint64_t seed, random;
    double scale;
};

static void fail(const call *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", c->name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\nsizes");
    for (int i = 0; i < SIZES; i++) fprintf(stderr, " %td", c->sizes[i]);
    fprintf(stderr, ", flags %d %d %d %d, values %d\n", c->flags[0], c->flags[1], c->flags[2], c->flags[3], c->values);
    va_end(arguments);
    abort();
}

static unsigned take(source *from)
{
    if (!from->left) return 0;
    from->left--;
    return *from->data++;
}

/* A size in [least, most], small ones more often. */
static ptrdiff_t take_size(source *from, ptrdiff_t least, ptrdiff_t most)
{
    const unsigned kind = take(from), low = take(from);
    const ptrdiff_t ends[] = {3, 9, 18, 70, 140, most};
    const ptrdiff_t end = ends[kind % 6] < most - least ? ends[kind % 6] : most - least;
    return least + (ptrdiff_t)(low + 256 * (kind / 6)) % (end + 1);
}

static uint64_t next_random(call *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random;
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) abort();
    return memory;
}

static array *new_array(call *c, size_t count, size_t bytes)
{
    if (c->used == ARRAYS) abort();
    array *a = &c->arrays[c->used++];
    a->count = count;
    a->bytes = bytes;
    a->data = allocate(count * bytes);
    a->initial = allocate(count * bytes);
    return a;
}

/* An int64 array with values in [low, high]. */
static const int64_t *new_integers(call *c, size_t count, int64_t low, int64_t high)
{
    array *a = new_array(c, count, sizeof(int64_t));
    int64_t *to = a->initial;
    for (size_t i = 0; i < count; i++)
        to[i] = (int64_t)((uint64_t)low + next_random(c) % ((uint64_t)high - (uint64_t)low + 1));
    return to;
}

/*
 * Lay out [n0, n1, n2, width]: axes in any order, some elements apart, some backwards; an input may repeat along an
 * axis. The return value is the number of elements from the first to the last.
 */
static size_t lay_out(source *from, const ptrdiff_t *shape, ptrdiff_t width, int output, array *a, size_t *inside)
{
    static const int orders[6][3] = {{2, 1, 0}, {2, 0, 1}, {1, 2, 0}, {1, 0, 2}, {0, 1, 2}, {0, 2, 1}};
    const unsigned kind = take(from), gaps = take(from), odd = take(from);
    ptrdiff_t span = width;
    a->start = 0;
    *inside = (size_t)width;
    for (int i = 0; i < 3; i++) {
        const int axis = orders[kind % 6][i];
        const ptrdiff_t n = shape[axis];
        *inside *= (size_t)n;
        ptrdiff_t stride = span + (ptrdiff_t)(gaps >> (2 * i) & 3);
        if (!output && (odd >> i & 1) && (odd & 64)) stride = 0;
        if (odd >> (3 + i) & 1) stride = -stride;
        if (n > 0 && stride < 0) a->start -= (n - 1) * stride;
        if (n > 0) span += (n - 1) * (stride < 0 ? -stride : stride);
        a->strides[axis] = stride;
    }
    return *inside ? (size_t)span : 0;
}

static void restore(call *c, int canary);

static void release(call *c)
{
    for (int i = 0; i < c->used; i++) {
        free(c->arrays[i].data);
        free(c->arrays[i].initial);
        free(c->arrays[i].expected);
    }
}

#define REAL float
#define N(name) name##_f32
#define TOLERANCE 1e-4 /* far above rounding: precision is what the package's tests are for */
#define SMALLEST 1.17549435e-38f
#include "calls_body.h"
#undef REAL
#undef N
#undef TOLERANCE
#undef SMALLEST
#define REAL double
#define N(name) name##_f64
#define TOLERANCE 1e-11
#define SMALLEST 2.2250738585072014e-308
#include "calls_body.h"

enum { KERNELS = 16 };
static void (*const makers[2 * KERNELS])(call *, source *) = {
    make_rotate_f32, make_periodic_f32, make_attention_f32, make_attention_back_f32, make_norm_f32, make_norm_back_f32,
    make_loss_f32, make_loss_back_f32, make_gated_f32, make_gated_back_f32, make_relu_f32, make_relu_back_f32,
    make_dropout_f32, make_adamw_f32, make_embedding_f32, make_embedding_back_f32,
    make_rotate_f64, make_periodic_f64, make_attention_f64, make_attention_back_f64, make_norm_f64, make_norm_back_f64,
    make_loss_f64, make_loss_back_f64, make_gated_f64, make_gated_back_f64, make_relu_f64, make_relu_back_f64,
    make_dropout_f64, make_adamw_f64, make_embedding_f64, make_embedding_back_f64,
};

/* The call that the bytes describe. */
static void make_call(call *c, source *from)
{
    memset(c, 0, sizeof *c);
    c->steps = SIZES;
    const unsigned kernel = take(from) % (2 * KERNELS);
    c->values = (int)(take(from) % 4);
    c->random = 0x9e3779b97f4a7c15u + take(from);
    for (int i = 0; i < 4; i++) c->flags[i] = (int)(take(from) & 1);
    makers[kernel](c, from);
}

/* Fill all arrays with what they held before; fresh outputs with one of two numbers that tell what is not written. */
static void restore(call *c, int canary)
{
    for (int i = 0; i < c->used; i++) {
        array *a = &c->arrays[i];
        memcpy(a->data, a->initial, a->count * a->bytes);
        if (!a->fresh) continue;
        for (size_t k = 0; k < a->count; k++) {
            if (a->bytes == 4) ((float *)a->data)[k] = canary ? -7.25f : 12345.5f;
            else ((double *)a->data)[k] = canary ? -7.25 : 12345.5;
        }
    }
}

static double value_at(const array *a, const void *data, size_t k)
{
    return a->bytes == 4 ? (double)((const float *)data)[k] : ((const double *)data)[k];
}

static int same_bits(double a, double b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

/* Copies of all outputs, for a comparison with another run. */
static void keep_outputs(const call *c, void **kept)
{
    for (int i = 0; i < c->used; i++) {
        const array *a = &c->arrays[i];
        kept[i] = a->output ? allocate(a->count * a->bytes) : NULL;
        if (kept[i]) memcpy(kept[i], a->data, a->count * a->bytes);
    }
}

/* Abort unless this run, which began with the other canary, wrote what the kept one did, and where. */
static void compare_runs(const call *c, void **kept)
{
    for (int i = 0; i < c->used; i++) {
        const array *a = &c->arrays[i];
        size_t unwritten = 0;
        for (size_t k = 0; a->output && k < a->count; k++) {
            const double before = value_at(a, kept[i], k), now = value_at(a, a->data, k);
            if (a->fresh && before == 12345.5 && now == -7.25) unwritten++;
            else if (!same_bits(before, now)) fail(c, "array %d[%zu] is %g, and %g in another split", i, k, before, now);
        }
        if (a->output && unwritten != a->unwritten)
            fail(c, "array %d has %zu elements that were not written, not %zu", i, unwritten, a->unwritten);
        if (!a->output && memcmp(a->data, a->initial, a->count * a->bytes)) fail(c, "array %d, an input, changed", i);
        free(kept[i]);
    }
}

/* Abort unless the outputs are what the reference gives. */
static void compare_with_reference(call *c)
{
    if (!c->reference) return;
    for (int i = 0; i < c->used; i++) {
        array *a = &c->arrays[i];
        if (!a->output) continue;
        a->expected = allocate(a->count * sizeof(double));
        for (size_t k = 0; k < a->count; k++) a->expected[k] = a->fresh ? -7.25 : value_at(a, a->initial, k);
    }
    c->reference(c);
    for (int i = 0; i < c->used; i++) {
        const array *a = &c->arrays[i];
        for (size_t k = 0; a->output && k < a->count; k++) {
            const double wanted = a->expected[k], came = value_at(a, a->data, k);
            const double error = fabs(came - wanted);
            const int near = c->tolerance > 0 && error <= c->tolerance * (1 + fabs(wanted));
            if (!near && !same_bits(came, wanted))
                fail(c, "array %d[%zu] is %.17g, the reference says %.17g", i, k, came, wanted);
        }
    }
}
