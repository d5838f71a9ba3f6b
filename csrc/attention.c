/*
 * attention.c - causal softmax attention, forward and backward, in tiles: no T x T array at any time.
 *
 * attention_body.h holds the functions. It is included once for every element type and instruction set instead of
 * being compiled under RR_CLONES, because the width of a vector is part of its code; the exported functions choose
 * among the copies at run time, by the names that RR_CLONES uses.
 * -DRR_PLAIN builds without vectors, as compilers other than GCC and Clang do.
 */
#include "refrope.h"
#include "rr_config.h"
#include "rr_random.h"
#include "rr_sizes.h"

enum {
    RR_PANEL = 64,                /* queries that go through softmax together */
    RR_KEYS = 64,                 /* keys that do */
    RR_QUERIES = 512,             /* queries for which a block of keys is packed once */
    RR_FEW = 4,                   /* queries that are not worth the packing of keys */
    RR_PAD = 16,                  /* packed rows and features fill multiples of this: the lanes of the widest vector */
    RR_LINE = RR_PANEL + RR_PAD   /* from a key's scores to the next one's */
};

typedef struct {
    void *data; /* float or double */
    const ptrdiff_t *strides;
} rr_array;

typedef rr_array rr_bias; /* with four strides; no data: there is none */

/* A call: forward reads q, k, v, bias and writes out, lse; backward reads these and dout and writes the gradients. */
typedef struct {
    rr_array q, k, v, out, dout, dq, dk, dv;
    rr_bias bias, dbias;
    void *lse, *scratch;
    ptrdiff_t heads, kv_heads, n_q, n_k, d;
    double scale;
    int causal;
    ptrdiff_t window; /* 0: none */
    int add; /* forward: to the keys that out and lse stand for already; backward: to what dq, dk, dv hold */
    uint32_t threshold, first_slice;
    uint64_t seed;
} rr_attention;

RR_INLINE ptrdiff_t rr_least(ptrdiff_t a, ptrdiff_t b)
{
    return a < b ? a : b;
}

RR_INLINE ptrdiff_t rr_most(ptrdiff_t a, ptrdiff_t b)
{
    return a > b ? a : b;
}

/* The least multiple of RR_PAD that is not below n. */
RR_INLINE ptrdiff_t rr_padded(ptrdiff_t n)
{
    return (n + RR_PAD - 1) / RR_PAD * RR_PAD;
}

/* Queries that are worked on with one packing of the keys: whole panels. */
RR_INLINE ptrdiff_t rr_query_block(ptrdiff_t n_q)
{
    return (rr_least(n_q, RR_QUERIES) + RR_PANEL - 1) / RR_PANEL * RR_PANEL;
}

/* Where slice s of an array begins. */
RR_INLINE ptrdiff_t rr_offset(const rr_array *array, ptrdiff_t heads, ptrdiff_t s)
{
    return s / heads * array->strides[0] + s % heads * array->strides[1];
}

/* Where the slice of keys or values begins that slice s of the queries uses. */
RR_INLINE ptrdiff_t rr_kv_offset(const rr_attention *call, const rr_array *array, ptrdiff_t s)
{
    return rr_offset(array, call->kv_heads, s / (call->heads / call->kv_heads));
}

/* Where the bias of query i and key j of slice s lies. */
RR_INLINE ptrdiff_t rr_bias_offset(const rr_attention *call, const rr_bias *bias, ptrdiff_t s, ptrdiff_t i, ptrdiff_t j)
{
    return rr_offset(bias, call->heads, s) + i * bias->strides[2] + j * bias->strides[3];
}

/* The first column of a panel that sees key j, where column 0 sees keys 0 .. limit. */
RR_INLINE ptrdiff_t rr_first_column(ptrdiff_t limit, ptrdiff_t j)
{
    return j <= limit ? 0 : j - limit;
}

/* The first key that query i sees: the window ends before it. */
RR_INLINE ptrdiff_t rr_first_key(const rr_attention *call, ptrdiff_t i)
{
    const ptrdiff_t key = i + call->n_k - call->n_q - call->window + 1;
    return call->window ? rr_most(0, key) : 0;
}

/* The first key of the block of keys that holds this one. */
RR_INLINE ptrdiff_t rr_key_block(ptrdiff_t key)
{
    return key / RR_KEYS * RR_KEYS;
}

/* How many of a block's `keys` keys column c of a panel sees, where column 0 sees keys 0 .. limit. */
RR_INLINE ptrdiff_t rr_seen(ptrdiff_t limit, ptrdiff_t c, ptrdiff_t keys)
{
    const ptrdiff_t n = limit + c + 1;
    return n < 0 ? 0 : rr_least(keys, n);
}

/* Whether an array of `heads` heads and n rows fits that is used for slices [0, last); one that is not given does. */
RR_INLINE int rr_array_fits(const rr_attention *call, const rr_array *array, ptrdiff_t heads, ptrdiff_t n,
                            ptrdiff_t last)
{
    return !array->data || last == 0 ||
           rr_walk_fits(array->strides, (last - 1) / heads + 1, rr_least(heads, last), n, call->d);
}

/* The same for a bias or its gradient. */
RR_INLINE int rr_bias_fits(const rr_attention *call, const rr_bias *bias, ptrdiff_t last)
{
    return rr_array_fits(call, bias, call->heads, call->n_q, last) &&
           (!bias->data || rr_reach(call->n_k, bias->strides[3]) >= 0);
}

/*
 * Whether the sizes make sense: causal attention needs a key for each query, dropout 32-bit numbers and counters; and
 * whether the arrays fit that slices [first, last) of q and [0, kv_last) of k use.
 */
static int rr_fits(const rr_attention *call, ptrdiff_t first, ptrdiff_t last, ptrdiff_t kv_last)
{
    if (call->heads < 1 || call->kv_heads < 1 || call->heads % call->kv_heads) return 0;
    if (call->d < 1 || call->n_q < 0 || call->n_k < (call->n_q > 0)) return 0;
    if (call->causal && call->n_q > call->n_k) return 0;
    if (call->window < 0 || call->window > call->n_k || (call->window && !call->causal)) return 0;
    if (rr_attention_scratch(call->n_q, call->d, 1) < 0) return 0;
    if (first < 0 || first > last || (uint64_t)last > UINT32_MAX + (uint64_t)1 - call->first_slice) return 0;
    if (call->threshold && call->n_q && (uint64_t)call->n_k > UINT32_MAX / (uint64_t)call->n_q) return 0;
    if (rr_times(rr_times(last, call->n_q), call->d) < 0 || rr_times(rr_times(kv_last, call->n_k), call->d) < 0) return 0;
    const rr_array *of_q[] = {&call->q, &call->out, &call->dout, &call->dq};
    const rr_array *of_k[] = {&call->k, &call->v, &call->dk, &call->dv};
    for (int i = 0; i < 4; i++) {
        if (!rr_array_fits(call, of_q[i], call->heads, call->n_q, last)) return 0;
        if (!rr_array_fits(call, of_k[i], call->kv_heads, call->n_k, kv_last)) return 0;
    }
    return rr_bias_fits(call, &call->bias, last) && rr_bias_fits(call, &call->dbias, last);
}

#define RR_BODY "attention_body.h"
#include "rr_sets.h"

/*
 * rr_attention_scratch - elements of the scratch buffer that one call needs; independent of the number of keys, and of
 * the number of queries beyond RR_QUERIES. The sums repeat the layouts in forward_slice (forward_few needs less) and
 * backward_slice; 64 elements leave room to align the first. -1: bad size.
 */
ptrdiff_t rr_attention_scratch(ptrdiff_t n_q, ptrdiff_t d, int backward)
{
    if (n_q < 0 || d < 1 || d > RR_MOST / (8 * (RR_QUERIES + RR_KEYS))) return -1;
    const ptrdiff_t rows = rr_query_block(n_q), width = rr_padded(d);
    return backward ? rows * (5 * width + 2) + RR_KEYS * (4 * width + 3 * RR_LINE) + RR_PAD + 64
                    : rows * (2 * width + 3) + RR_KEYS * (2 * width + 2 * RR_LINE) + 64;
}
