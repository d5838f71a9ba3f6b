"""Rows of ``refrope lm train`` as tables: mean and standard deviation over seeds, by encoding and length.

rows ──► Group (of one setting) ──► Cell (encoding, length) ──► loss_table, change_table, cells_table, rows_table
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from refrope.methods import label_of, order_of
from refrope.report.structure import Column, Record, Table

NO_VALUE = "-"

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """Rows of one encoding at one length, one a seed.

    Attributes
    ----------
    encoding : str
    length : int
    rows : tuple of dict, by seed
    """

    encoding: str
    length: int
    rows: tuple[Row, ...]

    def values(self, name: str = "loss") -> dict[int, float]:
        """A number of each seed."""
        return {row["seed"]: row[name] for row in self.rows}

    def spread(self, name: str = "loss") -> tuple[float, float | None]:
        """Mean and sample standard deviation over seeds; no deviation of one seed."""
        return spread_of(list(self.values(name).values()))


def spread_of(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; no deviation of one value."""
    return mean(values), stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Group:
    """Rows whose settings agree.

    Attributes
    ----------
    title : str
        The settings in which groups differ; empty where there is one group.
    settings : dict
    cells : tuple of Cell
        By encoding, in the order of the methods, and length.
    """

    title: str
    settings: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def encodings(self) -> list[str]:
        """Names, in order."""
        return list(dict.fromkeys(cell.encoding for cell in self.cells))

    @property
    def lengths(self) -> list[int]:
        """From short to long."""
        return sorted({cell.length for cell in self.cells})

    @property
    def train_length(self) -> int:
        """Tokens of a training window."""
        return int(self.settings["train_length"])

    def cell(self, encoding: str, length: int) -> Cell | None:
        """The cell of an encoding and a length, if it has any rows."""
        return next((c for c in self.cells if (c.encoding, c.length) == (encoding, length)), None)

    @property
    def baseline(self) -> str:
        """What the others are held against: RoPE, or the first encoding."""
        return "rope" if "rope" in self.encodings else self.encodings[0]

    def label(self, encoding: str) -> str:
        """What an encoding is called."""
        return f"RoPE, window of {self.train_length}" if encoding == "window" else label_of(encoding)


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Rows of finished runs, by their settings."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(json.dumps(row["settings"], sort_keys=True), []).append(row)
    settings = [json.loads(key) for key in found]
    known = dict.fromkeys(name for each in settings for name in each)
    names = [name for name in known if len({json.dumps(each.get(name)) for each in settings}) > 1]
    groups = []
    for about, members in zip(settings, found.values(), strict=True):
        cells: dict[tuple[str, int], dict[int, Row]] = {}
        for row in members:
            cells.setdefault((row["encoding"], row["length"]), {})[row["seed"]] = row
        order = sorted(cells, key=lambda place: (order_of(place[0]), place))
        made = tuple(Cell(*place, tuple(cells[place][seed] for seed in sorted(cells[place]))) for place in order)
        groups.append(Group(", ".join(f"{name} {about.get(name)}" for name in names), about, made))
    return groups


# ---- tables ----


def spread_text(mean_: float, deviation: float | None, digits: int = 3) -> str:
    """Mean ± standard deviation."""
    return f"{mean_:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def loss_table(group: Group, number: int) -> Table:
    """A line an encoding, a column a length: nats a token."""
    records = []
    for name in group.encodings:
        record: Record = {"encoding": name, "seeds": 0}
        for length in group.lengths:
            cell = group.cell(name, length)
            spread = cell.spread() if cell else (None, None)
            record |= {f"loss_{length}": spread[0], f"deviation_{length}": spread[1]}
            record["seeds"] = max(record["seeds"], len(cell.rows) if cell else 0)
        records.append(record)
    return Table(
        f"loss{number or ''}",
        "Loss of held-out text, nats a token, by tokens of context; mean ± standard deviation over seeds"
        + (f"; {group.title}." if group.title else "."),
        (
            Column("encoding", lambda record: group.label(record["encoding"]), number=False),
            Column("seeds", lambda record: str(record["seeds"])),
            *(_spread_column(str(length), f"loss_{length}", f"deviation_{length}", 3) for length in group.lengths),
        ),
        tuple(records),
        (
            f"All lengths predict the same tokens, the last {group.train_length} of each window, from the last so many "
            "as the column says; the models were trained on windows of "
            f"{group.train_length}. What is swapped in for tests begins beyond that length.",
        ),
    )


def change_table(group: Group, number: int) -> Table | None:
    """The same as a difference from the baseline in per cent, over the seeds that both have; None for one encoding."""
    others = [name for name in group.encodings if name != group.baseline]
    if not others:
        return None
    records = []
    for name in others:
        record: Record = {"encoding": name}
        for length in group.lengths:
            found = changes(group, name, length)
            spread = spread_of(found) if found else (None, None)
            record |= {f"change_{length}": spread[0], f"deviation_{length}": spread[1]}
        records.append(record)
    columns = (_spread_column(str(n), f"change_{n}", f"deviation_{n}", 1, 100, "+") for n in group.lengths)
    return Table(
        f"change{number or ''}",
        f"Change of that loss from {group.label(group.baseline)}'s of the same length and seed, per cent"
        + (f"; {group.title}." if group.title else "."),
        (Column("encoding", lambda record: group.label(record["encoding"]), number=False), *columns),
        tuple(records),
    )


def changes(group: Group, encoding: str, length: int) -> list[float]:
    """Relative differences of loss from the baseline, one for each seed that both have."""
    own, other = group.cell(encoding, length), group.cell(group.baseline, length)
    if own is None or other is None:
        return []
    base = other.values()
    return [value / base[seed] - 1 for seed, value in own.values().items() if seed in base]


def _spread_column(head: str, value: str, deviation: str, digits: int, scale: float = 1.0, sign: str = "") -> Column:
    def show(record: Record) -> str:
        if record[value] is None:
            return NO_VALUE
        spread = "" if record[deviation] is None else f" ± {scale * record[deviation]:.{digits}f}"
        return f"{scale * record[value]:{sign}.{digits}f}{spread}"

    return Column(head, show)


def cells_table(groups: Sequence[Group]) -> Table:
    """Everything by group, encoding and length, for CSV and JSON."""
    records = []
    for group in groups:
        for cell in group.cells:
            record: Record = {**group.settings, "encoding": cell.encoding, "length": cell.length}
            record |= {"trained_with": cell.rows[0]["trained_with"], "seeds": len(cell.rows)}
            for name in ("loss", "bits_per_byte", "loss_of_window"):
                record[f"{name}_mean"], record[f"{name}_deviation"] = cell.spread(name)
            records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    return Table("cells", "Every cell.", (), tuple({name: record.get(name) for name in names} for record in records))


def rows_table(rows: Sequence[Row]) -> Table:
    """Every row, for CSV."""
    names = (
        *("encoding", "trained_with", "tested_with", "seed", "length", "loss", "bits_per_byte", "loss_of_window"),
        *("tested_windows", "tested_tokens", "tested_bytes", "seconds", "step_seconds", "weights_sha256", "run"),
    )
    settings = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    records = (
        {name: row.get(name) for name in names}
        | {name: row["settings"].get(name) for name in settings if name not in names}
        for row in rows
    )
    return Table("rows", "Every row.", (), tuple(records))
