"""What a person sees while an experiment runs: a bar where tqdm is installed, else a line an epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

from refrope.experiment import Progress
from refrope.train import History


def make_progress(trainings: int) -> Progress:
    """The best progress display that is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return Lines(trainings)
    return Bar(trainings, tqdm)


def _accuracies(history: History) -> str:
    return f"ID {100 * history.id_accuracy[-1]:.0f}% OOD {100 * history.ood_accuracy[-1]:.0f}%"


class Lines:
    """One line an epoch, for terminals without tqdm and for trainings side by side.

    `number` trainings have begun before.
    """

    def __init__(self, trainings: int, number: int = 0) -> None:
        self.trainings, self.number, self.title = trainings, number, ""

    def start(self, task: str, seed: int, encoding: str, steps: int) -> None:
        """Remember what the training is called."""
        self.number += 1
        self.title = f"[{self.number}/{self.trainings}] {task}, {encoding}, seed {seed}"

    def step(self, loss: float) -> None:
        """Say nothing."""

    def epoch(self, history: History) -> None:
        """Print the epoch's loss and accuracies."""
        print(
            f"{self.title}: epoch {len(history.loss)}, loss {history.loss[-1]:.3f}, {_accuracies(history)}", flush=True
        )

    def finish(self, rows: list[dict[str, Any]]) -> None:
        """Say nothing: the table follows."""


class Bar:
    """A bar for each training with loss, accuracies, the time left for it and for all trainings."""

    def __init__(self, trainings: int, tqdm: Any) -> None:
        self.trainings, self.number, self.tqdm = trainings, 0, tqdm
        self.bar: Any = None
        self.shown: dict[str, str] = {}
        self.began = time.perf_counter()
        self.steps = 0

    def start(self, task: str, seed: int, encoding: str, steps: int) -> None:
        """Open a bar."""
        self.number += 1
        title = f"[{self.number}/{self.trainings}] {task}, {encoding}, seed {seed}"
        self.shown = {}
        self.bar = self.tqdm(total=steps, desc=title, unit="step", file=sys.stdout, dynamic_ncols=True, mininterval=0.5)

    def step(self, loss: float) -> None:
        """Move the bar."""
        self.steps += 1
        self.shown["loss"] = f"{loss:.3f}"
        if self.number < self.trainings:
            each = (time.perf_counter() - self.began) / self.steps
            left = each * (self.bar.total * (self.trainings - self.number + 1) - self.bar.n)
            self.shown["all left"] = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        else:
            self.shown.pop("all left", None)
        self.bar.set_postfix(self.shown, refresh=False)
        self.bar.update()

    def epoch(self, history: History) -> None:
        """Show the accuracies on the watched validation sequences."""
        self.shown["ID"] = f"{100 * history.id_accuracy[-1]:.0f}%"
        self.shown["OOD"] = f"{100 * history.ood_accuracy[-1]:.0f}%"
        self.bar.set_postfix(self.shown)

    def finish(self, rows: list[dict[str, Any]]) -> None:
        """Leave the bar where it is."""
        self.bar.close()
