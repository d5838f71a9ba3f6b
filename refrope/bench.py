"""``refrope bench``: how long a training step takes, beside the least that it could take and beside PyTorch.

Everything that is compared runs in turns within one process, and medians and ratios are printed: on a machine with
other work the times of one run differ from those of the next, their ratios much less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from refrope import kernels, posgen
from refrope.encodings import Resonance, RoPE, RotaryEncoding
from refrope.errors import check_integer, check_name
from refrope.experiment import PRESETS
from refrope.nn.optim import AdamW
from refrope.nn.transformer import Transformer, TransformerConfig
from refrope.report import format_table
from refrope.train import train_step

Task = Callable[[], object]


def add_command(commands: Any) -> None:
    """Add ``bench`` to the command line."""
    parser = commands.add_parser(
        "bench",
        help="time a training step: against its own matrix products, Resonance against RoPE, and PyTorch if installed",
        description="Time a training step of 128 x 64 tokens against the matrix products in it alone, with RoPE and "
        "with Resonance RoPE, and against PyTorch (eager) on the same model where it is installed. In turns; medians.",
    )
    parser.add_argument("--preset", default="tiny", metavar="NAME", help=f"{', '.join(PRESETS)} (default tiny)")
    parser.add_argument("--repeats", type=int, default=30, metavar="N", help="rounds after one to warm up (default 30)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of the kernels, BLAS and PyTorch (default: all cores)"
    )
    parser.add_argument("--backend", default="c", metavar="NAME", help="c (default) or numpy")
    parser.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> int:
    """``refrope bench``."""
    check_name("bench", "preset", options.preset, PRESETS)
    repeats = check_integer("bench", "repeats", options.repeats, 1)
    config = PRESETS[options.preset].model
    resonance = Resonance(RoPE(config.head_dim))
    tasks: dict[str, Task] = {
        "its matrix products alone": matrix_products(config, rows=128 * 64),
        "step, RoPE": refrope_step(config, RoPE(config.head_dim), options.backend),
        "step, Resonance RoPE": refrope_step(config, resonance, options.backend),
    }
    notes = []
    try:
        tasks["step, PyTorch eager"] = torch_step(config)
    except ImportError:
        notes.append("PyTorch is not installed here: not compared.")
    seconds = interleaved(tasks, repeats)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    floor, ours = medians["its matrix products alone"], medians["step, RoPE"]
    rows = [("batch 128 x 64 tokens", "median ms", "quartiles ms", "to products", "to RoPE step")]
    for name, times in seconds.items():
        low, high = 1000 * np.quantile(times, [0.25, 0.75])
        rows.append(
            (
                name,
                f"{1000 * medians[name]:.1f}",
                f"{low:.1f} - {high:.1f}",
                f"{medians[name] / floor:.3f}",
                f"{medians[name] / ours:.3f}",
            )
        )
    print(f"preset {options.preset}, backend {options.backend}, {kernels.get_num_threads()} threads, {repeats} rounds")
    print(format_table(rows, left=1))
    tables = RoPE(config.head_dim).cos_sin(np.arange(256))
    periodic = resonance.cos_sin(np.arange(256))
    notes.append(
        f"Tables for 256 positions, cos and sin: RoPE {sum(t.nbytes for t in tables)} bytes, "
        f"Resonance RoPE {sum(t.nbytes for t in periodic)} bytes."
    )
    print("\n".join(notes))
    return 0


def interleaved(tasks: dict[str, Task], repeats: int) -> dict[str, list[float]]:
    """Seconds of each task in each round; the first round is not counted.

    In its turn a task runs twice and the second time counts: as in a training, its data are in the caches, and threads
    of the task before no longer spin on a core.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(repeats + 1):
        for name, task in tasks.items():
            task()
            began = time.perf_counter()
            task()
            if round_number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def batch_of(config: TransformerConfig) -> posgen.ModelArrays:
    """128 training sequences of 64 tokens."""
    data = posgen.make_splits("cot", seed=1, train=128, validation=0, test=0)
    return posgen.inputs_and_targets(data.train)


def refrope_step(config: TransformerConfig, encoding: RotaryEncoding, backend: str) -> Task:
    """A whole training step of ours."""
    batch = batch_of(config)
    model = Transformer(config, seed=1, backend=backend)
    optimizer = AdamW(model.flat_params.size)
    tables = encoding.cos_sin(np.arange(batch.inputs.shape[1]))
    seed = 1 if config.dropout else None
    data = (batch.inputs, batch.targets, batch.loss_mask, tables)
    return lambda: train_step(model, optimizer, *data, 1e-3, 0.9, dropout_seed=seed)


def matrix_products(config: TransformerConfig, rows: int) -> Task:
    """The step's forward, dx and dW products of every linear layer and the head, into memory that is there already."""
    inner = config.heads * config.head_dim
    layer = [
        (config.d_model, 3 * inner),
        (inner, config.d_model),
        (config.d_model, config.d_ff),
        (config.d_ff, config.d_model),
    ]
    products = []
    for d_in, d_out in [*(layer * config.layers), (config.d_model, config.vocabulary)]:
        x, weight, dy = (np.ones(shape, np.float32) for shape in ((rows, d_in), (d_in, d_out), (rows, d_out)))
        y, dx, dweight = np.empty_like(dy), np.empty_like(x), np.empty_like(weight)
        products += [(x, weight, y), (dy, weight.T, dx), (x.T, dy, dweight)]

    def run() -> None:
        for left, right, out in products:
            np.matmul(left, right, out=out)

    return run


def torch_step(config: TransformerConfig) -> Task:
    """The same step in PyTorch, eager, with its fused attention, its RMSNorm and its AdamW.

    Raises
    ------
    ImportError
        torch is not installed.
    """
    import torch
    from torch.nn import functional

    torch.set_num_threads(kernels.get_num_threads())
    ours = Transformer(config, seed=1, backend="numpy")
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in ours.params.items()}
    optimizer = torch.optim.AdamW(params.values(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
    batch = batch_of(config)
    inputs, targets = torch.tensor(batch.inputs), torch.tensor(batch.targets)
    mask = torch.tensor(batch.loss_mask)
    length = inputs.shape[1]
    cos, sin = (torch.tensor(np.tile(t, 2)) for t in RoPE(config.head_dim).cos_sin(np.arange(length)))
    drop = config.dropout

    def rotate(x: Any) -> Any:
        half = config.head_dim // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin

    def norm(x: Any, gain: str) -> Any:
        return functional.rms_norm(x, (config.d_model,), params[gain], config.eps)

    def forward() -> Any:
        x = functional.dropout(functional.embedding(inputs, params["embedding"]), drop)
        for i in range(config.layers):
            p = f"layers.{i}"
            qkv = norm(x, f"{p}.attention.gain") @ params[f"{p}.attention.qkv"]
            q, k, v = qkv.view(len(x), length, 3, config.heads, config.head_dim).permute(2, 0, 3, 1, 4)
            o = functional.scaled_dot_product_attention(
                rotate(q), rotate(k), v, dropout_p=drop, is_causal=True, scale=config.softmax_scale
            )
            o = o.transpose(1, 2).reshape(len(x), length, -1)
            x = x + functional.dropout(o @ params[f"{p}.attention.out"], drop)
            h = functional.relu(norm(x, f"{p}.feed_forward.gain") @ params[f"{p}.feed_forward.in"])
            x = x + functional.dropout(functional.dropout(h, drop) @ params[f"{p}.feed_forward.out"], drop)
        y = functional.dropout(norm(x, "final.gain"), drop)
        return (y * config.d_model**-0.5) @ params["embedding"].T

    def step() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(forward()[:, mask].flatten(0, 1), targets[:, mask].flatten())
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
