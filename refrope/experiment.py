"""The main job: train tiny models on PosGen with several encodings, test them beyond the training length.

    ExperimentSettings ──► trainings (task, seed, encoding trained) ──► rows (task, seed, encoding tested) ──► results

With ``yarn="swap"`` a YaRN row is the plain model tested with the scaled encoding, so four rows take two trainings.
"""

from __future__ import annotations

import datetime
import math
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from refrope import __version__, kernels, posgen
from refrope.encodings import Resonance, RoPE, RotaryEncoding, YaRN
from refrope.errors import check_integer, check_name
from refrope.evaluate import accuracy_by_position, split_accuracy
from refrope.nn.backends import BACKENDS
from refrope.nn.configuration import TransformerConfig
from refrope.nn.transformer import Transformer
from refrope.train import History, TrainSettings, train

ENCODINGS = ("rope", "resonance-rope", "yarn", "resonance-yarn")
YARN_MODES = ("swap", "train")
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
    tasks, encodings : names out of `refrope.posgen.TASKS` and `ENCODINGS`
    seeds : ints >= 0
        Of the data, the weights, the order of the sequences and dropout.
    epochs : int, optional; the preset's if None
    learning_rate : float, optional; the preset's if None
    yarn : {"swap", "train"}
        "swap": train plain, test with YaRN of factor (L' + 1) / (L + 1) and original length L + 1 (the front token
        counts), index ramp, as the paper's code does but for its ramp length, which is L' + 1 there.
        "train": train and test with YaRN of factor L' / L as the paper's text says: turn ramp, wavelength blend.
        Both with beta_fast = 2, beta_slow = 1 of the paper's code.
    recipe, rule : names out of `refrope.posgen.RECIPES` and `RULES`
    front_token : bool
    train_sequences, test_sequences : int; validation has as many as test
    train_length, test_length : int, L and L'
    backend : {"c", "numpy"}

    Raises
    ------
    ValueError
        An unknown name (with the nearest known one), a number out of range.
    """

    preset: str = "tiny"
    tasks: tuple[str, ...] = ("cot",)
    encodings: tuple[str, ...] = ENCODINGS
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    epochs: int | None = None
    learning_rate: float | None = None
    yarn: str = "swap"
    recipe: str = "disjoint"
    rule: str = "sum"
    front_token: bool = True
    train_sequences: int = 10_000
    test_sequences: int = 1_000
    train_length: int = 64
    test_length: int = 256
    backend: str = "c"

    def __post_init__(self) -> None:
        """Check every field before any work is done."""
        known = {
            "preset": PRESETS,
            "yarn": YARN_MODES,
            "recipe": posgen.RECIPES,
            "rule": posgen.RULES,
            "backend": BACKENDS,
        }
        for name, names in known.items():
            check_name("posgen", name, getattr(self, name), names)
        for argument in ("tasks", "encodings", "seeds"):
            values = getattr(self, argument)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"posgen: {argument} are {list(values)}, expected at least one, each once")
        for task in self.tasks:
            check_name("posgen", "task", task, posgen.TASKS)
        for encoding in self.encodings:
            check_name("posgen", "encoding", encoding, ENCODINGS)
        for seed in self.seeds:
            check_integer("posgen", "seed", seed, 0)
        for name in ("train_sequences", "test_sequences"):
            check_integer("posgen", name, getattr(self, name), 1)
        check_integer("posgen", "train_length", self.train_length, 6)
        check_integer("posgen", "test_length", self.test_length, self.train_length + 1)
        self.train_settings()  # has checks of its own
        self.dataset(self.tasks[0], self.seeds[0], count_only=True)

    def train_settings(self) -> TrainSettings:
        """The preset's, with what was asked for instead."""
        preset = asdict(PRESETS[self.preset].train)
        asked = {"epochs": self.epochs, "learning_rate": self.learning_rate, "front_token": self.front_token}
        return TrainSettings(**preset | {name: value for name, value in asked.items() if value is not None})

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
            test_length=4 if short else self.test_length,
            rule=self.rule,
        )

    def tested_encoding(self, name: str) -> RotaryEncoding:
        """The encoding that the row `name` is tested with."""
        head_dim = PRESETS[self.preset].model.head_dim
        plain: RotaryEncoding = RoPE(head_dim)
        if name.endswith("yarn") and self.yarn == "swap":
            front = int(self.front_token)
            original, target = self.train_length + front, self.test_length + front
            plain = YaRN(head_dim, factor=target / original, original_length=original, beta_fast=2.0)
        elif name.endswith("yarn"):
            factor = self.test_length / self.train_length
            plain = YaRN(
                head_dim,
                factor=factor,
                original_length=self.train_length,
                beta_fast=2.0,
                ramp="turns",
                blend="wavelength",
            )
        return Resonance(plain) if name.startswith("resonance") else plain

    def trained_name(self, name: str) -> str:
        """The encoding that the row `name` is trained with: with "swap" the same without YaRN."""
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
    model = Transformer(PRESETS[settings.preset].model, seed=seed, backend=settings.backend)
    train_settings = settings.train_settings()
    steps = train_settings.epochs * math.ceil(len(dataset.train) / train_settings.batch_size)
    progress.start(task, seed, trained, steps)
    began = time.perf_counter()
    history = train(
        *(model, settings.tested_encoding(trained), dataset, train_settings),
        seed=seed,
        on_step=progress.step,
        on_epoch=progress.epoch,
    )
    seconds = time.perf_counter() - began
    names = [name for name in settings.encodings if settings.trained_name(name) == trained]
    rows = [_test(settings, name, trained, model, dataset) for name in names]
    for row in rows:
        row |= {"task": task, "seed": seed, "preset": settings.preset, "seconds": seconds}
        row |= {"step_seconds": history.step_seconds, "curves": _curves(history)}
    progress.finish(rows)
    return rows


def _test(
    settings: ExperimentSettings, name: str, trained: str, model: Transformer, dataset: posgen.Dataset
) -> dict[str, Any]:
    encoding = settings.tested_encoding(name)
    accuracy = accuracy_by_position(model, encoding, dataset, dataset.test, front_token=settings.front_token)
    inside, beyond = split_accuracy(accuracy, dataset.train_length)
    return {
        "encoding": name,
        "trained_with": trained,
        "tested_with": repr(encoding),
        "table_bytes": sum(table.nbytes for table in encoding.cos_sin(np.arange(settings.test_length))),
        "id_accuracy": inside,
        "ood_accuracy": beyond,
        "accuracy_by_position": [None if math.isnan(a) else a for a in accuracy.tolist()],
    }


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


def environment() -> dict[str, Any]:
    """Versions and machine, as every file of results holds them."""
    return {
        "versions": {
            "refrope": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "cffi": metadata.version("cffi"),
            "blas": _blas(),
        },
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cpu": _cpu(),
            "kernels": kernels.build_info(),
        },
    }


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _blas() -> str:
    """Name and version of the BLAS that NumPy was built with."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    except (KeyError, TypeError):  # NumPy before 1.25
        return "unknown"
    return f"{blas['name']} {blas['version']}"
