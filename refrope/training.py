"""Trainings that can stop after any step, and go on from there in another process with the same bits.

    epoch_batches ──► batch_of ──► refrope.train_step ──► test_epoch ──► Course

`ResumableTraining` is what all trainings share; what an epoch consists of, what a batch is and what is tested after an
epoch, its subclasses say.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_name, check_number
from refrope.nn.dropout import site_seed
from refrope.nn.optim import AdamW, OneCycle, WarmUp
from refrope.nn.transformer import Transformer
from refrope.randomness import bit_source
from refrope.train_step import Batch, frozen_names, train_step, trained_spans

STEADY_BETA2 = 0.95  # see `refrope.nn.optim.WarmUp`

SELECTIONS = ("none", "validation")


@dataclass
class Course:
    """What happened in training: one entry an epoch in every list; `step_seconds`, the median over all steps."""

    loss: list[float] = field(default_factory=list)
    step_seconds: float = math.nan


AnyCourse = TypeVar("AnyCourse", bound=Course)


def curves(course: Course) -> dict[str, list[float]]:
    """What results keep of a training's course, a number an epoch each."""
    values = {each.name: getattr(course, each.name) for each in fields(course)}
    return {name: value for name, value in values.items() if isinstance(value, list)}


@dataclass
class TrainState:
    """Where a training is between two steps: all that decides how it goes on, and what it has told so far.

    Attributes
    ----------
    step : int
        Steps done.
    weights, moment1, moment2 : (number of weights that train,) of the model's dtype
    order, draws : dict
        The state of the bit generators of the order of sequences, before the epoch in work, and of what steps draw.
    losses : list of float
        Of the epoch in work.
    seconds : list of float
        Of every step.
    history : dict
        The fields of the `Course` of the epochs that are done.
    best : (number of weights that train,) of the model's dtype, optional
        Those of the epoch that is best so far, where the plan selects one.
    """

    step: int
    weights: npt.NDArray[Any]
    moment1: npt.NDArray[Any]
    moment2: npt.NDArray[Any]
    order: dict[str, Any]
    draws: dict[str, Any]
    losses: list[float]
    seconds: list[float]
    history: dict[str, Any]
    best: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class Plan:
    """How long and how fast a training goes.

    Parameters
    ----------
    epochs, steps_per_epoch : int
    learning_rate : float
        The peak of the schedule.
    warmup : float
        Share of the steps up to the peak of the one-cycle schedule.
    weight_decay : float
    frozen : tuple of str
        Patterns of names of weights, such as "layers.*.feed_forward.*", that keep every bit that they begin with: no
        step and no weight decay touches them, and nothing is held for them.
    part_tokens : int, optional
        Tokens that go through a model together, on one thread; `refrope.evaluate.PART_TOKENS` if None.
    select : {"none", "validation"}
        The weights that a training ends with: those of its last step, or of the epoch that validation says is best (the
        first of equal ones).
    constant_after : int, optional
        Instead of one cycle, the rate stays at its peak after so many steps of warm-up (`refrope.nn.optim.WarmUp`), and
        beta_2 is `STEADY_BETA2`.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    frozen: tuple[str, ...] = ()
    part_tokens: int | None = None
    select: str = "none"
    constant_after: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("epochs", "steps_per_epoch"):
            check_integer("Plan", name, getattr(self, name), 1)
        check_number("Plan", "learning_rate", self.learning_rate, "a finite number > 0", 0.0, above=True)
        check_number("Plan", "weight_decay", self.weight_decay, "a finite number >= 0", 0.0)
        if self.part_tokens is not None:
            check_integer("Plan", "part_tokens", self.part_tokens, 1)
        check_name("Plan", "select", self.select, SELECTIONS)
        if self.constant_after is not None:
            check_integer("Plan", "constant_after", self.constant_after, 0)

    @property
    def steps(self) -> int:
        """In all."""
        return self.epochs * self.steps_per_epoch

    def schedule(self) -> OneCycle | WarmUp:
        """Learning rate and beta_1 of every step."""
        if self.constant_after is None:
            return OneCycle(self.learning_rate, self.steps, self.warmup)
        return WarmUp(self.learning_rate, self.constant_after)

    def optimizer(self, model: Transformer) -> AdamW:
        """AdamW for the weights of a model that train, before its first step.

        Raises
        ------
        ValueError
            Patterns of frozen weights that do not fit the model.
        """
        spans = trained_spans(model.config.shapes(), self.frozen)
        optimizer = AdamW(model.flat_params.size, model.dtype, self.weight_decay, spans=spans)
        if self.constant_after is not None:
            optimizer.beta2 = STEADY_BETA2
        return optimizer


class ResumableTraining(Generic[AnyCourse]):
    """A training that can stop after any step, and go on from there in another process with the same bits.

    A subclass says what an epoch consists of (`epoch_batches`), what a step trains on (`batch_of`), what is tested
    after an epoch (`test_epoch`) and how good the epochs were (`worths`). All that these draw comes from `order`, at
    the beginning of an epoch, and `draws`, at every step.

    Parameters
    ----------
    model : Transformer
        Trained in place, from the weights that it has.
    course : Course
        Where the training writes what happened.
    plan : Plan
    seed : int
        Of the order of the sequences and of dropout.

    Raises
    ------
    ValueError
        Patterns of frozen weights that do not fit the model.
    """

    def __init__(self, model: Transformer, course: AnyCourse, plan: Plan, *, seed: int) -> None:
        self.model, self.history, self.plan, self.seed = model, course, plan, seed
        self._schedule, self._optimizer = plan.schedule(), plan.optimizer(model)
        self._frozen = frozen_names(model.config.shapes(), plan.frozen)
        self.order = bit_source(seed, "order of training sequences")
        self.draws = bit_source(seed, "positions of training tokens")
        self._epoch_began: Any = self.order.state  # before the order of the epoch in work was drawn
        self._losses: list[float] = []
        self._seconds: list[float] = []
        self._best: npt.NDArray[Any] | None = None

    # ---- for subclasses ----

    def epoch_batches(self) -> Sequence[Any]:
        """What `batch_of` makes a batch of, for each step of the next epoch; drawn from `order`."""
        raise NotImplementedError

    def batch_of(self, rows: Any) -> Batch:
        """The batch of the next step; what is drawn for it comes from `draws`."""
        raise NotImplementedError

    def test_epoch(self) -> None:
        """Test what is watched, and write it into the history."""

    def worths(self) -> list[float]:
        """How good the epochs are that are done, more is better: for plans that select one."""
        raise NotImplementedError

    # ---- between two steps ----

    @property
    def step(self) -> int:
        """Steps done."""
        return self._optimizer.step

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.plan.steps

    def state(self) -> TrainState:
        """Where the training is; arrays may be those in use, which the next step changes."""
        optimizer = self._optimizer
        return TrainState(
            step=self.step,
            weights=optimizer.trained(self.model.flat_params),
            moment1=optimizer.moment1,
            moment2=optimizer.moment2,
            order=self._epoch_began,
            draws=cast(Any, self.draws.state),
            losses=self._losses,
            seconds=self._seconds,
            history=asdict(self.history),
            best=self._best,
        )

    def restore(self, state: TrainState) -> None:
        """Go on from a state that a training of the same kind was in.

        Raises
        ------
        ValueError
            Another number of weights, or more steps than this training has.
        """
        optimizer, everything = self._optimizer, self.model.flat_params.shape
        arrays = [
            optimizer.trained(array) if array.shape == everything else array  # of all weights, frozen ones too
            for array in (state.weights, state.moment1, state.moment2, *([] if state.best is None else [state.best]))
        ]
        if any(array.shape != optimizer.moment1.shape for array in arrays) or not 0 <= state.step <= self.steps:
            raise ValueError(
                f"{type(self).__name__}.restore: the state has {state.weights.size} weights and {state.step} steps, "
                f"expected {optimizer.moment1.size} and at most {self.steps}"
            )
        optimizer.put_trained(self.model.flat_params, arrays[0])
        optimizer.moment1[...], optimizer.moment2[...] = arrays[1:3]
        self._best = arrays[3].copy() if state.best is not None else None
        optimizer.step = state.step
        self.order.state = self._epoch_began = cast(Any, state.order)
        self.draws.state = cast(Any, state.draws)
        self._losses, self._seconds = list(state.losses), list(state.seconds)
        for name, value in copy.deepcopy(state.history).items():
            setattr(self.history, name, value)

    # ---- steps ----

    def run(
        self,
        on_step: Callable[[float], None] = lambda loss: None,
        on_epoch: Callable[[AnyCourse], None] = lambda history: None,
    ) -> AnyCourse:
        """Train to the end. Both callables may ask for `state`, and raise to stop.

        Parameters
        ----------
        on_step, on_epoch : callables
            Told the loss of each step, and the history after each epoch. The last step of an epoch and the test after
            it are one: `on_step` is told of it when both are done.

        Returns
        -------
        The history

        Raises
        ------
        FloatingPointError
            The loss or the weights became NaN or infinite.
        """
        each = self.plan.steps_per_epoch
        while self.step < self.steps:
            self._epoch_began = self.order.state
            batches = self.epoch_batches()
            for done in range(self.step % each, each):
                loss = self._one_step(batches[done])
                if done + 1 == each:
                    self._end_epoch()
                    on_epoch(self.history)
                on_step(loss)
        if self._best is not None:
            self._optimizer.put_trained(self.model.flat_params, self._best)
        return self.history

    def _one_step(self, rows: Any) -> float:
        began = time.perf_counter()
        batch = self.batch_of(rows)
        loss = train_step(
            *(self.model, self._optimizer, batch.inputs, batch.targets, batch.loss_mask, batch.tables),
            *self._schedule.at(self.step),
            positions=batch.positions,
            dropout_seed=site_seed(self.seed, self.step),
            part_tokens=self.plan.part_tokens,
            frozen=self._frozen,
        )
        self._seconds.append(time.perf_counter() - began)
        self._losses.append(loss)
        return loss

    def _end_epoch(self) -> None:
        """Test, and write the epoch into the history."""
        if not np.isfinite(self.model.flat_params).all():
            raise FloatingPointError("train: weights became NaN or infinite; try a smaller learning rate")
        self.test_epoch()
        if self.plan.select == "validation":
            *before, now = self.worths()
            if self._best is None or now > max(before):
                self._best = self._optimizer.trained(self.model.flat_params).copy()
        self.history.loss.append(float(np.mean(self._losses)))
        self.history.step_seconds = float(np.median(self._seconds))
        self._losses = []
        self._epoch_began = self.order.state
