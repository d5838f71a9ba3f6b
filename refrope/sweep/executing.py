"""Who does the runs of a sweep: this process, a pool of processes, or any executor that speaks concurrent.futures.

Runs know nothing of each other and everything is on disk, so a sweep is: submit what is unfinished, look on, and go
on when a worker was lost. Whatever is interrupted, the next call of `execute` goes on where it was.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from filelock import FileLock, Timeout

from refrope import checkpoint
from refrope.sweep import running
from refrope.sweep.protocol import Run
from refrope.sweep.running import Outcome, Stopped, finished, work
from refrope.workers import start_worker, worker_pool

LOCK = "lock"  # an empty file in the sweep's directory
_LOOK = 0.5  # seconds between looks at how far the runs are
_LOSSES = 3  # of workers in a row without any step done between them, after which nobody tries again


class Display(Protocol):
    """Who is told how a sweep goes on."""

    def look(self, pending: Sequence[Run]) -> None:
        """Look at the progress of runs that are not done."""

    def done(self, run: Run, outcome: Outcome) -> None:
        """Tell that a run is done."""

    def say(self, text: str) -> None:
        """Tell something that people should know."""


class Unfinished(NamedTuple):
    """A run that raised, and what."""

    run: Run
    error: BaseException


def execute(
    sweep: Path,
    runs: Sequence[Run],
    display: Display,
    *,
    processes: int = 1,
    executor: Executor | None = None,
    every: float = 30.0,
) -> list[Unfinished]:
    """Do what is left of the runs.

    Parameters
    ----------
    sweep : Path
        A directory with a sweep.json. Where workers are on other machines, they need it under the same path.
    processes : int
        1: in this process, with all its threads; more: as many processes of one thread each.
    executor : Executor, optional
        Does the runs instead, one thread each; it is not shut down.
    every : float
        Seconds between the checkpoints of a run.

    Returns
    -------
    Runs that are not finished because of an error that another attempt may not have: a full disk, a lost worker.

    Raises
    ------
    ValueError
        Another process is at work on this sweep.
    KeyboardInterrupt
        Runs in this process or its children have saved where they are.
    """
    with alone_in(sweep):
        return _execute(sweep, runs, display, processes, executor, every)


@contextmanager
def alone_in(sweep: Path) -> Iterator[None]:
    """Have a sweep's directory for this process alone.

    Raises
    ------
    ValueError
        Another process is at work on this sweep.
    OSError
        The directory cannot be written.
    """
    lock = FileLock(sweep / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"sweep: another process is at work in {sweep}, expected one at a time") from None
    try:
        yield
    finally:
        lock.release()


def _execute(
    sweep: Path, runs: Sequence[Run], display: Display, processes: int, executor: Executor | None, every: float
) -> list[Unfinished]:
    left: list[Run] = []
    for run in runs:
        outcome = finished(sweep, run)
        if outcome is None:
            left.append(run)
        else:
            running.tidy(running.directory_of(sweep, run.name))
            display.done(run, outcome)
    failed: list[Unfinished] = []
    losses = 0
    while left:
        before = _saved_steps(sweep, left)
        with _executor(processes, executor) as (chosen, do, threads):
            tasks = {chosen.submit(do, sweep, run, every=every, threads=threads): run for run in left}
            errors = _look_on(tasks, display)
        lost = [each for each in errors if isinstance(each.error, BrokenExecutor)]
        failed += [each for each in errors if each not in lost]
        moved = len(errors) < len(left) or _saved_steps(sweep, left) > before
        losses = 0 if moved else losses + 1
        if lost and (executor is not None or losses == _LOSSES):
            return failed + lost
        if lost:
            display.say(f"A worker was lost: {len(lost)} unfinished runs go on from their checkpoints.")
        left = [each.run for each in lost]
    return failed


def _look_on(tasks: dict[Future[Outcome], Run], display: Display) -> list[Unfinished]:
    """Wait until all tasks are done or have raised; what they raised."""
    pending, errors = dict(tasks), []
    try:
        while pending:
            display.look(list(pending.values()))
            done, _ = wait(pending, timeout=_LOOK, return_when=FIRST_COMPLETED)
            for future in done:
                run = pending.pop(future)
                error = future.exception()
                if error is None:
                    display.done(run, future.result())
                else:
                    errors.append(Unfinished(run, error))
    finally:
        for future in pending:
            future.cancel()
    return errors


def _saved_steps(sweep: Path, runs: Sequence[Run]) -> int:
    return sum(checkpoint.newest_step(running.directory_of(sweep, run.name)) for run in runs)


@contextmanager
def _executor(
    processes: int, executor: Executor | None
) -> Iterator[tuple[Executor, Callable[..., Outcome], int | None]]:
    """Who does the runs, by which function, and with how many threads each; interrupted, runs save where they are."""
    if executor is not None:
        yield executor, work, 1
    elif processes > 1:
        with worker_pool(processes, _start) as pool:
            yield pool, _work_and_go, None
    else:
        with ThreadPoolExecutor(1) as thread:
            try:
                yield thread, work, None
            except BaseException:
                running.STOP.set()
                raise
            finally:
                thread.shutdown(wait=True, cancel_futures=True)
                running.STOP.clear()


def _start() -> None:
    """Make this process a worker that, told to end, saves where its run is."""
    start_worker()
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: object) -> None:
    """Save where the run is and go; at once where there is none."""
    if not running.BUSY.is_set():
        os._exit(128 + number)
    running.STOP.set()


def _work_and_go(sweep: Path, run: Run, *, every: float, threads: int | None) -> Outcome:
    """`work` in a process of the pool, which ends when it was told to stop: whoever told it waits for that."""
    try:
        return work(sweep, run, every=every, threads=threads)
    except Stopped:
        os._exit(128 + signal.SIGTERM)
