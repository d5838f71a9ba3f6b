"""The published position maps. What a map is stands in `refrope.encodings.position_map`.

Distances are ``d = m - n`` for the query at m and the key at n <= m, and f is the effective position of the pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import FloatArray
from refrope.encodings.position_map import Pass, PassTables, PositionMap
from refrope.errors import check_integer, check_name, check_number

__all__ = ["STRING", "DualChunk", "LeakyReRoPE", "Pass", "PassTables", "PositionMap", "ReRoPE", "SelfExtend"]

SHIFTS = ("floor", "fraction")


# ---- a window of neighbours as they are, farther pairs pulled in ----


@dataclass(frozen=True)
class _Windowed(PositionMap):
    """Maps that leave distances below `window` alone, with the option to sharpen the scores of late queries."""

    window: int
    log_length: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_integer(self.name, "window", self.window, 1)
        if self.log_length is not None:
            check_number(self.name, "log_length", self.log_length, "a finite number > 1", 1.0, above=True)
            if self.encoding.turned < self.head_dim:
                wanted = f"all {self.head_dim} where log_length is given"
                raise ValueError(f"{self.name}: {self.encoding.turned} features turn, expected {wanted}")

    def query_scale(self, queries: npt.ArrayLike) -> FloatArray:
        """``max(1, ln(m + 1) / ln log_length)`` where that is given, else 1."""
        if self.log_length is None:
            return super().query_scale(queries)
        scale: FloatArray = np.maximum(1.0, np.log(np.add(queries, 1.0)) / np.log(self.log_length))
        return scale


@dataclass(frozen=True)
class ReRoPE(_Windowed):
    """Rectified RoPE: no pair is farther apart than `window` tokens, ``f = min(d, window)``.

    Parameters
    ----------
    encoding : RotaryEncoding
    window : int >= 1
        w in tokens.
    log_length : number > 1, optional
        L, the training length: scores of the query at m are multiplied by ``max(1, ln(m + 1) / ln L)``, as the authors'
        code always does. Needs an encoding that turns all features, since the factor is in the tables of the queries.

    References
    ----------
    Su 2023, kexue.fm/archives/9708; bojone/rerope at commit 2cbd019f, rerope_patch.py.
    """

    def effective(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """``min(d, w)``; otherwise as in `PositionMap`."""
        return np.minimum(np.subtract(queries, keys), self.window).astype(np.float64)

    def passes(self, n: int) -> tuple[Pass, ...]:
        """Near: as usual. Far: every query at w, every key at 0."""
        zeros = np.zeros_like(np.arange(n))
        return self._near_and_far(n, self.window, self.window, zeros + self.window, zeros)

    def check_effect(self, length: int) -> None:
        """Raise ValueError unless `length` tokens have a pair more than w apart."""
        self._check_reach(length, "window", self.window, self.window + 2)


@dataclass(frozen=True)
class LeakyReRoPE(_Windowed):
    """ReRoPE that goes on slowly beyond its window: ``f = d`` for d < w, then ``w + (d - w) / slowdown``.

    Parameters
    ----------
    encoding : RotaryEncoding
        Not Resonance (dialect "after"), unless `slowdown` is 1: far pairs lie between two tokens.
    window, log_length : as in `ReRoPE`
    slowdown : number >= 1
        k. 1 is plain RoPE.

    References
    ----------
    Su 2023, kexue.fm/archives/9708; bojone/rerope at commit 2cbd019f, leaky_rerope_patch.py, which writes f as
    ``(d + w (k - 1)) / k``: linear interpolation by k, with the queries w (k - 1) tokens further on.
    """

    slowdown: float

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if check_number(self.name, "slowdown", self.slowdown, "a finite number >= 1", 1.0) != 1:
            self._check_whole("slowdown", self.slowdown)

    def effective(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """``min(d, w) + max(d - w, 0) / k``; otherwise as in `PositionMap`."""
        distance = np.subtract(queries, keys)
        far: FloatArray = np.maximum(distance - self.window, 0) / self.slowdown
        return np.minimum(distance, self.window) + far

    def passes(self, n: int) -> tuple[Pass, ...]:
        """Near: as usual. Far: interpolated by k, queries further on."""
        places = np.arange(n)
        shifted = (places + self.window * (self.slowdown - 1)) / self.slowdown
        first = n if self.slowdown == 1 else self.window
        return self._near_and_far(n, self.window, first, shifted, places / self.slowdown)

    def check_effect(self, length: int) -> None:
        """Raise ValueError unless `length` tokens have a pair more than w apart, and k is not 1."""
        if self.slowdown == 1:
            raise self._no_effect("slowdown", self.slowdown, "more than 1")
        self._check_reach(length, "window", self.window, self.window + 2)


@dataclass(frozen=True)
class SelfExtend(_Windowed):
    """Self-Extend: ``f = d`` for d < W; farther tokens by groups of G, ``f = m // G - n // G + W - W // G``.

    Parameters
    ----------
    encoding : RotaryEncoding
        Not Resonance (dialect "after") where ``shift="fraction"`` is not whole.
    window, log_length : as in `ReRoPE`
        W, the number of neighbours (the authors' group_size_2); log_length is their scale_base, off by default.
    group : int >= 1
        G (their group_size_1). 1 is plain RoPE.
    shift : {"floor", "fraction"}
        W - W // G as in the paper and the eager attention of the authors' code, or W - W / G as in its flash attention.
        The two differ unless G divides W. Within the flash attention, the one-token step has the floor again.

    References
    ----------
    Jin et al. 2024, arXiv:2401.01325; datamllab/LongLM at commit 715c1e3d, self_extend_patch/Llama_4_40.py. That code
    drops the shift where no query is at W or later, which changes nothing: there are no far pairs then.
    """

    group: int
    shift: str = "floor"

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_integer(self.name, "group", self.group, 1)
        check_name(self.name, "shift", self.shift, SHIFTS)
        if self._offset.dtype != np.int64:
            self._check_whole("shift", self.shift)

    def effective(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """As the class says; otherwise as in `PositionMap`."""
        distance = np.subtract(queries, keys)
        far = np.floor_divide(queries, self.group) - np.floor_divide(keys, self.group) + self._offset
        return np.where(distance < self.window, distance, far).astype(np.float64)

    def passes(self, n: int) -> tuple[Pass, ...]:
        """Near: as usual. Far: groups of queries, further on, and groups of keys."""
        groups = np.arange(n) // self.group
        first = n if self.group == 1 else self.window
        return self._near_and_far(n, self.window, first, groups + self._offset, groups)

    def check_effect(self, length: int) -> None:
        """Raise ValueError unless `length` tokens have a pair that is moved."""
        if self.group == 1:
            raise self._no_effect("group", self.group, "more than 1")
        # At distance W the floor gives W to the first pair; to the next query at least one key is moved.
        self._check_reach(length, "window", self.window, self.window + (2 if self._offset.dtype == np.int64 else 1))

    @property
    def _offset(self) -> npt.NDArray[np.int64] | FloatArray:
        """What is added to the far queries, int64 where it is whole."""
        if self.shift == "floor" or self.window % self.group == 0:
            return np.array(self.window - self.window // self.group)
        return np.array(self.window - self.window / self.group)


@dataclass(frozen=True)
class STRING(PositionMap):
    """STRING: positions from S on, which training has shown too rarely, are replaced by frequent ones.

    ``f = d`` for d < S, then ``f = d - S + W``: the far part of the triangle of pairs moves down by S and leaves W
    distances to the neighbours alone.

    Parameters
    ----------
    encoding : RotaryEncoding
    shift : int >= 1
        S in tokens; the authors take a third of the training length.
    window : int in [1, shift]
        W in tokens; the authors take 128. ``window == shift`` is plain RoPE.
    overlap : bool
        Count pairs at distance S twice, at S and at W. The authors' code reads a prompt so: its window of S neighbours
        includes both ends, and the shifted part begins at S too. Its one-token step does not.

    References
    ----------
    An et al. 2024, arXiv:2410.18745. What is said of the authors' code (HKUNLP/STRING at commit 216cc2f0) comes from
    notes on an earlier reading; it was not checked against the source again.
    """

    shift: int
    window: int
    overlap: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_integer(self.name, "shift", self.shift, 1)
        if check_integer(self.name, "window", self.window, 1) > self.shift:
            raise ValueError(f"{self.name}: window is {self.window}, expected at most shift = {self.shift}")
        if not isinstance(self.overlap, bool):
            raise ValueError(f"{self.name}: overlap is {self.overlap!r}, expected True or False")

    def effective(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """As the class says; otherwise as in `PositionMap`."""
        distance = np.subtract(queries, keys)
        return np.where(distance < self.shift, distance, distance - self.shift + self.window).astype(np.float64)

    def second(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """S for pairs at distance S where `overlap` is on, NaN elsewhere."""
        twice = np.subtract(queries, keys) == self.shift
        return np.where(twice & self.overlap, float(self.shift), np.nan)

    def passes(self, n: int) -> tuple[Pass, ...]:
        """Near: as usual. Far: queries W - S tokens further on (that is, back)."""
        places = np.arange(n)
        first = n if self.window == self.shift and not self.overlap else self.shift
        return self._near_and_far(n, self.shift + self.overlap, first, places - self.shift + self.window, places)

    def check_effect(self, length: int) -> None:
        """Raise ValueError unless `length` tokens have a pair S apart, and W is less than S or `overlap` is on."""
        if self.window == self.shift and not self.overlap:
            raise self._no_effect("window", self.window, f"less than shift = {self.shift}")
        self._check_reach(length, "shift", self.shift, self.shift + 1)


# ---- chunks ----


@dataclass(frozen=True)
class DualChunk(PositionMap):
    """Dual chunk attention (ChunkLlama): chunks of c tokens, and no effective position above `chunk`.

    With ``c = chunk - local``, keys are at ``n mod c`` in all cases, and queries

    - in the same chunk at ``m mod c``;
    - one chunk further on at ``min(m mod c + c, chunk)``: exact for the `local` nearest distances;
    - farther still at ``min(2 c - 1, chunk)``, whatever m.

    Texts of at most c tokens have plain RoPE.

    Parameters
    ----------
    encoding : RotaryEncoding
    chunk : int
        In tokens, below the training length; the authors take three quarters of it.
    local : int in [1, chunk)
        In tokens; the authors take a sixteenth of the training length, in later versions an eighth.

    References
    ----------
    An et al. 2024, arXiv:2402.17463; HKUNLP/ChunkLlama, chunkllama_attn_replace.py at commits 15c5787c and 847ae71a
    (chunk_size and local_window). The amplitude that the later one puts on the tables of long texts is no part of this.
    """

    chunk: int
    local: int

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_integer(self.name, "chunk", self.chunk, 1)
        if check_integer(self.name, "local", self.local, 1) >= self.chunk:
            raise ValueError(f"{self.name}: chunk is {self.chunk}, expected more than the local window {self.local}")

    @property
    def size(self) -> int:
        """c: tokens from the start of a chunk to that of the next."""
        return self.chunk - self.local

    def effective(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """As the class says; otherwise as in `PositionMap`."""
        c = self.size
        apart = np.floor_divide(queries, c) - np.floor_divide(keys, c)
        rest = np.mod(queries, c)
        places = np.where(apart < 1, rest, np.where(apart == 1, np.minimum(rest + c, self.chunk), self._farthest))
        return (places - np.mod(keys, c)).astype(np.float64)

    def passes(self, n: int) -> tuple[Pass, ...]:
        """For each chunk of queries: its own keys, the chunk's before it, and all keys before that."""
        c, places = self.size, np.arange(check_integer(f"{self.name}.passes", "n", n, 0))
        rest = places % c
        following, farthest = np.minimum(rest + c, self.chunk), np.full(n, self._farthest)
        result = []
        for start in range(0, max(n, 1), c):
            rows = slice(start, min(start + c, n))
            before = slice(max(start - c, 0), start)
            result.append(Pass(rows, rows, True, None, rest[rows], rest[rows]))
            if start:
                result.append(Pass(rows, before, False, None, following[rows], rest[before]))
            if before.start:
                early = slice(0, before.start)
                result.append(Pass(rows, early, False, None, farthest[rows], rest[early]))
        return tuple(result)

    def check_effect(self, length: int) -> None:
        """Raise ValueError unless `length` tokens have a pair that is moved."""
        self._check_reach(length, "chunk", self.chunk, min(self.chunk + 1, 2 * self.size) + 1)

    @property
    def _farthest(self) -> int:
        return min(2 * self.size - 1, self.chunk)
