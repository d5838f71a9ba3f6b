"""Resonance: whole-number wavelengths, so that every pair comes back to exactly the same angle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import tables
from refrope.encodings.around import AroundEncoding
from refrope.encodings.base import PI, ExactArray, FloatArray, RotaryEncoding, Tables, exact_arithmetic
from refrope.errors import check_name

DIALECTS = ("after", "before")
_INT64_MAX = np.iinfo(np.int64).max


@dataclass(frozen=True, init=False)
class Resonance(AroundEncoding):
    r"""Round every wavelength of `encoding` to the nearest whole number of tokens.

    A pair whose whole wavelength w is at most the training length has seen, in training, every angle that it will ever
    take: position n repeats position ``n mod w`` (Theorem 1 of the paper). The tables use that literally: the phase is
    ``(n mod w) / w`` with the mod taken in integers, so they repeat bit for bit at any int64 position. Amplitudes (an
    attention factor, xPos) and mixing (FoPE) are those of `encoding`, on top of these phases.

    Parameters
    ----------
    encoding : RotaryEncoding
        Any of them. In dialect "after", Resonance of what has whole wavelengths already changes nothing.
    dialect : {"after", "before"}
        "after" (default) rounds the wavelengths that `encoding` has after its scaling. Only so are those in use whole,
        which is what the theorem needs; the authors' code does it for YaRN. "before" rounds plain RoPE's and then
        stretches them as `encoding` does. They are then in general not whole: tables are those of ordinary float64
        angles, and there are no `periods`.

    Raises
    ------
    ValueError
        A wavelength that rounds to 0 or lies beyond 2^63 - 1 tokens, which int64 positions cannot resolve; "before"
        around an encoding without a stretch.

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071, Section 4.1 and Theorem 1; sheryc/resonance_rope at commit 4a7f5a70.
    """

    dialect: str = "after"

    def __init__(self, encoding: RotaryEncoding, dialect: str = "after") -> None:
        super().__init__(encoding)
        check_name("Resonance", "dialect", dialect, DIALECTS)
        if dialect == "before" and encoding.stretch is None:
            raise ValueError(f"Resonance: {encoding.name} has no stretch, which dialect 'before' needs")
        object.__setattr__(self, "dialect", dialect)
        for pair, wavelength in enumerate(encoding.wavelengths if dialect == "after" else ()):
            if wavelength <= 0.5 or _INT64_MAX <= wavelength < np.inf:
                wanted = "above 1/2 and below 2^63"
                raise ValueError(f"Resonance: the wavelength of pair {pair} is {wavelength:.3g}, expected {wanted}")

    def for_length(self, length: int) -> Resonance:
        """Resonance of ``encoding.for_length(length)``."""
        return replace(self, encoding=self.encoding.for_length(length))

    def exact_wavelengths(self) -> ExactArray:
        """Whole numbers of tokens, stretched in dialect "before", (pairs,) decimals; infinite where a pair is still."""
        if self.dialect == "before":
            stretched: ExactArray = _whole(2 * PI / self.plain_inv_freq()) * self.encoding.exact_stretch()
            return stretched
        return _whole(self.encoding.exact_wavelengths())

    def exact_inv_freq(self) -> ExactArray:
        """``2 pi / wavelength``, (pairs,) decimals."""
        inv_freq: ExactArray = 2 * PI / self.exact_wavelengths()
        return inv_freq

    def exact_stretch(self) -> ExactArray | None:
        """Wavelengths over those of plain RoPE; None where the encoding inside has none."""
        if self.encoding.exact_stretch() is None:
            return None
        stretch: ExactArray = self.exact_wavelengths() * self.plain_inv_freq() / (2 * PI)
        return stretch

    @cached_property
    def periods(self) -> npt.NDArray[np.int64]:
        """The whole-number wavelengths, int64 (pairs,), in tokens; 0 for a pair that stands still.

        Raises
        ------
        ValueError
            In dialect "before".
        """
        if self.dialect == "before":
            raise ValueError("Resonance: rounded before scaling, wavelengths are not whole and there are no periods")
        with exact_arithmetic():
            periods = np.array([int(w) if w.is_finite() else 0 for w in self.exact_wavelengths()], dtype=np.int64)
        periods.setflags(write=False)
        return periods

    def turns(self, positions: npt.ArrayLike) -> FloatArray:
        """``(position mod period) / period``, float64 (..., pairs) in [0, 1), for int64 positions."""
        return super().turns(positions) if self.dialect == "before" else tables.periodic_turns(self.periods, positions)

    def cos_sin(self, positions: npt.ArrayLike, dtype: npt.DTypeLike = np.float32, **options: Any) -> Tables:
        """Tables that repeat bit for bit: as the inside encoding's `cos_sin`, for int64 positions only.

        Raises
        ------
        ValueError
            Positions that are not integers: between two tokens there is no exact phase. Another dtype.
        """
        if self.dialect == "before":
            circle = partial(tables.cos_sin, self.inv_freq)
        else:
            circle = partial(tables.periodic_cos_sin, self.periods)
        return self._tables(circle, positions, dtype, **options)

    def period_tables(self, dtype: npt.DTypeLike = np.float32, *, max_entries: int = 2**24) -> tables.PeriodTables:
        """One period of every pair, for `refrope.rotary.rotate_periodic`: no tables over positions are needed then.

        Parameters
        ----------
        dtype : float64, float32 or float16
        max_entries : int
            The sum of all periods may not be larger; an entry is one cos and one sin.

        Returns
        -------
        PeriodTables, with the bits of `cos_sin` at the same positions.

        Raises
        ------
        ValueError
            Dialect "before", whose pairs have no periods; an encoding whose tables are more than phases times one
            factor (xPos, FoPE); more than `max_entries`.
        """
        inside = self.innermost
        if type(inside)._tables is not RotaryEncoding._tables:
            raise ValueError(f"Resonance.period_tables: {inside.name}'s tables depend on more than the phase")
        entries = sum(max(int(period), 1) for period in self.periods)
        if entries > max_entries:
            raise ValueError(
                f"Resonance.period_tables: {entries} entries, expected at most max_entries = {max_entries}"
            )
        return tables.period_tables(self.periods, dtype=dtype, attention_factor=self.attention_factor)

    def _tables(
        self, circle: Callable[..., Tables], positions: npt.ArrayLike, dtype: npt.DTypeLike, **options: Any
    ) -> Tables:
        return self.encoding._tables(circle, positions, dtype, **options)


def _whole(wavelengths: ExactArray) -> ExactArray:
    # A tie would need 2 pi times an algebraic number to be half a whole one: half-even or half-up is all the same.
    return np.array([w.to_integral_value(ROUND_HALF_EVEN) for w in wavelengths])
