"""A language model that was loaded: weights, encoding, tokenizer, and what else its files say about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refrope.encodings.base import RotaryEncoding
from refrope.lm.tokenizing import Tokenizer
from refrope.nn.transformer import Transformer


@dataclass
class LanguageModel:
    """What `load` gives.

    Attributes
    ----------
    model : Transformer
        Its pairs are those of layout "half", whatever the file's layout.
    encoding : RotaryEncoding
        What the model was trained with, exact angles; any other one may take its place at every call of `model`.
    tokenizer : Tokenizer
    context : int
        The longest text that the model is made for, in tokens.
    name : str
    source : Path
        The file, or the directory.
    rope_config : dict
        head_dim, max_position_embeddings and rope_parameters, as in a config.json: `from_huggingface` makes `encoding`
        of them.
    bos : int or None
        The token that stands before a text, where the model has one.
    eos : tuple of int
        The tokens that end a text.
    """

    model: Transformer
    encoding: RotaryEncoding
    tokenizer: Tokenizer
    context: int
    name: str
    source: Path
    rope_config: dict[str, Any]
    bos: int | None
    eos: tuple[int, ...]
