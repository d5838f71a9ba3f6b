"""Figures of language models on long texts; matplotlib comes with the extra [experiments]."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refrope.files import write_bytes
from refrope.lm.swapping import OWN, OWN_RESONANCE, first_rounded
from refrope.plots import pyplot

# One colour a family, told apart by the colour-blind: plain encodings dashed, Resonance solid, as in other figures.
_COLOURS = {
    **{"": "#0072B2", "rope": "#0072B2", "yarn": "#D55E00", "linear": "#009E73", "ntk": "#CC79A7"},
    **{"dynamic-ntk": "#E69F00", "llama3": "#56B4E9"},
}
_OTHERS = ("#000000", "#8C564B", "#7F7F7F", "#17BECF")
_LETTERS = 12  # of a title to an inch
_MARKS = "osD^vP"
_LARGE = 2.0  # how many times the smallest perplexity the largest must be for an axis of powers


def label_of(name: str) -> str:
    """What an encoding is called in figures and tables."""
    if name.startswith(f"{OWN_RESONANCE}:"):
        return f"Resonance of own, pairs >= {first_rounded(name)}"
    return {OWN: "own", OWN_RESONANCE: "Resonance of own"}.get(name, name)


def _family(name: str) -> tuple[str, bool]:
    """What shares a colour, and whether it is Resonance."""
    if name in (OWN, OWN_RESONANCE):
        return "", name == OWN_RESONANCE
    return name.removeprefix("resonance-"), name.startswith(("resonance-", f"{OWN_RESONANCE}:"))


def styles_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, dash and mark of each encoding's line."""
    families = list(dict.fromkeys(_family(name)[0] for name in names))
    free = [family for family in families if family not in _COLOURS]
    colours = _COLOURS | {family: _OTHERS[i % len(_OTHERS)] for i, family in enumerate(free)}
    styles = {}
    for name in names:
        family, resonance = _family(name)
        mark = _MARKS[families.index(family) % len(_MARKS)]
        line: dict[str, Any] = {"color": colours[family], "marker": mark}
        # Where the two lie on each other, the dashes are on top and both are seen.
        thin = {"linestyle": "--", "linewidth": 1.3, "markersize": 4, "markerfacecolor": "white", "zorder": 3}
        thick = {"linestyle": "-", "linewidth": 2.4, "markersize": 6, "alpha": 0.75, "zorder": 2}
        styles[name] = line | (thick if resonance else thin)
    return styles


def perplexity_figure(runs: Sequence[dict[str, Any]], context: int, title: str, path: Path) -> None:
    """Perplexity against context length, a line an encoding: the form of Figure 4 in arXiv:2403.00071.

    Parameters
    ----------
    runs : rows of `refrope.lm.perplexity.measure`
    context : int, tokens
        The model's own, beyond which it was not trained; grey up to there.
    title : str
    path : Path
        Of the PNG.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.4, 4.4))
    names = list(dict.fromkeys(run["encoding"] for run in runs))
    styles = styles_of(names)
    lengths = sorted({run["tokens"] for run in runs})
    for name in names:
        line = sorted((run["tokens"], run["perplexity"]) for run in runs if run["encoding"] == name)
        axes.plot(*zip(*line, strict=True), label=label_of(name), **styles[name])
    values = [run["perplexity"] for run in runs]
    axes.set_xscale("log", base=2)
    if max(values) > _LARGE * min(values):
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=30 if len(lengths) > 6 else 0)
    axes.tick_params(axis="x", which="minor", bottom=False)
    low, high = lengths[0] / 2**0.25, lengths[-1] * 2**0.25
    if low <= context < lengths[-1]:
        axes.axvline(context, color="0.3", linewidth=1, zorder=1)
        axes.annotate(
            f"the model's own context: {context:,}", (context, 0.98), (-4, 0), va="top", ha="right", rotation=90,
            xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
        )  # fmt: skip
    if low <= context:
        axes.axvspan(low, context if context < lengths[-1] else high, color="0.94", zorder=0)
    axes.set(xlim=(low, high), xlabel="context length (tokens)", ylabel="perplexity")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(plt, figure, path)


def retrieval_figure(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Share of right answers by length and depth, a heat map for each encoding.

    Parameters
    ----------
    rows : rows of `refrope.lm.retrieval.measure`
    title : str
    path : Path
        Of the PNG.
    """
    plt = pyplot()
    names = list(dict.fromkeys(row["encoding"] for row in rows))
    lengths, depths = (sorted({row[key] for row in rows}) for key in ("length", "depth"))
    columns = 2 if len(names) == 4 else min(3, len(names))  # of four, two are Resonance's: side by side
    lines = -(-len(names) // columns)
    figure, grid = plt.subplots(
        *(lines, columns), squeeze=False, sharex=True, sharey=True,
        figsize=(1.6 + columns * max(1.8, 0.4 + 0.62 * len(lengths)), 1.1 + lines * (0.7 + 0.34 * len(depths))),
    )  # fmt: skip
    for axes, name in zip(grid.flat, names, strict=False):
        values = np.full((len(depths), len(lengths)), np.nan)
        for row in rows:
            if row["encoding"] == name:
                values[depths.index(row["depth"]), lengths.index(row["length"])] = row["accuracy"]
        axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "w" if value < 0.5 else "k"  # cividis is dark below its middle
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=ink)
        axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], fontsize=8)
        axes.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths], fontsize=8)
        axes.set_title(label_of(name), fontsize=10)
    for number, axes in enumerate(grid.flat):
        axes.set_visible(number < len(names))
        lowest = number + columns >= len(names)  # in its column
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel("context length (tokens)" if lowest else "", fontsize=9)
        axes.set_ylabel("depth (%)" if number % columns == 0 else "", fontsize=9)
    figure.suptitle(textwrap.fill(title, int(_LETTERS * figure.get_figwidth())), fontsize=10)
    save(plt, figure, path)


def save(plt: Any, figure: Any, path: Path) -> None:
    """Write it whole or not at all."""
    figure.tight_layout()
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    plt.close(figure)
    write_bytes(path, data.getvalue())
