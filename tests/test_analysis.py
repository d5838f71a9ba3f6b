"""Critical pairs and feature gaps: the paper's Theorem 1, and what plain RoPE does instead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import resonances, scaled

from refrope import Resonance, RoPE, YaRN, critical_pair, feature_gap

lengths = st.tuples(st.integers(1, 200), st.integers(1, 400)).map(lambda pair: (pair[0], pair[0] + pair[1]))
# Phases in turns are rounded to 2^-53, and position * inv_freq before that.
CHORD = 1e-10


def slow_gap(encoding, train_length, test_length):
    """The definition, word by word."""
    points = np.exp(1j * np.outer(np.arange(test_length), encoding.inv_freq))
    gaps = np.abs(points[train_length:, None] - points[None, :train_length])
    return gaps.min(axis=1).max(axis=0)


@given(resonances, lengths)
def test_theorem_1_whole_wavelengths_within_training_leave_no_gap(resonance, lengths):
    gap = feature_gap(resonance, *lengths)
    assert (gap[resonance.periods <= lengths[0]] == 0).all()  # exactly


@given(scaled, st.tuples(st.integers(1, 40), st.integers(1, 80)).map(lambda pair: (pair[0], pair[0] + pair[1])))
def test_gap_is_its_definition(encoding, lengths):
    for each in (encoding, Resonance(encoding)):
        assert np.allclose(feature_gap(each, *lengths), slow_gap(each, *lengths), atol=CHORD)


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


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="critical_pair: length is 0"):
        critical_pair(RoPE(8), 0)
    with pytest.raises(ValueError, match="feature_gap: test_length is 64, expected an integer >= 65"):
        feature_gap(RoPE(8), 64, 64)
