"""A learned number for each place of a position map: how much attention a place has, whatever the tokens there are.

A query's scores come from its token's embedding alone. Where a key has to be found by its place, each token of the
vocabulary learns for itself to look there, and some may never do. Numbers that are added to the scores by place alone
are learned once for all tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.encodings.position_map import PassTables
from refrope.errors import check_integer, check_number, describe
from refrope.nn.attention import distance_bias
from refrope.nn.bias_checks import Shapes, check_weights
from refrope.randomness import BitSource

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PlaceBias:
    r"""A number added to the scores for each head and effective position of a position map, ``rate table[h, place]``.

    Which numbers belong to a pass, `Pass.places` says: one for each distance within its window, or one for each key.
    Each layer has its own; all start at 0.

    Parameters
    ----------
    places : int >= 1
        Effective positions of the map.
    rate : float > 0
        AdamW's steps have the size of the learning rate, whatever a weight does: with a rate of 10 the numbers move
        ten times as quickly as weights do.

    References
    ----------
    Ours. T5's bias (Raffel et al. 2020, arXiv:1910.10683) is the same for distances in buckets.
    """

    places: int
    rate: float = 10.0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("PlaceBias", "places", self.places, 1)
        check_number("PlaceBias", "rate", self.rate, "a finite number > 0", 0.0, above=True)

    @property
    def name(self) -> str:
        """The variant's name, for messages and tables."""
        return type(self).__name__

    def shapes(self, heads: int) -> Shapes:
        """``table``: a number for each head and place."""
        return {"table": (heads, self.places)}

    def initial(self, heads: int, source: BitSource) -> dict[str, Array]:
        """Zeros; nothing is drawn."""
        return {"table": np.zeros((heads, self.places))}

    def forward(self, weights: Mapping[str, Array], heads: int) -> Array:
        """The bias of each head at each place, (heads, places), dtype of the weights."""
        check_weights(f"{self.name}.forward", weights, heads, self.shapes)
        table = weights["table"]
        values: Array = table * table.dtype.type(self.rate)
        return values

    def backward(self, dvalues: Array) -> dict[str, Array]:
        """The gradient of the table, given that of the values, (heads, places)."""
        return {"table": dvalues * dvalues.dtype.type(self.rate)}


def check_places(
    function: str, q: Array, passes: Sequence[PassTables], places: Array | None, dplaces: Array | None
) -> None:
    """Raise unless there is a number for each head of `q` and each place of the passes, and a gradient like it."""
    if dplaces is not None and places is None:
        raise ValueError(f"{function}: dplaces without places, expected both or none")
    if places is None:
        return
    if not all(p.places for p in passes):
        raise ValueError(f"{function}: places for passes that have none, expected those of a map with places")
    count = 1 + max(max(p.places) for p in passes)
    fits = isinstance(places, np.ndarray) and places.dtype == q.dtype and places.ndim == 2
    if not fits or places.shape[0] != q.shape[1] or places.shape[1] < count:
        wanted = f"{q.dtype}({q.shape[1]}, places) with at least {count} places"
        raise ValueError(f"{function}: places is {describe(places)}, expected {wanted}")
    if dplaces is not None and (dplaces.shape, dplaces.dtype) != (places.shape, places.dtype):
        raise ValueError(f"{function}: dplaces is {describe(dplaces)}, expected {describe(places)} like places")


def of_pairs(values: Array, p: PassTables, n_q: int, n_k: int) -> Array:
    """The numbers of places, (..., places), for all pairs of a pass, (..., n_q, n_k): a view, never n_q n_k numbers."""
    chosen = values[..., list(p.places)]
    if not p.causal:
        return np.broadcast_to(chosen[..., None, :], (*values.shape[:-1], n_q, n_k))
    table = np.zeros((*values.shape[:-1], n_k), values.dtype)
    seen = min(len(p.places), n_k)
    table[..., :seen] = chosen[..., :seen]
    return distance_bias(table, n_q, n_k)


def collector(p: PassTables, batch: int, heads: int, n_q: int, n_k: int, dtype: np.dtype[Any]) -> Array:
    """Zeros that sum up the gradients of all pairs of a pass by place: a `dbias` for `attention_backward`."""
    sums = np.zeros((batch, heads, n_k), dtype)
    if p.causal:
        return distance_bias(sums, n_q, n_k)
    view: Array = np.lib.stride_tricks.as_strided(sums, (batch, heads, n_q, n_k), (*sums.strides[:2], 0, sums.itemsize))
    return view


def add_collected(sums: Array, p: PassTables, collected: Array) -> None:
    """Add what a `collector` has to the gradients of places, (batch, heads, places)."""
    last = collected[..., -1, :]  # the last query's: by distance it descends to 0
    by_place = last[..., ::-1][..., : len(p.places)] if p.causal else last
    sums[..., list(p.places[: by_place.shape[-1]])] += by_place
