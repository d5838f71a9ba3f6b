"""The settings of Resonance, around every other variant, rounded after and before scaling.

As in vectors_settings, new groups go to the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from vectors_formulas import Parameters
from vectors_settings import BASES, FACTORS, SMALL, YARN_DIALECTS, Plan, given, grid, matrices, stretches


def resonance(inner: Parameters, dialect: str = "after") -> Parameters:
    """Resonance around an encoding."""
    return {"variant": "resonance", "dialect": dialect, "encoding": inner}


def resonance_groups() -> Iterator[Plan]:
    """Resonance around everything else."""

    def around(
        comment: str, inner: Parameters, rotate: bool = False, suffix: bool = False, dialect: str = "after"
    ) -> Plan:
        return Plan(comment, resonance(inner, dialect), rotate, suffix)

    for base in (*BASES, 1e6):
        yield around("Resonance RoPE, small", given("rope", SMALL, base), rotate=base == 1e4)
    yield around("Resonance RoPE, LLaMA-2", given("rope", 128, 1e4))
    yield around("Resonance RoPE, Llama 3", given("rope", 128, 5e5))
    yield around("Resonance RoPE, PosGen", given("rope", 64, 1e4), rotate=True)
    yield around("periods beyond float32's whole numbers", given("rope", 64, 1e8))
    yield around("pairs that share a period: 7, 8 and 10 twice", given("rope", 256, 1e4))
    yield around("one pair", given("rope", 2, 1e4))
    yield around("two pairs", given("rope", 4, 1e4))
    yield around("8 of 16 features", given("rope", 16, 1e4, rotary_dim=8), True, True)
    for name in ("code", "paper", "resonance-paper", "official-posgen"):
        for i, (base, rest) in enumerate(grid(True)):
            inner = given("yarn", SMALL, base, **rest, **YARN_DIALECTS[name])
            yield around(f"Resonance YaRN, small factorial, {name}", inner, rotate=i == 0)
    for s in (8.0, 16.0):
        inner = given("yarn", 128, 1e4, factor=s, original_length=4096)
        yield around(f"Resonance YaRN, LLaMA-2, s = {s:g}", inner)
    posgen = {"factor": 4.0, "original_length": 64, "beta_fast": 2.0}
    yield around("Resonance YaRN, PosGen, L = 64", given("yarn", 64, 1e4, **posgen))
    posgen |= {"factor": 257 / 65, "original_length": 65, "target_ramp": True}
    yield around("Resonance YaRN, PosGen's code: 257 for 65", given("yarn", 64, 1e4, **posgen), rotate=True)
    for factor in FACTORS:
        yield around("Resonance of interpolation", given("linear", SMALL, 1e4, factor=factor))
        yield around("Resonance of NTK-aware", given("ntk", SMALL, 1e4, factor=factor))
    for now in (64, 256):
        inner = given("dynamic-ntk", SMALL, 1e4, original_length=64, factor=2.0, length=now)
        yield around(f"Resonance of dynamic NTK at {now} tokens", inner)
    yield around("Resonance of NTK-by-parts", given("ntk-by-parts", SMALL, 1e4, original_length=4096, factor=4.0))
    yield around("Resonance of Llama 3.2", given("llama3", 64, 5e5, original_length=8192, factor=32.0))
    lists = {"short_factor": stretches(8, 2), "long_factor": stretches(8, 64), "original_length": 64, "factor": 4.0}
    for now in (64, 65):
        yield around(f"Resonance of LongRoPE at {now} tokens", given("longrope", SMALL, 1e4, **lists, length=now))
    yield around("Resonance of xPos", given("xpos", SMALL, 1e4), rotate=True)
    fields = {"train_length": 512, **matrices(SMALL, 1e4, 512)}
    yield around("Resonance of FoPE", given("fope", SMALL, 1e4, **fields), rotate=True)
    yield around("Resonance of p-RoPE", given("proportional", SMALL, 1e4, proportion=0.5), rotate=True)
    # Rounded before scaling.
    before = {"dialect": "before"}
    yield around("rounded before: plain RoPE, the same as after", given("rope", SMALL, 1e4), **before)
    for factor in FACTORS:
        yield around("rounded before interpolation", given("linear", SMALL, 1e4, factor=factor), **before)
        yield around("rounded before NTK-aware", given("ntk", SMALL, 1e4, factor=factor), **before)
        inner = given("yarn", SMALL, 1e4, original_length=64, factor=factor)
        yield around("rounded before YaRN", inner, rotate=factor == 2, **before)
    yield around("rounded before YaRN, LLaMA-2", given("yarn", 128, 1e4, original_length=4096, factor=16.0), **before)
    yield around("rounded before Llama 3.2", given("llama3", 64, 5e5, original_length=8192, factor=32.0), **before)
    yield around("rounded before p-RoPE", given("proportional", SMALL, 1e4, proportion=0.5, factor=4.0), **before)
