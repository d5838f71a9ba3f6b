"""From NumPy arrays to the pointers and strides that the C kernels take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.arrays import in_the_way, overlap
from refrope.kernels._native_loader import native
from refrope.kernels.threads import run_ranges

Array = npt.NDArray[Any]
_FAR = 2**40  # bytes
_C_TYPES = {np.dtype(np.float32): ("f32", "float"), np.dtype(np.float64): ("f64", "double")}


def kernel(name: str, dtype: np.dtype[Any]) -> Callable[..., int]:
    """The C function rr_<name>_f32 or _f64."""
    _, lib = native()
    if dtype not in _C_TYPES:
        raise ValueError(f"{name}: the arrays are {dtype}, expected float32 or float64")
    function: Callable[..., int] = getattr(lib, f"rr_{name}_{_C_TYPES[dtype][0]}")
    return function


def pointer(array: Array) -> Any:
    """Where the array's first element lies, as a C pointer of its dtype."""
    return _address(array, _C_TYPES[array.dtype][1])


def pointers(count: int, dtype: np.dtype[Any]) -> Any:
    """A C array of so many pointers to elements of `dtype`, NULL at first."""
    return native()[0].new(f"{_C_TYPES[dtype][1]} *[]", count)


def index_pointer(indices: Array) -> Any:
    """Where an int64 array's first element lies, as a C pointer."""
    return _address(indices, "int64_t")


def _address(array: Array, c_type: str) -> Any:
    ffi, _ = native()
    if array.flags.c_contiguous:
        return ffi.from_buffer(f"{c_type}[]", array)
    return ffi.cast(f"{c_type} *", array.ctypes.data)  # takes ten times as long


def readable(array: Array, dtype: npt.DTypeLike | None = None) -> Array:
    """`array` as flat, aligned memory, of another dtype if asked for: itself where it is that, else a copy."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned and (dtype is None or array.dtype == dtype):
        return array
    return np.array(array, dtype, order="C")


def target(
    out: Array | None, like: Array, *, over: Iterable[Array | None] = (), beside: Iterable[Array | None] = ()
) -> Array:
    """Where a kernel may write a result with the shape and dtype of `like`: `out`, or new memory.

    `over` are inputs that the kernel reads at an element's place before it writes there, `beside` those that must not
    change at all meanwhile. `refrope.arrays.put` then brings the result to `out`.
    """
    if out is None or not (out.flags.c_contiguous and out.flags.aligned):
        return np.empty(like.shape, like.dtype)
    if in_the_way(out, over) or any(other is not None and overlap(out, other) for other in beside):
        return np.empty(like.shape, like.dtype)
    return out


def in_place(array: Array, *, beside: Iterable[Array] = ()) -> Array:
    """`array` where a kernel may change it in place, else a copy, to be brought back with `refrope.arrays.put`."""
    usable = array.flags.c_contiguous and array.flags.aligned
    return array if usable and not any(overlap(array, other) for other in beside) else np.array(array, order="C")


def walkable(array: Array) -> bool:
    """True where C can walk an array by its strides: adjacent features, and the other strides whole elements."""
    if array.shape[-1] > 1 and array.strides[-1] != array.itemsize:
        return False
    return array.flags.aligned and all(stride % array.itemsize == 0 for stride in array.strides[:-1])


def slices_of(array: Array) -> Array:
    """`array` (..., T, D) as (batch, head, T, D) that C can walk: a view where strides allow, else a copy."""
    if not walkable(array):
        array = np.array(array, order="C")
    if array.ndim > 4:
        return array.reshape(math.prod(array.shape[:-3]), *array.shape[-3:])
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def element_strides(array: Array, axes: int = 3) -> list[int]:
    """Strides of the first axes (batch, head and row), in elements.

    An axis with one entry may have any number for a stride, which C would find too large.
    """
    return [
        stride // array.itemsize if size > 1 or abs(stride) < _FAR else 0
        for size, stride in zip(array.shape[:axes], array.strides[:axes], strict=True)
    ]


def run(function: Callable[..., int], arguments: tuple[Any, ...], count: int, name: str) -> None:
    """Call ``function(*arguments, first, last)`` over [0, count), spread over the threads."""
    if count and any(run_ranges(lambda first, last: function(*arguments, first, last), count)):
        raise ValueError(f"{name}: the C kernel refused the sizes it was given")
