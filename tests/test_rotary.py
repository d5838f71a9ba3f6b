"""Rotation: norms, relative positions, layouts; against complex products and the explicit matrix; C bit for bit."""

import inspect
import re

import numpy as np
import pytest
from conftest import BACKENDS, same_bits
from hypothesis import given
from hypothesis import strategies as st
from strategies import encodings, int64_positions

from refrope import FoPE, Resonance, RoPE, XPos, YaRN, kernels, rotary, rotation_matrix, tables

ROTATE = {"numpy": rotary.rotate, "c": kernels.rotate}
LAYOUTS = ["half", "interleaved"]
DTYPES = [np.float32, np.float64]
# Two products and a sum in float64, on unit-normal values of up to about 6.
EXACT64 = 1e-14
# cos and sin as float64 differ from a point on the unit circle by their rounding; sums of up to 256 squares.
NORM64 = 1e-13
# An angle of up to 2000 radians carries 4 * 2^-53 of itself; twice, and a dot product of up to 256 terms.
RELATIVE64 = 2000 * 2.0**-51 * 64

layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@given(encodings, layouts, seeds)
def test_norm_is_kept_up_to_the_attention_factor(backend, encoding, layout, seed):
    x = normal(seed, 5, encoding.head_dim)
    y = ROTATE[backend](x, *encoding.cos_sin(np.arange(5) * 37, np.float64), layout=layout)
    expected = encoding.attention_factor * np.linalg.norm(x, axis=1)
    assert np.allclose(np.linalg.norm(y, axis=1), expected, rtol=NORM64, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@given(encodings, layouts, seeds, st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_rotations_add_up(backend, encoding, layout, seed, m, n):
    a = encoding.attention_factor
    rotate = ROTATE[backend]
    x = normal(seed, 1, encoding.head_dim)
    tables = [encoding.cos_sin(np.array([p]), np.float64) for p in (m, n, m + n)]
    twice = rotate(rotate(x, *tables[0], layout=layout), *tables[1], layout=layout)
    once = rotate(x, *tables[2], layout=layout)
    assert np.allclose(twice / a**2, once / a, atol=RELATIVE64)


@pytest.mark.parametrize("backend", BACKENDS)
@given(encodings, layouts, seeds, st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_scores_depend_on_the_distance_alone(backend, encoding, layout, seed, m, n, shift):
    q, k = normal(seed, 2, 1, encoding.head_dim)

    def score(m, n):
        turned = [
            ROTATE[backend](x, *encoding.cos_sin(np.array([p]), np.float64), layout=layout) for x, p in ((q, m), (k, n))
        ]
        return float(np.sum(turned[0] * turned[1]))

    scale = encoding.attention_factor**2 * np.linalg.norm(q) * np.linalg.norm(k)
    assert abs(score(m, n) - score(m + shift, n + shift)) <= RELATIVE64 * scale


@given(encodings, seeds)
def test_layouts_are_a_permutation_of_each_other(encoding, seed):
    x = normal(seed, 5, encoding.head_dim)
    tables = encoding.cos_sin(np.arange(5), np.float64)
    order = np.arange(encoding.head_dim).reshape(2, -1).T.ravel()  # half -> interleaved
    half = rotary.rotate(x, *tables, layout="half")
    interleaved = rotary.rotate(x[:, order], *tables, layout="interleaved")
    assert np.array_equal(half[:, order], interleaved)


@given(encodings, seeds)
def test_interleaved_is_complex_multiplication(encoding, seed):
    x = normal(seed, 5, encoding.head_dim)
    cos, sin = encoding.cos_sin(np.arange(5) * 101, np.float64)
    product = x.view(np.complex128) * (cos + 1j * sin)
    assert np.allclose(rotary.rotate(x, cos, sin, layout="interleaved"), product.view(np.float64), atol=EXACT64 * 4)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("suffix", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("turned", [2, 6, 10])
def test_rotation_is_its_explicit_matrix(turned, layout, suffix, transpose):
    x = normal(7, 3, 5, 10)
    cos, sin = RoPE(10, rotary_dim=turned).cos_sin(np.arange(5) * 13, np.float64)
    matrix = rotation_matrix(cos, sin, head_dim=10, layout=layout, suffix=suffix)
    matrix = matrix.swapaxes(1, 2) if transpose else matrix
    y = rotary.rotate(x, cos, sin, layout=layout, suffix=suffix, transpose=transpose)
    assert np.allclose(y, np.einsum("tij,btj->bti", matrix, x), atol=EXACT64)
    still = slice(0, 10 - turned) if suffix else slice(turned, 10)
    assert np.array_equal(y[..., still], x[..., still])


@given(encodings, layouts, seeds)
def test_transpose_is_the_adjoint(encoding, layout, seed):
    x, dy = normal(seed, 2, 5, encoding.head_dim)
    tables = encoding.cos_sin(np.arange(5) * 11, np.float64)
    forward = np.sum(rotary.rotate(x, *tables, layout=layout) * dy)
    backward = np.sum(x * rotary.rotate(dy, *tables, layout=layout, transpose=True))
    assert abs(forward - backward) <= EXACT64 * np.linalg.norm(x) * np.linalg.norm(dy) * 4


@pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    pairs=st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64]),
    extra=st.sampled_from([0, 2, 6]),
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=4),
    rows=st.sampled_from([0, 1, 2, 5]),
    layout=layouts,
    transpose=st.booleans(),
    suffix=st.booleans(),
    threads=st.integers(1, 3),
    seed=seeds,
)
def test_c_equals_numpy_bit_for_bit(dtype, pairs, extra, shape, rows, layout, transpose, suffix, threads, seed):
    x = normal(seed, *shape, rows, 2 * pairs + extra, dtype=dtype)
    cos, sin = normal(seed + 1, 2, rows, pairs, dtype=dtype)
    if x.size:
        x.flat[seed % x.size] = np.nan
        x.flat[(seed + 1) % x.size] = np.inf
        x.flat[(seed + 2) % x.size] = np.finfo(dtype).tiny / 8  # subnormal
    options = {"layout": layout, "transpose": transpose, "suffix": suffix}
    before = kernels.get_num_threads()
    kernels.set_num_threads(threads)
    try:
        with np.errstate(invalid="ignore"):
            slow, fast = rotary.rotate(x, cos, sin, **options), kernels.rotate(x, cos, sin, **options)
    finally:
        kernels.set_num_threads(before)
    assert same_bits(fast, slow)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_views_are_turned_in_place(backend, layout):
    qkv = normal(3, 2, 7, 3, 5, 8, dtype=np.float32)
    expected = qkv.copy()
    cos, sin = RoPE(8).cos_sin(np.arange(7))
    expected[:, :, 1] = rotary.rotate(qkv[:, :, 1].transpose(0, 2, 1, 3), cos, sin, layout=layout).transpose(0, 2, 1, 3)
    k = qkv[:, :, 1].transpose(0, 2, 1, 3)
    returned = ROTATE[backend](k, cos, sin, layout=layout, out=k)
    assert returned is k
    assert np.array_equal(qkv, expected)  # q and v beside it are untouched


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_are_not_written_to(backend):
    x, (cos, sin) = normal(3, 7, 8), RoPE(8).cos_sin(np.arange(7), np.float64)
    kept = [array.copy() for array in (x, cos, sin)]
    ROTATE[backend](x, cos, sin)
    ROTATE[backend](x[:, ::-1], cos, sin, out=np.empty((8, 7)).T)
    assert all(np.array_equal(a, b) for a, b in zip((x, cos, sin), kept, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_overlapping_output_does_not_disturb(backend):
    memory = normal(5, 9, 8)
    cos, sin = RoPE(8).cos_sin(np.arange(8), np.float64)
    expected = rotary.rotate(memory[:8].copy(), cos, sin)
    ROTATE[backend](memory[:8], cos, sin, out=memory[1:])
    assert np.array_equal(memory[1:], expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("x", "cos", "options", "words"),
    [
        (np.zeros((2, 7)), np.zeros((2, 3)), {}, "an even number of features, not 7"),
        (np.zeros((2, 8), int), np.zeros((2, 4)), {}, "x is int64(2, 8), expected float32 or float64 (..., T, D)"),
        (np.zeros(8), np.zeros((1, 4)), {}, "x is float64(8,)"),
        ([[0.0, 1.0]], np.zeros((1, 1)), {}, "x is [[0.0, 1.0]]"),
        (
            np.zeros((1, 8, 8), np.float32),
            np.zeros((7, 4)),
            {},
            "rotate: cos is float64(7, 4), expected float32(8, r/2) with r <= 8 for x of shape (1, 8, 8)",
        ),
        (np.zeros((3, 8)), np.zeros((3, 5)), {}, "cos is float64(3, 5), expected float64(3, r/2) with r <= 8"),
        (np.zeros((3, 8)), np.zeros((3, 4)), {"layout": "halves"}, "unknown layout 'halves'; did you mean 'half'?"),
        (np.zeros((3, 8)), np.zeros((3, 4)), {"out": np.zeros((3, 4))}, "out is float64(3, 4), expected float64(3, 8)"),
    ],
)
def test_wrong_calls_are_explained(backend, x, cos, options, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ROTATE[backend](x, cos, cos.copy(), **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cos": np.zeros((3, 4), np.float32)}, "rotate: cos is float32(3, 4), expected float64(3, r/2) with r <= 8"),
        ({"cos": np.zeros(3)}, "rotate: cos is float64(3,), expected float64(3, r/2)"),
        ({"cos": np.zeros((1, 3, 4))}, "rotate: cos is float64(1, 3, 4), expected"),
        ({"cos": np.zeros((4, 4))}, "rotate: cos is float64(4, 4), expected"),
        ({"cos": np.zeros((2, 4))}, "rotate: cos is float64(2, 4), expected"),
        ({"cos": [[0.0]]}, "rotate: cos is [[0.0]], expected"),
        ({"sin": np.zeros((3, 4), np.float32)}, "rotate: sin is float32(3, 4), expected float64(3, r/2) with r <= 8"),
        ({"sin": np.zeros((4, 4))}, "rotate: sin is float64(4, 4), expected float64(3, r/2)"),
        ({"sin": np.zeros((3, 5))}, "rotate: sin is float64(3, 5), expected float64(3, r/2) with r <= 8"),
        ({"sin": np.zeros((3, 3))}, "rotate: sin is float64(3, 3), expected float64(3, 4) like cos"),
        ({"cos": np.zeros((3, 3))}, "rotate: sin is float64(3, 4), expected float64(3, 3) like cos"),
        ({"out": np.zeros((3, 8), np.float32)}, "rotate: out is float32(3, 8), expected float64(3, 8) like x"),
        ({"out": np.zeros((1, 3, 8))}, "rotate: out is float64(1, 3, 8), expected float64(3, 8) like x"),
        ({"out": np.zeros((3, 9))}, "rotate: out is float64(3, 9), expected"),
        ({"out": [0.0]}, "rotate: out is [0.0], expected"),
        ({"x": np.zeros((3, 8), np.float16)}, "rotate: x is float16(3, 8), expected float32 or float64"),
    ],
)
def test_every_array_must_fit_x(backend, changed, words):
    call = {"x": np.zeros((3, 8)), "cos": np.zeros((3, 4)), "sin": np.zeros((3, 4)), **changed}
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        ROTATE[backend](call.pop("x"), call.pop("cos"), call.pop("sin"), **call)


def test_the_matrices_of_a_head_are_as_wide_as_its_tables_unless_said():
    cos, sin = RoPE(6).cos_sin(np.arange(5), np.float64)
    matrices = rotation_matrix(cos, sin)
    assert matrices.shape == (5, 6, 6)
    assert same_bits(matrices, rotation_matrix(cos, sin, head_dim=6, layout="half", suffix=False))
    assert not np.array_equal(matrices, rotation_matrix(cos, sin, layout="interleaved"))
    wide = rotation_matrix(cos, sin, head_dim=10)
    assert np.array_equal(wide[:, :6, :6], matrices)
    assert (wide[:, 6:, 6:] == np.eye(4)).all()
    assert (rotation_matrix(cos, sin, head_dim=10, suffix=True)[:, :4, :4] == np.eye(4)).all()


PERIODIC = {"numpy": rotary.rotate_periodic, "c": kernels.rotate_periodic}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    head_dim=st.sampled_from([2, 14, 16, 18, 64, 66]),
    extra=st.sampled_from([0, 6]),
    shape=st.lists(st.integers(0, 3), min_size=0, max_size=3),
    starts=st.lists(int64_positions, min_size=0, max_size=4),
    run=st.sampled_from([1, 2, 70]),
    layout=layouts,
    transpose=st.booleans(),
    suffix=st.booleans(),
    threads=st.integers(1, 3),
    seed=seeds,
)
def test_one_period_turns_as_tables_over_positions_do(
    backend, dtype, head_dim, extra, shape, starts, run, layout, transpose, suffix, threads, seed
):
    encoding = Resonance(YaRN(head_dim, 500.0, 4.0, original_length=64))
    last = 2**63 - 1
    positions = np.array([min(p + i, last) for p in starts for i in range(run)], dtype=np.int64)
    x = normal(seed, *shape, len(positions), head_dim + extra, dtype=dtype)
    options = {"layout": layout, "transpose": transpose, "suffix": suffix}
    expected = rotary.rotate(x, *encoding.cos_sin(positions, dtype), **options)
    before = kernels.get_num_threads()
    kernels.set_num_threads(threads)
    try:
        turned = PERIODIC[backend](x, positions, encoding.period_tables(dtype), **options)
        PERIODIC[backend](x, positions, encoding.period_tables(dtype), out=x, **options)
    finally:
        kernels.set_num_threads(before)
    assert same_bits(turned, expected)
    assert same_bits(x, expected)


def test_periodic_twins_have_the_same_signature():
    assert inspect.signature(kernels.rotate_periodic) == inspect.signature(rotary.rotate_periodic)


def test_period_tables_are_the_entries_of_cos_sin():
    encoding = Resonance(Resonance(YaRN(16, 1000.0, 8.0, original_length=64)))
    found = encoding.period_tables(np.float64)
    cos, sin = encoding.cos_sin(np.arange(encoding.periods.max()), np.float64)
    for j, (start, period) in enumerate(zip(found.starts, encoding.periods, strict=True)):
        assert same_bits(found.cos[start : start + period], cos[:period, j])
        assert same_bits(found.sin[start : start + period], sin[:period, j])
    assert len(found.cos) == encoding.periods.sum()


def test_period_tables_say_when_there_are_none():
    with pytest.raises(ValueError, match="expected at most max_entries = 100"):
        Resonance(RoPE(16)).period_tables(max_entries=100)
    with pytest.raises(ValueError, match="wavelengths are not whole and there are no periods"):
        Resonance(YaRN(16, 1e4, 4.0, 64), "before").period_tables()
    for encoding in (XPos(16), FoPE(16)):
        with pytest.raises(ValueError, match=rf"{encoding.name}'s tables depend on more than the phase"):
            Resonance(encoding).period_tables()
    ones = np.ones(3)
    with pytest.raises(ValueError, match="pair 1 has 3 entries from 1 on, expected at least 1 within 3"):
        tables.PeriodTables(ones, ones, np.array([0, 1]), np.array([3, 3]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_positions_and_dtypes_of_periods_are_checked(backend):
    found = Resonance(RoPE(8, 100.0)).period_tables()
    with pytest.raises(ValueError, match=r"rotate_periodic: positions are int64\(2,\) for x float32\(3, 8\)"):
        PERIODIC[backend](np.zeros((3, 8), np.float32), [1, 2], found)
    with pytest.raises(ValueError, match=r"cos is float32\(3, 4\), expected float64\(3, r/2\)"):
        PERIODIC[backend](np.zeros((3, 8)), [1, 2, 3], found)
    with pytest.raises(ValueError, match="expected int64 values"):
        PERIODIC[backend](np.zeros((1, 8), np.float32), [0.5], found)
    for x, positions in ((np.zeros(8, np.float32), [1]), ([[0.0]], [1]), (np.zeros((3, 8), np.float32), [[1, 2, 3]])):
        with pytest.raises(ValueError, match=r"rotate_periodic: positions are int64.* expected \(T,\) for x"):
            PERIODIC[backend](x, positions, found)
