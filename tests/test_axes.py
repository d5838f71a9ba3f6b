"""Several axes: which id turns which pair, against loops over single numbers; equal ids are one axis, bit for bit."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import same_bits
from hypothesis import given
from hypothesis import strategies as st
from strategies import encodings

from refrope import NTKAware, Resonance, RoPE, XPos, YaRN, rotate
from refrope.encodings import Axial2D, MRoPE, axes, grid_positions

FORMS = ["shared", "evenodd", "offset"]
LAYOUTS = ["half", "interleaved"]
# Unit-normal q and k of up to 128 features, angles of up to 50 radians that carry 4 * 2^-53 of themselves.
LOGIT64 = 1e-12
# The same with ids of up to 1000 in the differences and in the ids themselves.
RELATIVE64 = 1e-10
# A wrong axis moves logits of the oracle tests by far more than their tolerance; this is what a test may call a change.
SEEN = 1e-3

seeds = st.integers(0, 2**32 - 1)
layouts = st.sampled_from(LAYOUTS)


# ---- oracles: single numbers, no array, nothing of the package ----


def features_of(pair, pairs, layout):
    return (pair, pair + pairs) if layout == "half" else (2 * pair, 2 * pair + 1)


def logit_by_loop(q, k, m, n, turning, layout):
    """The logit q . R k summed pair by pair; `turning` lists (axis, radians per step) of every pair."""
    total = 0.0
    for pair, (axis, frequency) in enumerate(turning):
        a, b = features_of(pair, len(turning), layout)
        angle = (int(n[axis]) - int(m[axis])) * frequency
        total += (q[a] * k[a] + q[b] * k[b]) * math.cos(angle) + (q[b] * k[a] - q[a] * k[b]) * math.sin(angle)
    return total


def chunked_by_hand(head_dim, base, sections):
    turning, pair = [], 0
    for axis, count in enumerate(sections):
        for _ in range(count):
            turning.append((axis, base ** (-2 * pair / head_dim)))
            pair += 1
    return turning


def interleaved_by_hand(head_dim, base, sections, leftover):
    """Qwen3-VL's way of writing: all pairs follow t, then every third is overwritten by h and by w."""
    axis = [0] * (head_dim // 2)
    for other in (1, 2):
        for pair in range(other, 3 * sections[other], 3):
            axis[pair] = other
    if leftover == "fourth":
        for pair in range(head_dim // 2):
            if pair % 3 == 0 and pair < 3 * sections[0]:
                continue
            if pair % 3 != 0 and pair < 3 * sections[pair % 3]:
                continue
            axis[pair] = 3
    return [(axis[pair], base ** (-2 * pair / head_dim)) for pair in range(head_dim // 2)]


def axial_by_hand(head_dim, base, form):
    quarter = range(head_dim // 4)
    if form == "evenodd":
        rows = [(0, base ** (-(4 * j) / head_dim)) for j in quarter]
        return rows + [(1, base ** (-(4 * j + 2) / head_dim)) for j in quarter]
    first, last = (1, 0) if form == "offset" else (0, 1)
    half = head_dim / 2
    return [(first, base ** (-2 * j / half)) for j in quarter] + [(last, base ** (-2 * j / half)) for j in quarter]


CASES = {
    "chunked": (MRoPE(RoPE(24, 500.0), (3, 4, 5)), chunked_by_hand(24, 500.0, (3, 4, 5))),
    "qwen2-vl": (MRoPE(RoPE(128, 1e6)), chunked_by_hand(128, 1e6, (16, 24, 24))),
    "two axes": (MRoPE(RoPE(14, 1e4), (5, 2)), chunked_by_hand(14, 1e4, (5, 2))),
    "four axes": (MRoPE(RoPE(22, 1e4), (2, 3, 1, 5)), chunked_by_hand(22, 1e4, (2, 3, 1, 5))),
    "interleaved": (
        MRoPE(RoPE(26, 1e4), (7, 4, 2), interleaved=True),
        interleaved_by_hand(26, 1e4, (7, 4, 2), "t"),
    ),
    "qwen3-vl": (
        MRoPE(RoPE(128, 5e6), (24, 20, 20), interleaved=True),
        interleaved_by_hand(128, 5e6, (24, 20, 20), "t"),
    ),
    "ggml": (
        MRoPE(RoPE(26, 1e4), (7, 3, 3), interleaved=True, leftover="fourth"),
        interleaved_by_hand(26, 1e4, (7, 3, 3), "fourth"),
    ),
    **{form: (Axial2D(44, 100.0, form), axial_by_hand(44, 100.0, form)) for form in FORMS},
}
cases = pytest.mark.parametrize("case", CASES)


def ids_of(encoding):
    return encoding.ids if isinstance(encoding, MRoPE) else 2


def draw(seed, encoding, tokens, largest):
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((2, tokens, encoding.inv_freq.size * 2))
    return q, k, rng.integers(0, largest + 1, (2, tokens, ids_of(encoding)))


def logits_of(encoding, q, k, m, n, layout):
    turned = [rotate(x, *encoding.cos_sin(places, np.float64), layout=layout) for x, places in ((q, m), (k, n))]
    return turned[0] @ turned[1].T


def logits_by_loop(q, k, m, n, turning, layout):
    return np.array(
        [
            [logit_by_loop(a, b, i, j, turning, layout) for b, j in zip(k, n, strict=True)]
            for a, i in zip(q, m, strict=True)
        ]
    )


@cases
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_a_loop_over_pairs(case, layout):
    encoding, turning = CASES[case]
    q, k, (m, n) = draw(7, encoding, 5, 50)
    expected = logits_by_loop(q, k, m, n, turning, layout)
    assert np.abs(logits_of(encoding, q, k, m, n, layout) - expected).max() < LOGIT64


@cases
def test_the_loop_sees_swapped_axes(case):
    encoding, turning = CASES[case]
    q, k, (m, n) = draw(7, encoding, 5, 50)
    swapped = [(1 - axis if axis < 2 else axis, frequency) for axis, frequency in turning]
    wrong = logits_by_loop(q, k, m, n, swapped, "half")
    assert np.abs(logits_of(encoding, q, k, m, n, "half") - wrong).max() > SEEN


@cases
def test_the_loop_sees_an_axis_whose_pairs_are_one_too_many(case):
    encoding, turning = CASES[case]
    q, k, (m, n) = draw(7, encoding, 5, 50)
    late = next(i for i, (a, b) in enumerate(pairwise(turning)) if a[0] != b[0])
    turning = [(axis if i != late else turning[i + 1][0], f) for i, (axis, f) in enumerate(turning)]
    wrong = logits_by_loop(q, k, m, n, turning, "half")
    assert np.abs(logits_of(encoding, q, k, m, n, "half") - wrong).max() > SEEN


@cases
def test_axes_and_frequencies_are_those_written_by_hand(case):
    encoding, turning = CASES[case]
    assert encoding.axes.tolist() == [axis for axis, _ in turning]
    assert np.allclose(encoding.inv_freq, [frequency for _, frequency in turning], rtol=LOGIT64, atol=0)
    assert encoding.axes.shape == encoding.inv_freq.shape == (encoding.pairs,)
    assert encoding.head_dim == 2 * encoding.pairs


# ---- equal ids ----


@st.composite
def mropes(draw):
    """Any encoding with any sections that its pairs allow."""
    encoding = draw(encodings)
    pairs = encoding.pairs
    if draw(st.booleans()):
        h, w = draw(st.integers(0, (pairs + 1) // 3)), draw(st.integers(0, pairs // 3))
        leftover = draw(st.sampled_from(axes.LEFTOVER))
        return MRoPE(encoding, (pairs - h - w, h, w), interleaved=True, leftover=leftover)
    cuts = sorted(draw(st.lists(st.integers(0, pairs), max_size=4)))
    return MRoPE(encoding, tuple(b - a for a, b in pairwise([0, *cuts, pairs])))


@given(mropes(), st.lists(st.integers(-1000, 1000), max_size=5), st.sampled_from([np.float64, np.float32, np.float16]))
def test_equal_ids_give_the_tables_of_the_encoding_itself(mrope, places, dtype):
    ids = np.repeat(np.array(places, dtype=np.int64)[:, None], mrope.ids, axis=1)
    own = mrope.encoding.cos_sin(np.array(places, dtype=np.int64), dtype)
    for table, expected in zip(mrope.cos_sin(ids, dtype), own, strict=True):
        assert same_bits(table, expected)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_resonance_repeats_on_every_axis_over_all_of_int64(t, h):
    resonance = Resonance(RoPE(14, 1e4))
    mrope = MRoPE(resonance, (4, 3))
    cos, sin = mrope.cos_sin([[t, h]], np.float64)
    own = [(np.array([t if axis == 0 else h]), pair) for pair, axis in enumerate(mrope.axes)]
    for table, index in ((cos, 0), (sin, 1)):
        expected = [resonance.cos_sin(place, np.float64)[index][0, pair] for place, pair in own]
        assert same_bits(table[0], np.array(expected))


@given(st.integers(1, 40), st.floats(1.5, 1e8), st.lists(st.integers(-1000, 1000), max_size=5))
def test_evenodd_with_equal_ids_is_rope_with_even_pairs_before_odd_ones(quarter, base, places):
    axial, rope = Axial2D(4 * quarter, base, "evenodd"), RoPE(4 * quarter, base)
    order = [*range(0, 2 * quarter, 2), *range(1, 2 * quarter, 2)]
    places = np.array(places, dtype=np.int64)
    made = axial.cos_sin(np.stack([places, places], axis=1), np.float64)
    for table, expected in zip(made, rope.cos_sin(places, np.float64), strict=True):
        assert same_bits(table, np.ascontiguousarray(expected[:, order]))


@given(st.integers(1, 40), st.floats(1.5, 1e8), st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_shared_and_offset_are_two_ropes_of_half_the_features(quarter, base, row, column):
    rope = RoPE(2 * quarter, base)
    tables = {place: rope.cos_sin([place], np.float64) for place in (row, column)}
    for form, first, last in (("shared", row, column), ("offset", column, row)):
        made = Axial2D(4 * quarter, base, form).cos_sin([[row, column]], np.float64)
        for table, own_first, own_last in zip(made, tables[first], tables[last], strict=True):
            assert same_bits(table, np.concatenate([own_first, own_last], axis=1))


# ---- differences of ids ----


@cases
@given(seeds, layouts, st.lists(st.integers(-500, 500), min_size=4, max_size=4))
def test_logits_depend_on_the_differences_of_ids_alone(case, seed, layout, shift):
    encoding, _ = CASES[case]
    q, k, (m, n) = draw(seed, encoding, 3, 500)
    shift = np.array(shift[: ids_of(encoding)])
    here, there = (logits_of(encoding, q, k, m + s, n + s, layout) for s in (0, shift))
    assert np.abs(here - there).max() < RELATIVE64


@cases
@given(seeds, st.integers(0, 3))
def test_an_id_turns_the_pairs_of_its_own_axis_and_no_others(case, seed, axis):
    encoding, _ = CASES[case]
    axis %= ids_of(encoding)
    ids = np.random.default_rng(seed).integers(0, 500, (3, ids_of(encoding)))
    moved = ids.copy()
    moved[:, axis] += 1
    here, there = encoding.cos_sin(ids, np.float64), encoding.cos_sin(moved, np.float64)
    changed = np.any([(a != b).any(axis=0) for a, b in zip(here, there, strict=True)], axis=0)
    assert np.array_equal(changed, encoding.axes == axis)


@cases
def test_leading_axes_of_positions_stay(case):
    encoding, _ = CASES[case]
    ids = np.random.default_rng(3).integers(0, 500, (2, 3, 5, ids_of(encoding)))
    cos, sin = encoding.cos_sin(ids)
    assert cos.shape == sin.shape == (2, 3, 5, encoding.pairs)
    assert cos.dtype == sin.dtype == np.float32
    assert same_bits(cos[1, 2], encoding.cos_sin(ids[1, 2])[0])


# ---- what belongs to one of them ----


def test_qwen3_vl_gives_the_last_pairs_of_h_and_w_to_t_and_ggml_to_a_fourth_id():
    ours = MRoPE(RoPE(128, 5e6), (24, 20, 20), interleaved=True)
    ggml = replace(ours, leftover="fourth")
    assert np.flatnonzero(ours.axes != ggml.axes).tolist() == [61, 62]
    assert ours.axes[[61, 62]].tolist() == [0, 0]
    assert ggml.axes[[61, 62]].tolist() == [3, 3]
    assert (ours.ids, ggml.ids) == (3, 4)
    assert np.bincount(ours.axes).tolist() == [24, 20, 20]


def test_attention_factor_and_length_are_those_of_the_encoding_inside():
    yarn = YaRN(24, 1e4, 8.0, original_length=64)
    mrope = MRoPE(yarn, (3, 4, 5))
    assert mrope.attention_factor == yarn.attention_factor > 1
    assert mrope.softmax_factor == yarn.softmax_factor
    cos, sin = mrope.cos_sin([[1, 2, 3]], np.float64)
    assert np.allclose(cos**2 + sin**2, yarn.attention_factor**2, rtol=LOGIT64, atol=0)
    dynamic = MRoPE(NTKAware(24, 1e4, 4.0), (3, 4, 5)).for_length(100)
    assert dynamic.encoding == NTKAware(24, 1e4, 4.0).for_length(100)


def test_options_of_the_encoding_inside_are_passed_on():
    xpos = XPos(24)
    ids = [[5, 70, 900]]
    for role in ("q", "k"):
        made = MRoPE(xpos, (3, 4, 5)).cos_sin(ids, np.float64, role=role)[0]
        own = [xpos.cos_sin([ids[0][axis]], np.float64, role=role)[0][0] for axis in range(3)]
        assert same_bits(made[0], np.concatenate([own[0][:3], own[1][3:7], own[2][7:]]))


def test_grid_positions_run_row_by_row_from_the_start():
    assert grid_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid_positions(1, 2, start=1).tolist() == [[1, 1], [1, 2]]
    assert grid_positions(0, 3).shape == (0, 2)
    assert grid_positions(2, 3).dtype == np.int64


def test_the_class_token_of_offset_is_not_turned_and_the_first_patch_is():
    axial = Axial2D(16, form="offset")
    assert (axial.first_id, axial.layout) == (1, "interleaved")
    assert (Axial2D(16).first_id, Axial2D(16).layout) == (0, "half")
    ids = np.concatenate([[[0, 0]], grid_positions(1, 1, axial.first_id)])
    cos, sin = axial.cos_sin(ids, np.float64)
    assert np.all(cos[0] == 1)
    assert np.all(sin[0] == 0)
    assert np.all(sin[1] > 0)
    assert axial.attention_factor == 1


# ---- bad calls ----

MROPE = MRoPE(RoPE(24), (3, 4, 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: MROPE.cos_sin(np.zeros((5, 2), np.int64)),
            "MRoPE.cos_sin: positions are int64(5, 2), expected (..., T, 3): t, h, w of each token",
        ),
        (
            lambda: MROPE.cos_sin(np.zeros(3, np.int64)),
            "MRoPE.cos_sin: positions are int64(3,), expected (..., T, 3): t, h, w of each token",
        ),
        (
            lambda: MRoPE(RoPE(26), (7, 3, 3), True, "fourth").cos_sin([[1, 2, 3]]),
            "MRoPE.cos_sin: positions are int64(1, 3), expected (..., T, 4): t, h, w, the fourth id of each token",
        ),
        (
            lambda: MRoPE(RoPE(24), (3, 3, 3, 3)).cos_sin([[1, 2, 3]]),
            "MRoPE.cos_sin: positions are int64(1, 3), expected (..., T, 4): 4 ids of each token",
        ),
        (
            lambda: MROPE.cos_sin(np.zeros((5, 3))),
            "cos_sin: positions are float64(5, 3), expected int64 values",
        ),
        (
            lambda: MROPE.cos_sin([[1, 2, 3]], np.int32),
            "cos_sin: dtype is int32, expected float64, float32 or float16",
        ),
        (
            lambda: MRoPE(RoPE(128), (16, 24, 25)),
            "MRoPE: sections (16, 24, 25) have the sum 65, expected the 64 pairs of RoPE",
        ),
        (lambda: MRoPE(RoPE(24), (3, 4.0, 5)), "MRoPE: sections[1] is 4.0, expected an integer >= 0"),
        (lambda: MRoPE(RoPE(24), (13, -1)), "MRoPE: sections[1] is -1, expected an integer >= 0"),
        (lambda: MRoPE(RoPE(24), 12), "MRoPE: sections are 12, expected a number of pairs for each axis"),
        (lambda: MRoPE(RoPE(24), ()), "MRoPE: sections are (), expected a number of pairs for each axis"),
        (lambda: MRoPE(24), "MRoPE: encoding is 24, expected a RotaryEncoding"),
        (
            lambda: MRoPE(RoPE(24), (6, 6), interleaved=True),
            "MRoPE: sections are (6, 6), expected three of them, for t, h and w, to interleave",
        ),
        (
            lambda: MRoPE(RoPE(16), (1, 5, 2), interleaved=True),
            "MRoPE: sections are (1, 5, 2), of which h would get 3 when interleaved",
        ),
        (
            lambda: MRoPE(RoPE(24), (3, 4, 5), leftover="fourth"),
            "MRoPE: leftover is 'fourth' without interleaved, which alone leaves pairs over",
        ),
        (
            lambda: MRoPE(RoPE(24), (4, 4, 4), True, "forth"),
            "MRoPE: unknown leftover 'forth'; did you mean 'fourth'? known: t, fourth",
        ),
        (
            lambda: Axial2D(18),
            "Axial2D: head_dim is 18, expected a multiple of 4: each axis turns pairs of half of the features",
        ),
        (lambda: Axial2D(16, 1.0), "Axial2D: base is 1.0, expected a finite number > 1"),
        (
            lambda: Axial2D(16, form="even"),
            "Axial2D: unknown form 'even'; did you mean 'evenodd'? known: shared, evenodd, offset",
        ),
        (
            lambda: Axial2D(16).cos_sin([[1, 2, 3]]),
            "Axial2D.cos_sin: positions are int64(1, 3), expected (..., T, 2): row and column of each token",
        ),
        (lambda: grid_positions(2.0, 3), "grid_positions: height is 2.0, expected an integer >= 0"),
        (lambda: grid_positions(2, -3), "grid_positions: width is -3, expected an integer >= 0"),
    ],
)
def test_a_wrong_call_says_what_came_and_what_was_wanted(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
