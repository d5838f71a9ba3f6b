r"""What the number formats of common engines do to rotary tables and to the scores that come out of them.

Every engine computes ``cos(position * theta)`` in the same four stages: theta, the position, their product (the phase),
the stored table. They differ in the format that each stage is rounded to, and that decides how far from the start of a
text a table can be trusted. A pipeline here is a row of four formats; all arithmetic runs in float64 and is rounded
after each stage. That is what float32 arithmetic gives, bit for bit: the product of two float32 is exact in float64.

Engines' own cos and powf may be off by another unit in the last place; here both are the nearest float32, so that what
is left is the error of the pipeline. Only angles count: tables lie on the unit circle, before attention factors, the
amplitudes of xPos and the mixing of FoPE. An encoding is taken as it is; where it depends on the length, pass
``encoding.for_length(length)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope import tables
from refrope.analysis import whole_periods
from refrope.encodings import RotaryEncoding
from refrope.encodings.base import PI, exact, exact_arithmetic
from refrope.errors import check_integer, check_name, describe
from refrope.rotary import pair_slices

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CHUNK = 1 << 18  # entries of a temporary table
_FRACTION_BITS = 64


class _Pipeline(NamedTuple):
    """The format that each stage is rounded to, and where the phase comes from."""

    description: str
    theta: str = "float32"
    position: str = "float32"
    phase: str = "float32"
    table: str = "float32"
    way: str = "product"  # "product" | "recurrence" | "periodic" | "refrope"


_PIPELINES = {
    "float64": _Pipeline("float64 throughout", "float64", "float64", "float64", "float64"),
    "refrope": _Pipeline(
        "refrope's own tables: float64 angles (Resonance: exact phases), cos and sin rounded once to float32",
        way="refrope",
    ),
    "float32": _Pipeline("float32 theta, position, product and table (Hugging Face, vLLM, torchtune)"),
    "float32-theta": _Pipeline(
        "theta rounded to float32, angles in float64, float32 table", position="float64", phase="float64"
    ),
    "ggml": _Pipeline(
        "float32 angles by recurrence, times base^(-2/d) from each pair to the next (ggml on CPUs)", way="recurrence"
    ),
    "periodic": _Pipeline("Resonance only: position mod period in integers, then as float32", way="periodic"),
    "bfloat16-theta": _Pipeline("as float32, theta rounded to bfloat16", theta="bfloat16"),
    "bfloat16-position": _Pipeline("as float32, positions rounded to bfloat16", position="bfloat16"),
    "bfloat16-phase": _Pipeline("as float32, angles rounded to bfloat16", phase="bfloat16"),
    "bfloat16-table": _Pipeline(
        "as float32, the table stored in bfloat16 (Hugging Face and vLLM with bfloat16 weights)", table="bfloat16"
    ),
    "float16-theta": _Pipeline("as float32, theta rounded to float16", theta="float16"),
    "float16-position": _Pipeline(
        "as float32, positions rounded to float16: infinite from 65,520 on", position="float16"
    ),
    "float16-phase": _Pipeline(
        "as float32, angles rounded to float16: infinite from 65,520 radians on", phase="float16"
    ),
    "float16-table": _Pipeline("as float32, the table stored in float16", table="float16"),
}

PIPELINES = {name: pipeline.description for name, pipeline in _PIPELINES.items()}


def round_to_bfloat16(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The nearest bfloat16 to each number, ties to even, as float32 values.

    A bfloat16 is the upper half of a float32: 8 bits of precision, float32's range.

    Parameters
    ----------
    x : (...) float
        Wider formats are rounded to float32 first, as hardware and libraries do.

    Returns
    -------
    (...) float32, a new array
        Signed zeros and infinities as they are; finite values from 2^128 - 2^119 on become infinite; a NaN remains one
        (quiet, with its sign).
    """
    with np.errstate(over="ignore"):
        single = np.array(x, dtype=np.float32)
    bits = single.reshape(-1).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    # Half a unit less one, and one more for an odd upper half: a tie is carried up only to an even number.
    rounded = bits + (np.uint32(0x7FFF) + odd)
    rounded = np.where(np.isnan(single).reshape(-1), bits | np.uint32(0x0040_0000), rounded)
    return (rounded & np.uint32(0xFFFF_0000)).view(np.float32).reshape(single.shape)


def exact_cos_sin(encoding: RotaryEncoding, positions: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The cos and sin of every pair's angle, right to 2^-48 at any int64 position: what pipelines are held against.

    Parameters
    ----------
    encoding : RotaryEncoding
    positions : (...) int64, tokens, negative ones too

    Returns
    -------
    cos, sin : (..., pairs) float64, before the attention factor

    Raises
    ------
    ValueError
        Positions that are not integers.

    Notes
    -----
    A turn is 2^64 units. Whole units per token, times the position, modulo 2^64, is what unsigned integer
    multiplication computes without any error; the rest, below half a unit per token, is added in float64.
    """
    return _exact_cos_sin(encoding, _check_positions("exact_cos_sin", positions))


def pipeline_cos_sin(
    encoding: RotaryEncoding, positions: npt.ArrayLike, pipeline: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The tables that a pipeline would store.

    Parameters
    ----------
    encoding : RotaryEncoding
        For "ggml" its stretch enters as that library's freq_factors, by which each angle of plain RoPE is divided.
    positions : (...) int64, tokens
    pipeline : one of `PIPELINES`

    Returns
    -------
    cos, sin : (..., pairs), before the attention factor
        float64 for "float64", else float32, which holds the values of bfloat16 and float16 too. NaN where the position
        or the phase is beyond float16's range.

    Raises
    ------
    ValueError
        Positions that are not integers; an unknown pipeline; "periodic" without whole wavelengths, "ggml" for an
        encoding that has no stretch.
    """
    places = _check_positions("pipeline_cos_sin", positions)
    return _pipeline_cos_sin(encoding, places, _check_pipeline("pipeline_cos_sin", encoding, pipeline))


def table_error(encoding: RotaryEncoding, positions: npt.ArrayLike, pipeline: str) -> FloatArray:
    """How far off a pipeline's tables are at each position: the largest error of cos or sin over the pairs.

    Parameters
    ----------
    encoding, positions, pipeline : as in `pipeline_cos_sin`

    Returns
    -------
    (...) float64 in [0, 2], of the shape of `positions`
        Against `exact_cos_sin`. NaN where a table holds NaN.

    Raises
    ------
    ValueError
        As `pipeline_cos_sin`.
    """
    places = _check_positions("table_error", positions)
    stages = _check_pipeline("table_error", encoding, pipeline)
    flat, error = places.ravel(), np.empty(places.size)
    rows = max(1, _CHUNK // encoding.pairs)
    for start in range(0, flat.size, rows):
        part = slice(start, start + rows)
        stored = _pipeline_cos_sin(encoding, flat[part], stages)
        wanted = _exact_cos_sin(encoding, flat[part])
        cos_off, sin_off = (np.abs(s - w).max(axis=1) for s, w in zip(stored, wanted, strict=True))
        error[part] = np.maximum(cos_off, sin_off)
    return error.reshape(places.shape)


def relative_score_error(
    encoding: RotaryEncoding,
    q: npt.NDArray[Any],
    k: npt.NDArray[Any],
    query_position: int,
    key_position: int,
    shift: int,
    *,
    pipeline: str = "bfloat16-table",
) -> FloatArray:
    r"""How much a score changes when query and key both move by `shift` tokens; exactly nothing by RoPE's algebra.

    The score is ``R_m q . R_n k / sqrt(D)``. q, k, every product and every sum of the rotation are rounded to the
    format of the pipeline's table; the sum over features is float64, so that what is measured is the rotation. Under
    bfloat16 scores are no longer relative (Wang et al. 2024, arXiv:2411.13476).

    Parameters
    ----------
    encoding : RotaryEncoding
    q, k : (..., D) float, D = encoding.head_dim
        Pair j is features (j, j + r/2), r = the number of features that turn.
    query_position, key_position, shift : int, tokens
        The four positions must fit int64.
    pipeline : one of `PIPELINES`

    Returns
    -------
    (...) float64: ``|score(m, n) - score(m + shift, n + shift)|``

    Raises
    ------
    ValueError
        q or k of another shape or type; positions that are not integers or beyond int64; as `pipeline_cos_sin`.
    """
    function = "relative_score_error"
    wanted = f"(..., {encoding.head_dim}) floats"
    for name, x in (("q", q), ("k", k)):
        fits = isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim and x.shape[-1] == encoding.head_dim
        if not fits or x.shape != q.shape:
            raise ValueError(f"{function}: {name} is {describe(x)}, expected {wanted}" + (" like q" * (name == "k")))
    limits = np.iinfo(np.int64)
    m = check_integer(function, "query_position", query_position, limits.min, limits.max)
    n = check_integer(function, "key_position", key_position, limits.min, limits.max)
    shift = check_integer(function, "shift", shift, limits.min - min(m, n), limits.max - max(m, n))
    stages = _check_pipeline(function, encoding, pipeline)
    cos, sin = _pipeline_cos_sin(encoding, np.array([m, n, m + shift, n + shift], dtype=np.int64), stages)
    q_here, k_here, q_there, k_there = (
        _rotate(x, cos[row], sin[row], stages.table) for row, x in enumerate((q, k, q, k))
    )
    change = (q_here * k_here).sum(axis=-1) - (q_there * k_there).sum(axis=-1)
    result: FloatArray = np.abs(change) / np.sqrt(encoding.head_dim)
    return result


def _rotate(x: npt.NDArray[Any], cos: npt.NDArray[Any], sin: npt.NDArray[Any], kind: str) -> FloatArray:
    """`refrope.rotate` of one position, every operation rounded to `kind`."""
    y = _round(x, kind)
    first, second = pair_slices("half", 0, len(cos))
    a, b = y[..., first].copy(), y[..., second].copy()
    y[..., first] = _round(_round(a * cos, kind) - _round(b * sin, kind), kind)
    y[..., second] = _round(_round(a * sin, kind) + _round(b * cos, kind), kind)
    return y


def _exact_cos_sin(encoding: RotaryEncoding, places: IntArray) -> tuple[FloatArray, FloatArray]:
    with exact_arithmetic():
        units = [frequency / (2 * PI) * 2**_FRACTION_BITS for frequency in encoding.exact_inv_freq()]
        whole = np.array([int(u.to_integral_value()) % 2**_FRACTION_BITS for u in units], dtype=np.uint64)
        rest = np.array([float(u - u.to_integral_value()) for u in units])
    # As signed integers the phases lie in [-1/2, 1/2) of a turn: those near 0 keep their leading digits.
    phase = (places.astype(np.uint64)[..., None] * whole).astype(np.int64).astype(np.float64)
    angle = (phase + places[..., None] * rest) * (2 * np.pi / 2.0**_FRACTION_BITS)
    return np.cos(angle), np.sin(angle)


def _pipeline_cos_sin(
    encoding: RotaryEncoding, places: IntArray, stages: _Pipeline
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Tables from checked arguments."""
    periods = whole_periods(encoding)
    if stages.way == "refrope":
        if periods is not None:
            return tables.periodic_cos_sin(periods, places)
        return tables.cos_sin(encoding.inv_freq, places)
    if stages.way == "recurrence":
        phase = _recurrence(encoding, places)
    else:
        columns = places[..., None]
        if periods is not None and stages.way == "periodic":
            columns = columns % np.maximum(periods, 1)
        position, theta = _round(columns, stages.position), _round(encoding.inv_freq, stages.theta)
        with np.errstate(invalid="ignore"):  # an infinite position times a pair that stands still
            phase = _round(position * theta, stages.phase)
    with np.errstate(invalid="ignore"):  # cos(inf) is the NaN that such a table would hold
        cos, sin = _round(np.cos(phase), stages.table), _round(np.sin(phase), stages.table)
    if stages.table == "float64":
        return cos, sin
    return cos.astype(np.float32), sin.astype(np.float32)


def _recurrence(encoding: RotaryEncoding, places: IntArray) -> FloatArray:
    """The angles of ggml: start at the position, go from each pair to the next with one float32 product."""
    with exact_arithmetic():
        ratio = _round(float(exact(encoding.base) ** (exact(-2) / encoding.turned)), "float32")
    angles = np.empty((*places.shape, encoding.pairs))
    angle = _round(places, "float32")
    for pair in range(encoding.pairs):
        angles[..., pair] = angle
        angle = _round(angle * ratio, "float32")
    assert encoding.stretch is not None  # _check_pipeline
    return _round(angles / _round(encoding.stretch, "float32"), "float32")


def _round(values: npt.ArrayLike, kind: str) -> FloatArray:
    """`values` rounded to a format, as float64; the 16-bit formats by way of float32, as engines do."""
    values = np.asarray(values)
    if kind == "float64":
        return values.astype(np.float64)
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
        if kind == "float16":
            return single.astype(np.float16).astype(np.float64)
    return (round_to_bfloat16(single) if kind == "bfloat16" else single).astype(np.float64)


def _check_positions(function: str, positions: npt.ArrayLike) -> IntArray:
    places = np.asarray(positions)
    if places.size == 0 and not isinstance(positions, np.ndarray):
        places = places.astype(np.int64)  # an empty list says nothing about its type
    if places.dtype.kind not in "iu" or (places.dtype == np.uint64 and (places >= 2**63).any()):
        raise ValueError(f"{function}: positions are {describe(positions)}, expected int64 values")
    return places.astype(np.int64)


def _check_pipeline(function: str, encoding: RotaryEncoding, pipeline: str) -> _Pipeline:
    check_name(function, "pipeline", pipeline, PIPELINES)
    stages = _PIPELINES[pipeline]
    if stages.way == "periodic" and whole_periods(encoding) is None:
        raise ValueError(f"{function}: encoding is {encoding!r}, expected whole wavelengths for pipeline 'periodic'")
    if stages.way == "recurrence" and encoding.stretch is None:
        raise ValueError(f"{function}: {encoding.name} has no stretch, which pipeline 'ggml' needs")
    return stages
