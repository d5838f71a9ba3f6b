"""Time several tasks in turns, so that what disturbs one disturbs all, and compare medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Task = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the times of one task, in seconds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Spread:
        """The spread of measured times."""
        low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high))


def interleaved(tasks: Mapping[str, Task], repeats: int) -> dict[str, Spread]:
    """Run all tasks in `repeats` rounds, after one to warm up.

    In its turn a task runs twice and the second time counts: as in a training, its data are in the caches, and threads
    of the task before no longer spin on a core.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(repeats + 1):
        for name, task in tasks.items():
            task()
            began = time.perf_counter()
            task()
            if round_number:
                seconds[name].append(time.perf_counter() - began)
    return {name: Spread.of(times) for name, times in seconds.items()}
