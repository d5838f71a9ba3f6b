/*
 * fuzz_kernels.c - libFuzzer's entry: make a call of the bytes, and hold it against what every kernel promises.
 *
 * A call whose sizes fit returns 0, changes no input, writes every element of its outputs and none between them, gives
 * the same bits for any split into ranges, and what plain loops give. One with a size that no memory could hold returns
 * 1 with the outputs untouched, or 0 where it had nothing to do with that size.
 * With -DREPLAY it has a main() that does the same for files: no fuzzer, any C99 compiler.
 */
#include "calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void in_two_ranges(source *from, call *c)
{
    void *kept[ARRAYS];
    const ptrdiff_t middle = c->count ? take_size(from, 0, c->count) : 0;
    restore(c, 0);
    if (c->run(c, 0, c->count)) fail(c, "a call whose sizes fit was refused");
    keep_outputs(c, kept);
    restore(c, 1);
    if (c->run(c, 0, middle) || c->run(c, middle, c->count)) fail(c, "a range of %td was refused", middle);
    compare_runs(c, kept);
    compare_with_reference(c);
}

static void with_a_hostile_size(source *from, call *c)
{
    const ptrdiff_t hostile[] = {-1, PTRDIFF_MIN, PTRDIFF_MAX, PTRDIFF_MAX / 2 + 1, PTRDIFF_MAX / 4 + 1, -PTRDIFF_MAX};
    ptrdiff_t size = hostile[take(from) % 6];
    ptrdiff_t first = 0, last = c->count;
    const unsigned which = take(from) % (SIZES + 2);
    if (which == 0 && c->any_heads && size > 0) size = -1;
    if (which >= c->steps && size == -1) size = PTRDIFF_MIN;
    if (which < SIZES) c->sizes[which] = size;
    else if (which == SIZES) first = size;
    else last = size;
    restore(c, 0);
    void *kept[ARRAYS];
    keep_outputs(c, kept);
    const int status = c->run(c, first, last);
    for (int i = 0; i < c->used; i++) {
        const array *a = &c->arrays[i];
        if (status && a->output && memcmp(kept[i], a->data, a->count * a->bytes)) fail(c, "refused after writing");
        if (!a->output && memcmp(a->data, a->initial, a->count * a->bytes)) fail(c, "array %d, an input, changed", i);
        free(kept[i]);
    }
    if (status != 0 && status != 1) fail(c, "status %d", status);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    source from = {data, size};
    const int hostile = take(&from) % 8 == 7;
    call c;
    make_call(&c, &from);
    if (hostile) with_a_hostile_size(&from, &c);
    else in_two_ranges(&from, &c);
    release(&c);
    return 0;
}

#ifdef REPLAY
int main(int count, char **paths)
{
    uint8_t data[4096];
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(paths[i], "rb");
        if (!file) {
            perror(paths[i]);
            return 2;
        }
        LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof data, file));
        fclose(file);
    }
    printf("%d inputs\n", count - 1);
    return count > 1 ? 0 : 2;
}
#endif
