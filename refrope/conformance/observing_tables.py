"""Functions ``positions -> (cos, sin)``: their tables as complex numbers, however they hand them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.conformance.calling import Caller, CallError
from refrope.conformance.probing import Observed, collect, probes
from refrope.conformance.structures import ComplexArray, IntArray
from refrope.encodings import RotaryEncoding
from refrope.errors import describe


def observe_tables(caller: Caller, encoding: RotaryEncoding, layout: str | None, max_position: int) -> Observed:
    """A function ``positions -> (cos, sin)``, or complex cos + i sin; doubled tables are taken apart."""
    seen = Observed()
    doubled: set[str] = set()

    def given(positions: IntArray) -> ComplexArray:
        z = _as_complex(caller(positions), len(positions))
        if z.shape[1] == 2 * encoding.pairs:
            half = z[:, : encoding.pairs], z[:, encoding.pairs :]
            repeated = z[:, ::2], z[:, 1::2]
            for name, (one, two) in (("half", half), ("interleaved", repeated)):
                if np.array_equal(one, two, equal_nan=True):
                    doubled.add(name)
                    return one
            raise CallError("wrong-shape", f"it returned {z.shape[1]} columns for {encoding.pairs} pairs, not doubled")
        if z.shape[1] != encoding.pairs:
            wanted = f"{encoding.pairs} pairs, or twice as many"
            raise CallError("wrong-shape", f"it returned tables of {z.shape[1]} columns, expected {wanted}")
        return z

    collect(seen, given, probes(encoding, max_position))
    if layout is not None and doubled and layout not in doubled and encoding.pairs > 1:
        found = doubled.pop()
        way = {"half": "concatenated, as for layout half", "interleaved": "repeated pairwise, as for interleaved"}[
            found
        ]
        seen.mistake = f"layout-{found}", f"the tables are {way}, where {layout} was declared"
    return seen


def _as_complex(answer: list[npt.NDArray[Any]], rows: int) -> ComplexArray:
    parts = answer
    if any(part.dtype.kind not in "fc" for part in parts):
        raise CallError("not-an-array", f"it returned {', '.join(map(describe, parts))}, expected floats")
    if len(parts) == 1 and parts[0].dtype.kind != "c" and parts[0].ndim > 2 and len(parts[0]) == 2:
        parts = [parts[0][0], parts[0][1]]
    complex_one = len(parts) == 1 and parts[0].dtype.kind == "c"
    if not complex_one and len(parts) != 2:
        shown = ", ".join(str(part.shape) for part in parts)
        raise CallError("wrong-shape", f"it returned {shown}, expected tables (cos, sin) or complex numbers")
    flat = []
    for part in parts:
        while part.ndim > 2 and 1 in part.shape:
            part = np.squeeze(part, part.shape.index(1))
        if part.ndim != 2 or len(part) != rows:
            raise CallError("wrong-shape", f"it returned tables {part.shape} for {rows} positions")
        flat.append(part)
    if complex_one:
        return flat[0].astype(np.complex128)
    if flat[0].shape != flat[1].shape:
        raise CallError("wrong-shape", f"it returned cos {flat[0].shape} and sin {flat[1].shape}")
    return flat[0].astype(np.float64) + 1j * flat[1].astype(np.float64)
