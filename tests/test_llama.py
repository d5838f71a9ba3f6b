"""Llama's architecture: held to its published formulas, to differences, and to itself in pieces."""

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import BACKENDS, same_bits

from refrope import RoPE, Transformer, TransformerConfig
from refrope.nn import KVCache, layers
from refrope.nn.attending import ByLayer
from refrope.nn.gradcheck import gradient_error
from refrope.sweep.runs import as_json

# Float64 through two layers, sums in another order.
FORMULAS = 1e-10
PIECES = 1e-12
# Five-point differences in float64 through two layers.
GRADIENT = 1e-7
LENGTH, HEAD_DIM, VOCABULARY = 13, 10, 19
LLAMA = TransformerConfig(
    vocabulary=VOCABULARY,
    d_model=14,
    heads=6,
    head_dim=HEAD_DIM,
    d_ff=22,
    layers=2,
    eps=1e-5,
    softmax_scale=None,
    kv_heads=2,
    feed_forward="swiglu",
    tied=False,
    head_scale=1.0,
)
SIZES = {
    "untied": LLAMA,
    "tied": replace(LLAMA, tied=True),
    "one key head": replace(LLAMA, kv_heads=1),
    "ungrouped": replace(LLAMA, kv_heads=None),
    "scaled logits": replace(LLAMA, head_scale=0.25),
}
both = pytest.mark.parametrize("backend", BACKENDS)
every = pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)


def tokens(batch=3, length=LENGTH):
    return np.random.default_rng(4).integers(0, VOCABULARY, (batch, length))


def tables(encoding=None, start=0, stop=LENGTH):
    return (encoding or RoPE(HEAD_DIM)).cos_sin(np.arange(start, stop), np.float64)


def by_layer(start=0, stop=LENGTH):
    """Each layer with an encoding of its own, the second with partial rotation."""
    encodings = RoPE(HEAD_DIM, base=100.0), RoPE(HEAD_DIM, rotary_dim=6)
    return ByLayer(tuple(tables(each, start, stop) for each in encodings))


def built(config, backend, seed=1):
    """A model whose gains are not all one."""
    model = Transformer(config, seed=seed, backend=backend, dtype=np.float64)
    numbers = np.random.default_rng(seed)
    for name, weight in model.params.items():
        if name.endswith("gain"):
            weight += 0.3 * numbers.standard_normal(weight.shape)
    return model


def llama(params, config, text, base):
    """Logits of one text, number by number from the papers' formulas: slow, and nothing of refrope's in it."""

    def norm(x, gain):  # Zhang and Sennrich 2019, Eq. 4
        return np.array([gain * row / math.sqrt(sum(v * v for v in row) / len(row) + config.eps) for row in x])

    def turned(x, position):  # Su et al. 2021, Eq. 15, with pair j in features j and j + d/2
        half = config.head_dim // 2
        matrix = np.zeros((config.head_dim, config.head_dim))
        for j in range(half):
            angle = position * base ** (-2 * j / config.head_dim)
            matrix[j, j] = matrix[half + j, half + j] = math.cos(angle)
            matrix[half + j, j], matrix[j, half + j] = math.sin(angle), -math.sin(angle)
        return matrix @ x

    d, keys = config.head_dim, config.kv_heads or config.heads
    x = np.array([params["embedding"][token] for token in text])
    for i in range(config.layers):
        p = f"layers.{i}"
        qkv = norm(x, params[f"{p}.attention.gain"]) @ params[f"{p}.attention.qkv"]
        to_keys, to_values = config.heads * d, (config.heads + keys) * d
        mixed = np.zeros((len(text), config.heads * d))
        for h in range(config.heads):
            group = h * keys // config.heads  # Ainslie et al. 2023, Figure 2: heads side by side share a key
            q = [turned(row[h * d : (h + 1) * d], m) for m, row in enumerate(qkv)]
            k = [turned(row[to_keys + group * d :][:d], m) for m, row in enumerate(qkv)]
            v = [row[to_values + group * d :][:d] for row in qkv]
            for m in range(len(text)):  # Vaswani et al. 2017, Eq. 1, over the tokens so far
                weights = [math.exp(q[m] @ k[n] / math.sqrt(d)) for n in range(m + 1)]
                mixed[m, h * d : (h + 1) * d] = sum(w * v[n] for n, w in enumerate(weights)) / sum(weights)
        x = x + mixed @ params[f"{p}.attention.out"]
        both_halves = norm(x, params[f"{p}.feed_forward.gain"]) @ params[f"{p}.feed_forward.in"]
        gate, up = both_halves[:, : config.d_ff], both_halves[:, config.d_ff :]
        x = x + (gate / (1 + np.exp(-gate)) * up) @ params[f"{p}.feed_forward.out"]  # Shazeer 2020, Eq. 6
    head = params["embedding" if config.tied else "head"]
    return config.head_scale * norm(x, params["final.gain"]) @ head.T


@both
@every
def test_the_logits_are_those_of_the_published_formulas(config, backend):
    model = built(config, backend)
    logits = model.forward(tokens(), tables(RoPE(HEAD_DIM, base=500.0)))
    for text, found in zip(tokens(), logits, strict=True):
        np.testing.assert_allclose(found, llama(model.params, config, text, 500.0), rtol=0, atol=FORMULAS)


def case(model, turning):
    """Loss as a function of the weights, the weights, and the gradients of `backward`."""
    numbers = np.random.default_rng(1)
    targets, weights = numbers.integers(0, VOCABULARY, tokens().size), np.arange(tokens().size) % 3.0
    seed = 5 if model.config.dropout else None
    start = {name: value.copy() for name, value in model.params.items()}

    def forward(**options):
        logits = model.forward(tokens(), turning, dropout_seed=seed, **options)
        return layers.cross_entropy_forward(logits.reshape(-1, VOCABULARY), targets, weights)

    def loss(params):
        for name, value in params.items():
            model.params[name][...] = value
        return forward()[0]

    gradients = model.backward(layers.cross_entropy_backward(forward(keep=True)[1], targets, weights))
    return loss, start, {name: value.copy() for name, value in gradients.items()}


@both
@pytest.mark.parametrize("turning", [tables(), by_layer()], ids=["one rotation", "by layer"])
@pytest.mark.parametrize("config", [*SIZES.values(), replace(LLAMA, dropout=0.2)], ids=[*SIZES, "dropout"])
def test_every_gradient_is_that_of_differences(config, turning, backend):
    loss, start, gradients = case(built(config, backend), turning)
    assert list(gradients) == list(config.shapes())
    for name, gradient in gradients.items():
        assert np.abs(gradient).max() > 0, name
        assert gradient_error(loss, start, {name: gradient}) < GRADIENT, name


@pytest.mark.skipif("c" not in BACKENDS, reason="the C kernels are not built")
@every
def test_backends_agree(config):
    (_, _, slow), (_, _, fast) = (case(built(config, backend), by_layer()) for backend in ("numpy", "c"))
    for name, gradient in slow.items():
        np.testing.assert_allclose(fast[name], gradient, rtol=0, atol=PIECES * np.abs(gradient).max(), err_msg=name)


@both
def test_keeping_for_backward_changes_no_logit(backend):
    model = built(LLAMA, backend)
    kept = model.forward(tokens(), tables(), keep=True).copy()
    assert same_bits(model.forward(tokens(), tables()), kept)


@both
@every
def test_prefill_and_decode_give_the_logits_of_the_whole(config, backend):
    model = built(config, backend)
    for turning in (lambda a, b: tables(start=a, stop=b), by_layer):
        whole = model.forward(tokens(), turning(0, LENGTH)).copy()
        cache, pieces = KVCache(config, batch=3, capacity=LENGTH, dtype=np.float64), []
        for a, b in ((0, 7), (7, 10), *((t, t + 1) for t in range(10, LENGTH))):
            pieces.append(model.forward(tokens()[:, a:b], turning(a, b), cache=cache).copy())
        assert cache.keys.shape == (2, 3, config.kv_heads or 6, LENGTH, HEAD_DIM)
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=0, atol=PIECES)


@both
@pytest.mark.parametrize("last", [0, 1, 5, LENGTH])
def test_the_last_logits_alone_are_those_of_the_whole(last, backend):
    model = built(LLAMA, backend)
    whole = model.forward(tokens(), tables()).copy()
    cache = KVCache(LLAMA, batch=3, capacity=LENGTH, dtype=np.float64)
    for options in ({}, {"cache": cache}):
        found = model.forward(tokens(), tables(), last=last, **options)
        assert found.shape == (3, last, VOCABULARY)
        np.testing.assert_allclose(found, whole[:, LENGTH - last :], rtol=0, atol=PIECES)


@both
def test_layers_that_turn_alike_are_one_rotation(backend):
    model = built(LLAMA, backend)
    one = model.forward(tokens(), tables()).copy()
    assert same_bits(model.forward(tokens(), ByLayer((tables(), tables()))), one)
    mixed = model.forward(tokens(), ByLayer((tables(), None))).copy()
    assert np.abs(mixed - one).max() > 1e-3
    assert np.abs(model.forward(tokens(), ByLayer((None, tables()))) - mixed).max() > 1e-3


@both
def test_positions_of_its_own_for_each_text(backend):
    model, places = built(LLAMA, backend), np.random.default_rng(2).integers(0, 99, (3, LENGTH))
    together = model.forward(tokens(), RoPE(HEAD_DIM).cos_sin(places, np.float64)).copy()
    for text, own, found in zip(tokens(), places, together, strict=True):
        alone = model.forward(text[None], RoPE(HEAD_DIM).cos_sin(own, np.float64))[0]
        np.testing.assert_allclose(found, alone, rtol=0, atol=PIECES)


@both
def test_weights_that_are_not_drawn_can_be_filled(backend):
    drawn = built(LLAMA, backend)
    empty = Transformer(LLAMA, seed=None, backend=backend, dtype=np.float64)
    for name, weight in empty.params.items():
        weight[...] = drawn.params[name]
    assert same_bits(empty.flat_params, drawn.flat_params)
    assert same_bits(empty.forward(tokens(), tables()).copy(), drawn.forward(tokens(), tables()))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head_scale", [None, 1.0, 0.1])
def test_logits_have_size_one_at_the_start_whatever_they_are_multiplied_with(tied, head_scale):
    sizes = {"vocabulary": 211, "d_model": 96, "heads": 4, "head_dim": 24, "d_ff": 256, "kv_heads": 2}
    config = replace(LLAMA, **sizes, tied=tied, head_scale=head_scale)
    text = np.random.default_rng(0).integers(0, 211, (2, 64))
    logits = Transformer(config, seed=1).forward(text, RoPE(24).cos_sin(np.arange(64)))
    others = np.arange(211) != text[..., None]  # a tied head knows the token that it has just read
    assert 0.9 < logits[others].std() < 1.1


def test_initial_weights_of_the_new_shapes():
    config = replace(LLAMA, d_model=256, heads=8, head_dim=32, d_ff=512, kv_heads=2, vocabulary=401)
    params = Transformer(config, seed=1).params
    assert params["layers.0.attention.qkv"].shape == (256, 12 * 32)
    assert params["layers.0.feed_forward.in"].shape == (256, 2 * 512)
    for weight, deviation in (
        (params["head"], 256**-0.5),
        (params["embedding"], 1.0),
        *((part, 256**-0.5) for part in np.split(params["layers.1.attention.qkv"], [256, 320], axis=1)),
        *((part, 256**-0.5) for part in np.split(params["layers.0.feed_forward.in"], 2, axis=1)),
        (params["layers.1.feed_forward.out"], 512**-0.5),
    ):
        assert weight.std() == pytest.approx(deviation, rel=0.03)


def test_new_fields_at_their_defaults_change_no_weight_and_no_name_of_a_run():
    plain = TransformerConfig(heads=4)
    same = replace(plain, kv_heads=4, head_scale=128**-0.5)
    assert list(plain.shapes().items()) == list(same.shapes().items())
    assert same_bits(Transformer(plain, seed=3).flat_params, Transformer(same, seed=3).flat_params)
    said = as_json(plain)
    assert not {"kv_heads", "feed_forward", "tied", "head_scale"} & set(said)
    new = as_json(LLAMA)
    assert (new["kv_heads"], new["feed_forward"], new["tied"], new["head_scale"]) == (2, "swiglu", False, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: replace(LLAMA, kv_heads=4), "kv_heads is 4, expected a divisor of heads = 6"),
        (lambda m: replace(LLAMA, kv_heads=0), "kv_heads is 0, expected an integer >= 1"),
        (lambda m: replace(LLAMA, feed_forward="swigl"), "unknown feed_forward 'swigl'; did you mean 'swiglu'?"),
        (lambda m: replace(LLAMA, tied=None), "tied is None, expected True or False"),
        (lambda m: replace(LLAMA, head_scale=0.0), "head_scale is 0.0, expected a number > 0 or None"),
        (lambda m: m.forward(tokens(), tables(), last=14), r"last is 14, expected an integer in \[0, 13\]"),
        (lambda m: m.forward(tokens(), tables(), last=1, keep=True), "last with keep or dropout, expected the logits"),
        (lambda m: m.forward(tokens(), ByLayer((tables(),))), "ByLayer of 1, expected one for each of 2 layers"),
        (lambda m: ByLayer([tables(), tables()]), "expected a tuple, one entry for each layer"),
        (lambda m: ByLayer(()), "expected a tuple, one entry for each layer"),
        (
            lambda m: m.forward(tokens(), ByLayer((tables(), tables(stop=9)))),
            r"rotate: cos is float64\(9, 5\), expected",
        ),
        (
            lambda m: m.forward(tokens(), tables(), cache=KVCache(replace(LLAMA, kv_heads=3), 3, 13, np.float64)),
            r"KVCache: it holds float64\(2, 3, 3, 13, 10\), expected float64\(2, 3, 2, 13, 10\) here",
        ),
    ],
)
def test_wrong_calls_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call(built(LLAMA, BACKENDS[-1]))
