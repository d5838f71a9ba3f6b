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

HIGHEST = 2.5  # of an axis, in multiples of the least loss: what grows beyond leaves the picture
MOST_EXCESS = 2.0  # nats, likewise
SPREAD = 0.16  # octaves over which the points of one length stand side by side


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
    """End the axis where lines that grow without end would press the others flat."""
    low, high = min(values), min(max(values), HIGHEST * min(values))
    margin = 0.05 * (high - low) + 1e-9
    axes.set_ylim(low - margin, high + margin)


def by_length(groups: Sequence[Group]) -> Figure:
    """Loss of the same tokens against the number of tokens that may be seen before them."""
    plt, figure, panels = _panels(groups, "loss of held-out text (nats a token)", "tokens of context")
    handles: dict[str, Any] = {}
    ends = []
    for group, axes in zip(groups, panels, strict=True):
        styles, values = styles_of(group.encodings), list[float]()
        aside = np.exp2(SPREAD * (np.arange(len(group.encodings)) / max(len(group.encodings) - 1, 1) - 0.5))
        for name, factor in zip(group.encodings, aside, strict=True):
            cells = [cell for length in group.lengths if (cell := group.cell(name, length))]
            means, found = zip(*(cell.spread() for cell in cells), strict=True)
            deviations = [deviation or 0.0 for deviation in found]
            handles[group.label(name)] = axes.errorbar(
                *([factor * cell.length for cell in cells], means, deviations),
                **styles[name],
                **{"linewidth": 1.6, "marker": "o", "markersize": 3.5, "capsize": 2.5, "elinewidth": 1},
            )
            values += [mean + sign * d for mean, d in zip(means, deviations, strict=True) for sign in (-1, 1)]
            ends.append(f"{group.label(name)} {means[-1]:.2f} at {cells[-1].length}")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(group.lengths))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(group.lengths[0] / 2**0.35, group.lengths[-1] * 2**0.35)
        axes.axvspan(0.5, group.train_length * 2 ** (0.8 * SPREAD), color="0.93", zorder=0)
        _limit(axes, values)
    return Figure(
        "loss_by_length",
        "Loss of the same held-out tokens against how many tokens before them may be seen, positions counted from the "
        "first of these; mean over seeds, bars of one standard deviation, points of one length side by side. Grey: the "
        "length of the training. A line that leaves the picture goes on above it.",
        f"Line chart of loss by context length. At the longest: {', '.join(ends)}.",
        _finish(plt, figure, panels, handles),
    )


def by_position(groups: Sequence[Group]) -> Figure:
    """Loss against the position in the longest windows, less that of the encoding that is the best there."""
    best = [_best(group) for group in groups]
    names = list(dict.fromkeys(group.label(name) for group, name in zip(groups, best, strict=True)))
    said = names[0] if len(names) == 1 else "the best"
    plt, figure, panels = _panels(groups, f"loss less that of {said} (nats a token)", "position in the window")
    handles: dict[str, Any] = {}
    ends = []
    for group, axes, base in zip(groups, panels, best, strict=True):
        styles, lowest, highest = styles_of(group.encodings), 0.0, 0.0
        for name in group.encodings:
            lines = _excess(group, name, base)
            if lines is None:
                continue
            middles = group.train_length * (np.arange(lines.shape[1]) + 0.5)
            line = lines.mean(axis=0)
            spread = lines.std(axis=0, ddof=1) if len(lines) > 1 else np.zeros_like(line)
            (handles[group.label(name)],) = axes.plot(middles, line, linewidth=1.6, **styles[name])
            shade = {"color": styles[name]["color"], "alpha": 0.15, "linewidth": 0}
            axes.fill_between(middles, line - spread, line + spread, **shade)
            lowest, highest = min(lowest, line.min()), max(highest, line.max())
            ends.append(f"{group.label(name)} {line[-1]:+.2f}")
        axes.set_xlim(0, group.lengths[-1])
        margin = 0.05 * (highest - lowest) + 1e-9
        axes.set_ylim(lowest - margin, min(highest, MOST_EXCESS) + margin)
        axes.axvspan(0, group.train_length, color="0.93", zorder=0)
    return Figure(
        "loss_by_position",
        "Loss by position in the longest held-out windows, mean over as many tokens as a training window has, less the "
        f"loss of {' or '.join(names)} of the same seed there, the lowest in all; mean over seeds, band of one "
        "standard deviation. Grey: the positions of the training. A line that leaves the picture goes on above it.",
        f"Line chart of loss by position. In the last part: {', '.join(ends)}.",
        _finish(plt, figure, panels, handles),
    )


def _by_position(group: Group, name: str) -> dict[int, Any]:
    """Of each seed, in the longest test."""
    cell = group.cell(name, group.lengths[-1])
    return {} if cell is None else {row["seed"]: np.array(row["loss_by_position"]) for row in cell.rows}


def _best(group: Group) -> str:
    """The encoding with the lowest loss over the whole of the longest windows."""
    means = {name: np.mean(list(lines.values())) for name in group.encodings if (lines := _by_position(group, name))}
    return min(means, key=lambda name: float(means[name]))


def _excess(group: Group, name: str, base: str) -> Any:
    """(seeds, positions): over the seeds that both have; None where there are none."""
    own, other = _by_position(group, name), _by_position(group, base)
    seeds = sorted(own.keys() & other.keys())
    return np.array([own[seed] - other[seed] for seed in seeds]) if seeds else None
