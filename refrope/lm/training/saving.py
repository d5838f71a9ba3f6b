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


def config_of(run: SavedRun) -> dict[str, Any]:
    """config.json.

    Raises
    ------
    ValueError
        Positions that LlamaForCausalLM does not have, or that its fields cannot describe.
    """
    c, name = run.model.config, run.settings.label(run.trained)
    encoding = run.settings.trained_encoding(run.trained)
    if not isinstance(encoding, RotaryEncoding) or c.bias or c.absolute or c.window:
        raise ValueError(f"{WHO}: the model has its positions from {name}, expected a rotary encoding alone")
    try:
        rope = to_huggingface(encoding)
    except ValueError as error:
        raise ValueError(f"{WHO}: {name} is more than a config.json can say: {error}") from None
    return {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        **{"vocab_size": c.vocabulary, "hidden_size": c.d_model, "intermediate_size": c.d_ff},
        **{"num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.key_heads},
        **{"head_dim": c.head_dim, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        **{"rms_norm_eps": c.eps, "tie_word_embeddings": c.tied, "max_position_embeddings": run.settings.train_length},
        **{"rope_theta": encoding.base, "rope_parameters": rope, "dtype": "float32"},
        **{"bos_token_id": run.tokens.end, "eos_token_id": run.tokens.end},
    }


def save(directory: Path, out: Path) -> list[str]:
    """Write the model of a finished run to a new directory.

    Returns
    -------
    The names of the files.

    Raises
    ------
    ValueError
        As `load_run` and `config_of`; a directory that holds something; the package safetensors is missing.
    """
    try:
        from safetensors.numpy import save as packed
    except ImportError:
        raise ValueError(f"{WHO}: the package safetensors is not installed here (pip install 'refrope[llm]')") from None
    run = load_run(directory)
    config = config_of(run)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{WHO}: --out {out} holds something else, expected a new directory")
    tensors = {}
    for place in places(run.model.config, HUGGING_FACE):
        weight = run.model.params[place.weight]
        tensors[place.tensor] = np.ascontiguousarray(weight if place.columns is None else weight[:, place.columns].T)
    end = {"bos_token": END, "eos_token": END, "model_max_length": run.settings.train_length}
    contents = {
        "model.safetensors": packed(tensors, {"format": "pt"}),
        "tokenizer.json": run.tokens.json.encode(),
        "tokenizer_config.json": _json({"tokenizer_class": "PreTrainedTokenizerFast", **end}),
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
