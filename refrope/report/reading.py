"""What a report is made of: the rows of sweeps and of plain `refrope posgen` runs, and how they came about.

A directory is read as a sweep if it has a ``sweep.json``, else for its ``results.json``. Each row of a Source is
checked here once; the rest of the room relies on task, encoding, seed, test_length, settings, and either both
accuracies or what failed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from refrope.settings import LEFT_TO_PRESET, ExperimentSettings
from refrope.sweep.loading import load_rows, settings_from

Row = dict[str, Any]
Key = tuple[str, str, int, int]  # task, encoding, seed, test length


@dataclass(frozen=True)
class Source:
    """One directory: its rows, and what they were made with.

    Attributes
    ----------
    path : Path
    rows : list of dict, with the keys of the module's first lines
    commands, dates : tuple of str
    made_with : tuple of str
        One line for each set of versions and each machine.
    asked : tuple of Key
        Rows that the settings ask for; empty where that is not known.
    finished, planned : int
        Rows of a plain run, trainings of a sweep.
    unfinished : tuple of str
        Trainings without a result yet.
    """

    path: Path
    rows: list[Row]
    commands: tuple[str, ...]
    dates: tuple[str, ...]
    made_with: tuple[str, ...]
    asked: tuple[Key, ...]
    finished: int
    planned: int
    unfinished: tuple[str, ...] = ()

    @property
    def missing(self) -> list[Key]:
        """What was asked for and has no row, in the order in which it was asked for."""
        present = {key_of(row) for row in self.rows}
        return [key for key in self.asked if key not in present]


def key_of(row: Row) -> Key:
    """Task, encoding, seed and test length of a row."""
    return row["task"], row["encoding"], row["seed"], row["test_length"]


def read(directories: Iterable[Path]) -> list[Source]:
    """Read every directory.

    Raises
    ------
    ValueError
        One that is none, is named twice, holds neither a sweep nor results, has nothing finished, or whose rows cannot
        be read.
    """
    directories = list(directories)
    for path in directories:
        if not path.is_dir():
            raise ValueError(f"report: {path} is no directory" if path.exists() else f"report: {path} does not exist")
    if len({path.resolve() for path in directories}) < len(directories):
        raise ValueError("report: a directory is named twice, expected each once")
    return [_read_one(path) for path in directories]


def _read_one(path: Path) -> Source:
    if (path / "sweep.json").exists():
        source = _read_sweep(path)
    elif (path / "results.json").exists():
        source = _read_results(path)
    else:
        raise ValueError(f"report: {path} has no results.json and no sweep, expected what posgen or sweep --out wrote")
    if not source.rows:
        raise ValueError(f"report: nothing in {path} is finished yet: {source.finished} of {source.planned}")
    for row in source.rows:
        _check(path, row)
    return source


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"report: {path} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"report: {path} holds a {type(value).__name__}, expected an object")
    return value


def _read_results(path: Path) -> Source:
    results = _load(path / "results.json")
    settings, runs = results.get("settings"), results.get("runs")
    if not isinstance(settings, dict) or not isinstance(runs, list) or not all(isinstance(row, dict) for row in runs):
        raise ValueError(
            f"report: {path / 'results.json'} has no settings or no runs, expected what refrope posgen writes"
        )
    lengths = settings.get("test_lengths", [settings.get("test_length")])  # one length, before there were several
    shared = _scalars(settings)
    rows = []
    for run in runs:
        row = {"test_length": lengths[0], **run}
        rows.append(row | {"settings": _with_effective(shared, row, settings.get("train", {}))})
    asked = tuple(
        (task, encoding, seed, length)
        for task in settings.get("tasks", ())
        for encoding in settings.get("encodings", ())
        for seed in settings.get("seeds", ())
        for length in lengths
    )
    return Source(
        *(path, rows, _strings(results.get("command")), _strings(results.get("date"))),
        made_with=_made_with(results),
        asked=asked,
        finished=len(rows),
        planned=len(asked),
    )


def _read_sweep(path: Path) -> Source:
    about = _load(path / "sweep.json")
    runs = [path / "runs" / name for name in _strings(about.get("runs"))]
    unfinished = tuple(run.name for run in runs if not (run / "result.json").exists())
    entries = [entry for entry in about.get("commands", ()) if isinstance(entry, dict)]
    made: dict[str, None] = {}
    for run in runs:
        if (run / "timing.json").exists():
            made |= dict.fromkeys(_made_with(_load(run / "timing.json")))
    rows = [each for row in load_rows(path) for each in (_failed(path, row) if "failed" in row else [row])]
    return Source(
        path,
        rows=[row | {"settings": _with_effective(_scalars(row["settings"]), row, {})} for row in rows],
        commands=tuple(dict.fromkeys(text for entry in entries for text in _strings(entry.get("command")))),
        dates=tuple(dict.fromkeys(text for entry in entries for text in _strings(entry.get("date")))),
        made_with=tuple(made),
        asked=(),
        finished=len(runs) - len(unfinished),
        planned=len(runs),
        unfinished=unfinished,
    )


def _failed(path: Path, row: Row) -> list[Row]:
    """The rows that a failed training would have had: every test that its settings ask of it.

    A row that knows its test length stands for itself.
    """
    if "test_length" in row:
        return [row]
    values = _load(path / "runs" / row["run"] / "settings.json")["settings"]
    names = [name for name in values["encodings"] if _trained_name(values, name) == row["trained_with"]]
    return [
        row | {"encoding": name, "test_length": length, "settings": values}
        for name in names or [row["encoding"]]
        for length in values["test_lengths"]
    ]


def _trained_name(values: Mapping[str, Any], name: str) -> str:
    """What the row `name` is trained with, under settings as JSON has them."""
    known = {field.name for field in fields(ExperimentSettings)}
    return settings_from({key: value for key, value in values.items() if key in known}).trained_name(name)


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _scalars(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that one row has: lists (tasks, seeds, ...) say what was asked for, a row says which it is.

    A setting that did not exist yet when the row was made gets its default: new settings leave what was as it was.
    """
    defaults = {field.name: field.default for field in fields(ExperimentSettings)}
    merged = defaults | {name: value for name, value in settings.items() if name != "test_length"}
    inner: dict[str, Any] = {}
    for part in ("train", "model"):
        if isinstance(settings.get(part), dict):
            inner |= {name: value for name, value in settings[part].items() if name not in merged}
    return {name: value for name, value in {**merged, **inner}.items() if _is_scalar(value)}


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _with_effective(settings: dict[str, Any], row: Row, train: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with what was in force where it was left to the preset: epochs, batch size, learning rate."""
    effective = {name: row.get(name, train.get(name, settings.get(name))) for name in LEFT_TO_PRESET}
    return settings | effective


def _made_with(results: Mapping[str, Any]) -> tuple[str, ...]:
    """Versions and machine in a line, as far as they are known."""
    versions, machine = results.get("versions"), results.get("machine")
    said = []
    if isinstance(versions, dict):
        names = {"refrope": "refrope", "python": "Python", "numpy": "NumPy", "blas": ""}
        said += [f"{name} {versions[key]}".strip() for key, name in names.items() if key in versions]
    if isinstance(machine, dict):
        build = machine.get("kernels")
        if isinstance(build, dict):
            said.append(
                f"kernels {build.get('compiler')}, {build.get('simd')}" if build.get("available") else "no C kernels"
            )
        said += [str(machine[key]) for key in ("cpu", "processor", "system") if machine.get(key)]
    return ("; ".join(said),) if said else ()


def _check(path: Path, row: Row) -> None:
    """Raise unless a row has what a report needs, in the ranges that it needs."""
    for name, kind in (("task", str), ("encoding", str), ("seed", int), ("test_length", int)):
        value = row.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"report: a row of {path} has {name} {value!r}, expected {kind.__name__}")
    if "failed" in row:
        return
    for name in ("id_accuracy", "ood_accuracy"):
        value = row.get(name)
        fits = (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
        )
        if not fits:
            said = ", ".join(map(str, key_of(row)))
            raise ValueError(f"report: the row {said} of {path} has {name} {value!r}, expected a number in [0, 1]")
