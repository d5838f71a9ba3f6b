"""Train a transformer on PosGen sequences: AdamW, one-cycle schedule, cross-entropy on generated tokens only."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, cast

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


@dataclass
class TrainState:
    """Where a training is between two steps: all that decides how it goes on, and what it has told so far.

    Attributes
    ----------
    step : int
        Steps done.
    weights, moment1, moment2 : (number of weights,) of the model's dtype
    order, draws : dict
        The state of the bit generators of the order of sequences, before the epoch in work, and of positions.
    losses : list of float
        Of the epoch in work.
    seconds : list of float
        Of every step.
    history : History
        Of the epochs that are done.
    """

    step: int
    weights: npt.NDArray[Any]
    moment1: npt.NDArray[Any]
    moment2: npt.NDArray[Any]
    order: dict[str, Any]
    draws: dict[str, Any]
    losses: list[float]
    seconds: list[float]
    history: History


class Training:
    """A training that can stop after any step, and go on from there in another process with the same bits.

    Parameters
    ----------
    model : Transformer
        Trained in place.
    encoding : RotaryEncoding, PositionMap, or None where queries and keys do not turn
    dataset : Dataset
    settings : TrainSettings
    seed : int
        Of the order of the sequences and of dropout.

    Raises
    ------
    ValueError
        Settings that do not fit the model or the encoding.
    """

    def __init__(
        self,
        model: Transformer,
        encoding: RotaryEncoding | PositionMap | None,
        dataset: Dataset,
        settings: TrainSettings,
        *,
        seed: int,
    ) -> None:
        self.model, self.encoding, self.dataset, self.settings, self.seed = model, encoding, dataset, settings, seed
        self._batch = inputs_and_targets(
            dataset.train, front_token=settings.front_token, modulus=dataset.modulus, j=dataset.j, k=dataset.k
        )
        self._places = settings.positions or TrainPositions()
        self._places.check(model.config, encoding, self._length)
        self._tables = rotation_of(encoding, self._length, model.dtype)
        self.steps_per_epoch = -(-len(dataset.train) // settings.batch_size)
        self.steps = settings.epochs * self.steps_per_epoch
        self._schedule = OneCycle(settings.learning_rate, self.steps, settings.warmup)
        self._optimizer = AdamW(model.flat_params.size, model.dtype, settings.weight_decay)
        self._frozen = frozen_weights(model, settings.frozen)
        self._source = bit_source(seed, "order of training sequences")
        self._draws = bit_source(seed, "positions of training tokens")
        self._epoch_began: Any = self._source.state  # before the order of the epoch in work was drawn
        self._losses: list[float] = []
        self._seconds: list[float] = []
        self.history = History()

    @property
    def _length(self) -> int:
        return int(self._batch.inputs.shape[1])

    @property
    def step(self) -> int:
        """Steps done."""
        return self._optimizer.step

    def state(self) -> TrainState:
        """Where the training is; arrays are those in use, which the next step changes."""
        optimizer = self._optimizer
        return TrainState(
            step=self.step,
            weights=self.model.flat_params,
            moment1=optimizer.moment1,
            moment2=optimizer.moment2,
            order=self._epoch_began,
            draws=cast(Any, self._draws.state),
            losses=self._losses,
            seconds=self._seconds,
            history=self.history,
        )

    def restore(self, state: TrainState) -> None:
        """Go on from a state that a training of the same kind was in.

        Raises
        ------
        ValueError
            Another number of weights, or more steps than this training has.
        """
        if state.weights.shape != self.model.flat_params.shape or not 0 <= state.step <= self.steps:
            raise ValueError(
                f"Training.restore: the state has {state.weights.size} weights and {state.step} steps, "
                f"expected {self.model.flat_params.size} and at most {self.steps}"
            )
        self.model.flat_params[...] = state.weights
        self._optimizer.moment1[...] = state.moment1
        self._optimizer.moment2[...] = state.moment2
        self._optimizer.step = state.step
        self._source.state = self._epoch_began = cast(Any, state.order)
        self._draws.state = cast(Any, state.draws)
        self._losses, self._seconds = list(state.losses), list(state.seconds)
        self.history = copy.deepcopy(state.history)

    def run(
        self,
        on_step: Callable[[float], None] = lambda loss: None,
        on_epoch: Callable[[History], None] = lambda history: None,
    ) -> History:
        """Train to the end. Both callables may ask for `state`, and raise to stop.

        Parameters
        ----------
        on_step, on_epoch : callables
            Told the loss of each step, and the history after each epoch. The last step of an epoch and the test after
            it are one: `on_step` is told of it when both are done.

        Returns
        -------
        History

        Raises
        ------
        FloatingPointError
            The loss or the weights became NaN or infinite.
        """
        while self.step < self.steps:
            self._epoch_began = self._source.state
            order = permutation(self._source, len(self.dataset.train))
            first_step = self.step // self.steps_per_epoch * self.steps_per_epoch
            for done in range(self.step - first_step, self.steps_per_epoch):
                start = done * self.settings.batch_size
                loss = self._one_step(order[start : start + self.settings.batch_size])
                if done + 1 == self.steps_per_epoch:
                    self._end_epoch()
                    on_epoch(self.history)
                on_step(loss)
        return self.history

    def _one_step(self, rows: npt.NDArray[np.int64]) -> float:
        batch, positions, tables = self._batch, None, self._tables
        began = time.perf_counter()
        if self.settings.positions is not None:
            positions = self._places.drawn(self._draws, len(rows), self._length)
            tables = rotation_of(self.encoding, self._length, self.model.dtype, positions)
            positions = positions if positions.ndim == 1 else None  # a sequence's own are in the tables alone
        loss = train_step(
            *(self.model, self._optimizer, batch.inputs[rows], batch.targets[rows], batch.loss_mask, tables),
            *self._schedule.at(self.step),
            positions=positions,
            dropout_seed=site_seed(self.seed, self.step),
        )
        for weight, start in self._frozen:
            weight[...] = start
        self._seconds.append(time.perf_counter() - began)
        self._losses.append(loss)
        return loss

    def _end_epoch(self) -> None:
        """Test on the watched validation sequences, and write the epoch into the history."""
        if not np.isfinite(self.model.flat_params).all():
            raise FloatingPointError("train: weights became NaN or infinite; try a smaller learning rate")
        watched = accuracy_by_position(
            *(self.model, self.encoding, self.dataset, self.dataset.validation[: self.settings.watched]),
            front_token=self.settings.front_token,
            places=self.settings.positions,
            seed=self.seed,
        )
        inside, beyond = split_accuracy(watched, self.dataset.train_length)
        self.history.loss.append(float(np.mean(self._losses)))
        self.history.id_accuracy.append(inside)
        self.history.ood_accuracy.append(beyond)
        self.history.step_seconds = float(np.median(self._seconds))
        self._losses = []
        self._epoch_began = self._source.state


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
    return Training(model, encoding, dataset, settings, seed=seed).run(on_step, on_epoch)
