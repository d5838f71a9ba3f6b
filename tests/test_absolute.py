"""Sinusoids against math.sin and math.cos, learned positions against loops and differences."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from refrope.nn.absolute import LearnedPositions, Sinusoidal
from refrope.nn.gradcheck import gradient_error
from refrope.randomness import bit_source

# Sines and cosines to an ulp or two, of angles up to 10,000 whose own rounding is 10^4 2^-53 = 1e-12.
FLOAT64 = 3e-12
# The loss is linear: the difference is exact but for rounding divided by the step.
DIFFERENCES = 1e-10


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@pytest.mark.parametrize("d_model", [2, 4, 6, 14, 128])
@pytest.mark.parametrize("base", [10000.0, 17.0])
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_sinusoids_are_vaswanis_in_both_layouts(layout, base, d_model):
    positions = [0, 1, 2, 3, 511, 513, 10000, -7]
    table = Sinusoidal(base, layout).table(np.array(positions), d_model)
    assert table.shape == (len(positions), d_model)
    assert table.dtype == np.float64
    for i, m in enumerate(positions):
        for j in range(d_model // 2):
            angle = m / base ** (2 * j / d_model)
            sin, cos = (2 * j, 2 * j + 1) if layout == "interleaved" else (j, j + d_model // 2)
            assert abs(table[i, sin] - math.sin(angle)) <= FLOAT64
            assert abs(table[i, cos] - math.cos(angle)) <= FLOAT64


def test_the_default_is_all_sines_then_all_cosines():
    assert Sinusoidal() == Sinusoidal(10000.0, "half")
    assert Sinusoidal().table([0], 6).tolist() == [[0, 0, 0, 1, 1, 1]]
    assert Sinusoidal(layout="interleaved").table([0], 6).tolist() == [[0, 1, 0, 1, 0, 1]]
    assert Sinusoidal().name == "Sinusoidal"


def test_learned_positions_are_rows_of_a_table():
    learned = LearnedPositions(11)
    weights = learned.initial(3, bit_source(0))
    assert learned.shapes(3) == {"positions": (11, 3)}
    positions = np.array([10, 0, 3, 3])
    rows = learned.forward(weights, positions)
    for i, m in enumerate(positions):
        assert rows[i].tolist() == weights["positions"][m].tolist()
    assert learned.forward(weights, positions[:0]).shape == (0, 3)
    assert learned.name == "LearnedPositions"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_of_a_row_is_the_sum_over_the_tokens_at_it(dtype):
    learned, positions = LearnedPositions(7), np.array([2, 0, 2, 6, 2])
    drows = normal(5, 3).astype(dtype)
    gradient = learned.backward(drows, positions)["positions"]
    assert gradient.dtype == dtype
    expected = [[sum(float(drows[i, f]) for i in range(5) if positions[i] == m) for f in range(3)] for m in range(7)]
    # Three float32 terms of order 1.
    assert np.abs(gradient - expected).max() <= (1e-6 if dtype == np.float32 else 1e-12)


def test_its_gradient_is_that_of_differences_and_a_longer_one_is_refused():
    learned, positions = LearnedPositions(7), np.array([2, 0, 2, 6, 2])
    weights, drows = learned.initial(3, bit_source(1)), normal(5, 3)
    grads = learned.backward(drows, positions)

    def loss(inputs):
        return float(np.sum(drows * learned.forward(inputs, positions)))

    assert gradient_error(loss, weights, grads) <= DIFFERENCES
    assert gradient_error(loss, weights, {"positions": 1.001 * grads["positions"]}) > 1e-5


@pytest.mark.parametrize("deviation", [1.0, 0.02])
def test_learned_positions_start_normal(deviation):
    table = LearnedPositions(211, deviation).initial(103, bit_source(3))["positions"]
    # 21,733 numbers: the deviation's own relative deviation is 1 / sqrt(2 * 21733) = 0.005.
    assert abs(table.std() / deviation - 1) < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sinusoidal(1.0), "Sinusoidal: base is 1.0, expected a number > 1"),
        (lambda: Sinusoidal(layout="half?"), None),
        (lambda: Sinusoidal().table([0], 5), "Sinusoidal.table: d_model is 5, expected an even number"),
        (lambda: Sinusoidal().table([0], 0), "Sinusoidal.table: d_model is 0, expected an integer >= 2"),
        (lambda: LearnedPositions(0), "LearnedPositions: length is 0, expected an integer >= 1"),
        (lambda: LearnedPositions(5, -1), "LearnedPositions: deviation is -1, expected a finite number >= 0"),
        (lambda: LearnedPositions(5).shapes(0), "LearnedPositions.shapes: d_model is 0, expected an integer >= 1"),
        (
            lambda: LearnedPositions(5).forward({"positions": normal(5, 3)}, np.array([4, 5])),
            "LearnedPositions.forward: positions hold 5, expected positions in [0, 5), the length of the table",
        ),
        (
            lambda: LearnedPositions(5).backward(normal(2, 3), np.array([4, -1])),
            "LearnedPositions.backward: positions hold -1, expected positions in [0, 5), the length of the table",
        ),
        (
            lambda: LearnedPositions(5).forward({"positions": normal(5, 3)}, np.array([0.0])),
            "LearnedPositions.forward: positions is float64(1,), expected integers (T,)",
        ),
        (
            lambda: LearnedPositions(5).forward({"positions": normal(6, 3)}, np.array([0])),
            "LearnedPositions.forward: weights['positions'] is float64(6, 3), expected float32 or float64(5, 3)",
        ),
        (
            lambda: LearnedPositions(5).forward({}, np.array([0])),
            "LearnedPositions.forward: weights['positions'] is None, expected float32 or float64 (5, d_model)",
        ),
        (
            lambda: LearnedPositions(5).backward(normal(3, 3), np.array([0])),
            "LearnedPositions.backward: drows is float64(3, 3), expected float32 or float64 (1, d_model)",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$" if message else "^Sinusoidal: unknown layout"):
        call()


def test_a_position_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="positions"):
        Sinusoidal().table([math.nan], 4)
