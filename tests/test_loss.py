"""Embedding and cross-entropy: values against float64, gradients, parts of a batch, and what C makes of NaN and inf."""

import inspect

import numpy as np
import pytest
from conftest import BACKENDS, same_bits
from hypothesis import given
from hypothesis import strategies as st

from refrope import kernels
from refrope.nn import layers
from refrope.nn.backends import NumpyOps
from refrope.nn.gradcheck import gradient_error

# Five-point differences in float64: truncation of about step^4 = 1e-12, rounding of about 1e-16 / 1e-3.
GRADIENT = 1e-7
# Units of the last place that csrc/loss_body.h states, and as many more as a logit lies below the largest.
ULPS = 32
C_BUILT = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
OPS = {"numpy": NumpyOps, "c": kernels}
SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 18, 31, 32, 33, 130]
ROWS = [0, 1, 2, 15, 16, 17, 255, 256, 257]
DTYPES = [np.float32, np.float64]
TWINS = ["cross_entropy_forward", "cross_entropy_backward", "embedding_forward", "embedding_backward"]
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = kernels.get_num_threads()
    yield
    kernels.set_num_threads(before)


def case(seed, rows, classes, dtype):
    generator = np.random.default_rng(seed)
    logits = (5 * generator.standard_normal((rows, classes))).astype(dtype)
    weights = generator.integers(0, 3, rows).astype(dtype)
    if rows:
        weights[0] = 1
    return logits, generator.integers(0, classes, rows), weights


def exact(logits, targets):
    """Probabilities and log-likelihoods in long double."""
    x = logits.astype(np.longdouble)
    x = x - x.max(axis=1, keepdims=True)
    sums = np.exp(x).sum(axis=1, keepdims=True)
    return np.exp(x) / sums, x[np.arange(len(targets)), targets] - np.log(sums[:, 0])


@pytest.mark.parametrize("twin", TWINS)
def test_twins_have_the_same_signature(twin):
    assert inspect.signature(getattr(kernels, twin)) == inspect.signature(getattr(NumpyOps, twin))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(st.sampled_from(ROWS[1:]), st.sampled_from([*SIZES, 50_000]), seeds)
def test_cross_entropy_is_that_of_long_double(backend, dtype, rows, classes, seed):
    rows = min(rows, 2) if classes > 1000 else rows
    logits, targets, weights = case(seed, rows, classes, dtype)
    probabilities, likelihoods = exact(logits, targets)
    loss, found = OPS[backend].cross_entropy_forward(logits, targets, weights)
    eps = np.finfo(dtype).eps
    units = ULPS + (logits.max(axis=1, keepdims=True) - logits).astype(np.float64)
    of_target = units[np.arange(rows), targets]
    assert found.dtype == dtype
    assert (np.abs(found - probabilities) <= units * eps * probabilities + np.finfo(dtype).tiny).all()
    assert abs(loss + np.average(likelihoods, weights=weights)) <= of_target.max() * eps
    # One row at a time, so that no row's error hides behind another's.
    for r in range(min(rows, 3)):
        one = OPS[backend].cross_entropy_forward(logits[r : r + 1], targets[r : r + 1], np.ones(1))[0]
        assert abs(one + likelihoods[r]) <= of_target[r] * eps


@pytest.mark.parametrize("backend", BACKENDS)
def test_cross_entropy_gradient_and_parts_of_a_batch(backend):
    ops, (logits, targets, weights) = OPS[backend], case(3, 11, 5, np.float64)
    loss, probabilities = ops.cross_entropy_forward(logits, targets, weights)
    dlogits = ops.cross_entropy_backward(probabilities, targets, weights)

    def value(p):
        return ops.cross_entropy_forward(p["x"], targets, weights)[0]

    assert gradient_error(value, {"x": logits}, {"x": dlogits}) < GRADIENT
    total, parts = weights.sum(), []
    for part in (slice(0, 4), slice(4, 11)):
        share, p = ops.cross_entropy_forward(logits[part], targets[part], weights[part], total=total)
        parts.append((share, ops.cross_entropy_backward(p, targets[part], weights[part], total=total)))
    assert abs(parts[0][0] + parts[1][0] - loss) < 1e-15 * 10
    assert same_bits(np.concatenate([d for _, d in parts]), dlogits)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", SIZES)
def test_probabilities_may_overwrite_the_logits(backend, dtype, classes):
    logits, targets, weights = case(classes, 17, classes, dtype)
    loss, apart = OPS[backend].cross_entropy_forward(logits, targets, weights)
    again, inside = OPS[backend].cross_entropy_forward(logits, targets, weights, out=logits)
    assert inside is logits
    assert loss == again
    assert same_bits(inside, apart)


@C_BUILT
@pytest.mark.parametrize("dtype", DTYPES)
@given(st.sampled_from(ROWS[1:]), st.sampled_from(SIZES), seeds, st.integers(2, 3))
def test_c_loss_has_the_same_bits_for_any_threads(dtype, rows, classes, seed, threads):
    logits, targets, weights = case(seed, rows, classes, dtype)
    results = []
    for n in (1, threads):
        kernels.set_num_threads(n)
        loss, p = kernels.cross_entropy_forward(logits, targets, weights)
        results.append((np.array(loss), p.copy(), kernels.cross_entropy_backward(p.copy(), targets, weights)))
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))
    assert same_bits(layers.cross_entropy_backward(results[0][1].copy(), targets, weights), results[0][2])


@C_BUILT
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 7, 8, 9, 16, 17, 18, 33])
@pytest.mark.parametrize("at", ["target", "elsewhere", "last", "everywhere"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e4, -3e4])
def test_extreme_logits_do_what_they_do_in_numpy(dtype, classes, at, value):
    logits, targets, weights = case(1, 5, classes, dtype)
    targets[:], weights[:] = 0, 1
    places = {"target": slice(0, 1), "elsewhere": slice(1, 2), "last": slice(-1, None), "everywhere": slice(None)}
    logits[2, places[at]] = value
    with np.errstate(all="ignore"):
        loss, p = layers.cross_entropy_forward(logits, targets, weights)
        fast_loss, fast_p = kernels.cross_entropy_forward(logits, targets, weights)
    assert np.allclose(fast_loss, loss, rtol=1e-5, equal_nan=True)
    assert np.allclose(fast_p, p, rtol=1e-5, atol=1e-6, equal_nan=True)
    if np.isnan(value) or value == np.inf:
        assert np.isnan(fast_loss)
    if value == -np.inf and at == "target":
        assert fast_loss == np.inf


@C_BUILT
@pytest.mark.parametrize("dtype", DTYPES)
@given(st.sampled_from(ROWS), st.sampled_from(SIZES), st.sampled_from([1, 2, 18]), seeds, st.integers(1, 3))
def test_c_embedding_picks_and_adds_in_the_order_of_the_tokens(dtype, rows, d, vocabulary, seed, threads):
    generator = np.random.default_rng(seed)
    table, dy = generator.standard_normal((vocabulary, d)).astype(dtype), generator.standard_normal((rows, d))
    dy, tokens = dy.astype(dtype), generator.integers(0, vocabulary, rows)
    kernels.set_num_threads(threads)
    assert same_bits(kernels.embedding_forward(tokens, table), layers.embedding_forward(tokens, table))
    found, in_order, product = table.copy(), table.copy(), table.copy()
    kernels.embedding_backward(dy, tokens, found)
    np.add.at(in_order, tokens, dy)
    layers.embedding_backward(dy, tokens, product)
    assert same_bits(found, in_order)
    assert np.allclose(product, in_order, rtol=0, atol=1e3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_calls_are_explained(backend):
    ops, logits, ones = OPS[backend], np.zeros((2, 3)), np.ones(2)
    with pytest.raises(ValueError, match=r"cross_entropy_forward: targets hold 3, expected values in \[0, 3\)"):
        ops.cross_entropy_forward(logits, np.array([0, 3]), ones)
    with pytest.raises(ValueError, match=r"cross_entropy_backward: targets hold -1, expected values in \[0, 3\)"):
        ops.cross_entropy_backward(logits, np.array([0, -1]), ones)
    with pytest.raises(
        ValueError, match=r"weights are float64\(3,\), expected shape \(2,\) for logits float64\(2, 3\)"
    ):
        ops.cross_entropy_forward(logits, np.array([0, 1]), np.ones(3))
    with pytest.raises(ValueError, match=r"logits are int64\(2, 3\), expected float32 or float64 \(N, V\)"):
        ops.cross_entropy_forward(logits.astype(int), np.array([0, 1]), ones)
    with pytest.raises(ValueError, match=r"targets are float64\(2,\), expected integers \(N,\)"):
        ops.cross_entropy_forward(logits, ones, ones)
    for function in (lambda t: ops.embedding_forward(t, logits), lambda t: ops.embedding_backward(logits, t, logits)):
        with pytest.raises(ValueError, match=r"tokens hold 2, expected values in \[0, 2\)"):
            function(np.array([0, 2]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("logits", "targets", "weights", "words"),
    [
        (np.zeros(3), np.array([0]), np.ones(1), r"logits are float64\(3,\), expected float32 or float64 \(N, V\)"),
        (np.zeros((1, 2, 3)), np.array([0]), np.ones(1), r"logits are float64\(1, 2, 3\)"),
        (np.zeros((0, 0)), np.zeros(0, int), np.ones(0), r"logits are float64\(0, 0\), .* V >= 1"),
        (np.zeros((2, 3), np.float16), np.array([0, 1]), np.ones(2), r"logits are float16\(2, 3\)"),
        (np.zeros((2, 3)), np.array([0]), np.ones(2), r"targets are int64\(1,\), expected shape \(2,\)"),
        (np.zeros((2, 3)), np.array([0, 1, 2]), np.ones(2), r"targets are int64\(3,\), expected shape \(2,\)"),
        (np.zeros((2, 3)), np.array([[0, 1]]), np.ones(2), r"targets are int64\(1, 2\), expected shape \(2,\)"),
        (np.zeros((2, 3)), np.array([0, 1]), np.ones(1), r"weights are float64\(1,\), expected shape \(2,\)"),
        (np.zeros((2, 3)), np.array([0, 1]), np.ones((2, 1)), r"weights are float64\(2, 1\), expected shape \(2,\)"),
        (np.zeros((2, 3)), np.array([True, False]), np.ones(2), r"targets are bool\(2,\), expected integers \(N,\)"),
        (np.zeros((2, 3)), np.array([-2, 5]), np.ones(2), r"targets hold -2, expected values in \[0, 3\)"),
    ],
)
def test_every_array_of_a_loss_must_fit(backend, logits, targets, weights, words):
    for name, first in (("cross_entropy_forward", "logits"), ("cross_entropy_backward", "probabilities")):
        with pytest.raises(ValueError, match=f"^{name}: {words.replace('logits', first)}"):
            getattr(OPS[backend], name)(logits, targets, weights)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_class_costs_nothing_and_tokens_are_one_axis(backend):
    ops = OPS[backend]
    loss, probabilities = ops.cross_entropy_forward(np.zeros((3, 1)), np.array([0, 0, 0], np.uint8), np.ones(3))
    assert abs(loss) < np.finfo(float).eps  # the C twin's logarithm
    assert (probabilities == 1).all()
    assert (ops.cross_entropy_backward(probabilities, np.array([0, 0, 0], np.uint8), np.ones(3)) == 0).all()
    for tokens in (np.array([[0]]), np.array([0.0]), np.array([True])):
        with pytest.raises(ValueError, match=r"^embedding_forward: tokens are .*, expected integers"):
            ops.embedding_forward(tokens, np.zeros((2, 3)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_array_of_an_embedding_must_fit(backend):
    ops, table, tokens = OPS[backend], np.zeros((5, 3)), np.array([0, 4])
    for out in (np.zeros((2, 4)), np.zeros((2, 3), np.float32)):
        with pytest.raises(ValueError, match=r"embedding_forward: out is .*, expected float64\(2, 3\)"):
            ops.embedding_forward(tokens, table, out=out)
    for dy in (np.zeros((2, 4)), np.zeros((3, 3)), np.zeros((2, 3), np.float32)):
        with pytest.raises(ValueError, match=r"embedding_backward: dy is .*, expected float64\(2, 3\)"):
            ops.embedding_backward(dy, tokens, table)
