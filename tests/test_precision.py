"""What each pipeline does to tables and scores, held against exact phases and against plain NumPy arithmetic."""

import mpmath
import numpy as np
import pytest
from conftest import same_bits
from hypothesis import given
from hypothesis import strategies as st
from strategies import INT64_MAX, int64_positions, resonances, ropes, scaled
from test_tables import exact_inv_freq

from refrope import Resonance, RoPE, YaRN, precision
from refrope.precision import (
    PIPELINES,
    exact_cos_sin,
    pipeline_cos_sin,
    relative_score_error,
    round_to_bfloat16,
    table_error,
)

LLAMA2 = RoPE(128)
# The stated error of exact_cos_sin over all of int64; below 2^32 tokens nothing but the last float64 roundings is left.
EXACT = 2.0**-48
EXACT_NEAR = 2.0**-50
# Measured errors are maxima over a few thousand positions near the one that is named; other samples differ by less.
MEASURED = 0.2
SCORES = 0.3  # means over random vectors at one pair of positions; other pairs differ by a fifth
# Resonance in float32: theta 2^-24 and product 2^-22 / 2, at angles of at most 2 pi, then 2^-25 for the table: 6.5e-7.
# Periods beyond 2^24 tokens add a rounding of the position, as large as that of theta.
PERIODIC = 1e-6
BIG_PERIODIC = 1.1e-6
HALF_UNIT = {"float32": 2.0**-25, "bfloat16": 2.0**-9, "float16": 2.0**-12}  # of a table entry below 1

float32s = st.floats(width=32) | st.integers(0, 2**32 - 1).map(
    lambda bits: np.array(bits, dtype=np.uint32).view(np.float32)[()]
)


def near(position):
    """Positions before the one named, and a few from the whole way to it."""
    ahead = np.arange(max(0, position - 1500), position)
    return np.union1d(ahead, np.linspace(0, position - 1, 500).astype(np.int64))


# ---- bfloat16 ----


def all_bfloat16():
    """Every non-negative finite bfloat16 in order, and 2^128, which takes the place of infinity in rounding."""
    upper = np.arange(0x7F80, dtype=np.uint32) << 16
    return np.append(upper.view(np.float32).astype(np.float64), 2.0**128)


@given(st.lists(float32s, min_size=1, max_size=20))
def test_rounding_takes_the_nearest_of_all_bfloat16_and_an_even_one_of_two(values):
    known = all_bfloat16()
    x = np.array(values, dtype=np.float32)
    got = round_to_bfloat16(x)
    for value, rounded in zip(x.astype(np.float64), got.astype(np.float64), strict=True):
        if np.isnan(value):
            assert np.isnan(rounded)
            continue
        magnitude = min(abs(value), 2.0**128)
        above = min(np.searchsorted(known, magnitude), len(known) - 1)
        candidates = [above] if known[above] == magnitude else [above - 1, above]
        nearest = min(candidates, key=lambda i: (abs(known[i] - magnitude), i % 2))
        assert abs(rounded) == (known[nearest] if nearest < len(known) - 1 else np.inf)
        assert np.signbit(rounded) == np.signbit(value)


def test_bfloat16_edges():
    largest = 2.0**128 - 2.0**120
    inf, tiny = np.inf, 2.0**-133  # the smallest bfloat16
    pairs = [
        (1 + 2.0**-8, 1.0),  # ties go to even
        (1 + 3 * 2.0**-8, 1 + 2.0**-6),
        (1 + 2.0**-8 + 2.0**-23, 1 + 2.0**-7),
        (257.0, 256.0),  # whole numbers end at 256
        (largest, largest),
        (np.nextafter(np.float32(2.0**128 - 2.0**119), np.float32(0)), largest),
        (2.0**128 - 2.0**119, inf),
        (1e300, inf),  # beyond float32
        (inf, inf),
        (0.0, 0.0),
        (tiny, tiny),
        (tiny / 2, 0.0),
        (1.5 * tiny, 2 * tiny),
    ]
    x, wanted = np.array(pairs).T
    assert same_bits(round_to_bfloat16(x), wanted.astype(np.float32))
    assert same_bits(round_to_bfloat16(-x), -wanted.astype(np.float32))


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFF8000, 0xFFFFFFFF])
def test_no_nan_becomes_a_number(bits):
    nan = np.array(bits, dtype=np.uint32).view(np.float32)
    assert np.isnan(round_to_bfloat16(nan))
    assert np.signbit(round_to_bfloat16(nan)) == np.signbit(nan)


def test_rounding_keeps_shape_and_input():
    for shape in [(), (0,), (3,), (2, 0, 5), (2, 3, 5)]:
        x = np.full(shape, 1.001, dtype=np.float32)
        assert same_bits(round_to_bfloat16(x), np.ones(shape, dtype=np.float32))
        assert (x == np.float32(1.001)).all()
    x = np.full((4, 6), 1.001, dtype=np.float32)[:, ::2]
    assert same_bits(round_to_bfloat16(x), np.ones((4, 3), dtype=np.float32))


@given(st.lists(float32s, min_size=1))
def test_rounding_twice_is_rounding_once(values):
    once = round_to_bfloat16(values)
    assert same_bits(round_to_bfloat16(once), once)


# ---- exact phases ----


@given(scaled | resonances, st.lists(int64_positions, min_size=1, max_size=3))
def test_exact_cos_sin_holds_its_stated_error_everywhere(encoding, positions):
    cos, sin = exact_cos_sin(encoding, positions)
    with mpmath.workdps(60):
        frequencies = exact_inv_freq(encoding)
        for i, position in enumerate(positions):
            limit = EXACT_NEAR if abs(position) < 2**32 else EXACT
            for j in {0, 1 % encoding.pairs, encoding.pairs // 2, encoding.pairs - 1}:
                angle = position * frequencies[j]
                assert abs(mpmath.cos(angle) - mpmath.mpf(float(cos[i, j]))) <= limit
                assert abs(mpmath.sin(angle) - mpmath.mpf(float(sin[i, j]))) <= limit


# ---- pipelines ----


@given(ropes, st.lists(int64_positions, min_size=1, max_size=5))
def test_float32_is_what_float32_arithmetic_gives(rope, positions):
    angles = np.array(positions).astype(np.float32)[:, None] * rope.inv_freq.astype(np.float32)
    assert angles.dtype == np.float32
    cos, sin = pipeline_cos_sin(rope, positions, "float32")
    assert np.array_equal(cos, np.cos(angles.astype(np.float64)).astype(np.float32))
    assert np.array_equal(sin, np.sin(angles.astype(np.float64)).astype(np.float32))


@given(scaled, st.integers(0, 2**24))
def test_ggml_is_its_loop(encoding, position):
    with mpmath.workdps(40):
        exact_ratio = mpmath.mpf(encoding.base) ** (mpmath.mpf(-2) / encoding.turned)
        ratio = np.float32(float(exact_ratio))
    cos, sin = pipeline_cos_sin(encoding, position, "ggml")
    angle = np.float32(position)
    for j, factor in enumerate(encoding.stretch.astype(np.float32)):
        assert cos[j] == np.float32(np.cos(np.float64(angle / factor)))
        assert sin[j] == np.float32(np.sin(np.float64(angle / factor)))
        angle = angle * ratio


@given(ropes | st.builds(Resonance, ropes), st.lists(int64_positions, min_size=1, max_size=5))
def test_refrope_is_the_encodings_own_tables(encoding, positions):
    pairs = zip(pipeline_cos_sin(encoding, positions, "refrope"), encoding.cos_sin(positions), strict=True)
    assert all(same_bits(got, wanted) for got, wanted in pairs)


@given(scaled, st.integers(0, 2**20), st.sampled_from(["bfloat16", "float16"]))
def test_a_stored_table_of_16_bits_is_the_float32_one_rounded(encoding, position, kind):
    rounded = {"bfloat16": round_to_bfloat16, "float16": lambda x: x.astype(np.float16).astype(np.float32)}[kind]
    for got, wide in zip(
        pipeline_cos_sin(encoding, position, f"{kind}-table"),
        pipeline_cos_sin(encoding, position, "float32"),
        strict=True,
    ):
        assert same_bits(got, rounded(wide))
        assert np.abs(got - wide).max() <= HALF_UNIT[kind]


def test_pipelines_differ_in_the_stage_they_name():
    # At 257 tokens bfloat16 holds no whole number, and at 2049 float16 none.
    for kind, position in (("bfloat16", 257), ("float16", 2049)):
        moved = pipeline_cos_sin(LLAMA2, position, f"{kind}-position")
        assert all(map(same_bits, moved, pipeline_cos_sin(LLAMA2, position - 1, "float32")))
        assert table_error(LLAMA2, position - 1, f"{kind}-position") == table_error(LLAMA2, position - 1, "float32")
        # The first pair's theta is 1, so that its angle is the position.
        phase = pipeline_cos_sin(LLAMA2, position, f"{kind}-phase")
        assert phase[0][0] == moved[0][0]
        assert phase[0][1] != moved[0][1]
        theta = pipeline_cos_sin(LLAMA2, position, f"{kind}-theta")
        assert theta[0][0] == pipeline_cos_sin(LLAMA2, position, "float32")[0][0]
        assert theta[0][1] != pipeline_cos_sin(LLAMA2, position, "float32")[0][1]


@pytest.mark.parametrize(
    ("pipeline", "errors"),  # near 4096, 32,768, 131,072 and 1,048,576 tokens; head_dim 128, base 10,000
    [
        ("float64", [4.0e-13, 3.3e-12, 1.33e-11, 1.07e-10]),
        ("refrope", [2.98e-8, 2.98e-8, 2.98e-8, 2.99e-8]),
        ("float32", [2.4e-4, 1.92e-3, 7.7e-3, 6.2e-2]),
        ("float32-theta", [1.22e-4, 9.7e-4, 3.9e-3, 3.1e-2]),
        ("ggml", [6.3e-4, 5.3e-3, 2.1e-2, 1.7e-1]),
        ("bfloat16-table", [2.1e-3, 3.4e-3, 8.2e-3, 6.2e-2]),
        ("float16-table", [4.05e-4, 1.94e-3, 7.7e-3, 6.2e-2]),
    ],
)
def test_errors_grow_with_position_as_measured(pipeline, errors):
    got = [table_error(LLAMA2, near(2**k), pipeline).max() for k in (12, 15, 17, 20)]
    assert got == pytest.approx(errors, rel=MEASURED)


@pytest.mark.parametrize("stage", ["theta", "position", "phase"])
def test_bfloat16_before_the_cosine_is_useless(stage):
    for position in (2**12, 2**17, 2**20):
        assert table_error(LLAMA2, near(position), f"bfloat16-{stage}").max() > 1.9


@pytest.mark.parametrize("stage", ["position", "phase"])
def test_float16_before_the_cosine_is_a_radian_off_and_then_infinite(stage):
    pipeline = f"float16-{stage}"
    assert table_error(LLAMA2, near(2**12), pipeline).max() == pytest.approx(2 * np.sin(0.5), rel=1e-3)
    assert table_error(LLAMA2, near(2**15), pipeline).max() > 1.9
    assert np.isnan(table_error(LLAMA2, [65_520, -65_520, 2**20], pipeline)).all()
    assert not np.isnan(table_error(LLAMA2, [65_519, -65_519], pipeline)).any()


@given(ropes, st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=5))
def test_float32_angles_are_off_by_at_most_two_roundings_of_the_angle(rope, positions):
    angles = np.abs(positions) * rope.inv_freq.max()
    assert (table_error(rope, positions, "float32") <= 1.01 * 2 * 2.0**-24 * angles + HALF_UNIT["float32"]).all()


@given(resonances, st.lists(int64_positions, min_size=1, max_size=5))
def test_resonances_periodic_tables_are_right_at_every_position(resonance, positions):
    limit = PERIODIC if resonance.periods.max() <= 2**24 else BIG_PERIODIC
    assert (table_error(resonance, positions, "periodic") <= limit).all()
    assert (table_error(resonance, positions, "refrope") <= 1.01 * HALF_UNIT["float32"]).all()


def test_all_phases_of_llama2_under_resonance_are_right_to_1e_6():
    resonance = Resonance(LLAMA2)
    period = resonance.periods.max()
    error = table_error(resonance, np.arange(period), "periodic").max()  # later positions hold no other entries
    assert error == pytest.approx(5.1e-7, rel=MEASURED)
    assert error < PERIODIC


def test_without_the_integer_mod_resonance_loses_as_much_as_rope():
    assert table_error(Resonance(LLAMA2), 131_071, "float32") == pytest.approx(4.5e-3, rel=MEASURED)
    assert table_error(Resonance(LLAMA2), 131_071, "periodic") < PERIODIC


def test_errors_do_not_depend_on_chunks_and_keep_the_shape(monkeypatch):
    positions = np.arange(60).reshape(3, 4, 5)
    whole = table_error(LLAMA2, positions, "bfloat16-table")
    assert whole.shape == (3, 4, 5)
    assert table_error(LLAMA2, 7, "float32").shape == ()
    assert table_error(LLAMA2, [], "float32").shape == (0,)
    monkeypatch.setattr(precision, "_CHUNK", 200)
    assert same_bits(table_error(LLAMA2, positions, "bfloat16-table"), whole)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_pipeline_is_described_and_right_at_position_0(pipeline):
    assert PIPELINES[pipeline]
    assert "\n" not in PIPELINES[pipeline]
    encoding = Resonance(YaRN(16, factor=4.0, original_length=64))  # its attention factor is not in the tables
    assert table_error(encoding, 0, pipeline) == 0
    cos, sin = pipeline_cos_sin(encoding, np.arange(6).reshape(2, 3), pipeline)
    assert cos.shape == sin.shape == (2, 3, 8)
    assert cos.dtype == sin.dtype == (np.float64 if pipeline == "float64" else np.float32)


# ---- scores ----

QUERIES, KEYS = np.random.default_rng(7).standard_normal((2, 2000, 128))
SHIFT = 32_768


@pytest.mark.parametrize(
    ("pipeline", "mean"),
    [
        ("float64", 3e-13),
        ("refrope", 6.4e-8),
        ("float32", 1.6e-4),
        ("float16-table", 5.6e-4),
        ("bfloat16-table", 4.2e-3),
    ],
)
def test_shifted_scores_differ_as_measured(pipeline, mean):
    error = relative_score_error(LLAMA2, QUERIES, KEYS, 1064, 1000, SHIFT, pipeline=pipeline)
    assert error.shape == (2000,)
    assert error.mean() == pytest.approx(mean, rel=SCORES)


def test_bfloat16_breaks_relativity_where_float64_keeps_it():
    broken = relative_score_error(LLAMA2, QUERIES, KEYS, 64, 0, SHIFT)
    kept = relative_score_error(LLAMA2, QUERIES, KEYS, 64, 0, SHIFT, pipeline="float64")
    assert broken.mean() == pytest.approx(3.8e-3, rel=MEASURED)
    assert broken.max() > 1e-2
    assert kept.max() < 1e-11


def test_a_shift_by_a_common_period_changes_nothing():
    resonance = Resonance(RoPE(6, 50.0))
    horizon = int(np.lcm.reduce(resonance.periods))
    q, k = QUERIES[:, :6], KEYS[:, :6]
    for pipeline in ("periodic", "refrope"):
        assert (relative_score_error(resonance, q, k, 9, 5, horizon, pipeline=pipeline) == 0).all()
        assert (relative_score_error(resonance, q, k, 9, 5, horizon + 1, pipeline=pipeline) > 0).any()


def test_the_score_is_that_of_a_rotation_in_bfloat16():
    """One pair, written out by hand."""
    q, k = np.float32([1.5, -0.75]), np.float32([0.625, 2.0])  # bfloat16 already

    def score(m, n):
        turned = []
        for x, position in ((q, m), (k, n)):
            cos, sin = (round_to_bfloat16(f(np.float64(position))) for f in (np.cos, np.sin))
            first = round_to_bfloat16(round_to_bfloat16(x[0] * cos) - round_to_bfloat16(x[1] * sin))
            second = round_to_bfloat16(round_to_bfloat16(x[0] * sin) + round_to_bfloat16(x[1] * cos))
            turned.append(np.array([first, second], dtype=np.float64))
        return turned[0] @ turned[1] / np.sqrt(2)

    wanted = abs(score(9, 4) - score(109, 104))
    assert wanted > 0
    assert relative_score_error(RoPE(2), q, k, 9, 4, 100) == pytest.approx(wanted, rel=1e-12)


def test_features_that_do_not_turn_change_no_score():
    partial = RoPE(128, rotary_dim=32)
    q = np.where(np.arange(128) < 32, 0, QUERIES)
    assert (relative_score_error(partial, q, KEYS, 64, 0, SHIFT) == 0).all()
    assert (relative_score_error(partial, QUERIES, KEYS, 64, 0, SHIFT) > 0).any()


# ---- wrong calls ----


class NoStretch(RoPE):
    """An encoding that has no stretch."""

    def exact_stretch(self):
        return None

    def exact_inv_freq(self):
        return self.plain_inv_freq()


def test_wrong_calls_are_told_what_was_wanted():
    for function in (pipeline_cos_sin, table_error):
        name = function.__name__
        with pytest.raises(ValueError, match=rf"{name}: unknown pipeline 'float3'; did you mean 'float32'\?"):
            function(LLAMA2, [0], "float3")
        with pytest.raises(ValueError, match=rf"{name}: positions are \[0.5\], expected int64 values"):
            function(LLAMA2, [0.5], "float32")
        with pytest.raises(ValueError, match=rf"{name}: encoding is RoPE\(.*\), expected whole wavelengths"):
            function(LLAMA2, [0], "periodic")
        with pytest.raises(ValueError, match=rf"{name}: NoStretch has no stretch, which pipeline 'ggml' needs"):
            function(NoStretch(8), [0], "ggml")
    with pytest.raises(ValueError, match="exact_cos_sin: positions are uint64"):
        exact_cos_sin(LLAMA2, np.array([2**63], dtype=np.uint64))
    x = np.zeros((3, 128))
    for q, k, words in [
        ([0.0], x, r"q is \[0.0\], expected \(..., 128\) floats"),
        (np.zeros(64), x, r"q is float64\(64,\)"),
        (x, np.zeros(128), r"k is float64\(128,\), expected \(..., 128\) floats like q"),
        (x, x.astype(int), "k is int64"),
    ]:
        with pytest.raises(ValueError, match=f"relative_score_error: {words}"):
            relative_score_error(LLAMA2, q, k, 0, 0, 1)
    with pytest.raises(ValueError, match=f"relative_score_error: shift is {INT64_MAX}, expected an integer in"):
        relative_score_error(LLAMA2, x, x, 1, 0, INT64_MAX)
    with pytest.raises(ValueError, match=r"relative_score_error: key_position is 0\.5"):
        relative_score_error(LLAMA2, x, x, 1, 0.5, 1)
