"""DAPE: the network against loops number by number, its gradients, causality, and attention that trains through it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import BACKENDS

from refrope.nn import dape as module
from refrope.nn.backends import operations
from refrope.nn.biases import ALiBi, Kerple, T5Bias
from refrope.nn.dape import DAPE
from refrope.nn.fire import FIRE
from refrope.nn.gradcheck import gradient_error
from refrope.randomness import bit_source

# Float64, sums of up to 2 H kernel + width kernel = 100 products of order 1.
FLOAT64 = 1e-12
# Sums over all pairs in another order.
ORDER = 1e-11
# The five-point difference with a step of 1e-6, within which no hidden number changes its sign, leaves 1e-9 or so.
STEP, DIFFERENCES = 1e-6, 1e-7
WRONG = 1e-5
# Float32: the same sums at 2^-24 for each product.
FLOAT32 = 1e-5

BATCH, HEADS, LENGTH, WIDTH = 2, 3, 11, 7
KERNELS = [1, 3, 5]
SIZES = [(1, 1), (1, 2), (2, 2), (3, 3), (1, LENGTH), (5, LENGTH), (LENGTH, LENGTH)]
every_form = pytest.mark.parametrize(
    ("kernel", "edge"), [(1, "open"), (1, "padded"), (3, "open"), (3, "padded"), (5, "open"), (5, "padded")]
)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def mix_weights(dape, heads=HEADS, seed=0):
    """Larger than they start, so that the network matters."""
    return {name: normal(*shape, seed=seed + i) for i, (name, shape) in enumerate(dape.mix_shapes(heads).items())}


def seen(n_q, n_k):
    return np.tri(n_q, n_k, n_k - n_q, dtype=bool)


def inputs(n_q, n_k, seed=0):
    return normal(BATCH, HEADS, n_q, n_k, seed=seed), normal(HEADS, n_q, n_k, seed=seed + 1)


def mixed_by_loops(dape, weights, scores, values):
    """The definition, one number at a time: two convolutions along the keys of each query."""
    w_in, b_in, w_out, b_out = (
        weights[f"mix.{n}"].tolist() for n in ("in.weight", "in.bias", "out.weight", "out.bias")
    )
    batch, heads, n_q, n_k = scores.shape
    half, extra = dape.kernel // 2, np.zeros(scores.shape)

    def channel(b, c, i, j):
        if not 0 <= j <= i + n_k - n_q:
            return 0.0
        return float(scores[b, c, i, j] if c < heads else values[c - heads, i, j])

    def hidden(b, unit, i, j):
        if j < 0 or (j >= n_k and dape.edge == "padded"):
            return 0.0
        total = b_in[unit]
        for c in range(2 * heads):
            for t in range(dape.kernel):
                total += w_in[unit][c][t] * channel(b, c, i, j + t - half)
        return total if total > 0 else dape.negative_slope * total

    for b in range(batch):
        for i in range(n_q):
            last = i + n_k - n_q
            units = {(u, j): hidden(b, u, i, j) for u in range(dape.width) for j in range(-half, last + half + 1)}
            for h in range(heads):
                for j in range(last + 1):
                    extra[b, h, i, j] = b_out[h] + sum(
                        w_out[h][u][t] * units[u, j + t - half] for u in range(dape.width) for t in range(dape.kernel)
                    )
    return extra


@every_form
@pytest.mark.parametrize(("n_q", "n_k"), SIZES)
def test_the_network_is_two_convolutions_over_the_keys(n_q, n_k, kernel, edge):
    dape = DAPE(ALiBi(), WIDTH, kernel, edge=edge)
    weights, (scores, values) = mix_weights(dape), inputs(n_q, n_k)
    extra, _ = dape.mix_forward(weights, scores, values)
    assert np.abs(extra - mixed_by_loops(dape, weights, scores, values)).max() <= FLOAT64
    assert np.all(extra[..., ~seen(n_q, n_k)] == 0)


def test_kernel_1_is_an_mlp_over_the_heads():
    dape = DAPE(ALiBi(), WIDTH)
    weights, (scores, values) = mix_weights(dape), inputs(LENGTH, LENGTH)
    both = np.concatenate([scores, np.broadcast_to(values, scores.shape)], axis=1).transpose(0, 2, 3, 1)
    hidden = both @ weights["mix.in.weight"][..., 0].T + weights["mix.in.bias"]
    out = np.where(hidden > 0, hidden, 0.01 * hidden) @ weights["mix.out.weight"][..., 0].T + weights["mix.out.bias"]
    extra, _ = dape.mix_forward(weights, scores, values)
    assert np.abs(extra - out.transpose(0, 3, 1, 2))[..., seen(LENGTH, LENGTH)].max() <= FLOAT64


@every_form
def test_no_query_sees_a_key_after_it(kernel, edge):
    """Other numbers for masked pairs, infinite ones too, change no bit; a number of a seen pair changes its query's."""
    dape = DAPE(ALiBi(), WIDTH, kernel, edge=edge)
    weights, (scores, values), (others, other_values) = mix_weights(dape), inputs(5, LENGTH), inputs(5, LENGTH, seed=7)
    mask, dextra = seen(5, LENGTH), normal(BATCH, HEADS, 5, LENGTH, seed=3)
    others[:, :, 0, -1], other_values[:, 0, -1], others[:, :, 1, -1] = np.inf, np.nan, -np.inf
    spoilt, spoilt_values = np.where(mask, scores, others), np.where(mask, values, other_values)
    extra, saved = dape.mix_forward(weights, scores, values)
    same, spoilt_saved = dape.mix_forward(weights, spoilt, spoilt_values)
    assert np.array_equal(extra, same)
    spoilt_dextra = np.where(mask, dextra, np.nan)
    expected = dape.mix_backward(dextra, saved, weights)
    results = dape.mix_backward(spoilt_dextra, spoilt_saved, weights)
    for result, right in zip((*results[:2], *results[2].values()), (*expected[:2], *expected[2].values()), strict=True):
        assert np.array_equal(result, right)
    for gradient in results[:2]:
        assert np.all(gradient[..., ~mask] == 0)
    for i in range(5):
        changed = scores.copy()
        changed[:, :, i, 4] += 1
        moved = np.abs(dape.mix_forward(weights, changed, values)[0] - extra).max(axis=(0, 1)) > 0
        reach = abs(np.arange(LENGTH) - 4) <= 2 * (kernel // 2)
        assert np.array_equal(moved, (np.arange(5) == i)[:, None] & reach & mask)


@pytest.mark.parametrize("kernel", KERNELS)
def test_with_open_edges_a_query_is_the_same_in_a_longer_text_and_from_a_cache(kernel):
    dape = DAPE(ALiBi(), WIDTH, kernel)
    weights, (scores, values) = mix_weights(dape), inputs(LENGTH, LENGTH)
    whole, _ = dape.mix_forward(weights, scores, values)
    for n in range(1, LENGTH + 1):
        prefix, _ = dape.mix_forward(weights, scores[..., :n, :n], values[..., :n, :n])
        assert np.abs(whole[..., :n, :n] - prefix).max() <= FLOAT64
        last, _ = dape.mix_forward(weights, scores[..., n - 1 : n, :n], values[..., n - 1 : n, :n])
        assert np.abs(whole[..., n - 1 : n, :n] - last).max() <= FLOAT64


@pytest.mark.parametrize("kernel", KERNELS)
def test_padded_edges_change_the_last_queries_alone(kernel):
    weights, (scores, values) = mix_weights(DAPE(ALiBi(), WIDTH, kernel)), inputs(LENGTH, LENGTH)
    ours, theirs = (
        DAPE(ALiBi(), WIDTH, kernel, edge=edge).mix_forward(weights, scores, values)[0] for edge in ("open", "padded")
    )
    differ = np.abs(ours - theirs).max(axis=(0, 1)) > FLOAT64
    assert np.array_equal(differ.any(axis=1), np.arange(LENGTH) >= LENGTH - kernel // 2)
    assert np.array_equal(differ.any(axis=0), np.arange(LENGTH) >= LENGTH - kernel // 2)


@every_form
@pytest.mark.parametrize(("n_q", "n_k"), [(1, 1), (1, 5), (3, 5), (LENGTH, LENGTH)])
def test_gradients_are_those_of_differences_and_a_longer_one_is_refused(n_q, n_k, kernel, edge):
    dape = DAPE(ALiBi(), WIDTH, kernel, edge=edge)
    weights, (scores, values) = mix_weights(dape), inputs(n_q, n_k)
    dextra = normal(BATCH, HEADS, n_q, n_k, seed=9)
    _, saved = dape.mix_forward(weights, scores, values)
    assert saved[0] is scores
    assert saved[1] is values
    dscores, dvalues, grads = dape.mix_backward(dextra, saved, weights)
    assert {name: g.shape for name, g in grads.items()} == dape.mix_shapes(HEADS)
    everything = {**weights, "scores": scores, "values": values}
    grads = {**grads, "scores": dscores, "values": dvalues}

    def loss(variables):
        return float(np.sum(dextra * dape.mix_forward(variables, variables["scores"], variables["values"])[0]))

    assert gradient_error(loss, everything, grads, step=STEP) <= DIFFERENCES
    for name, gradient in grads.items():
        assert gradient_error(loss, everything, {name: 1.001 * gradient}, step=STEP) > WRONG, name


@every_form
@pytest.mark.parametrize("block", [1, 200, 10**7])
def test_the_blocks_of_queries_change_nothing(block, kernel, edge, monkeypatch):
    dape = DAPE(ALiBi(), WIDTH, kernel, edge=edge)
    weights, (scores, values) = mix_weights(dape), inputs(7, LENGTH)
    dextra = normal(BATCH, HEADS, 7, LENGTH, seed=9)

    def everything():
        extra, saved = dape.mix_forward(weights, scores, values)
        dscores, dvalues, grads = dape.mix_backward(dextra, saved, weights)
        return [extra, dscores, dvalues, *grads.values()]

    monkeypatch.setattr(module, "_BLOCK", BATCH * WIDTH * 24)  # 24 pairs: three queries, then two, then one at a time
    rows = [block.rows for block in dape._blocks(scores.shape)]
    assert rows == [3, 2, 2]
    expected = everything()
    monkeypatch.setattr(module, "_BLOCK", block)
    for result, right in zip(everything(), expected, strict=True):
        assert np.abs(result - right).max() <= ORDER * max(1, np.abs(right).max())


@pytest.mark.parametrize("kernel", KERNELS)
def test_strided_arguments_are_read_as_they_are(kernel):
    dape = DAPE(ALiBi(), WIDTH, kernel)
    weights, (scores, values) = mix_weights(dape), inputs(5, LENGTH)
    dextra = normal(BATCH, HEADS, 5, LENGTH, seed=9)
    extra, saved = dape.mix_forward(weights, scores, values)
    expected = dape.mix_backward(dextra, saved, weights)
    strided = [np.asfortranarray(x) for x in (scores, values, dextra)]
    other, saved = dape.mix_forward({n: np.asfortranarray(w) for n, w in weights.items()}, *strided[:2])
    assert np.abs(other - extra).max() <= FLOAT64
    results = dape.mix_backward(strided[2], saved, weights)
    for result, right in zip((*results[:2], *results[2].values()), (*expected[:2], *expected[2].values()), strict=True):
        assert np.abs(result - right).max() <= ORDER * max(1, np.abs(right).max())


@every_form
def test_float32_is_float64_rounded(kernel, edge):
    dape = DAPE(ALiBi(), WIDTH, kernel, edge=edge)
    weights, (scores, values) = mix_weights(dape), inputs(LENGTH, LENGTH)
    dextra = normal(BATCH, HEADS, LENGTH, LENGTH, seed=9)
    results = []
    for dtype in (np.float32, np.float64):
        cast = {name: w.astype(np.float32).astype(dtype) for name, w in weights.items()}
        arrays = [x.astype(np.float32).astype(dtype) for x in (scores, values, dextra)]
        extra, saved = dape.mix_forward(cast, *arrays[:2])
        dscores, dvalues, grads = dape.mix_backward(arrays[2], saved, cast)
        results.append([extra, dscores, dvalues, *grads.values()])
    for short, exact in zip(*results, strict=True):
        assert short.dtype == np.float32
        assert np.abs(short - exact).max() <= FLOAT32 * max(1, np.abs(exact).max())


@every_form
@pytest.mark.parametrize(("batch", "n_q", "n_k"), [(0, 5, 5), (2, 0, 5), (2, 0, 0)])
def test_nothing_comes_of_no_sequences_and_no_queries(batch, n_q, n_k, kernel, edge):
    dape = DAPE(ALiBi(), WIDTH, kernel, edge=edge)
    weights, scores, values = mix_weights(dape), np.zeros((batch, HEADS, n_q, n_k)), np.zeros((HEADS, n_q, n_k))
    extra, saved = dape.mix_forward(weights, scores, values)
    dscores, dvalues, grads = dape.mix_backward(extra, saved, weights)
    assert extra.shape == dscores.shape == scores.shape
    assert np.array_equal(dvalues, values)
    assert not any(gradient.any() for gradient in grads.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_q", [1, 4, LENGTH])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bias", [ALiBi(), T5Bias(8, 9), Kerple(), Kerple("power"), FIRE(5, 4.0)], ids=repr)
def test_attention_trains_all_weights_and_the_queries_through_the_network(bias, kernel, n_q, backend):
    """Scores -> extra -> bias of the attention, whose scores are the same: q and k get gradients from both."""
    ops, dape = operations(backend), DAPE(bias, WIDTH, kernel)
    head_dim = 2
    q, k, v, dout = (normal(BATCH, HEADS, n, head_dim, seed=i) for i, n in enumerate((n_q, LENGTH, LENGTH, n_q)))
    queries = np.arange(LENGTH - n_q, LENGTH)[:, None]
    distances = queries - np.arange(LENGTH)
    weights = dape.initial(HEADS, bit_source(3, "dape")) | {"q": q, "k": k}
    if "multiplier" in weights:
        weights["multiplier"] = np.array([0.93])  # away from where FIRE's maximum changes over
    scale, direct = 0.4, normal(BATCH, HEADS, n_q, LENGTH, seed=8) * seen(n_q, LENGTH)

    def forward(variables):
        scores = scale * variables["q"] @ np.swapaxes(variables["k"], -1, -2)
        values = bias.forward(variables, HEADS, distances, queries)
        extra, saved = dape.mix_forward(variables, scores, values)
        total = values + extra
        out, lse = ops.attention_forward(variables["q"], variables["k"], v, scale=scale, bias=total)
        return out, lse, total, saved

    def loss(variables):
        # Softmax does not see what all keys of a query share: the second term leaves no weight without a gradient.
        out, _, total, _ = forward(variables)
        return float(np.sum(dout * out) + np.sum(direct * total))

    out, lse, total, saved = forward(weights)
    dtotal = np.zeros(total.shape)
    dq, dk, _ = ops.attention_backward(dout, q, k, v, out, lse, scale=scale, bias=total, dbias=dtotal)
    dtotal += direct
    dscores, dvalues, grads = dape.mix_backward(dtotal, saved, weights)  # total = values + extra
    grads |= bias.backward(dtotal.sum(axis=0) + dvalues, weights, HEADS, distances, queries)
    grads["q"] = dq + scale * dscores @ k
    grads["k"] = dk + scale * np.swapaxes(dscores, -1, -2) @ q
    assert set(grads) == {*dape.shapes(HEADS), "q", "k"}
    assert gradient_error(loss, weights, grads, step=STEP) <= DIFFERENCES
    assert gradient_error(loss, weights, {"q": dq, "k": dk}, step=STEP) > WRONG  # the network's share is missing


def test_it_starts_as_pytorchs_layers_do():
    dape = DAPE(Kerple(), width=211, kernel=3)
    weights = dape.initial(5, bit_source(1))
    assert {name: w.shape for name, w in weights.items()} == dape.shapes(5)
    assert list(weights)[:2] == ["p", "a"]
    for name, inputs_of in (("in", 10), ("out", 211)):
        for part in ("weight", "bias"):
            numbers = weights[f"mix.{name}.{part}"] * (inputs_of * 3) ** 0.5
            assert np.abs(numbers).max() <= 1
            assert np.ptp(numbers) > 0.5
            assert abs(numbers.mean()) < 4 * (3 * numbers.size) ** -0.5  # four deviations of a mean
    assert np.abs(weights["mix.in.weight"]).max() > 0.99 * 30**-0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DAPE("alibi"), "DAPE: bias is 'alibi', expected a position bias such as ALiBi()"),
        (lambda: DAPE(ALiBi(), 0), "DAPE: width is 0, expected an integer >= 1"),
        (lambda: DAPE(ALiBi(), kernel=2), "DAPE: kernel is 2, expected an odd number"),
        (lambda: DAPE(ALiBi(), kernel=-1), "DAPE: kernel is -1, expected an integer >= 1"),
        (lambda: DAPE(ALiBi(), negative_slope=-0.1), "DAPE: negative_slope is -0.1, expected a number in [0, 1]"),
        (lambda: DAPE(ALiBi(), edge="opem"), "DAPE: unknown edge 'opem'; did you mean 'open'? known: open, padded"),
        (lambda: DAPE(ALiBi()).mix_shapes(0), "DAPE.mix_shapes: heads is 0, expected an integer >= 1"),
    ],
)
def test_bad_fields_are_named(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_arrays_that_do_not_fit_are_named():
    dape = DAPE(ALiBi(), WIDTH)
    weights, (scores, values) = mix_weights(dape), inputs(5, LENGTH)

    def refused(message, *arguments, call=dape.mix_forward):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(*arguments)

    wanted = "expected float32 or float64 (B, H, T_q, T_k), T_q <= T_k"
    refused(f"DAPE.mix_forward: scores is float64(3, 5, 11), {wanted}", weights, scores[0], values)
    turned = np.swapaxes(scores, -1, -2)
    refused(f"DAPE.mix_forward: scores is float64(2, 3, 11, 5), {wanted}", weights, turned, values)
    message = "DAPE.mix_forward: values is float32(3, 5, 11), expected float64(3, 5, 11)"
    refused(message, weights, scores, values.astype(np.float32))
    message = "DAPE.mix_forward: weights['mix.in.weight'] is float64(7, 6, 1), expected float32 or float64(7, 4, 1)"
    refused(message, weights, scores[:, :2], values[:2])
    short = [x.astype(np.float32) for x in (scores, values)]
    refused("DAPE.mix_forward: weights are float64, expected float32 like scores", weights, *short)
    message = "DAPE.mix_backward: dextra is float64(3, 5, 11), expected float64(2, 3, 5, 11)"
    refused(message, scores[0], (scores, values), weights, call=dape.mix_backward)


def test_its_name_says_what_it_mixes():
    assert DAPE(Kerple()).name == "DAPE(Kerple)"
    assert dict(DAPE(ALiBi()).shapes(3)) == DAPE(ALiBi()).mix_shapes(3)
