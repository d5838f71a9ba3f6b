"""The layers around attention, each forward directly followed by its backward.

Rows are tokens: N = B * T of them. The gradient of x is dx. `out` arguments save an allocation and may be an input
where it says so. C twins of the same names live in refrope.kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import describe

Array = npt.NDArray[Any]


def matmul(a: Array, b: Array, *, out: Array | None = None) -> Array:
    """``a @ b`` for matrices, (M, K) and (K, N) -> (M, N)."""
    return np.matmul(a, b, out=out)


def linear_forward(x: Array, weight: Array, *, out: Array | None = None) -> Array:
    """``y = x W``: x (N, in), weight (in, out) -> (N, out). No bias, as in T5."""
    return np.matmul(x, weight, out=out)


def linear_backward(
    dy: Array, x: Array, weight: Array, *, dweight: Array | None = None, out: Array | None = None
) -> tuple[Array, Array]:
    """``dx = dy W^T`` and ``dW = x^T dy``: (N, in), (in, out). `out` may be `x`."""
    dweight = np.matmul(x.T, dy, out=dweight)
    return np.matmul(dy, weight.T, out=out), dweight


def rmsnorm_forward(x: Array, gain: Array, *, eps: float = 1e-6, out: Array | None = None) -> tuple[Array, Array]:
    """Divide each row by its root mean square, then scale by `gain`.

    Parameters
    ----------
    x : (N, d); gain : (d,); eps : float, added to the mean square
    out : (N, d), optional

    Returns
    -------
    y : (N, d) = x inv_rms gain
    inv_rms : (N,) = 1 / sqrt(mean(x^2) + eps)

    References
    ----------
    Zhang and Sennrich 2019, arXiv:1910.07467, Eq. 4. C twin: rr_rmsnorm_forward_f32 in csrc/rmsnorm.c.
    """
    check_rows("rmsnorm_forward", x, gain)
    inv_rms = 1 / np.sqrt(np.einsum("nd,nd->n", x, x) / x.dtype.type(x.shape[1]) + x.dtype.type(eps))
    y = np.multiply(x, inv_rms[:, None], out=out)
    y *= gain
    return y, inv_rms


def rmsnorm_backward(
    dy: Array,
    x: Array,
    gain: Array,
    inv_rms: Array,
    *,
    residual: Array | None = None,
    dgain: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Gradients of `rmsnorm_forward`: dx (N, d) and dgain (d,).

    `residual` (N, d) is the gradient that goes round the norm, and is added to dx.

    With g = dy gain (undoes the scaling): dx = inv_rms g - x inv_rms^3 mean(g x), the second term through the root mean
    square, and dgain = sum over rows of dy x inv_rms. `out` may be `dy` or `residual`.
    """
    check_rows("rmsnorm_backward", x, gain)
    dgain = np.einsum("nd,nd,n->d", dy, x, inv_rms, out=dgain)
    g = dy * gain
    pull = np.einsum("nd,nd->n", g, x) / x.dtype.type(x.shape[1]) * inv_rms * inv_rms
    dx = inv_rms[:, None] * (g - x * pull[:, None])
    dx = np.add(dx, 0 if residual is None else residual, out=out)
    return dx, dgain


def relu_forward(x: Array, *, out: Array | None = None) -> Array:
    """``max(x, 0)``; a NaN stays one, -0 becomes 0. `out` may be `x`."""
    y = np.empty_like(x) if out is None else out
    y[...] = np.where(x <= 0, x.dtype.type(0), x)
    return y


def relu_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """``dy`` where the forward result `y` is positive, else 0. `out` may be `dy`."""
    dx = np.empty_like(dy) if out is None else out
    dx[...] = np.where(y > 0, dy, dy.dtype.type(0))
    return dx


def cross_entropy_forward(
    logits: Array, targets: Array, weights: Array, *, total: float | None = None
) -> tuple[float, Array]:
    """Weighted mean of ``-log softmax(logits)[target]``.

    Parameters
    ----------
    logits : (N, V); targets : (N,) ints in [0, V)
    weights : (N,), 0 for a token that does not count; divided by their sum here

    Returns
    -------
    loss : float; probabilities : (N, V), for the backward pass
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted)
    sums = probabilities.sum(axis=1, keepdims=True)
    log_likelihood = shifted[np.arange(len(targets)), targets] - np.log(sums[:, 0])
    probabilities /= sums
    loss = -float(np.dot(log_likelihood.astype(np.float64), weights) / (total or weights.sum(dtype=np.float64)))
    return loss, probabilities


def cross_entropy_backward(
    probabilities: Array, targets: Array, weights: Array, *, total: float | None = None
) -> Array:
    """``(softmax - one-hot) weight / sum of weights``, (N, V); overwrites `probabilities` and returns it."""
    probabilities[np.arange(len(targets)), targets] -= 1
    probabilities *= (weights / (total or weights.sum(dtype=np.float64))).astype(probabilities.dtype)[:, None]
    return probabilities


def embedding_forward(tokens: Array, table: Array, *, out: Array | None = None) -> Array:
    """Rows of `table` (V, d) picked by `tokens` (N,), which must lie in [0, V) -> (N, d)."""
    return np.take(table, tokens, axis=0, out=out, mode="clip")  # with "raise" NumPy would go through a copy


def embedding_backward(dy: Array, tokens: Array, dtable: Array) -> None:
    """Add to each row of `dtable` (V, d) the gradients of the tokens that picked it.

    As a product with the one-hot matrix of the tokens: a BLAS call instead of a scatter.
    """
    one_hot = (tokens == np.arange(len(dtable))[:, None]).astype(dy.dtype)
    dtable += one_hot @ dy


def check_rows(function: str, x: Array, gain: Array) -> None:
    """Raise unless x is (N, d) of a supported dtype and gain (d,) of the same."""
    if x.ndim != 2 or x.dtype not in (np.float32, np.float64):
        raise ValueError(f"{function}: x is {describe(x)}, expected float32 or float64 (N, d)")
    if gain.shape != x.shape[1:] or gain.dtype != x.dtype:
        raise ValueError(f"{function}: gain is {describe(gain)}, expected {x.dtype}({x.shape[1]},) for x {describe(x)}")
