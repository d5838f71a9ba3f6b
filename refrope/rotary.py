"""Turn the feature pairs of queries and keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.arrays import check_like, check_results
from refrope.errors import check_name, describe
from refrope.tables import PeriodTables, as_positions

LAYOUTS = ("half", "interleaved")
Array = npt.NDArray[Any]


def rotate(
    x: Array,
    cos: Array,
    sin: Array,
    *,
    layout: str = "half",
    transpose: bool = False,
    suffix: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Turn each feature pair of `x` by its tabulated angle: ``y = R x``.

    Pair j at row i: (a, b) -> (a cos - b sin, a sin + b cos).

    Parameters
    ----------
    x : (..., T, D) float32 or float64, D even
    cos, sin : (T, r/2) with r <= D, dtype of `x`; the attention factor is already in them
        Features beyond r are left as they are (partial rotation).
    layout : {"half", "interleaved"}
        Which two of the r features are pair j: (j, j + r/2) or (2j, 2j + 1).
    transpose : bool
        Apply R^T: the backward pass, dx = R^T dy. It is the inverse only when the attention factor is 1.
    suffix : bool
        Turn the last r features instead of the first.
    out : array like `x`, optional
        Where to write; any writable view, which may be `x` itself or overlap it.

    Returns
    -------
    (..., T, D), dtype of `x`; a new array unless `out` is given.

    Raises
    ------
    ValueError
        D odd, a table's shape or dtype not fitting `x`, unknown `layout`.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, Eq. 34. C twin: rr_rotate_f32 in csrc/rotary.c, equal bit for bit.
    """
    start = check_rotate(x, cos, sin, layout, suffix, out)
    first, second = pair_slices(layout, start, cos.shape[-1])
    a, b = x[..., first], x[..., second]
    s = -sin if transpose else sin
    turned = a * cos - b * s, a * s + b * cos  # before anything is written: y may be x
    y = np.empty_like(x) if out is None else out
    if y is not x:
        y[...] = x
    y[..., first], y[..., second] = turned
    return y


def rotate_periodic(
    x: Array,
    positions: npt.ArrayLike,
    tables: PeriodTables,
    *,
    layout: str = "half",
    transpose: bool = False,
    suffix: bool = False,
    out: Array | None = None,
) -> Array:
    """`rotate` with tables that hold one period of every pair: row t of `x` is at ``positions[t]``.

    Parameters
    ----------
    x : (..., T, D) float32 or float64, D even
    positions : (T,) int64, any of them
    tables : PeriodTables of `x`'s dtype, as from `Resonance.period_tables`
    layout, transpose, suffix, out : as in `rotate`

    Returns
    -------
    (..., T, D), equal bit for bit to ``rotate(x, *encoding.cos_sin(positions, x.dtype))``.

    Raises
    ------
    ValueError
        As in `rotate`; positions that are not T integers.

    References
    ----------
    Wang et al. 2024, arXiv:2403.00071, Theorem 1. C twin: rr_rotate_periodic_f32 in csrc/rotary.c.
    """
    places, _ = check_periodic(x, positions, tables, layout, suffix, out)
    entries = tables.starts + np.mod(places[:, None], tables.periods)
    cos, sin = tables.cos[entries], tables.sin[entries]
    return rotate(x, cos, sin, layout=layout, transpose=transpose, suffix=suffix, out=out)


def pair_slices(layout: str, start: int, pairs: int) -> tuple[slice, slice]:
    """The first and the second members of all pairs, as slices of the feature axis."""
    end = start + 2 * pairs
    if layout == "half":
        return slice(start, start + pairs), slice(start + pairs, end)
    return slice(start, end, 2), slice(start + 1, end, 2)


def rotation_matrix(
    cos: Array, sin: Array, *, head_dim: int | None = None, layout: str = "half", suffix: bool = False
) -> Array:
    """The matrices R that `rotate` applies, written out: for teaching and as an oracle, not for speed.

    Parameters
    ----------
    cos, sin : (T, r/2)
    head_dim : int, optional
        D; r if None.
    layout, suffix : as in `rotate`

    Returns
    -------
    (T, D, D), with ``rotate(x, cos, sin)[t] == R[t] @ x[t]``.
    """
    rows, pairs = cos.shape
    features = 2 * pairs if head_dim is None else head_dim
    start = check_rotate(np.empty((rows, features), cos.dtype), cos, sin, layout, suffix, None)
    first, second = (np.arange(features)[s] for s in pair_slices(layout, start, pairs))
    matrix = np.broadcast_to(np.eye(features, dtype=cos.dtype), (rows, features, features)).copy()
    matrix[:, first, first] = matrix[:, second, second] = cos
    matrix[:, second, first] = sin
    matrix[:, first, second] = -sin
    return matrix


def check_rotate(
    x: Array, cos: Array, sin: Array, layout: str, suffix: bool, out: Array | None, function: str = "rotate"
) -> int:
    """Raise unless the arguments of `rotate` fit each other; the first feature that turns."""
    if not isinstance(x, np.ndarray) or x.ndim < 2 or x.dtype not in (np.float32, np.float64):
        raise ValueError(f"{function}: x is {describe(x)}, expected float32 or float64 (..., T, D)")
    rows, features = x.shape[-2:]
    if features % 2:
        raise ValueError(f"{function}: x is {describe(x)}, expected an even number of features, not {features}")
    for name, table in (("cos", cos), ("sin", sin)):
        fits = isinstance(table, np.ndarray) and table.dtype == x.dtype and table.ndim == 2 and len(table) == rows
        if not fits or 2 * table.shape[1] > features:
            wanted = f"{x.dtype}({rows}, r/2) with r <= {features} for x of shape {x.shape}"
            raise ValueError(f"{function}: {name} is {describe(table)}, expected {wanted}")
    if cos.shape != sin.shape:
        raise ValueError(f"{function}: sin is {describe(sin)}, expected {describe(cos)} like cos")
    check_name(function, "layout", layout, LAYOUTS)
    if out is not None:
        check_like(function, "out", out, x, "x")
        check_results(function, out=out)
    return features - 2 * cos.shape[1] if suffix else 0


def check_periodic(
    x: Array, positions: npt.ArrayLike, tables: PeriodTables, layout: str, suffix: bool, out: Array | None
) -> tuple[npt.NDArray[np.int64], int]:
    """Raise unless the arguments of `rotate_periodic` fit each other; positions and the first feature that turns."""
    places = as_positions(positions, integers_only=True)
    if not isinstance(x, np.ndarray) or x.ndim < 2 or places.shape != x.shape[-2:-1]:
        wanted = "(T,) for x (..., T, D)"
        raise ValueError(f"rotate_periodic: positions are {describe(places)} for x {describe(x)}, expected {wanted}")
    rows = np.broadcast_to(tables.cos[:1], (len(places), len(tables.periods)))  # of the shape that rotate would take
    return places, check_rotate(x, rows, rows, layout, suffix, out, "rotate_periodic")
