"""FIRE: values from loops over its formula, gradients of each weight, blocks of pairs, what it starts from."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from refrope.nn import fire as module
from refrope.nn.fire import FIRE
from refrope.nn.gradcheck import gradient_error
from refrope.randomness import bit_source

# Float64 values of order 1, sums of 32 products.
FLOAT64 = 1e-12
# Blocks add up the same terms of sums of some hundred in another order.
ORDER = 1e-11
# The five-point difference leaves 1e-10 or so.
DIFFERENCES = 1e-7
# Float32: 32 products of order 1 at 2^-24 each, and the rounding of x.
FLOAT32 = 3e-6
HEADS, LENGTH = 5, 17


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def weights_of(bias, heads=HEADS, seed=0):
    return bias.initial(heads, bit_source(seed, "fire")) | {"c": np.array([-0.37]), "multiplier": np.array([-0.93])}


def pairs(n=LENGTH, first=0):
    queries = first + np.arange(n)[:, None]
    return queries - np.arange(first + n), queries


def one_value(weights, head, distance, query, threshold, negative_slope):
    """The formula for one pair and head, number by number."""
    distance = max(distance, 0)
    c = abs(float(weights["c"][0]))
    reach = max(query, abs(float(weights["multiplier"][0]) * threshold))
    x = math.log(c * distance + 1) / (math.log(c * reach + 1) + 1e-6)
    total = float(weights["out.bias"][head])
    for unit in range(len(weights["in.weight"])):
        hidden = float(weights["in.weight"][unit]) * x + float(weights["in.bias"][unit])
        total += float(weights["out.weight"][head, unit]) * (hidden if hidden > 0 else negative_slope * hidden)
    return total


@pytest.mark.parametrize("negative_slope", [0.0, 0.01])
@pytest.mark.parametrize(("width", "threshold"), [(1, 3.0), (7, 5.0), (32, 256.0)])
@pytest.mark.parametrize("first", [0, 4, 300])
def test_fire_is_its_formula(width, threshold, negative_slope, first):
    bias = FIRE(width, threshold, negative_slope)
    weights, (distances, queries) = weights_of(bias), pairs(first=first)
    values = bias.forward(weights, HEADS, distances, queries)
    assert values.shape == (HEADS, *distances.shape)
    for h, i, j in np.ndindex(HEADS, *distances.shape):
        if j % 11 == i % 11 or first == 0:  # of the long rows, some
            query = int(queries[i, 0])
            expected = one_value(weights, h, int(distances[i, j]), query, threshold, negative_slope)
            assert abs(values[h, i, j] - expected) <= FLOAT64, (h, i, j)


def test_one_learned_position_serves_all_lengths():
    """Beyond the threshold the farthest key of every query has nearly the same value: interpolation."""
    bias = FIRE(threshold=8.0)
    weights = bias.initial(HEADS, bit_source(0))
    farthest = np.array([100, 1000, 131071])
    values = bias.forward(weights, HEADS, farthest, farthest)
    # x is 1 but for the 1e-6 added below the line, and the network's slope is below 1 * 32 / sqrt(32) < 6.
    assert np.ptp(values, axis=1).max() <= 6e-6
    near = bias.forward(weights, HEADS, np.array([10, 10, 10]), farthest)
    assert np.ptp(near, axis=1).max() > 1e-3


@pytest.mark.parametrize("name", ["c", "multiplier", "in.weight", "in.bias", "out.weight", "out.bias"])
@pytest.mark.parametrize("negative_slope", [0.0, 0.01])
def test_each_gradient_is_that_of_differences_and_a_longer_one_is_refused(name, negative_slope):
    bias = FIRE(width=11, threshold=9.7, negative_slope=negative_slope)
    weights, (distances, queries) = weights_of(bias), pairs(first=2)
    dvalues = normal(HEADS, *distances.shape, seed=2)
    gradient = bias.backward(dvalues, weights, HEADS, distances, queries)[name]

    def loss(inputs):
        return float(np.sum(dvalues * bias.forward(inputs, HEADS, distances, queries)))

    # A short step: no number of the hidden layer changes its sign within it, and rounding costs 1e-10 or so.
    assert gradient_error(loss, weights, {name: gradient}, step=1e-6) <= DIFFERENCES
    assert gradient_error(loss, weights, {name: 1.001 * gradient}, step=1e-6) > 100 * DIFFERENCES


def test_a_query_at_the_limit_gives_the_multiplier_half_its_gradient():
    bias = FIRE(width=3, threshold=8.0)
    weights = bias.initial(HEADS, bit_source(0))
    distances, dvalues = np.array([5]), normal(HEADS, 1)
    at, below, beyond = (
        bias.backward(dvalues, {**weights, "multiplier": np.array([m])}, HEADS, distances, np.array([8]))["multiplier"]
        for m in (1.0, 1 + 1e-12, 1 - 1e-12)
    )
    assert beyond == 0
    assert below != 0
    # Twelve digits of the place are those of the limit.
    assert abs(at / below - 0.5).max() <= 1e-9


def test_c_of_zero_divides_nothing_by_zero():
    bias = FIRE(width=3)
    weights = bias.initial(HEADS, bit_source(0)) | {"c": np.zeros(1)}
    distances, queries = pairs()
    values = bias.forward(weights, HEADS, distances, queries)
    assert np.all(values == values[:, :1, :1])  # ln(1) / 1e-6 = 0 everywhere
    grads = bias.backward(np.ones_like(values), weights, HEADS, distances, queries)
    assert all(np.isfinite(g).all() for g in grads.values())
    assert grads["c"] == 0


@pytest.mark.parametrize("block", [1, 7, 40, 10**6])
def test_the_blocks_of_pairs_change_nothing(block, monkeypatch):
    bias = FIRE(width=7, threshold=6.3)
    weights, (distances, queries) = weights_of(bias), pairs(first=3)
    dvalues = normal(HEADS, *distances.shape)
    values, grads = (
        bias.forward(weights, HEADS, distances, queries),
        bias.backward(dvalues, weights, HEADS, distances, queries),
    )
    monkeypatch.setattr(module, "_BLOCK", block)
    assert np.abs(bias.forward(weights, HEADS, distances, queries) - values).max() <= FLOAT64
    for name, gradient in bias.backward(dvalues, weights, HEADS, distances, queries).items():
        assert np.abs(gradient - grads[name]).max() <= ORDER * max(1, np.abs(grads[name]).max()), name


def test_strided_and_broadcast_arguments_are_read_as_they_are():
    bias = FIRE(width=7, threshold=6.3)
    weights, (distances, queries) = weights_of(bias), pairs()
    dvalues = normal(HEADS, LENGTH, LENGTH)
    values, grads = (
        bias.forward(weights, HEADS, distances, queries),
        bias.backward(dvalues, weights, HEADS, distances, queries),
    )
    others = np.asfortranarray(distances), np.ascontiguousarray(np.broadcast_to(queries, distances.shape))
    assert np.array_equal(bias.forward(weights, HEADS, *others), values)
    for name, gradient in bias.backward(np.asfortranarray(dvalues), weights, HEADS, *others).items():
        assert np.abs(gradient - grads[name]).max() <= ORDER * max(1, np.abs(grads[name]).max()), name


def test_float32_weights_give_float32_values():
    bias = FIRE()
    weights, (distances, queries) = weights_of(bias), pairs(first=1000)
    short = {name: weight.astype(np.float32) for name, weight in weights.items()}
    same = {name: weight.astype(np.float64) for name, weight in short.items()}
    values = bias.forward(short, HEADS, distances, queries)
    assert values.dtype == np.float32
    assert np.abs(values - bias.forward(same, HEADS, distances, queries)).max() <= FLOAT32


def test_it_starts_as_pytorchs_layers_do():
    weights = FIRE(width=1009).initial(31, bit_source(5))
    assert weights["c"].tolist() == [0.1]
    assert weights["multiplier"].tolist() == [1.0]
    assert {name: w.shape for name, w in weights.items()} == FIRE(width=1009).shapes(31)
    for name, bound in (("in.weight", 1), ("in.bias", 1), ("out.weight", 1009**-0.5), ("out.bias", 1009**-0.5)):
        numbers = weights[name] / bound
        assert np.abs(numbers).max() <= 1
        assert numbers.max() > 0.8  # 31 numbers are all below it once in 26 tries; these are not
        assert numbers.min() < -0.8
        assert abs(numbers.mean()) < 4 * (3 * numbers.size) ** -0.5  # four deviations of a mean


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FIRE(0), "FIRE: width is 0, expected an integer >= 1"),
        (lambda: FIRE(threshold=0), "FIRE: threshold is 0, expected a finite number > 0"),
        (lambda: FIRE(negative_slope=-1), "FIRE: negative_slope is -1, expected a number in [0, 1]"),
        (lambda: FIRE(negative_slope=1.5), "FIRE: negative_slope is 1.5, expected a number in [0, 1]"),
        (lambda: FIRE().shapes(0), "FIRE.shapes: heads is 0, expected an integer >= 1"),
        (
            lambda: FIRE().forward(weights_of(FIRE()), HEADS, pairs()[0]),
            f"FIRE.forward: queries is None, expected integers that broadcast to the distances, ({LENGTH}, {LENGTH})",
        ),
        (
            lambda: FIRE().backward(normal(HEADS, 3), weights_of(FIRE()), HEADS, np.arange(3), np.arange(2)),
            "FIRE.backward: queries is int64(2,), expected integers that broadcast to the distances, (3,)",
        ),
        (
            lambda: FIRE().forward(weights_of(FIRE()), HEADS, np.arange(3), np.arange(3.0)),
            "FIRE.forward: queries is float64(3,), expected integers that broadcast to the distances, (3,)",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
