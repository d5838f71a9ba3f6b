"""The conformance kit and functions as they are found: right in every style, wrong by a slip or two, rude."""

import math
import sys
from itertools import combinations

import numpy as np
import planted_rotations as planted
import pytest
import right_rotations
from planted_rotations import frequencies, half, interleaved, rotation, to_bfloat16

import refrope as rr
from refrope.conformance import check

D = 64
ROPE = rr.RoPE(D)
YARN = rr.YaRN(D, factor=16.0, original_length=4096)
LINEAR = rr.LinearPI(D, factor=4.0)
NTK = rr.NTKAware(D, factor=8.0)
DYNAMIC = rr.DynamicNTK(D, factor=4.0, original_length=2048)
LLAMA3 = rr.Llama3(128)
XPOS = rr.XPos(D)
PARTIAL = rr.RoPE(128, rotary_dim=32)
SHORT, LONG = np.linspace(1, 1.5, 16), np.linspace(1.2, 24, 16)
LONGROPE = rr.LongRoPE(32, short_factor=SHORT, long_factor=LONG, original_length=4096, factor=8.0)
THETA, A = planted.yarn(D, 1e4, 16.0, 4096)


# ---- right ones ----


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(("head_dim", "width", "base"), [(64, 64, 1e4), (128, 128, 5e5), (80, 32, 1e6)])
@pytest.mark.parametrize("style", right_rotations.STYLES, ids=lambda style: style.__name__)
def test_no_right_style_is_called_wrong(style, head_dim, width, base, layout):
    report = check(style(width, base, layout), rr.RoPE(head_dim, base, rotary_dim=width), layout=layout)
    assert report.passed, str(report)
    assert report.pipeline is not None
    assert not report.problems


@pytest.mark.parametrize("style", right_rotations.STYLES, ids=lambda style: style.__name__)
def test_float16_input_is_no_mistake(style):
    report = check(style(D, 1e4, "half"), ROPE, dtype="float16")
    assert report.passed, str(report)


def xpos(role, centre=0.0, scale_base=512.0, gamma=0.4):
    zeta = (np.arange(0, D, 2) / D + gamma) / (1 + gamma)

    def rotate(x, positions):
        power = (positions[:, None] - centre) / scale_base * (1 if role == "q" else -1)
        z = zeta**power * np.exp(1j * positions[:, None] * frequencies(D))
        return half(x, z.real.astype(x.dtype), z.imag.astype(x.dtype))

    return rotate


@pytest.mark.parametrize("role", ["q", "k"])
def test_xpos_is_right_in_both_roles(role):
    assert check(xpos(role), XPOS, role=role).passed
    assert check(xpos(role, centre=1024.0), rr.XPos(D, centre=1024.0), role=role).passed


def test_frequencies_may_be_a_list_of_numbers():
    assert check(lambda: list(frequencies(D)), ROPE).passed
    assert check(lambda: frequencies(D).tolist(), ROPE).passed


# ---- wrong ones ----


def only_some(width, change):
    """The first `width` features turn; `change` gets the others."""

    def turn(x, cos, sin):
        return np.concatenate([half(x[..., :width], cos, sin), change(x[..., width:])], -1)

    return turn


def by_length(frequencies_at, amplitude=1.0):
    return lambda x, p: rotation(frequencies_at(int(p.max()) + 1), amplitude)(x, p)


def dynamic(length, factor=4.0, original=2048):
    grown = factor * length / original - (factor - 1)
    return frequencies(D, 1e4 * grown ** (D / (D - 2)) if length > original else 1e4)


def cos_alone(x, cos, sin):
    return half(x, A * cos, sin)


def angles_changed(change):
    def rotate(x, positions):
        angle = change(positions[:, None] * frequencies(D))
        return half(x, np.cos(angle), np.sin(angle)).astype(x.dtype)

    return rotate


def cos_of_cos(x, cos, sin):
    return half(x, np.cos(cos), np.sin(cos))


def yarn_with(**changed):
    return planted.yarn(D, **{"base": 1e4, "factor": 16.0, "length": 4096, **changed})[0]


def llama3_blended_backwards():
    plain, right = frequencies(128, 5e5), planted.llama3()
    kept = (right / plain - 1 / 8) / (1 - 1 / 8)
    inside = (kept > 1e-9) & (kept < 1 - 1e-9)
    return np.where(inside, (kept / 8 + 1 - kept) * plain, right)


# What is planted, what it is declared to be, how check is called, the names of the mistakes, and words they hold.
MISTAKES = {
    "degrees": (angles_changed(np.rad2deg), ROPE, {}, ["in-degrees"], "degrees"),
    "from degrees": (angles_changed(np.deg2rad), ROPE, {}, ["from-degrees"], "degrees"),
    "2 pi": (angles_changed(lambda angle: 2 * np.pi * angle), ROPE, {}, ["times-two-pi"], "2 pi"),
    "any rate": (angles_changed(lambda angle: 0.9 * angle), ROPE, {}, ["rate"], "0.9 times as fast"),
    "reciprocal": (rotation(1 / frequencies(D)), ROPE, {}, ["reciprocal"], "not the frequencies"),
    "a base of six digits": (rotation(frequencies(D, 123_456.0)), ROPE, {}, ["base"], "base 123456 instead"),
    "not turned from 8192 on": (
        rotation(frequencies(D), places=lambda p: np.where(p < 8192, p, 0)),
        ROPE,
        {},
        ["positions-unturned"],
        "from 8192 on",
    ),
    "counted from the first": (
        lambda x, p: rotation(frequencies(D))(x, p - p[0]),
        ROPE,
        {},
        ["positions-relative"],
        "from the first one of each call",
    ),
    "row numbers": (
        lambda x, p: rotation(frequencies(D))(x, np.arange(len(p))),
        ROPE,
        {},
        ["positions-ignored"],
        "row t is turned as position t",
    ),
    "cos of cos": (rotation(frequencies(D), turn=cos_of_cos), ROPE, {}, ["cos-of-cos"], "cos(cos"),
    "scaled output": (rotation(frequencies(D), 0.125), ROPE, {}, ["amplitude"], "multiplied by 0.125 where 1"),
    "another temperature": (
        rotation(THETA, 0.07 * math.log(16) + 1),
        YARN,
        {},
        ["amplitude"],
        "multiplied by 1.1941 where 1.2773",
    ),
    "amplitude on cos alone": (rotation(THETA, turn=cos_alone), YARN, {}, ["amplitude-cos-only"], "on cos alone"),
    "amplitude's root": (rotation(THETA, A**0.5), YARN, {}, ["amplitude-root"], "square root"),
    "linear with YaRN's factor": (
        rotation(frequencies(D) / 16, A),
        YARN,
        {},
        ["linear"],
        "instead of YaRN (frequencies only: the attention factor is as declared)",
    ),
    "linear without it": (rotation(frequencies(D) / 16), YARN, {}, ["linear"], "instead of YaRN."),
    "factor 32": (
        rotation(*planted.yarn(D, 1e4, 32.0, 4096)),
        YARN,
        {},
        ["factor"],
        "factor 32 instead of 16.",
    ),
    "factor 32 for frequencies": (
        rotation(yarn_with(factor=32.0), A),
        YARN,
        {},
        ["factor"],
        "factor 32 instead of 16 (frequencies only",
    ),
    "beta_fast 16": (rotation(yarn_with(fast=16.0), A), YARN, {}, ["betas"], "beta_fast 16 and beta_slow 1"),
    "beta_slow 2": (rotation(yarn_with(slow=2.0), A), YARN, {}, ["betas"], "beta_fast 32 and beta_slow 2"),
    "length 2048": (rotation(yarn_with(length=2048), A), YARN, {}, ["original-length"], "2048 instead of 4096"),
    "YaRN where linear": (
        rotation(*planted.yarn(D, 1e4, 4.0, 2048)),
        LINEAR,
        {},
        ["yarn-code"],
        "for the original length 2048, instead of LinearPI",
    ),
    "p // 4": (
        rotation(frequencies(D), places=lambda p: p // 4),
        LINEAR,
        {},
        ["positions-floored"],
        "rounded down",
    ),
    "round(p / 4)": (
        rotation(frequencies(D), places=lambda p: np.round(p / 4)),
        LINEAR,
        {},
        ["positions-rounded"],
        "rounded to whole",
    ),
    "NTK of frequencies": (
        rotation(frequencies(D) / 8 ** (D / (D - 2))),
        NTK,
        {},
        ["ntk-of-frequencies"],
        "should multiply the base",
    ),
    "NTK, base 20000": (
        rotation(frequencies(D, 2e4 * 8 ** (D / (D - 2)))),
        NTK,
        {},
        ["base"],
        "base 20000 instead of 10000",
    ),
    "NTK, exponent of the head": (
        rotation(frequencies(32, 1e4 * 8 ** (128 / 126)), turn=planted.partly(half, 32)),
        rr.NTKAware(128, factor=8.0, rotary_dim=32),
        {},
        ["exponent-whole-head"],
        "taken of the whole head",
    ),
    "dynamic, never": (
        rotation(frequencies(D)),
        DYNAMIC,
        {},
        ["plain-rope"],
        "scaling is not applied",
    ),
    "dynamic, without s": (by_length(lambda n: dynamic(n, factor=1.0)), DYNAMIC, {}, ["factor"], "factor 1 instead"),
    "dynamic, L 4096": (
        by_length(lambda n: dynamic(n, original=4096)),
        DYNAMIC,
        {},
        ["original-length"],
        "4096 instead of 2048",
    ),
    "dynamic, linear": (
        by_length(lambda n: frequencies(D) / max(1.0, n / 2048)),
        DYNAMIC,
        {},
        ["dynamic-linear"],
        "linear interpolation",
    ),
    "dynamic, N - 1": (by_length(lambda n: dynamic(n - 1)), DYNAMIC, {}, ["length-less"], "one too small"),
    "blend backwards": (
        rotation(llama3_blended_backwards()),
        LLAMA3,
        {},
        ["blend-reversed"],
        "the wrong way round",
    ),
    "Llama 3 to 32 turns": (
        rotation(planted.llama3(high=32.0)),
        LLAMA3,
        {},
        ["freq-factors"],
        "from 1 to 32 turns",
    ),
    "LongRoPE, short only": (
        planted.longrope(SHORT, SHORT, factor=8.0),
        LONGROPE,
        {},
        ["short-list"],
        "short list at every length",
    ),
    "LongRoPE, lists swapped": (
        planted.longrope(LONG, SHORT, factor=8.0),
        LONGROPE,
        {},
        ["lists-swapped"],
        "in each other's place",
    ),
    "LongRoPE, multiplied": (
        planted.longrope(1 / SHORT, 1 / LONG, factor=8.0),
        LONGROPE,
        {},
        ["multiplied"],
        "multiplied by the stretch",
    ),
    "xPos, keys for queries": (xpos("k"), XPOS, {}, ["other-role"], "keys are turned where queries"),
    "xPos, queries for keys": (xpos("q"), XPOS, {"role": "k"}, ["other-role"], "queries are turned where keys"),
    "xPos, centre": (xpos("q", centre=100.0), XPOS, {}, ["centre"], "centre 100, not 0"),
    "xPos, centre of keys": (xpos("k", centre=25.0), XPOS, {"role": "k"}, ["centre"], "centre 25, not 0"),
    "xPos, gamma": (xpos("q", gamma=0.3), XPOS, {}, ["gamma"], "gamma 0.3, not 0.4"),
    "xPos, scale_base": (xpos("q", scale_base=700.0), XPOS, {}, ["scale-base"], "scale_base 700, not 512"),
    "FoPE, length": (
        rotation(np.where(frequencies(D) > 2 * np.pi / 1024, frequencies(D), 0)),
        rr.FoPE(D, train_length=512),
        {},
        ["train-length"],
        "1024, not 512",
    ),
    "p-RoPE, share": (
        rotation(np.where(np.arange(64) < 21, frequencies(128), 0)),
        rr.ProportionalRoPE(128, proportion=0.25),
        {},
        ["proportion"],
        "21 of 64 pairs turn, where 16 should",
    ),
    "64 features for 32": (
        rotation(frequencies(64), turn=planted.partly(half, 64)),
        PARTIAL,
        {},
        ["partial-64", "frequencies-of-the-part"],
        "worked out for the 64 features",
    ),
    "16 features for 32": (
        rotation(frequencies(32)[:8], turn=planted.partly(half, 16)),
        PARTIAL,
        {},
        ["partial-16"],
        "only the first 16 of 128",
    ),
    "pairs across the head": (
        rotation(np.pad(frequencies(32), (0, 48))),
        PARTIAL,
        {},
        ["whole-head", "still-pairs"],
        "feature j is paired with j + 64",
    ),
    "the others zeroed": (
        rotation(frequencies(32), turn=only_some(32, np.zeros_like)),
        PARTIAL,
        {},
        ["rest-changed"],
        "are set to 0",
    ),
    "the others scaled": (
        rotation(frequencies(32), turn=only_some(32, lambda x: 2 * x)),
        PARTIAL,
        {},
        ["rest-changed"],
        "multiplied by 2",
    ),
    "two: base and factor of Llama 3": (
        rotation(planted.llama3(base=1e4, factor=32.0)),
        LLAMA3,
        {},
        ["base", "factor"],
        "factor 32 instead of 8",
    ),
    "two: keys, and the other layout": (
        lambda x, p: interleaved(*_interleaved_keys(x, p)),
        XPOS,
        {},
        ["layout-interleaved", "other-role"],
        "keys",
    ),
    "two: base and bfloat16 positions": (
        rotation(frequencies(D, 5e5), places=to_bfloat16),
        ROPE,
        {},
        ["base", "positions-bfloat16"],
        "bfloat16",
    ),
    "two: turns for indices, no amplitude": (
        rotation(rr.YaRN(D, factor=16.0, original_length=4096, ramp="turns").inv_freq),
        YARN,
        {},
        ["yarn-paper", "amplitude-missing"],
        "not applied",
    ),
}


def _interleaved_keys(x, positions):
    zeta = (np.arange(0, D, 2) / D + 0.4) / 1.4
    z = zeta ** (-positions[:, None] / 512) * np.exp(1j * positions[:, None] * frequencies(D))
    return x, z.real.astype(x.dtype), z.imag.astype(x.dtype)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_slip_of_real_code_is_named(name):
    function, declared, options, names, words = MISTAKES[name]
    report = check(function, declared, **options)
    assert not report.passed
    assert [mistake.name for mistake in report.mistakes] == names, str(report)
    assert words in str(report)
    assert not report.unexplained


# What goes wrong independently of the variant: what it does to a planted rotation, and its name.
SLIPS = {
    "layout-interleaved": {"turn": interleaved},
    "sign-reversed": {"sign": -1},
    "off-by-one": {"places": lambda p: p + 1},
    "positions-wrapped": {"places": lambda p: p % 4096},
    "base": {"base": 30_000.0},
    "amplitude": {"amplitude": 0.9},
}
VARIANTS = {
    "RoPE": (ROPE, lambda base: (frequencies(D, base), 1.0)),
    "LinearPI": (LINEAR, lambda base: (frequencies(D, base) / 4, 1.0)),
    "NTKAware": (NTK, lambda base: (frequencies(D, base * 8 ** (D / (D - 2))), 1.0)),
    "YaRN": (YARN, lambda base: planted.yarn(D, base, 16.0, 4096)),
    "Llama3": (rr.Llama3(D, 1e4), lambda base: (planted.llama3(D, base), 1.0)),
}


PAIRS = [pair for pair in combinations(SLIPS, 2) if not SLIPS[pair[0]].keys() & SLIPS[pair[1]].keys()]


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_slips_at_once_are_both_named(variant, pair):
    declared, made = VARIANTS[variant]
    changes = SLIPS[pair[0]] | SLIPS[pair[1]]
    inv_freq, amplitude = made(changes.pop("base", 1e4))
    report = check(rotation(inv_freq, amplitude * changes.pop("amplitude", 1.0), **changes), declared)
    assert {mistake.name for mistake in report.mistakes} == set(pair), str(report)


def test_one_wrong_pair_or_position_is_pointed_at():
    pair = check(rotation(frequencies(D) * np.where(np.arange(32) == 7, 1.01, 1.0)), ROPE)
    assert pair.unexplained
    assert "in pair 7 alone" in str(pair)
    assert "1 (pairs 0 to 6), 1.01 (pair 7), 1 (pairs 8 to 31)" in str(pair)
    position = check(rotation(frequencies(D), places=lambda p: p + (p == 4096)), ROPE)
    assert position.unexplained
    assert f"off at 1 of {position.positions} positions, the first 4,096" in str(position)
    assert "turn as fast as declared" in str(position)


# ---- bad manners ----

GOOD = rotation(frequencies(D))
RANDOM = np.random.default_rng(5)


def noise(x, positions):
    return (GOOD(x, positions) + RANDOM.standard_normal(x.shape)).astype(x.dtype)


def closes(x, positions):
    sys.stdout.close()
    return GOOD(x, positions)


def powers_of_two(x, positions):
    if len(positions) & (len(positions) - 1):
        raise ValueError("length must be a power of two")
    return GOOD(x, positions)


def unprintable(x, positions):
    class OddError(Exception):
        def __str__(self):
            raise RuntimeError

    raise OddError


async def asynchronous(x, positions):
    return GOOD(x, positions)


def only_short(x, positions):
    if positions.max() >= 4096:
        raise IndexError(f"index {positions.max()} is out of bounds")
    return GOOD(x, positions)


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        (lambda x, p: GOOD(x, p).astype(np.complex64), "not-an-array", "complex64(64, 64), expected floats"),
        (lambda x, p: GOOD(x, p).astype(np.int32), "not-an-array", "int32(64, 64), expected floats"),
        (lambda x, p: GOOD(x, p).astype(object), "not-an-array", "object(64, 64)"),
        (lambda x, p: GOOD(x, p).tolist(), "not-an-array", "a list of 64 things"),
        (asynchronous, "not-an-array", "coroutine"),
        (noise, "stateful", "or is random"),
        (powers_of_two, "raises", "for 51 positions at once, though not for each: ValueError: length must be"),
        (unprintable, "raises", "OddError"),
        (only_short, "raises", "of 51 positions, the first 4096: IndexError: index 4096"),
        (lambda x, p: GOOD(x, p) + 0.25, "not-linear", "something is added"),
        (lambda x, p: GOOD(x, p) + 0.1 * x.mean(0), "rows-mixed", "depends on the other rows"),
    ],
)
def test_more_bad_manners_are_reported(function, kind, said):
    report = check(function, ROPE)
    assert not report.passed
    assert said in report.problems[kind], str(report)


def test_what_does_no_harm_is_noted_and_forgiven():
    wide = check(lambda x, p: GOOD(x.astype(np.float64), p), ROPE)
    assert wide.passed
    assert "Note (dtype): it returns float64 for x of float32." in str(wide)
    silent = check(closes, ROPE)
    assert silent.passed
    assert "closes standard output" in silent.problems["prints"]
