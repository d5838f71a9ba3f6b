"""Llama checkpoints in GGUF files: the configuration that the metadata describes.

Names of fields are those of the GGUF specification and of llama.cpp, which reads a missing one as it is read here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from refrope.encodings.huggingface import from_huggingface
from refrope.encodings.llama3 import Llama3
from refrope.lm.checkpoint import Checkpoint, check_encoding, check_heads, check_vocabulary
from refrope.lm.fields import Fields, failure
from refrope.lm.gguf_header import Header, read_header
from refrope.lm.gguf_tokenizer import gguf_tokenizer
from refrope.lm.naming import GGUF, check_tensors
from refrope.lm.stored import StoredTensor, copy_rows
from refrope.nn.configuration import TransformerConfig

FREQUENCY_FACTORS = "rope_freqs.weight"

# Fields that are computed with, or say something that changes no number.
_READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count", "rope.scale_linear"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
    *("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
}
# Fields that would make it another model, with the values at which they do not.
_USUAL: dict[str, tuple[Any, ...]] = {
    "use_parallel_residual": (False,),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "embedding_scale": (1.0,),
    "residual_scale": (1.0,),
    "logit_scale": (1.0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0, -1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "tensor_data_layout": (),
}


def read_gguf(path: Path, pre: str | None = None) -> Checkpoint:
    """What a GGUF file says of its model.

    Parameters
    ----------
    pre : str, optional
        How texts are split before byte pairs are merged, instead of what tokenizer.ggml.pre says.

    Raises
    ------
    ValueError
        The file is damaged or describes a model that is not computed here; the message names file and field or tensor.
    OSError
        The file cannot be read.
    """
    header = read_header(path)
    fields = header.fields
    fields.text("general.architecture", ["llama"])
    if "split.count" in fields and fields.integer("split.count", 0) > 1:
        raise fields.refuse("split.count", "1: a model in one file")
    _refuse_others(fields)
    config = _configuration(header)
    check_tensors(path, config, GGUF, header.tensors)
    context = fields.integer("llama.context_length")
    rope_config = {
        "head_dim": config.head_dim,
        "max_position_embeddings": context,
        "rope_parameters": _rope_parameters(header, config.head_dim, context),
    }
    encoding = from_huggingface(rope_config)
    check_encoding(path, encoding, config.head_dim)
    tokenizer = gguf_tokenizer(fields, pre)
    check_vocabulary(path, tokenizer, config.vocabulary)
    ids = [
        fields.integer(f"tokenizer.ggml.{name}_token_id", 0, config.vocabulary - 1)
        if f"tokenizer.ggml.{name}_token_id" in fields
        else None
        for name in ("bos", "eos", "eot")
    ]
    return Checkpoint(
        path=path,
        name=fields.text("general.name", default=path.stem),
        config=config,
        naming=GGUF,
        tensors=header.tensors,
        encoding=encoding,
        rope_config=rope_config,
        context=context,
        tokenizer=tokenizer,
        bos=ids[0],
        eos=tuple(dict.fromkeys(token for token in ids[1:] if token is not None)),
    )


def _refuse_others(fields: Fields) -> None:
    """Raise where a field of the architecture is unknown or unusual: what it changes cannot be computed here.

    So is a field whose name is damaged, whose default would be taken otherwise.
    """
    for name, usual in _USUAL.items():
        fields.only(f"llama.{name}", *usual)
    for name in fields.values:
        if name.startswith("llama.") and name.removeprefix("llama.") not in _READ | _USUAL.keys():
            raise failure(fields.path, f"field {name!r} is not known: what it changes is not computed here")


def _configuration(header: Header) -> TransformerConfig:
    fields = header.fields
    width, heads = fields.integer("llama.embedding_length"), fields.integer("llama.attention.head_count")
    kv_heads = fields.integer("llama.attention.head_count_kv", default=heads)
    if "llama.attention.key_length" not in fields and width % heads:
        raise fields.refuse("llama.embedding_length", f"a multiple of llama.attention.head_count = {heads}")
    head_dim = fields.integer("llama.attention.key_length", default=width // heads)
    # Other widths of values or of what turns are fields of architectures that are not computed here.
    for name in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if fields.integer(name, default=head_dim) != head_dim:
            raise fields.refuse(name, f"the {head_dim} features of a head")
    check_heads(
        fields.path,
        ("llama.attention.head_count", heads),
        ("llama.attention.head_count_kv", kv_heads),
        ("llama.attention.key_length", head_dim),
    )
    listed = fields.values.get("tokenizer.ggml.tokens")
    vocabulary = len(listed) if isinstance(listed, list) else None  # what else it may be, the tokenizer refuses
    embedding = header.tensors.get(GGUF.embedding)
    rows = embedding.shape[0] if embedding is not None else 1
    return TransformerConfig(
        vocabulary=fields.integer("llama.vocab_size", default=vocabulary or rows),
        d_model=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=fields.integer("llama.feed_forward_length"),
        layers=fields.integer("llama.block_count"),
        eps=fields.number("llama.attention.layer_norm_rms_epsilon", 0.0, above=False),
        softmax_scale=None,
        feed_forward="swiglu",
        tied=GGUF.head not in header.tensors,
        head_scale=1.0,
    )


def _rope_parameters(header: Header, head_dim: int, context: int) -> dict[str, Any]:
    """The fields llama.rope.*, and the tensor of factors, as `rope_parameters` of a config.json."""
    fields = header.fields
    base = fields.number("llama.rope.freq_base", 1.0, 10_000.0)
    old = "llama.rope.scale_linear"  # of the first GGUF files
    scaled = old in fields or "llama.rope.scaling.factor" in fields
    kind = fields.text("llama.rope.scaling.type", ["none", "linear", "yarn"], "linear" if scaled else "none")
    common = {"rope_type": "default", "rope_theta": base}
    factors = header.tensors.get(FREQUENCY_FACTORS)
    if factors is not None:
        if kind != "none":
            raise fields.refuse("llama.rope.scaling.type", f"'none' beside the tensor {FREQUENCY_FACTORS}")
        return common | _by_factors(_factors(factors, head_dim), head_dim, base, context)
    if kind == "none":
        return common
    name = old if old in fields and "llama.rope.scaling.factor" not in fields else "llama.rope.scaling.factor"
    scaling: dict[str, Any] = {"rope_type": kind, "factor": fields.number(name, 1.0, above=False)}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = fields.integer(
            "llama.rope.scaling.original_context_length", default=context
        )
        for end, usual in (("fast", 32.0), ("slow", 1.0)):
            scaling[f"beta_{end}"] = fields.number(f"llama.rope.scaling.yarn_beta_{end}", 0.0, usual)
    return common | scaling


def _factors(tensor: StoredTensor, head_dim: int) -> list[float]:
    if tensor.shape != (head_dim // 2,):
        words = f"tensor {tensor.name} is {tensor.kind}{tensor.shape}, expected one number for each of"
        raise failure(tensor.path, f"{words} {head_dim // 2} pairs")
    numbers = np.empty((1, head_dim // 2))
    with tensor.path.open("rb") as file:
        copy_rows(tensor, file, numbers)
    if not numbers.min() > 0:
        raise failure(tensor.path, f"tensor {tensor.name} holds {numbers.min()}, expected numbers > 0")
    return [float(number) for number in numbers[0]]


def _by_factors(factors: list[float], head_dim: int, base: float, context: int) -> dict[str, Any]:
    """What slows every pair down by a factor of its own: Llama 3's rule if it gives these factors, else a list.

    The converter worked them out in float32; the rule's own numbers are nearer to what the model was trained with.
    """
    largest = max(factors)
    if largest == min(factors) == 1.0:
        return {}
    if largest >= 1:
        rule = Llama3(head_dim, base, factor=largest)
        if rule.original_length <= context and np.allclose(rule.stretch, factors, rtol=1e-4, atol=0):  # type: ignore[arg-type]
            return {
                "rope_type": "llama3",
                "factor": largest,
                "original_max_position_embeddings": rule.original_length,
                "low_freq_factor": rule.low_freq_factor,
                "high_freq_factor": rule.high_freq_factor,
            }
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }
