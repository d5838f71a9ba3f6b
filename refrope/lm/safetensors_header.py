"""The headers of safetensors files, read with caution: where each tensor lies.

Layout (the safetensors specification): 8 bytes with the length of the header, the header as a JSON object of name to
dtype, shape and begin and end in the data, and the data, which the tensors cover without gap or overlap. A test holds
what is refused here against the package `safetensors`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from refrope.lm.fields import failure, parse_object, read_object, shown
from refrope.lm.stored import PLAIN, StoredTensor

LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
LONGEST_NAME = 256  # characters: short enough for messages
MOST_AXES = 8  # of a tensor; a product of thousands of sizes would take hours
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """The tensors of a model directory, in one file or, by its index, in several.

    Raises
    ------
    ValueError
        No such files, damaged ones, or files that contradict each other.
    OSError
        A file cannot be read.
    """
    if (directory / SINGLE).is_file():
        return read_file(directory / SINGLE)
    index = directory / INDEX
    if not index.is_file():
        pickles = sorted(path.name for suffix in ("bin", "pt", "pth") for path in directory.glob(f"*.{suffix}"))
        also = f"; {pickles[0]} is a pickle, which can run any code and is never read" if pickles else ""
        raise failure(directory, f"no {SINGLE} and no {INDEX}, expected one of them{also}")
    weight_map = read_object(index, LARGEST_HEADER).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise failure(index, f"weight_map is {shown(weight_map)}, expected an object of tensor to file")
    files: dict[str, dict[str, StoredTensor]] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise failure(index, f"weight_map has file {shown(name)}, expected one *.safetensors beside it")
        if not (directory / name).is_file():
            raise failure(index, f"weight_map has file {shown(name)}, which is not there")
        files[name] = read_file(directory / name)
    found = {}
    for tensor, name in weight_map.items():
        if tensor not in files[name]:
            raise failure(directory / name, f"tensor {shown(tensor)} is missing, which {INDEX} expects here")
        found[tensor] = files[name][tensor]
    for name, tensors in files.items():
        if surplus := set(tensors) - {tensor for tensor, place in weight_map.items() if place == name}:
            raise failure(directory / name, f"tensor {shown(min(surplus))} is not in {INDEX}, expected all to be")
    return found


def read_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file.

    Raises
    ------
    ValueError
        The file is damaged or contradicts itself; the message names it and the tensor.
    OSError
        The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise failure(path, f"it has {size} bytes, expected a safetensors file")
        length, most = int.from_bytes(first, "little"), min(size - 8, LARGEST_HEADER)
        if length > most:
            raise failure(path, f"its header claims {length} bytes, expected at most {most}: it is damaged or cut off")
        text = file.read(length)
    if len(text) < length:
        raise failure(path, "it became shorter while its header was read")
    entries = parse_object(path, text, "its header")
    entries.pop("__metadata__", None)
    start, end, last = 8 + length, 0, "the header"
    found = {}
    for tensor in sorted((_tensor(path, *entry) for entry in entries.items()), key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset != end:
            words = f"tensor {tensor.name} begins at {tensor.offset} of the data"
            raise failure(path, f"{words}, expected {end}, where {last} ends")
        end, last = tensor.offset + tensor.nbytes, f"tensor {tensor.name}"
        found[tensor.name] = StoredTensor(
            path, tensor.name, tensor.kind, tensor.shape, start + tensor.offset, tensor.nbytes
        )
    if start + end != size:
        raise failure(path, f"its tensors end at {start + end}, expected the file's end at {size}: it is cut off")
    return found


def _tensor(path: Path, name: str, entry: Any) -> StoredTensor:
    """A tensor from its entry in the header; its offset is not yet the one in the file."""
    what = f"tensor {shown(name)}"
    if len(name) > LONGEST_NAME:
        raise failure(path, f"{what} has a name of {len(name)} characters, expected at most {LONGEST_NAME}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise failure(path, f"{what} is {shown(entry)}, expected dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in PLAIN:
        raise failure(path, f"{what} has dtype {shown(kind)}, expected one of {', '.join(PLAIN)}")
    if not _sizes(shape) or len(shape) > MOST_AXES:
        raise failure(path, f"{what} has shape {shown(shape)}, expected at most {MOST_AXES} integers >= 0")
    if not _sizes(offsets) or len(offsets) != 2:
        raise failure(path, f"{what} has data_offsets {shown(offsets)}, expected begin and end")
    nbytes = math.prod(shape) * PLAIN[kind]
    if offsets[1] - offsets[0] != nbytes:
        words = f"{what} has data_offsets {shown(offsets)}, expected {nbytes} bytes"
        raise failure(path, f"{words} of {kind}{shown(tuple(shape))}")
    return StoredTensor(path, name, kind, tuple(shape), offsets[0], nbytes)


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)
