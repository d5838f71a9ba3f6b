"""Loss curves and accuracy by position: a line an encoding, mean over seeds, in a band from lowest to highest seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrope.plots import SMOOTH, running_mean, styles_of
from refrope.report.cells import Cells, encoding_order, label, setting_text
from refrope.report.panels import (
    CHANCE,
    by_position,
    outer_panels,
    panel_title,
    panels_of,
    picture,
    shown_name,
    stacked,
    training_length,
)
from refrope.report.structure import Figure

FEW = 8  # lines that an alternative text tells one by one
FEW_LINES = 6  # in a panel, whose bands do not hide each other
FEW_POINTS = 20  # of a line that are marked; without, a training of one epoch would show nothing
MANY_LINES = 12  # for which a legend has its usual size

Lines = dict[str, NDArray[np.float64]]  # name -> one line a seed
Panels = dict[tuple[int, int], Lines]  # (row, column) -> its lines


def _line_figure(plt: Any, cells: Cells, panels: Panels, first: int, y_label: str, x_label: str) -> tuple[Any, Any]:
    """Mean lines with bands from the lowest to the highest seed, one legend for all panels."""
    rows, columns = len(cells.groups), len(cells.tasks)
    figure, grid = plt.subplots(
        *(rows, columns), figsize=(0.6 + 4.4 * columns, 0.7 + 3.3 * rows), sharex=True, sharey=True, squeeze=False
    )
    names = sorted({name for lines in panels.values() for name in lines}, key=encoding_order)
    styles, handles, (left, bottom) = styles_of(names), {}, outer_panels(panels)
    for (i, k), axes in np.ndenumerate(grid):
        axes.set_visible((i, k) in panels)
        axes.set_title(panel_title(cells.tasks[k], cells.groups[i]), fontsize=10)
        axes.tick_params(labelleft=(i, k) in left, labelbottom=(i, k) in bottom)
        axes.set(ylabel=y_label if (i, k) in left else "", xlabel=x_label if (i, k) in bottom else "")
        drawn = panels.get((i, k), {})
        for name, lines in drawn.items():
            x = np.arange(first, first + lines.shape[1])
            style = styles[name] | {"marker": "o" if len(x) <= FEW_POINTS else "", "markersize": 3}
            (handles[name],) = axes.plot(x, lines.mean(axis=0), linewidth=1.8, **style)
            if len(lines) > 1:
                low, high, few = lines.min(axis=0), lines.max(axis=0), len(drawn) <= FEW_LINES
                shade = {"color": styles[name]["color"], "alpha": 0.15 if few else 0.07, "linewidth": 0}
                axes.fill_between(x, low, high, **shade)
                for edge in (low, high) if few else ():  # bands of one colour are told apart by their edges' dashes
                    axes.plot(x, edge, linewidth=0.5, alpha=0.7, **styles[name])
    figure.legend(
        *([handles[name] for name in names], [shown_name(name) for name in names]),
        **{"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "bbox_transform": grid[0][-1].transAxes},
        **{"frameon": False, "fontsize": "small" if len(names) > MANY_LINES else "medium"},
    )
    return figure, grid


def _told(cells: Cells, panels: Panels, unit: str, scale: float) -> str:
    """The ends of the mean lines in words: each where they are few, else the lowest and the highest of a panel."""
    said = []
    for (i, k), lines in panels.items():
        ends = {name: scale * float(np.nanmean(each[:, -1])) for name, each in lines.items()}
        where = ", ".join([cells.tasks[k], *(setting_text(setting) for setting in cells.groups[i])])
        names = sorted(ends, key=encoding_order)
        if len(panels) * len(ends) > FEW:
            low, high = min(names, key=ends.__getitem__), max(names, key=ends.__getitem__)
            names = list(dict.fromkeys((low, high)))
        said.append(f"{where}: " + ", ".join(f"{label(name)} {ends[name]:.3g}{unit}" for name in names))
    return "; ".join(said)


def losses(plt: Any, cells: Cells) -> Figure | None:
    """Training loss by epoch of every model, in the form of the paper's Figure 3; None where no row has its curve."""
    panels: Panels = {}
    for i, k, found in panels_of(cells):
        trainings: dict[str, dict[int, list[float]]] = {}
        for row in (row for cell in found for row in cell.rows):
            losses = row.get("curves", {}).get("loss")
            if losses:
                trainings.setdefault(str(row.get("trained_with", row["encoding"])), {})[row["seed"]] = losses
        if trainings:
            panels[i, k] = {name: stacked(list(by_seed.values())) for name, by_seed in trainings.items()}
    if not panels:
        return None
    figure, grid = _line_figure(plt, cells, panels, 1, "training loss (nats)", "epoch")
    grid[0][0].set_ylim(bottom=0)
    for axes in grid.flat:
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.tight_layout()
    return Figure(
        "loss",
        "Training loss after each epoch, for each encoding that was trained, in the form of the paper's Figure 3: mean "
        "over seeds, band from the lowest to the highest seed.",
        f"Line chart of training loss by epoch. At the last epoch, in nats: {_told(cells, panels, '', 1)}.",
        picture(plt, figure),
    )


def _smooth(lines: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The running mean of each line, not across the training length, where accuracies may jump."""
    parts = [[running_mean(part) for part in (line[:length], line[length:])] for line in lines]
    return np.array([np.concatenate(each) for each in parts])


def positions(plt: Any, cells: Cells) -> Figure | None:
    """Accuracy by position in the longest test; None where no row has it."""
    panels: Panels = {}
    lengths = {}
    for i, k, found in panels_of(cells):
        longest, lengths[i, k] = max(cell.test_length for cell in found), training_length(cells, found[0])
        known = {cell.encoding: by_position(cell) for cell in found if cell.test_length == longest}
        lines = {name: _smooth(each, lengths[i, k]) for name, each in known.items() if each is not None}
        if lines:
            panels[i, k] = lines
    if not panels:
        return None
    figure, grid = _line_figure(plt, cells, panels, 0, "accuracy", "position of the predicted token")
    for place, axes in np.ndenumerate(grid):
        if place in panels:
            axes.axvspan(0, lengths[place], color="0.92", zorder=0)
            axes.axvline(lengths[place], color="0.3", linewidth=1)
            axes.axhline(CHANCE, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(ylim=(0, 1.02))
        axes.margins(x=0)
    figure.tight_layout()
    return Figure(
        "accuracy_by_position",
        f"Accuracy by position of the predicted token in the longest test, running mean over {SMOOTH} positions, "
        "not across the grey edge: mean over seeds, band from the lowest to the highest seed. Grey: the positions of "
        "the training; dotted: chance, 1 in 17.",
        f"Line chart of accuracy by position. At the last position, in per cent: {_told(cells, panels, '', 100)}.",
        picture(plt, figure),
    )
