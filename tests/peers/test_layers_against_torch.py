"""Every layer around attention, NumPy and C, against PyTorch's function of that name and its derivative."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from peers.comparison import same, same_gradient
from peers.plain_torch import leaf, turn
from refrope import Resonance, RoPE, kernels
from refrope.nn.backends import NumpyOps
from refrope.nn.dropout import drop_threshold, random_bits
from refrope.nn.optim import AdamW, OneCycle

TWINS = {"numpy": NumpyOps, "c": kernels}
both = pytest.mark.parametrize("backend", TWINS)
rows = st.sampled_from([1, 2, 3, 7, 17, 61, 257, 521])
widths = st.sampled_from([1, 2, 3, 7, 8, 9, 13, 16, 17, 31, 33, 64, 67, 131])
seeds = st.integers(0, 2**32 - 1)


def normals(seed, *shapes):
    draw = np.random.default_rng(seed).standard_normal
    return [draw(shape) for shape in shapes]


def same_gradients(found, result, leaves, given_gradient):
    """Each gradient that was found, against autograd's for `result` and the gradient given of it."""
    expected = torch.autograd.grad(result, leaves, torch.as_tensor(given_gradient))
    for ours, theirs in zip(found, expected, strict=True):
        same_gradient(ours, theirs)


@both
@given(rows, widths, widths, seeds)
def test_linear(backend, n, inner, outer, seed):
    ops, (x, w, dy) = TWINS[backend], normals(seed, (n, inner), (inner, outer), (n, outer))
    leaves = [leaf(x), leaf(w)]
    expected = F.linear(leaves[0], leaves[1].T)
    same(ops.linear_forward(x, w), expected)
    same(ops.matmul(x, w), expected)
    same_gradients(ops.linear_backward(dy, x, w), expected, leaves, dy)


@both
@given(rows, widths, st.sampled_from([1e-6, 0.0, 0.5]), st.sampled_from([1e-3, 1.0, 1e3]), st.booleans(), seeds)
def test_rmsnorm(backend, n, d, eps, size, bypass, seed):
    ops, (x, gain, dy, residual) = TWINS[backend], normals(seed, (n, d), (d,), (n, d), (n, d))
    x *= size
    leaves = [leaf(x), leaf(gain)]
    normed = F.rms_norm(leaves[0], [d], leaves[1], eps)
    y, inv_rms = ops.rmsnorm_forward(x, gain, eps=eps)
    same(y, normed)
    same(inv_rms * size, size * leaves[0].square().mean(dim=1).add(eps).rsqrt())
    dx, dgain = ops.rmsnorm_backward(dy, x, gain, inv_rms, residual=residual if bypass else None)
    expected_dx, expected_dgain = torch.autograd.grad(normed, leaves, torch.tensor(dy))
    # dx is a difference of terms of the size of the first, which cancel where d is 1.
    terms = dy * gain * inv_rms[:, None]
    same_gradient(dx, expected_dx + torch.tensor(residual) if bypass else expected_dx, terms=terms)
    same_gradient(dgain, expected_dgain)


@both
@given(rows, widths, seeds)
def test_relu(backend, n, d, seed):
    ops, (x, dy) = TWINS[backend], normals(seed, (n, d), (n, d))
    x[np.abs(x) < 0.2] = 0.0  # where torch, too, takes the derivative 0
    x[0, 0] = -0.0
    leaves = [leaf(x)]
    y = ops.relu_forward(x)
    same(y, F.relu(leaves[0]))
    same_gradients([ops.relu_backward(dy, y)], F.relu(leaves[0]), leaves, dy)


@both
@given(rows, widths, st.sampled_from([0.01, 1.0, 30.0]), st.booleans(), seeds)
def test_swiglu(backend, n, d, size, columns, seed):
    ops, (together, dy) = TWINS[backend], normals(seed, (n, 2 * d), (n, d))
    together[:, :d] *= size
    gate, up = together[:, :d], together[:, d:]
    if not columns:
        gate, up = gate.copy(), up.copy()
    leaves = [leaf(gate), leaf(up)]
    expected = F.silu(leaves[0]) * leaves[1]
    same(ops.swiglu_forward(gate, up), expected)
    same_gradients(ops.swiglu_backward(dy, gate, up), expected, leaves, dy)


@both
@given(rows, widths, st.sampled_from([1, 2, 11, 18, 67]), seeds)
def test_embedding(backend, n, d, vocabulary, seed):
    ops, (table, dy, before) = TWINS[backend], normals(seed, (vocabulary, d), (n, d), (vocabulary, d))
    tokens = np.random.default_rng(seed).integers(0, vocabulary, n)
    leaves = [leaf(table)]
    expected = F.embedding(torch.tensor(tokens), leaves[0])
    same(ops.embedding_forward(tokens, table), expected)
    dtable = before.copy()
    ops.embedding_backward(dy, tokens, dtable)
    same_gradients([dtable - before], expected, leaves, dy)


@both
@given(rows, st.sampled_from([1, 2, 3, 11, 17, 18, 67, 257]), st.sampled_from([0.1, 1.0, 30.0]), st.booleans(), seeds)
def test_cross_entropy(backend, n, vocabulary, size, whole, seed):
    ops, generator = TWINS[backend], np.random.default_rng(seed)
    logits, weights = size * generator.standard_normal((n, vocabulary)), generator.integers(0, 3, n).astype(float)
    weights[-1] = 1.0
    targets, total = generator.integers(0, vocabulary, n), None if whole else 1000.0
    leaves = [leaf(logits)]
    losses = F.cross_entropy(leaves[0], torch.tensor(targets), reduction="none")
    expected = (losses * torch.tensor(weights)).sum() / (weights.sum() if whole else total)
    loss, probabilities = ops.cross_entropy_forward(logits, targets, weights, total=total)
    same(np.float64(loss), expected)
    same(probabilities, leaves[0].softmax(dim=1))
    found = ops.cross_entropy_backward(probabilities, targets, weights, total=total)
    same_gradients([found], expected, leaves, 1.0)


@both
def test_cross_entropy_of_marked_tokens_is_that_of_ignoring_the_others(backend):
    logits, targets = normals(1, (67, 11))[0], np.arange(67) % 11
    marked = np.arange(67) % 3 > 0
    expected = F.cross_entropy(torch.tensor(logits), torch.tensor(np.where(marked, targets, -100)))
    loss, _ = TWINS[backend].cross_entropy_forward(logits, targets, marked.astype(float))
    same(np.float64(loss), expected)


@both
@given(
    st.sampled_from([1, 2, 7, 31, 67]), st.sampled_from([1, 2, 3, 7, 8, 9, 17, 32, 65]), st.sampled_from([0, 2, 6, 34]),
    st.sampled_from(["half", "interleaved"]), st.booleans(), seeds,
)  # fmt: skip
def test_rotation_is_complex_multiplication(backend, length, pairs, rest, layout, suffix, seed):
    ops, (x, dy, angles) = TWINS[backend], normals(seed, *[(2, 3, length, 2 * pairs + rest)] * 2, (length, pairs))
    factor = 1.25  # the attention factor: with it R^T is not the inverse
    turns = torch.polar(torch.full(angles.shape, factor, dtype=torch.float64), torch.tensor(angles))
    cos, sin = factor * np.cos(angles), factor * np.sin(angles)
    leaves = [leaf(x)]
    expected = turn(leaves[0], turns, layout=layout, suffix=suffix)
    same(ops.rotate(x, cos, sin, layout=layout, suffix=suffix), expected)
    same_gradients([ops.rotate(dy, cos, sin, layout=layout, suffix=suffix, transpose=True)], expected, leaves, dy)


# Angles up to 1000 rad are rounded at 1000 * 2^-53 = 1.1e-13 each time that they or their factors are.
LONGEST = 1000


@given(st.sampled_from([2, 4, 14, 64, 128]), st.sampled_from([500.0, 1e4, 5e5]), seeds)
def test_tables_of_rope(head_dim, base, seed):
    positions = np.random.default_rng(seed).integers(0, LONGEST, 31)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles = torch.outer(torch.tensor(positions, dtype=torch.float64), base**-exponents)
    cos, sin = RoPE(head_dim, base).cos_sin(positions, np.float64)
    same(cos, angles.cos())
    same(sin, angles.sin())


@both
@given(st.sampled_from([4, 14, 64]), st.sampled_from(["half", "interleaved"]), seeds)
def test_resonance_turns_by_whole_numbers_of_steps(backend, head_dim, layout, seed):
    """One turn in the whole number of tokens nearest to the wavelength (Wang et al. 2024, Eq. 4)."""
    encoding = Resonance(RoPE(head_dim))
    positions = np.random.default_rng(seed).integers(0, 2**40, 17)
    ops, (x, dy) = TWINS[backend], normals(seed, *[(3, 17, head_dim)] * 2)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    periods = torch.round(2 * math.pi * 1e4**exponents).long()
    steps = torch.tensor(positions)[:, None] % periods
    turns = torch.polar(torch.ones(steps.shape, dtype=torch.float64), 2 * math.pi * steps.double() / periods)
    leaves = [leaf(x)]
    expected = turn(leaves[0], turns, layout=layout)
    same(ops.rotate(x, *encoding.cos_sin(positions, np.float64), layout=layout), expected)
    tables = encoding.period_tables(np.float64)
    same(ops.rotate_periodic(x, positions, tables, layout=layout), expected)
    found = ops.rotate_periodic(dy, positions, tables, layout=layout, transpose=True)
    same_gradients([found], expected, leaves, dy)


@both
@given(rows, widths, st.sampled_from([0.0, 0.1, 0.5, 0.875]), st.integers(0, 2**64 - 1), st.sampled_from([0, 5, 2**31]))
def test_dropout_with_its_mask_given(backend, n, d, probability, seed, first):
    """No two libraries draw the same mask: ours is made element by element, then both sides apply it."""
    ops, (x, dy) = TWINS[backend], normals(seed, (n, d), (n, d))
    threshold = drop_threshold(probability)
    bits = random_bits(seed, 0, np.arange(first, first + n * d, dtype=np.uint32)).reshape(n, d)
    leaves = [leaf(x)]
    expected = torch.where(torch.tensor(bits >= threshold), leaves[0] / (1 - threshold / 2**32), 0.0)
    same(ops.dropout(x, probability, seed, first=first), expected)
    same_gradients([ops.dropout(dy, probability, seed, first=first)], expected, leaves, dy)


@both
@given(widths, st.integers(1, 3), st.sampled_from([0.0, 0.01, 0.3]), st.sampled_from([0.95, 0.999]), seeds)
def test_steps_of_adamw(backend, size, parts, decay, beta2, seed):
    """Twenty steps with another rate and beta_1 at each; the gradients of parts of a batch are added."""
    generator, ops = np.random.default_rng(seed), TWINS[backend]
    weight = generator.standard_normal(size)
    parameter = torch.nn.Parameter(torch.tensor(weight))
    theirs = torch.optim.AdamW([parameter], betas=(0.9, beta2), weight_decay=decay)
    ours = AdamW(size, np.float64, decay, beta2)
    for _ in range(20):
        gradients = generator.standard_normal((parts, size)) * 10.0 ** generator.integers(-3, 2)
        rate, beta1 = generator.uniform(1e-4, 1e-1), generator.uniform(0.85, 0.95)
        theirs.param_groups[0].update(lr=rate, betas=(beta1, beta2))
        parameter.grad = torch.tensor(gradients).sum(dim=0)
        theirs.step()
        ops.adamw_update(weight, ours.moment1, ours.moment2, gradients, ours.settings(rate, beta1))
        same(weight, parameter)
        same(ours.moment1, theirs.state[parameter]["exp_avg"])
        same(ours.moment2, theirs.state[parameter]["exp_avg_sq"])


@given(st.integers(1, 400), st.sampled_from([1e-4, 1e-2, 1.0]), st.sampled_from([0.1, 0.3, 0.5]))
def test_one_cycle_of_rates(steps, peak, warmup):
    assume(warmup * steps != 1)  # torch would divide by the length of a rise of no steps
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=warmup)
    ours = OneCycle(peak, steps, warmup)
    for step in range(steps):
        group = optimizer.param_groups[0]
        same(np.array(ours.at(step)) / [peak, 1], np.array([group["lr"], group["betas"][0]]) / [peak, 1])
        if step + 1 < steps:
            optimizer.step()
            theirs.step()
