"""The test vectors of the declared setting, where there are any: the same function against published numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from refrope import vectors
from refrope.conformance.calling import CallError
from refrope.conformance.formulas import FloatArray
from refrope.conformance.observing import Rotation
from refrope.conformance.reference import ANGLE_ROUNDINGS, TABLE_ROUNDING
from refrope.encodings import Resonance, RotaryEncoding
from refrope.encodings.names import CLASSES


def matching_groups(declared: RotaryEncoding) -> list[dict[str, Any]]:
    """The groups of refrope's vectors whose setting is `declared`."""
    name = next(key for key, kind in CLASSES.items() if type(declared.innermost) is kind)
    known = _groups("resonance" if isinstance(declared, Resonance) else name)
    return [group for encoding, group in known if encoding == declared]


@cache  # files of constants, read once
def _groups(name: str) -> list[tuple[RotaryEncoding, dict[str, Any]]]:
    return [(vectors.encoding(group["parameters"]), group) for group in vectors.load(name)["groups"]]


def compare_rotations(
    rotation: Rotation, groups: list[dict[str, Any]], declared: RotaryEncoding, layout: str, suffix: bool, end: int
) -> tuple[list[str], str | None]:
    """The rotated queries and keys of the vectors, and their logits: ids compared, and what is off if anything is.

    Positions below `end` are taken. A function whose basis vectors are turned rightly fails here only if it treats
    other numbers differently.
    """
    compared: list[str] = []
    for group in groups:
        for vector in group["rotations"]:
            positions = np.array(vector["positions"], dtype=np.int64)
            rows = np.flatnonzero(positions < end)
            if vector["layout"] != layout or vector["suffix"] != suffix or not len(rows):
                continue
            turned = {}
            for name in ("q", "k"):
                try:
                    turned[name] = rotation.rotate(np.array(vector[name])[rows], positions[rows])
                except CallError as error:
                    return compared, f"{vector['id']}: {error}"
            bound = _bound(declared, positions[rows], rotation.caller.dtype)
            for name in ("q", "k"):
                off = np.abs(turned[name] - np.array(vector[f"rotated_{name}"])[rows]).max(axis=1)
                if not (off <= 2 * bound).all():
                    return compared, f"{vector['id']}: rotated {name} is off by {off.max():.2g}"
            logits = np.array(vector["logits"])[np.ix_(rows, rows)]
            off = np.abs(turned["q"] @ turned["k"].T - logits)
            if not (off <= 4 * declared.head_dim * np.maximum(bound[:, None], bound)).all():
                return compared, f"{vector['id']}: logits are off by {off.max():.2g}"
            compared.append(vector["id"])
    return compared, None


def _bound(declared: RotaryEncoding, positions: Any, dtype: str) -> FloatArray:
    """How far a feature may be off at each position, for inputs in [-1, 1]: see `refrope.conformance.reference`."""
    angle = (
        np.abs(positions) * float(declared.inv_freq.max(initial=0.0)) * (ANGLE_ROUNDINGS + 2.0**-24 * declared.pairs)
    )
    amplitude = max(declared.attention_factor, 1.0)
    result: FloatArray = np.minimum(angle + TABLE_ROUNDING[dtype], 2.0) * amplitude
    return result
