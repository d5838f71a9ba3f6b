r"""Position maps: attention at another distance than m - n, so that a long text looks no longer than training was.

A map has one definition, its effective position ``f(m, n)``: the score of query m and key n is that of a rotation by
f, ``(R(f) q) . k``. Where f is not ``m - n`` everywhere, no single table gives it to all pairs. But the pairs fall into
a few bands and rectangles in which f is a position of the query minus a position of the key. Each of these is a pass
of ordinary attention; `refrope.nn.mapped` merges them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import FloatArray, RotaryEncoding, Tables
from refrope.encodings.fope import FoPE
from refrope.encodings.resonance import Resonance
from refrope.errors import check_integer, describe

Positions = npt.NDArray[Any]  # int64 where all are whole by definition, else float64


class Pass(NamedTuple):
    """A band or rectangle of the square of all pairs, in which f is a query's position minus a key's.

    Attributes
    ----------
    queries, keys : slice
        Rows and columns of the square, from 0 on; they may leave some out (a step).
    causal : bool
        Row i of the slice sees column j of the slice for ``j <= i + columns - rows`` only.
    window : int or None
        And only for ``i + columns - rows - j < window``.
    q_positions, k_positions : (rows,), (columns,) int64 or float64
    places : tuple of int
        The effective positions of its pairs, where the map has `places`: one for each distance within a window, from 0
        on, one for each key where there is none.
    """

    queries: slice
    keys: slice
    causal: bool
    window: int | None
    q_positions: Positions
    k_positions: Positions
    places: tuple[int, ...] = ()


class PassTables(NamedTuple):
    """A `Pass` with tables in place of positions.

    Attributes
    ----------
    queries, keys, causal, window, places : as in `Pass`
    q_tables, k_tables : (cos, sin), each (n, r/2)
        For all n tokens; the pass uses rows `queries` and `keys`. Passes that turn queries, or keys, alike have the
        same tuple, so that each is turned once; rows that none of them uses may hold anything. None: nothing turns.
    """

    queries: slice
    keys: slice
    causal: bool
    window: int | None
    q_tables: Tables | None
    k_tables: Tables | None
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class PositionMap:
    """What every map is: an encoding, and the position that each pair of tokens has in it.

    Parameters
    ----------
    encoding : RotaryEncoding
        One that turns by position alone. Those whose tables have an amplitude or a mixture that depends on the position
        (xPos, FoPE with coefficients) are refused: their scores are no function of one effective position.

    Raises
    ------
    ValueError
        A parameter out of its range; the message names it.
    """

    encoding: RotaryEncoding

    def __post_init__(self) -> None:
        """Check every field once, here at the edge."""
        if not isinstance(self.encoding, RotaryEncoding):
            raise ValueError(f"{self.name}: encoding is {describe(self.encoding)}, expected a RotaryEncoding")
        inside = self.encoding.innermost
        if type(inside)._tables is not RotaryEncoding._tables and not _plain_fope(inside):
            why = "R(m)^T R(n) to be a rotation by n - m alone"
            raise ValueError(f"{self.name}: encoding is {inside.name}, whose tables do more than turn; expected {why}")

    # ---- what a map defines ----

    def effective(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """The effective position f(m, n) of queries at m and keys at n <= m: the definition of the map.

        Parameters
        ----------
        queries, keys : integers >= 0 that broadcast against each other
            Pairs with n > m, which causal attention does not have, may get any number.

        Returns
        -------
        float64, in tokens; NaN where the query does not see the key
        """
        raise NotImplementedError(f"{self.name} defines no effective position")

    def second(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """The other effective position of a pair that counts twice in the softmax, NaN where a pair counts once."""
        return np.full(np.broadcast_shapes(np.shape(queries), np.shape(keys)), np.nan)

    @property
    def places(self) -> int:
        """How many effective positions, 0, 1, ..., may each have a number that is added to their scores."""
        return 0

    def passes(self, n: int) -> tuple[Pass, ...]:
        """How the causal pairs of `n` tokens are cut up: each that is seen is in one pass (or two: it counts twice)."""
        raise NotImplementedError(f"{self.name} defines no passes")

    def check_effect(self, length: int) -> None:
        """Raise ValueError where no pair of a text of `length` tokens has another position than m - n."""
        raise NotImplementedError(f"{self.name} does not say where it begins")

    @property
    def later(self) -> PositionMap:
        """The map of all layers after the first: this one, unless a map says otherwise."""
        return self

    def query_scale(self, queries: npt.ArrayLike) -> FloatArray:
        """What multiplies the scores of queries at these positions, float64."""
        return np.ones(np.shape(queries))

    # ---- what follows from it ----

    @property
    def name(self) -> str:
        """The map's name, for messages and tables."""
        return type(self).__name__

    @property
    def head_dim(self) -> int:
        """Features of a head, those of the encoding."""
        return self.encoding.head_dim

    def for_length(self, length: int) -> PositionMap:
        """The map around the encoding in force for `length` tokens, which may be too few for the map to do anything."""
        return replace(self, encoding=self.encoding.for_length(length))

    def tables(self, n: int, dtype: npt.DTypeLike = np.float32) -> tuple[PassTables, ...]:
        """The passes of `n` tokens with their tables of `dtype`, for `refrope.nn.mapped`."""
        passes = self.passes(n)
        query_turns, query_tables = self._turns([(p.queries, p.q_positions) for p in passes], n, dtype, scaled=True)
        key_turns, key_tables = self._turns([(p.keys, p.k_positions) for p in passes], n, dtype, scaled=False)
        return tuple(
            PassTables(*p[:4], query_tables[i], key_tables[j], p.places)
            for p, i, j in zip(passes, query_turns, key_turns, strict=True)
        )

    def _turns(
        self, parts: list[tuple[slice, Positions]], n: int, dtype: npt.DTypeLike, scaled: bool
    ) -> tuple[list[int], list[Tables | None]]:
        """As few tables for all n tokens as the parts of them need, and which table each part uses."""
        turns: list[tuple[Positions, npt.NDArray[np.bool_]]] = []  # positions, and whether they are settled
        chosen = []
        for rows, positions in parts:
            fits = (
                places.dtype == positions.dtype and (places[rows] == positions)[settled[rows]].all()
                for places, settled in turns
            )
            number = next((i for i, fit in enumerate(fits) if fit), len(turns))
            if number == len(turns):
                turns.append((np.zeros(n, positions.dtype), np.zeros(n, bool)))
            turns[number][0][rows], turns[number][1][rows] = positions, True
            chosen.append(number)
        return chosen, [self._tables(places, dtype, scaled) for places, _ in turns]

    def _tables(self, positions: Positions, dtype: npt.DTypeLike, scaled: bool) -> Tables | None:
        scale = self.query_scale(np.arange(len(positions))) if scaled else np.ones(len(positions))
        if not positions.any() and self.encoding.attention_factor == 1 and (scale == 1).all():
            return None
        if (scale == 1).all():
            return self.encoding.cos_sin(positions, dtype)
        cos, sin = (scale[:, None] * table for table in self.encoding.cos_sin(positions, np.float64))
        return cos.astype(dtype), sin.astype(dtype)

    # ---- parts of the definitions ----

    def _near_and_far(self, n: int, near: int, first: int, q_far: Positions, k_far: Positions) -> tuple[Pass, ...]:
        """Distances below `near` as they are, and those from `first` on with other positions, given for all tokens."""
        places = np.arange(check_integer(f"{self.name}.passes", "n", n, 0))
        if n <= first:
            return (Pass(slice(0, n), slice(0, n), True, None, places, places),)
        return (
            Pass(slice(0, n), slice(0, n), True, near, places, places),
            Pass(slice(first, n), slice(0, n - first), True, None, q_far[first:], k_far[: n - first]),
        )

    def _check_reach(self, length: int, argument: str, value: int, least: int) -> None:
        """Raise unless `length` is at least the `least` length of which a pair is remapped."""
        if check_integer(f"{self.name}.check_effect", "length", length, 0) < least:
            wanted = f"less than the length {length}" if value >= length else f"a length >= {least}, not {length}"
            raise self._no_effect(argument, value, wanted)

    def _no_effect(self, argument: str, value: object, wanted: str) -> ValueError:
        return ValueError(f"{self.name}: {argument} is {value!r}, expected {wanted}: nothing would be remapped")

    def _check_whole(self, argument: str, value: object) -> None:
        """Refuse an encoding that knows whole positions only, where `argument` makes others."""
        if isinstance(self.encoding, Resonance) and self.encoding.dialect == "after":
            why = "makes positions between tokens, and the tables of Resonance take whole positions only"
            raise ValueError(f"{self.name}: {argument} is {value!r}, which {why}")


def _plain_fope(encoding: RotaryEncoding) -> bool:
    """True for a FoPE whose tables are plain cos and sin."""
    if not isinstance(encoding, FoPE):
        return False
    return encoding.cos_coefficients is None and encoding.sin_coefficients is None and encoding.padding == "identity"
