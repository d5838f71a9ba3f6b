"""FIRE, a bias that a small network computes from a distance, relative to how far back the query can look.

Forward and backward go through the pairs in blocks, so that the hidden layer, `width` numbers for each pair, never
stands in memory as a whole. The backward pass computes it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_number, describe
from refrope.nn.bias_checks import Shapes, check_gradient, check_slope, check_weights, clamped
from refrope.nn.biases import Bias
from refrope.randomness import BitSource, uniform_numbers

Array = npt.NDArray[Any]
_BLOCK = 2**17  # numbers of the hidden layer that stand in memory at a time: 1 MB of float64


@dataclass(frozen=True)
class FIRE(Bias):
    """Functional interpolation: ``MLP(ln(|c| distance + 1) / (ln(|c| max(m, |multiplier| threshold) + 1) + 1e-6))``.

    m is the query's position, the largest distance it can look back: whatever the length, the network's input stays
    within [0, 1]. The network has one hidden layer with ReLU and one output for each head. c, multiplier and the
    network are learned; c starts at 0.1, multiplier at 1.

    Parameters
    ----------
    width : int >= 1, of the hidden layer
    threshold : float > 0
        Queries before it all divide by the same number. The authors' L; 512 // 2 in the code that was read.
    negative_slope : float in [0, 1]
        What the hidden layer multiplies negative numbers by. 0 is ReLU; DAPE's code has 0.01 where it mixes FIRE.

    References
    ----------
    Li et al. 2024, arXiv:2310.04418. Formula and constants were read in the code of DAPE (arXiv:2405.14722), not
    checked against the paper itself.
    """

    width: int = 32
    threshold: float = 256.0
    negative_slope: float = 0.0

    of_distance: ClassVar[bool] = False
    EPS: ClassVar[float] = 1e-6

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("FIRE", "width", self.width, 1)
        check_number("FIRE", "threshold", self.threshold, "a finite number > 0", 0.0, above=True)
        check_slope("FIRE", self.negative_slope)

    def shapes(self, heads: int) -> Shapes:
        """``c`` and ``multiplier`` (1,), and weight and bias of the layers ``in`` (1 -> width), ``out`` (-> heads)."""
        heads = check_integer("FIRE.shapes", "heads", heads, 1)
        return {
            "c": (1,),
            "multiplier": (1,),
            "in.weight": (self.width,),
            "in.bias": (self.width,),
            "out.weight": (heads, self.width),
            "out.bias": (heads,),
        }

    def initial(self, heads: int, source: BitSource) -> dict[str, Array]:
        """PyTorch's defaults for the layers, uniform within ±1 / sqrt(inputs), in the order of `shapes`."""
        weights = {"c": np.array([0.1]), "multiplier": np.array([1.0])}
        for name, shape in self.shapes(heads).items():
            if name not in weights:
                bound = (1 if name.startswith("in") else self.width) ** -0.5
                weights[name] = bound * (2 * uniform_numbers(source, math.prod(shape)).reshape(shape) - 1)
        return weights

    def forward(
        self, weights: Mapping[str, Array], heads: int, distances: Array, queries: Array | None = None
    ) -> Array:
        """The values in the dtype of the weights, (heads, ...); the logarithms are float64. Needs `queries`."""
        check_weights(f"{self.name}.forward", weights, heads, self.shapes)
        away = clamped(f"{self.name}.forward", distances)
        values = np.empty((heads, away.size), weights["c"].dtype)
        for part, inputs in self._blocks("forward", weights, away, queries):
            hidden = self._hidden(weights, inputs.x)
            activated = np.maximum(hidden, hidden * hidden.dtype.type(self.negative_slope))
            values[:, part] = weights["out.weight"] @ activated + weights["out.bias"][:, None]
        return values.reshape(heads, *away.shape)

    def backward(
        self,
        dvalues: Array,
        weights: Mapping[str, Array],
        heads: int,
        distances: Array,
        queries: Array | None = None,
    ) -> dict[str, Array]:
        """Sums over the pairs, block by block, collected in float64."""
        check_weights(f"{self.name}.backward", weights, heads, self.shapes)
        away = clamped(f"{self.name}.backward", distances)
        check_gradient(self.name, dvalues, heads, away)
        grads = {name: np.zeros(shape) for name, shape in self.shapes(heads).items()}
        rows = dvalues.reshape(heads, -1)
        for part, inputs in self._blocks("backward", weights, away, queries):
            dpart = rows[:, part].astype(weights["c"].dtype, copy=False)
            hidden = self._hidden(weights, inputs.x)
            slopes = np.where(hidden > 0, hidden.dtype.type(1), hidden.dtype.type(self.negative_slope))
            grads["out.weight"] += dpart @ (hidden * slopes).T  # values = out.weight @ activated + out.bias
            grads["out.bias"] += dpart.sum(axis=1)  # values = out.weight @ activated + out.bias
            dhidden = (weights["out.weight"].T @ dpart) * slopes  # activated = hidden * slopes
            grads["in.weight"] += dhidden @ inputs.x.astype(hidden.dtype)  # hidden = in.weight x + in.bias
            grads["in.bias"] += dhidden.sum(axis=1)  # hidden = in.weight x + in.bias
            dx = (weights["in.weight"] @ dhidden).astype(np.float64)  # hidden = in.weight x + in.bias
            self._inputs_backward(grads, dx, weights, inputs)
        return {name: gradient.astype(weights[name].dtype) for name, gradient in grads.items()}

    def _blocks(
        self, function: str, weights: Mapping[str, Array], away: Array, queries: Array | None
    ) -> Iterator[tuple[slice, _Inputs]]:
        """The pairs in blocks: which of all pairs, counted through, and what the network is given for them."""
        fits = isinstance(queries, np.ndarray) and queries.dtype.kind in "iu"
        try:
            positions = np.broadcast_to(queries, away.shape) if fits else None  # type: ignore[arg-type]
        except ValueError:
            positions = None
        if positions is None:
            wanted = f"integers that broadcast to the distances, {away.shape}"
            raise ValueError(f"{self.name}.{function}: queries is {describe(queries)}, expected {wanted}")
        step = max(_BLOCK // self.width, 1)
        for start in range(0, away.size, step):
            part = slice(start, start + step)
            yield part, _Inputs(self, weights, away.flat[part], positions.flat[part])

    def _hidden(self, weights: Mapping[str, Array], x: Array) -> Array:
        """The hidden layer before its activation, (width, pairs)."""
        x = x.astype(weights["in.weight"].dtype)
        hidden: Array = weights["in.weight"][:, None] * x + weights["in.bias"][:, None]
        return hidden

    def _inputs_backward(
        self, grads: dict[str, Array], dx: Array, weights: Mapping[str, Array], inputs: _Inputs
    ) -> None:
        """Add the gradients of c and multiplier, given that of x; each line answers one of `_Inputs`."""
        c, multiplier = (float(weights[name][0]) for name in ("c", "multiplier"))
        dtop = dx / inputs.bottom  # x = top / bottom
        dbottom = -dx * inputs.x / inputs.bottom  # x = top / bottom
        dreach = dbottom * abs(c) / (1 + abs(c) * inputs.reach)  # bottom = log1p(|c| reach) + EPS
        dsize = np.sum(dbottom * inputs.reach / (1 + abs(c) * inputs.reach))  # bottom = log1p(|c| reach) + EPS
        dsize += np.sum(dtop * inputs.away / (1 + abs(c) * inputs.away))  # top = log1p(|c| away)
        grads["c"] += np.sign(c) * dsize  # |c|
        # Half of the gradient where the two are equal, as PyTorch has it.
        chosen = np.sum(dreach * np.heaviside(inputs.limit - inputs.queries, 0.5))  # reach = max(queries, limit)
        grads["multiplier"] += np.sign(multiplier) * self.threshold * chosen  # limit = |multiplier| threshold


class _Inputs:
    """The network's input x for some pairs, float64, and what it is made of."""

    def __init__(self, fire: FIRE, weights: Mapping[str, Array], away: Array, queries: Array) -> None:
        c, multiplier = (abs(float(weights[name][0])) for name in ("c", "multiplier"))
        self.away, self.queries = away, queries
        self.limit = multiplier * fire.threshold
        self.reach = np.maximum(queries, self.limit)
        self.bottom = np.log1p(c * self.reach) + fire.EPS
        self.x: Array = np.log1p(c * away) / self.bottom
