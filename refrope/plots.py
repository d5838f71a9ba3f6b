"""Figures; matplotlib comes with the extra [experiments]."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from refrope.encodings import Resonance, RotaryEncoding
from refrope.methods import label_of, order_of
from refrope.report import LABELS

# Plain encodings dashed, Resonance solid; one colour for RoPE, one for YaRN (both told apart by the colour-blind).
STYLES: dict[str, dict[str, Any]] = {
    "rope": {"color": "#0072B2", "linestyle": "--"},
    "resonance-rope": {"color": "#0072B2", "linestyle": "-"},
    "yarn": {"color": "#D55E00", "linestyle": "--"},
    "resonance-yarn": {"color": "#D55E00", "linestyle": "-"},
}
# The others take these in turn: five colours that the colour-blind tell apart, and a dash of its own for each round.
_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[Any, ...] = ("-", "--", ":", (0, (4, 1, 1, 1, 1, 1)))
STYLES |= {
    name: {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _DASHES[i // len(_COLOURS) % len(_DASHES)]}
    for i, name in enumerate(name for name in LABELS if name not in STYLES)
}
# For encodings from elsewhere: a dash that none of the others has.
_FREE_DASH = "-."
SMOOTH = 8  # positions in the running mean of accuracy by position


def styles_of(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and dash of each name: those of `STYLES`, and for unknown names free ones, by their order."""
    names = list(names)
    unknown = sorted(set(names) - set(STYLES))
    free = {name: {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _FREE_DASH} for i, name in enumerate(unknown)}
    return {name: STYLES.get(name) or free[name] for name in names}


def pyplot() -> Any:
    """matplotlib.pyplot, drawing into files only."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _of(runs: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def _names(runs: list[dict[str, Any]], key: str) -> list[str]:
    """The different values of `key`; encodings in the order of the paper's table."""
    found = list(dict.fromkeys(run[key] for run in runs))
    return sorted(found, key=order_of)  # what it does not know stays in the order in which it came


def running_mean(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean over `SMOOTH` positions around each; NaN where the accuracy is, as within the prefix.

    The outermost two count half each, and beyond the ends the line is mirrored: so odd and even positions, of which
    semirecursive's follow different rules, weigh the same everywhere.
    """
    known = ~np.isnan(values)
    means = np.full(len(values), np.nan)
    if known.any():
        weights = np.r_[0.5, np.ones(SMOOTH - 1), 0.5] / SMOOTH
        means[known] = np.convolve(np.pad(values[known], SMOOTH // 2, mode="reflect"), weights, "valid")
    return means


def accuracy_by_position(runs: list[dict[str, Any]], train_length: int, path: Path) -> None:
    """Accuracy against the position of the token, one panel a task, the training length marked; mean over seeds.

    Of several test lengths the longest.
    """
    plt = pyplot()
    runs = _of(runs, test_length=max(run["test_length"] for run in runs))
    tasks, styles = _names(runs, "task"), styles_of(_names(runs, "encoding"))
    figure, panels = plt.subplots(1, len(tasks), figsize=(2.2 + 5.2 * len(tasks), 4.2), sharey=True, squeeze=False)
    for task, axes in zip(tasks, panels[0], strict=True):
        for name in _names(_of(runs, task=task), "encoding"):
            lines = [
                np.array([np.nan if a is None else a for a in run["accuracy_by_position"]])
                for run in _of(runs, task=task, encoding=name)
            ]
            mean = running_mean(np.mean(lines, axis=0))
            axes.plot(mean, label=label_of(name), linewidth=1.8, **styles[name])
        axes.axvspan(0, train_length, color="0.92", zorder=0)
        axes.axvline(train_length, color="0.3", linewidth=1)
        axes.annotate(
            f"L = {train_length}: longest\ntraining position",
            (train_length, 0.02),
            (4, 0),
            textcoords="offset points",
            fontsize=8,
        )
        axes.set(title=task, xlabel="position of the predicted token", xlim=(0, len(mean) - 1), ylim=(0, 1.02))
        axes.axhline(1 / 17, color="0.6", linewidth=0.8, linestyle=":")
    panels[0][0].set_ylabel(f"accuracy (running mean over {SMOOTH} positions)")
    many = len(panels[0][-1].get_lines()) > 12
    panels[0][-1].legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small" if many else None
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def training_curves(runs: list[dict[str, Any]], path: Path) -> None:
    """Training loss, and validation accuracy in and out of distribution, after each epoch, for each trained model."""
    plt = pyplot()
    tasks = _names(runs, "task")
    styles = styles_of(_names(runs, "trained_with"))
    measures = {"loss": "training loss (nats)", "id_accuracy": "ID accuracy", "ood_accuracy": "OOD accuracy"}
    figure, panels = plt.subplots(len(tasks), 3, figsize=(12, 0.6 + 3.0 * len(tasks)), squeeze=False)
    for task, row in zip(tasks, panels, strict=True):
        for (measure, label), axes in zip(measures.items(), row, strict=True):
            for trained in _names(_of(runs, task=task), "trained_with"):
                curves = np.array(
                    [run["curves"][measure] for run in _one_a_training(_of(runs, task=task, trained_with=trained))]
                )
                style = styles[trained]
                epochs = np.arange(1, curves.shape[1] + 1)
                axes.plot(epochs, curves.T, linewidth=0.7, alpha=0.4 if len(curves) > 1 else 0, **style)
                axes.plot(epochs, curves.mean(axis=0), marker="o", markersize=3, label=label_of(trained), **style)
            axes.set(title=f"{task}: {label}", xlabel="epoch", ylim=(0, None if measure == "loss" else 1.02))
            axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _one_a_training(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that were trained together hold the same curves: keep one of each seed."""
    return list({run["seed"]: run for run in runs}.values())


def pairs(rows: list[dict[str, Any]], encoding: RotaryEncoding, train: int, test: int, path: Path) -> None:
    """Wavelength, feature gap and coverage against the pair, three panels; both lengths marked.

    `rows` are those of `refrope.inspection.pair_rows`.
    """
    plt = pyplot()
    places = np.array([row["pair"] for row in rows])
    wavelengths = np.array([np.nan if row["wavelength"] is None else row["wavelength"] for row in rows])
    still = np.isnan(wavelengths)
    changes = encoding.for_length(test) != encoding
    gap_label = f"feature gap\n({train} to {test} tokens)" + ("\nof the form for the last" if changes else "")
    critical = np.array([row["critical"] == "pre" for row in rows])
    name = f"Resonance of {encoding.encoding.name}" if isinstance(encoding, Resonance) else encoding.name
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(7.4, 8.2), sharex=True, gridspec_kw={"height_ratios": (2.2, 1, 1)}
    )
    plain = 2 * np.pi * encoding.base ** (2 * places / encoding.turned)
    top.plot(places, plain, color="0.6", linewidth=1, linestyle=":", label="RoPE of the same base")
    top.plot(places, wavelengths, color="#0072B2", marker="o", markersize=3.5, label=name)
    top.set_yscale("log")
    for length, word, colour in ((train, "training length", "0.3"), (test, "test length", "#D55E00")):
        top.axhline(length, color=colour, linewidth=1)
        top.annotate(
            f"{word} {length}", (1, length), (-4, 3), xycoords=("axes fraction", "data"), ha="right", color=colour,
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    top.set(
        ylabel="wavelength (tokens)", title=f"{name}: {critical.sum()} of {len(rows)} pairs are pre-critical (grey)"
    )
    if still.any():
        top.annotate(
            f"pairs that stand still: {still.sum()}", (0.5, 0.03), xycoords="axes fraction", ha="center", fontsize=8
        )
    top.legend(frameon=False, loc="upper left")
    for axes, key, label, limit in (
        (middle, "feature_gap", gap_label, 2.0),
        (bottom, "coverage", f"coverage\n({train} tokens)", 1.0),
    ):
        axes.bar(places, [row[key] for row in rows], color="#0072B2", width=0.7)
        axes.set(ylabel=label, ylim=(0, 1.05 * limit))
    bottom.set_xlabel("pair")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    for axes in (top, middle, bottom):
        for j in np.flatnonzero(critical):
            axes.axvspan(j - 0.5, j + 0.5, color="0.92", linewidth=0, zorder=0)
        axes.set_xlim(-0.5, len(rows) - 0.5)
    figure.tight_layout()
    figure.savefig(path, dpi=130, format=path.suffix[1:] or "png")
    plt.close(figure)
