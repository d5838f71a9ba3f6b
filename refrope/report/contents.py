"""What stands in a report, in which order: from sources to a document."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from refrope.report.cells import AnyOf, Cells, label, setting_text, value_text
from refrope.report.comparing import agreements, baseline_comparisons, resonance_comparisons
from refrope.report.figures import make_figures
from refrope.report.grouping import TEST_SETS, make_cells
from refrope.report.reading import Source
from refrope.report.result_tables import agreement_table, cells_table, comparison_table, paper_table, rows_table
from refrope.report.statistics import RESAMPLES
from refrope.report.structure import Document, Section

MOST_NAMED = 6  # of what is missing or failed; the rest is counted


def gather(sources: Sequence[Source]) -> Cells:
    """The cells of all sources together."""
    return make_cells(row for source in sources for row in source.rows)


def make_document(sources: Sequence[Source], cells: Cells, baseline: tuple[str, Any] | None) -> Document:
    """Every section, table and figure.

    Parameters
    ----------
    sources : what was read
    cells : `gather` of them
    baseline : as `refrope.report.cells.find_baseline` gives it, or None

    Raises
    ------
    ValueError
        No two cells differ in the baseline alone; SciPy or matplotlib missing.
    """
    table = paper_table(cells)
    figures = make_figures(cells)
    sections = [
        Section("Results", tuple(remarks(sources, cells)), (cells_table(cells),)),
        *([Section("The paper's Table 1 beside ours", (), (table,))] if table else []),
        *_comparisons(cells, baseline),
        *([Section("Figures", (), (), tuple(figures))] if figures else []),
        Section("How it was made", tuple(made_with(sources, cells, baseline))),
    ]
    rows = [row for source in sources for row in source.rows]
    return Document("Accuracy within and beyond the training length", tuple(sections), (rows_table(rows),))


def _comparisons(cells: Cells, baseline: tuple[str, Any] | None) -> list[Section]:
    sections = []
    resonance = resonance_comparisons(cells)
    if resonance:
        tables = [comparison_table("resonance", "What Resonance adds, in points of OOD accuracy.", resonance, cells)]
        beside = agreements(resonance, cells.common)
        tables += [agreement_table(beside, cells)] if beside else []
        sections.append(Section("Resonance against the same encoding without it", (), tuple(tables)))
    if baseline is not None:
        said = label(baseline[1]) if baseline[0] == "encoding" else setting_text(baseline)
        found = baseline_comparisons(cells, baseline)
        if not found:
            raise ValueError(f"report: no cell differs from one with --baseline {said} in that alone")
        table = comparison_table("baseline", f"All against {said}, in points of OOD accuracy.", found, cells)
        sections.append(Section(f"Against {said}", (), (table,)))
    return sections


def remarks(sources: Sequence[Source], cells: Cells) -> list[str]:
    """How much there is, and what is not there: failed, missing, unfinished, twice, or made differently."""
    rows = sum(len(cell.rows) for cell in cells.cells)
    said = [
        f"{rows} finished rows in {len(cells.cells)} cells, from {_counted(len(sources), 'directory', 'directories')}."
    ]
    failed = [cell for cell in cells.cells if cell.failed]
    if failed:
        count = _counted(sum(len(cell.failed) for cell in failed), "row", "rows")
        named = [
            f"{cell.described}, {_seeds(row['seed'] for row in cell.failed)} "
            f"({', '.join(dict.fromkeys(str(row['failed']) for row in cell.failed))})"
            for cell in failed
        ]
        said.append(f"Failed, and not in any mean: {count}: {_some(named)}.")
    lacking: dict[tuple[int, ...], list[str]] = {}
    for cell, seeds in cells.missing:
        lacking.setdefault(seeds, []).append(cell.described)
    for seeds, names in lacking.items():
        said.append(
            f"Without {_seeds(seeds)}, which others have: {_counted(len(names), 'cell', 'cells')}: {_some(names)}."
        )
    for source in sources:
        if source.missing:
            named = [f"{task}, {label(name)}, seed {seed}, at {length}" for task, name, seed, length in source.missing]
            said.append(
                f"{source.path} is not complete: {len(source.missing)} of {source.planned} rows that were asked for "
                f"are missing: {_some(named)}."
            )
        if source.unfinished:
            said.append(
                f"{source.path} is not complete: {source.finished} of {source.planned} trainings are finished. Not "
                f"yet: {_some(source.unfinished)}."
            )
    if cells.duplicates:
        said.append(f"{_counted(cells.duplicates, 'row', 'rows')} came twice with the same numbers and counted once.")
    several = sum(any(isinstance(value, AnyOf) for _, value in cell.settings) for cell in cells.cells)
    if several:
        said.append(
            f"{_counted(several, 'cell stands', 'cells stand')} once for several values of a setting that does nothing "
            "to them: the same models, tested in the same way."
        )
    return said + _differences(sources, cells)


def _differences(sources: Sequence[Source], cells: Cells) -> list[str]:
    """Notes on what was made differently: machines and versions, and test sets."""
    said = []
    made = dict.fromkeys(line for source in sources for line in source.made_with)
    if len(made) > 1:
        said.append(
            f"The rows were made with {len(made)} different sets of versions and machines: short trainings are "
            "sensitive to rounding, so that the same seed may give another number on another machine."
        )
    tests = [name for name in TEST_SETS if name in cells.varying]
    if tests:
        names = ", ".join(name.replace("_", " ") for name in tests)
        said.append(
            f"Not all cells were tested on the same sequences: they differ in {names}. Such cells are never paired."
        )
    return said


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _seeds(seeds: Iterable[int]) -> str:
    numbers = list(map(str, seeds))
    return f"seed{'' if len(numbers) == 1 else 's'} {', '.join(numbers)}"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - MOST_NAMED
    return "; ".join(names[:MOST_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def made_with(sources: Sequence[Source], cells: Cells, baseline: tuple[str, Any] | None) -> list[str]:
    """Commands, dates, versions, machines, numbers of rows, and the settings that all rows share."""
    said = []
    for source in sources:
        commands = "; ".join(source.commands) or "a command that is not known"
        dates = f" ({', '.join(source.dates)})" if source.dates else ""
        said.append(f"{source.path}: {_counted(len(source.rows), 'row', 'rows')} by {commands}{dates}.")
        said += [f"Made with {line}." for line in source.made_with]
    shared = ", ".join(setting_text(setting) for setting in cells.common.items())
    said.append(f"Settings of all rows: {shared}.")
    if cells.varying:
        said.append(f"Settings that vary, and so are columns: {', '.join(cells.varying).replace('_', ' ')}.")
    arguments = ["refrope", "report", *(str(source.path) for source in sources)]
    if baseline is not None:
        named = baseline[1] if baseline[0] == "encoding" else f"{baseline[0]}={value_text(baseline[1])}"
        arguments += ["--baseline", named]
    said.append(
        f"This report: {shlex.join(arguments)}; {RESAMPLES:,} resamples an interval, from refrope's own integers."
    )
    return said
