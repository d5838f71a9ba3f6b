"""What the arguments of attention must be, for the NumPy functions and their C twins alike."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope.arrays import check_results, check_writable, distinct, overlap
from refrope.errors import check_integer, check_number, describe
from refrope.nn.dropout import drop_threshold

Array = npt.NDArray[Any]
_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class Settings(NamedTuple):
    """What a call comes to: the softmax scale in force, dropout's threshold, the bias with all its axes, the window."""

    scale: float
    threshold: int
    bias: Array | None
    window: int  # 0: none


def check_attention(
    function: str,
    q: Array,
    k: Array,
    v: Array,
    causal: bool,
    scale: float | None,
    dropout: float,
    seed: int,
    first_slice: int,
    bias: Array | None,
    *,
    window: int | None = None,
    onto: tuple[Array, Array] | None = None,
    add: bool = False,
    backward: bool = False,
    dout: Array | None = None,
    out: Array | None = None,
    lse: Array | None = None,
    grads: tuple[Array, Array, Array] | None = None,
    dbias: Array | None = None,
) -> Settings:
    """Refuse what does not fit.

    Raises
    ------
    ValueError
        The first thing that does not fit, as ``function: argument is ..., expected ...``.
    """
    if not isinstance(q, np.ndarray) or q.ndim != 4 or q.dtype not in _DTYPES or q.shape[-1] < 1:
        raise ValueError(f"{function}: q is {describe(q)}, expected float32 or float64 (B, H, T_q, D) with D >= 1")
    batch, heads, n_q, d = q.shape
    k_fits = isinstance(k, np.ndarray) and k.ndim == 4 and k.dtype == q.dtype
    if not k_fits or (k.shape[0], k.shape[3]) != (batch, d) or not _divides(k.shape[1], heads):
        wanted = f"{q.dtype}({batch}, H_kv, T_k, {d}) with {heads} a multiple of H_kv"
        raise ValueError(f"{function}: k is {describe(k)}, expected {wanted} to fit q")
    n_k = k.shape[2]
    if n_k < (n_q if causal else min(n_q, 1)):
        least = f"{n_q} (causal: as many keys as queries)" if causal else "1"
        raise ValueError(f"{function}: k is {describe(k)}, expected T_k >= {least}")
    _check_like(function, "v", v, k.shape, q.dtype, "k")
    for name, array in (("dout", dout), ("out", out)):
        if array is not None or backward:
            _check_like(function, name, array, q.shape, q.dtype, "q")
    if backward:
        _check_like(function, "lse", lse, q.shape[:3], q.dtype, "q")
    if grads is not None:
        if not isinstance(grads, (tuple, list)) or len(grads) != 3:
            came = f"a tuple of {len(grads)}" if isinstance(grads, (tuple, list)) else describe(grads)
            raise ValueError(f"{function}: grads is {came}, expected (dq, dk, dv)")
        for name, array, like in zip(("dq", "dk", "dv"), grads, (q, k, v), strict=True):
            _check_like(function, name, array, like.shape, q.dtype, name[1:])
    pairs = (batch, heads, n_q, n_k)
    if bias is not None:
        bias = _broadcast_bias(function, bias, pairs, q.dtype)
    if dbias is not None:
        _check_like(function, "dbias", dbias, pairs, q.dtype, "q and k")
        _check_walkable(function, "dbias", dbias)
        _check_grows(function, dbias, bias, grads)
    if grads is not None:
        check_results(function, **dict(zip(("dq", "dk", "dv"), grads, strict=True)))
    if onto is not None:
        _check_onto(function, onto, q, (q, k, v, bias), out)
    if add and grads is None:
        raise ValueError(f"{function}: add without grads, expected what to add to")
    if not backward:
        check_results(function, out=out)
    check_integer(function, "seed", seed, 0, 2**64 - 1)
    check_integer(function, "first_slice", first_slice, 0, 2**32 - batch * heads)
    check_number(function, "dropout", dropout, "a number in [0, 1)", 0.0)
    if dropout >= 1:
        raise ValueError(f"{function}: dropout is {dropout!r}, expected a number in [0, 1)")
    threshold = drop_threshold(dropout)
    if threshold and n_q * n_k >= 2**32:
        raise ValueError(f"{function}: T_q T_k is {n_q * n_k}, expected less than 2^32 where dropout is on")
    if scale is not None:
        check_number(function, "scale", scale, "a finite number", -math.inf)
    if window is not None:
        check_integer(function, "window", window, 1)
        if not causal:
            raise ValueError(f"{function}: window is {window} without causal, expected causal attention or no window")
    # A window that holds every key is none; C takes no larger number than that of the keys.
    width = 0 if window is None or window >= n_k else int(window)
    return Settings(1.0 / math.sqrt(d) if scale is None else float(scale), threshold, bias, width)


def check_length(function: str, name: str, x: Array, length: int, like: str) -> None:
    """Refuse queries or keys of a position map that are not those of a whole text."""
    if isinstance(x, np.ndarray) and x.ndim == 4 and x.shape[2] != length:
        wanted = f"T = {length} like {like}: a text from its first token on, without a cache"
        raise ValueError(f"{function}: {name} is {describe(x)}, expected {wanted}")


def _check_onto(
    function: str, onto: tuple[Array, Array], q: Array, inputs: tuple[Array | None, ...], out: Array | None
) -> None:
    """Refuse what is no result of another call for the same queries, or cannot be written to while inputs are read."""
    if not isinstance(onto, (tuple, list)) or len(onto) != 2:
        came = f"a tuple of {len(onto)}" if isinstance(onto, (tuple, list)) else describe(onto)
        raise ValueError(f"{function}: onto is {came}, expected (out, lse) of the same queries")
    if out is not None:
        raise ValueError(f"{function}: onto and out, expected one of them")
    _check_like(function, "onto[0]", onto[0], q.shape, q.dtype, "q")
    _check_like(function, "onto[1]", onto[1], q.shape[:3], q.dtype, "q")
    check_results(function, **{"onto[0]": onto[0], "onto[1]": onto[1]})
    for i, result in enumerate(onto):
        if any(x is not None and overlap(result, x) for x in inputs):
            raise ValueError(f"{function}: onto[{i}] and an input share memory, expected memory of its own")


def _divides(part: int, whole: int) -> bool:
    """True where `whole` heads fall into groups of equal size, one for each of `part` heads."""
    return whole == 0 if part == 0 else whole % part == 0


def _broadcast_bias(function: str, bias: Array, pairs: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A view of `bias` with the shape of all pairs."""
    expected = f"{function}: bias is {describe(bias)}, expected {dtype} that broadcasts to {pairs}"
    if not isinstance(bias, np.ndarray) or bias.dtype != dtype:
        raise ValueError(expected)
    try:
        view = np.broadcast_to(bias, pairs)
    except ValueError as error:
        raise ValueError(expected) from error
    _check_walkable(function, "bias", view)
    return view


def _check_walkable(function: str, name: str, array: Array) -> None:
    """A copy would read what masked entries may not have, or break up what shares memory: C must walk it as it is."""
    if not array.flags.aligned or any(stride % array.itemsize for stride in array.strides):
        raise ValueError(f"{function}: {name} has the strides {array.strides}, expected whole, aligned elements")


def _check_grows(function: str, dbias: Array, bias: Array | None, grads: tuple[Array, Array, Array] | None) -> None:
    """Refuse a dbias that is read-only, whose slices share memory, or that shares it with a bias or another result."""
    check_writable(function, "dbias", dbias)
    axes = list(zip(dbias.shape, dbias.strides, strict=True))
    inside = [(size, abs(stride)) for size, stride in axes[2:] if size > 1 and stride]
    if len(inside) == 2 and not distinct(inside, dbias.itemsize):  # entries of a slice, each place once
        reach = sum((size - 1) * stride for size, stride in inside)
        step = inside[0][1] if inside[0][1] == inside[1][1] else dbias.itemsize
        inside = [(reach // step + 1, step)]
    if dbias.size and not distinct(axes[:2] + inside, dbias.itemsize):
        raise ValueError(f"{function}: dbias has the strides {dbias.strides}, expected slices that share no memory")
    others = dict(zip(("dq", "dk", "dv"), grads, strict=True)) if grads is not None else {}
    for name, array in {"bias": bias, **others}.items():
        if array is not None and overlap(dbias, array):
            raise ValueError(f"{function}: dbias and {name} share memory, expected a dbias with memory of its own")


def _check_like(
    function: str, name: str, array: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any], partner: str
) -> None:
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{function}: {name} is {describe(array)}, expected {dtype}{shape} to fit {partner}")
