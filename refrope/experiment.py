"""The main job: train tiny models on PosGen with several encodings, test them beyond the training length.

    ExperimentSettings ──► trainings (task, seed, encoding trained) ──► rows (task, seed, encoding tested) ──► results

With ``yarn="swap"`` a YaRN row is the plain model tested with the scaled encoding, so four rows take two trainings.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

import numpy as np

from refrope import posgen
from refrope.encodings import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.environment import environment
from refrope.evaluate import accuracy_by_position, split_accuracy
from refrope.nn.configuration import TransformerConfig
from refrope.nn.transformer import Transformer
from refrope.own_encodings import is_own, source_digest
from refrope.settings import LEFT_TO_PRESET, ExperimentSettings
from refrope.train import History, TrainSettings, train
from refrope.workers import worker_pool


class Progress(Protocol):
    """Who is told how an experiment goes on."""

    def start(self, task: str, seed: int, encoding: str, steps: int) -> None:
        """Tell that a training of so many steps begins."""

    def step(self, loss: float) -> None:
        """Tell the loss of one step."""

    def epoch(self, history: History) -> None:
        """Tell that an epoch is done."""

    def finish(self, rows: list[dict[str, Any]]) -> None:
        """Tell that a training is done and tested."""


def run(settings: ExperimentSettings, progress: Progress) -> Generator[list[dict[str, Any]], None, None]:
    """Run the experiment; after each training yield its rows, as they stand in results.json."""
    for task, seed, trained in settings.trainings():
        yield train_and_test(settings, task, seed, trained, progress)


def run_side_by_side(
    settings: ExperimentSettings, progresses: Sequence[Progress], processes: int
) -> Generator[list[dict[str, Any]], None, None]:
    """`run` with so many processes at a time, each with one thread: the same rows in the same order.

    Whoever stops listening (an exception, `close`) ends the trainings that go on.

    Parameters
    ----------
    progresses : one for each training, which can be pickled
    """
    with worker_pool(processes) as pool:
        trainings = zip(settings.trainings(), progresses, strict=True)
        futures = [pool.submit(train_and_test, settings, *training, progress) for training, progress in trainings]
        for future in futures:
            yield future.result()


class Prepared(NamedTuple):
    """All that a training needs."""

    dataset: posgen.Dataset
    model: Transformer
    encoding: RotaryEncoding | PositionMap | None
    train_settings: TrainSettings

    @property
    def steps(self) -> int:
        """How many steps the training takes."""
        return self.train_settings.epochs * math.ceil(len(self.dataset.train) / self.train_settings.batch_size)


def prepare(settings: ExperimentSettings, task: str, seed: int, trained: str) -> Prepared:
    """Data, a model with its initial weights, the encoding to train with, and how to train."""
    return Prepared(
        settings.dataset(task, seed),
        Transformer(settings.model(trained), seed=seed, backend=settings.backend),
        settings.trained_encoding(trained),
        settings.train_settings(trained),
    )


def train_and_test(
    settings: ExperimentSettings, task: str, seed: int, trained: str, progress: Progress
) -> list[dict[str, Any]]:
    """One training, and the rows of all encodings that its model is tested with."""
    prepared = prepare(settings, task, seed, trained)
    dataset, model, encoding, train_settings = prepared
    progress.start(task, seed, trained, prepared.steps)
    began = time.perf_counter()
    history = train(
        *(model, encoding, dataset, train_settings), seed=seed, on_step=progress.step, on_epoch=progress.epoch
    )
    seconds = time.perf_counter() - began
    rows = test_rows(settings, task, seed, trained, model, dataset)
    for row in rows:
        row |= {"seconds": seconds, "step_seconds": history.step_seconds, "curves": curves(history)}
    progress.finish(rows)
    return rows


def test_rows(
    settings: ExperimentSettings, task: str, seed: int, trained: str, model: Transformer, dataset: posgen.Dataset
) -> list[dict[str, Any]]:
    """The rows of a trained model, without what only its training knows: seconds, step_seconds and curves.

    Parameters
    ----------
    task, seed, trained : str, int, str
        Of the training: see `ExperimentSettings.trainings`.
    model : Transformer
        Trained.
    dataset : Dataset
        Of the task and the seed.

    Returns
    -------
    A row for each encoding that is tested with this model (its own, or one that is swapped in) and each test length.
    """
    names = [name for name in settings.encodings if settings.trained_name(name) == trained]
    return [
        test_row(settings, name, task, seed, trained, model, dataset, length)
        for name in names
        for length in settings.test_lengths
    ]


def test_row(
    settings: ExperimentSettings,
    name: str,
    task: str,
    seed: int,
    trained: str,
    model: Transformer,
    dataset: posgen.Dataset,
    length: int,
) -> dict[str, Any]:
    """One of `test_rows`: the model tested with the encoding `name` at one length."""
    encoding = settings.tested_encoding(name, length)
    accuracy = accuracy_by_position(
        *(model, encoding, dataset, dataset.test[:, :length]),
        front_token=settings.front_token,
        places=settings.train_settings().positions,
        seed=seed,
    )
    inside, beyond = split_accuracy(accuracy, dataset.train_length)
    train_settings = settings.train_settings(trained)
    tables = encoding.cos_sin(np.arange(length)) if isinstance(encoding, RotaryEncoding) else None
    return {
        "encoding": name,
        "trained_with": trained,
        "tested_with": ", ".join(_parts(encoding, model.config)),
        "test_length": length,
        "table_bytes": None if tables is None else sum(table.nbytes for table in tables),
        "id_accuracy": inside,
        "ood_accuracy": beyond,
        "accuracy_by_position": [None if math.isnan(a) else a for a in accuracy.tolist()],
        **{"task": task, "seed": seed, "preset": settings.preset},
        **{name: getattr(train_settings, name) for name in LEFT_TO_PRESET},
    }


def _parts(encoding: RotaryEncoding | PositionMap | None, config: TransformerConfig) -> list[str]:
    """What tells a model positions, in words."""
    parts = [repr(part) for part in (encoding, config.absolute, config.bias) if part is not None]
    return parts if config.window is None else [*parts, f"window {config.window}"]


def curves(history: History) -> dict[str, list[float]]:
    """What a row keeps of a training's course, a number an epoch each."""
    return {"loss": history.loss, "id_accuracy": history.id_accuracy, "ood_accuracy": history.ood_accuracy}


def results(
    settings: ExperimentSettings, runs: list[dict[str, Any]], command: str, *, complete: bool
) -> dict[str, Any]:
    """What results.json holds: the rows, every setting, the versions, and whether all trainings were finished."""
    derived: dict[str, Any] = {"train": asdict(settings.train_settings()), "model": asdict(settings.plain_model)}
    own = [name for name in settings.encodings if is_own(name)]
    if own:
        derived["sources"] = {name: source_digest(name) for name in own}
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "complete": complete,
        "settings": asdict(settings) | derived,
        **environment(),
        "runs": runs,
    }
