"""How far float64 code may be from the vectors: the bounds that README.md states, worked out for a group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

HALF_ULP = 2.0**-53
# As refrope.tables says: the roundings of position, inv_freq and their product, then cos itself.
ANGLE_ROUNDINGS, COS_ERROR = 4, 2.0**-50
# A phase of Resonance lies in [0, 2 pi); the division, 2 pi and the product are rounded, then cos itself.
PHASE_ERROR = 3 * 2 * math.pi * HALF_ULP + COS_ERROR
# The attention factor is rounded once, its product with cos once more.
AMPLITUDE_ROUNDINGS = 2
# xPos: zeta's own roundings count as often as the exponent says; power and products take the rest.
ZETA_ROUNDINGS, POWER_ROUNDINGS = 4, 8
# A rotated feature: two products and their sum.
ROTATION_ROUNDINGS = 3


def numbers(values: Sequence[float | None]) -> FloatArray:
    """A JSON list, with null for infinity, as float64."""
    return np.array([math.inf if value is None else value for value in values])


def inner(group: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the variant itself, without Resonance around it."""
    parameters: dict[str, Any] = group["parameters"].get("encoding", group["parameters"])
    return parameters


def cases_by_role(group: dict[str, Any]) -> dict[str | None, list[dict[str, Any]]]:
    """The cases of a group for each role (None where there are no roles)."""
    roles: dict[str | None, list[dict[str, Any]]] = {}
    for case in group["cases"]:
        roles.setdefault(case.get("role"), []).append(case)
    return roles


def table_bounds(group: dict[str, Any], positions: Sequence[int], role: str | None = None) -> FloatArray:
    """How far each float64 entry of cos and sin may be from the vector, (2, positions, pairs)."""
    size, relative = _amplitudes(group, positions, role)
    if "periods" in group:
        phase = np.full(size.shape, PHASE_ERROR)
    else:
        angles = np.abs(np.array(positions, dtype=float))[:, None] * np.array(group["inv_freq"])
        phase = ANGLE_ROUNDINGS * HALF_ULP * angles + COS_ERROR
    bounds = np.stack([size * (phase + relative)] * 2)
    parameters = inner(group)
    for bound, key in zip(bounds, ("cos_coefficients", "sin_coefficients"), strict=True):
        if parameters.get(key) is not None:  # FoPE: products and sums of n terms
            matrix = np.abs(parameters[key])
            n = len(matrix)
            bound[:, :n] = (bound[:, :n] + n * HALF_ULP) @ matrix
    return bounds


def rotation_bounds(
    group: dict[str, Any], positions: Sequence[int], cos: FloatArray, sin: FloatArray, role: str | None = None
) -> FloatArray:
    """How far a feature of each rotated row may be off, (positions,), for features in [-1, 1]."""
    size = np.abs(cos).max(axis=1) + np.abs(sin).max(axis=1) + 1
    bound: FloatArray = table_bounds(group, positions, role).max(axis=2).sum(axis=0)
    bound += ROTATION_ROUNDINGS * HALF_ULP * size
    return bound


def logit_bounds(q: FloatArray, k: FloatArray, q_error: FloatArray, k_error: FloatArray) -> FloatArray:
    """How far logits may be off, (rows of q, rows of k): products carry both errors, a sum of D is rounded D times.

    `q_error` and `k_error` are those of a feature in each row, as from `rotation_bounds`.
    """
    sizes_q, sizes_k = np.abs(q).sum(axis=1), np.abs(k).sum(axis=1)
    features = q.shape[1]
    bound: FloatArray = sizes_q[:, None] * k_error + q_error[:, None] * (sizes_k + features * k_error)
    bound += (features + 1) * HALF_ULP * (np.abs(q) @ np.abs(k).T)
    return bound


def _amplitudes(
    group: dict[str, Any], positions: Sequence[int], role: str | None
) -> tuple[FloatArray, FloatArray | float]:
    """What multiplies cos and sin, (positions, pairs), and the relative error that float64 may make of it."""
    shape = (len(positions), len(group["inv_freq"]))
    parameters = inner(group)
    if parameters["variant"] != "xpos":
        return np.full(shape, group["attention_factor"]), AMPLITUDE_ROUNDINGS * HALF_ULP
    turned = parameters["rotary_dim"] or parameters["head_dim"]
    zeta = (2 * np.arange(turned // 2) / turned + parameters["gamma"]) / (1 + parameters["gamma"])
    exponents = (np.array(positions, dtype=float) - parameters["centre"])[:, None] / parameters["scale_base"]
    roundings = POWER_ROUNDINGS + np.abs(exponents) * (ZETA_ROUNDINGS + 2 * np.abs(np.log(zeta)))
    return zeta ** (exponents if role == "q" else -exponents), roundings * HALF_ULP
