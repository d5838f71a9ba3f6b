"""Perplexity of a text against how much of it a model reads, for several encodings.

The perplexity at n tokens is ``exp(-mean log p(token | those before it))`` over the n - 1 tokens that have one before
them. Lengths share one pass through the model where the encoding in force is the same for all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope.encodings import RotaryEncoding
from refrope.errors import check_integer
from refrope.lm.progress import Silent
from refrope.lm.scoring import CHUNK, FloatArray, token_log_likelihoods
from refrope.lm.swapping import rotation_source, with_softmax_factor
from refrope.nn.memory import KVCache
from refrope.nn.transformer import Transformer
from refrope.report import parameters

TAIL = 256  # tokens at the end of a text of which results tell the perplexity apart: where positions are new


class Pass(NamedTuple):
    """One reading of a text, of which all `lengths` are prefixes."""

    name: str
    encoding: RotaryEncoding
    lengths: tuple[int, ...]


def passes(encodings: Mapping[str, Callable[[int], RotaryEncoding]], lengths: Sequence[int]) -> list[Pass]:
    """The readings that are needed: for each encoding, those lengths together for which it is the same.

    Parameters
    ----------
    encodings : dict of functions
        By name, the encoding in force at a length.
    lengths : list of int
    """
    planned: list[Pass] = []
    for name, at_length in encodings.items():
        together: list[tuple[RotaryEncoding, list[int]]] = []
        for length in sorted(set(lengths)):
            encoding = at_length(length)
            group = next((group for known, group in together if known == encoding), None)
            if group is None:
                together.append((encoding, [length]))
            else:
                group.append(length)
        planned += [Pass(name, encoding, tuple(group)) for encoding, group in together]
    return planned


def check_lengths(who: str, model: Transformer, lengths: Sequence[int], available: int, text: str) -> None:
    """Raise ValueError where a length is below 2, longer than the text, or beyond what memory holds."""
    for length in lengths:
        check_integer(who, "tokens", length, 2)
    longest = max(lengths)
    if longest > available:
        raise ValueError(f"{who}: tokens is {longest}, but the text {text} has {available} tokens for this model")
    KVCache.check_memory(model.config, 1, longest, model.dtype)


def measure(
    model: Transformer,
    tokens: npt.NDArray[Any],
    planned: Sequence[Pass],
    *,
    pipeline: str = "exact",
    chunk: int = CHUNK,
    progress: Callable[[str, int], Silent] = Silent,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each pass, as it is done.

    Parameters
    ----------
    model : Transformer
    tokens : (n,) integers
        Of the whole text; n at least the longest length.
    planned : list of Pass
    pipeline : one of `refrope.lm.swapping.PIPELINES`
    chunk : int
        See `token_log_likelihoods`.
    progress : function
        Of a title and a number of tokens: a display.

    Yields
    ------
    list of dict
        For each length: encoding, tokens, perplexity, nats (mean loss), tail_perplexity (of the last `TAIL` tokens),
        factors and parameters of the encoding, seconds and tokens_read of the pass.
    """
    for number, each in enumerate(planned, start=1):
        rotation = rotation_source(each.encoding, model.dtype, pipeline)
        scaled = with_softmax_factor(model, each.encoding.softmax_factor)
        longest = max(each.lengths)
        began = time.perf_counter()
        with progress(f"[{number}/{len(planned)}] {each.name}, {longest} tokens", longest - 1) as shown:
            scores = token_log_likelihoods(scaled, tokens[:longest], rotation, chunk=chunk, advance=shown.advance)
        spent = time.perf_counter() - began
        about = {
            "attention_factor": float(each.encoding.attention_factor),
            "softmax_factor": float(each.encoding.softmax_factor),
            "parameters": parameters(each.encoding),
            "seconds": spent,
            "tokens_read": longest,
        }
        yield [{"encoding": each.name, **summary(scores[: n - 1]), "pipeline": pipeline, **about} for n in each.lengths]


def summary(scores: FloatArray) -> dict[str, Any]:
    """Perplexities of a text out of its log-likelihoods, (n - 1,) nats."""
    nats = -float(np.mean(scores))
    return {
        "tokens": len(scores) + 1,
        "perplexity": perplexity(nats),
        "nats": nats,
        "tail_perplexity": perplexity(-float(np.mean(scores[-TAIL:]))),
    }


def perplexity(nats: float) -> float:
    """``exp(nats)``, no larger than the largest float: JSON has no infinity."""
    return math.exp(min(nats, 709.0))
