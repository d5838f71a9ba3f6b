"""ALiBi, T5's bias and Kerple against loops over their formulas; gradients of all biases, alone and in attention."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from conftest import BACKENDS

from refrope.nn.attention import distance_bias
from refrope.nn.backends import operations
from refrope.nn.biases import ALiBi, Bias, Kerple, T5Bias
from refrope.nn.fire import FIRE
from refrope.nn.gradcheck import gradient_error
from refrope.randomness import bit_source

# Float64 values of order 10 and a handful of roundings each; the largest error met is 1e-14.
FLOAT64 = 1e-12
# The five-point difference leaves 1e-10 or so in a loss of order 1 to 100.
DIFFERENCES = 1e-7
# A gradient 1.001 times too long is wrong by 1e-3 along itself; a random direction sees a part of that.
WRONG = 1e-5

BATCH, HEADS, LENGTH, HEAD_DIM = 2, 5, 13, 3
LEARNED = [T5Bias(num_buckets=8, max_distance=11), Kerple(), Kerple("power")]
ALL = [ALiBi(), *LEARNED, FIRE(width=7, threshold=6.0), FIRE(width=7, threshold=6.0, negative_slope=0.01)]
ids = [repr(bias) for bias in ALL]


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def exactly(message):
    return f"^{re.escape(message)}$"


def start(bias, heads=HEADS, seed=3):
    """Weights to differentiate at: FIRE's two maxima are apart, while it starts where they may be equal."""
    weights = bias.initial(heads, bit_source(seed, "test"))
    return {**weights, "multiplier": np.array([0.93])} if "multiplier" in weights else weights


# ---- ALiBi ----


def alibi_slopes_by_recursion(heads):
    """The released code's way: a power of two, or that of the power below and every second slope of twice that."""
    if heads & (heads - 1) == 0:
        return [2.0 ** (-8.0 * h / heads) for h in range(1, heads + 1)]
    below = 1
    while 2 * below < heads:
        below *= 2
    return (alibi_slopes_by_recursion(below) + alibi_slopes_by_recursion(2 * below)[0::2])[:heads]


def test_alibi_slopes_of_8_heads_are_the_papers():
    assert ALiBi().slopes(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 15, 16, 17, 31, 32, 33, 48, 71, 128])
def test_alibi_slopes_are_the_union_of_two_powers_of_two(heads):
    slopes = ALiBi().slopes(heads)
    assert slopes.shape == (heads,)
    assert slopes.dtype == np.float64
    assert np.abs(slopes - alibi_slopes_by_recursion(heads)).max() <= FLOAT64


def test_alibi_takes_off_slope_times_distance():
    distances = np.array([[0, 1, 2], [131071, 7, -4]])
    values = ALiBi().forward({}, HEADS, distances)
    for h, slope in enumerate(alibi_slopes_by_recursion(HEADS)):
        for index in np.ndindex(2, 3):
            assert abs(values[h][index] + slope * max(int(distances[index]), 0)) <= FLOAT64
    assert ALiBi().shapes(HEADS) == {} == start(ALiBi())
    assert ALiBi().backward(normal(HEADS, 2, 3), {}, HEADS, distances) == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_blooms_slope_times_key_position_is_the_same_attention_as_alibi(backend):
    q, k, v = (normal(BATCH, HEADS, LENGTH, HEAD_DIM, seed=i) for i in range(3))
    places = np.arange(LENGTH)
    ours = ALiBi().forward({}, HEADS, places[:, None] - places)
    blooms = np.broadcast_to((ALiBi().slopes(HEADS)[:, None] * places)[:, None], ours.shape)
    seen = np.tri(LENGTH, dtype=bool)
    assert np.abs(ours - blooms)[:, seen].max() > 1
    (out, _), (other, _) = (operations(backend).attention_forward(q, k, v, bias=bias) for bias in (ours, blooms))
    assert np.abs(out - other).max() <= FLOAT64


# ---- T5 ----


def t5_bucket(n, num_buckets=32, max_distance=128, real=np.float64):
    """The formula of T5's code, with logarithms in the precision of `real`."""
    half = num_buckets // 2
    if n < half:
        return n
    ratio = np.log(real(n) / real(half)) / real(math.log(max_distance / half))
    return min(half + int(ratio * real(num_buckets - half)), num_buckets - 1)


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_t5_buckets_of_the_default_are_those_of_its_float_formula(real):
    distances = np.arange(-3, 3000)
    expected = [t5_bucket(max(int(n), 0), real=real) for n in distances]
    assert T5Bias().buckets(distances).tolist() == expected


@pytest.mark.parametrize(
    ("num_buckets", "max_distance"),
    [(2, 2), (2, 7), (3, 2), (7, 50), (8, 5), (8, 64), (32, 129), (10, 3125), (33, 1000)],
)
def test_t5_buckets_begin_where_exact_powers_say(num_buckets, max_distance):
    half, rest = num_buckets // 2, num_buckets - num_buckets // 2
    buckets = T5Bias(num_buckets, max_distance).buckets(np.arange(2 * max_distance))
    for n, bucket in enumerate(buckets.tolist()):
        if n < half:
            assert bucket == n
            continue
        k = bucket - half  # (max / half)^k <= (n / half)^rest, and k + 1 would be too much
        assert max_distance**k * half**rest <= n**rest * half**k
        assert bucket == num_buckets - 1 or max_distance ** (k + 1) * half**rest > n**rest * half ** (k + 1)


def test_the_float_formula_falls_short_of_exact_powers():
    """Half is 5 and the last distance 32 times that, so 10 = 5 * 32^(1/5) begins bucket 6, and so on."""
    distances = np.array([9, 10, 19, 20, 39, 40, 79, 80])
    assert T5Bias(10, 160).buckets(distances).tolist() == [5, 6, 6, 7, 7, 8, 8, 9]
    assert [t5_bucket(n, 10, 160) for n in (10, 20, 80)] == [5, 6, 8]


def test_t5_looks_up_its_table():
    bias = T5Bias()
    table = normal(32, HEADS)
    distances = np.array([[0, 5, 15], [16, 18, 19], [113, 128, 9999]])
    values = bias.forward({"table": table}, HEADS, distances)
    for h in range(HEADS):
        for index in np.ndindex(3, 3):
            assert values[h][index] == table[t5_bucket(int(distances[index])), h]


def test_t5_starts_normal_with_the_deviation_asked_for():
    table = T5Bias(512, 1000, deviation=0.25).initial(31, bit_source(0, "t5"))["table"]
    assert table.shape == (512, 31)
    # 15,872 numbers: their deviation is within 0.25 / sqrt(2 * 15872) = 0.0014 of 0.25 in two cases of three.
    assert abs(table.std() - 0.25) < 0.006
    assert abs(table.mean()) < 0.008


# ---- Kerple ----


@pytest.mark.parametrize("form", ["log", "power"])
@pytest.mark.parametrize(("p", "a"), [(1.5, 0.7), (0.003, 0.7), (1.5, -2.0), (3.0, 4.0), (0.5, 0.01)])
def test_kerple_is_its_formula_within_its_bounds(form, p, a):
    distances = np.array([[0, 1, 2, 3], [-5, 10, 1000, 131071]])
    weights = {"p": np.full(HEADS, p), "a": np.full(HEADS, a)}
    values = Kerple(form).forward(weights, HEADS, distances)
    inner_a = max(a, 0.01)
    for index in np.ndindex(2, 4):
        n = max(int(distances[index]), 0)
        if form == "log":
            expected = -max(p, 0.01) * math.log(1 + inner_a * n)
        else:
            expected = -inner_a * n ** min(max(p, 0.01), 2.0)
        assert np.abs(values[(slice(None), *index)] - expected).max() <= FLOAT64 * max(1, abs(expected))
    assert weights["p"].tolist() == [p] * HEADS  # forward changes no weight


@pytest.mark.parametrize("form", ["log", "power"])
def test_kerple_beyond_a_bound_has_the_gradient_at_the_bound(form):
    bias, distances, dvalues = Kerple(form), np.arange(LENGTH), normal(2, LENGTH)
    beyond = {"p": np.array([-1.0, 5.0 if form == "power" else 0.01]), "a": np.array([0.5, -3.0])}
    bounds = {"p": np.array([0.01, 2.0 if form == "power" else 0.01]), "a": np.array([0.5, 0.01])}
    grads, expected = (bias.backward(dvalues, weights, 2, distances) for weights in (beyond, bounds))
    for name in ("p", "a"):
        assert grads[name].tolist() == expected[name].tolist()
        assert np.all(grads[name] != 0)


def test_kerple_starts_uniform_below_2_and_1():
    weights = Kerple().initial(10007, bit_source(0, "kerple"))
    for name, most in (("p", 2), ("a", 1)):
        assert 0 <= weights[name].min() < 0.01 * most
        assert 0.99 * most < weights[name].max() < most
        assert abs(weights[name].mean() - most / 2) < 0.02 * most


# ---- all of them ----


@pytest.mark.parametrize("bias", ALL, ids=ids)
def test_gradients_of_weights_are_those_of_differences_and_a_longer_one_is_refused(bias):
    weights, distances = start(bias), np.arange(LENGTH)[:, None] - np.arange(LENGTH)
    queries, dvalues = 3 + np.arange(LENGTH)[:, None], normal(HEADS, LENGTH, LENGTH, seed=1)
    grads = bias.backward(dvalues, weights, HEADS, distances, queries)
    assert {name: g.shape for name, g in grads.items()} == bias.shapes(HEADS)

    def loss(inputs):
        return float(np.sum(dvalues * bias.forward(inputs, HEADS, distances, queries)))

    assert gradient_error(loss, weights, grads) <= DIFFERENCES
    for name, gradient in grads.items():
        assert gradient_error(loss, weights, {name: 1.001 * gradient}) > WRONG, name


@pytest.mark.parametrize("bias", ALL, ids=ids)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 0), (3, 11), (2, 3, 5)])
def test_values_follow_the_shape_of_the_distances(bias, shape):
    weights = start(bias)
    distances = np.arange(math.prod(shape)).reshape(shape)
    queries = np.array(distances + 2)
    values = bias.forward(weights, HEADS, distances, queries)
    assert values.shape == (HEADS, *shape)
    grads = bias.backward(np.ones_like(values), weights, HEADS, distances, queries)
    assert {name: g.shape for name, g in grads.items()} == bias.shapes(HEADS)
    one_by_one = [bias.forward(weights, HEADS, np.array(n), np.array(n + 2)) for n in distances.ravel()]
    if one_by_one:
        assert np.abs(np.stack(one_by_one, axis=1) - values.reshape(HEADS, -1)).max() <= FLOAT64


@pytest.mark.parametrize("bias", ALL, ids=ids)
def test_float32_weights_have_float32_gradients(bias):
    weights, distances, queries = start(bias), np.arange(LENGTH), np.arange(LENGTH)
    short = {name: weight.astype(np.float32) for name, weight in weights.items()}
    dvalues = normal(HEADS, LENGTH).astype(np.float32)
    grads = bias.backward(dvalues, short, HEADS, distances, queries)
    exact = bias.backward(dvalues.astype(np.float64), weights, HEADS, distances, queries)
    for name, gradient in grads.items():
        assert gradient.dtype == np.float32
        # Rounding of the weights and of sums of 13 terms: a few units of 2^-24 of the largest.
        assert np.abs(gradient - exact[name]).max() <= 1e-5 * max(1, np.abs(exact[name]).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_q", [1, 4, LENGTH])
@pytest.mark.parametrize("bias", [b for b in ALL if b.shapes(1)], ids=repr)
def test_attention_trains_the_weights_through_dbias(bias, n_q, backend):
    """With cached keys too: n_q of the last positions ask."""
    ops = operations(backend)
    shapes = [(BATCH, HEADS, n, HEAD_DIM) for n in (n_q, LENGTH, LENGTH, n_q)]
    q, k, v, dout = (normal(*shape, seed=i) for i, shape in enumerate(shapes))
    queries = None if bias.of_distance else np.arange(LENGTH - n_q, LENGTH)[:, None]
    distances = np.arange(LENGTH) if queries is None else queries - np.arange(LENGTH)
    weights = start(bias)

    def of_pairs(values):
        return distance_bias(values, n_q, LENGTH) if bias.of_distance else values

    def loss(inputs):
        values = bias.forward(inputs, HEADS, distances, queries)
        out, _ = ops.attention_forward(q, k, v, bias=of_pairs(values))
        return float(np.sum(dout * out) + np.sum(direct * values))

    values = bias.forward(weights, HEADS, distances, queries)
    # Softmax does not see what all keys of a query share, and so some weights would have no gradient but for this term.
    direct = normal(*values.shape, seed=5)
    if bias.of_distance:
        dbias = distance_bias(np.zeros((BATCH, HEADS, LENGTH)), n_q, LENGTH)
    else:
        dbias = np.zeros((BATCH, HEADS, n_q, LENGTH))
    out, lse = ops.attention_forward(q, k, v, bias=of_pairs(values))
    ops.attention_backward(dout, q, k, v, out, lse, bias=of_pairs(values), dbias=dbias)
    of_attention = (dbias[..., -1, ::-1] if bias.of_distance else dbias).sum(axis=0)
    assert np.abs(of_attention).max() > 0.1
    grads = bias.backward(of_attention + direct, weights, HEADS, distances, queries)
    assert gradient_error(loss, weights, grads) <= DIFFERENCES
    longer = bias.backward(1.001 * of_attention + direct, weights, HEADS, distances, queries)
    assert gradient_error(loss, weights, longer) > WRONG


@pytest.mark.parametrize("bias", ALL, ids=ids)
def test_bad_arguments_are_named(bias):
    distances, queries = np.arange(LENGTH), np.arange(LENGTH)
    weights, name = start(bias), bias.name
    with pytest.raises(ValueError, match=exactly(f"{name}.forward: heads is 0, expected an integer >= 1")):
        bias.forward(weights, 0, distances, queries)
    message = f"{name}.forward: distances is float64({LENGTH},), expected an array of integers"
    with pytest.raises(ValueError, match=exactly(message)):
        bias.forward(weights, HEADS, distances + 0.5, queries)
    message = f"{name}.backward: dvalues is float64(4, 13), expected float32 or float64(5, 13)"
    with pytest.raises(ValueError, match=exactly(message)):
        bias.backward(normal(4, LENGTH), weights, HEADS, distances, queries)
    for weight, shape in bias.shapes(HEADS).items():
        if shape == bias.shapes(HEADS + 1)[weight]:
            continue
        wanted = f"expected float32 or float64{bias.shapes(HEADS + 1)[weight]}"
        message = f"{name}.forward: weights[{weight!r}] is float64{shape}, {wanted}"
        with pytest.raises(ValueError, match=exactly(message)):
            bias.forward(weights, HEADS + 1, distances, queries)
        with pytest.raises(ValueError, match=rf"^{name}\.forward: weights\['{weight}'\] is None, expected"):
            bias.forward({n: w for n, w in weights.items() if n != weight}, HEADS, distances, queries)
        break


def test_a_table_with_its_axes_swapped_is_refused():
    message = "T5Bias.forward: weights['table'] is float64(5, 32), expected float32 or float64(32, 5)"
    with pytest.raises(ValueError, match=exactly(message)):
        T5Bias().forward({"table": normal(5, 32)}, 5, np.arange(2))


def test_weights_of_two_dtypes_are_refused():
    weights = {"p": np.ones(3, np.float32), "a": np.ones(3)}
    message = "Kerple.forward: weights['a'] is float64(3,), expected float32 like weights['p']"
    with pytest.raises(ValueError, match=exactly(message)):
        Kerple().forward(weights, 3, np.arange(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T5Bias(1), "T5Bias: num_buckets is 1, expected an integer >= 2"),
        (lambda: T5Bias(32, 16), "T5Bias: max_distance is 16, expected an integer >= 17"),
        (lambda: T5Bias(deviation=-1.0), "T5Bias: deviation is -1.0, expected a finite number >= 0"),
        (lambda: Kerple("linear"), "Kerple: unknown form 'linear'; known: log, power"),
        (lambda: ALiBi().slopes(0), "ALiBi.slopes: heads is 0, expected an integer >= 1"),
        (lambda: T5Bias().shapes(-1), "T5Bias.shapes: heads is -1, expected an integer >= 1"),
        (lambda: Kerple().shapes(1.5), "Kerple.shapes: heads is 1.5, expected an integer >= 1"),
    ],
)
def test_bad_fields_are_named(make, message):
    with pytest.raises(ValueError, match=exactly(message)):
        make()


def test_what_is_shared_and_what_depends_on_distance_alone():
    assert [b.name for b in ALL if b.shared] == ["T5Bias"]
    assert [b.name for b in ALL if not b.of_distance] == ["FIRE", "FIRE"]
    assert repr(Kerple("power")) == "Kerple(form='power')"
    for method in (lambda b: b.shapes(1), lambda b: b.initial(1, bit_source(0)), lambda b: b.forward({}, 1, None)):
        with pytest.raises(NotImplementedError):
            method(Bias())
    with pytest.raises(NotImplementedError):
        Bias().backward(None, {}, 1, None)
