"""Windows at pointers: a query sees a few keys in three places and none elsewhere, however long the text is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import FloatArray
from refrope.encodings.position_map import Pass, PositionMap
from refrope.errors import check_integer


@dataclass(frozen=True)
class PointerWindows(PositionMap):
    r"""Keys near the query, around a fraction of its position, and at the start, each place with positions of its own.

    The query at m sees the `near` last keys; the keys from ``u - before`` to ``u + after`` around the pointer
    ``u = floor(m / divisor)``; and the `start` first keys. Effective positions are counted from 0 on in the first
    place, from `near` on in the second, and after these in the third: no two places share one, and none is ever
    larger than `span`. A model that has seen `train_length` tokens has seen them all: no position of a longer text is
    new to it, and no far key that it never learned to ignore competes for its attention.

    Parameters
    ----------
    encoding : RotaryEncoding
    near : int >= 1
    before, after : int >= 0
        Keys before and after the one that the pointer is at.
    divisor : int >= 2
    start : int in [0, near]

    Notes
    -----
    The pointer's place begins with the first query that has a whole window there, the start's where its keys are no
    near ones any more. In early queries a key may lie in two places, and then counts twice in the softmax.

    References
    ----------
    Ours, after PosGen's three tasks (Wang et al. 2024, arXiv:2403.00071), whose rules read tokens near the last one, at
    half its position and at the start.
    """

    near: int = 8
    before: int = 4
    after: int = 3
    divisor: int = 2
    start: int = 2

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        for name, least in (("near", 1), ("before", 0), ("after", 0), ("divisor", 2)):
            check_integer(self.name, name, getattr(self, name), least)
        check_integer(self.name, "start", self.start, 0, self.near)

    @property
    def first_pointer(self) -> int:
        """The pointer u of the first queries with a whole window around it, no key of which is after the query."""
        return max(self.before, -(-self.after // (self.divisor - 1)))

    @property
    def first_of_start(self) -> int:
        """The first query that sees the first keys as a place of their own."""
        return self.near + self.start - 1

    @property
    def span(self) -> int:
        """How many effective positions there are: 0 to span - 1."""
        return self.near + self.divisor * (self.before + self.after + 1) + self.start

    @property
    def train_length(self) -> int:
        """Tokens after which every effective position has been seen."""
        return max(self.divisor * (self.first_pointer + 1), self.first_of_start + 1, self.near)

    def effective(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """``m - n`` near; ``near + divisor after + m - divisor n`` around the pointer; ``span - 1 - n`` at the start.

        NaN for a key that is not seen; otherwise as in `PositionMap`.
        """
        near, pointed, start = self._places(queries, keys)
        return np.where(np.isnan(near), np.where(np.isnan(pointed), start, pointed), near)

    def second(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """The effective position in the later one of the two places that a key of an early query is in, else NaN."""
        near, pointed, start = self._places(queries, keys)
        twice = np.where(np.isnan(pointed), np.nan, np.where(np.isnan(near), start, pointed))
        return np.where(np.isnan(near) & np.isnan(start), np.nan, twice)

    def _places(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The effective position of each pair in each place, NaN where it is in another one."""
        m, n = np.broadcast_arrays(np.asarray(queries, np.int64), np.asarray(keys, np.int64))
        pointer = m // self.divisor
        around = (n >= pointer - self.before) & (n <= pointer + self.after) & (pointer >= self.first_pointer)
        first = (n < self.start) & (m >= self.first_of_start)
        return (
            np.where((m - n < self.near) & (m >= n), m - n, np.nan),
            np.where(around, self._origin + m - self.divisor * n, np.nan),
            np.where(first, self.span - 1 - n, np.nan),
        )

    @property
    def _origin(self) -> int:
        """The effective position of a key that the pointer is at exactly."""
        return self.near + self.divisor * self.after

    def candidates(self, queries: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Keys among which are all that queries see, (..., keys), in order; -1 for one that is named twice."""
        m = np.asarray(queries, np.int64)[..., None]
        around = m // self.divisor + np.arange(-self.before, self.after + 1)
        keys = [m - np.arange(self.near), np.minimum(around, m), np.minimum(np.arange(self.start), m)]
        named = np.sort(np.maximum(np.concatenate(keys, axis=-1), -1), axis=-1)
        named[..., 1:][named[..., 1:] == named[..., :-1]] = -1
        return named

    def passes(self, n: int) -> tuple[Pass, ...]:
        """The near band; a band for each remainder of the query's position by the divisor; a rectangle."""
        i = np.arange(check_integer(f"{self.name}.passes", "n", n, 0))
        passes = [Pass(slice(0, n), slice(0, n), True, self.near, i, i)]
        width = self.before + self.after + 1
        for remainder in range(self.divisor):
            rows = slice(self.divisor * self.first_pointer + remainder, n, self.divisor)
            count = len(i[rows])
            if count:
                # Row r has the pointer first_pointer + r, and sees up to `after` keys behind it.
                keys = slice(0, count + self.first_pointer + self.after)
                q_positions = self._origin + i[rows]
                passes.append(Pass(rows, keys, True, width, q_positions, self.divisor * i[keys]))
        if self.start and n > self.first_of_start:
            rows, keys = slice(self.first_of_start, n), slice(0, self.start)
            passes.append(Pass(rows, keys, False, None, np.full(n - self.first_of_start, self.span - 1), i[keys]))
        return tuple(passes)

    def check_effect(self, length: int) -> None:
        """Raise ValueError unless `length` tokens have a pair that is not seen, or seen in another place than near."""
        self._check_reach(length, "near", self.near, self.near + 1)
