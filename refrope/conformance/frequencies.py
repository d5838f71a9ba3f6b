"""Frequencies that people's code has in the place of the declared ones, the likelier first.

Each is a `Slip`: its name, what it is in words, and the frequencies. They come from the threads and code that
tutorials/errata.md lists and from what goes wrong when the formulas are typed in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from refrope.conformance.fitting import Measured, bases, fitted
from refrope.conformance.formulas import Again, Make, Slip, again_as, as_slip, formulas, rates
from refrope.conformance.parameters import parameters
from refrope.encodings import (
    DynamicNTK,
    LinearPI,
    Llama3,
    NTKAware,
    NTKByParts,
    Resonance,
    RoPE,
    RotaryEncoding,
    YaRN,
)

BASES = (10_000.0, 500_000.0, 1_000_000.0, 5_000_000.0, 100_000.0, 150_000.0, 10_000_000.0)
# Where the declared variant has no original length, another one is tried with these.
USUAL_LENGTHS = (4096, 2048, 8192, 32_768)


def slips(declared: RotaryEncoding, measured: Sequence[Measured] = (), role: str = "q") -> Iterator[Slip]:
    """Every slip that there is for `declared`; `measured` is what was read off the function, in each way."""
    inner, again = declared.innermost, again_as(declared)

    def made(kinds: Iterator[Make]) -> Iterator[Slip]:
        for name, words, make in kinds:
            with contextlib.suppress(ValueError):  # not every slip exists for every setting
                yield as_slip(make(), name, words)

    yield from made(_rounding(declared, inner))
    yield from made(_variants(inner, again))
    yield from made(parameters(inner, again))
    yield from made(bases(inner, again, BASES))
    yield from formulas(declared, inner)
    for each in measured:
        yield from made(fitted(inner, again, each, role))
        yield from rates(declared, each.inv_freq)


def of_another_width(declared: RotaryEncoding, pairs: int) -> Iterator[Slip]:
    """What a function has that turns another number of pairs than was declared."""
    a, width = declared.attention_factor, 2 * pairs
    if pairs < declared.pairs:
        yield Slip("", "", declared.inv_freq[:pairs], a)
    else:
        words = f"pairs from {declared.pairs} on stand still, as in p-RoPE: feature j is paired with j + {pairs}"
        yield Slip("still-pairs", words, np.pad(declared.inv_freq, (0, pairs - declared.pairs)), a)
    if isinstance(declared, Resonance):
        for slip in of_another_width(declared.encoding, pairs):
            if slip.encoding is not None:
                yield as_slip(Resonance(slip.encoding, declared.dialect), slip.name, slip.words)
        return
    whole = None if width == declared.head_dim else width
    words = "frequencies for the whole head, not for the part that turns"
    if whole is not None:
        words = f"frequencies worked out for the {width} features that turn"
    with contextlib.suppress(ValueError):
        slip = as_slip(replace(declared, rotary_dim=whole), "whole-head-frequencies", words)
        yield slip if whole is None else replace(slip, name="frequencies-of-the-part")


def _made(again: Again, kind: type[RotaryEncoding], **what: Any) -> RotaryEncoding:
    return again(kind(**what))


def _rounding(declared: RotaryEncoding, inner: RotaryEncoding) -> Iterator[Make]:
    if not isinstance(declared, Resonance):
        yield "resonance", "wavelengths rounded to whole tokens, as in Resonance RoPE", lambda: Resonance(declared)
        return
    yield "not-rounded", f"{inner.name} without Resonance: wavelengths are not rounded to whole tokens", lambda: inner
    other = "before" if declared.dialect == "after" else "after"
    words = f"wavelengths rounded {other} scaling where {declared.dialect} it was declared"
    yield f"rounded-{other}-scaling", words, lambda: Resonance(inner, other)


def _common(inner: RotaryEncoding) -> dict[str, Any]:
    """What another variant takes over from this one."""
    return {"head_dim": inner.head_dim, "base": inner.base, "rotary_dim": inner.rotary_dim}


def _variants(inner: RotaryEncoding, again: Again) -> Iterator[Make]:
    """Another variant with the same numbers."""
    common = _common(inner)
    factor = getattr(inner, "factor", None)
    length = getattr(inner, "original_length", None)
    name = inner.name
    if not isinstance(inner, RoPE):
        words = f"plain RoPE: {name}'s scaling is not applied" if factor else f"plain RoPE where {name} was declared"
        if isinstance(inner, DynamicNTK):
            words += ", or follows a short first call for ever"
        yield "plain-rope", words, lambda: again(RoPE(**common))
    if factor is None:
        return
    instead = f"instead of {name}"
    yield "linear", f"linear interpolation {instead}", lambda: again(LinearPI(**common, factor=factor))
    about = {
        "ntk-aware": "base b s^(d/(d-2))",
        "scaled-base": "base b s",
        "fixed": "base b s with all frequencies divided by s^(2/d)",
        "mixed": "exp(a j^0.75)",
    }
    for dialect, formula in about.items():
        words = f"NTK-aware scaling, {formula}, {instead}"
        if isinstance(inner, NTKAware):
            words = f"NTK-aware scaling in the form {formula}, not {about[inner.dialect]}"
        yield f"ntk-{dialect}", words, partial(_made, again, NTKAware, **common, factor=factor, dialect=dialect)
    for each in (length,) if length is not None else USUAL_LENGTHS:
        yield from _with_ramps(inner, again, {**common, "factor": factor, "original_length": each}, length is None)


def _with_ramps(inner: RotaryEncoding, again: Again, scaled: dict[str, Any], guessed: bool) -> Iterator[Make]:
    """Variants that need an original length, which may be guessed."""
    instead = f"instead of {inner.name}"
    if guessed:
        instead = f"for the original length {scaled['original_length']}, {instead}"
    for dialect in ("code", "paper", "resonance-paper"):
        about_yarn = {
            "code": "YaRN with its ramp over the pair index, as all code has it",
            "paper": "YaRN with its ramp over the number of turns, as its paper prints it",
            "resonance-paper": "YaRN with its ramp over the number of turns and wavelengths blended",
        }[dialect]
        if isinstance(inner, YaRN):
            betas = {"beta_fast": inner.beta_fast, "beta_slow": inner.beta_slow}
            kept = {**betas, "attention_factor": float(inner.attention_factor)}
            words = about_yarn + ", not the ramp or blend declared"
        else:
            kept, words = {}, f"{about_yarn}, {instead}"
        yield f"yarn-{dialect}", words, partial(_made, again, YaRN, **{**scaled, **kept, "dialect": dialect})
    yield "llama3", f"Llama 3's scaling {instead}", lambda: again(Llama3(**scaled))
    yield "ntk-by-parts", f"NTK-by-parts {instead}", lambda: again(NTKByParts(**scaled))
    words = f"dynamic NTK at its full length, as vLLM has it, {instead}"
    if isinstance(inner, DynamicNTK):
        words = "dynamic NTK fixed at the base for factor times the original length, as in vLLM, at every length"
    yield "dynamic-vllm", words, lambda: again(DynamicNTK(**scaled, dialect="vllm"))
