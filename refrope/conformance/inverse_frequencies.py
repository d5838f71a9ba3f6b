"""Functions that return inv_freq: compared directly, without positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from refrope.conformance.calling import Caller, CallError
from refrope.conformance.diagnosing import Mistake
from refrope.conformance.fitting import Measured
from refrope.conformance.formulas import FloatArray, Slip
from refrope.conformance.frequencies import slips
from refrope.conformance.report import Report
from refrope.encodings import RotaryEncoding
from refrope.precision import round_to_bfloat16

# float32 arithmetic all the way through a ramp: transformers' YaRN without rounded ends is 3.4e-6 off.
INV_FREQ_BOUND = 1e-5
FACTOR_BOUND = 1e-5


def check_inv_freq(caller: Caller, declared: RotaryEncoding, settings: dict[str, Any]) -> Report:
    """`check` for a function ``() -> inv_freq`` or ``() -> (inv_freq, attention_factor)``."""
    report = Report(declared=declared, **settings, problems={}, calls=0)
    try:
        answer = caller()
        inv_freq, factor = _parts(answer, declared.pairs)
    except CallError as error:
        report.problems = {**caller.problems, error.kind: str(error)}
        return report
    report.problems, report.calls = dict(caller.problems), caller.calls
    if not np.isfinite(inv_freq).all() or not np.isfinite(factor if factor is not None else 1.0):
        report.problems["nan"] = "it returns NaN or infinite values"
        return report
    found = _frequency_mistake(inv_freq, declared)
    if found is None:
        report.unexplained, report.measured = True, inv_freq
        return report
    mistakes, slip = found
    report.worst = _off(inv_freq, slip.inv_freq)
    if factor is not None:
        mistakes += _factor_mistake(factor, slip.amplitude, declared)
    report.mistakes = tuple(mistakes)
    return report


def _parts(answer: list[Any], pairs: int) -> tuple[FloatArray, float | None]:
    values = [part.astype(np.float64) for part in answer]
    inv_freq = np.squeeze(values[0]) if pairs > 1 else values[0].reshape(-1)
    if inv_freq.shape != (pairs,) or len(values) > 2 or (len(values) == 2 and values[1].size != 1):
        shown = ", ".join(str(value.shape) for value in values)
        raise CallError("wrong-shape", f"it returned {shown}, expected ({pairs},) and perhaps one number")
    return inv_freq, float(values[1].reshape(-1)[0]) if len(values) == 2 else None


def _off(found: FloatArray, wanted: FloatArray) -> float:
    """The largest relative error; where a pair stands still, the error itself."""
    return float((np.abs(found - wanted) / np.where(wanted == 0, 1.0, np.abs(wanted))).max())


def _frequency_mistake(inv_freq: FloatArray, declared: RotaryEncoding) -> tuple[list[Mistake], Slip] | None:
    right = Slip("", "", declared.inv_freq, declared.attention_factor, declared)
    if _off(inv_freq, declared.inv_freq) <= INV_FREQ_BOUND:
        return [], right
    for name, rounded in (
        ("bfloat16", round_to_bfloat16(declared.inv_freq).astype(np.float64)),
        ("float16", declared.inv_freq.astype(np.float16).astype(np.float64)),
    ):
        if _off(inv_freq, rounded) <= INV_FREQ_BOUND:
            return [Mistake(f"frequencies-{name}", f"frequencies rounded to {name}")], right
    if _off(-inv_freq, declared.inv_freq) <= INV_FREQ_BOUND:
        return [Mistake("negative", "the rotation sign reversed: frequencies are negative")], right
    known = Measured(inv_freq, np.zeros(0, np.int64), np.zeros((0, len(inv_freq)), np.complex128))
    for slip in slips(declared, [known]):
        if slip.inv_freq.shape == inv_freq.shape and _off(inv_freq, slip.inv_freq) <= INV_FREQ_BOUND:
            return [Mistake(slip.name, slip.words)], slip
    return None


def _factor_mistake(factor: float, wanted: float, declared: RotaryEncoding) -> list[Mistake]:
    """What the second number is, if not the attention factor."""
    for name, words, value in (
        ("", "", wanted),
        ("", "", declared.attention_factor),
        ("amplitude-missing", "the attention factor not applied", 1.0),
        ("amplitude-twice", "the attention factor applied twice", wanted**2),
        ("amplitude-inverse", "tables divided by the attention factor", 1 / wanted),
        (
            "amplitude-softmax",
            "the softmax factor (mscale squared) in the place of the attention factor",
            declared.softmax_factor,
        ),
        ("amplitude-mscale", "mscale in the place of the attention factor", declared.softmax_factor**0.5),
    ):
        if abs(factor - value) <= FACTOR_BOUND * abs(value):
            return [Mistake(name, words)] if name else []
    return [Mistake("amplitude", f"attention factor {factor:.6g} instead of {wanted:.6g}")]
