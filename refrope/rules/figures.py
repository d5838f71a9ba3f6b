"""Figures of where heads look; matplotlib comes with the extra [experiments]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from refrope.plots import pyplot
from refrope.rules.attention import ELSEWHERE, FRONT

_LINES = {"within": {"color": "#0072B2", "linestyle": "-"}, "beyond": {"color": "#D55E00", "linestyle": "--"}}
_OTHERS = {FRONT: "0.55", ELSEWHERE: "0.85"}
_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


def attention_figure(examined: dict[str, Any], train_length: int, path: Path) -> None:
    """Mean weight by distance, a panel for each layer and head, and below them how it is shared out by role.

    Parameters
    ----------
    examined : what `refrope.rules.examining.examine` returns, with "title"
    train_length : int
    path : Path
        Of the PNG.
    """
    plt = pyplot()
    rows = examined["attention"]
    layers, heads = (1 + max(row[name] for row in rows) for name in ("layer", "head"))
    bars = len(rows)
    figure = plt.figure(figsize=(max(7.5, 3.6 * heads), 2.3 * layers + 1.2 + 0.25 * bars))
    grid = figure.add_gridspec(layers + 1, heads, height_ratios=[*[2.3] * layers, 0.8 + 0.25 * bars])
    first = None
    for layer in range(layers):
        for head in range(heads):
            axes = first = figure.add_subplot(grid[layer, head], sharex=first, sharey=first)
            for row in rows:
                if (row["layer"], row["head"]) == (layer, head):
                    weights = np.array([np.nan if w is None else w for w in row["by_distance"]])
                    label = f"{row['where']} {train_length} tokens"
                    axes.plot(
                        np.arange(1, len(weights) + 1),
                        weights,
                        marker=".",
                        markersize=3,
                        label=label,
                        **_LINES[row["where"]],
                    )
            axes.set(xscale="log", ylim=(-0.02, 1.02), title=f"layer {layer}, head {head}")
            ticks = (1, 2, 3, 5, 10, 20, 50, 100, 200)
            axes.set_xticks(ticks, map(str, ticks))
            axes.axvline(train_length, color="0.8", linewidth=1, zorder=0)
            axes.minorticks_off()
            if not head:
                axes.set_ylabel("mean weight")
            if layer == layers - 1:
                axes.set_xlabel("distance l - i of the token looked at")
    assert first is not None
    first.legend(frameon=False, fontsize=8)
    _shares(figure.add_subplot(grid[layers, :]), rows)
    figure.suptitle(examined["title"], fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _shares(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Stacked bars, one for each head and range."""
    rows = sorted(rows, key=lambda row: (row["layer"], row["head"], row["where"] != "within"))
    names = list(rows[0]["shares"])
    colours = dict(zip((name for name in names if name not in _OTHERS), _COLOURS * 2, strict=False)) | _OTHERS
    places = -np.arange(len(rows))
    left = np.zeros(len(rows))
    for name in names:
        widths = np.array([row["shares"][name] for row in rows])
        label = name if name in ("far", *_OTHERS) else f"${name}$"
        axes.barh(places, widths, left=left, color=colours[name], label=label, height=0.8)
        left += widths
    axes.set_yticks(places, [f"{row['layer']}, {row['head']} {row['where']}" for row in rows], fontsize=8)
    axes.set(xlim=(0, 1), xlabel="share of attention by what the token is for the answer $x_l$ (layer, head)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), frameon=False, fontsize=8)
