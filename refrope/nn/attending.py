"""Attention of a layer with all that may tell it positions: a rotation, a position map, a bias, a window.

    q, k ──► turned (rotation) ──► scores + bias (+ what DAPE makes of both) ──► softmax over the window ──► out

What a model has of these, its configuration and the caller's tables say; most models have one. Forward is directly
followed by backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.position_map import PassTables, PositionMap
from refrope.encodings.xpos import XPos
from refrope.errors import describe
from refrope.nn.attention import distance_bias, grouped, ungrouped
from refrope.nn.biases import Bias
from refrope.nn.dape import DAPE
from refrope.nn.mapped import mapped_backward, mapped_forward
from refrope.nn.place_bias import PlaceBias

Array = npt.NDArray[Any]
Tables = tuple[Array, Array]
# What turns queries and keys of a layer: cos and sin, (T, r/2) for all sequences or (B, T, r/2); the passes of a map;
# nothing.
LayerRotation = Tables | tuple[PassTables, ...] | None


@dataclass(frozen=True)
class ByLayer:
    """The rotation of each layer, where layers turn differently: one of `Transformer.forward`'s tables for each.

    Parameters
    ----------
    tables : tuple of at least one, as long as the model has layers
    rest : bool
        The last entry is that of all further layers, too: there may be fewer entries than layers.
    """

    tables: tuple[LayerRotation, ...]
    rest: bool = False

    def __post_init__(self) -> None:
        """Check the field."""
        if not isinstance(self.tables, tuple) or not self.tables:
            raise ValueError(f"ByLayer: tables are {describe(self.tables)}, expected a tuple, one entry for each layer")


Rotation = LayerRotation | ByLayer


@dataclass
class Saved:
    """What the backward pass needs of the forward pass, beside queries, keys and values (turned where they turn)."""

    out: Array
    lse: Array
    bias: Array | None = None
    mixed: Any = None


@dataclass
class Attending:
    """Attention for one call of a model, the same for all of its layers but for their weights.

    Parameters
    ----------
    ops : refrope.kernels or refrope.nn.backends.NumpyOps
    rotation : Rotation
    bias : Bias, DAPE or None
    window : int or None
    queries, keys : (T_q,), (T_k,) ints
        Positions, for a bias.
    consecutive : bool
        Positions go up by one from token to token: a bias of the distance alone is a table by distance then.
    """

    ops: Any
    rotation: Rotation
    bias: Bias | DAPE | PlaceBias | None
    window: int | None
    queries: Array
    keys: Array
    consecutive: bool = True
    _places_of_pairs: dict[str, Array] = field(default_factory=dict, repr=False)  # shared by all layers

    # ---- rotation ----

    def check_layers(self, function: str, layers: int) -> None:
        """Raise ValueError where there are tables for another number of layers."""
        if isinstance(self.rotation, ByLayer) and not self.rotation.rest and len(self.rotation.tables) != layers:
            came = f"ByLayer of {len(self.rotation.tables)}"
            raise ValueError(f"{function}: tables are {came}, expected one for each of {layers} layers")

    def of_layer(self, layer: int) -> Attending:
        """Attention of one layer, with the rotation that it has."""
        if not isinstance(self.rotation, ByLayer):
            return self
        tables = self.rotation.tables
        return replace(self, rotation=tables[min(layer, len(tables) - 1)])

    @property
    def mapped(self) -> bool:
        """True where a layer has a position map."""
        return any(_is_map(each) for each in layers_of(self.rotation))

    @property
    def passes(self) -> tuple[PassTables, ...] | None:
        """Those of a position map, where there is one in the place of a rotation."""
        return cast("tuple[PassTables, ...]", self.rotation) if _is_map(self.rotation) else None

    def turn(self, qk: Array, *, transpose: bool = False) -> None:
        """Turn queries and keys (B, heads, T, D) in place, or their gradients with `transpose`."""
        if self.rotation is None or self.passes is not None:
            return
        cos, sin = cast(Tables, self.rotation)
        if cos.ndim == 3:  # positions of its own for each sequence: all rows of all sequences in one line
            cos, sin = (table.reshape(-1, table.shape[-1]) for table in (cos, sin))
            lines = np.swapaxes(qk, 0, 1).reshape(qk.shape[1], len(cos), qk.shape[3])
            assert not lines.size or np.may_share_memory(lines, qk), "expected rows of sequences one after another"
            self.ops.rotate(lines, cos, sin, transpose=transpose, out=lines)
        else:
            self.ops.rotate(qk, cos, sin, transpose=transpose, out=qk)

    # ---- the whole ----

    def forward(
        self, q: Array, k: Array, v: Array, weights: Mapping[str, Array], settings: dict[str, Any], out: Array
    ) -> Saved:
        """Attention of `q` (B, H, T_q, D), `k` and `v` (B, H_kv, T_k, D), which `turn` has turned, into `out`.

        Parameters
        ----------
        weights : those of the bias, by name
        settings : scale, dropout, seed, first_slice of `refrope.nn.attention_forward`

        Returns
        -------
        Saved
        """
        if self.passes is not None:
            places = self._numbers_of_places(weights, q.shape[1])
            return Saved(*mapped_forward(self.ops, q, k, v, self.passes, **settings, out=out, places=places))
        bias, mixed = None, None
        if self.bias is not None:
            bias = self._bias_forward(weights, q.shape[1], q.dtype)
            if isinstance(self.bias, DAPE):
                products = ungrouped(grouped(q, k) @ np.swapaxes(k, -1, -2)[:, :, None])
                scores = products * q.dtype.type(settings["scale"])
                extra, mixed = self.bias.mix_forward(weights, scores, bias)
                extra += bias
                bias = extra
        out, lse = self.ops.attention_forward(q, k, v, bias=bias, window=self.window, **settings, out=out)
        return Saved(out, lse, bias, mixed)

    def weights(self, q: Array, k: Array, weights: Mapping[str, Array], settings: dict[str, Any]) -> Array:
        """What each query gives to each key, (B, H, T_q, T_k), for the arguments of `forward`.

        Attention is linear in the values: with unit vectors in their place it returns its own weights, whatever turned
        the queries and keys or was added to the scores.
        """
        keys, size = k.shape[2:]
        given = np.empty((*q.shape[:3], keys), q.dtype)
        for first in range(0, keys, size):  # as many keys at a time as a value has features
            units = np.broadcast_to(np.eye(keys, size, -first, dtype=q.dtype), k.shape)
            out = self.forward(q, k, units, weights, settings, np.empty(q.shape, q.dtype)).out
            given[..., first : first + size] = out[..., : keys - first]
        return given

    def backward(
        self,
        dout: Array,
        q: Array,
        k: Array,
        v: Array,
        saved: Saved,
        weights: Mapping[str, Array],
        settings: dict[str, Any],
        grads: tuple[Array, Array, Array],
        weight_grads: Mapping[str, Array],
    ) -> None:
        """Write the gradients of q, k and v to `grads`; add those of the bias's weights to `weight_grads`."""
        if self.passes is not None:
            places = self._numbers_of_places(weights, q.shape[1])
            dplaces = None if places is None or not weight_grads else np.zeros_like(places)
            mapped_backward(
                *(self.ops, dout, q, k, v, saved.out, saved.lse, self.passes),
                **settings,
                grads=grads,
                places=places,
                dplaces=dplaces,
            )
            if dplaces is not None and isinstance(self.bias, PlaceBias):
                for name, gradient in self.bias.backward(dplaces).items():
                    weight_grads[name][...] += gradient
            return
        dview, dbias = self._gradient_of_bias(q, k) if weight_grads else (None, None)
        self.ops.attention_backward(
            *(dout, q, k, v, saved.out, saved.lse),
            **settings,
            bias=saved.bias,
            window=self.window,
            dbias=dview,
            grads=grads,
        )
        if dview is None:
            return
        assert self.bias is not None
        if isinstance(self.bias, DAPE):
            # bias = extra + values, extra = mix(scores, values), scores = scale q k^T
            dscores, dvalues, mix_grads = self.bias.mix_backward(dview, saved.mixed, weights)
            dvalues += dview.sum(axis=0)
            dscores *= q.dtype.type(settings["scale"])
            of_group = grouped(dscores, k)
            grads[0][...] += ungrouped(of_group @ k[:, :, None])
            grads[1][...] += (np.swapaxes(of_group, -1, -2) @ grouped(q, k)).sum(axis=2)
        elif dbias is None:
            dvalues, mix_grads = dview.sum(axis=0), {}
        else:
            dvalues, mix_grads = dview[..., -1, ::-1].sum(axis=0), {}  # the sums by distance
        for name, gradient in (self._bias_backward(dvalues, weights, q.shape[1]) | mix_grads).items():
            weight_grads[name][...] += gradient

    # ---- bias ----

    def _numbers_of_places(self, weights: Mapping[str, Array], heads: int) -> Array | None:
        """What a map adds to the scores of each head at each place, where anything."""
        return self.bias.forward(weights, heads) if isinstance(self.bias, PlaceBias) else None

    def _by_distance(self) -> bool:
        return self.consecutive and isinstance(self.bias, Bias) and self.bias.of_distance

    def _places(self, *, all_pairs: bool) -> tuple[Array, Array]:
        """Distances that the bias is asked for, and the positions of the queries that go with them."""
        if not all_pairs:
            return np.arange(len(self.keys)), np.zeros(1, np.int64)
        if "distances" not in self._places_of_pairs:
            self._places_of_pairs["distances"] = self.queries[:, None] - self.keys
        return self._places_of_pairs["distances"], self.queries[:, None]

    def _inner(self) -> Bias:
        assert self.bias is not None
        assert not isinstance(self.bias, PlaceBias)
        return self.bias.bias if isinstance(self.bias, DAPE) else self.bias

    def _bias_forward(self, weights: Mapping[str, Array], heads: int, dtype: np.dtype[Any]) -> Array:
        """The bias of all pairs, (H, T_q, T_k); by distance as a view of a table, else with queries side by side."""
        inner = self._inner()
        distances, queries = self._places(all_pairs=not self._by_distance())
        values = inner.forward(_of(inner, weights, heads), heads, distances, queries)
        if self._by_distance():
            return distance_bias(values.astype(dtype), len(self.queries), len(self.keys))
        # C reads it by columns of queries: side by side in memory, they come as vectors.
        return np.swapaxes(np.ascontiguousarray(np.swapaxes(values, -1, -2), dtype), -1, -2)

    def _bias_backward(self, dvalues: Array, weights: Mapping[str, Array], heads: int) -> dict[str, Array]:
        inner = self._inner()
        distances, queries = self._places(all_pairs=not self._by_distance())
        return inner.backward(dvalues, _of(inner, weights, heads), heads, distances, queries)

    def _gradient_of_bias(self, q: Array, k: Array) -> tuple[Array, Array | None]:
        """Zeros that collect the gradient of all pairs (B, H, T_q, T_k), and those that they are a view of, if any."""
        batch, heads, n_q, _ = q.shape
        n_k = k.shape[2]
        if self._by_distance():
            table = np.zeros((batch, heads, n_k), q.dtype)
            view = distance_bias(table, n_q, n_k)
            return view, table
        return np.zeros((batch, heads, n_k, n_q), q.dtype).swapaxes(-1, -2), None


def layers_of(rotation: Rotation) -> tuple[LayerRotation, ...]:
    """The rotations of the layers; the only one where all have the same."""
    return rotation.tables if isinstance(rotation, ByLayer) else (rotation,)


def _is_map(rotation: Rotation) -> bool:
    return isinstance(rotation, tuple) and len(rotation) > 0 and isinstance(rotation[0], PassTables)


def _of(inner: Bias, weights: Mapping[str, Array], heads: int) -> dict[str, Array]:
    """The weights that belong to the bias itself, without DAPE's."""
    return {name: weights[name] for name in inner.shapes(heads)}


def check_positions(function: str, positions: Array | None, length: int, start: int) -> tuple[Array, bool]:
    """Positions of `length` tokens, start, start + 1, ... if None; and whether they go up by one.

    Raises
    ------
    ValueError
        Not `length` integers >= 0 that rise.
    """
    if positions is None:
        return np.arange(start, start + length), True
    fits = isinstance(positions, np.ndarray) and positions.dtype.kind in "iu" and positions.shape == (length,)
    if not fits or (length and positions[0] < 0) or (np.diff(positions) <= 0).any():
        raise ValueError(f"{function}: positions are {describe(positions)}, expected ({length},) rising integers >= 0")
    return positions.astype(np.int64), bool((np.diff(positions) == 1).all())


def check_one_rotation(who: str, encoding: RotaryEncoding | PositionMap) -> None:
    """Raise for xPos, whose queries and keys have tables of their own: models have one pair for both."""
    if isinstance(encoding, RotaryEncoding) and isinstance(encoding.innermost, XPos):
        raise ValueError(f"{who}: {encoding.name} turns queries and keys differently, expected one rotation for both")


def rotation_of(
    encoding: RotaryEncoding | PositionMap | None,
    length: int,
    dtype: npt.DTypeLike,
    positions: Array | None = None,
    *,
    reach: int | None = None,
) -> Rotation:
    """What turns the queries and keys of `length` tokens: the tables of an encoding or map in its form for the length.

    `ByLayer` for a map that differs from the second layer on.

    Parameters
    ----------
    encoding : RotaryEncoding, PositionMap, or None where nothing turns
    length : int
    dtype : float32 or float64
    positions : (..., length) ints, optional; 0 to length - 1 if None
        The encoding is taken in its form for the largest of them. Not for a map.
    reach : int, optional
        How many positions these are drawn from: the form for all of them then, which is the same for every draw.

    Raises
    ------
    ValueError
        Positions and a map; an encoding that turns queries and keys differently.
    """
    if encoding is None:
        return None
    check_one_rotation("rotation_of", encoding)
    if isinstance(encoding, PositionMap):
        if positions is not None:
            raise ValueError(f"rotation_of: positions and the map {encoding.name}, expected a map of 0 to {length - 1}")
        form = encoding.for_length(length)
        first = form.tables(length, dtype)
        return first if form.later is form else ByLayer((first, form.later.tables(length, dtype)), rest=True)
    if positions is None:
        return encoding.for_length(length).cos_sin(np.arange(length), dtype)
    longest = int(positions.max(initial=-1)) + 1 if reach is None else reach
    return encoding.for_length(max(length, longest)).cos_sin(positions, dtype)
