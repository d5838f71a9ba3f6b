/*
 * threads_driver.c - every kernel from several threads over ranges of one call, as refrope.kernels runs them, for
 * ThreadSanitizer: a race ends the program with a non-zero status, and so does a result that differs from one thread's.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>

#include "calls.h"

enum { THREADS = 4, CALLS = 24 /* of each kernel */, INPUT = 64 };

typedef struct {
    const call *c;
    ptrdiff_t first, last;
    int status;
} range;

static pthread_barrier_t together;

static void *work(void *argument)
{
    range *r = argument;
    pthread_barrier_wait(&together);
    r->status = r->c->run(r->c, r->first, r->last);
    return NULL;
}

static void in_threads(const call *c)
{
    pthread_t threads[THREADS];
    range ranges[THREADS];
    for (int i = 0; i < THREADS; i++) {
        ranges[i] = (range){c, c->count * i / THREADS, c->count * (i + 1) / THREADS, -1};
        if (pthread_create(&threads[i], NULL, work, &ranges[i])) abort();
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        if (ranges[i].status) fail(c, "thread %d was refused", i);
    }
}

/* ---- decode, whose threads wait for each other ---- */

enum {
    LAYERS = 2, D_MODEL = 21, HEADS = 6, KV_HEADS = 2, D = 10, D_FF = 19, CAPACITY = 9, PAIRS = 4,
    WIDTH = (HEADS + 2 * KV_HEADS) * D, KEPT = LAYERS * KV_HEADS * CAPACITY * D,
    LARGEST = D_MODEL * WIDTH
};

typedef struct {
    float weights[LAYERS][6][LARGEST], tables[2][PAIRS];
    const float *weight_at[LAYERS * 6], *table_at[LAYERS * 2];
    ptrdiff_t pairs[LAYERS];
    float x[D_MODEL], keys[KEPT], values[KEPT];
    float *scratch;
    int32_t meeting[48];
    ptrdiff_t length, threads;
} text;

typedef struct {
    text *t;
    ptrdiff_t thread;
    int status;
} step;

static void *decode(void *argument)
{
    step *s = argument;
    text *t = s->t;
    s->status = rr_decode_f32(t->x, t->weight_at, t->table_at, t->pairs, t->keys, t->values, t->scratch, t->meeting,
                              LAYERS, D_MODEL, HEADS, KV_HEADS, D, D_FF, CAPACITY, t->length, 0, 1e-6, 0.3, s->thread,
                              t->threads);
    return NULL;
}

static void fill(float *numbers, size_t count, uint64_t seed)
{
    const rr_key key = rr_slice_key(seed, 0);
    for (size_t i = 0; i < count; i++)
        numbers[i] = (float)(rr_random_bits(key, (uint32_t)i) >> 8) / 16777216.0f - 0.5f;
}

static void one_more(text *t)
{
    pthread_t threads[THREADS];
    step steps[THREADS];
    fill(t->x, D_MODEL, 7 + (uint64_t)t->length);
    memset(t->meeting, 0, sizeof t->meeting);
    for (ptrdiff_t i = 0; i < t->threads; i++) {
        steps[i] = (step){t, i, -1};
        if (pthread_create(&threads[i], NULL, decode, &steps[i])) abort();
    }
    for (ptrdiff_t i = 0; i < t->threads; i++) {
        pthread_join(threads[i], NULL);
        if (steps[i].status) abort();
    }
    t->length++;
}

/* A text that grows to CAPACITY tokens has the same rows, keys and values whoever works on it. */
static void decode_in_threads(void)
{
    text *texts[2];
    for (int i = 0; i < 2; i++) {
        text *t = texts[i] = calloc(1, sizeof(text));
        if (!t) abort();
        t->threads = i ? THREADS : 1;
        t->scratch = calloc((size_t)rr_decode_scratch(D_MODEL, HEADS, KV_HEADS, D, D_FF, t->threads), sizeof(float));
        if (!t->scratch) abort();
        fill(&t->weights[0][0][0], sizeof t->weights / sizeof(float), 1);
        fill(&t->tables[0][0], 2 * PAIRS, 2);
        for (int w = 0; w < LAYERS * 6; w++) t->weight_at[w] = t->weights[w / 6][w % 6];
        for (int w = 0; w < LAYERS * 2; w++) t->table_at[w] = t->tables[w % 2];
        t->pairs[0] = PAIRS; /* the second layer turns nothing */
    }
    for (int n = 0; n < CAPACITY; n++) {
        for (int i = 0; i < 2; i++) one_more(texts[i]);
        if (memcmp(texts[0]->x, texts[1]->x, sizeof texts[0]->x) ||
            memcmp(texts[0]->keys, texts[1]->keys, sizeof texts[0]->keys) ||
            memcmp(texts[0]->values, texts[1]->values, sizeof texts[0]->values)) {
            fprintf(stderr, "decode: token %d depends on the number of threads\n", n);
            abort();
        }
    }
    for (int i = 0; i < 2; i++) {
        free(texts[i]->scratch);
        free(texts[i]);
    }
}

int main(void)
{
    uint64_t random = 88172645463325252u;
    int shared = 0; /* calls in which at least two threads had something to do */
    pthread_barrier_init(&together, NULL, THREADS);
    for (unsigned i = 0; i < CALLS * 2 * KERNELS; i++) {
        uint8_t input[INPUT];
        for (int k = 0; k < INPUT; k++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            input[k] = (uint8_t)(random >> 32);
        }
        input[0] = (uint8_t)(i % (2 * KERNELS));
        source from = {input, sizeof input};
        call c;
        void *kept[ARRAYS];
        make_call(&c, &from);
        restore(&c, 0);
        if (c.run(&c, 0, c.count)) fail(&c, "a call whose sizes fit was refused");
        keep_outputs(&c, kept);
        restore(&c, 1);
        in_threads(&c);
        compare_runs(&c, kept);
        compare_with_reference(&c);
        shared += c.count > 1;
        release(&c);
    }
    pthread_barrier_destroy(&together);
    decode_in_threads();
    printf("%d calls, %d of them shared by %d threads\n", CALLS * 2 * KERNELS, shared, THREADS);
    return shared > CALLS * KERNELS ? 0 : 1;
}
