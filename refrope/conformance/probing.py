"""Which positions are tried, and how: a call for each length that matters, or position by position where one raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from refrope.conformance.calling import CallError
from refrope.conformance.structures import ComplexArray, IntArray, Part, Structure
from refrope.encodings import RotaryEncoding

Tables = Callable[[IntArray], ComplexArray]
AGAIN = "the same call gives other numbers the second time: it remembers earlier calls, or is random"


@dataclass
class Observed:
    """All that was seen.

    Attributes
    ----------
    structure : Structure or None
        Of a rotation: which features it couples; None for tables.
    parts : list of Part
    problems : dict of str to str
        By kind: what is wrong whatever the numbers say.
    mistake : (name, words) or None
        A mistake that shows without a look at the numbers of the tables.
    """

    structure: Structure | None = None
    parts: list[Part] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    mistake: tuple[str, str] | None = None


def depends_on_length(encoding: RotaryEncoding) -> bool:
    """Whether the encoding differs between short and long sequences, and nobody has said which it is."""
    return encoding.for_length(1) != encoding.for_length(2**40) and getattr(encoding, "length", None) is None


def probes(encoding: RotaryEncoding, max_position: int) -> list[IntArray]:
    """The positions of each call: around the boundaries of lengths, and spread over the powers of two."""
    inside = encoding.innermost
    original: int = getattr(inside, "original_length", getattr(inside, "train_length", 4096))
    spread = [0, 1, 2, 3, 5, 7, 11, 1023, 2047, 4095, 4096, 4097, 65_537]
    spread += [original - 1, original, original + 1, 2 * original + 1]
    spread += [int(2 ** (k / 2)) + k for k in range(4, 40)]
    spread += [max_position - 1 - step for step in (0, 1, 2, 510, 1021, 9_871, 20_011)]

    def below(end: int) -> IntArray:
        return np.array(sorted({p for p in spread if 0 <= p < min(end, max_position)}), dtype=np.int64)

    if not depends_on_length(encoding):
        return [below(max_position)]
    short = original // 2 + 1
    ends = [short, original, original + 1, 2 * original, 4 * original, max_position, original, short]
    return [below(end) for end in ends if end <= max_position]


def collect(seen: Observed, tables: Tables, calls: list[IntArray]) -> None:
    """Fill `seen.parts`: one call each, or position by position where a call raises."""
    failed: list[tuple[int, str]] = []
    for positions in calls:
        try:
            z = tables(positions)
        except CallError as error:
            if error.kind != "raises":
                seen.problems[error.kind] = str(error)
                return
            before = len(failed)
            together, (positions, z) = len(positions), _one_by_one(tables, positions, failed)
            if len(failed) == before:
                seen.problems["raises"] = f"it raises for {together} positions at once, though not for each: {error}"
            if not len(positions):
                continue
        finite = np.isfinite(z).all(axis=1)
        if not finite.all():
            first = positions[int(np.argmin(finite))]
            seen.problems["nan"] = f"it returns NaN or infinite values, first at position {first}"
        length = int(positions[-1]) + 1
        longest = max([length, *(part.longest for part in seen.parts)])
        seen.parts.append(Part(length, longest, positions[finite], z[finite]))
    if failed:
        places = sorted({place for place, _ in failed})
        tried = len({int(place) for positions in calls for place in positions})
        first, said = min(failed)
        seen.problems["raises"] = f"it raises at {len(places)} of {tried} positions, the first {first}: {said}"
    elif seen.parts and not seen.problems:
        try:
            same = np.array_equal(tables(calls[0]), seen.parts[0].z)
        except CallError as error:
            seen.problems[error.kind] = f"the second time, {error}"
        else:
            if not same:
                seen.problems["stateful"] = AGAIN


def _one_by_one(tables: Tables, positions: IntArray, failed: list[tuple[int, str]]) -> tuple[IntArray, ComplexArray]:
    kept, rows = [], []
    for position in positions:
        try:
            # Twice the same position: some functions drop an axis of one row.
            rows.append(tables(np.array([position, position]))[0])
            kept.append(position)
        except CallError as error:
            if error.kind == "hangs":
                break
            failed.append((int(position), str(error)))
    return np.array(kept, dtype=np.int64), np.array(rows)
