"""The rotary formulas once more, in 60-digit arithmetic, written from the papers and without the package's own code.

parameters ──► stretch of every pair ──► inv_freq, wavelengths, periods ──► cos and sin, amplitude included

A pair's stretch g says how much slower it turns than in plain RoPE: its frequency is base^(-2j/d) / g, where g is
infinite for a pair that stands still. Parameters are float64 values and taken as exactly what they are. Nothing is
rounded before `rounded`, with three exceptions that are part of a variant: Resonance's whole wavelengths, the whole
ends of YaRN's index ramp, and how many pairs a proportion means.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mpmath
from mpmath import mpf

DIGITS = 60
mpmath.mp.dps = DIGITS
TURN = 2 * mpmath.pi
INFINITE = mpf("inf")
# A decision (a floor, a rounding) is trusted when the exact value is further than this from where it changes.
DECISION_MARGIN = mpf(10) ** -30

Parameters = dict[str, Any]


# ---- from exact numbers to float64 and whole numbers ----


def rounded(x: mpf) -> float | None:
    """The float64 nearest to `x`, None for infinity; an error if `x` lies so near a tie that 60 digits cannot tell."""
    if not mpmath.isfinite(x):
        return None
    mantissa, _ = x.man_exp
    spare = int(abs(mantissa)).bit_length() - 53
    if spare > 1:
        half = 1 << (spare - 1)
        away = abs((int(abs(mantissa)) & ((1 << spare) - 1)) - half)
        if 0 < away << 40 < half:
            raise ArithmeticError(f"{x} is too near the middle of two float64 numbers")
    return float(x)


def floor_of(x: mpf) -> int:
    """The floor of `x`, which must not be within rounding of a whole number unless it is one."""
    near = abs(x - mpmath.nint(x))
    if 0 < near < DECISION_MARGIN:
        raise ArithmeticError(f"floor of {x}: too near a whole number")
    return int(mpmath.floor(x))


def nearest_whole(x: mpf) -> int:
    """`x` rounded to the nearest whole number; ties do not occur among wavelengths."""
    return floor_of(x + mpf(1) / 2)


# ---- stretches ----


def _width(p: Parameters) -> int:
    """d: how many features turn."""
    return p["rotary_dim"] or p["head_dim"]


def _turns_within(p: Parameters, length: int) -> list[mpf]:
    """How many turns each pair of plain RoPE makes within `length` tokens."""
    return [length / wavelength for wavelength in plain_wavelengths(p)]


def plain_wavelengths(p: Parameters) -> list[mpf]:
    """2 pi base^(2j/d), Su et al. 2021, Eq. 15."""
    d = _width(p)
    return [TURN * mpmath.power(mpf(p["base"]), mpf(2 * j) / d) for j in range(d // 2)]


def index_ramp_ends(p: Parameters, length: int, fast: float, slow: float, truncate: bool) -> tuple[mpf, mpf]:
    """The pair indices where the share of the plain frequency leaves 1 and reaches 0, clamped to [0, d - 1]."""
    d, log_base = _width(p), mpmath.log(mpf(p["base"]))
    low, high = (d * mpmath.log(length / (TURN * mpf(turns))) / (2 * log_base) for turns in (fast, slow))
    if truncate:
        low, high = mpf(floor_of(low)), mpf(-floor_of(-high))
    return max(low, mpf(0)), min(high, mpf(d - 1))


def index_ramp(p: Parameters, length: int, fast: float, slow: float, truncate: bool) -> list[mpf]:
    """The share of its plain frequency that each pair keeps, linear in the pair index."""
    low, high = index_ramp_ends(p, length, fast, slow, truncate)
    if low == high:
        high += mpf(1) / 1000
    return [1 - _clip((j - low) / (high - low)) for j in range(_width(p) // 2)]


def turns_ramp(p: Parameters, length: int, fast: float, slow: float) -> list[mpf]:
    """The same share, linear in the number of turns; a step where both ends are equal."""
    if fast == slow:
        return [mpf(turns > slow) for turns in _turns_within(p, length)]
    return [_clip((turns - mpf(slow)) / (mpf(fast) - mpf(slow))) for turns in _turns_within(p, length)]


def _clip(x: mpf) -> mpf:
    return min(max(x, mpf(0)), mpf(1))


def _ntk_exponents(d: int) -> list[mpf]:
    """Powers of s for each pair, j / (d/2 - 1): what base b s^(d/(d-2)) means for its stretch."""
    return [mpf(2 * j) / (d - 2) for j in range(d // 2)]


def _rope(p: Parameters) -> list[mpf]:
    return [mpf(1)] * (_width(p) // 2)


def _linear(p: Parameters) -> list[mpf]:
    return [mpf(p["factor"])] * (_width(p) // 2)


def _ntk(p: Parameters) -> list[mpf]:
    d, s = _width(p), mpf(p["factor"])
    pairs = d // 2
    if p["dialect"] == "ntk-aware":
        return [mpmath.power(s, e) for e in _ntk_exponents(d)]
    if p["dialect"] == "scaled-base":
        return [mpmath.power(s, mpf(j) / pairs) for j in range(pairs)]
    if p["dialect"] == "fixed":
        return [mpmath.power(s, mpf(j + 1) / pairs) for j in range(pairs)]
    power = mpf(p["mixed_b"])  # "mixed"
    rate = mpmath.log(s) / mpmath.power(mpf(pairs), power)
    return [mpmath.exp(rate * mpmath.power(mpf(j + 1), power)) for j in range(pairs)]


def _dynamic_ntk(p: Parameters) -> list[mpf]:
    s, original = mpf(p["factor"]), p["original_length"]
    if p["dialect"] == "vllm":
        growth = s * s - s + 1
    elif p["length"] is None or p["length"] <= original:
        growth = mpf(1)
    else:
        growth = s * p["length"] / original - (s - 1)
    return [mpmath.power(growth, e) for e in _ntk_exponents(_width(p))]


def _ntk_by_parts(p: Parameters) -> list[mpf]:
    s, length = mpf(p["factor"]), p["original_length"]
    to_ntk = index_ramp(p, length, *p["linear_turns"], True)
    to_plain = index_ramp(p, length, *p["kept_turns"], True)
    speeds = []
    for e, ntk, plain in zip(_ntk_exponents(_width(p)), to_ntk, to_plain, strict=True):
        mixed = (1 - ntk) / s + ntk * mpmath.power(s, -e)
        speeds.append((1 - plain) * mixed + plain)
    return [1 / speed for speed in speeds]


def _yarn(p: Parameters) -> list[mpf]:
    s, fast, slow = mpf(p["factor"]), p["beta_fast"], p["beta_slow"]
    if p["ramp"] == "turns":
        kept = turns_ramp(p, p["original_length"], fast, slow)
    else:
        kept = index_ramp(p, ramp_length(p), fast, slow, p["truncate"])
    if p["blend"] == "wavelength":
        return [(1 - g) * s + g for g in kept]
    return [1 / ((1 - g) / s + g) for g in kept]


def ramp_length(p: Parameters) -> int:
    """The length whose turns YaRN's index ramp counts; round() is Python's, to the even number at a tie."""
    return round(p["factor"] * p["original_length"]) if p["target_ramp"] else p["original_length"]


def _llama3(p: Parameters) -> list[mpf]:
    s = mpf(p["factor"])
    kept = turns_ramp(p, p["original_length"], p["high_freq_factor"], p["low_freq_factor"])
    return [1 / ((1 - g) / s + g) for g in kept]


def _longrope(p: Parameters) -> list[mpf]:
    long = p["length"] is not None and p["length"] > p["original_length"]
    return [mpf(g) for g in p["long_factor" if long else "short_factor"]]


def _fope(p: Parameters) -> list[mpf]:
    """Only pairs of more than one turn within the training length turn at all."""
    return [mpf(1) if turns > 1 else INFINITE for turns in _turns_within(p, p["train_length"])]


def _proportional(p: Parameters) -> list[mpf]:
    d = _width(p)
    turning = int(p["proportion"] * d // 2)  # the product is a float64's, as where the variant comes from
    return [mpf(p["factor"]) if j < turning else INFINITE for j in range(d // 2)]


STRETCHES = {
    "rope": _rope,
    "yarn": _yarn,
    "linear": _linear,
    "ntk": _ntk,
    "dynamic-ntk": _dynamic_ntk,
    "ntk-by-parts": _ntk_by_parts,
    "llama3": _llama3,
    "longrope": _longrope,
    "xpos": _rope,
    "fope": _fope,
    "proportional": _proportional,
}


# ---- amplitudes ----


def _log_amplitude(factor: float, weight: float) -> mpf:
    """0.1 weight ln(s) + 1."""
    return mpf(weight) * mpmath.log(mpf(factor)) / 10 + 1


def attention_factor(p: Parameters) -> mpf:
    """What multiplies cos and sin."""
    if p["variant"] not in ("yarn", "longrope"):
        return mpf(1)
    if p["attention_factor"] is not None:
        return mpf(p["attention_factor"])
    s = p["factor"]
    if s <= 1:
        return mpf(1)
    if p["variant"] == "longrope":
        return mpmath.sqrt(1 + mpmath.log(mpf(s)) / mpmath.log(mpf(p["original_length"])))
    if p["mscale"] and p["mscale_all_dim"]:
        return _log_amplitude(s, p["mscale"]) / _log_amplitude(s, p["mscale_all_dim"])
    return _log_amplitude(s, 1.0)


def softmax_factor(p: Parameters) -> mpf:
    """What multiplies the softmax scale: DeepSeek's g(mscale_all_dim)^2, else 1."""
    if p["variant"] != "yarn" or not p["mscale_all_dim"] or p["factor"] <= 1:
        return mpf(1)
    return _log_amplitude(p["factor"], p["mscale_all_dim"]) ** 2


# ---- a whole setting ----


@dataclass(frozen=True)
class Setting:
    """All exact numbers of one encoding; lists have one entry per pair."""

    inner: Parameters  # of the variant itself, without Resonance around it
    wavelengths: list[mpf]  # infinite where a pair stands still
    stretch: list[mpf] | None
    periods: list[int] | None  # Resonance after scaling: whole wavelengths, 0 for a pair that stands still
    attention_factor: mpf
    softmax_factor: mpf

    @cached_property
    def inv_freq(self) -> list[mpf]:
        """Radians per token."""
        return [TURN / wavelength if mpmath.isfinite(wavelength) else mpf(0) for wavelength in self.wavelengths]

    def table(self, position: int, role: str | None) -> tuple[list[mpf], list[mpf]]:
        """Both tables at one position, with everything that the variant does to them."""
        if self.periods is None:
            angles = [position * w for w in self.inv_freq]
        else:
            angles = [TURN * (position % n) / n if n else mpf(0) for n in self.periods]
        both = [mpmath.cos_sin(angle) for angle in angles]
        cos, sin = [c for c, _ in both], [s for _, s in both]
        if self.inner["variant"] == "xpos":
            amplitudes = _xpos_amplitudes(self.inner, position, role)
        else:
            amplitudes = [self.attention_factor] * len(cos)
        if self.inner["variant"] == "fope":
            cos, sin = _fope_mixed(self.inner, self.wavelengths, cos, sin)
        return [a * c for a, c in zip(amplitudes, cos, strict=True)], [
            a * s for a, s in zip(amplitudes, sin, strict=True)
        ]


def _xpos_amplitudes(p: Parameters, position: int, role: str | None) -> list[mpf]:
    """Sun et al. 2022: zeta_j^((m - c) / scale_base) for queries, its inverse for keys."""
    d, gamma = _width(p), mpf(p["gamma"])
    exponent = (position - mpf(p["centre"])) / mpf(p["scale_base"])
    exponent = exponent if role == "q" else -exponent
    return [mpmath.power((mpf(2 * j) / d + gamma) / (1 + gamma), exponent) for j in range(d // 2)]


def _fope_mixed(p: Parameters, wavelengths: list[mpf], cos: list[mpf], sin: list[mpf]) -> tuple[list[mpf], list[mpf]]:
    """Rows of the turning pairs times the matrices; cos 1 and sin 0 (or 1) for the pairs that stand still."""
    turning = sum(map(mpmath.isfinite, wavelengths))
    filling = {"identity": (mpf(1), mpf(0)), "ones": (mpf(1), mpf(1))}[p["padding"]]
    mixed = []
    for row, matrix, fill in zip((cos, sin), (p["cos_coefficients"], p["sin_coefficients"]), filling, strict=True):
        row = row[:turning]
        if matrix is not None:
            row = [mpmath.fdot(row, [mpf(line[i]) for line in matrix]) for i in range(turning)]
        mixed.append(row + [fill] * (len(cos) - turning))
    return mixed[0], mixed[1]


def setting(parameters: Parameters) -> Setting:
    """The exact numbers of a group's parameters."""
    resonance = parameters["variant"] == "resonance"
    inner = parameters["encoding"] if resonance else parameters
    stretch = STRETCHES[inner["variant"]](inner)
    plain = plain_wavelengths(inner)
    periods = None
    if resonance and parameters["dialect"] == "after":
        wavelengths = [w * g for w, g in zip(plain, stretch, strict=True)]
        periods = [nearest_whole(w) if mpmath.isfinite(w) else 0 for w in wavelengths]
        wavelengths = [mpf(n) if n else INFINITE for n in periods]
        stretch = [w / u for w, u in zip(wavelengths, plain, strict=True)]
    elif resonance:
        wavelengths = [nearest_whole(u) * g for u, g in zip(plain, stretch, strict=True)]
        stretch = [w / u for w, u in zip(wavelengths, plain, strict=True)]
    else:
        wavelengths = [w * g for w, g in zip(plain, stretch, strict=True)]
    return Setting(
        inner=inner,
        wavelengths=wavelengths,
        stretch=None if inner["variant"] == "fope" else stretch,
        periods=periods,
        attention_factor=attention_factor(inner),
        softmax_factor=softmax_factor(inner),
    )


# ---- rotation ----


def rotated(features: list[float], cos: list[mpf], sin: list[mpf], layout: str, suffix: bool) -> list[mpf]:
    """One row with its pairs turned: (a, b) -> (a cos - b sin, a sin + b cos); features beyond the pairs unchanged."""
    pairs = len(cos)
    start = len(features) - 2 * pairs if suffix else 0
    row = [mpf(x) for x in features]
    for j in range(pairs):
        first, second = (start + j, start + j + pairs) if layout == "half" else (start + 2 * j, start + 2 * j + 1)
        a, b = mpf(features[first]), mpf(features[second])
        row[first], row[second] = a * cos[j] - b * sin[j], a * sin[j] + b * cos[j]
    return row


def sixty_fourths(start: int, rows: int, columns: int) -> list[list[float]]:
    """Multiples of 1/64 in [-1, 1], which float16 and bfloat16 hold exactly, from the recurrence below."""
    state, result = start, []
    for _ in range(rows):
        row = []
        for _ in range(columns):
            state = (1_103_515 * state + 24_691) % 2_147_483_647
            row.append((state // 1024 % 129 - 64) / 64)
        result.append(row)
    return result
