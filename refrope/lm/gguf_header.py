"""The header of a GGUF file, read with caution: metadata and where each tensor lies.

`gguf.GGUFReader` trusts what a file says: it views whatever lies at an offset and loops over counts of up to 2^64. Here
every count and size is held against the file's size before anything is made of it, and nothing is read beyond the
header, which is also 20 times faster with a vocabulary of 50,000 tokens. A test holds the two equal.

Layout (the GGUF specification of ggml, little-endian): magic, version, number of tensors, number of fields; the fields
as name, type, value; the tensors as name, dimensions from the innermost one, type, offset; padding up to a multiple of
``general.alignment``; the tensors' data, to which their offsets refer.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from refrope.lm.fields import Fields, failure, shown
from refrope.lm.stored import StoredTensor

LARGEST_HEADER = 2**26  # bytes; that of a model with 256,000 tokens has 14 million
LONGEST_NAME = 256  # bytes; those of tensors have at most 64 in ggml
VERSIONS = (2, 3)
NEEDED = "load: the package gguf is not installed here (pip install 'refrope[llm]')"
_ALIGNMENT = 32
_MOST_AXES = 4

# Types of values by their numbers; 8 and 9 are texts and arrays.
_SCALARS = dict(enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?"))) | {10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself.

    Attributes
    ----------
    fields : Fields
        Numbers as int or float (a float32 as the shortest decimal number that rounds to it), text as str, arrays of
        numbers as NumPy arrays, arrays of texts as lists of str.
    tensors : dict of StoredTensor by name
    """

    fields: Fields
    tensors: dict[str, StoredTensor]


def read_header(path: Path) -> Header:
    """Metadata and tensors of a GGUF file, in memory of a few times the header's size.

    Raises
    ------
    ValueError
        The file is none of GGUF, is damaged, or contradicts itself; the message names file and field or tensor.
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        reader = _Reader(path, file)
        if reader.take(4, "magic") != b"GGUF":
            raise failure(path, "it does not begin with 'GGUF', expected a GGUF file")
        version = reader.unsigned(4, "version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            came = "a big-endian file" if swapped else str(version)
            raise failure(path, f"version is {came}, expected one of {', '.join(map(str, VERSIONS))}, little-endian")
        tensors, fields = reader.unsigned(8, "number of tensors"), reader.unsigned(8, "number of fields")
        values: dict[str, Any] = {}
        for number in range(fields):
            name = reader.name(f"the name of field {number + 1} of {fields}")
            if name in values:
                raise failure(path, f"field {name!r} is there twice, expected once")
            values[name] = reader.value(name)
        found: dict[str, StoredTensor] = {}
        for number in range(tensors):
            tensor = reader.tensor(f"tensor {number + 1} of {tensors}")
            if tensor.name in found:
                raise failure(path, f"tensor {tensor.name!r} is there twice, expected once")
            found[tensor.name] = tensor
        named = Fields(path, values)
        return Header(named, reader.placed(found, _alignment(named)))


def _alignment(fields: Fields) -> int:
    alignment = fields.integer("general.alignment", 1, 2**31, _ALIGNMENT)
    if alignment & (alignment - 1):
        raise fields.refuse("general.alignment", "a power of two")
    return alignment


class _Reader:
    """A position in a file's header, which never passes its end."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size
        self.end = min(self.size, LARGEST_HEADER)
        self.position = 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        if count > self.end - self.position:
            where = "the file ends" if self.end == self.size else f"its first {LARGEST_HEADER} bytes end"
            left = self.end - self.position
            raise failure(self.path, f"{where} {left} bytes into {what}, expected {count}: it is damaged or cut off")
        self.position += count
        data = self.file.read(count)
        if len(data) < count:
            raise failure(self.path, f"it became shorter while {what} was read")
        return data

    def unsigned(self, size: int, what: str) -> int:
        """The next `size` bytes as an integer >= 0."""
        return int.from_bytes(self.take(size, what), "little")

    def name(self, what: str) -> str:
        """The next string, which is short enough for messages."""
        return self.string(what, LONGEST_NAME)

    def string(self, what: str, longest: int = LARGEST_HEADER) -> str:
        """The next string, of at most `longest` bytes."""
        count = self.unsigned(8, f"the length of {what}")
        if count > longest:
            raise failure(self.path, f"{what} has {count} bytes, expected at most {longest}")
        data = self.take(count, what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise failure(self.path, f"{what} is {shown(data)}, expected UTF-8: {error.reason}") from None

    def value(self, name: str) -> Any:
        """The next field's value: its type comes first."""
        kind = self.unsigned(4, f"the type of field {name}")
        if kind == _STRING:
            return self.string(f"field {name}")
        if kind != _ARRAY:
            array = self._numbers(kind, 1, f"field {name}")
            return float(str(array[0])) if array.dtype == np.float32 else array[0].item()
        kind = self.unsigned(4, f"the type of field {name}")
        count = self.unsigned(8, f"the length of field {name}")
        if kind != _STRING:
            return self._numbers(kind, count, f"field {name}")
        return [self.string(f"{name}[{number}]") for number in range(count)]

    def _numbers(self, kind: int, count: int, what: str) -> Any:
        if kind not in _SCALARS:
            raise failure(self.path, f"{what} is of type {kind}, expected one of the types of a GGUF field")
        dtype = np.dtype(_SCALARS[kind])
        data = self.take(count * dtype.itemsize, what)
        if dtype == np.bool_ and not set(data) <= {0, 1}:
            raise failure(self.path, f"{what} is {shown(data)}, expected 0 or 1 of a truth value")
        return np.frombuffer(data, dtype)

    def tensor(self, what: str) -> StoredTensor:
        """The next tensor's entry; its offset is not yet the one in the file."""
        name = self.name(f"the name of {what}")
        what = f"tensor {name}"
        axes = self.unsigned(4, f"the number of axes of {what}")
        if not 1 <= axes <= _MOST_AXES:
            raise failure(self.path, f"{what} has {axes} axes, expected 1 to {_MOST_AXES}")
        innermost_first = struct.unpack(f"<{axes}Q", self.take(8 * axes, f"the shape of {what}"))
        shape = tuple(reversed(innermost_first))
        kind, block, size = self._quantisation(self.unsigned(4, f"the type of {what}"), what)
        offset = self.unsigned(8, f"the offset of {what}")
        if shape[-1] % block:
            raise failure(self.path, f"{what} is {kind}{shape}, expected rows of a multiple of {block} numbers")
        nbytes = math.prod(shape) // block * size
        return StoredTensor(self.path, name, kind, shape, offset, nbytes)

    def _quantisation(self, number: int, what: str) -> tuple[str, int, int]:
        """Name, numbers in a block, bytes of a block."""
        try:
            import gguf
        except ImportError:
            raise ValueError(NEEDED) from None
        try:
            kind = gguf.GGMLQuantizationType(number)
            return kind.name, *gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise failure(self.path, f"{what} is of type {number}, expected one that the package gguf knows") from None

    def placed(self, tensors: dict[str, StoredTensor], alignment: int) -> dict[str, StoredTensor]:
        """The tensors with offsets in the file, each in a place of its own."""
        start = -(-self.position // alignment) * alignment
        end, last = start, "the header"
        found = {}
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
            offset = start + tensor.offset
            words = f"tensor {tensor.name} lies at {offset} to {offset + tensor.nbytes}"
            if tensor.offset % alignment:
                raise failure(self.path, f"{words}, expected a multiple of {alignment} from {start} on")
            if offset + tensor.nbytes > self.size:
                raise failure(self.path, f"{words}, beyond the end of the file at {self.size}: it is cut off")
            if offset < end:
                raise failure(self.path, f"{words}, where {last} is too, expected places of their own")
            found[tensor.name] = StoredTensor(
                tensor.path, tensor.name, tensor.kind, tensor.shape, offset, tensor.nbytes
            )
            end, last = offset + tensor.nbytes, f"tensor {tensor.name}"
        return found
