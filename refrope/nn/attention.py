"""Softmax attention with a causal mask and dropout on its weights, forward directly followed by backward.

The scores of all pairs stand in memory here, which makes the formulas plain. The C twin computes the same in tiles and
keeps none of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_number, describe
from refrope.nn.dropout import drop_threshold, keep_scale, random_bits

Array = npt.NDArray[Any]
_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def attention_forward(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = True,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Mix the values of all keys that a query sees: ``out = dropout(softmax(scale q k^T)) v``.

    Parameters
    ----------
    q : (B, H, T_q, D) float32 or float64
    k, v : (B, H, T_k, D), dtype of `q`
    causal : bool
        Query i sees the keys j <= i + T_k - T_q: the last query sees all of them. Needs T_q <= T_k.
    scale : float, optional
        Multiplies the scores; 1 / sqrt(D) if None.
    dropout : float in [0, 1)
        The chance that a weight is zeroed; the others are multiplied by 1 / (1 - dropout). Not 0: T_q T_k < 2^32.
    seed : int in [0, 2^64)
        Which weights: a function of (seed, b H + h, i T_k + j) alone.
    out : array like `q`, optional
        Where to write the result; any strides, no overlap with the inputs.

    Returns
    -------
    out : (B, H, T_q, D), dtype and memory layout of `q`
    lse : (B, H, T_q)
        log sum exp of each query's scaled scores, which the backward pass needs.

    Raises
    ------
    ValueError
        Shapes or dtypes that do not fit, or a number out of its range.

    Notes
    -----
    A query that sees a NaN gets NaN. One that does not see it may: zero times NaN is NaN.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, Eq. 1. C twin: rr_attention_forward_f32 in csrc/attention.c.
    """
    scale, threshold = check_attention("attention_forward", q, k, v, causal, scale, dropout, seed, out=out)
    if out is None:
        out = np.empty_like(q)
    scores = _scores(q, k, scale, causal)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    weights /= total
    lse = (top + np.log(total))[..., 0]
    if threshold:
        weights *= _dropout_factors(weights, threshold, seed)
    np.matmul(weights, v, out=out)
    return out, lse


def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    *,
    causal: bool = True,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    grads: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v, given that of `out`.

    Parameters
    ----------
    dout : (B, H, T_q, D), dtype of `q`
    q, k, v, causal, scale, dropout, seed : as in the forward call
    out, lse : what the forward call returned
    grads : (dq, dk, dv), optional
        Where to write the result; any strides, no overlap with the inputs.

    Returns
    -------
    dq, dk, dv : shape, dtype and memory layout of q, k, v

    Raises
    ------
    ValueError
        Shapes or dtypes that do not fit, or a number out of its range.

    References
    ----------
    Dao et al. 2022, arXiv:2205.14135, Appendix B.2: the sum of dweights * weights over the keys is dout . out.
    C twin: rr_attention_backward_f32 in csrc/attention.c.
    """
    scale, threshold = check_attention(
        "attention_backward", q, k, v, causal, scale, dropout, seed, dout=dout, out=out, lse=lse, grads=grads
    )
    dq, dk, dv = grads if grads is not None else (np.empty_like(q), np.empty_like(k), np.empty_like(v))
    weights = np.exp(_scores(q, k, scale, causal) - lse[..., None])  # the forward pass again, without its maximum
    dropped, dweights = weights, dout @ _swap(v)  # out = dropped @ v
    if threshold:
        factors = _dropout_factors(weights, threshold, seed)
        dropped = weights * factors
        dweights *= factors  # dropped = weights * factors
    np.matmul(_swap(dropped), dout, out=dv)  # out = dropped @ v
    dscores = weights * (dweights - (dout * out).sum(axis=-1, keepdims=True))  # weights = softmax(scores)
    dscores *= q.dtype.type(scale)  # scores = scale * q k^T
    np.matmul(dscores, k, out=dq)  # scores = scale * q k^T
    np.matmul(_swap(dscores), q, out=dk)  # scores = scale * q k^T
    return dq, dk, dv


def _scores(q: Array, k: Array, scale: float, causal: bool) -> Array:
    """Scaled products of all queries with all keys, -inf where a query does not see the key."""
    scores = q @ _swap(k)
    scores *= q.dtype.type(scale)
    if causal:
        n_q, n_k = scores.shape[-2:]
        scores[..., ~np.tri(n_q, n_k, n_k - n_q, dtype=bool)] = -np.inf
    return scores


def _dropout_factors(weights: Array, threshold: int, seed: int) -> Array:
    """What dropout multiplies each weight by: 0 or 1 / (1 - p)."""
    batch, heads, n_q, n_k = weights.shape
    counters = np.arange(n_q * n_k, dtype=np.uint32).reshape(n_q, n_k)
    kept = np.array([random_bits(seed, s, counters) >= threshold for s in range(batch * heads)])
    factors: Array = kept.reshape(weights.shape) * weights.dtype.type(keep_scale(threshold))
    return factors


def _swap(x: Array) -> Array:
    return np.swapaxes(x, -1, -2)


def check_attention(
    function: str,
    q: Array,
    k: Array,
    v: Array,
    causal: bool,
    scale: float | None,
    dropout: float,
    seed: int,
    *,
    dout: Array | None = None,
    out: Array | None = None,
    lse: Array | None = None,
    grads: tuple[Array, Array, Array] | None = None,
) -> tuple[float, int]:
    """Refuse what does not fit; the softmax scale in force and the dropout threshold."""
    if not isinstance(q, np.ndarray) or q.ndim != 4 or q.dtype not in _DTYPES or q.shape[-1] < 1:
        raise ValueError(f"{function}: q is {describe(q)}, expected float32 or float64 (B, H, T_q, D) with D >= 1")
    batch, heads, n_q, d = q.shape
    k_fits = isinstance(k, np.ndarray) and k.ndim == 4 and k.dtype == q.dtype
    if not k_fits or (*k.shape[:2], k.shape[3]) != (batch, heads, d):
        raise ValueError(f"{function}: k is {describe(k)}, expected {q.dtype}({batch}, {heads}, T_k, {d}) to fit q")
    n_k = k.shape[2]
    if n_k < (n_q if causal else min(n_q, 1)):
        least = f"{n_q} (causal: as many keys as queries)" if causal else "1"
        raise ValueError(f"{function}: k is {describe(k)}, expected T_k >= {least}")
    _check_like(function, "v", v, k.shape, q.dtype, "k")
    for name, array in (("dout", dout), ("out", out)):
        if array is not None:
            _check_like(function, name, array, q.shape, q.dtype, "q")
    if lse is not None:
        _check_like(function, "lse", lse, q.shape[:3], q.dtype, "q")
    if grads is not None:
        if len(grads) != 3:
            raise ValueError(f"{function}: grads is a tuple of {len(grads)}, expected (dq, dk, dv)")
        for name, array, like in zip(("dq", "dk", "dv"), grads, (q, k, v), strict=True):
            _check_like(function, name, array, like.shape, q.dtype, name[1:])
    check_integer(function, "seed", seed, 0, 2**64 - 1)
    check_number(function, "dropout", dropout, "a number in [0, 1)", 0.0)
    if dropout >= 1:
        raise ValueError(f"{function}: dropout is {dropout!r}, expected a number in [0, 1)")
    threshold = drop_threshold(dropout)
    if threshold and n_q * n_k >= 2**32:
        raise ValueError(f"{function}: T_q T_k is {n_q * n_k}, expected less than 2^32 where dropout is on")
    if scale is not None:
        check_number(function, "scale", scale, "a finite number", -math.inf)
    return (1.0 / math.sqrt(d) if scale is None else float(scale)), threshold


def _check_like(
    function: str, name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[Any], partner: str
) -> None:
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{function}: {name} is {describe(array)}, expected {dtype}{shape} to fit {partner}")
