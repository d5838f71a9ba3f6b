"""The figure of ``refrope lm finetune``: perplexity against context length before and after training.

As Figure 4 of Wang et al. 2024, arXiv:2403.00071.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from refrope.lm.finetuning.tables import Group, Line, label_of
from refrope.lm.swapping import OWN
from refrope.plots import pyplot
from refrope.report.panels import picture
from refrope.report.structure import Figure

# What encodings are told apart by; the colour-blind tell these apart, too, and each has a mark of its own.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKS = ("o", "s", "^", "D", "v", "P")
HIGHEST = 4.0  # of an axis, in multiples of the least perplexity: what grows beyond leaves the picture


def by_context(groups: Sequence[Group]) -> Figure:
    """Perplexity of the same tokens against the number of tokens that may be seen before them.

    Dashed before training and solid after it, a colour an encoding; the model's own is dotted and black.
    """
    plt = pyplot()
    size = (2.2 + 5.0 * len(groups), 4.2)
    figure, grid = plt.subplots(1, len(groups), figsize=size, squeeze=False)
    names = [name for name in dict.fromkeys(line.encoding for group in groups for line in group.lines) if name != OWN]
    handles: dict[str, Any] = {}
    ends = []
    for group, axes in zip(groups, grid[0], strict=True):
        values = []
        for line in group.lines:
            points = [(length, mean(line.perplexities(length))) for length in line.rows]
            label = f"{label_of(line.encoding)}, {line.when}"
            handles[label] = axes.plot(*zip(*points, strict=True), **_style(line, names))[0]
            values += [value for _, value in points]
            ends.append(f"{label}: {points[-1][1]:.2f} at {points[-1][0]}")
        axes.set(title=group.title, xlabel="tokens of context", xscale="log", yscale="log")
        axes.xaxis.set_major_locator(FixedLocator(group.lengths))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:.4g}") if _narrow(values) else NullFormatter())
        axes.set_ylim(0.97 * min(values), 1.03 * min(max(values), HIGHEST * min(values)))
    grid[0][0].set_ylabel("perplexity of held-out text")
    beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "bbox_transform": grid[0][-1].transAxes}
    figure.legend(list(handles.values()), list(handles), frameon=False, **beside)
    figure.tight_layout()
    return Figure(
        "perplexity_by_context",
        "Perplexity of the same held-out tokens against how many tokens before them may be seen; dashed: the encoding "
        "swapped in, before training; solid: after it; dotted: the model's own encoding. Both axes are logarithmic. A "
        "line that leaves the picture goes on above it.",
        f"Line chart of perplexity by context length. {'; '.join(ends)}.",
        picture(plt, figure),
    )


def _style(line: Line, names: Sequence[str]) -> dict[str, Any]:
    if line.encoding == OWN:
        return {"color": "black", "linestyle": "-" if line.trained else ":", "marker": ".", "linewidth": 1.4}
    place = names.index(line.encoding)
    filled = {} if line.trained else {"markerfacecolor": "white"}
    return {
        **{"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKS[place % len(_MARKS)], "markersize": 4.5},
        **{"linestyle": "-" if line.trained else "--", "linewidth": 1.6, **filled},
    }


def _narrow(values: Sequence[float]) -> bool:
    """True where powers of ten alone would leave an axis without numbers."""
    return min(max(values), HIGHEST * min(values)) < 10 * min(values)
