"""Theorem 1 by enumeration: with whole wavelengths, no test position shows a pre-critical pair anything new.

For every pair whose period is at most the training length L, and every test position n from L up to the model's
longest context, the row of n in the tables must be that of the training position ``n mod period``, bit for bit. No
closed form is trusted: all rows are made and compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from refrope.analysis import critical_pair, feature_gap, feature_gap_enumerated
from refrope.encodings import Llama3, NTKAware, Resonance, RoPE, RotaryEncoding, YaRN
from refrope.verify.tally import Check, Tally

_CHUNK = 1 << 14  # positions of one table
_FAR = 4096  # random int64 positions of each model


@dataclass(frozen=True)
class Model:
    """What a published model does with positions: its encoding, training length L and longest context, in tokens."""

    name: str
    encoding: RotaryEncoding
    length: int
    longest: int


# The config.json of each model on the Hugging Face hub; where it names no longer context, four times L.
MODELS = (
    Model("PosGen, RoPE (arXiv:2403.00071)", RoPE(64), 64, 256),
    Model("PosGen, YaRN (arXiv:2403.00071)", YaRN(64, factor=4.0, original_length=64, beta_fast=2.0), 64, 256),
    Model("GPT-NeoX-20B", RoPE(96, rotary_dim=24), 2048, 8192),
    Model("Falcon-7B", RoPE(64), 2048, 8192),
    Model("Phi-2", RoPE(80, rotary_dim=32), 2048, 8192),
    Model("Llama 2 7B", RoPE(128), 4096, 16_384),
    Model("Llama 2 7B, NTK-aware, s = 8", NTKAware(128, factor=8.0), 4096, 32_768),
    Model("Llama 2 7B, YaRN, s = 8 (arXiv:2403.00071)", YaRN(128, factor=8.0, original_length=4096), 4096, 32_768),
    Model("Phi-3-mini-4k", RoPE(96), 4096, 16_384),
    Model("Code Llama 7B", RoPE(128, base=1e6), 16_384, 65_536),
    Model("Gemma 2 9B", RoPE(256), 8192, 32_768),
    Model("Llama 3 8B", RoPE(128, base=5e5), 8192, 32_768),
    Model("Llama 3.1 8B", Llama3(128, base=5e5, factor=8.0, original_length=8192), 8192, 131_072),
    Model("Llama 3.2 1B", Llama3(64, base=5e5, factor=32.0, original_length=8192), 8192, 131_072),
    Model("Mistral 7B v0.2", RoPE(128, base=1e6), 32_768, 131_072),
    Model("Qwen2.5 7B, YaRN", YaRN(128, base=1e6, factor=4.0, original_length=32_768), 32_768, 131_072),
    Model("DeepSeek-V3", YaRN(64, factor=40.0, original_length=4096, mscale=1.0, mscale_all_dim=1.0), 4096, 163_840),
    Model("gpt-oss-20b", YaRN(64, base=150_000.0, factor=32.0, original_length=4096, truncate=False), 4096, 131_072),
)


def _resonances() -> Iterator[tuple[Model, Resonance, Any]]:
    """Each model with its Resonance at its longest context, and the pairs whose period fits its training length."""
    for model in MODELS:
        encoding = Resonance(model.encoding).for_length(model.longest)
        seen = np.flatnonzero((encoding.periods > 0) & (encoding.periods <= model.length))
        yield model, encoding, seen


def _every_test_position(tally: Tally) -> None:
    for model, encoding, seen in _resonances():
        tally.true(len(seen) > 0, f"{model.name} has pre-critical pairs")
        trained = [table[:, seen] for table in encoding.cos_sin(np.arange(model.length))]
        for first in range(model.length, model.longest, _CHUNK):
            positions = np.arange(first, min(first + _CHUNK, model.longest))
            rows = positions[:, None] % encoding.periods[seen]
            for name, table, before in zip(("cos", "sin"), encoding.cos_sin(positions), trained, strict=True):
                expected = np.take_along_axis(before, rows, axis=0)
                tally.same(table[:, seen], expected, f"{model.name}: {name} of positions from {first} on")


def _far_positions(tally: Tally) -> None:
    for model, encoding, seen in _resonances():
        edges = np.array([2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, -1, -(2**63)])
        positions = np.concatenate([edges, tally.draws.integers(0, 2**63, _FAR)])
        tables = encoding.cos_sin(positions)
        for pair in seen:
            rows = positions % encoding.periods[pair]
            trained = encoding.cos_sin(np.arange(encoding.periods[pair]))
            for table, before in zip(tables, trained, strict=True):
                tally.same(table[:, pair], before[rows, pair], f"{model.name}, pair {pair}")


def _gaps(tally: Tally) -> None:
    for model, encoding, seen in _resonances():
        gaps = feature_gap(encoding, model.length, model.longest)
        tally.same(gaps[seen], np.zeros(len(seen)), f"{model.name}: gaps of pre-critical pairs")


def _gaps_without(tally: Tally) -> None:
    """2 pi is irrational: what Resonance takes away was there."""
    for model in MODELS:
        encoding = model.encoding.for_length(model.longest)
        gaps = feature_gap(encoding, model.length, model.longest)
        tally.true(gaps[: critical_pair(encoding, model.length)] > 0, f"{model.name}: gaps without Resonance")


def _closed_form(tally: Tally) -> None:
    bound = 1e-9  # a phase in turns has an error of about position * 2^-53, a chord 2 pi times that
    for model in MODELS:
        if model.length > 2048:
            continue
        for encoding in (model.encoding, Resonance(model.encoding)):
            lengths = model.length, min(model.longest, 2 * model.length)
            found = feature_gap(encoding, *lengths)
            tally.within(found, feature_gap_enumerated(encoding, *lengths), bound, f"{model.name}: {encoding.name}")


CHECKS = [
    Check(
        "theorem", "every test position of published models repeats a trained one, bit for bit", _every_test_position
    ),
    Check("theorem", "so do random int64 positions and the edges of their range", _far_positions),
    Check("theorem", "the feature gap of pre-critical pairs is 0", _gaps),
    Check("theorem", "without Resonance the same pairs have a gap", _gaps_without),
    Check("theorem", "the gap's closed form is that of its definition, enumerated", _closed_form),
]
