"""Backward passes against differences of their forward passes, along random directions in float64, in both backends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from refrope import kernels
from refrope.encodings import Resonance, RoPE, YaRN
from refrope.nn.backends import operations
from refrope.nn.configuration import TransformerConfig
from refrope.nn.gradcheck import gradient_error
from refrope.nn.transformer import Transformer
from refrope.verify.tally import Array, Check, Tally

# Five-point differences in float64: truncation of about step^4 = 1e-12, rounding of about 1e-16 / 1e-3, on sums of
# hundreds of terms; relative to the gradient's length.
GRADIENT = 1e-7
_ROUNDS = 5
# In a model, steps as short as this leave every ReLU on its side of the kink, whose inputs lie further than the margin.
MODEL_STEP, MARGIN = 1e-5, 5e-4

Case = tuple[Callable[[Any], float], dict[str, Array], dict[str, Array]]  # loss, inputs, gradients


def check_gradients(
    tally: Tally, name: str, case: Case, *, step: float = 1e-3, least: float = 0.0, directions: int = 3
) -> None:
    """Every gradient of a case against differences along random directions.

    The error is relative to the gradient's length, or to `least` where that is more.
    """
    loss, inputs, gradients = case
    for key, gradient in gradients.items():
        seed = int(tally.draws.integers(0, 2**31, 1)[0])
        error = gradient_error(loss, inputs, {key: gradient}, directions=directions, step=step, seed=seed)
        length = max(float(np.linalg.norm(gradient)), 1e-300)
        tally.within(error * length / max(length, least), 0.0, GRADIENT, f"{name}: gradient of {key}")


def _layers(backend: str) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        for _ in range(_ROUNDS):
            for name, make in _LAYERS.items():
                check_gradients(tally, name, make(operations(backend), tally.draws))

    return run


def _rotate(ops: Any, draws: Any) -> Case:
    x, dy = draws.normal(2, 3, 7, 10), draws.normal(2, 3, 7, 10)
    encoding = draws.pick([RoPE(6), Resonance(RoPE(10)), YaRN(10, factor=4.0, original_length=64)])
    tables = encoding.cos_sin(draws.integers(0, 2**20, 7), np.float64)
    layout = draws.pick(["half", "interleaved"])
    dx = ops.rotate(dy, *tables, layout=layout, transpose=True)
    return lambda p: float(np.sum(ops.rotate(p["x"], *tables, layout=layout) * dy)), {"x": x}, {"x": dx}


def _rmsnorm(ops: Any, draws: Any) -> Case:
    x, gain, dy = draws.normal(7, 13), draws.normal(13), draws.normal(7, 13)
    dx, dgain = ops.rmsnorm_backward(dy, x, gain, ops.rmsnorm_forward(x, gain)[1])
    inputs = {"x": x, "gain": gain}
    return (lambda p: float(np.sum(ops.rmsnorm_forward(p["x"], p["gain"])[0] * dy))), inputs, {"x": dx, "gain": dgain}


def _linear(ops: Any, draws: Any) -> Case:
    x, weight, dy = draws.normal(7, 5), draws.normal(5, 11), draws.normal(7, 11)
    dx, dweight = ops.linear_backward(dy, x, weight)
    return (
        (lambda p: float(np.sum(ops.linear_forward(p["x"], p["weight"]) * dy))),
        {"x": x, "weight": weight},
        {"x": dx, "weight": dweight},
    )


def _relu(ops: Any, draws: Any) -> Case:
    x, dy = draws.normal(7, 13), draws.normal(7, 13)
    x[np.abs(x) < 0.01] = 1.0  # stay away from the kink
    dx = ops.relu_backward(dy, ops.relu_forward(x))
    return lambda p: float(np.sum(ops.relu_forward(p["x"]) * dy)), {"x": x}, {"x": dx}


def _swiglu(ops: Any, draws: Any) -> Case:
    gate, up, dy = draws.normal(5, 11), draws.normal(5, 11), draws.normal(5, 11)
    dgate, dup = ops.swiglu_backward(dy, gate, up)
    return (
        (lambda p: float(np.sum(ops.swiglu_forward(p["gate"], p["up"]) * dy))),
        {"gate": gate, "up": up},
        {"gate": dgate, "up": dup},
    )


def _cross_entropy(ops: Any, draws: Any) -> Case:
    logits, targets, weights = 3 * draws.normal(7, 5), draws.integers(0, 5, 7), draws.integers(0, 3, 7).astype(float)
    weights[0] = 1.0
    probabilities = ops.cross_entropy_forward(logits, targets, weights)[1]
    dlogits = ops.cross_entropy_backward(probabilities, targets, weights)
    return (
        (lambda p: float(ops.cross_entropy_forward(p["logits"], targets, weights)[0])),
        {"logits": logits},
        {"logits": dlogits},
    )


def _embedding(ops: Any, draws: Any) -> Case:
    table, tokens, dy = draws.normal(5, 3), draws.integers(0, 5, 13), draws.normal(13, 3)
    dtable = np.zeros_like(table)
    ops.embedding_backward(dy, tokens, dtable)
    return (
        (lambda p: float(np.sum(ops.embedding_forward(tokens, p["table"]) * dy))),
        {"table": table},
        {"table": dtable},
    )


def _dropout(ops: Any, draws: Any) -> Case:
    x, dy, seed = draws.normal(7, 13), draws.normal(7, 13), int(draws.integers(0, 2**63, 1)[0])
    return (lambda p: float(np.sum(ops.dropout(p["x"], 0.3, seed) * dy))), {"x": x}, {"x": ops.dropout(dy, 0.3, seed)}


def _attention(ops: Any, draws: Any) -> Case:
    """Grouped queries, more keys than queries, a bias for every pair, and dropout on or off."""
    n_q, n_k = draws.pick([(5, 7), (17, 17), (67, 71)])
    q, k, v, dout = (draws.normal(2, h, n, 11) for h, n in ((6, n_q), (3, n_k), (3, n_k), (6, n_q)))
    bias = draws.normal(2, 6, n_q, n_k)
    options = {"causal": draws.pick([True, False]), "dropout": draws.pick([0.0, 0.3]), "seed": 77, "scale": 0.31}
    out, lse = ops.attention_forward(q, k, v, bias=bias, **options)
    dbias = np.zeros_like(bias)
    dq, dk, dv = ops.attention_backward(dout, q, k, v, out, lse, bias=bias, dbias=dbias, **options)

    def loss(p: Any) -> float:
        return float(np.sum(ops.attention_forward(p["q"], p["k"], p["v"], bias=p["bias"], **options)[0] * dout))

    return loss, {"q": q, "k": k, "v": v, "bias": bias}, {"q": dq, "k": dk, "v": dv, "bias": dbias}


_LAYERS: dict[str, Callable[[Any, Any], Case]] = {
    "rotate": _rotate,
    "rmsnorm": _rmsnorm,
    "linear": _linear,
    "relu": _relu,
    "swiglu": _swiglu,
    "cross-entropy": _cross_entropy,
    "embedding": _embedding,
    "dropout": _dropout,
    "attention": _attention,
}
_SIZES = TransformerConfig(vocabulary=11, d_model=10, heads=3, head_dim=6, d_ff=14, layers=2)
_LLAMA = {"kv_heads": 1, "feed_forward": "swiglu", "tied": False, "head_scale": 1.0, "softmax_scale": None}
_KINDS: dict[str, dict[str, Any]] = {"dropout 0.0": {}, "dropout 0.2": {"dropout": 0.2}, "as Llama's": _LLAMA}


def _model(backend: str) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        draws, tables = tally.draws, Resonance(RoPE(6)).cos_sin(np.arange(7), np.float64)
        for name, kind in _KINDS.items():
            config = replace(_SIZES, **kind)
            model = Transformer(config, seed=1, backend=backend, dtype=np.float64)
            seed = 5 if config.dropout else None
            tokens = draws.integers(0, 11, 2, 7)
            while nearest_kink(model, tokens, tables, seed) < MARGIN:
                tokens = draws.integers(0, 11, 2, 7)
            case = model_case(model, tokens, tables, draws, seed)
            check_gradients(tally, f"model, {name}", case, step=MODEL_STEP)

    return run


def model_case(model: Transformer, tokens: Array, tables: Any, draws: Any, seed: int | None = None) -> Case:
    """Every weight of a whole model, from tokens to the loss of random targets, of which every third does not count."""
    targets, weights = draws.integers(0, model.config.vocabulary, tokens.size), np.arange(tokens.size) % 3.0
    start = {name: value.copy() for name, value in model.params.items()}

    def forward(**options: Any) -> Any:
        logits = model.forward(tokens, tables, dropout_seed=seed, **options)
        return model.ops.cross_entropy_forward(logits.reshape(tokens.size, -1), targets, weights)

    def loss(params: Any) -> float:
        for name, value in params.items():
            model.params[name][...] = value
        return float(forward()[0])

    _, probabilities = forward(keep=True)
    gradients = model.backward(model.ops.cross_entropy_backward(probabilities, targets, weights))
    return loss, start, {name: value.copy() for name, value in gradients.items()}


def nearest_kink(model: Transformer, tokens: Array, tables: Any, seed: int | None) -> float:
    """The smallest distance of a ReLU's input from 0; infinite where there is none."""
    model.forward(tokens, tables, dropout_seed=seed, keep=True)
    if model.config.feed_forward != "relu":
        return math.inf
    names = [f"layers.{i}.feed_forward" for i in range(model.config.layers)]
    inputs = [model._saved[name][1] @ model.params[f"{name}.in"] for name in names]
    return float(min(np.abs(x).min() for x in inputs))


def _wrong_gradients_are_refused(tally: Tally) -> None:
    """The check itself: a gradient that is off by a tenth of a per cent, moved by one place, or NaN."""
    ops, draws = operations("c" if kernels.available() else "numpy"), tally.draws
    for name, make in _LAYERS.items():
        loss, inputs, gradients = make(ops, draws)
        for key, right in gradients.items():
            for how, wrong in (
                ("x 1.001", 1.001 * right),
                ("one place on", np.roll(right, 1)),
                ("NaN", right * np.nan),
            ):
                error = gradient_error(loss, inputs, {key: wrong})
                tally.true(error > 10 * GRADIENT, f"{name}: gradient of {key} {how} is refused")


CHECKS = [
    Check("gradients", "every layer's gradients are those of differences (NumPy)", _layers("numpy")),
    Check("gradients", "every layer's gradients are those of differences (C)", _layers("c"), True),
    Check("gradients", "every weight's gradient in a whole model is that of differences (NumPy)", _model("numpy")),
    Check("gradients", "every weight's gradient in a whole model is that of differences (C)", _model("c"), True),
    Check("gradients", "gradients that are wrong by 0.1 % or out of place are refused", _wrong_gradients_are_refused),
]
