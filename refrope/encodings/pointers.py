"""Pointers: the first layer shows a query a handful of keys and none elsewhere, however long the text is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import FloatArray
from refrope.encodings.position_map import Pass, PositionMap
from refrope.errors import check_integer, check_number


@dataclass(frozen=True)
class Pointers(PositionMap):
    r"""Keys near the query, one further off, one at a fraction of its position, and the first ones.

    The query at m sees the `near` last keys; the key at the distance `apart`; the key at
    ``floor((m - lag) / divisor)``, the pointer; and the `start` first keys. Each of these has an effective position of
    its own, `positions` in all, counted on from 0. A model that has seen `train_length` tokens has seen them all: no
    position of a longer text is new to it, and no far key that it never learned to ignore competes for its attention.

    Which of them a head looks at, a learned number for each effective position says (`refrope.nn.PlaceBias`), and what
    the tokens say counts `content` as much as usual. With little of it, all keys that are seen have nearly the same
    weight at first, whatever the tokens: a head begins with the mean of their values, a symmetric function, and learns
    for all tokens at once which of them to leave out.

    Only the first layer sees them. In later ones a query sees itself, and attention is a linear map of the token there.
    So what a model can know of a text is what these few keys say and nothing that lies behind them: a second look would
    reach what other queries have seen, and with it rules that hold at some steps only.

    Parameters
    ----------
    encoding : RotaryEncoding
    near : int >= 1
    apart : int >= near, or None for no such key
    divisor : int >= 2, or None for no pointer
    lag : int >= 0
        What is taken from the query's position before it is divided.
    start : int in [0, near]
    content : float >= 0
        What multiplies the scores of queries and keys, beside the numbers of their places.
    deep : bool
        All layers see these keys.

    Notes
    -----
    The first keys have a place of their own from the first query on that none of them is near; the key apart is seen
    where it is not among them. In early queries the pointer's key may lie in another place, too, and then counts for
    both in the softmax.

    References
    ----------
    Ours, after PosGen's three tasks (Wang et al. 2024, arXiv:2403.00071), whose rules read the last tokens and one
    further off: at a fixed distance, at half the position, at the start.
    """

    near: int = 3
    apart: int | None = 4
    divisor: int | None = 2
    lag: int = 2
    start: int = 2
    content: float = 0.03
    deep: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_integer(self.name, "near", self.near, 1)
        if self.apart is not None:
            check_integer(self.name, "apart", self.apart, self.near)
        if self.divisor is not None:
            check_integer(self.name, "divisor", self.divisor, 2)
        check_integer(self.name, "lag", self.lag, 0)
        check_integer(self.name, "start", self.start, 0, self.near)
        check_number(self.name, "content", self.content, "a finite number >= 0", 0.0)
        if not isinstance(self.deep, bool):
            raise ValueError(f"{self.name}: deep is {self.deep!r}, expected True or False")

    # ---- the four places ----

    @property
    def _first(self) -> tuple[int, int, int, int]:
        """The first effective position near, apart, at the pointer and at the start."""
        pointer = self.near + (self.apart is not None)
        return 0, self.near, pointer, pointer + (self.divisor or 0)

    @property
    def _first_of_start(self) -> int:
        """The first query that sees the first keys as a place of their own."""
        return self.near + self.start - 1

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """All effective positions, in order."""
        return np.arange(self._first[-1] + self.start)

    @property
    def train_length(self) -> int:
        """Tokens after which every effective position has been seen."""
        apart = 0 if self.apart is None else self.apart + self.start + 1
        pointed = 0 if self.divisor is None else self.lag + self.divisor
        return max(self.near, apart, pointed, self._first_of_start + 1 if self.start else 0)

    def _places(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> list[FloatArray]:
        """The effective position of each pair near, apart, at the pointer and at the start, NaN where it is not there.

        From where a place begins: the distance near, 0 apart, what the division leaves at the pointer, and at the start
        the distance from the last of its keys.
        """
        m, n = np.broadcast_arrays(np.asarray(queries, np.int64), np.asarray(keys, np.int64))
        near, apart, pointer, start = self._first
        quotient, rest = np.divmod(m - self.lag, self.divisor or 1)
        there = [
            ((m - n < self.near) & (m >= n), near + m - n),
            ((m - n == self.apart) & (n >= self.start), apart),
            ((n == quotient) & (m >= self.lag) & (self.divisor is not None), pointer + rest),
            ((n < self.start) & (m >= self._first_of_start), start + self.start - 1 - n),
        ]
        return [np.where(here, position, np.nan) for here, position in there]

    # ---- what a map defines ----

    def effective(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """The position in the one place that a key is in, in the earlier one where it is in two; NaN in none."""
        near, apart, pointer, start = self._places(queries, keys)
        return _either(_either(near, apart), _either(pointer, start))

    def second(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """The position in the later one of the two places that a key of an early query is in, else NaN."""
        near, apart, pointer, start = self._places(queries, keys)
        return np.where(np.isnan(_either(near, apart)), np.where(np.isnan(pointer), np.nan, start), pointer)

    @property
    def places(self) -> int:
        """One for each effective position."""
        return len(self.positions)

    @property
    def later(self) -> Pointers:
        """Each query sees itself alone, unless the map is `deep`."""
        if self.deep:
            return self
        return replace(self, near=1, apart=None, divisor=None, start=0, deep=True)

    def query_scale(self, queries: npt.ArrayLike) -> FloatArray:
        """`content`."""
        return np.full(np.shape(queries), float(self.content))

    def candidates(self, queries: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Keys among which are all that queries see, (..., keys), in order; -1 for one that is named twice."""
        m = np.asarray(queries, np.int64)[..., None]
        apart = [] if self.apart is None else [m - self.apart]
        pointed = [] if self.divisor is None else [(m - self.lag) // self.divisor]
        keys = [m - np.arange(self.near), *apart, *pointed, np.minimum(np.arange(self.start), m)]
        named = np.sort(np.maximum(np.concatenate(keys, axis=-1), -1), axis=-1)
        named[..., 1:][named[..., 1:] == named[..., :-1]] = -1
        return named

    def passes(self, n: int) -> tuple[Pass, ...]:
        """A band near, a diagonal apart, one for each remainder of the pointer's division, a rectangle at the start."""
        i = np.arange(check_integer(f"{self.name}.passes", "n", n, 0))
        _, apart, pointer, start = self._first
        passes = [Pass(slice(0, n), slice(0, n), True, self.near, i, i, tuple(range(self.near)))]
        if self.apart is not None and n > self.apart + self.start:
            rows, keys = slice(self.apart + self.start, n), slice(self.start, n - self.apart)
            passes.append(Pass(rows, keys, True, 1, apart + i[keys], i[keys], (apart,)))
        divisor = self.divisor or 0
        for rest in range(divisor):
            rows = slice(self.lag + rest, n, divisor)
            keys = slice(0, len(i[rows]))  # row r has its pointer at key r
            if len(i[rows]):
                at, turned = pointer + rest + divisor * i[keys], divisor * i[keys]
                passes.append(Pass(rows, keys, True, 1, at, turned, (pointer + rest,)))
        if self.start and n > self._first_of_start:
            rows, keys = slice(self._first_of_start, n), slice(0, self.start)
            last = start + self.start - 1
            at, places = np.full(n - self._first_of_start, last), tuple(range(last, start - 1, -1))
            passes.append(Pass(rows, keys, False, None, at, i[keys], places))
        return tuple(passes)

    def check_effect(self, length: int) -> None:
        """Raise ValueError unless `length` tokens have a pair that is not seen, or seen in another place than near."""
        unmoved = self.apart == self.near and not self.start  # the next key is at its own distance
        self._check_reach(length, "near", self.near, self.near + 1 + unmoved)


def _either(one: FloatArray, other: FloatArray) -> FloatArray:
    """`one` where it is a number, else `other`."""
    return np.where(np.isnan(one), other, one)
