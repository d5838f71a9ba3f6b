/*
 * rr_lanes.h - arrays of any length and alignment as vectors of rr_vec.h; included after it, once for every inclusion.
 */

/* LANES elements wherever they lie. */
RR_INLINE RR_TARGET VEC RR(get)(const REAL *x)
{
    VEC y;
    memcpy(&y, x, sizeof y);
    return y;
}

RR_INLINE RR_TARGET void RR(put)(REAL *x, VEC y)
{
    memcpy(x, &y, sizeof y);
}

/* n < LANES elements, and `fill` in the other lanes. */
RR_INLINE RR_TARGET VEC RR(get_some)(const REAL *x, ptrdiff_t n, REAL fill)
{
    REAL lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = i < n ? x[i] : fill;
    return RR(get)(lanes);
}

RR_INLINE RR_TARGET void RR(put_some)(REAL *x, ptrdiff_t n, VEC y)
{
    REAL lanes[LANES];
    RR(put)(lanes, y);
    for (ptrdiff_t i = 0; i < n; i++) x[i] = lanes[i];
}

/* The sum of all lanes, neighbours at a distance of half the rest first. */
RR_INLINE RR_TARGET REAL RR(sum_lanes)(VEC x)
{
    REAL lanes[LANES];
    RR(put)(lanes, x);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

RR_INLINE RR_TARGET REAL RR(max_lanes)(VEC x)
{
    REAL lanes[LANES];
    RR(put)(lanes, x);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
    return lanes[0];
}
