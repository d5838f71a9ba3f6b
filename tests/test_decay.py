"""How scores fall with distance, and which base a context length asks for."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import resonances, scaled

from refrope import RoPE, decay, rotate
from refrope.decay import long_range_decay, smallest_base

SUM = 2.0**-46  # of cosines and their sum, for each pair
PER_RADIAN = 2.0**-51  # of the angles
# Digits of the least base that the tests name; `smallest_base` itself resolves 1e-6.
BASE = 1e-4


@given(scaled, st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=3))
def test_decay_is_the_sum_of_cosines_within_its_stated_error(encoding, distances):
    got = long_range_decay(encoding, distances)
    with mpmath.workdps(40):
        for m, value in zip(distances, got, strict=True):
            wanted = mpmath.fsum(mpmath.cos(m * mpmath.mpf(float(f))) for f in encoding.inv_freq)
            slack = encoding.pairs * (abs(m) * encoding.inv_freq.max() * PER_RADIAN + SUM)
            assert abs(value - wanted) <= slack


@given(scaled | resonances, st.integers(0, 500), st.integers(0, 500))
def test_decay_is_half_the_score_of_ones(encoding, m, n):
    cos, sin = (table / encoding.attention_factor for table in encoding.cos_sin([m, n], np.float64))
    at_m, at_n = rotate(np.ones((2, 2 * encoding.pairs)), cos, sin)
    assert long_range_decay(encoding, m - n) == pytest.approx(at_m @ at_n / 2, abs=1e-8)


def test_decay_has_the_shape_of_its_distances_and_starts_at_the_number_of_pairs():
    assert long_range_decay(RoPE(14), 0) == 7
    assert long_range_decay(RoPE(14), np.zeros((2, 3), np.int32)).tolist() == [[7.0] * 3] * 2
    assert long_range_decay(RoPE(14), []).shape == (0,)
    assert long_range_decay(RoPE(2), 0.5) == np.cos(0.5)


def test_decay_does_not_depend_on_its_chunks(monkeypatch):
    whole = long_range_decay(RoPE(14), np.arange(100))
    monkeypatch.setattr(decay, "_CHUNK", 21)
    assert np.allclose(long_range_decay(RoPE(14), np.arange(100)), whole, rtol=0, atol=7 * SUM)


@pytest.mark.parametrize(
    ("length", "base"),
    # Men et al. 2024 give 4.3e3 for 1024 tokens. For 2048 a grid of 1 % steps misses this window and finds 1.46e4.
    [(512, 2065.81), (1024, 4293.44), (2048, 11587.25), (4096, 26952.34)],
)
def test_smallest_bases_of_a_head_of_128(length, base):
    assert smallest_base(128, length) == pytest.approx(base, rel=BASE)


@pytest.mark.parametrize(("head_dim", "length"), [(4, 8), (8, 16), (16, 64), (64, 64), (64, 256), (128, 512)])
def test_the_smallest_base_satisfies_the_condition_and_none_below_does(head_dim, length):
    base = smallest_base(head_dim, length)
    distances = np.arange(length + 1)
    assert long_range_decay(RoPE(head_dim, base), distances).min() >= -head_dim * SUM
    for smaller in np.geomspace(1.01, base * (1 - 1e-5), 500):  # RoPE's decimals cost too much for more
        assert long_range_decay(RoPE(head_dim, float(smaller)), distances).min() < 0


def test_the_usual_base_is_too_small_for_2048_tokens():
    worst = [long_range_decay(RoPE(128), np.arange(length + 1)).min() for length in (1024, 2048)]
    assert worst[1] < 0 < worst[0]


def test_a_larger_base_may_fail_again():
    least = smallest_base(128, 1024)
    assert least < 5000
    assert long_range_decay(RoPE(128, 5000.0), np.arange(1025)).min() < -1


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="long_range_decay: distances are 'far', expected integers or finite floats"):
        long_range_decay(RoPE(8), "far")
    with pytest.raises(ValueError, match=r"long_range_decay: distances are \[nan\]"):
        long_range_decay(RoPE(8), [float("nan")])
    with pytest.raises(ValueError, match="smallest_base: head_dim is 2, expected an integer >= 4"):
        smallest_base(2, 64)
    with pytest.raises(ValueError, match="smallest_base: head_dim is 7, expected an even number"):
        smallest_base(7, 64)
    with pytest.raises(ValueError, match="smallest_base: length is 1, expected an integer >= 2"):
        smallest_base(8, 1)
