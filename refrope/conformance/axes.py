"""Three of the four axes along which a wrong function differs: positions, circle, amplitude."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import precision
from refrope.conformance.formulas import FloatArray
from refrope.encodings import LinearPI, RotaryEncoding, XPos, YaRN


@dataclass(frozen=True, eq=False)
class Change:
    """One way to go wrong along an axis; the one without a name changes nothing."""

    name: str
    words: str
    apply: Callable[..., Any]
    likely: bool = True  # tried before what is not, where one mistake has several explanations
    note: str = ""  # of one without a name: what is added to the words for the frequencies


def places(encoding: RotaryEncoding) -> list[Change]:
    """What may be taken for the positions."""
    inner = encoding.innermost
    found = [
        Change("", "", lambda p: p),
        Change("off-by-one", "off by one position: m + 1 where m is meant", lambda p: p + 1.0),
        Change("off-by-one-less", "off by one position: m - 1 where m is meant", lambda p: p - 1.0),
        Change("positions-bfloat16", "positions in bfloat16", lambda p: precision.round_to_bfloat16(p).astype(float)),
        Change("positions-float16", "positions in float16", _float16),
        Change("positions-doubled", "positions counted twice: 2 m where m is meant", lambda p: 2.0 * p, likely=False),
        Change("positions-reversed", "positions times -1", lambda p: -p, likely=False),
        Change("positions-int8", "positions wrapped at 8 bits", lambda p: np.mod(p + 128, 256) - 128),
        Change("positions-int16", "positions wrapped at 16 bits", lambda p: np.mod(p + 2**15, 2**16) - 2**15),
    ]
    original = getattr(inner, "original_length", None)
    for length in dict.fromkeys([original, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536]):
        if length is not None:
            found += [
                Change(
                    "positions-clamped", f"positions clamped at {length - 1}", lambda p, n=length: np.minimum(p, n - 1)
                ),
                Change("positions-wrapped", f"positions taken modulo {length}", lambda p, n=length: np.mod(p, n)),
                Change(
                    "positions-unturned",
                    f"positions from {length} on are not turned, as if they were 0",
                    lambda p, n=length: np.where(p < n, p, 0.0),
                ),
            ]
    factor = getattr(inner, "factor", None)
    if factor is not None and factor > 1 and not isinstance(inner, LinearPI):  # there it is another factor
        found += [
            Change("positions-divided", f"positions divided by {factor:g}", lambda p: p / factor, likely=False),
            Change("positions-multiplied", f"positions multiplied by {factor:g}", lambda p: p * factor, likely=False),
        ]
    if isinstance(inner, LinearPI) and inner.factor > 1:  # its frequencies hold the division already
        words = f"positions divided by {factor:g} and rounded"
        found += [
            Change(
                "positions-floored", f"{words} down ({factor:g} tokens share an angle)", _in_steps(np.floor, factor)
            ),
            Change("positions-rounded", f"{words} to whole numbers", _in_steps(np.round, factor)),
        ]
    return found


def _in_steps(rounded: Callable[..., Any], factor: Any) -> Callable[..., Any]:
    return lambda p: rounded(p / factor) * factor


def _float16(positions: npt.NDArray[Any]) -> FloatArray:
    with np.errstate(over="ignore"):
        rounded = positions.astype(np.float16).astype(np.float64)
    return np.where(np.isfinite(rounded), rounded, 0.0)


_CIRCLES = [
    Change("", "", lambda z: z),
    Change("sign-reversed", "the rotation sign reversed: pairs turn by -m theta", np.conj),
    Change("cos-sin-swapped", "cos and sin in each other's place", lambda z: 1j * np.conj(z)),
    Change("rotated-twice", "the rotation applied twice", lambda z: z * z, likely=False),
    Change(
        "cos-of-cos",
        "cos and sin taken twice: cos(cos(angle)), sin(sin(angle))",
        lambda z: np.cos(z.real) + 1j * np.sin(z.imag),
    ),
    Change(
        "cos-of-cos",
        "the table of cos taken for the angles: cos(cos(angle)), sin(cos(angle))",
        lambda z: np.exp(1j * z.real),
    ),
    Change("sin-missing", "sin taken as 0", lambda z: z.real + 0j),
]


def circles(encoding: RotaryEncoding, role: str) -> list[Change]:
    """What may be done to cos and sin."""
    if not isinstance(encoding.innermost, XPos):
        return _CIRCLES
    found, wanted = ("keys", "queries") if role == "q" else ("queries", "keys")
    words = f"{found} are turned where {wanted} were declared: amplitudes are the inverse"
    return [*_CIRCLES, Change("other-role", words, lambda z: 1 / np.conj(z))]


def amplitudes(encoding: RotaryEncoding, measured: float | None) -> list[Change]:
    """What may multiply the tables instead of the attention factor.

    A change takes cos + i sin and the attention factor that goes with the frequencies. `measured` is the amplitude of
    all entries, where they have the same.
    """
    inner, a = encoding.innermost, encoding.attention_factor
    factor = getattr(inner, "factor", 1.0)
    temperature = 0.1 * float(np.log(max(factor, 1.0))) + 1
    known: list[tuple[str, str, float]] = []
    if a != 1.0:
        known += [
            ("amplitude-missing", "the attention factor not applied", 1.0),
            ("amplitude-twice", "the attention factor applied twice", a**2),
            ("amplitude-inverse", "tables divided by the attention factor", 1 / a),
            ("amplitude-root", "the attention factor's square root on the tables", a**0.5),
        ]
    if isinstance(inner, YaRN) and encoding.softmax_factor != 1.0:
        words = "the softmax factor (mscale squared) applied to the tables"
        known.append(("amplitude-softmax", words, a * encoding.softmax_factor))
        known.append(("amplitude-mscale", "the tables multiplied by mscale", a * encoding.softmax_factor**0.5))
    if temperature != a:
        words = "YaRN's temperature 0.1 ln(s) + 1 on the tables, instead of the attention factor declared"
        known.append(("amplitude-yarn", words, temperature))
        known.append(("amplitude-yarn-extra", words.replace("instead of", "beside"), a * temperature))
    found = [
        Change("", "", lambda z, own: z * own),
        Change(
            "", "", lambda z, own: z * a, likely=False, note=" (frequencies only: the attention factor is as declared)"
        ),
        *(Change(name, words, lambda z, own, by=by: z * by) for name, words, by in known),
    ]
    if a != 1.0:
        words = "the attention factor on {} alone"
        found += [
            Change("amplitude-cos-only", words.format("cos"), lambda z, own: own * z.real + 1j * z.imag),
            Change("amplitude-sin-only", words.format("sin"), lambda z, own: z.real + 1j * own * z.imag),
        ]
    if measured is not None:
        shown, wanted = _told_apart(measured, a)
        words = f"tables multiplied by {shown} where {wanted} was declared"
        found.append(Change("amplitude", words, lambda z, own: z * measured, likely=False))
    return found


def _told_apart(one: float, other: float) -> tuple[str, str]:
    """Both numbers with five digits, or as many more as make their texts differ; 17 do for any two."""
    texts = [(f"{one:.{digits}g}", f"{other:.{digits}g}") for digits in range(5, 18)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[0])
