"""The scaling of Llama 3.1: YaRN's turn ramp from 1 to 4 turns, without a temperature."""

from __future__ import annotations

from dataclasses import dataclass

from refrope.encodings.base import ExactArray, RotaryEncoding, exact
from refrope.encodings.ramps import turn_ramp
from refrope.errors import check_integer, check_number


@dataclass(frozen=True)
class Llama3(RotaryEncoding):
    r"""Llama 3.1: long wavelengths are interpolated, short ones kept, frequencies blended between.

    With t = L / wavelength, the turns within L: above `high_freq_factor` a pair is kept, below `low_freq_factor` it is
    slowed down by `factor`, and between them its frequency is ``((1 - g) / factor + g) * plain``, where
    ``g = (t - low) / (high - low)``. That is YaRN as its paper prints it, from `high_freq_factor` to `low_freq_factor`
    turns, without the temperature: ``YaRN(ramp="turns", beta_fast=high, beta_slow=low, attention_factor=1.0)``.

    Parameters
    ----------
    factor : float >= 1; 8 for Llama 3.1, 32 for Llama 3.2
    original_length : int, L in tokens
    low_freq_factor, high_freq_factor : float, 0 < low <= high; equal values make a step

    References
    ----------
    meta-llama/llama-models, `apply_scaling`; transformers 5.23, `_compute_llama3_parameters`.
    """

    base: float = 500_000.0
    factor: float = 8.0
    original_length: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._check_factor(self.factor)
        check_integer(self.name, "original_length", self.original_length, 1)
        low = check_number(self.name, "low_freq_factor", self.low_freq_factor, "a finite number > 0", 0.0, above=True)
        check_number(self.name, "high_freq_factor", self.high_freq_factor, f"a finite number >= {low}", low)

    def exact_stretch(self) -> ExactArray:
        """``1 / ((1 - g) / factor + g)``."""
        kept = turn_ramp(self, self.original_length, self.high_freq_factor, self.low_freq_factor)
        stretch: ExactArray = 1 / ((1 - kept) / exact(self.factor) + kept)
        return stretch
