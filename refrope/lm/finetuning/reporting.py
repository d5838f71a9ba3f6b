"""What ``refrope lm report`` writes of a directory of ``refrope lm finetune``.

load_rows ──► refrope.lm.finetuning.tables, figures ──► Document ──► Markdown, CSV, JSON, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refrope.lm.finetuning.settings import WHO
from refrope.lm.finetuning.tables import (
    Group,
    difference,
    difference_table,
    groups_of,
    label_of,
    perplexity_table,
    plain_of,
    rows_table,
)
from refrope.lm.training.reporting import NO_MATPLOTLIB, about_runs, finished_rows, write_document
from refrope.report.structure import Document, Section

LEAST_ERRORS = 2.0  # standard errors from zero at which a report calls a difference one


def remarks(groups: Sequence[Group], failed: Sequence[str], done: int, planned: int) -> list[str]:
    """What should be known of the numbers, a sentence each."""
    said = about_runs(failed, done, planned, "runs")
    for group in groups:
        where = f" ({group.title})" if group.title else ""
        for line in group.lines:
            plain = plain_of(line.encoding)
            other = None if plain is None else group.line(plain, line.trained)
            if other is None:
                continue
            words = []
            for length in group.lengths:
                found, error = difference(line, other, length)
                if found is not None and error is not None and abs(found) > LEAST_ERRORS * error:
                    words.append(f"{'lower' if found < 0 else 'higher'} at {length}")
            compared = f"{label_of(line.encoding)} against {label_of(other.encoding)}, {line.when} training"
            clear = ", ".join(words) if words else "no difference at any length"
            said.append(f"{compared}: {clear}, by more than {LEAST_ERRORS:g} standard errors over windows{where}.")
    return said


def report(directory: Path, out: Path, formats: Sequence[str]) -> tuple[Document, list[str]]:
    """Read what ``refrope lm finetune`` has left in a directory, and write tables and a figure.

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
    try:
        from refrope.lm.finetuning.figures import by_context
    except ImportError:
        raise ValueError(NO_MATPLOTLIB) from None
    groups = groups_of(finished)
    failed = sorted({row["run"] for row in rows if "failed" in row})
    words = remarks(groups, failed, len({row["run"] for row in rows}), len(about["runs"]))
    numbered = list(enumerate(groups, 1)) if len(groups) > 1 else [(0, groups[0])]
    tables = [t for n, group in numbered for t in (perplexity_table(group, n), difference_table(group, n)) if t]
    commands = list(dict.fromkeys(each["command"] for each in about["commands"]))
    document = Document(
        "A checkpoint with another encoding, before and after training",
        (
            Section("Results", tuple(words), tuple(tables)),
            Section("Figures", (), (), (by_context(groups),)),
            Section("How it was made", tuple(commands)),
        ),
        (rows_table(finished),),
    )
    return document, write_document(out, document, formats, about, words, finished)
