"""Where a command's trainings have their texts and tokens from: read once to begin with, and again where a run is done.

The tokenizer stays in the sweep's directory; texts are read where they are, and are the same or an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refrope.files import write_bytes
from refrope.lm.training.settings import LMSettings
from refrope.lm.training.texts import WHO, Texts, read_texts
from refrope.lm.training.tokens import Tokens, byte_tokens, check_tokens, learn_pairs
from refrope.lm.training.windows import one_line


class Sources(NamedTuple):
    """Which texts and which tokenizer, by SHA-256, and the size of the vocabulary."""

    texts: str
    tokens: str
    vocabulary: int


def check_windows(held_out: Sequence[np.ndarray[Any, Any]], settings: LMSettings) -> None:
    """Raise ValueError where no held-out text is as long as the longest test, and the token after it."""
    longest = max(map(len, held_out))
    if longest <= settings.longest:
        raise ValueError(
            f"{WHO}: the longest held-out text has {longest} tokens, expected more than the {settings.longest} of the "
            "longest test: shorter --test-lengths or longer texts"
        )


def _place(sweep: Path, sha256: str) -> Path:
    return sweep / "tokenizers" / f"{sha256}.json"


def saved_tokens(sweep: Path, sha256: str) -> Tokens | None:
    """The tokenizer that a sweep's directory has under a digest; None where there is none, or a damaged one."""
    if sha256 == byte_tokens().sha256:
        return byte_tokens()
    try:
        tokens = Tokens(_place(sweep, sha256).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return tokens if tokens.sha256 == sha256 else None


def save_tokens(sweep: Path, tokens: Tokens) -> None:
    """Write a tokenizer to where `saved_tokens` finds it."""
    if saved_tokens(sweep, tokens.sha256) is None:
        _place(sweep, tokens.sha256).parent.mkdir(exist_ok=True)
        write_bytes(_place(sweep, tokens.sha256), tokens.json.encode())


def sources_of(settings: LMSettings) -> tuple[Sources, Tokens, Texts]:
    """Read the texts that settings ask for, make the tokenizer, and see that the texts are long enough.

    Raises
    ------
    ValueError, OSError
        As `refrope.lm.training.texts.read_texts`, `learn_pairs` and `check_windows`.
    """
    texts = read_texts(settings.corpora, settings.texts)
    size = check_tokens(settings.tokens)
    tokens = byte_tokens() if size is None else learn_pairs(texts.training, size)
    check_windows(list(tokens.encode(texts.held_out).values()), settings)
    count = len(one_line(tokens.encode(texts.training).values(), tokens.end))
    if count <= settings.train_length:
        wanted = f"more than the {settings.train_length} of a training window"
        raise ValueError(f"{WHO}: the training texts have {count} tokens, expected {wanted}")
    return Sources(texts.sha256, tokens.sha256, tokens.vocabulary), tokens, texts
