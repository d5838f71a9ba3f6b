"""Test vectors: what every encoding gives, from 60-digit arithmetic, as JSON that any language reads.

README.md beside this file says what the fields mean; ``.ci/make_vectors.py`` in the repository writes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.names import CLASSES
from refrope.encodings.resonance import Resonance
from refrope.errors import check_name
from refrope.vectors.structure import FORMAT, VectorError, check_structure

__all__ = ["FOLDER", "FORMAT", "LOGITS", "NAMES", "VectorError", "encoding", "load"]

NAMES = (*CLASSES, "resonance", "posgen")
LOGITS = ("maps", "biases", "axes")  # what is no table of one position: its evidence is a logit
FOLDER = Path(__file__).parent


def load(name: str, folder: str | Path | None = None) -> dict[str, Any]:
    """Read the vectors of a variant, once size, SHA-256 and structure are checked.

    Parameters
    ----------
    name : one of `NAMES` or `LOGITS`
    folder : directory with ``{name}.json`` and ``manifest.json``; the package's own if None

    Returns
    -------
    dict, as README.md describes it. Positions beyond 2^53 are ints; infinite values are None.

    Raises
    ------
    VectorError
        A file that is missing, altered, truncated, of an unknown format, or whose structure is not the known one.
    ValueError
        An unknown `name`.
    """
    check_name("load", "name", name, (*NAMES, *LOGITS))
    place = FOLDER if folder is None else Path(folder)
    path = place / f"{name}.json"
    expected = _manifest_entry(place / "manifest.json", path.name)
    data = _read(path)
    if len(data) < expected["bytes"]:
        raise VectorError(f"load: {path} is truncated: {len(data)} bytes, manifest.json says {expected['bytes']}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected["sha256"]:
        raise VectorError(f"load: {path} is altered: SHA-256 {digest}, manifest.json says {expected['sha256']}")
    whole: dict[str, Any] = _parse(path, data)
    try:
        check_structure(whole, name, str(path))
    except (
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
    ) as error:  # a value of another kind where a list or object belongs
        raise VectorError(f"load: {path} is not of the form of {FORMAT!r}: {error!r}") from error
    return whole


def encoding(parameters: Mapping[str, Any]) -> RotaryEncoding:
    """Build refrope's encoding from a group's parameters, those of Resonance included.

    Raises
    ------
    ValueError
        An unknown "variant", or what the class refuses.
    """
    arguments = dict(parameters)
    variant = arguments.pop("variant", None)
    if variant == "resonance":
        return Resonance(encoding(arguments["encoding"]), dialect=arguments["dialect"])
    check_name("encoding", "variant", variant, (*CLASSES, "resonance"))
    return CLASSES[str(variant)](**arguments)


def _manifest_entry(path: Path, file: str) -> dict[str, Any]:
    """What the manifest says about one file."""
    whole = _parse(path, _read(path))
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise VectorError(f"load: {path} is no manifest of format {FORMAT!r}")
    files = whole.get("files")
    entry: Any = files.get(file) if isinstance(files, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int) or "sha256" not in entry:
        raise VectorError(f"load: {path} has no bytes and sha256 for {file}")
    return entry


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VectorError(f"load: {path} cannot be read: {error.strerror}") from error


def _parse(path: Path, data: bytes) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError:
        raise VectorError(f"load: {path} is not of the form of {FORMAT!r}: nested too deeply") from None
    except ValueError as error:
        raise VectorError(f"load: {path} is not JSON: {error}") from error
