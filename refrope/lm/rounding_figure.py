"""The figure of ``refrope lm rounding``; matplotlib comes with the extra [experiments]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refrope.lm.figures import save
from refrope.lm.rounding import ALL, FROM_PAIR, LAYER, PAIR
from refrope.plots import pyplot

_ALONE, _ON, _LAYER = "#0072B2", "#D55E00", "#009E73"  # told apart by the colour-blind
_QUIET = {"color": "0.35", "linewidth": 1, "linestyle": "--", "zorder": 1}
_NUMBERS = 12  # of pairs beside their points: the others lie on each other


def rounding_figure(found: dict[str, Any], title: str, path: Path) -> None:
    """What rounding does, by pair on the left and by layer on the right.

    Parameters
    ----------
    found : dict
        What the command writes: pairs, runs, free.
    title : str
    path : Path
        Of the PNG.
    """
    plt = pyplot()
    figure, grid = plt.subplots(3, 2, figsize=(11.5, 9.6))
    runs = {kind: [run for run in found["runs"] if run["kind"] == kind] for kind in (ALL, LAYER, PAIR, FROM_PAIR)}
    tolerance, drift = found["free"]["tolerance"], [pair["drift"] for pair in found["pairs"]]
    _drift(grid[0][0], drift, found["context"])
    _against_drift(grid[0][1], drift, [run["kl"] for run in runs[PAIR]])
    for axes, key in ((grid[1][0], "kl"), (grid[2][0], "change")):
        _points(axes, runs[PAIR], key, "this pair alone", _ALONE, "o", "none")
        _points(axes, runs[FROM_PAIR], key, "this pair and all slower ones", _ON, "s", "-")
    for axes, key in ((grid[1][1], "kl"), (grid[2][1], "change")):
        _points(axes, runs[LAYER], key, "all pairs of this layer alone", _LAYER, "D", "none")
        axes.axhline(runs[ALL][0][key], color="0.1", linewidth=1, label="all pairs of all layers")
    for axes in grid[1]:
        axes.set_ylabel("KL divergence from own (nats)")
        axes.axhline(tolerance, label=f"tolerance, {tolerance:g} nats", **_QUIET)
        _powers(axes, [run["kl"] for run in found["runs"]])
        axes.legend(frameon=False, fontsize=8)
    for axes in grid[2]:
        axes.set_ylabel("change of loss (nats a token)")
        axes.set_yscale("symlog", linthresh=tolerance)
        axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        for sign in (-1, 1):
            axes.axhline(sign * tolerance, **_QUIET)
    for line in grid[1:]:
        line[0].set_xlabel("pair, from the fastest to the slowest")
        line[1].set_xlabel("layer")
    figure.suptitle(title, fontsize=11)
    save(plt, figure, path)


def _powers(axes: Any, values: Sequence[float]) -> None:
    """An axis of powers, where there is anything to see on it: 0 has no logarithm."""
    if any(value > 0 for value in values):
        axes.set_yscale("log", nonpositive="clip")


def _points(axes: Any, runs: Sequence[dict[str, Any]], key: str, label: str, colour: str, mark: str, line: str) -> None:
    """A point a run, with its standard error where there is one."""
    errors = [run[f"{key}_error"] or 0.0 for run in runs]
    axes.errorbar(
        *([run["index"] for run in runs], [run[key] for run in runs], errors),
        **{"color": colour, "marker": mark, "linestyle": line, "label": label},
        **{"markersize": 4, "linewidth": 1.2, "capsize": 2, "elinewidth": 0.9},
    )


def _drift(axes: Any, drift: Sequence[float], context: int) -> None:
    axes.plot(range(len(drift)), drift, color=_ALONE, marker="o", markersize=4, linestyle="none")
    _powers(axes, drift)
    axes.set(xlabel="pair, from the fastest to the slowest", ylabel=f"drift after {context:,} tokens (turns)")


def _against_drift(axes: Any, drift: Sequence[float], kl: Sequence[float]) -> None:
    """Whether drift alone tells which pairs matter."""
    points = [(x, y) for x, y in zip(drift, kl, strict=True) if x > 0 and y > 0]
    axes.set(xlabel="drift (turns)", ylabel="KL, this pair alone (nats)")
    if not points:
        return
    axes.plot(*zip(*points, strict=True), color=_ALONE, marker="o", markersize=4, linestyle="none")
    axes.set(xscale="log", yscale="log")
    for pair, place in enumerate(zip(drift, kl, strict=True)):
        if min(place) > 0 and pair < _NUMBERS:
            axes.annotate(str(pair), place, (4, 3), textcoords="offset points", fontsize=7)
