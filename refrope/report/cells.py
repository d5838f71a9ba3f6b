"""What a report counts, compares and draws: cells, each with its rows, and all of them together.

A cell is one task, one encoding, one test length and one choice of the settings that vary, over all seeds.
`refrope.report.grouping` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from refrope.errors import unknown_name
from refrope.methods import METHODS, order_of
from refrope.report.paper import PAPER_OOD
from refrope.report.reading import Row
from refrope.report.statistics import Estimate, estimate

MEASURES = ("id_accuracy", "ood_accuracy")

Setting = tuple[str, Any]
Group = tuple[Setting, ...]  # one choice of all settings that vary


@dataclass(frozen=True)
class AnyOf:
    """Several values of a setting between which a cell does not differ."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Cell:
    """The rows of one table entry, one a seed.

    Attributes
    ----------
    task, encoding : str
    test_length : int
    groups : tuple of Group
        The settings that it stands for: one choice, or several that give the very same models and tests.
    rows : tuple of dict
        Finished, by seed.
    failed : tuple of dict
        Trainings that did not come to an end, by seed.
    """

    task: str
    encoding: str
    test_length: int
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    failed: tuple[Row, ...]

    @property
    def settings(self) -> Group:
        """(name, value) of each setting that varies, the value an `AnyOf` where the cell stands for several."""
        if not self.groups:
            return ()
        merged = []
        for column in zip(*self.groups, strict=True):
            values = tuple(dict.fromkeys(value for _, value in column))
            merged.append((column[0][0], values[0] if len(values) == 1 else AnyOf(values)))
        return tuple(merged)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the finished rows."""
        return tuple(row["seed"] for row in self.rows)

    def values(self, measure: str = "ood_accuracy") -> dict[int, float]:
        """{seed: accuracy in 0..1}."""
        return {row["seed"]: row[measure] for row in self.rows}

    def estimate(self, measure: str = "ood_accuracy") -> Estimate | None:
        """What the seeds say of an accuracy; None where none is finished."""
        return estimate(list(self.values(measure).values())) if self.rows else None

    @property
    def described(self) -> str:
        """The cell in words, for notes and errors."""
        said = "".join(f", {setting_text(setting)}" for setting in self.settings)
        return f"{self.task}, {label(self.encoding)}, tested at {self.test_length}{said}"


@dataclass(frozen=True)
class Cells:
    """All cells of a report, in the order of its tables.

    Attributes
    ----------
    cells : tuple of Cell
        By task, settings, test length, encoding.
    groups : tuple of Group
        All choices of settings, in order.
    varying : tuple of str
        Names of the settings that make cells.
    common : dict
        The settings that all rows share.
    duplicates : int
        Rows that came twice with the same numbers and count once.
    """

    cells: tuple[Cell, ...]
    groups: tuple[Group, ...]
    varying: tuple[str, ...]
    common: dict[str, Any]
    duplicates: int

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The different tasks, in order."""
        return tuple(dict.fromkeys(cell.task for cell in self.cells))

    @cached_property
    def encodings(self) -> tuple[str, ...]:
        """The different encodings, in order."""
        return tuple(sorted({cell.encoding for cell in self.cells}, key=encoding_order))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """The different test lengths, shortest first."""
        return tuple(sorted({cell.test_length for cell in self.cells}))

    @property
    def missing(self) -> list[tuple[Cell, tuple[int, ...]]]:
        """Cells without a row, finished or failed, for seeds that other cells have."""
        seeds = {row["seed"] for cell in self.cells for row in (*cell.rows, *cell.failed)}
        found = []
        for cell in self.cells:
            lacking = seeds - {row["seed"] for row in (*cell.rows, *cell.failed)}
            if lacking:
                found.append((cell, tuple(sorted(lacking))))
        return found


def label(encoding: str) -> str:
    """The name of an encoding in tables and figures: that of `refrope.methods`, or as it is."""
    return METHODS[encoding].label if encoding in METHODS else encoding


def value_text(value: Any) -> str:
    """A setting's value, as settings are written on the command line."""
    if isinstance(value, AnyOf):
        return ", ".join(map(value_text, value.values))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def setting_text(setting: Setting) -> str:
    """A setting and its value in words."""
    name, value = setting
    return f"{name.replace('_', ' ')} {value_text(value)}"


def encoding_order(encoding: str) -> tuple[int, str]:
    """A place to sort by: that of `refrope.methods`, the others behind, by name."""
    return order_of(encoding), encoding


def _value_order(value: Any) -> tuple[str, float, str]:
    value = value.values[0] if isinstance(value, AnyOf) else value
    number = isinstance(value, (int, float))  # booleans too: no, yes
    return ("" if value is None else "number" if number else "text"), (value if number else 0), str(value)


def setting_order(settings: Iterable[Setting]) -> list[tuple[str, float, str]]:
    """Sorts choices of settings by their values."""
    return [_value_order(value) for _, value in settings]


def cell_order(cell: Cell) -> tuple[Any, ...]:
    """Sorts cells by task, settings, test length and encoding."""
    tasks = list(PAPER_OOD)
    task = tasks.index(cell.task) if cell.task in tasks else len(tasks)
    return task, cell.task, setting_order(cell.settings), cell.test_length, encoding_order(cell.encoding)


def find_baseline(cells: Cells, text: str) -> tuple[str, Any]:
    """What ``--baseline`` names: ("encoding", name), or (setting, value) where it is ``setting=value``.

    Raises
    ------
    ValueError
        Neither an encoding nor a setting that varies among these cells, or no such value of it.
    """
    name, equals, value = text.partition("=")
    if not equals:
        if text not in cells.encodings:
            raise unknown_name(
                "report", "baseline", text, (*cells.encodings, *(f"{name}=..." for name in cells.varying))
            )
        return "encoding", text
    if name not in cells.varying:
        raise unknown_name("report", "setting of --baseline", name, cells.varying or ("none varies in these rows",))
    values = {value_text(dict(group)[name]): dict(group)[name] for group in cells.groups}
    if value not in values:
        raise unknown_name("report", f"value of {name}", value, values)
    return name, values[value]
