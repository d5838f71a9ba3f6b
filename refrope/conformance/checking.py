"""`check`: run somebody's function, hold it against the declared encoding, and say in words what came out."""

from __future__ import annotations

import inspect as signatures
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refrope import precision
from refrope.conformance.against_vectors import compare_rotations, matching_groups
from refrope.conformance.calling import ARRAYS, DTYPES, Caller, CallError
from refrope.conformance.diagnosing import Mistake, diagnose
from refrope.conformance.inverse_frequencies import check_inv_freq
from refrope.conformance.observing import Rotation, observe_rotation
from refrope.conformance.observing_tables import observe_tables
from refrope.conformance.probing import Observed, depends_on_length
from refrope.conformance.reference import bounds, fits, measured_frequencies, pipeline, tables
from refrope.conformance.report import Report
from refrope.encodings import RotaryEncoding, XPos
from refrope.encodings.huggingface import from_huggingface
from refrope.encodings.names import encoding_from, parse
from refrope.errors import check_integer, check_name, check_number, describe
from refrope.rotary import LAYOUTS

KINDS = ("rotate", "tables", "inv_freq")
AXES = ("TD", "HTD", "THD", "BHTD", "BTHD")
MAX_POSITION = 131_072
TIME_LIMIT = 20.0
_LAST = 4096  # positions at the end, where a pipeline is worst


def check(
    function: Callable[..., Any],
    encoding: RotaryEncoding | str | Path | Mapping[str, Any],
    *,
    kind: str = "auto",
    layout: str | None = "half",
    suffix: bool = False,
    axes: str = "TD",
    arrays: str = "auto",
    dtype: str = "float32",
    role: str = "q",
    max_position: int = MAX_POSITION,
    time_limit: float = TIME_LIMIT,
) -> Report:
    r"""Does `function` do what `encoding` says? If not, which mistake does it look like?

    Parameters
    ----------
    function : callable
        One of three kinds, from any library whose arrays NumPy can read (``__array__`` or DLPack): ``(x, positions) ->
        rotated x``; ``positions -> (cos, sin)``, each (T, pairs) or doubled (T, 2 pairs), or one complex array; ``() ->
        inv_freq`` (pairs,), or ``(inv_freq, attention_factor)``.
    encoding : RotaryEncoding, or what makes one
        What the function is declared to be: also a text as on the command line ("yarn:factor=16,original_length=4096"),
        a Hugging Face configuration as dict or the path of a config.json.
    kind : {"auto", "rotate", "tables", "inv_freq"}
        "auto" goes by the number of arguments that the function needs: 2, 1 or 0; ``*args`` counts as 2.
    layout : {"half", "interleaved"} or None
        Which features are a pair, or for tables how they are doubled; None takes both for right.
    suffix : bool
        The last features turn, not the first, where only some do.
    axes : {"TD", "HTD", "THD", "BHTD", "BTHD"}
        Of x: batch, heads, tokens, features. Positions are always (T,) int64.
    arrays : {"auto", "numpy", "torch", "jax", "mlx"}
        What the function takes. "auto" tries NumPy first, then whichever of the others is imported.
    dtype : {"float32", "float64", "float16", "bfloat16"}
        Of x.
    role : {"q", "k"}
        xPos only: whether it turns queries or keys.
    max_position : int
        Positions below it are tried, in tokens. Less for xPos, whose amplitudes leave float32.
    time_limit : float
        Seconds that one call may take.

    Returns
    -------
    Report
        ``report.passed``, ``str(report)`` for people, ``report.as_dict()`` for machines. A function that raises, hangs,
        prints, returns NaN or wrong shapes or changes its input is reported, not an error. Only what ends the process,
        or hangs without letting other threads run, takes `check` with it: ``refrope check`` survives that as well.

    Raises
    ------
    ValueError
        An argument that cannot be: an unknown name, an encoding that does not exist, a function that is not callable.

    Notes
    -----
    x holds basis vectors, so that matrices can be read off; what a right float32 implementation may be off by is said
    at `refrope.conformance.reference.ANGLE_ROUNDINGS`. All numbers are held against 50-digit frequencies and angles
    reduced without rounding (`refrope.precision.exact_cos_sin`).
    """
    declared = as_encoding(encoding)
    if not callable(function):
        raise ValueError(f"check: function is {describe(function)}, expected something to call")
    kind = _kind(function) if kind == "auto" else kind
    for argument, value, known in (
        ("kind", kind, KINDS),
        ("axes", axes, AXES),
        ("arrays", arrays, ("auto", *ARRAYS)),
        ("dtype", dtype, DTYPES),
        ("role", role, ("q", "k")),
    ):
        check_name("check", argument, value, known)
    if layout is not None:
        check_name("check", "layout", layout, LAYOUTS)
    limit = check_number("check", "time_limit", time_limit, "a number of seconds > 0", 0.0, above=True)
    end = check_integer("check", "max_position", max_position, 16, 2**53)
    inner = declared.innermost
    if isinstance(inner, XPos):
        end = min(end, round(8 * inner.scale_base))
    caller = Caller(function, arrays=arrays, dtype=dtype, time_limit=limit)
    settings = {"kind": kind, "layout": layout, "dtype": dtype, "max_position": end}
    if kind == "inv_freq":
        return check_inv_freq(caller, declared, settings)
    if kind == "tables":
        seen = observe_tables(caller, declared, layout, end)
    else:
        rotation = Rotation(caller, axes, declared.head_dim)
        seen = observe_rotation(rotation, declared, layout, suffix=suffix, max_position=end)
    report = _judge(seen, caller, declared, settings, role)
    if kind == "rotate" and report.passed and not isinstance(inner, XPos):
        given = [layout] if layout is not None else list(LAYOUTS)
        groups = matching_groups(declared)
        compared = [compare_rotations(rotation, groups, declared, each, suffix, end) for each in given]
        # With either layout allowed, that one counts which the function has.
        ids, wrong = min(compared, key=lambda one: one[1] is not None)
        report.vectors, report.calls = tuple(ids), caller.calls
        if wrong is not None:
            report.problems["vectors"] = wrong
    return report


def as_encoding(encoding: RotaryEncoding | str | Path | Mapping[str, Any]) -> RotaryEncoding:
    """The encoding that a caller of `check` names."""
    if isinstance(encoding, RotaryEncoding):
        return encoding
    if isinstance(encoding, Mapping):
        return from_huggingface(dict(encoding))
    if not isinstance(encoding, (str, Path)):
        raise ValueError(
            f"check: encoding is {describe(encoding)}, expected a RotaryEncoding, a text or a configuration"
        )
    return encoding_from("check", parse("check", str(encoding)), {"head_dim": 64})


def _kind(function: Callable[..., Any]) -> str:
    try:
        parameters = list(signatures.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise ValueError("check: cannot see how many arguments the function takes; say which kind it is") from None
    if hasattr(function, "forward") and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return _kind(function.forward)  # a module of torch, whose __call__ takes anything
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not needed and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return "rotate"  # a decorator's *args
    if len(needed) >= len(KINDS):
        raise ValueError(
            f"check: the function needs {len(needed)} arguments, expected (x, positions), (positions) or ()"
        )
    return {2: "rotate", 1: "tables", 0: "inv_freq"}[len(needed)]


def _judge(seen: Observed, caller: Caller, declared: RotaryEncoding, settings: dict[str, Any], role: str) -> Report:
    """From what was seen to a report."""
    mistakes: list[Mistake] = []
    if seen.structure is not None and seen.structure.name:
        mistakes.append(Mistake(seen.structure.name, seen.structure.words))
    if seen.mistake is not None:
        mistakes.append(Mistake(*seen.mistake))
    problems = {**caller.problems, **seen.problems}
    report = Report(declared=declared, **settings, problems=problems, calls=caller.calls)
    parts = [part for part in seen.parts if len(part.positions)]
    if not parts:
        report.mistakes = tuple(mistakes)
        return report
    wanted = [
        tables(declared.for_length(part.length) if depends_on_length(declared) else declared, part.positions, role)
        for part in parts
        if part.z.shape[1] == declared.pairs
    ]
    right = len(wanted) == len(parts) and all(
        fits(part.z, want, bounds(declared, part, settings["dtype"], want))
        for part, want in zip(parts, wanted, strict=True)
    )
    report.positions = sum(len(part.positions) for part in parts)
    if right:
        part, want = max(zip(parts, wanted, strict=True), key=lambda both: float(np.abs(both[0].z - both[1]).max()))
        off = np.abs(part.z - want)
        row, pair = np.unravel_index(int(off.argmax()), off.shape)
        report.worst = float(off[row, pair])
        report.worst_at = int(part.positions[row]), int(pair)
        if not mistakes and not depends_on_length(declared):
            report.pipeline = pipeline(part, declared, settings["dtype"])
            if report.pipeline is not None:
                last = np.arange(max(settings["max_position"] - _LAST, 0), settings["max_position"])
                off_there = precision.table_error(declared, last, report.pipeline).max()
                report.pipeline_error = float(declared.attention_factor * off_there)
    else:
        found = diagnose(parts, declared, settings["dtype"], role)
        mistakes += found or []
        if found is None:
            report.unexplained = True
            if not depends_on_length(declared):
                report.measured = measured_frequencies(parts[0])
            report.first_wrong = _first_wrong(parts, wanted, declared, settings["dtype"])
    report.mistakes = tuple(mistakes)
    return report


def _first_wrong(parts: Any, wanted: Any, declared: RotaryEncoding, dtype: str) -> tuple[int, int, list[int]] | None:
    """The first position that is off, how many are, and the pairs that are off anywhere."""
    if len(wanted) != len(parts):
        return None
    places: list[int] = []
    pairs: set[int] = set()
    for part, want in zip(parts, wanted, strict=True):
        off = ~(np.abs(part.z - want) <= bounds(declared, part, dtype, want))
        places += part.positions[off.any(axis=1)].tolist()
        pairs |= set(np.flatnonzero(off.any(axis=0)).tolist())
    return (min(places), len(places), sorted(pairs)) if places else None


__all__ = ["AXES", "KINDS", "MAX_POSITION", "TIME_LIMIT", "CallError", "check"]
