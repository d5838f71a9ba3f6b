"""AdamW, the one-cycle schedule in the form that PyTorch made customary, and a rate that stays after a warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_number
from refrope.nn.layer_checks import check_adamw

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class OneCycle:
    r"""Learning rate and beta_1 of every step: a cosine up over the warm-up, a cosine down to almost nothing.

    Parameters
    ----------
    peak : float > 0
        The highest learning rate.
    steps : int
        In all; step 0 has the rate peak / 25, the last step peak / 25 / 10^4.
    warmup : float in (0, 1)
        The share of the steps up to the peak.

    Notes
    -----
    beta_1 falls from 0.95 to 0.85 while the rate rises, and rises again while it falls.

    References
    ----------
    Smith and Topin 2018, arXiv:1708.07120; with the defaults and the step arithmetic of torch's OneCycleLR.
    """

    peak: float
    steps: int
    warmup: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        check_number("OneCycle", "peak", self.peak, "a finite number > 0", 0.0, above=True)
        check_integer("OneCycle", "steps", self.steps, 1)
        if not 0 < self.warmup < 1:
            raise ValueError(f"OneCycle: warmup is {self.warmup!r}, expected a number between 0 and 1")

    def at(self, step: int) -> tuple[float, float]:
        """(learning rate, beta_1) of step 0, 1, ..., steps - 1."""
        top, last = self.warmup * self.steps - 1, self.steps - 1
        start, end = self.peak / 25, self.peak / 25 / 1e4
        if step < top:
            share = step / top
            return _cosine(start, self.peak, share), _cosine(0.95, 0.85, share)
        share = (step - top) / (last - top)  # last > top, however near 1 the warm-up is
        return _cosine(self.peak, end, share), _cosine(0.85, 0.95, share)


@dataclass(frozen=True)
class WarmUp:
    """A learning rate that rises in a line over the first steps and then stays; beta_1 is always the same.

    Parameters
    ----------
    peak : float > 0
        The learning rate after the warm-up.
    steps : int
        Of the warm-up; step 0 has the rate peak / steps, step `steps` - 1 and all after it have the peak.
    beta1 : float

    Notes
    -----
    For a model that is trained already and goes on with another encoding: Chen et al. and Peng et al. use a peak of
    2e-5, 20 steps of warm-up, beta_1 0.9, beta_2 0.95 and no weight decay.

    References
    ----------
    Chen et al. 2023, arXiv:2306.15595, Section 3.1; Peng et al. 2023, arXiv:2309.00071, Section 4.1.
    """

    peak: float
    steps: int
    beta1: float = 0.9

    def __post_init__(self) -> None:
        """Check the fields."""
        check_number("WarmUp", "peak", self.peak, "a finite number > 0", 0.0, above=True)
        check_integer("WarmUp", "steps", self.steps, 0)

    def at(self, step: int) -> tuple[float, float]:
        """(learning rate, beta_1) of step 0, 1, ..."""
        return self.peak * min(1.0, (step + 1) / max(self.steps, 1)), self.beta1


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


@dataclass
class AdamW:
    """AdamW's settings and its state for one flat array of weights.

    Parameters
    ----------
    size : int
        Number of weights.
    dtype : float32 or float64
    weight_decay, beta2, eps : float
    step : int
        Steps done.
    spans : tuple of slice, optional
        Those of the weights that train, in order; all of them if None. The moments are those of these alone.

    References
    ----------
    Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2. With a beta_1 that changes, the bias correction uses the
    current one to the power of the step, as torch's AdamW does.
    """

    size: int
    dtype: npt.DTypeLike = np.float32
    weight_decay: float = 0.01
    beta2: float = 0.999
    eps: float = 1e-8
    step: int = 0
    spans: tuple[slice, ...] | None = None
    moment1: Array = field(init=False)
    moment2: Array = field(init=False)
    _gradients: Array | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        """Start with zero moments."""
        size = self.size if self.spans is None else sum(span.stop - span.start for span in self.spans)
        self.moment1 = np.zeros(size, self.dtype)
        self.moment2 = np.zeros(size, self.dtype)

    def gradients(self, parts: int) -> Array:
        """Memory for the gradients of the parts of a batch: (parts, size), the same at every step."""
        if self._gradients is None or len(self._gradients) < parts:
            self._gradients = np.empty((parts, self.size), self.dtype)
        return self._gradients[:parts]

    def update(self, ops: Any, weights: Array, gradients: Array, learning_rate: float, beta1: float) -> None:
        """One step, in place: `ops.adamw_update` on the weights that train; `gradients` are (parts, size)."""
        settings = self.settings(learning_rate, beta1)
        for span, own in self._spans():
            ops.adamw_update(weights[span], self.moment1[own], self.moment2[own], gradients[:, span], settings)

    def trained(self, array: Array) -> Array:
        """The part of an array of all weights that belongs to those that train: `array` itself where all do."""
        parts = [array[span] for span, _ in self._spans()]
        return array if len(self.moment1) == self.size else np.concatenate(parts)

    def put_trained(self, array: Array, part: Array) -> None:
        """Write what `trained` gave back into an array of all weights."""
        for span, own in self._spans():
            array[span] = part[own]

    def _spans(self) -> list[tuple[slice, slice]]:
        """Where the weights that train lie among all, and where among themselves."""
        spans = (slice(0, self.size),) if self.spans is None else self.spans
        ends = list(accumulate(span.stop - span.start for span in spans))
        return [(span, slice(first, end)) for span, first, end in zip(spans, [0, *ends], ends, strict=False)]

    def settings(self, learning_rate: float, beta1: float) -> npt.NDArray[np.float64]:
        """Count one step; the eight numbers that `adamw_update` takes for it."""
        self.step += 1
        return np.array(
            [
                1 - learning_rate * self.weight_decay,
                beta1,
                1 - beta1,
                self.beta2,
                1 - self.beta2,
                learning_rate / (1 - beta1**self.step),
                1 / math.sqrt(1 - self.beta2**self.step),
                self.eps,
            ]
        )


def adamw_update(weight: Array, moment1: Array, moment2: Array, grad: Array, settings: npt.NDArray[np.float64]) -> None:
    """One step of AdamW on flat arrays, in place.

    `grad` may be (G, size) instead of (size,): gradients of the parts of a batch, which are added in order first.

    ``settings = [1 - lr wd, b1, 1 - b1, b2, 1 - b2, lr / (1 - b1^t), 1 / sqrt(1 - b2^t), eps]``.
    C twin: rr_adamw_f32 in csrc/elementwise.c, equal bit for bit.
    """
    check_adamw(weight, moment1, moment2, grad, settings)
    if grad.ndim == 2:
        total = grad[0].copy()
        for part in grad[1:]:
            total += part
        grad = total
    keep, beta1, new1, beta2, new2, rate, correction, eps = settings.astype(weight.dtype)
    m, v = beta1 * moment1 + new1 * grad, beta2 * moment2 + new2 * (grad * grad)
    w = keep * weight - rate * m / (np.sqrt(v) * correction + eps)
    moment1[...], moment2[...], weight[...] = m, v, w
