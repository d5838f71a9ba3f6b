"""The figure of ``refrope lm rounding``; matplotlib comes with the extra [experiments]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refrope.lm.figures import save
from refrope.lm.rounding import ALL, FROM_PAIR, LAYER, PAIR
from refrope.plots import pyplot

# Told apart by the colour-blind.
_ALONE = {"color": "#0072B2", "marker": "o", "linestyle": "none"}
_ON = {"color": "#D55E00", "marker": "s", "linestyle": "-"}
_LAYER = {"color": "#009E73", "marker": "D", "linestyle": "none"}
_QUIET = {"color": "0.35", "linewidth": 1, "linestyle": "--", "zorder": 1}
_ASIDE = 0.12  # of a pair, so that points of the same height are both seen
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
    from matplotlib.ticker import MaxNLocator

    plt = pyplot()
    figure, grid = plt.subplots(3, 2, figsize=(11.5, 9.6))
    runs = {kind: [run for run in found["runs"] if run["kind"] == kind] for kind in (ALL, LAYER, PAIR, FROM_PAIR)}
    tolerance, drift = found["free"]["tolerance"], [pair["drift"] for pair in found["pairs"]]
    _drift(grid[0][0], drift, found["context"])
    _against_drift(grid[0][1], drift, [run["kl"] for run in runs[PAIR]])
    for axes in grid[2]:
        axes.set_yscale("symlog", linthresh=tolerance)  # before there are points, which then decide where it ends
    for axes, key in ((grid[1][0], "kl"), (grid[2][0], "change")):
        _points(axes, runs[PAIR], key, "this pair alone", _ALONE, -_ASIDE)
        _points(axes, runs[FROM_PAIR], key, "this pair and all slower ones", _ON, _ASIDE)
    for axes, key in ((grid[1][1], "kl"), (grid[2][1], "change")):
        _points(axes, runs[LAYER], key, "all pairs of this layer alone", _LAYER)
        axes.axhline(runs[ALL][0][key], color="0.1", linewidth=1, label="all pairs of all layers")
    for axes in grid[1]:
        axes.set_ylabel("KL divergence from own (nats)")
        axes.axhline(tolerance, label=f"tolerance, {tolerance:g} nats", **_QUIET)
        _powers(axes, [run["kl"] for run in found["runs"]])
        axes.legend(framealpha=0.85, edgecolor="none", fontsize=8)
    for axes in grid[2]:
        axes.set_ylabel("change of loss (nats a token)")
        axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        for sign in (-1, 1):
            axes.axhline(sign * tolerance, **_QUIET)
    for line in grid[1:]:
        line[0].set_xlabel("pair, from the fastest to the slowest")
        line[1].set_xlabel("layer")
    for axes in (grid[0][0], *grid[1:].flat):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title, fontsize=11)
    save(plt, figure, path)


def _powers(axes: Any, values: Sequence[float]) -> None:
    """An axis of powers, where there is anything to see on it: 0 has no logarithm."""
    if any(value > 0 for value in values):
        axes.set_yscale("log", nonpositive="clip")


def _points(
    axes: Any, runs: Sequence[dict[str, Any]], key: str, label: str, style: dict[str, Any], aside: float = 0.0
) -> None:
    """A point a run, with its standard error where there is one."""
    errors = [run[f"{key}_error"] or 0.0 for run in runs]
    axes.errorbar(
        *([run["index"] + aside for run in runs], [run[key] for run in runs], errors),
        **{"label": label, "markersize": 3.5, "linewidth": 1.1, "capsize": 2, "elinewidth": 0.9, **style},
    )


def _drift(axes: Any, drift: Sequence[float], context: int) -> None:
    axes.plot(range(len(drift)), drift, markersize=4, **_ALONE)
    _powers(axes, drift)
    axes.set(xlabel="pair, from the fastest to the slowest", ylabel=f"drift after {context:,} tokens (turns)")


def _against_drift(axes: Any, drift: Sequence[float], kl: Sequence[float]) -> None:
    """Whether drift alone tells which pairs matter."""
    points = [(x, y) for x, y in zip(drift, kl, strict=True) if x > 0 and y > 0]
    axes.set(xlabel="drift (turns)", ylabel="KL, this pair alone (nats)")
    if not points:
        return
    axes.plot(*zip(*points, strict=True), markersize=4, **_ALONE)
    axes.set(xscale="log", yscale="log")
    axes.margins(0.08)
    for pair, place in enumerate(zip(drift, kl, strict=True)):
        if min(place) > 0 and pair < _NUMBERS:
            axes.annotate(str(pair), place, (4, 3), textcoords="offset points", fontsize=7)
