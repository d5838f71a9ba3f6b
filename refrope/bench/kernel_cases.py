"""One call of one kernel each, beside a copy of the bytes that it moves, or PyTorch's function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import kernels, rotary
from refrope.bench import torch_peers
from refrope.bench.cases import Case
from refrope.bench.timing import Task
from refrope.encodings import RoPE
from refrope.kernels.threads import run_ranges
from refrope.nn import attention, layers
from refrope.nn.dropout import dropout
from refrope.nn.optim import AdamW, adamw_update
from refrope.randomness import bit_source, normal_numbers

Array = npt.NDArray[Any]
# float32 kernels against their twins in float64, for unit normal inputs: sums of up to 16,384 terms.
ROUNDING = 2e-5
# The same for sums over hundreds of rows.
GAIN_ROUNDING = 5e-4
ATTENTION_SHAPES = ((128, 2, 64), (128, 8, 64), (1, 8, 4096))
LONG_SHAPES = ((1, 8, 16384), (1, 8, 32768))


def normal(*shape: int, seed: int = 0) -> Array:
    """Unit normal float32 numbers."""
    size = int(np.prod(shape))
    few = normal_numbers(bit_source(seed, "inputs of a benchmark"), min(size, 2**20)).astype(np.float32)
    return np.resize(few, shape)


def plain_copy(nbytes: int) -> tuple[str, Task]:
    """A loop of loads and plain stores that moves `nbytes`, half of them reads, over our threads."""
    source = np.ones(max(1, nbytes // 8), np.float32)
    target = np.empty_like(source)

    def some(first: int, last: int) -> int:
        np.positive(source[first:last], out=target[first:last])
        return 0

    return "copy of the same bytes", lambda: run_ranges(some, source.size)


def memcpy(nbytes: int) -> tuple[str, Task]:
    """The C library's memcpy of `nbytes` in all, half of them reads, over our threads."""
    source = np.ones(max(1, nbytes // 8), np.float32)
    target = np.empty_like(source)

    def some(first: int, last: int) -> int:
        np.copyto(target[first:last], source[first:last])
        return 0

    return "memcpy of the same bytes", lambda: run_ranges(some, source.size)


def rotary_cases(*, torch: bool) -> list[Case]:
    """(1, 32, 4096, 128) float32: a layer's queries in a Llama of 7 billion weights."""
    x = normal(1, 32, 4096, 128)
    tables = RoPE(128).cos_sin(np.arange(4096))
    out, place = np.empty_like(x), x.copy()
    peers = torch_peers.rotations(x, *tables) if torch else {}
    moved = 2.0 * x.nbytes
    cases = []
    for layout in rotary.LAYOUTS:

        def same_bits(layout: str = layout) -> float:
            return float((kernels.rotate(x, *tables, layout=layout) != rotary.rotate(x, *tables, layout=layout)).sum())

        def outside(layout: str = layout) -> Array:
            return kernels.rotate(x, *tables, layout=layout, out=out)

        def inside(layout: str = layout) -> Array:
            return kernels.rotate(place, *tables, layout=layout, out=place)

        name = f"rotate {layout}, (1, 32, 4096, 128)"
        cases += [
            Case(f"{name}, into out", outside, same_bits, 0.0, moved, "GB/s", plain_copy(int(moved)), peers),
            Case(f"{name}, in place", inside, same_bits, 0.0, moved, "GB/s", memcpy(int(moved))),
        ]
    return cases


def attention_cases(*, torch: bool, long: bool) -> list[Case]:
    """Causal attention, heads of 64 features, forward and backward; one query against 32,768 cached keys."""
    cases = []
    for batch, heads, length in ATTENTION_SHAPES + (LONG_SHAPES if long else ()):
        arrays = [normal(batch, heads, length, 64, seed=s) for s in range(4)]
        repeats = None if length <= 64 else 7 if length <= 4096 else 2 if length <= 16384 else 1
        with_torch = torch and length <= 16384  # beyond, ours alone takes a minute
        cases += _attention_pair(f"({batch}, {heads}, {length}, 64)", *arrays, torch=with_torch, repeats=repeats)
    q, k, v = normal(1, 8, 1, 64), normal(1, 8, 32768, 64, seed=1), normal(1, 8, 32768, 64, seed=2)
    out = np.empty_like(q)
    peers: dict[str, Task] = {}
    if torch:
        import torch as framework

        query, keys, values = (framework.tensor(x) for x in (q, k, v))
        peers["PyTorch SDPA"] = lambda: framework.nn.functional.scaled_dot_product_attention(query, keys, values)
    decode = Case(
        "attention, 1 query x 32768 keys, 8 heads",
        lambda: kernels.attention_forward(q, k, v, out=out),
        lambda: _difference(kernels.attention_forward, attention.attention_forward, q, k, v),
        ROUNDING,
    )
    decode.work, decode.unit, decode.floor, decode.peers = 2.0 * k.nbytes, "GB/s", plain_copy(2 * k.nbytes), peers
    return [*cases, decode]


def _attention_pair(
    name: str, q: Array, k: Array, v: Array, dout: Array, *, torch: bool, repeats: int | None
) -> list[Case]:
    out, lse = kernels.attention_forward(q, k, v)
    grads = (np.empty_like(q), np.empty_like(k), np.empty_like(v))
    flops = 2.0 * q.size * q.shape[2]  # two products, half of each: causal
    few = tuple(x[:1, :2, :130] for x in (q, k, v, dout))

    pair = [
        Case(
            f"attention forward {name}",
            lambda: kernels.attention_forward(q, k, v, out=out),
            lambda: _difference(kernels.attention_forward, attention.attention_forward, *few[:3]),
            ROUNDING,
            flops,
        ),
        Case(
            f"attention backward {name}",
            lambda: kernels.attention_backward(dout, q, k, v, out, lse, grads=grads),
            lambda: _difference(_attention_gradients, _slow_attention_gradients, *few),
            ROUNDING,
            2.5 * flops,
        ),
    ]
    for case, peer in zip(pair, torch_peers.attentions(q, k, v, dout) if torch else (), strict=False):
        case.peers = {"PyTorch SDPA": peer}
    for case in pair:
        case.unit, case.repeats = "GFLOP/s", repeats
    return pair


def _attention_gradients(q: Array, k: Array, v: Array, dout: Array) -> tuple[Array, ...]:
    return kernels.attention_backward(dout, q, k, v, *kernels.attention_forward(q, k, v))


def _slow_attention_gradients(q: Array, k: Array, v: Array, dout: Array) -> tuple[Array, ...]:
    return attention.attention_backward(dout, q, k, v, *attention.attention_forward(q, k, v))


def _difference(fast: Callable[..., Any], slow: Callable[..., Any], *arrays: Array) -> float:
    """The largest difference between a kernel in float32 and its twin in float64."""
    results = fast(*arrays), slow(*(a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays))
    pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True)
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0)) for a, b in pairs)


def layer_cases(*, torch: bool) -> list[Case]:
    """The loops between the matrix products, at 8,192 tokens of 512 features (feed-forward: 2,048)."""
    x, dy, gain = normal(8192, 512), normal(8192, 512, seed=1), normal(512, seed=2)
    y, dx, inv_rms = np.empty_like(x), np.empty_like(x), kernels.rmsnorm_forward(x, gain)[1]
    wide, dwide = normal(8192, 2048, seed=3), normal(8192, 2048, seed=4)
    h, tokens = np.empty_like(wide), np.arange(8192) * 7 % 18
    logits, weights = normal(8192, 18, seed=5), np.ones(8192, np.float32)
    table, dtable = normal(18, 512, seed=6), np.zeros((18, 512), np.float32)
    size = 6_303_232
    optimizer = AdamW(size)
    flat, grad, settings = normal(size, seed=7), normal(size, seed=8), optimizer.settings(1e-3, 0.9)
    moments = optimizer.moment1, optimizer.moment2

    def one_step(update: Callable[..., None]) -> Callable[..., Array]:
        def stepped(w: Array, g: Array) -> Array:
            w, fresh = w.copy(), AdamW(w.size, w.dtype)
            update(w, fresh.moment1, fresh.moment2, g, settings)
            return w

        return stepped

    few, k = slice(0, 300), kernels
    pairs: dict[
        str, tuple[tuple[Any, ...], Task, float, int]
    ] = {  # kernel and twin, how ours is called, what with for the check, bound, bytes
        "rmsnorm forward, (8192, 512)": (
            (k.rmsnorm_forward, layers.rmsnorm_forward, x[few], gain),
            *(lambda: k.rmsnorm_forward(x, gain, out=y), ROUNDING, 2 * x.nbytes),
        ),
        "rmsnorm backward, (8192, 512)": (
            (k.rmsnorm_backward, layers.rmsnorm_backward, dy[few], x[few], gain, inv_rms[few]),
            *(lambda: k.rmsnorm_backward(dy, x, gain, inv_rms, out=dx), GAIN_ROUNDING, 3 * x.nbytes),
        ),
        "ReLU forward, (8192, 2048)": (
            (k.relu_forward, layers.relu_forward, wide[few]),
            *(lambda: k.relu_forward(wide, out=h), 0.0, 2 * wide.nbytes),
        ),
        "ReLU backward, (8192, 2048)": (
            (k.relu_backward, layers.relu_backward, dwide[few], wide[few]),
            *(lambda: k.relu_backward(dwide, wide, out=h), 0.0, 3 * wide.nbytes),
        ),
        "SwiGLU forward, (8192, 2048)": (
            (k.swiglu_forward, layers.swiglu_forward, wide[few], dwide[few]),
            *(lambda: k.swiglu_forward(wide, dwide, out=h), ROUNDING, 3 * wide.nbytes),
        ),
        "SwiGLU backward, (8192, 2048)": (
            (k.swiglu_backward, layers.swiglu_backward, dwide[few], wide[few], dwide[few]),
            *(lambda: k.swiglu_backward(dwide, wide, dwide), ROUNDING, 5 * wide.nbytes),
        ),
        "dropout 0.1, (8192, 2048)": (
            (lambda a: k.dropout(a, 0.1, 1), lambda a: dropout(a, 0.1, 1), wide[few]),
            *(lambda: k.dropout(wide, 0.1, 1, out=h), ROUNDING, 2 * wide.nbytes),
        ),
        "cross-entropy forward, (8192, 18)": (
            (k.cross_entropy_forward, layers.cross_entropy_forward, logits, tokens, weights),
            *(lambda: k.cross_entropy_forward(logits, tokens, weights), ROUNDING, 2 * logits.nbytes),
        ),
        "embedding forward, (8192,) of (18, 512)": (
            (k.embedding_forward, layers.embedding_forward, tokens, table),
            *(lambda: k.embedding_forward(tokens, table, out=y), 0.0, y.nbytes),
        ),
        "embedding backward, (8192, 512)": (
            (_table_gradient(k.embedding_backward), _table_gradient(layers.embedding_backward), dy, tokens),
            *(lambda: k.embedding_backward(dy, tokens, dtable), GAIN_ROUNDING, dy.nbytes),
        ),
        "AdamW, 6.3 million weights": (
            (one_step(k.adamw_update), one_step(adamw_update), flat[:4096], grad[:4096]),
            *(lambda: k.adamw_update(flat, *moments, grad, settings), ROUNDING, 7 * flat.nbytes),
        ),
    }
    peers = torch_peers.layers(x, gain, wide, dwide, logits, tokens, flat, grad) if torch else {}
    cases = []
    for name, (arguments, ours, bound, moved) in pairs.items():
        case = Case(name, ours, partial(_difference, *arguments), bound, moved, "GB/s", plain_copy(moved))
        for start, task in peers.items():
            if name.startswith(start):
                case.peers["PyTorch"] = task
        cases.append(case)
    return cases


def _table_gradient(backward: Callable[[Array, Array, Array], None]) -> Callable[[Array, Array], Array]:
    """A function of the gradient alone out of one that adds to a table's."""

    def gradient(dy: Array, tokens: Array) -> Array:
        dtable = np.zeros((18, dy.shape[1]), dy.dtype)
        backward(dy, tokens, dtable)
        return dtable

    return gradient
