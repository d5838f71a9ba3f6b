"""Functions ``(x, positions) -> rotated x``: which features they couple, and the tables that they turn them by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refrope.conformance.calling import Caller, CallError
from refrope.conformance.probing import AGAIN, Observed, collect, probes
from refrope.conformance.reference import tables
from refrope.conformance.structures import ComplexArray, FloatArray, IntArray, Structure, declared_structure, structures
from refrope.encodings import RotaryEncoding
from refrope.errors import describe
from refrope.rotary import rotate

# Sizes of the batch and head axes in calls: small, different, and none of them 1, so that mixed-up axes show.
BATCH, HEADS = 2, 3
_MATRIX_POSITIONS = (1, 2, 5, 11, 63, 509)
# How far an entry of a rotation matrix may be from where its structure puts it, by the dtype of the input: a few
# roundings of numbers up to the attention factor.
_STRUCTURE_BOUND = {"float64": 2e-5, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
_TABLE_ROUNDED = 2e-2  # the same where tables were rounded to bfloat16 on the way


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
        self.caller: Caller = caller
        self.axes: str = axes
        self.features: int = features

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
        if answer[0].dtype.kind != "f":
            raise CallError("not-an-array", f"it returned {describe(answer[0])}, expected floats")
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
    if moves and (matrices == matrices[0]).all():
        seen.mistake = _without_positions(rotation, encoding, layout or "half", suffix, matrices[0])
        return seen
    bound = _STRUCTURE_BOUND[rotation.caller.dtype]
    for limit in (bound, max(bound, _TABLE_ROUNDED)):
        known = [*_layouts(layout, rotation.features, encoding.turned, suffix)]
        found = next((s for s in known if s.read(matrices)[1] <= limit * max(1.0, encoding.attention_factor)), None)
        if found is not None:
            break
    if found is None:
        if not np.array_equal(rotation.matrix(places[0]), matrices[0]):
            seen.problems["stateful"] = AGAIN
            return seen
        if rotation.rotate(np.zeros((len(matrices[0]),) * 2), np.full(len(matrices[0]), places[0])).any():
            seen.problems["not-linear"] = "zeros do not come out as zeros: something is added"
            return seen
        seen.mistake = (
            _offset(rotation, encoding, layout or "half", suffix)
            or _rest(declared_structure(layout or "half", rotation.features, encoding.turned, suffix=suffix), matrices)
            or (
                "no-pairs",
                "it does not turn pairs of features by one angle each: its matrices have no structure known here",
            )
        )
        return seen
    seen.structure = found

    def turned(positions: IntArray) -> ComplexArray:
        return _read(rotation, found, positions)

    collect(seen, turned, probes(encoding, max_position))
    if not seen.problems:
        _check_linear(seen, rotation, found)
        if not seen.problems and not np.array_equal(rotation.matrix(places[0]), matrices[0]):
            seen.problems["stateful"] = AGAIN
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


def _rest(declared: Structure, matrices: FloatArray) -> tuple[str, str] | None:
    """Whether all is as declared but for the features that do not turn."""
    turning = declared.into.ravel()
    rest = np.setdiff1d(np.arange(matrices.shape[1]), turning)
    mended = matrices.copy()
    mended[:, rest[:, None], rest] = np.eye(len(rest))
    if not len(rest) or declared.read(mended)[1] > _TABLE_ROUNDED:
        return None
    own = matrices[:, rest, rest]
    if (own == own[0, 0]).all() and np.count_nonzero(matrices[0][np.ix_(rest, rest)]) in (0, len(rest)):
        how = "set to 0" if own[0, 0] == 0 else f"multiplied by {own[0, 0]:.5g}"
    else:
        how = "changed"
    return "rest-changed", f"the features that do not turn are {how}, where they should be left as they are"


def _without_positions(
    rotation: Rotation, encoding: RotaryEncoding, layout: str, suffix: bool, matrix: FloatArray
) -> tuple[str, str]:
    """What a function does that has the same matrix in calls that hold one position each."""
    if not (matrix == np.eye(rotation.features)).all():
        ignored = "positions-ignored", "the positions given are ignored: every position gives the same answer"
        return _offset(rotation, encoding, layout, suffix) or ignored
    x = np.eye(rotation.features)
    try:
        still = bool((rotation.rotate(x, np.arange(7, 7 + len(x))) == x).all())
    except CallError:
        still = True
    if still:
        return "no-rotation", "nothing is turned: the input comes back as it was"
    return "positions-relative", "positions are counted from the first one of each call"


# More rows than a short kernel's least block, in ascending order: real functions may ask for both.
_LINEAR_POSITIONS = (0, 1, 3, 4, 7, 9, 15, 17, 23, 31, 44, 60, 63, 64, 65, 101, 257)


def _check_linear(seen: Observed, rotation: Rotation, structure: Structure) -> None:
    """One input of many numbers, which must be turned as its basis vectors are."""
    end = max((part.positions.max(initial=0) for part in seen.parts), default=0)
    positions = np.array([p for p in _LINEAR_POSITIONS if p <= end])
    rows = len(positions)
    x = ((np.arange(rows * rotation.features) * 37 % 127 - 63) / 64.0).reshape(rows, -1)
    try:
        turned = rotation.rotate(x, positions)
        z = _read(rotation, structure, positions)
        wanted = np.einsum("tij,tj->ti", structure.matrices(z, rotation.features), x)
        bound = 4 * max(_STRUCTURE_BOUND[rotation.caller.dtype], 1e-4) * max(1.0, float(np.abs(z).max()))
        if np.abs(turned - wanted).max() <= bound:
            return
        # The last row among other neighbours, which are not its business.
        others = np.concatenate([np.roll(x[:-1], 1, axis=1), x[-1:]])
        mixed = np.abs(rotation.rotate(others, positions)[-1] - turned[-1]).max() > bound
    except CallError as error:
        seen.problems.setdefault(error.kind, str(error))
        return
    if mixed:
        seen.problems["rows-mixed"] = "what comes out for a row depends on the other rows of the call"
    else:
        seen.problems["not-linear"] = "rows of several numbers are not turned as their parts are: it is not linear in x"
