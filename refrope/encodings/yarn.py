"""YaRN: slow pairs are interpolated, fast ones kept, and a ramp lies between; logits get a temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np

from refrope.encodings.base import PI, ExactArray, RotaryEncoding, exact, within_unit
from refrope.errors import check_integer, check_name, check_number

RAMPS = ("index", "turns")
BLENDS = ("frequency", "wavelength")


@dataclass(frozen=True)
class YaRN(RotaryEncoding):
    r"""YaRN, in both published ramps and both blends.

    A pair keeps the share g of its frequency and takes the share 1 - g of the interpolated one. g is 1 for pairs that
    make more than `beta_fast` turns within `original_length`, 0 for those that make fewer than `beta_slow`.

    Parameters
    ----------
    factor : float >= 1
        s, how many times longer the context becomes.
    original_length : int
        L, the length of training in tokens.
    beta_fast, beta_slow : float, beta_fast >= beta_slow >= 0
        Where the ramp begins and ends, in turns within L (the papers' beta and alpha).
    ramp : {"index", "turns"}
        "index" (default): g falls linearly over the pair index, between the two (real-valued) indices whose pairs make
        beta_fast and beta_slow turns. So does every code base that we read, and so does the code of YaRN's authors: it
        is what "YaRN" means in a model's configuration. "turns": g is linear in the number of turns
        L / wavelength, as the formulas of both papers say.
    blend : {"frequency", "wavelength"}
        What is mixed in the ramp. "frequency" (default), as in YaRN's paper and all code:
        ``inv_freq = ((1 - g) / s + g) * plain``. "wavelength", as the Resonance paper prints it:
        ``wavelength = ((1 - g) * s + g) * plain``.
    truncate : bool
        Index ramp only: round the ramp's ends outwards to whole indices (default, as in the authors' code).

    Notes
    -----
    cos and sin are multiplied by ``0.1 ln(s) + 1`` (`attention_factor`), logits so by its square.

    References
    ----------
    Peng et al. 2023, arXiv:2309.00071, Section 3.2 (ramp, blend) and 3.4 (temperature).
    Wang et al. 2024, arXiv:2403.00071, Section 3 and appendix, for the wavelength form.
    """

    factor: float = 4.0
    original_length: int = 2048
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    ramp: str = "index"
    blend: str = "frequency"
    truncate: bool = True

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_number(self.name, "factor", self.factor, "a finite number >= 1", 1.0)
        check_integer(self.name, "original_length", self.original_length, 1)
        check_number(self.name, "beta_slow", self.beta_slow, "a finite number > 0", 0.0, above=True)
        check_number(
            self.name, "beta_fast", self.beta_fast, f"a finite number >= beta_slow = {self.beta_slow}", self.beta_slow
        )
        check_name(self.name, "ramp", self.ramp, RAMPS)
        check_name(self.name, "blend", self.blend, BLENDS)

    @property
    def attention_factor(self) -> float:
        """``0.1 ln(factor) + 1``."""
        return 0.1 * math.log(self.factor) + 1.0

    def exact_stretch(self) -> ExactArray:
        """``1 / ((1 - g) / s + g)``, or ``(1 - g) s + g`` with the wavelength blend."""
        kept, factor = self.kept_share(), exact(self.factor)
        if self.blend == "wavelength":
            stretch: ExactArray = (1 - kept) * factor + kept
        else:
            stretch = 1 / ((1 - kept) / factor + kept)
        return stretch

    def kept_share(self) -> ExactArray:
        """The share g of its own frequency that each pair keeps, (pairs,) decimals in [0, 1]."""
        if self.ramp == "turns":
            turns = self.original_length * self.plain_inv_freq() / (2 * PI)
            slow, fast = exact(self.beta_slow), exact(self.beta_fast)
            if fast == slow:  # the ramp is a step
                return np.array([Decimal(int(t > slow)) for t in turns])
            return within_unit((turns - slow) / (fast - slow))
        low, high = self._index_with_turns(self.beta_fast), self._index_with_turns(self.beta_slow)
        if self.truncate:
            low, high = low.to_integral_value(ROUND_FLOOR), high.to_integral_value(ROUND_CEILING)
        low, high = max(low, Decimal(0)), min(high, Decimal(self.turned - 1))
        if low == high:
            high += Decimal("0.001")  # the authors' code, so that a step does not divide by zero
        index = np.array([Decimal(j) for j in range(self.pairs)])
        kept: ExactArray = 1 - within_unit((index - low) / (high - low))
        return kept

    def _index_with_turns(self, turns: float) -> Decimal:
        """The real-valued pair index whose pair makes `turns` turns within the original length."""
        length_per_turn = self.original_length / (2 * PI * exact(turns))
        return self.turned * length_per_turn.ln() / (2 * exact(self.base).ln())
