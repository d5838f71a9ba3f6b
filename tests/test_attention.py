"""Attention: the NumPy twin is the plain formula and its derivative; the C twin computes the same in tiles."""

import math
import re

import numpy as np
import pytest
from conftest import BACKENDS, slow
from hypothesis import given
from hypothesis import strategies as st

from refrope.kernels import attention as c_attention
from refrope.kernels import threads
from refrope.nn import attention as numpy_attention
from refrope.nn.dropout import drop_threshold, keep_scale, random_bits

TWINS = {"numpy": numpy_attention, "c": c_attention}
C_BUILT = pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
BATCH, HEADS = 2, 3  # primes, and T_q, T_k, D below differ from both and from each other

# float64: some hundred roundings of 1e-16 on numbers up to 10, measured 1e-14.
FLOAT64 = 1e-13
# float32 against float64, unit normal inputs. Measured over all sizes and instruction sets: 1.6e-6 for `out` and lse
# (scores up to 6 are known to 5e-7), 7e-6 for gradients (the first key gets a large share of up to 300 rows).
OUT32 = 2e-6
GRAD32 = 1.5e-5
# Two-sided differences with step 1e-4, extrapolated once: truncation 1e-14, rounding 1e-15 / 1e-4 on sums of 1 to 100.
DIFFERENCES = 1e-7

EDGES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129]
HEAD_DIMS = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 80, 128]
both = pytest.mark.parametrize("backend", BACKENDS)


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def inputs(n_q, n_k, d, dtype=np.float64, seed=0, batch=BATCH, heads=HEADS):
    """q, k, v and the gradient of out, all different."""
    lengths = [n_q, n_k, n_k, n_q]
    return [normal(batch, heads, n, d, dtype=dtype, seed=4 * seed + i) for i, n in enumerate(lengths)]


def both_passes(module, q, k, v, dout, **options):
    out, lse = module.attention_forward(q, k, v, **options)
    return out, lse, *module.attention_backward(dout, q, k, v, out, lse, **options)


def largest_error(results, expected):
    """The largest distances of (out, lse) and of (dq, dk, dv)."""
    errors = [np.abs(a - b).max(initial=0) for a, b in zip(results, expected, strict=True)]
    assert not np.isnan(errors).any()
    return max(errors[:2]), max(errors[2:])


def one_by_one(q, k, v, causal, scale, dropout, seed):
    """Attention by loops over single numbers, keys in any order, from the definition."""
    threshold = drop_threshold(dropout)
    (batch, heads, n_q, d), n_k = q.shape, k.shape[2]
    out, lse = np.zeros(q.shape), np.zeros(q.shape[:3])
    for b, h, i in np.ndindex(batch, heads, n_q):
        seen = [j for j in range(n_k) if not causal or n_q - 1 - i <= n_k - 1 - j]
        scores = {j: scale * math.fsum(q[b, h, i, f] * k[b, h, j, f] for f in range(d)) for j in seen}
        total = math.fsum(math.exp(s) for s in scores.values())
        lse[b, h, i] = math.log(total)
        for j in seen:
            bits = random_bits(seed, b * heads + h, np.array([i * n_k + j], np.uint32))[0]
            weight = 0.0 if bits < threshold else math.exp(scores[j]) / total / (1 - threshold / 2**32)
            for f in range(d):
                out[b, h, i, f] += weight * v[b, h, j, f]
    return out, lse


@both
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("n_q", "n_k", "d"), [(1, 1, 1), (1, 7, 5), (5, 7, 11), (11, 11, 7), (13, 17, 1)])
def test_forward_is_the_definition_taken_one_number_at_a_time(backend, n_q, n_k, d, causal, dropout):
    q, k, v, _ = inputs(n_q, n_k, d)
    options = {"causal": causal, "scale": 0.7, "dropout": dropout, "seed": 2**63 + 5}
    expected = one_by_one(q, k, v, **options)
    results = TWINS[backend].attention_forward(q, k, v, **options)
    assert max(np.abs(a - b).max() for a, b in zip(results, expected, strict=True)) <= FLOAT64


@both
def test_more_queries_than_keys_are_fine_where_all_see_all(backend):
    q, k, v, _ = inputs(13, 5, 7)
    expected = one_by_one(q, k, v, False, 7**-0.5, 0.0, 0)
    results = TWINS[backend].attention_forward(q, k, v, causal=False)
    assert max(np.abs(a - b).max() for a, b in zip(results, expected, strict=True)) <= FLOAT64


@both
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("n_q", "n_k", "d", "causal"), [(5, 7, 11, True), (17, 17, 5, True), (7, 71, 13, False), (67, 131, 19, True)]
)
def test_backward_is_the_derivative_along_random_directions(backend, n_q, n_k, d, causal, dropout):
    q, k, v, dout = inputs(n_q, n_k, d)
    options = {"causal": causal, "scale": 0.31, "dropout": dropout, "seed": 77}
    grads = both_passes(TWINS[backend], q, k, v, dout, **options)[2:]

    def loss(step, directions):
        moved = [x + step * u for x, u in zip((q, k, v), directions, strict=True)]
        return np.vdot(TWINS[backend].attention_forward(*moved, **options)[0], dout)

    def slope(step, directions):
        return (loss(step, directions) - loss(-step, directions)) / (2 * step)

    for mask in [*np.eye(3).tolist(), [1, 1, 1]]:  # one input at a time, then all
        # A random direction that leans to the gradient, so that the slope is not a small difference of large numbers.
        directions = [on * (normal(*dx.shape, seed=9) + np.sign(dx)) for on, dx in zip(mask, grads, strict=True)]
        expected = sum(np.vdot(u, dx) for u, dx in zip(directions, grads, strict=True))
        measured = (4 * slope(5e-5, directions) - slope(1e-4, directions)) / 3
        assert abs(measured - expected) <= DIFFERENCES * abs(expected)


@C_BUILT
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("extra", [0, 1, 40])
@pytest.mark.parametrize(
    ("n_q", "d"),
    [
        *((n, d) for n in EDGES for d in (7, 64)),
        *((37, d) for d in HEAD_DIMS),
        (513, 5),
        pytest.param(577, 64, marks=slow),
    ],
)
def test_c_equals_the_float64_numpy_twin_at_every_boundary(n_q, d, extra, dtype):
    arrays = inputs(n_q, n_q + extra, d, dtype)
    expected = both_passes(numpy_attention, *(x.astype(np.float64) for x in arrays))
    results = both_passes(c_attention, *arrays)
    assert {x.dtype for x in results} == {np.dtype(dtype)}
    bounds = (OUT32, GRAD32) if dtype == np.float32 else (FLOAT64, FLOAT64)
    assert np.less_equal(largest_error(results, expected), bounds).all()


@C_BUILT
@given(
    st.integers(1, 140), st.integers(0, 80), st.integers(1, 90), st.booleans(),
    st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 2**64 - 1), st.sampled_from([None, 0.0, -0.3, 0.4]),
)  # fmt: skip
def test_twins_are_equal(n_q, extra, d, causal, dropout, seed, scale):
    arrays = inputs(n_q, n_q + extra, d, seed=seed % 1000, batch=1, heads=2)
    options = {"causal": causal, "dropout": dropout, "seed": seed, "scale": scale}
    expected = both_passes(numpy_attention, *arrays, **options)
    results = both_passes(c_attention, *arrays, **options)
    # Scores of scale 0.4 reach 0.4 * 90 instead of 6, gradients grow with them.
    assert np.less_equal(largest_error(results, expected), (3 * FLOAT64, 10 * FLOAT64)).all()


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n_q", "n_k", "changed"), [(67, 67, 0), (67, 67, 41), (67, 131, 96), (131, 131, 64), (17, 19, 18)]
)
def test_no_output_row_depends_on_a_later_token(backend, n_q, n_k, changed, dtype):
    """Bit for bit. `changed` is a key's number; query i stands at key i + n_k - n_q."""
    q, k, v, dout = inputs(n_q, n_k, 5, dtype)
    row = max(0, changed - (n_k - n_q))
    before = both_passes(TWINS[backend], q, k, v, dout)
    k[:, :, changed], v[:, :, changed], q[:, :, row] = 1e4, -3e5, 7
    after = both_passes(TWINS[backend], q, k, v, dout)
    for old, new in zip(before[:3], after[:3], strict=True):  # out, lse, dq
        assert old[:, :, :row].tobytes() == new[:, :, :row].tobytes()
        assert old[:, :, row:].tobytes() != new[:, :, row:].tobytes()


@both
def test_no_gradient_of_a_key_depends_on_an_earlier_query(backend):
    q, k, v, dout = inputs(67, 71, 5)
    out, lse = TWINS[backend].attention_forward(q, k, v)
    before = TWINS[backend].attention_backward(dout, q, k, v, out, lse)
    dout[:, :, :40] *= -3
    after = TWINS[backend].attention_backward(dout, q, k, v, out, lse)
    for old, new in zip(before[1:], after[1:], strict=True):
        assert old[:, :, 44:].tobytes() == new[:, :, 44:].tobytes()
        assert old[:, :, :44].tobytes() != new[:, :, :44].tobytes()


@both
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_views_into_one_buffer_are_read_and_written_in_place(backend, dropout):
    """The trainer's layout: q, k, v and their gradients are views (B, H, T, D) of arrays (B, T, 3, H, D)."""
    module, n, d = TWINS[backend], 67, 13
    qkv, dqkv = normal(BATCH, n, 3, HEADS, d + 2), np.full((BATCH, n, 3, HEADS, d + 2), 99.0)
    out, dout = np.full((BATCH, n, HEADS, d + 2), 99.0), normal(BATCH, n, HEADS, d + 2, seed=1)
    q, k, v = (qkv[:, :, i, :, 1:-1].transpose(0, 2, 1, 3) for i in range(3))
    grads = tuple(dqkv[:, :, i, :, 1:-1].transpose(0, 2, 1, 3) for i in range(3))
    out_view, dout_view = (x[..., 1:-1].transpose(0, 2, 1, 3) for x in (out, dout))
    options = {"dropout": dropout, "seed": 3}
    dense = [np.ascontiguousarray(x) for x in (q, k, v, dout_view)]
    expected = both_passes(module, *dense, **options)

    returned, lse = module.attention_forward(q, k, v, out=out_view, **options)
    assert returned is out_view
    returned = module.attention_backward(dout_view, q, k, v, out_view, lse, grads=grads, **options)
    assert all(a is b for a, b in zip(returned, grads, strict=True))
    results = (out_view, lse, *grads)
    if backend == "c":
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results, expected, strict=True))
    assert np.less_equal(largest_error(results, expected), FLOAT64).all()  # BLAS may add in another order
    for around in (out, dqkv):  # the features beside the views
        assert (around[..., [0, -1]] == 99).all()


@both
def test_any_strides_will_do(backend):
    """Features apart, rows backwards, one key for all: same results as dense copies."""
    module, n, d = TWINS[backend], 19, 11
    q = normal(BATCH, HEADS, n, 2 * d)[..., ::2]
    k = normal(BATCH, HEADS, n, d, seed=1)[:, :, ::-1]
    v = np.broadcast_to(normal(BATCH, 1, 1, d, seed=2), (BATCH, HEADS, n, d))
    dout = np.asfortranarray(normal(BATCH, HEADS, n, d, seed=3))
    expected = both_passes(module, *(x.copy() for x in (q, k, v, dout)))
    grads = tuple(np.empty((d, n, HEADS, BATCH)).transpose(3, 2, 1, 0) for _ in range(3))
    out, lse = module.attention_forward(q, k, v, out=np.empty((d, n, HEADS, BATCH)).transpose(3, 2, 1, 0))
    module.attention_backward(dout, q, k, v, out, lse, grads=grads)
    assert np.less_equal(largest_error((out, lse, *grads), expected), FLOAT64).all()


@both
def test_results_have_the_layout_of_their_inputs_and_inputs_stay_as_they_are(backend):
    qkv = normal(BATCH, 19, 3, HEADS, 7)
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    dout = normal(*q.shape, seed=1)
    for x in (q, k, v, dout):
        x.flags.writeable = False
    before = qkv.copy()
    out, lse, *grads = both_passes(TWINS[backend], q, k, v, dout)
    for x in (out, *grads):
        assert x.transpose(0, 2, 1, 3).flags.c_contiguous
    assert lse.shape == q.shape[:3]
    assert (qkv == before).all()


@both
@pytest.mark.parametrize(("batch", "n_q", "n_k"), [(0, 5, 5), (2, 0, 7), (2, 0, 0)])
def test_nothing_to_attend_gives_empty_results_and_no_gradient(backend, batch, n_q, n_k):
    q, k, v, dout = inputs(n_q, n_k, 5, batch=batch)
    out, lse, dq, dk, dv = both_passes(TWINS[backend], q, k, v, dout)
    assert (out.shape, lse.shape, dq.shape) == (q.shape, q.shape[:3], q.shape)
    assert dk.shape == dv.shape == k.shape
    assert not dk.any()
    assert not dv.any()


@both
def test_no_heads_give_empty_results(backend):
    q, k, v, dout = inputs(5, 7, 11, heads=0)
    results = both_passes(TWINS[backend], q, k, v, dout)
    assert [x.shape for x in results] == [q.shape, q.shape[:3], q.shape, k.shape, k.shape]


@both
@pytest.mark.parametrize("n", [17, 65, 131])
def test_dropped_weights_are_those_of_the_seed_and_the_others_grow(backend, n):
    """With the identity as values `out` is the matrix of weights."""
    q, k, _, dout = inputs(n, n, n)
    v = np.broadcast_to(np.eye(n), k.shape)
    options = {"dropout": 0.3, "seed": 2**40 + 1}
    plain, lse = TWINS[backend].attention_forward(q, k, v)
    dropped, lse_dropped = TWINS[backend].attention_forward(q, k, v, **options)
    bits = np.array([random_bits(options["seed"], s, np.arange(n * n, dtype=np.uint32)) for s in range(BATCH * HEADS)])
    kept = bits.reshape(plain.shape) >= drop_threshold(0.3)
    assert 0.6 < kept.mean() < 0.8
    assert ((dropped == 0) == (~kept | (plain == 0))).all()
    assert np.abs(dropped - plain * kept * keep_scale(drop_threshold(0.3))).max() < FLOAT64
    assert (lse == lse_dropped).all()
    dv = TWINS[backend].attention_backward(dout, q, k, v, dropped, lse, **options)[2]
    assert np.abs(dv - dropped.swapaxes(2, 3) @ dout).max() < FLOAT64


@both
def test_slices_and_seeds_have_masks_of_their_own(backend):
    q = np.zeros((BATCH, HEADS, 19, 19))
    v = np.broadcast_to(np.eye(19), q.shape)
    masks = {
        (TWINS[backend].attention_forward(q, q, v, dropout=0.5, seed=seed)[0][b, h] > 0).tobytes()
        for seed in (0, 1, 2**32, 2**64 - 1)
        for b, h in np.ndindex(BATCH, HEADS)
    }
    assert len(masks) == 4 * BATCH * HEADS


@both
def test_no_dropout_is_the_same_as_dropout_nought_whatever_the_seed(backend):
    arrays = inputs(19, 23, 7)
    plain = both_passes(TWINS[backend], *arrays)
    nought = both_passes(TWINS[backend], *arrays, dropout=0.0, seed=5)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(plain, nought, strict=True))


@C_BUILT
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_number_of_threads_changes_no_bit(monkeypatch, dropout, dtype):
    arrays = inputs(67, 71, 13, dtype)
    runs = []
    for n in (1, 2, 3, 7):
        monkeypatch.setattr(threads, "_num_threads", n)
        runs.append([x.tobytes() for x in both_passes(c_attention, *arrays, dropout=dropout, seed=5)])
    assert all(run == runs[0] for run in runs)


@both
@pytest.mark.parametrize("shift", [-300.0, 1e3])
def test_a_constant_added_to_all_scores_moves_lse_alone(backend, shift):
    q, k, v, _ = inputs(67, 71, 5)
    q[..., 0] = shift
    out, lse = TWINS[backend].attention_forward(q, k, v, scale=1.0)
    k[..., 0] += 1.0
    moved, lse_moved = TWINS[backend].attention_forward(q, k, v, scale=1.0)
    slack = FLOAT64 * abs(shift)  # the scores are rounded at their size
    assert np.abs(moved - out).max() < slack
    assert np.abs(lse_moved - lse - shift).max() < slack


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_scores_pick_one_key_and_do_not_overflow(backend, dtype):
    n = 131
    q, k, v, dout = inputs(n, n, 5, dtype)
    q[...], k[...] = 0, 0
    q[..., 0], k[..., 0] = 1e15, np.arange(1, n + 1)
    results = both_passes(TWINS[backend], q, k, v, dout, scale=1e15)
    assert all(np.isfinite(x).all() for x in results)
    assert (results[0] == v).all()  # the last key that each query sees has the largest score
    results = both_passes(TWINS[backend], q, k, v, dout, scale=-1e15)
    assert (results[0] == v[:, :, :1]).all()


@both
def test_scale_nought_takes_the_mean_of_the_values_seen(backend):
    q, k, v, _ = inputs(67, 67, 5)
    out, lse = TWINS[backend].attention_forward(q, k, v, scale=0.0)
    count = np.arange(1, 68)
    assert np.abs(out - np.cumsum(v, axis=2) / count[:, None]).max() < FLOAT64
    assert np.abs(lse - np.log(count)).max() < FLOAT64


@both
def test_the_default_scale_is_one_over_the_root_of_head_dim(backend):
    arrays = inputs(19, 23, 7)
    default = both_passes(TWINS[backend], *arrays)
    explicit = both_passes(TWINS[backend], *arrays, scale=1 / math.sqrt(7))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(default, explicit, strict=True))


@both
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("t", [0, 9, 64, 66])
def test_a_nan_reaches_every_row_that_sees_it(backend, t, bad, dtype):
    for which in range(3):
        arrays = inputs(67, 67, 5, dtype)
        arrays[which][:, :, t, 3] = bad if which == 2 else np.nan
        out, lse, dq, dk, dv = both_passes(TWINS[backend], *arrays)
        rows = slice(t, t + 1) if which == 0 else slice(t, None)
        assert not np.isfinite(out[:, :, rows, 3]).any()
        if which < 2:  # the scores; a NaN among the values does not change them
            assert np.isnan(out[:, :, rows]).all()
            assert np.isnan(lse[:, :, rows]).all()
            assert np.isfinite(out[:, :, :t]).all()
            assert np.isfinite(lse[:, :, :t]).all()
        assert np.isnan(dq[:, :, rows]).all()
        assert np.isnan(dk[:, :, : t + 1] if which == 0 else dk[:, :, t]).all()
        if which < 2:
            assert np.isnan(dv[:, :, : t + 1] if which == 0 else dv[:, :, t]).all()


@both
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_nan_gradient_reaches_the_query_and_the_keys_it_saw(backend):
    q, k, v, dout = inputs(67, 67, 5)
    dout[:, :, 20, 3] = np.nan
    _, _, dq, dk, dv = both_passes(TWINS[backend], q, k, v, dout)
    assert np.isnan(dq[:, :, 20]).all()
    assert np.isnan(dk[:, :, :21]).all()
    assert np.isnan(dv[:, :, :21, 3]).all()
    assert np.isfinite(dv[..., :3]).all()


def misfits():
    q, k, v, _ = inputs(5, 5, 7, np.float32)
    out, lse = q.copy(), q[..., 0].copy()
    fit, any_q = "to fit", "expected float32 or float64 (B, H, T_q, D) with D >= 1"
    bias, any_bias = q[0, 0, :, :5], "expected float32 that broadcasts to (2, 3, 5, 5)"
    bad_bias, odd = bias[:4], np.ndarray((5, 5), np.float32, bytearray(64), strides=(5, 5))
    pairs = np.zeros((2, 3, 5, 5), np.float32)
    shared = np.lib.stride_tricks.as_strided(pairs, pairs.shape, (300, 0, 20, 4))
    any_k = "expected float32(2, H_kv, T_k, 7) with 3 a multiple of H_kv"
    forward = [
        ((q, k, v[..., :6].astype("f8")), {}, f"v is float64(2, 3, 5, 6), expected float32(2, 3, 5, 7) {fit} k"),
        ((q[0], k, v), {}, f"q is float32(3, 5, 7), {any_q}"),
        ((q.astype("f2"), k, v), {}, f"q is float16(2, 3, 5, 7), {any_q}"),
        ((q[..., :0], k, v), {}, f"q is float32(2, 3, 5, 0), {any_q}"),
        (([1.0], k, v), {}, f"q is [1.0], {any_q}"),
        ((q, k[:, :2], v), {}, f"k is float32(2, 2, 5, 7), {any_k} {fit} q"),
        ((q, k[:, :, :4], v), {}, "k is float32(2, 3, 4, 7), expected T_k >= 5 (causal: as many keys as queries)"),
        ((q, k[:, :, :0], v), {"causal": False}, "k is float32(2, 3, 0, 7), expected T_k >= 1"),
        ((q, k, v), {"out": out[..., :6]}, f"out is float32(2, 3, 5, 6), expected float32(2, 3, 5, 7) {fit} q"),
        ((q, k, v), {"dropout": 1.0}, "dropout is 1.0, expected a number in [0, 1)"),
        ((q, k, v), {"dropout": -0.1}, "dropout is -0.1, expected a number in [0, 1)"),
        ((q, k, v), {"dropout": math.nan}, "dropout is nan, expected a number in [0, 1)"),
        ((q, k, v), {"bias": bad_bias}, f"bias is float32(4, 5), {any_bias}"),
        ((q, k, v), {"bias": bias.astype("f8")}, f"bias is float64(5, 5), {any_bias}"),
        ((q, k, v), {"bias": 1.0}, f"bias is 1.0, {any_bias}"),
        ((q, k, v), {"bias": odd}, "bias has the strides (0, 0, 5, 5), expected whole, aligned elements"),
        ((q, k, v), {"first_slice": -1}, "first_slice is -1, expected an integer in [0, 4294967290]"),
        ((q, k, v), {"first_slice": 2**32 - 5}, "first_slice is 4294967291, expected an integer in [0, 4294967290]"),
        ((q, k[:, :0], v), {}, f"k is float32(2, 0, 5, 7), {any_k} {fit} q"),
        ((q, k, v), {"seed": -1}, "seed is -1, expected an integer in [0, 18446744073709551615]"),
        ((q, k, v), {"scale": math.inf}, "scale is inf, expected a finite number"),
    ]
    good = (q, q, k, v, out, lse)
    backward = [
        ((q[:, :, :4], *good[1:]), {}, f"dout is float32(2, 3, 4, 7), expected float32(2, 3, 5, 7) {fit} q"),
        ((*good[:4], out.astype("f8"), lse), {}, f"out is float64(2, 3, 5, 7), expected float32(2, 3, 5, 7) {fit} q"),
        ((*good[:5], lse[..., :4]), {}, f"lse is float32(2, 3, 4), expected float32(2, 3, 5) {fit} q"),
        (good, {"grads": (q, k[:, :, 1:], v)}, f"dk is float32(2, 3, 4, 7), expected float32(2, 3, 5, 7) {fit} k"),
        (good, {"dbias": bias}, f"dbias is float32(5, 5), expected float32(2, 3, 5, 5) {fit} q and k"),
        (good, {"dbias": shared}, "dbias has the strides (300, 0, 20, 4), expected slices that share no memory"),
        (good, {"grads": (q, k)}, "grads is a tuple of 2, expected (dq, dk, dv)"),
    ]
    return [("attention_forward", *case) for case in forward] + [("attention_backward", *case) for case in backward]


@both
@pytest.mark.parametrize(("function", "arguments", "options", "message"), misfits())
def test_a_wrong_call_says_what_came_and_what_was_wanted(backend, function, arguments, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{function}: {message}')}$"):
        getattr(TWINS[backend], function)(*arguments, **options)


@both
def test_dropout_counts_to_two_to_the_32_and_no_further(backend):
    q, k = np.empty((1, 1, 2**16, 1), np.float32), np.empty((1, 1, 2**16, 1), np.float32)
    with pytest.raises(ValueError, match=r"^attention_forward: T_q T_k is 4294967296, expected less than 2\^32"):
        TWINS[backend].attention_forward(q, k, k, dropout=0.1)


BIASED_SIZES = [(1, 1), (1, 65), (2, 2), (4, 67), (5, 5), (6, 7), (7, 64), (15, 15), (16, 17), (17, 40), (63, 63),
                (64, 64), (65, 65), (64, 127), (127, 128), (129, 129), (128, 513),
                pytest.param(513, 513, marks=slow)]  # fmt: skip


def biases(n_q, n_k):
    """The same kind of number through many strides; masked pairs hold NaN where they are in memory of their own."""
    masked = ~np.tri(n_q, n_k, n_k - n_q, dtype=bool)
    dense = normal(BATCH, HEADS, n_q, n_k, seed=5)
    dense[..., masked] = np.nan
    table = normal(HEADS, n_k, seed=6)
    yield dense
    yield np.ascontiguousarray(dense.swapaxes(2, 3)).swapaxes(2, 3)  # adjacent along the queries
    yield np.ascontiguousarray(dense[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]  # negative strides
    yield dense[0, 0]
    yield normal(BATCH, 1, 1, n_k, seed=7)
    yield normal(HEADS, n_q, 1, seed=8)
    yield poisoned_distance_bias(table, n_q, n_k)


def poisoned_distance_bias(table, n_q, n_k):
    """`distance_bias` with NaN where only masked pairs point."""
    view = numpy_attention.distance_bias(table, n_q, n_k)
    view[..., ~np.tri(n_q, n_k, n_k - n_q, dtype=bool)] = np.nan
    return view


def by_hand(q, k, v, dout, bias):
    """The same from unshared copies: keys repeated for each head, the bias written out, its gradient dense."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    n_q, n_k = q.shape[2], k.shape[2]
    seen = np.tri(n_q, n_k, n_k - n_q, dtype=bool)
    scores = np.where(seen, q @ k.swapaxes(2, 3) / math.sqrt(q.shape[3]) + np.where(seen, bias, 0), -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    lse = np.log(weights.sum(axis=-1)) + scores.max(axis=-1)
    weights /= weights.sum(axis=-1, keepdims=True)
    dweights = dout @ v.swapaxes(2, 3)
    dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))
    dq = dscores @ k / math.sqrt(q.shape[3])
    per_group = (q.shape[0], -1, group, *k.shape[2:])
    dk = (dscores.swapaxes(2, 3) @ q / math.sqrt(q.shape[3])).reshape(per_group).sum(axis=2)
    dv = (weights.swapaxes(2, 3) @ dout).reshape(per_group).sum(axis=2)
    return weights @ v, lse, dq, dk, dv, dscores


@both
@pytest.mark.parametrize(("n_q", "n_k"), BIASED_SIZES)
def test_a_bias_is_added_to_the_scores_through_any_strides(backend, n_q, n_k):
    q, k, v, dout = inputs(n_q, n_k, 7)
    module = TWINS[backend]
    for bias in biases(n_q, n_k):
        *expected, dscores = by_hand(q, k, v, dout, bias)
        out, lse = module.attention_forward(q, k, v, bias=bias)
        start = normal(BATCH, HEADS, n_q, n_k, seed=11)
        for dbias in (start.copy(), np.asfortranarray(start), start[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1]):
            grads = module.attention_backward(dout, q, k, v, out, lse, bias=bias, dbias=dbias)
            assert np.less_equal(largest_error((out, lse, *grads), expected), FLOAT64).all()
            assert np.abs(dbias - start - dscores).max() <= FLOAT64
            assert (dbias == start)[..., ~np.tri(n_q, n_k, n_k - n_q, dtype=bool)].all()
        plain = module.attention_backward(dout, q, k, v, out, lse, bias=bias)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(plain, grads, strict=True))


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_q", "n_k"), BIASED_SIZES)
def test_a_table_by_distance_collects_its_gradient_without_all_pairs(backend, n_q, n_k, dtype):
    """Nothing but the table's entries changes, and nothing around it is read: there lies NaN."""
    arrays = inputs(n_q, n_k, 7, dtype)
    bias = poisoned_distance_bias(normal(HEADS, n_k, seed=6).astype(dtype), n_q, n_k)
    dbias = poisoned_distance_bias(np.ones((BATCH, HEADS, n_k), dtype), n_q, n_k)
    out, lse = TWINS[backend].attention_forward(*arrays[:3], bias=bias)
    TWINS[backend].attention_backward(arrays[3], *arrays[:3], out, lse, bias=bias, dbias=dbias)
    dscores = by_hand(*(x.astype(np.float64) for x in (*arrays, bias)))[-1]
    expected = np.ones((BATCH, HEADS, n_k))
    for i, j in zip(*np.nonzero(np.tri(n_q, n_k, n_k - n_q, dtype=bool)), strict=True):
        expected[..., i + n_k - n_q - j] += dscores[..., i, j]
    table = dbias[..., -1, ::-1]
    assert np.abs(table - expected).max() <= (GRAD32 if dtype == np.float32 else FLOAT64)
    assert np.isnan(dbias[..., ~np.tri(n_q, n_k, n_k - n_q, dtype=bool)]).all()


@both
@pytest.mark.parametrize("kind", ["row", "column", "one"])
def test_entries_of_a_slice_may_share_memory_in_any_way(backend, kind):
    q, k, v, dout = inputs(67, 71, 5)
    out, lse = TWINS[backend].attention_forward(q, k, v, causal=False)
    sums = np.zeros((BATCH, HEADS, *{"row": (1, 71), "column": (67, 1), "one": (1, 1)}[kind]))
    view = np.lib.stride_tricks.as_strided(
        sums, (BATCH, HEADS, 67, 71), [0 if sums.shape[a] == 1 else sums.strides[a] for a in range(4)]
    )
    dense = np.zeros(view.shape)
    for dbias in (view, dense):
        TWINS[backend].attention_backward(dout, q, k, v, out, lse, causal=False, dbias=dbias)
    axes = tuple(a for a in (2, 3) if sums.shape[a] == 1)
    assert np.abs(sums - dense.sum(axis=axes, keepdims=True)).max() <= FLOAT64


@both
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("n_q", "n_k", "causal"), [(3, 7, True), (17, 17, True), (7, 71, False), (67, 131, True)])
def test_dbias_is_the_derivative_along_a_random_direction(backend, n_q, n_k, causal, dropout):
    q, k, v, dout = inputs(n_q, n_k, 5)
    bias, dbias = normal(BATCH, HEADS, n_q, n_k, seed=5), np.zeros((BATCH, HEADS, n_q, n_k))
    options = {"causal": causal, "dropout": dropout, "seed": 77}
    module = TWINS[backend]
    out, lse = module.attention_forward(q, k, v, bias=bias, **options)
    module.attention_backward(dout, q, k, v, out, lse, bias=bias, dbias=dbias, **options)
    direction = normal(*bias.shape, seed=9) + np.sign(dbias)

    def slope(step):
        plus, minus = (
            module.attention_forward(q, k, v, bias=bias + s * direction, **options)[0] for s in (step, -step)
        )
        return np.vdot(plus - minus, dout) / (2 * step)

    expected = np.vdot(direction, dbias)
    assert abs((4 * slope(5e-5) - slope(1e-4)) / 3 - expected) <= DIFFERENCES * abs(expected)


@both
def test_a_bias_of_minus_infinity_hides_a_key(backend):
    q, k, v, dout = inputs(67, 71, 5)
    bias = np.zeros((BATCH, 1, 1, 71))
    bias[..., 60:] = -np.inf
    expected = both_passes(TWINS[backend], q, k[:, :, :60], v[:, :, :60], dout, causal=False)
    out, lse, dq, dk, dv = both_passes(TWINS[backend], q, k, v, dout, causal=False, bias=bias)
    assert not dk[:, :, 60:].any()
    assert not dv[:, :, 60:].any()
    results = (out, lse, dq, dk[:, :, :60], dv[:, :, :60])
    assert np.less_equal(largest_error(results, expected), FLOAT64).all()


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize(
    ("n_q", "n_k", "d"),
    [(1, 67, 5), (2, 2, 64), (4, 130, 33), (5, 6, 7), (65, 129, 13), pytest.param(513, 513, 3, marks=slow)],
)
def test_heads_of_a_group_share_their_keys(backend, n_q, n_k, d, group, dtype):
    kv_heads = 2
    q, _, _, dout = inputs(n_q, n_k, d, dtype, heads=group * kv_heads)
    _, k, v, _ = inputs(n_q, n_k, d, dtype, heads=kv_heads)
    bias = normal(group * kv_heads, n_q, n_k, seed=5).astype(dtype)
    *expected, _ = by_hand(*(x.astype(np.float64) for x in (q, k, v, dout, bias)))
    results = both_passes(TWINS[backend], q, k, v, dout, bias=bias)
    assert [x.shape for x in results] == [q.shape, q.shape[:3], q.shape, k.shape, v.shape]
    # A gradient of a key is a sum over the heads of its group.
    bounds = (FLOAT64, FLOAT64) if dtype == np.float64 else (2 * OUT32, group * GRAD32)
    assert np.less_equal(largest_error(results, expected), bounds).all()


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_k", [5, 6, 15, 16, 17, 63, 64, 65, 127, 128, 129, pytest.param(513, marks=slow)])
@pytest.mark.parametrize("d", [1, 7, 16, 64, 80, 130])
def test_decoding_is_the_last_rows_of_the_whole(backend, n_k, d, dtype):
    q, k, v, _ = inputs(n_k, n_k, d, dtype)
    k[:, :, 0] *= 4  # where its score is positive, a maximum that later blocks do not reach
    bias = numpy_attention.distance_bias(normal(HEADS, n_k, seed=6).astype(dtype), n_k, n_k)
    out, lse = TWINS[backend].attention_forward(q, k, v, bias=bias)
    for n_q in (1, 2, 3, 4, 5):
        few, few_lse = TWINS[backend].attention_forward(q[:, :, -n_q:], k, v, bias=bias[..., -n_q:, :])
        bound = FLOAT64 if dtype == np.float64 else 4 * OUT32  # the first key's scores are fourfold
        assert np.abs(few - out[:, :, -n_q:]).max() <= bound
        assert np.abs(few_lse - lse[:, :, -n_q:]).max() <= bound


@both
@pytest.mark.parametrize("n_q", [1, 4, 5, 19])
def test_a_batch_in_parts_has_the_masks_of_the_whole(backend, n_q):
    arrays = inputs(n_q, 67, 5)
    options = {"dropout": 0.4, "seed": 3}
    whole = both_passes(TWINS[backend], *arrays, **options, first_slice=2**32 - BATCH * HEADS)
    for b in range(BATCH):
        first = 2**32 - BATCH * HEADS + b * HEADS
        part = both_passes(TWINS[backend], *(x[b : b + 1] for x in arrays), **options, first_slice=first)
        pairs = zip(part, [x[b : b + 1] for x in whole], strict=True)
        assert all(np.abs(x - y).max() <= FLOAT64 for x, y in pairs)
    other = both_passes(TWINS[backend], *arrays, **options)
    assert np.abs(other[0] - whole[0]).max() > 0.01


@C_BUILT
@pytest.mark.parametrize("n_q", [1, 3, 67])
def test_threads_change_no_bit_of_groups_and_biases(monkeypatch, n_q):
    q, _, _, dout = inputs(n_q, 71, 13, np.float32, heads=6)
    _, k, v, _ = inputs(n_q, 71, 13, np.float32, heads=2)
    bias = numpy_attention.distance_bias(normal(6, 71, seed=6).astype("f4"), n_q, 71)
    runs = []
    for n in (1, 2, 3):
        monkeypatch.setattr(threads, "_num_threads", n)
        dbias = numpy_attention.distance_bias(np.zeros((BATCH, 6, 71), "f4"), n_q, 71)
        results = both_passes(c_attention, q, k, v, dout, bias=bias, dropout=0.2)
        c_attention.attention_backward(dout, q, k, v, *results[:2], bias=bias, dbias=dbias, dropout=0.2)
        runs.append([x.tobytes() for x in (*results, dbias)])
    assert all(run == runs[0] for run in runs)


def test_distance_bias_is_its_definition():
    table = normal(HEADS, 7, seed=1)
    for n_q in (0, 1, 5, 7):
        view = numpy_attention.distance_bias(table, n_q, 7)
        assert view.shape == (HEADS, n_q, 7)
        for i, j in np.ndindex(n_q, 7):
            distance = i + 7 - n_q - j
            assert (view[:, i, j] == (table[:, distance] if distance >= 0 else 0)).all()
    assert numpy_attention.distance_bias(np.zeros((HEADS, 0)), 0, 0).shape == (HEADS, 0, 0)
    with pytest.raises(
        ValueError, match=r"^distance_bias: table is float64\(3, 7\), expected \(\.\.\., 8\) to fit n_k$"
    ):
        numpy_attention.distance_bias(table, 5, 8)
    with pytest.raises(
        ValueError, match=r"^distance_bias: table is float64\(3, 7\), expected \(\.\.\., 6\) to fit n_k$"
    ):
        numpy_attention.distance_bias(table, 5, 6)
    with pytest.raises(ValueError, match=r"^distance_bias: n_q is 8, expected at least 0 and at most n_k = 7$"):
        numpy_attention.distance_bias(table, 8, 7)
    alone = numpy_attention.distance_bias(table[0], 5, 7)
    assert np.array_equal(alone, numpy_attention.distance_bias(table, 5, 7)[0])
    with pytest.raises(ValueError, match=r"^distance_bias: table is float64\(\), expected \(\.\.\., 7\) to fit n_k$"):
        numpy_attention.distance_bias(np.zeros(()), 5, 7)
    with pytest.raises(ValueError, match=r"^distance_bias: table is \[0\.0\], expected"):
        numpy_attention.distance_bias([0.0], 1, 1)
    with pytest.raises(ValueError, match=r"^distance_bias: n_q is -1, expected at least 0"):
        numpy_attention.distance_bias(table, -1, 7)


def test_distance_bias_takes_tables_of_any_memory_layout():
    table = normal(5, 13)
    for n_q in (1, 2, 13):
        by_columns = numpy_attention.distance_bias(np.asfortranarray(table), n_q, 13)
        np.testing.assert_array_equal(by_columns, numpy_attention.distance_bias(table, n_q, 13))
