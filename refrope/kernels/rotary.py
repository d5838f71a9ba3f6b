"""C twin of refrope.rotary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from refrope.arrays import in_the_way, overlap
from refrope.kernels._call import Array, element_strides, index_pointer, kernel, pointer, readable, run, slices_of
from refrope.rotary import check_periodic, check_rotate
from refrope.tables import PeriodTables


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
    """`refrope.rotary.rotate` in C: same arguments, same errors, the same bits."""
    start = check_rotate(x, cos, sin, layout, suffix, out)
    y = np.empty_like(x) if out is None else out
    source, target, in_y = _slices(x, y)
    place, cos, sin = pointer(source), _beside(target, cos), _beside(target, sin)
    batch, heads, rows, features = source.shape
    arguments = (
        *(place, element_strides(source)),
        *(place if target is source else pointer(target), element_strides(target)),
        *(pointer(cos), pointer(sin), max(heads, 1), rows, features, start, cos.shape[1]),
        *(layout == "interleaved", bool(transpose)),
    )
    run(kernel("rotate", x.dtype), arguments, batch * heads if x.size else 0, "rotate")
    if not in_y:
        y[...] = target.reshape(y.shape)
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
    """`refrope.rotary.rotate_periodic` in C: same arguments, same errors, the same bits."""
    places, start = check_periodic(x, positions, tables, layout, suffix, out)
    y = np.empty_like(x) if out is None else out
    source, target, in_y = _slices(x, y)
    places = readable(places)
    kept = [_beside(target, array) for array in (tables.cos, tables.sin, tables.starts, tables.periods)]
    batch, heads, rows, features = source.shape
    arguments = (
        *(pointer(source), element_strides(source), pointer(target), element_strides(target)),
        *(pointer(kept[0]), pointer(kept[1]), index_pointer(kept[2]), index_pointer(kept[3]), index_pointer(places)),
        *(batch, heads, features, start, len(tables.periods), layout == "interleaved", bool(transpose)),
    )
    run(kernel("rotate_periodic", x.dtype), arguments, rows if x.size else 0, "rotate_periodic")
    if not in_y:
        y[...] = target.reshape(y.shape)
    return y


def _slices(x: Array, y: Array) -> tuple[Array, Array, bool]:
    """`x` and `y` as C may walk them, and whether it then writes to `y`'s own memory.

    C writes to features that lie side by side and overlap nothing, unless source and target are the same array.
    """
    source = slices_of(x)
    if y is x:
        return source, source, np.may_share_memory(source, x)
    target = slices_of(y)
    if overlap(x, y):
        if in_the_way(y, [x]):
            return source, np.empty(target.shape, target.dtype), False
        return source, source, np.may_share_memory(source, y)
    return source, target, np.may_share_memory(target, y)


def _beside(target: Array, table: Array) -> Array:
    """`table` as C reads it, in memory of its own."""
    table = readable(table)
    return table.copy() if overlap(target, table) else table
