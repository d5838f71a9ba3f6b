"""The conformance kit on the functions of libraries: what they compute passes, and is named where it does not.

Needs torch and transformers; rotary-embedding-torch, x-transformers, jax and mlx are tried where they are installed.
"""

import functools
import math

import numpy as np
import pytest
import torch

import refrope as rr
from refrope.conformance import check

D = 64
HALF = {"axes": "BHTD", "arrays": "torch"}
INTERLEAVED = {**HALF, "layout": "interleaved"}
DTYPES = ("float32", "bfloat16", "float16")
TABLES = {"float32": "float32", "bfloat16": "bfloat16-table", "float16": "float16-table"}
ignore_advice = pytest.mark.filterwarnings("ignore::refrope.encodings.huggingface.HuggingFaceWarning")


# ---- torch, as it is written by hand ----


def inverse_frequencies(width, base=10_000.0):
    return 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width))


def rotate_half(x, positions, inv_freq):
    """Hugging Face: tables in the dtype of x."""
    angle = positions.float()[:, None] * inv_freq
    cos, sin = (torch.cat([t, t], -1).to(x.dtype) for t in (angle.cos(), angle.sin()))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def complex_product(x, positions, inv_freq):
    """Meta: float32 throughout, neighbours as complex numbers."""
    turn = torch.polar(torch.ones(len(positions), len(inv_freq)), torch.outer(positions.float(), inv_freq))
    z = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(z * turn).flatten(-2).type_as(x)


class Cached(torch.nn.Module):
    """A module with a table of all positions."""

    def __init__(self):
        super().__init__()
        angle = torch.outer(torch.arange(131_072).float(), inverse_frequencies(D))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x, positions):
        cos, sin = self.cos[positions], self.sin[positions]
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).type_as(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "base"), [(64, 1e4), (128, 5e5)])
def test_torch_code_passes_in_every_dtype(dtype, head_dim, base):
    inv_freq, declared = inverse_frequencies(head_dim, base), rr.RoPE(head_dim, base)
    for function, layout in ((rotate_half, "half"), (complex_product, "interleaved")):
        report = check(functools.partial(function, inv_freq=inv_freq), declared, dtype=dtype, layout=layout, **HALF)
        assert report.passed, str(report)
        assert report.pipeline == TABLES[dtype]
        assert not report.problems


def test_torch_functions_need_not_be_announced():
    """arrays="auto" finds out that NumPy's will not do; modules, parameters and inference mode are no obstacle."""
    learnt = torch.nn.Parameter(inverse_frequencies(D))
    for function in (
        functools.partial(rotate_half, inv_freq=learnt),
        torch.inference_mode()(functools.partial(rotate_half, inv_freq=inverse_frequencies(D))),
        Cached(),
    ):
        report = check(function, rr.RoPE(D))
        assert report.passed, str(report)
        assert report.pipeline == "float32"
    assert check(lambda: learnt, rr.RoPE(D)).passed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_functions_get_tensors_of_the_dtype_that_was_asked_for(dtype):
    def rotate(x, positions):
        assert x.dtype == getattr(torch, dtype)
        assert positions.dtype == torch.int64
        return rotate_half(x, positions, inverse_frequencies(D)).requires_grad_()

    assert check(rotate, rr.RoPE(D), arrays="torch", dtype=dtype).passed
    assert check(rotate, rr.RoPE(D), dtype=dtype).passed


def test_a_promotion_of_bfloat16_is_noted():
    def rotate(x, positions):
        return rotate_half(x.float(), positions, inverse_frequencies(D))

    report = check(rotate, rr.RoPE(D), dtype="bfloat16", arrays="torch")
    assert report.passed
    assert report.problems == {"dtype": "it returns float32 for x of bfloat16"}


# ---- transformers ----


def llama(length=131_072, head_dim=128, **parameters):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(head_dim=head_dim, max_position_embeddings=length, rope_parameters=parameters)
    embedding = LlamaRotaryEmbedding(config)

    def rotate(x, positions):
        return apply_rotary_pos_emb(x, x, *embedding(x, positions[None]))[0]

    return rotate, config.to_dict()


SHORT, LONG = [1 + 0.02 * j for j in range(48)], [1 + j for j in range(48)]
SETTINGS = {
    "default": {"rope_type": "default", "rope_theta": 5e5},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32_768},
    "yarn of gpt-oss": {
        "rope_type": "yarn",
        "rope_theta": 150_000.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
        "head_dim": 64,
    },
    "yarn of DeepSeek": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "head_dim": 64,
        "length": 163_840,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "short_factor": SHORT,
        "long_factor": LONG,
        "head_dim": 96,
    },
    "proportional": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "head_dim": 256},
}


@ignore_advice
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_transformers_llama_passes_with_every_scaling(name, dtype):
    rotate, config = llama(**SETTINGS[name])
    report = check(rotate, config, dtype=dtype, **HALF)
    assert report.passed, str(report)


@ignore_advice
def test_transformers_dynamic_ntk_depends_on_earlier_calls():
    rotate, config = llama(4096, rope_type="dynamic", rope_theta=1e4, factor=2.0)
    assert [m.name for m in check(rotate, config, **HALF).mistakes] == ["remembers-at-original"]


MODELS = [
    ("gpt_neox", "GPTNeoX", {"hidden_size": 256, "num_attention_heads": 2, "rotary_pct": 0.25}, "half"),
    ("cohere", "Cohere", {"hidden_size": 256, "num_attention_heads": 2}, "interleaved"),
    ("glm", "Glm", {"hidden_size": 256, "num_attention_heads": 2, "head_dim": 128}, "interleaved"),
    ("qwen2", "Qwen2", {}, "half"),
    ("gpt_oss", "GptOss", {}, "half"),
    ("helium", "Helium", {}, "interleaved"),
]


@ignore_advice
@pytest.mark.parametrize(("module", "name", "options", "layout"), MODELS, ids=[model[0] for model in MODELS])
def test_other_models_of_transformers_pass(module, name, options, layout):
    import importlib

    import transformers

    config = getattr(transformers, f"{name}Config")(max_position_embeddings=131_072, **options)
    code = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    embedding = getattr(code, f"{name}RotaryEmbedding")(config)

    def rotate(x, positions):
        return code.apply_rotary_pos_emb(x, x, *embedding(x, positions[None]))[0]

    report = check(rotate, config.to_dict(), layout=layout, **HALF)
    assert report.passed, str(report)


@ignore_advice
def test_deepseek_in_transformers_writes_pairs_in_another_order():
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as code

    embedding = code.DeepseekV3RotaryEmbedding(DeepseekV3Config())

    def rotate(x, positions):
        return code.apply_rotary_pos_emb_interleave(x, x, *embedding(x, positions[None]))[0]

    report = check(rotate, rr.RoPE(64), **INTERLEAVED)
    assert [mistake.name for mistake in report.mistakes] == ["interleaved-in-half-out"]


# ---- others, where they are installed ----


def test_rotary_embedding_torch_passes():
    library = pytest.importorskip("rotary_embedding_torch")

    def made(width, divide=1.0, **options):
        embedding = library.RotaryEmbedding(dim=width, **options)
        return lambda x, positions: library.apply_rotary_emb(embedding(positions.float() / divide), x)

    for function, declared in (
        (made(128), rr.RoPE(128)),
        (made(32), rr.RoPE(64, rotary_dim=32)),
        (made(64, theta_rescale_factor=8.0), rr.NTKAware(64, factor=8.0)),
        (made(64, 4.0), rr.LinearPI(64, factor=4.0)),
    ):
        report = check(function, declared, **INTERLEAVED)
        assert report.passed, str(report)
    wrong = check(made(128), rr.RoPE(128), **HALF)
    assert [mistake.name for mistake in wrong.mistakes] == ["layout-interleaved"]


def test_x_transformers_passes():
    library = pytest.importorskip("x_transformers.x_transformers")
    embedding = library.RotaryEmbedding(D)

    def rotate(x, positions):
        return library.apply_rotary_pos_emb(x, embedding(positions.float())[0], 1.0)

    report = check(rotate, rr.RoPE(D), **INTERLEAVED)
    assert report.passed, str(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_jax_code_passes(dtype):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    @jax.jit
    def rotate(x, positions):
        angle = positions.astype(jnp.float32)[:, None] / 1e4 ** (jnp.arange(0, D, 2) / D)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)

    report = check(rotate, rr.RoPE(D), arrays="jax", dtype=dtype)
    assert report.passed, str(report)
    assert not report.problems


@pytest.mark.parametrize("dtype", DTYPES)
def test_mlx_s_kernel_passes(dtype):
    mx = pytest.importorskip("mlx.core")

    def made(layout="half", width=D, **options):
        def rotate(x, positions):
            arguments = {"base": 10_000.0, "scale": 1.0, **options}
            rows, offset = x[:, None, None, :], positions.astype(mx.int32)
            return mx.fast.rope(rows, width, traditional=layout == "interleaved", offset=offset, **arguments)[:, 0, 0]

        return rotate

    llama3 = rr.Llama3(D)
    for layout in ("half", "interleaved"):
        for function, declared in (
            (made(layout), rr.RoPE(D)),
            (made(layout, 32), rr.RoPE(D, rotary_dim=32)),
            (made(layout, scale=0.25), rr.LinearPI(D, factor=4.0)),
            (made(layout, base=None, freqs=mx.array(1 / llama3.inv_freq.astype(np.float32))), llama3),
        ):
            report = check(function, declared, arrays="mlx", layout=layout, dtype=dtype)
            assert report.passed, str(report)


def test_a_promise_of_mlx_is_kept_within_the_call():
    """Lazy arrays are computed when they are read: mistakes show all the same."""
    mx = pytest.importorskip("mlx.core")

    def rotate(x, positions):
        inv_freq = mx.exp(-mx.arange(D // 2, dtype=mx.float32) * (math.log(5e5) / (D // 2)))
        angle = positions.astype(mx.float32)[:, None] * inv_freq
        cos, sin, a, b = mx.cos(angle), mx.sin(angle), x[:, : D // 2], x[:, D // 2 :]
        return mx.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    assert [m.name for m in check(rotate, rr.RoPE(D), arrays="mlx").mistakes] == ["base"]
    assert check(rotate, rr.RoPE(D, 5e5), arrays="mlx").passed
