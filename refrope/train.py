"""Train a transformer on PosGen sequences: AdamW, one-cycle schedule, cross-entropy on generated tokens only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.errors import check_integer, check_name, check_number
from refrope.evaluate import accuracy_by_position, split_accuracy
from refrope.nn.attending import rotation_of
from refrope.nn.transformer import Transformer
from refrope.posgen import Dataset, inputs_and_targets
from refrope.randomness import permutation
from refrope.train_positions import TrainPositions
from refrope.train_step import Batch, train_step
from refrope.training import SELECTIONS, Course, Plan, ResumableTraining

__all__ = ["History", "TrainSettings", "Training", "train", "train_step"]


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
        nothing is chosen by them unless `select` says so.
    positions : TrainPositions
        Which positions the tokens of a training sequence have: 0, 1, 2, ... unless said otherwise.
    frozen : tuple of str
        Patterns of names of weights, such as "layers.*.feed_forward.*", that keep every bit that they begin with: no
        step and no weight decay touches them.
    select : {"none", "validation"}
        The weights that a training ends with: those of its last step, or of the epoch with the best accuracy on the
        watched validation sequences within the training length (the first of equal ones).
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
    select: str = "none"

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("epochs", "batch_size", "watched"):
            check_integer("TrainSettings", name, getattr(self, name), 1)
        check_number("TrainSettings", "learning_rate", self.learning_rate, "a finite number > 0", 0.0, above=True)
        check_number("TrainSettings", "weight_decay", self.weight_decay, "a finite number >= 0", 0.0)
        check_name("TrainSettings", "select", self.select, SELECTIONS)

    def plan(self, sequences: int) -> Plan:
        """The plan of a training on so many sequences."""
        names = ("learning_rate", "warmup", "weight_decay", "frozen", "select")
        shared = {name: getattr(self, name) for name in names}
        return Plan(self.epochs, -(-sequences // self.batch_size), **shared)


@dataclass
class History(Course):
    """What happened in training: one entry an epoch, but `step_seconds`, the median over all steps."""

    id_accuracy: list[float] = field(default_factory=list)
    ood_accuracy: list[float] = field(default_factory=list)


class Training(ResumableTraining[History]):
    """A training on PosGen that can stop after any step; see `refrope.training`.

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
        self.encoding: RotaryEncoding | PositionMap | None = encoding
        self.dataset: Dataset = dataset
        self.settings: TrainSettings = settings
        self._batch = inputs_and_targets(
            dataset.train, front_token=settings.front_token, modulus=dataset.modulus, j=dataset.j, k=dataset.k
        )
        self._places = settings.positions or TrainPositions()
        self._places.check(model.config, encoding, self._length)
        self._tables = rotation_of(encoding, self._length, model.dtype)
        super().__init__(model, History(), settings.plan(len(dataset.train)), seed=seed)

    @property
    def _length(self) -> int:
        return int(self._batch.inputs.shape[1])

    def epoch_batches(self) -> list[npt.NDArray[np.int64]]:
        """The sequences of each step: all of them, in random order."""
        order, size = permutation(self.order, len(self.dataset.train)), self.settings.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def batch_of(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Those sequences, at their positions."""
        batch, positions, tables = self._batch, None, self._tables
        if self.settings.positions is not None:
            positions = self._places.drawn(self.draws, len(rows), self._length)
            tables = rotation_of(self.encoding, self._length, self.model.dtype, positions)
            positions = positions if positions.ndim == 1 else None  # a sequence's own are in the tables alone
        return Batch(batch.inputs[rows], batch.targets[rows], batch.loss_mask, tables, positions)

    def test_epoch(self) -> None:
        """Test on the watched validation sequences."""
        watched = accuracy_by_position(
            *(self.model, self.encoding, self.dataset, self.dataset.validation[: self.settings.watched]),
            front_token=self.settings.front_token,
            places=self.settings.positions,
            seed=self.seed,
        )
        inside, beyond = split_accuracy(watched, self.dataset.train_length)
        self.history.id_accuracy.append(inside)
        self.history.ood_accuracy.append(beyond)

    def worths(self) -> list[float]:
        """The accuracy within the training length: what lies beyond is for the test."""
        return self.history.id_accuracy


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
