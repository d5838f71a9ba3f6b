"""Arguments of any value, worked out from what a function gave: base, factor, amplitudes of xPos."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refrope.conformance.formulas import Again, FloatArray, Make
from refrope.conformance.structures import ComplexArray, IntArray
from refrope.encodings import (
    DynamicNTK,
    LinearPI,
    Llama3,
    NTKAware,
    ProportionalRoPE,
    RotaryEncoding,
    XPos,
    YaRN,
)

UNUSUAL_BASES = (100.0, 500.0, 1_000.0)


class Measured(NamedTuple):
    """What was read off a function.

    Attributes
    ----------
    inv_freq : (pairs,) float64, radians per token
    positions : (n,) int64
    z : (n, pairs) complex128
        Its tables there; no rows where only frequencies are known.
    """

    inv_freq: FloatArray
    positions: IntArray
    z: ComplexArray


def replaced(inner: RotaryEncoding, again: Again, **what: Any) -> RotaryEncoding:
    """The encoding with other arguments."""
    return again(replace(inner, **what))


def bases(inner: RotaryEncoding, again: Again, values: Sequence[float]) -> Iterator[Make]:
    """Other bases."""
    for base in values:
        if base != inner.base and base > 1:
            words = f"base {base:.12g} instead of {inner.base:.12g}"
            yield "base", words, partial(replaced, inner, again, base=base)


def fitted(inner: RotaryEncoding, again: Again, measured: Measured, role: str) -> Iterator[Make]:
    """Round values before those with all their digits, where two arguments would explain the same numbers."""
    found = measured.inv_freq
    if len(found) != inner.pairs:
        return
    base, factor = fitted_base(inner, found), fitted_factor(inner, found)
    for digits in ((2,), (3,), (4, 5, 6, 7)):
        if base is not None:
            yield from bases(inner, again, [*(float(f"{base:.{n}g}") for n in digits), *UNUSUAL_BASES])
        if factor is not None:
            yield from factors(inner, again, [float(f"{factor:.{n}g}") for n in digits])
    if isinstance(inner, ProportionalRoPE):
        turning = int(np.count_nonzero(found))
        words = f"{turning} of {inner.pairs} pairs turn, where {int(inner.proportion * inner.turned // 2)} should"
        yield "proportion", words, partial(replaced, inner, again, proportion=turning / inner.pairs)
    if isinstance(inner, XPos) and len(measured.z) > 2:
        yield from _xpos(inner, again, measured, role)


def fitted_base(inner: RotaryEncoding, found: FloatArray) -> float | None:
    """The base that explains pair 1, if its stretch is as declared."""
    if inner.pairs < 2 or len(found) != inner.pairs or inner.stretch is None:
        return None
    plain = found * np.where(np.isfinite(inner.stretch), inner.stretch, 0.0)
    if not 0 < plain[1] < 1:
        return None
    rough = float(plain[1] ** (-inner.turned / 2))
    # The slowest pair that it explains, too, says it with more digits.
    exponents = 2 * np.arange(inner.pairs) / inner.turned
    with np.errstate(over="ignore"):
        near = np.flatnonzero(np.abs(plain * rough**exponents - 1) < 1e-4 * np.maximum(1.0, inner.turned * exponents))
    last = int(near[-1]) if len(near) and near[-1] > 0 else 1
    base = float(plain[last] ** (-1 / exponents[last])) if plain[last] > 0 else rough
    return base if 1 < base < 1e12 else None


def fitted_factor(inner: RotaryEncoding, found: FloatArray) -> float | None:
    """How much slower than in plain RoPE the slowest pair turns: the factor of most variants."""
    turning = np.flatnonzero(found)
    if not len(turning) or inner.stretch is None:
        return None
    last = int(turning[-1])
    stretch = float(inner.base ** (-2 * last / inner.turned) / found[last])
    return stretch if 0.01 < stretch < 1e6 else None


def factors(inner: RotaryEncoding, again: Again, stretches: list[float]) -> Iterator[Make]:
    """What slows the slowest pair down so much."""
    for stretch in stretches:
        if isinstance(inner, DynamicNTK) and inner.dialect == "hf":
            length = round((stretch + inner.factor - 1) * inner.original_length / inner.factor)
            if inner.original_length < length < 2**40:
                words = f"dynamic NTK stuck at an earlier length: the base for {length} tokens"
                yield "stuck-length", words, partial(replaced, inner, again, length=length)
        elif isinstance(inner, (LinearPI, NTKAware, YaRN, Llama3, ProportionalRoPE)) and stretch != inner.factor:
            words = f"factor {stretch:g} instead of {inner.factor:g}"
            yield "factor", words, partial(replaced, inner, again, factor=stretch, lenient=True)


def _xpos(inner: XPos, again: Again, measured: Measured, role: str) -> Iterator[Make]:
    """Each of its arguments, from how the amplitude of pair 0 grows: zeta**(+-(m - centre) / scale_base)."""
    size = np.abs(measured.z[:, 0])
    if not (size > 0).all() or not np.ptp(measured.positions):
        return
    slope, start = np.polyfit(measured.positions.astype(np.float64), np.log(size), 1) * (1 if role == "q" else -1)
    if not slope < 0:
        return
    zeta = math.exp(max(slope * inner.scale_base, -50.0))
    values = {
        "centre": round(-2 * start / slope) / 2,
        "gamma": float(f"{zeta / (1 - zeta):.3g}"),
        "scale_base": float(f"{math.log(inner.zeta[0]) / slope:.4g}"),
    }
    for name, value in values.items():
        words = f"xPos with {name} {value:g}, not {getattr(inner, name):g}"
        yield name.replace("_", "-"), words, partial(replaced, inner, again, **{name: value})
