"""The only place where an angle meets cos and sin.

Angles are float64; cos and sin are taken in float64 and rounded once, to the dtype asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import describe

TABLE_DTYPES = (np.float64, np.float32, np.float16)
# NumPy's vector loops may treat the last few elements of an array apart. Filled up to a multiple of this many, equal
# angles have equal bits wherever they stand, which is what makes Resonance's tables repeat bit for bit.
_VECTOR_ELEMENTS = 64


def as_positions(positions: npt.ArrayLike, *, integers_only: bool = False) -> npt.NDArray[Any]:
    """`positions` as an int64 or float64 array.

    Raises
    ------
    ValueError
        Not numbers, not finite, beyond int64, or (with `integers_only`) not of an integer type.
    """
    places = np.asarray(positions)
    wanted = "int64 values" if integers_only else "int64 or finite float values"
    if places.size == 0 and not isinstance(positions, np.ndarray):
        places = places.astype(np.int64)  # an empty list says nothing about its type
    if places.dtype.kind in "iu":
        if places.dtype.kind == "u" and places.size and int(places.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"cos_sin: positions hold {places.max()}, beyond int64's 2^63 - 1")
        return places.astype(np.int64)
    if places.dtype.kind != "f" or integers_only:
        raise ValueError(f"cos_sin: positions are {describe(places)}, expected {wanted}")
    places = places.astype(np.float64)
    if not np.isfinite(places).all():
        raise ValueError(f"cos_sin: positions hold {places[~np.isfinite(places)][0]}, expected {wanted}")
    return places


def table_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """`dtype` as NumPy's; ValueError unless tables may have it."""
    try:
        kind = np.dtype(dtype)
    except TypeError:  # such as "bfloat16", which is none of NumPy's
        kind = None
    if kind not in TABLE_DTYPES:
        shown = dtype if kind is None else kind
        raise ValueError(f"cos_sin: dtype is {shown}, expected float64, float32 or float16")
    return np.dtype(dtype)


def cos_sin(
    inv_freq: npt.NDArray[np.float64],
    positions: npt.ArrayLike,
    *,
    dtype: npt.DTypeLike = np.float32,
    attention_factor: float | npt.NDArray[np.float64] = 1.0,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Tables of ``position * inv_freq``: float64 angles, cast once.

    Parameters
    ----------
    inv_freq : (pairs,) float64, radians per token
    positions : (...) int64 or finite float, tokens
    dtype : float64, float32 or float16, of the result
    attention_factor : float, or an array that broadcasts to (..., pairs)
        Multiplies both tables before they are rounded.

    Returns
    -------
    cos, sin : (..., pairs) of `dtype`

    Notes
    -----
    Before the attention factor a float32 entry is within 2^-25 + 4 * 2^-53 * |position| * inv_freq + 2^-50 of the exact
    value: rounding to float32, then the float64 roundings of position, inv_freq and their product, then cos itself.
    """
    places = as_positions(positions).astype(np.float64)
    return _cos_sin_of_angles(places[..., None] * inv_freq, dtype, attention_factor)


def periodic_cos_sin(
    periods: npt.NDArray[np.int64],
    positions: npt.ArrayLike,
    *,
    dtype: npt.DTypeLike = np.float32,
    attention_factor: float | npt.NDArray[np.float64] = 1.0,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Tables of whole-number periods: the phase is ``(position mod period) / period`` of a turn, mod in integers.

    Parameters
    ----------
    periods : (pairs,) int64, tokens; 0 for a pair that stands still
    positions : (...) int64, tokens
    dtype, attention_factor : as in `cos_sin`

    Returns
    -------
    cos, sin : (..., pairs) of `dtype`
        Entries at positions that differ by a multiple of a pair's period are equal bit for bit, over all of int64.
        Before the attention factor a float32 entry is within 2^-25 + 2^-32 of the exact value at every position.
    """
    return _cos_sin_of_angles(2 * np.pi * periodic_turns(periods, positions), dtype, attention_factor)


def periodic_turns(periods: npt.NDArray[np.int64], positions: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """``(position mod period) / period``, float64 (..., pairs) in [0, 1); 0 where the period is 0."""
    places = as_positions(positions, integers_only=True)
    divisors = np.maximum(periods, 1)
    result: npt.NDArray[np.float64] = np.mod(places[..., None], divisors) / divisors
    return result


@dataclass(frozen=True, eq=False)
class PeriodTables:
    """One period of every pair, for `refrope.rotary.rotate_periodic`; the arrays are made read-only.

    Parameters
    ----------
    cos, sin : (entries,) float64, float32 or float16
        Pair j's entry for position p is at ``starts[j] + p mod periods[j]``. The attention factor is in them.
    starts, periods : (pairs,) int64, periods >= 1

    Raises
    ------
    ValueError
        Arrays of other shapes or types, or a pair whose entries lie outside `cos`.
    """

    cos: npt.NDArray[Any]
    sin: npt.NDArray[Any]
    starts: npt.NDArray[np.int64]
    periods: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check once that every look-up stays within the arrays."""
        for name in ("cos", "sin", "starts", "periods"):
            if not isinstance(getattr(self, name), np.ndarray):
                raise ValueError(f"PeriodTables: {name} is {describe(getattr(self, name))}, expected an array")
        if self.cos.ndim != 1 or self.sin.shape != self.cos.shape or self.sin.dtype != self.cos.dtype:
            raise ValueError(
                f"PeriodTables: cos is {describe(self.cos)}, sin {describe(self.sin)}, expected (entries,)"
            )
        for name, array in (("starts", self.starts), ("periods", self.periods)):
            if array.dtype != np.int64 or array.ndim != 1 or array.shape != self.periods.shape:
                raise ValueError(f"PeriodTables: {name} is {describe(array)}, expected int64 (pairs,)")
        inside = (self.starts >= 0) & (self.periods >= 1) & (self.periods <= len(self.cos) - self.starts)
        if not inside.all():
            pair = int(np.argmin(inside))
            place = f"{self.periods[pair]} entries from {self.starts[pair]} on"
            raise ValueError(f"PeriodTables: pair {pair} has {place}, expected at least 1 within {len(self.cos)}")
        for array in (self.cos, self.sin, self.starts, self.periods):
            array.setflags(write=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and pickles of read-only arrays can be written to, unless that is said again."""
        self.__dict__.update(state)
        self.__post_init__()


def period_tables(
    periods: npt.NDArray[np.int64], *, dtype: npt.DTypeLike = np.float32, attention_factor: float = 1.0
) -> PeriodTables:
    """The entries of `periodic_cos_sin` at positions 0 .. period - 1 of every pair, equal bit for bit.

    `periods` (pairs,) int64 as there; a pair that stands still has one entry.
    """
    counts = np.maximum(periods, 1)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    turns = np.concatenate([np.arange(count) / count for count in counts])
    return PeriodTables(*_cos_sin_of_angles(2 * np.pi * turns, dtype, attention_factor), starts, counts)


def _cos_sin_of_angles(
    angles: npt.NDArray[np.float64], dtype: npt.DTypeLike, attention_factor: float | npt.NDArray[np.float64]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    kind = table_dtype(dtype)
    flat = np.zeros(-(-angles.size // _VECTOR_ELEMENTS) * _VECTOR_ELEMENTS)
    flat[: angles.size] = angles.ravel()
    cos, sin = (
        (attention_factor * f(flat)[: angles.size].reshape(angles.shape)).astype(kind) for f in (np.cos, np.sin)
    )
    return cos, sin
