"""Long texts to read: two that every Python brings along, and files."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from refrope.errors import check_name

# Directories of the standard library that are not everywhere, or hold more than the library itself.
_LEFT_OUT = {"__pycache__", "dist-packages", "idle_test", "lib-dynload", "site-packages", "test", "tests"}


@dataclass(frozen=True)
class Text:
    """A text and what it is called in results.

    Attributes
    ----------
    name : str
    text : str
    """

    name: str
    text: str

    @cached_property
    def sha256(self) -> str:
        """Of the UTF-8 bytes, by which results tell one version of a text from the next."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def about(self) -> dict[str, Any]:
        """What results say of it."""
        return {"name": self.name, "sha256": self.sha256, "characters": len(self.text)}


def topics() -> str:
    """The documentation topics of the running Python (`pydoc_data.topics`), in the order of their keys.

    Values are joined by a blank line. Half a million characters of reference manual; each Python has its own.
    """
    from pydoc_data.topics import topics as values

    return "\n\n".join(values[key] for key in sorted(values))


def library() -> str:
    """The sources of the running Python's standard library, in the order of their paths, joined by a blank line.

    Tests, and files that a machine or distributor adds, are left out; so is what is not UTF-8.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    sources = []
    for place in sorted(paths):
        *directories, name = place.split("/")
        if _LEFT_OUT.intersection(directories) or name.startswith("_sysconfigdata"):
            continue
        try:
            sources.append(paths[place].read_bytes().decode().replace("\r\n", "\n"))
        except (UnicodeDecodeError, OSError):
            continue
    return "\n\n".join(sources)


def read_texts(paths: Iterable[str | Path]) -> str:
    """Files in the given order, joined by a blank line.

    Raises
    ------
    ValueError
        A file that is not UTF-8; the message names the first byte that is not.
    OSError
        A file that cannot be read.
    """
    texts = []
    for path in paths:
        data = Path(path).read_bytes()
        try:
            texts.append(data.decode())
        except UnicodeDecodeError as error:
            raise ValueError(
                f"read_texts: {path} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}"
            ) from None
    return "\n\n".join(texts)


CORPORA = {"topics": topics, "library": library}


def chosen_text(corpus: str = "topics", paths: Sequence[str | Path] | None = None) -> Text:
    """The text of `paths`, or of one of `CORPORA` without them.

    Raises
    ------
    ValueError, OSError
        An unknown corpus; as `read_texts`.
    """
    if paths:
        return Text(", ".join(Path(path).name for path in paths), read_texts(paths))
    check_name("chosen_text", "corpus", corpus, CORPORA)
    return Text(corpus, CORPORA[corpus]())
