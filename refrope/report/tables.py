"""From results to a table and a file on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from refrope.methods import METHODS, label_of, order_of
from refrope.report.paper import PAPER_LENGTH, PAPER_OOD

LABELS = {name: method.label for name, method in METHODS.items()}


def result_table(runs: list[dict[str, Any]]) -> str:
    """One line a run, in the order of the paper's table: accuracies, the paper's, time a step and of the training."""
    tasks = list(PAPER_OOD)

    def place(run: dict[str, Any]) -> tuple[Any, ...]:
        name = run["encoding"]
        return tasks.index(run["task"]), order_of(name), name, run["seed"], run["test_length"]

    several = len({run["test_length"] for run in runs}) > 1
    length = ("tested at",) if several else ()
    header = ("task", "encoding", "seed", *length, "ID %", "OOD %", "paper's OOD %", "ms/step", "train s")
    rows = [header]
    for run in sorted(runs, key=place):
        paper = PAPER_OOD[run["task"]].get(run["encoding"]) if run["test_length"] == PAPER_LENGTH else None
        said = "-" if paper is None else f"{paper:.2f}"
        tested = (str(run["test_length"]),) if several else ()
        rows.append(
            (
                *(run["task"], label_of(run["encoding"]), str(run["seed"]), *tested),
                *(f"{100 * run['id_accuracy']:.1f}", f"{100 * run['ood_accuracy']:.1f}", said),
                *(f"{1000 * run['step_seconds']:.0f}", f"{run['seconds']:.0f}"),
            )
        )
    return format_table(rows, left=2)


def format_table(rows: Sequence[tuple[str, ...]], *, left: int) -> str:
    """Columns in line, the first `left` of them to the left, a rule under the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def parameters(value: Any) -> dict[str, Any]:
    """The class of an encoding, map, bias or other dataclass and its fields, as JSON has them."""
    result: dict[str, Any] = {"class": value.name}
    for field in fields(value):
        inner = getattr(value, field.name)
        result[field.name] = parameters(inner) if is_dataclass(inner) else inner
    return result


def heading(about: dict[str, Any]) -> str:
    """What a report was made with, in two lines, out of `refrope.environment.environment`."""
    build, versions = about["machine"]["kernels"], about["versions"]
    compiled = f"kernels {build['compiler']}, {build['simd']}" if build["available"] else "no C kernels"
    return (
        f"{about['machine']['cpu']}, {build['threads']} threads; {compiled}\n"
        f"refrope {versions['refrope']}, Python {versions['python']}, NumPy {versions['numpy']}, {versions['blas']}"
    )


def prepare_directory(path: Path) -> Path | None:
    """Make the directory, be sure that it can be written, and move an earlier results.json out of the way.

    Returns
    -------
    Where an earlier results.json is now, or None.

    Raises
    ------
    ValueError
        The directory cannot be made or written; said before any training.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_text("")
        probe.unlink()
        earlier = path / "results.json"
        if not earlier.exists():
            return None
        number = next(n for n in range(1, 1_000_000) if not (path / f"results-{n}.json").exists())
        return earlier.rename(path / f"results-{number}.json")
    except OSError as error:
        raise ValueError(f"posgen: --out {path} cannot be written: {error.strerror or error}") from None
