"""What the commands of ``refrope lm`` have in common: a model, encodings to put into it, files to write."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from refrope import kernels
from refrope.encodings import RotaryEncoding
from refrope.encodings.huggingface_fields import noted
from refrope.encodings.names import parse
from refrope.environment import environment
from refrope.errors import check_integer, check_name, check_number, comma_list
from refrope.files import check_file_place
from refrope.lm.checkpoint import Checkpoint
from refrope.lm.model import LanguageModel
from refrope.lm.swapping import (
    OWN,
    OWN_RESONANCE,
    PIPELINES,
    first_rounded,
    from_rope_parameters,
    split_names,
    swapped,
)

Encodings = dict[str, Callable[[int], RotaryEncoding]]  # by name, the one in force at a length
DTYPES = {"float32": np.float32, "float64": np.float64}

ABOUT_ENCODINGS = f"""\
Encodings: {OWN} is the model's own (or what --rope says), {OWN_RESONANCE} its own with whole-number wavelengths,
{OWN_RESONANCE}:from_pair=J with those of pair J and slower ones alone (refrope lm rounding tells which J is free).
linear, ntk, dynamic-ntk, ntk-by-parts, yarn, llama3, longrope, rope, and resonance- before any of them, take its place
with its head_dim and base. Options follow a name, as in yarn:factor=4,ramp=turns; a config.json counts as a name.
Scaling starts from the model's own context; without --factor by as much as each length needs."""


# ---- arguments ----


def add_model(parser: argparse.ArgumentParser, *, scaling: bool = True) -> None:
    """Arguments that say which model reads, and how; `scaling`: encodings may come by name."""
    add = parser.add_argument_group("model").add_argument
    add(
        "--model",
        required=True,
        metavar="M",
        help="a .gguf file, a Hugging Face directory, or pip:PACKAGE for the model in an installed package",
    )
    add("--rope", metavar="JSON", help="rope parameters in the place of the model's own, as in a config.json")
    if scaling:
        add("--factor", type=float, metavar="F", help="of encodings that scale (default: what each length needs)")
    add(
        "--pipeline",
        default=PIPELINES[0],
        metavar="P",
        help="exact: float64 angles; transformers: float32 frequencies and angles, as there (default exact)",
    )
    add(
        "--pre",
        metavar="NAME",
        help="of a GGUF file: how texts are split before they are tokens; gpt-2 for what "
        "transformers makes of every file (default: what the file says)",
    )
    add("--dtype", default="float32", metavar="T", help="float32 or float64 (default float32)")
    usual = "c" if kernels.available() else "numpy"
    add("--backend", default=usual, metavar="B", help=f"c or numpy (default {usual})")
    add("--threads", type=int, metavar="N", help="of the kernels and of BLAS (default: all cores)")


def add_encodings(parser: argparse.ArgumentParser) -> None:
    """Which encodings to compare."""
    parser.add_argument(
        "--encodings", default=OWN, metavar="A,B", help=f"to put into the model, see below (default {OWN})"
    )


def add_files(parser: argparse.ArgumentParser, plot: str | None) -> None:
    """Where results go; `plot` says what the figure shows."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    if plot is not None:
        parser.add_argument("--plot", type=Path, metavar="FILE.png", help=plot)


def whole_numbers(who: str, name: str, text: str) -> list[int]:
    """The numbers of an option such as ``512,2048``."""
    try:
        numbers = [int(part) for part in comma_list(text)]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"{who}: --{name} is {text!r}, expected whole numbers, at least one, each once")
    return numbers


def check_before(options: argparse.Namespace) -> None:
    """Raise what can be told before the model is loaded.

    Raises
    ------
    ValueError
        Unknown encodings, pipeline or dtype; a factor below 1; files that cannot be written; no matplotlib for --plot.
    """
    who = options.command
    check_name(who, "pipeline", options.pipeline, PIPELINES)
    check_name(who, "dtype", options.dtype, DTYPES)
    check_name(who, "backend", options.backend, ("c", "numpy"))
    if options.backend == "c":
        kernels.require()
    if options.factor is not None:
        check_number(who, "factor", options.factor, "a number >= 1", 1.0)
    for name in split_names(options.encodings):
        if name != OWN and first_rounded(name) is None:
            parse(who, name)
    for option in ("json", "plot"):
        if (path := getattr(options, option, None)) is not None:
            check_file_place(f"{who}: --{option}", path)
    if getattr(options, "plot", None) is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise ValueError(
                f"{who}: --plot needs matplotlib, which is missing (pip install 'refrope[experiments]')"
            ) from None


# ---- from arguments to a model ----


def load_model(options: argparse.Namespace) -> LanguageModel:
    """The model that --model names."""
    from refrope.lm.loading import load  # readers of checkpoints, when there is one to read

    return load(options.model, backend=options.backend, dtype=DTYPES[options.dtype], pre=options.pre)


def own_encoding(model: LanguageModel, options: argparse.Namespace) -> RotaryEncoding:
    """The model's encoding, or what --rope says; warnings go to standard error, a line each."""
    if options.rope is None:
        return model.encoding
    with noted("--rope"):
        return from_rope_parameters(options.rope, model.encoding, model.context, model.rope_config)


def encodings_by_length(model: LanguageModel, options: argparse.Namespace) -> Encodings:
    """A function of the length for each name in --encodings; all lengths give what the names allow."""
    own = own_encoding(model, options)
    return {
        name: partial(_at_length, name, own, model.context, options.factor) for name in split_names(options.encodings)
    }


def _at_length(name: str, own: RotaryEncoding, context: int, factor: float | None, length: int) -> RotaryEncoding:
    return swapped(name, own, context, length, factor=factor)


def first_tokens(model: LanguageModel | Checkpoint) -> tuple[int, ...]:
    """What every text of this model begins with, beside its own tokens."""
    around = model.tokenizer.encode("").tolist()
    return tuple(token for token in around if token == model.bos or token not in model.eos)


def check_seed(options: argparse.Namespace) -> int:
    """The seed, a whole number."""
    return check_integer(options.command, "seed", options.seed, 0)


# ---- results ----


def about(model: LanguageModel, options: argparse.Namespace) -> dict[str, Any]:
    """What every file of results begins with: command, versions, machine, model."""
    found = environment()
    for package in ("gguf", "safetensors", "tokenizers"):
        try:
            found["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join(["refrope", *sys.argv[1:]]),
        **found,
        "model": {
            **{"name": model.name, "source": options.model, "sha256": _digest(model.source), "context": model.context},
            **{
                "pre": options.pre,
                "dtype": options.dtype,
                "backend": options.backend,
                "weights": model.model.config.size(),
            },
            "sizes": {key: value for key, value in asdict(model.model.config).items() if _is_plain(value)},
            "rope": None if options.rope is None else options.rope,
        },
        "pipeline": options.pipeline,
    }


def _digest(path: Path) -> str | None:
    """SHA-256 of a checkpoint in one file, None of a directory."""
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def written(paths: Iterable[Path | None]) -> None:
    """Say which files there are now."""
    names = ", ".join(str(path) for path in paths if path is not None)
    if names:
        print(f"\nWritten: {names}")
