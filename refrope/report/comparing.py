"""Which cells are held against which, and whether the paper found the same.

Cells are compared in pairs that differ in one thing: the encoding (Resonance X against X, or all against one), or one
setting (an ablation against the setting as it was).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from refrope.report.cells import Cell, Cells, label, value_text
from refrope.report.paper import PAPER_LENGTH, RULE, TRAIN_LENGTH, difference
from refrope.report.statistics import Paired, compare, holm

RESONANCE = "resonance-"


@dataclass(frozen=True)
class Comparison:
    """One cell less another, in accuracy beyond the training length.

    Attributes
    ----------
    first, second : Cell
    changed : str
        "encoding", or the name of the setting in which they differ.
    paired : Paired or None
        None where they have no seed in common.
    t_holm, flip_holm : float or None
        The p values after Holm's correction over all comparisons of one call.
    """

    first: Cell
    second: Cell
    changed: str
    paired: Paired | None
    t_holm: float | None = None
    flip_holm: float | None = None

    @property
    def names(self) -> tuple[str, str]:
        """What the two sides are called."""
        if self.changed == "encoding":
            return label(self.first.encoding), label(self.second.encoding)
        return tuple(  # type: ignore[return-value]
            f"{self.changed.replace('_', ' ')} {value_text(dict(cell.settings)[self.changed])}"
            for cell in (self.first, self.second)
        )


@dataclass(frozen=True)
class Agreement:
    """A Resonance comparison beside the paper's.

    Attributes
    ----------
    comparison : Comparison
    paper : float
        The paper's difference of means, in points.
    sign : {"same", "opposite", "none"}
        With "(0 in interval)" where 0 lies in our 95 % interval, "(one seed)" where there is none.
    size : {"agrees", "ours is above", "ours is below", "one seed cannot say", "no common seed"}
        "agrees" where the paper's difference lies in our 95 % interval. Student's is meant, as that of the bootstrap is
        too narrow for few seeds; how much the paper's own five seeds vary is not counted.
    """

    comparison: Comparison
    paper: float
    sign: str
    size: str


def resonance_comparisons(cells: Cells) -> list[Comparison]:
    """Every ``resonance-X`` against ``X`` of the same task, test length and settings."""
    return _corrected(
        Comparison(first, second, "encoding", compare(first.values(), second.values()))
        for first in cells.cells
        if first.encoding.startswith(RESONANCE)
        for second in cells.cells
        if second.encoding == first.encoding.removeprefix(RESONANCE) and _alike(first, second)
    )


def baseline_comparisons(cells: Cells, baseline: tuple[str, Any]) -> list[Comparison]:
    """Every cell against the one that differs in one thing only, which `baseline` names.

    Parameters
    ----------
    baseline : ("encoding", name) or (setting, value), as `refrope.report.cells.find_baseline` gives it
    """
    changed, value = baseline
    if changed == "encoding":
        pairs = [
            (first, second)
            for second in cells.cells
            if second.encoding == value
            for first in cells.cells
            if first is not second and _alike(first, second)
        ]
    else:
        pairs = [
            (first, second)
            for second in cells.cells
            for first in cells.cells
            if first is not second and _differ_in(first, second, changed, value)
        ]
    return _corrected(Comparison(*pair, changed, compare(pair[0].values(), pair[1].values())) for pair in pairs)


def _alike(first: Cell, second: Cell) -> bool:
    """Whether two cells have task, test length and at least one choice of settings in common."""
    same_place = (first.task, first.test_length) == (second.task, second.test_length)
    return same_place and bool(set(first.groups) & set(second.groups))


def _differ_in(first: Cell, second: Cell, changed: str, value: Any) -> bool:
    """Whether `second` has a setting at a value, and `first` is all the same but for another value of it."""
    place, other = ((cell.task, cell.encoding, cell.test_length) for cell in (first, second))
    return place == other and any(
        dict(theirs)[changed] == value
        and [s for s in ours if s[0] != changed] == [s for s in theirs if s[0] != changed]
        for theirs in second.groups
        for ours in first.groups
    )


def _corrected(comparisons: Iterable[Comparison]) -> list[Comparison]:
    found = list(comparisons)
    t_corrected = holm([None if each.paired is None else each.paired.t_p for each in found])
    flip_corrected = holm([None if each.paired is None else each.paired.flip_p for each in found])
    return [
        replace(each, t_holm=t, flip_holm=flip)
        for each, t, flip in zip(found, t_corrected, flip_corrected, strict=True)
    ]


def is_papers_setting(cell: Cell, common: dict[str, Any]) -> bool:
    """Trained on 64 tokens, tested on 256, h the sum: where the paper's Table 1 says something."""
    settings = common | dict(cell.settings)
    wanted = {"train_length": TRAIN_LENGTH, "rule": RULE, "j": 1, "k": 3}
    return cell.test_length == PAPER_LENGTH and all(
        settings.get(name, value) == value for name, value in wanted.items()
    )


def agreements(comparisons: Iterable[Comparison], common: dict[str, Any]) -> list[Agreement]:
    """Those of the comparisons that the paper's Table 1 has too, beside it."""
    found = []
    for each in comparisons:
        paper = difference(each.first.task, each.first.encoding, each.second.encoding)
        if paper is not None and each.changed == "encoding" and is_papers_setting(each.first, common):
            found.append(_agreement(each, paper))
    return found


def _agreement(comparison: Comparison, paper: float) -> Agreement:
    if comparison.paired is None:
        return Agreement(comparison, paper, "none", "no common seed")
    ours = comparison.paired.difference
    sign = "none" if ours.mean == 0 else "same" if (ours.mean > 0) == (paper > 0) else "opposite"
    if ours.student is None:
        return Agreement(comparison, paper, f"{sign} (one seed)", "one seed cannot say")
    low, high = (100 * end for end in ours.student)
    if low <= 0 <= high and sign != "none":
        sign += " (0 in interval)"
    size = "agrees" if low <= paper <= high else "ours is above" if low > paper else "ours is below"
    return Agreement(comparison, paper, sign, size)
