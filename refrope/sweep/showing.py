"""What a person sees while a sweep runs: one bar over all steps where tqdm is installed, else a line now and then."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from refrope.sweep.protocol import Run
from refrope.sweep.running import Outcome, directory_of


class Steps:
    """How far the runs of a sweep are, in steps, from what they leave in their directories."""

    def __init__(self, sweep: Path, runs: Sequence[Run]) -> None:
        self.sweep = sweep
        self.total = sum(run.steps for run in runs)
        self.runs, self.finished = len(runs), 0
        self.steps_finished = 0

    def finish(self, run: Run) -> None:
        """Count a run that is done."""
        self.finished += 1
        self.steps_finished += run.steps

    def look(self, pending: Sequence[Run]) -> tuple[int, list[str]]:
        """Steps that are done in all, and a few words on each run in work."""
        steps, words = self.steps_finished, []
        for run in pending:
            progress = self._progress(run)
            if progress is not None:
                steps += min(progress["step"], run.steps)
                doing = progress["doing"] if "doing" in progress else f"loss {progress['loss']:.2f}"
                words.append(f"{run.shown} {doing}")
        return steps, words

    def _progress(self, run: Run) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            path = directory_of(self.sweep, run.name) / "progress.json"
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        return None


def make_display(sweep: Path, runs: Sequence[Run]) -> Bar | Lines:
    """The best display that is installed."""
    steps = Steps(sweep, runs)
    try:
        from tqdm import tqdm
    except ImportError:
        return Lines(steps)
    return Bar(steps, tqdm)


def _said(run: Run, outcome: Outcome) -> list[str]:
    failed = [] if outcome.failed is None else [f"{run.name} failed: {outcome.failed}"]
    return [*outcome.notes, *failed]


class Lines:
    """A line for each run that is done, and one a minute on how far all of them are."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.began = self.said = time.monotonic()
        self.first: int | None = None

    def look(self, pending: Sequence[Run]) -> None:
        """Say how far the sweep is, once a minute."""
        now = time.monotonic()
        done, _ = self.steps.look(pending)
        if self.first is None:
            self.first = done
        if now - self.said >= 60:
            rate = (done - self.first) / (now - self.began)
            left = f", {(self.steps.total - done) / rate / 60:.0f} min left" if rate else ""
            self.say(f"{self.steps.finished}/{self.steps.runs} runs, {done}/{self.steps.total} steps{left}")
            self.said = now

    def done(self, run: Run, outcome: Outcome) -> None:
        """Say that a run is done."""
        self.steps.finish(run)
        for text in _said(run, outcome):
            self.say(text)
        self.say(f"[{self.steps.finished}/{self.steps.runs}] {run.name}")

    def say(self, text: str) -> None:
        """Print it."""
        print(text, flush=True)

    def close(self) -> None:
        """Nothing is left to do."""


class Bar:
    """One bar over the steps of all runs, with the time left; what was done before this start counts as done."""

    def __init__(self, steps: Steps, tqdm: Any) -> None:
        self.steps, self.tqdm = steps, tqdm
        self.bar: Any = None

    def look(self, pending: Sequence[Run]) -> None:
        """Move the bar."""
        done, words = self.steps.look(pending)
        if self.bar is None:
            self.bar = self.tqdm(
                total=self.steps.total, initial=done, unit="step", file=sys.stdout, dynamic_ncols=True, smoothing=0.05
            )
        self.bar.set_description(f"{self.steps.finished}/{self.steps.runs} runs", refresh=False)
        self.bar.set_postfix_str("; ".join(words[:2]), refresh=False)
        self.bar.update(max(done - self.bar.n, 0))

    def done(self, run: Run, outcome: Outcome) -> None:
        """Count a run, and say what people should know about it."""
        self.steps.finish(run)
        for text in _said(run, outcome):
            self.say(text)

    def say(self, text: str) -> None:
        """Print it above the bar."""
        self.tqdm.write(text, file=sys.stdout)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
