"""Training and evaluation steps: their times beside their matrix products, and their memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import evaluate, posgen
from refrope.bench import torch_peers
from refrope.bench.cases import Case
from refrope.bench.timing import Task
from refrope.encodings import Resonance, RoPE, RotaryEncoding
from refrope.kernels import parts_at_once
from refrope.nn.configuration import TransformerConfig
from refrope.nn.optim import AdamW
from refrope.nn.transformer import Transformer
from refrope.settings import PRESETS
from refrope.train import train_step

SEQUENCES, LENGTH = 128, 64
# Losses of the first steps of both backends, which sum in different orders.
LOSS_BOUND = 2e-5
# Share of the predicted tokens that may differ, where two logits are equal but for rounding.
TOKEN_BOUND = 1e-3


def step_cases(preset: str, *, torch: bool) -> list[Case]:
    """A training step of 128 x 64 tokens: plain, with dropout, and with Resonance RoPE beside RoPE."""
    config = replace(PRESETS[preset].model, dropout=0.0)
    rope = RoPE(config.head_dim)
    repeats = 7 if preset == "paper" else None
    cases = []
    for name, model in (("no dropout", config), ("dropout 0.1", replace(config, dropout=0.1))):
        peers: dict[str, Task] = {"NumPy backend": refrope_step(model, rope, "numpy")}
        if torch:
            peers["PyTorch eager"] = torch_peers.training_step(model, batch_of())
            peers["torch.compile"] = torch_peers.training_step(model, batch_of(), compiled=True)
        case = Case(f"{preset}: step, {name}", refrope_step(model, rope, "c"), _same_losses(model), LOSS_BOUND)
        case.work, case.unit = products_flops(config, SEQUENCES * LENGTH), "GFLOP/s"
        case.floor = ("own matrix products", matrix_products(config, SEQUENCES * LENGTH))
        case.peers, case.repeats = peers, repeats
        cases.append(case)
    resonance = refrope_step(config, Resonance(rope), "c")
    case = Case(f"{preset}: step, Resonance RoPE", resonance, lambda: 0.0, 0.0, repeats=repeats)
    case.floor = ("the same with RoPE", refrope_step(config, rope, "c"))
    return [*cases, case]


def evaluation_case(preset: str, *, torch: bool) -> Case:
    """The most likely next tokens of 1,000 sequences of 256 tokens."""
    config = replace(PRESETS[preset].model, dropout=0.0)
    data = posgen.make_splits("cot", seed=1, train=1, validation=0, test=1_000)
    inputs = posgen.inputs_and_targets(data.test).inputs
    peers: dict[str, Task] = {"NumPy backend": evaluation(config, inputs, "numpy")}
    if torch:
        peers["PyTorch eager"] = torch_peers.evaluation(config, inputs)
    floor = matrix_products(config, inputs.size // 20, forward_only=True, times=20)
    few, few_twin = (evaluation(config, inputs[:20], backend) for backend in ("c", "numpy"))
    name, ours = f"{preset}: evaluation, 1000 x 256", evaluation(config, inputs, "c")
    case = Case(name, ours, lambda: float(np.mean(few() != few_twin())), TOKEN_BOUND)
    case.work, case.unit = products_flops(config, inputs.size) / 3, "GFLOP/s"
    case.floor, case.peers, case.repeats = ("own matrix products", floor), peers, 7
    return case


def batch_of() -> posgen.ModelArrays:
    """128 training sequences of 64 tokens."""
    return posgen.inputs_and_targets(posgen.make_splits("cot", seed=1, train=SEQUENCES, validation=0, test=0).train)


def refrope_step(config: TransformerConfig, encoding: RotaryEncoding, backend: str) -> Callable[[], float]:
    """A whole training step of ours; the callable returns its loss."""
    batch = batch_of()
    model = Transformer(config, seed=1, backend=backend)
    optimizer = AdamW(model.flat_params.size)
    tables = encoding.cos_sin(np.arange(batch.inputs.shape[1]))
    seed = 1 if config.dropout else None
    data = (batch.inputs, batch.targets, batch.loss_mask, tables)
    return lambda: train_step(model, optimizer, *data, 1e-3, 0.9, dropout_seed=seed)


def evaluation(config: TransformerConfig, inputs: npt.NDArray[Any], backend: str) -> Callable[[], npt.NDArray[Any]]:
    """The most likely next token at every position, by one of our backends."""
    model = Transformer(config, seed=1, backend=backend)
    tables = RoPE(config.head_dim).cos_sin(np.arange(inputs.shape[1]))
    return lambda: evaluate.predictions(model, inputs, tables)


def _same_losses(config: TransformerConfig) -> Callable[[], float]:
    """The largest relative difference of the losses of two steps between the backends."""

    def difference() -> float:
        ours, twin = (refrope_step(config, RoPE(config.head_dim), backend) for backend in ("c", "numpy"))
        return max(abs(ours() / twin() - 1) for _ in range(2))

    return difference


def layer_sizes(config: TransformerConfig) -> list[tuple[int, int]]:
    """(in, out) of every linear layer and of the head."""
    inner, keys = config.heads * config.head_dim, config.key_heads * config.head_dim
    halves = 2 if config.feed_forward == "swiglu" else 1
    layer = [
        (config.d_model, inner + 2 * keys),
        (inner, config.d_model),
        (config.d_model, halves * config.d_ff),
        (config.d_ff, config.d_model),
    ]
    return [*(layer * config.layers), (config.d_model, config.vocabulary)]


def products_flops(config: TransformerConfig, rows: int) -> float:
    """Floating-point operations of forward, dx and dW products."""
    return 6.0 * rows * sum(d_in * d_out for d_in, d_out in layer_sizes(config))


def matrix_products(config: TransformerConfig, rows: int, *, forward_only: bool = False, times: int = 1) -> Task:
    """Forward, dx and dW products of every linear layer and the head, into memory that is there already.

    They run as they would be written: one NumPy call each, on BLAS's own threads.
    """
    products = []
    for d_in, d_out in layer_sizes(config):
        x, weight, dy = (np.ones(shape, np.float32) for shape in ((rows, d_in), (d_in, d_out), (rows, d_out)))
        products.append((x, weight, np.empty_like(dy)))
        if not forward_only:
            products += [(dy, weight.T, np.empty_like(x)), (x.T, dy, np.empty_like(weight))]

    def run() -> None:
        for _ in range(times):
            for left, right, out in products:
                np.matmul(left, right, out=out)

    return run


def activation_bytes(config: TransformerConfig, rows: int) -> int:
    """What the backward pass of `rows` tokens in float32 reads of the forward pass.

    For each sublayer its input, that normalised, and 1 / rms; q, k, v, the mixed values and their log-sum-exp; the
    feed-forward's inside; at the end the same of the last norm, and the probabilities.
    """
    d, inner = config.d_model, config.heads * config.head_dim
    layer = (2 * d + 1 + 4 * inner + config.heads) + (2 * d + 1 + config.d_ff)
    return 4 * rows * (config.layers * layer + 2 * d + 1 + config.vocabulary)


def step_memory(preset: str) -> dict[str, int]:
    """Bytes of a training step of 128 x 64 tokens with dropout, as Python and NumPy allocate them.

    Returns
    -------
    dict
        ``weights``: the weights, their gradients for every part of the batch, and AdamW's moments;
        ``activations``: what the parts that are worked on at the same time must save for their backward passes;
        ``peak``: the most that was held at any time beside the weights.
    """
    config = replace(PRESETS[preset].model, dropout=0.1)
    batch = batch_of()
    parts = evaluate.sequence_parts(*batch.inputs.shape)
    tables = RoPE(config.head_dim).cos_sin(np.arange(LENGTH))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        model = Transformer(config, seed=1)
        optimizer = AdamW(model.flat_params.size)
        optimizer.gradients(len(parts))
        weights = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.reset_peak()
        for _ in range(2):
            train_step(
                *(model, optimizer, batch.inputs, batch.targets, batch.loss_mask, tables, 1e-3, 0.9), dropout_seed=1
            )
        peak = tracemalloc.get_traced_memory()[1] - before - weights
    finally:
        tracemalloc.stop()
    at_once = min(parts_at_once(), len(parts)) * (parts[0].stop - parts[0].start)
    return {"weights": weights, "activations": activation_bytes(config, at_once * LENGTH), "peak": peak}
