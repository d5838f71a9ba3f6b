"""Which settings the vector files hold: small factorials, published models, and the edges of every formula.

New groups go to the end of a variant's list, so that the ids of the others stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from vectors_formulas import Parameters, plain_wavelengths, sixty_fourths

BASES, LENGTHS, FACTORS = (10_000.0, 500_000.0), (64, 4096), (2.0, 4.0, 16.0)
SMALL = 16  # features of a head in the factorials
POSITIONS = (0, 1, 4095, 4096, 131_071, 2**20 - 1, 2**31)
# The first whole numbers that bfloat16, float16 and float32 do not hold, and a negative one.
FORMAT_EDGES = (-1, 257, 2049, 2**24 + 1)
# Resonance's phases are exact over all of int64; 2^53 + 1 is the first whole number that float64 does not hold.
INT64_EDGES = (-1, 2**53 + 1, 2**63 - 1)
# xPos: amplitudes grow like 3.5^(position / scale_base), so positions stay where float64 does not overflow.
XPOS_POSITIONS = (0, 1, 63, 64, 65, 4095, 4096, 131_071)
ROTATED_AT = (0, 1, 2, 63, 4096, 131_071)

# Every argument that changes numbers, with the value that it has where a setting does not give it.
DEFAULTS: dict[str, Parameters] = {
    "rope": {},
    "yarn": {
        "factor": None,
        "original_length": None,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "ramp": "index",
        "blend": "frequency",
        "truncate": True,
        "mscale": None,
        "mscale_all_dim": None,
        "attention_factor": None,
        "target_ramp": False,
    },
    "linear": {"factor": None},
    "ntk": {"factor": None, "dialect": "ntk-aware", "mixed_b": 0.75},
    "dynamic-ntk": {"factor": None, "original_length": None, "length": None, "dialect": "hf"},
    "ntk-by-parts": {
        "factor": None,
        "original_length": None,
        "linear_turns": [1.25, 0.75],
        "kept_turns": [16.0, 2.0],
    },
    "llama3": {"factor": None, "original_length": None, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": {
        "short_factor": None,
        "long_factor": None,
        "original_length": None,
        "factor": None,
        "length": None,
        "attention_factor": None,
    },
    "xpos": {"gamma": 0.4, "scale_base": 512.0, "centre": 0.0},
    "fope": {"train_length": None, "cos_coefficients": None, "sin_coefficients": None, "padding": "identity"},
    "proportional": {"proportion": None, "factor": 1.0},
}
YARN_DIALECTS: dict[str, Parameters] = {
    "code": {},
    "code, ends not rounded": {"truncate": False},
    "paper": {"ramp": "turns"},
    "resonance-paper": {"ramp": "turns", "blend": "wavelength"},
    "official-posgen": {"target_ramp": True, "beta_fast": 2.0},
}


class Plan(NamedTuple):
    """One group to be: what is asked for, before anything is computed."""

    comment: str
    parameters: Parameters
    rotate: bool = False
    suffix: bool = False  # rotations of the last features too


def given(variant: str, head_dim: int, base: float, **values: Any) -> Parameters:
    """A variant's parameters, all of them written out."""
    parameters = {"variant": variant, "head_dim": head_dim, "base": base, "rotary_dim": None, **DEFAULTS[variant]}
    unknown = set(values) - set(parameters)
    if unknown:
        raise KeyError(f"{variant} has no parameter {sorted(unknown)}")
    return parameters | values


def grid(with_length: bool) -> Iterator[tuple[float, dict[str, Any]]]:
    """Base, and the rest of a small factorial."""
    if with_length:
        for base, length, factor in product(BASES, LENGTHS, FACTORS):
            yield base, {"original_length": length, "factor": factor}
    else:
        for base, factor in product(BASES, FACTORS):
            yield base, {"factor": factor}


def _small(label: str, variant: str, with_length: bool = True, **values: Any) -> Iterator[Plan]:
    """The factorial of a variant or dialect; the first setting is rotated."""
    for i, (base, rest) in enumerate(grid(with_length)):
        yield Plan(f"small factorial, {label}", given(variant, SMALL, base, **rest, **values), rotate=i == 0)


# ---- one function a file ----


def rope() -> Iterator[Plan]:
    """Plain RoPE."""
    for base in (*BASES, 1e6, 1e8):
        yield Plan("small factorial", given("rope", SMALL, base), rotate=base == 10_000.0)
    yield Plan("LLaMA-2", given("rope", 128, 1e4))
    yield Plan("Llama 3", given("rope", 128, 5e5))
    yield Plan("PosGen: T5-Small's heads", given("rope", 64, 1e4), rotate=True)
    yield Plan("Gemma 1 and 2: 256 features", given("rope", 256, 1e4))
    yield Plan("GPT-NeoX-20B: a quarter of the features", given("rope", 96, 1e4, rotary_dim=24), rotate=True)
    yield Plan("DeepSeek's latent attention: the last 64 of 192", given("rope", 192, 1e4, rotary_dim=64), True, True)
    yield Plan("one pair", given("rope", 2, 1e4), rotate=True)
    yield Plan("two pairs", given("rope", 4, 1e4), rotate=True)
    yield Plan("one pair of eight features", given("rope", 8, 1e4, rotary_dim=2), True, True)
    yield Plan("a base that is no round number", given("rope", 20, 10_000.1))
    yield Plan("a small base: all pairs are fast", given("rope", 12, 1.5))


def yarn() -> Iterator[Plan]:
    """YaRN in every dialect."""
    for name, fields in YARN_DIALECTS.items():
        yield from _small(name, "yarn", **fields)
    for s, (name, fields) in product((16.0, 32.0), YARN_DIALECTS.items()):
        if name in ("code", "paper", "resonance-paper"):
            yield Plan(
                f"LLaMA-2 7B, s = {s:g}, {name}", given("yarn", 128, 1e4, factor=s, original_length=4096, **fields)
            )
    gpt_oss = {"factor": 32.0, "original_length": 4096, "truncate": False}
    yield Plan("gpt-oss", given("yarn", 64, 150_000.0, **gpt_oss), rotate=True)
    deepseek = {"factor": 40.0, "original_length": 4096}
    for name, constant in (("V2", 0.707), ("V3", 1.0)):
        fields = {**deepseek, "mscale": constant, "mscale_all_dim": constant}
        yield Plan(f"DeepSeek {name}: the part of a head that turns", given("yarn", 64, 1e4, **fields))
    yield Plan("Qwen2.5, s = 4", given("yarn", 128, 1e6, factor=4.0, original_length=32_768))
    yield Plan("PosGen, paper's L = 64", given("yarn", 64, 1e4, factor=4.0, original_length=64, beta_fast=2.0), True)
    posgen = {"factor": 257 / 65, "original_length": 65, "beta_fast": 2.0}
    yield Plan("PosGen, code's L = 65, s = 257/65", given("yarn", 64, 1e4, **posgen))
    yield Plan("PosGen, code, ramp over 257 for 65", given("yarn", 64, 1e4, **posgen, target_ramp=True), rotate=True)

    def edge(comment: str, head_dim: int = SMALL, base: float = 1e4, rotate: bool = False, **fields: Any) -> Plan:
        fields = {"factor": 4.0, "original_length": 4096} | fields
        return Plan(comment, given("yarn", head_dim, base, **fields), rotate)

    for name in ("code", "paper", "resonance-paper"):
        yield edge(f"factor 1, {name}", factor=1.0, **YARN_DIALECTS[name])
    yield edge("one pair", 2)
    yield edge("two pairs", 4)
    yield edge("ends that coincide at 0", original_length=8, beta_fast=2.0, beta_slow=1.5)
    yield edge("equal betas, ends not rounded", beta_fast=4.0, beta_slow=4.0, truncate=False)
    yield edge("equal betas, turns: a step", beta_fast=4.0, beta_slow=4.0, ramp="turns")
    yield edge("betas far apart", beta_fast=1e6, beta_slow=1e-6)
    yield edge("betas far apart, turns", beta_fast=1e6, beta_slow=1e-6, ramp="turns")
    yield edge("betas near each other", beta_fast=4.0, beta_slow=1.25)
    yield edge("a length of four tokens: both ends at 0", original_length=4)
    yield edge("a length of two tokens: ends the wrong way round", 32, original_length=2)
    yield edge("the same, ends not rounded", original_length=4, truncate=False)
    yield edge(
        "end clamped to d - 1: a long context and a small base",
        base=100.0,
        original_length=1_000_000,
        beta_fast=50_000.0,
    )
    yield edge("end beyond the last pair, before its clamp", 64, original_length=131_072)
    tie = {"original_length": 65, "factor": 2.5, "target_ramp": True, "truncate": False}
    yield edge("round(s L) of 162.5 goes to the even 162", **tie)
    yield edge("given attention factor", attention_factor=1.25, rotate=True)
    yield edge("given attention factor beats mscale", attention_factor=0.5, mscale=0.707, mscale_all_dim=1.0)
    yield edge("both mscales, different", factor=40.0, mscale=0.707, mscale_all_dim=1.0, rotate=True)
    yield edge("mscale alone", mscale=0.707)
    yield edge("mscale_all_dim alone", mscale_all_dim=0.707)
    yield edge("mscale_all_dim 0 counts as missing", mscale=0.707, mscale_all_dim=0.0)
    yield edge("a fractional factor", factor=1.1)
    for layout in ("code", "paper"):
        partial = {"factor": 4.0, "original_length": 4096, **YARN_DIALECTS[layout]}
        yield Plan(f"8 of 16 features, {layout}", given("yarn", 16, 1e4, rotary_dim=8, **partial), True, True)


def linear() -> Iterator[Plan]:
    """Position interpolation."""
    yield from _small("position interpolation", "linear", with_length=False)
    yield Plan("LLaMA to 8192", given("linear", 128, 1e4, factor=4.0))
    yield Plan("factor 1", given("linear", SMALL, 1e4, factor=1.0))
    yield Plan("a fractional factor", given("linear", SMALL, 1e4, factor=257 / 65))
    yield Plan("one pair", given("linear", 2, 1e4, factor=4.0))
    yield Plan("8 of 16 features", given("linear", 16, 1e4, rotary_dim=8, factor=4.0), True, True)


def ntk() -> Iterator[Plan]:
    """The formulas called NTK."""
    dialects = ("ntk-aware", "scaled-base", "fixed", "mixed")
    for dialect in dialects:
        yield from _small(dialect, "ntk", with_length=False, dialect=dialect)
    for dialect in dialects:
        yield Plan(f"LLaMA, s = 8, {dialect}", given("ntk", 128, 1e4, factor=8.0, dialect=dialect))
    for dialect in dialects:
        yield Plan(f"factor 1, {dialect}", given("ntk", SMALL, 1e4, factor=1.0, dialect=dialect))
        yield Plan(f"two pairs, {dialect}", given("ntk", 4, 1e4, factor=4.0, dialect=dialect))
        if dialect != "ntk-aware":
            yield Plan(f"one pair, {dialect}", given("ntk", 2, 1e4, factor=4.0, dialect=dialect))
    yield Plan("mixed with exponent 1 is fixed", given("ntk", SMALL, 1e4, factor=4.0, dialect="mixed", mixed_b=1.0))
    yield Plan("mixed with exponent 0.5", given("ntk", SMALL, 1e4, factor=4.0, dialect="mixed", mixed_b=0.5))
    yield Plan("8 of 16 features: the exponent is 8/6", given("ntk", 16, 1e4, rotary_dim=8, factor=4.0), True, True)


def dynamic_ntk() -> Iterator[Plan]:
    """Dynamic NTK, at several lengths."""
    for base, rest in grid(True):
        length = rest["original_length"]
        for now in (length + 1, 4 * length):
            chosen = now == 4 * length and rest == {"original_length": 64, "factor": 2.0} and base == 1e4
            yield Plan("small factorial, hf", given("dynamic-ntk", SMALL, base, **rest, length=now), rotate=chosen)
    for base, length in product(BASES, LENGTHS):
        at_switch = {"original_length": length, "factor": 4.0, "length": length}
        yield Plan("at exactly L: unscaled", given("dynamic-ntk", SMALL, base, **at_switch))
    yield from _small("vllm", "dynamic-ntk", dialect="vllm")
    llama = {"factor": 2.0, "original_length": 4096}
    yield Plan("LLaMA-2, s = 2, at 8192 tokens, hf", given("dynamic-ntk", 128, 1e4, **llama, length=8192))
    yield Plan("LLaMA-2, s = 2, vllm", given("dynamic-ntk", 128, 1e4, **llama, dialect="vllm"))
    small = {"original_length": 64}
    yield Plan("no length given: unscaled", given("dynamic-ntk", SMALL, 1e4, **small, factor=4.0))
    yield Plan("vllm below L: scaled", given("dynamic-ntk", SMALL, 1e4, **small, factor=4.0, length=2, dialect="vllm"))
    yield Plan("factor 1, hf: N / L", given("dynamic-ntk", SMALL, 1e4, **small, factor=1.0, length=100))
    yield Plan("factor 1, vllm", given("dynamic-ntk", SMALL, 1e4, **small, factor=1.0, dialect="vllm"))
    yield Plan("two pairs", given("dynamic-ntk", 4, 1e4, **small, factor=4.0, length=100))
    partial = {"rotary_dim": 8, **small, "factor": 4.0, "length": 100}
    yield Plan("8 of 16 features", given("dynamic-ntk", 16, 1e4, **partial), True, True)


def ntk_by_parts() -> Iterator[Plan]:
    """NTK-by-parts."""
    yield from _small("NTK-by-parts", "ntk-by-parts")
    yield Plan("LLaMA, s = 4", given("ntk-by-parts", 128, 1e4, factor=4.0, original_length=2048))

    def edge(comment: str, head_dim: int = SMALL, **fields: Any) -> Plan:
        fields = {"factor": 4.0, "original_length": 4096} | fields
        return Plan(comment, given("ntk-by-parts", head_dim, 1e4, **fields))

    yield edge("factor 1", factor=1.0)
    yield edge("two pairs", 4)
    yield edge("turns far apart", linear_turns=[1e5, 1e-5], kept_turns=[1e6, 1e-6])
    yield edge("turns near each other", linear_turns=[1.5, 1.25], kept_turns=[2.0, 1.75])
    yield edge("a long context", 64, original_length=131_072)
    fields = {"rotary_dim": 8, "factor": 4.0, "original_length": 4096}
    yield Plan("8 of 16 features", given("ntk-by-parts", 16, 1e4, **fields), True, True)


def llama3() -> Iterator[Plan]:
    """Llama 3.1's scaling."""
    yield from _small("Llama 3", "llama3")
    yield Plan("Llama 3.1 8B", given("llama3", 128, 5e5, factor=8.0, original_length=8192))
    yield Plan("Llama 3.2 1B", given("llama3", 64, 5e5, factor=32.0, original_length=8192), rotate=True)

    def edge(comment: str, head_dim: int = SMALL, **fields: Any) -> Plan:
        fields = {"factor": 8.0, "original_length": 8192} | fields
        return Plan(comment, given("llama3", head_dim, 5e5, **fields))

    yield edge("factor 1", factor=1.0)
    yield edge("one pair", 2)
    yield edge("equal ends: a step", 32, low_freq_factor=2.0, high_freq_factor=2.0)
    yield edge("ends far apart", 32, low_freq_factor=1e-3, high_freq_factor=1e3)
    yield edge("Llama 4's equal ends of 1", 32, high_freq_factor=1.0)
    fields = {"rotary_dim": 8, "factor": 8.0, "original_length": 8192}
    yield Plan("8 of 16 features", given("llama3", 16, 5e5, **fields), True, True)


def stretches(pairs: int, slope: int) -> list[float]:
    """A made-up list such as LongRoPE's searches yield: from 1 upwards, in 64ths, with uneven steps."""
    return [1.0 + (slope * j * j // pairs + 3 * (j % 3)) / 64 for j in range(pairs)]


def longrope() -> Iterator[Plan]:
    """LongRoPE with made-up lists."""

    def lists(pairs: int) -> dict[str, Any]:
        return {"short_factor": stretches(pairs, 2), "long_factor": stretches(pairs, 64)}

    for base, rest in grid(True):
        for extra in (0, 1):
            length = rest["original_length"] + extra
            chosen = base == 1e4 and rest == {"original_length": 64, "factor": 2.0}
            parameters = given("longrope", SMALL, base, **rest, length=length, **lists(8))
            yield Plan(f"small factorial, {('short', 'long')[extra]} list", parameters, rotate=chosen)
    phi = {"original_length": 4096, "factor": 32.0, **lists(48)}
    yield Plan("Phi-3's shape (lists made up), no length: short", given("longrope", 96, 1e4, **phi))
    yield Plan("Phi-3's shape (lists made up), long", given("longrope", 96, 1e4, **phi, length=131_072), rotate=True)
    small = {"original_length": 64, "length": 65, **lists(8)}
    yield Plan("factor 1: no amplitude", given("longrope", SMALL, 1e4, factor=1.0, **small))
    yield Plan("given attention factor", given("longrope", SMALL, 1e4, factor=4.0, attention_factor=1.25, **small))
    fields = {"rotary_dim": 8, "original_length": 64, "length": 65, "factor": 4.0, **lists(4)}
    yield Plan("8 of 16 features", given("longrope", 16, 1e4, **fields), True, True)
    for pairs in (1, 2):
        fields = {"original_length": 64, "length": 65, "factor": 4.0, **lists(pairs)}
        yield Plan(("one pair", "two pairs")[pairs - 1], given("longrope", 2 * pairs, 1e4, **fields))


def xpos() -> Iterator[Plan]:
    """xPos, tables for queries and for keys."""
    for base, gamma, centre in product(BASES, (0.4, 1.0), (0.0, 32.0)):
        chosen = base == 1e4 and gamma == 0.4
        yield Plan("small factorial", given("xpos", SMALL, base, gamma=gamma, centre=centre), rotate=chosen)
    yield Plan("the paper's constants, d = 64", given("xpos", 64, 1e4))
    yield Plan("a centre of half a token", given("xpos", SMALL, 1e4, centre=2048.5))
    yield Plan("a larger scale_base", given("xpos", SMALL, 1e4, scale_base=4096.0))
    yield Plan("one pair", given("xpos", 2, 1e4))
    yield Plan("8 of 16 features", given("xpos", 16, 1e4, rotary_dim=8), True, True)


def matrices(head_dim: int, base: float, train_length: int) -> dict[str, list[list[float]]]:
    """Made-up FoPE coefficients: the identity and some 64ths, different for cos and sin, not symmetric."""
    turning = sum(w < train_length for w in plain_wavelengths(given("rope", head_dim, base)))
    made = []
    for start in (101, 202):
        noise = sixty_fourths(start, turning, turning)
        made.append([[float(i == j) + noise[i][j] / 4 for j in range(turning)] for i in range(turning)])
    return {"cos_coefficients": made[0], "sin_coefficients": made[1]}


def fope() -> Iterator[Plan]:
    """FoPE with and without coefficients, both paddings."""
    for base, length, padding in product(BASES, LENGTHS, ("identity", "ones")):
        fields = {"train_length": length, "padding": padding}
        yield Plan(f"small factorial, {padding}, no matrices", given("fope", SMALL, base, **fields))
        fields |= matrices(SMALL, base, length)
        chosen = (base, length) == (1e4, 64)
        yield Plan(f"small factorial, {padding}, with matrices", given("fope", SMALL, base, **fields), rotate=chosen)
    yield Plan("d = 64, L = 4096", given("fope", 64, 1e4, train_length=4096))
    yield Plan("all pairs turn", given("fope", SMALL, 1e4, train_length=100_000))
    yield Plan("no pair turns: 2 pi > 6", given("fope", SMALL, 1e4, train_length=6))
    fields = {"rotary_dim": 8, "train_length": 512, **matrices(8, 1e4, 512)}
    yield Plan("8 of 16 features", given("fope", 16, 1e4, **fields), True, True)
    yield Plan("one pair", given("fope", 2, 1e4, train_length=64))
    yield Plan("two pairs, one of them still", given("fope", 4, 1e4, train_length=64))


def proportional() -> Iterator[Plan]:
    """p-RoPE."""
    for base, proportion, factor in product(BASES, (0.0, 0.25, 0.5, 1.0), (1.0, 8.0)):
        chosen = (base, proportion, factor) == (1e4, 0.25, 8.0)
        fields = {"proportion": proportion, "factor": factor}
        yield Plan("small factorial", given("proportional", SMALL, base, **fields), rotate=chosen)
    yield Plan("Gemma 4, global layers: a quarter of 512", given("proportional", 512, 1e6, proportion=0.25))
    yield Plan("0.7 * 20 rounds to 14: seven pairs", given("proportional", 20, 1e4, proportion=0.7))
    yield Plan("0.58 * 100 rounds below 58: 28 pairs", given("proportional", 100, 1e4, proportion=0.58))
    yield Plan("a share between two whole numbers of pairs", given("proportional", SMALL, 1e4, proportion=0.3))
    yield Plan("one pair, standing still", given("proportional", 2, 1e4, proportion=0.5))
    partial = {"rotary_dim": 16, "proportion": 0.5}
    yield Plan("4 of the 8 pairs of 16 of 24 features", given("proportional", 24, 1e4, **partial), True, True)


PLANS = {
    "rope": rope,
    "yarn": yarn,
    "linear": linear,
    "ntk": ntk,
    "dynamic-ntk": dynamic_ntk,
    "ntk-by-parts": ntk_by_parts,
    "llama3": llama3,
    "longrope": longrope,
    "xpos": xpos,
    "fope": fope,
    "proportional": proportional,
}


def positions(parameters: Parameters) -> list[int]:
    """The positions of a group's cases, in rising order."""
    resonant = parameters["variant"] == "resonance"
    inner = parameters["encoding"] if resonant else parameters
    if inner["variant"] == "xpos":
        return sorted(XPOS_POSITIONS)
    chosen = set(POSITIONS)
    length = inner.get("original_length", inner.get("train_length"))
    if length is not None:
        chosen |= {length - 1, length, length + 1}
    if inner["variant"] == "rope":
        chosen |= set(FORMAT_EDGES)
    if resonant and parameters["dialect"] == "after":
        chosen |= set(INT64_EDGES)
    return sorted(chosen)
