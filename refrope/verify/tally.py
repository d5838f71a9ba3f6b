"""What a check counts: comparisons, the largest error and what it may be, and the first failures in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.randomness import bit_source, bounded_integers, normal_numbers

Array = npt.NDArray[Any]
_SHOWN = 3  # failures of one check that are kept in words


class Draws:
    """Random inputs of a check, which depend on the seed and the check's name alone."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._source = bit_source(seed, f"verify {purpose}")

    def normal(self, *shape: int, dtype: npt.DTypeLike = np.float64) -> Array:
        """Unit normal numbers of a shape and dtype."""
        return normal_numbers(self._source, int(np.prod(shape))).reshape(shape).astype(dtype)

    def integers(self, low: int, high: int, *shape: int) -> npt.NDArray[np.int64]:
        """Integers in [low, high), of a shape; high - low at most 2^63."""
        drawn = bounded_integers(self._source, high - low, int(np.prod(shape))).astype(np.int64)
        return (drawn + low).reshape(shape)

    def pick(self, values: Any) -> Any:
        """One of several values."""
        return values[int(self.integers(0, len(values), 1)[0])]


class Tally:
    """Comparisons of one check.

    Attributes
    ----------
    count : int
    worst : float
        The largest error as a share of what it may be: above 1 is a failure.
    worst_error : float
        The error that `worst` comes from, in its own unit.
    failed : int
    failures : list of str, the first few
    """

    def __init__(self, seed: int, name: str) -> None:
        self.draws = Draws(seed, name)
        self.count = self.failed = 0
        self.worst = self.worst_error = 0.0
        self.failures: list[str] = []

    def same(self, found: Any, expected: Any, where: str) -> None:
        """Numbers of the same dtype and shape, equal bit for bit; a NaN's place counts, not its payload."""
        a, b = np.asarray(found), np.asarray(expected)
        if a.shape != b.shape or a.dtype != b.dtype:
            self._fail(1, f"{where}: {a.dtype}{a.shape}, expected {b.dtype}{b.shape}")
            return
        numbers = ~(_nan(a) & _nan(b))
        unsigned = a.dtype.kind == "f"  # views of bits tell -0 from 0
        word = f"u{a.dtype.itemsize}"
        left, right = (x[numbers].view(word) if unsigned else x[numbers] for x in (a, b))
        different = left != right
        self.count += a.size
        if different.any():
            i = int(np.argmax(different))
            self._fail(
                int(different.sum()),
                f"{where}: {a[numbers][i]!s}, expected {b[numbers][i]!s}, {int(different.sum())} of {a.size} differ",
            )

    def within(self, found: Any, expected: Any, bound: Any, where: str) -> None:
        """Numbers no further than `bound` (which broadcasts) from those expected; NaN is infinitely far."""
        a, b = np.asarray(found), np.asarray(expected)
        if a.shape != b.shape:
            self._fail(1, f"{where}: shape {a.shape}, expected {b.shape}")
            return
        if not a.size:
            return
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(np.subtract(a, b, dtype=np.result_type(a, b, np.float64)))
            error = np.nan_to_num(np.where(a == b, 0.0, distance), nan=np.inf)
            share = np.where(error == 0, 0.0, error / np.broadcast_to(bound, a.shape))
        self.count += a.size
        i = np.unravel_index(int(np.argmax(share)), share.shape)
        if share[i] > self.worst:
            self.worst, self.worst_error = float(share[i]), float(error[i])
        failed = int((share > 1).sum())
        if failed:
            self._fail(failed, f"{where}: {a[i]!s}, expected {b[i]!s} within {np.broadcast_to(bound, a.shape)[i]:.3g}")

    def true(self, condition: Any, where: str) -> None:
        """A statement holds, or all of an array of them."""
        held = np.asarray(condition)
        self.count += held.size
        if not held.all():
            self._fail(int((~held).sum()), f"{where}: does not hold")

    def _fail(self, number: int, words: str) -> None:
        self.failed += number
        if len(self.failures) < _SHOWN:
            self.failures.append(words)


def _nan(x: Array) -> npt.NDArray[np.bool_]:
    return np.isnan(x) if x.dtype.kind in "fc" else np.zeros(x.shape, bool)


@dataclass(frozen=True)
class Check:
    """A statement about refrope, and the function that counts how often it holds."""

    section: str
    claim: str
    run: Callable[[Tally], None]
    needs_kernels: bool = False


@dataclass(frozen=True)
class Result:
    """What came out of a check; `skipped` says why nothing did."""

    section: str
    claim: str
    count: int = 0
    failed: int = 0
    worst: float = 0.0
    worst_error: float = 0.0
    failures: tuple[str, ...] = ()
    seconds: float = 0.0
    skipped: str | None = field(default=None)

    @property
    def passed(self) -> bool:
        """Something was compared and nothing was wrong, or it was left out for a reason that is said."""
        return self.failed == 0 and (self.count > 0 or self.skipped is not None)


def perform(check: Check, seed: int) -> Result:
    """Run one check; an exception in it is a failure of its own, and the checks after it still run."""
    tally = Tally(seed, check.claim)
    began = time.perf_counter()
    try:
        check.run(tally)
    except Exception as error:  # whatever a broken build or a changed file raises is the answer
        tally._fail(1, f"{type(error).__name__}: {error}")
    if not tally.count and not tally.failed:
        tally._fail(1, "nothing was compared")
    return Result(
        *(check.section, check.claim, tally.count, tally.failed, tally.worst, tally.worst_error),
        tuple(tally.failures),
        time.perf_counter() - began,
    )
