"""Llama checkpoints in directories of Hugging Face: config.json, safetensors, tokenizer.json.

A field that config.json lacks has the default of transformers' LlamaConfig, but for the sizes of the weights, which
nobody leaves out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.huggingface import from_huggingface, huggingface_config
from refrope.lm.checkpoint import Checkpoint, check_encoding, check_heads, check_vocabulary
from refrope.lm.fields import Fields, failure, read_object
from refrope.lm.naming import HUGGING_FACE, check_tensors
from refrope.lm.safetensors_header import read_tensors
from refrope.lm.tokenizing import read_tokenizer
from refrope.nn.configuration import TransformerConfig

LARGEST_CONFIG = 10_000_000  # bytes; the config.json of a published model has a few thousand
CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"

_ROTATION = (
    *("model_type", "head_dim", "max_position_embeddings", "original_max_position_embeddings", "rope_theta"),
    *("rope_scaling", "rope_parameters", "partial_rotary_factor"),
)
# Fields that would make it another model, with the values at which they do not.
_USUAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "sliding_window": (),
    "use_sliding_window": (False,),
    "quantization_config": (),
    "is_encoder_decoder": (False,),
}


def read_directory(directory: Path) -> Checkpoint:
    """What a directory says of its model.

    Raises
    ------
    ValueError
        A file is missing or damaged, or describes a model that is not computed here; the message names file and field
        or tensor.
    OSError
        A file cannot be read.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise failure(directory, f"no {CONFIG}, expected the directory of a Hugging Face model")
    fields = Fields(path, read_object(path, LARGEST_CONFIG))
    fields.text("model_type", ["llama"])
    if "architectures" in fields and fields.values["architectures"] != ["LlamaForCausalLM"]:
        raise fields.refuse("architectures", "['LlamaForCausalLM']")
    for name, usual in _USUAL.items():
        if not (name == "sliding_window" and fields.values.get("use_sliding_window") is False):
            fields.only(name, *usual)
    config = _configuration(fields)
    tensors = read_tensors(directory)
    check_tensors(directory, config, HUGGING_FACE, tensors)
    context = fields.integer("max_position_embeddings", default=2048)
    encoding = _encoding(fields, config.head_dim, context)
    tokenizer_path = directory / TOKENIZER
    if not tokenizer_path.is_file():
        raise failure(directory, f"no {TOKENIZER}, expected one beside {CONFIG} (a tokenizer.model is not read)")
    tokenizer = read_tokenizer(tokenizer_path)
    check_vocabulary(tokenizer_path, tokenizer, config.vocabulary)
    bos = _tokens(fields, "bos_token_id", config.vocabulary)
    return Checkpoint(
        path=directory,
        name=directory.resolve().name,
        config=config,
        naming=HUGGING_FACE,
        tensors=tensors,
        encoding=encoding,
        rope_config=huggingface_config(encoding, max_position_embeddings=context),
        context=context,
        tokenizer=tokenizer,
        bos=bos[0] if bos else None,
        eos=_ends(directory, fields, config.vocabulary),
    )


def _configuration(fields: Fields) -> TransformerConfig:
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", default=heads)
    if "head_dim" not in fields and width % heads:
        raise fields.refuse("hidden_size", f"a multiple of num_attention_heads = {heads}")
    head_dim = fields.integer("head_dim", default=width // heads)
    check_heads(fields.path, ("num_attention_heads", heads), ("num_key_value_heads", kv_heads), ("head_dim", head_dim))
    return TransformerConfig(
        vocabulary=fields.integer("vocab_size"),
        d_model=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=fields.integer("intermediate_size"),
        layers=fields.integer("num_hidden_layers"),
        eps=fields.number("rms_norm_eps", 0.0, 1e-6, above=False),
        softmax_scale=None,
        feed_forward="swiglu",
        tied=fields.flag("tie_word_embeddings", False),
        head_scale=1.0,
    )


def _encoding(fields: Fields, head_dim: int, context: int) -> RotaryEncoding:
    given = {name: fields.values[name] for name in _ROTATION if name in fields}
    try:
        encoding = from_huggingface(given | {"head_dim": head_dim, "max_position_embeddings": context})
    except ValueError as error:
        raise failure(fields.path, str(error)) from None
    check_encoding(fields.path, encoding, head_dim)
    return encoding


def _tokens(fields: Fields, name: str, vocabulary: int) -> tuple[int, ...]:
    """A token, or a list of them; none where the field is missing."""
    if name not in fields:
        return ()
    value = fields.values[name]
    tokens = value if isinstance(value, list) else [value]
    if not all(type(token) is int and 0 <= token < vocabulary for token in tokens):
        raise fields.refuse(name, f"a token in [0, {vocabulary}), or a list of them")
    return tuple(tokens)


def _ends(directory: Path, fields: Fields, vocabulary: int) -> tuple[int, ...]:
    """The tokens that end a text; generation_config.json counts, where it names them, as in transformers."""
    path = directory / GENERATION
    if path.is_file():
        generation = Fields(path, read_object(path, LARGEST_CONFIG))
        if "eos_token_id" in generation:
            return _tokens(generation, "eos_token_id", vocabulary)
    return _tokens(fields, "eos_token_id", vocabulary)
