"""What ``refrope lm report`` writes: tables, figures, and what should be known of the numbers.

load_rows ──► refrope.lm.training.tables, figures ──► Document ──► Markdown, CSV, JSON, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from refrope.files import write_json
from refrope.lm.training.tables import Group, Row, cells_table, change_table, changes, groups_of, loss_table, rows_table
from refrope.lm.training.texts import WHO
from refrope.report.formats import write_files
from refrope.report.structure import Document, Figure, Section
from refrope.sweep.loading import load_rows, load_sweep

REMARKABLE = 0.02  # a difference at the training length that a report names
NO_MATPLOTLIB = "lm report: matplotlib is not installed here (pip install 'refrope[report]')"
_CURVES = ("encoding", "seed", "length", "loss_by_position", "loss_by_window", "curves", "run")


def remarks(groups: Sequence[Group], failed: Sequence[str], done: int, planned: int) -> list[str]:
    """What should be known of the numbers, a sentence each."""
    said = about_runs(failed, done, planned, "trainings")
    for group in groups:
        for name in group.encodings:
            found = changes(group, name, group.train_length)
            if found and abs(mean(found)) > REMARKABLE:
                where = f" ({group.title})" if group.title else ""
                said.append(
                    f"At the training length already, the loss of {group.label(name)} differs from that of "
                    f"{group.label(group.baseline)} by {100 * mean(found):+.1f} %{where}."
                )
        if any(len(cell.rows) == 1 for cell in group.cells):
            said.append("Cells of one seed have no standard deviation.")
            break
    return said


def about_runs(failed: Sequence[str], done: int, planned: int, what: str) -> list[str]:
    """Which runs have no numbers, a sentence each."""
    said = []
    if done < planned:
        said.append(f"{done} of {planned} {what} are done.")
    if failed:
        said.append(f"Without numbers, since their training failed: {', '.join(failed)}.")
    return said


def finished_rows(directory: Path, kind: str) -> tuple[dict[str, Any], list[Row], list[Row]]:
    """What was asked for in a directory of `kind`, all rows, and those with numbers.

    Raises
    ------
    ValueError
        A directory of something else, damaged results, nothing finished.
    """
    about, rows = load_sweep(directory, kind), load_rows(directory, kind)
    finished = [row for row in rows if "failed" not in row]
    if not finished:
        raise ValueError(f"lm report: nothing in {directory} is finished yet, of {len(about['runs'])} trainings")
    return about, rows, finished


def write_document(
    out: Path, document: Document, formats: Sequence[str], about: dict[str, Any], words: list[str], rows: list[Row]
) -> list[str]:
    """Write a document in some of `FORMATS`, and what it is made of as JSON where "json" is among them.

    Returns
    -------
    The names of the files.
    """
    names = write_files(out, document, [each for each in formats if each != "json"])
    if "json" in formats:
        found = {"commands": about["commands"], "remarks": words}
        tabled = {table.name: list(table.records) for table in document.data}
        curves = [{name: row[name] for name in _CURVES} for row in rows]
        write_json(out / "report.json", {**found, **tabled, "curves": curves})
        names.append("report.json")
    return names


def report(directory: Path, out: Path, formats: Sequence[str]) -> tuple[Document, list[str]]:
    """Read what ``refrope lm train`` has left in a directory, and write tables and figures.

    Returns
    -------
    The document, and the names of the files.

    Raises
    ------
    ValueError
        A directory of something else, damaged results, nothing finished, a place that cannot be written, matplotlib
        missing.
    """
    about, rows, finished = finished_rows(directory, WHO)
    groups = groups_of(finished)
    failed = sorted({row["run"] for row in rows if "failed" in row})
    words = remarks(groups, failed, len({row["run"] for row in rows}), len(about["runs"]))
    numbered = list(enumerate(groups, 1)) if len(groups) > 1 else [(0, groups[0])]
    tables = [table for n, group in numbered for table in (loss_table(group, n), change_table(group, n)) if table]
    commands = list(dict.fromkeys(each["command"] for each in about["commands"]))
    document = Document(
        "Trained short, tested long",
        (
            Section("Results", tuple(words), tuple(tables)),
            Section("Figures", (), (), tuple(_figures(groups))),
            Section("How it was made", tuple(commands)),
        ),
        (cells_table(groups), rows_table(finished)),
    )
    return document, write_document(out, document, formats, about, words, finished)


def _figures(groups: Sequence[Group]) -> list[Figure]:
    try:
        from refrope.lm.training.figures import by_length, by_position
    except ImportError:
        raise ValueError(NO_MATPLOTLIB) from None
    return [by_length(groups), by_position(groups)]
