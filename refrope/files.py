"""Files that a reader finds whole or not at all, whatever interrupts the writing of them.

What is written goes to a file of another name first and takes its place when it is on the disk; a rename is atomic.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

PART = ".part"  # what the name of a file in work ends with
_PIECE = 2**22  # bytes that are read together


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` so that `path` holds either what it held before or all of this, whenever it is interrupted.

    Parameters
    ----------
    durable : bool
        Wait until the disk has it, so that it survives a power cut too.

    Raises
    ------
    OSError
        The disk is full, the directory gone or read-only: `path` is as it was before.
    """
    write_streamed(path, lambda file: file.write(data), durable=durable)


def check_file_place(option: str, path: Path) -> None:
    """Refuse a place where no file can be written, before the work whose results should go there.

    Parameters
    ----------
    option : str
        What the message begins with: command and option.

    Raises
    ------
    ValueError
        A directory, or a file in what is no directory or cannot be written to.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path} is a directory, expected a file")
    shown, path = path, _target(path)
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise ValueError(f"{option} {shown} cannot be written")
    elif not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{option} {shown} cannot be written: {path.parent} is no directory that can be")


def write_streamed(path: Path, write: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """`write_bytes` of what `write` writes to a file, without holding it in memory.

    Where `path` is a link, the file that it leads to is written; a device or a pipe takes the bytes as they come. A
    file that is there keeps its permissions.

    Raises
    ------
    OSError
        As `write_bytes`.
    """
    path = _target(path)
    if _is_special(path):
        with path.open("wb") as file:
            write(file)
    else:
        _write(path, write, lambda _: path, durable)


def _target(path: Path) -> Path:
    """Where links lead; the path as it is where there are none, which messages show."""
    return path.resolve() if path.is_symlink() else path


def _is_special(path: Path) -> bool:
    """A device, a pipe or a socket: nothing that a file of another name could take the place of."""
    return path.exists() and not path.is_file()


def write_named_by_digest(directory: Path, write: Callable[[BinaryIO], object], name: Callable[[str], str]) -> Path:
    """Write a file that is named after its contents, so that both appear together, without holding them in memory.

    Parameters
    ----------
    directory : Path
    write : callable
        Writes the contents to a file.
    name : callable
        The file's name for the SHA-256 of its contents.

    Returns
    -------
    Where it is.

    Raises
    ------
    OSError
        As `write_bytes`.
    """
    return _write(directory / name("new"), write, lambda written: directory / name(file_digest(written)), True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's contents, which are read a piece at a time."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            sha.update(piece)
    return sha.hexdigest()


def _write(near: Path, write: Callable[[BinaryIO], object], place: Callable[[Path], Path], durable: bool) -> Path:
    """Write to a temporary file beside `near` and rename it to the place that is found when it is written."""
    temporary = near.with_name(f"{near.name}.{os.getpid()}{PART}")  # two processes never share one
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        path = place(temporary)
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_directory(path.parent)
    return path


def _sync_directory(path: Path) -> None:
    """Wait until the disk has the names in a directory, where a system can do that."""
    if os.name != "posix":
        return
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: dict[str, Any], *, durable: bool = True) -> None:
    """`write_bytes` of JSON, which may not hold NaN or infinity."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), durable=durable)


def write_checked_json(path: Path, value: dict[str, Any]) -> None:
    """`write_json` with a last key "sha256" that `read_checked_json` checks the others by."""
    write_json(path, value | {"sha256": _digest(value)})


def read_checked_json(path: Path) -> dict[str, Any] | None:
    """What `write_checked_json` wrote, without its checksum.

    Returns
    -------
    None where there is no such file.

    Raises
    ------
    ValueError
        The file is damaged: no JSON object, or one that does not have the checksum it names.
    """
    try:
        value: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{path} is damaged: {error}") from None
    found: dict[str, Any] = value if isinstance(value, dict) else {}
    if found.pop("sha256", None) != _digest(found):
        raise ValueError(f"{path} is damaged: its contents do not have the checksum that it names")
    return found


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The same bytes for equal values: keys in order, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def remove_parts(directory: Path) -> None:
    """Remove what interrupted writing has left in a directory that nobody else writes to."""
    for path in directory.glob(f"*{PART}"):
        path.unlink(missing_ok=True)
