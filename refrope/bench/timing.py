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


# Idle threads of BLAS libraries and of OpenMP go on spinning on a core for up to some 30 ms.
SETTLE_SECONDS = 0.04


def interleaved(tasks: Mapping[str, Task], repeats: int) -> dict[str, Spread]:
    """Run all tasks in `repeats` rounds, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(repeats + 1):
        for name, task in tasks.items():
            elapsed = in_its_turn(task)
            if round_number:
                seconds[name].append(elapsed)
    return {name: Spread.of(times) for name, times in seconds.items()}


def in_its_turn(task: Task) -> float:
    """Seconds of one run, after others that fill the caches and outlast the spinning threads of the task before.

    A task of seconds needs no others.
    """
    began = time.perf_counter()
    task()
    first = time.perf_counter() - began
    if first > 1:
        return first
    while time.perf_counter() - began < SETTLE_SECONDS:
        task()
    began = time.perf_counter()
    task()
    return time.perf_counter() - began
