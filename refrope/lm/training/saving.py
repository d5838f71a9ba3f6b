"""A trained model as a directory of Hugging Face: config.json, model.safetensors, tokenizer.json.

What `refrope.lm.loading.load` and transformers read again. Only what LlamaForCausalLM computes can be said there: a
rotary encoding that its rope_parameters describe, and nothing else that tells positions.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refrope.encodings import RotaryEncoding
from refrope.encodings.huggingface import to_huggingface
from refrope.encodings.position_map import PositionMap
from refrope.files import read_checked_json, write_bytes
from refrope.lm.naming import HUGGING_FACE, places
from refrope.lm.training.runs import TASK
from refrope.lm.training.settings import LMSettings
from refrope.lm.training.sources import saved_tokens
from refrope.lm.training.tokens import END, Tokens
from refrope.nn.transformer import Transformer
from refrope.sweep.running import saved_weights

WHO = "lm save"


class SavedRun(NamedTuple):
    """A model that ``refrope lm train`` has trained.

    Attributes
    ----------
    settings : LMSettings
    trained : str
        The method that it was trained with.
    model : Transformer
    tokens : Tokens
    """

    settings: LMSettings
    trained: str
    model: Transformer
    tokens: Tokens


def load_run(directory: Path) -> SavedRun:
    """The model of a finished run, from its directory ``DIR/runs/NAME``.

    Raises
    ------
    ValueError
        No finished run of ``refrope lm train``; a damaged file; a tokenizer that is gone.
    """
    result = read_checked_json(directory / "result.json")
    if result is None:
        raise ValueError(f"{WHO}: {directory} has no result.json, expected the directory of a finished run")
    about = result["training"]
    if about.get("task") != TASK or "failed" in result:
        raise ValueError(f"{WHO}: {directory} has no trained language model, expected a run of refrope lm train")
    asked = json.loads((directory / "settings.json").read_text(encoding="utf-8"))["settings"]
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in asked.items()}
    settings = LMSettings(**fields)
    tokens = saved_tokens(directory.resolve().parent.parent, about["sources"]["tokens"])
    if tokens is None:
        raise ValueError(f"{WHO}: the tokenizer of {directory} is gone or damaged: the command that trained mends it")
    config = settings.model(about["trained_with"], tokens.vocabulary)
    weights = saved_weights(directory, result)
    if weights is None:
        raise ValueError(f"{WHO}: {directory / 'weights.npz'} is damaged: the command that trained mends it")
    model = Transformer(config, seed=None, backend=settings.backend)
    model.flat_params[...] = weights
    return SavedRun(settings, about["trained_with"], model, tokens)


class SavedModel(NamedTuple):
    """A trained model, and all that a directory says of it.

    Attributes
    ----------
    model : Transformer
    encoding : RotaryEncoding, PositionMap or None
        What turns its queries and keys.
    label : str
        What that is called.
    context : int
        The longest text that it is made for, in tokens.
    tokenizer : str
        The text of its tokenizer.json.
    bos : int or None
    eos : tuple of int
    ends : tuple of (str or None, str or None)
        Those two, as they are written.
    """

    model: Transformer
    encoding: RotaryEncoding | PositionMap | None
    label: str
    context: int
    tokenizer: str
    bos: int | None
    eos: tuple[int, ...]
    ends: tuple[str | None, str | None]


def trained_model(run: SavedRun) -> SavedModel:
    """A model that ``refrope lm train`` has trained."""
    settings, tokens = run.settings, run.tokens
    return SavedModel(
        run.model,
        settings.trained_encoding(run.trained),
        settings.label(run.trained),
        settings.train_length,
        *(tokens.json, tokens.end, (tokens.end,), (END, END)),
    )


def config_of(saved: SavedModel) -> dict[str, Any]:
    """config.json.

    Raises
    ------
    ValueError
        Positions that LlamaForCausalLM does not have, or that its fields cannot describe.
    """
    c, encoding = saved.model.config, saved.encoding
    if not isinstance(encoding, RotaryEncoding) or c.bias or c.absolute or c.window:
        raise ValueError(f"{WHO}: the model has its positions from {saved.label}, expected a rotary encoding alone")
    try:
        rope = to_huggingface(encoding)
    except ValueError as error:
        raise ValueError(f"{WHO}: {saved.label} is more than a config.json can say: {error}") from None
    ends = saved.eos[0] if len(saved.eos) == 1 else list(saved.eos)
    return {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        **{"vocab_size": c.vocabulary, "hidden_size": c.d_model, "intermediate_size": c.d_ff},
        **{"num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.key_heads},
        **{"head_dim": c.head_dim, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        **{"rms_norm_eps": c.eps, "tie_word_embeddings": c.tied, "max_position_embeddings": saved.context},
        **{"rope_theta": encoding.base, "rope_parameters": rope, "dtype": "float32"},
        **{"bos_token_id": saved.bos, "eos_token_id": ends},
    }


def save(saved: SavedModel, out: Path) -> list[str]:
    """Write a model to a new directory.

    Returns
    -------
    The names of the files.

    Raises
    ------
    ValueError
        As `config_of`; a directory that holds something; the package safetensors is missing.
    """
    try:
        from safetensors.numpy import save as packed
    except ImportError:
        raise ValueError(f"{WHO}: the package safetensors is not installed here (pip install 'refrope[llm]')") from None
    config = config_of(saved)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{WHO}: --out {out} holds something else, expected a new directory")
    tensors = {}
    for place in places(saved.model.config, HUGGING_FACE):
        weight = saved.model.params[place.weight]
        tensors[place.tensor] = np.ascontiguousarray(weight if place.columns is None else weight[:, place.columns].T)
    named = {name: text for name, text in zip(("bos_token", "eos_token"), saved.ends, strict=True) if text is not None}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", **named, "model_max_length": saved.context}
    contents = {
        "model.safetensors": packed(tensors, {"format": "pt"}),
        "tokenizer.json": saved.tokenizer.encode(),
        "tokenizer_config.json": _json(about),
        "config.json": _json(config),  # last: with it, the directory is a model
    }
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            write_bytes(out / name, data)
    except BaseException as error:
        if made:
            shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, OSError):
            raise ValueError(f"{WHO}: --out {out} cannot be written: {error.strerror or error}") from None
        raise
    return list(contents)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
