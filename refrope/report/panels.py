"""What the figures of a report share: the grid of panels, its words, the data of a cell."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrope.report.cells import Cell, Cells, Setting, label, setting_text
from refrope.report.paper import TRAIN_LENGTH

CHANCE = 1 / 17  # PosGen's tokens


def picture(plt: Any, figure: Any) -> bytes:
    """The figure as PNG, without the version of matplotlib in it; the figure is closed."""
    file = io.BytesIO()
    figure.savefig(file, dpi=130, format="png", metadata={"Software": None}, bbox_inches="tight")
    plt.close(figure)
    return file.getvalue()


def training_length(cells: Cells, cell: Cell) -> int:
    """Tokens of a training sequence of a cell."""
    return int((cells.common | dict(cell.settings)).get("train_length", TRAIN_LENGTH))


def panels_of(cells: Cells) -> Iterator[tuple[int, int, list[Cell]]]:
    """(row, column, cells) of every panel that has any."""
    for i, group in enumerate(cells.groups):
        for k, task in enumerate(cells.tasks):
            found = [cell for cell in cells.cells if group in cell.groups and cell.task == task and cell.rows]
            if found:
                yield i, k, found


def shown_name(encoding: str) -> str:
    """A label that matplotlib shows as it is: a dollar would start a formula, an underscore in front hides it."""
    said = label(encoding).replace("$", r"\$")
    return f" {said}" if said.startswith("_") else said


def panel_title(task: str, group: tuple[Setting, ...]) -> str:
    """Task and settings, a few of these a line."""
    words = [setting_text(setting) for setting in group]
    lines = [", ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    return "\n".join([task, *lines])


def outer_panels(panels: Iterable[tuple[int, int]]) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """The panels that have none to their left, and those that have none below: these carry the axes' labels."""
    rows: dict[int, int] = {}
    columns: dict[int, int] = {}
    for i, k in panels:
        rows[i] = min(k, rows.get(i, k))
        columns[k] = max(i, columns.get(k, i))
    return set(rows.items()), {(i, k) for k, i in columns.items()}


def by_position(cell: Cell) -> NDArray[np.float64] | None:
    """Accuracy of each seed at each position, NaN in the prefix; None where some row was stored without."""
    lines = [row.get("accuracy_by_position") for row in cell.rows]
    if not lines or not all(lines):
        return None
    return stacked([[np.nan if a is None else a for a in line] for line in lines if line])


def stacked(lines: list[list[float]]) -> NDArray[np.float64]:
    """Lines as the rows of an array, cut to the shortest."""
    shortest = min(map(len, lines))
    return np.array([line[:shortest] for line in lines], np.float64)
