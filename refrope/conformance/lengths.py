"""What goes wrong with encodings that change with the length of the sequence: dynamic NTK, LongRoPE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

from refrope.conformance.formulas import Slip, as_slip
from refrope.conformance.structures import Part
from refrope.encodings import DynamicNTK, LinearPI, LongRoPE, RotaryEncoding

LengthSlip = tuple[str, str, Callable[[Part], Slip]]  # name, words, and the frequencies of each call


def length_slips(declared: RotaryEncoding, parts: list[Part]) -> Iterator[LengthSlip]:
    """Frequencies that do not follow the length as declared."""
    inner = declared.innermost
    original: int = getattr(inner, "original_length", 0)

    def fixed(length: int) -> Callable[[Part], Slip]:
        slip = as_slip(declared.for_length(length))
        return lambda part: slip

    if isinstance(inner, LongRoPE):
        for name, length in (("short", original), ("long", original + 1)):
            yield f"{name}-list", f"LongRoPE's {name} list at every length", fixed(length)
    else:
        for length in sorted({part.length for part in parts if part.length > original}):
            words = f"{inner.name} stuck at an earlier length: the frequencies for {length} tokens at every length"
            yield "stuck-length", words, fixed(length)
    states: list[tuple[str, str, Callable[[Part], int]]] = [
        (
            "switch-early",
            "the switch one token early: at the original length itself the form for longer sequences counts",
            lambda part: part.length + (part.length == original),
        ),
        (
            "length-less",
            "the length one too small: the largest position, not the number of tokens",
            lambda part: part.length - 1,
        ),
        ("length-more", "the length one too large", lambda part: part.length + 1),
        (
            "remembers-longest",
            "the frequencies of the longest call so far: it remembers earlier calls",
            lambda part: part.longest,
        ),
        (
            "remembers-at-original",
            "the frequencies of an earlier, longer call, until one is shorter than the original length: at that length "
            "itself they depend on what came before",
            lambda part: part.longest if part.length >= original else part.length,
        ),
    ]
    at = cache(lambda length: as_slip(declared.for_length(length)))
    for name, words, length_of in states:
        yield name, words, partial(_in_force, at, length_of)
    if isinstance(inner, DynamicNTK):
        common = {"head_dim": inner.head_dim, "base": inner.base, "rotary_dim": inner.rotary_dim}

        def linear(length: int) -> Slip:
            return as_slip(LinearPI(**common, factor=max(1.0, length / original)))  # type: ignore[arg-type]

        words = "dynamic linear interpolation, by length over original length, instead of NTK"
        yield "dynamic-linear", words, partial(_in_force, cache(linear), lambda part: part.length)


def _in_force(at: Callable[[int], Slip], length_of: Callable[[Part], int], part: Part) -> Slip:
    return at(length_of(part))
