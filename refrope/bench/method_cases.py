"""Attention with each way of telling positions, beside plain attention: what biases, windows and maps cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refrope import kernels
from refrope.bench.cases import Case
from refrope.bench.kernel_cases import Array, normal
from refrope.kernels import single_blas_thread
from refrope.methods import METHODS, Lengths, configuration_of, encoding_of
from refrope.nn.attending import Attending, rotation_of
from refrope.nn.backends import NumpyOps
from refrope.nn.configuration import TransformerConfig, initial_weights

SHAPE = (8, 8, 256, 64)  # batch, heads, tokens, features
_TRAIN = 64
# float32 against float64 of unit normal inputs; weights of a bias sum over all pairs, and are taken relative to that.
_ROUNDING = 2e-5
_UNLIKE_ANY = ("rope", "resonance-rope", "yarn", "resonance-yarn", "sinusoidal", "learned")  # attention is the same


def method_cases() -> list[Case]:
    """Forward, and forward with backward, of one layer's attention: rotation, bias from its weights, their gradients.

    The floor of a map and of a window is RoPE's rotation with plain attention, that of a bias plain attention.
    """
    cases = []
    for name in METHODS:
        if name not in _UNLIKE_ANY:
            rotary = encoding_of(name, SHAPE[3], Lengths(_TRAIN, SHAPE[2])) is not None
            plain = "rope" if rotary else "nope"
            words = f"{'rotation and ' if rotary else ''}plain attention"
            for backward in (False, True):
                ours, floor = (_layer(n, SHAPE, backward) for n in (name, plain))
                title = f"{name}, forward{' and backward' if backward else ''}"
                cases.append(Case(title, ours, _error(name, backward), _ROUNDING, floor=(words, floor)))
    return cases


def _layer(
    name: str, shape: tuple[int, ...], backward: bool, ops: Any = kernels, dtype: Any = np.float32
) -> Callable[[], list[Array]]:
    """Attention of one layer under a method; the results of a call are overwritten by the next."""
    batch, heads, length, d = shape
    config = TransformerConfig(heads=heads, head_dim=d, d_model=32, layers=1)
    config = configuration_of(name, config, _TRAIN, length)
    views = config.views(initial_weights(config, 1, np.float64).astype(dtype))
    prefix = config.bias_prefix(0) if config.bias is not None else ""
    shapes = config.bias.shapes(heads) if config.bias is not None else {}
    weights = {key: views[f"{prefix}.{key}"] for key in shapes}
    rotation = rotation_of(encoding_of(name, d, Lengths(_TRAIN, length)), length, dtype)
    places = np.arange(length)
    attending = Attending(ops, rotation, config.bias, config.window, places, places).of_layer(0)
    source = [normal(batch, heads, length, d, seed=s).astype(dtype) for s in range(4)]
    out, grads = np.empty_like(source[0]), tuple(np.empty_like(x) for x in source[:3])
    qk, dqk = (np.empty((batch, 2 * heads, length, d), dtype) for _ in range(2))
    grads = (dqk[:, :heads], dqk[:, heads:], grads[2])
    weight_grads = {key: np.zeros_like(weight) for key, weight in weights.items()}
    settings = {"scale": d**-0.5}

    @single_blas_thread()  # as in a training step, where BLAS's own threads would wait for each other
    def run() -> list[Array]:
        qk[:, :heads], qk[:, heads:] = source[0], source[1]
        attending.turn(qk)
        q, k = qk[:, :heads], qk[:, heads:]
        saved = attending.forward(q, k, source[2], weights, settings, out)
        if not backward:
            return [saved.out, saved.lse]
        for gradient in weight_grads.values():
            gradient[...] = 0
        attending.backward(source[3], q, k, source[2], saved, weights, settings, grads, weight_grads)
        attending.turn(dqk, transpose=True)
        return [*grads, *weight_grads.values()]

    return run


def _error(name: str, backward: bool) -> Callable[[], float]:
    small = (2, 3, 130, 8)

    def error() -> float:
        fast = _layer(name, small, backward)()
        slow = _layer(name, small, backward, NumpyOps, np.float64)()
        errors = [np.abs(a - b).max() / max(1.0, np.abs(b).max()) for a, b in zip(fast, slow, strict=True)]
        return float(max(errors))

    return error
