"""A window on causal attention: what lies before it is as if it were not there, in NumPy and in C."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_attention import C_BUILT, EDGES, FLOAT64, GRAD32, OUT32, TWINS, both, both_passes, inputs, largest_error

BATCH, HEADS = 2, 3
# A panel of the C kernel has 64 queries, a block 64 keys, a block of queries 512; windows around them and around 1.
WINDOWS = [1, 2, 16, 17, 63, 64, 65, 128, 200]


def visible(n_q, n_k, window):
    """The keys that each query sees, by the definition."""
    return [[j for j in range(n_k) if 0 <= i + n_k - n_q - j < window] for i in range(n_q)]


@both
@pytest.mark.parametrize(
    ("n_q", "n_k", "window"), [(1, 1, 1), (5, 7, 1), (7, 7, 3), (11, 13, 5), (3, 67, 2), (71, 73, 67)]
)
def test_each_query_is_attention_to_the_keys_of_its_window_alone(backend, n_q, n_k, window):
    q, k, v, _ = inputs(n_q, n_k, 5)
    out, lse = TWINS[backend].attention_forward(q, k, v, window=window)
    for i, keys in enumerate(visible(n_q, n_k, window)):
        alone = TWINS["numpy"].attention_forward(q[:, :, i : i + 1], k[:, :, keys], v[:, :, keys])
        np.testing.assert_allclose(out[:, :, i : i + 1], alone[0], rtol=0, atol=FLOAT64)
        np.testing.assert_allclose(lse[:, :, i : i + 1], alone[1], rtol=0, atol=FLOAT64)


@both
def test_gradients_are_those_of_a_bias_of_minus_infinity_before_the_window(backend):
    n_q, n_k, window = 67, 71, 13
    q, k, v, dout = inputs(n_q, n_k, 7)
    hidden = np.full((n_q, n_k), -np.inf)
    for i, keys in enumerate(visible(n_q, n_k, window)):
        hidden[i, keys] = 0
    masked = both_passes(TWINS["numpy"], q, k, v, dout, bias=hidden)
    errors = largest_error(both_passes(TWINS[backend], q, k, v, dout, window=window), masked)
    assert max(errors) <= FLOAT64


@C_BUILT
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("n_q", [1, 4, 5, 65, 129, 520])
def test_c_equals_the_float64_numpy_twin_at_every_boundary(n_q, window, dtype):
    for extra in (0, 1, 63, 130):
        exact = inputs(n_q, n_q + extra, 17)
        expected = both_passes(TWINS["numpy"], *exact, window=window)
        came = both_passes(TWINS["c"], *[x.astype(dtype) for x in exact], window=window)
        out, gradients = largest_error(came, expected)
        assert out <= (OUT32 if dtype == np.float32 else FLOAT64)
        assert gradients <= (GRAD32 if dtype == np.float32 else FLOAT64)


@C_BUILT
@given(
    n_q=st.sampled_from(EDGES),
    extra=st.integers(0, 140),
    window=st.integers(1, 300),
    dropout=st.sampled_from([0.0, 0.3]),
    biased=st.booleans(),
    group=st.sampled_from([1, 3]),
)
def test_twins_are_equal_with_bias_dropout_and_groups(n_q, extra, window, dropout, biased, group):
    n_k = n_q + extra
    q, k, v, dout = inputs(n_q, n_k, 9)
    k, v = k[:, ::group], v[:, ::group]
    options = {"window": window, "dropout": dropout, "seed": 7}
    bias = np.random.default_rng(n_k).standard_normal((HEADS, n_q, n_k))
    results, gradients = [], []
    for module in (TWINS["numpy"], TWINS["c"]):
        dbias = np.zeros((BATCH, HEADS, n_q, n_k))
        extras = {"bias": bias} if biased else {}
        out, lse = module.attention_forward(q, k, v, **options, **extras)
        grads = module.attention_backward(dout, q, k, v, out, lse, **options, **extras, dbias=dbias)
        results.append((out, lse, *grads))
        gradients.append(dbias)
    assert max(largest_error(*results)) <= FLOAT64
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0, atol=FLOAT64)


@both
@pytest.mark.parametrize("window", [7, 8, 1000])
def test_a_window_that_holds_every_key_changes_no_bit(backend, window):
    q, k, v, dout = inputs(5, 7, 11)
    plain = both_passes(TWINS[backend], q, k, v, dout)
    for a, b in zip(both_passes(TWINS[backend], q, k, v, dout, window=window), plain, strict=True):
        np.testing.assert_array_equal(a, b)


@both
def test_keys_before_every_window_have_no_gradient(backend):
    q, k, v, dout = inputs(3, 200, 5)
    _, _, _, dk, dv = both_passes(TWINS[backend], q, k, v, dout, window=11)
    first = 200 - 3 - 10
    assert not dk[:, :, :first].any()
    assert not dv[:, :, :first].any()
    assert dk[:, :, first:].all()
    assert dv[:, :, first:].all()


@both
def test_no_output_depends_on_a_key_before_the_window_even_by_its_size(backend):
    q, k, v, _ = inputs(97, 97, 7)
    before, _ = TWINS[backend].attention_forward(q, k, v, window=5)
    k[:, :, :50], v[:, :, :50] = 1e6, -1e6
    after, _ = TWINS[backend].attention_forward(q, k, v, window=5)
    np.testing.assert_array_equal(after[:, :, 54:], before[:, :, 54:])


@both
def test_threads_change_no_bit_of_a_window(backend, monkeypatch):
    q, k, v, dout = inputs(70, 70, 7)
    results = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("REFROPE_NUM_THREADS", threads)
        results.append(both_passes(TWINS[backend], q, k, v, dout, window=9))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "attention_forward: window is 0, expected an integer >= 1"),
        ({"window": 2.5}, "attention_forward: window is 2.5, expected an integer >= 1"),
        ({"window": True}, "attention_forward: window is True, expected an integer >= 1"),
        (
            {"window": 3, "causal": False},
            "attention_forward: window is 3 without causal, expected causal attention or no window",
        ),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(backend, options, message):
    q, k, v, _ = inputs(5, 7, 11)
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.") + "$"):
        TWINS[backend].attention_forward(q, k, v, **options)


def test_the_definition_here_counts_the_query_itself():
    assert visible(3, 5, 2) == [[1, 2], [2, 3], [3, 4]]
    assert visible(2, 2, 1) == [[0], [1]]
