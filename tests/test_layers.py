"""Every layer's backward pass is the derivative of its forward pass; the C twins agree."""

import numpy as np
import pytest
from conftest import BACKENDS, same_bits
from hypothesis import given
from hypothesis import strategies as st

from refrope import kernels
from refrope.nn import dropout as dropout_module
from refrope.nn import layers, optim
from refrope.nn.backends import operations
from refrope.nn.gradcheck import gradient_error

# Five-point differences in float64: truncation of about step^4 = 1e-12, rounding of about 1e-16 / 1e-3.
GRADIENT = 1e-7
# Sums of up to 513 terms in float32, relative to the terms.
SUM32 = 4e-6
SUM64 = 1e-14
C_BUILT = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
OPS = {"numpy": layers, "c": kernels}

SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 130]
shapes = st.tuples(st.sampled_from([0, 1, 2, 7, 255, 256, 257, 513]), st.sampled_from(SIZES))
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rmsnorm_gradients(backend):
    ops, x, gain, dy = OPS[backend], normal(1, 7, 13), normal(2, 13), normal(3, 7, 13)

    def loss(p):
        return float(np.sum(ops.rmsnorm_forward(p["x"], p["gain"])[0] * dy))

    _, inv_rms = ops.rmsnorm_forward(x, gain)
    dx, dgain = ops.rmsnorm_backward(dy, x, gain, inv_rms)
    assert gradient_error(loss, {"x": x, "gain": gain}, {"x": dx, "gain": dgain}) < GRADIENT


@pytest.mark.parametrize("backend", BACKENDS)
def test_relu_gradient(backend):
    ops, x, dy = OPS[backend], normal(1, 7, 13), normal(3, 7, 13)
    x[np.abs(x) < 0.01] = 1.0  # stay away from the kink
    dx = ops.relu_backward(dy, ops.relu_forward(x))
    assert gradient_error(lambda p: float(np.sum(ops.relu_forward(p["x"]) * dy)), {"x": x}, {"x": dx}) < GRADIENT


def test_linear_gradients():
    x, weight, dy = normal(1, 7, 5), normal(2, 5, 11), normal(3, 7, 11)
    dx, dweight = layers.linear_backward(dy, x, weight)
    error = gradient_error(
        lambda p: float(np.sum(layers.linear_forward(p["x"], p["w"]) * dy)),
        {"x": x, "w": weight},
        {"x": dx, "w": dweight},
    )
    assert error < GRADIENT


def test_cross_entropy_gradient_and_value():
    logits, targets = 3 * normal(1, 7, 5), np.array([0, 4, 2, 2, 1, 3, 0])
    weights = np.array([0.0, 1, 1, 0, 2, 1, 1])
    loss, probabilities = layers.cross_entropy_forward(logits, targets, weights)
    slow = [-np.log(np.exp(row[t]) / np.exp(row).sum()) for row, t in zip(logits, targets, strict=True)]
    assert abs(loss - np.average(slow, weights=weights)) < 1e-14
    dlogits = layers.cross_entropy_backward(probabilities, targets, weights)
    error = gradient_error(
        lambda p: layers.cross_entropy_forward(p["logits"], targets, weights)[0],
        {"logits": logits},
        {"logits": dlogits},
    )
    assert error < GRADIENT
    assert (dlogits[weights == 0] == 0).all()


def test_cross_entropy_stands_large_logits():
    loss, probabilities = layers.cross_entropy_forward(np.array([[1e4, 0.0]], np.float32), np.array([1]), np.ones(1))
    assert loss == 1e4
    assert np.isfinite(probabilities).all()


def test_embedding_gradient():
    table, tokens, dy = normal(1, 5, 3), np.array([4, 0, 4, 1]), normal(2, 4, 3)
    dtable = np.zeros_like(table)
    layers.embedding_backward(dy, tokens, dtable)
    error = gradient_error(
        lambda p: float(np.sum(layers.embedding_forward(tokens, p["table"]) * dy)), {"table": table}, {"table": dtable}
    )
    assert error < GRADIENT


def test_the_gradient_check_rejects_a_wrong_gradient():
    x, dy = normal(1, 7, 13), normal(3, 7, 13)

    def loss(p):
        return float(np.sum(p["x"] ** 3 * dy))

    right = 3 * x**2 * dy
    assert gradient_error(loss, {"x": x}, {"x": right}) < GRADIENT
    assert gradient_error(loss, {"x": x}, {"x": 1.001 * right}) > 100 * GRADIENT
    assert gradient_error(loss, {"x": x}, {"x": np.roll(right, 1)}) > 100 * GRADIENT
    assert gradient_error(loss, {"x": x}, {"x": right * np.nan}) == np.inf


def test_the_gradient_check_looks_along_three_directions_of_each_input_and_repeats_itself():
    calls, x = [], normal(1, 7, 13)

    def loss(p):
        calls.append(p)
        return float(np.sum(p["x"] ** 3) + np.sum(p["y"]))

    arguments = loss, {"x": x, "y": x}, {"x": 3 * x**2, "y": np.ones_like(x)}
    error = gradient_error(*arguments)
    assert len(calls) == 2 * 3 * 4  # inputs, directions, points of a difference
    assert gradient_error(*arguments, directions=3, step=1e-3, seed=0) == error
    assert gradient_error(*arguments, seed=1) != error


def test_the_difference_of_five_points_is_exact_for_cubes():
    error = gradient_error(lambda p: float(p["x"][0] ** 3), {"x": np.ones(1)}, {"x": np.array([3.0])}, step=0.1)
    assert error < 1e-13  # rounding; an error of order step^2 would be some 1e-2


def test_the_gradient_check_lets_no_zero_pass_for_a_small_gradient():
    x = normal(1, 7, 13)
    assert gradient_error(lambda p: 1e-9 * float(np.sum(p["x"])), {"x": x}, {"x": np.zeros_like(x)}) > 1
    assert gradient_error(lambda p: 1.0, {"x": x}, {"x": np.zeros_like(x)}) == 0
    assert gradient_error(lambda p: 1.0, {"x": x}, {}) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_rmsnorm_adds_a_millionth_to_the_mean_square(backend):
    x, gain = np.array([[0.0, 0, 0], [0.001, -0.001, 0.001]]), np.array([1.0, 2, 3])
    y, inv_rms = OPS[backend].rmsnorm_forward(x, gain)
    assert np.allclose(inv_rms, [1000, 1000 / np.sqrt(2)], rtol=SUM64, atol=0)
    assert np.allclose(y, x * inv_rms[:, None] * gain, rtol=SUM64, atol=0)


@C_BUILT
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(shapes, seeds, st.integers(1, 3))
def test_c_rmsnorm_equals_numpy(dtype, shape, seed, threads):
    x, dy, gain = (
        normal(seed, *shape, dtype=dtype),
        normal(seed + 1, *shape, dtype=dtype),
        normal(seed + 2, shape[1], dtype=dtype),
    )
    bound = SUM32 if dtype == np.float32 else SUM64
    results = []
    for ops, n in ((layers, 1), (kernels, 1), (kernels, threads)):
        kernels.set_num_threads(n)
        y, inv_rms = ops.rmsnorm_forward(x, gain)
        results.append((y, inv_rms, *ops.rmsnorm_backward(dy, x, gain, inv_rms)))
    kernels.set_num_threads(2)
    # What the terms of each result amount to before they cancel: dx is a difference.
    dx_terms = inv_rms[:, None] * np.abs(dy * gain).max(axis=1, keepdims=True, initial=0)
    sizes = [np.abs(y), inv_rms, dx_terms, np.abs(dy * x * inv_rms[:, None]).sum(axis=0)]
    for (slow, fast, threaded), size in zip(zip(*results, strict=True), sizes, strict=True):
        assert same_bits(fast, threaded)
        assert fast.dtype == slow.dtype
        assert (np.abs(fast - slow) <= bound * size).all()


@C_BUILT
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(shapes, seeds, st.integers(1, 3))
def test_c_relu_and_dropout_equal_numpy_bit_for_bit(dtype, shape, seed, threads):
    x, dy = normal(seed, *shape, dtype=dtype), normal(seed + 1, *shape, dtype=dtype)
    if x.size:
        x.flat[seed % x.size] = np.nan
        x.flat[(seed + 1) % x.size] = -0.0
    kernels.set_num_threads(threads)
    try:
        assert same_bits(layers.relu_forward(x), kernels.relu_forward(x))
        assert same_bits(layers.relu_backward(dy, x), kernels.relu_backward(dy, x))
        for probability in (0.0, 0.1, 0.999):
            slow = dropout_module.dropout(x, probability, seed)
            assert same_bits(slow, kernels.dropout(x, probability, seed))
        in_place = x.copy()
        assert same_bits(slow, kernels.dropout(in_place, probability, seed, out=in_place))
    finally:
        kernels.set_num_threads(2)


@C_BUILT
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(
    size=st.sampled_from([0, 1, 15, 16, 17, 255, 256, 257, 1000]),
    seed=seeds,
    steps=st.integers(1, 3),
    parts=st.sampled_from([(), (1,), (2,), (3,)]),
)
def test_c_adamw_equals_numpy_bit_for_bit(dtype, size, seed, steps, parts):
    both = []
    for update in (optim.adamw_update, kernels.adamw_update):
        state, weight = optim.AdamW(size, dtype), normal(seed, size, dtype=dtype)
        for step in range(steps):
            update(
                weight, state.moment1, state.moment2, normal(step, *parts, size, dtype=dtype), state.settings(1e-3, 0.9)
            )
        both.append((weight, state.moment1, state.moment2))
    for slow, fast in zip(*both, strict=True):
        assert same_bits(slow, fast)


def test_dropout_keeps_the_mean_and_drops_the_stated_share():
    x = np.ones(1_000_000)
    y = dropout_module.dropout(x, 0.1, seed=2**63 + 5)
    dropped = (y == 0).mean()
    assert abs(dropped - 0.1) < 5 * np.sqrt(0.09 / x.size)
    assert np.allclose(y[y != 0], 1 / 0.9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [0, 1, 7, 33, 255, 257])
def test_adamw_adds_the_gradients_of_parts_in_order(backend, size):
    update = kernels.adamw_update if backend == "c" else optim.adamw_update
    grads, results = normal(3, 3, size, dtype=np.float32), []
    for grad in (grads, (grads[0] + grads[1]) + grads[2]):
        state, weight = optim.AdamW(size), normal(4, size, dtype=np.float32)
        update(weight, state.moment1, state.moment2, grad, state.settings(1e-3, 0.9))
        results.append(weight)
    assert same_bits(*results)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("start", [0, 1, 16, 999, 1000])
def test_dropout_of_a_part_is_a_part_of_dropout(backend, start):
    drop = kernels.dropout if backend == "c" else dropout_module.dropout
    x = normal(1, 1000, dtype=np.float32)
    whole = drop(x, 0.3, 7)
    assert same_bits(drop(x[start:], 0.3, 7, first=start), whole[start:])
    last = drop(np.ones(5), 0.5, 7, first=2**32 - 5)  # up to the last counter
    assert same_bits(last, dropout_module.dropout(np.ones(5), 0.5, 7, first=2**32 - 5))


def test_the_seed_of_a_site_is_a_number_of_splitmix64():
    # The first numbers that SplitMix64 gives for the seeds 1234567 and 0, as printed in many places.
    assert dropout_module.site_seed(1234567) == 6457827717110365317
    assert dropout_module.site_seed(0) == 0xE220A8397B1DCDAF
    # Its second number for a seed is the first for that seed plus the golden gamma.
    assert dropout_module.site_seed(1234567 + 0x9E3779B97F4A7C15) == 3203168211198807973
    assert dropout_module.site_seed(1234567, 8) == dropout_module.site_seed(6457827717110365317 + 8)
    assert dropout_module.site_seed() == 0


def test_dropout_masks_of_different_seeds_are_unrelated():
    x = np.ones(100_000)
    masks = [
        dropout_module.dropout(x, 0.5, seed=s) != 0 for s in (0, 1, 2**32, 2**32 + 1, dropout_module.site_seed(1, 2))
    ]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs((a == b).mean() - 0.5) < 5 * 0.5 / np.sqrt(x.size)
        shifted = (a[1:] == a[:-1]).mean()
        assert abs(shifted - 0.5) < 5 * 0.5 / np.sqrt(x.size)


def test_dropout_is_its_own_backward():
    x, dy = normal(1, 50, 3), normal(2, 50, 3)
    dx = dropout_module.dropout(dy, 0.3, 9)
    assert abs(np.sum(dropout_module.dropout(x, 0.3, 9) * dy) - np.sum(x * dx)) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_and_probabilities_are_checked(backend):
    ops = OPS[backend]
    drop = kernels.dropout if backend == "c" else dropout_module.dropout
    with pytest.raises(ValueError, match=r"rmsnorm_forward: gain is float64\(4,\), expected float64\(5,\)"):
        ops.rmsnorm_forward(np.zeros((3, 5)), np.zeros(4))
    with pytest.raises(ValueError, match=r"rmsnorm_forward: x is int64\(3, 5\)"):
        ops.rmsnorm_forward(np.zeros((3, 5), int), np.zeros(5))
    for x in (np.zeros(5), np.zeros((1, 3, 5)), np.zeros((3, 5), np.float16)):
        with pytest.raises(ValueError, match=r"rmsnorm_forward: x is .*, expected float32 or float64 \(N, d\)"):
            ops.rmsnorm_forward(x, np.zeros(5, x.dtype))
    for gain in (np.zeros(6), np.zeros((1, 5)), np.zeros(5, np.float32)):
        with pytest.raises(
            ValueError, match=r"rmsnorm_forward: gain is .*, expected float64\(5,\) for x float64\(3, 5\)"
        ):
            ops.rmsnorm_forward(np.zeros((3, 5)), gain)
    with pytest.raises(ValueError, match=r"rmsnorm_forward: gain is float64\(5,\), expected float32\(5,\)"):
        ops.rmsnorm_forward(np.zeros((3, 5), np.float32), np.zeros(5))
    for probability in (1.0, 1 - 2**-34, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"expected a number in \[0, 1\)"):
            drop(np.zeros(3), probability, 1)
    with pytest.raises(ValueError, match=r"x has 4294967296 elements from place 1 on, expected to end within 2\^32"):
        drop(np.broadcast_to(np.float32(1), (2**16, 2**16)), 0.1, 1, first=1)
    for first in (-1, 2**32, 1.0):
        with pytest.raises(ValueError, match=r"dropout: (first is|x has 1 elements from place 4294967296)"):
            drop(np.zeros(1), 0.1, 1, first=first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_arrays_of_another_type_are_refused(backend):
    ops = operations(backend)
    with pytest.raises(ValueError, match=r"relu_forward: out is float64\(3, 5\), expected float32\(3, 5\) like x"):
        ops.relu_forward(np.zeros((3, 5), np.float32), out=np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"relu_forward: x is int64\(3, 5\), expected float32 or float64"):
        ops.relu_forward(np.zeros((3, 5), int))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_that_fit_no_weights_are_refused(backend):
    ones, settings = np.ones(5), optim.AdamW(5).settings(1e-3, 0.9)
    for grad in (np.ones(4), np.ones((0, 5)), np.ones((2, 4)), np.ones(5, np.float32), np.ones((5, 2))):
        with pytest.raises(ValueError, match="adamw_update: grad is "):
            operations(backend).adamw_update(ones.copy(), ones.copy(), ones.copy(), grad, settings)
