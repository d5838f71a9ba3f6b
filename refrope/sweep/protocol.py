"""What a sweep needs to know of the trainings that it conducts; PosGen's are in `refrope.sweep.runs`.

    Run ──► prepare ──► Prepared ──► training ──► curves, weights
                                └──► row of each Test

Runs go to other processes, so they can be pickled, and are nothing but what was asked for: data and models are made
where a run is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from refrope.nn.transformer import Transformer
from refrope.training import ResumableTraining


class Test(Protocol):
    """One row of results: a trained model, tested in one way."""

    @property
    def steps(self) -> int:
        """What it takes, in steps of the training; 0 where that is not worth showing."""

    @property
    def shown(self) -> str:
        """What displays call it."""

    def key(self) -> str:
        """The same text for the same test, another one for any other."""

    def about(self) -> dict[str, Any]:
        """The settings in its row, as JSON has them."""


AnyTest = TypeVar("AnyTest", bound=Test, contravariant=True)


class Prepared(Protocol[AnyTest]):
    """All that a training and its tests need, in memory."""

    @property
    def model(self) -> Transformer:
        """The model that is trained, and tested when its weights are those of the training."""

    def training(self) -> ResumableTraining[Any] | None:
        """The training, before its first step; None where the initial weights are to be tested as they are."""

    def row(self, test: AnyTest) -> dict[str, Any]:
        """What the test finds, as JSON has it: the same for the same weights."""


class Run(Protocol):
    """One training, and the tests that its model is asked for."""

    @property
    def name(self) -> str:
        """What its directory is called: readable, and another one for every other training."""

    @property
    def shown(self) -> str:
        """What displays call it."""

    @property
    def seed(self) -> int | None:
        """Of everything that is drawn; None where nothing is."""

    @property
    def steps(self) -> int:
        """What training and tests take, in steps of the training."""

    def about(self) -> dict[str, Any]:
        """Everything that decides the weights, as JSON; nothing that only the tests depend on.

        Among it "task", "seed" and "trained_with", by which `refrope.sweep.loading.load_rows` names a run that failed.
        """

    def asked(self) -> dict[str, Any]:
        """The settings that it was made from, as JSON, for whoever makes the model again."""

    def tests(self) -> Sequence[Any]:
        """The tests that are asked of its model, in a fixed order."""

    def prepare(self, sweep: Path) -> Prepared[Any]:
        """Data and a model with its initial weights; `sweep` is the directory of the sweep."""
