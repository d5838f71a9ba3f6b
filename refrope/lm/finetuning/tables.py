"""Rows of ``refrope lm finetune`` as tables: perplexity before and after, by encoding and length.

rows ──► Group (settings of training) ──► Line (encoding, before or after) ──► perplexity_table, difference_table

Where an encoding and its Resonance form were both tested, each window gives a difference, which has an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from refrope.lm.perplexity import perplexity
from refrope.lm.swapping import OWN, OWN_RESONANCE
from refrope.lm.training.tables import NO_VALUE, Row, spread_text
from refrope.methods import METHODS
from refrope.report.structure import Column, Record, Table

_RESONANCE = "resonance-"
_LABELS = {OWN: "the model's own", OWN_RESONANCE: "Resonance of its own"}


def label_of(encoding: str) -> str:
    """What an encoding is called, with the options of its name."""
    if encoding in _LABELS:
        return _LABELS[encoding]
    name, _, options = encoding.partition(":")
    label = METHODS[name].label if name in METHODS else name
    return f"{label} ({options})" if options else label


def plain_of(encoding: str) -> str | None:
    """The encoding that a Resonance form is of; None for one that is none."""
    if encoding == OWN_RESONANCE:
        return OWN
    return encoding.removeprefix(_RESONANCE) if encoding.startswith(_RESONANCE) else None


@dataclass(frozen=True)
class Line:
    """Rows of one encoding, before training or after it.

    Attributes
    ----------
    encoding : str
    trained : bool
    rows : dict
        By length, one row a seed.
    """

    encoding: str
    trained: bool
    rows: dict[int, list[Row]]

    @property
    def when(self) -> str:
        """Before or after."""
        return "after" if self.trained else "before"

    def perplexities(self, length: int) -> list[float]:
        """One a seed; none where nothing was tested."""
        return [perplexity(row["loss"]) for row in self.rows.get(length, [])]

    def by_window(self, length: int) -> list[float]:
        """The loss of each window, mean over seeds."""
        return [mean(values) for values in zip(*(row["loss_by_window"] for row in self.rows[length]), strict=True)]


@dataclass(frozen=True)
class Group:
    """Lines of one setting of training, and those of the same tests before any.

    Attributes
    ----------
    title : str
        The settings in which groups differ; empty where there is one group.
    settings : dict
    lines : tuple of Line
        Before, then after, each in the order of the runs.
    """

    title: str
    settings: dict[str, Any]
    lines: tuple[Line, ...]

    @property
    def lengths(self) -> list[int]:
        """From short to long."""
        return sorted({length for line in self.lines for length in line.rows})

    def line(self, encoding: str, trained: bool) -> Line | None:
        """The line of an encoding, if it has any rows."""
        return next((line for line in self.lines if (line.encoding, line.trained) == (encoding, trained)), None)


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Rows of finished runs by their settings of training, those before it with each; or these alone."""
    untrained: dict[str, list[Row]] = {}
    trained: dict[str, list[Row]] = {}
    for row in rows:
        part = untrained if row["seed"] is None else trained
        part.setdefault(json.dumps(row["settings"], sort_keys=True), []).append(row)
    wanted = [json.loads(key) for key in trained]
    # Settings of tests alone that no training shares are a group of their own.
    alone = [json.loads(key) for key in untrained]
    wanted += [each for each in alone if not any(_agree(each, other) for other in wanted)]
    known = dict.fromkeys(name for each in wanted for name in each)
    names = [name for name in known if len({json.dumps(each.get(name)) for each in wanted}) > 1]
    groups = []
    for settings in wanted:
        before = [row for key, members in untrained.items() if _agree(json.loads(key), settings) for row in members]
        after = trained.get(json.dumps(settings, sort_keys=True), [])
        lines = (*_lines(before, False), *_lines(after, True))
        groups.append(Group(", ".join(f"{name} {settings.get(name)}" for name in names), settings, lines))
    return groups


def _agree(tested: dict[str, Any], settings: dict[str, Any]) -> bool:
    return all(settings.get(name) == value for name, value in tested.items())


def _lines(rows: Sequence[Row], trained: bool) -> list[Line]:
    lines = []
    for name in dict.fromkeys(row["encoding"] for row in rows):
        mine = [row for row in rows if row["encoding"] == name]
        mine.sort(key=lambda row: (row["length"], row["seed"] or 0))
        lengths = dict.fromkeys(row["length"] for row in mine)
        lines.append(Line(name, trained, {n: [row for row in mine if row["length"] == n] for n in lengths}))
    return lines


# ---- tables ----


def perplexity_table(group: Group, number: int) -> Table:
    """A line an encoding, before and after; a column a length."""
    records = []
    for line in group.lines:
        record: Record = {"encoding": line.encoding, "when": line.when}
        for length in group.lengths:
            found = line.perplexities(length)
            record[f"perplexity_{length}"] = mean(found) if found else None
            record[f"deviation_{length}"] = stdev(found) if len(found) > 1 else None
        records.append(record)
    s = group.settings
    trained = f"{s['steps']} steps of {s['batch_size']} x {s['length']} tokens" if "steps" in s else "training"
    return Table(
        f"perplexity{number or ''}",
        f"Perplexity of held-out text by tokens of context, before and after {trained}"
        + (f"; {group.title}." if group.title else "."),
        (
            Column("encoding", lambda record: label_of(record["encoding"]), number=False),
            Column("training", lambda record: str(record["when"]), number=False),
            *(_column(str(n), f"perplexity_{n}", f"deviation_{n}", 3) for n in group.lengths),
        ),
        tuple(records),
        (
            f"All lengths predict the same tokens, the last {s['scored']} of each window, from the last so many as the "
            "column says. ± is one standard deviation over seeds, where there are several.",
        ),
    )


def difference_table(group: Group, number: int) -> Table | None:
    """Loss of each Resonance form less that of its plain form, window by window; None where there is no such pair."""
    records = []
    for line in group.lines:
        plain = plain_of(line.encoding)
        other = None if plain is None else group.line(plain, line.trained)
        if other is None:
            continue
        record: Record = {"encoding": line.encoding, "plain": plain, "when": line.when}
        for length in group.lengths:
            record[f"difference_{length}"], record[f"error_{length}"] = difference(line, other, length)
        records.append(record)
    if not records:
        return None
    return Table(
        f"difference{number or ''}",
        "Loss of a Resonance form less that of its plain form, nats a token, mean over windows ± its standard error"
        + (f"; {group.title}." if group.title else "."),
        (
            Column("encodings", lambda r: f"{label_of(r['encoding'])} - {label_of(r['plain'])}", number=False),
            Column("training", lambda record: str(record["when"]), number=False),
            *(_column(str(n), f"difference_{n}", f"error_{n}", 4, "+") for n in group.lengths),
        ),
        tuple(records),
        (
            "Below zero: Resonance predicts the text better; 0.01 is 1 % of perplexity. Windows of one text have much "
            "in common, of which the error knows nothing.",
        ),
    )


def difference(one: Line, other: Line, length: int) -> tuple[float | None, float | None]:
    """Mean over windows of the loss of `one` less that of `other`, and its standard error; seeds are averaged first."""
    if not (one.rows.get(length) and other.rows.get(length)):
        return None, None
    found = [a - b for a, b in zip(one.by_window(length), other.by_window(length), strict=True)]
    return mean(found), stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None


def _column(head: str, value: str, error: str, digits: int, sign: str = "") -> Column:
    def show(record: Record) -> str:
        if record[value] is None:
            return NO_VALUE
        return (sign if sign and record[value] >= 0 else "") + spread_text(record[value], record[error], digits)

    return Column(head, show)


def rows_table(rows: Sequence[Row]) -> Table:
    """Every row, for CSV."""
    names = (
        *("encoding", "seed", "steps", "tested_with", "length", "loss", "bits_per_byte", "loss_of_window"),
        *("tested_windows", "tested_tokens", "tested_bytes", "seconds", "step_seconds", "weights_sha256", "run"),
    )
    settings = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    records = (
        {name: row.get(name) for name in names}
        | {f"setting_{name}": row["settings"].get(name) for name in settings}
        | {"perplexity": perplexity(row["loss"])}
        for row in rows
    )
    return Table("rows", "Every row.", (), tuple(records))
