"""The checkpoint that goes on training and the texts as its tokens, each known by SHA-256.

    --model ──► header, SHA-256 of its files ──┐
    texts ──► tokenizer ──► DIR/tokens ────────┴──► Sources, which say what a run is of

Weights are read where a run is done, and are those of the same files or an error.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope.checkpoint import pack_into, unpack_from
from refrope.encodings import RotaryEncoding
from refrope.files import file_digest, write_json
from refrope.lm.checkpoint import Checkpoint
from refrope.lm.finetuning.settings import WHO, FinetuneSettings
from refrope.lm.huggingface_directory import CONFIG, GENERATION, TOKENIZER
from refrope.lm.loading import read_checkpoint
from refrope.lm.options import first_tokens
from refrope.lm.training.texts import Texts, read_texts
from refrope.lm.training.windows import one_line
from refrope.nn.configuration import TransformerConfig


class Sources(NamedTuple):
    """What a run begins with, without weights and texts.

    Attributes
    ----------
    name : str
        Of the model.
    checkpoint, texts : str
        SHA-256 of its files, and of the texts.
    config : TransformerConfig
    own : RotaryEncoding
        The model's.
    context : int
        The longest text that it is made for, in tokens.
    split : str
        What else decides which tokens texts become: how they are split, and what stands before and between them.
    """

    name: str
    checkpoint: str
    texts: str
    config: TransformerConfig
    own: RotaryEncoding
    context: int
    split: str


class Encoded(NamedTuple):
    """Texts as tokens.

    Attributes
    ----------
    line : (n,) int32
        All training texts one after another.
    held_out : list of (n,) int32
    """

    line: npt.NDArray[np.int32]
    held_out: list[npt.NDArray[np.int32]]


def checkpoint_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of a checkpoint in one file, or of the names and digests of those in a directory that are read."""
    if checkpoint.path.is_file():
        return file_digest(checkpoint.path)
    used = {tensor.path for tensor in checkpoint.tensors.values()}
    used |= {path for name in (CONFIG, GENERATION, TOKENIZER) if (path := checkpoint.path / name).exists()}
    said = [[path.name, file_digest(path)] for path in sorted(used)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def sources_of(settings: FinetuneSettings, directory: Path | None = None) -> tuple[Sources, Encoded, Texts]:
    """Read the header of the checkpoint and the texts, make tokens of these, and see that they are enough.

    Parameters
    ----------
    settings : FinetuneSettings
    directory : Path, optional
        Of an earlier command, which has the tokens already.

    Raises
    ------
    ValueError, OSError
        As `refrope.lm.loading.load` and `refrope.lm.training.texts.read_texts`; an encoding that does not fit the
        model; texts that are too short.
    """
    checkpoint = read_checkpoint(settings.model, pre=settings.pre)
    longest = max(settings.longest, settings.reach(checkpoint.context))
    for name in settings.encodings:
        settings.encoding(name, checkpoint.encoding, checkpoint.context, longest)
    texts = read_texts(settings.corpora, settings.texts, who=WHO)
    sources = Sources(
        *(checkpoint.name, checkpoint_digest(checkpoint), texts.sha256),
        *(checkpoint.config, checkpoint.encoding, checkpoint.context),
        json.dumps([settings.pre, list(first_tokens(checkpoint)), list(checkpoint.eos[:1])]),
    )
    encoded = None if directory is None else saved_tokens(directory, sources)
    if encoded is None:
        encoded = encode(checkpoint, texts)
    check_enough(encoded, settings)
    return sources, encoded, texts


def encode(checkpoint: Checkpoint, texts: Texts) -> Encoded:
    """Texts as a model's tokens.

    In the line, the token that ends a text stands between texts, and those that the model expects before a text stand
    before each. Held-out texts are their own tokens alone.

    Raises
    ------
    ValueError
        A model without a token that ends a text.
    """
    tokenizer = checkpoint.tokenizer
    if not checkpoint.eos:
        raise ValueError(f"{WHO}: {checkpoint.path} names no token that ends a text, expected one to put between texts")
    first = np.array(first_tokens(checkpoint), np.int64)

    def tokens(text: str) -> npt.NDArray[np.int64]:
        return tokenizer.encode(text, special=False)

    line = one_line((np.concatenate([first, tokens(text)]) for text in texts.training.values()), checkpoint.eos[0])
    return Encoded(line.astype(np.int32), [tokens(text).astype(np.int32) for text in texts.held_out.values()])


def check_enough(encoded: Encoded, settings: FinetuneSettings) -> None:
    """Raise ValueError where there is no whole window to train on, or to test on."""
    if len(encoded.line) <= settings.length:
        wanted = f"more than the {settings.length} of a training window: a shorter --length or longer texts"
        raise ValueError(f"{WHO}: the training texts have {len(encoded.line)} tokens, expected {wanted}")
    longest = max(map(len, encoded.held_out))
    if longest <= settings.longest:
        raise ValueError(
            f"{WHO}: the longest held-out text has {longest} tokens, expected more than the {settings.longest} of the "
            "longest test: shorter --test-lengths or longer texts"
        )


# ---- in the directory of a command ----


def check_same_model(directory: Path, sources: Sources) -> None:
    """Raise ValueError where a directory is of another checkpoint."""
    try:
        found = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # nothing begun; a damaged one is written anew, and runs know their checkpoint
        return
    if found.get("checkpoint") != sources.checkpoint:
        came = f"the checkpoint has SHA-256 {sources.checkpoint} ({sources.name})"
        known = f"{found.get('checkpoint')} ({found.get('name')})"
        raise ValueError(f"{WHO}: {came}, expected that which {directory} was begun with, {known}")


def save_sources(directory: Path, sources: Sources, encoded: Encoded) -> None:
    """Write which checkpoint a directory is of, and the tokens of its texts."""
    write_json(directory / "model.json", {"name": sources.name, "checkpoint": sources.checkpoint})
    if saved_tokens(directory, sources) is None:
        path = _tokens_path(directory, sources)
        path.parent.mkdir(exist_ok=True)
        pack_into(path, _arrays(encoded), {"sha256": _digest(encoded)})


def saved_tokens(directory: Path, sources: Sources) -> Encoded | None:
    """What `save_sources` wrote; None where it is not there, or damaged."""
    try:
        arrays, about = unpack_from(_tokens_path(directory, sources))
        ends = np.cumsum(arrays["lengths"])[:-1]
        encoded = Encoded(arrays["line"], list(np.split(arrays["held_out"], ends)))
    except (ValueError, KeyError):
        return None
    return encoded if about.get("sha256") == _digest(encoded) else None


def _tokens_path(directory: Path, sources: Sources) -> Path:
    split = hashlib.sha256(sources.split.encode()).hexdigest()
    return directory / "tokens" / f"{sources.texts[:16]}-{sources.checkpoint[:16]}-{split[:8]}.npz"


def _arrays(encoded: Encoded) -> dict[str, npt.NDArray[Any]]:
    lengths = np.array([len(text) for text in encoded.held_out])
    return {"line": encoded.line, "held_out": np.concatenate(encoded.held_out), "lengths": lengths}


def _digest(encoded: Encoded) -> str:
    sha = hashlib.sha256()
    for name, array in _arrays(encoded).items():
        sha.update(f"{name} {array.shape}".encode() + array.astype("<i8").tobytes())
    return sha.hexdigest()
