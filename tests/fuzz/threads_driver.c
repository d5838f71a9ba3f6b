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
    printf("%d calls, %d of them shared by %d threads\n", CALLS * 2 * KERNELS, shared, THREADS);
    return shared > CALLS * KERNELS ? 0 : 1;
}
