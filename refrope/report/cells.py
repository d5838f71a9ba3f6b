"""Rows into cells: all that is equal but the seed.

    rows ──► which settings vary ──► cells (task, encoding, test length, those settings) ──► Estimates over seeds

Of all settings only those that differ between some of the rows make cells and become columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from refrope.errors import unknown_name
from refrope.methods import METHODS
from refrope.report.paper import PAPER_OOD
from refrope.report.reading import Row
from refrope.report.statistics import Estimate, estimate

MEASURES = ("id_accuracy", "ood_accuracy")
# Decided by the encoding as well: the rate that a method trains with is no setting of its own.
_BY_ENCODING = ("learning_rate",)
# What was in force is known from finished rows: where a failed one has None, it is the preset's, whatever that was.
_EFFECTIVE = ("epochs", "learning_rate")
# Follow from the preset: shown only where they differ within one.
_BY_PRESET = ("batch_size", "warmup", "weight_decay", "watched", "vocabulary", "d_model", "heads", "head_dim", "d_ff",
              "layers", "eps", "softmax_scale", "epochs", "learning_rate")  # fmt: skip

Setting = tuple[str, Any]


@dataclass(frozen=True)
class Cell:
    """The rows of one table entry, one a seed.

    Attributes
    ----------
    task, encoding : str
    test_length : int
    settings : tuple of (name, value)
        Those that vary between the cells of a report.
    rows : tuple of dict
        Finished, by seed.
    failed : tuple of dict
        Trainings that did not come to an end, by seed.
    """

    task: str
    encoding: str
    test_length: int
    settings: tuple[Setting, ...]
    rows: tuple[Row, ...]
    failed: tuple[Row, ...]

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
    varying : tuple of str
        Names of the settings that make cells.
    common : dict
        The settings that all rows share.
    duplicates : int
        Rows that came twice with the same numbers and count once.
    """

    cells: tuple[Cell, ...]
    varying: tuple[str, ...]
    common: dict[str, Any]
    duplicates: int

    @cached_property
    def groups(self) -> tuple[tuple[Setting, ...], ...]:
        """The different settings, in order."""
        return tuple(dict.fromkeys(sorted((cell.settings for cell in self.cells), key=_setting_order)))

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
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def setting_text(setting: Setting) -> str:
    """A setting and its value in words."""
    name, value = setting
    return f"{name.replace('_', ' ')} {value_text(value)}"


def encoding_order(encoding: str) -> tuple[int, str]:
    """A place to sort by: that of `refrope.methods`, the others behind, by name."""
    names = list(METHODS)
    return (names.index(encoding) if encoding in METHODS else len(names)), encoding


def _value_order(value: Any) -> tuple[str, float, str]:
    number = isinstance(value, (int, float))  # booleans too: no, yes
    return ("" if value is None else "number" if number else "text"), (value if number else 0), str(value)


def _setting_order(settings: tuple[Setting, ...]) -> list[tuple[str, float, str]]:
    return [_value_order(value) for _, value in settings]


def _cell_order(cell: Cell) -> tuple[Any, ...]:
    tasks = list(PAPER_OOD)
    task = tasks.index(cell.task) if cell.task in tasks else len(tasks)
    return task, cell.task, _setting_order(cell.settings), cell.test_length, encoding_order(cell.encoding)


def varying_settings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Names of the settings in which rows differ, in the order in which the first row has them.

    A setting that some row does not know is left out. One that an encoding decides too, such as the learning rate,
    varies only where it does so within an encoding; one that follows from the preset, within a preset.
    """
    names = [name for name in rows[0]["settings"] if all(name in row["settings"] for row in rows)]

    def differs(name: str) -> bool:
        seen: dict[tuple[Any, ...], set[str]] = {}
        for row in (row for row in rows if name not in _EFFECTIVE or row["settings"][name] is not None):
            within = (
                row["encoding"] if name in _BY_ENCODING else None,
                row["settings"].get("preset") if name in _BY_PRESET else None,
            )
            seen.setdefault(within, set()).add(_identity(row["settings"][name]))
        return any(len(values) > 1 for values in seen.values())

    return tuple(name for name in names if differs(name))


def _identity(value: Any) -> str:
    """Equal for equal values of one kind: 1 and 1.0 are, 1 and True are not."""
    return repr(float(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else repr(value)


def make_cells(rows: Iterable[Row]) -> Cells:
    """Put rows into cells.

    Parameters
    ----------
    rows : as `refrope.report.reading.Source` has them, at least one

    Raises
    ------
    ValueError
        Two rows of the same cell and seed whose numbers differ.
    """
    rows = list(rows)
    varying = varying_settings(rows)
    found: dict[tuple[Any, ...], dict[int, Row]] = {}
    duplicates = 0
    for row in sorted(rows, key=lambda row: "failed" in row):
        chosen = tuple((name, row["settings"][name]) for name in varying)
        key = (row["task"], row["encoding"], row["test_length"], tuple(_identity(value) for _, value in chosen))
        seeds = found.setdefault(_known_cell(key, chosen, found), {})
        earlier = seeds.setdefault(row["seed"], row)
        if earlier is not row:
            _check_same(earlier, row, Cell(*key[:3], chosen, (), ()))
            duplicates += 1
    cells = []
    for (task, encoding, length, _), seeds in found.items():
        in_order = [seeds[seed] for seed in sorted(seeds)]
        settings = tuple((name, in_order[0]["settings"][name]) for name in varying)
        finished = tuple(row for row in in_order if "failed" not in row)
        failed = tuple(row for row in in_order if "failed" in row)
        cells.append(Cell(task, encoding, length, settings, finished, failed))
    identities = {name: {_identity(row["settings"].get(name)) for row in rows} for name in rows[0]["settings"]}
    common = {name: value for name, value in rows[0]["settings"].items() if len(identities[name]) == 1}
    return Cells(tuple(sorted(cells, key=_cell_order)), varying, common, duplicates)


def _known_cell(
    key: tuple[Any, ...], settings: tuple[Setting, ...], found: Iterable[tuple[Any, ...]]
) -> tuple[Any, ...]:
    """The cell that a row belongs to: for one that failed with its preset's epochs, that of the finished rows."""
    if not any(name in _EFFECTIVE and value is None for name, value in settings):
        return key
    known = [i for i, (name, value) in enumerate(settings) if name not in _EFFECTIVE or value is not None]
    for other in found:
        if other[:3] == key[:3] and all(other[3][i] == key[3][i] for i in known):
            return other
    return key


def _check_same(earlier: Row, row: Row, cell: Cell) -> None:
    for name in ("failed", *MEASURES, "weights_sha256"):
        both = name in earlier and name in row
        if (name in MEASURES or both or name == "failed") and earlier.get(name) != row.get(name):
            raise ValueError(
                f"report: two rows of {cell.described}, seed {row['seed']} have {name} {earlier.get(name)} and "
                f"{row.get(name)}, expected one row, or the same numbers: they were made differently in a way that "
                "their settings do not tell"
            )


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
