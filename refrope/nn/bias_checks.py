"""What the arguments of position biases must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.arrays import is_real
from refrope.errors import check_integer, check_number, describe

Array = npt.NDArray[Any]
Shapes = dict[str, tuple[int, ...]]


def clamped(function: str, distances: Array) -> Array:
    """The distances with 0 in place of what is below, or an error unless they are integers."""
    if not isinstance(distances, np.ndarray) or distances.dtype.kind not in "iu":
        raise ValueError(f"{function}: distances is {describe(distances)}, expected an array of integers")
    return np.asarray(np.maximum(distances, 0))


def check_weights(function: str, weights: Mapping[str, Array], heads: int, shapes: Callable[[int], Shapes]) -> None:
    """Raise unless the weights have the shapes that the bias wants for so many heads, all of one dtype."""
    check_integer(function, "heads", heads, 1)
    check_named(function, weights, shapes(heads))


def check_named(function: str, weights: Mapping[str, Array], shapes: Shapes) -> None:
    """Raise unless there is a float32 or float64 array of each name and shape, all of one dtype."""
    first = None
    for name, shape in shapes.items():
        weight = weights.get(name)
        if weight is None or not is_real(weight) or weight.shape != shape:
            wanted = f"float32 or float64{shape}"
            raise ValueError(f"{function}: weights[{name!r}] is {describe(weight)}, expected {wanted}")
        first = first or name
        if weight.dtype != weights[first].dtype:
            wanted = f"{weights[first].dtype} like weights[{first!r}]"
            raise ValueError(f"{function}: weights[{name!r}] is {describe(weight)}, expected {wanted}")


def check_gradient(name: str, dvalues: Array, heads: int, away: Array) -> None:
    """Raise unless there is one number for each head and distance."""
    wanted = (heads, *away.shape)
    if not is_real(dvalues) or dvalues.shape != wanted:
        expected = f"float32 or float64{wanted}"
        raise ValueError(f"{name}.backward: dvalues is {describe(dvalues)}, expected {expected}")


def check_slope(function: str, negative_slope: float) -> None:
    """Raise unless ReLU, LeakyReLU or what lies between them and the identity has this slope below 0."""
    wanted = "a number in [0, 1]"
    if check_number(function, "negative_slope", negative_slope, wanted, 0.0) > 1:
        raise ValueError(f"{function}: negative_slope is {negative_slope!r}, expected {wanted}")
