"""Hold a backward pass to differences of its forward pass, along random directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.randomness import bit_source, normal_numbers

Array = npt.NDArray[Any]


def gradient_error(
    loss: Callable[[Mapping[str, Array]], float],
    inputs: Mapping[str, Array],
    gradients: Mapping[str, Array],
    *,
    directions: int = 3,
    step: float = 1e-3,
    seed: int = 0,
) -> float:
    """The largest relative error of a gradient, over inputs and random directions.

    For each input x and direction u of unit length, ``<dx, u>`` is compared with the five-point difference of
    ``loss(x + t u)``, whose own error is of order step^4. The error is relative to the gradient's length.

    Parameters
    ----------
    loss : callable from inputs by name to a float
    inputs : float64 arrays by name; not written to
    gradients : arrays like the inputs, by the same names; those that are left out are not checked
    directions : int, of each input
    step : float, as a length in the space of an input
    seed : int, of the directions

    Returns
    -------
    float; NaN counts as infinite
    """
    source = bit_source(seed, "directions of a gradient check")
    worst = 0.0
    for name, gradient in gradients.items():
        for _ in range(directions):
            direction = normal_numbers(source, gradient.size).reshape(gradient.shape)
            direction /= np.linalg.norm(direction)
            near, far = (
                (_at(loss, inputs, name, t * direction) - _at(loss, inputs, name, -t * direction)) / (2 * t)
                for t in (step, 2 * step)
            )
            difference = (4 * near - far) / 3
            scale = max(float(np.linalg.norm(gradient)), 1e-300)
            error = abs(float(np.sum(gradient * direction)) - difference) / scale
            worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def _at(loss: Callable[[Mapping[str, Array]], float], inputs: Mapping[str, Array], name: str, change: Array) -> float:
    return loss({**inputs, name: inputs[name] + change})
