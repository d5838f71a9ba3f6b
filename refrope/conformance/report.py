"""What `check` found, for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import precision
from refrope.conformance.diagnosing import Mistake
from refrope.encodings import Resonance, RotaryEncoding
from refrope.report import parameters

FORGIVEN = frozenset({"prints", "dtype"})


@dataclass
class Report:
    """The answer of `check`.

    Attributes
    ----------
    declared : RotaryEncoding
    kind, layout, dtype, max_position
        As `check` was asked.
    mistakes : tuple of Mistake
        What the function does instead of what was declared, as few as explain all numbers.
    problems : dict of str to str
        What is wrong whatever the numbers say, by kind: "raises", "hangs", "nan", "wrong-shape", "not-an-array",
        "mutates", "stateful", "rows-mixed", "not-linear", "axes", "vectors"; and what is only noted: "prints", "dtype".
    unexplained : bool
        The numbers are wrong and look like no mistake that is known here.
    worst : float or None
        The largest error of cos and sin (attention factor included), or relative error of inv_freq.
    worst_at : (position in tokens, pair) or None
    pipeline : str or None
        The pipeline of `refrope.precision.PIPELINES` whose tables are nearest.
    pipeline_error : float or None
        How far off that pipeline's tables are over the last few thousand positions, attention factor included.
    positions : int, how many positions were compared
    calls : int, how often the function was called
    measured : (pairs,) float64 or None
        Frequencies read off an unexplained function, radians per token.
    first_wrong : (position, how many, pairs) or None
        Of an unexplained function: the first position that is off, how many are, and the pairs that are off anywhere.
    vectors : tuple of str
        Rotated queries and keys of refrope's test vectors, with this very setting: those that are right.
    """

    declared: RotaryEncoding
    kind: str
    layout: str | None
    dtype: str
    max_position: int
    problems: dict[str, str]
    calls: int
    mistakes: tuple[Mistake, ...] = ()
    unexplained: bool = False
    worst: float | None = None
    worst_at: tuple[int, int] | None = None
    pipeline: str | None = None
    pipeline_error: float | None = None
    positions: int = 0
    measured: npt.NDArray[np.float64] | None = None
    first_wrong: tuple[int, int, list[int]] | None = None
    vectors: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Nothing is wrong; what is only noted (`FORGIVEN`) does not count."""
        compared = self.worst is not None
        return compared and not self.mistakes and not self.unexplained and not set(self.problems) - FORGIVEN

    def __str__(self) -> str:
        """In words, a line each."""
        lines = [f"{'PASS' if self.passed else 'FAIL'}  {self._what()}"]
        lines += [f"  It looks like: {mistake.words}." for mistake in self.mistakes]
        if self.unexplained:
            lines += self._unexplained()
        for kind, said in self.problems.items():
            lines.append(f"  {'Note' if kind in FORGIVEN else 'Problem'} ({kind}): {said}.")
        if self.worst is not None:
            lines.append(f"  {self._error()}")
        if self.vectors:
            lines.append(f"  Rotated queries, keys and logits as in refrope's test vectors {', '.join(self.vectors)}.")
        return "\n".join(lines)

    def _what(self) -> str:
        layout = f", layout {self.layout}" if self.layout is not None and self.kind != "inv_freq" else ""
        return f"{self.kind} against {_shown(self.declared)}{layout}"

    def _error(self) -> str:
        assert self.worst is not None
        if self.kind == "inv_freq":
            return f"Largest relative error of inv_freq: {self.worst:.2g}."
        place = "" if self.worst_at is None else f" (position {self.worst_at[0]:,}, pair {self.worst_at[1]})"
        within = f"Off by up to {self.worst:.2g}{place} at {self.positions} positions below {self.max_position:,}"
        if self.pipeline is None:
            return within + "."
        like = f"{within}.\n  Precision: {precision.PIPELINES[self.pipeline]}"
        return like + f"; such tables are off by up to {self.pipeline_error:.2g} below {self.max_position:,}."

    def _unexplained(self) -> list[str]:
        lines = ["  It is wrong and looks like no mistake that is known here."]
        if self.first_wrong is not None:
            first, many, pairs = self.first_wrong
            which = f"pair {pairs[0]} alone" if len(pairs) == 1 else f"{len(pairs)} of {self.declared.pairs} pairs"
            lines.append(f"  It is off at {many} of {self.positions} positions, the first {first:,}, in {which}.")
        if self.measured is not None and len(self.measured) == self.declared.pairs:
            lines.append(f"  {_rates(self.declared.inv_freq, self.measured)}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        return {
            "passed": self.passed,
            "declared": {"name": self.declared.name, **parameters(self.declared)},
            "kind": self.kind,
            "layout": self.layout,
            "dtype": self.dtype,
            "max_position": self.max_position,
            "mistakes": [{"name": mistake.name, "words": mistake.words} for mistake in self.mistakes],
            "problems": self.problems,
            "unexplained": self.unexplained,
            "first_wrong": None if self.first_wrong is None else list(self.first_wrong),
            "measured": None if self.measured is None else self.measured.tolist(),
            "worst": self.worst,
            "worst_at": self.worst_at,
            "pipeline": self.pipeline,
            "pipeline_error": self.pipeline_error,
            "positions": self.positions,
            "calls": self.calls,
            "vectors": list(self.vectors),
        }


def _rates(declared: npt.NDArray[np.float64], measured: npt.NDArray[np.float64]) -> str:
    """How fast the pairs turn, those next to each other that are alike taken together."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = [f"{rate:.3g}" for rate in np.where(measured == declared, 1.0, measured / declared)]
    if set(rates) == {"1"}:
        return "Its pairs turn as fast as declared, to three digits: positions, amplitude or precision are to blame."
    runs, start = [], 0
    for end in range(1, len(rates) + 1):
        if end == len(rates) or rates[end] != rates[start]:
            runs.append(f"{rates[start]} (pair{f' {start}' if end == start + 1 else f's {start} to {end - 1}'})")
            start = end
    return f"Compared with the declared frequencies, its pairs turn faster by the factors {', '.join(runs)}."


def _shown(encoding: RotaryEncoding) -> str:
    """The encoding with what differs from its class's defaults, as one would write it."""
    if isinstance(encoding, Resonance):
        dialect = "" if encoding.dialect == "after" else f", {encoding.dialect!r}"
        return f"Resonance({_shown(encoding.encoding)}{dialect})"
    values = []
    for each in fields(encoding):
        value = getattr(encoding, each.name)
        if each.repr and (each.name in ("head_dim", "base") or value not in (each.default, None)):
            if isinstance(value, tuple) and len(value) > 4:
                shown = f"({len(value)} numbers)"
            else:
                shown = f"{value:g}" if isinstance(value, float) else repr(value)
            values.append(f"{each.name}={shown}")
    return f"{encoding.name}({', '.join(values)})"
