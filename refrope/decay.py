"""What distance does to the score of two vectors that turn: all pairs together, where `analysis` takes each alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from refrope.encodings import RotaryEncoding
from refrope.errors import check_integer, describe

FloatArray = npt.NDArray[np.float64]

_CHUNK = 1 << 20  # entries of the largest temporary array
_RESOLUTION = 1e-6  # of `smallest_base`, relative
_SUSPECTS = 16  # distances that `smallest_base` looks at before it looks at all of them


def long_range_decay(encoding: RotaryEncoding, distances: npt.ArrayLike) -> FloatArray:
    r"""What distance does to the score of equal vectors: ``sum over pairs of cos(m inv_freq)``.

    This is half the score q . k of q = k = (1, ..., 1) at distance m. For random vectors with independent entries it is
    also, up to a factor, by how much a key like the query outscores an unrelated one on average: where it is negative,
    the unrelated key wins. Before the attention factor.

    Parameters
    ----------
    encoding : RotaryEncoding
    distances : (...) int or finite float, tokens

    Returns
    -------
    (...) float64 in [-pairs, pairs]
        Angles are float64: the error is below ``pairs * (|m| * max(inv_freq) * 2^-51 + 2^-46)``.

    Raises
    ------
    ValueError
        Distances that are not finite numbers.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, Section 3.4.3; Men et al. 2024, arXiv:2405.14591 (their B_m).
    """
    places = np.asarray(distances)
    if places.dtype.kind not in "iuf" or not np.isfinite(places).all():
        shown = describe(distances)
        raise ValueError(f"long_range_decay: distances are {shown}, expected integers or finite floats")
    return _decay(encoding.inv_freq, places.astype(np.float64).ravel()).reshape(places.shape)


def smallest_base(head_dim: int, length: int) -> float:
    r"""The least base for which plain RoPE's `long_range_decay` is at least 0 at every distance up to `length`.

    Parameters
    ----------
    head_dim : int >= 4, even
        A single pair turns by one radian per token whatever the base, and is negative at distance 2.
    length : int >= 2, tokens

    Returns
    -------
    float
        It satisfies the condition, and no base below it does. With head_dim 128: 4.3e3 for 1024 tokens, 1.16e4 for
        2048, 2.7e4 for 4096, 8.4e4 for 8192 (so that the usual 10,000 is too small from 2048 on). Takes seconds from
        8192 tokens on, and four times as long for twice as many.

    Raises
    ------
    ValueError
        `head_dim` or `length` out of its range.

    Notes
    -----
    The condition is not monotone in the base: some larger bases fail again, and a grid finds one window or another
    depending on its steps. The search here goes upwards from 1 and leaves nothing out: along log(base) a sum at
    distance m has a slope of at most ``m * sum_j (2j/d) inv_freq[j]``, a bound that falls as the base grows, so a sum
    of -v rules out everything up to v / slope further on. Only steps below 1e-6 (relative) are lengthened to that.

    References
    ----------
    Men et al. 2024, arXiv:2405.14591.
    """
    head_dim = check_integer("smallest_base", "head_dim", head_dim, 4)
    if head_dim % 2:
        raise ValueError(f"smallest_base: head_dim is {head_dim}, expected an even number: features turn in pairs")
    length = check_integer("smallest_base", "length", length, 2)
    distances = np.arange(1.0, length + 1)
    exponents = np.arange(0, head_dim, 2) / head_dim
    suspects, fresh, log_base = distances[:0], np.inf, 0.0
    while True:
        inv_freq = np.exp(-log_base * exponents)
        slope = float(exponents @ inv_freq)  # per token of distance
        reach = _reach(inv_freq, suspects, slope).max(initial=0.0)
        if reach < fresh / 2:  # those that ruled out most last time no longer do: ask all distances
            all_reach = _reach(inv_freq, distances, slope)
            suspects = distances[np.argsort(all_reach)[-_SUSPECTS:]]
            reach = fresh = all_reach.max()
            if reach <= 0:
                return math.exp(log_base)
        log_base += max(float(reach), _RESOLUTION)


def _reach(inv_freq: FloatArray, distances: FloatArray, slope: float) -> FloatArray:
    """How far along log(base) each distance's sum rules bases out; negative where it does not."""
    result: FloatArray = -_decay(inv_freq, distances) / (distances * slope)
    return result


def _decay(inv_freq: FloatArray, distances: FloatArray) -> FloatArray:
    """The sum over pairs of cos(distance * inv_freq) for a row of distances, in chunks of memory."""
    result = np.empty(len(distances))
    rows = max(1, _CHUNK // len(inv_freq))
    for start in range(0, len(distances), rows):
        part = slice(start, start + rows)
        result[part] = np.cos(distances[part, None] * inv_freq).sum(axis=1)
    return result
