"""Resonance of some pairs: those named have whole-number wavelengths, the others are as they were."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from refrope.encodings import Resonance, RotaryEncoding
from refrope.encodings.around import AroundEncoding
from refrope.encodings.base import ExactArray, FloatArray, Tables
from refrope.errors import check_integer


@dataclass(frozen=True, init=False)
class RoundedPairs(AroundEncoding):
    """Round the wavelengths of some pairs of `encoding` to the nearest whole number of tokens.

    Between the encoding itself (no pair) and its `Resonance` (all of them), with the bits that each of them has: for
    models that were trained without rounding, whose fast pairs it would turn too far.

    Parameters
    ----------
    encoding : RotaryEncoding
    rounded : iterable of int in [0, pairs)
        Which pairs, pair 0 being the fastest.

    Raises
    ------
    ValueError
        No such pair; an encoding that mixes its pairs (FoPE) or whose tables are more than phases times one factor
        (xPos); as `Resonance`.

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071, Section 4.1, of which this is a part.
    """

    rounded: tuple[int, ...]

    def __init__(self, encoding: RotaryEncoding, rounded: Iterable[int]) -> None:
        super().__init__(encoding)
        if type(self.innermost)._tables is not RotaryEncoding._tables:
            raise ValueError(f"RoundedPairs: {encoding.name}'s tables depend on more than the phase of each pair")
        pairs = {check_integer("RoundedPairs", "rounded", pair, 0, encoding.pairs - 1) for pair in rounded}
        object.__setattr__(self, "rounded", tuple(sorted(pairs)))
        _ = self._resonance  # which refuses what it cannot round

    def for_length(self, length: int) -> RoundedPairs:
        """The same pairs of ``encoding.for_length(length)``."""
        return replace(self, encoding=self.encoding.for_length(length))

    @cached_property
    def _resonance(self) -> Resonance:
        return Resonance(self.encoding)

    @cached_property
    def is_rounded(self) -> npt.NDArray[np.bool_]:
        """True for the pairs that are rounded, (pairs,)."""
        return np.isin(np.arange(self.pairs), self.rounded)

    def exact_wavelengths(self) -> ExactArray:
        """Whole numbers for the pairs that are rounded, (pairs,) decimals."""
        return np.where(self.is_rounded, self._resonance.exact_wavelengths(), self.encoding.exact_wavelengths())

    def exact_inv_freq(self) -> ExactArray:
        """``2 pi / wavelength``, (pairs,) decimals."""
        return np.where(self.is_rounded, self._resonance.exact_inv_freq(), self.encoding.exact_inv_freq())

    def exact_stretch(self) -> ExactArray | None:
        """Wavelengths over those of plain RoPE; None where the encoding inside has none."""
        own, rounded = self.encoding.exact_stretch(), self._resonance.exact_stretch()
        return None if own is None or rounded is None else np.where(self.is_rounded, rounded, own)

    def turns(self, positions: npt.ArrayLike) -> FloatArray:
        """Each pair's part of its circle, float64 (..., pairs) in [0, 1), for int64 positions."""
        return np.where(self.is_rounded, self._resonance.turns(positions), self.encoding.turns(positions))

    def cos_sin(self, positions: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Tables:
        """Tables whose columns are those of `Resonance` or of the encoding inside, bit for bit.

        Raises
        ------
        ValueError
            Positions that are not integers. Another dtype.
        """
        rounded, own = self._resonance.cos_sin(positions, dtype), self.encoding.cos_sin(positions, dtype)
        cos, sin = (np.where(self.is_rounded, *both) for both in zip(rounded, own, strict=True))
        return cos, sin
