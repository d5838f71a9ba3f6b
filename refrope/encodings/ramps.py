"""The two ramps between pairs that keep their frequency and pairs that are interpolated.

Both are measured in turns: how often a pair of plain RoPE comes round within a length L. They differ in what they are
linear in, and between the same ends they give different frequencies.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np

from refrope.encodings.base import PI, ExactArray, RotaryEncoding, exact, within_unit


def turn_ramp(encoding: RotaryEncoding, length: int, beta_fast: float, beta_slow: float) -> ExactArray:
    """The share that each pair keeps, linear in its turns within `length`: 0 at beta_slow turns, 1 at beta_fast.

    Peng et al. 2023, arXiv:2309.00071, Section 3.2; Llama 3.1 with 4 and 1 turns.
    """
    slow, fast = exact(beta_slow), exact(beta_fast)
    turns = length * encoding.plain_inv_freq() / (2 * PI)
    if fast == slow:  # the ramp is a step
        return np.array([Decimal(int(t > slow)) for t in turns])
    return within_unit((turns - slow) / (fast - slow))


def index_ramp(
    encoding: RotaryEncoding, length: int, beta_fast: float, beta_slow: float, *, truncate: bool = True
) -> ExactArray:
    """The share that each pair keeps, linear in its index: 1 at the one with beta_fast turns, 0 at that with beta_slow.

    With `truncate` both ends are first rounded outwards to whole indices, as in the code of YaRN's authors
    (jquesnelle/yarn at commit 995db5b5) and in most code that follows it. As there, when no pair makes beta_slow turns
    (a length of a few tokens), the ends change sides and every pair is kept.
    """
    low, high = (index_with_turns(encoding, length, turns) for turns in (beta_fast, beta_slow))
    if truncate:
        low, high = low.to_integral_value(ROUND_FLOOR), high.to_integral_value(ROUND_CEILING)
    low, high = max(low, Decimal(0)), min(high, Decimal(encoding.turned - 1))
    if low == high:
        high += Decimal("0.001")  # that code's way not to divide by zero
    index = np.array([Decimal(j) for j in range(encoding.pairs)])
    share: ExactArray = 1 - within_unit((index - low) / (high - low))
    return share


def index_with_turns(encoding: RotaryEncoding, length: int, turns: float) -> Decimal:
    """The real-valued pair index whose pair makes `turns` turns within `length` tokens."""
    return encoding.turned * (length / (2 * PI * exact(turns))).ln() / (2 * exact(encoding.base).ln())
