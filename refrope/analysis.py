"""What an encoding's wavelengths mean for a model that is trained short and tested long.

Every function takes the encoding as it is, `feature_gap` apart; where an encoding depends on the length, pass
``encoding.for_length(length)``. Only angles count here: all pairs lie on unit circles, before attention factors, the
amplitudes of xPos and the mixing of FoPE.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refrope.encodings import Resonance, RotaryEncoding
from refrope.errors import check_integer, check_length

FloatArray = npt.NDArray[np.float64]

_CHUNK = 1 << 20  # entries of the largest temporary array
_FLOAT32_BYTES = 4


# ---- a pair alone: which phases has training shown? ----


def critical_pair(encoding: RotaryEncoding, length: int) -> int:
    """Number of pairs whose wavelength is below `length`: those that make a full turn within it.

    The paper says that the first 17 of 32 pairs are such for head_dim 64, base 10,000 and length 64; by its own formula
    for the wavelengths there are 9 (wavelength 62.83 of pair 8, 83.79 of pair 9).

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071, Section 3: "pre-critical" pairs.
    """
    length = check_length("critical_pair", "length", length)
    return int((encoding.wavelengths < length).sum())


def circle_coverage(encoding: RotaryEncoding, length: int) -> FloatArray:
    """Which share of its circle each pair sweeps in `length` tokens: ``min(1, length / wavelength)``.

    Token m stands for the arc from its own phase to that of token m + 1, so that tokens 0 .. length - 1 sweep
    ``length / wavelength`` turns. For a whole wavelength w this is also a count: training has shown ``min(length, w)``
    of the w phases that the pair will ever take. For any other wavelength 1 says that every phase has been passed, not
    that it has been hit: how near the nearest hit is tells `feature_gap`.

    Parameters
    ----------
    encoding : RotaryEncoding
    length : int >= 1, tokens

    Returns
    -------
    (pairs,) float64 in [0, 1]; 0 for a pair that stands still

    Raises
    ------
    ValueError
        `length` not a whole number of at least 1.
    """
    length = check_length("circle_coverage", "length", length)
    return np.minimum(1.0, length / encoding.wavelengths)


def feature_gap(encoding: RotaryEncoding, train_length: int, test_length: int) -> FloatArray:
    r"""How far a test position can be from what training has shown, for each pair.

    For each test position n in [L, L') the nearest training position m in [0, L) is sought on the circle; the gap is
    the largest distance that is left: ``max over n of min over m of |exp(i phi_n) - exp(i phi_m)|``, a chord of a unit
    circle, before the attention factor. It is exactly 0 for whole-number wavelengths of at most L tokens, since n and
    ``n mod wavelength`` have the same phase (Theorem 1).

    Parameters
    ----------
    encoding : RotaryEncoding
        Positions take its form for `test_length`.
    train_length, test_length : int, 1 <= L < L', in tokens

    Returns
    -------
    (pairs,) float64 in [0, 2]

    Raises
    ------
    ValueError
        A length that is no whole number, or L' <= L.

    Notes
    -----
    Eq. 8 of the paper prints a maximum over the feature's input and a minimum over m and n, which leaves open how n is
    chosen. The text around it and Theorem 1 speak of the worst test position against its nearest training position, and
    so does this function.

    A whole wavelength w has a closed form in integers: a residue r in [L, w) lies ``min(r - (L - 1), w - r)`` tokens
    from the nearest trained one (0 follows w - 1), which is largest halfway, or at L' - 1 if that comes first. For any
    other, n sees m at a chord that depends on n - m alone, since each token turns by the same angle. While m runs over
    [0, L), n - m runs over a window of L distances: the gap is the greatest of the window minima, in O(L') steps.
    `feature_gap_enumerated` follows the definition instead, in O(L L').

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071, Eq. 8 and Theorem 1.
    """
    encoding, train_length, test_length = _check_lengths("feature_gap", encoding, train_length, test_length)
    periods = whole_periods(encoding)
    if periods is not None:
        tokens = np.clip((periods - train_length + 1) // 2, 0, test_length - train_length)
        return _chord(tokens / np.maximum(periods, 1))
    distances = np.arange(1, test_length)
    gaps = []
    for turns_per_token in encoding.inv_freq / (2 * np.pi):
        turns = distances * turns_per_token
        gaps.append(_window_minima(np.abs(turns - np.rint(turns)), train_length).max())
    return _chord(np.array(gaps))


def feature_gap_enumerated(encoding: RotaryEncoding, train_length: int, test_length: int) -> FloatArray:
    """`feature_gap` by its definition: every test position against every training position, in chunks of memory.

    Same parameters, result and errors; for teaching and as an oracle, not for speed.
    """
    encoding, train_length, test_length = _check_lengths("feature_gap_enumerated", encoding, train_length, test_length)
    trained = encoding.turns(np.arange(train_length))
    gap = np.zeros(encoding.pairs)
    rows = max(1, _CHUNK // trained.size)
    for start in range(train_length, test_length, rows):
        tested = encoding.turns(np.arange(start, min(start + rows, test_length)))
        chords = _chord(tested[:, None] - trained)
        gap = np.maximum(gap, chords.min(axis=1).max(axis=0))
    return gap


def _check_lengths(
    function: str, encoding: RotaryEncoding, train_length: int, test_length: int
) -> tuple[RotaryEncoding, int, int]:
    train_length = check_length(function, "train_length", train_length)
    test_length = check_length(function, "test_length", test_length, train_length + 1)
    return encoding.for_length(test_length), train_length, test_length


def _chord(turns: FloatArray) -> FloatArray:
    """The chord of a unit circle over an arc that is given in turns."""
    result: FloatArray = 2 * np.abs(np.sin(np.pi * turns))
    return result


def _window_minima(values: FloatArray, window: int) -> FloatArray:
    """The minimum of every `window` consecutive values.

    A window is the end of one block of `window` values and the start of the next, so that its minimum is that of one
    running minimum from the right and one from the left (van Herk 1992; Gil and Werman 1993).
    """
    blocks = np.full((-(-len(values) // window), window), np.inf)
    blocks.ravel()[: len(values)] = values
    from_left = np.minimum.accumulate(blocks, axis=1).ravel()
    from_right = np.minimum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
    count = len(values) - window + 1
    return np.minimum(from_right[:count], from_left[window - 1 : window - 1 + count])


# ---- whole wavelengths together: when do they all come round, which are the same, what do their tables weigh? ----


def lcm_horizon(encoding: RotaryEncoding, length: int) -> int:
    """After how many tokens all pre-critical pairs are back where they began: the LCM of their whole wavelengths.

    Parameters
    ----------
    encoding : RotaryEncoding
        Its wavelengths are rounded as `Resonance` rounds them.
    length : int >= 1, tokens
        Whole wavelengths below it are pre-critical.

    Returns
    -------
    int
        In tokens, of any size; 1 if no pair is pre-critical. For LLaMA-2 (head_dim 128, base 10,000, length 4096) it is
        7.058e51: training shows each pair every phase, but hardly any of the combinations.

    Raises
    ------
    ValueError
        `length` not a whole number of at least 1; a wavelength beyond 2^63.

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071, Section 4.1, gives "more than 7e51" for LLaMA-2.
    """
    length = check_integer("lcm_horizon", "length", length, 1)
    return math.lcm(*(period for period in _periods(encoding) if 0 < period < length))


def period_collisions(encoding: RotaryEncoding) -> dict[int, tuple[int, ...]]:
    """Which pairs share a whole wavelength, so that rounding makes copies of one rotation out of several.

    The paper does not speak of them. They begin where two neighbouring wavelengths round to one number: at base 10,000
    with head_dim 180. A head of 256 features has three, at 7, 8 and 10 tokens; one of 128 has none.

    Parameters
    ----------
    encoding : RotaryEncoding
        Its wavelengths are rounded as `Resonance` rounds them.

    Returns
    -------
    dict from period in tokens, ascending, to the two or more pairs that have it; pairs that stand still do not count

    Raises
    ------
    ValueError
        A wavelength beyond 2^63.
    """
    sharing: defaultdict[int, list[int]] = defaultdict(list)
    for pair, period in enumerate(_periods(encoding)):
        sharing[period].append(pair)
    return {period: tuple(pairs) for period, pairs in sorted(sharing.items()) if period and len(pairs) > 1}


def sum_of_periods(encoding: RotaryEncoding) -> int:
    """Entries of a cos (or sin) table that serves every position: one period for each pair, 405,898 for LLaMA-2.

    A pair that stands still needs one entry. Wavelengths are rounded as `Resonance` rounds them; ValueError if one is
    beyond 2^63.
    """
    return sum(max(period, 1) for period in _periods(encoding))


class TableBytes(NamedTuple):
    """Bytes of a cos and a sin table in float32, see `table_bytes`."""

    periodic: int
    dense: int


def table_bytes(encoding: RotaryEncoding, length: int) -> TableBytes:
    """What tables for positions 0 .. length - 1 weigh: one period for each pair, against one row for each position.

    A periodic table stores ``min(period, length)`` entries of a pair: with large bases the slowest periods are longer
    than any context, and without the cap their tables would be larger than dense ones.

    Parameters
    ----------
    encoding : RotaryEncoding
        Its wavelengths are rounded as `Resonance` rounds them.
    length : int >= 1, tokens

    Returns
    -------
    TableBytes(periodic, dense)
        Bytes of cos and sin together, float32, one column for each pair. Engines that store every column twice
        (Hugging Face) need twice the dense number.

    Raises
    ------
    ValueError
        `length` not a whole number of at least 1; a wavelength beyond 2^63.
    """
    length = check_integer("table_bytes", "length", length, 1)
    entries = sum(min(max(period, 1), length) for period in _periods(encoding))
    return TableBytes(2 * _FLOAT32_BYTES * entries, 2 * _FLOAT32_BYTES * encoding.pairs * length)


def whole_periods(encoding: RotaryEncoding) -> npt.NDArray[np.int64] | None:
    """The periods of an encoding whose wavelengths are whole, int64 (pairs,) in tokens; None for any other encoding."""
    if isinstance(encoding, Resonance) and encoding.dialect == "after":
        return encoding.periods
    return None


def _periods(encoding: RotaryEncoding) -> list[int]:
    """Rounded wavelengths as Python's integers, which do not overflow; 0 where a pair stands still."""
    periods = whole_periods(encoding)
    rounded: list[int] = (Resonance(encoding).periods if periods is None else periods).tolist()
    return rounded
