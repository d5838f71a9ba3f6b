"""One run in its directory: goes on where it was, keeps checkpoints, leaves a result that no interruption changes.

settings.json   what is trained
checkpoint-*    where it is (the last two), until it is done
progress.json   how far it is, for whoever looks
weights.npz     the trained weights
tested.json     what the tests have found so far, until they are done
result.json     rows and curves: the same bytes for the same run, whatever happened on the way; checksum inside
timing.json     seconds, machine and versions: what may differ
"""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope import __version__, checkpoint, kernels
from refrope.environment import environment
from refrope.files import read_checked_json, remove_parts, write_checked_json, write_json
from refrope.sweep.protocol import Prepared, Run
from refrope.training import Course, ResumableTraining, TrainState, curves

STOP = threading.Event()  # set: every run in this process saves a checkpoint and raises `Stopped`
BUSY = threading.Event()  # set while a run is in work in this process


class Stopped(Exception):
    """A run was asked to stop; it has saved where it is."""


class Outcome(NamedTuple):
    """What became of a run, beside what is on disk.

    Attributes
    ----------
    name : str
    notes : list of str
        What people should know: damaged files, a training that began anew.
    failed : str or None
        Why there are no numbers: a loss that is no number.
    """

    name: str
    notes: list[str]
    failed: str | None


def directory_of(sweep: Path, run_name: str) -> Path:
    """Where a run's files are."""
    return sweep / "runs" / run_name


def finished(sweep: Path, run: Run) -> Outcome | None:
    """What became of a run that has nothing left to do; None where it has, be it that its files are damaged."""
    directory = directory_of(sweep, run.name)
    result, _ = _result(directory)
    if result is None:
        return None
    failed = result.get("failed")
    if failed is None:
        keys = {row["key"] for row in result["rows"]}
        if any(test.key() not in keys for test in run.tests()):
            return None
        if not result.get("untrained") and saved_weights(directory, result) is None:
            return None
    return Outcome(run.name, [], failed)


def tidy(directory: Path) -> None:
    """Remove what a finished run no longer needs: one that is killed just behind its result leaves all of it there."""
    checkpoint.remove(directory)
    for name in ("progress.json", "tested.json"):
        (directory / name).unlink(missing_ok=True)
    remove_parts(directory)


def saved_weights(directory: Path, result: dict[str, Any]) -> npt.NDArray[Any] | None:
    """The trained weights of a run; None where they are not there, or not those that its result names."""
    with suppress(OSError, ValueError, KeyError):
        weights = checkpoint.unpack_from(directory / "weights.npz")[0]["weights"]
        if digest(weights) == result["weights_sha256"]:
            return weights
    return None


def work(sweep: Path, run: Run, *, every: float = 30.0, threads: int | None = None) -> Outcome:
    """Do what is left of a run. Two processes that are given the same run do it one after the other.

    Parameters
    ----------
    sweep : Path
        The sweep's directory; the same files for all who work on it.
    every : float
        Seconds between checkpoints.
    threads : int, optional
        Of the kernels and BLAS in this process; as they are if None. Results do not depend on it.

    Raises
    ------
    Stopped
        `STOP` was set.
    OSError, MemoryError
        The disk is full, ...: the run goes on from its last checkpoint when it is started again.
    """
    from filelock import FileLock

    if not (sweep / "sweep.json").exists():
        raise OSError(f"{sweep / 'sweep.json'} is not there on {platform.node()}: all workers need the same directory")
    if threads is not None:
        kernels.set_num_threads(threads)
    directory = directory_of(sweep, run.name)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "lock"):
        done = finished(sweep, run)
        if done is not None:
            tidy(directory)
            return done
        BUSY.set()
        try:
            return _Work(sweep, directory, run, every).do()
        finally:
            BUSY.clear()


def _result(directory: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The result of a run if there is a whole one, and what is wrong with it if it is damaged."""
    try:
        return read_checked_json(directory / "result.json"), []
    except ValueError as error:
        return None, [str(error)]


class _Work:
    """What is left of one run, under its lock."""

    def __init__(self, sweep: Path, directory: Path, run: Run, every: float) -> None:
        self.sweep, self.directory, self.run, self.every = sweep, directory, run, every
        remove_parts(directory)
        write_json(directory / "settings.json", {"training": run.about(), "settings": run.asked()})
        self.result, self.notes = _result(directory)
        with suppress(ValueError):  # a damaged one is as good as none
            tested = read_checked_json(directory / "tested.json")
            if tested is not None and tested["weights_sha256"] == (self.result or tested).get("weights_sha256"):
                self.result = tested
        self.seconds = 0.0

    def do(self) -> Outcome:
        """Train or take the weights that are there, do the tests that are missing, write the result."""
        prepared = self.run.prepare(self.sweep)
        result = self.result or {}
        weights = saved_weights(self.directory, result)
        training = prepared.training() if weights is None else None
        if weights is not None:
            prepared.model.flat_params[...] = weights
        elif training is None:
            sha = digest(prepared.model.flat_params)
            rows = result["rows"] if result.get("weights_sha256") == sha else []
            result = {"weights_sha256": sha, "untrained": True, "curves": {}, "rows": rows}
        else:
            if result:
                self.notes.append(f"{self.directory / 'weights.npz'} is damaged: the training begins anew")
            try:
                history = self._train(training)
                training = None  # tests need none of its memory
            except FloatingPointError as error:
                write_checked_json(self.directory / "result.json", self._named() | {"failed": str(error), "rows": []})
                tidy(self.directory)
                return Outcome(self.run.name, self.notes, str(error))
            result = {"weights_sha256": digest(prepared.model.flat_params), "curves": curves(history), "rows": []}
            checkpoint.pack_into(self.directory / "weights.npz", {"weights": prepared.model.flat_params}, {})
            self._write_timing(history)
        result = self._test(prepared, self._named() | result)
        write_checked_json(self.directory / "result.json", result)
        tidy(self.directory)
        return Outcome(self.run.name, self.notes, None)

    def _named(self) -> dict[str, Any]:
        return {"run": self.run.name, "training": self.run.about()}

    # ---- tests ----

    def _test(self, prepared: Prepared[Any], result: dict[str, Any]) -> dict[str, Any]:
        """The result with the rows of all tests; where these take long, what they have found is kept on the way."""
        rows = {row["key"]: row for row in result["rows"]}
        tests = {test.key(): test for test in self.run.tests()}
        left = {key: test for key, test in tests.items() if key not in rows}
        done = self.run.steps - sum(test.steps for test in left.values())
        saved = time.monotonic()
        for key, test in left.items():
            if STOP.is_set() or (rows and test.steps and time.monotonic() - saved >= self.every):
                write_checked_json(self.directory / "tested.json", _with_rows(result, rows.values()))
                saved = time.monotonic()
            if STOP.is_set():
                raise Stopped(self.run.name)
            self._tell({"step": done, "steps": self.run.steps, "doing": test.shown})
            rows[key] = prepared.row(test) | {"key": key, "settings": test.about()}
            done += test.steps
        return _with_rows(result, rows.values())

    # ---- training ----

    def _train(self, training: ResumableTraining[Any]) -> Course:
        self._restore(training)
        saved = shown = began = time.monotonic()
        before = self.seconds

        def on_step(loss: float) -> None:
            nonlocal saved, shown
            now = time.monotonic()
            self.seconds = before + now - began
            if STOP.is_set():
                self._save(training)
                raise Stopped(self.run.name)
            if now - saved >= self.every and training.step < training.steps:
                self._save(training)
                saved = time.monotonic()
            if now - shown >= 1.0:
                self._show(training, loss)
                shown = now

        history: Course = training.run(on_step)
        self.seconds = before + time.monotonic() - began
        return history

    def _restore(self, training: ResumableTraining[Any]) -> None:
        found, damaged = checkpoint.load(self.directory)
        self.notes += damaged
        if found is None:
            return
        if found.about["arithmetic"] != arithmetic():
            other = _difference(found.about["arithmetic"], arithmetic())
            self.notes.append(f"{self.run.name}: its checkpoint was made with {other}; the training begins anew")
            checkpoint.remove(self.directory)
            return
        training.restore(state_from(found))
        self.seconds = found.about["elapsed"]

    def _save(self, training: ResumableTraining[Any]) -> None:
        arrays, about = state_to(training.state())
        about |= {"arithmetic": arithmetic(), "elapsed": self.seconds}
        checkpoint.save(self.directory, training.step, arrays, about)

    def _show(self, training: ResumableTraining[Any], loss: float) -> None:
        """Tell how far the training is."""
        last = {name: values[-1] for name, values in curves(training.history).items() if values}
        self._tell({"step": training.step, "steps": training.steps, "loss": loss, "epoch": last})

    def _tell(self, progress: dict[str, Any]) -> None:
        """Write down how far the run is; a disk that is full must not stop it for that."""
        with suppress(OSError):
            write_json(self.directory / "progress.json", progress, durable=False)

    def _write_timing(self, history: Course) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        times = {"date": now, "seconds": self.seconds, "step_seconds": history.step_seconds}
        write_json(self.directory / "timing.json", times | {"arithmetic": arithmetic()} | environment())


def _with_rows(result: dict[str, Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return result | {"rows": sorted(rows, key=lambda row: str(row["key"]))}


def digest(weights: npt.NDArray[Any]) -> str:
    """SHA-256 of a model's weights."""
    return hashlib.sha256(np.ascontiguousarray(weights).data).hexdigest()


# ---- a training's state as arrays and JSON ----


def state_to(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and the rest, for `refrope.checkpoint.save`."""
    arrays = {name: getattr(state, name) for name in ("weights", "moment1", "moment2")}
    arrays |= {} if state.best is None else {"best": state.best}
    arrays |= {name: np.array(getattr(state, name), np.float64) for name in ("losses", "seconds")}
    return arrays, {name: getattr(state, name) for name in ("step", "order", "draws", "history")}


def state_from(found: checkpoint.Checkpoint) -> TrainState:
    """What `state_to` was given."""
    arrays, about = found.arrays, found.about
    return TrainState(
        step=about["step"],
        weights=arrays["weights"],
        moment1=arrays["moment1"],
        moment2=arrays["moment2"],
        best=arrays.get("best"),
        losses=arrays["losses"].tolist(),
        seconds=arrays["seconds"].tolist(),
        order=about["order"],
        draws=about["draws"],
        history=about["history"],
    )


def arithmetic() -> dict[str, Any]:
    """What the bits of a training depend on, beside its settings: a checkpoint goes on under the same only."""
    about = environment()
    build = about["machine"]["kernels"]
    return {
        "refrope": __version__,
        "numpy": about["versions"]["numpy"],
        "blas": about["versions"]["blas"],
        "blas kernels": _blas_kernels(),
        "kernels": [build.get(key) for key in ("compiler", "flags", "simd")],
    }


def _blas_kernels() -> list[str]:
    """The instruction sets that the BLAS libraries in this process have chosen."""
    from threadpoolctl import threadpool_info

    return sorted({str(library.get("architecture")) for library in threadpool_info() if library["user_api"] == "blas"})


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What differs, in words."""
    keys = [key for key in other if one.get(key) != other[key]]
    return ", ".join(f"{key} {json.dumps(one.get(key))} (now {json.dumps(other[key])})" for key in keys)
