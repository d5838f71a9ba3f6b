"""What the readers of both formats give: everything about a model but its weights, and where those lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refrope.encodings.base import RotaryEncoding
from refrope.lm.fields import failure
from refrope.lm.naming import Naming
from refrope.lm.stored import StoredTensor
from refrope.lm.tokenizing import Tokenizer
from refrope.nn.configuration import TransformerConfig

# A tokenizer may leave embeddings unused that only round their number up, which this many may do.
_PADDING = 1024


@dataclass(frozen=True)
class Checkpoint:
    """A model as its files describe it; `LanguageModel` says what the fields mean."""

    path: Path
    name: str
    config: TransformerConfig
    naming: Naming
    tensors: Mapping[str, StoredTensor]
    encoding: RotaryEncoding
    rope_config: dict[str, Any]
    context: int
    tokenizer: Tokenizer
    bos: int | None
    eos: tuple[int, ...]


def check_heads(path: Path, heads: tuple[str, int], kv_heads: tuple[str, int], head_dim: tuple[str, int]) -> None:
    """Raise unless heads can share keys and features pair up; each argument is a field's name and its value."""
    if heads[1] % kv_heads[1]:
        wanted = f"a divisor of {heads[0]} = {heads[1]}"
        raise failure(path, f"{kv_heads[0]} is {kv_heads[1]}, expected {wanted}")
    if head_dim[1] % 2:
        raise failure(path, f"{head_dim[0]} is {head_dim[1]}, expected an even number: features turn in pairs")


def check_encoding(path: Path, encoding: RotaryEncoding, head_dim: int) -> None:
    """Raise unless all features of a head turn: what else this architecture would mean, nobody says alike."""
    if encoding.pairs != head_dim // 2:
        words = f"{2 * encoding.pairs} of {head_dim} features of a head would turn, expected all of them"
        raise failure(path, f"{words} of architecture llama")


def check_vocabulary(path: Path, tokenizer: Tokenizer, embeddings: int) -> None:
    """Raise unless a tokenizer's numbers are those of the embeddings; `path` is the tokenizer's file."""
    unused = embeddings - tokenizer.vocabulary
    if unused < 0 or unused >= max(_PADDING, embeddings // 10):
        raise failure(
            path, f"the tokenizer has {tokenizer.vocabulary} tokens, expected those of the {embeddings} embeddings"
        )
