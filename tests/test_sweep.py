"""refrope.sweep: nothing finished is lost or run twice, and no interruption changes a bit."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from refrope import checkpoint, kernels
from refrope.evaluate import accuracy_by_position
from refrope.settings import ExperimentSettings
from refrope.sweep import executing, load_models, load_rows, load_sweep, running, runs_of
from refrope.sweep.conducting import prepare_directory
from refrope.sweep.executing import execute
from refrope.train import Training

# Two trainings of six steps of 128 x 8 tokens: a fraction of a second each.
SETTINGS = ExperimentSettings(
    tasks=("recursive",), encodings=("rope", "yarn", "resonance-rope"), seeds=(3,), epochs=3, train_sequences=200,
    test_sequences=7, train_length=8, test_lengths=(11, 13), backend="c" if kernels.available() else "numpy",
)  # fmt: skip


class Quiet:
    """A display that remembers."""

    def __init__(self) -> None:
        self.outcomes, self.said = [], []

    def look(self, pending):
        pass

    def done(self, run, outcome):
        self.outcomes.append(outcome)

    def say(self, text):
        self.said.append(text)


def sweep(directory: Path, *grid: ExperimentSettings, **how: object) -> tuple[Quiet, list]:
    """Start a sweep and wait for its end."""
    runs = runs_of(grid or (SETTINGS,))
    prepare_directory(directory, runs)
    display = Quiet()
    return display, execute(directory, runs, display, **how)


def files(directory: Path, *names: str) -> dict[str, bytes]:
    """What no interruption may change."""
    names = names or ("result.json", "weights.npz")
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for name in names for p in sorted(directory.rglob(name))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A sweep that nobody interrupted."""
    directory = tmp_path_factory.mktemp("undisturbed") / "out"
    display, unfinished = sweep(directory)
    assert not unfinished
    assert len(display.outcomes) == 2
    return directory


# ---- what is run ----


def test_a_grid_shares_trainings_that_differ_in_their_tests_alone():
    turns = replace(SETTINGS, yarn_ramp="turns")
    runs = runs_of([SETTINGS, turns])
    assert [run.name for run in runs] == [run.name for run in runs_of([SETTINGS])]
    (rope,) = (run for run in runs if run.trained == "rope")
    assert len(rope.tests()) == 8  # two settings, RoPE and YaRN, two lengths
    assert len({test.key() for test in rope.tests()}) == 8
    assert len({run.name for run in runs_of([SETTINGS, replace(SETTINGS, dropout=0.1)])}) == 4


@pytest.mark.parametrize(
    "other",
    [
        {"seeds": (4,)}, {"tasks": ("cot",)}, {"epochs": 2}, {"batch_size": 16}, {"learning_rate": 1e-3},
        {"dropout": 0.1}, {"frozen": "feed-forward"}, {"scores": "scaled"}, {"recipe": "official"}, {"rule": "latin"},
        {"front_token": False}, {"train_sequences": 201}, {"train_length": 9}, {"test_lengths": (14,)},
        {"positions": "random"}, {"preset": "small"},
    ],
)  # fmt: skip
def test_whatever_changes_the_weights_changes_the_name_of_a_run(other):
    names = {run.name for run in runs_of([SETTINGS])}
    assert names.isdisjoint(run.name for run in runs_of([replace(SETTINGS, **other)]))


def test_names_do_not_depend_on_what_else_is_asked_for():
    more = replace(
        SETTINGS, tasks=("cot", "recursive"), seeds=(1, 3), encodings=("alibi", "resonance-rope", "rope", "yarn")
    )
    assert {run.name for run in runs_of([SETTINGS])} <= {run.name for run in runs_of([more])}


def test_rows_are_those_of_an_experiment(undisturbed):
    from refrope.experiment import train_and_test

    (expected,) = (
        row
        for row in train_and_test(SETTINGS, "recursive", 3, "rope", _Silent())
        if row["encoding"] == "yarn" and row["test_length"] == 13
    )
    (found,) = (row for row in load_rows(undisturbed) if row["encoding"] == "yarn" and row["test_length"] == 13)
    changing = {"seconds", "step_seconds"}
    assert {k: v for k, v in expected.items() if k not in changing} == {
        k: found[k] for k in expected if k not in changing
    }
    assert found["settings"]["epochs"] == 3
    assert found["seconds"] > 0
    assert len(load_rows(undisturbed)) == 6
    assert len(load_sweep(undisturbed)["runs"]) == 2


class _Silent:
    start = step = epoch = finish = lambda self, *arguments: None


def test_models_come_back_as_they_were_tested(undisturbed):
    rows = load_rows(undisturbed)
    seen = 0
    for run in load_models(undisturbed):
        (row,) = (r for r in rows if r["encoding"] == run.trained and r["test_length"] == 13)
        accuracy = accuracy_by_position(run.model, run.encoding, run.dataset, run.dataset.test)
        assert [None if np.isnan(a) else a for a in accuracy.tolist()] == row["accuracy_by_position"]
        seen += 1
    assert seen == 2


# ---- who runs it ----


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(2), lambda: ProcessPoolExecutor(2, get_context("spawn"))])
def test_any_executor_gives_the_same_bits(undisturbed, tmp_path, make):
    threads = kernels.get_num_threads()
    try:
        with make() as executor:
            _, unfinished = sweep(tmp_path / "out", executor=executor)
    finally:
        kernels.set_num_threads(threads)
    assert not unfinished
    assert files(tmp_path) == files(undisturbed)


def test_processes_give_the_same_bits(undisturbed, tmp_path):
    _, unfinished = sweep(tmp_path / "out", processes=2)
    assert not unfinished
    assert files(tmp_path) == files(undisturbed)


class _Odd(Executor):
    """An executor of somebody else: it runs what it is given at once, in an order of its own."""

    def submit(self, function, /, *arguments, **named):
        future = Future()
        try:
            future.set_result(function(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_an_executor_needs_submit_alone(undisturbed, tmp_path):
    threads = kernels.get_num_threads()
    try:
        _, unfinished = sweep(tmp_path / "out", executor=_Odd())
    finally:
        kernels.set_num_threads(threads)
    assert not unfinished
    assert files(tmp_path) == files(undisturbed)


# ---- interruptions ----


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_run_that_stops_after_any_step_goes_on_with_the_same_bits(undisturbed, tmp_path, monkeypatch, stop):
    real = Training._one_step

    def one_step(self, rows):
        loss = real(self, rows)
        if self.step == stop:
            running.STOP.set()
        return loss

    monkeypatch.setattr(Training, "_one_step", one_step)
    _, unfinished = sweep(tmp_path / "out")
    running.STOP.clear()
    assert [type(each.error).__name__ for each in unfinished] == ["Stopped", "Stopped"]
    assert len(list(tmp_path.rglob("checkpoint-*"))) >= 1
    monkeypatch.undo()
    began = _steps_begun(monkeypatch)
    _, unfinished = sweep(tmp_path / "out")
    assert not unfinished
    assert began[0] == stop
    assert 0 not in began  # neither begins anew
    assert files(tmp_path) == files(undisturbed)
    assert not list(tmp_path.rglob("checkpoint-*"))


def _steps_begun(monkeypatch) -> list[int]:
    """The steps that trainings begin, from now on."""
    begun, real = [], Training._one_step
    monkeypatch.setattr(Training, "_one_step", lambda self, rows: (begun.append(self.step), real(self, rows))[1])
    return begun


def _interrupted(directory: Path, monkeypatch, after: int) -> None:
    """A sweep with a checkpoint after every step that dies, as by a kill, after so many steps."""
    real = Training._one_step
    count = iter(range(10_000))

    def one_step(self, rows):
        if next(count) == after:
            raise MemoryError("killed")
        return real(self, rows)

    monkeypatch.setattr(Training, "_one_step", one_step)
    _, unfinished = sweep(directory, every=0.0)
    monkeypatch.undo()
    assert unfinished


def test_a_damaged_checkpoint_is_seen_and_the_one_before_is_used(undisturbed, tmp_path, monkeypatch):
    _interrupted(tmp_path / "out", monkeypatch, after=5)
    *_, newest = sorted(tmp_path.rglob("checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:-100] + b"x" * 100)
    begun = _steps_begun(monkeypatch)
    display, unfinished = sweep(tmp_path / "out")
    assert not unfinished
    assert begun[0] == int(newest.name.split("-")[1]) - 1
    assert sum("damaged" in note for outcome in display.outcomes for note in outcome.notes) == 1
    assert files(tmp_path) == files(undisturbed)


def test_with_other_arithmetic_a_training_begins_anew_and_says_so(undisturbed, tmp_path, monkeypatch):
    _interrupted(tmp_path / "out", monkeypatch, after=5)
    real = running.arithmetic
    monkeypatch.setattr(running, "arithmetic", lambda: real() | {"numpy": "0.1"})
    begun = _steps_begun(monkeypatch)
    display, _ = sweep(tmp_path / "out")
    notes = [note for outcome in display.outcomes for note in outcome.notes]
    assert any("numpy" in note and '"0.1"' in note and "begins anew" in note for note in notes)
    assert begun[0] == 0
    assert files(tmp_path) == files(undisturbed)


def test_a_full_disk_is_said_and_the_sweep_goes_on_when_there_is_room(undisturbed, tmp_path, monkeypatch):
    real = os.fsync
    count = iter(range(10_000))

    def fsync(number):
        if next(count) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    _, unfinished = sweep(tmp_path / "out", every=0.0)
    monkeypatch.undo()
    assert unfinished
    assert all("No space left" in str(each.error) for each in unfinished)
    assert not list(tmp_path.rglob("*.part"))
    _, unfinished = sweep(tmp_path / "out")
    assert not unfinished
    assert files(tmp_path) == files(undisturbed)


def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch):
    sweep(tmp_path / "out")
    before = files(tmp_path, "result.json", "weights.npz", "timing.json")
    begun = _steps_begun(monkeypatch)
    display, unfinished = sweep(tmp_path / "out")
    assert not unfinished
    assert len(display.outcomes) == 2
    assert begun == []
    assert files(tmp_path, "result.json", "weights.npz", "timing.json") == before


def test_what_a_run_killed_behind_its_result_has_left_is_removed_by_the_next_command(
    undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr(running, "tidy", lambda directory: None)
    sweep(tmp_path / "out", every=0.0)
    monkeypatch.undo()
    assert list(tmp_path.rglob("checkpoint-*"))
    assert list(tmp_path.rglob("progress.json"))
    (next(tmp_path.rglob("result.json")).parent / "result.json.part").write_bytes(b"{")
    begun = _steps_begun(monkeypatch)
    sweep(tmp_path / "out")
    assert begun == []
    names = [sorted(path.name for path in out.glob("runs/*/*")) for out in (tmp_path / "out", undisturbed)]
    assert names[0] == names[1]
    assert files(tmp_path) == files(undisturbed)


def test_another_test_of_a_trained_model_does_not_train_it_again(tmp_path, monkeypatch):
    sweep(tmp_path / "out")
    begun = _steps_begun(monkeypatch)
    sweep(tmp_path / "out", replace(SETTINGS, yarn_ramp="turns", test_lengths=(13,)))
    assert begun == []
    assert len(load_rows(tmp_path / "out")) == 9
    assert len(load_sweep(tmp_path / "out")["runs"]) == 2


@pytest.mark.parametrize("name", ["result.json", "weights.npz"])
def test_a_damaged_result_is_made_again(undisturbed, tmp_path, name):
    sweep(tmp_path / "out")
    for path in tmp_path.rglob(name):
        path.write_bytes(path.read_bytes()[:-40] + b"y" * 40)
    extra = replace(SETTINGS, encodings=(*SETTINGS.encodings, "resonance-yarn"))
    display, unfinished = sweep(tmp_path / "out", extra)
    assert not unfinished
    assert any("damaged" in note for outcome in display.outcomes for note in outcome.notes)
    sweep(tmp_path / "other", extra)
    assert files(tmp_path / "out") == files(tmp_path / "other")


def test_a_training_that_fails_is_told_and_not_tried_again(tmp_path, monkeypatch):
    wild = replace(SETTINGS, encodings=("rope",), learning_rate=1e30)
    with np.errstate(all="ignore"):
        display, unfinished = sweep(tmp_path / "out", wild, SETTINGS)
    assert not unfinished
    (failed,) = (outcome for outcome in display.outcomes if outcome.failed)
    assert "learning rate" in failed.failed
    rows = load_rows(tmp_path / "out")
    assert [row["run"] for row in rows if "failed" in row] == [failed.name]
    assert len(rows) == 7
    begun = _steps_begun(monkeypatch)
    sweep(tmp_path / "out", wild, SETTINGS)
    assert begun == []
    assert len(list(load_models(tmp_path / "out"))) == 2


def test_a_lost_worker_is_replaced(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(executing, "_work_and_go", _die_once)
    display, unfinished = sweep(tmp_path / "out", processes=2)
    assert not unfinished
    assert any("worker was lost" in text for text in display.said)
    assert files(tmp_path) == files(undisturbed)


def _die_once(sweep_directory, run, *, every, threads):
    """What a worker does that the system kills in its first run."""
    mark = sweep_directory / "died"
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return running.work(sweep_directory, run, every=every, threads=threads)


def test_workers_that_always_die_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(executing, "_work_and_go", _die)
    _, unfinished = sweep(tmp_path / "out", processes=2)
    assert len(unfinished) == 2


def _die(sweep_directory, run, *, every, threads):
    os._exit(9)


# ---- directories ----


def test_one_sweep_at_a_time(tmp_path):
    runs = runs_of([SETTINGS])
    prepare_directory(tmp_path / "out", runs)
    with FileLock(tmp_path / "out" / "lock"), pytest.raises(ValueError, match="another process is at work"):
        execute(tmp_path / "out", runs, Quiet())


def test_a_second_command_is_refused_before_it_changes_anything(tmp_path):
    prepare_directory(tmp_path / "out", runs_of([SETTINGS]))
    before = files(tmp_path, "sweep.json")
    with FileLock(tmp_path / "out" / "lock"), pytest.raises(ValueError, match="another process is at work"):
        prepare_directory(tmp_path / "out", runs_of([replace(SETTINGS, seeds=(5,))]))
    assert files(tmp_path, "sweep.json") == before


@pytest.mark.parametrize(
    "begun", [["lock"], ["lock", "sweep.json.77.part"], ["lock", "sweep.json", "sweep.json.7.part"]]
)
def test_a_command_that_was_killed_as_it_began_leaves_nothing_behind(tmp_path, begun):
    out = tmp_path / "out"
    if "sweep.json" in begun:
        prepare_directory(out, runs_of([SETTINGS]))
    out.mkdir(exist_ok=True)
    for name in set(begun) - {"sweep.json"}:
        (out / name).write_bytes(b"" if name == "lock" else b"{")
    prepare_directory(out, runs_of([SETTINGS]))
    assert sorted(path.name for path in out.iterdir()) == ["lock", "sweep.json"]


def test_a_file_of_the_lock_s_name_is_not_taken_for_it(tmp_path):
    (tmp_path / "lock").write_text("combination 1 2 3")
    with pytest.raises(ValueError, match="holds something else"):
        prepare_directory(tmp_path, runs_of([SETTINGS]))
    assert (tmp_path / "lock").read_text() == "combination 1 2 3"


def test_a_directory_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds something else"):
        prepare_directory(tmp_path, runs_of([SETTINGS]))
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_workers_that_do_not_see_the_directory_say_so(tmp_path):
    with pytest.raises(OSError, match="all workers need the same directory"):
        running.work(tmp_path, runs_of([SETTINGS])[0])


def test_commands_are_written_down_with_their_dates(tmp_path):
    for _ in range(2):
        prepare_directory(tmp_path / "out", runs_of([SETTINGS]))
    about = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [sorted(command) for command in about["commands"]] == [["command", "date", "refrope"]] * 2


def test_checkpoints_come_as_often_as_asked_for(tmp_path, monkeypatch):
    saved, real = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *given: (saved.append(given[1]), real(*given))[1])
    sweep(tmp_path / "often", every=0.0)
    assert saved == [1, 2, 3, 4, 5] * 2  # not after the last: the result follows
    saved.clear()
    sweep(tmp_path / "never", every=1e9)
    assert saved == []
