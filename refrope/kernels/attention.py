"""C twins of refrope.nn.attention: the same results without the T x T scores in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refrope.kernels._call import Array, element_strides, kernel, pointer, run
from refrope.kernels._native_loader import native
from refrope.nn.attention import check_attention


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
    """`refrope.nn.attention.attention_forward` in C: same arguments, same errors, the same dropout mask.

    Arrays whose features lie next to each other are read and written where they are, whatever their other strides.
    """
    scale, threshold = check_attention("attention_forward", q, k, v, causal, scale, dropout, seed, out=out)
    if out is None:
        out = np.empty_like(q)
    lse = np.empty(q.shape[:3], q.dtype)
    _run("attention_forward", [q, k, v], [], [out], lse, (scale, causal, threshold, seed))
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
    """`refrope.nn.attention.attention_backward` in C: same arguments, same errors, the same dropout mask."""
    scale, threshold = check_attention(
        "attention_backward", q, k, v, causal, scale, dropout, seed, dout=dout, out=out, lse=lse, grads=grads
    )
    if grads is None:
        grads = (np.empty_like(q), np.empty_like(k), np.empty_like(v))
    lse = np.ascontiguousarray(lse)
    _run("attention_backward", [q, k, v], [dout, out], list(grads), lse, (scale, causal, threshold, seed))
    return grads


def _run(
    name: str, qkv: list[Array], others: list[Array], results: list[Array], lse: Array, settings: Sequence[Any]
) -> None:
    """Call the kernel over all slices, each thread with a scratch buffer of its own."""
    q, k = qkv[:2]
    batch, heads, n_q, d = q.shape
    function = kernel(name, q.dtype)
    inputs = [x if _usable(x) else np.ascontiguousarray(x) for x in (*qkv, *others)]
    targets = [y if _usable(y) else np.empty(y.shape, y.dtype) for y in results]
    if others:  # backward reads lse, then writes the gradients
        arguments = [*_views(inputs), pointer(lse), *_views(targets)]
    else:
        arguments = [*_views(inputs), *_views(targets), pointer(lse)]
    scratch_size = native()[1].rr_attention_scratch(n_q, d, len(others))

    def task(first: int, last: int) -> int:
        scratch = np.empty(scratch_size, q.dtype)
        return function(*arguments, pointer(scratch), heads, n_q, k.shape[2], d, *settings, first, last)

    run(task, (), batch * heads, name)
    for result, target in zip(results, targets, strict=True):
        if target is not result:
            result[...] = target


def _usable(array: Array) -> bool:
    """True where C can walk the array as it is: adjacent features, strides that are whole elements."""
    adjacent = array.strides[3] == array.itemsize or array.shape[3] == 1
    return adjacent and array.flags.aligned and all(stride % array.itemsize == 0 for stride in array.strides[:3])


def _views(arrays: list[Array]) -> list[Any]:
    return [item for array in arrays for item in (pointer(array), element_strides(array))]
