"""One step of a training: the parts of a batch go through replicas of the model, their gradients are added in order.

    Batch ──► parts (a replica of the model on a thread each) ──► gradients ──► their sum ──► AdamW ──► weights

Which weights train, patterns of names say.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from refrope.evaluate import on_replicas, sequence_parts
from refrope.kernels import parts_at_once
from refrope.nn.attending import ByLayer, LayerRotation, Rotation
from refrope.nn.optim import AdamW
from refrope.nn.transformer import Transformer

# Bytes of gradients up to which every part of a batch has its own. Above, as many as there are threads take turns; the
# order in which they are added is the same, and so are the bits.
GRADIENT_BYTES = 2**28


class Batch(NamedTuple):
    """What one step trains on.

    Attributes
    ----------
    inputs, targets : (B, T) ints
    loss_mask : (T,) or (B, T) bool
        The targets that count.
    tables : Rotation
    positions : (T,) ints, optional
        See `Transformer.forward`.
    """

    inputs: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    loss_mask: npt.NDArray[np.bool_]
    tables: Rotation
    positions: npt.NDArray[Any] | None = None


def train_step(
    model: Transformer,
    optimizer: AdamW,
    inputs: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    loss_mask: npt.NDArray[np.bool_],
    tables: Rotation,
    learning_rate: float,
    beta1: float,
    *,
    positions: npt.NDArray[Any] | None = None,
    dropout_seed: int | None = None,
    part_tokens: int | None = None,
    frozen: Collection[str] = frozenset(),
) -> float:
    """Forward, backward, AdamW: one step on a batch (B, T); its loss, the mean over the tokens that `loss_mask` marks.

    `part_tokens` is that of `refrope.evaluate.sequence_parts`: smaller parts take less memory. `frozen` are the names
    of weights that `optimizer` leaves as they are, whose gradients take no time.

    Raises
    ------
    FloatingPointError
        The loss is NaN or infinite; the weights are as before the step.
    """
    weights = np.broadcast_to(loss_mask.astype(model.dtype), inputs.shape)
    total = float(weights.sum(dtype=np.float64))
    parts = sequence_parts(len(inputs), inputs.shape[1], part_tokens)
    kept = gradients_kept(len(parts), model.flat_params.nbytes, parts_at_once())
    gradients = optimizer.gradients(kept)

    def work(memory: npt.NDArray[Any], replica: Transformer, number: int, rows: slice) -> float:
        ops = replica.ops
        # Whatever overflows ends in the loss, which is looked at.
        with np.errstate(over="ignore", invalid="ignore"):
            logits = replica.forward(
                *(inputs[rows], _of_sequences(tables, rows)),
                **{"positions": positions, "dropout_seed": dropout_seed, "first": rows.start, "keep": True},
            ).reshape(-1, model.config.vocabulary)
            counted, answers = weights[rows].ravel(), targets[rows].ravel()
            loss, probabilities = ops.cross_entropy_forward(logits, answers, counted, total=total, out=logits)
            if math.isfinite(loss):
                dlogits = ops.cross_entropy_backward(probabilities, answers, counted, total=total)
                replica.backward(dlogits, out=memory[number], skip=frozen)
        return loss

    losses: list[float] = []
    while len(losses) < len(parts):
        added = int(bool(losses))  # from the second round on the first gradient is the sum so far
        turn = parts[len(losses) : len(losses) + kept - added]
        losses += on_replicas(model, turn, partial(work, gradients[added:]))
        if kept < len(parts):
            with np.errstate(over="ignore", invalid="ignore"):
                for gradient in gradients[1 : added + len(turn)]:
                    gradients[0] += gradient
    loss = sum(losses)
    if not math.isfinite(loss):
        raise FloatingPointError(f"train: the loss is {loss} at step {optimizer.step}; try a smaller learning rate")
    optimizer.update(model.ops, model.flat_params, gradients[: 1 if kept < len(parts) else kept], learning_rate, beta1)
    return loss


def gradients_kept(parts: int, nbytes: int, threads: int) -> int:
    """How many gradients of `nbytes` a step holds; the first one's memory takes the sum where it is not one a part."""
    return parts if parts * nbytes <= GRADIENT_BYTES else min(parts, 1 + threads)


def _of_sequences(tables: Rotation, rows: slice) -> Rotation:
    """The tables of some sequences, where each has its own."""
    if isinstance(tables, ByLayer):
        return replace(tables, tables=tuple(cast(LayerRotation, _of_sequences(each, rows)) for each in tables.tables))
    if tables is None or not isinstance(tables[0], np.ndarray) or tables[0].ndim < 3:
        return tables
    return tables[0][rows], tables[1][rows]


def trained_spans(shapes: Mapping[str, tuple[int, ...]], frozen: Sequence[str]) -> tuple[slice, ...]:
    """Where among all weights those are whose names fit none of the patterns, neighbours taken together.

    `shapes` are those of `TransformerConfig.shapes`, in the order in which the weights lie in memory.

    Raises
    ------
    ValueError
        A pattern that fits no weight, or patterns that fit all.
    """
    names = frozen_names(shapes, frozen)
    spans: list[slice] = []
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape)
        if name in names:
            continue
        if spans and spans[-1].stop == start:
            start = spans.pop().start
        spans.append(slice(start, end))
    if not spans:
        raise ValueError(f"train: frozen is {', '.join(frozen)}, expected patterns that leave weights to train")
    return tuple(spans)


def frozen_names(shapes: Collection[str], frozen: Sequence[str]) -> frozenset[str]:
    """The names of weights that fit one of the patterns.

    Raises
    ------
    ValueError
        A pattern that fits no weight.
    """
    for pattern in frozen:
        if not any(fnmatchcase(name, pattern) for name in shapes):
            raise ValueError(f"train: frozen is {pattern!r}, expected a pattern of weights of the model")
    return frozenset(name for name in shapes if any(fnmatchcase(name, pattern) for pattern in frozen))
