"""Train a transformer on PosGen sequences: AdamW, one-cycle schedule, cross-entropy on generated tokens only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.errors import check_integer, check_number
from refrope.evaluate import accuracy_by_position, on_replicas, sequence_parts, split_accuracy
from refrope.nn.attending import Rotation, rotation_of
from refrope.nn.dropout import site_seed
from refrope.nn.optim import AdamW, OneCycle
from refrope.nn.transformer import Transformer
from refrope.posgen import Dataset, inputs_and_targets
from refrope.randomness import bit_source, permutation
from refrope.train_positions import TrainPositions


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Parameters
    ----------
    epochs, batch_size : int
        The last batch of an epoch may be smaller.
    learning_rate : float
        The peak of the one-cycle schedule.
    warmup : float
        Share of the steps up to the peak.
    weight_decay : float
    front_token : bool
        Put the front token before each sequence.
    watched : int
        How many validation sequences are tested after each epoch, for the progress display and the training curves;
        nothing is chosen by them.
    positions : TrainPositions
        Which positions the tokens of a training sequence have: 0, 1, 2, ... unless said otherwise.
    frozen : tuple of str
        Patterns of names of weights, such as "layers.*.feed_forward.*", that keep every bit that they begin with: no
        step and no weight decay touches them.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    front_token: bool = True
    watched: int = 128
    positions: TrainPositions | None = None
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("epochs", "batch_size", "watched"):
            check_integer("TrainSettings", name, getattr(self, name), 1)
        check_number("TrainSettings", "learning_rate", self.learning_rate, "a finite number > 0", 0.0, above=True)
        check_number("TrainSettings", "weight_decay", self.weight_decay, "a finite number >= 0", 0.0)


@dataclass
class History:
    """What happened in training: one entry an epoch, but `step_seconds`, the median over all steps."""

    loss: list[float] = field(default_factory=list)
    id_accuracy: list[float] = field(default_factory=list)
    ood_accuracy: list[float] = field(default_factory=list)
    step_seconds: float = math.nan


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
) -> float:
    """Forward, backward, AdamW: one step on a batch (B, T); its loss, the mean over the tokens that `loss_mask` marks.

    Raises
    ------
    FloatingPointError
        The loss is NaN or infinite; the weights are as before the step.
    """
    weights = np.broadcast_to(loss_mask.astype(model.dtype), inputs.shape)
    total = float(weights.sum(dtype=np.float64))
    parts = sequence_parts(*inputs.shape)
    gradients = optimizer.gradients(len(parts))

    def work(replica: Transformer, part: int, rows: slice) -> float:
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
                replica.backward(dlogits, out=gradients[part])
        return loss

    loss = sum(on_replicas(model, parts, work))
    if not math.isfinite(loss):
        raise FloatingPointError(f"train: the loss is {loss} at step {optimizer.step}; try a smaller learning rate")
    settings = optimizer.settings(learning_rate, beta1)
    model.ops.adamw_update(model.flat_params, optimizer.moment1, optimizer.moment2, gradients, settings)
    return loss


def frozen_weights(model: Transformer, patterns: Sequence[str]) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """(view, copy) of every weight whose name fits a pattern: writing the copies back undoes what a step did to them.

    Raises
    ------
    ValueError
        A pattern that fits no weight.
    """
    names = {pattern: [name for name in model.params if fnmatchcase(name, pattern)] for pattern in patterns}
    for pattern, found in names.items():
        if not found:
            raise ValueError(f"train: frozen is {pattern!r}, expected a pattern of weights of the model")
    return [(model.params[name], model.params[name].copy()) for name in dict.fromkeys(chain(*names.values()))]


def _of_sequences(tables: Rotation, rows: slice) -> Rotation:
    """The tables of some sequences, where each has its own."""
    if tables is None or not isinstance(tables[0], np.ndarray) or tables[0].ndim < 3:
        return tables
    return tables[0][rows], tables[1][rows]


def train(
    model: Transformer,
    encoding: RotaryEncoding | PositionMap | None,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    seed: int,
    on_step: Callable[[float], None] = lambda loss: None,
    on_epoch: Callable[[History], None] = lambda history: None,
) -> History:
    """Train `model` in place with the positions of `encoding`.

    Parameters
    ----------
    encoding : RotaryEncoding, PositionMap, or None where queries and keys do not turn
    seed : int
        Of the order of the sequences and of dropout.
    on_step, on_epoch : callables
        Told the loss of each step, and the history after each epoch.

    Returns
    -------
    History

    Raises
    ------
    FloatingPointError
        The loss or the weights became NaN or infinite.
    ValueError
        Settings that do not fit the model or the encoding.
    """
    batch = inputs_and_targets(
        dataset.train, front_token=settings.front_token, modulus=dataset.modulus, j=dataset.j, k=dataset.k
    )
    length = batch.inputs.shape[1]
    places = settings.positions or TrainPositions()
    places.check(model.config, encoding, length)
    tables, positions = rotation_of(encoding, length, model.dtype), None
    steps_per_epoch = -(-len(dataset.train) // settings.batch_size)
    schedule = OneCycle(settings.learning_rate, settings.epochs * steps_per_epoch, settings.warmup)
    optimizer = AdamW(model.flat_params.size, model.dtype, settings.weight_decay)
    source, draws = bit_source(seed, "order of training sequences"), bit_source(seed, "positions of training tokens")
    history, seconds, frozen = History(), [], frozen_weights(model, settings.frozen)
    for _ in range(settings.epochs):
        losses = []
        order = permutation(source, len(dataset.train))
        for first in range(0, len(order), settings.batch_size):
            rows = order[first : first + settings.batch_size]
            began = time.perf_counter()
            if settings.positions is not None:
                positions = places.drawn(draws, len(rows), length)
                tables = rotation_of(encoding, length, model.dtype, positions)
                positions = positions if positions.ndim == 1 else None  # a sequence's own are in the tables alone
            loss = train_step(
                *(model, optimizer, batch.inputs[rows], batch.targets[rows], batch.loss_mask, tables),
                *schedule.at(optimizer.step),
                positions=positions,
                dropout_seed=site_seed(seed, optimizer.step),
            )
            for weight, start in frozen:
                weight[...] = start
            seconds.append(time.perf_counter() - began)
            losses.append(loss)
            on_step(loss)
        if not np.isfinite(model.flat_params).all():
            raise FloatingPointError("train: weights became NaN or infinite; try a smaller learning rate")
        watched = accuracy_by_position(
            *(model, encoding, dataset, dataset.validation[: settings.watched]),
            front_token=settings.front_token,
            places=settings.positions,
            seed=seed,
        )
        inside, beyond = split_accuracy(watched, dataset.train_length)
        history.loss.append(float(np.mean(losses)))
        history.id_accuracy.append(inside)
        history.ood_accuracy.append(beyond)
        history.step_seconds = float(np.median(seconds))
        on_epoch(history)
    return history
