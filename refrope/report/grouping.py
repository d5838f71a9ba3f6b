"""Rows into cells: all that is equal but the seed.

    rows ──► which settings vary ──► cells (task, encoding, test length, those settings) ──► cells that are one

Of all settings only those that differ between some of the rows make cells and become columns. Where such a setting does
nothing to a cell (YaRN's ramp to RoPE), the cell stands once, for all its values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from refrope.report.cells import MEASURES, Cell, Cells, Group, cell_order, setting_order
from refrope.report.reading import Row
from refrope.settings import LEFT_TO_PRESET

# Decided by the encoding as well: the rate that a method trains with is no setting of its own.
_BY_ENCODING = ("learning_rate",)
# Follow from the preset: shown only where they differ within one.
_BY_PRESET = ("batch_size", "warmup", "weight_decay", "watched", "vocabulary", "d_model", "heads", "head_dim", "d_ff",
              "layers", "eps", "softmax_scale", "epochs", "learning_rate")  # fmt: skip
# Decide what is tested: two perfect scores in different tests are not one.
TEST_SETS = ("train_sequences", "test_sequences", "train_length", "recipe", "rule", "front_token")


def varying_settings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Names of the settings in which rows differ, in the order in which the first row has them.

    A setting that some row does not know is left out. One that an encoding decides too, such as the learning rate,
    varies only where it does so within an encoding; one that follows from the preset, within a preset.
    """
    names = [name for name in rows[0]["settings"] if all(name in row["settings"] for row in rows)]

    def differs(name: str) -> bool:
        seen: dict[tuple[Any, ...], set[str]] = {}
        for row in (row for row in rows if name not in LEFT_TO_PRESET or row["settings"][name] is not None):
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
            _check_same(earlier, row, Cell(*key[:3], (chosen,), (), ()))
            duplicates += 1
    cells = []
    for (task, encoding, length, _), seeds in found.items():
        in_order = [seeds[seed] for seed in sorted(seeds)]
        settings = tuple((name, in_order[0]["settings"][name]) for name in varying)
        finished = tuple(row for row in in_order if "failed" not in row)
        failed = tuple(row for row in in_order if "failed" in row)
        cells.append(Cell(task, encoding, length, (settings,), finished, failed))
    identities = {name: {_identity(row["settings"].get(name)) for row in rows} for name in rows[0]["settings"]}
    common = {name: value for name, value in rows[0]["settings"].items() if len(identities[name]) == 1}
    groups = sorted(dict.fromkeys(cell.groups[0] for cell in cells), key=setting_order)
    return Cells(tuple(sorted(_merged(cells), key=cell_order)), tuple(groups), varying, common, duplicates)


def _merged(cells: Iterable[Cell]) -> list[Cell]:
    """Cells of the same models and tests as one, which has the seeds of all of them."""
    found: list[Cell] = []
    for cell in sorted(cells, key=cell_order):
        same = next((i for i, other in enumerate(found) if _are_one(other, cell)), None)
        if same is None:
            found.append(cell)
            continue
        rows = {row["seed"]: row for row in (*cell.rows, *found[same].rows)}
        failed = {row["seed"]: row for row in (*cell.failed, *found[same].failed)}
        found[same] = replace(
            found[same],
            groups=(*found[same].groups, *cell.groups),
            rows=tuple(rows[seed] for seed in sorted(rows)),
            failed=tuple(failed[seed] for seed in sorted(failed)),
        )
    return found


def _are_one(cell: Cell, other: Cell) -> bool:
    """Whether all seeds that two cells have in common, at least one, are the same training and the same test."""
    if (cell.task, cell.encoding, cell.test_length) != (other.task, other.encoding, other.test_length):
        return False
    if any(dict(cell.groups[0])[name] != value for name, value in other.groups[0] if name in TEST_SETS):
        return False
    ours, theirs = ({row["seed"]: _fingerprint(row) for row in each.rows} for each in (cell, other))
    common = ours.keys() & theirs.keys()
    return bool(common) and all(ours[seed] is not None and ours[seed] == theirs[seed] for seed in common)


def _fingerprint(row: Row) -> tuple[Any, ...] | None:
    """Equal for the same training and test and for no other: weights or losses, what was tested, how it went."""
    trained = row.get("weights_sha256") or row.get("curves", {}).get("loss")
    if not trained or "tested_with" not in row:
        return None
    return (trained, row["tested_with"], *(row[name] for name in MEASURES))


def _known_cell(key: tuple[Any, ...], settings: Group, found: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The cell that a row belongs to: for one that failed with its preset's epochs, that of the finished rows."""
    if not any(name in LEFT_TO_PRESET and value is None for name, value in settings):
        return key
    known = [i for i, (name, value) in enumerate(settings) if name not in LEFT_TO_PRESET or value is not None]
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
