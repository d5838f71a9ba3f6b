"""Encodings, tables, rotation and PosGen against the test vectors, which are from other code in 60-digit arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refrope import kernels, posgen, rotary, vectors
from refrope.posgen import Rule
from refrope.randomness import IntArray
from refrope.vectors.bounds import cases_by_role, inner, logit_bounds, numbers, rotation_bounds, table_bounds
from refrope.verify.tally import Check, Tally

_ONE_ULP = 2.0**-52
_FLOAT32_ROUNDING = 2.0**-24  # relative, of a table entry
_XPOS_FLOAT32 = 4096  # in tokens: beyond, its amplitudes leave float32


def _groups() -> Iterator[dict[str, Any]]:
    for name in vectors.NAMES:
        if name != "posgen":
            yield from vectors.load(name)["groups"]


def _files(tally: Tally) -> None:
    for name in (*vectors.NAMES, *vectors.LOGITS):
        tally.true(bool(vectors.load(name)["groups"]), name)  # load raises where hash or structure are wrong


def _frequencies(tally: Tally) -> None:
    for group in _groups():
        encoding, where = vectors.encoding(group["parameters"]), group["id"]
        tally.same(encoding.inv_freq, np.array(group["inv_freq"]), f"{where}: inv_freq")
        tally.same(encoding.wavelengths, numbers(group["wavelengths"]), f"{where}: wavelengths")
        tally.true((encoding.stretch is None) == (group["stretch"] is None), f"{where}: which variants have a stretch")
        if encoding.stretch is not None and group["stretch"] is not None:
            tally.same(encoding.stretch, numbers(group["stretch"]), f"{where}: stretch")
        if "periods" in group:
            periods: IntArray = encoding.periods  # type: ignore[attr-defined]
            tally.same(periods, np.array(group["periods"], np.int64), f"{where}: periods")


def _factors(tally: Tally) -> None:
    for group in _groups():
        encoding = vectors.encoding(group["parameters"])
        for key in ("attention_factor", "softmax_factor"):
            tally.within(getattr(encoding, key), group[key], _ONE_ULP * group[key], f"{group['id']}: {key}")


def _tables(dtype: type[np.floating[Any]]) -> Any:
    def run(tally: Tally) -> None:
        for group in _groups():
            encoding = vectors.encoding(group["parameters"])
            for role, cases in cases_by_role(group).items():
                if dtype is np.float32 and inner(group)["variant"] == "xpos":
                    cases = [case for case in cases if case["position"] <= _XPOS_FLOAT32]
                positions = [case["position"] for case in cases]
                exact = np.array([[case[key] for case in cases] for key in ("cos", "sin")])
                options = {} if role is None else {"role": role}
                found = np.stack(encoding.cos_sin(positions, dtype=dtype, **options)).astype(np.float64)
                bound = table_bounds(group, positions, role)
                if dtype is np.float32:
                    bound = bound + _FLOAT32_ROUNDING * np.abs(exact) + np.finfo(np.float32).smallest_subnormal
                tally.within(found, exact, bound, f"{group['id']}: cos and sin")

    return run


def _rotations(rotate: Any) -> Any:
    def run(tally: Tally) -> None:
        for group in _groups():
            for rotation in group["rotations"]:
                _rotation(tally, rotate, group, rotation)

    return run


def _rotation(tally: Tally, rotate: Any, group: dict[str, Any], rotation: dict[str, Any]) -> None:
    encoding, positions = vectors.encoding(group["parameters"]), rotation["positions"]
    turned, errors = {}, {}
    for letter in ("q", "k"):
        role = letter if inner(group)["variant"] == "xpos" else None
        options = {} if role is None else {"role": role}
        cos, sin = encoding.cos_sin(positions, dtype=np.float64, **options)
        turned[letter] = rotate(
            np.array(rotation[letter]), cos, sin, layout=rotation["layout"], suffix=rotation["suffix"]
        )
        errors[letter] = rotation_bounds(group, positions, cos, sin, role)
        expected = np.array(rotation[f"rotated_{letter}"])
        tally.within(turned[letter], expected, errors[letter][:, None], f"{rotation['id']}: rotated {letter}")
    bound = logit_bounds(turned["q"], turned["k"], errors["q"], errors["k"])
    tally.within(turned["q"] @ turned["k"].T, np.array(rotation["logits"]), bound, f"{rotation['id']}: logits")


def _posgen(tally: Tally) -> None:
    for group in vectors.load("posgen")["groups"]:
        p = group["parameters"]
        for case in group["cases"]:
            sizes = p["modulus"], p["j"], p["k"]
            found = posgen.generate(p["task"], [case["prefix"]], case["length"], *sizes, rule=vector_rule(p))
            tally.same(found[0], np.array(case["sequence"], np.int64), case["id"])


def vector_rule(parameters: dict[str, Any]) -> Rule | str:
    """The rule of a PosGen group, as `refrope.posgen.generate` takes it."""
    if parameters["rule"] == "sum":
        return "sum"
    table = np.array(parameters.get("table", parameters.get("Q")))

    def look_up(far: IntArray, near: IntArray, modulus: int) -> IntArray:
        if table.ndim == 1:
            return np.asarray(table[(far.sum(axis=1) + near.sum(axis=1)) % modulus])
        return np.asarray(table[far.sum(axis=1) % modulus, near.sum(axis=1) % modulus])

    return look_up


CHECKS = [
    Check("vectors", "the vector files have the sizes, hashes and structure of their manifest", _files),
    Check("vectors", "frequencies, wavelengths, stretches and periods are the vectors', bit for bit", _frequencies),
    Check("vectors", "attention and softmax factors are within one unit in the last place", _factors),
    Check("vectors", "float64 tables are within their bound", _tables(np.float64)),
    Check("vectors", "float32 tables are one rounding further away at most", _tables(np.float32)),
    Check("vectors", "rotated q and k and their logits are within their bound (NumPy)", _rotations(rotary.rotate)),
    Check("vectors", "rotated q and k and their logits are within their bound (C)", _rotations(kernels.rotate), True),
    Check("vectors", "PosGen sequences are the vectors'", _posgen),
]
