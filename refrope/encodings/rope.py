"""Plain rotary position embedding."""

from __future__ import annotations

from dataclasses import dataclass

from refrope.encodings.base import RotaryEncoding


@dataclass(frozen=True)
class RoPE(RotaryEncoding):
    r"""Rotary position embedding: pair j turns by ``position * base**(-2j/d)``.

    A larger `base` with otherwise the same formula is what the field calls ABF (adjusted base frequency; Xiong et al.
    2023, arXiv:2309.16039). With `rotary_dim` only that many features of a head turn, and d is that number.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, Section 3.2.2.
    """
