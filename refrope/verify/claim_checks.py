"""The paper's numeric claims (Wang et al. 2024, arXiv:2403.00071), each worked out again in other ways.

Where the paper's figure is off, the check holds what its own formula gives; tutorials/errata.md has the differences.
"""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import numpy as np

from refrope.analysis import critical_pair, lcm_horizon, sum_of_periods
from refrope.encodings import DynamicNTK, Llama3, NTKAware, Resonance, RoPE, YaRN
from refrope.settings import PRESETS
from refrope.verify.tally import Check, Tally
from refrope.verify.theorem_checks import MODELS

_DIGITS = 60
_LLAMA2_LCM = 7057974406910048702415100928873416964126012399455200
_RELATIVE = 1e-13  # float64 formulas with a few powers and logarithms


def _pi() -> Decimal:
    """Machin's formula: pi = 16 arctan(1/5) - 4 arctan(1/239)."""

    def arctan_of_one_over(n: int) -> Decimal:
        power, total, k = Decimal(1) / n, Decimal(0), 0
        while power > Decimal(10) ** -(_DIGITS + 3):
            total += (-1) ** k * power / (2 * k + 1)
            power /= n * n
            k += 1
        return total

    return 16 * arctan_of_one_over(5) - 4 * arctan_of_one_over(239)


def plain_wavelengths(turned: int, base: float) -> list[Decimal]:
    """``2 pi b^(2j/d)`` in 60 digits, by logarithm and exponential, which `refrope.encodings` does not use for it."""
    with decimal.localcontext(decimal.Context(prec=_DIGITS + 5)):
        logarithm, pi = Decimal(base).ln(), _pi()
        return [2 * pi * (logarithm * 2 * j / turned).exp() for j in range(turned // 2)]


def _wavelengths(tally: Tally) -> None:
    for model in MODELS:
        encoding = model.encoding
        if type(encoding) is not RoPE:
            continue
        exact = plain_wavelengths(encoding.turned, encoding.base)
        tally.same(encoding.wavelengths, np.array([float(x) for x in exact]), f"{model.name}: wavelengths")
        whole = np.array([int(x.to_integral_value()) for x in exact], np.int64)
        tally.same(Resonance(encoding).periods, whole, f"{model.name}: whole wavelengths")


def _pre_critical_pairs(tally: Tally) -> None:
    exact = plain_wavelengths(64, 1e4)
    tally.true(exact[8] < 64 < exact[9], "lambda_8 < 64 < lambda_9")
    tally.true(critical_pair(RoPE(64), 64) == sum(x < 64 for x in exact) == 9, "9 of 32 pairs are pre-critical")
    tally.true(sum(x < 64 for x in plain_wavelengths(128, 1e4)) == 17, "17, as printed, is the number for head_dim 128")


def _least_common_multiple(tally: Tally) -> None:
    whole = [int(x.to_integral_value()) for x in plain_wavelengths(128, 1e4) if x < 4096]
    tally.true(len(whole) == 46, "46 of LLaMA-2's 64 pairs are pre-critical at 4096 tokens")
    tally.true(math.lcm(*whole) == _LLAMA2_LCM > 7 * 10**51, "LCM of LLaMA-2's pre-critical wavelengths > 7e51")
    tally.true(lcm_horizon(RoPE(128), 4096) == _LLAMA2_LCM, "lcm_horizon gives it")
    periods = [int(x.to_integral_value()) for x in plain_wavelengths(128, 1e4)]
    tally.true(sum_of_periods(RoPE(128)) == sum(periods) == 405_898, "one period of every pair: 405,898 entries")


def _rounding(tally: Tally) -> None:
    for model in MODELS:
        exact = model.encoding.for_length(model.longest)
        ratio = Resonance(exact).wavelengths / exact.wavelengths
        # Rounding moves a wavelength by half a token, and the shortest is 2 pi.
        tally.true(
            np.abs(ratio - 1) <= 0.5 / exact.wavelengths, f"{model.name}: rounding moves by half a token at most"
        )
    plain, whole = RoPE(128), Resonance(RoPE(128))
    tally.within(whole.inv_freq[0], 2 * math.pi / 6, _RELATIVE, "the fastest pair: from 6.28 to 6 tokens")
    change = np.abs(whole.inv_freq / plain.inv_freq - 1)
    tally.true(0.047 < change[0] <= change.max() < 0.048, "LLaMA-2: 4.7 % in frequency at most")


def _yarn(tally: Tally) -> None:
    """Section 3's wavelength form, with floats and a loop; and that of YaRN's own paper, which blends frequencies."""
    for length, factor, fast, slow in ((64, 4.0, 32.0, 1.0), (4096, 8.0, 32.0, 1.0), (2048, 16.0, 4.0, 1.0)):
        own = YaRN(64, 1e4, factor, length, fast, slow, dialect="resonance-paper")
        other = YaRN(64, 1e4, factor, length, fast, slow, dialect="paper")
        for j in range(32):
            wavelength = 2 * math.pi * 1e4 ** (2 * j / 64)
            turns = length / wavelength
            kept = 1.0 if turns > fast else 0.0 if turns < slow else (turns - slow) / (fast - slow)
            blended = (1 - kept) * factor * wavelength + kept * wavelength
            tally.within(
                own.wavelengths[j], blended, _RELATIVE * blended, f"L {length}, s {factor}, pair {j}: wavelength"
            )
            frequency = ((1 - kept) / factor + kept) / wavelength * 2 * math.pi
            tally.within(
                other.inv_freq[j], frequency, _RELATIVE * frequency, f"L {length}, s {factor}, pair {j}: paper"
            )
        temperature = 0.1 * math.log(factor) + 1
        tally.within(own.attention_factor, temperature, _RELATIVE, f"s {factor}: 0.1 ln s + 1")


def _llama3(tally: Tally) -> None:
    for factor, length in ((8.0, 8192), (32.0, 8192)):
        yarn = YaRN(128, 5e5, factor, length, beta_fast=4.0, beta_slow=1.0, dialect="paper")
        llama = Llama3(128, base=5e5, factor=factor, original_length=length)
        tally.same(
            llama.inv_freq, yarn.inv_freq, f"Llama 3's ramp, s {factor}, is YaRN's of the paper with 1 and 4 turns"
        )


def _ntk(tally: Tally) -> None:
    for factor in (2.0, 4.0, 8.0):
        stretch = NTKAware(128, factor=factor).stretch
        assert stretch is not None
        tally.same(
            stretch[[0, -1]], np.array([1.0, factor]), f"NTK-aware, s {factor}: 1 for the fastest, s for the slowest"
        )
        other = NTKAware(128, factor=factor, dialect="scaled-base").inv_freq
        tally.same(other, RoPE(128, 1e4 * factor).inv_freq, f"base s b of the paper's appendix, s {factor}")
    dynamic = DynamicNTK(128, factor=1.0, original_length=4096)
    for length, growth in ((4096, 1.0), (8192, 2.0), (16_384, 4.0)):
        tally.same(
            dynamic.for_length(length).inv_freq, NTKAware(128, factor=growth).inv_freq, f"dynamic at {length} tokens"
        )


def _swapped_in(tally: Tally) -> None:
    """The PosGen code's YaRN: s = 257 / 65, ramp over the index with 257 where 65 is the original length."""
    given = {"factor": 257 / 65, "original_length": 65, "beta_fast": 2.0, "beta_slow": 1.0}
    right, official = YaRN(64, **given), YaRN(64, **given, dialect="official-posgen")  # type: ignore[arg-type]
    for encoding, length, ends in ((right, 65, (5, 9)), (official, 257, (10, 13))):
        ramp = [64 * math.log(length / (2 * math.pi * turns)) / (2 * math.log(1e4)) for turns in (2.0, 1.0)]
        low, high = math.floor(ramp[0]), math.ceil(ramp[1])
        tally.true((low, high) == ends, f"original length {length}: the ramp's ends are pairs {ends}")
        kept = [1 - min(max((j - low) / (high - low), 0), 1) for j in range(32)]
        frequencies = np.array([((1 - g) * 65 / 257 + g) * 1e4 ** (-2 * j / 64) for j, g in enumerate(kept)])
        tally.within(encoding.inv_freq, frequencies, _RELATIVE * frequencies, f"original length {length}: frequencies")
    tally.within(right.attention_factor, 1.1375, 5e-5, "cos and sin times 1.1375")
    tally.within(right.attention_factor**2, 1.294, 5e-4, "logits times 1.294")


def _model(tally: Tally) -> None:
    shapes = PRESETS["paper"].model.shapes()
    layer = 4 * 512 * 8 * 64 + 2 * 512 * 2048 + 2 * 512
    tally.true(
        sum(math.prod(s) for s in shapes.values()) == 2 * layer + 18 * 512 + 512, "weights of two T5-Small layers"
    )
    tally.true(round((2 * layer + 18 * 512 + 512) / 1e6, 1) == 6.3, "6.3 million of them")


CHECKS = [
    Check("claims", "wavelengths and whole wavelengths are those of another way to 60 digits", _wavelengths),
    Check("claims", "9 of 32 pairs are pre-critical in PosGen (the paper prints 17)", _pre_critical_pairs),
    Check(
        "claims", "LLaMA-2's pre-critical pairs come round together after more than 7e51 tokens", _least_common_multiple
    ),
    Check("claims", "rounding moves a wavelength by half a token at most: 4.7 % of a frequency in LLaMA-2", _rounding),
    Check("claims", "YaRN is the formula of Section 3, and that of YaRN's own paper; temperature 0.1 ln s + 1", _yarn),
    Check("claims", "Llama 3's scaling is YaRN's paper with turns 1 and 4", _llama3),
    Check("claims", "NTK-aware stretches from 1 to s; dynamic NTK follows the length", _ntk),
    Check("claims", "the code's YaRN in PosGen: s = 257/65, ramp 10 to 13 where 5 to 9 is meant", _swapped_in),
    Check("claims", "the paper's model has 6.3 million weights", _model),
]
