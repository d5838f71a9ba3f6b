"""Position interpolation and the NTK-aware family: stretch all pairs alike, or the slow ones more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from refrope.encodings.base import ExactArray, RotaryEncoding, exact
from refrope.encodings.ramps import index_ramp
from refrope.errors import check_integer, check_name, check_number, check_numbers


@dataclass(frozen=True)
class LinearPI(RotaryEncoding):
    r"""Position interpolation: every pair turns `factor` times slower, as if positions were divided by it.

    References
    ----------
    Chen et al. 2023, arXiv:2306.15595, Eq. 4.
    """

    factor: float = 4.0

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._check_factor(self.factor)

    def exact_stretch(self) -> ExactArray:
        """`factor` for every pair."""
        return np.array([exact(self.factor)] * self.pairs)


NTK_DIALECTS = ("ntk-aware", "scaled-base", "fixed", "mixed")


@dataclass(frozen=True)
class NTKAware(RotaryEncoding):
    r"""NTK-aware scaling, in each of the meanings that the name has.

    Parameters
    ----------
    factor : float >= 1
        s.
    dialect : {"ntk-aware", "scaled-base", "fixed", "mixed"}
        How much slower pair j of p = d/2 turns:

        - "ntk-aware" (default, since it is what proposal and code bases mean): base ``b s**(d/(d-2))``, so
          ``s**(j/(p-1))``: 1 for the fastest pair, exactly s for the slowest. bloc97 2023, as reported; lucidrains'
          theta_rescale_factor, Hunyuan's alpha, the Resonance paper's code.
        - "scaled-base": base ``b s``, so ``s**(j/p)``; the slowest pair stays below s. The Resonance paper's appendix.
        - "fixed": ``s**((j+1)/p)``; the fastest pair slows down as well. J. Su 2023, kexue.fm/archives/9706, as
          reported; vLLM's "ntk".
        - "mixed": ``exp(a (j+1)**mixed_b)`` with a such that the slowest pair gets s. The same article; bojone/rerope,
          ntk_patch.py; vLLM's "ntk" with mixed_b.

        The name's fifth meaning, a larger base with nothing else (ABF), is ``RoPE(head_dim, base)``.
    mixed_b : float > 0
        The exponent of "mixed"; 0.75 in its author's code, 1 makes it "fixed".

    Raises
    ------
    ValueError
        Also for "ntk-aware" with a single pair, whose exponent d/(d-2) does not exist.
    """

    factor: float = 4.0
    dialect: str = "ntk-aware"
    mixed_b: float = 0.75

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._check_factor(self.factor)
        check_name(self.name, "dialect", self.dialect, NTK_DIALECTS)
        check_number(self.name, "mixed_b", self.mixed_b, "a finite number > 0", 0.0, above=True)
        if self.dialect == "ntk-aware":
            need_two_pairs(self)

    def exact_stretch(self) -> ExactArray:
        """See the class."""
        log_factor, pairs = exact(self.factor).ln(), Decimal(self.pairs)
        if self.dialect == "ntk-aware":
            return base_stretch(self, exact(self.factor))
        shares = {
            "scaled-base": lambda j: j / pairs,
            "fixed": lambda j: (j + 1) / pairs,
            "mixed": lambda j: ((j + 1) / pairs) ** exact(self.mixed_b),
        }
        return np.array([(log_factor * shares[self.dialect](Decimal(j))).exp() for j in range(self.pairs)])


def need_two_pairs(encoding: RotaryEncoding) -> None:
    """Raise where the exponent d / (d - 2) does not exist."""
    if encoding.pairs < 2:
        raise ValueError(
            f"{encoding.name}: {encoding.turned} features turn, expected at least 4: the exponent is d/(d-2)"
        )


def base_stretch(encoding: RotaryEncoding, scale: Decimal) -> ExactArray:
    """``scale**(j/(p-1))``: the stretch of base ``b scale**(d/(d-2))`` over base b, for p = d/2 pairs."""
    return np.array([(scale.ln() * j / (encoding.pairs - 1)).exp() for j in range(encoding.pairs)])


DYNAMIC_DIALECTS = ("hf", "vllm")


@dataclass(frozen=True)
class DynamicNTK(RotaryEncoding):
    r"""NTK-aware scaling by as much as the current length needs: base ``b (s N/L - (s-1))**(d/(d-2))`` for N > L.

    The papers print ``b max(1, N/L)**(d/(d-2))``, which is this with factor 1.

    Parameters
    ----------
    factor : float >= 1
        s.
    original_length : int
        L, in tokens. Hugging Face takes max_position_embeddings for it.
    length : int, optional
        N, the current length; `for_length` sets it. Up to L, and where it is None, nothing is stretched.
    dialect : {"hf", "vllm"}
        "hf" (default, the only one that changes with the length): as above; Hugging Face's, which takes N from the
        longest row of a batch. "vllm": the base at N = s L at every length, as vLLM evaluates it once for its table, so
        base ``b (s**2 - s + 1)**(d/(d-2))``; short prompts are stretched too.

    References
    ----------
    emozilla 2023 (as reported), whose formula is in transformers 5.23 and vLLM. The papers: Peng et al. 2023,
    arXiv:2309.00071, Section 3.3; Wang et al. 2024, arXiv:2403.00071.
    """

    factor: float = 4.0
    original_length: int = 2048
    length: int | None = None
    dialect: str = "hf"

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._check_factor(self.factor)
        check_integer(self.name, "original_length", self.original_length, 1)
        if self.length is not None:
            check_integer(self.name, "length", self.length, 0)
        check_name(self.name, "dialect", self.dialect, DYNAMIC_DIALECTS)
        need_two_pairs(self)

    def for_length(self, length: int) -> DynamicNTK:
        """The encoding in force for `length` tokens: a function of it alone, never of what came before."""
        return replace(self, length=check_integer(f"{self.name}.for_length", "length", length, 0))

    def exact_stretch(self) -> ExactArray:
        """The stretch of the larger base."""
        factor, original = exact(self.factor), Decimal(self.original_length)
        length = factor * original if self.dialect == "vllm" else max(Decimal(self.length or 0), original)
        return base_stretch(self, factor * length / original - (factor - 1))


@dataclass(frozen=True)
class NTKByParts(RotaryEncoding):
    r"""NTK-by-parts, YaRN's forerunner: two ramps over the pair index, linear to NTK-aware to unscaled.

    This is the older form, of the authors' code. What YaRN's paper calls NTK-by-parts has one ramp: it is `YaRN` with
    attention_factor 1.

    Pairs with fewer than `linear_turns[1]` turns within L are interpolated linearly, those with more than
    `linear_turns[0]` go NTK-aware, with a ramp between. Of the result, pairs with more than `kept_turns[0]` turns are
    put back to plain RoPE and those with fewer than `kept_turns[1]` left alone, with a ramp between. Both ramps mix
    frequencies and run over the pair index (`refrope.encodings.ramps.index_ramp`).

    Parameters
    ----------
    factor : float >= 1
    original_length : int, L in tokens
    linear_turns, kept_turns : (more, fewer), in turns within L
        The constants of the authors' code, (1.25, 0.75) and (16, 2).

    References
    ----------
    jquesnelle/yarn at commit 995db5b5, LlamaPartNTKScaledRotaryEmbedding. No logit temperature.
    """

    factor: float = 4.0
    original_length: int = 2048
    linear_turns: tuple[float, float] = (1.25, 0.75)
    kept_turns: tuple[float, float] = (16.0, 2.0)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._check_factor(self.factor)
        check_integer(self.name, "original_length", self.original_length, 1)
        for name in ("linear_turns", "kept_turns"):
            turns = check_numbers(self.name, name, getattr(self, name), 2, "a finite number > 0", 0.0, above=True)
            check_number(self.name, f"{name}[0]", turns[0], f"a finite number >= {name}[1] = {turns[1]}", turns[1])
            object.__setattr__(self, name, turns)
        need_two_pairs(self)

    def exact_stretch(self) -> ExactArray:
        """One over the mixture of three frequencies."""
        factor = exact(self.factor)
        ntk_share = index_ramp(self, self.original_length, *self.linear_turns)
        ntk = 1 / base_stretch(self, factor)
        mixed = (1 - ntk_share) / factor + ntk_share * ntk
        kept = index_ramp(self, self.original_length, *self.kept_turns)
        stretch: ExactArray = 1 / ((1 - kept) * mixed + kept)
        return stretch
