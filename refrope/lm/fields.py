"""Fields of a model's files, from a JSON object or a GGUF header: each is checked where it is asked for.

Every error names the file and the field.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refrope.errors import check_integer, check_number, describe

WHO = "load"
DEEPEST_NESTING = 64
_LARGEST = 2**63 - 1


def failure(path: Path, words: str) -> ValueError:
    """The error that a file cannot be used, to be raised."""
    return ValueError(f"{WHO}: {path}: {words}")


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100  # the name of a tensor fits


def shown(value: object) -> str:
    """`value` for an error message, shortened: a damaged file may hold a text of megabytes."""
    return describe(value) if isinstance(value, np.ndarray) else _short.repr(value)


class Fields:
    """The fields of one file by name.

    A field that is missing or null has its default; where there is no default, that is an error.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self.values = path, values

    def __contains__(self, name: str) -> bool:
        """Whether the field is given and not null."""
        return self.values.get(name) is not None

    def refuse(self, name: str, wanted: str) -> ValueError:
        """The error that a field has a value that cannot be used, to be raised."""
        return failure(self.path, f"{name} is {shown(self.values.get(name))}, expected {wanted}")

    def _value(self, name: str, wanted: str, default: Any) -> Any:
        if name in self:
            return self.values[name]
        if default is None:
            raise failure(self.path, f"{name} is missing, expected {wanted}")
        return default

    def integer(self, name: str, least: int = 1, most: int = _LARGEST, default: int | None = None) -> int:
        """An integer in [least, most]."""
        wanted = f"an integer >= {least}" if most == _LARGEST else f"an integer in [{least}, {most}]"
        try:
            return check_integer(WHO, name, self._value(name, wanted, default), least, most)
        except ValueError:
            self._value(name, wanted, default)  # says so where it is missing
            raise self.refuse(name, wanted) from None

    def number(self, name: str, least: float, default: float | None = None, *, above: bool = True) -> float:
        """A finite number above `least`, or at least that."""
        wanted = f"a number {'>' if above else '>='} {least:g}"
        value = self._value(name, wanted, default)
        try:
            return check_number(WHO, name, value, wanted, least, above=above)
        except ValueError:
            raise self.refuse(name, wanted) from None

    def text(self, name: str, known: Iterable[str] = (), default: str | None = None) -> str:
        """A string, one of the `known` ones if there are any."""
        names = list(known)
        wanted = " or ".join(map(repr, names)) if names else "a string"
        value = self._value(name, wanted, default)
        if not isinstance(value, str) or (names and value not in names):
            raise self.refuse(name, wanted)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or False."""
        value = self._value(name, "true or false", default)
        if not isinstance(value, bool):
            raise self.refuse(name, "true or false")
        return value

    def only(self, name: str, *usual: Any) -> None:
        """Raise where the field is given and has none of the `usual` values: a model that needs it is another one."""
        if name in self and not any(type(self.values[name]) is type(u) and self.values[name] == u for u in usual):
            raise self.refuse(name, f"{' or '.join(map(repr, usual))} or nothing: other models are not computed here")


def read_bytes(path: Path, largest: int) -> bytes:
    """All of a file of at most `largest` bytes.

    Raises
    ------
    ValueError
        A larger file.
    OSError
        The file cannot be read.
    """
    size = path.stat().st_size  # asked first, since reading at most so many bytes takes memory for all of them
    if size > largest:
        raise failure(path, f"it has {size} bytes, expected at most {largest} of such a file")
    with path.open("rb") as file:
        return file.read(size)


def read_object(path: Path, largest: int) -> dict[str, Any]:
    """The JSON object in a file of at most `largest` bytes.

    Raises
    ------
    ValueError
        A larger file, no JSON, no object, a key that is there twice, values nested too deeply.
    OSError
        The file cannot be read.
    """
    return parse_object(path, read_bytes(path, largest))


def parse_object(path: Path, data: bytes, part: str = "it") -> dict[str, Any]:
    """The JSON object that `data`, a part of a file, is the UTF-8 text of; errors as in `read_object`."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=lambda pairs: _without_doubles(path, part, pairs))
    except RecursionError:
        raise failure(path, f"{part} is nested too deeply, expected a few levels") from None
    except UnicodeDecodeError as error:
        raise failure(path, f"{part} is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise failure(path, f"{part} is not JSON: {error}") from None
    except ValueError as error:  # a key twice, or an integer of thousands of digits
        raise error if str(path) in str(error) else failure(path, f"{part} is not JSON: {error}") from None
    level = [value]
    for _ in range(DEEPEST_NESTING):
        level = [child for each in level for child in _children(each)]
    if level:
        raise failure(path, f"{part} is nested more than {DEEPEST_NESTING} levels deep, expected a few")
    if not isinstance(value, dict):
        raise failure(path, f"{part} holds a {type(value).__name__}, expected a JSON object")
    return value


def _children(value: object) -> list[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in inside if isinstance(child, (dict, list))]


def _without_doubles(path: Path, part: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise failure(path, f"{part} has {shown(double)} twice, expected each key once")
    return values
