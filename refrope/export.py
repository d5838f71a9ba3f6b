"""``refrope export``: PosGen's splits as files, for those who train elsewhere; the same bytes on every machine.

    ExportSettings ──► datasets ──► (path, bytes) ──► a directory with a manifest, which is written last

    DIR/manifest.json               what was asked for, SHA-256 and size of every file, digest of every dataset
    DIR/cot-seed2/splits.npz        int64 arrays train, validation, test (sequences, tokens) and generated_from
    DIR/cot-seed2/train.jsonl       a sequence a line: task, seed, split, index, tokens, generated_from
    DIR/cot-seed2/train.txt         a sequence a line: tokens, separated by spaces

Tokens from `generated_from` on follow from those before them; the others, a random prefix and the front token, do not,
and no loss should count them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refrope import __version__, posgen
from refrope.errors import check_integer, check_name, comma_list
from refrope.files import canonical_json, remove_parts, write_bytes, write_json
from refrope.posgen import Dataset
from refrope.randomness import IntArray
from refrope.report import format_table
from refrope.settings import DEFAULT_SEEDS
from refrope.settings_options import numbers_of, tasks_of

FORMAT = "refrope-posgen-1"
FORMATS = ("npz", "jsonl", "text")
SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"  # its presence says that all files are there
UNFINISHED = "unfinished.json"  # what is being written, until they are
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # zip files have no earlier date


@dataclass(frozen=True)
class ExportSettings:
    """Everything that decides the bytes of an export, but the version in its manifest.

    Parameters
    ----------
    tasks, recipe, rule : names out of `refrope.posgen.TASKS`, `RECIPES` and `RULES`
    seeds : ints >= 0
        A dataset for each task and seed.
    train_sequences, test_sequences : int; validation has as many as test
    train_length, test_length : int > 4
        Tokens of a sequence, the front token not counted.
    front_token : bool
        Begin each sequence with the front token, id 17.
    formats : names out of `FORMATS`

    Raises
    ------
    ValueError
        An unknown name (with the nearest known one), a number out of range.
    """

    tasks: tuple[str, ...] = posgen.TASKS
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    recipe: str = "disjoint"
    rule: str = "sum"
    train_sequences: int = 10_000
    test_sequences: int = 1_000
    train_length: int = 64
    test_length: int = 256
    front_token: bool = True
    formats: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        """Check every field before anything is written."""
        for name, known in (("tasks", posgen.TASKS), ("formats", FORMATS), ("seeds", None)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"export: {name} are {list(values)}, expected at least one, each once")
            for value in values if known is not None else ():
                check_name("export", name[:-1], value, known or ())
        check_name("export", "recipe", self.recipe, posgen.RECIPES)
        check_name("export", "rule", self.rule, posgen.RULES)
        for seed in self.seeds:
            check_integer("export", "seed", seed, 0)
        for name in ("train_sequences", "test_sequences"):
            check_integer("export", name, getattr(self, name), 1)
        for name in ("train_length", "test_length"):
            check_integer("export", name, getattr(self, name), 5)
        self.dataset(self.tasks[0], self.seeds[0], shortest=True)  # there may be too few prefixes

    def dataset(self, task: str, seed: int, *, shortest: bool = False) -> Dataset:
        """The splits of a task and seed, without front tokens; with `shortest` nothing but the prefixes."""
        return posgen.make_splits(
            task,
            recipe=self.recipe,
            seed=seed,
            train=self.train_sequences,
            validation=self.test_sequences,
            test=self.test_sequences,
            train_length=4 if shortest else self.train_length,
            test_length=4 if shortest else self.test_length,
            rule=self.rule,
        )

    def about(self) -> dict[str, Any]:
        """The settings as the manifest has them."""
        about: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return about


def files_of(settings: ExportSettings, dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """(path below the directory, contents) of all files of a dataset."""
    folder = f"{dataset.task}-seed{dataset.seed}"
    start = dataset.j + dataset.k + int(settings.front_token)
    splits = {name: getattr(dataset, name) for name in SPLITS}
    if settings.front_token:
        splits = {name: posgen.with_front_token(tokens, dataset.modulus) for name, tokens in splits.items()}
    if "npz" in settings.formats:
        yield f"{folder}/splits.npz", npz(splits | {"generated_from": np.array(start)})
    for name, tokens in splits.items():
        if "jsonl" in settings.formats:
            about = {"task": dataset.task, "seed": dataset.seed, "split": name}
            lines = (
                json.dumps({**about, "index": i, "tokens": row, "generated_from": start})
                for i, row in enumerate(tokens.tolist())
            )
            yield f"{folder}/{name}.jsonl", _text(lines)
        if "text" in settings.formats:
            yield f"{folder}/{name}.txt", _text(" ".join(map(str, row)) for row in tokens.tolist())


def _text(lines: Iterator[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def npz(arrays: dict[str, IntArray]) -> bytes:
    """An .npz file of int64 arrays, whose bytes depend on neither clock, system nor NumPy's version.

    `numpy.savez` puts the time of writing into the file, and how it pads its headers has changed with NumPy's versions.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", _EARLIEST)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, _npy(array))
    return buffer.getvalue()


def _npy(array: IntArray) -> bytes:
    """Format version 1.0 of NumPy's enhancement proposal 1: magic, version, length of the header, header, data."""
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {array.shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"  # the data begin at a multiple of 64 bytes
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + array.astype("<i8").tobytes()


def export(settings: ExportSettings, directory: Path) -> dict[str, Any]:
    """Write all files and then the manifest; a file that is there with the right bytes stays as it is.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ValueError
        The directory holds something else, finished or not, or cannot be written: nothing in it was changed, except
        where a disk became full.
    """
    about = settings.about()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _check_free(directory, about)
        write_json(directory / UNFINISHED, {"settings": about})
        manifest: dict[str, Any] = {"format": FORMAT, "refrope": __version__, "settings": about}
        manifest |= {"datasets": [], "files": {}}
        for task in settings.tasks:
            for seed in settings.seeds:
                dataset = settings.dataset(task, seed)
                manifest["datasets"].append(_about(settings, dataset))
                for path, data in files_of(settings, dataset):
                    manifest["files"][path] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                    _write(directory / path, data)
        _write(directory / MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")
        (directory / UNFINISHED).unlink()
    except OSError as error:
        raise ValueError(f"export: {error.filename or directory} cannot be written: {error.strerror}") from error
    return manifest


def _check_free(directory: Path, about: dict[str, Any]) -> None:
    """Raise unless the directory is empty, or holds what this export would write, or a part of it."""
    if not any(directory.iterdir()):
        return
    for name, word in ((MANIFEST, "another export"), (UNFINISHED, "an unfinished export")):
        try:
            settings = dict(json.loads((directory / name).read_bytes())["settings"])
        except FileNotFoundError:
            continue
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"export: {directory / name} is not refrope's, expected a new directory") from None
        if canonical_json(settings) != canonical_json(about):
            differ = ", ".join(key for key in about if settings.get(key) != about[key])
            raise ValueError(f"export: {directory} holds {word} with other {differ}, expected a new directory")
        return
    raise ValueError(f"export: {directory} holds something else, expected a new directory")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    remove_parts(path.parent)
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)


def _about(settings: ExportSettings, dataset: Dataset) -> dict[str, Any]:
    front = int(settings.front_token)
    return {
        **{"task": dataset.task, "seed": dataset.seed, "folder": f"{dataset.task}-seed{dataset.seed}"},
        **{"modulus": dataset.modulus, "far_tokens": dataset.j, "near_tokens": dataset.k},
        **{"vocabulary": dataset.modulus + front, "generated_from": dataset.j + dataset.k + front},
        "sequences": {name: len(getattr(dataset, name)) for name in SPLITS},
        "tokens": {name: getattr(dataset, name).shape[1] + front for name in SPLITS},
        "digest": posgen.digest(dataset),
    }


# ---- the command ----

_EPILOG = """\
files:
  DIR/manifest.json         settings, SHA-256 of every file, digests; written last: where it is, all is there
  DIR/cot-seed2/splits.npz  int64 arrays train, validation, test of shape (sequences, tokens), and generated_from
  DIR/cot-seed2/train.jsonl {"task", "seed", "split", "index", "tokens", "generated_from"}, a sequence a line
  DIR/cot-seed2/train.txt   tokens separated by spaces, a sequence a line

Tokens before generated_from (the front token, 17, and four random ones) follow from nothing: leave them out of the
loss and of accuracies. What refrope posgen calls OOD are tokens 64, 65, ... of test sequences (the training length and
on), counted from 0 without the front token. In Python: numpy.load("DIR/cot-seed2/splits.npz")["train"]

The same command gives the same bytes everywhere, and goes on where it was interrupted."""


def add_command(commands: Any) -> None:
    """Add ``export`` to the command line."""
    parser = commands.add_parser(
        "export",
        help="PosGen's splits as files (npz, JSON lines, text), for those who train elsewhere",
        description="Write the sequences that refrope posgen trains and tests with, byte for byte the same everywhere.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    usual = ExportSettings()
    seeds = ",".join(map(str, usual.seeds))
    add("directory", type=Path, metavar="DIR", help="a new directory, or one that an interrupted export has left")
    add("--tasks", default="all", metavar="A,B", help=f"{', '.join(posgen.TASKS)}, or all (default all)")
    add("--seeds", default=seeds, metavar="1,2", help=f"a dataset for each (default {seeds})")
    add("--recipe", default=usual.recipe, metavar="NAME", help=f"{', '.join(posgen.RECIPES)} (default {usual.recipe})")
    add("--rule", default=usual.rule, metavar="NAME", help=f"{', '.join(posgen.RULES)} (default {usual.rule})")
    for name, about in (
        ("train_sequences", ""),
        ("test_sequences", "for test, and as many for validation; "),
        ("train_length", "in tokens; "),
        ("test_length", "in tokens, of validation sequences too; "),
    ):
        default = getattr(usual, name)
        flag = f"--{name.replace('_', '-')}"
        add(flag, type=int, default=default, metavar="N", help=f"{about}default {default}")
    add("--no-front-token", dest="front_token", action="store_false", help="leave out the token before each sequence")
    add("--format", default=",".join(FORMATS), metavar="A,B", help=f"default {','.join(FORMATS)}")
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> int:
    """``refrope export``."""
    settings = ExportSettings(
        tasks=tasks_of(options.tasks),
        seeds=numbers_of("export", "--seeds", options.seeds),
        recipe=options.recipe,
        rule=options.rule,
        train_sequences=options.train_sequences,
        test_sequences=options.test_sequences,
        train_length=options.train_length,
        test_length=options.test_length,
        front_token=options.front_token,
        formats=tuple(comma_list(options.format)),
    )
    manifest = export(settings, options.directory)
    rows = [("folder", "split", "sequences", "tokens each")]
    for about in manifest["datasets"]:
        rows += [(about["folder"], name, str(about["sequences"][name]), str(about["tokens"][name])) for name in SPLITS]
    print(format_table(rows, left=2))
    size = sum(file["bytes"] for file in manifest["files"].values())
    print(f"\nWritten: {len(manifest['files'])} files, {size / 1e6:.1f} MB, and {options.directory / MANIFEST}")
    return 0
