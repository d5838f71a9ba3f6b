"""Softmax attention with a causal mask, a bias and dropout on its weights, forward directly followed by backward.

The scores of all pairs stand in memory here, which makes the formulas plain. The C twin computes the same in tiles and
keeps none of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import describe
from refrope.nn.attention_checks import check_attention
from refrope.nn.dropout import keep_scale, random_bits

Array = npt.NDArray[Any]


def attention_forward(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = True,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    first_slice: int = 0,
    bias: Array | None = None,
    window: int | None = None,
    onto: tuple[Array, Array] | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Mix the values of all keys that a query sees: ``out = dropout(softmax(scale q k^T + bias)) v``.

    Parameters
    ----------
    q : (B, H, T_q, D) float32 or float64
    k, v : (B, H_kv, T_k, D), dtype of `q`, H a multiple of H_kv
        Query head h uses head h // (H / H_kv) of the keys and values (grouped queries).
    causal : bool
        Query i sees the keys j <= i + T_k - T_q: the last query sees all of them. Needs T_q <= T_k.
    scale : float, optional
        Multiplies the scores; 1 / sqrt(D) if None.
    dropout : float in [0, 1)
        The chance that a weight is zeroed; the others are multiplied by 1 / (1 - dropout). Not 0: T_q T_k < 2^32.
    seed : int in [0, 2^64)
        Which weights: a function of (seed, first_slice + b H + h, i T_k + j) alone.
    first_slice : int in [0, 2^32 - B H]
        The number of slices (b, h) before these: a batch worked on in parts has the masks of the whole.
    bias : array of the dtype of `q` that broadcasts to (B, H, T_q, T_k), optional
        Added to the scaled scores. Any strides: 0, negative, or a table by distance (`distance_bias`). What a masked
        pair has for an entry does not matter, but with a `window` there must be one.
    window : int >= 1, optional
        Query i sees only keys at distances i + T_k - T_q - j below it, itself at distance 0. Needs `causal`.
    onto : (out, lse), optional
        What an earlier call returned for the same queries and other keys: these keys are added to those, in place. A
        query that has had none yet has lse -inf. No memory of the inputs.
    out : array like `q`, optional
        Where to write the result; any writable view, which may overlap the inputs.

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
    Vaswani et al. 2017, arXiv:1706.03762, Eq. 1; Ainslie et al. 2023, arXiv:2305.13245 (grouped queries).
    C twin: rr_attention_forward_f32 in csrc/attention_entry.h.
    """
    scale, threshold, bias, width = check_attention(
        "attention_forward", q, k, v, causal, scale, dropout, seed, first_slice, bias, window=window, onto=onto, out=out
    )
    if out is None:
        out = np.empty_like(q)
    seen = _seen(q.shape[2], k.shape[2], causal, width)
    scores = _scores(q, k, scale, seen, bias)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    weights /= total
    lse = (top + np.log(total))[..., 0]
    if threshold:
        weights *= _dropout_factors(weights, threshold, seed, first_slice)
    np.matmul(grouped(weights, k), v[:, :, None], out=grouped(out, k))
    return (out, lse) if onto is None else _merged(onto, out, lse)


def _merged(onto: tuple[Array, Array], out: Array, lse: Array) -> tuple[Array, Array]:
    """Softmax over the keys of two results, in the place of the first."""
    before = onto[1].copy()
    np.logaddexp(before, lse, out=onto[1])
    with np.errstate(invalid="ignore"):  # -inf - -inf, where no key was seen in either
        shares = [np.nan_to_num(np.exp(part - onto[1]), nan=0.0)[..., None] for part in (before, lse)]
    onto[0][...] = np.where(shares[0] > 0, onto[0], 0) * shares[0] + out * shares[1]
    return onto


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
    first_slice: int = 0,
    bias: Array | None = None,
    window: int | None = None,
    dbias: Array | None = None,
    grads: tuple[Array, Array, Array] | None = None,
    add: bool = False,
) -> tuple[Array, Array, Array]:
    """The gradients of q, k, v and `bias`, given that of `out`.

    Parameters
    ----------
    dout : (B, H, T_q, D), dtype of `q`
    q, k, v, causal, scale, dropout, seed, first_slice, bias, window : as in the forward call
    out, lse : what the forward call returned
    dbias : (B, H, T_q, T_k), dtype of `q`, optional
        The gradient of each score that is not masked is added to its entry, through whatever strides the array has.
        Entries of one slice (b, h) may share memory, as in the view that `distance_bias` returns: it then collects
        their sum. Two slices must not: summing over what `bias` was broadcast from is the caller's. Nothing happens to
        entries of masked pairs. Without `dbias`, no gradient of `bias` is computed.
    grads : (dq, dk, dv), optional
        Where to write the result; any writable views that do not overlap each other. They may overlap inputs.
    add : bool
        Add the result to what `grads` hold.

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
    C twin: rr_attention_backward_f32 in csrc/attention_entry.h.
    """
    scale, threshold, bias, width = check_attention(
        "attention_backward", q, k, v, causal, scale, dropout, seed, first_slice, bias,
        window=window, add=add, backward=True, dout=dout, out=out, lse=lse, grads=grads, dbias=dbias,
    )  # fmt: skip
    # The forward pass again, without its maximum.
    seen = _seen(q.shape[2], k.shape[2], causal, width)
    weights = np.exp(_scores(q, k, scale, seen, bias) - lse[..., None])
    dropped, dweights = weights, ungrouped(grouped(dout, k) @ _swap(v)[:, :, None])  # out = dropped @ v
    if threshold:
        factors = _dropout_factors(weights, threshold, seed, first_slice)
        dropped = weights * factors
        dweights *= factors  # dropped = weights * factors
    dv = np.matmul(_swap(grouped(dropped, k)), grouped(dout, k)).sum(axis=2)  # out = dropped @ v
    dscores = weights * (dweights - (dout * out).sum(axis=-1, keepdims=True))  # weights = softmax(scores)
    dproducts = dscores * q.dtype.type(scale)  # scores = scale * q k^T + bias
    dq = ungrouped(np.matmul(grouped(dproducts, k), k[:, :, None]))  # scores = scale * q k^T + bias
    dk = np.matmul(_swap(grouped(dproducts, k)), grouped(q, k)).sum(axis=2)  # scores = scale * q k^T + bias
    if dbias is not None:
        _add_to_entries(dbias, dscores, seen)  # scores = scale * q k^T + bias
    if grads is None:
        grads = (np.empty_like(q), np.empty_like(k), np.empty_like(v))
    for gradient, target in zip((dq, dk, dv), grads, strict=True):
        target[...] = target + gradient if add else gradient
    return grads


def distance_bias(table: Array, n_q: int, n_k: int) -> Array:
    """A table by distance as the bias of every pair: entry [..., i, j] is ``table[..., i + T_k - T_q - j]``.

    Parameters
    ----------
    table : (..., T_k)
        One number for each distance from a query back to a key, 0 to T_k - 1; the axes before it are those of heads,
        or batch and heads.
    n_q, n_k : int
        T_q and T_k, T_q <= T_k.

    Returns
    -------
    (..., T_q, T_k), dtype of `table`
        A view of a copy of the table, with memory for T_q + T_k numbers, not T_q T_k. Keys after the query, which
        causal attention masks, have entry 0.

    Raises
    ------
    ValueError
        `table` is not an array with T_k numbers on its last axis, or T_q > T_k.

    Notes
    -----
    Made of zeros (B, H, T_k) it is a `dbias` that collects the sums by distance; they are
    ``dbias[..., -1, ::-1]``, the last query's row, in which distances descend to 0.
    """
    if not isinstance(table, np.ndarray) or table.ndim < 1 or table.shape[-1] != n_k:
        raise ValueError(f"distance_bias: table is {describe(table)}, expected (..., {n_k}) to fit n_k")
    if not 0 <= n_q <= n_k:
        raise ValueError(f"distance_bias: n_q is {n_q}, expected at least 0 and at most n_k = {n_k}")
    zeros = np.zeros((*table.shape[:-1], n_q), table.dtype)  # distances -n_q to -1
    padded = np.ascontiguousarray(np.concatenate([zeros, table], axis=-1))
    step = padded.itemsize
    start = padded[..., min(n_k, padded.shape[-1] - 1) :]  # query 0, key 0: distance n_k - n_q
    shape, strides = (*table.shape[:-1], n_q, n_k), (*padded.strides[:-1], step, -step)
    view: Array = np.lib.stride_tricks.as_strided(start, shape, strides)
    return view


def grouped(x: Array, k: Array) -> Array:
    """(B, H, ...) as a view (B, H_kv, H / H_kv, ...): the heads that share a head of `k` stand together."""
    kv_heads = k.shape[1]
    return x.reshape(x.shape[0], kv_heads, x.shape[1] // max(kv_heads, 1), *x.shape[2:])


def ungrouped(x: Array) -> Array:
    """(B, H_kv, H / H_kv, ...) as (B, H, ...): the way back from `grouped`."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def _seen(n_q: int, n_k: int, causal: bool, window: int) -> Array:
    """(T_q, T_k) of bool: whether the query sees the key."""
    if not causal:
        return np.ones((n_q, n_k), bool)
    seen = np.tri(n_q, n_k, n_k - n_q, dtype=bool)
    return seen & ~np.tri(n_q, n_k, n_k - n_q - window, dtype=bool) if window else seen


def _scores(q: Array, k: Array, scale: float, seen: Array, bias: Array | None) -> Array:
    """Scaled products of all queries with all keys plus bias, -inf where a query does not see the key."""
    scores = ungrouped(grouped(q, k) @ _swap(k)[:, :, None])
    scores *= q.dtype.type(scale)
    if bias is not None:
        np.add(scores, bias, out=scores, where=seen)
    scores[..., ~seen] = -np.inf
    return scores


def _add_to_entries(dbias: Array, dscores: Array, seen: Array) -> None:
    """``dbias[..., seen] += dscores[..., seen]``, right also where entries of a slice share memory.

    NumPy's += would keep one of several numbers meant for the same place. So those are added up first, and each place
    is written once, through one of the entries that lie there.
    """
    i, j = np.nonzero(seen)
    place, first, which = np.unique(i * dbias.strides[2] + j * dbias.strides[3], return_index=True, return_inverse=True)
    for b, h in np.ndindex(*dbias.shape[:2]):
        sums = np.bincount(which, dscores[b, h, i, j], minlength=place.size)
        dbias[b, h, i[first], j[first]] += sums.astype(dbias.dtype)


def _dropout_factors(weights: Array, threshold: int, seed: int, first_slice: int) -> Array:
    """What dropout multiplies each weight by: 0 or 1 / (1 - p)."""
    batch, heads, n_q, n_k = weights.shape
    counters = np.arange(n_q * n_k, dtype=np.uint32).reshape(n_q, n_k)
    kept = np.array([random_bits(seed, first_slice + s, counters) >= threshold for s in range(batch * heads)])
    factors: Array = kept.reshape(weights.shape) * weights.dtype.type(keep_scale(threshold))
    return factors


def _swap(x: Array) -> Array:
    return np.swapaxes(x, -1, -2)
