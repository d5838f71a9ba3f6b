"""The C kernels against their NumPy twins, on random sizes around the boundaries of vectors, blocks and threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from refrope import kernels, rotary
from refrope.encodings import Resonance, RoPE, YaRN
from refrope.nn import attention, dropout, layers, optim
from refrope.nn.configuration import TransformerConfig
from refrope.nn.transformer import Transformer
from refrope.posgen import inputs_and_targets, make_splits
from refrope.rotary import LAYOUTS
from refrope.train import train_step
from refrope.verify.tally import Array, Check, Draws, Tally

ROWS = (0, 1, 2, 7, 31, 255, 256, 257, 513)
WIDTHS = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 130)
LENGTHS = (1, 2, 15, 16, 17, 31, 33, 64, 65, 127, 129)
DTYPES = (np.float32, np.float64)
_THREADS = (1, 2, 3, 5)
# Relative to the terms of a sum of up to 513 of them.
_SUM = {np.float32: 4e-6, np.float64: 1e-14}
# Of unit normal inputs. Scores up to 6 are known to 5e-7 in float32, and a gradient gathers up to 300 rows.
_ATTENTION = {np.float32: 2e-6, np.float64: 1e-13}
_ATTENTION_GRADIENT = {np.float32: 1.5e-5, np.float64: 1e-13}
# Units of the last place as csrc/swiglu_body.h and csrc/loss_body.h state them; two results may differ by twice that.
_SWIGLU_ULPS, _LOSS_ULPS = 8, 32


def _shapes(draws: Draws, count: int) -> Iterator[tuple[int, int, Any]]:
    """Rows, width and dtype; every width and dtype comes up."""
    for i in range(count):
        yield draws.pick(ROWS), WIDTHS[i % len(WIDTHS)], DTYPES[i // len(WIDTHS) % 2]


@contextmanager
def threads_kept() -> Iterator[None]:
    """Put the number of threads back at the end."""
    before = kernels.get_num_threads()
    try:
        yield
    finally:
        kernels.set_num_threads(before)


def _rotate(tally: Tally) -> None:
    draws = tally.draws
    for rows, width, dtype in _shapes(draws, 208):
        features, turned = 2 * width, 2 * int(draws.integers(0, width + 1, 1)[0])
        x = draws.normal(3, 2, rows, features, dtype=dtype)
        cos, sin = draws.normal(rows, turned // 2, dtype=dtype), draws.normal(rows, turned // 2, dtype=dtype)
        if draws.pick([False, True]):  # as attention holds it: heads and tokens swapped
            x = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
        for layout in LAYOUTS:
            options = {
                "layout": layout,
                "transpose": draws.pick([False, True]),
                "suffix": draws.pick([False, True]),
            }
            where = f"rotate {np.dtype(dtype)}{x.shape}, {turned} turned, {options}"
            tally.same(kernels.rotate(x, cos, sin, **options), rotary.rotate(x, cos, sin, **options), where)


def _rotate_periodic(tally: Tally) -> None:
    draws = tally.draws
    for encoding in (Resonance(RoPE(32)), Resonance(YaRN(16, factor=4.0, original_length=64)), Resonance(RoPE(64))):
        for dtype in DTYPES:
            tables = encoding.period_tables(dtype)
            positions = draws.integers(-(2**62), 2**62, 37)
            x = draws.normal(2, 3, 37, encoding.head_dim, dtype=dtype)
            for layout in LAYOUTS:
                fast = kernels.rotate_periodic(x, positions, tables, layout=layout)
                where = f"{encoding} {np.dtype(dtype)} {layout}"
                tally.same(fast, rotary.rotate_periodic(x, positions, tables, layout=layout), where)
                tally.same(fast, rotary.rotate(x, *encoding.cos_sin(positions, dtype), layout=layout), where)


def _elementwise(tally: Tally) -> None:
    draws = tally.draws
    for rows, width, dtype in _shapes(draws, 208):
        x, dy = draws.normal(rows, width, dtype=dtype), draws.normal(rows, width, dtype=dtype)
        if x.size:
            x.flat[int(draws.integers(0, x.size, 1)[0])] = np.nan
            x.flat[int(draws.integers(0, x.size, 1)[0])] = -0.0
        where = f"{np.dtype(dtype)}({rows}, {width})"
        tally.same(kernels.relu_forward(x), layers.relu_forward(x), f"relu_forward {where}")
        tally.same(kernels.relu_backward(dy, x), layers.relu_backward(dy, x), f"relu_backward {where}")
        chance, seed = draws.pick([0.0, 0.1, 0.999]), int(draws.integers(0, 2**63, 1)[0])
        tally.same(kernels.dropout(x, chance, seed), dropout.dropout(x, chance, seed), f"dropout {chance} {where}")
        tokens, table = draws.integers(0, 11, rows), draws.normal(11, width, dtype=dtype)
        slow = layers.embedding_forward(tokens, table)
        tally.same(kernels.embedding_forward(tokens, table), slow, f"embedding_forward {where}")
        probabilities = np.abs(dy)
        weights = draws.integers(0, 3, rows).astype(dtype)
        targets = draws.integers(0, width, rows)
        fast, slow = (
            f(probabilities.copy(), targets, weights, total=7.0)
            for f in (kernels.cross_entropy_backward, layers.cross_entropy_backward)
        )
        tally.same(fast, slow, f"cross_entropy_backward {where}")


def _adamw(tally: Tally) -> None:
    draws = tally.draws
    for size in (0, 1, 15, 16, 17, 255, 257, 1000):
        for dtype in DTYPES:
            weight = draws.normal(size, dtype=dtype)
            states = [(optim.AdamW(size, dtype), weight.copy()) for _ in range(2)]
            for step in range(3):
                gradient = draws.normal(2, size, dtype=dtype)
                for update, (state, place) in zip((kernels.adamw_update, optim.adamw_update), states, strict=True):
                    update(place, state.moment1, state.moment2, gradient, state.settings(1e-3, 0.9))
                where = f"AdamW {np.dtype(dtype)}({size}), step {step}"
                (fast, fast_weight), (slow, slow_weight) = states
                tally.same(fast_weight, slow_weight, where)
                tally.same(fast.moment1, slow.moment1, f"{where}, first moment")
                tally.same(fast.moment2, slow.moment2, f"{where}, second moment")


def _sums(tally: Tally) -> None:
    draws = tally.draws
    for rows, width, dtype in _shapes(draws, 208):
        bound, where = _SUM[dtype], f"{np.dtype(dtype)}({rows}, {width})"
        x, dy, gain = (draws.normal(*s, dtype=dtype) for s in ((rows, width), (rows, width), (width,)))
        slow, fast = layers.rmsnorm_forward(x, gain), kernels.rmsnorm_forward(x, gain)
        tally.within(fast[0], slow[0], bound * np.abs(slow[0]), f"rmsnorm_forward {where}")
        tally.within(fast[1], slow[1], bound * slow[1], f"rmsnorm_forward {where}: inv_rms")
        inv_rms = slow[1]
        dx, dgain = kernels.rmsnorm_backward(dy, x, gain, inv_rms)
        slow_dx, slow_dgain = layers.rmsnorm_backward(dy, x, gain, inv_rms)
        terms = inv_rms[:, None] * np.abs(dy * gain).max(axis=1, keepdims=True, initial=0)  # before they cancel
        tally.within(dx, slow_dx, bound * terms, f"rmsnorm_backward {where}: dx")
        terms = np.abs(dy * x * inv_rms[:, None]).sum(axis=0)
        tally.within(dgain, slow_dgain, bound * terms, f"rmsnorm_backward {where}: dgain")
        tokens, table = draws.integers(0, 11, rows), draws.normal(11, width, dtype=dtype)
        added, slow_added = table.copy(), table.copy()
        kernels.embedding_backward(dy, tokens, added)
        layers.embedding_backward(dy, tokens, slow_added)
        terms = np.abs(table) + (np.abs(dy).sum(axis=0) if rows else 0)
        tally.within(added, slow_added, bound * terms, f"embedding_backward {where}")


def _swiglu_and_loss(tally: Tally) -> None:
    draws = tally.draws
    for rows, width, dtype in _shapes(draws, 208):
        where, eps, tiny = f"{np.dtype(dtype)}({rows}, {width})", np.finfo(dtype).eps, np.finfo(dtype).tiny
        gate, up, dy = ((3 * draws.normal(rows, width)).astype(dtype) for _ in range(3))
        units = 2 * (_SWIGLU_ULPS + np.abs(gate)) * eps
        y = layers.swiglu_forward(gate, up)
        tally.within(kernels.swiglu_forward(gate, up), y, units * np.abs(y) + tiny, f"swiglu_forward {where}")
        dgate, dup = layers.swiglu_backward(dy, gate, up)
        s = 1 / (1 + np.exp(-gate))
        terms = np.abs(dy * up * s) * (1 + np.abs(gate) * (1 - s))
        fast = kernels.swiglu_backward(dy, gate, up)
        tally.within(fast[0], dgate, units * terms + tiny, f"swiglu_backward {where}: dgate")
        tally.within(fast[1], dup, units * np.abs(dup) + tiny, f"swiglu_backward {where}: dup")
        if not rows:
            continue
        targets, weights = draws.integers(0, width, rows), np.ones(rows, dtype)
        loss, p = layers.cross_entropy_forward(gate, targets, weights)
        fast_loss, fast_p = kernels.cross_entropy_forward(gate, targets, weights)
        units = 2 * (_LOSS_ULPS + gate.max(axis=1, keepdims=True) - gate) * eps
        tally.within(fast_p, p, units * p + tiny, f"cross_entropy_forward {where}: probabilities")
        tally.within(fast_loss, loss, float(units.max()), f"cross_entropy_forward {where}: loss")


def attention_calls(draws: Draws, count: int) -> Iterator[tuple[list[Array], dict[str, Any], str]]:
    """q, k, v and the gradient of out, options, and words for them."""
    for _ in range(count):
        n_q, d = draws.pick(LENGTHS), draws.pick([2, 7, 16, 33, 64, 80])
        n_k, groups = n_q + draws.pick([0, 0, 1, 40]), draws.pick([1, 1, 3])
        shapes = ((2, 3, n_q, d), (2, 3 // groups, n_k, d), (2, 3 // groups, n_k, d), (2, 3, n_q, d))
        options: dict[str, Any] = {
            "causal": draws.pick([True, False]),
            "dropout": draws.pick([0.0, 0.0, 0.3]),
            "seed": int(draws.integers(0, 2**63, 1)[0]),
            "scale": draws.pick([None, 0.3]),
        }
        words = f"attention q {shapes[0]}, k {shapes[1]}, {options}"
        if draws.pick([False, True]):
            options["bias"] = draws.normal(1, 3, n_q, n_k)
        yield [draws.normal(*shape) for shape in shapes], options, words


def _attention(tally: Tally) -> None:
    for arrays, options, words in attention_calls(tally.draws, 200):
        compare_attention(tally, arrays, options, words)


def compare_attention(tally: Tally, arrays: list[Array], options: dict[str, Any], words: str) -> None:
    """Forward and backward in both precisions against the NumPy twin in float64."""
    for dtype in DTYPES:
        cast = [x.astype(dtype) for x in arrays]
        casts = dict(options)
        if "bias" in casts:
            casts["bias"] = casts["bias"].astype(dtype)
        wide = {k: v.astype(np.float64) if k == "bias" else v for k, v in casts.items()}
        fast = _both_passes(kernels, *cast, **casts)
        with kernels.single_blas_thread():
            slow = _both_passes(attention, *(x.astype(np.float64) for x in cast), **wide)
        for name, a, b in zip(("out", "lse", "dq", "dk", "dv", "dbias"), fast, slow, strict=False):
            bound = (_ATTENTION if name in ("out", "lse") else _ATTENTION_GRADIENT)[dtype]
            tally.within(a, b, bound * max(1.0, float(np.abs(b).max())), f"{name} of {words}")


def _both_passes(twin: Any, q: Array, k: Array, v: Array, dout: Array, **options: Any) -> list[Array]:
    out, lse = twin.attention_forward(q, k, v, **options)
    extra = {}
    if "bias" in options:
        extra["dbias"] = np.zeros((*q.shape[:3], k.shape[2]), q.dtype)
    grads = twin.attention_backward(dout, q, k, v, out, lse, **options, **extra)
    return [out, lse, *grads, *extra.values()]


def _any_number_of_threads(tally: Tally) -> None:
    draws = tally.draws
    with threads_kept():
        for arrays, options, words in attention_calls(draws, 20):
            _same_for_all_threads(tally, partial(_both_passes, kernels, *arrays, **options), words)
        for rows, width, dtype in _shapes(draws, 26):
            x, dy, gain = (draws.normal(*s, dtype=dtype) for s in ((rows, width), (rows, width), (width,)))

            def norm(x: Array = x, dy: Array = dy, gain: Array = gain) -> list[Array]:
                y, inv_rms = kernels.rmsnorm_forward(x, gain)
                return [y, inv_rms, *kernels.rmsnorm_backward(dy, x, gain, inv_rms), *kernels.swiglu_backward(dy, x, y)]

            _same_for_all_threads(tally, norm, f"rmsnorm and SwiGLU {np.dtype(dtype)}({rows}, {width})")


def _same_for_all_threads(tally: Tally, work: Callable[[], list[Array]], words: str) -> None:
    results = []
    for threads in _THREADS:
        kernels.set_num_threads(threads)
        results.append(work())
    for threads, result in zip(_THREADS[1:], results[1:], strict=True):
        for found, expected in zip(result, results[0], strict=True):
            tally.same(found, expected, f"{words}, {threads} threads")


def _training_step(tally: Tally) -> None:
    """Three steps of a small model with dropout: weights and losses with 1, 2 and 3 threads."""
    config = TransformerConfig(d_model=24, heads=3, head_dim=8, d_ff=40, dropout=0.1)
    batch = inputs_and_targets(make_splits("cot", seed=1, train=64, validation=0, test=0).train)
    tables = Resonance(RoPE(8)).cos_sin(np.arange(batch.inputs.shape[1]))
    runs = []
    with threads_kept():
        for threads in (1, 2, 3):
            kernels.set_num_threads(threads)
            model = Transformer(config, seed=1)
            optimizer = optim.AdamW(model.flat_params.size)
            losses = [
                train_step(
                    model, optimizer, batch.inputs, batch.targets, batch.loss_mask, tables, 1e-3, 0.9, dropout_seed=step
                )
                for step in range(3)
            ]
            runs.append((np.array(losses), model.flat_params.copy()))
    for threads, (found, weights) in zip((2, 3), runs[1:], strict=True):
        tally.same(found, runs[0][0], f"losses with {threads} threads")
        tally.same(weights, runs[0][1], f"weights with {threads} threads")


CHECKS = [
    Check("twins", "rotate: C and NumPy, bit for bit", _rotate, True),
    Check("twins", "rotate_periodic: C, NumPy and rotate with dense tables, bit for bit", _rotate_periodic, True),
    Check("twins", "ReLU, dropout, embedding, cross-entropy's gradient: bit for bit", _elementwise, True),
    Check("twins", "AdamW: weights and moments, bit for bit", _adamw, True),
    Check("twins", "RMSNorm and embedding's gradient: within the rounding of their sums", _sums, True),
    Check("twins", "SwiGLU and cross-entropy: within their stated units of the last place", _swiglu_and_loss, True),
    Check("twins", "attention, forward and backward: within its error of NumPy in float64", _attention, True),
    Check("twins", "kernels: the same bits with 1, 2, 3 and 5 threads", _any_number_of_threads, True),
    Check("twins", "a training step: the same bits with 1, 2 and 3 threads", _training_step, True),
]
