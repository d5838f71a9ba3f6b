"""The figures of a report, as PNG: loss curves, accuracy by position, a heat map, and dots with intervals.

Rows of panels are settings, columns are tasks. Lines differ in colour and dash, heat maps have their numbers written
in, dots their names beside them: nothing is told by colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrope.plots import SMOOTH, pyplot, running_mean, styles_of
from refrope.report.cells import MEASURES, Cell, Cells, Setting, encoding_order, label, setting_text
from refrope.report.comparing import is_papers_setting
from refrope.report.paper import PAPER_OOD, TRAIN_LENGTH
from refrope.report.structure import Figure

CHANCE = 1 / 17  # PosGen's tokens
BINS = 6  # of positions beyond the training length, in the heat map of one test length
FEW = 8  # lines that an alternative text tells one by one
FEW_LINES = 6  # in a panel, whose bands do not hide each other
FEW_POINTS = 20  # of a line that are marked; without, a training of one epoch would show nothing
MANY_LINES = 12  # for which a legend has its usual size

Lines = dict[str, NDArray[np.float64]]  # name -> one line a seed


def make_figures(cells: Cells) -> list[Figure]:
    """All figures that the rows have data for.

    Raises
    ------
    ValueError
        matplotlib is missing.
    """
    try:
        plt = pyplot()
    except ImportError:
        raise ValueError("report: matplotlib is not installed here (pip install 'refrope[report]')") from None
    with plt.style.context("default"):  # whatever a matplotlibrc says: the same rows give the same picture
        made = [draw(plt, cells) for draw in (_dots, _heat_map, _positions, _losses)]
    return [figure for figure in made if figure is not None]


def _picture(plt: Any, figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=130, format="png", metadata={"Software": None}, bbox_inches="tight")
    plt.close(figure)
    return file.getvalue()


def _training_length(cells: Cells) -> int:
    lengths = {(cells.common | dict(cell.settings)).get("train_length", TRAIN_LENGTH) for cell in cells.cells}
    return int(max(lengths))


def _panels(cells: Cells) -> Iterator[tuple[int, int, list[Cell]]]:
    """(row, column, cells) of every panel that has any."""
    for i, group in enumerate(cells.groups):
        for k, task in enumerate(cells.tasks):
            found = [cell for cell in cells.cells if cell.settings == group and cell.task == task and cell.rows]
            if found:
                yield i, k, found


def _name(encoding: str) -> str:
    """A label that matplotlib shows as it is: a dollar would start a formula, an underscore in front hides it."""
    said = label(encoding).replace("$", r"\$")
    return f" {said}" if said.startswith("_") else said


def _title(task: str, group: tuple[Setting, ...]) -> str:
    """Task and settings, a few of these a line."""
    words = [setting_text(setting) for setting in group]
    lines = [", ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    return "\n".join([task, *lines])


def _line_figure(
    plt: Any, cells: Cells, panels: dict[tuple[int, int], Lines], first: int, y_label: str, x_label: str
) -> tuple[Any, Any]:
    """Mean lines with bands from the lowest to the highest seed, one legend for all panels."""
    rows, columns = len(cells.groups), len(cells.tasks)
    figure, grid = plt.subplots(
        *(rows, columns), figsize=(0.6 + 4.4 * columns, 0.7 + 3.3 * rows), sharex=True, sharey=True, squeeze=False
    )
    names = sorted({name for lines in panels.values() for name in lines}, key=encoding_order)
    styles, handles = styles_of(names), {}
    for i, group in enumerate(cells.groups):
        for k, task in enumerate(cells.tasks):
            axes = grid[i][k]
            axes.set_title(_title(task, group), fontsize=10)
            axes.set_visible((i, k) in panels)
            drawn = panels.get((i, k), {})
            for name, lines in drawn.items():
                x = np.arange(first, first + lines.shape[1])
                marker = "o" if len(x) <= FEW_POINTS else ""
                style = styles[name] | {"marker": marker, "markersize": 3}
                (handles[name],) = axes.plot(x, lines.mean(axis=0), linewidth=1.8, **style)
                if len(lines) > 1:
                    low, high, few = lines.min(axis=0), lines.max(axis=0), len(drawn) <= FEW_LINES
                    shade = {"color": styles[name]["color"], "alpha": 0.15 if few else 0.07, "linewidth": 0}
                    axes.fill_between(x, low, high, **shade)
                    for edge in (low, high) if few else ():  # bands of one colour are told apart by their edges' dashes
                        axes.plot(x, edge, linewidth=0.5, alpha=0.7, **styles[name])
            if k == 0:
                axes.set_ylabel(y_label)
            if i == rows - 1:
                axes.set_xlabel(x_label)
    figure.legend(
        *([handles[name] for name in names], [_name(name) for name in names]),
        **{"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "bbox_transform": grid[0][-1].transAxes},
        **{"frameon": False, "fontsize": "small" if len(names) > MANY_LINES else "medium"},
    )
    return figure, grid


def _told(cells: Cells, panels: dict[tuple[int, int], Lines], unit: str, scale: float) -> str:
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


def _losses(plt: Any, cells: Cells) -> Figure | None:
    panels: dict[tuple[int, int], Lines] = {}
    for i, k, found in _panels(cells):
        trainings: dict[str, dict[int, list[float]]] = {}
        for row in (row for cell in found for row in cell.rows):
            losses = row.get("curves", {}).get("loss")
            if losses:
                trainings.setdefault(str(row.get("trained_with", row["encoding"])), {})[row["seed"]] = losses
        if trainings:
            panels[i, k] = {name: _stacked(list(by_seed.values())) for name, by_seed in trainings.items()}
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
        _picture(plt, figure),
    )


def _stacked(lines: list[list[float]]) -> NDArray[np.float64]:
    shortest = min(map(len, lines))
    return np.array([line[:shortest] for line in lines], np.float64)


def _by_position(cell: Cell) -> NDArray[np.float64] | None:
    """Accuracy of each seed at each position, NaN in the prefix; None where some row was stored without."""
    lines = [row.get("accuracy_by_position") for row in cell.rows]
    if not lines or not all(lines):
        return None
    return _stacked([[np.nan if a is None else a for a in line] for line in lines if line])


def _smooth(lines: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The running mean of each line, not across the training length, where accuracies may jump."""
    parts = [[running_mean(part) for part in (line[:length], line[length:])] for line in lines]
    return np.array([np.concatenate(each) for each in parts])


def _positions(plt: Any, cells: Cells) -> Figure | None:
    panels: dict[tuple[int, int], Lines] = {}
    length = _training_length(cells)
    for i, k, found in _panels(cells):
        longest = max(cell.test_length for cell in found)
        known = {cell.encoding: _by_position(cell) for cell in found if cell.test_length == longest}
        lines = {name: _smooth(each, length) for name, each in known.items() if each is not None}
        if lines:
            panels[i, k] = lines
    if not panels:
        return None
    figure, grid = _line_figure(plt, cells, panels, 0, "accuracy", "position of the predicted token")
    for axes in grid.flat:
        axes.axvspan(0, length, color="0.92", zorder=0)
        axes.axvline(length, color="0.3", linewidth=1)
        axes.axhline(CHANCE, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(ylim=(0, 1.02))
        axes.margins(x=0)
    figure.tight_layout()
    return Figure(
        "accuracy_by_position",
        f"Accuracy by position of the predicted token in the longest test, running mean over {SMOOTH + 1} positions, "
        "not across the grey edge: mean over seeds, band from the lowest to the highest seed. Grey: the "
        f"{length} positions of the training; dotted: chance, 1 in 17.",
        f"Line chart of accuracy by position. At the last position, in per cent: {_told(cells, panels, '', 100)}.",
        _picture(plt, figure),
    )


def _heat_map(plt: Any, cells: Cells) -> Figure | None:
    panels = {(i, k): found for i, k, found in _panels(cells)}
    if not panels:
        return None
    several = len(cells.lengths) > 1
    heads = [str(length) for length in cells.lengths] if several else _bins(cells)[0]
    encodings = [
        name for name in cells.encodings if any(c.encoding == name for found in panels.values() for c in found)
    ]
    rows, columns = len(cells.groups), len(cells.tasks)
    figure, grid = plt.subplots(
        *(rows, columns),
        **{"sharex": True, "sharey": True, "squeeze": False},
        figsize=(2.2 + columns * (0.5 + 0.62 * len(heads)), 1.0 + rows * (0.7 + 0.3 * len(encodings))),
    )
    for axes in grid.flat:
        axes.set_visible(False)
    for (i, k), found in panels.items():
        axes, values = grid[i][k], np.full((len(encodings), len(heads)), np.nan)
        axes.set_visible(True)
        for cell in found:
            row = values[encodings.index(cell.encoding)]
            if several:
                row[cells.lengths.index(cell.test_length)] = np.mean(list(cell.values().values()))
            else:
                row[:] = _binned(cell, cells)
        axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            if not np.isnan(value):  # cividis is dark below its middle
                axes.text(
                    x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color="wk"[int(value > 0.5)]
                )
        axes.set_xticks(range(len(heads)), heads, fontsize=8, rotation=0 if several else 45)
        axes.set_yticks(range(len(encodings)), [_name(name) for name in encodings], fontsize=9)
        axes.set_title(_title(cells.tasks[k], cells.groups[i]), fontsize=10)
        axes.tick_params(labelbottom=True, labelleft=k == 0)
    what = "test length, tokens" if several else "position of the predicted token"
    for axes in grid[-1]:
        axes.set_xlabel(what, fontsize=9)
    figure.tight_layout()
    said = (
        "OOD accuracy at each test length" if several else f"Accuracy by position, tested at {cells.lengths[0]} tokens"
    )
    numbers = "the table of cells has the numbers" if several else "accuracy_by_position shows the same as lines"
    return Figure(
        "heat_map",
        f"{said}, in %, mean over seeds: dark is low, bright is high.",
        f"Heat map of encodings by {what}, the numbers written in; {numbers}.",
        _picture(plt, figure),
    )


def _bins(cells: Cells) -> tuple[list[str], list[tuple[int, int]]]:
    """Names and ends [first, last) of bins of positions: what was trained, then equal parts of what is beyond.

    Without any ends, for within and beyond, where some rows were stored without their accuracy by position.
    """
    if any(_by_position(cell) is None for cell in cells.cells if cell.rows):
        return ["within", "beyond"], []
    train, test = _training_length(cells), cells.lengths[0]
    ends = np.linspace(train, test, min(BINS, test - train) + 1).astype(int).tolist()
    bins = [(0, train), *pairwise(ends)]
    return [f"{first}-{last - 1}" for first, last in bins], bins


def _binned(cell: Cell, cells: Cells) -> list[float]:
    lines, bins = _by_position(cell), _bins(cells)[1]
    if lines is None or not bins:
        return [float(np.mean(list(cell.values(measure).values()))) for measure in MEASURES]
    return [float(np.nanmean(lines[:, first:last])) for first, last in bins]


def _dots(plt: Any, cells: Cells) -> Figure | None:
    drawn = [cell for cell in cells.cells if cell.rows]
    if not drawn:
        return None
    places = list(dict.fromkeys((cell.settings, cell.test_length, cell.encoding) for cell in drawn))
    columns = len(cells.tasks)
    figure, grid = plt.subplots(
        *(1, columns), figsize=(2.6 + 3.6 * columns, 1.3 + 0.3 * len(places)), sharey=True, squeeze=False
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
    grid[0][0].set_yticks(range(len(places)), [_place_name(cells, *place) for place in places], fontsize=9)
    grid[0][0].set_ylim(len(places) - 0.4, -0.6)
    figure.tight_layout()
    diamond = " Diamond: the paper's mean." if paper else ""
    return Figure(
        "dots",
        "OOD accuracy of each cell: grey dots are seeds, the bar above them their mean, the thick line its 95 % "
        f"bootstrap interval, the thin one Student's.{diamond} Dotted: chance, 1 in 17.",
        "Dot plot of OOD accuracy for each cell, with intervals; the table of cells has the numbers.",
        _picture(plt, figure),
    )


def _place_name(cells: Cells, settings: tuple[Setting, ...], length: int, encoding: str) -> str:
    tested = [f"at {length}"] if len(cells.lengths) > 1 else []
    return ", ".join([_name(encoding), *tested, *(setting_text(setting) for setting in settings)])
