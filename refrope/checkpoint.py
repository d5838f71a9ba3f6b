"""Checkpoints: where a training is between two steps, as a file that proves itself whole.

The name of a file holds the step and the SHA-256 of its contents, so that one rename makes a checkpoint and its
checksum appear together. The last two are kept: when the newer one is damaged, the older one serves.

The format is NumPy's .npz: arrays, and a JSON text for the rest.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope.files import file_digest, write_named_by_digest, write_streamed

Arrays = Mapping[str, npt.NDArray[Any]]
KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{9})-[0-9a-f]{64}\.npz")
_ABOUT = "about"  # the member of the .npz that holds the JSON text


class Checkpoint(NamedTuple):
    """What was saved, and after how many steps."""

    step: int
    arrays: Arrays
    about: dict[str, Any]


def pack(arrays: Arrays, about: dict[str, Any]) -> bytes:
    """The bytes of an .npz with `arrays`, none of which may be called "about", and `about` as a JSON text."""
    buffer = io.BytesIO()
    _write(buffer, arrays, about)
    return buffer.getvalue()


def _write(file: BinaryIO, arrays: Arrays, about: dict[str, Any]) -> None:
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(file, **{**arrays, _ABOUT: text})  # type: ignore[arg-type]


def unpack(data: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """What was given to `pack`.

    Raises
    ------
    ValueError
        The bytes are none that `pack` made.
    """
    return _read(io.BytesIO(data))


def pack_into(path: Path, arrays: Arrays, about: dict[str, Any]) -> None:
    """Write a file of the bytes that `pack` gives, whole or not at all, without holding them in memory.

    Raises
    ------
    OSError
        The disk is full: what was there is still there.
    """
    write_streamed(path, lambda file: _write(file, arrays, about))


def unpack_from(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """What was given to `pack_into`.

    Raises
    ------
    ValueError
        No such file, or one that `pack_into` has not written.
    """
    try:
        with path.open("rb") as file:  # which np.load leaves open where it is damaged
            return _read(file)
    except OSError as error:
        raise ValueError(f"no checkpoint: {error}") from None


def _read(file: BinaryIO | Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return arrays, json.loads(arrays.pop(_ABOUT).tobytes())
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"no checkpoint: {error}") from None


def save(directory: Path, step: int, arrays: Arrays, about: dict[str, Any]) -> Path:
    """Write a checkpoint, and then remove all but the last `KEPT`.

    Raises
    ------
    OSError
        The disk is full: those that were there are still there.
    """
    path = write_named_by_digest(
        directory, lambda file: _write(file, arrays, about), lambda digest: f"checkpoint-{step:09d}-{digest}.npz"
    )
    others = [other for _, other in _found(directory) if other != path]
    for old in others[: max(len(others) - KEPT + 1, 0)]:
        old.unlink(missing_ok=True)
    return path


def load(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with newer ones, which are removed.

    Returns
    -------
    checkpoint : Checkpoint, or None where none is whole
    damaged : a sentence for each that is not
    """
    damaged: list[str] = []
    for step, path in reversed(_found(directory)):
        if path.stem.endswith(file_digest(path)):
            return Checkpoint(step, *_read(path)), damaged
        path.unlink()
        damaged.append(f"{path} does not have the checksum in its name: damaged, and removed")
    return None, damaged


def remove(directory: Path) -> None:
    """Remove all checkpoints of a directory."""
    for _, path in _found(directory):
        path.unlink(missing_ok=True)


def _found(directory: Path) -> list[tuple[int, Path]]:
    """(step, path) of all checkpoints, the oldest first."""
    named = [(_NAME.fullmatch(path.name), path) for path in directory.glob("checkpoint-*.npz")]
    return sorted((int(match[1]), path) for match, path in named if match is not None)


def newest_step(directory: Path) -> int:
    """The step of the newest checkpoint, whole or not; 0 where there is none."""
    return max((step for step, _ in _found(directory)), default=0)
