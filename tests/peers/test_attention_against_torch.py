"""Attention, forward and backward, NumPy and C, against softmax written in PyTorch and against PyTorch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peers.comparison import same, same_gradient
from peers.plain_torch import DROPOUT_STEPS, attention, leaf, visible
from refrope.kernels import attention as c_attention
from refrope.nn import attention as numpy_attention
from refrope.nn.dropout import random_bits

TWINS = {"numpy": numpy_attention, "c": c_attention}
both = pytest.mark.parametrize("backend", TWINS)

LENGTHS = st.sampled_from([1, 2, 3, 5, 7, 13, 16, 17, 31, 33, 61, 64, 67, 127]) | st.integers(1, 140)
HEAD_DIMS = st.sampled_from([1, 2, 3, 7, 8, 9, 13, 16, 17, 31, 64, 67, 80, 128, 131])
SCALES = st.sampled_from([None, 1.0, 0.0, -0.3, 0.7])
# A bias of a few units beside scores of a few; 3.0 makes most weights small and a few large.
BIAS_SIZES = st.sampled_from([0.1, 3.0])


@st.composite
def cases(draw):
    """Shapes, options and the seed of the numbers."""
    n_q, causal = draw(LENGTHS), draw(st.booleans())
    n_k = n_q + draw(st.sampled_from([0, 0, 1, 6, 67])) if causal else draw(LENGTHS)
    batch, kv_heads, group = draw(st.sampled_from([(1, 1, 1), (2, 3, 1), (1, 2, 3), (3, 1, 2), (2, 1, 5)]))
    pairs = (batch, kv_heads * group, n_q, n_k)
    full = [size if draw(st.booleans()) else 1 for size in pairs]
    bias_shape = draw(st.none() | st.integers(0, 4).map(lambda axes: tuple(full[4 - axes :])))
    options = {"causal": causal, "scale": draw(SCALES)}
    # 0.1 is not a multiple of 1 / 2^32, the others are.
    options |= {"dropout": draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.875])), "seed": draw(st.integers(0, 2**64 - 1))}
    options["first_slice"] = draw(st.sampled_from([0, 1, 2**32 - pairs[0] * pairs[1]]))
    size, rows = draw(BIAS_SIZES), draw(st.booleans())
    return pairs, kv_heads, draw(HEAD_DIMS), options, bias_shape, size, rows, draw(st.integers(0, 2**32 - 1))


def arrays(pairs, kv_heads, d, seed):
    """q, k, v and the gradient of out."""
    batch, heads, n_q, n_k = pairs
    draw = np.random.default_rng(seed).standard_normal
    return [draw((batch, h, n, d)) for h, n in ((heads, n_q), (kv_heads, n_k), (kv_heads, n_k), (heads, n_q))]


def kept_weights(pairs, dropout, seed, first_slice):
    """Which weights refrope's dropout leaves: a given for the other side, since no two libraries draw alike."""
    batch, heads, n_q, n_k = pairs
    counters = np.arange(n_q * n_k, dtype=np.uint32)
    bits = np.array([random_bits(seed, first_slice + s, counters) for s in range(batch * heads)])
    return torch.tensor((bits >= round(dropout * DROPOUT_STEPS)).reshape(pairs))


def hold_to_torch(module, q, k, v, dout, *, bias=None, rows=False, **options):
    """Both passes, in dense arrays or in `rows` (B, T, H, D) as the trainer has them, against `plain_torch`."""
    if rows:
        q, k, v, dout = (np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in (q, k, v, dout))
    pairs = (*q.shape[:3], k.shape[2])
    leaves = [leaf(x) for x in (q, k, v, *([] if bias is None else [bias]))]
    oracle = {name: options[name] for name in ("causal", "scale") if name in options}
    if options.get("dropout"):
        masked = {name: options[name] for name in ("dropout", "seed", "first_slice")}
        oracle |= {"kept": kept_weights(pairs, **masked), "dropout": options["dropout"]}
    expected, expected_lse = attention(*leaves[:3], bias=None if bias is None else leaves[3], **oracle)
    expected_grads = torch.autograd.grad(expected, leaves, torch.tensor(dout))

    out, lse = module.attention_forward(q, k, v, bias=bias, **options)
    same(out, expected)
    same(lse, expected_lse)
    dbias = None if bias is None else np.zeros(pairs)
    grads = module.attention_backward(dout, q, k, v, out, lse, bias=bias, dbias=dbias, **options)
    # Softmax's backward pass subtracts these numbers, one of each row, from their like: with one key nothing is left.
    subtracted = (dout * out).sum(axis=-1)
    for found, gradient, terms in zip(grads, expected_grads, (subtracted, subtracted, 0.0), strict=False):
        same_gradient(found, gradient, terms=terms)
    if bias is not None:
        same_gradient(
            summed(dbias, bias.shape), expected_grads[3], terms=[np.abs(dbias).max(), np.abs(subtracted).max()]
        )


def summed(dbias, shape):
    """The gradient of what was broadcast to the shape of `dbias`."""
    padded = (1,) * (dbias.ndim - len(shape)) + tuple(shape)
    axes = tuple(i for i, size in enumerate(padded) if size == 1)
    return dbias.sum(axis=axes, keepdims=True).reshape(shape)


@both
@given(cases())
def test_both_passes_of_any_shape(backend, case):
    pairs, kv_heads, d, options, bias_shape, size, rows, seed = case
    q, k, v, dout = arrays(pairs, kv_heads, d, seed)
    bias = None
    if bias_shape is not None:
        bias = np.asarray(size * np.random.default_rng([seed, 1]).standard_normal(bias_shape))
    hold_to_torch(TWINS[backend], q, k, v, dout, bias=bias, rows=rows, **options)


@both
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("which", range(16))
def test_every_shape_that_a_bias_can_be_broadcast_from(backend, which, causal):
    pairs = (2, 3, 17, 19)
    shape = tuple(size if which >> i & 1 else 1 for i, size in enumerate(pairs))
    inputs = arrays(pairs, 3, 7, which)
    bias = np.random.default_rng(which).standard_normal(shape)
    hold_to_torch(TWINS[backend], *inputs, bias=bias, causal=causal)


@both
@pytest.mark.parametrize(("n_q", "n_k"), [(1, 1), (1, 67), (5, 131), (17, 17), (67, 71)])
def test_a_bias_by_distance_and_the_gradient_of_its_table(backend, n_q, n_k):
    heads, module = 3, TWINS[backend]
    q, k, v, dout = arrays((2, heads, n_q, n_k), heads, 13, n_k)
    table = np.random.default_rng(n_k).standard_normal((heads, n_k))
    leaves = [leaf(x) for x in (q, k, v, table)]
    distance = torch.arange(n_k - n_q, n_k)[:, None] - torch.arange(n_k)[None, :]
    expected, _ = attention(*leaves[:3], bias=leaves[3][:, distance.clamp(min=0)])
    expected_grads = torch.autograd.grad(expected, leaves, torch.tensor(dout))

    bias = numpy_attention.distance_bias(table, n_q, n_k)
    dbias = numpy_attention.distance_bias(np.zeros((2, heads, n_k)), n_q, n_k)
    out, lse = module.attention_forward(q, k, v, bias=bias)
    same(out, expected)
    grads = module.attention_backward(dout, q, k, v, out, lse, bias=bias, dbias=dbias)
    for found, gradient in zip((*grads, dbias[..., -1, ::-1].sum(axis=0)), expected_grads, strict=True):
        same_gradient(found, gradient, terms=dout)


@both
@pytest.mark.parametrize("d", [1, 17, 64, 130])
@pytest.mark.parametrize("n_q", [1, 2, 3, 4, 5])
def test_few_queries_against_many_keys(backend, n_q, d):
    inputs = arrays((2, 6, n_q, 1031), 2, d, n_q)
    bias = np.random.default_rng(d).standard_normal((6, 1, 1031))
    hold_to_torch(TWINS[backend], *inputs, bias=bias)
    hold_to_torch(TWINS[backend], *inputs, dropout=0.5, seed=n_q, first_slice=3)


@both
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_many_tiles_of_queries_and_keys(backend, dropout):
    inputs = arrays((1, 2, 523, 541), 1, 37, 1)
    hold_to_torch(TWINS[backend], *inputs, dropout=dropout, seed=2**63 + 1, first_slice=0)


@both
def test_keys_hidden_by_minus_infinity(backend):
    inputs = arrays((2, 3, 67, 71), 3, 19, 5)
    bias = np.where(np.random.default_rng(5).random((2, 1, 1, 71)) < 0.3, -np.inf, 0.25)
    bias[..., :5] = 0  # the first query sees the first five keys: no row is hidden whole
    hold_to_torch(TWINS[backend], *inputs, bias=bias)


@both
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("n_q", "n_k", "heads", "kv_heads", "d"), [(1, 1, 2, 1, 5), (17, 17, 6, 2, 8), (67, 127, 3, 3, 31)]
)
def test_pytorchs_own_attention(backend, n_q, n_k, heads, kv_heads, d, causal):
    """Its `is_causal` puts the first query at the first key, so the mask is written out; the two agree if T_q = T_k."""
    q, k, v, dout = arrays((2, heads, n_q, n_k), kv_heads, d, d)
    bias = np.random.default_rng(d).standard_normal((heads, n_q, n_k))
    hidden = torch.zeros(n_q, n_k, dtype=torch.float64).masked_fill(~visible(n_q, n_k, causal), -torch.inf)
    for given_bias in (None, bias):
        leaves = [leaf(x) for x in (q, k, v)]
        mask = hidden if given_bias is None else hidden + torch.tensor(given_bias)
        if given_bias is None and causal and n_q == n_k:
            masking = {"is_causal": True}
        else:
            masking = {"attn_mask": mask}
        expected = torch.nn.functional.scaled_dot_product_attention(*leaves, **masking, scale=0.6, enable_gqa=True)
        options = {"causal": causal, "scale": 0.6, "bias": given_bias}
        out, lse = TWINS[backend].attention_forward(q, k, v, **options)
        same(out, expected)
        grads = TWINS[backend].attention_backward(dout, q, k, v, out, lse, **options)
        for found, gradient in zip(grads, torch.autograd.grad(expected, leaves, torch.tensor(dout)), strict=True):
            same_gradient(found, gradient, terms=dout)
