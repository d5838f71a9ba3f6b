"""Frequencies that people's code has in the place of the declared ones, the likelier first.

Each is a `Slip`: its name, what it is in words, and the frequencies. They come from the threads and code that
tutorials/errata.md lists and from what goes wrong when the formulas are typed in.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from refrope.conformance.formulas import FloatArray, Slip, as_slip, formulas, innermost
from refrope.encodings import (
    DynamicNTK,
    FoPE,
    LinearPI,
    Llama3,
    LongRoPE,
    NTKAware,
    NTKByParts,
    ProportionalRoPE,
    Resonance,
    RoPE,
    RotaryEncoding,
    XPos,
    YaRN,
)

BASES = (10_000.0, 500_000.0, 1_000_000.0, 5_000_000.0, 100_000.0, 150_000.0, 10_000_000.0)
UNUSUAL_BASES = (100.0, 500.0, 1_000.0)
LENGTHS = (2048, 4096, 8192, 1024, 512, 257, 256, 65, 64, 16_384, 32_768, 65_536, 131_072)
FACTORS = (2.0, 4.0, 8.0, 16.0, 32.0, 40.0, 64.0)


def slips(declared: RotaryEncoding, measured: FloatArray | None) -> Iterator[Slip]:
    """Every slip that there is for `declared`; `measured` (pairs,) rad/token are frequencies read off the function."""
    inner = innermost(declared)

    def again(encoding: RotaryEncoding) -> RotaryEncoding:
        # What is wrong inside is then still rounded as declared.
        return Resonance(encoding, declared.dialect) if isinstance(declared, Resonance) else encoding

    def made(kinds: Iterator[Make]) -> Iterator[Slip]:
        for name, words, make in kinds:
            with contextlib.suppress(ValueError):  # not every slip exists for every setting
                yield as_slip(make(), name, words)

    yield from made(_rounding(declared, inner))
    yield from made(_variants(inner, again))
    yield from made(_parameters(inner, again))
    yield from made(_bases(inner, again, BASES))
    yield from formulas(declared, inner)
    yield from made(_fitted(inner, again, measured))


Make = tuple[str, str, Callable[[], RotaryEncoding]]


def _made(again: Callable[[RotaryEncoding], RotaryEncoding], kind: type[RotaryEncoding], **what: Any) -> RotaryEncoding:
    return again(kind(**what))


def _changed(
    again: Callable[[RotaryEncoding], RotaryEncoding], encoding: RotaryEncoding, **what: Any
) -> RotaryEncoding:
    return again(replace(encoding, **what))


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


def _variants(inner: RotaryEncoding, again: Callable[[RotaryEncoding], RotaryEncoding]) -> Iterator[Make]:
    """Another variant with the same numbers."""
    common = _common(inner)
    factor = getattr(inner, "factor", None)
    length = getattr(inner, "original_length", None)
    name = inner.name
    if not isinstance(inner, RoPE):
        words = f"plain RoPE: {name}'s scaling is not applied" if factor else f"plain RoPE where {name} was declared"
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
    if length is None:
        return
    scaled = {**common, "factor": factor, "original_length": length}
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
        yield f"yarn-{dialect}", words, partial(_made, again, YaRN, **scaled, **kept, dialect=dialect)
    yield "llama3", f"Llama 3's scaling {instead}", lambda: again(Llama3(**scaled))
    yield "ntk-by-parts", f"NTK-by-parts {instead}", lambda: again(NTKByParts(**scaled))
    words = f"dynamic NTK at its full length, as vLLM has it, {instead}"
    if isinstance(inner, DynamicNTK):
        words = "dynamic NTK fixed at the base for factor times the original length, as in vLLM, at every length"
    yield "dynamic-vllm", words, lambda: again(DynamicNTK(**scaled, dialect="vllm"))


def _parameters(inner: RotaryEncoding, again: Callable[[RotaryEncoding], RotaryEncoding]) -> Iterator[Make]:
    """The same variant with one argument wrong; the attention factor stays."""
    names = {each.name for each in fields(inner)}
    kept = {"attention_factor": float(inner.attention_factor)} if isinstance(inner, (YaRN, LongRoPE)) else {}

    def changed(**what: Any) -> Callable[[], RotaryEncoding]:
        return partial(_changed, again, inner, **{**kept, **what})

    original: int | None = getattr(inner, "original_length", None)
    factor: float | None = getattr(inner, "factor", None)
    if isinstance(inner, YaRN):
        target = round(inner.original_length * inner.factor)
        words = f"YaRN's ramp with the target length {target} where the original length {original} is meant"
        if inner.target_ramp:
            yield (
                "original-ramp",
                f"YaRN's ramp with the original length {original}, not the target's",
                changed(target_ramp=False),
            )
        yield "target-length", words, changed(original_length=target)
        rounded = "rounded to whole indices" if not inner.truncate else "not rounded to whole indices (truncate false)"
        yield "truncate", f"YaRN's ramp with its ends {rounded}", changed(truncate=not inner.truncate)
        for fast, slow in ((32.0, 1.0), (2.0, 1.0), (16.0, 2.0), (4.0, 1.0), (inner.beta_slow, inner.beta_fast)):
            words = (
                f"YaRN with beta_fast {fast:g} and beta_slow {slow:g}, not {inner.beta_fast:g} and {inner.beta_slow:g}"
            )
            yield "betas", words, changed(beta_fast=fast, beta_slow=slow, lenient=fast < slow)
    if isinstance(inner, Llama3):
        low, high = inner.low_freq_factor, inner.high_freq_factor
        for one, two in ((1.0, 4.0), (1.0, 1.0), (1.0, 32.0), (1.0, 8.0)):
            words = f"Llama 3's scaling from {one:g} to {two:g} turns, not from {low:g} to {high:g}"
            yield "freq-factors", words, changed(low_freq_factor=one, high_freq_factor=two)
    if isinstance(inner, LongRoPE):
        is_long = inner.length is not None and inner.length > inner.original_length
        found, wanted = ("short", "long") if is_long else ("long", "short")
        length = inner.original_length if is_long else inner.original_length + 1
        yield f"{found}-list", f"LongRoPE's {found} list where the {wanted} one counts", changed(length=length)
    if isinstance(inner, DynamicNTK) and inner.dialect == "hf" and inner.length is not None:
        start = inner.original_length
        for length in sorted({start, 2 * start, round(start * inner.factor), *LENGTHS}):
            words = f"dynamic NTK stuck at an earlier length: the base for {length} tokens, not for {inner.length}"
            if length != inner.length:
                yield "stuck-length", words, changed(length=length)
    if original is not None:
        lengths = {round(original * (factor or 1.0)), original + 1, original - 1, 2 * original, original // 2, *LENGTHS}
        for length in sorted(lengths - {original}, key=lambda n: (n not in LENGTHS, abs(math.log(n / original)))):
            if length >= 2:
                words = f"the original length {length} instead of {original}"
                yield "original-length", words, changed(original_length=length)
    if factor is not None and "factor" in names:
        for other in sorted({factor**2, math.sqrt(factor), 2 * factor, factor / 2, *FACTORS} - {factor}):
            yield "factor", f"factor {other:g} instead of {factor:g}", changed(factor=other)
    if isinstance(inner, ProportionalRoPE):
        turning = 2 * int(inner.proportion * inner.turned // 2)
        if inner.factor != 1:
            yield "factor-ignored", "the factor is not applied", changed(factor=1.0)
        if turning >= 2:
            words = (
                "frequencies of a partial rotation, with exponents over the features that turn, not over the whole head"
            )
            yield "partial-exponents", words, lambda: again(RoPE(turning, inner.base))
    if isinstance(inner, XPos):
        for base in (256.0, 512.0, 1024.0):
            if base != inner.scale_base:
                yield "scale-base", f"xPos with scale_base {base:g}, not {inner.scale_base:g}", changed(scale_base=base)
    if isinstance(inner, FoPE):
        padding = "ones" if inner.padding == "identity" else "identity"
        words = f"FoPE with tables of still pairs padded by {padding}, not by {inner.padding}"
        yield "padding", words, changed(padding=padding)
        words = "FoPE with the two matrices in each other's place"
        yield (
            "matrices-swapped",
            words,
            changed(cos_coefficients=inner.sin_coefficients, sin_coefficients=inner.cos_coefficients),
        )
        words = "FoPE without its matrices"
        yield "matrices-missing", words, changed(cos_coefficients=None, sin_coefficients=None)
    if inner.rotary_dim is not None and inner.rotary_dim < inner.head_dim:
        yield (
            "whole-head-frequencies",
            "frequencies for the whole head, not for the part that turns",
            lambda: again(replace(inner, rotary_dim=None)),
        )


def _bases(
    inner: RotaryEncoding, again: Callable[[RotaryEncoding], RotaryEncoding], bases: Sequence[float]
) -> Iterator[Make]:
    kept = {"attention_factor": float(inner.attention_factor)} if isinstance(inner, (YaRN, LongRoPE)) else {}
    for base in bases:
        if base != inner.base:
            words = f"base {base:.12g} instead of {inner.base:.12g}"
            yield "base", words, partial(_changed, again, inner, base=base, **kept)


def _fitted(
    inner: RotaryEncoding, again: Callable[[RotaryEncoding], RotaryEncoding], measured: FloatArray | None
) -> Iterator[Make]:
    """One argument of any value, worked out from what was measured: the base, or what slows down the slowest pair."""
    if measured is not None and len(measured) > 1 and 0 < measured[1] < 1:
        fitted = float(measured[1] ** (-inner.turned / 2))
        rounded = [float(f"{fitted:.{digits}g}") for digits in (2, 3, 5)] if fitted < 1e12 else []
        yield from _bases(inner, again, [*dict.fromkeys(rounded), *UNUSUAL_BASES])
    if measured is None or not measured[-1] > 0 or inner.stretch is None:
        return
    stretch = float(RoPE(**_common(inner)).inv_freq[-1] / measured[-1]) if len(measured) == inner.pairs else 0.0
    if not 0.01 < stretch < 1e6:
        return
    if isinstance(inner, DynamicNTK) and inner.dialect == "hf" and inner.factor > 0:
        length = round((stretch + inner.factor - 1) * inner.original_length / inner.factor)
        if inner.original_length < length < 2**40:
            words = f"dynamic NTK stuck at an earlier length: the base for {length} tokens"
            yield "stuck-length", words, lambda: again(replace(inner, length=length))
    elif hasattr(inner, "factor") and isinstance(inner, (LinearPI, NTKAware, YaRN, Llama3, ProportionalRoPE)):
        for digits in (3, 6):
            factor = float(f"{stretch:.{digits}g}")
            if factor != inner.factor:
                words = f"factor {factor:g} instead of {inner.factor:g}"
                kept = {"attention_factor": float(inner.attention_factor)} if isinstance(inner, YaRN) else {}
                yield "factor", words, partial(_changed, again, inner, factor=factor, lenient=True, **kept)
