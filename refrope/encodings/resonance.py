"""Resonance: whole-number wavelengths, so that every pair comes back to exactly the same angle."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import tables
from refrope.encodings.base import PI, ExactArray, FloatArray, RotaryEncoding, exact_arithmetic
from refrope.errors import describe

_INT64_MAX = np.iinfo(np.int64).max


@dataclass(frozen=True, init=False)
class Resonance(RotaryEncoding):
    r"""Round every wavelength of `encoding` to the nearest whole number of tokens, after its scaling.

    A pair whose whole wavelength w is at most the training length has seen, in training, every angle that it will ever
    take: position n repeats position ``n mod w`` (Theorem 1 of the paper). The tables use that literally: the phase is
    ``(n mod w) / w`` with the mod taken in integers, so they repeat bit for bit at any int64 position.

    Parameters
    ----------
    encoding : RotaryEncoding
        Any of them; Resonance of a Resonance changes nothing.

    Raises
    ------
    ValueError
        A wavelength beyond 2^63 - 1 tokens, which int64 positions cannot resolve.

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071, Section 4.1 and Theorem 1.
    """

    encoding: RotaryEncoding
    head_dim: int = field(init=False, repr=False, compare=False)
    base: float = field(init=False, repr=False, compare=False)
    rotary_dim: int | None = field(init=False, repr=False, compare=False)

    def __init__(self, encoding: RotaryEncoding) -> None:
        if not isinstance(encoding, RotaryEncoding):
            raise ValueError(f"Resonance: encoding is {describe(encoding)}, expected a RotaryEncoding")
        object.__setattr__(self, "encoding", encoding)
        for name in ("head_dim", "base", "rotary_dim"):
            object.__setattr__(self, name, getattr(encoding, name))
        for pair, wavelength in enumerate(encoding.wavelengths):
            if _INT64_MAX <= wavelength < np.inf:
                raise ValueError(f"Resonance: the wavelength of pair {pair} is {wavelength:.3g}, expected below 2^63")

    def for_length(self, length: int) -> Resonance:
        """``Resonance(encoding.for_length(length))``."""
        return Resonance(self.encoding.for_length(length))

    @property
    def attention_factor(self) -> float:
        """That of the encoding inside."""
        return self.encoding.attention_factor

    @property
    def softmax_factor(self) -> float:
        """That of the encoding inside."""
        return self.encoding.softmax_factor

    def exact_wavelengths(self) -> ExactArray:
        """Whole numbers of tokens, (pairs,) decimals; infinite where a pair stands still."""
        # A tie would need 2 pi times an algebraic number to be half a whole one: half-even or half-up is all the same.
        return np.array([w.to_integral_value(ROUND_HALF_EVEN) for w in self.encoding.exact_wavelengths()])

    def exact_inv_freq(self) -> ExactArray:
        """``2 pi / w``, (pairs,) decimals."""
        inv_freq: ExactArray = 2 * PI / self.exact_wavelengths()
        return inv_freq

    def exact_stretch(self) -> ExactArray | None:
        """The encoding's stretch, times what rounding adds to it."""
        stretch = self.encoding.exact_stretch()
        if stretch is None:
            return None
        pairs = zip(stretch, self.exact_wavelengths(), self.encoding.exact_wavelengths(), strict=True)
        return np.array([s * whole / real if real.is_finite() else s for s, whole, real in pairs])

    @cached_property
    def periods(self) -> npt.NDArray[np.int64]:
        """The whole-number wavelengths, int64 (pairs,), in tokens; 0 for a pair that stands still."""
        with exact_arithmetic():
            periods = np.array([int(w) if w.is_finite() else 0 for w in self.exact_wavelengths()], dtype=np.int64)
        periods.setflags(write=False)
        return periods

    def turns(self, positions: npt.ArrayLike) -> FloatArray:
        """``(position mod period) / period``, float64 (..., pairs) in [0, 1), for int64 positions."""
        return tables.periodic_turns(self.periods, positions)

    def cos_sin(
        self, positions: npt.ArrayLike, dtype: npt.DTypeLike = np.float32
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Tables that repeat bit for bit: as `RotaryEncoding.cos_sin`, for int64 positions only.

        Raises
        ------
        ValueError
            Positions that are not integers: between two tokens there is no exact phase. Another dtype.
        """
        return tables.periodic_cos_sin(self.periods, positions, dtype=dtype, attention_factor=self.attention_factor)
