"""Language models: 2,048 tokens beside the matrix products in them, a new token beside reading the weights once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.bench import torch_peers
from refrope.bench.cases import Case
from refrope.bench.step_cases import layer_sizes
from refrope.bench.timing import Task
from refrope.encodings import RoPE
from refrope.kernels.threads import run_ranges, single_blas_thread
from refrope.nn.configuration import TransformerConfig
from refrope.nn.memory import KVCache
from refrope.nn.transformer import Transformer
from refrope.randomness import bit_source, normal_numbers

Array = npt.NDArray[Any]

# The sizes of SmolLM2-135M (Allal et al. 2025, arXiv:2502.02737, and its config.json).
SIZES = TransformerConfig(
    vocabulary=49_152,
    d_model=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    d_ff=1_536,
    layers=30,
    feed_forward="swiglu",
    softmax_scale=None,
    head_scale=1.0,
)
BASE = 100_000.0
PROMPT, CHUNK = 2_048, 1_024  # `refrope lm` reads texts in such pieces, too
CONTEXT = 512  # tokens before the new one
CHECKED = 24  # tokens of which both backends' logits are compared
# Largest difference of a logit between the backends, over the largest logit: 30 layers of float32 sums.
LOGIT_BOUND = 2e-5


def lm_cases(*, torch: bool) -> list[Case]:
    """Prefill and decoding of a model with the sizes of SmolLM2-135M and random weights, in float32."""
    model = random_model(SIZES, "c")
    tokens = np.arange(PROMPT)[None] * 7_919 % SIZES.vocabulary
    peers: dict[str, Task] = {}
    if torch:
        try:
            peers["transformers"] = torch_peers.llama_prefill(SIZES, BASE, tokens)
        except ImportError:
            print("lm: without transformers, which is not installed here (pip install transformers)")
    prefill = Case(f"prefill, {PROMPT} tokens, all logits", reading(model, tokens, CHUNK), _checked(model), LOGIT_BOUND)
    prefill.work, prefill.unit = products_flops(SIZES, PROMPT), "GFLOP/s"
    prefill.floor, prefill.peers, prefill.repeats = ("own matrix products", matrix_products(SIZES, PROMPT)), peers, 5
    decode = Case(f"a token after {CONTEXT}", decoding(model, tokens[:, :CONTEXT]), _checked(model), LOGIT_BOUND)
    decode.work, decode.unit = float(model.flat_params.nbytes), "GB/s"
    decode.floor = ("reading the weights", weights_read(model.flat_params))
    return [prefill, decode]


def random_model(config: TransformerConfig, backend: str) -> Transformer:
    """Weights of the usual sizes without drawing a hundred million of them: some thousands, over and over."""
    model = Transformer(config, seed=None, backend=backend)
    few = normal_numbers(bit_source(1, "lm bench"), 99_991) * config.d_model**-0.5
    model.flat_params[...] = np.resize(few.astype(np.float32), model.flat_params.size)
    for name, weight in model.params.items():
        if name.endswith("gain"):
            weight[...] = 1
    return model


def reading(model: Transformer, tokens: Array, chunk: int) -> Callable[[], Array]:
    """The logits of all tokens of a text, which is read in chunks; the callable returns the last one's."""
    cos, sin = RoPE(model.config.head_dim, base=BASE).cos_sin(np.arange(tokens.shape[1]))
    cache = KVCache(model.config, 1, tokens.shape[1])

    def run() -> Array:
        cache.length = 0
        for start in range(0, tokens.shape[1], chunk):
            piece = slice(start, start + chunk)
            with single_blas_thread():
                logits = model.forward(tokens[:, piece], (cos[piece], sin[piece]), cache=cache)
        last: Array = logits[0, -1]
        return last

    return run


def decoding(model: Transformer, tokens: Array) -> Callable[[], Array]:
    """The logits after one more token than `tokens`, always the same one."""
    length = tokens.shape[1]
    cos, sin = RoPE(model.config.head_dim, base=BASE).cos_sin(np.arange(length + 1))
    cache = KVCache(model.config, 1, length + 1)
    model.forward(tokens, (cos[:length], sin[:length]), cache=cache, last=0)

    def run() -> Array:
        cache.length = length
        last: Array = model.forward(tokens[:, -1:], (cos[length:], sin[length:]), cache=cache)[0, -1]
        return last

    return run


def _checked(model: Transformer) -> Callable[[], float]:
    """How far the last logits of a text lie from those of the NumPy backend, read as a whole and token by token."""

    def difference() -> float:
        twin = Transformer(model.config, seed=None, backend="numpy")
        twin.flat_params[...] = model.flat_params
        tokens = np.arange(CHECKED)[None] * 31 % model.config.vocabulary
        right = reading(twin, tokens, CHECKED)().copy()
        found = (reading(model, tokens, chunk)().copy() for chunk in (CHECKED, 1))
        return max(float(np.abs(logits - right).max() / np.abs(right).max()) for logits in found)

    return difference


# ---- what cannot be left out ----


def products_flops(config: TransformerConfig, rows: int) -> float:
    """Operations of the linear layers and the head, and of attention's two products for causal pairs alone."""
    linear = 2.0 * rows * sum(d_in * d_out for d_in, d_out in layer_sizes(config))
    return linear + 2.0 * rows * (rows + 1) * config.heads * config.head_dim * config.layers


def matrix_products(config: TransformerConfig, rows: int, block: int = 256) -> Task:
    """The products of one text, into memory that is there already, one NumPy call each, on BLAS's own threads.

    Attention's are those of each `block` of queries with the keys up to its end.
    """
    linear = []
    for d_in, d_out in dict.fromkeys(layer_sizes(config)):
        x, weight = np.ones((rows, d_in), np.float32), np.ones((d_in, d_out), np.float32)
        linear.append((x, weight, np.empty((rows, d_out), np.float32)))
    layers, head = linear[:-1], linear[-1]
    q, k, mixed = (np.ones((rows, config.head_dim), np.float32) for _ in range(3))
    scores = np.ones((block, rows), np.float32)

    def run() -> None:
        for _ in range(config.layers):
            for x, weight, out in layers:
                np.matmul(x, weight, out=out)
            for _ in range(config.heads):
                for start in range(0, rows, block):
                    end = min(start + block, rows)
                    some = scores[: end - start, :end]
                    np.matmul(q[start:end], k[:end].T, out=some)
                    np.matmul(some, k[:end], out=mixed[start:end])
        x, weight, out = head
        np.matmul(x, weight, out=out)

    return run


def weights_read(weights: Array) -> Task:
    """Every number read once, on as many threads as the kernels have: the sums of squares of equal shares."""

    def read(first: int, last: int) -> int:
        np.dot(weights[first:last], weights[first:last])
        return 0

    @single_blas_thread()
    def run() -> None:
        run_ranges(read, weights.size)

    return run
