"""Pointers: the definition, the passes, and that no text is too long."""

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from test_remap import assert_passes_are_the_definition

from refrope import Resonance, RoPE, Transformer, TransformerConfig, kernels
from refrope.encodings.pointers import Pointers
from refrope.encodings.remap import ReRoPE
from refrope.kernels import available
from refrope.nn import PlaceBias
from refrope.nn.attending import ByLayer, rotation_of
from refrope.nn.backends import operations
from refrope.nn.mapped import mapped_backward, mapped_forward
from refrope.nn.mapped_oracle import mapped_reference

ENCODING = RoPE(10)
BACKENDS = ["numpy", *(["c"] if available() else [])]
# Sums of a few dozen products of numbers around 1 in float64, and a softmax of them.
ROUNDING = 1e-13
GRADIENT = 1e-7  # of central differences in float64


@st.composite
def pointers(draw):
    near = draw(st.integers(1, 9))
    small = st.integers(0, 5)
    return Pointers(
        ENCODING,
        near,
        apart=draw(st.none() | st.integers(near, near + 4)),
        divisor=draw(st.none() | st.integers(2, 4)),
        lag=draw(small),
        start=draw(st.integers(0, near)),
        content=draw(st.sampled_from([1.0, 0.1, 0.0])),
    )


def seen(m, one):
    """What the query at m sees, from the words of the docstring, as (key, effective position)."""
    near = [(n, m - n) for n in range(m + 1) if m - n < one.near]
    begin = one.near
    apart = []
    if one.apart is not None:
        apart = [(m - one.apart, begin)] if m - one.apart >= one.start else []
        begin += 1
    pointed = []
    if one.divisor is not None:
        pointed = [((m - one.lag) // one.divisor, begin + (m - one.lag) % one.divisor)] if m >= one.lag else []
        begin += one.divisor
    end = begin + one.start - 1
    start = [(n, end - n) for n in range(one.start)] if m - one.near + 1 >= one.start else []
    return near + apart + pointed + start


@given(pointers(), st.integers(0, 70))
def test_the_definition_is_what_the_docstring_says(one, m):
    keys = np.arange(m + 1)
    once, twice = one.effective(m, keys), one.second(m, keys)
    found = [(n, f) for values in (once, twice) for n, f in zip(keys, values, strict=True) if not math.isnan(f)]
    assert sorted(found) == sorted(seen(m, one))


@given(pointers(), st.integers(0, 70))
def test_the_candidates_hold_every_key_that_is_seen_once(one, m):
    keys = one.candidates(m)
    keys = keys[keys >= 0]
    assert len(set(keys)) == len(keys)
    assert {key for key, _ in seen(m, one)} <= set(keys) <= set(range(m + 1))


@given(pointers(), st.integers(0, 64))
def test_passes_are_the_definition(one, n):
    assert_passes_are_the_definition(one, n)


@given(pointers())
def test_all_effective_positions_are_seen_within_the_train_length_and_no_later_ones_are_new(one):
    i = np.arange(one.train_length)
    trained = np.concatenate([f(i[:, None], i)[np.tril_indices(len(i))] for f in (one.effective, one.second)])
    assert set(trained[~np.isnan(trained)]) == set(one.positions)
    late = (np.array([200, 1001, 4095, 2**40])[:, None] + np.arange(4)).reshape(-1, 1)
    pointed = (late - one.lag) // (one.divisor or 2)
    places = (late - np.arange(14), pointed + np.arange(-8, 9), np.arange(12) + 0 * late)
    far = one.effective(late, np.concatenate(places, axis=1))
    assert set(far[~np.isnan(far)]) == set(one.positions)


@settings(max_examples=25)
@given(pointers(), st.integers(1, 29), st.sampled_from(BACKENDS), st.integers(0, 2**32 - 1))
def test_attention_is_that_of_the_definition(one, length, backend, seed):
    source = np.random.default_rng(seed)
    q, k, v = (source.standard_normal((2, 3, length, 10)) for _ in range(3))
    out, lse = mapped_forward(operations(backend), q, k, v, one.tables(length, np.float64))
    logits, expected = mapped_reference(q, k, v, one)
    assert np.abs(out - expected).max() < ROUNDING
    assert np.abs(lse - np.log(np.exp(logits).sum(axis=-1))).max() < ROUNDING


@settings(max_examples=25)
@given(pointers(), st.integers(1, 29), st.sampled_from(BACKENDS), st.integers(0, 2**32 - 1))
def test_each_place_has_a_number_of_its_own_added_to_its_scores(one, length, backend, seed):
    source = np.random.default_rng(seed)
    q, k, v, dout = (source.standard_normal((2, 3, length, 10)) for _ in range(4))
    places = source.standard_normal((3, one.places))
    ops, passes = operations(backend), one.tables(length, np.float64)
    out, lse = mapped_forward(ops, q, k, v, passes, places=places)
    assert np.abs(out - mapped_reference(q, k, v, one, places=places)[1]).max() < ROUNDING
    before = source.standard_normal(places.shape)
    found = before.copy()
    mapped_backward(ops, dout, q, k, v, out, lse, passes, places=places, dplaces=found)
    direction = source.standard_normal(places.shape)
    ends = [mapped_reference(q, k, v, one, places=places + step * direction)[1] for step in (1e-6, -1e-6)]
    slope = float(((ends[0] - ends[1]) * dout).sum()) / 2e-6
    assert abs(slope - float(((found - before) * direction).sum())) < 10 * GRADIENT * max(1.0, abs(slope))


def test_places_are_numbered_in_the_order_of_their_effective_positions():
    one = Pointers(ENCODING, 3, 4, 2, 2, 2)
    assert one.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert one.places == 8
    assert sorted({place for p in one.passes(20) for place in p.places}) == list(range(8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_learns_by_place_with_the_same_bits_on_any_number_of_threads(backend):
    config = TransformerConfig(vocabulary=7, d_model=12, heads=2, head_dim=6, d_ff=16, bias=PlaceBias(8))
    tables = rotation_of(Pointers(RoPE(6), deep=True), 23, np.float32)
    tokens, dlogits = np.arange(5 * 23).reshape(5, 23) % 7, np.ones((5, 23, 7), np.float32)
    dlogits[..., 3] = -2
    found, before = [], kernels.get_num_threads()
    try:
        for threads in (1, 2, 3):
            kernels.set_num_threads(threads)
            model = Transformer(config, seed=1, backend=backend)
            model.params["layers.1.bias.table"][...] = np.linspace(-0.1, 0.1, 16).reshape(2, 8)
            model.forward(tokens, tables, keep=True)
            found.append({name: gradient.copy() for name, gradient in model.backward(dlogits).items()})
    finally:
        kernels.set_num_threads(before)
    assert all(found[0][f"layers.{i}.bias.table"].all() for i in range(2))
    for other in found[1:]:
        assert all(same_bits(other[name], gradient) for name, gradient in found[0].items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_first_layer_sees_them(backend):
    """A change of token reaches the queries that the first layer shows it to, and no others."""
    config = TransformerConfig(vocabulary=7, d_model=12, heads=2, head_dim=6, d_ff=16, layers=3, bias=PlaceBias(8))
    model = Transformer(config, seed=1, backend=backend)
    one, length, changed = Pointers(RoPE(6)), 31, 5
    tokens = np.arange(length)[None] % 7
    others = tokens.copy()
    others[0, changed] = 0
    for deep in (False, True):
        tables = rotation_of(replace(one, deep=deep), length, np.float32)
        logits = [model.forward(given, tables).copy() for given in (tokens, others)]
        reached = np.flatnonzero((logits[0] != logits[1]).any(axis=-1)[0])
        seen_by = [m for m in range(length) if changed in {n for n, _ in seen(m, one)}]
        assert set(seen_by) <= set(reached)
        assert (seen_by == reached.tolist()) is not deep
    assert seen_by == [5, 6, 7, 9, 12, 13]
    assert isinstance(rotation_of(one, 9, np.float32), ByLayer)
    assert one.later.later == one.later
    alone = one.later.effective(*np.meshgrid(np.arange(9), np.arange(9), indexing="ij"))
    assert np.array_equal(~np.isnan(alone), np.eye(9, dtype=bool))


def test_a_bias_by_place_without_places_is_refused():
    config = TransformerConfig(vocabulary=7, d_model=12, heads=2, head_dim=6, d_ff=16, bias=PlaceBias(8))
    model, tokens = Transformer(config, seed=1, backend="numpy"), np.zeros((1, 9), np.int64)
    with pytest.raises(ValueError, match="a bias by place without a position map"):
        model.forward(tokens, RoPE(6).cos_sin(np.arange(9), np.float32))
    with pytest.raises(ValueError, match="mapped_forward: places for passes that have none"):
        model.forward(tokens, rotation_of(ReRoPE(RoPE(6), 4), 9, np.float32))
    with pytest.raises(ValueError, match=r"mapped_forward: places is float32\(2, 8\), expected .* at least 9 places"):
        model.forward(tokens, rotation_of(Pointers(RoPE(6), near=4), 9, np.float32))
    for fields, said in (({"places": 0}, "places is 0"), ({"places": 3, "rate": 0.0}, "rate is 0.0")):
        with pytest.raises(ValueError, match=f"PlaceBias: {said}"):
            PlaceBias(**fields)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_those_of_the_loss(backend):
    one, length = Pointers(Resonance(RoPE(10, base=50.0)), 3, 5, 2, 1, 2, 0.3), 23
    source = np.random.default_rng(5)
    q, k, v, dout = (source.standard_normal((2, 3, length, 10)) for _ in range(4))
    passes, ops = one.tables(length, np.float64), operations(backend)
    out, lse = mapped_forward(ops, q, k, v, passes)
    grads = mapped_backward(ops, dout, q, k, v, out, lse, passes)
    for i, gradient in enumerate(grads):
        direction = source.standard_normal(q.shape)

        def loss(step, i=i, direction=direction):
            moved = [x + step * direction if j == i else x for j, x in enumerate((q, k, v))]
            return float((mapped_forward(ops, *moved, passes)[0] * dout).sum())

        slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
        assert abs(slope - float((gradient * direction).sum())) < GRADIENT * max(1.0, abs(slope))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"near": 0}, "Pointers: near is 0"),
        ({"divisor": 1}, "Pointers: divisor is 1"),
        ({"lag": -1}, "Pointers: lag is -1"),
        ({"start": 9}, r"Pointers: start is 9, expected an integer in \[0, 3\]"),
        ({"content": -0.1}, "Pointers: content is -0.1, expected a finite number >= 0"),
        ({"apart": 2}, "Pointers: apart is 2"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(fields, message):
    with pytest.raises(ValueError, match=message):
        Pointers(ENCODING, **fields)


def test_a_text_with_nothing_but_near_keys_is_said_to_be_too_short():
    with pytest.raises(ValueError, match="nothing would be remapped"):
        Pointers(ENCODING).check_effect(3)
    Pointers(ENCODING).check_effect(4)
    with pytest.raises(ValueError, match="nothing would be remapped"):  # the fourth key is seen at its own distance
        Pointers(ENCODING, apart=3, start=0).check_effect(4)
