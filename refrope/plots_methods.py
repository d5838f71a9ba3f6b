"""The figure of what each method makes of distance; matplotlib comes with the extra [experiments]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from refrope.by_distance import ByDistance
from refrope.encodings.base import FloatArray
from refrope.methods import METHODS, WINDOW

_LOGIT, _PLACE = "#0072B2", "#D55E00"  # told apart by the colour-blind
_WIDEST = (-0.7, 1.6)  # of an axis for many logits: of what turns, of what is added to embeddings, of small biases
_LEAST = (-0.3, 1.4)
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
_COLUMNS = 4
_HINTS = {
    "nope": "none: the mask is all",
    "learned": "none: rows know no distance",
    "window": f"none beyond {WINDOW - 1}",
    "yarn": "dashed: slowest pair",
    "resonance-yarn": "dashed: slowest pair",
    "pointers": "seven keys",
    "t5": "least of the bucket",
    "fire": "of a query at L - 1",
}


def by_distance(shown: list[ByDistance], path: Path) -> None:
    """Logit and effective position against distance, one panel a method, and a key to them.

    The query stands at the last position L' - 1, keys before it. The logit is that of a query with an equal key, as a
    mean over features: where features turn, the mean over pairs of cos(f inv_freq), times the attention factor squared;
    where there is a bias, 1 + bias of each head as training starts (for DAPE, with what its network adds where all
    scores are 1); where rows are added to the embeddings, the product of two of them over d_model; for NoPE 1. The
    effective position f is the distance at which the method would treat the pair the same (see
    `refrope.by_distance.ByDistance.effective`). Grey: distances, and effective positions, below the training length L.
    A logit that does not fit the usual axis has an axis of its own, said in the panel.

    Parameters
    ----------
    shown : list of ByDistance, of the same two lengths
    path : Path
        A file of a type that matplotlib knows.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(shown) + 1)
    rows = -(-(len(shown) + 1) // columns)
    figure = Figure(figsize=(0.6 + 3.25 * columns, 0.5 + 2.75 * rows))
    grid = figure.add_gridspec(rows, columns, wspace=0.24, hspace=0.34)
    usual = _usual_axis(shown)
    for i, one in enumerate(shown):
        cell = grid[i // columns, i % columns].subgridspec(2, 1, height_ratios=(1.45, 1), hspace=0.1)
        top = figure.add_subplot(cell[0])
        bottom = figure.add_subplot(cell[1], sharex=top)
        _logit(top, one, usual)
        _place(bottom, one)
        top.tick_params(labelbottom=False)
        first, last = i % columns == 0, i + columns >= len(shown)
        if first:
            top.set_ylabel("logit", color=_LOGIT)
            bottom.set_ylabel("effective\nposition", color=_PLACE)
        bottom.tick_params(labelleft=first)
        if last:
            bottom.set_xlabel("distance (tokens)")
    _key(figure.add_subplot(grid[len(shown) // columns, len(shown) % columns]), shown)
    figure.savefig(path, dpi=130, format=path.suffix[1:] or "png", bbox_inches="tight", pad_inches=0.12)


def _range(one: ByDistance) -> tuple[float, float]:
    return float(np.nanmin(one.logits)), float(np.nanmax(one.logits))


def _usual_axis(shown: list[ByDistance]) -> tuple[float, float]:
    """One that holds all logits which lie within the widest."""
    ranges = [(low, high) for low, high in map(_range, shown) if low > _WIDEST[0] and high < _WIDEST[1]]
    return min([_LEAST[0], *(low - 0.05 for low, _ in ranges)]), max([_LEAST[1], *(high + 0.05 for _, high in ranges)])


def _logit(axes: Any, one: ByDistance, usual: tuple[float, float]) -> None:
    train, test = one.lengths
    for h, line in enumerate(one.logits):
        axes.plot(line, color=_LOGIT, linewidth=1.5, linestyle=_DASHES[h % len(_DASHES)])
        _alone(axes, line, _LOGIT)
    low, high = _range(one)
    axes.axvspan(0, train, color="0.92", linewidth=0, zorder=0)
    axes.axhline(0, color="0.6", linewidth=0.7, zorder=1)
    axes.set(xlim=(0, test - 1), xticks=_ticks(train, test))
    if low >= usual[0] and high <= usual[1]:
        axes.set(ylim=usual, yticks=(0, 0.5, 1))
    else:
        margin = 0.08 * (high - low)
        axes.set_ylim(low - margin, high + margin)
        axes.locator_params(axis="y", nbins=5)
        _note(axes, "axis of its own", (0.97, 0.66), ha="right", va="center")
    if one.name in ("t5", "learned"):
        _note(axes, "random at the start", (0.97, 0.5), ha="right", va="center")
    axes.set_title(METHODS[one.name].label, fontsize=11, pad=4)
    axes.tick_params(labelsize=8)


def _alone(axes: Any, line: FloatArray, color: str) -> None:
    """Dots for one or two keys whose neighbours are not seen: a line has no room for them."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], ~np.isnan(line), [0]])))
    runs = [np.arange(start, stop) for start, stop in ends.reshape(-1, 2) if stop - start < 3]
    places = np.concatenate([np.zeros(0, int), *runs])
    axes.plot(places, line[places], ".", color=color, markersize=4)


def _place(axes: Any, one: ByDistance) -> None:
    train, test = one.lengths
    axes.axhspan(0, train, color="0.92", linewidth=0, zorder=0)
    axes.plot([0, test - 1], [0, test - 1], color="0.6", linewidth=0.8, linestyle=":")
    axes.plot(one.last_effective, color=_PLACE, linewidth=1.5)
    _alone(axes, one.last_effective, _PLACE)
    if one.slowest is not None:
        axes.plot(one.slowest, color=_PLACE, linewidth=0.9, linestyle=_DASHES[1])
    axes.set(ylim=(0, test - 1), yticks=_ticks(train, test), xticks=_ticks(train, test))
    if one.name in _HINTS:
        _note(axes, _HINTS[one.name], (0.03, 0.92), va="top")
    axes.tick_params(labelsize=8)


def _note(axes: Any, text: str, place: tuple[float, float], **where: str) -> None:
    axes.annotate(text, place, xycoords="axes fraction", fontsize=7.5, color="0.3", **where)


def _ticks(train: int, test: int) -> list[int]:
    """0, L and the last distance, and multiples of L between them where there is room."""
    between = range(2 * train, test - train // 2, train)
    return [0, train, *(between if len(between) < 3 else ()), test - 1]


def _key(axes: Any, shown: list[ByDistance]) -> None:
    """What lines and grey mean, in the place of a panel."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    train, test = shown[0].lengths
    heads = max(len(one.logits) for one in shown)
    handles: list[Any] = [Line2D([], [], color=_LOGIT, label="logit" if heads == 1 else "logit (of head 1)")]
    if heads > 1:
        rest = "of head 2" if heads == 2 else f"of heads 2 to {heads}"
        handles.append(Line2D([], [], color=_LOGIT, linestyle=_DASHES[1], label=rest))
    handles += [
        Line2D([], [], color=_PLACE, label="effective position"),
        Line2D([], [], color="0.6", linewidth=0.8, linestyle=":", label="equal to the distance"),
        Patch(color="0.92", label=f"below L = {train}: trained"),
    ]
    axes.axis("off")
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.06, 1.06), frameon=False, fontsize=9)
    axes.annotate(
        f"Query at {test - 1}, keys before it. Logit:\nquery and key equal, mean over features;\n"
        "weights as training starts. Effective\nposition: the distance at which the pair\nwould be treated the same.",
        (-0.02, 0.02), xycoords="axes fraction", fontsize=8.5, va="bottom",
    )  # fmt: skip
