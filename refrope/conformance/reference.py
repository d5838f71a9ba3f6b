"""What right functions return, how far they may be off, and whose rounding they show."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from refrope import precision
from refrope.conformance.formulas import FloatArray
from refrope.conformance.structures import ComplexArray, IntArray, Part
from refrope.encodings import FoPE, RotaryEncoding, XPos

# An angle that went through float32: theta, position and product are rounded, powf and recurrences from pair to pair
# add a few roundings more. Beside it what cos, sin and the rotation round.
ANGLE_ROUNDINGS = 12 * 2.0**-24
RECURRENCE_ROUNDING = 2.0**-24
TABLE_ROUNDING = {"float64": 4e-6, "float32": 4e-6, "float16": 3e-3, "bfloat16": 2.2e-2}
NO_INFORMATION = 0.4  # a bound above this says nothing about where on its circle a pair is


def tables(encoding: RotaryEncoding, positions: IntArray, role: str = "q") -> ComplexArray:
    """``a (cos + i sin)`` of an encoding at integer positions, complex128 (n, pairs), as exact as float64 holds it."""
    inner = encoding.innermost
    if isinstance(inner, (XPos, FoPE)):
        options = {"role": role} if isinstance(inner, XPos) else {}
        cos, sin = encoding.cos_sin(positions, np.float64, **options)
    else:
        cos, sin = (encoding.attention_factor * t for t in precision.exact_cos_sin(encoding, positions))
    return cos + 1j * sin


def bounds(encoding: RotaryEncoding, part: Part, dtype: str, wanted: ComplexArray) -> FloatArray:
    """How far a right function may be from `wanted`, (n, pairs): see ANGLE_ROUNDINGS and TABLE_ROUNDING."""
    roundings = ANGLE_ROUNDINGS + RECURRENCE_ROUNDING * np.arange(encoding.pairs)
    angle = np.abs(part.positions)[:, None] * encoding.inv_freq * roundings
    result: FloatArray = (angle + TABLE_ROUNDING[dtype]) * np.maximum(np.abs(wanted), 1e-30)
    return result


def fits(found: ComplexArray, wanted: ComplexArray, bound: FloatArray) -> bool:
    """Whether every entry whose bound says something is within it; never where `wanted` could not be worked out."""
    telling = bound < NO_INFORMATION * np.abs(wanted)
    return bool(np.isfinite(wanted).all() and (np.abs(found - wanted)[telling] <= bound[telling]).all())


def pipeline(part: Part, declared: RotaryEncoding, dtype: str) -> str | None:
    """Which pipeline of `refrope.precision` tables behave like; None where that says nothing.

    The one whose own tables are nearest, where they explain most of the error. An engine's powf or cos may differ from
    the pipeline's in a last place, and then its errors are others, of the same size: the pipeline whose errors grow
    most alike counts.
    """
    if isinstance(declared.innermost, (XPos, FoPE)):
        return None
    exact = tables(declared, part.positions)
    seen = np.abs(part.z - exact)
    size = float(np.sqrt(np.mean(seen**2)))
    nearest, alike = {}, {}
    for name in _pipelines(dtype):
        try:
            cos, sin = precision.pipeline_cos_sin(declared, part.positions, name)
        except ValueError:  # not every pipeline exists for every encoding
            continue
        z = declared.attention_factor * (cos.astype(np.float64) + 1j * sin)
        nearest[name] = float(np.sqrt(np.mean(np.abs(part.z - z) ** 2)))
        alike[name] = float(np.abs(_growth(part, seen) - _growth(part, np.abs(z - exact))).mean())
    best = min(nearest, key=nearest.__getitem__)
    if nearest[best] < 0.5 * size or nearest[best] < TABLE_ROUNDING["float64"] / 8:
        # The earlier name where two are as near.
        return next(name for name in nearest if nearest[name] <= 1.4 * nearest[best])
    return min(alike, key=alike.__getitem__)


def _pipelines(dtype: str) -> list[str]:
    if dtype.endswith("float16"):
        return [f"{dtype}-table"]  # whatever came before, that is what is seen
    # float64 throughout is the same as refrope's once it is rounded.
    return [n for n in precision.PIPELINES if "float16" not in n and (n != "float64" or dtype == "float64")]


def _growth(part: Part, off: FloatArray) -> FloatArray:
    """Logarithms of the root mean square error in bands of positions; errors below a rounding's size count as that."""
    ends = [1, 128, 4096, 32_768, 2**62]
    bands = [off[(part.positions >= low) & (part.positions < high)] for low, high in pairwise(ends)]
    return np.log([max(float(np.sqrt(np.mean(band**2))), 2.0**-24) for band in bands if band.size])


def measured_frequencies(part: Part) -> FloatArray | None:
    """Radians per token of every pair, (pairs,), followed from position 1 up; None where positions do not allow it."""
    order = np.argsort(part.positions)
    positions, phase = part.positions[order], np.angle(part.z[order])
    keep = positions >= 1
    positions, phase = positions[keep], phase[keep]
    if not len(positions) or positions[0] != 1:
        return None
    sign = np.sign(np.sum(phase[0])) or 1.0
    phase = phase * sign
    frequency = np.mod(phase[0], 2 * np.pi)
    error = 1e-2
    for position, row in zip(positions[1:], phase[1:], strict=True):
        if position * error > 1.0:
            break
        off = np.angle(np.exp(1j * (row - position * frequency)))
        frequency = frequency + off / position
        error = min(error, 3e-2 / position)
    result: FloatArray = np.abs(frequency)
    return result
