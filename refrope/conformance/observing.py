"""What a function does to positions: its tables as complex numbers, however it hands them out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.conformance.calling import Caller, CallError
from refrope.conformance.reference import tables
from refrope.conformance.structures import ComplexArray, FloatArray, IntArray, Part, Structure, structures
from refrope.encodings import RotaryEncoding

# Sizes of the batch and head axes in calls: small, different, and none of them 1, so that mixed-up axes show.
BATCH, HEADS = 2, 3
_MATRIX_POSITIONS = (1, 2, 5, 11, 63, 509)
# How far an entry of a rotation matrix may be from where its structure puts it, by the dtype of the input: a few
# roundings of numbers up to the attention factor.
_STRUCTURE_BOUND = {"float64": 2e-5, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
_TABLE_ROUNDED = 2e-2  # the same where tables were rounded to bfloat16 on the way


@dataclass
class Observed:
    """All that was seen.

    Attributes
    ----------
    structure : Structure or None
        Of a rotation: which features it couples; None for tables.
    parts : list of Part
    problems : dict of str to str
        By kind: what is wrong whatever the numbers say.
    mistake : (name, words) or None
        A mistake that shows without a look at the numbers of the tables.
    """

    structure: Structure | None = None
    parts: list[Part] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    mistake: tuple[str, str] | None = None


def depends_on_length(encoding: RotaryEncoding) -> bool:
    """Whether the encoding differs between short and long sequences, and nobody has said which it is."""
    return encoding.for_length(1) != encoding.for_length(2**40) and getattr(encoding, "length", None) is None


def probes(encoding: RotaryEncoding, max_position: int) -> list[IntArray]:
    """The positions of each call: around the boundaries of lengths, and spread over the powers of two."""
    inside: Any = encoding
    while hasattr(inside, "encoding"):
        inside = inside.encoding
    original = getattr(inside, "original_length", getattr(inside, "train_length", 4096))
    spread = [0, 1, 2, 3, 5, 7, 11, 1023, 2047, 4095, 4096, 4097, 65_537]
    spread += [original - 1, original, original + 1, 2 * original + 1]
    spread += [int(2 ** (k / 2)) + k for k in range(4, 40)]
    spread += [max_position - 1 - step for step in (0, 1, 2, 510, 1021, 9_871, 20_011)]

    def below(end: int) -> IntArray:
        return np.array(sorted({p for p in spread if 0 <= p < min(end, max_position)}), dtype=np.int64)

    if not depends_on_length(encoding):
        return [below(max_position)]
    short = original // 2 + 1
    ends = [short, original, original + 1, 2 * original, 4 * original, max_position, original, short]
    return [below(end) for end in ends if end <= max_position]


class Rotation:
    """A function ``(x, positions) -> rotated``, seen through its matrices.

    Parameters
    ----------
    caller : Caller
    axes : str
        Of x: "TD", "HTD", "THD", "BHTD" or "BTHD".
    features : int, D
    """

    def __init__(self, caller: Caller, axes: str, features: int) -> None:
        self.caller, self.axes, self.features = caller, axes, features

    def rotate(self, x: FloatArray, positions: IntArray) -> FloatArray:
        """The function's answer for x (T, D), which every batch and head holds alike.

        Raises
        ------
        CallError
        """
        sizes = {"B": BATCH, "H": HEADS, "T": len(x), "D": self.features}
        shape = tuple(sizes[axis] for axis in self.axes)
        spread = x.reshape([size if axis in "TD" else 1 for axis, size in zip(self.axes, shape, strict=True)])
        answer = self.caller(np.ascontiguousarray(np.broadcast_to(spread, shape)), positions)
        if len(answer) != 1 or answer[0].shape != shape:
            shown = ", ".join(str(part.shape) for part in answer)
            raise CallError("wrong-shape", f"it returned {shown} for x of shape {shape}")
        tokens_last = np.moveaxis(answer[0].astype(np.float64), self.axes.index("T"), -2).reshape(-1, *x.shape)
        if not np.array_equal(tokens_last, np.broadcast_to(tokens_last[0], tokens_last.shape), equal_nan=True):
            raise CallError(
                "axes", "equal heads or batch rows are turned differently: positions run along another axis"
            )
        rotated: FloatArray = tokens_last[0]
        return rotated

    def matrix(self, position: int) -> FloatArray:
        """(D, D): what happens to a column of features at one position."""
        return self.rotate(np.eye(self.features), np.full(self.features, position, dtype=np.int64)).T


def observe_rotation(
    rotation: Rotation, encoding: RotaryEncoding, layout: str | None, *, suffix: bool, max_position: int
) -> Observed:
    """Structure first, then the tables at all probes."""
    seen = Observed()
    places = [p for p in _MATRIX_POSITIONS if p < max_position]
    try:
        matrices = np.stack([rotation.matrix(position) for position in places])
    except CallError as error:
        seen.problems[error.kind] = str(error)
        return seen
    if not np.isfinite(matrices).all():
        bad = places[int(np.argmin(np.isfinite(matrices).all(axis=(1, 2))))]
        seen.problems["nan"] = f"it returns NaN or infinite values for finite input, first at position {bad}"
        return seen
    own = tables(encoding, np.array(places))
    moves = bool((own != own[0]).any())  # FoPE's matrices may stop every pair
    if moves and (matrices == np.eye(rotation.features)).all():
        seen.mistake = "no-rotation", "nothing is turned: the input comes back as it was"
        return seen
    if moves and (matrices == matrices[0]).all():
        seen.mistake = "positions-ignored", "the positions given are ignored: every position gives the same answer"
        return seen
    bound = _STRUCTURE_BOUND[rotation.caller.dtype]
    for limit in (bound, max(bound, _TABLE_ROUNDED)):
        known = [*_layouts(layout, rotation.features, encoding.turned, suffix)]
        found = next((s for s in known if s.read(matrices)[1] <= limit * max(1.0, encoding.attention_factor)), None)
        if found is not None:
            break
    if found is None:
        seen.mistake = _offset(rotation, encoding, layout or "half", suffix) or (
            "no-pairs",
            "it does not turn pairs of features by one angle each: its matrices have no structure known here",
        )
        return seen
    seen.structure = found

    def turned(positions: IntArray) -> ComplexArray:
        return _read(rotation, found, positions)

    _collect(seen, turned, probes(encoding, max_position))
    _check_linear(seen, rotation, found)
    return seen


def _read(rotation: Rotation, structure: Structure, positions: IntArray) -> ComplexArray:
    """The tables at `positions`, from as few calls as the structure needs."""
    inputs = structure.units(rotation.features)
    return structure.tables([rotation.rotate(np.tile(x, (len(positions), 1)), positions) for x in inputs])


def _layouts(layout: str | None, features: int, turned: int, suffix: bool) -> Iterator[Structure]:
    """All structures; where no layout was declared both are right."""
    if layout is None:
        for each in ("half", "interleaved"):
            yield next(structures(each, features, turned, suffix=suffix))
    yield from structures(layout or "half", features, turned, suffix=suffix)


def _offset(rotation: Rotation, encoding: RotaryEncoding, layout: str, suffix: bool) -> tuple[str, str] | None:
    """Whether rows are numbered instead of looked up: from 0, or from the first position given."""
    from refrope.rotary import rotate

    rows = np.arange(rotation.features)
    for pairing in ("half", "interleaved") if layout == "half" else ("interleaved", "half"):
        for name, start, words in (
            ("positions-ignored", 0, "the positions given are ignored: row t is turned as position t"),
            ("positions-as-offset", 5, "only the first position counts: row t is turned as positions[0] + t"),
        ):
            cos, sin = encoding.for_length(len(rows) + 5).cos_sin(start + rows, np.float64)
            wanted = rotate(np.eye(rotation.features), cos, sin, layout=pairing, suffix=suffix)
            if np.abs(rotation.matrix(5).T - wanted).max() <= 1e-3:
                return name, words
    return None


def _check_linear(seen: Observed, rotation: Rotation, structure: Structure) -> None:
    """One input of many numbers, which must be turned as its basis vectors are."""
    positions = np.array([p for p in (3, 1, 60, 17) if any(p <= part.positions.max(initial=0) for part in seen.parts)])
    if not len(positions):
        return
    rows = len(positions)
    x = ((np.arange(rows * rotation.features) * 37 % 127 - 63) / 64.0).reshape(rows, -1)
    try:
        turned = rotation.rotate(x, positions)
        z = _read(rotation, structure, positions)
    except CallError as error:
        seen.problems.setdefault(error.kind, str(error))
        return
    wanted = np.einsum("tij,tj->ti", structure.matrices(z, rotation.features), x)
    bound = 4 * max(_STRUCTURE_BOUND[rotation.caller.dtype], 1e-4) * max(1.0, float(np.abs(z).max()))
    if not np.abs(turned - wanted).max() <= bound:
        seen.problems["not-linear"] = "rows of several numbers are not turned as their parts are: it is not linear in x"


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

    _collect(seen, given, probes(encoding, max_position))
    if layout is not None and doubled and layout not in doubled and encoding.pairs > 1:
        found = doubled.pop()
        way = {"half": "concatenated, as for layout half", "interleaved": "repeated pairwise, as for interleaved"}[
            found
        ]
        seen.mistake = f"layout-{found}", f"the tables are {way}, where {layout} was declared"
    return seen


def _as_complex(answer: list[npt.NDArray[Any]], rows: int) -> ComplexArray:
    parts = answer
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


def _collect(seen: Observed, tables: Any, calls: list[IntArray]) -> None:
    """Fill `seen.parts`: one call each, or position by position where a call raises."""
    failed: dict[str, list[int]] = {}
    for positions in calls:
        try:
            z = tables(positions)
        except CallError as error:
            if error.kind != "raises":
                seen.problems[error.kind] = str(error)
                return
            positions, z = _one_by_one(tables, positions, failed)
            if not len(positions):
                continue
        finite = np.isfinite(z).all(axis=1)
        if not finite.all():
            first = positions[int(np.argmin(finite))]
            seen.problems["nan"] = f"it returns NaN or infinite values, first at position {first}"
        length = int(positions[-1]) + 1
        longest = max([length, *(part.longest for part in seen.parts)])
        seen.parts.append(Part(length, longest, positions[finite], z[finite]))
    if failed:
        said, places = next(iter(failed.items()))
        seen.problems["raises"] = f"it raises at {len(places)} positions, the first {places[0]}: {said}"
    if len(seen.parts) and "raises" not in seen.problems:
        again = calls[0]
        if not np.array_equal(tables(again), seen.parts[0].z, equal_nan=True) and "nan" not in seen.problems:
            seen.problems["stateful"] = "the same call gives other numbers the second time: it remembers earlier calls"


def _one_by_one(tables: Any, positions: IntArray, failed: dict[str, list[int]]) -> tuple[IntArray, ComplexArray]:
    kept, rows = [], []
    for position in positions:
        try:
            # Twice the same position: some functions drop an axis of one row.
            rows.append(tables(np.array([position, position]))[0])
            kept.append(position)
        except CallError as error:
            if error.kind == "hangs":
                break
            failed.setdefault(str(error), []).append(int(position))
    return np.array(kept, dtype=np.int64), np.array(rows)
