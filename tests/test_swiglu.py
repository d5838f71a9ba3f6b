"""The gated unit: against long double, gradients, column views, and what C makes of extreme inputs."""

import inspect
import re

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
# Units of the last place that csrc/swiglu_body.h states, and |gate| of them more.
ULPS = 8
DTYPES = [np.float32, np.float64]
OPS = {"numpy": NumpyOps, "c": kernels}
C_BUILT = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
EXTREME = [0.0, -0.0, 1e-30, 80.0, -80.0, 88.0, -88.0, 710.0, -710.0, 1e4, -1e4, np.inf, -np.inf, np.nan]
sizes = st.sampled_from([0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100])
row_counts = st.sampled_from([0, 1, 2, 255, 256, 257])
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape, dtype=np.float64, spread=1.0):
    return (spread * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def exact(dy, gate, up):
    """y, dgate, dup in long double, and what the terms of each amount to before any cancels."""
    dy, gate, up = (x.astype(np.longdouble) for x in (dy, gate, up))
    s, other = 1 / (1 + np.exp(-gate)), 1 / (1 + np.exp(gate))
    values = gate * s * up, dy * up * s * (1 + gate * other), dy * gate * s
    return values, (np.abs(values[0]), np.abs(dy * up * s) * (1 + np.abs(gate) * other), np.abs(values[2]))


@pytest.mark.parametrize("twin", ["swiglu_forward", "swiglu_backward"])
def test_twins_have_the_same_signature(twin):
    assert inspect.signature(getattr(kernels, twin)) == inspect.signature(getattr(NumpyOps, twin))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(row_counts, sizes, st.sampled_from([0.01, 1.0, 30.0]), seeds)
def test_swiglu_holds_its_stated_error(backend, dtype, rows, features, spread, seed):
    dy, up = normal(seed, rows, features, dtype=dtype), normal(seed + 1, rows, features, dtype=dtype)
    gate = normal(seed + 2, rows, features, dtype=dtype, spread=spread)
    found = OPS[backend].swiglu_forward(gate, up), *OPS[backend].swiglu_backward(dy, gate, up)
    limits = np.finfo(dtype)
    small = 1e4 * limits.tiny  # where sigmoid is subnormal, times gate and the others
    for value, right, size in zip(found, *exact(dy, gate, up), strict=True):
        assert value.dtype == dtype
        assert (np.abs(value - right) <= (ULPS + np.abs(gate)) * limits.eps * size + small).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_swiglu_gradients(backend):
    ops, (gate, up, dy) = OPS[backend], normal(1, 3, 5, 11)
    dgate, dup = ops.swiglu_backward(dy, gate, up)

    def loss(p):
        return float(np.sum(ops.swiglu_forward(p["gate"], p["up"]) * dy))

    assert gradient_error(loss, {"gate": gate, "up": up}, {"gate": dgate, "up": dup}) < GRADIENT


@C_BUILT
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("features", [1, 7, 8, 17])
def test_extreme_inputs_do_what_they_do_in_numpy(dtype, features):
    grid = np.array(np.meshgrid(EXTREME, [1.0, 0.0, np.inf, np.nan])).reshape(2, -1).astype(dtype)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-grid[0].astype(np.longdouble)))
    flushed = (sigmoid < np.finfo(dtype).tiny) & np.isin(grid[0], [-88.0, -710.0])
    grid = grid[:, ~(flushed & np.isinf(grid[1]))]  # 0 times inf in C, a subnormal times inf in NumPy
    gate, up = (np.repeat(x[:, None], features, axis=1) for x in grid)
    dy = np.ones_like(gate)
    with np.errstate(all="ignore"):
        slow = layers.swiglu_forward(gate, up), *layers.swiglu_backward(dy, gate, up)
    fast = kernels.swiglu_forward(gate, up), *kernels.swiglu_backward(dy, gate, up)
    for a, b in zip(slow, fast, strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-30, equal_nan=True)


@C_BUILT
@pytest.mark.parametrize("dtype", DTYPES)
@given(row_counts, sizes, seeds, st.integers(2, 3))
def test_column_views_places_and_threads_do_not_change_the_bits(dtype, rows, features, seed, threads):
    both, dy = normal(seed, rows, 2 * features, dtype=dtype), normal(seed + 1, rows, features, dtype=dtype)
    gate, up = both[:, :features], both[:, features:]
    before = kernels.get_num_threads()
    try:
        kernels.set_num_threads(1)
        y = kernels.swiglu_forward(gate.copy(), up.copy())
        grads = kernels.swiglu_backward(dy, gate.copy(), up.copy())
        kernels.set_num_threads(threads)
        assert same_bits(kernels.swiglu_forward(gate, up), y)
        assert same_bits(kernels.swiglu_forward(gate, up, out=up.copy()), y)
        returned = kernels.swiglu_backward(dy, gate, up, out=(gate, up))
    finally:
        kernels.set_num_threads(before)
    assert returned[0] is gate
    assert same_bits(np.concatenate(grads, axis=1), both)


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_that_overlap_other_places_do_not_disturb(backend):
    memory, up = normal(1, 6, 9), normal(2, 5, 9)
    expected = layers.swiglu_forward(memory[:5].copy(), up)
    OPS[backend].swiglu_forward(memory[:5], up, out=memory[1:])
    assert np.allclose(memory[1:], expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_written_where_they_are_wanted(backend):
    ops, (gate, up, dy) = OPS[backend], normal(1, 3, 5, 11)
    expected, places = ops.swiglu_backward(dy, gate, up), (np.zeros((5, 11)), np.zeros((5, 11)))
    returned = ops.swiglu_backward(dy, gate, up, out=places)
    for value, place, right in zip(returned, places, expected, strict=True):
        assert value is place
        assert same_bits(value, right)


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_calls_are_explained(backend):
    ops = OPS[backend]
    with pytest.raises(ValueError, match=r"swiglu_forward: up is float64\(2, 4\), expected float64\(2, 3\) like gate"):
        ops.swiglu_forward(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"swiglu_backward: gate is int64\(2, 3\), expected float32 or float64"):
        ops.swiglu_backward(*[np.zeros((2, 3), int)] * 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "other", [np.zeros((2, 3), np.float32), np.zeros((3, 3)), np.zeros((1, 3)), np.zeros((2, 2)), np.zeros((1, 2, 3))]
)
def test_every_array_must_be_like_the_gate(backend, other):
    ops, gate, words = OPS[backend], np.zeros((2, 3)), re.escape(f"{other.dtype}{other.shape}, expected float64(2, 3)")
    calls = {
        "swiglu_forward: up is": lambda: ops.swiglu_forward(gate, other),
        "swiglu_forward: out is": lambda: ops.swiglu_forward(gate, gate, out=other),
        "swiglu_backward: up is": lambda: ops.swiglu_backward(gate, gate, other),
        "swiglu_backward: dy is": lambda: ops.swiglu_backward(other, gate, gate),
        "swiglu_backward: dgate is": lambda: ops.swiglu_backward(gate, gate, gate, out=(other, gate.copy())),
        "swiglu_backward: dup is": lambda: ops.swiglu_backward(gate, gate, gate, out=(gate.copy(), other)),
    }
    for start, call in calls.items():
        with pytest.raises(ValueError, match=f"^{start} {words} like gate"):
            call()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gate", [np.zeros(3), np.zeros((1, 2, 3)), np.zeros((2, 3), np.float16)])
def test_a_gate_is_a_matrix_of_floats(backend, gate):
    with pytest.raises(ValueError, match=r"^swiglu_forward: gate is .* expected float32 or float64 \(N, F\)"):
        OPS[backend].swiglu_forward(gate, gate)
