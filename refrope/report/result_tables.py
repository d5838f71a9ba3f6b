"""The tables of a report: cells, the paper's Table 1 beside ours, comparisons, agreement, and all rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from refrope.report.cells import AnyOf, Cell, Cells, label, setting_text, value_text
from refrope.report.comparing import Agreement, Comparison, is_papers_setting
from refrope.report.paper import PAPER_OOD, PAPER_VARIANCE, ROUNDING, SEEDS, TWO_READINGS, deviations
from refrope.report.reading import Row
from refrope.report.statistics import FEWEST_FOR_FLIPS, Estimate, Interval, least_sign_flip_p
from refrope.report.structure import Column, Record, Table

NO_VALUE = "-"
FEW_SEEDS = (
    "Bootstrap intervals of few seeds are too narrow: of normal numbers those of 2, 3, 5 and 10 seeds hold the true "
    "mean in 50, 75, 83 and 90 % of cases, Student's t intervals in 95 %."
)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in per cent, or a difference of fractions in points."""
    return NO_VALUE if fraction is None else f"{round(100 * fraction, digits) + 0.0:.{digits}f}"  # no -0.0


def interval_text(interval: Interval | None) -> str:
    """Both ends in per cent."""
    return NO_VALUE if interval is None else f"[{percent(interval[0])}, {percent(interval[1])}]"


def p_text(p: float | None) -> str:
    """A p value, to three figures."""
    return NO_VALUE if p is None else "<0.001" if p < 0.001 else f"{p:.3g}"


def spread_text(mean: float | None, deviation: float | None, digits: int = 1) -> str:
    """Mean ± standard deviation in per cent; the mean alone where there is no deviation."""
    return percent(mean, digits) + ("" if deviation is None else f" ± {percent(deviation, digits)}")


def _text(key: str, head: str | None = None) -> Column:
    return Column(head or key.replace("_", " "), lambda record: str(record[key]), number=False)


def _setting_columns(names: Iterable[str]) -> list[Column]:
    return [
        Column(name.replace("_", " "), lambda record, name=name: value_text(record[name]), number=False)  # type: ignore[misc]
        for name in names
    ]


def _length_columns(cells: Cells) -> list[Column]:
    return [Column("tested at", lambda record: str(record["test_length"]))] if len(cells.lengths) > 1 else []


def _place(cell: Cell) -> Record:
    settings = {name: value_text(value) if isinstance(value, AnyOf) else value for name, value in cell.settings}
    return {"task": cell.task, "encoding": cell.encoding, **settings, "test_length": cell.test_length}


def _numbers(prefix: str, found: Estimate | None) -> Record:
    """The parts of an estimate as fields of a record."""
    low, high = (found and found.bootstrap) or (None, None)
    student_low, student_high = (found and found.student) or (None, None)
    return {
        f"{prefix}_mean": found and found.mean,
        f"{prefix}_deviation": found and found.deviation,
        **{f"{prefix}_bootstrap_low": low, f"{prefix}_bootstrap_high": high},
        **{f"{prefix}_student_low": student_low, f"{prefix}_student_high": student_high},
    }


def _ends(record: Record, name: str) -> Interval | None:
    low, high = record[f"{name}_low"], record[f"{name}_high"]
    return None if low is None else (low, high)


def _interval_columns(prefix: str) -> list[Column]:
    return [
        Column("95 % bootstrap", lambda record: interval_text(_ends(record, f"{prefix}_bootstrap"))),
        Column("95 % t", lambda record: interval_text(_ends(record, f"{prefix}_student"))),
    ]


def _spread(prefix: str) -> Any:
    return lambda record: spread_text(record[f"{prefix}_mean"], record[f"{prefix}_deviation"])


def cells_table(cells: Cells) -> Table:
    """One line a cell: seeds, both accuracies as mean ± standard deviation, intervals of the mean beyond."""
    records = tuple(
        {
            **_place(cell),
            **{"n": len(cell.rows), "failed": len(cell.failed), "seeds": " ".join(map(str, cell.seeds))},
            **_numbers("id", cell.estimate("id_accuracy")),
            **_numbers("ood", cell.estimate()),
        }
        for cell in cells.cells
    )
    columns = [
        _text("task"),
        Column("encoding", lambda record: label(record["encoding"]), number=False),
        *_setting_columns(cells.varying),
        *_length_columns(cells),
        Column("seeds", lambda record: str(record["n"]) + (f", {record['failed']} failed" if record["failed"] else "")),
        Column("ID %", _spread("id")),
        Column("OOD %", _spread("ood")),
        *_interval_columns("ood"),
    ]
    notes = ["ID: accuracy within the training length; OOD: beyond it. Mean ± standard deviation over the seeds."]
    if any(len(cell.rows) > 1 for cell in cells.cells):
        notes.append(f"Intervals are of the OOD mean. {FEW_SEEDS} The latter may leave 0 to 100.")
    if any(len(cell.rows) == 1 for cell in cells.cells):
        notes.append(
            "A cell of one seed has no standard deviation and no interval: it shows what can happen, not what does."
        )
    lengths = "" if len(cells.lengths) > 1 else f", tested at {cells.lengths[0]} tokens"
    caption = f"Accuracy of {len(cells.cells)} cells{lengths}."
    return Table("cells", caption, tuple(columns), records, tuple(notes))


def paper_table(cells: Cells) -> Table | None:
    """The paper's Table 1 beside ours, or None where no cell was trained and tested as it says."""
    found = [
        cell
        for cell in cells.cells
        if cell.rows and cell.encoding in PAPER_OOD.get(cell.task, {}) and is_papers_setting(cell, cells.common)
    ]
    if not found:
        return None
    columns = [
        _text("task"),
        Column("encoding", lambda record: label(record["encoding"]), number=False),
        *_setting_columns(cells.varying),
        Column("our seeds", lambda record: str(record["n"])),
        Column("ours", _spread("ood")),
        Column("paper, if v is in %²", lambda record: _papers(record, 0)),
        Column("paper, if v is of fractions", lambda record: _papers(record, 1)),
    ]
    ours = [setting_text((name, cells.common[name])) for name in ("preset", "epochs") if name in cells.common]
    made = f" Ours: {', '.join(ours)}; the paper's: 150 epochs of its own model." if ours else ""
    caption = f"OOD accuracy in % at 256 tokens after training on 64: ours beside the paper's Table 1.{made}"
    records = tuple(
        {
            **_place(cell),
            "n": len(cell.rows),
            **_numbers("ood", cell.estimate()),
            **{"paper_mean": PAPER_OOD[cell.task][cell.encoding] / 100, "paper_seeds": SEEDS},
            "paper_variance_as_printed": PAPER_VARIANCE[cell.task][cell.encoding],
        }
        for cell in found
    )
    return Table("table1", caption, tuple(columns), records, (TWO_READINGS,))


def _papers(record: Record, reading: int) -> str:
    variance = record["paper_variance_as_printed"]
    said = f"{deviations(variance)[reading]:.2f}" if variance else f"<{deviations(ROUNDING)[reading]:.2f}"
    return f"{percent(record['paper_mean'], 2)} ± {said}"


def comparison_table(name: str, caption: str, comparisons: Sequence[Comparison], cells: Cells) -> Table:
    """One line a comparison: difference of means over common seeds, intervals, p values before and after Holm."""
    changed = comparisons[0].changed
    kept = [setting for setting in cells.varying if setting != changed]
    records = []
    for each in comparisons:
        paired, names = each.paired, each.names
        records.append(
            {
                **{key: value for key, value in _place(each.first).items() if key != changed},
                **{"first": names[0], "second": names[1], "n": len(paired.seeds) if paired else 0},
                "seeds": " ".join(map(str, paired.seeds)) if paired else "",
                **_numbers("difference", paired.difference if paired else None),
                **{"t_p": paired and paired.t_p, "t_p_holm": each.t_holm},
                **{"flip_p": paired and paired.flip_p, "flip_p_holm": each.flip_holm},
                **{"least_flip_p": paired and paired.least_flip_p, "effect": paired and paired.effect},
            }
        )
    by_setting = [Column("encoding", lambda record: label(record["encoding"]), number=False)]
    columns = [
        _text("task"),
        *(() if changed == "encoding" else by_setting),
        _text("first", "this"),
        _text("second", "less this"),
        *_setting_columns(kept),
        *_length_columns(cells),
        Column("seeds", lambda record: str(record["n"])),
        Column("difference", _spread("difference")),
        *_interval_columns("difference"),
        Column("d", lambda record: NO_VALUE if record["effect"] is None else f"{record['effect']:.2f}"),
        Column("t test: p", lambda record: p_text(record["t_p"])),
        Column("Holm", lambda record: p_text(record["t_p_holm"])),
        Column("sign flips: p", lambda record: p_text(record["flip_p"])),
        Column("Holm", lambda record: p_text(record["flip_p_holm"])),
    ]
    return Table(name, caption, tuple(columns), tuple(records), _comparison_notes(comparisons))


def _comparison_notes(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    tested = sum(each.t_holm is not None for each in comparisons)
    notes = [
        "Differences of OOD accuracy in points over the seeds that both have, mean ± standard deviation; d: mean in "
        f"standard deviations. Two-sided p of the paired t test and of all sign flips; Holm: over {tested} t tests and "
        f"{sum(each.flip_holm is not None for each in comparisons)} sign-flip tests of this table."
    ]
    counts = sorted({len(each.paired.seeds) for each in comparisons if each.paired})
    few = [n for n in counts if 1 < n < FEWEST_FOR_FLIPS]
    if few:
        least = ", ".join(f"{least_sign_flip_p(n):.3g} with {n}" for n in few)
        notes.append(
            f"With fewer than {FEWEST_FOR_FLIPS} common seeds the sign-flip test cannot reach 0.05: its smallest p is "
            f"{least}."
        )
    if 1 in counts:
        notes.append("One common seed has no interval and no test.")
    if any(each.paired and len(each.paired.seeds) > 1 and each.paired.t_p is None for each in comparisons):
        notes.append("Where all seeds differ by the same there is no t test.")
    return tuple(notes)


def agreement_table(agreements: Sequence[Agreement], cells: Cells) -> Table:
    """One line for each of the paper's Resonance comparisons that was made: do sign and size agree?"""
    records = []
    for each in agreements:
        comparison, paired = each.comparison, each.comparison.paired
        records.append(
            {
                **_place(comparison.first),
                **{"against": comparison.second.encoding, "n": len(paired.seeds) if paired else 0},
                **_numbers("difference", paired.difference if paired else None),
                **{"paper_difference": each.paper / 100, "sign": each.sign, "size": each.size},
            }
        )
    columns = [
        _text("task"),
        Column("this", lambda record: label(record["encoding"]), number=False),
        Column("less this", lambda record: label(record["against"]), number=False),
        *_setting_columns(cells.varying),
        Column("seeds", lambda record: str(record["n"])),
        Column("ours", _spread("difference")),
        Column("95 % t", lambda record: interval_text(_ends(record, "difference_student"))),
        Column("paper", lambda record: percent(record["paper_difference"], 2)),
        Column("sign", lambda record: record["sign"]),
        Column("size", lambda record: record["size"]),
    ]
    notes = (
        "Difference of OOD accuracy in points. Sign: of our mean difference beside the paper's. Size agrees where the "
        "paper's difference lies in our 95 % t interval; how much the paper's own five seeds vary is not counted, and "
        "a wide interval agrees with much.",
    )
    caption = f"What Resonance adds at 256 tokens, ours and the paper's: {len(records)} comparisons."
    return Table("agreement", caption, tuple(columns), tuple(records), notes)


def rows_table(rows: Sequence[Row]) -> Table:
    """Every row with all its settings, for CSV."""
    settings = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    first = ("task", "encoding", "trained_with", "tested_with", "seed", "test_length")
    last = ("id_accuracy", "ood_accuracy", "seconds", "step_seconds", "table_bytes", "weights_sha256", "failed")
    records = tuple(
        {
            **{name: row.get(name) for name in first},
            **{name: row["settings"].get(name) for name in settings if name not in (*first, *last)},
            **{name: row.get(name) for name in last},
        }
        for row in rows
    )
    return Table("rows", "Every row.", (), records)
