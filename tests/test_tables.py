"""Tables are as exact as float64 angles allow, and Resonance's repeat bit for bit."""

from dataclasses import FrozenInstanceError

import mpmath
import numpy as np
import pytest
from conftest import same_bits
from hypothesis import given
from hypothesis import strategies as st
from strategies import EDGE_POSITIONS, INT64_MAX, encodings, int64_positions, resonances, scaled

from refrope import LinearPI, Resonance, RoPE, YaRN, critical_pair, rotate
from refrope.tables import (
    PeriodTables,
    as_positions,
    cos_sin,
    period_tables,
    periodic_cos_sin,
    periodic_turns,
)

# float32 rounding, then three float64 roundings of the angle (position, inv_freq, product), then cos itself.
ROUNDING32 = 2.0**-25
PER_RADIAN = 4 * 2.0**-53
COSINE = 2.0**-50
RESONANCE = 2.0**-25 + 2.0**-32  # at every position
# float64 tables: four units in the last place of NumPy's cos, besides the angle's error.
ROUNDING64 = 2.0**-51


def exact_cos_sin(inv_freq, position):
    angle = mpmath.mpf(int(position)) * inv_freq
    return mpmath.cos(angle), mpmath.sin(angle)


def exact_inv_freq(encoding):
    """The encoding's own decimals, which test_encodings holds to mpmath."""
    from refrope.encodings.base import exact_arithmetic

    with exact_arithmetic():
        return [mpmath.mpf(str(f)) for f in encoding.exact_inv_freq()]


@given(scaled, st.lists(int64_positions, min_size=1, max_size=4))
def test_float32_tables_hold_their_stated_error(encoding, positions):
    cos, sin = encoding.cos_sin(np.array(positions), np.float32)
    with mpmath.workdps(60):
        frequencies = exact_inv_freq(encoding)
        for i, position in enumerate(positions):
            for j, frequency in enumerate(frequencies):
                bound = ROUNDING32 + PER_RADIAN * abs(position) * encoding.inv_freq[j] + COSINE
                c, s = exact_cos_sin(frequency, position)
                # The attention factor scales value and error alike; a last float32 rounding may move the exponent.
                slack = bound * encoding.attention_factor * 2
                slack = bound if encoding.attention_factor == 1.0 else slack
                assert abs(mpmath.mpf(float(cos[i, j])) - encoding.attention_factor * c) <= slack
                assert abs(mpmath.mpf(float(sin[i, j])) - encoding.attention_factor * s) <= slack


@given(
    st.builds(Resonance, st.builds(RoPE, st.sampled_from([2, 16, 64, 128]), st.sampled_from([500.0, 1e4, 5e5, 1e8]))),
    st.lists(int64_positions, min_size=1, max_size=4),
)
def test_resonance_tables_are_exact_at_every_int64_position(resonance, positions):
    cos, sin = resonance.cos_sin(np.array(positions), np.float32)
    with mpmath.workdps(60):
        for i, position in enumerate(positions):
            for j, period in enumerate(resonance.periods.tolist()):
                angle = 2 * mpmath.pi * (position % period) / period
                assert abs(mpmath.mpf(float(cos[i, j])) - mpmath.cos(angle)) <= RESONANCE
                assert abs(mpmath.mpf(float(sin[i, j])) - mpmath.sin(angle)) <= RESONANCE


@given(resonances, st.integers(0, 2**20), st.integers(0, 2**63 - 1), st.sampled_from([np.float32, np.float64]))
def test_resonance_tables_repeat_bit_for_bit_up_to_two_to_the_63(resonance, position, far, dtype):
    for j, period in enumerate(resonance.periods.tolist()):
        shifted = min(far, INT64_MAX - period)
        shifted -= (shifted - position) % period  # the largest repetition that fits
        near = resonance.cos_sin(np.array([position]), dtype)
        away = resonance.cos_sin(np.array([1, 2, shifted, 3]), dtype)  # elsewhere in the array, too
        for a, b in zip(near, away, strict=True):
            assert same_bits(a[:1, j], b[2:3, j])


@given(resonances, st.integers(1, 300))
def test_resonance_tables_do_not_depend_on_the_array_they_are_part_of(resonance, count):
    whole = resonance.cos_sin(np.arange(count), np.float64)
    alone = [resonance.cos_sin(np.array([n]), np.float64) for n in range(0, count, 7)]
    for part in range(2):
        assert np.array_equal(whole[part][::7], np.concatenate([table[part] for table in alone]))


def test_resonance_repeats_at_negative_positions_as_well():
    resonance = Resonance(RoPE(64))
    for j, period in enumerate(resonance.periods.tolist()):
        back, ahead = resonance.cos_sin(np.array([-5])), resonance.cos_sin(np.array([period - 5]))
        assert back[0][0, j] == ahead[0][0, j]
        assert back[1][0, j] == ahead[1][0, j]


def test_plain_rope_tables_do_not_repeat():
    whole = np.round(RoPE(64).wavelengths).astype(np.int64)
    cos, _ = RoPE(64).cos_sin(np.arange(100_000))
    assert all(cos[0, j] != cos[whole[j], j] for j in range(10))


@given(encodings)
def test_float64_tables_hold_their_stated_error(encoding):
    positions = np.array([0, 1, 64, 4095])
    cos, _ = encoding.cos_sin(positions, np.float64)
    with mpmath.workdps(60):
        frequencies = exact_inv_freq(encoding)
        for i, position in enumerate(positions):
            for j, frequency in enumerate(frequencies):
                bound = ROUNDING64 + PER_RADIAN * position * float(frequency) + 8 * 2.0**-53
                wanted = mpmath.cos(int(position) * frequency)
                got = mpmath.mpf(float(cos[i, j])) / mpmath.mpf(encoding.attention_factor)
                assert abs(got - wanted) <= bound


@given(encodings, st.sampled_from([np.float16, np.float32, np.float64]))
def test_position_zero_is_the_attention_factor_and_nought(encoding, dtype):
    cos, sin = encoding.cos_sin(np.zeros(3, np.int64), dtype)
    assert cos.dtype == sin.dtype == dtype
    assert (cos == dtype(encoding.attention_factor)).all()
    assert (sin == 0).all()


def test_tables_take_the_shape_of_the_positions():
    for encoding in (RoPE(8), Resonance(YaRN(8))):
        assert encoding.cos_sin(np.zeros((3, 5), np.int64))[0].shape == (3, 5, 4)
        assert encoding.cos_sin([])[0].shape == (0, 4)
        assert encoding.cos_sin(7)[0].shape == (4,)


def test_fractional_and_negative_positions_are_angles_like_others():
    cos, sin = RoPE(8).cos_sin(np.array([-1.5, 1.5]), np.float64)
    assert np.array_equal(cos[0], cos[1])
    assert np.array_equal(sin[0], -sin[1])


@pytest.mark.parametrize("position", EDGE_POSITIONS)
def test_turns_agree_with_the_tables(position):
    for encoding in (RoPE(64), Resonance(RoPE(64))):
        turns = encoding.turns(np.array([min(position, 2**31)]))
        cos, _ = encoding.cos_sin(np.array([min(position, 2**31)]), np.float64)
        assert ((turns >= 0) & (turns < 1)).all()
        assert np.allclose(np.cos(2 * np.pi * turns), cos, atol=1e-5)


@pytest.mark.parametrize(
    ("encoding", "positions", "words"),
    [
        (RoPE(8), np.array([0.0, np.nan]), "positions hold nan, expected int64 or finite float values"),
        (RoPE(8), np.array([np.inf]), "positions hold inf"),
        (RoPE(8), np.array([1.0, -np.inf, np.nan]), "positions hold -inf"),  # the first of them
        (RoPE(8), ["a"], "positions are <U1"),
        (RoPE(8), np.array([True]), "positions are bool"),
        (RoPE(8), np.array([1j]), "positions are complex128"),
        (RoPE(8), np.array([1], "m8[s]"), "positions are timedelta64"),
        (RoPE(8), np.array([1], object), "positions are object"),
        (RoPE(8), np.array([2**63], np.uint64), "beyond int64"),
        (Resonance(RoPE(8)), np.array([1.0]), "positions are float64.1,., expected int64 values"),
    ],
)
def test_positions_that_are_no_positions_are_refused(encoding, positions, words):
    with pytest.raises(ValueError, match=words):
        encoding.cos_sin(positions)


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="dtype is int32, expected float64, float32 or float16"):
        RoPE(8).cos_sin(np.arange(3), np.int32)


def test_unsigned_positions_are_taken_up_to_int64s_largest():
    assert as_positions(np.array([2**63 - 1], np.uint64)).tolist() == [2**63 - 1]
    assert as_positions(np.zeros(0, np.uint64)).dtype == np.int64
    assert as_positions([]).dtype == as_positions(np.array([3], np.int8)).dtype == np.int64
    assert as_positions(np.array([3.5], np.float32)).dtype == np.float64
    with pytest.raises(ValueError, match=r"positions are float64\(0,\), expected int64 values"):
        as_positions(np.zeros(0), integers_only=True)


def test_a_pair_that_stands_still_has_turned_by_nothing_and_has_one_entry():
    assert periodic_turns(np.array([0, 1, 4]), np.array([0, 5, -1])).tolist() == [[0, 0, 0], [0, 0, 0.25], [0, 0, 0.75]]
    found = period_tables(np.array([0, 1, 4]), dtype=np.float64, attention_factor=2.0)
    assert found.starts.tolist() == [0, 1, 2]
    assert found.periods.tolist() == [1, 1, 4]
    assert np.allclose(found.cos, [2, 2, 2, 0, -2, 0], atol=1e-15)
    assert np.allclose(found.sin, [0, 0, 0, 2, 0, -2], atol=1e-15)


ENTRIES, FIRST, LAST = np.ones(5), np.array([0, 2]), np.array([2, 3])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.ones((1, 5)), np.ones((1, 5)), FIRST, LAST), r"cos is float64\(1, 5\), sin float64\(1, 5\), expected"),
        ((ENTRIES, np.ones(4), FIRST, LAST), r"cos is float64\(5,\), sin float64\(4,\), expected \(entries,\)"),
        ((ENTRIES, np.ones(6), FIRST, LAST), r"sin float64\(6,\)"),
        ((ENTRIES, np.ones(5, np.float32), FIRST, LAST), r"sin float32\(5,\)"),
        ((np.ones(5, np.float32), ENTRIES, FIRST, LAST), r"cos is float32\(5,\)"),
        ((ENTRIES, ENTRIES, FIRST.astype(np.int32), LAST), r"starts is int32\(2,\), expected int64 \(pairs,\)"),
        ((ENTRIES, ENTRIES, FIRST.astype(float), LAST), r"starts is float64\(2,\)"),
        ((ENTRIES, ENTRIES, FIRST, LAST.astype(np.int32)), r"periods is int32\(2,\)"),
        ((ENTRIES, ENTRIES, FIRST, LAST.astype(float)), r"periods is float64\(2,\)"),
        ((ENTRIES, ENTRIES, FIRST[None], LAST[None]), r"starts is int64\(1, 2\)"),
        ((ENTRIES, ENTRIES, FIRST[:1], LAST), r"starts is int64\(1,\)"),
        ((ENTRIES, ENTRIES, np.array([0, 2, 2]), LAST), r"starts is int64\(3,\)"),
        ((ENTRIES, ENTRIES, np.array([0, -1]), LAST), "pair 1 has 3 entries from -1 on, expected at least 1 within 5"),
        ((ENTRIES, ENTRIES, FIRST, np.array([0, 3])), "pair 0 has 0 entries from 0 on"),
        ((ENTRIES, ENTRIES, FIRST, np.array([2, 4])), "pair 1 has 4 entries from 2 on"),
    ],
)
def test_period_tables_hold_every_entry_that_is_looked_up(arguments, words):
    with pytest.raises(ValueError, match=words):
        PeriodTables(*arguments)


def test_period_tables_that_fit_exactly_are_taken_and_can_no_longer_be_changed():
    arrays = [array.copy() for array in (ENTRIES, ENTRIES, FIRST, LAST)]
    assert not any(array.flags.writeable for array in vars(PeriodTables(*arrays)).values())
    one = PeriodTables(ENTRIES.copy(), ENTRIES.copy(), np.array([4]), np.array([1]))
    assert one.periods.tolist() == [1]
    assert {one: 1}[one] == 1  # compared as objects, not by their arrays
    with pytest.raises(FrozenInstanceError):
        one.cos = ENTRIES


def test_tables_are_float32_and_of_amplitude_1_unless_asked_otherwise():
    inv_freq, periods, positions = RoPE(8).inv_freq, np.array([3, 5, 0]), np.array([-2, 0, 7])
    for found, wanted in (
        (cos_sin(inv_freq, positions), cos_sin(inv_freq, positions, dtype=np.float32, attention_factor=1.0)),
        (RoPE(8).cos_sin(positions), cos_sin(inv_freq, positions, dtype=np.float32, attention_factor=1.0)),
        (periodic_cos_sin(periods, positions), periodic_cos_sin(periods, positions, dtype=np.float32)),
        (periodic_cos_sin(periods, positions), periodic_cos_sin(periods, positions, attention_factor=1.0)),
    ):
        assert all(same_bits(a, b) for a, b in zip(found, wanted, strict=True))
    assert cos_sin(inv_freq, 0)[0].max() == 1
    assert periodic_cos_sin(periods, 0)[0].max() == 1
    assert period_tables(periods).cos.dtype == np.float32
    assert period_tables(periods).cos.max() == 1


def test_a_dtype_that_numpy_does_not_know_is_a_value_error():
    with pytest.raises(ValueError, match="cos_sin: dtype is bfloat16, expected float64, float32 or float16"):
        RoPE(8).cos_sin([1], "bfloat16")


def test_long_values_are_cut_in_messages():
    with pytest.raises(ValueError, match=r"\(list, 1\d\d,\d{3} characters\)") as caught:
        rotate(np.ones((512, 64)).tolist(), *RoPE(64).cos_sin(np.arange(512)))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("make", [RoPE, LinearPI, lambda d, base: LinearPI(d, factor=base)])
def test_integers_beyond_floats_are_a_value_error(make):
    with pytest.raises(ValueError, match="is an integer too large for a float, expected a finite number"):
        make(8, 10**400)
    with pytest.raises(ValueError, match=r"critical_pair: length is beyond 2\^63 - 1"):
        critical_pair(RoPE(8), 10**400)
