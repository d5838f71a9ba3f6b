"""Which mistake, or which two or three together, makes the numbers that were seen.

Tables are complex, ``z = a (cos + i sin)``. A wrong function differs from the declared one along four axes: the
frequencies, what it takes for positions, the circle (sign, cos and sin swapped), the amplitude. The search goes through
the product of the axes and takes the smallest number of mistakes that explains every entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from refrope import precision
from refrope.conformance import axes
from refrope.conformance.formulas import FloatArray, Slip, as_slip, innermost
from refrope.conformance.frequencies import slips
from refrope.conformance.probing import depends_on_length
from refrope.conformance.reference import (
    ANGLE_ROUNDINGS,
    NO_INFORMATION,
    RECURRENCE_ROUNDING,
    TABLE_ROUNDING,
    bounds,
    fits,
    measured_frequencies,
)
from refrope.conformance.structures import ComplexArray, Part
from refrope.encodings import FoPE, RotaryEncoding, XPos


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong: a name for machines, words that complete "It looks like"."""

    name: str
    words: str


def diagnose(parts: list[Part], declared: RotaryEncoding, dtype: str, role: str) -> list[Mistake]:
    """The smallest set of mistakes that explains `parts`; empty where nothing known does."""
    found = _search(parts, declared, dtype, role)
    if found or dtype == "bfloat16" or not _in_16_bits(parts):
        return found
    found = _search(parts, declared, "bfloat16", role)
    return [*found, Mistake("tables-16-bits", "tables rounded to 16 bits")] if found else []


def _in_16_bits(parts: list[Part]) -> bool:
    """Whether the tables hold nothing but numbers of bfloat16, or of float16."""
    values = np.concatenate([part.z.view(np.float64).ravel() for part in parts])
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return bool((precision.round_to_bfloat16(values) == values).all() or (half == values).all())


def _search(parts: list[Part], declared: RotaryEncoding, dtype: str, role: str) -> list[Mistake]:
    pipeline = _pipeline_mistake(parts, declared, dtype)
    if pipeline is not None:
        return [pipeline]
    single = parts[0] if not depends_on_length(declared) else None
    frequencies = [_Family.of(declared, as_slip(declared) if single else None)]
    frequencies += _families(declared, parts)
    frequencies = [f for f in frequencies if f.pairs == parts[0].z.shape[1]]
    turned = [(family, place) for family in frequencies for place in axes.places(declared)]
    changed = [(circle, amplitude) for circle in axes.CIRCLES for amplitude in axes.amplitudes(declared)]
    few: dict[int, tuple[ComplexArray, FloatArray]] = {}  # tables at a few positions, which refuse nearly everything
    rows = _thin(len(parts[0].positions))
    for count, likely in ((1, True), (1, False), (2, True), (2, False), (3, True)):
        for number, first in enumerate(turned):
            rest = count - _count(first)
            for second in changed:
                if _count(second) != rest or all(each.likely for each in (*first, *second)) != likely:
                    continue
                if number not in few:
                    few[number] = _tables_and_bounds(parts[0], rows, dtype, role, *first)
                if all(
                    _explains(
                        part,
                        each,
                        *(few[number] if each is rows else _tables_and_bounds(part, each, dtype, role, *first)),
                        *second,
                    )
                    for part, each in [(parts[0], rows), *((part, slice(None)) for part in parts)]
                ):
                    return [Mistake(each.name, each.words) for each in (*first, *second) if each.name]
    return []


def _count(changes: Iterable[_Family | axes.Change]) -> int:
    return sum(bool(each.name) for each in changes)


@dataclass(frozen=True, eq=False)
class _Family:
    """Frequencies for every length of a call: one set for all, or an encoding that depends on it."""

    name: str
    words: str
    pairs: int
    at: Callable[[Part], Slip]
    likely: bool = True

    @classmethod
    def of(cls, declared: RotaryEncoding, slip: Slip | None) -> _Family:
        """The frequencies of `slip` at every length; without one, those that `declared` has at each."""
        if slip is None:
            return cls("", "", declared.pairs, lambda part: as_slip(declared.for_length(part.length)))
        return cls(slip.name, slip.words, len(slip.inv_freq), lambda part: slip)


def _families(declared: RotaryEncoding, parts: list[Part]) -> list[_Family]:
    if not depends_on_length(declared):
        measured = measured_frequencies(parts[0])
        return [_Family.of(declared, slip) for slip in slips(declared, measured)]
    found: list[_Family] = []
    lengths = sorted({part.length for part in parts})
    for length in lengths:
        name = innermost(declared).name
        words = f"{name} stuck at an earlier length: the frequencies for {length} tokens at every length"
        slip = as_slip(declared.for_length(length), "stuck-length", words)
        found.append(_Family.of(declared, slip))
    original = getattr(innermost(declared), "original_length", 0)

    states: list[tuple[str, str, Callable[[Part], int]]] = [
        (
            "switch-early",
            "the switch one token early: at the original length itself the form for longer sequences counts",
            lambda part: part.length + (part.length == original),
        ),
        (
            "remembers-longest",
            "the frequencies of the longest call so far: it remembers earlier calls",
            lambda part: part.longest,
        ),
        (
            "remembers-at-original",
            "the frequencies of an earlier, longer call, until one is shorter than the original length: at that length "
            "itself they depend on what came before",
            lambda part: part.longest if part.length >= original else part.length,
        ),
    ]
    for name, words, length_of in states:
        found.append(_Family(name, words, declared.pairs, partial(_in_force, declared, length_of)))
    made = {n: {(slip.name, slip.words): slip for slip in slips(declared.for_length(n), None)} for n in lengths}
    for slip in slips(declared.for_length(lengths[0]), measured_frequencies(parts[0])):
        found.append(_Family.of(declared, slip))
        if slip.encoding is not None:
            found.append(_Family(slip.name, slip.words, len(slip.inv_freq), partial(_same, made, slip)))
    return found


def _in_force(declared: RotaryEncoding, length_of: Callable[[Part], int], part: Part) -> Slip:
    return as_slip(declared.for_length(length_of(part)))


def _same(made: dict[int, dict[tuple[str, str], Slip]], slip: Slip, part: Part) -> Slip:
    """The same slip, made at another length."""
    return made[part.length].get((slip.name, slip.words), slip)


def _tables_and_bounds(
    part: Part, rows: slice, dtype: str, role: str, family: _Family, place: axes.Change
) -> tuple[ComplexArray, FloatArray]:
    """What frequencies and positions give at some rows of a call, and how far it may be off there for amplitude 1."""
    slip = family.at(part)
    places = place.apply(part.positions[rows].astype(np.float64))
    roundings = ANGLE_ROUNDINGS + RECURRENCE_ROUNDING * np.arange(len(slip.inv_freq))
    bound = np.abs(places)[:, None] * slip.inv_freq * roundings * 2 + TABLE_ROUNDING[dtype] * 2
    return _slip_tables(slip, places, role), bound


def _explains(
    part: Part, rows: slice, z: ComplexArray, bound: FloatArray, circle: axes.Change, amplitude: axes.Change
) -> bool:
    changed = amplitude.apply(circle.apply(z))
    return fits(part.z[rows], changed, bound * np.maximum(np.abs(changed), 1e-30))


def _thin(rows: int) -> slice:
    return slice(1, rows, max(rows // 5, 1))


def _slip_tables(slip: Slip, places: FloatArray, role: str) -> ComplexArray:
    if slip.encoding is not None and isinstance(innermost(slip.encoding), (XPos, FoPE)):
        options = {"role": role} if isinstance(innermost(slip.encoding), XPos) else {}
        try:
            cos, sin = slip.encoding.cos_sin(places, np.float64, **options)
        except ValueError:  # positions or amplitudes that it has no tables for
            return np.full((len(places), len(slip.inv_freq)), np.nan, np.complex128)
        return cos + 1j * sin
    result: ComplexArray = slip.amplitude * np.exp(1j * places[:, None] * slip.inv_freq)
    return result


def _pipeline_mistake(parts: list[Part], declared: RotaryEncoding, dtype: str) -> Mistake | None:
    """A 16-bit stage where nobody declared one."""
    if depends_on_length(declared) or isinstance(innermost(declared), (XPos, FoPE)):
        return None
    for name in precision.PIPELINES:
        if "float16" not in name or parts[0].z.shape[1] != declared.pairs:
            continue
        part = parts[0]
        cos, sin = precision.pipeline_cos_sin(declared, part.positions, name)
        z = declared.attention_factor * (cos.astype(np.float64) + 1j * sin)
        usable = np.isfinite(z)
        bound = bounds(declared, part, dtype, z)
        off = np.abs(part.z - z)
        telling = usable & (bound < NO_INFORMATION)
        # An engine's own cos and powf may tip a few entries over to the next number of the format.
        close = (off <= 2 * bound)[telling]
        if close.mean() > 0.95 and (off[telling] <= 2 * bound[telling] + 3e-2).all():
            kind, stage = name.split("-")
            words = {"theta": "frequencies", "position": "positions", "phase": "angles", "table": "tables"}[stage]
            return Mistake(f"{words}-{kind}", f"{words} in {kind}")
    return None
