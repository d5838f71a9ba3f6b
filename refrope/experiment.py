"""The main job: train tiny models on PosGen with several encodings, test them beyond the training length.

    ExperimentSettings ──► trainings (task, seed, encoding trained) ──► rows (task, seed, encoding tested) ──► results

With ``yarn="swap"`` a YaRN row is the plain model tested with the scaled encoding, so four rows take two trainings.
"""

from __future__ import annotations

import datetime
import math
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import active_children, get_context
from typing import Any, Protocol

import numpy as np

from refrope import kernels, posgen
from refrope.encodings import RotaryEncoding, YaRN
from refrope.encodings.position_map import PositionMap
from refrope.environment import environment
from refrope.errors import check_integer, check_name
from refrope.evaluate import accuracy_by_position, split_accuracy
from refrope.methods import MAPS, METHODS, PAPER, Lengths, configuration_of, encoding_of
from refrope.nn.backends import BACKENDS
from refrope.nn.configuration import TransformerConfig
from refrope.nn.transformer import Transformer
from refrope.train import History, TrainSettings, train
from refrope.train_positions import PoSE, RandomPositions, TrainPositions

MODES = ("swap", "train")
POSITIONS = ("consecutive", "random", "pose")
# One seed shows the order of the paper's Table 1 or does not: README.md says what others show.
DEFAULT_SEEDS = (2,)


@dataclass(frozen=True)
class Preset:
    """A model's sizes, how it is trained, and what for."""

    about: str
    model: TransformerConfig
    train: TrainSettings


PRESETS = {
    "tiny": Preset(
        "the finding in about a minute a training: 2 layers, d_model 128, 2 heads x 64, no dropout",
        TransformerConfig(),
        TrainSettings(epochs=6, learning_rate=1.2e-3),
    ),
    "small": Preset(
        "a coffee break a training: 2 layers, d_model 256, 4 heads x 64, no dropout",
        TransformerConfig(d_model=256, heads=4, d_ff=1024),
        TrainSettings(epochs=20, learning_rate=5e-4),
    ),
    "paper": Preset(
        "the paper's model and schedule, many hours a training: 2 layers, d_model 512, 8 heads x 64, dropout 0.1",
        TransformerConfig(d_model=512, heads=8, d_ff=2048, dropout=0.1),
        TrainSettings(epochs=150, learning_rate=2e-4),
    ),
}


@dataclass(frozen=True)
class ExperimentSettings:
    """Everything that decides the numbers of an experiment, but the machine.

    Parameters
    ----------
    preset : {"tiny", "small", "paper"}
    tasks, encodings : names out of `refrope.posgen.TASKS` and `refrope.methods.METHODS`
    seeds : ints >= 0
        Of the data, the weights, the order of the sequences and dropout.
    epochs : int, optional; the preset's if None
    learning_rate : float, optional
        The peak; if None, the preset's times the method's `refrope.methods.Method.rate`.
    yarn : {"swap", "train"}
        "swap": train plain, test with YaRN of factor (L' + 1) / (L + 1) and original length L + 1 (the front token
        counts), index ramp, as the paper's code does but for its ramp length, which is L' + 1 there.
        "train": train and test with YaRN of factor L' / L as the paper's text says: turn ramp, wavelength blend.
        Both with beta_fast = 2, beta_slow = 1 of the paper's code.
    maps : {"swap", "train"}
        "swap": train with RoPE, test with the position map, as those who published them do. "train": train with it, in
        its form for the longest test.
    positions : {"consecutive", "random", "pose"}
        Of the tokens in training: see `refrope.train_positions`.
    recipe, rule : names out of `refrope.posgen.RECIPES` and `RULES`
    front_token : bool
    train_sequences, test_sequences : int; validation has as many as test
    train_length : int, L
    test_lengths : ints above it, L'; each gives rows of its own
    backend : {"c", "numpy"}

    Raises
    ------
    ValueError
        An unknown name (with the nearest known one), a number out of range.
    """

    preset: str = "tiny"
    tasks: tuple[str, ...] = ("cot",)
    encodings: tuple[str, ...] = PAPER
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    epochs: int | None = None
    learning_rate: float | None = None
    yarn: str = "swap"
    maps: str = "swap"
    positions: str = "consecutive"
    recipe: str = "disjoint"
    rule: str = "sum"
    front_token: bool = True
    train_sequences: int = 10_000
    test_sequences: int = 1_000
    train_length: int = 64
    test_lengths: tuple[int, ...] = (256,)
    backend: str = "c"

    def __post_init__(self) -> None:
        """Check every field before any work is done."""
        known = {
            "preset": PRESETS,
            "yarn": MODES,
            "maps": MODES,
            "positions": POSITIONS,
            "recipe": posgen.RECIPES,
            "rule": posgen.RULES,
            "backend": BACKENDS,
        }
        for name, names in known.items():
            check_name("posgen", name, getattr(self, name), names)
        for argument in ("tasks", "encodings", "seeds", "test_lengths"):
            values = getattr(self, argument)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"posgen: {argument} are {list(values)}, expected at least one, each once")
        for task in self.tasks:
            check_name("posgen", "task", task, posgen.TASKS)
        for encoding in self.encodings:
            check_name("posgen", "encoding", encoding, METHODS)
        for seed in self.seeds:
            check_integer("posgen", "seed", seed, 0)
        for name in ("train_sequences", "test_sequences"):
            check_integer("posgen", name, getattr(self, name), 1)
        check_integer("posgen", "train_length", self.train_length, 6)
        for length in self.test_lengths:
            check_integer("posgen", "test_length", length, self.train_length + 1)
        places, length = self.train_settings().positions or TrainPositions(), self._read(self.train_length)
        for name in self.encodings:  # these have checks of their own
            places.check(self.model(trained := self.trained_name(name)), self.trained_encoding(trained), length)
        self.dataset(self.tasks[0], self.seeds[0], count_only=True)

    def train_settings(self, trained: str = "rope") -> TrainSettings:
        """The preset's for a method, with what was asked for instead."""
        preset = PRESETS[self.preset].train
        preset = replace(preset, learning_rate=preset.learning_rate * METHODS[trained].rate)
        asked: dict[str, Any] = {
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "front_token": self.front_token,
            "positions": self._positions(),
        }
        return replace(preset, **{n: value for n, value in asked.items() if value is not None})

    def _positions(self) -> TrainPositions | None:
        kinds = {"random": RandomPositions, "pose": PoSE}
        return kinds[self.positions](self._read(self.longest)) if self.positions in kinds else None

    @property
    def longest(self) -> int:
        """The longest test, in tokens."""
        return max(self.test_lengths)

    def _read(self, length: int) -> int:
        """Tokens that a model reads of a sequence of so many: it is never asked for what follows the last."""
        return length - 1 + int(self.front_token)

    def model(self, trained: str) -> TransformerConfig:
        """The preset's model with what the method adds that it is trained with."""
        sizes = (self._read(self.train_length), self._read(self.longest))
        return configuration_of(trained, PRESETS[self.preset].model, *sizes)

    def dataset(self, task: str, seed: int, *, count_only: bool = False) -> posgen.Dataset:
        """The splits of one task; with `count_only` sequences as short as can be, to check their number."""
        short = count_only
        return posgen.make_splits(
            task,
            recipe=self.recipe,
            seed=seed,
            train=self.train_sequences,
            validation=self.test_sequences,
            test=self.test_sequences,
            train_length=4 if short else self.train_length,
            test_length=4 if short else self.longest,
            rule=self.rule,
        )

    def tested_encoding(self, name: str, test_length: int) -> RotaryEncoding | PositionMap | None:
        """What turns queries and keys where the row `name` is tested at a length."""
        head_dim = PRESETS[self.preset].model.head_dim
        lengths = Lengths(self._read(self.train_length), self._read(test_length))
        original, target = self.train_length, test_length
        options: dict[str, Any] = {"ramp": "turns", "blend": "wavelength"}
        if self.yarn == "swap":
            front = int(self.front_token)
            original, target, options = original + front, target + front, {}
        yarn = YaRN(head_dim, factor=target / original, original_length=original, beta_fast=2.0, **options)
        return encoding_of(name, head_dim, lengths, yarn=yarn)

    def trained_encoding(self, trained: str) -> RotaryEncoding | PositionMap | None:
        """What turns queries and keys in training."""
        return self.tested_encoding(trained, self.longest)

    def trained_name(self, name: str) -> str:
        """The method that the row `name` is trained with: RoPE where YaRN or a position map is swapped in."""
        if name in MAPS and self.maps == "swap":
            return "rope"
        return name.replace("yarn", "rope") if self.yarn == "swap" else name

    def trainings(self) -> list[tuple[str, int, str]]:
        """(task, seed, encoding trained with) of every training, in the order in which they are run."""
        trained = list(dict.fromkeys(self.trained_name(name) for name in self.encodings))
        return [(task, seed, name) for task in self.tasks for seed in self.seeds for name in trained]


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


def run(settings: ExperimentSettings, progress: Progress) -> Iterator[list[dict[str, Any]]]:
    """Run the experiment; after each training yield its rows, as they stand in results.json."""
    for task, seed, trained in settings.trainings():
        yield train_and_test(settings, task, seed, trained, progress)


def run_side_by_side(
    settings: ExperimentSettings, progresses: Sequence[Progress], processes: int
) -> Iterator[list[dict[str, Any]]]:
    """`run` with so many processes at a time, each with one thread: the same rows in the same order.

    Parameters
    ----------
    progresses : one for each training, which can be pickled
    """
    with ProcessPoolExecutor(processes, get_context("spawn"), _start_process) as pool:
        trainings = zip(settings.trainings(), progresses, strict=True)
        futures = [pool.submit(train_and_test, settings, *training, progress) for training, progress in trainings]
        try:
            for future in futures:
                yield future.result()
        except BaseException:  # an interrupt, too: nobody waits for the other trainings
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all processes; one of them reports it
    kernels.set_num_threads(1)


def train_and_test(
    settings: ExperimentSettings, task: str, seed: int, trained: str, progress: Progress
) -> list[dict[str, Any]]:
    """One training, and the rows of all encodings that its model is tested with."""
    dataset = settings.dataset(task, seed)
    model = Transformer(settings.model(trained), seed=seed, backend=settings.backend)
    train_settings = settings.train_settings(trained)
    steps = train_settings.epochs * math.ceil(len(dataset.train) / train_settings.batch_size)
    progress.start(task, seed, trained, steps)
    began = time.perf_counter()
    history = train(
        *(model, settings.trained_encoding(trained), dataset, train_settings),
        seed=seed,
        on_step=progress.step,
        on_epoch=progress.epoch,
    )
    seconds = time.perf_counter() - began
    names = [name for name in settings.encodings if settings.trained_name(name) == trained]
    rows = [
        _test(settings, name, trained, model, dataset, seed, length)
        for name in names
        for length in settings.test_lengths
    ]
    for row in rows:
        row |= {"task": task, "seed": seed, "preset": settings.preset, "seconds": seconds}
        row |= {"learning_rate": train_settings.learning_rate, "epochs": train_settings.epochs}
        row |= {"step_seconds": history.step_seconds, "curves": _curves(history)}
    progress.finish(rows)
    return rows


def _test(
    settings: ExperimentSettings,
    name: str,
    trained: str,
    model: Transformer,
    dataset: posgen.Dataset,
    seed: int,
    length: int,
) -> dict[str, Any]:
    encoding = settings.tested_encoding(name, length)
    accuracy = accuracy_by_position(
        *(model, encoding, dataset, dataset.test[:, :length]),
        front_token=settings.front_token,
        places=settings.train_settings().positions,
        seed=seed,
    )
    inside, beyond = split_accuracy(accuracy, dataset.train_length)
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
    }


def _parts(encoding: RotaryEncoding | PositionMap | None, config: TransformerConfig) -> list[str]:
    """What tells a model positions, in words."""
    parts = [repr(part) for part in (encoding, config.absolute, config.bias) if part is not None]
    return parts if config.window is None else [*parts, f"window {config.window}"]


def _curves(history: History) -> dict[str, list[float]]:
    return {"loss": history.loss, "id_accuracy": history.id_accuracy, "ood_accuracy": history.ood_accuracy}


def results(
    settings: ExperimentSettings, runs: list[dict[str, Any]], command: str, *, complete: bool
) -> dict[str, Any]:
    """What results.json holds: the rows, every setting, the versions, and whether all trainings were finished."""
    preset = PRESETS[settings.preset]
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "complete": complete,
        "settings": asdict(settings) | {"train": asdict(settings.train_settings()), "model": asdict(preset.model)},
        **environment(),
        "runs": runs,
    }
