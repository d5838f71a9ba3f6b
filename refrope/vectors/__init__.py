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

FORMAT = "refrope-vectors-1"
NAMES = (*CLASSES, "resonance", "posgen")
FOLDER = Path(__file__).parent

_TOP = ("format", "variant", "generator", "digits", "flags", "groups")
_GROUP = ("id", "comment", "parameters", "source", "flags", "cases", "rotations")
_NUMBERS = ("stretch", "inv_freq", "wavelengths", "attention_factor", "softmax_factor")
_CASE = ("id", "comment", "flags", "position", "cos", "sin")
_SEQUENCE = ("id", "comment", "flags", "prefix", "length", "sequence")
_ROTATION = ("id", "comment", "flags", "layout", "suffix", "positions", "q", "k", "rotated_q", "rotated_k", "logits")


class VectorError(ValueError):
    """A vector file that is missing, altered, truncated or not of the known form; the message says which and where."""


def load(name: str, folder: str | Path | None = None) -> dict[str, Any]:
    """Read the vectors of a variant, once size, SHA-256 and structure are checked.

    Parameters
    ----------
    name : one of `NAMES`
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
    check_name("load", "name", name, NAMES)
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
        _check_structure(whole, name, str(path))
    except (AttributeError, KeyError, TypeError) as error:  # a value of another kind where a list or object belongs
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


def _check_structure(whole: Any, name: str, where: str) -> None:
    """Raise VectorError unless `whole` has the keys and lengths of the vectors called `name`.

    `where` (a file's name) begins the message. Types of single numbers are schema.json's business.
    """
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        came = whole.get("format") if isinstance(whole, dict) else whole
        raise VectorError(f"load: {where} has format {came!r}, expected {FORMAT!r}")
    _require(where, whole, _TOP)
    if whole["variant"] != name:
        raise VectorError(f"load: {where} has variant {whole['variant']!r}, expected {name!r}")
    if not isinstance(whole["flags"], dict):
        raise VectorError(f"load: {where} has {type(whole['flags']).__name__} in flags, expected an object")
    for group in _records(where, whole, "groups", _GROUP):
        inside = f"{where}, {group['id']}"
        cases = _records(inside, group, "cases", _SEQUENCE if name == "posgen" else _CASE)
        turned = _records(inside, group, "rotations", _ROTATION, least=0)
        if name == "posgen":
            for case in cases:
                _length(f"{inside}, {case['id']}", case, "sequence", case["length"])
        else:
            _check_numbers(inside, group)
        for part in (group, *cases, *turned):
            unknown = [flag for flag in part["flags"] if flag not in whole["flags"]]
            if unknown:
                raise VectorError(f"load: {where}, {part['id']} has flag {unknown[0]!r}, which is not explained")


def _check_numbers(where: str, group: dict[str, Any]) -> None:
    """Keys and lengths of an encoding's group."""
    _require(where, group, _NUMBERS)
    pairs = len(group["inv_freq"])
    for key in ("stretch", "wavelengths", "periods"):
        if group.get(key) is not None:
            _length(where, group, key, pairs)
    for case in group["cases"]:
        for key in ("cos", "sin"):
            _length(f"{where}, {case['id']}", case, key, pairs)
    parameters = group["parameters"]
    width = parameters.get("encoding", parameters)["head_dim"]
    for rotation in group["rotations"]:
        inside, rows = f"{where}, {rotation['id']}", len(rotation["positions"])
        for key in ("q", "k", "rotated_q", "rotated_k", "logits"):
            _length(inside, rotation, key, rows)
            for row in rotation[key]:
                _length(inside, {key: row}, key, rows if key == "logits" else width)


def _records(where: str, record: dict[str, Any], key: str, keys: tuple[str, ...], least: int = 1) -> list[Any]:
    """The list under `key`, each of whose entries has `keys`."""
    values = record[key]
    if not isinstance(values, list) or len(values) < least:
        raise VectorError(f"load: {where} has no list of {key}")
    for i, value in enumerate(values):
        _require(f"{where}, {key}[{i}]", value, keys)
    return values


def _require(where: str, record: Any, keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in record] if isinstance(record, dict) else list(keys)
    if missing:
        raise VectorError(f"load: {where} lacks {', '.join(missing)}")


def _length(where: str, record: dict[str, Any], key: str, wanted: int) -> None:
    values = record[key]
    if not isinstance(values, list) or len(values) != wanted:
        came = f"{len(values)} entries" if isinstance(values, list) else repr(values)
        raise VectorError(f"load: {where} has {came} in {key}, expected {wanted}")


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
