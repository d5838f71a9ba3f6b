"""What an encoding's wavelengths mean for a model that is trained short and tested long."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from refrope.encodings import RotaryEncoding
from refrope.errors import check_integer


def critical_pair(encoding: RotaryEncoding, length: int) -> int:
    """Number of pairs whose wavelength is below `length`: those that make a full turn within it.

    The paper says that the first 17 of 32 pairs are such for head_dim 64, base 10,000 and length 64; by its own formula
    for the wavelengths there are 9 (wavelength 62.83 of pair 8, 83.79 of pair 9).

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071, Section 3: "pre-critical" pairs.
    """
    length = check_integer("critical_pair", "length", length, 1)
    return int((encoding.wavelengths < length).sum())


def feature_gap(encoding: RotaryEncoding, train_length: int, test_length: int) -> npt.NDArray[np.float64]:
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

    Notes
    -----
    Eq. 8 of the paper prints a maximum over the feature's input and a minimum over m and n, which leaves open how n is
    chosen. The text around it and Theorem 1 speak of the worst test position against its nearest training position, and
    so does this function.

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071, Eq. 8 and Theorem 1.
    """
    train_length = check_integer("feature_gap", "train_length", train_length, 1)
    test_length = check_integer("feature_gap", "test_length", test_length, train_length + 1)
    turns = encoding.for_length(test_length).turns(np.arange(test_length))
    return np.array([_largest_chord(pair[:train_length], pair[train_length:]) for pair in turns.T])


def _largest_chord(trained: npt.NDArray[np.float64], tested: npt.NDArray[np.float64]) -> float:
    """The largest chord from a tested phase to the nearest trained one; phases in turns, in [0, 1)."""
    circle = np.sort(trained)
    circle = np.concatenate([circle[-1:] - 1, circle, circle[:1] + 1])  # neighbours across 0
    after = np.searchsorted(circle, tested)
    distance = np.minimum(circle[after] - tested, tested - circle[after - 1])
    return float(2 * np.sin(np.pi * distance.max()))
