"""Frequencies that no encoding has: the formulas as people mistype them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refrope.encodings import DynamicNTK, Llama3, NTKAware, Resonance, RotaryEncoding, YaRN
from refrope.encodings.base import exact_arithmetic

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Slip:
    """Frequencies in place of the declared ones.

    Attributes
    ----------
    name, words : str
        `words` completes "It looks like ...".
    inv_freq : (pairs,) float64, radians per token
    amplitude : float
        The attention factor that goes with them.
    encoding : RotaryEncoding or None
        Where the frequencies are those of an encoding.
    likely : bool
        Tried before what is not, where one mistake has several explanations.
    """

    name: str
    words: str
    inv_freq: FloatArray
    amplitude: float
    encoding: RotaryEncoding | None = None
    likely: bool = True


Again = Callable[[RotaryEncoding], RotaryEncoding]  # puts an encoding into the declared Resonance, if there is one
Make = tuple[str, str, Callable[[], RotaryEncoding]]  # a slip's name and words, and what makes its encoding


RATES = (
    ("in-degrees", "angles in degrees, where radians are meant", 180 / np.pi),
    ("from-degrees", "angles taken for degrees and turned into radians once more", np.pi / 180),
    ("times-two-pi", "angles multiplied by 2 pi", 2 * np.pi),
    ("turns", "turns per token, not radians per token: angles are 2 pi times too small", 1 / (2 * np.pi)),
)


def again_as(declared: RotaryEncoding) -> Again:
    """What is wrong inside is still rounded as declared."""
    if isinstance(declared, Resonance):
        return lambda encoding: Resonance(encoding, declared.dialect)
    return lambda encoding: encoding


def as_slip(encoding: RotaryEncoding, name: str = "", words: str = "") -> Slip:
    """The encoding itself."""
    return Slip(name, words, encoding.inv_freq, encoding.attention_factor, encoding)


def formulas(declared: RotaryEncoding, inner: RotaryEncoding) -> Iterator[Slip]:
    """Slips in the formulas of `declared`; `inner` is what is inside any Resonance."""
    pairs, amplitude, d = declared.pairs, declared.attention_factor, inner.turned
    j = np.arange(pairs)
    stretch = np.ones(pairs) if inner.stretch is None else inner.stretch

    def exponents(power: FloatArray) -> FloatArray:
        result: FloatArray = inner.base**-power / stretch
        return result

    yield Slip("exponent-half", "exponents j/d where 2j/d is meant", exponents(j / d), amplitude)
    yield Slip("exponent-from-one", "exponents 2(j+1)/d where 2j/d is meant", exponents(2 * (j + 1) / d), amplitude)
    if pairs > 1:
        words = "exponents from 0 to 1 with both ends (j/(d/2-1)), where 2j/d is meant"
        yield Slip("exponent-endpoint", words, exponents(j / (pairs - 1)), amplitude)
        yield Slip("reversed", "the pairs' frequencies in reverse order", declared.inv_freq[::-1], amplitude)
    with np.errstate(divide="ignore"):
        upside = np.where(declared.inv_freq > 0, 1 / declared.inv_freq, 0.0)
    yield Slip("reciprocal", "the wavelengths over 2 pi (base^(2j/d)), not the frequencies", upside, amplitude)
    yield Slip("wavelengths", "the wavelengths, not the frequencies", 2 * np.pi * upside, amplitude)
    for name, words, rate in RATES:
        yield Slip(name, words, rate * declared.inv_freq, amplitude)
    yield Slip("exponent-whole-head", "exponents 2j/D of the whole head", exponents(2 * j / inner.head_dim), amplitude)
    if inner.stretch is not None and (inner.stretch != 1).any():
        plain, finite = inner.base ** (-2 * j / d), np.where(np.isfinite(stretch), stretch, 1.0)
        yield Slip("multiplied", "frequencies multiplied by the stretch, not divided by it", plain * finite, amplitude)
    if isinstance(inner, YaRN) and inner.factor > 1:
        yield from _yarn_formulas(inner, amplitude)
    if isinstance(inner, Llama3) and inner.factor > 1:
        plain = inner.base ** (-2 * j / d)
        kept = (inner.factor / stretch - 1) / (inner.factor - 1)
        blended = plain / ((1 - kept) * inner.factor + kept)
        yield Slip("wavelength-blend", "wavelengths blended in the ramp, not frequencies", blended, amplitude)
        yield from _reversed_ramps(plain, kept, inner.factor, amplitude)
    if isinstance(inner, (NTKAware, DynamicNTK)) and pairs > 1:
        words = "every frequency divided by s^(d/(d-2)), which should multiply the base"
        every = inner.base ** (-2 * j / d) / inner.factor ** (d / (d - 2))
        yield Slip("ntk-of-frequencies", words, every, amplitude)
    if isinstance(declared, Resonance) and declared.dialect == "after":
        waves = inner.wavelengths
        for name, rounded in (("floor", np.floor(waves)), ("ceil", np.ceil(waves))):
            words = f"wavelengths rounded {'down' if name == 'floor' else 'up'}, not to the nearest"
            yield Slip(f"rounded-{name}", words, 2 * np.pi / np.maximum(rounded, 1), amplitude)
        single = np.round((2 * np.pi / inner.inv_freq.astype(np.float32)).astype(np.float32)).astype(np.float64)
        yield Slip(
            "rounded-float32",
            "wavelengths rounded from float32, some by one or more off",
            2 * np.pi / single,
            amplitude,
        )


def _reversed_ramps(plain: FloatArray, kept: FloatArray, factor: float, amplitude: float) -> Iterator[Slip]:
    words = "the ramp upside down: fast pairs interpolated, slow ones kept"
    yield Slip("ramp-reversed", words, plain * (kept / factor + 1 - kept), amplitude)
    inside = np.where((kept > 0) & (kept < 1), 1 - kept, kept)
    words = "the blend inside the ramp the wrong way round, as if fast pairs there were to be interpolated more"
    yield Slip("blend-reversed", words, plain * ((1 - inside) / factor + inside), amplitude)


def rates(declared: RotaryEncoding, measured: FloatArray) -> Iterator[Slip]:
    """All pairs faster or slower by one number."""
    turning = declared.inv_freq > 0
    if measured.shape != turning.shape or not turning.any():
        return
    rate = float(np.median(measured[turning] / declared.inv_freq[turning]))
    for digits in (3, 6):
        shown = float(f"{rate:.{digits}g}")
        if 1e-3 < shown < 1e3 and shown != 2:  # that is a rotation applied twice
            words = f"every pair turns {shown:g} times as fast as declared"
            yield Slip("rate", words, shown * declared.inv_freq, declared.attention_factor, likely=False)


def _yarn_formulas(inner: YaRN, amplitude: float) -> Iterator[Slip]:
    """Ramps and blends of code that does not follow YaRN's."""
    with exact_arithmetic():
        kept = inner.kept_share().astype(np.float64)
    d, j, s = inner.turned, np.arange(inner.pairs), inner.factor
    plain = inner.base ** (-2 * j / d)
    yield from _reversed_ramps(plain, kept, s, amplitude)
    words = "logarithms of frequencies blended in the ramp, as in Grok-1's yarn_log"
    yield Slip("log-blend", words, plain / s ** (1 - kept), amplitude)
    name = "wavelength" if inner.blend == "frequency" else "frequency"
    stretch = (1 - kept) * s + kept if name == "wavelength" else 1 / ((1 - kept) / s + kept)
    yield Slip(f"{name}-blend", f"{name}s blended in the ramp", plain / stretch, amplitude)
    low, high = (
        d * math.log(inner.original_length / (2 * math.pi * beta)) / (2 * math.log(inner.base))
        for beta in (inner.beta_fast, inner.beta_slow)
    )
    low, high = max(math.floor(low), 0), min(math.ceil(high), d // 2 - 1)
    ramp = 1 - np.clip((j - low) / max(high - low, 1e-3), 0, 1)
    words = "YaRN's ramp cut off at the last pair d/2 - 1, not at d - 1"
    yield Slip("ramp-clamped", words, plain * ((1 - ramp) / s + ramp), amplitude)
    words = "NTK-aware frequencies in the place of the interpolated ones"
    yield Slip("ntk-in-ramp", words, plain * ((1 - kept) * s ** (-j / max(inner.pairs - 1, 1)) + kept), amplitude)
    words = "the factor inside the power: interpolated frequencies are (s b^(2j/d))^-1 with the exponent taken of both"
    yield Slip("factor-in-power", words, (1 - kept) * (s * inner.base) ** (-2 * j / d) + kept * plain, amplitude)
