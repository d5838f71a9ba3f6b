"""A model with grouped queries is one whose heads of keys and values repeat, whatever tells it positions."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import BACKENDS

from refrope import Transformer, TransformerConfig
from refrope.methods import METHODS, Lengths, configuration_of, encoding_of
from refrope.nn.attending import rotation_of

# Float64 through two layers; a gradient of a shared head is a sum over its group, in another order.
SAME = 1e-11
BATCH, LENGTH, TRAIN, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 2, 19, 8, 6, 2, 6, 11
SIZES = TransformerConfig(
    vocabulary=VOCABULARY,
    d_model=10,
    heads=HEADS,
    head_dim=HEAD_DIM,
    d_ff=14,
    layers=2,
    softmax_scale=None,
    kv_heads=KV_HEADS,
)


def tokens():
    return np.random.default_rng(3).integers(0, VOCABULARY, (BATCH, LENGTH))


def pair_of_models(way, backend, dropout):
    """The model with grouped queries, and one that has a copy of the keys and values for each head of its queries."""
    config = replace(configuration_of(way, SIZES, TRAIN, LENGTH), dropout=dropout)
    grouped = Transformer(config, seed=1, backend=backend, dtype=np.float64)
    repeated = Transformer(replace(config, kv_heads=None), seed=None, backend=backend, dtype=np.float64)
    for name, weight in grouped.params.items():
        repeated.params[name][...] = spread(weight) if name.endswith("qkv") else weight
    return grouped, repeated


def heads_of(qkv):
    """Columns of q, k, v as heads, each (d_model, its heads, head_dim)."""
    return np.split(qkv.reshape(len(qkv), -1, HEAD_DIM), [HEADS, HEADS + KV_HEADS], axis=1)


def spread(qkv):
    q, k, v = heads_of(qkv)
    return np.concatenate([q, *(np.repeat(x, HEADS // KV_HEADS, axis=1) for x in (k, v))], axis=1).reshape(len(qkv), -1)


def gathered(dqkv):
    """The gradient of what `spread` spreads: the sums over the copies."""
    dq, dk, dv = np.split(dqkv.reshape(len(dqkv), -1, HEAD_DIM), 3, axis=1)
    sums = [x.reshape(len(x), KV_HEADS, -1, HEAD_DIM).sum(axis=2) for x in (dk, dv)]
    return np.concatenate([dq, *sums], axis=1).reshape(len(dqkv), -1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("way", METHODS)
def test_grouped_queries_are_heads_with_repeated_keys_and_values(way, dropout, backend):
    models = pair_of_models(way, backend, dropout)
    rotation = rotation_of(encoding_of(way, HEAD_DIM, Lengths(TRAIN, LENGTH)), LENGTH, np.float64)
    seed = 5 if dropout else None
    one, other = (m.forward(tokens(), rotation, dropout_seed=seed, keep=True).copy() for m in models)
    assert np.abs(one).max() > 0.1
    np.testing.assert_allclose(one, other, rtol=0, atol=SAME)
    for layer in range(2):
        given, expected = (m.attention_weights(layer) for m in models)
        assert given.shape == (BATCH, HEADS, LENGTH, LENGTH)
        np.testing.assert_allclose(given, expected, rtol=0, atol=SAME)
    upstream = np.random.default_rng(7).standard_normal(one.shape)
    found, wanted = (m.backward(upstream) for m in models)
    for name, gradient in found.items():
        expected = gathered(wanted[name]) if name.endswith("qkv") else wanted[name]
        bound = SAME * max(1, np.abs(expected).max())
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=bound, err_msg=name)
