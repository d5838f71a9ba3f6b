"""Which mistake, or which two or three together, makes the numbers that were seen.

Tables are complex, ``z = a (cos + i sin)``. A wrong function differs from the declared one along four axes: the
frequencies, what it takes for positions, the circle (sign, cos and sin swapped), the amplitude. The search goes through
the product of the axes and takes the smallest number of mistakes that explains every entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from refrope import precision
from refrope.conformance import axes
from refrope.conformance.fitting import Measured, bases, factors, fitted_base, fitted_factor
from refrope.conformance.formulas import FloatArray, Slip, again_as, as_slip
from refrope.conformance.frequencies import of_another_width, slips
from refrope.conformance.lengths import length_slips
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
from refrope.encodings import FoPE, Llama3, RotaryEncoding, XPos, YaRN


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong: a name for machines, words that complete "It looks like"."""

    name: str
    words: str


def diagnose(parts: list[Part], declared: RotaryEncoding, dtype: str, role: str) -> list[Mistake] | None:
    """The smallest set of mistakes that explains `parts`, which are not as declared; None where nothing known does.

    It is empty where another number of pairs turns, and these as they should.
    """
    found = _search(parts, declared, dtype, role)
    if found is not None:
        return found
    if dtype != "bfloat16" and _in_16_bits(parts):
        found = _search(parts, declared, "bfloat16", role)
        return None if found is None else [*found, Mistake("tables-16-bits", "tables rounded to 16 bits")]
    return _with_another_argument(parts, declared, dtype, role)


def _with_another_argument(parts: list[Part], declared: RotaryEncoding, dtype: str, role: str) -> list[Mistake] | None:
    """The base that the fast pairs show, or the factor that the slow ones do, and what is wrong beside it."""
    inner, again = declared.innermost, again_as(declared)
    for measured in _measured(parts[0]):
        base, factor = fitted_base(inner, measured.inv_freq), fitted_factor(inner, measured.inv_freq)
        others = list(bases(inner, again, [float(f"{base:.2g}")])) if base is not None else []
        if factor is not None and isinstance(inner, (YaRN, Llama3)):
            others += factors(inner, again, [float(f"{factor:.2g}")])
        for name, words, make in others:
            found = _search(parts, make(), dtype, role, most=2)
            if found:
                return [Mistake(name, words), *found]
    return None


def _in_16_bits(parts: list[Part]) -> bool:
    """Whether the tables hold nothing but numbers of bfloat16, or of float16."""
    values = np.concatenate([part.z.view(np.float64).ravel() for part in parts])
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return bool((precision.round_to_bfloat16(values) == values).all() or (half == values).all())


def _search(
    parts: list[Part], declared: RotaryEncoding, dtype: str, role: str, *, most: int = 3
) -> list[Mistake] | None:
    pipeline = _pipeline_mistake(parts, declared, dtype)
    if pipeline is not None:
        return [pipeline]
    single = parts[0] if not depends_on_length(declared) else None
    frequencies = [_Family.of(declared, as_slip(declared) if single else None)]
    frequencies += _families(declared, parts, role)
    frequencies = [f for f in frequencies if f.pairs == parts[0].z.shape[1]]
    turned = [_weighed(family, place) for family in frequencies for place in axes.places(declared)]
    amplitudes = axes.amplitudes(declared, _amplitude(parts, declared, dtype))
    changed: dict[int, list[_Weighed]] = {}
    for circle in axes.circles(declared, role):
        for amplitude in amplitudes:
            weighed = _weighed(circle, amplitude)
            changed.setdefault(weighed.mistakes, []).append(weighed)
    own = {family: family.at(parts[0]).amplitude for family in frequencies}
    # Tables at a few positions, which refuse nearly everything.
    few: dict[int, tuple[ComplexArray, FloatArray, float]] = {}
    rows = _thin(len(parts[0].positions))
    levels = [(1, True), (1, False), (2, True), (2, False), (3, True)][: 2 * most - 1]
    if parts[0].z.shape[1] != declared.pairs:
        levels = [(0, True), *levels]
    for count, likely in levels:
        for number, (first, already, sure) in enumerate(turned):
            for second, _, sure_too in changed.get(count - already, ()):
                if (sure and sure_too) != likely:
                    continue
                if second[1].note and own[first[0]] == declared.attention_factor:
                    continue  # the same as without
                if number not in few:
                    few[number] = _tables_and_bounds(parts[0], rows, dtype, role, *first)
                if not _explains(parts[0], rows, *few[number], *second):
                    continue
                if all(
                    _explains(part, slice(None), *_tables_and_bounds(part, slice(None), dtype, role, *first), *second)
                    for part in parts
                ):
                    names = [Mistake(each.name, each.words) for each in (*first, *second) if each.name]
                    if second[1].note:
                        names[0] = Mistake(names[0].name, names[0].words + second[1].note)
                    return names
    return None


class _Weighed(NamedTuple):
    """Two changes, how many of them are mistakes, and whether all are likely."""

    changes: tuple[Any, Any]
    mistakes: int
    likely: bool


def _weighed(one: _Family | axes.Change, two: axes.Change) -> _Weighed:
    return _Weighed((one, two), bool(one.name) + bool(two.name), one.likely and two.likely)


def _amplitude(parts: list[Part], declared: RotaryEncoding, dtype: str) -> float | None:
    """The amplitude that all entries have; None where they differ or it is the declared one."""
    size = np.concatenate([np.abs(part.z).ravel() for part in parts])
    middle = float(np.median(size))
    same = middle > 0 and np.abs(size / middle - 1).max() <= 4 * TABLE_ROUNDING[dtype]
    return middle if same and abs(middle / declared.attention_factor - 1) > 4 * TABLE_ROUNDING[dtype] else None


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
            made = cache(lambda length: as_slip(declared.for_length(length)))
            return cls("", "", declared.pairs, lambda part: made(part.length))
        return cls(slip.name, slip.words, len(slip.inv_freq), lambda part: slip)


def _families(declared: RotaryEncoding, parts: list[Part], role: str) -> list[_Family]:
    if parts[0].z.shape[1] != declared.pairs:
        at = declared if not depends_on_length(declared) else declared.for_length(parts[0].length)
        return [_Family.of(declared, slip) for slip in of_another_width(at, parts[0].z.shape[1])] + [
            _Family.of(declared, slip) for slip in slips(at)
        ]
    measured = _measured(parts[0])
    if not depends_on_length(declared):
        return [_Family.of(declared, slip) for slip in slips(declared, measured, role)]
    found = [_Family(name, words, declared.pairs, at) for name, words, at in length_slips(declared, parts)]
    lengths = sorted({part.length for part in parts})
    made = {n: {(slip.name, slip.words): slip for slip in slips(declared.for_length(n))} for n in lengths}
    for slip in slips(declared.for_length(lengths[0]), measured):
        found.append(_Family.of(declared, slip))
        found.append(_Family(slip.name, slip.words, len(slip.inv_freq), partial(_same, made, slip)))
    return found


def _measured(part: Part) -> list[Measured]:
    """Frequencies from all positions, and from those below 256 where they differ: there no position is rounded."""
    found: list[Measured] = []
    for end in (2**62, 256):
        few = part.positions < end
        inv_freq = measured_frequencies(Part(part.length, part.longest, part.positions[few], part.z[few]))
        if inv_freq is not None and not (found and np.allclose(inv_freq, found[0].inv_freq, rtol=1e-3)):
            found.append(Measured(inv_freq, part.positions[few], part.z[few]))
    return found


def _same(made: dict[int, dict[tuple[str, str], Slip]], slip: Slip, part: Part) -> Slip:
    """The same slip, made at another length."""
    return made[part.length].get((slip.name, slip.words), slip)


def _tables_and_bounds(
    part: Part, rows: slice, dtype: str, role: str, family: _Family, place: axes.Change
) -> tuple[ComplexArray, FloatArray, float]:
    """What frequencies and positions give at some rows of a call, and how far it may be off there, for amplitude 1."""
    slip = family.at(part)
    places = place.apply(part.positions[rows].astype(np.float64))
    roundings = ANGLE_ROUNDINGS + RECURRENCE_ROUNDING * np.arange(len(slip.inv_freq))
    bound = np.abs(places)[:, None] * slip.inv_freq * roundings * 2 + TABLE_ROUNDING[dtype] * 2
    return _slip_tables(slip, places, role), bound, slip.amplitude


def _explains(
    part: Part,
    rows: slice,
    z: ComplexArray,
    bound: FloatArray,
    own: float,
    circle: axes.Change,
    amplitude: axes.Change,
) -> bool:
    with np.errstate(all="ignore"):  # amplitudes of xPos
        changed = circle.apply(amplitude.apply(z, own))
    return fits(part.z[rows], changed, bound * np.maximum(np.abs(changed), 1e-30))


def _thin(rows: int) -> slice:
    return slice(1, rows, max(rows // 5, 1))


def _slip_tables(slip: Slip, places: FloatArray, role: str) -> ComplexArray:
    if slip.encoding is not None and isinstance(slip.encoding.innermost, (XPos, FoPE)):
        options = {"role": role} if isinstance(slip.encoding.innermost, XPos) else {}
        try:
            cos, sin = slip.encoding.cos_sin(places, np.float64, **options)
        except ValueError:  # positions or amplitudes that it has no tables for
            return np.full((len(places), len(slip.inv_freq)), np.nan, np.complex128)
        return cos + 1j * sin
    result: ComplexArray = np.exp(1j * places[:, None] * slip.inv_freq)
    return result


def _pipeline_mistake(parts: list[Part], declared: RotaryEncoding, dtype: str) -> Mistake | None:
    """A 16-bit stage where nobody declared one."""
    if depends_on_length(declared) or isinstance(declared.innermost, (XPos, FoPE)):
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
