"""What the arguments of layers, dropout and AdamW must be, for the NumPy functions and their C twins alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.arrays import check_like, check_results, check_shape, is_real
from refrope.errors import check_number, describe

Array = npt.NDArray[Any]


def check_product(function: str, a: Array, b: Array, out: Array | None, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise unless (M, K) and (K, N) of one dtype can be multiplied, into `out` (M, N)."""
    left, right = names
    if not is_real(a, 2):
        raise ValueError(f"{function}: {left} is {describe(a)}, expected float32 or float64 with two axes")
    if not is_real(b, 2) or b.dtype != a.dtype or len(b) != a.shape[1]:
        raise ValueError(f"{function}: {right} is {describe(b)}, expected {a.dtype}({a.shape[1]}, N) to fit {left}")
    if out is not None:
        check_shape(function, "out", out, (len(a), b.shape[1]), a.dtype)
        check_results(function, out=out)


def check_linear_backward(dy: Array, x: Array, weight: Array, dweight: Array | None, out: Array | None) -> None:
    """Raise unless the arguments of `linear_backward` fit each other."""
    function = "linear_backward"
    check_product(function, x, weight, None, ("x", "weight"))
    check_shape(function, "dy", dy, (len(x), weight.shape[1]), x.dtype)
    if dweight is not None:
        check_like(function, "dweight", dweight, weight, "weight")
    if out is not None:
        check_like(function, "out", out, x, "x")
    check_results(function, dweight=dweight, out=out)


def check_rows(function: str, x: Array, gain: Array) -> None:
    """Raise unless x is (N, d) of a supported dtype and gain (d,) of the same."""
    if not is_real(x, 2) or x.shape[1] < 1:
        raise ValueError(f"{function}: x is {describe(x)}, expected float32 or float64 (N, d), d >= 1")
    if not isinstance(gain, np.ndarray) or gain.shape != x.shape[1:] or gain.dtype != x.dtype:
        raise ValueError(f"{function}: gain is {describe(gain)}, expected {x.dtype}({x.shape[1]},) for x {describe(x)}")


def check_rmsnorm_forward(x: Array, gain: Array, eps: float, out: Array | None) -> None:
    """Raise unless the arguments of `rmsnorm_forward` fit each other."""
    function = "rmsnorm_forward"
    check_rows(function, x, gain)
    check_number(function, "eps", eps, "a finite number >= 0", 0.0)
    if out is not None:
        check_like(function, "out", out, x, "x")
        check_results(function, out=out)


def check_rmsnorm_backward(
    dy: Array,
    x: Array,
    gain: Array,
    inv_rms: Array,
    residual: Array | None,
    dgain: Array | None,
    out: Array | None,
) -> None:
    """Raise unless the arguments of `rmsnorm_backward` fit each other."""
    function = "rmsnorm_backward"
    check_rows(function, x, gain)
    check_shape(function, "inv_rms", inv_rms, x.shape[:1], x.dtype)
    for name, array, like, what in (
        ("dy", dy, x, "x"),
        ("residual", residual, x, "x"),
        ("dgain", dgain, gain, "gain"),
        ("out", out, x, "x"),
    ):
        if array is not None or name == "dy":
            check_like(function, name, array, like, what)
    check_results(function, dgain=dgain, out=out)


def check_relu(function: str, out: Array | None, **inputs: Array) -> None:
    """Raise unless the first input is real and the others, and `out`, are like it."""
    (name, x), *others = inputs.items()
    if not is_real(x):
        raise ValueError(f"{function}: {name} is {describe(x)}, expected float32 or float64")
    for other, array in others:
        check_like(function, other, array, x, name)
    if out is not None:
        check_like(function, "out", out, x, name)
        check_results(function, out=out)


def check_swiglu(function: str, gate: Array, inputs: dict[str, Array], **results: Array | None) -> None:
    """Raise unless gate is (N, F) of a supported dtype and the others, results where given, are like it."""
    if not is_real(gate, 2):
        raise ValueError(f"{function}: gate is {describe(gate)}, expected float32 or float64 (N, F)")
    for name, array in {**inputs, **results}.items():
        if array is not None or name in inputs:
            check_like(function, name, array, gate, "gate")
    check_results(function, **results)


def check_loss(
    function: str,
    logits: Array,
    targets: Array,
    weights: Array,
    total: float | None,
    *,
    out: Array | None = None,
    name: str = "logits",
) -> None:
    """Raise unless logits are (N, V) of a supported dtype, targets (N,) in [0, V) and weights (N,) numbers."""
    if not is_real(logits, 2) or logits.shape[1] < 1:
        raise ValueError(f"{function}: {name} are {describe(logits)}, expected float32 or float64 (N, V), V >= 1")
    for part, array in (("targets", targets), ("weights", weights)):
        if not isinstance(array, np.ndarray) or array.shape != logits.shape[:1]:
            wanted = f"shape ({len(logits)},) for {name} {describe(logits)}"
            raise ValueError(f"{function}: {part} are {describe(array)}, expected {wanted}")
    if weights.dtype.kind not in "biuf":
        raise ValueError(f"{function}: weights are {describe(weights)}, expected numbers")
    check_indices(function, "targets", targets, logits.shape[1])
    if total is not None:
        check_number(function, "total", total, "a finite number", -math.inf)
    if out is not None:
        check_like(function, "out", out, logits, name)
        check_results(function, out=out)


def check_indices(function: str, name: str, indices: Array, count: int) -> None:
    """Raise unless `indices` are (N,) whole numbers in [0, count)."""
    if not isinstance(indices, np.ndarray) or indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(f"{function}: {name} are {describe(indices)}, expected integers (N,)")
    if indices.size and not (indices.min() >= 0 and indices.max() < count):
        worst = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(f"{function}: {name} hold {worst}, expected values in [0, {count})")


def check_embedding(function: str, name: str, table: Array, tokens: Array) -> None:
    """Raise unless the table (or its gradient, as `name` says) is (V, d) of a supported dtype, and tokens pick rows."""
    if not is_real(table, 2):
        raise ValueError(f"{function}: {name} is {describe(table)}, expected float32 or float64 (V, d)")
    check_indices(function, "tokens", tokens, len(table))


def check_adamw(weight: Array, moment1: Array, moment2: Array, grad: Array, settings: Array) -> None:
    """Raise unless the arguments of `adamw_update` fit each other."""
    function = "adamw_update"
    if not is_real(weight, 1):
        raise ValueError(f"{function}: weight is {describe(weight)}, expected float32 or float64 (size,)")
    for name, array in (("moment1", moment1), ("moment2", moment2)):
        check_like(function, name, array, weight, "weight")
    fits = isinstance(grad, np.ndarray) and grad.dtype == weight.dtype and grad.ndim in (1, 2)
    if not fits or grad.shape[-1:] != weight.shape or not len(grad[None] if grad.ndim == 1 else grad):
        wanted = f"{weight.dtype}{weight.shape} or (G, {weight.size}) with G >= 1"
        raise ValueError(f"{function}: grad is {describe(grad)}, expected {wanted}")
    check_shape(function, "settings", settings, (8,), np.dtype(np.float64))
    check_results(function, weight=weight, moment1=moment1, moment2=moment2)
