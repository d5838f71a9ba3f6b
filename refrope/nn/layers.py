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


def swiglu_forward(gate: Array, up: Array, *, out: Array | None = None) -> Array:
    """``silu(gate) up`` with ``silu(x) = x sigmoid(x)``.

    Parameters
    ----------
    gate, up : (N, F) float32 or float64; may be column views of one (N, 2F) array
    out : (N, F), optional; may be `gate` or `up`

    Raises
    ------
    ValueError
        Arrays that do not fit each other, another dtype.

    References
    ----------
    Shazeer 2020, arXiv:2002.05202, Eq. 6. C twin: rr_swiglu_forward_f32 in csrc/swiglu_body.h, within the error
    stated there.
    """
    check_swiglu("swiglu_forward", gate, up=up, out=out)
    y: Array = np.multiply(gate * _sigmoids(gate)[0], up, out=out)
    return y


def swiglu_backward(
    dy: Array, gate: Array, up: Array, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Gradients of `swiglu_forward`: dgate and dup, each (N, F).

    With s = sigmoid(gate): dgate = dy up s (1 + gate (1 - s)), dup = dy gate s. `out` = (dgate, dup) may be column
    views of one (N, 2F) array, and may be `gate` and `up`, or `dy` and another array.
    """
    dgate, dup = (None, None) if out is None else out
    check_swiglu("swiglu_backward", gate, up=up, dy=dy, dgate=dgate, dup=dup)
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
        Where the probabilities go; may be `logits`.

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
    check_loss("cross_entropy_forward", logits, targets, weights)
    shifted = np.subtract(logits, logits.max(axis=1, keepdims=True), out=out)
    chosen = shifted[np.arange(len(targets)), targets]
    probabilities = np.exp(shifted, out=shifted)
    sums = probabilities.sum(axis=1, keepdims=True)
    probabilities /= sums
    return weighted_loss(chosen - np.log(sums[:, 0]), weights, total), probabilities


def cross_entropy_backward(
    probabilities: Array, targets: Array, weights: Array, *, total: float | None = None
) -> Array:
    """``(softmax - one-hot) weight / total``, (N, V); overwrites `probabilities` and returns it.

    C twin: rr_cross_entropy_backward_f32 in csrc/elementwise.c, equal bit for bit.
    """
    check_loss("cross_entropy_backward", probabilities, targets, weights)
    probabilities[np.arange(len(targets)), targets] -= 1
    probabilities *= loss_factors(weights, total, probabilities.dtype)[:, None]
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
    check_indices("embedding_forward", "tokens", tokens, len(table))
    return np.take(table, tokens, axis=0, out=out, mode="clip")  # with "raise" NumPy would go through a copy


def embedding_backward(dy: Array, tokens: Array, dtable: Array) -> None:
    """Add to each row of `dtable` (V, d) the gradients of the tokens that picked it.

    As a product with the one-hot matrix of the tokens: a BLAS call instead of a scatter. C twin:
    rr_embedding_backward_f32 in csrc/elementwise.c, which adds in the order of the rows, within rounding.
    """
    check_indices("embedding_backward", "tokens", tokens, len(dtable))
    one_hot = (tokens == np.arange(len(dtable))[:, None]).astype(dy.dtype)
    dtable += one_hot @ dy


def check_rows(function: str, x: Array, gain: Array) -> None:
    """Raise unless x is (N, d) of a supported dtype and gain (d,) of the same."""
    if x.ndim != 2 or x.dtype not in (np.float32, np.float64):
        raise ValueError(f"{function}: x is {describe(x)}, expected float32 or float64 (N, d)")
    if gain.shape != x.shape[1:] or gain.dtype != x.dtype:
        raise ValueError(f"{function}: gain is {describe(gain)}, expected {x.dtype}({x.shape[1]},) for x {describe(x)}")


def check_loss(function: str, logits: Array, targets: Array, weights: Array) -> None:
    """Raise unless logits are (N, V) of a supported dtype, targets (N,) in [0, V) and weights (N,)."""
    if logits.ndim != 2 or logits.shape[1] < 1 or logits.dtype not in (np.float32, np.float64):
        raise ValueError(f"{function}: logits are {describe(logits)}, expected float32 or float64 (N, V), V >= 1")
    for name, array in (("targets", targets), ("weights", weights)):
        if array.shape != logits.shape[:1]:
            wanted = f"shape ({len(logits)},) for logits {describe(logits)}"
            raise ValueError(f"{function}: {name} are {describe(array)}, expected {wanted}")
    check_indices(function, "targets", targets, logits.shape[1])


def check_indices(function: str, name: str, indices: Array, count: int) -> None:
    """Raise unless `indices` are (N,) whole numbers in [0, count)."""
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(f"{function}: {name} are {describe(indices)}, expected integers (N,)")
    if indices.size and not (indices.min() >= 0 and indices.max() < count):
        worst = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(f"{function}: {name} hold {worst}, expected values in [0, {count})")


def check_swiglu(function: str, gate: Array, **others: Array | None) -> None:
    """Raise unless gate is (N, F) of a supported dtype and the others, where given, are like it."""
    if gate.ndim != 2 or gate.dtype not in (np.float32, np.float64):
        raise ValueError(f"{function}: gate is {describe(gate)}, expected float32 or float64 (N, F)")
    for name, array in others.items():
        if array is not None and (array.shape != gate.shape or array.dtype != gate.dtype):
            raise ValueError(f"{function}: {name} is {describe(array)}, expected {describe(gate)} like gate")
