"""Which features a rotation couples, read off the matrices that a function applies.

A function that turns pairs of features is a matrix at each position. Layouts, partial rotation and the usual slips in
putting a rotation together differ in where that matrix may have entries and which of them are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refrope.rotary import LAYOUTS, pair_slices

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]
IntArray = npt.NDArray[np.int64]


@dataclass
class Part:
    """The tables of one call: every position in it, its length, and that of the longest call up to it."""

    length: int
    longest: int
    positions: IntArray
    z: ComplexArray


@dataclass(frozen=True, eq=False)
class Structure:
    """How the outputs of a rotation are put together from its inputs and tables.

    Output ``out[0][j]`` is ``x[into[0][j]] cos[table[0][j]] - x[into[1][j]] sin[table[0][j]]`` and output ``out[1][j]``
    is ``x[into[1][j]] cos[table[1][j]] + x[into[0][j]] sin[table[1][j]]``, with the minus a plus where `hyperbolic`.
    All other features are left as they are.
    """

    name: str
    words: str
    into: IntArray  # (2, pairs)
    out: IntArray  # (2, pairs)
    table: IntArray  # (2, pairs)
    hyperbolic: bool = False

    @property
    def pairs(self) -> int:
        """How many pairs turn."""
        return int(self.into.shape[1])

    def matrices(self, z: ComplexArray, features: int) -> FloatArray:
        """(n, features, features) matrices M with ``y = M x``, from ``z = cos + i sin`` (n, pairs)."""
        result = np.zeros((len(z), features, features))
        rest = np.setdiff1d(np.arange(features), self.into)
        result[:, rest, rest] = 1.0
        for member, sign in ((0, 1.0 if self.hyperbolic else -1.0), (1, 1.0)):
            own, other = self.into[member], self.into[1 - member]
            result[:, self.out[member], own] = z.real[:, self.table[member]]
            result[:, self.out[member], other] = sign * z.imag[:, self.table[member]]
        return result

    def read(self, matrices: FloatArray) -> tuple[ComplexArray, float]:
        """The tables that fit `matrices` (n, D, D) best, complex (n, pairs), and the largest entry left over."""
        z = np.zeros((len(matrices), self.pairs), np.complex128)
        count = np.zeros(self.pairs)
        for member, sign in ((0, 1.0 if self.hyperbolic else -1.0), (1, 1.0)):
            own, other = self.into[member], self.into[1 - member]
            cos = matrices[:, self.out[member], own]
            sin = sign * matrices[:, self.out[member], other]
            for column, entry in enumerate(self.table[member]):
                z[:, entry] += cos[:, column] + 1j * sin[:, column]
                count[entry] += 1
        z /= np.maximum(count, 1.0)
        return z, float(np.abs(matrices - self.matrices(z, matrices.shape[1])).max())

    def units(self, features: int) -> list[FloatArray]:
        """Inputs (features,) whose outputs are cos and sin themselves: all pairs (1, 0), and (0, 1) where needed."""
        members = (0,) if (self.table[0] == self.table[1]).all() else (0, 1)
        inputs = [np.zeros(features) for _ in members]
        for x, member in zip(inputs, members, strict=True):
            x[self.into[member]] = 1.0
        return inputs

    def tables(self, outputs: list[FloatArray]) -> ComplexArray:
        """``cos + i sin`` (n, pairs) from the outputs (n, features) for each of `units`."""
        z = np.zeros((len(outputs[0]), self.pairs), np.complex128)
        for member, y in enumerate(outputs):
            sign = 1.0 if member == 0 or self.hyperbolic else -1.0
            z.real[:, self.table[member]] = y[:, self.out[member]]
            z.imag[:, self.table[1 - member]] = sign * y[:, self.out[1 - member]]
        return z


def declared_structure(layout: str, features: int, turned: int, *, suffix: bool = False) -> Structure:
    """What `refrope.rotate` does."""
    first, second = pair_slices(layout, features - turned if suffix else 0, turned // 2)
    indices = np.arange(features)
    members = np.stack([indices[first], indices[second]])
    return Structure("", "", members, members, np.tile(np.arange(turned // 2), (2, 1)))


def structures(layout: str, features: int, turned: int, *, suffix: bool = False) -> Iterator[Structure]:
    """The declared structure, then what implementations have in its place, the likelier first."""
    declared = declared_structure(layout, features, turned, suffix=suffix)
    yield declared
    other = LAYOUTS[1 - LAYOUTS.index(layout)]
    yield _named(
        declared_structure(other, features, turned, suffix=suffix),
        f"layout-{other}",
        f"the layout is {other} where {layout} was declared",
    )
    yield from _put_together(layout, other, features, turned, suffix)
    for name, words, width, last in _parts(features, turned, suffix):
        for pairing in (layout, other):
            also = "" if pairing == layout else f", and the layout is {other} where {layout} was declared"
            shape = declared_structure(pairing, features, width, suffix=last)
            yield _named(shape, name if pairing == layout else f"{name}+layout-{other}", words + also)


def _named(structure: Structure, name: str, words: str) -> Structure:
    return Structure(name, words, structure.into, structure.out, structure.table, hyperbolic=structure.hyperbolic)


def _put_together(layout: str, other: str, features: int, turned: int, suffix: bool) -> Iterator[Structure]:
    """Slips within the features that turn."""
    declared = declared_structure(layout, features, turned, suffix=suffix).into
    across = declared_structure(other, features, turned, suffix=suffix).into
    straight = np.tile(np.arange(turned // 2), (2, 1))
    yield Structure(
        f"{layout}-in-{other}-out",
        f"pairs are read in layout {layout} and written in layout {other}: scores are right where queries and "
        "keys both go through it, the rotated features are not",
        declared,
        across,
        straight,
    )
    yield Structure(
        f"{other}-in-{layout}-out",
        f"pairs are read in layout {other} and written in layout {layout}: scores are right where queries and "
        "keys both go through it, the rotated features are not",
        across,
        declared,
        straight,
    )
    # Tables of half the width are doubled by concatenation for "half" and by repetition for "interleaved".
    start = int(declared.min()) if turned else 0
    place = (declared - start) // 2 if layout == "half" else (declared - start) % (turned // 2)
    way = ("repeated pairwise (repeat_interleave)", "half") if layout == "half" else ("concatenated", "interleaved")
    yield Structure(
        "tables-doubled-wrongly",
        f"the tables are {way[0]} as for the other layout, but features are paired as in {way[1]}: the two members "
        "of a pair turn by different angles",
        declared,
        declared,
        place,
    )
    place = (across - start) // 2 if other == "half" else (across - start) % (turned // 2)
    yield Structure(
        "pairing-of-the-other-layout",
        f"features are paired as in {other}, with tables doubled as for {layout}: the two members of a pair turn by "
        "different angles",
        across,
        across,
        place,
    )
    for name, members in ((layout, declared), (other, across)):
        yield Structure(
            "minus-missing" if name == layout else f"minus-missing+layout-{other}",
            "the minus sign is missing where the second member is moved to the first (rotate_half): it is no rotation",
            members,
            members,
            straight,
            hyperbolic=True,
        )


def _parts(features: int, turned: int, suffix: bool) -> Iterator[tuple[str, str, int, bool]]:
    """Other choices of the features that turn: name, words, how many, whether the last ones."""
    where = ("first", "last")
    if turned < features:
        yield (
            "suffix" if not suffix else "prefix",
            f"the {where[not suffix]} {turned} features turn where the {where[suffix]} {turned} were declared",
            turned,
            not suffix,
        )
        yield "whole-head", f"all {features} features turn where {turned} were declared", features, False
    for share in (2, 4, 8):
        width = features // share
        if width >= 2 and width % 2 == 0 and width != turned:
            for last in (False, True):
                yield (
                    f"partial-{width}" + ("-suffix" if last else ""),
                    f"only the {where[last]} {width} of {features} features turn where {turned} were declared",
                    width,
                    last,
                )
