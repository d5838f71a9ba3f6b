"""The layers around attention, each forward directly followed by its backward.

Rows are tokens: N = B * T of them. The gradient of x is dx. `out` arguments save an allocation; they may be any
writable view and overlap inputs, as refrope.arrays says. All functions raise ValueError where arguments do not fit
each other. C twins of the same names live in refrope.kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.arrays import check_results, check_shape, put
from refrope.nn.layer_checks import (
    check_embedding,
    check_linear_backward,
    check_loss,
    check_product,
    check_relu,
    check_rmsnorm_backward,
    check_rmsnorm_forward,
    check_swiglu,
)

Array = npt.NDArray[Any]


def matmul(a: Array, b: Array, *, out: Array | None = None) -> Array:
    """``a @ b`` for matrices, (M, K) and (K, N) -> (M, N)."""
    check_product("matmul", a, b, out)
    return np.matmul(a, b, out=out)


def linear_forward(x: Array, weight: Array, *, out: Array | None = None) -> Array:
    """``y = x W``: x (N, in), weight (in, out) -> (N, out). No bias, as in T5."""
    check_product("linear_forward", x, weight, out, ("x", "weight"))
    return np.matmul(x, weight, out=out)


def linear_backward(
    dy: Array, x: Array, weight: Array, *, dweight: Array | None = None, out: Array | None = None
) -> tuple[Array, Array]:
    """``dx = dy W^T`` and ``dW = x^T dy``: (N, in), (in, out)."""
    check_linear_backward(dy, x, weight, dweight, out)
    dx, product = np.matmul(dy, weight.T), np.matmul(x.T, dy)  # before anything is written
    return put(dx, out), put(product, dweight)


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
    check_rmsnorm_forward(x, gain, eps, out)
    inv_rms = 1 / np.sqrt(np.einsum("nd,nd->n", x, x) / x.dtype.type(x.shape[1]) + x.dtype.type(eps))
    y = x * inv_rms[:, None]
    y *= gain
    return put(y, out), inv_rms


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
    square, and dgain = sum over rows of dy x inv_rms.
    """
    check_rmsnorm_backward(dy, x, gain, inv_rms, residual, dgain, out)
    dgain_sum = np.einsum("nd,nd,n->d", dy, x, inv_rms)
    g = dy * gain
    pull = np.einsum("nd,nd->n", g, x) / x.dtype.type(x.shape[1]) * inv_rms * inv_rms
    dx = inv_rms[:, None] * (g - x * pull[:, None])
    if residual is not None:
        dx += residual
    return put(dx, out), put(dgain_sum, dgain)


def relu_forward(x: Array, *, out: Array | None = None) -> Array:
    """``max(x, 0)``; a NaN stays one, -0 becomes 0."""
    check_relu("relu_forward", out, x=x)
    y = np.empty_like(x) if out is None else out
    y[...] = np.where(x <= 0, x.dtype.type(0), x)
    return y


def relu_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """``dy`` where the forward result `y` is positive, else 0."""
    check_relu("relu_backward", out, dy=dy, y=y)
    dx = np.empty_like(dy) if out is None else out
    dx[...] = np.where(y > 0, dy, dy.dtype.type(0))
    return dx


def swiglu_forward(gate: Array, up: Array, *, out: Array | None = None) -> Array:
    """``silu(gate) up`` with ``silu(x) = x sigmoid(x)``.

    Parameters
    ----------
    gate, up : (N, F) float32 or float64; may be column views of one (N, 2F) array
    out : (N, F), optional

    Raises
    ------
    ValueError
        Arrays that do not fit each other, another dtype.

    References
    ----------
    Shazeer 2020, arXiv:2002.05202, Eq. 6. C twin: rr_swiglu_forward_f32 in csrc/swiglu_body.h, within the error
    stated there.
    """
    check_swiglu("swiglu_forward", gate, {"up": up}, out=out)
    return put(gate * _sigmoids(gate)[0] * up, out)


def swiglu_backward(
    dy: Array, gate: Array, up: Array, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Gradients of `swiglu_forward`: dgate and dup, each (N, F).

    With s = sigmoid(gate): dgate = dy up s (1 + gate (1 - s)), dup = dy gate s. `out` = (dgate, dup) may be column
    views of one (N, 2F) array.
    """
    dgate, dup = (None, None) if out is None else out
    check_swiglu("swiglu_backward", gate, {"dy": dy, "up": up}, dgate=dgate, dup=dup)
    s, other = _sigmoids(gate)
    gradients = dy * up * (s * (1 + gate * other)), dy * (gate * s)  # before anything is written
    if dgate is None or dup is None:
        return gradients
    dgate[...], dup[...] = gradients
    return dgate, dup


def _sigmoids(x: Array) -> tuple[Array, Array]:
    """``sigmoid(x)`` and ``sigmoid(-x)``, without overflow or a difference."""
    e = np.exp(-np.abs(x))
    near = 1 / (1 + e)
    far = e * near
    return np.where(x > 0, near, far), np.where(x > 0, far, near)


def cross_entropy_forward(
    logits: Array, targets: Array, weights: Array, *, total: float | None = None, out: Array | None = None
) -> tuple[float, Array]:
    """Weighted mean of ``-log softmax(logits)[target]``.

    Parameters
    ----------
    logits : (N, V) float32 or float64; targets : (N,) ints in [0, V)
    weights : (N,), 0 for a token that does not count
    total : float, optional
        What the weighted sum is divided by; the sum of `weights` if None. That of a whole batch, where this is a part.
    out : (N, V), optional
        Where the probabilities go.

    Returns
    -------
    loss : float; NaN where a row has a NaN or +inf, inf where a target's logit is -inf
    probabilities : (N, V), for the backward pass

    Raises
    ------
    ValueError
        Shapes that do not fit each other, a target outside [0, V), another dtype.

    References
    ----------
    C twin: rr_cross_entropy_forward_f32 in csrc/loss.c, within rounding.
    """
    check_loss("cross_entropy_forward", logits, targets, weights, total, out=out)
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(targets)), targets]
    probabilities = np.exp(shifted, out=shifted)
    sums = probabilities.sum(axis=1, keepdims=True)
    probabilities /= sums
    loss = weighted_loss(chosen - np.log(sums[:, 0]), weights, total)
    return loss, put(probabilities, out)


def cross_entropy_backward(
    probabilities: Array, targets: Array, weights: Array, *, total: float | None = None
) -> Array:
    """``(softmax - one-hot) weight / total``, (N, V); overwrites `probabilities` and returns it.

    C twin: rr_cross_entropy_backward_f32 in csrc/elementwise.c, equal bit for bit.
    """
    check_loss("cross_entropy_backward", probabilities, targets, weights, total, name="probabilities")
    check_results("cross_entropy_backward", probabilities=probabilities)
    factors, chosen = loss_factors(weights, total, probabilities.dtype), targets.astype(np.int64)
    probabilities[np.arange(len(chosen)), chosen] -= 1
    probabilities *= factors[:, None]
    return probabilities


def weighted_loss(log_likelihoods: Array, weights: Array, total: float | None) -> float:
    """Minus the weighted sum over `total`, added in float64 in NumPy's order, whatever the threads."""
    with np.errstate(invalid="ignore"):  # 0 times an infinite loss is NaN, and should be
        terms = log_likelihoods.astype(np.float64) * weights
    return -float(terms.sum() / np.float64(weights.sum(dtype=np.float64) if total is None else total))


def loss_factors(weights: Array, total: float | None, dtype: npt.DTypeLike) -> Array:
    """``weight / total`` of each row, divided in float64, as `dtype`."""
    divisor = np.float64(weights.sum(dtype=np.float64) if total is None else total)
    return (weights.astype(np.float64) / divisor).astype(dtype)


def embedding_forward(tokens: Array, table: Array, *, out: Array | None = None) -> Array:
    """Rows of `table` (V, d) picked by `tokens` (N,), which must lie in [0, V) -> (N, d).

    C twin: rr_embedding_forward_f32 in csrc/elementwise.c, equal bit for bit.
    """
    check_embedding("embedding_forward", "table", table, tokens)
    if out is not None:
        check_shape("embedding_forward", "out", out, (len(tokens), table.shape[1]), table.dtype)
        check_results("embedding_forward", out=out)
    return put(table[tokens], out)


def embedding_backward(dy: Array, tokens: Array, dtable: Array) -> None:
    """Add to each row of `dtable` (V, d) the gradients of the tokens that picked it.

    C twin: rr_embedding_backward_f32 in csrc/elementwise.c, which adds in the order of the rows, within rounding.
    """
    check_embedding("embedding_backward", "dtable", dtable, tokens)
    check_shape("embedding_backward", "dy", dy, (len(tokens), dtable.shape[1]), dtable.dtype)
    check_results("embedding_backward", dtable=dtable)
    if not tokens.size:
        return
    # Sums of the rows of one token each. A product with the one-hot matrix would spread a NaN to all tokens.
    order = np.argsort(tokens, kind="stable")
    picked, first = np.unique(tokens[order], return_index=True)
    dtable[picked] += np.add.reduceat(dy[order], first, axis=0)
