"""Rotary encodings of several axes: every pair of features follows one of a token's ids, such as time, row and column.

An encoding of one axis turns pair j by ``position * inv_freq[j]``. With A ids a token, pair j turns by
``ids[axes[j]] * inv_freq[j]``; all that differs between the published forms is `axes` and `inv_freq`. The score of a
query and a key depends on the difference of their ids on every axis, and on nothing else of them.

Which two features are a pair is another matter: that is the layout, an argument of `refrope.rotate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import tables
from refrope.encodings.base import FloatArray, RotaryEncoding, Tables
from refrope.encodings.rope import RoPE
from refrope.errors import check_integer, check_name, check_number, describe

IntArray = npt.NDArray[np.int64]
LEFTOVER = ("t", "fourth")
FORMS = ("shared", "evenodd", "offset")


@dataclass(frozen=True)
class MRoPE:
    r"""`encoding` with its pairs shared out among the axes of a token's position: time, height and width.

    The frequencies are those of `encoding`, pair by pair: the index does not start again with each axis. Where a
    token's ids are all equal, as those of text are, the tables are `encoding`'s own, bit for bit.

    Parameters
    ----------
    encoding : RotaryEncoding
        Any encoding of one axis: RoPE, YaRN, Resonance, ...
    sections : tuple of int
        How many pairs follow each axis; the sum is ``encoding.pairs``. Any number of axes unless interleaved. The
        four of Hunyuan's XDRoPE (position, width, height, time) are this with ``NTKAware`` as `encoding`.
    interleaved : bool
        False: the first ``sections[0]`` pairs follow axis 0, the next ``sections[1]`` axis 1, and so on (Qwen2-VL,
        whose sections are the default). True: with three axes t, h, w, pair i follows h where ``i % 3 == 1`` and
        ``i < 3 * sections[1]``, w where ``i % 3 == 2`` and ``i < 3 * sections[2]``, and t otherwise (Qwen3-VL:
        24, 20, 20). This is about axes. Qwen3-VL's feature layout is "half" all the same.
    leftover : {"t", "fourth"}
        With `interleaved`: which id the pairs take that stand in a place of h or w but beyond 3 times its section
        (61 and 62 of Qwen3-VL's 64): t, or a fourth id of the token, as in ggml's rope mode IMROPE.

    Raises
    ------
    ValueError
        Sections that are not whole numbers or have another sum; with `interleaved`, other than three of them, or ones
        that the rule above would not give that many pairs.

    References
    ----------
    Wang et al. 2024, arXiv:2409.12191, Section 2.1 (Qwen2-VL); transformers 5.24, modeling_qwen2_vl.py and
    modeling_qwen3_vl.py. ggml's rule was read in copies of ggml_mrope_cache_init; how XDRoPE
    splits its sections was not read.
    """

    encoding: RotaryEncoding
    sections: tuple[int, ...] = (16, 24, 24)
    interleaved: bool = False
    leftover: str = "t"

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.encoding, RotaryEncoding):
            raise ValueError(f"MRoPE: encoding is {describe(self.encoding)}, expected a RotaryEncoding")
        if not isinstance(self.sections, (tuple, list)) or not self.sections:
            raise ValueError(f"MRoPE: sections are {describe(self.sections)}, expected a number of pairs for each axis")
        counts = tuple(check_integer("MRoPE", f"sections[{i}]", s, 0) for i, s in enumerate(self.sections))
        object.__setattr__(self, "sections", counts)
        if sum(counts) != self.pairs:
            wanted = f"the {self.pairs} pairs of {self.encoding.name}"
            raise ValueError(f"MRoPE: sections {counts} have the sum {sum(counts)}, expected {wanted}")
        check_name("MRoPE", "leftover", self.leftover, LEFTOVER)
        if self.leftover != "t" and not self.interleaved:
            raise ValueError(f"MRoPE: leftover is {self.leftover!r} without interleaved, which alone leaves pairs over")
        if self.interleaved:
            self._check_interleaved(counts)

    def _check_interleaved(self, counts: tuple[int, ...]) -> None:
        if len(counts) != 3:
            raise ValueError(f"MRoPE: sections are {counts}, expected three of them, for t, h and w, to interleave")
        for axis, letter in ((1, "h"), (2, "w")):
            if (got := int(np.sum(self.axes == axis))) != counts[axis]:
                raise ValueError(f"MRoPE: sections are {counts}, of which {letter} would get {got} when interleaved")

    @property
    def name(self) -> str:
        """For messages."""
        return "MRoPE"

    @property
    def head_dim(self) -> int:
        """Features of a head."""
        return self.encoding.head_dim

    @property
    def pairs(self) -> int:
        """How many pairs of features there are to turn."""
        return self.encoding.pairs

    @property
    def inv_freq(self) -> FloatArray:
        """Radians per step on the pair's axis, float64 (pairs,): those of the encoding inside."""
        return self.encoding.inv_freq

    @property
    def attention_factor(self) -> float:
        """That of the encoding inside."""
        return self.encoding.attention_factor

    @property
    def softmax_factor(self) -> float:
        """That of the encoding inside."""
        return self.encoding.softmax_factor

    @property
    def ids(self) -> int:
        """A: how many ids a token has."""
        return len(self.sections) + (self.leftover == "fourth")

    @cached_property
    def axes(self) -> IntArray:
        """Which id each pair follows, int64 (pairs,)."""
        pair = np.arange(self.pairs)
        if not self.interleaved:
            axes = np.repeat(np.arange(len(self.sections)), self.sections)
        else:
            place = pair % 3
            axes = np.where(pair < 3 * np.array(self.sections)[place], place, 0 if self.leftover == "t" else 3)
        axes = axes.astype(np.int64)
        axes.setflags(write=False)
        return axes

    def for_length(self, length: int) -> MRoPE:
        """MRoPE of ``encoding.for_length(length)``."""
        return replace(self, encoding=self.encoding.for_length(length))

    def cos_sin(self, positions: npt.ArrayLike, dtype: npt.DTypeLike = np.float32, **options: Any) -> Tables:
        """Tables for `refrope.rotate`: cos and sin of every pair's angle, times the attention factor.

        Parameters
        ----------
        positions : (..., T, A) int64
            The A ids of every token in the order of `sections`: t, h, w (and the fourth).
        dtype : float64, float32 or float16, of the tables
        **options
            What the encoding's own `cos_sin` takes besides: ``role`` of xPos.

        Returns
        -------
        cos, sin : (..., T, pairs)

        Raises
        ------
        ValueError
            Positions that are not integers, or not A for each token; another dtype.
        """
        letters = ("t", "h", "w", "the fourth id")[: self.ids] if len(self.sections) == 3 else ()
        ids = _as_ids(self.name, positions, self.ids, ", ".join(letters) or f"{self.ids} ids")
        return _by_axis(partial(self.encoding.cos_sin, dtype=dtype, **options), ids, self.axes)


@dataclass(frozen=True)
class Axial2D:
    r"""Rotary encoding of image patches: half of the pairs follow the row of a patch, half its column.

    With d features and j = 0 .. d/4 - 1 the d/2 pairs are, first to last:

    ========= ======================================= ======================================= =========== ========
    `form`    first d/4 pairs                         last d/4 pairs                          layout      first id
    ========= ======================================= ======================================= =========== ========
    "shared"  row, ``base**(-4j/d)``                  column, ``base**(-4j/d)``               half        0
    "evenodd" row, ``base**(-2(2j)/d)``               column, ``base**(-2(2j+1)/d)``          half        0
    "offset"  column, ``base**(-4j/d)``               row, ``base**(-4j/d)``                  interleaved 1
    ========= ======================================= ======================================= =========== ========

    "shared" is Qwen2-VL's vision encoder: the frequencies of RoPE over d/2 features, once for each axis. ggml's rope
    mode VISION, with sections of d/4, comes to the same. "evenodd" is Pixtral's: RoPE's one list over all d features,
    of which rows take the even-numbered and columns the odd-numbered ones. "offset" is Llama 4's and torchtune's:
    columns first, and ids that count from 1, so that the class token, whose ids are both 0, is not turned at all.
    Positions are (row, column) in all three.

    Parameters
    ----------
    head_dim : int
        d, a multiple of 4.
    base : float > 1
    form : {"shared", "evenodd", "offset"}

    Raises
    ------
    ValueError
        A `head_dim` that is no multiple of 4, a base that is not above 1, an unknown form.

    References
    ----------
    transformers 5.24: modeling_qwen2_vl.py, modeling_pixtral.py (whose layout is "half" because it permutes the
    weights; Mistral's own code is said to be interleaved), modeling_llama4.py. ggml was read in copies of
    ggml_mrope_cache_init; torchtune was not read.
    """

    head_dim: int
    base: float = 10_000.0
    form: str = "shared"

    def __post_init__(self) -> None:
        """Check the fields."""
        check_name("Axial2D", "form", self.form, FORMS)
        if check_integer("Axial2D", "head_dim", self.head_dim, 4) % 4:
            wanted = "a multiple of 4: each axis turns pairs of half of the features"
            raise ValueError(f"Axial2D: head_dim is {self.head_dim}, expected {wanted}")
        check_number("Axial2D", "base", self.base, "a finite number > 1", 1.0, above=True)

    @property
    def name(self) -> str:
        """For messages."""
        return "Axial2D"

    @property
    def pairs(self) -> int:
        """How many pairs of features there are to turn."""
        return self.head_dim // 2

    @property
    def attention_factor(self) -> float:
        """1: no published form has another."""
        return 1.0

    @property
    def layout(self) -> str:
        """The layout of the published code, for `refrope.rotate`."""
        return "interleaved" if self.form == "offset" else "half"

    @property
    def first_id(self) -> int:
        """The id of the first row and column in the published code: the `start` of `grid_positions`."""
        return 1 if self.form == "offset" else 0

    @cached_property
    def axes(self) -> IntArray:
        """Which id each pair follows, int64 (pairs,): 0 the row, 1 the column."""
        axes = np.repeat(np.array([1, 0] if self.form == "offset" else [0, 1], np.int64), self.pairs // 2)
        axes.setflags(write=False)
        return axes

    @cached_property
    def inv_freq(self) -> FloatArray:
        """Radians per row or column, float64 (pairs,)."""
        if self.form == "evenodd":
            one_list = RoPE(self.head_dim, self.base).inv_freq
            inv_freq = np.concatenate([one_list[::2], one_list[1::2]])
        else:
            inv_freq = np.tile(RoPE(self.head_dim // 2, self.base).inv_freq, 2)
        inv_freq.setflags(write=False)
        return inv_freq

    def cos_sin(self, positions: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Tables:
        """Tables for `refrope.rotate`: cos and sin of every pair's angle.

        Parameters
        ----------
        positions : (..., T, 2) int64
            Row and column of every patch, as from `grid_positions`.
        dtype : float64, float32 or float16, of the tables

        Returns
        -------
        cos, sin : (..., T, pairs)

        Raises
        ------
        ValueError
            Positions that are not integers, or not two for each token; another dtype.
        """
        ids = _as_ids(self.name, positions, 2, "row and column")
        return _by_axis(partial(tables.cos_sin, self.inv_freq, dtype=dtype), ids, self.axes)


def grid_positions(height: int, width: int, start: int = 0) -> IntArray:
    """Row and column of every patch of an image, row by row.

    Parameters
    ----------
    height, width : int >= 0
        In patches.
    start : int
        Id of the first row and the first column: `Axial2D.first_id`.

    Returns
    -------
    (height * width, 2) int64, with ``(start + i // width, start + i % width)`` in row i.

    Raises
    ------
    ValueError
        A size that is not an integer >= 0; a start that is not an integer.
    """
    rows = check_integer("grid_positions", "height", height, 0)
    columns = check_integer("grid_positions", "width", width, 0)
    first = check_integer("grid_positions", "start", start, -(2**62), 2**62)
    return np.indices((rows, columns), dtype=np.int64).reshape(2, -1).T + first


def _as_ids(name: str, positions: npt.ArrayLike, count: int, what: str) -> IntArray:
    """`positions` as int64 (..., T, count), or an error."""
    ids = tables.as_positions(positions, integers_only=True)
    if ids.ndim < 2 or ids.shape[-1] != count:
        wanted = f"(..., T, {count}): {what} of each token"
        raise ValueError(f"{name}.cos_sin: positions are {describe(ids)}, expected {wanted}")
    return ids


def _by_axis(tables_of: Callable[..., Tables], ids: IntArray, axes: IntArray) -> Tables:
    """Each pair's columns from the tables of its own axis."""
    each = [tables_of(ids[..., axis]) for axis in range(ids.shape[-1])]
    cos, sin = (np.empty_like(table) for table in each[0])
    for axis, (own_cos, own_sin) in enumerate(each):
        pairs = axes == axis
        cos[..., pairs], sin[..., pairs] = own_cos[..., pairs], own_sin[..., pairs]
    return cos, sin
