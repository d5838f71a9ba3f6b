/*
 * rr_exp.h - e^x and its inverse for the vectors of rr_vec.h; included after it, once for every inclusion of it.
 *
 * Notes : no libm, no errno, no tables; the same operations in every lane.
 *         Coefficients: the polynomial that equals 2^f at the n Chebyshev nodes cos((2i + 1) pi / 2n) / 2, i < n, of
 *         [-1/2, 1/2], n = 7 for float, 11 for double. Relative error before rounding 2.6e-9, 3.0e-16; none at f = 0.
 */
#define RR_LOG2_E (REAL)1.4426950408889634
#define RR_LOG_2 (REAL)0.69314718055994531

/*
 * e^x for x < 88 (float) or 709 (double); 0 where the true value would be subnormal or less; NaN for NaN.
 * x / ln 2 = k + f with k whole, |f| <= 1/2. Adding 1.5 * 2^FRACTION_BITS rounds to a whole number and leaves it in the
 * lowest bits, so that a shift moves k + EXPONENT_BIAS to where a power of two has its exponent.
 */
RR_INLINE RR_TARGET VEC RR(exp)(VEC x)
{
    const REAL whole = (REAL)((UINT)3 << (FRACTION_BITS - 1)) + EXPONENT_BIAS;
    x = RR(larger)(RR(set)(-EXPONENT_BIAS * RR_LOG_2), x); /* there k + EXPONENT_BIAS = 0, and the power of two is 0 */
    const VEC k = x * RR_LOG2_E + whole;
    const VEC f = x * RR_LOG2_E - (k - whole);
#if RR_BITS == 32
    VEC y = f * 1.54614447e-4f + 1.34004282e-3f;
    y = y * f + 9.61805668e-3f;
    y = y * f + 5.55032723e-2f;
    y = y * f + 2.40226509e-1f;
    y = y * f + 6.93147207e-1f;
    y = y * f + 1.0f;
#else
    VEC y = f * 7.0725859692492237e-9 + 1.0208690299958306e-7;
    y = y * f + 1.3215442587921690e-6;
    y = y * f + 1.5252657260200837e-5;
    y = y * f + 1.5403530441736050e-4;
    y = y * f + 1.3333558230164974e-3;
    y = y * f + 9.6181291076068885e-3;
    y = y * f + 5.5504108664447719e-2;
    y = y * f + 2.4022650695910098e-1;
    y = y * f + 6.9314718055994998e-1;
    y = y * f + 1.0;
#endif
    return y * RR_FROM_BITS(RR_BITS_OF(k) << FRACTION_BITS);
}

/*
 * ln(x) for finite x >= 1; NaN for 0 and NaN. The start, a straight line between powers of two, is within 0.03; each of
 * the two Halley steps for e^y = x cubes the error and divides it by 12.
 */
RR_INLINE RR_TARGET VEC RR(log)(VEC x)
{
    const REAL whole = (REAL)((UINT)3 << (FRACTION_BITS - 1));
    const UVEC bits = RR_BITS_OF(x);
    const UVEC fraction = bits & (((UINT)1 << FRACTION_BITS) - 1);
    const VEC exponent = RR_FROM_BITS((bits >> FRACTION_BITS) + RR_BITS_OF(RR(set)(whole))) - whole - EXPONENT_BIAS;
    VEC y = (exponent + RR_FROM_BITS(fraction | RR_BITS_OF(RR(set)(1))) - (REAL)0.957) * RR_LOG_2;
    for (int step = 0; step < 2; step++) {
        const VEC e = RR(exp)(y);
        y += 2 * ((x - e) / (x + e));
    }
    return y;
}
