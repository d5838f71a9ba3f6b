"""The conformance kit: every planted mistake is named, nothing right is called wrong, bad manners are reported."""

import json
import math
import sys
import time

import numpy as np
import planted_rotations as planted
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_rotations import frequencies, half, interleaved, rotation

import refrope as rr
from refrope import vectors
from refrope.conformance import check, check_vectors, probing

D = 64
ROPE = rr.RoPE(D)
YARN = rr.YaRN(D, factor=16.0, original_length=4096)
YARN_FREQUENCIES, YARN_FACTOR = planted.yarn(D, 1e4, 16.0, 4096)
LLAMA3 = rr.Llama3(128)
NTK = rr.NTKAware(D, factor=8.0)
PARTIAL = rr.RoPE(D, rotary_dim=16)
SHORT, LONG = np.linspace(1, 1.5, 16), np.linspace(1.2, 24, 16)
LONGROPE = rr.LongRoPE(32, short_factor=SHORT, long_factor=LONG, original_length=4096, factor=8.0)
RESONANCE = rr.Resonance(ROPE)
POSGEN = rr.YaRN(D, factor=257 / 65, original_length=65, beta_fast=2.0)

# What is planted, what it is declared to be, how check is called, and the mistakes that must be named.
MISTAKES = {
    "interleaved where half was declared": (
        rotation(frequencies(D), turn=interleaved),
        ROPE,
        {},
        ["layout-interleaved"],
    ),
    "half where interleaved was declared": (rotation(frequencies(D)), ROPE, {"layout": "interleaved"}, ["layout-half"]),
    "interleaved in, half out": (
        rotation(frequencies(D), turn=planted.half_out),
        ROPE,
        {},
        ["interleaved-in-half-out"],
    ),
    "repeat_interleave with rotate_half": (
        rotation(frequencies(D), turn=planted.repeated_tables),
        ROPE,
        {},
        ["tables-doubled-wrongly"],
    ),
    "concatenated tables for interleaved pairs": (
        rotation(frequencies(D), turn=planted.concatenated_tables),
        ROPE,
        {"layout": "interleaved"},
        ["tables-doubled-wrongly"],
    ),
    "minus missing": (rotation(frequencies(D), turn=planted.minus_missing), ROPE, {}, ["minus-missing"]),
    "sign reversed": (rotation(frequencies(D), sign=-1), ROPE, {}, ["sign-reversed"]),
    "cos and sin swapped": (rotation(frequencies(D), turn=planted.swapped(half)), ROPE, {}, ["cos-sin-swapped"]),
    "rotated twice": (rotation(frequencies(D), turn=planted.twice(half)), ROPE, {}, ["rotated-twice"]),
    "rotated twice, with an amplitude": (
        rotation(YARN_FREQUENCIES, YARN_FACTOR, turn=planted.twice(half)),
        YARN,
        {},
        ["rotated-twice"],
    ),
    "off by one position": (rotation(frequencies(D), places=lambda p: p + 1), ROPE, {}, ["off-by-one"]),
    "off by one position, down": (rotation(frequencies(D), places=lambda p: p - 1), ROPE, {}, ["off-by-one-less"]),
    "positions in bfloat16": (rotation(frequencies(D), places=planted.to_bfloat16), ROPE, {}, ["positions-bfloat16"]),
    "positions in float16": (
        rotation(frequencies(D), places=lambda p: p.astype(np.float16)),
        ROPE,
        {"max_position": 60_000},
        ["positions-float16"],
    ),
    "frequencies in bfloat16": (
        rotation(planted.to_bfloat16(frequencies(D)), angle=np.float32),
        ROPE,
        {},
        ["frequencies-bfloat16"],
    ),
    "tables in bfloat16": (
        rotation(frequencies(D), turn=lambda x, c, s: half(x, planted.to_bfloat16(c), planted.to_bfloat16(s))),
        ROPE,
        {},
        ["tables-bfloat16"],
    ),
    "positions clamped": (
        rotation(frequencies(D), places=lambda p: np.minimum(p, 4095)),
        ROPE,
        {},
        ["positions-clamped"],
    ),
    "positions wrapped": (rotation(frequencies(D), places=lambda p: p % 2048), ROPE, {}, ["positions-wrapped"]),
    "base 10000 instead of 500000": (rotation(frequencies(D)), rr.RoPE(D, 5e5), {}, ["base"]),
    "a base that nobody uses": (rotation(frequencies(D, 23_456.0)), ROPE, {}, ["base"]),
    "exponents j/d": (rotation(10_000.0 ** (-np.arange(32) / D)), ROPE, {}, ["exponent-half"]),
    "exponents from 2/d on": (rotation(frequencies(D) * 1e4 ** (-2 / D)), ROPE, {}, ["exponent-from-one"]),
    "exponents to 1": (rotation(1e4 ** -np.linspace(0, 1, 32)), ROPE, {}, ["exponent-endpoint"]),
    "frequencies reversed": (rotation(frequencies(D)[::-1]), ROPE, {}, ["reversed"]),
    "scaling not applied": (rotation(frequencies(D)), YARN, {}, ["plain-rope"]),
    "amplitude twice": (rotation(YARN_FREQUENCIES, YARN_FACTOR**2), YARN, {}, ["amplitude-twice"]),
    "amplitude missing": (rotation(YARN_FREQUENCIES), YARN, {}, ["amplitude-missing"]),
    "ramp with the target length": (
        rotation(planted.yarn(D, 1e4, 16.0, 65_536)[0], YARN_FACTOR),
        YARN,
        {},
        ["target-length"],
    ),
    "PosGen's ramp with 257 for 65": (
        rotation(planted.yarn(D, 1e4, 257 / 65, 257, fast=2.0)[0], POSGEN.attention_factor),
        POSGEN,
        {},
        ["target-length"],
    ),
    "ramp clamped at d/2 - 1": (
        rotation(*planted.yarn(D, 1e4, 4.0, 131_072, last=31)),
        rr.YaRN(D, factor=4.0, original_length=131_072),
        {},
        ["ramp-clamped"],
    ),
    "ramp over turns": (
        rotation(rr.YaRN(D, factor=16.0, original_length=4096, ramp="turns").inv_freq, YARN_FACTOR),
        YARN,
        {},
        ["yarn-paper"],
    ),
    "linear instead of NTK": (rotation(frequencies(D) / 8), NTK, {}, ["linear"]),
    "NTK with base b s": (rotation(frequencies(D, 8e4)), NTK, {}, ["ntk-scaled-base"]),
    "factor 4 instead of 8": (rotation(frequencies(D) / 4), rr.LinearPI(D, factor=8.0), {}, ["factor"]),
    "a factor that nobody uses": (rotation(frequencies(D) / 5.3), rr.LinearPI(D, factor=8.0), {}, ["factor"]),
    "frequencies multiplied": (rotation(frequencies(D) * 8), rr.LinearPI(D, factor=8.0), {}, ["multiplied"]),
    "Llama 3 with another length": (rotation(planted.llama3(length=4096)), LLAMA3, {}, ["original-length"]),
    "Llama 3 in wavelengths": (rotation(planted.llama3(blend="wavelength")), LLAMA3, {}, ["wavelength-blend"]),
    "dynamic NTK with vLLM's base": (
        planted.dynamic(always=4 * 2048),
        rr.DynamicNTK(D, factor=4.0, original_length=2048),
        {},
        ["dynamic-vllm"],
    ),
    "dynamic NTK stuck at an earlier length": (
        planted.dynamic(always=4096),
        rr.DynamicNTK(D, factor=4.0, original_length=2048, length=8192),
        {},
        ["stuck-length"],
    ),
    "dynamic NTK not dynamic": (
        planted.dynamic(always=1),
        rr.DynamicNTK(D, factor=4.0, original_length=2048),
        {},
        ["plain-rope"],
    ),
    "LongRoPE's switch at L": (planted.longrope(SHORT, LONG, factor=8.0, switch=1), LONGROPE, {}, ["switch-early"]),
    "LongRoPE's short list for long": (
        planted.longrope(SHORT, SHORT, factor=8.0),
        LONGROPE.for_length(8192),
        {},
        ["short-list"],
    ),
    "the last features turn": (
        rotation(frequencies(16), turn=planted.partly(half, 16, last=True)),
        PARTIAL,
        {},
        ["suffix"],
    ),
    "the whole head turns": (rotation(frequencies(D)), PARTIAL, {}, ["whole-head", "whole-head-frequencies"]),
    "partial with exponents of the head": (
        rotation(frequencies(D)[:8], turn=planted.partly(half, 16)),
        PARTIAL,
        {},
        ["exponent-whole-head"],
    ),
    "p-RoPE as partial rotation": (
        rotation(frequencies(16), turn=planted.partly(half, 16)),
        rr.ProportionalRoPE(D, proportion=0.25),
        {},
        ["partial-16", "partial-exponents"],
    ),
    "Resonance not rounded": (rotation(frequencies(D)), RESONANCE, {}, ["not-rounded"]),
    "Resonance rounded down": (
        rotation(2 * np.pi / np.floor(2 * np.pi / frequencies(D))),
        RESONANCE,
        {},
        ["rounded-floor"],
    ),
    "Resonance before YaRN": (
        rotation(rr.Resonance(YARN, "before").inv_freq, YARN_FACTOR),
        rr.Resonance(YARN),
        {},
        ["rounded-before-scaling"],
    ),
    "xPos without its amplitudes": (rotation(frequencies(D)), rr.XPos(D), {}, ["plain-rope"]),
    "interleaved, and base 10000 instead of 500000": (
        rotation(frequencies(D), turn=interleaved),
        rr.RoPE(D, 5e5),
        {},
        ["layout-interleaved", "base"],
    ),
    "sign reversed and amplitude missing": (
        rotation(YARN_FREQUENCIES, sign=-1),
        YARN,
        {},
        ["sign-reversed", "amplitude-missing"],
    ),
    "off by one, base, and amplitude twice": (
        rotation(planted.yarn(D, 5e5, 16.0, 4096)[0], YARN_FACTOR**2, places=lambda p: p + 1),
        YARN,
        {},
        ["base", "off-by-one", "amplitude-twice"],
    ),
    "base 500000, tables in bfloat16": (
        rotation(frequencies(D, 5e5), turn=lambda x, c, s: half(x, planted.to_bfloat16(c), planted.to_bfloat16(s))),
        ROPE,
        {},
        ["base", "tables-16-bits"],
    ),
    "positions ignored": (
        lambda x, positions: rotation(frequencies(D))(x, np.arange(len(x))),
        ROPE,
        {},
        ["positions-ignored"],
    ),
    "only the first position counts": (
        lambda x, positions: rotation(frequencies(D))(x, positions[0] + np.arange(len(x))),
        ROPE,
        {},
        ["positions-as-offset"],
    ),
    "nothing turned": (lambda x, positions: x.copy(), ROPE, {}, ["no-rotation"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named(name):
    function, declared, options, wanted = MISTAKES[name]
    report = check(function, declared, **options)
    assert not report.passed
    assert [mistake.name for mistake in report.mistakes] == wanted, str(report)
    assert not report.unexplained
    assert not report.problems
    assert all(mistake.words in str(report) for mistake in report.mistakes)


# ---- nothing right is called wrong ----

RIGHT = {
    "float64 angles": (rotation(frequencies(D)), ROPE, {}, "refrope"),
    "float32 angles": (rotation(frequencies(D), angle=np.float32), ROPE, {}, "float32"),
    "ggml's recurrence": (planted.recurrence(D), ROPE, {}, "ggml"),
    "interleaved": (rotation(frequencies(D), turn=interleaved), ROPE, {"layout": "interleaved"}, "refrope"),
    "either layout": (rotation(frequencies(D), turn=interleaved), ROPE, {"layout": None}, "refrope"),
    "float64 throughout": (rotation(frequencies(D), table=np.float64), ROPE, {"dtype": "float64"}, "float64"),
    "float16 input": (rotation(frequencies(D), angle=np.float32, table=np.float16), ROPE, {"dtype": "float16"}, None),
    "YaRN": (rotation(YARN_FREQUENCIES, YARN_FACTOR), YARN, {}, "refrope"),
    "Llama 3": (rotation(planted.llama3(), angle=np.float32), LLAMA3, {}, "float32"),
    "the first features": (rotation(frequencies(16), turn=planted.partly(half, 16)), PARTIAL, {}, "refrope"),
    "the last features": (
        rotation(frequencies(16), turn=planted.partly(half, 16, last=True)),
        PARTIAL,
        {"suffix": True},
        "refrope",
    ),
    "dynamic NTK": (planted.dynamic(), rr.DynamicNTK(D, factor=4.0, original_length=2048), {}, None),
    "LongRoPE": (planted.longrope(SHORT, LONG, factor=8.0), LONGROPE, {}, None),
    "a short table": (rotation(frequencies(D)), ROPE, {"max_position": 16}, "refrope"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_function_passes_and_its_precision_is_named(name):
    function, declared, options, pipeline = RIGHT[name]
    report = check(function, declared, **options)
    assert report.passed, str(report)
    if pipeline is not None:
        assert report.pipeline == pipeline


@settings(max_examples=60)
@given(encoding=strategies.variants | strategies.resonances, layout=st.sampled_from(["half", "interleaved"]))
def test_no_encoding_s_own_tables_are_called_wrong(encoding, layout):
    if isinstance(encoding, (rr.DynamicNTK, rr.LongRoPE)) and encoding.length is None:
        encoding = encoding.for_length(5000)
    report = check(lambda x, p: rr.rotate(x, *encoding.cos_sin(p, x.dtype), layout=layout), encoding, layout=layout)
    assert report.passed, str(report)


@settings(max_examples=40)
@given(encoding=strategies.scaled)
def test_float32_angles_are_right_for_every_setting(encoding):
    function = rotation(encoding.inv_freq, encoding.attention_factor, angle=np.float32)
    report = check(function, encoding)
    assert report.passed, str(report)


def test_every_group_of_the_vectors_passes_with_refrope_s_own_functions():
    def make(parameters):
        encoding = vectors.encoding(parameters)

        def rotate(x, positions):
            at = encoding.for_length(int(positions.max()) + 1) if probing.depends_on_length(encoding) else encoding
            return rr.rotate(x, *at.cos_sin(positions, x.dtype))

        return rotate

    groups = dict(check_vectors(make, ["rope", "yarn", "dynamic-ntk", "resonance"]))
    assert len(groups) > 40
    assert all(report.passed for report in groups.values()), [str(r) for r in groups.values() if not r.passed]


def test_a_factory_may_leave_variants_out():
    def make(parameters):
        if parameters["variant"] != "rope" or parameters["rotary_dim"] not in (None, parameters["head_dim"]):
            raise NotImplementedError
        return rotation(frequencies(parameters["head_dim"], parameters["base"]))

    assert 0 < len(list(check_vectors(make, ["rope", "yarn"]))) < len(vectors.load("rope")["groups"])


def test_a_factory_that_raises_is_reported_as_a_function_that_does():
    def make(parameters):
        raise RuntimeError("bad params") if parameters["head_dim"] == 64 else SystemExit(3)

    groups = dict(check_vectors(make, ["xpos"], kind="tables"))
    assert len(groups) > 5
    assert not any(report.passed for report in groups.values())
    said = {report.problems["raises"].rpartition("the factory raises ")[2] for report in groups.values()}
    assert said == {"RuntimeError: bad params", "SystemExit: 3"}


def test_vectors_without_encodings_are_no_setting_to_check():
    with pytest.raises(ValueError, match="check_vectors: unknown name 'posgen'"):
        list(check_vectors(lambda parameters: None, ["posgen"]))


# ---- tables and frequencies ----


def tables(angle=np.float64, double=None, factor=1.0, base=1e4):
    def cos_sin(positions):
        phase = positions[:, None].astype(angle) * frequencies(D, base).astype(angle)
        both = factor * np.cos(phase), factor * np.sin(phase)
        if double == "half":
            both = tuple(np.concatenate([t, t], -1) for t in both)
        if double == "interleaved":
            both = tuple(np.repeat(t, 2, -1) for t in both)
        return both

    return cos_sin


@pytest.mark.parametrize(
    "function",
    [
        tables(),
        tables(np.float32, "half"),
        lambda p: np.stack(tables()(p)),
        lambda p: tables()(p)[0] + 1j * tables()(p)[1],
        lambda p: [t[None, :, None] for t in tables()(p)],
    ],
    ids=["two arrays", "doubled", "stacked", "complex", "with axes of one"],
)
def test_tables_pass_however_they_are_handed_out(function):
    report = check(function, ROPE)
    assert report.passed, str(report)
    assert report.kind == "tables"


def test_mistakes_in_tables_are_named():
    assert [m.name for m in check(tables(base=5e5), ROPE).mistakes] == ["base"]
    assert [m.name for m in check(tables(double="interleaved"), ROPE).mistakes] == ["layout-interleaved"]
    assert check(lambda p: tables()(p)[0], ROPE).problems["wrong-shape"]
    assert check(lambda p: tables()(p + 0)[0][:, :5], ROPE).problems["wrong-shape"]


@pytest.mark.parametrize(
    ("returned", "declared", "wanted"),
    [
        (frequencies(D).astype(np.float32), ROPE, []),
        ((YARN_FREQUENCIES, YARN_FACTOR), YARN, []),
        ((YARN_FREQUENCIES, 1.0), YARN, ["amplitude-missing"]),
        ((YARN_FREQUENCIES, YARN_FACTOR**2), YARN, ["amplitude-twice"]),
        ((YARN_FREQUENCIES, 3.0), YARN, ["amplitude"]),
        (1 / frequencies(D), ROPE, ["reciprocal"]),
        (2 * np.pi / frequencies(D), ROPE, ["wavelengths"]),
        (frequencies(D) / (2 * np.pi), ROPE, ["turns"]),
        (-frequencies(D), ROPE, ["negative"]),
        (planted.to_bfloat16(frequencies(D)), ROPE, ["frequencies-bfloat16"]),
        (frequencies(D), rr.RoPE(D, 5e5), ["base"]),
        (frequencies(D), YARN, ["plain-rope"]),
        (planted.llama3(blend="wavelength"), LLAMA3, ["wavelength-blend"]),
    ],
)
def test_frequencies_are_compared_and_their_mistakes_named(returned, declared, wanted):
    report = check(lambda: returned, declared)
    assert [mistake.name for mistake in report.mistakes] == wanted
    assert report.passed == (not wanted)
    assert report.kind == "inv_freq"


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1.2773, "multiplied by 1.2773 where 1.27726 was declared"),
        (1.27728, "multiplied by 1.27728 where 1.27726 was declared"),
        (1.3, "multiplied by 1.3 where 1.2773 was declared"),
    ],
)
def test_an_amplitude_is_shown_with_the_digits_that_tell_it_from_the_declared_one(factor, said):
    (mistake,) = check(rotation(YARN_FREQUENCIES, factor), YARN).mistakes
    assert mistake.name == "amplitude"
    assert said in mistake.words


def test_an_unknown_mistake_is_described_and_not_guessed():
    report = check(rotation(frequencies(D) * np.linspace(1, 1.3, 32)), ROPE)
    assert report.unexplained
    assert not report.mistakes
    assert not report.passed
    np.testing.assert_allclose(report.measured, frequencies(D) * np.linspace(1, 1.3, 32), rtol=1e-4)
    first, many, pairs = report.first_wrong
    assert (first, pairs) == (1, list(range(1, 32)))
    assert f"off at {many} of {report.positions} positions, the first 1, in 31 of 32 pairs" in str(report)
    assert "1.3 (pair 31)." in str(report)
    written = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert written["first_wrong"] == [first, many, pairs]
    assert written["measured"] == report.measured.tolist()
    frequency_report = check(lambda: frequencies(D) * np.linspace(1, 1.3, 32), ROPE)
    assert frequency_report.unexplained


# ---- bad manners ----


def counting(function):
    calls = []

    def counted(x, positions):
        calls.append(1)
        return function(x, positions, len(calls))

    return counted


GOOD = rotation(frequencies(D))


def in_place(x, positions):
    x[...] = GOOD(x, positions)
    return x


def only_short(x, positions):
    if positions.max() >= 4096:
        raise IndexError("index 4096 is out of bounds")
    return GOOD(x, positions)


def chatty(x, positions):
    print("rotating", x.shape)
    return GOOD(x, positions)


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        (lambda x, p: GOOD(x, p)[..., :-2], "wrong-shape", "returned"),
        (lambda x, p: np.where(p[:, None] == 4096, np.nan, GOOD(x, p)), "nan", "position 4096"),
        (lambda x, p: x * np.nan, "nan", "position 1"),
        (in_place, "mutates", "first argument"),
        (only_short, "raises", "the first 4096: IndexError: index 4096"),
        (lambda x, p: 1 / 0, "raises", "ZeroDivisionError"),
        (lambda x, p: sys.exit(3), "raises", "SystemExit"),
        (lambda x, p: "rotated", "not-an-array", "str"),
        (lambda x, p: None, "not-an-array", "NoneType"),
        (counting(lambda x, p, calls: GOOD(x, p + (calls > 7))), "stateful", "second time"),
        (lambda x, p: np.clip(GOOD(x, p), -1, 1) if (abs(x).sum(1) <= D // 2).all() else x, "not-linear", "linear"),
    ],
)
def test_bad_manners_are_reported(function, kind, said):
    report = check(function, ROPE)
    assert not report.passed
    assert said in report.problems[kind], str(report)
    assert f"Problem ({kind})" in str(report)


def test_a_function_that_raises_late_is_still_compared_before():
    report = check(only_short, ROPE)
    assert report.worst < 1e-6
    assert check(only_short, ROPE, max_position=4096).passed


def test_a_table_that_remembers_longer_calls_is_found():
    declared = rr.DynamicNTK(D, factor=4.0, original_length=2048)
    report = check(planted.dynamic(remember=True), declared)
    assert "remembers earlier calls" in report.problems["stateful"]
    assert [mistake.name for mistake in report.mistakes] == ["remembers-longest"]


def test_a_reset_that_comes_too_late_is_found():
    """As in transformers 5.23: after growth the base is reset for less than the original length, not for L itself."""
    longest = [0]

    def rotate(x, positions):
        now = int(positions.max()) + 1
        longest[0] = now if now < 2048 else max(longest[0], now)
        return planted.dynamic(always=longest[0])(x, positions)

    report = check(rotate, rr.DynamicNTK(D, factor=4.0, original_length=2048))
    assert [mistake.name for mistake in report.mistakes] == ["remembers-at-original"]


def test_the_vectors_of_the_setting_are_run_where_there_are_any():
    group = next(g for g in vectors.load("rope")["groups"] if g["rotations"])
    declared = vectors.encoding(group["parameters"])
    own = rotation(declared.inv_freq, turn=interleaved)
    wanted = [v["id"] for v in group["rotations"] if v["layout"] == "interleaved" and not v["suffix"]]
    assert list(check(own, declared, layout="interleaved").vectors) == wanted
    assert list(check(own, declared, layout=None).vectors) == wanted
    assert wanted[0] in str(check(own, declared, layout="interleaved"))

    def queries_only(x, positions):  # right for basis vectors and for numbers up to 1/2
        return own(np.clip(x, -1, 0.9) if (abs(x).sum(axis=1) > 3).all() and x.max() < 1 else x, positions)

    report = check(queries_only, declared, layout="interleaved")
    assert not report.passed
    assert report.problems.keys() & {"vectors", "not-linear"}


def test_printing_is_reported_and_forgiven(capsys):
    report = check(chatty, ROPE)
    assert report.passed
    assert "rotating (" in report.problems["prints"]
    assert capsys.readouterr().out == ""


def test_a_hanging_function_is_left_behind():
    def hangs(x, positions):
        time.sleep(3)

    report = check(hangs, ROPE, time_limit=0.05)
    assert not report.passed
    assert "more than 0.05 s" in report.problems["hangs"]
    assert report.calls == 1


def test_heads_and_batch_rows_must_be_turned_alike():
    def over_heads(x, positions):  # (B, T, H, D) taken for (B, H, T, D)
        return np.stack([GOOD(x[:, :, h], positions + h) for h in range(x.shape[2])], axis=2)

    assert "axes" in check(over_heads, ROPE, axes="BTHD").problems
    for axes in ("HTD", "BHTD"):
        assert check(GOOD, ROPE, axes=axes).passed
    assert check(lambda x, p: np.moveaxis(GOOD(np.moveaxis(x, -2, -3), p), -3, -2), ROPE, axes="BTHD").passed


class Wrapped:
    """An array of another library, which NumPy reads through `protocol` alone."""

    def __init__(self, values, protocol):
        self.values, self.protocol = values, protocol

    def __array__(self, dtype=None, copy=None):
        if self.protocol != "__array__":
            raise TypeError("no __array__")
        return self.values

    def __dlpack__(self, **_):
        return self.values.__dlpack__()

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


@pytest.mark.parametrize("protocol", ["__array__", "__dlpack__"])
def test_any_array_that_numpy_can_read_will_do(protocol):
    assert check(lambda x, p: Wrapped(GOOD(x, p), protocol), ROPE).passed


def test_wrong_arguments_of_check_are_errors():
    for options, said in (
        ({"kind": "rotation"}, "unknown kind 'rotation'"),
        ({"layout": "neox"}, "unknown layout"),
        ({"axes": "TDH"}, "unknown axes"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"time_limit": 0}, "time_limit is 0"),
        ({"max_position": 3}, "max_position is 3"),
    ):
        with pytest.raises(ValueError, match=said):
            check(GOOD, ROPE, **options)
    with pytest.raises(ValueError, match="expected something to call"):
        check(3, ROPE)
    with pytest.raises(ValueError, match="encoding is 3"):
        check(GOOD, 3)
    with pytest.raises(ValueError, match="needs 3 arguments"):
        check(lambda q, k, p: q, ROPE)
    with pytest.raises(ValueError, match="unknown encoding 'rop'"):
        check(GOOD, "rop")


def test_the_declared_encoding_may_be_text_or_configuration(tmp_path):
    config = {"head_dim": D, "rope_theta": 10_000.0, "max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for declared in ("rope:head_dim=64", config, tmp_path / "config.json", str(tmp_path / "config.json")):
        assert check(GOOD, declared).passed


def test_a_report_is_json_as_well():
    report = check(MISTAKES["amplitude twice"][0], YARN)
    written = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert written["mistakes"] == [{"name": "amplitude-twice", "words": "the attention factor applied twice"}]
    assert written["passed"] is False
    assert math.isclose(written["declared"]["factor"], 16.0)
