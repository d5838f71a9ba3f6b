/*
 * rr_random.h - counter-based random bits for dropout: element i of slice s has the same bits whatever thread asks.
 *
 * Oracle : refrope.nn.dropout.random_bits, equal bit for bit.
 * Notes  : two keyed rounds of a 32-bit integer mixer (xor-shift-multiply; the multipliers 0x21f0aaad and 0x735a2d97
 *          were published by C. Wellons's hash-prospector search for low avalanche bias). Good for dropout masks,
 *          not for cryptography.
 */
#ifndef RR_RANDOM_H
#define RR_RANDOM_H

#include <stdint.h>

#include "rr_config.h"

typedef struct {
    uint32_t first, second;
} rr_key;

RR_INLINE uint32_t rr_mix32(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x21f0aaadu;
    x ^= x >> 15;
    x *= 0x735a2d97u;
    x ^= x >> 15;
    return x;
}

/* The key of one slice: both halves of the seed, each mixed with the slice's number. */
RR_INLINE rr_key rr_slice_key(uint64_t seed, uint32_t slice)
{
    rr_key key;
    key.first = rr_mix32((uint32_t)seed ^ rr_mix32(slice));
    key.second = rr_mix32((uint32_t)(seed >> 32) ^ rr_mix32(slice ^ 0x9e3779b9u));
    return key;
}

RR_INLINE uint32_t rr_random_bits(rr_key key, uint32_t counter)
{
    return rr_mix32(rr_mix32(counter ^ key.first) ^ key.second);
}

#endif
