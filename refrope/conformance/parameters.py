"""The declared variant with one argument wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

from refrope.conformance.fitting import replaced
from refrope.conformance.formulas import Again, Make
from refrope.encodings import (
    DynamicNTK,
    FoPE,
    Llama3,
    LongRoPE,
    NTKAware,
    ProportionalRoPE,
    RoPE,
    RotaryEncoding,
    XPos,
    YaRN,
)

LENGTHS = (2048, 4096, 8192, 1024, 512, 257, 256, 65, 64, 16_384, 32_768, 65_536, 131_072)
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 40.0, 64.0)
BETAS_FAST = (32.0, 2.0, 16.0, 4.0, 8.0, 64.0, 128.0, 24.0, 48.0)
BETAS_SLOW = (1.0, 2.0, 4.0, 0.5, 8.0)


def parameters(inner: RotaryEncoding, again: Again) -> Iterator[Make]:
    """Every argument but the base; `inner` is what is inside any Resonance, `again` puts it back there."""

    def changed(**what: Any) -> Callable[[], RotaryEncoding]:
        return partial(replaced, inner, again, **what)

    original: int | None = getattr(inner, "original_length", None)
    factor: float | None = getattr(inner, "factor", None)
    if isinstance(inner, YaRN):
        yield from _yarn(inner, changed)
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
        words = "LongRoPE's two lists in each other's place"
        yield "lists-swapped", words, changed(short_factor=inner.long_factor, long_factor=inner.short_factor)
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
    if isinstance(inner, YaRN):  # after the lengths, which move both ends of the ramp as a pair of betas does
        yield from _betas(inner, changed, [(fast, slow) for slow in BETAS_SLOW for fast in BETAS_FAST if fast > slow])
    if factor is not None and "factor" in {each.name for each in fields(inner)}:
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
        yield from _fope(inner, changed)
    if inner.rotary_dim is not None and inner.rotary_dim < inner.head_dim:
        words = "frequencies for the whole head, not for the part that turns"
        yield "whole-head-frequencies", words, changed(rotary_dim=None)
        if isinstance(inner, NTKAware) and inner.dialect == "ntk-aware":
            whole, part = (width / (width - 2) for width in (inner.head_dim, inner.turned))
            words = f"the base's exponent d/(d-2) taken of the whole head, d = {inner.head_dim}, not {inner.turned}"
            yield "exponent-whole-head", words, changed(factor=inner.factor ** (whole / part))


def _yarn(inner: YaRN, changed: Callable[..., Any]) -> Iterator[Make]:
    original, target = inner.original_length, round(inner.original_length * inner.factor)
    if inner.target_ramp:
        words = f"YaRN's ramp with the original length {original}, not the target's"
        yield "original-ramp", words, changed(target_ramp=False)
    words = f"YaRN's ramp with the target length {target} where the original length {original} is meant"
    yield "target-length", words, changed(original_length=target)
    rounded = "rounded to whole indices" if not inner.truncate else "not rounded to whole indices (truncate false)"
    yield "truncate", f"YaRN's ramp with its ends {rounded}", changed(truncate=not inner.truncate)
    yield from _betas(inner, changed, [(32.0, 1.0), (2.0, 1.0), (inner.beta_slow, inner.beta_fast)])


def _betas(inner: YaRN, changed: Callable[..., Any], values: list[tuple[float, float]]) -> Iterator[Make]:
    for fast, slow in values:
        words = f"YaRN with beta_fast {fast:g} and beta_slow {slow:g}, not {inner.beta_fast:g} and {inner.beta_slow:g}"
        yield "betas", words, changed(beta_fast=fast, beta_slow=slow, lenient=fast < slow)


def _fope(inner: FoPE, changed: Callable[..., Any]) -> Iterator[Make]:
    padding = "ones" if inner.padding == "identity" else "identity"
    words = f"FoPE with tables of still pairs padded by {padding}, not by {inner.padding}"
    yield "padding", words, changed(padding=padding)
    words = "FoPE with the two matrices in each other's place"
    swapped = {"cos_coefficients": inner.sin_coefficients, "sin_coefficients": inner.cos_coefficients}
    yield "matrices-swapped", words, changed(**swapped)
    yield "matrices-missing", "FoPE without its matrices", changed(cos_coefficients=None, sin_coefficients=None)
    for length in LENGTHS:
        if length != inner.train_length:
            words = f"FoPE for a training length of {length}, not {inner.train_length}"
            yield "train-length", words, changed(train_length=length)
