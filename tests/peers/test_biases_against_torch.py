"""Position biases: buckets and slopes of transformers, networks of torch.nn, and the gradients of autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from peers.comparison import same, same_gradient
from peers.plain_torch import leaf
from refrope.nn.absolute import Sinusoidal
from refrope.nn.biases import ALiBi, Kerple, T5Bias
from refrope.nn.dape import DAPE
from refrope.nn.fire import FIRE
from refrope.randomness import bit_source

seeds = st.integers(0, 2**32 - 1)
heads_of = st.sampled_from([1, 2, 3, 5, 8, 13])
lengths = st.sampled_from([1, 2, 3, 7, 17, 61])
# transformers' slopes are float32 powers of a float32 ratio.
FLOAT32 = 1e-6


def normals(seed, *shapes):
    draw = np.random.default_rng(seed).standard_normal
    return [draw(shape) for shape in shapes]


def pairs(n, first=0):
    queries = first + np.arange(n)[:, None]
    return queries - np.arange(first + n), queries


def same_gradients(grads, result, leaves, given_gradient):
    """Each gradient by name, against autograd's for `result` and the gradient given of it."""
    expected = torch.autograd.grad(result, leaves.values(), torch.as_tensor(given_gradient))
    assert list(grads) == list(leaves)
    for name, theirs in zip(leaves, expected, strict=True):
        same_gradient(grads[name], theirs)


@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (32, 129), (16, 64), (8, 50), (64, 1000)])
def test_t5_buckets(buckets, most):
    distances = np.arange(-5, 5000)
    theirs = T5Attention._relative_position_bucket(-torch.as_tensor(distances), False, buckets, most)
    assert T5Bias(buckets, most).buckets(distances).tolist() == theirs.tolist()


@given(heads_of, lengths)
def test_alibi(heads, n):
    bloom = build_alibi_tensor(torch.ones(1, n), heads, torch.float32).reshape(heads, n).double()
    ours = ALiBi().forward({}, heads, np.arange(n))
    same(ours - ours[:, -1:], bloom.flip(1) - bloom[:, :1], FLOAT32)
    same(ours[:, ::-1].copy(), build_mpt_alibi_tensor(heads, n).reshape(heads, n).double(), FLOAT32)


@given(heads_of, lengths, st.sampled_from(["log", "power"]), seeds)
def test_kerple(heads, n, form, seed):
    bias, (distances, _) = Kerple(form), pairs(n)
    weights = {k: np.maximum(w, 0.01) for k, w in bias.initial(heads, bit_source(seed)).items()}
    p, a = leaf(weights["p"]), leaf(weights["a"])
    away = torch.as_tensor(distances).clamp(min=0).double()
    column_p, column_a = p[:, None, None], a[:, None, None]
    theirs = -column_p * torch.log(1 + column_a * away) if form == "log" else -column_a * away.pow(column_p)
    same(bias.forward(weights, heads, distances), theirs)
    (dvalues,) = normals(seed, (heads, n, n))
    same_gradients(bias.backward(dvalues, weights, heads, distances), theirs, {"p": p, "a": a}, dvalues)


@given(heads_of, lengths, st.sampled_from([1, 7, 32]), st.sampled_from([0.0, 0.01]), seeds)
def test_fire(heads, n, width, slope, seed):
    bias, (distances, queries) = FIRE(width, 16.0, slope), pairs(n, first=seed % 5)
    weights = bias.initial(heads, bit_source(seed))  # the multiplier is 1: query 16 stands at the maximum's turn
    leaves = {name: leaf(weight) for name, weight in weights.items()}
    away, rows = (torch.as_tensor(x).double() for x in (np.maximum(distances, 0), queries))
    limit = torch.abs(leaves["multiplier"] * 16.0)
    reach = torch.log(torch.abs(leaves["c"] * torch.max(rows, limit)) + 1) + 1e-6
    x = (torch.log(torch.abs(leaves["c"] * away) + 1) / reach)[..., None]
    hidden = torch.nn.functional.linear(x, leaves["in.weight"][:, None], leaves["in.bias"])
    hidden = torch.nn.functional.leaky_relu(hidden, slope) if slope else torch.relu(hidden)
    theirs = torch.nn.functional.linear(hidden, leaves["out.weight"], leaves["out.bias"]).permute(2, 0, 1)
    same(bias.forward(weights, heads, distances, queries), theirs)
    (dvalues,) = normals(seed, (heads, *distances.shape))
    same_gradients(bias.backward(dvalues, weights, heads, distances, queries), theirs, leaves, dvalues)


@given(st.sampled_from([1, 2, 3]), heads_of, lengths, st.sampled_from([1, 3, 5]), seeds)
def test_dape(batch, heads, n, kernel, seed):
    """As published: Conv2d with zero padding over the lower triangle; with kernel 1 two layers over the heads."""
    dape = DAPE(ALiBi(), 32, kernel, edge="padded")
    weights = dape.initial(heads, bit_source(seed))
    scores, values, dextra = normals(seed, (batch, heads, n, n), (heads, n, n), (batch, heads, n, n))
    dextra = np.tril(dextra)
    leaves = {name: leaf(weight) for name, weight in weights.items()}
    s, v = leaf(scores), leaf(values)
    x = torch.tril(torch.cat([s, v.expand(batch, -1, -1, -1)], dim=1))
    w_in, b_in, w_out, b_out = leaves.values()
    if kernel == 1:
        layer = torch.nn.functional.linear(x.permute(0, 2, 3, 1), w_in[..., 0], b_in)
        layer = torch.nn.functional.linear(torch.nn.functional.leaky_relu(layer), w_out[..., 0], b_out)
        theirs = layer.permute(0, 3, 1, 2)
    else:
        padding = (0, kernel // 2)
        layer = torch.nn.functional.conv2d(x, w_in[:, :, None], b_in, padding=padding)
        layer = torch.nn.functional.leaky_relu(layer)
        theirs = torch.nn.functional.conv2d(layer, w_out[:, :, None], b_out, padding=padding)
    extra, saved = dape.mix_forward(weights, scores, values)
    same(extra, torch.tril(theirs))
    dscores, dvalues, grads = dape.mix_backward(dextra, saved, weights)
    grads = {**grads, "scores": dscores, "values": dvalues}
    same_gradients(grads, theirs, {**leaves, "scores": s, "values": v}, dextra)


@given(lengths, st.sampled_from([2, 6, 128]))
def test_sinusoids(n, d_model):
    angles = torch.arange(n, dtype=torch.float64)[:, None] / 10000 ** (torch.arange(0, d_model, 2).double() / d_model)
    same(Sinusoidal().table(np.arange(n), d_model), torch.cat([angles.sin(), angles.cos()], dim=-1))
    vaswani = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    same(Sinusoidal(layout="interleaved").table(np.arange(n), d_model), vaswani)
