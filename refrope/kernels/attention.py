"""C twins of refrope.nn.attention: the same results without the T x T scores in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refrope.arrays import overlap, put
from refrope.kernels._call import Array, element_strides, kernel, pointer, readable, run, walkable
from refrope.kernels._native_loader import native
from refrope.nn.attention_checks import Settings, check_attention


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
    """`refrope.nn.attention.attention_forward` in C: same arguments, same errors, the same dropout mask.

    Arrays whose features lie next to each other are read and written where they are, whatever their other strides, and
    `bias` always is; nothing is read where it has the entries of masked pairs. A call with a handful of queries, as in
    generation from cached keys and values, takes the time of reading these from memory once.
    """
    settings = check_attention(
        "attention_forward", q, k, v, causal, scale, dropout, seed, first_slice, bias, window=window, onto=onto, out=out
    )
    if onto is not None:
        out, lse = onto[0], readable(onto[1])
    else:
        out, lse = np.empty_like(q) if out is None else out, np.empty(q.shape[:3], q.dtype)

    def arguments(inputs: list[Array], targets: list[Array]) -> list[Any]:
        return [*_views(inputs), *_bias_view(settings.bias), *_views(targets), pointer(lse)]

    options = (causal, onto is not None, seed, first_slice)
    _run("attention_forward", [q, k, v], [out], arguments, settings, [settings.bias], options)
    return (out, lse) if onto is None else (out, put(lse, onto[1]))


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
    """`refrope.nn.attention.attention_backward` in C: same arguments, same errors, the same dropout mask."""
    settings = check_attention(
        "attention_backward", q, k, v, causal, scale, dropout, seed, first_slice, bias,
        window=window, add=add, backward=True, dout=dout, out=out, lse=lse, grads=grads, dbias=dbias,
    )  # fmt: skip
    if grads is None:
        grads = (np.empty_like(q), np.empty_like(k), np.empty_like(v))
    lse = readable(lse)
    if dbias is not None and overlap(lse, dbias):
        lse = lse.copy()

    def arguments(inputs: list[Array], targets: list[Array]) -> list[Any]:
        read = [*_views(inputs[:3]), *_bias_view(settings.bias), *_views(inputs[3:]), pointer(lse)]
        return [*read, *_views(targets), *_bias_view(dbias)]

    options = (causal, add, seed, first_slice)
    _run(
        "attention_backward",
        [q, k, v, dout, out],
        list(grads),
        arguments,
        settings,
        [settings.bias, lse],
        options,
        dbias,
    )
    return grads


def _run(
    name: str,
    inputs: list[Array],
    results: list[Array],
    arguments: Callable[[list[Array], list[Array]], list[Any]],
    settings: Settings,
    others: list[Array | None],
    options: tuple[bool, bool, int, int],
    dbias: Array | None = None,
) -> None:
    """Call the kernel over all slices, each thread with a scratch buffer of its own.

    Forward spreads the slices of queries, backward those of keys, whose gradients are sums over a group of heads.
    `others` are inputs that are read as they are. Inputs where `dbias` grows are copied, since it is read itself.
    """
    q, k = inputs[:2]
    causal, add, *numbers = options
    batch, heads, n_q, d = q.shape
    kv_heads, n_k = k.shape[1:3]
    if q.size == 0:  # the gradients of keys that no query sees
        for result in results:
            if not add:
                result[...] = 0
        return
    function = kernel(name, q.dtype)
    inputs = [x if walkable(x) and (dbias is None or not overlap(x, dbias)) else np.array(x, order="C") for x in inputs]
    read = [x for x in (*inputs, *others) if x is not None]
    targets = [
        y if walkable(y) and not any(overlap(y, x) for x in read) else np.empty(y.shape, y.dtype) for y in results
    ]
    for result, target in zip(results, targets, strict=True):
        if add and target is not result:
            target[...] = result
    pointers = arguments(inputs, targets)
    sizes = (heads, kv_heads, n_q, n_k, d, settings.scale, bool(causal), settings.window, bool(add))
    backward = len(results) > 1
    scratch_size = native()[1].rr_attention_scratch(n_q, d, backward)

    def task(first: int, last: int) -> int:
        scratch = np.empty(scratch_size, q.dtype)
        return function(*pointers, pointer(scratch), *sizes, settings.threshold, *map(int, numbers), first, last)

    run(task, (), batch * (kv_heads if backward else heads), name)
    for result, target in zip(results, targets, strict=True):
        put(target, result)


def _views(arrays: list[Array]) -> list[Any]:
    return [item for array in arrays for item in (pointer(array), element_strides(array))]


def _bias_view(array: Array | None) -> list[Any]:
    """Pointer and all four strides of a bias or its gradient; a null pointer where there is none."""
    if array is None:
        return [native()[0].NULL, [0, 0, 0, 0]]
    return [pointer(array), element_strides(array, 4)]
