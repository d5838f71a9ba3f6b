"""What attention with a position map is, from the map's definition alone: what `refrope.nn.mapped` is held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.encodings.position_map import PositionMap
from refrope.nn.attention_checks import check_attention, check_length
from refrope.rotary import rotate

Array = npt.NDArray[Any]


def mapped_reference(
    q: Array,
    k: Array,
    v: Array,
    position_map: PositionMap,
    *,
    scale: float | None = None,
    places: Array | None = None,
) -> tuple[Array, Array]:
    """The same from the map's effective position alone, pair by pair and without passes: an oracle, not for speed.

    Parameters
    ----------
    q, k, v, scale, places : as in `mapped_forward`
    position_map : PositionMap

    Returns
    -------
    logits : (B, H, T, T)
        ``scale (R(f(i, j)) q_i) . k_j`` times the map's scale of query i, plus what is added at its place; -inf for
        keys that are not seen. A pair that counts twice has the log of the sum of both exponentials.
    out : (B, H, T, D)
    """
    scale = check_attention("mapped_reference", q, k, v, False, scale, 0.0, 0, 0, None).scale
    length = q.shape[2]
    check_length("mapped_reference", "k", k, length, "q")
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    logits = np.full((*q.shape[:3], length), -np.inf, q.dtype)
    for i in range(length):
        keys = np.arange(i + 1)
        keys = keys[~np.isnan(position_map.effective(i, keys))]  # the others are not seen
        factor = scale * float(position_map.query_scale(np.array([i]))[0])
        positions, again = position_map.effective(i, keys), position_map.second(i, keys)

        def scores_of(at: Array, seen: Array, i: int = i, factor: float = factor) -> Array:
            scores: Array = factor * _scores_at(position_map, at, q[:, :, i], k[:, :, seen])
            return scores if places is None else scores + places[:, at.astype(np.int64)]

        scores = scores_of(positions, keys)
        twice = ~np.isnan(again)
        if twice.any():
            scores[..., twice] = np.logaddexp(scores[..., twice], scores_of(again[twice], keys[twice]))
        logits[:, :, i, keys] = scores
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    weights /= weights.sum(axis=-1, keepdims=True)
    return logits, weights @ v


def _scores_at(position_map: PositionMap, places: Array, q: Array, k: Array) -> Array:
    """``(R(places[j]) q) . k_j`` for q (B, H, D) and k (B, H, n, D), with the amplitude of both."""
    if (places == np.rint(places)).all():
        places = places.astype(np.int64)
    encoding = position_map.encoding
    tables = (encoding.attention_factor * table for table in encoding.cos_sin(places, q.dtype))
    turned = rotate(np.broadcast_to(q[:, :, None], k.shape), *tables)
    scores: Array = (turned * k).sum(axis=-1)
    return scores
