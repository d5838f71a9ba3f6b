"""Critical pairs, feature gaps and periods: the paper's theorem and claims, and what plain RoPE does instead."""

import math

import numpy as np
import pytest
from conftest import same_bits
from hypothesis import given
from hypothesis import strategies as st
from strategies import resonances, scaled

from refrope import Resonance, RoPE, YaRN, analysis, critical_pair, feature_gap
from refrope.analysis import (
    circle_coverage,
    feature_gap_enumerated,
    lcm_horizon,
    period_collisions,
    sum_of_periods,
    table_bytes,
)

LLAMA2 = RoPE(128)  # base 10,000, trained on 4096 tokens
POSGEN = RoPE(64)  # the paper's small model, trained on 64 tokens
MB = 1e6
lengths = st.tuples(st.integers(1, 200), st.integers(1, 400)).map(lambda pair: (pair[0], pair[0] + pair[1]))
# Phases in turns are rounded to 2^-53, and position * inv_freq before that.
CHORD = 1e-10
DIVISION = 1e-15  # relative: a few float64 roundings
PRINTED = {"abs": 0.05, "rel": 2e-3}  # megabytes, to three digits


def points(encoding, length):
    """Where each position stands on the unit circle of each pair, from angles and not from turns."""
    return np.exp(1j * np.outer(np.arange(length), encoding.inv_freq))


@given(resonances, lengths)
def test_theorem_1_whole_wavelengths_within_training_leave_no_gap(resonance, lengths):
    gap = feature_gap(resonance, *lengths)
    assert (gap[resonance.periods <= lengths[0]] == 0).all()  # exactly


short_lengths = st.tuples(st.integers(1, 40), st.integers(1, 80)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(scaled, short_lengths)
def test_gap_is_its_definition(encoding, lengths):
    train_length, test_length = lengths
    for each in (encoding, Resonance(encoding)):
        at = points(each, test_length)
        chords = np.abs(at[train_length:, None] - at[None, :train_length])
        wanted = chords.min(axis=1).max(axis=0)
        assert np.allclose(feature_gap(each, *lengths), wanted, rtol=0, atol=CHORD)
        assert np.allclose(feature_gap_enumerated(each, *lengths), wanted, rtol=0, atol=CHORD)


@given(scaled, lengths)
def test_gap_and_its_enumeration_are_equal(encoding, lengths):
    for each in (encoding, Resonance(encoding)):
        assert np.allclose(feature_gap(each, *lengths), feature_gap_enumerated(each, *lengths), rtol=0, atol=CHORD)


@pytest.mark.parametrize("lengths", [(1, 2), (7, 8), (8, 9), (63, 64), (64, 256), (255, 256), (256, 1000)])
@pytest.mark.parametrize("encoding", [RoPE(32, 500.0), Resonance(RoPE(32, 500.0)), RoPE(16, 1.5), POSGEN])
def test_gap_and_its_enumeration_are_equal_around_boundaries(encoding, lengths):
    assert np.allclose(feature_gap(encoding, *lengths), feature_gap_enumerated(encoding, *lengths), rtol=0, atol=CHORD)


def test_enumeration_does_not_depend_on_its_chunks(monkeypatch):
    whole = feature_gap_enumerated(POSGEN, 30, 131)
    monkeypatch.setattr(analysis, "_CHUNK", 70)  # two test positions at a time
    assert same_bits(feature_gap_enumerated(POSGEN, 30, 131), whole)


def test_gap_of_whole_wavelengths_is_in_closed_form_at_any_length():
    resonance = Resonance(RoPE(8, 1e12))
    periods = resonance.periods
    far = 2**62
    gap = feature_gap(resonance, 1000, far)
    exact = np.where(periods <= 1000, 0, 2 * np.sin(np.pi * ((periods - 999) // 2) / periods))
    assert np.array_equal(gap == 0, exact == 0)
    np.testing.assert_array_max_ulp(gap, exact, maxulp=1)  # with NumPy 1.24 some differ in the last bit
    assert (feature_gap(resonance, far, far + 1) == 0).all()
    assert feature_gap(resonance, periods[-1] - 1, far)[-1] == 2 * np.sin(np.pi / periods[-1])


def test_gap_grows_with_the_test_length_and_shrinks_with_the_training_length():
    for encoding in (POSGEN, Resonance(POSGEN)):
        assert (feature_gap(encoding, 64, 256) >= feature_gap(encoding, 64, 128)).all()
        assert (feature_gap(encoding, 128, 256) <= feature_gap(encoding, 64, 256)).all()


def test_rope_leaves_a_gap_in_every_pre_critical_pair():
    rope = RoPE(64)
    gap = feature_gap(rope, 64, 256)
    assert (gap[: critical_pair(rope, 64)] > 1e-3).all()
    assert (feature_gap(Resonance(rope), 64, 256)[: critical_pair(rope, 64)] == 0).all()


def test_resonance_yarn_leaves_none_where_yarn_does():
    yarn = YaRN(64, factor=4.0, original_length=64, beta_fast=2.0)
    pre = Resonance(yarn).periods <= 64
    assert pre.any()
    assert (feature_gap(Resonance(yarn), 64, 256)[pre] == 0).all()
    assert (feature_gap(yarn, 64, 256)[pre] > 0).all()


@pytest.mark.parametrize(
    ("encoding", "length", "pairs"),
    [
        (RoPE(64), 64, 9),
        (RoPE(64), 65, 9),
        (RoPE(128), 4096, 46),
        (RoPE(64), 1, 0),
        (Resonance(RoPE(64)), 63, 8),
        (Resonance(RoPE(64)), 64, 9),
    ],
)
def test_critical_pair_counts_wavelengths_below_the_length(encoding, length, pairs):
    assert critical_pair(encoding, length) == pairs


def test_the_paper_counts_17_pre_critical_pairs_where_there_are_9():
    assert critical_pair(POSGEN, 64) == 9
    assert POSGEN.wavelengths[8] < 64 < POSGEN.wavelengths[9]
    assert critical_pair(LLAMA2, 64) == 17  # what a head of twice the size has


def test_the_papers_horizon_and_largest_wavelength_of_llama2_are_right():
    assert lcm_horizon(LLAMA2, 4096) == 7057974406910048702415100928873416964126012399455200
    assert critical_pair(LLAMA2, 4096) == 46
    assert Resonance(LLAMA2).periods.max() == 54_410


@pytest.mark.parametrize(
    ("encoding", "length", "horizon"),
    [
        (POSGEN, 64, 16_936_920),
        (Resonance(POSGEN), 64, 16_936_920),
        (LLAMA2, 2048, 10798531845548991672975422355816459427522758240),
        (RoPE(128, 5e5), 8192, 1172255214581858059002892816463646691409054880),
        (POSGEN, 6, 1),  # the fastest pair needs 6 tokens
        (POSGEN, 7, 6),
    ],
)
def test_horizons(encoding, length, horizon):
    assert lcm_horizon(encoding, length) == horizon


def test_rows_return_after_the_horizon_and_not_before():
    resonance, horizon = Resonance(POSGEN), lcm_horizon(POSGEN, 64)
    pre = critical_pair(resonance, 64)

    def row(position):
        return np.concatenate(resonance.cos_sin(position))[:pre]

    assert all(same_bits(row(n), row(n + horizon)) for n in (0, 1, 63, 10**6))
    primes = [p for p in range(2, 64) if horizon % p == 0 and all(p % q for q in range(2, p))]
    assert math.prod(primes) > 64
    assert not any(same_bits(row(5), row(5 + horizon // p)) for p in primes)


@pytest.mark.parametrize(
    ("base", "head_dim"),
    [(500.0, 122), (1e3, 134), (2e3, 148), (5e3, 166), (1e4, 180), (5e5, 254), (1e6, 268), (1e8, 358)],
)
def test_collisions_begin_at_this_head_dim(base, head_dim):
    assert period_collisions(RoPE(head_dim, base))
    assert not any(period_collisions(RoPE(smaller, base)) for smaller in range(2, head_dim, 2))


@pytest.mark.parametrize(
    ("encoding", "collisions"),
    [
        (LLAMA2, {}),
        (RoPE(180), {9: (3, 4)}),
        (RoPE(192), {8: (2, 3)}),
        (RoPE(256), {7: (1, 2), 8: (3, 4), 10: (6, 7)}),
        (Resonance(RoPE(256)), {7: (1, 2), 8: (3, 4), 10: (6, 7)}),
        (RoPE(256, 5e5), {9: (3, 4)}),
    ],
)
def test_collisions(encoding, collisions):
    assert period_collisions(encoding) == collisions


@given(scaled)
def test_collisions_are_the_pairs_beyond_one_for_each_period(encoding):
    periods = Resonance(encoding).periods
    collisions = period_collisions(encoding)
    assert sum(len(pairs) - 1 for pairs in collisions.values()) == periods.size - np.unique(periods).size
    assert all((periods[list(pairs)] == period).all() for period, pairs in collisions.items())
    assert list(collisions) == sorted(collisions)


@given(resonances, st.integers(1, 2000))
def test_coverage_of_whole_wavelengths_counts_phases(resonance, length):
    turns = resonance.turns(np.arange(length))
    seen = np.array([np.unique(pair).size for pair in turns.T])
    assert np.allclose(circle_coverage(resonance, length), seen / resonance.periods, rtol=DIVISION, atol=0)


@given(scaled, st.integers(1, 2000))
def test_coverage_is_full_for_exactly_the_pre_critical_pairs(encoding, length):
    coverage = circle_coverage(encoding, length)
    assert ((coverage == 1) == (encoding.wavelengths <= length)).all()
    assert np.allclose(coverage, np.minimum(1, length * encoding.inv_freq / (2 * np.pi)), rtol=DIVISION, atol=0)


@pytest.mark.parametrize(
    ("encoding", "entries", "periodic_128k", "dense_128k", "periodic_1m", "dense_1m"),
    [
        (LLAMA2, 405_898, 3.25, 67.1, 3.25, 536.9),
        (RoPE(128, 5e5), 13_804_899, 20.8, 67.1, 81.6, 536.9),
        (RoPE(128, 1e6), 26_078_020, 23.1, 67.1, 104.2, 536.9),
        (POSGEN, 188_369, 1.51, 33.6, 1.51, 268.4),
    ],
)
def test_periodic_tables_weigh_less(encoding, entries, periodic_128k, dense_128k, periodic_1m, dense_1m):
    assert sum_of_periods(encoding) == entries
    assert np.divide(table_bytes(encoding, 2**17), MB) == pytest.approx([periodic_128k, dense_128k], **PRINTED)
    assert np.divide(table_bytes(encoding, 2**20), MB) == pytest.approx([periodic_1m, dense_1m], **PRINTED)


def test_uncapped_periodic_tables_of_large_bases_would_weigh_more_than_dense_ones():
    assert 8 * sum_of_periods(RoPE(128, 5e5)) > table_bytes(RoPE(128, 5e5), 2**17).dense


@given(resonances, st.integers(1, 300))
def test_table_bytes_are_those_of_the_tables(resonance, length):
    cos, sin = resonance.cos_sin(np.arange(length), np.float32)
    stored = [np.unique(turns, return_index=True)[1] for turns in resonance.turns(np.arange(length)).T]
    weight = table_bytes(resonance, length)
    assert weight.dense == cos.nbytes + sin.nbytes
    assert weight.periodic == sum(cos[rows, j].nbytes + sin[rows, j].nbytes for j, rows in enumerate(stored))
    assert weight.periodic <= min(weight.dense, 8 * sum_of_periods(resonance))


def test_rounding_before_scaling_leaves_gaps():
    yarn = YaRN(64, factor=4.0, original_length=64, beta_fast=2.0)
    before = Resonance(yarn, dialect="before")
    pairs = (before.wavelengths <= 64) & (np.rint(before.wavelengths) != before.wavelengths)
    assert pairs.any()
    assert (feature_gap(before, 64, 256)[pairs] > 1e-3).all()
    assert np.allclose(feature_gap(before, 64, 256), feature_gap_enumerated(before, 64, 256), rtol=0, atol=CHORD)
    assert sum_of_periods(before) == np.rint(before.wavelengths).sum()


class HalfStill(RoPE):
    """RoPE whose slower pairs do not turn at all."""

    def exact_inv_freq(self):
        frequencies = self.plain_inv_freq()
        frequencies[self.pairs // 2 :] = 0
        return frequencies


def test_pairs_that_stand_still_have_no_gap_one_entry_and_no_part_in_horizon_or_collisions():
    still, moving = HalfStill(64), RoPE(64).wavelengths[:16]
    assert np.isinf(still.wavelengths[16:]).all()
    for each in (still, Resonance(still)):
        for gap in (feature_gap, feature_gap_enumerated):
            assert (gap(each, 64, 256)[16:] == 0).all()
        assert (circle_coverage(each, 64)[16:] == 0).all()
        assert lcm_horizon(each, 10**6) == math.lcm(*(int(w) for w in np.rint(moving)))
        assert period_collisions(each) == {}
        assert sum_of_periods(each) == np.rint(moving).sum() + 16
        assert table_bytes(each, 1) == (8 * 32, 8 * 32)


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="critical_pair: length is 0"):
        critical_pair(RoPE(8), 0)
    with pytest.raises(ValueError, match="feature_gap: test_length is 64, expected an integer >= 65"):
        feature_gap(RoPE(8), 64, 64)
    for function in (circle_coverage, lcm_horizon, table_bytes):
        with pytest.raises(ValueError, match=rf"{function.__name__}: length is 1.5, expected an integer >= 1"):
            function(RoPE(8), 1.5)
    with pytest.raises(ValueError, match="feature_gap_enumerated: train_length is 0, expected an integer >= 1"):
        feature_gap_enumerated(RoPE(8), 0, 64)
