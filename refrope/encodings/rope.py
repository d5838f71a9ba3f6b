"""Plain rotary position embedding."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from refrope.encodings.base import ExactArray, RotaryEncoding, exact
from refrope.errors import check_number


@dataclass(frozen=True)
class RoPE(RotaryEncoding):
    r"""Rotary position embedding: pair j turns by ``position * base**(-2j/d)``.

    A larger `base` with otherwise the same formula is what the field calls ABF (adjusted base frequency; Xiong et al.
    2023, arXiv:2309.16039). With `rotary_dim` only that many features of a head turn, and d is that number: the first
    ones (GPT-J, GPT-NeoX), or with ``rotate(..., suffix=True)`` the last (DeepSeek's latent attention).

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, Section 3.2.2.
    """


@dataclass(frozen=True)
class ProportionalRoPE(RotaryEncoding):
    r"""p-RoPE: the fastest share of the pairs turns, with exponents over the whole head; the others stand still.

    Not the same as ``RoPE(rotary_dim=...)``, which squeezes all frequencies into the features that turn.

    Parameters
    ----------
    proportion : float in [0, 1]
        ``floor(proportion * head_dim / 2)`` pairs turn; the product is a float64's, as in the code below.
    factor : float >= 1
        Divides all frequencies.

    References
    ----------
    Barbero et al. 2024, arXiv:2410.06205 (p-RoPE); transformers 5.23, rope_type "proportional" (Gemma 4). With
    `rotary_dim`, which neither has, that number takes the place of head_dim.
    """

    proportion: float = 1.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._check_factor(self.factor)
        if check_number(self.name, "proportion", self.proportion, "a number in [0, 1]", 0.0) > 1:
            raise ValueError(f"{self.name}: proportion is {self.proportion!r}, expected a number in [0, 1]")

    def exact_stretch(self) -> ExactArray:
        """`factor` for pairs that turn, infinite for those that stand still."""
        turning = int(self.proportion * self.turned // 2)
        still = self.pairs - turning
        return np.array([exact(self.factor)] * turning + [Decimal("Infinity")] * still)
