"""Hugging Face's rotary functions, LLaMA and T5, built from configurations and not downloaded, against ours."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.glm import modeling_glm
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.gptj import modeling_gptj
from transformers.models.llama import modeling_llama
from transformers.models.t5 import modeling_t5

from peers.comparison import FORWARD, same, same_gradient
from peers.composed_llama import Llama
from peers.plain_torch import leaf
from refrope import RoPE, Transformer, TransformerConfig, from_huggingface, kernels
from refrope.encodings.huggingface import HuggingFaceWarning
from refrope.nn.backends import NumpyOps

pytestmark = pytest.mark.filterwarnings(f"ignore::{HuggingFaceWarning.__module__}.{HuggingFaceWarning.__name__}")

TWINS = {"numpy": NumpyOps, "c": kernels}
both = pytest.mark.parametrize("backend", TWINS)
# Building a model takes some 20 ms.
few = settings(max_examples=40)

# As it is, transformers takes angles, norms, eager attention's softmax and the loss in float32. Per unit of 2^-24 the
# frequencies are off by up to 40 (a power, and in llama3 a difference), their product with the position by one more;
# cos and sin then by that times the angle, and by two for themselves and their product with the attention factor.
FREQUENCY32 = 2.5e-6
ROUNDING32 = 2.0**-23
# A whole model with such tables, norms and softmax: a dozen roundings of 6e-8, measured 1e-6.
MODEL32 = 5e-6


class InFloat64(TorchFunctionMode):
    """Within it, transformers' code runs as it is written, but each float32 that it asks for is a float64."""

    def __enter__(self):
        torch.set_default_dtype(torch.float64)  # what integers times Python's floats become
        return super().__enter__()

    def __exit__(self, *error):
        torch.set_default_dtype(torch.float32)
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args = [torch.float64 if a is torch.float32 else a for a in args]
        return function(*args, **{n: torch.float64 if a is torch.float32 else a for n, a in (kwargs or {}).items()})


ROPES = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32},
    "yarn, untruncated": {
        "rope_type": "yarn", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 64,
        "mscale": 0.707, "mscale_all_dim": 0.5, "truncate": False,
    },
    "llama3": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    },
    "longrope": {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0],
        "long_factor": [1.0, 3.0, 5.0, 9.0, 17.0, 33.0, 64.0], "original_max_position_embeddings": 64,
    },
}  # fmt: skip
HEAD_DIM = 14


def llama_config(rope="default", *, heads=2, kv_heads=1, head_dim=HEAD_DIM, longest=128, attention="sdpa", **sizes):
    """A configuration with room for `longest` tokens."""
    sizes = {"hidden_size": 11 * heads, "intermediate_size": 37, "num_hidden_layers": 2, "vocab_size": 19, **sizes}
    config = LlamaConfig(
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, max_position_embeddings=longest,
        rope_parameters=dict(ROPES[rope]), use_cache=False, **sizes,
    )  # fmt: skip
    config._attn_implementation = attention
    return config


def tables_of(config, length):
    """Our cos and sin for a configuration of theirs."""
    encoding = from_huggingface(config.to_dict()).for_length(length)
    return encoding.cos_sin(np.arange(length), np.float64)


def randomise(module, seed):
    """Normal weights of a size that keeps activations near one, gains around one, in float64."""
    draw = np.random.default_rng(seed)
    module.double()
    with torch.no_grad():
        for weight in module.parameters():
            spread = weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.3
            weight.copy_(torch.tensor(spread * draw.standard_normal(weight.shape) + (weight.ndim == 1)))
    return module


def arrays(module):
    return {name: weight.detach().numpy().copy() for name, weight in module.named_parameters()}


# ---- rotary tables and rotations ----


def llama_tables(config, length):
    """Their cos and sin (T, head_dim), as a model that reads `length` tokens has them."""
    embedding = modeling_llama.LlamaRotaryEmbedding(config)
    cos, sin = embedding(torch.zeros(1, dtype=torch.float64), torch.arange(length)[None])
    return cos[0], sin[0]


@pytest.mark.parametrize("length", [1, 31, 64, 65, 200])
@pytest.mark.parametrize("rope", ROPES)
def test_tables_of_every_rope_type(rope, length):
    config = llama_config(rope)
    with InFloat64():
        theirs = llama_tables(config, length)
    for table, wide in zip(tables_of(config, length), theirs, strict=True):
        same(np.concatenate([table, table], axis=1), wide)


@pytest.mark.parametrize("length", [1, 31, 64, 65, 200])
@pytest.mark.parametrize("rope", ROPES)
def test_tables_as_shipped_are_off_by_float32(rope, length):
    config = llama_config(rope)
    encoding = from_huggingface(config.to_dict()).for_length(length)
    angles = np.arange(length)[:, None] * encoding.inv_freq
    bound = encoding.attention_factor * (FREQUENCY32 * angles + ROUNDING32)
    for table, wide in zip(tables_of(config, length), llama_tables(config, length), strict=True):
        assert (np.abs(table - wide[:, : HEAD_DIM // 2].numpy()) <= bound).all()


def of_llama(x, cos, sin):
    return modeling_llama.apply_rotary_pos_emb(x, x, *(torch.cat([t, t], dim=-1)[None] for t in (cos, sin)))[0]


def of_gpt_neox(x, cos, sin):
    return modeling_gpt_neox.apply_rotary_pos_emb(x, x, *(torch.cat([t, t], dim=-1)[None] for t in (cos, sin)))[1]


def of_glm(x, cos, sin):
    return modeling_glm.apply_rotary_pos_emb(x, x, *(torch.cat([t, t], dim=-1)[None] for t in (cos, sin)))[0]


def of_gptj(x, cos, sin):
    turned = modeling_gptj.apply_rotary_pos_emb(x[..., : 2 * cos.shape[1]].transpose(1, 2), sin[None], cos[None])
    return torch.cat([turned.transpose(1, 2), x[..., 2 * cos.shape[1] :]], dim=-1)


ROTATIONS = [
    (of_llama, "half", 0),  # LLaMA turns whole heads
    *((of_gpt_neox, "half", rest) for rest in (0, 6)),
    *((of_glm, "interleaved", rest) for rest in (0, 6)),
    *((of_gptj, "interleaved", rest) for rest in (0, 6)),
]


@both
@pytest.mark.parametrize(("rotation", "layout", "rest"), ROTATIONS)
def test_rotations_of_four_models(backend, rotation, layout, rest):
    draw, ops = np.random.default_rng(rest).standard_normal, TWINS[backend]
    x, dy = draw((2, 3, 17, 10 + rest)), draw((2, 3, 17, 10 + rest))
    cos, sin = RoPE(10).cos_sin(np.arange(17) + 5, np.float64)
    leaves = [leaf(x)]
    expected = rotation(leaves[0], torch.tensor(cos), torch.tensor(sin))
    same(ops.rotate(x, cos, sin, layout=layout), expected)
    (expected_dx,) = torch.autograd.grad(expected, leaves, torch.tensor(dy))
    same_gradient(ops.rotate(dy, cos, sin, layout=layout, transpose=True), expected_dx)


# ---- layers ----


@both
@pytest.mark.parametrize("norm", [modeling_llama.LlamaRMSNorm, modeling_t5.T5LayerNorm])
def test_norms(backend, norm):
    draw, ops = np.random.default_rng(1).standard_normal, TWINS[backend]
    x, dy, module = draw((67, 31)), draw((67, 31)), randomise(norm(31, eps=1e-6), 2)
    gain = module.weight.detach().numpy().copy()
    given_x = leaf(x)
    with InFloat64():
        expected = module(given_x)
        expected_dx, expected_dgain = torch.autograd.grad(expected, [given_x, module.weight], torch.tensor(dy))
    y, inv_rms = ops.rmsnorm_forward(x, gain, eps=1e-6)
    same(y, expected)
    dx, dgain = ops.rmsnorm_backward(dy, x, gain, inv_rms)
    same_gradient(dx, expected_dx)
    same_gradient(dgain, expected_dgain)


@both
@pytest.mark.parametrize("gated", [True, False], ids=["llama", "t5"])
def test_feed_forward_layers(backend, gated):
    """LLaMA's gated unit, and T5's first, with ReLU."""
    draw, ops = np.random.default_rng(1).standard_normal, TWINS[backend]
    x, dy = draw((67, 22)), draw((67, 22))
    if gated:
        module = modeling_llama.LlamaMLP(llama_config())
    else:
        module = modeling_t5.T5DenseActDense(T5Config(d_model=22, d_ff=37, dropout_rate=0.0))
    randomise(module, 3)
    given_x, weights = leaf(x), dict(module.named_parameters())
    expected = module(given_x)
    expected_grads = torch.autograd.grad(expected, [given_x, *weights.values()], torch.tensor(dy))
    first, *_, last = (w.detach().numpy().T.copy() for w in weights.values())
    before = ops.linear_forward(x, first)
    if gated:
        middle = weights["up_proj.weight"].detach().numpy().T.copy()
        up = ops.linear_forward(x, middle)
        h = ops.swiglu_forward(before, up)
    else:
        h = ops.relu_forward(before)
    same(ops.linear_forward(h, last), expected)
    dh, dlast = ops.linear_backward(dy, h, last)
    if gated:
        dgate, dup = ops.swiglu_backward(dh, before, up)
        dx, dfirst = ops.linear_backward(dgate, x, first)
        dx_up, dmiddle = ops.linear_backward(dup, x, middle)
        found = [dx + dx_up, dfirst.T, dmiddle.T, dlast.T]
    else:
        dx, dfirst = ops.linear_backward(ops.relu_backward(dh, h), x, first)
        found = [dx, dfirst.T, dlast.T]
    for ours, theirs in zip(found, expected_grads, strict=True):
        same_gradient(ours, theirs)


# ---- LLaMA ----


@both
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("heads", "kv_heads", "length"), [(2, 2, 1), (6, 2, 17), (5, 1, 67)])
def test_llama_attention_with_grouped_queries(backend, heads, kv_heads, length, attention):
    module = SimpleNamespace(num_key_value_groups=heads // kv_heads, training=False, is_causal=True)
    draw, ops = np.random.default_rng(length).standard_normal, TWINS[backend]
    shapes = [(2, h, length, HEAD_DIM) for h in (heads, kv_heads, kv_heads, heads)]
    q, k, v, dout = (draw(shape) for shape in shapes)
    leaves = [leaf(x) for x in (q, k, v)]
    interface = AttentionInterface().get_interface(attention, modeling_llama.eager_attention_forward)
    hidden = torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1)
    with InFloat64():
        expected, _ = interface(module, *leaves, hidden if attention == "eager" else None, scaling=0.4)
        expected_grads = torch.autograd.grad(expected, leaves, torch.tensor(dout.swapaxes(1, 2).copy()))
    out, lse = ops.attention_forward(q, k, v, scale=0.4)
    same(out.swapaxes(1, 2), expected)
    for ours, theirs in zip(ops.attention_backward(dout, q, k, v, out, lse, scale=0.4), expected_grads, strict=True):
        same_gradient(ours, theirs, terms=dout)


@st.composite
def llamas(draw):
    """Small configurations of all shapes."""
    kv_heads, group = draw(st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 2), (1, 5), (3, 2)]))
    return llama_config(
        draw(st.sampled_from(sorted(ROPES))), heads=kv_heads * group, kv_heads=kv_heads, longest=32,
        attention=draw(st.sampled_from(["sdpa", "eager"])),
        hidden_size=kv_heads * group * draw(st.sampled_from([7, 8, 13])),
        intermediate_size=draw(st.sampled_from([5, 16, 37])), num_hidden_layers=draw(st.integers(1, 3)),
        vocab_size=draw(st.sampled_from([3, 19, 67])), tie_word_embeddings=draw(st.booleans()),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
    )  # fmt: skip


def loss_weights(shape):
    """Every token but the last of a sequence predicts the next: transformers' loss."""
    return np.broadcast_to(np.arange(shape[1]) < shape[1] - 1, shape).ravel().astype(float)


@both
@few
@given(llamas(), st.sampled_from([1, 2, 3]), st.sampled_from([2, 3, 17, 31, 33, 67]), st.integers(0, 2**32 - 1))
def test_a_whole_llama(backend, config, batch, length, seed):
    """Logits, loss and the gradient of every weight; positions from the configuration."""
    tokens = np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length))
    with InFloat64():
        model = randomise(LlamaForCausalLM(config), seed).eval()
        result = model(torch.tensor(tokens), labels=torch.tensor(tokens))
        result.loss.backward()
    ours = Llama(TWINS[backend], config, arrays(model))
    logits = ours.forward(tokens, tables_of(config, length))
    same(logits, result.logits)
    weights, answers = loss_weights(tokens.shape), np.roll(tokens, -1, axis=1).ravel()
    rows = logits.reshape(-1, config.vocab_size)
    loss, probabilities = ours.ops.cross_entropy_forward(rows, answers, weights)
    same(np.float64(loss), result.loss)
    gradients = ours.backward(ours.ops.cross_entropy_backward(probabilities, answers, weights))
    expected = dict(model.named_parameters())
    assert set(gradients) == set(expected)
    for name, weight in expected.items():
        same_gradient(gradients[name], weight.grad)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rope", ROPES)
def test_a_whole_llama_as_shipped_is_off_by_float32(rope, attention):
    config = llama_config(rope, heads=4, kv_heads=2, attention=attention)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, 67))
    model = randomise(LlamaForCausalLM(config), 1).eval()
    theirs = model(torch.tensor(tokens)).logits
    ours = Llama(kernels, config, arrays(model)).forward(tokens, tables_of(config, 67))
    assert same(ours, theirs, MODEL32) > FORWARD


# ---- T5 ----


def t5_config(**sizes):
    sizes = {"d_model": 22, "d_kv": 10, "d_ff": 37, "num_layers": 2, "num_heads": 3, "vocab_size": 19, **sizes}
    config = T5Config(dropout_rate=0.0, use_cache=False, is_encoder_decoder=False, **sizes)
    config._attn_implementation = "eager"
    return config


@both
@pytest.mark.parametrize("causal", [True, False], ids=["decoder", "encoder"])
@pytest.mark.parametrize("length", [1, 17, 67])
def test_t5_attention_with_its_bias_by_distance(backend, length, causal):
    """Scores without 1 / sqrt(D), a bias by bucket of the distance, and the gradient of its table."""
    config, ops = t5_config(is_decoder=causal), TWINS[backend]
    module = randomise(modeling_t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0), length)
    draw = np.random.default_rng(length).standard_normal
    x, dy = draw((2, length, 22)), draw((2, length, 22))
    given_x = leaf(x)
    hidden = torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1) if causal else None
    expected, bias, _ = module(given_x, mask=hidden)
    bias.retain_grad()
    expected.backward(torch.tensor(dy))

    weights = {name: w.detach().numpy().T.copy() for name, w in module.named_parameters()}
    rows, d_rows = x.reshape(-1, 22), dy.reshape(-1, 22)

    def heads(a):
        return a.reshape(2, length, 3, 10).transpose(0, 2, 1, 3)

    def flat(a):
        return a.transpose(0, 2, 1, 3).reshape(-1, 30)

    q, k, v = (heads(ops.linear_forward(rows, weights[f"{name}.weight"])) for name in "qkv")
    options = {"causal": causal, "scale": 1.0, "bias": bias.detach().numpy()}
    out, lse = ops.attention_forward(q, k, v, **options)
    same(ops.linear_forward(flat(out), weights["o.weight"]), expected.reshape(-1, 22))
    do, dweight = ops.linear_backward(d_rows, flat(out), weights["o.weight"])
    same_gradient(dweight.T, module.o.weight.grad)
    dbias, dx = np.zeros((2, 3, length, length)), 0
    grads = ops.attention_backward(heads(do), q, k, v, out, lse, dbias=dbias, **options)
    for name, gradient in zip("qkv", grads, strict=True):
        dpart, dweight = ops.linear_backward(flat(gradient), rows, weights[f"{name}.weight"])
        same_gradient(dweight.T, getattr(module, name).weight.grad, terms=dy)
        dx = dx + dpart
    same_gradient(dx.reshape(x.shape), given_x.grad)
    same_gradient(dbias.sum(axis=0, keepdims=True), bias.grad, terms=dy)
    table = module.relative_attention_bias
    (dtable,) = torch.autograd.grad(
        module.compute_bias(length, length), table.weight, torch.tensor(dbias.sum(axis=0))[None]
    )
    same_gradient(dtable, table.weight.grad, terms=dy)


def with_rotation(tables):
    """T5's attention after LLaMA's rotation, as transformers lets one plug it in."""
    cos, sin = (torch.tensor(np.concatenate([t, t], axis=1))[None] for t in tables)

    def attention(module, query, key, value, mask, **options):
        query, key = modeling_llama.apply_rotary_pos_emb(query, key, cos, sin)
        return modeling_t5.eager_attention_forward(module, query, key, value, mask, **options)

    return attention


@both
@pytest.mark.parametrize("rotary", [True, False], ids=["rotary", "no positions"])
@pytest.mark.parametrize(("batch", "length", "layers"), [(1, 1, 1), (2, 31, 2), (3, 67, 3)])
def test_our_model_is_a_t5_decoder_with_rotary_positions(backend, batch, length, layers, rotary, monkeypatch):
    """Its stack without encoder and with its bias at nought: every logit and every gradient."""
    config = t5_config(is_decoder=True, num_layers=layers)
    tables = RoPE(10).cos_sin(np.arange(length), np.float64)
    if not rotary:
        tables = np.ones_like(tables[0]), np.zeros_like(tables[1])
    monkeypatch.setitem(AttentionInterface._global_mapping, "rotary", with_rotation(tables))
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "rotary", eager_mask)
    config._attn_implementation = "rotary"
    stack = randomise(modeling_t5.T5Stack(config), length)
    torch.nn.init.zeros_(stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    generator = np.random.default_rng(length)
    tokens, dlogits = generator.integers(0, 19, (batch, length)), generator.standard_normal((batch, length, 19))
    with InFloat64():
        hidden = stack(torch.tensor(tokens)).last_hidden_state
        expected = torch.nn.functional.linear(hidden * 22**-0.5, stack.embed_tokens.weight)
        expected.backward(torch.tensor(dlogits))

    sizes = {"vocabulary": 19, "d_model": 22, "heads": 3, "head_dim": 10, "d_ff": 37, "layers": layers}
    model = Transformer(TransformerConfig(**sizes), seed=1, backend=backend, dtype=np.float64)
    for name, weight in in_our_names(stack, lambda w: w.detach()).items():
        model.params[name][...] = weight
    same(model.forward(tokens, tables, keep=True), expected)
    gradients = model.backward(dlogits)
    theirs = in_our_names(stack, lambda w: w.grad)
    assert set(theirs) == set(gradients)
    for name, gradient in gradients.items():
        same_gradient(gradient, theirs[name])


def in_our_names(stack, take):
    """Their weights, or what `take` takes of each, as our model lays them out."""
    named = {"embedding": take(stack.embed_tokens.weight), "final.gain": take(stack.final_layer_norm.weight)}
    for i, block in enumerate(stack.block):
        attention, feed_forward = block.layer[0], block.layer[-1]
        inside, dense = attention.SelfAttention, feed_forward.DenseReluDense
        named |= {
            f"layers.{i}.attention.gain": take(attention.layer_norm.weight),
            f"layers.{i}.attention.qkv": torch.cat([take(w.weight) for w in (inside.q, inside.k, inside.v)]).T,
            f"layers.{i}.attention.out": take(inside.o.weight).T,
            f"layers.{i}.feed_forward.gain": take(feed_forward.layer_norm.weight),
            f"layers.{i}.feed_forward.in": take(dense.wi.weight).T,
            f"layers.{i}.feed_forward.out": take(dense.wo.weight).T,
        }
    return {name: weight.numpy() for name, weight in named.items()}


def test_initial_weights_spread_as_t5s():
    """Standard deviations of both within five of their own uncertainties, 1 / sqrt(2 n)."""
    sizes = {"d_model": 96, "d_kv": 32, "d_ff": 160, "num_heads": 5, "vocab_size": 211, "num_layers": 1}
    config = t5_config(is_decoder=True, **sizes)
    config.is_encoder_decoder, config.num_decoder_layers = True, 1
    torch.manual_seed(1)
    whole = T5ForConditionalGeneration(config)
    theirs = in_our_names(whole.decoder, lambda w: w.detach())
    ours = Transformer(TransformerConfig(211, 96, 5, 32, 160, 1), seed=1, dtype=np.float64).params
    for name, weight in ours.items():
        parts = 3 if name.endswith("qkv") else 1
        for part, other in zip(*(np.split(w, parts, axis=-1) for w in (weight, theirs[name])), strict=True):
            slack = 5 * math.sqrt(2) / math.sqrt(2 * part.size)
            assert abs(part.std() - other.std()) <= slack * other.std(), name
