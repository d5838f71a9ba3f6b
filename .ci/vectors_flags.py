"""What a vector is there for: every flag with its meaning, the bug that it catches, and when a vector carries it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from vectors_formulas import Parameters, Setting, index_ramp_ends, ramp_length


class Flag(NamedTuple):
    """One flag; `holds` gets what its table below says."""

    about: str
    catches: str
    holds: Callable[..., Any]


def original_length(p: Parameters) -> int | None:
    """L of a variant's own parameters (FoPE's train_length), None where it has none."""
    return p.get("original_length", p.get("train_length"))


def _plain_at_factor_one(p: Parameters) -> bool:
    """LongRoPE has its lists, p-RoPE its share, and Hugging Face's dynamic NTK the length, whatever the factor is."""
    return p["variant"] not in ("longrope", "proportional", "dynamic-ntk") or p.get("dialect") == "vllm"


def _yarn_ends(p: Parameters) -> tuple[Any, Any] | None:
    if p["variant"] != "yarn" or p["ramp"] != "index":
        return None
    return index_ramp_ends(p, ramp_length(p), p["beta_fast"], p["beta_slow"], p["truncate"])


def _ends(p: Parameters, test: Callable[[Any, Any], Any]) -> bool:
    ends = _yarn_ends(p)
    return ends is not None and bool(test(*ends))


def _exact_product_differs(p: Parameters) -> bool:
    """Whether floor(proportion d / 2) would be another number with the exact product of the float64 proportion."""
    if p["variant"] != "proportional":
        return False
    d = p["rotary_dim"] or p["head_dim"]
    above, below = p["proportion"].as_integer_ratio()
    as_float = int(p["proportion"] * d // 2)
    decimal = int(round(p["proportion"] * 10_000) * d // 20_000)
    return bool(as_float != above * d // (2 * below) or as_float != decimal)


# Rules get the variant's own parameters p (inside Resonance: those of the encoding in it), the group's parameters g and
# the exact setting e.
GROUP_FLAGS: dict[str, Flag] = {
    "OtherBase": Flag(
        "The base is not 10000.",
        "A base that is not passed on to a scaled variant, so that it silently stays 10000.",
        lambda p, g, e: p["base"] != 10000.0,
    ),
    "SmallHead": Flag(
        "One or two pairs only.",
        "Division by d - 2 or by the number of pairs less one; layouts that are equal by accident.",
        lambda p, g, e: len(e.wavelengths) <= 2,
    ),
    "PartialRotation": Flag(
        "rotary_dim is smaller than head_dim: only so many features turn, and d in every formula is rotary_dim.",
        "Exponents over head_dim instead of rotary_dim, or all features turned; proportional rotation instead.",
        lambda p, g, e: p["rotary_dim"] is not None and p["rotary_dim"] < p["head_dim"],
    ),
    "FactorOne": Flag(
        "The factor is 1: plain RoPE, with amplitude 1.",
        "Ramps, exponents or amplitudes that do something where there is nothing to do.",
        lambda p, g, e: p.get("factor") == 1 and _plain_at_factor_one(p),
    ),
    "Amplitude": Flag(
        "The attention factor is not 1. It is in cos and sin, so that logits of turned features carry its square.",
        "The factor left out, applied twice, or applied to q or k alone. Position 0 shows it alone.",
        lambda p, g, e: e.attention_factor != 1,
    ),
    "GivenAmplitude": Flag(
        "attention_factor is a parameter and takes the place of the formula.",
        "A given factor that is ignored, or multiplied with the formula's.",
        lambda p, g, e: p.get("attention_factor") is not None,
    ),
    "SoftmaxFactor": Flag(
        "The softmax scale has a factor of its own (softmax_factor). It is in no table and in no logit of these files.",
        "The second of the two amplitudes left out: no comparison of tables shows that.",
        lambda p, g, e: e.softmax_factor != 1,
    ),
    "OneAmplitudeConstant": Flag(
        "Of mscale and mscale_all_dim one is missing or 0: cos and sin carry 0.1 ln(s) + 1.",
        "A quotient formed with a missing or zero constant.",
        lambda p, g, e: p["variant"] == "yarn" and bool(p["mscale"]) != bool(p["mscale_all_dim"]),
    ),
    "IndexRamp": Flag(
        "YaRN as in code: the ramp is linear in the pair index.",
        "The ramp of the formulas in print, linear in the number of turns, where a model was trained with this one.",
        lambda p, g, e: p["variant"] == "yarn" and p["ramp"] == "index",
    ),
    "TurnsRamp": Flag(
        "YaRN as its paper prints it: the ramp is linear in the number of turns L / wavelength.",
        "The ramp over the pair index that goes by the same name.",
        lambda p, g, e: p["variant"] == "yarn" and p["ramp"] == "turns",
    ),
    "WavelengthBlend": Flag(
        "Wavelengths are mixed in the ramp, not frequencies.",
        "A mixture of frequencies: equal at both ends of the ramp and different everywhere inside.",
        lambda p, g, e: p["variant"] == "yarn" and p["blend"] == "wavelength",
    ),
    "FractionalRampEnds": Flag(
        "truncate is false: the ends of the index ramp are not rounded to whole indices.",
        "A configuration's truncate that is ignored.",
        lambda p, g, e: p["variant"] == "yarn" and p["ramp"] == "index" and not p["truncate"],
    ),
    "TargetLengthRamp": Flag(
        "The index ramp counts turns within the target length round(s L), half to even, as one public code does.",
        "The target length (257) where the original one (65) is meant, or the other way round when reproducing it.",
        lambda p, g, e: p["variant"] == "yarn" and p["target_ramp"],
    ),
    "RampEndsCoincide": Flag(
        "Both ends of the ramp are the same pair index, or the same number of turns.",
        "Division by zero; the ramp becomes a step.",
        lambda p, g, e: (
            _ends(p, lambda low, high: low == high)
            or (p["variant"] == "yarn" and p["ramp"] == "turns" and p["beta_fast"] == p["beta_slow"])
            or (p["variant"] == "llama3" and p["low_freq_factor"] == p["high_freq_factor"])
        ),
    ),
    "RampStartsAtZero": Flag(
        "The index ramp starts at pair 0, where its start is clamped if no pair makes beta_fast turns.",
        "A ramp that starts below 0.",
        lambda p, g, e: _ends(p, lambda low, high: low == 0),
    ),
    "RampEndsBeyondPairs": Flag(
        "The index ramp ends beyond the last pair; the clamp is d - 1 although there are only d / 2 pairs.",
        "A clamp to d / 2 - 1, the last pair, which steepens the ramp.",
        lambda p, g, e: _ends(p, lambda low, high: high > (p["rotary_dim"] or p["head_dim"]) // 2 - 1),
    ),
    "RampEndClamped": Flag(
        "The end of the index ramp is clamped to d - 1.",
        "An end without its clamp.",
        lambda p, g, e: _ends(p, lambda low, high: high == (p["rotary_dim"] or p["head_dim"]) - 1),
    ),
    "RampReversed": Flag(
        "No pair makes beta_slow turns within L: the index ramp ends before it starts, and every pair is kept.",
        "An order of the ends that is assumed.",
        lambda p, g, e: _ends(p, lambda low, high: high < low),
    ),
    "NtkExponent": Flag(
        "NTK-aware scaling: the exponent of s is d / (d - 2), and the slowest pair is stretched by exactly s.",
        "Base times s, or an exponent over head_dim where fewer features turn.",
        lambda p, g, e: (p["variant"] == "ntk" and p["dialect"] == "ntk-aware") or p["variant"] == "dynamic-ntk",
    ),
    "NtkNamesake": Flag(
        "Another formula that goes by the name of NTK scaling: scaled-base, fixed or mixed.",
        "The NTK-aware formula in its place.",
        lambda p, g, e: p["variant"] == "ntk" and p["dialect"] != "ntk-aware",
    ),
    "StaticDynamic": Flag(
        "Dynamic NTK worked out once, at the target length s L, for sequences of every length.",
        "Dependence on the length where there is none, or none where there is.",
        lambda p, g, e: p["variant"] == "dynamic-ntk" and p["dialect"] == "vllm",
    ),
    "LengthAtSwitch": Flag(
        "The sequence has exactly L tokens: still unscaled, or the short list.",
        "`>=` for `>` at the switch.",
        lambda p, g, e: p.get("length") is not None and p["length"] == original_length(p),
    ),
    "LengthPastSwitch": Flag(
        "The sequence has more than L tokens: scaled, or the long list; all its positions, early ones too.",
        "A switch by position instead of by length, an old table that is kept, `>` for `>=` in L + 1.",
        lambda p, g, e: p.get("length") is not None and p["length"] > original_length(p),
    ),
    "StillPair": Flag(
        "Some pairs do not turn: inv_freq 0, wavelength null (infinite), period 0.",
        "Division by zero; pairs that turn although they should not.",
        lambda p, g, e: 0 in e.inv_freq,
    ),
    "Proportional": Flag(
        "Only the fastest share of the pairs turns, with exponents over the whole head.",
        "Frequencies squeezed into the features that turn (rotary_dim mixed up with this).",
        lambda p, g, e: p["variant"] == "proportional" and p["proportion"] < 1,
    ),
    "FloatProduct": Flag(
        "How many pairs turn depends on the rounding of proportion * d: the float64 product counts.",
        "The floor of an exact or decimal product, one pair more or less.",
        lambda p, g, e: _exact_product_differs(p),
    ),
    "PaddingOnes": Flag(
        "FoPE's pairs that stand still get cos 1 and sin 1 (padding `ones`), which doubles their part of the logits.",
        "The other padding: cos 1 and sin 0.",
        lambda p, g, e: p["variant"] == "fope" and p["padding"] == "ones",
    ),
    "MixedPairs": Flag(
        "FoPE's tables are multiplied by matrices, different ones for cos and sin: row times matrix.",
        "A transposed matrix, or one matrix for both.",
        lambda p, g, e: p["variant"] == "fope" and p["cos_coefficients"] is not None,
    ),
    "PairAmplitude": Flag(
        "xPos: every pair has an amplitude that depends on the position; cases say whether for a query or a key.",
        "The same amplitude for q and k, a centre that differs between them, amplitudes left out of cos or of sin.",
        lambda p, g, e: p["variant"] == "xpos",
    ),
    "WholePeriods": Flag(
        "Resonance: wavelengths are whole numbers of tokens, rounded after all scaling; cos and sin repeat exactly.",
        "Rounding before scaling; angles computed from a rounded frequency instead of (position mod period) / period.",
        lambda p, g, e: e.periods is not None,
    ),
    "RoundedBefore": Flag(
        "Resonance with wavelengths rounded before scaling: in general they are not whole, and there are no periods.",
        "Rounding after scaling.",
        lambda p, g, e: g["variant"] == "resonance" and g["dialect"] == "before",
    ),
    "SharedPeriod": Flag(
        "Two pairs have the same whole period.",
        "Code that takes periods for unique (as keys of a table, say).",
        lambda p, g, e: e.periods is not None and len({*filter(None, e.periods)}) < len([*filter(None, e.periods)]),
    ),
    "LongPeriod": Flag(
        "A whole period above 2^24, where float32 no longer holds every whole number.",
        "Wavelengths rounded in float32.",
        lambda p, g, e: e.periods is not None and max(e.periods) > 2**24,
    ),
}

# Rules get the position and the exact setting.
CASE_FLAGS: dict[str, Flag] = {
    "ZeroPosition": Flag(
        "Position 0: cos is the amplitude, sin is 0.",
        "A missing amplitude. Any frequencies and any layout pass here: never test this position alone.",
        lambda position, e: position == 0,
    ),
    "NegativePosition": Flag(
        "A position below 0.",
        "A remainder that takes the sign of the dividend, as C's % does; unsigned positions.",
        lambda position, e: position < 0,
    ),
    "LastTrainedPosition": Flag(
        "Position L - 1, the last one of a sequence of L tokens.",
        "Tables that are one row short.",
        lambda position, e: position + 1 == original_length(e.inner),
    ),
    "PastOriginalLength": Flag(
        "A position of L or more.",
        "Positions that are clamped to L, tables that end there, formulas that change with the position.",
        lambda position, e: original_length(e.inner) is not None and position >= original_length(e.inner),
    ),
    "NotBfloat16": Flag(
        "bfloat16 does not hold this position.",
        "Positions cast to a model's bfloat16 before they meet the frequencies.",
        lambda position, e: not _fits(position, 8, 2**128),
    ),
    "NotFloat16": Flag(
        "float16 does not hold this position.",
        "Positions cast to a model's float16 before they meet the frequencies.",
        lambda position, e: not _fits(position, 11, 65520),
    ),
    "Float32Angle": Flag(
        "The fastest pair's angle exceeds 2^11 radians, where float32 numbers are 2^-12 and more apart.",
        "Angles formed in float32, or added up step by step.",
        lambda position, e: abs(position) * max(e.inv_freq) >= 2**11,
    ),
    "NotFloat32": Flag(
        "float32 does not hold this position.",
        "Positions cast to float32.",
        lambda position, e: not _fits(position, 24, 2**128),
    ),
    "PastInt32": Flag(
        "A position of 2^31 or more.",
        "Positions in 32-bit integers, which wrap to negative ones.",
        lambda position, e: position >= 2**31,
    ),
    "NotFloat64": Flag(
        "float64 does not hold this position. A JSON reader must keep 64-bit integers.",
        "Positions cast to float64 by a reader or by the code under test.",
        lambda position, e: not _fits(position, 53, 2**1023),
    ),
}

# Rules get the rotation.
ROTATION_FLAGS: dict[str, Flag] = {
    "HalfLayout": Flag(
        "Pair j is features j and j + r/2 of the r that turn.",
        "The other layout. Tables are equal in both: only rotated q and k show it.",
        lambda rotation: rotation["layout"] == "half",
    ),
    "InterleavedLayout": Flag(
        "Pair j is features 2j and 2j + 1.",
        "The other layout, also as q and k in the right one but written in the other's order.",
        lambda rotation: rotation["layout"] == "interleaved",
    ),
    "SuffixRotation": Flag(
        "The last features of the head turn and the first stay.",
        "The first features turned instead.",
        lambda rotation: rotation["suffix"],
    ),
}

# Rules get the group's parameters and the case.
POSGEN_FLAGS: dict[str, Flag] = {
    "FixedDistance": Flag(
        "recursive: the far tokens stand just before the near ones.",
        "Far and near tokens that overlap, or leave a gap.",
        lambda p, case: p["task"] == "recursive",
    ),
    "FirstToken": Flag(
        "cot: the far tokens are the first of the sequence, at every step.",
        "A far token counted from the end.",
        lambda p, case: p["task"] == "cot",
    ),
    "SlowPointer": Flag(
        "semirecursive: the far tokens start at floor((l - (j + k)) / 2), a pointer that moves every second step.",
        "The index as printed, floor(l - (j + k) / 2) - j, which for j = 1, k = 3 is a near token.",
        lambda p, case: p["task"] == "semirecursive",
    ),
    "FarTokens": Flag(
        "More than one far token.",
        "Far tokens fixed to one.",
        lambda p, case: p["j"] > 1,
    ),
    "PrefixOnly": Flag(
        "The length is that of the prefix: nothing is generated.",
        "A loop that runs at least once.",
        lambda p, case: case["length"] == len(case["prefix"]),
    ),
    "LargeModulus": Flag(
        "Sums of tokens exceed 2^31.",
        "Sums in 32-bit integers.",
        lambda p, case: (p["j"] + p["k"]) * (p["modulus"] - 1) >= 2**31,
    ),
    "TableRule": Flag(
        "h is an entry of a written table, by the sum of all tokens mod the modulus.",
        "The sum itself.",
        lambda p, case: p["rule"] == "table",
    ),
    "LatinRule": Flag(
        "h is an entry of a written Latin square: row by the far sum, column by the near sum, both mod the modulus.",
        "Row and column swapped.",
        lambda p, case: p["rule"] == "latin",
    ),
}


def _fits(position: int, bits: int, limit: int) -> bool:
    """Whether a binary float of `bits` significant bits, finite below `limit`, holds the position."""
    size = abs(position)
    spare = max(size.bit_length() - bits, 0)
    return size < limit and size % (1 << spare) == 0


def group_flags(parameters: Parameters, exact: Setting) -> list[str]:
    """The flags of a group, in the order of the table."""
    return [name for name, flag in GROUP_FLAGS.items() if flag.holds(exact.inner, parameters, exact)]


def case_flags(position: int, exact: Setting) -> list[str]:
    """The flags of one position."""
    return [name for name, flag in CASE_FLAGS.items() if flag.holds(position, exact)]


def rotation_flags(rotation: Parameters) -> list[str]:
    """The flags of a rotation."""
    return [name for name, flag in ROTATION_FLAGS.items() if flag.holds(rotation)]


def posgen_flags(parameters: Parameters, case: dict[str, Any]) -> list[str]:
    """The flags of a PosGen sequence."""
    return [name for name, flag in POSGEN_FLAGS.items() if flag.holds(parameters, case)]
