"""What a sweep has found: its rows and its trained models, from a directory as it is, finished or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from refrope import posgen
from refrope.encodings import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.experiment import prepare
from refrope.files import read_checked_json
from refrope.nn.transformer import Transformer
from refrope.settings import ExperimentSettings
from refrope.sweep.running import saved_weights

KIND = "sweep"  # what sweep.json leaves unsaid: it was made by ``refrope sweep``


def is_sweep(directory: Path) -> bool:
    """True for a directory that `refrope sweep` has made, or another command that conducts trainings."""
    return (directory / "sweep.json").is_file()


def kind_of(directory: Path) -> str | None:
    """Which command has made a directory; None for one that none has, or where that cannot be read."""
    with suppress(OSError, ValueError, AttributeError):
        return str(json.loads((directory / "sweep.json").read_text(encoding="utf-8")).get("kind", KIND))
    return None


def load_sweep(directory: Path, kind: str = KIND) -> dict[str, Any]:
    """What was asked for: commands with their dates, and the names of all runs.

    Raises
    ------
    ValueError
        The directory is none of a sweep, or of another kind of sweep.
    """
    if not is_sweep(directory):
        raise ValueError(f"{kind}: {directory} has no sweep.json, expected a directory that refrope {kind} has made")
    found: dict[str, Any] = json.loads((directory / "sweep.json").read_text(encoding="utf-8"))
    made_by = found.get("kind", KIND)
    if made_by != kind:
        raise ValueError(f"{kind}: {directory} is of refrope {made_by}, expected one that refrope {kind} has made")
    return found


def results(directory: Path, kind: str = KIND) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Directory and result of every run that has one."""
    for name in load_sweep(directory, kind)["runs"]:
        run = directory / "runs" / name
        result = read_checked_json(run / "result.json")
        if result is not None:
            yield run, result


def load_rows(directory: Path, kind: str = KIND) -> list[dict[str, Any]]:
    """The rows of all finished runs, each with its settings; those of `refrope sweep` are as `refrope posgen`'s.

    A run that failed has a row with "failed", what it said, and without results.

    Raises
    ------
    ValueError
        The directory is none of a sweep; a result is damaged (the sweep's command mends it).
    """
    rows = []
    for run, result in results(directory, kind):
        training = result["training"]
        if "failed" in result:
            about = {name: training[name] for name in ("task", "seed", "trained_with")}
            rows.append(about | {"encoding": training["trained_with"], "failed": result["failed"], "run": run.name})
            continue
        timing: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            timing = json.loads((run / "timing.json").read_text(encoding="utf-8"))
        for row in result["rows"]:
            shared = {"curves": result["curves"], "weights_sha256": result["weights_sha256"], "run": run.name}
            times = {name: timing.get(name) for name in ("seconds", "step_seconds", "date")}
            rows.append({key: value for key, value in row.items() if key != "key"} | shared | times)
    return rows


class TrainedRun(NamedTuple):
    """A model of a sweep, trained, with its data."""

    name: str
    settings: ExperimentSettings
    task: str
    seed: int
    trained: str
    model: Transformer
    encoding: RotaryEncoding | PositionMap | None
    dataset: posgen.Dataset


def load_models(directory: Path) -> Iterator[TrainedRun]:
    """The trained models of all finished runs, one at a time.

    Raises
    ------
    ValueError
        The directory is none of a sweep; a result or weights are damaged (the sweep's command mends them).
    """
    for run, result in results(directory):
        if "failed" in result:
            continue
        training = result["training"]
        settings = settings_from(json.loads((run / "settings.json").read_text(encoding="utf-8"))["settings"])
        task, seed, trained = training["task"], training["seed"], training["trained_with"]
        prepared = prepare(settings, task, seed, trained)
        weights = saved_weights(run, result)
        if weights is None:
            raise ValueError(f"{run / 'weights.npz'} is damaged: it does not have the SHA-256 that result.json names")
        prepared.model.flat_params[...] = weights
        yield TrainedRun(run.name, settings, task, seed, trained, prepared.model, prepared.encoding, prepared.dataset)


def settings_from(values: dict[str, Any]) -> ExperimentSettings:
    """Settings out of what JSON has made of them."""
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return ExperimentSettings(**fields)
