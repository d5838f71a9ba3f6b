"""What an array must be for a kernel to write to it, and which arrays share memory.

The rule for all kernels and their NumPy twins: an input may be any view, read-only too. A result that the caller
provides may lie anywhere and overlap inputs in any way: what it then holds is what it would hold without the overlap.
It must be writable, and no two elements of results may share memory; otherwise nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from refrope.errors import describe

Array = npt.NDArray[Any]
AnyArray = TypeVar("AnyArray", bound=Array)
REALS = (np.dtype(np.float32), np.dtype(np.float64))
# Candidates that NumPy tries to find an element which two arrays share. Views of one buffer need a handful.
_TRIES = 100_000


def is_real(array: object, axes: int | None = None) -> bool:
    """True for an array of float32 or float64 in the machine's byte order, with that many axes if a number is given."""
    return isinstance(array, np.ndarray) and array.dtype in REALS and (axes is None or array.ndim == axes)


def check_like(function: str, name: str, array: object, like: Array, what: str) -> None:
    """Raise unless `array` has the shape and dtype of `like`, which is the argument called `what`."""
    if not isinstance(array, np.ndarray) or array.shape != like.shape or array.dtype != like.dtype:
        raise ValueError(f"{function}: {name} is {describe(array)}, expected {describe(like)} like {what}")


def check_shape(function: str, name: str, array: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise unless `array` has that shape and dtype."""
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{function}: {name} is {describe(array)}, expected {dtype}{shape}")


def check_results(function: str, **results: Array | None) -> None:
    """Raise unless each element of the results that are given can be written without changing another one."""
    given = [(name, array) for name, array in results.items() if array is not None]
    for name, array in given:
        check_writable(function, name, array)
        if not array.flags.c_contiguous and not distinct(zip(array.shape, array.strides, strict=True), array.itemsize):
            wanted = "elements that share no memory"
            raise ValueError(f"{function}: {name} has the strides {array.strides}, expected {wanted}")
    for (name, array), (other, one) in combinations(given, 2):
        if overlap(array, one):
            raise ValueError(f"{function}: {name} and {other} share memory, expected results that do not")


def check_writable(function: str, name: str, array: Array) -> None:
    """Raise where `array` is read-only."""
    if not array.flags.writeable:
        raise ValueError(f"{function}: {name} is read-only, expected an array to write to")


def distinct(axes: Iterable[tuple[int, int]], itemsize: int) -> bool:
    """True where no two elements share memory, of an array whose axes have these (sizes, strides in bytes).

    Sure for all slices, transposes and reshapes of an ordinary array; False for some arrays that no such view is.
    """
    sizes = list(axes)
    if any(size == 0 for size, _ in sizes):
        return True
    reach = itemsize
    for stride, size in sorted((abs(stride), size) for size, stride in sizes if size > 1):
        if stride < reach:
            return False
        reach += (size - 1) * stride
    return True


def overlap(a: Array, b: Array) -> bool:
    """True where the arrays have a byte in common, and where finding out would take long."""
    if not np.may_share_memory(a, b):  # their extents alone, which is fast
        return False
    try:
        return np.shares_memory(a, b, max_work=_TRIES)  # type: ignore[arg-type]
    except RuntimeError:  # NumPy's TooHardError, which has moved between its modules
        return True


def in_the_way(result: Array, inputs: Iterable[Array | None]) -> bool:
    """True where writing to an element of `result` changes an input anywhere but at the same place."""
    for array in inputs:
        if array is not None and array is not result and overlap(result, array):
            same_form = array.shape == result.shape and array.strides == result.strides and array.dtype == result.dtype
            if not same_form or array.ctypes.data != result.ctypes.data:
                return True
    return False


def put(values: AnyArray, out: AnyArray | None) -> AnyArray:
    """`values` in `out`; `values` itself where there is no `out`."""
    if out is None:
        return values
    if out is not values:
        out[...] = values
    return out
