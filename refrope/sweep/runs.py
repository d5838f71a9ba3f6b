"""What a sweep of PosGen consists of: trainings that differ, each with the tests that its model is asked for.

    ExperimentSettings, ... ──► runs_of ──► Run (task, seed, encoding trained) ──► its directory's name, its tests

Settings that train alike and test otherwise (YaRN's ramp, swapped in) share a run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import Field, asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from refrope.encodings import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.experiment import Prepared, prepare, test_row
from refrope.files import canonical_json
from refrope.nn.attending import layers_of, rotation_of
from refrope.nn.transformer import Transformer
from refrope.settings import ExperimentSettings
from refrope.train import Training


@dataclass(frozen=True)
class Test:
    """One row of results: a trained model, tested with an encoding at a length."""

    settings: ExperimentSettings
    encoding: str
    length: int
    steps = 0  # a fraction of one

    @property
    def shown(self) -> str:
        """What displays call it."""
        return f"{self.encoding} at {self.length}"

    def about(self) -> dict[str, Any]:
        """The settings in its row."""
        return self.settings.flat()

    def key(self) -> str:
        """The same text for the same test, another one for any other."""
        tested = self.settings.tested_encoding(self.encoding, self.length)
        said = {"encoding": self.encoding, "length": self.length, "settings": _without_defaults(self.settings.flat())}
        return canonical_json(said | {"tested_with": described(self.encoding, tested, self.length)}).decode()


@dataclass(frozen=True)
class Run:
    """One training: a task, a seed and an encoding under the first of `settings`; all of them test its model."""

    settings: tuple[ExperimentSettings, ...]
    task: str
    seed: int
    trained: str

    def about(self) -> dict[str, Any]:
        """Everything that decides the weights, as JSON has it; nothing that only the tests depend on."""
        settings = self.settings[0]
        return {
            "task": self.task,
            "seed": self.seed,
            "trained_with": self.trained,
            "encoding": described(self.trained, settings.trained_encoding(self.trained), settings.train_length),
            "model": as_json(settings.model(self.trained)),
            "train": as_json(settings.train_settings(self.trained)),
            "longest_test": settings.longest,  # the watched sequences of the curves are that long
            **{name: getattr(settings, name) for name in _DATA},
        }

    def asked(self) -> dict[str, Any]:
        """The first of its settings, as JSON."""
        return asdict(self.settings[0])

    @property
    def shown(self) -> str:
        """What displays call it."""
        return f"{self.task} {self.trained} s{self.seed}"

    @cached_property  # displays ask for it twice a second, and an encoding's numbers take 50 digits
    def name(self) -> str:
        """What its directory is called: readable, and another one for every other training."""
        short = re.sub(r"[^A-Za-z0-9.-]+", "-", self.trained).strip("-")
        return f"{self.task}-{short}-s{self.seed}-{hashlib.sha256(canonical_json(self.about())).hexdigest()[:12]}"

    @property
    def steps(self) -> int:
        """How many steps the training takes."""
        settings = self.settings[0]
        plan = settings.train_settings(self.trained)
        return plan.epochs * -(-settings.train_sequences // plan.batch_size)

    def tests(self) -> list[Test]:
        """Those that are asked of its model, in a fixed order."""
        return [
            Test(settings, encoding, length)
            for settings in self.settings
            for encoding in settings.encodings
            if settings.trained_name(encoding) == self.trained
            for length in settings.test_lengths
        ]

    def prepare(self, sweep: Path) -> PreparedRun:
        """Data and a model with its initial weights; nothing of the sweep is needed for it."""
        return PreparedRun(self, prepare(self.settings[0], self.task, self.seed, self.trained))


@dataclass(frozen=True)
class PreparedRun:
    """All that a run needs, in memory."""

    run: Run
    prepared: Prepared

    @property
    def model(self) -> Transformer:
        """The model that is trained."""
        return self.prepared.model

    def training(self) -> Training:
        """The training, before its first step."""
        parts = self.prepared
        return Training(parts.model, parts.encoding, parts.dataset, parts.train_settings, seed=self.run.seed)

    def row(self, test: Test) -> dict[str, Any]:
        """What the model makes of the test."""
        run, model, dataset = self.run, self.prepared.model, self.prepared.dataset
        return test_row(test.settings, test.encoding, run.task, run.seed, run.trained, model, dataset, test.length)


_DATA = ("recipe", "rule", "front_token", "train_sequences", "test_sequences", "train_length", "backend")
_NOTHING = (None, False, 0, (), "none")


def as_json(value: Any) -> Any:
    """Dataclasses as the names of their class and of their fields; a field that says nothing is left out.

    So a field that a later version adds, None or "none" or 0 where it does nothing, changes the name of no run. One
    marked as `unsaid` is left out at its default, and only there.
    """
    if not is_dataclass(value):
        return value
    return {"class": type(value).__name__} | {
        field.name: as_json(getattr(value, field.name)) for field in fields(value) if _is_said(field, value)
    }


def _is_said(field: Field[Any], value: Any) -> bool:
    own = getattr(value, field.name)
    return bool(own != field.default) if field.metadata.get("unsaid") else own not in _NOTHING


def _without_defaults(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in _NOTHING}


def described(name: str, encoding: RotaryEncoding | PositionMap | None, length: int) -> Any:
    """An encoding as JSON that changes when it does.

    Ours are told by their parameters. What users bring may be anything: its tables count too.
    """
    if encoding is None or ":" not in name:
        return as_json(encoding)
    sha = hashlib.sha256()
    rotation: Any = rotation_of(encoding, length, np.float32)
    for table in _arrays(layers_of(rotation)):
        sha.update(table.tobytes())
    return {"class": type(encoding).__name__, "tables": sha.hexdigest()}


def _arrays(value: Any) -> Iterable[np.ndarray[Any, Any]]:
    """All arrays in a structure of tuples."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _arrays(part)


def runs_of(grid: Iterable[ExperimentSettings]) -> list[Run]:
    """The different trainings of a grid, seeds outermost: what is finished first is a whole table of one seed."""
    found: dict[str, Run] = {}
    for settings in grid:
        for task, seed, trained in settings.trainings():
            run = Run((settings,), task, seed, trained)
            earlier = found.get(run.name)
            found[run.name] = run if earlier is None else Run((*earlier.settings, settings), task, seed, trained)
    return sorted(found.values(), key=lambda run: run.seed)
