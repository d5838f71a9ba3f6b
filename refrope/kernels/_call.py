"""From NumPy arrays to the pointers and strides that the C kernels take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.kernels._native_loader import native
from refrope.kernels.threads import run_ranges

Array = npt.NDArray[Any]
_C_TYPES = {np.dtype(np.float32): ("f32", "float *"), np.dtype(np.float64): ("f64", "double *")}


def kernel(name: str, dtype: np.dtype[Any]) -> Callable[..., int]:
    """The C function rr_<name>_f32 or _f64."""
    _, lib = native()
    if dtype not in _C_TYPES:
        raise ValueError(f"{name}: the arrays are {dtype}, expected float32 or float64")
    function: Callable[..., int] = getattr(lib, f"rr_{name}_{_C_TYPES[dtype][0]}")
    return function


def pointer(array: Array) -> Any:
    """Where the array's first element lies, as a C pointer of its dtype."""
    ffi, _ = native()
    return ffi.cast(_C_TYPES[array.dtype][1], array.ctypes.data)


def slices_of(array: Array) -> Array:
    """`array` (..., T, D) as (batch, head, T, D) with adjacent features: a view where strides allow, else a copy."""
    if array.strides[-1] != array.itemsize and array.shape[-1] > 1:
        array = np.ascontiguousarray(array)
    if array.ndim > 4:
        return array.reshape(math.prod(array.shape[:-3]), *array.shape[-3:])
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def element_strides(slices: Array) -> list[int]:
    """Strides of the axes batch, head and row, in elements."""
    return [stride // slices.itemsize for stride in slices.strides[:3]]


def run(function: Callable[..., int], arguments: tuple[Any, ...], count: int, name: str) -> None:
    """Call ``function(*arguments, first, last)`` over [0, count), spread over the threads."""
    if count and any(run_ranges(lambda first, last: function(*arguments, first, last), count)):
        raise ValueError(f"{name}: the C kernel refused the sizes it was given")
