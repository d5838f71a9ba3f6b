"""YaRN: slow pairs are interpolated, fast ones kept, and a ramp lies between; logits get a temperature."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass

from refrope.encodings.base import Derived, ExactArray, RotaryEncoding, exact
from refrope.encodings.ramps import index_ramp, turn_ramp
from refrope.errors import check_integer, check_name, check_number

RAMPS = ("index", "turns")
BLENDS = ("frequency", "wavelength")
DIALECTS: dict[str, dict[str, str | bool]] = {
    "code": {"ramp": "index", "blend": "frequency", "target_ramp": False},
    "paper": {"ramp": "turns", "blend": "frequency", "target_ramp": False},
    "resonance-paper": {"ramp": "turns", "blend": "wavelength", "target_ramp": False},
    "official-posgen": {"ramp": "index", "blend": "frequency", "target_ramp": True},
}


@dataclass(frozen=True)
class YaRN(RotaryEncoding):
    r"""YaRN, in both published ramps and both blends.

    A pair keeps the share g of its frequency and takes the share 1 - g of the interpolated one. g is 1 for pairs that
    make more than `beta_fast` turns within `original_length`, 0 for those that make fewer than `beta_slow`.

    Parameters
    ----------
    factor : float >= 1
        s, how many times longer the context becomes.
    original_length : int
        L, the length of training in tokens.
    beta_fast, beta_slow : float, beta_fast >= beta_slow > 0
        Where the ramp begins and ends, in turns within L (the papers' beta and alpha).
    ramp : {"index", "turns"}
        "index" (default): g falls linearly over the pair index (`refrope.encodings.ramps.index_ramp`). So does every
        code base that we read, that of YaRN's authors too: it is what "YaRN" means in a model's configuration. "turns":
        g is linear in the number of turns L / wavelength, as the formulas of both papers say.
    blend : {"frequency", "wavelength"}
        What is mixed in the ramp. "frequency" (default), as in YaRN's paper and nearly all code (but PoSE and Grok-1):
        ``inv_freq = ((1 - g) / s + g) * plain``. "wavelength", as the Resonance paper prints it:
        ``wavelength = ((1 - g) * s + g) * plain``.
    truncate : bool
        Index ramp only: round the ramp's ends outwards to whole indices (default; gpt-oss turns it off).
    mscale, mscale_all_dim : float, optional
        DeepSeek's amplitudes, with ``g(c) = 0.1 c ln(s) + 1``: cos and sin are multiplied by ``g(mscale) /
        g(mscale_all_dim)`` instead of g(1), and the softmax scale by ``g(mscale_all_dim)**2``. As in transformers 5.23
        the quotient counts only if both are given and not 0 (DeepSeek's code takes g(0) = 1).
    attention_factor : float > 0, optional
        Replaces the factor of cos and sin, whatever the others say. `dataclasses.replace` keeps a given one and works
        out any other anew.
    target_ramp : bool
        Index ramp only: count its turns within the target length ``round(s L)`` instead of L.
    dialect : {"code", "paper", "resonance-paper", "official-posgen"}, optional
        Not kept, but a name for settings of the fields above; beside it they cannot be given other values.

        - "code": the defaults, for the reason given at `ramp`.
        - "paper": ramp "turns", as YaRN's paper prints it.
        - "resonance-paper": that with blend "wavelength", as the Resonance paper prints it.
        - "official-posgen": target_ramp, as the Resonance paper's own PosGen code has it (sheryc/resonance_rope at
          commit 4a7f5a70), which passes the target length where L is meant.

    References
    ----------
    Peng et al. 2023, arXiv:2309.00071, Section 3.2 (ramp, blend) and 3.4 (temperature).
    Wang et al. 2024, arXiv:2403.00071, Section 3 and appendix, for the wavelength form.
    DeepSeek-AI 2024, arXiv:2405.04434 and its released inference code, for the two amplitudes.
    """

    factor: float = 4.0
    original_length: int = 2048
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    ramp: str = "index"
    blend: str = "frequency"
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float = None  # type: ignore[assignment]  # a number once __post_init__ is through
    target_ramp: bool = False
    dialect: InitVar[str | None] = None

    def __post_init__(self, dialect: str | None) -> None:
        """Check the fields; fill in what follows from others."""
        super().__post_init__()
        self._check_factor(self.factor)
        check_integer(self.name, "original_length", self.original_length, 1)
        slow = check_number(self.name, "beta_slow", self.beta_slow, "a finite number > 0", 0.0, above=True)
        if self.lenient:
            check_number(self.name, "beta_fast", self.beta_fast, "a finite number > 0", 0.0, above=True)
        else:
            check_number(self.name, "beta_fast", self.beta_fast, f"a finite number >= beta_slow = {slow}", slow)
        check_name(self.name, "ramp", self.ramp, RAMPS)
        check_name(self.name, "blend", self.blend, BLENDS)
        for name in ("truncate", "target_ramp"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{self.name}: {name} is {getattr(self, name)!r}, expected True or False")
        if dialect is not None:
            self._speak(dialect)
        for name in ("mscale", "mscale_all_dim"):
            if getattr(self, name) is not None:
                check_number(self.name, name, getattr(self, name), "a finite number >= 0", 0.0)
        if self.attention_factor is None or isinstance(self.attention_factor, Derived):
            object.__setattr__(self, "attention_factor", Derived(self._temperature()))
        check_number(self.name, "attention_factor", self.attention_factor, "a finite number > 0", 0.0, above=True)

    def _speak(self, dialect: str) -> None:
        check_name(self.name, "dialect", dialect, DIALECTS)
        for name, value in DIALECTS[dialect].items():
            if getattr(self, name) not in (value, DIALECTS["code"][name]):
                raise ValueError(
                    f"{self.name}: {name} is {getattr(self, name)!r}, but dialect {dialect!r} sets {value!r}"
                )
            object.__setattr__(self, name, value)

    def _temperature(self) -> float:
        if self.mscale and self.mscale_all_dim:
            return self._amplitude(self.mscale) / self._amplitude(self.mscale_all_dim)
        return self._amplitude(1.0)

    def _amplitude(self, coefficient: float) -> float:
        return 0.1 * coefficient * math.log(max(self.factor, 1.0)) + 1.0

    @property
    def softmax_factor(self) -> float:
        """``g(mscale_all_dim)**2``; 1 without mscale_all_dim."""
        return self._amplitude(self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0

    def exact_stretch(self) -> ExactArray:
        """``1 / ((1 - g) / s + g)``, or ``(1 - g) s + g`` with the wavelength blend."""
        kept, factor = self.kept_share(), exact(self.factor)
        if self.blend == "wavelength":
            stretch: ExactArray = (1 - kept) * factor + kept
        else:
            stretch = 1 / ((1 - kept) / factor + kept)
        return stretch

    def kept_share(self) -> ExactArray:
        """The share g of its own frequency that each pair keeps, (pairs,) decimals in [0, 1]."""
        ends = self.beta_fast, self.beta_slow
        if self.ramp == "turns":
            return turn_ramp(self, self.original_length, *ends)
        length = round(self.original_length * self.factor) if self.target_ramp else self.original_length
        return index_ramp(self, length, *ends, truncate=self.truncate)
