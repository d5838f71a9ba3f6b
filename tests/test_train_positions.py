"""Positions of training tokens: what is drawn, what a test has, and that a model trains with them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrope import Resonance, RoPE, Transformer, TransformerConfig
from refrope.evaluate import accuracy_by_position
from refrope.methods import Lengths, configuration_of, encoding_of
from refrope.posgen import make_splits
from refrope.randomness import bit_source
from refrope.train import TrainSettings, train
from refrope.train_positions import PoSE, RandomPositions, TrainPositions

SMALL = TransformerConfig(vocabulary=18, d_model=16, heads=2, head_dim=8, d_ff=24, layers=1)


def source(seed=3):
    return bit_source(seed, "test")


@given(length=st.integers(1, 40), extra=st.integers(0, 200), seed=st.integers(0, 1000))
def test_random_positions_rise_within_the_limit_and_serve_the_whole_batch(length, extra, seed):
    places = RandomPositions(length + extra).drawn(source(seed), 5, length)
    assert places.shape == (length,)
    assert places[0] >= 0
    assert places[-1] < length + extra
    assert (np.diff(places) > 0).all()


def test_every_set_of_random_positions_is_equally_likely():
    draws = source()
    found = [tuple(RandomPositions(5).drawn(draws, 1, 2)) for _ in range(4000)]
    counts = {pair: found.count(pair) for pair in set(found)}
    assert len(counts) == 10
    # 400 each: binomial, standard deviation 19; six of them.
    assert all(abs(count - 400) < 114 for count in counts.values())


@given(length=st.integers(1, 40), extra=st.integers(0, 200), sequences=st.integers(1, 7), seed=st.integers(0, 1000))
def test_pose_leaves_one_gap_a_sequence(length, extra, sequences, seed):
    places = PoSE(length + extra).drawn(source(seed), sequences, length)
    assert places.shape == (sequences, length)
    assert (places[:, 0] == 0).all()
    assert places.max() < length + extra
    steps = np.diff(places, axis=1)
    assert ((steps > 1).sum(axis=1) <= 1).all()
    assert (steps >= 1).all()


def test_pose_reaches_the_limit_and_cuts_everywhere():
    places = PoSE(11).drawn(source(), 4000, 5)
    assert set(places[:, -1]) == set(range(4, 11))
    cuts = [int(np.argmax(np.diff(row) > 1)) for row in places if row[-1] > 4]
    assert set(cuts) == {0, 1, 2, 3}
    assert max(cuts.count(i) for i in range(4)) < 1.2 * min(cuts.count(i) for i in range(4))


def test_the_positions_of_a_test_are_those_that_the_model_knows():
    assert TrainPositions().tested(1, 9) is None
    assert PoSE(40).tested(1, 9) is None
    first, again, other = (RandomPositions(40).tested(seed, 9) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("places", "name", "message"),
    [
        (RandomPositions(8), "rope", "RandomPositions: limit is 8, expected at least the 9 tokens of a sequence"),
        (PoSE(8), "rope", "PoSE: limit is 8, expected at least the 9 tokens of a sequence"),
        (PoSE(40), "alibi", "PoSE: the model has other positions than those of a rotary encoding, expected that alone"),
        (PoSE(40), "learned", "PoSE: the model has other positions than those of a rotary encoding"),
        (PoSE(40), "rerope", "PoSE: the model has other positions than those of a rotary encoding"),
        (RandomPositions(40), "rerope", "RandomPositions: the encoding is the map ReRoPE, expected one without a map"),
    ],
)
def test_what_does_not_go_together_is_said_before_training(places, name, message):
    config = configuration_of(name, SMALL, 9, 40)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        places.check(config, encoding_of(name, 8, Lengths(9, 40)), 9)


def test_limits_are_numbers():
    for kind in (RandomPositions, PoSE):
        with pytest.raises(ValueError, match=f"{kind.__name__}: limit is 0, expected an integer >= 1"):
            kind(0)


@pytest.fixture
def data():
    return make_splits("recursive", seed=1, train=24, validation=4, test=4, train_length=12, test_length=20, j=1, k=1)


@pytest.mark.parametrize(
    ("places", "name"),
    [
        (RandomPositions(30), "rope"),
        (RandomPositions(30), "resonance-rope"),
        (RandomPositions(30), "kerple"),
        (RandomPositions(30), "fire"),
        (RandomPositions(30), "dape"),
        (RandomPositions(30), "learned"),
        (PoSE(30), "rope"),
        (PoSE(30), "resonance-rope"),
    ],
)
def test_training_with_other_positions_runs_and_repeats(places, name, data):
    settings = TrainSettings(epochs=3, batch_size=8, positions=places, watched=4)
    losses = []
    for _ in range(2):
        model = Transformer(configuration_of(name, SMALL, 13, 31), seed=1)
        encoding = encoding_of(name, 8, Lengths(13, 21))
        losses.append(train(model, encoding, data, settings, seed=1).loss)
        accuracy = accuracy_by_position(model, encoding, data, data.test, places=places, seed=1)
        assert np.isfinite(accuracy[2:]).all()
    assert losses[0] == losses[1]


def test_pose_with_no_room_for_a_gap_is_plain_training(data):
    losses = []
    for places in (None, PoSE(12)):  # the front token and all but the last
        model = Transformer(SMALL, seed=1)
        settings = TrainSettings(epochs=2, batch_size=8, positions=places, watched=4)
        losses.append(train(model, Resonance(RoPE(8)), data, settings, seed=1).loss)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)  # float32: the same sums in another shape


def test_random_positions_without_gaps_are_plain_training():
    sizes = {"train": 24, "validation": 4, "test": 4, "train_length": 12, "test_length": 12}
    data, losses = make_splits("recursive", seed=1, **sizes, j=1, k=1), []
    for places in (None, RandomPositions(12)):
        model = Transformer(SMALL, seed=1)
        settings = TrainSettings(epochs=2, batch_size=8, positions=places, watched=4)
        losses.append(train(model, RoPE(8), data, settings, seed=1).loss)
    assert losses[0] == losses[1]
