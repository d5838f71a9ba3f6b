"""Memory and disk that fine-tuning takes, worked out from sizes and said before anything begins.

weights, gradients, two moments, activations ──► memory of a process
weights and moments ──► a checkpoint ──► room on the disk
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from refrope import checkpoint
from refrope.lm.finetuning.runs import Run
from refrope.lm.finetuning.settings import WHO, FinetuneSettings
from refrope.lm.training.losses import CHUNK
from refrope.nn.configuration import TransformerConfig
from refrope.nn.memory import available_memory
from refrope.sweep.running import directory_of
from refrope.train_step import gradients_kept, trained_spans

FLOAT = 4  # bytes; weights are float32
PROGRAM = 300 * 2**20  # bytes of a process beside its models: Python, NumPy, tokens of the texts
GIB = 2**30


class Needs(NamedTuple):
    """Bytes.

    Attributes
    ----------
    weights : int
        Of a model, in memory and as they are stored.
    checkpoint : int
        Of a training between two steps, on the disk: weights that train, and their moments.
    memory : int
        Of a process with one run in work.
    """

    weights: int
    checkpoint: int
    memory: int


def trained_weights(settings: FinetuneSettings, config: TransformerConfig) -> int:
    """How many weights train."""
    spans = trained_spans(config.shapes(), settings.plan(config).frozen)
    return sum(span.stop - span.start for span in spans)


def needs_of(settings: FinetuneSettings, config: TransformerConfig, threads: int) -> Needs:
    """What a run takes, in a process of so many threads.

    Training holds weights, the gradients of as many windows as `refrope.train_step` keeps apart, both moments of what
    trains, and on each thread the activations of a window; tests have a cache of the longest window on each thread.
    """
    size, trained = FLOAT * config.size(), FLOAT * trained_weights(settings, config)
    at_once = min(threads, settings.batch_size)
    states = gradients_kept(settings.batch_size, size, threads) * size + 2 * trained
    tests = min(threads, settings.windows) * _test(config, settings.longest)
    memory = size + at_once * _activations(config, settings.length) + max(states, tests) + PROGRAM
    return Needs(size, 3 * trained, memory)


def _activations(config: TransformerConfig, tokens: int) -> int:
    """What the forward pass keeps for the backward pass of a window, its logits among it."""
    c = config
    inner, keys = c.heads * c.head_dim, c.key_heads * c.head_dim
    wide = (3 if c.feed_forward == "swiglu" else 1) * c.d_ff
    # Of a layer: norm and result of both sublayers, q k v, heads, hidden features; log sum exp and two scales.
    layer = 4 * c.d_model + 2 * inner + 2 * keys + wide + c.heads + 2
    scratch = max(c.d_ff, 2 * inner + 2 * keys)
    return FLOAT * tokens * (c.layers * layer + 4 * c.d_model + scratch + c.vocabulary)


def _test(config: TransformerConfig, length: int) -> int:
    """Keys and values of a window, and the logits of a piece of it with a copy of them."""
    cache = 2 * config.layers * config.key_heads * config.head_dim * length
    return FLOAT * (cache + 2 * min(length, CHUNK) * config.vocabulary)


def processes_for(needs: Needs, runs: int, cores: int, asked: int | None) -> int:
    """Runs at the same time: as many as were asked for, or cores and free memory allow.

    Raises
    ------
    ValueError
        More than memory holds; one is more than memory holds.
    """
    free = available_memory()
    most = max(1, min(cores, runs) if asked is None else min(asked, runs))
    if free is None:
        return most
    fitting = free // needs.memory
    if asked is None:
        most = max(1, min(most, fitting))
    if most > fitting:
        together = f"{most} runs at a time take" if most > 1 else "a run takes"
        came = f"{together} {most * needs.memory / GIB:.1f} GiB of memory"
        less = "--processes, " if most > 1 else ""
        raise ValueError(
            f"{WHO}: {came}, expected at most the {free / GIB:.1f} GiB that are free: less {less}--length, "
            "--batch-size or --test-lengths, or --trained attention"
        )
    return most


def check_disk(needs: Needs, runs: Sequence[Run], processes: int, directory: Path) -> None:
    """Raise ValueError where there is no room for what is not there yet.

    That is the weights of every training, and for each in work one more checkpoint than those that are kept: the next
    one is written before the oldest is removed.
    """
    trainings = [directory_of(directory, run.name) for run in runs if run.seed is not None]
    left = [each for each in trainings if not (each / "result.json").is_file()]
    there = sum(file.stat().st_size for each in left for file in each.glob("*.npz"))
    in_work = min(processes, len(left)) * (checkpoint.KEPT + 1) * needs.checkpoint
    needed = len(left) * needs.weights + in_work - there
    place = next(each for each in (directory, *directory.resolve().parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        came = f"--out {directory} needs {needed / GIB:.1f} GiB for weights and checkpoints"
        raise ValueError(f"{WHO}: {came}, expected at most the {free / GIB:.1f} GiB that are free there")
