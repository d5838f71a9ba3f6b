"""What a model makes of long windows of text: the loss of every token, read a piece at a time with a KV cache.

    windows (n, T + 1) ──► pieces of CHUNK tokens ──► logits ──► nats a token (n, T)

Memory is linear in the length. A position map has no cache, since its queries see keys turned in several ways: it reads
each window as a whole.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import RotaryEncoding, Tables
from refrope.encodings.position_map import PositionMap
from refrope.errors import describe
from refrope.evaluate import PART_TOKENS, on_replicas
from refrope.nn.attending import Rotation, rotation_of
from refrope.nn.biases import Bias
from refrope.nn.configuration import TransformerConfig
from refrope.nn.memory import KVCache
from refrope.nn.transformer import Transformer

CHUNK = 512  # tokens of a window that are read together
# A bias that is no table by distance is computed for each query and key, by an MLP with dozens of values a pair.
PAIRWISE_CHUNK = 32

IntArray = npt.NDArray[Any]


def token_losses(
    model: Transformer,
    encoding: RotaryEncoding | PositionMap | None,
    windows: IntArray,
    *,
    together: int | None = None,
) -> npt.NDArray[np.float64]:
    """The loss of every token of each window but its first, given those before it in the window.

    Parameters
    ----------
    model : Transformer
    encoding : RotaryEncoding, PositionMap, or None where queries and keys do not turn
        Taken in its form for the length of the windows.
    windows : (n, T + 1) ints
    together : int, optional
        Windows that go through the model together, on one thread: about `refrope.evaluate.PART_TOKENS` tokens if None.
        Large models have logits and caches of which one is enough.

    Returns
    -------
    (n, T) float64, nats; the same bits for any number of threads

    Raises
    ------
    FloatingPointError
        A loss is NaN or infinite.
    ValueError
        Windows of another shape.
    """
    fits = isinstance(windows, np.ndarray) and windows.ndim == 2 and windows.shape[1] > 1 and len(windows)
    if not fits:
        raise ValueError(f"token_losses: windows are {describe(windows)}, expected integers (n, T + 1), n and T >= 1")
    length = windows.shape[1] - 1
    rotation = rotation_of(encoding, length, model.dtype)
    chunk, usual = _sizes(model, encoding, length)
    together = usual if together is None else together
    parts = [slice(first, min(first + together, len(windows))) for first in range(0, len(windows), together)]
    losses = np.empty((len(windows), length))

    def work(replica: Transformer, _: int, rows: slice) -> None:
        inputs, targets = windows[rows, :-1], windows[rows, 1:]
        cache = None if chunk == length else KVCache(model.config, len(inputs), length, model.dtype)
        for start in range(0, length, chunk):
            piece = slice(start, start + chunk)
            tables = rotation if cache is None else _piece_of(rotation, piece)
            logits = replica.forward(inputs[:, piece], tables, cache=cache)
            losses[rows, piece] = _losses(logits, targets[:, piece])

    on_replicas(model, parts, work)
    if not np.isfinite(losses).all():
        raise FloatingPointError("token_losses: a loss is NaN or infinite, expected finite weights")
    return losses


def _sizes(model: Transformer, encoding: RotaryEncoding | PositionMap | None, length: int) -> tuple[int, int]:
    """How many tokens of a window are read together, and of how many windows."""
    bias = model.config.bias
    if isinstance(encoding, PositionMap):
        chunk = length
    elif bias is None or (isinstance(bias, Bias) and bias.of_distance):
        chunk = min(length, CHUNK)
    else:
        return min(length, PAIRWISE_CHUNK), 1
    return chunk, max(1, PART_TOKENS // chunk)


def _piece_of(rotation: Rotation, piece: slice) -> Rotation:
    if rotation is None:
        return None
    cos, sin = cast(Tables, rotation)
    return cos[piece], sin[piece]


def _losses(logits: npt.NDArray[Any], targets: IntArray) -> npt.NDArray[np.float64]:
    """``log sum exp(logits) - logits[target]``; overwrites the logits."""
    with np.errstate(invalid="ignore", over="ignore"):
        highest = logits.max(axis=-1, keepdims=True)
        logits -= highest
        right = np.take_along_axis(logits, targets[..., None].astype(np.int64), axis=-1)[..., 0].astype(np.float64)
        np.exp(logits, out=logits)
        answer: npt.NDArray[np.float64] = np.log(logits.sum(axis=-1, dtype=np.float64)) - right
    return answer


def losses_row(losses: npt.NDArray[np.float64], scored: int, size: int) -> dict[str, Any]:
    """What a row of results says of the losses of some windows.

    Parameters
    ----------
    losses : (n, T) float64
    scored : int
        The tokens at the end of each window that count.
    size : int
        Bytes of these.

    Returns
    -------
    dict
        Their loss, also in bits a byte, and by window; the loss of all tokens, also by position, `scored` together.
    """
    counted = losses[:, -scored:]
    bins = losses[:, : losses.shape[1] // scored * scored].reshape(len(losses), -1, scored)
    return {
        "loss": float(counted.mean()),
        "bits_per_byte": float(counted.sum() / size / math.log(2)),
        **{"tested_windows": len(losses), "tested_tokens": counted.size, "tested_bytes": size},
        "loss_by_window": counted.mean(axis=1).tolist(),
        "loss_by_position": bins.mean(axis=(0, 2)).tolist(),
        "loss_of_window": float(losses.mean()),
    }


def products(config: TransformerConfig, length: int) -> int:
    """Multiplications on a window's way through a model: its weights at each token, and pairs of tokens."""
    return length * (config.size() + config.layers * config.heads * config.head_dim * length)
