"""Cells as colours and as dots: a heat map of encodings by length or position, and means with their intervals."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrope.report.cells import MEASURES, Cell, Cells, Setting, encoding_order, setting_text
from refrope.report.comparing import is_papers_setting
from refrope.report.panels import (
    CHANCE,
    by_position,
    outer_panels,
    panel_title,
    panels_of,
    picture,
    shown_name,
    training_length,
)
from refrope.report.paper import PAPER_OOD
from refrope.report.structure import Figure

LETTER = 0.08  # inches, of the names beside the dots
BINS = 6  # of positions beyond the training length, in the heat map of one test length


def heat_map(plt: Any, cells: Cells) -> Figure | None:
    """Encodings by test length, or by bins of position where there is one length; None without a finished row."""
    panels = {(i, k): found for i, k, found in panels_of(cells)}
    if not panels:
        return None
    several, bins = len(cells.lengths) > 1, _bins(cells)
    heads = [f"{first}-{last - 1}" for first, last in bins] or ["within", "beyond"]
    heads = [str(length) for length in cells.lengths] if several else heads
    names = sorted({cell.encoding for found in panels.values() for cell in found}, key=encoding_order)
    rows, columns = len(cells.groups), len(cells.tasks)
    figure, grid = plt.subplots(
        *(rows, columns),
        **{"sharex": True, "sharey": True, "squeeze": False},
        figsize=(2.2 + columns * (0.5 + 0.62 * len(heads)), 1.0 + rows * (0.7 + 0.3 * len(names))),
    )
    what = "test length, tokens" if several else "position of the predicted token"
    left, bottom = outer_panels(panels)
    for (i, k), axes in np.ndenumerate(grid):
        axes.set_visible((i, k) in panels)
        values = np.full((len(names), len(heads)), np.nan)
        for cell in panels.get((i, k), ()):
            columns_of = cells.lengths.index(cell.test_length) if several else slice(None)
            values[names.index(cell.encoding), columns_of] = _mean(cell) if several else _binned(cell, bins)
        _heat(axes, values)
        axes.set_xticks(range(len(heads)), heads, fontsize=8, rotation=45 if bins and not several else 0)
        axes.set_yticks(range(len(names)), [shown_name(name) for name in names], fontsize=9)
        axes.set_title(panel_title(cells.tasks[k], cells.groups[i]), fontsize=10)
        axes.tick_params(labelbottom=True, labelleft=(i, k) in left)
        axes.set_xlabel(what if (i, k) in bottom else "", fontsize=9)
    figure.tight_layout()
    said = (
        "OOD accuracy at each test length" if several else f"Accuracy by position, tested at {cells.lengths[0]} tokens"
    )
    return Figure(
        "heat_map",
        f"{said}, in %, mean over seeds: dark is low, bright is high.",
        f"Heat map, a row for each encoding, the numbers written in. {said}.",
        picture(plt, figure),
    )


def _heat(axes: Any, values: NDArray[np.float64]) -> None:
    """Cells coloured from 0 to 1, each with its number."""
    axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "w" if value < 0.5 else "k"  # cividis is dark below its middle
            axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=ink)


def _mean(cell: Cell, measure: str = "ood_accuracy") -> float:
    return float(np.mean(list(cell.values(measure).values())))


def _bins(cells: Cells) -> list[tuple[int, int]]:
    """Ends [first, last) of bins of positions: what was trained, then equal parts of what is beyond.

    Empty where rows have several test or training lengths, or were stored without their accuracy by position.
    """
    drawn = [cell for cell in cells.cells if cell.rows]
    lengths = {(training_length(cells, cell), cell.test_length) for cell in drawn}
    if len(lengths) > 1 or any(by_position(cell) is None for cell in drawn):
        return []
    ((train, test),) = lengths
    ends = np.linspace(train, test, min(BINS, test - train) + 1).astype(int).tolist()
    return [(0, train), *pairwise(ends)]


def _binned(cell: Cell, bins: list[tuple[int, int]]) -> list[float]:
    """Mean accuracy in each bin; within and beyond the training length where there are none."""
    lines = by_position(cell)
    if lines is None or not bins:
        return [_mean(cell, measure) for measure in MEASURES]
    return [float(np.nanmean(lines[:, first:last])) for first, last in bins]


def dots(plt: Any, cells: Cells) -> Figure | None:
    """Every cell's seeds, mean, intervals, and the paper's mean; None without a finished row."""
    drawn = [cell for cell in cells.cells if cell.rows]
    if not drawn:
        return None
    places = list(dict.fromkeys((cell.settings, cell.test_length, cell.encoding) for cell in drawn))
    names = [_place_name(cells, *place) for place in places]
    columns, beside = len(cells.tasks), 0.6 + LETTER * max(map(len, names))
    figure, grid = plt.subplots(
        *(1, columns), figsize=(beside + 3.6 * columns, 1.3 + 0.3 * len(places)), sharey=True, squeeze=False
    )
    paper = False
    for axes, task in zip(grid[0], cells.tasks, strict=True):
        for cell in (cell for cell in drawn if cell.task == task):
            y, found = places.index((cell.settings, cell.test_length, cell.encoding)), cell.estimate()
            seeds = [100 * value for value in cell.values().values()]
            axes.plot(seeds, [y + 0.22] * len(seeds), "o", color="0.5", markersize=3, zorder=2)
            if found is not None and found.student is not None and found.bootstrap is not None:
                axes.plot([100 * x for x in found.student], [y, y], "-", color="#0072B2", linewidth=1, zorder=1)
                axes.plot([100 * x for x in found.bootstrap], [y, y], "-", color="#0072B2", linewidth=4, alpha=0.5)
            if found is not None:
                axes.plot([100 * found.mean], [y], "|", color="#0072B2", markersize=11, markeredgewidth=2.2, zorder=3)
            printed = PAPER_OOD.get(task, {}).get(cell.encoding)
            if printed is not None and is_papers_setting(cell, cells.common):
                axes.plot(
                    [printed], [y], "D", markerfacecolor="none", markeredgecolor="#D55E00", markersize=6, zorder=3
                )
                paper = True
        axes.axvline(100 * CHANCE, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(title=task, xlabel="OOD accuracy, %", xlim=(-1, 101))
        axes.grid(axis="y", color="0.93")
        axes.set_axisbelow(True)
    grid[0][0].set_yticks(range(len(places)), names, fontsize=9)
    grid[0][0].set_ylim(len(places) - 0.4, -0.6)
    figure.tight_layout()
    diamond = " Diamond: the paper's mean." if paper else ""
    return Figure(
        "dots",
        "OOD accuracy of each cell: grey dots are seeds, the bar above them their mean, the thick line its 95 % "
        f"bootstrap interval, the thin one Student's.{diamond} Dotted: chance, 1 in 17.",
        "Dot plot of OOD accuracy for each cell, with intervals; the table of cells has the numbers.",
        picture(plt, figure),
    )


def _place_name(cells: Cells, settings: tuple[Setting, ...], length: int, encoding: str) -> str:
    tested = [f"at {length}"] if len(cells.lengths) > 1 else []
    return ", ".join([shown_name(encoding), *tested, *(setting_text(setting) for setting in settings)])
