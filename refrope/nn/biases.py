"""Position biases: numbers added to the scaled attention scores that depend on the distance from query to key.

ALiBi has no weights, T5's bias has one table for all layers, Kerple has two numbers for each head of each layer. FIRE
(refrope.nn.fire) and DAPE (refrope.nn.dape) build on the same interface. A bias is a frozen dataclass without arrays;
its weights live in the model and are passed in. Distances of pairs that causal attention masks are negative: they
count as 0, and what their entries hold does not matter.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_name, check_number
from refrope.nn.bias_checks import Shapes, check_gradient, check_weights, clamped
from refrope.randomness import BitSource, normal_numbers, uniform_numbers

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Bias:
    """What every position bias is.

    Attributes
    ----------
    shared : bool
        True: one set of weights serves all layers. False: each layer has its own.
    of_distance : bool
        True: a value depends on the distance alone, so a table by distance is all that attention needs
        (`refrope.nn.distance_bias`). False: on the query's position as well.
    """

    shared: ClassVar[bool] = False
    of_distance: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The variant's name, for messages and tables."""
        return type(self).__name__

    def shapes(self, heads: int) -> Shapes:
        """Name and shape of every weight."""
        raise NotImplementedError

    def initial(self, heads: int, source: BitSource) -> dict[str, Array]:
        """Weights to start training from, float64, drawn from `source` (`refrope.randomness.bit_source`)."""
        raise NotImplementedError

    def forward(
        self, weights: Mapping[str, Array], heads: int, distances: Array, queries: Array | None = None
    ) -> Array:
        """The bias of every head at every distance.

        Parameters
        ----------
        weights : float32 or float64 arrays by name, as `shapes` says
        heads : int >= 1
        distances : (...) of integers
            Tokens from the query back to the key; below 0 counts as 0.
        queries : integers that broadcast to `distances`, optional
            The positions of the queries. Only a bias that is not `of_distance` looks at them.

        Returns
        -------
        (heads, ...)
            float64; FIRE's in the dtype of its weights.

        Raises
        ------
        ValueError
            Weights that do not fit `heads`, distances that are not integers.
        """
        raise NotImplementedError

    def backward(
        self,
        dvalues: Array,
        weights: Mapping[str, Array],
        heads: int,
        distances: Array,
        queries: Array | None = None,
    ) -> dict[str, Array]:
        """The gradient of every weight, given that of the values, (heads, ...).

        The other arguments are those of the forward call. Gradients have the shape and dtype of their weights. The
        entries of masked pairs must be 0, as `attention_backward` leaves them.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ALiBi(Bias):
    """Attention with linear biases: ``-slope distance``, a fixed slope for each head. No weights.

    BLOOM adds ``slope * key position`` instead. That is ``slope * query position`` more, the same for all keys of a
    query, and softmax does not see it: other bias values, the same attention.

    References
    ----------
    Press et al. 2022, arXiv:2108.12409; heads that are no power of two: the authors' released code.
    """

    def shapes(self, heads: int) -> Shapes:
        """No weights."""
        return {}

    def initial(self, heads: int, source: BitSource) -> dict[str, Array]:
        """No weights; nothing is drawn."""
        return {}

    def slopes(self, heads: int) -> Array:
        """``2**(-8 h / heads)`` for h = 1 to `heads`, float64 (heads,).

        That is for a power of two. Otherwise the slopes of the largest power of two below come first, then every
        second one (the first, the third, ...) of those for twice that power.
        """
        check_integer("ALiBi.slopes", "heads", heads, 1)
        power = 2 ** (int(heads).bit_length() - 1)
        exponents = [8 * h / power for h in range(1, power + 1)] + [4 * h / power for h in range(1, 2 * power, 2)]
        return 2.0 ** -np.array(exponents[:heads])

    def forward(
        self, weights: Mapping[str, Array], heads: int, distances: Array, queries: Array | None = None
    ) -> Array:
        """``-slope distance``, float64 (heads, ...)."""
        check_weights(f"{self.name}.forward", weights, heads, self.shapes)
        away = clamped(f"{self.name}.forward", distances)
        return -_per_head(self.slopes(heads), away) * away

    def backward(
        self,
        dvalues: Array,
        weights: Mapping[str, Array],
        heads: int,
        distances: Array,
        queries: Array | None = None,
    ) -> dict[str, Array]:
        """No weights, no gradients."""
        check_weights(f"{self.name}.backward", weights, heads, self.shapes)
        check_gradient(self.name, dvalues, heads, clamped(f"{self.name}.backward", distances))
        return {}


@dataclass(frozen=True)
class T5Bias(Bias):
    """T5's relative bias: one learned number for each bucket of distances and each head, shared by all layers.

    The first half of the buckets holds one distance each. The others widen geometrically up to `max_distance`; the
    last one holds all distances beyond. This is the causal form, of T5's decoder.

    Parameters
    ----------
    num_buckets : int >= 2
    max_distance : int > num_buckets // 2
    deviation : float >= 0
        Of the normal distribution that the table starts from. T5 starts it with d_model^-0.5; the default is that for
        the 128 of preset tiny.

    Notes
    -----
    T5's formula is ``half + floor(ln(n / half) / ln(max_distance / half) * (num_buckets - half))`` in floating point,
    which may fall one bucket short where the exact value is an integer. The bounds here are exact, by integer powers.

    References
    ----------
    Raffel et al. 2020, arXiv:1910.10683, Section 2.1, and its released code. T5 scales no scores: softmax_scale is 1.
    """

    num_buckets: int = 32
    max_distance: int = 128
    deviation: float = 128**-0.5

    shared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("T5Bias", "num_buckets", self.num_buckets, 2)
        check_integer("T5Bias", "max_distance", self.max_distance, self.num_buckets // 2 + 1)
        check_number("T5Bias", "deviation", self.deviation, "a finite number >= 0", 0.0)

    def shapes(self, heads: int) -> Shapes:
        """``table``: (num_buckets, heads)."""
        return {"table": (self.num_buckets, check_integer("T5Bias.shapes", "heads", heads, 1))}

    def initial(self, heads: int, source: BitSource) -> dict[str, Array]:
        """Normal numbers times `deviation`."""
        shape = self.shapes(heads)["table"]
        return {"table": normal_numbers(source, math.prod(shape)).reshape(shape) * self.deviation}

    def buckets(self, distances: Array) -> Array:
        """The bucket of each distance, integers in [0, num_buckets)."""
        bounds = np.array(_lower_bounds(self.num_buckets, self.max_distance))
        return np.searchsorted(bounds, clamped(f"{self.name}.buckets", distances), side="right")

    def forward(
        self, weights: Mapping[str, Array], heads: int, distances: Array, queries: Array | None = None
    ) -> Array:
        """``table[bucket(distance)]``, float64 (heads, ...)."""
        check_weights(f"{self.name}.forward", weights, heads, self.shapes)
        buckets = self.buckets(clamped(f"{self.name}.forward", distances))
        return np.ascontiguousarray(weights["table"].T.astype(np.float64)[:, buckets])

    def backward(
        self,
        dvalues: Array,
        weights: Mapping[str, Array],
        heads: int,
        distances: Array,
        queries: Array | None = None,
    ) -> dict[str, Array]:
        """The gradient of a bucket is the sum over the distances in it."""
        check_weights(f"{self.name}.backward", weights, heads, self.shapes)
        buckets = self.buckets(clamped(f"{self.name}.backward", distances))
        check_gradient(self.name, dvalues, heads, buckets)
        sums = [np.bincount(buckets.ravel(), row.ravel(), minlength=self.num_buckets) for row in dvalues]
        return {"table": np.stack(sums, axis=1).astype(weights["table"].dtype)}  # values = table.T[:, buckets]


@lru_cache
def _lower_bounds(num_buckets: int, max_distance: int) -> tuple[int, ...]:
    """The least distance of every bucket from 1 on.

    Bucket half + k begins where (n / half)^rest >= (max_distance / half)^k, both sides times half^rest.
    """
    half = num_buckets // 2
    rest = num_buckets - half
    powers = [half ** (rest - k) * max_distance**k for k in range(1, rest)]
    return (*range(1, half + 1), *(bisect_left(range(max_distance), power, key=lambda n: n**rest) for power in powers))


@dataclass(frozen=True)
class Kerple(Bias):
    """Kernelized relative bias: ``-p ln(1 + a distance)``, or ``-a distance^p``, with p and a of each head learned.

    Parameters
    ----------
    form : {"log", "power"}

    Notes
    -----
    The letters are those of the authors' code: p and a change places between the forms. Both weights count as at
    least 0.01, and the exponent of form "power" as at most 2. The authors' code moves a weight that is beyond a bound
    onto it before each use. Here a weight is left alone: its bound is used in its place, and the gradient, taken
    there, passes straight on, so that the weight can come back. One that starts within the bounds trains as in the
    authors' code until it first leaves them.

    References
    ----------
    Chi et al. 2022, arXiv:2205.09921, Eq. 4 and 5, and the authors' code (bounds and initial values).
    """

    form: str = "log"

    LEAST: ClassVar[float] = 0.01
    MOST: ClassVar[float] = 2.0  # of the exponent: beyond, the kernel is no longer conditionally positive definite

    def __post_init__(self) -> None:
        """Check the field."""
        check_name("Kerple", "form", self.form, ("log", "power"))

    def shapes(self, heads: int) -> Shapes:
        """``p`` and ``a``: (heads,) each."""
        heads = check_integer("Kerple.shapes", "heads", heads, 1)
        return {"p": (heads,), "a": (heads,)}

    def initial(self, heads: int, source: BitSource) -> dict[str, Array]:
        """Uniform numbers: p below 2, a below 1."""
        shapes = self.shapes(heads)
        return {"p": 2 * uniform_numbers(source, *shapes["p"]), "a": uniform_numbers(source, *shapes["a"])}

    def forward(
        self, weights: Mapping[str, Array], heads: int, distances: Array, queries: Array | None = None
    ) -> Array:
        """``-p ln(1 + a distance)`` or ``-a distance^p``, float64 (heads, ...)."""
        check_weights(f"{self.name}.forward", weights, heads, self.shapes)
        away = clamped(f"{self.name}.forward", distances)
        p, a = self._bounded(weights, away)
        values: Array = -p * np.log1p(a * away) if self.form == "log" else -a * away**p
        return values

    def backward(
        self,
        dvalues: Array,
        weights: Mapping[str, Array],
        heads: int,
        distances: Array,
        queries: Array | None = None,
    ) -> dict[str, Array]:
        """Sums over the distances; a weight beyond a bound has the gradient at the bound."""
        check_weights(f"{self.name}.backward", weights, heads, self.shapes)
        away = clamped(f"{self.name}.backward", distances)
        check_gradient(self.name, dvalues, heads, away)
        p, a = self._bounded(weights, away)
        if self.form == "log":
            by_p = -np.log1p(a * away)  # values = -p log1p(a away)
            by_a = -p * away / (1 + a * away)  # values = -p log1p(a away)
        else:
            by_a = -(away**p)  # values = -a away^p
            by_p = a * by_a * np.log(np.maximum(away, 1))  # values = -a away^p, 0 at distance 0 for every p
        return {
            name: (dvalues * by).reshape(heads, -1).sum(axis=1).astype(weights[name].dtype)
            for name, by in (("p", by_p), ("a", by_a))
        }

    def _bounded(self, weights: Mapping[str, Array], away: Array) -> tuple[Array, Array]:
        """P and a within their bounds, float64, with the axes to multiply distances."""
        most = self.MOST if self.form == "power" else math.inf
        p = np.clip(weights["p"].astype(np.float64), self.LEAST, most)
        return _per_head(p, away), _per_head(np.maximum(weights["a"].astype(np.float64), self.LEAST), away)


def _per_head(numbers: Array, away: Array) -> Array:
    """(heads,) as (heads, 1, ...), to be combined with distances of any shape."""
    return numbers.reshape(-1, *[1] * away.ndim)
