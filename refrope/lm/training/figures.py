"""Figures of models trained short and tested long: loss against context, and against the position in a long window.

A line an encoding, a panel a setting, error bars of one standard deviation over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from refrope.lm.training.tables import Group
from refrope.plots import pyplot, styles_of
from refrope.report.panels import picture
from refrope.report.structure import Figure

HIGHEST = 2.5  # of a linear axis, in multiples of the least loss: what grows beyond leaves the picture, and is told


def _panels(groups: Sequence[Group], y_label: str, x_label: str) -> tuple[Any, Any, list[Any]]:
    plt = pyplot()
    size = (1.8 + 5.0 * len(groups), 4.2)
    figure, grid = plt.subplots(1, len(groups), figsize=size, sharey=True, squeeze=False)
    for group, axes in zip(groups, grid[0], strict=True):
        axes.set(title=group.title, xlabel=x_label)
    grid[0][0].set_ylabel(y_label)
    return plt, figure, list(grid[0])


def _finish(plt: Any, figure: Any, panels: list[Any], handles: dict[str, Any]) -> bytes:
    figure.legend(
        *(list(handles.values()), list(handles)),
        **{"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "bbox_transform": panels[-1].transAxes},
        frameon=False,
    )
    figure.tight_layout()
    return picture(plt, figure)


def _limit(axes: Any, values: list[float]) -> None:
    """End the axis where lines that grow without end would press the others flat; say so at its edge."""
    low, high = min(values), max(values)
    top = HIGHEST * low
    margin = 0.05 * (min(high, top) - low)
    axes.set_ylim(low - margin - 1e-9, min(high, top) + margin + 1e-9)


def _mark_training(axes: Any, group: Group) -> None:
    axes.axvline(group.train_length, color="0.3", linewidth=1)
    axes.annotate(
        *("training", (group.train_length, 0.99), (3, 0)),
        **{"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top", "fontsize": 8},
    )


def by_length(groups: Sequence[Group]) -> Figure:
    """Loss of the same tokens against the number of tokens that may be seen before them."""
    plt, figure, panels = _panels(groups, "loss of held-out text (nats a token)", "tokens of context")
    handles: dict[str, Any] = {}
    ends = []
    for group, axes in zip(groups, panels, strict=True):
        styles, values = styles_of(group.encodings), list[float]()
        for name in group.encodings:
            cells = [cell for length in group.lengths if (cell := group.cell(name, length))]
            means, deviations = zip(*(cell.spread() for cell in cells), strict=True)
            handles[group.label(name)] = axes.errorbar(
                *([cell.length for cell in cells], means, [deviation or 0 for deviation in deviations]),
                **styles[name],
                **{"linewidth": 1.8, "marker": "o", "markersize": 4, "capsize": 3, "elinewidth": 1},
            )
            values += means
            ends.append(f"{group.label(name)} {means[-1]:.2f} at {cells[-1].length}")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(group.lengths))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        _limit(axes, values)
        _mark_training(axes, group)
    lost = "Lines that leave the picture go on above it. "
    return Figure(
        "loss_by_length",
        "Loss of the same held-out tokens against how many tokens before them may be seen, positions counted from the "
        f"first of these; mean over seeds, bars of one standard deviation. {lost}The line stands at the length of the "
        "training.",
        f"Line chart of loss by context length. At the longest: {', '.join(ends)}.",
        _finish(plt, figure, panels, handles),
    )


def by_position(groups: Sequence[Group]) -> Figure:
    """Loss against the position in the longest windows, mean over as many tokens as a training window has."""
    plt, figure, panels = _panels(groups, "loss (nats a token)", "position in the window")
    handles: dict[str, Any] = {}
    ends = []
    for group, axes in zip(groups, panels, strict=True):
        styles, values = styles_of(group.encodings), list[float]()
        for name in group.encodings:
            cell = group.cell(name, group.lengths[-1])
            if cell is None:
                continue
            lines = np.array([row["loss_by_position"] for row in cell.rows])
            middles = group.train_length * (np.arange(lines.shape[1]) + 0.5)
            line, spread = lines.mean(axis=0), lines.std(axis=0, ddof=1) if len(lines) > 1 else None
            (handles[group.label(name)],) = axes.plot(middles, line, linewidth=1.8, **styles[name])
            if spread is not None:
                shade = {"color": styles[name]["color"], "alpha": 0.15, "linewidth": 0}
                axes.fill_between(middles, line - spread, line + spread, **shade)
            values += line.tolist()
            ends.append(f"{group.label(name)} {line[-1]:.2f}")
        axes.set_xlim(0, group.lengths[-1])
        _limit(axes, values)
        _mark_training(axes, group)
    return Figure(
        "loss_by_position",
        "Loss by position in the longest held-out windows, mean over as many tokens as a training window has and over "
        "seeds, in a band of one standard deviation. Texts are the same for all: hills that lines share are theirs.",
        f"Line chart of loss by position. In the last part: {', '.join(ends)}.",
        _finish(plt, figure, panels, handles),
    )
