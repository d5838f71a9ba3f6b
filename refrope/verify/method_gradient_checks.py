"""Backward passes of every position method against differences: in attention alone, and in whole small models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from refrope import kernels
from refrope.encodings import RoPE, YaRN
from refrope.encodings.position_map import PositionMap
from refrope.encodings.remap import STRING, DualChunk, LeakyReRoPE, ReRoPE, SelfExtend
from refrope.methods import METHODS, Lengths, configuration_of, encoding_of
from refrope.nn.attending import Attending, Saved, rotation_of
from refrope.nn.backends import operations
from refrope.nn.biases import ALiBi, Bias, Kerple, T5Bias
from refrope.nn.configuration import TransformerConfig
from refrope.nn.dape import DAPE
from refrope.nn.fire import FIRE
from refrope.nn.transformer import Transformer
from refrope.randomness import bit_source
from refrope.verify.gradient_checks import (
    MARGIN,
    MODEL_STEP,
    Case,
    check_gradients,
    model_case,
    nearest_kink,
)
from refrope.verify.tally import Array, Check, Draws, Tally
from refrope.verify.twin_checks import threads_kept

_T = TypeVar("_T")

# Over the short steps that meet no kink, rounding of a loss of 1 to 100 makes errors of up to 5e-10, which is GRADIENT
# of 5e-3. Some gradients are shorter, and those of numbers added to the scores of all keys alike are 0, since softmax
# does not see them.
_LEAST = 0.02
_TRIES = 500  # random inputs of which one lies far enough from all kinks; one in 20 does with FIRE, of others more
_HEADS, _HEAD_DIM, _WIDTH = 3, 6, 5
_TOKENS, _TRAINED = 13, 9  # every map and the window change something


# ---- attention alone ----


def _windows(backend: str) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        for n_q, n_k, window in ((5, 7, 3), (13, 13, 4), (67, 71, 5), (67, 71, 66)):
            case, _ = _attention_case(backend, tally.draws, n_q, n_k, kv_heads=1, window=window)
            check_gradients(tally, f"q {n_q}, k {n_k}, window {window}", case)

    return run


def _maps(backend: str) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        for encoding in (RoPE(_HEAD_DIM, 100.0), YaRN(_HEAD_DIM, 100.0, 4.0, original_length=8)):
            maps: list[PositionMap] = [
                *(ReRoPE(encoding, 5), ReRoPE(encoding, 5, log_length=4), LeakyReRoPE(encoding, 5, 3.5)),
                *(SelfExtend(encoding, 7, 3), SelfExtend(encoding, 7, 3, "fraction"), DualChunk(encoding, 6, 2)),
                *(STRING(encoding, 7, 3), STRING(encoding, 7, 3, overlap=True)),
            ]
            for position_map in maps:
                heads = tally.draws.pick([1, _HEADS])
                case, _ = _attention_case(
                    backend, tally.draws, _TOKENS, _TOKENS, kv_heads=heads, position_map=position_map
                )
                check_gradients(tally, str(position_map), case)

    return run


def _biases(backend: str) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        biases: list[Bias | DAPE] = [
            ALiBi(),
            T5Bias(num_buckets=8, max_distance=11),
            Kerple(),
            Kerple("power"),
            FIRE(_WIDTH, 4.5),
        ]
        mixed: list[Bias | DAPE] = [
            *(DAPE(Kerple(), _WIDTH), DAPE(FIRE(_WIDTH, 4.5, 0.01), _WIDTH, kernel=3)),
            *(DAPE(ALiBi(), _WIDTH, kernel=3, edge="padded"), DAPE(T5Bias(8, 11), _WIDTH, kernel=3)),
        ]
        for bias in (*biases, *mixed):
            for n_q, n_k in ((11, 11), (5, 11)):
                case = _far_from_kinks(_cases_with_bias(backend, tally.draws, n_q, n_k, bias))
                step = MODEL_STEP if isinstance(bias, (FIRE, DAPE)) else 1e-3
                check_gradients(tally, f"{bias}, q {n_q}, k {n_k}", case, step=step, least=_LEAST)

    return run


def _cases_with_bias(backend: str, draws: Draws, n_q: int, n_k: int, bias: Bias | DAPE) -> Iterator[tuple[Case, float]]:
    while True:
        yield _attention_case(backend, draws, n_q, n_k, bias=bias)


def _attention_case(
    backend: str,
    draws: Draws,
    n_q: int,
    n_k: int,
    *,
    kv_heads: int = _HEADS,
    position_map: PositionMap | None = None,
    bias: Bias | DAPE | None = None,
    window: int | None = None,
) -> tuple[Case, float]:
    """Attention as a layer has it, its queries, keys and values and the weights of its bias; the nearest kink."""
    passes = None if position_map is None else position_map.tables(n_k, np.float64)
    keys = np.arange(n_k)
    attending = Attending(operations(backend), passes, bias, window, keys[n_k - n_q :], keys)
    shapes = ((_HEADS, n_q), (kv_heads, n_k), (kv_heads, n_k), (_HEADS, n_q))
    q, k, v, dout = (draws.normal(2, h, n, _HEAD_DIM) for h, n in shapes)
    weights = {} if bias is None else _weights(bias, draws)
    settings = {"scale": 0.31, "dropout": draws.pick([0.0, 0.3]), "seed": 77}

    def forward(p: Any) -> Saved:
        return attending.forward(p["q"], p["k"], p["v"], p, settings, np.empty_like(q))

    inputs = {"q": q, "k": k, "v": v, **weights}
    saved = forward(inputs)
    grads = tuple(np.empty_like(x) for x in (q, k, v))
    weight_grads = {name: np.zeros_like(weight) for name, weight in weights.items()}
    attending.backward(dout, q, k, v, saved, weights, settings, grads, weight_grads)  # type: ignore[arg-type]
    gradients = {**dict(zip("qkv", grads, strict=True)), **weight_grads}
    kink = math.inf if bias is None else _nearest_kink_of_bias(bias, weights, attending, saved)
    return (lambda p: float(np.sum(forward(p).out * dout)), inputs, gradients), kink


def _weights(bias: Bias | DAPE, draws: Draws) -> dict[str, Array]:
    return _differentiable(bias.initial(_HEADS, bit_source(int(draws.integers(0, 2**31, 1)[0]), "verify weights")))


def _differentiable(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Weights of the same names, at which gradients are those of differences, and not 0 by chance.

    Kerple's are away from the bounds beyond which their gradient is that at the bound. Each unit of FIRE's hidden layer
    has its kink within the range of its inputs: else its bias moves all scores alike.
    """
    moved = {}
    for name, weight in weights.items():
        if name.endswith("in.bias") and "mix." not in name:
            moved[name] = -weights[name.removesuffix("bias") + "weight"] * (0.5 + 0.3 * weight)
        else:
            moved[name] = np.clip(weight, 0.1, 1.9) if name.split(".")[-1] in ("p", "a") else weight
    return moved


# ---- kinks ----


def _far_from_kinks(cases: Iterator[tuple[_T, float]]) -> _T:
    """The first of what comes with its nearest kink, whose ReLUs all stay on their side of the kink over the steps."""
    for _ in range(_TRIES):
        case, kink = next(cases)
        if not kink < MARGIN:  # NaN goes on, for its gradient to be refused
            return case
    raise ValueError(f"none of {_TRIES} random inputs is {MARGIN} from every kink")


def _nearest_kink_of_bias(bias: Bias | DAPE, weights: dict[str, Array], attending: Attending, saved: Saved) -> float:
    """The smallest distance from 0 of what a ReLU in the bias is given."""
    inside, hidden = (bias.bias if isinstance(bias, DAPE) else bias), []
    if isinstance(inside, FIRE):
        queries = attending.queries[:, None]
        away = np.maximum(queries - attending.keys, 0)
        hidden += [inside._hidden(weights, part.x) for _, part in inside._blocks("forward", weights, away, queries)]
    if isinstance(bias, DAPE):
        scores, values = saved.mixed
        hidden += [bias._hidden(weights, scores, values, block)[2] for block in bias._blocks(scores.shape)]
    return float(min((np.abs(x).min() for x in hidden), default=math.inf))


# ---- whole models ----


def _models(backend: str) -> Callable[[Tally], None]:
    def run(tally: Tally) -> None:
        for name in METHODS:
            case = _far_from_kinks(_model_cases(name, backend, tally.draws))()
            check_gradients(tally, f"model with {name}", case, step=MODEL_STEP, least=_LEAST, directions=1)

    return run


def _model_cases(name: str, backend: str, draws: Draws) -> Iterator[tuple[Callable[[], Case], float]]:
    sizes = TransformerConfig(vocabulary=11, d_model=10, heads=_HEADS, head_dim=_HEAD_DIM, d_ff=14, layers=2)
    config = configuration_of(name, sizes, _TRAINED, _TOKENS)
    if isinstance(config.bias, (FIRE, DAPE)):
        config = replace(config, bias=replace(config.bias, width=_WIDTH))
    rotation = rotation_of(encoding_of(name, _HEAD_DIM, Lengths(_TRAINED, _TOKENS)), _TOKENS, np.float64)
    while True:
        model = Transformer(config, seed=int(draws.integers(0, 2**31, 1)[0]), backend=backend, dtype=np.float64)
        for key, weight in _differentiable(model.params).items():
            model.params[key][...] = weight
        tokens = draws.integers(0, sizes.vocabulary, 2, _TOKENS)
        kink = nearest_kink(model, tokens, rotation, None)
        for i in range(config.layers):
            attended = model._saved[f"layers.{i}.attention"][-1]
            if isinstance(config.bias, (Bias, DAPE)):
                weights = model._bias_weights(model.params, i)
                kink = min(kink, _nearest_kink_of_bias(config.bias, weights, model._saved["attending"], attended))
        yield partial(model_case, model, tokens, rotation, draws), kink


def _on_one_thread(check: Callable[[Tally], None]) -> Callable[[Tally], None]:
    """Threads change no bit, which "twins" checks; at these sizes handing out the work takes longer than the work."""

    def run(tally: Tally) -> None:
        with threads_kept():
            kernels.set_num_threads(1)
            check(tally)

    return run


GRADIENT_CHECKS = [
    check
    for of, make in (
        ("of attention in a window", _windows),
        ("of attention by every map", _maps),
        ("of every bias's weights, and of attention with it,", _biases),
        ("of every weight of a model of each method", _models),
    )
    for check in (
        Check("methods", f"gradients {of} are those of differences (NumPy)", make("numpy")),
        Check("methods", f"gradients {of} are those of differences (C)", _on_one_thread(make("c")), True),
    )
]
