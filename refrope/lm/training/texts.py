"""The texts that language models are trained and tested on: two sources that every Python brings, and files.

    names ──► SHA-256 of each ──► training texts | held-out texts

A text is in one of the two parts as a whole, and the same texts are held out whatever else is read.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refrope.errors import check_name

WHO = "lm train"
HELD_OUT_SHARE = 10  # one text in so many is held out
# Of the standard library: what is not everywhere, or is more than the library; the topics once more; character sets.
_LEFT_OUT = {"__pycache__", "dist-packages", "idle_test", "lib-dynload", "site-packages", "test", "tests"}
_LEFT_OUT |= {"pydoc_data", "encodings"}


@dataclass(frozen=True)
class Texts:
    """Named texts in two parts.

    Attributes
    ----------
    training, held_out : dict
        Texts by name, in the order of their names.
    """

    training: Mapping[str, str]
    held_out: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Of all names and texts: another version of Python has other texts."""
        sha = hashlib.sha256()
        for part in (self.training, self.held_out):
            for name, text in part.items():
                for piece in (name.encode(), text.encode()):
                    sha.update(len(piece).to_bytes(8, "big") + piece)
        return sha.hexdigest()

    def about(self) -> str:
        """How much there is, in words."""
        sizes = [sum(len(text.encode()) for text in part.values()) for part in (self.training, self.held_out)]
        return (
            f"{len(self.training)} texts of {sizes[0] / 1e6:.1f} MB, "
            f"and {len(self.held_out)} of {sizes[1] / 1e6:.1f} MB held out"
        )


def topics() -> dict[str, str]:
    """The documentation topics of the running Python (`pydoc_data.topics`)."""
    from pydoc_data.topics import topics as values

    return {f"topics/{name}": text for name, text in values.items()}


def library() -> dict[str, str]:
    """The sources of the running Python's standard library, without tests and tables of characters."""
    root = Path(sysconfig.get_path("stdlib"))
    found = {}
    for path in root.rglob("*.py"):
        place = path.relative_to(root)
        if _LEFT_OUT.isdisjoint(place.parts[:-1]) and not path.name.startswith("_sysconfigdata"):
            try:
                found[f"library/{place.as_posix()}"] = path.read_bytes().decode().replace("\r\n", "\n")
            except (UnicodeDecodeError, OSError):  # nothing that trains on it depends on one file
                continue
    return found


CORPORA = {"topics": topics, "library": library}


def files(paths: Iterable[Path], who: str = WHO) -> dict[str, str]:
    """Files, and all files in directories and those within, by their names or their places there.

    Raises
    ------
    ValueError
        Not UTF-8; two of one name. OSError: a file that is not there or cannot be read.
    """
    found: dict[str, str] = {}
    for path in paths:
        inside = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in inside:
            name = each.relative_to(path).as_posix() if path.is_dir() else each.name
            if name in found:
                raise ValueError(f"{who}: two texts are called {name}, expected another name for each")
            data = each.read_bytes()
            try:
                found[name] = data.decode()
            except UnicodeDecodeError as error:
                byte = f"byte {data[error.start]:#04x} at offset {error.start}"
                raise ValueError(f"{who}: {each} is not UTF-8: {byte}") from None
    return found


def is_held_out(name: str) -> bool:
    """True for one name in ten: where SHA-256 of its UTF-8 bytes, as an integer, is a multiple of ten."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def read_texts(corpora: Sequence[str], paths: Sequence[str] = (), *, who: str = WHO) -> Texts:
    """The texts of some of `CORPORA`, or of files, in two parts.

    Of texts so few that no name's digest says so, the one with the smallest digest is held out.

    Parameters
    ----------
    corpora : names out of `CORPORA`
    paths : files and directories
        Instead of `corpora`, where there are any.
    who : str
        The command that asks: what errors begin with.

    Raises
    ------
    ValueError
        An unknown name; fewer than two texts; what `files` raises. OSError: as `files`.
    """
    found: dict[str, str] = {}
    if paths:
        found = files((Path(path) for path in paths), who)
    else:
        for corpus in corpora:
            check_name(who, "corpus", corpus, CORPORA)
            found |= CORPORA[corpus]()
    found = {name: found[name] for name in sorted(found) if found[name]}
    if len(found) < 2:
        raise ValueError(f"{who}: {len(found)} texts that are not empty, expected at least two: one is held out")
    held_out = {name for name in found if is_held_out(name)} or {min(found, key=_digest)}
    parts = [{name: text for name, text in found.items() if (name in held_out) == out} for out in (False, True)]
    if not parts[0]:
        raise ValueError(f"{who}: all {len(found)} texts are held out by their names, expected more texts")
    return Texts(*parts)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
