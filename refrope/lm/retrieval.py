"""Retrieval from a long context, by its length and the depth at which the answer stands.

    probes (tokens, expected digits) ──► Reader, greedy ──► first digits of the answer ──► right where they are equal

Only what a prompt does not share with the one before it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from refrope.encodings import RotaryEncoding
from refrope.lm.generating import generate
from refrope.lm.perplexity import passes
from refrope.lm.probes import ANSWER, IntArray, Probe, Tokens
from refrope.lm.progress import Silent
from refrope.lm.reading import Reader, shared_prefix
from refrope.lm.swapping import rotation_source, with_softmax_factor
from refrope.nn.transformer import Transformer


def answer(
    reader: Reader, tokens: IntArray, tokenizer: Tokens, eos: Collection[int], finished: Callable[[str], bool]
) -> str:
    """What a model says after a prompt: greedy, up to `ANSWER` tokens, or until the text is `finished`."""
    said: list[int] = []
    text = ""
    for token in generate(reader, tokens, ANSWER, eos=eos, vocabulary=tokenizer.vocabulary):
        said.append(token)
        text = tokenizer.decode(np.array(said))
        if finished(text):
            break
    return text


def first_digits(text: str) -> str:
    """The first run of digits, "" without one."""
    found = re.search("[0-9]+", text)
    return found[0] if found else ""


def measure(
    model: Transformer,
    tokenizer: Tokens,
    probes: Sequence[Probe],
    encodings: Mapping[str, Callable[[int], RotaryEncoding]],
    *,
    eos: Collection[int] = (),
    pipeline: str = "exact",
    progress: Callable[[str, int], Silent] = Silent,
) -> Iterator[list[dict[str, Any]]]:
    """Ask all questions under each encoding; rows of an encoding's form as they are done.

    What consecutive prompts share at their start is read once. Parameters are those of `refrope.lm.perplexity.measure`.

    Yields
    ------
    list of dict
        For each length and depth: encoding, length, depth, trials, correct, accuracy, answers (expected and said).
    """
    planned = passes(encodings, [probe.length for probe in probes])
    for number, each in enumerate(planned, start=1):
        rotation = rotation_source(each.encoding, model.dtype, pipeline)
        scaled = with_softmax_factor(model, each.encoding.softmax_factor)
        # In the order of their tokens, prompts with a common start are neighbours: nothing shared is read twice.
        ordered = sorted((p for p in probes if p.length in each.lengths), key=lambda probe: probe.tokens.tolist())
        reader = Reader(scaled, rotation, max(each.lengths))
        starts = [0, *(shared_prefix(a.tokens, b.tokens) for a, b in pairwise(ordered))]
        new = [len(probe.tokens) - start for probe, start in zip(ordered, starts, strict=True)]
        cells: dict[tuple[int, float], list[dict[str, str]]] = {(p.length, p.depth): [] for p in probes}
        with progress(f"[{number}/{len(planned)}] {each.name}", sum(new)) as shown:
            for probe, read in zip(ordered, new, strict=True):
                text = answer(reader, probe.tokens, tokenizer, eos, _has_number)
                said = {"expected": probe.expected, "said": text, "digits": first_digits(text)}
                cells[probe.length, probe.depth].append(said)
                shown.advance(read)
        yield [_row(each.name, length, depth, said) for (length, depth), said in cells.items() if said]


def _has_number(text: str) -> bool:
    return re.search("[0-9][^0-9]", text) is not None


def _row(name: str, length: int, depth: float, said: list[dict[str, str]]) -> dict[str, Any]:
    correct = sum(each["digits"] == each["expected"] for each in said)
    about = {"encoding": name, "length": length, "depth": depth, "trials": len(said), "correct": correct}
    return {**about, "accuracy": correct / len(said), "answers": said}
