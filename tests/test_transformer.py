"""The whole model: gradients, causality, backends, memory."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from conftest import BACKENDS

from refrope import Resonance, RoPE, Transformer, TransformerConfig, XPos
from refrope.evaluate import stream_logits
from refrope.methods import Lengths, configuration_of, encoding_of
from refrope.nn import layers
from refrope.nn.attending import rotation_of
from refrope.nn.gradcheck import gradient_error

# Five-point differences in float64 through two layers.
GRADIENT = 1e-7
# Both backends in float64: the order of sums differs.
BACKENDS64 = 1e-12
# The same in float32, logits of size one through two layers.
BACKENDS32 = 2e-5
SMALL = TransformerConfig(vocabulary=11, d_model=10, heads=3, head_dim=6, d_ff=14, layers=2)
DROPPING = TransformerConfig(vocabulary=11, d_model=10, heads=3, head_dim=6, d_ff=14, layers=2, dropout=0.2)


def tokens(batch=2, length=7, seed=0):
    return np.random.default_rng(seed).integers(0, 11, (batch, length))


def tables(length=7, dtype=np.float64):
    return RoPE(6).cos_sin(np.arange(length), dtype)


def loss_and_gradients(model, inputs, targets, weights, seed):
    logits = model.forward(inputs, tables(), dropout_seed=seed, keep=True)
    loss, probabilities = layers.cross_entropy_forward(logits.reshape(-1, 11), targets, weights)
    gradients = model.backward(layers.cross_entropy_backward(probabilities, targets, weights))
    return loss, {name: value.copy() for name, value in gradients.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("config", [SMALL, DROPPING], ids=["plain", "dropout"])
def test_every_gradient_of_the_model(backend, config):
    model = Transformer(config, seed=1, backend=backend, dtype=np.float64)
    generator = np.random.default_rng(1)
    targets, weights = generator.integers(0, 11, 14), np.arange(14) % 3.0
    seed = 5 if config.dropout else None
    start = {name: value.copy() for name, value in model.params.items()}

    def loss(params):
        for name, value in params.items():
            model.params[name][...] = value
        logits = model.forward(tokens(), tables(), dropout_seed=seed)
        return layers.cross_entropy_forward(logits.reshape(-1, 11), targets, weights)[0]

    _, gradients = loss_and_gradients(model, tokens(), targets, weights, seed)
    assert set(gradients) == set(config.shapes())
    for name, gradient in gradients.items():
        assert np.abs(gradient).max() > 0, name
        assert gradient_error(loss, start, {name: gradient}) < GRADIENT, name


@pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, BACKENDS64), (np.float32, BACKENDS32)])
@pytest.mark.parametrize("config", [SMALL, DROPPING], ids=["plain", "dropout"])
def test_backends_agree(config, dtype, bound):
    results = []
    for backend in ("numpy", "c"):
        model = Transformer(config, seed=1, backend=backend, dtype=dtype)
        seed = 2**40 if config.dropout else None
        logits = model.forward(tokens(), tables(dtype=dtype), dropout_seed=seed, keep=True).copy()
        gradients = model.backward(logits - 1)
        results.append({"logits": logits, **{name: value.copy() for name, value in gradients.items()}})
    for name, slow in results[0].items():
        assert slow.dtype == dtype
        assert np.abs(results[1][name] - slow).max() <= bound * max(1, np.abs(slow).max()), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_changing_a_token_changes_no_output_before_it(backend):
    model = Transformer(SMALL, seed=1, backend=backend)
    before = model.forward(tokens(), tables(dtype=np.float32)).copy()
    for t in range(7):
        changed = tokens()
        changed[0, t] = (changed[0, t] + 1) % 11
        after = model.forward(changed, tables(dtype=np.float32))
        assert np.array_equal(after[0, :t], before[0, :t])
        assert (after[0, t] != before[0, t]).any()
        assert np.array_equal(after[1], before[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_keeping_for_backward_changes_no_logit(backend):
    model = Transformer(SMALL, seed=1, backend=backend)
    kept = model.forward(tokens(), tables(dtype=np.float32), keep=True).copy()
    assert np.array_equal(model.forward(tokens(), tables(dtype=np.float32)), kept)


# Whatever may tell a model positions.
WAYS = ["rope", "window", "rerope", "self-extend", "dca", "t5", "alibi", "fire", "dape-v2", "sinusoidal", "nope"]


def forward_with_weights(way, backend, dropout=0.0):
    """A model that has read 3 texts of 19 tokens, more than a value has features, and its attention weights."""
    config = replace(configuration_of(way, SMALL, 8, 19), dropout=dropout)
    model = Transformer(config, seed=1, backend=backend, dtype=np.float64)
    turning = rotation_of(encoding_of(way, 6, Lengths(8, 19)), 19, np.float64)
    logits = model.forward(tokens(3, 19), turning, dropout_seed=5 if dropout else None, keep=True).copy()
    given = [model.attention_weights(layer) for layer in range(2)]
    assert [each.shape for each in given] == [(3, 3, 19, 19)] * 2
    return model, logits, given


def values(normed, model, layer):
    """The values (B, H, T, D) of normed activations (B, T, d_model)."""
    v = (normed @ model.params[f"layers.{layer}.attention.qkv"])[..., 36:]
    return v.reshape(3, 19, 3, 6).swapaxes(1, 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_the_logits_follow_from_the_attention_weights(way, backend):
    model, logits, given = forward_with_weights(way, backend)
    p, x = model.params, model.params["embedding"][tokens(3, 19)]
    if model.config.absolute is not None:
        x = x + model.config.absolute.table(np.arange(19), 10)

    def norm(x, gain):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + model.config.eps) * p[gain]

    for i, weights in enumerate(given):
        assert np.abs(weights.sum(axis=-1) - 1).max() < BACKENDS64
        assert (weights >= 0).all()
        assert not np.triu(weights, 1).any()
        # The layer without queries and keys, and all that turns them or is added to their products.
        mixed = (weights @ values(norm(x, f"layers.{i}.attention.gain"), model, i)).swapaxes(1, 2).reshape(3, 19, 18)
        x = x + mixed @ p[f"layers.{i}.attention.out"]
        inner = norm(x, f"layers.{i}.feed_forward.gain") @ p[f"layers.{i}.feed_forward.in"]
        x = x + np.maximum(inner, 0) @ p[f"layers.{i}.feed_forward.out"]
    again = norm(x, "final.gain") @ p["embedding"].T / np.sqrt(10)
    assert np.abs(again - logits).max() < BACKENDS64 * np.abs(logits).max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", ["rope", "rerope", "dape-v2"])
def test_attention_weights_have_the_dropout_of_the_forward_pass(way, backend):
    model, _, given = forward_with_weights(way, backend, dropout=0.2)
    for i, weights in enumerate(given):
        _, n, _, _, o_rows, _ = model._saved[f"layers.{i}.attention"]
        mixed = (weights @ values(n.reshape(3, 19, 10), model, i)).swapaxes(1, 2).reshape(-1, 18)
        assert np.abs(mixed - o_rows).max() < BACKENDS64
        assert (weights[np.broadcast_to(np.tri(19, dtype=bool), weights.shape)] == 0).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_step_needs_no_new_buffers(backend):
    model = Transformer(SMALL, seed=1, backend=backend)
    for _ in range(2):
        logits = model.forward(tokens(), tables(dtype=np.float32), keep=True)
        model.backward(logits.copy())
        held = model.buffers.nbytes
    model.forward(tokens(), tables(dtype=np.float32), keep=True)
    assert model.buffers.nbytes == held


def test_initial_weights_are_those_of_t5():
    config = TransformerConfig(d_model=256, heads=4, d_ff=1024)
    model = Transformer(config, seed=3, backend="numpy")
    inner = 256
    q, k, v = np.split(model.params["layers.1.attention.qkv"], 3, axis=1)
    expected = [(q, (256 * 64) ** -0.5), (k, 256**-0.5), (v, 256**-0.5)]
    expected += [(model.params["layers.0.attention.out"], inner**-0.5), (model.params["embedding"], 1.0)]
    expected += [
        (model.params["layers.0.feed_forward.in"], 256**-0.5),
        (model.params["layers.0.feed_forward.out"], 1024**-0.5),
    ]
    for weight, deviation in expected:
        assert abs(weight.mean()) < 5 * deviation / weight.size**0.5
        assert weight.std() == pytest.approx(deviation, rel=5 / (2 * weight.size) ** 0.5)
    assert (model.params["final.gain"] == 1).all()


def test_the_papers_model_has_its_6_3_million_weights():
    shapes = TransformerConfig(d_model=512, heads=8, d_ff=2048).shapes()
    assert sum(np.prod(s) for s in shapes.values()) == 6_303_232


def test_initial_weights_depend_on_the_seed_and_not_on_the_backend():
    weights = [
        Transformer(SMALL, seed=seed, backend=b).flat_params
        for seed, b in ((1, "numpy"), (1, BACKENDS[-1]), (2, "numpy"))
    ]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_positions_enter_through_the_tables_alone():
    model = Transformer(SMALL, seed=1, backend="numpy", dtype=np.float64)
    plain = model.forward(tokens(), tables()).copy()
    shifted = RoPE(6).cos_sin(np.arange(7) + 1000, np.float64)
    assert np.allclose(model.forward(tokens(), shifted), plain, atol=1e-9)  # only distances count
    resonance = Resonance(RoPE(6)).cos_sin(np.arange(7), np.float64)
    assert not np.allclose(model.forward(tokens(), resonance), plain, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda m: m.forward(tokens() + 5, tables()),
            r"Transformer\.forward: tokens hold 15, expected values in \[0, 11\)",
        ),
        (lambda m: m.forward(tokens() - 3, tables()), r"Transformer\.forward: tokens hold -3"),
        (lambda m: m.forward(np.array([[0, 11]]), tables()), r"Transformer\.forward: tokens hold 11, expected values"),
        (lambda m: m.forward(np.array([[-1, 11]]), tables()), r"Transformer\.forward: tokens hold -1, expected values"),
        (
            lambda m: m.forward(tokens().astype(float), tables()),
            r"tokens are float64\(2, 7\), expected integers \(B, T\)",
        ),
        (lambda m: m.forward(tokens()[0], tables()), r"tokens are int64\(7,\)"),
        (lambda m: m.forward(tokens()[None], tables()), r"tokens are int64\(1, 2, 7\), expected integers \(B, T\)"),
        (
            lambda m: m.forward(tokens(), tables(dtype=np.float32)),
            r"rotate: cos is float32\(7, 3\), expected float64\(7, r/2\)",
        ),
        (lambda m: m.forward(tokens(), tables(8)), r"rotate: cos is float64\(8, 3\), expected float64\(7, r/2\)"),
        (lambda m: m.backward(np.zeros((2, 7, 11))), r"expected forward\(..., keep=True\) before"),
        (
            lambda m: m.attention_weights(0),
            r"attention_weights: nothing kept, expected forward\(..., keep=True\) before",
        ),
        (lambda m: m.attention_weights(2), r"attention_weights: layer is 2, expected an integer in \[0, 1\]"),
        (lambda m: Transformer(SMALL, seed=1, backend="cuda"), "unknown backend 'cuda'"),
        (lambda m: Transformer(SMALL, seed=1, dtype=np.float16), "dtype is float16, expected float32 or float64"),
        (lambda m: Transformer(SMALL, seed=-1), "seed is -1"),
        (lambda m: TransformerConfig(head_dim=7), "head_dim is 7, expected an even number"),
        (lambda m: TransformerConfig(layers=0), "layers is 0, expected an integer >= 1"),
        (lambda m: TransformerConfig(dropout=1.0), r"expected a number in \[0, 1\)"),
    ],
)
def test_wrong_calls_are_explained(call, words):
    model = Transformer(SMALL, seed=1, backend="numpy", dtype=np.float64)
    with pytest.raises(ValueError, match=words):
        call(model)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_a_whole_model(backend, again):
    model = Transformer(SMALL, seed=1, backend=backend, dtype=np.float64)
    logits = model.forward(tokens(), tables(), keep=True).copy()
    assert len(model.replicas(2)) == 2
    other = again(model)
    assert np.array_equal(other.forward(tokens(), tables()), logits)
    assert all(np.shares_memory(weight, other.flat_params) for weight in other.params.values())
    assert np.shares_memory(other.flat_params, model.flat_params) == (again is copy.copy)
    other.flat_params *= 0.5
    assert not np.allclose(other.forward(tokens(), tables()), logits)
    if again is not copy.copy:
        assert np.array_equal(model.forward(tokens(), tables()), logits)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_sequences_are_an_error_and_no_tokens_are_none(backend):
    model = Transformer(SMALL, seed=1, backend=backend, dtype=np.float64)
    with pytest.raises(ValueError, match=r"tokens are int64\(0, 7\), expected integers \(B, T\), B >= 1"):
        model.forward(np.zeros((0, 7), np.int64), tables())
    assert model.forward(np.zeros((2, 0), np.int64), tables(0)).shape == (2, 0, 11)


def test_an_encoding_with_two_rotations_is_refused():
    for encoding in (XPos(6), Resonance(XPos(6))):
        with pytest.raises(ValueError, match=r"rotation_of: .* turns queries and keys differently"):
            rotation_of(encoding, 7, np.float64)
        with pytest.raises(ValueError, match=r"stream_logits: .* turns queries and keys differently"):
            next(stream_logits(Transformer(SMALL, seed=1), encoding, np.arange(5)))
