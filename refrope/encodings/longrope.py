"""LongRoPE: a stretch for every pair, found by search, one list for short sequences and one for long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from refrope.encodings.base import Derived, ExactArray, RotaryEncoding, exact
from refrope.errors import check_integer, check_number, check_numbers


@dataclass(frozen=True)
class LongRoPE(RotaryEncoding):
    r"""Pair j turns ``short_factor[j]`` or ``long_factor[j]`` times slower, by the length of the sequence.

    Parameters
    ----------
    short_factor, long_factor : (pairs,) numbers > 0
        The lists of a model's configuration.
    original_length : int
        L: sequences of more tokens take the long list.
    factor : float > 0
        s, for the amplitude ``sqrt(1 + ln(s) / ln(L))`` (1 for s <= 1), which both lists have.
    length : int, optional
        The current length; `for_length` sets it. Where it is None, and up to L, the short list counts. Hugging Face
        decides by the longest row of each batch, vLLM once by the length its engine is set to.
    attention_factor : float > 0, optional
        Replaces the amplitude. `dataclasses.replace` keeps a given one and works out any other anew.

    References
    ----------
    Ding et al. 2024, arXiv:2402.13753; amplitude and lists as in its released code and in Phi-3.
    """

    short_factor: Sequence[float] = ()
    long_factor: Sequence[float] = ()
    original_length: int = 4096
    factor: float = 1.0
    length: int | None = None
    attention_factor: float = None  # type: ignore[assignment]  # a number once __post_init__ is through

    def __post_init__(self) -> None:
        """Check the fields; lists become tuples."""
        super().__post_init__()
        check_integer(self.name, "original_length", self.original_length, 2)
        check_number(self.name, "factor", self.factor, "a finite number > 0", 0.0, above=True)
        if self.length is not None:
            check_integer(self.name, "length", self.length, 0)
        for name in ("short_factor", "long_factor"):
            values = getattr(self, name)
            numbers = check_numbers(self.name, name, values, self.pairs, "a finite number > 0", 0.0, above=True)
            object.__setattr__(self, name, numbers)
        if self.attention_factor is None or isinstance(self.attention_factor, Derived):
            amplitude = math.sqrt(1 + math.log(max(self.factor, 1.0)) / math.log(self.original_length))
            object.__setattr__(self, "attention_factor", Derived(amplitude))
        check_number(self.name, "attention_factor", self.attention_factor, "a finite number > 0", 0.0, above=True)

    def for_length(self, length: int) -> LongRoPE:
        """The encoding in force for `length` tokens: long from original_length + 1 on."""
        return replace(self, length=check_integer(f"{self.name}.for_length", "length", length, 0))

    def exact_stretch(self) -> ExactArray:
        """The list in force."""
        is_long = self.length is not None and self.length > self.original_length
        return np.array([exact(value) for value in (self.long_factor if is_long else self.short_factor)])
