"""C twin of refrope.rotary."""

from __future__ import annotations

import numpy as np

from refrope.kernels._call import Array, element_strides, kernel, pointer, run, slices_of
from refrope.rotary import check_rotate


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
    source, target = slices_of(x), slices_of(y)
    same_place = x.ctypes.data == y.ctypes.data and x.strides == y.strides
    if not np.shares_memory(target, y) or (np.may_share_memory(x, y) and not same_place):
        target = np.empty_like(target)  # C writes to features that lie side by side and overlap nothing else
    cos, sin = np.ascontiguousarray(cos), np.ascontiguousarray(sin)
    batch, heads, rows, features = source.shape
    arguments = (
        *(
            pointer(source),
            element_strides(source),
            pointer(target),
            element_strides(target),
            pointer(cos),
            pointer(sin),
        ),
        *(max(heads, 1), rows, features, start, cos.shape[1], layout == "interleaved", transpose),
    )
    run(kernel("rotate", x.dtype), arguments, batch * heads, "rotate")
    if not np.shares_memory(target, y):
        y[...] = target.reshape(y.shape)
    return y
