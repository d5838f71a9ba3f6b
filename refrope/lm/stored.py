"""Tensors in a file: where their bytes lie, and how they become numbers, a few rows at a time.

Both formats lay a matrix out row by row, a row for each output feature, so that a range of rows is a range of bytes.
Files are read, not mapped into memory: one that shrinks meanwhile ends in an error and not in a signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from refrope.lm.fields import failure

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

# Bytes of a number, of the kinds that both formats have, by the names that they share.
PLAIN = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
CHUNK = 2**20  # numbers that are widened at a time: what that takes stays in the cache, beside a model's memory nothing
# gguf dequantises 16 of the rows that it is given at a time; rows this wide make most of its calls.
_WIDTH = 4096


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's place in a file.

    Attributes
    ----------
    path : Path
    name : str
    kind : str
        One of `PLAIN` or, in GGUF files, the name of a quantisation.
    shape : tuple of int
        The last axis lies together.
    offset, nbytes : int
    """

    path: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def rows(self) -> int:
        """All axes but the last."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """The last axis."""
        return self.shape[-1]

    def read(self, file: BinaryIO, start: int, stop: int) -> Bytes:
        """The bytes of rows `start` to `stop`, (rows, bytes of a row)."""
        width = self.nbytes // self.rows
        data = np.empty((stop - start, width), np.uint8)
        file.seek(self.offset + start * width)
        if file.readinto(data.reshape(-1).data) != data.size:  # type: ignore[attr-defined]
            raise failure(self.path, f"it ends inside tensor {self.name}, expected its {self.nbytes} bytes")
        return data

    def numbers(self, data: Bytes) -> Array:
        """What rows of bytes stand for, (rows, columns); float32, or float64 if they are stored so."""
        if self.kind == "BF16":  # the upper half of a float32
            wide = data.view("<u2").astype("<u4")
            wide <<= np.uint32(16)
            return wide.view("<f4")
        if self.kind in PLAIN:
            numbers = data.view(f"<f{PLAIN[self.kind]}")
            return numbers.astype(np.float32) if self.kind == "F16" else numbers
        import gguf.quants

        rows = len(data)
        together = max(k for k in range(1, rows + 1) if rows % k == 0 and (k == 1 or k * self.columns <= _WIDTH))
        try:
            with np.errstate(all="ignore"):  # what overflows is found where the numbers are used
                wide = gguf.quants.dequantize(data.reshape(rows // together, -1), gguf.GGMLQuantizationType[self.kind])
        except NotImplementedError:
            raise failure(self.path, f"tensor {self.name} is {self.kind}, which gguf cannot dequantise") from None
        return wide.reshape(rows, self.columns)


def copy_rows(tensor: StoredTensor, file: BinaryIO, out: Array, order: npt.NDArray[np.intp] | None = None) -> None:
    """Widen a tensor's rows into `out`, (rows, columns) of any strides, a chunk at a time.

    Parameters
    ----------
    order : (rows,) ints, optional
        Row i of `out` is row ``order[i]`` of the tensor: a permutation.

    Raises
    ------
    ValueError
        The file ends too early, a quantisation that gguf cannot undo, numbers that are not finite in `out`.
    """
    whole = None if order is None else tensor.read(file, 0, tensor.rows)[order]
    step = max(1, CHUNK // tensor.columns)
    for start in range(0, tensor.rows, step):
        stop = min(start + step, tensor.rows)
        data = tensor.read(file, start, stop) if whole is None else whole[start:stop]
        numbers = tensor.numbers(data)
        with np.errstate(over="ignore"):  # float64 that float32 cannot hold: found in the next line
            out[start:stop] = numbers
        if not np.isfinite(out[start:stop]).all():
            raise failure(tensor.path, f"tensor {tensor.name} holds numbers that are not finite")
