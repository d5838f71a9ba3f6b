"""Refrope's position maps, biases and encodings of several axes for the groups of maps.json, biases.json and axes.json.

These files hold logits, which one method's tables do not give: here is what stands between a group and its logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import vectors
from refrope.encodings import Axial2D, MRoPE
from refrope.encodings.remap import STRING, DualChunk, LeakyReRoPE, ReRoPE, SelfExtend
from refrope.errors import check_name
from refrope.nn.absolute import Sinusoidal
from refrope.nn.biases import ALiBi, Bias, Kerple, T5Bias
from refrope.nn.dape import DAPE
from refrope.nn.fire import FIRE

Array = npt.NDArray[Any]
Group = dict[str, Any]

MAPS: dict[str, type] = {
    **{"rerope": ReRoPE, "leaky-rerope": LeakyReRoPE, "self-extend": SelfExtend, "dual-chunk": DualChunk},
    "string": STRING,
}
BIASES: dict[str, type] = {
    **{"alibi": ALiBi, "t5": T5Bias, "kerple": Kerple, "fire": FIRE, "dape": DAPE},
    "sinusoidal": Sinusoidal,  # no bias, but a table; its groups stand in the same file
}
AXES: dict[str, type] = {"mrope": MRoPE, "axial-2d": Axial2D}
_SIZES = ("heads", "d_model")  # of the group's arrays, and no parameters of the classes

# How far float64 may be from the vectors, in the unit of the number itself.
# Sums of 8 or 12 products, of size 1 to 3, and a few biases; angles of up to 40 radians carry 4 * 2^-53 of themselves.
LOGITS = 3e-14
# FIRE and DAPE: some 40 products of weights, whose sums stay below 10.
NETWORKS = 2e-14
# Relative: a few roundings of 2^-53 each, of a logarithm, a power, one or two products.
VALUES = 1e-15
# cos and sin of an angle x are within 4 * 2^-53 |x| and their own 2^-50; then the amplitude's roundings.
ANGLES, TABLES = 4 * 2.0**-53, 2.0**-50 + 2.0**-51


def method(parameters: Mapping[str, Any]) -> Any:
    """Refrope's map, bias, sinusoids or encoding of several axes for a group's parameters.

    Raises
    ------
    ValueError
        An unknown "variant", or what the class refuses.
    """
    arguments = {key: value for key, value in parameters.items() if key not in _SIZES}
    variant = arguments.pop("variant", None)
    classes = {**MAPS, **BIASES, **AXES}
    check_name("method", "variant", variant, classes)
    if "encoding" in arguments:
        arguments["encoding"] = vectors.encoding(arguments["encoding"])
    if "bias" in arguments:
        arguments["bias"] = method(arguments["bias"])
    return classes[str(variant)](**arguments)


def groups(name: str, *variants: str) -> list[Group]:
    """The groups of a file, of these variants alone if any are named."""
    found = vectors.load(name)["groups"]
    return [group for group in found if not variants or group["parameters"]["variant"] in variants]


def scores(name: str, *variants: str) -> Iterator[tuple[Group, dict[str, Any], Array, Array]]:
    """Every matrix of logits in "maps" or "biases": its group, itself, and q and k (1, H, T, D) that it belongs to."""
    whole = vectors.load(name)
    q, k = np.array(whole["q"]), np.array(whole["k"])
    for group in groups(name, *variants):
        for score in group.get("scores", ()):
            heads = len(score["logits"])
            yield group, score, q[None, :heads], k[None, :heads]


def square(triangles: Any) -> Array:
    """Rows of 1, 2, ... T numbers as (T, T) with -inf for masked pairs; lists of such rows as (H, T, T)."""
    if isinstance(triangles[0][0], list):
        return np.array([square(triangle) for triangle in triangles])
    whole = np.full((len(triangles), len(triangles)), -np.inf)
    for m, row in enumerate(triangles):
        whole[m, : m + 1] = row
    return whole


def causal_entries(whole: Array) -> Array:
    """The entries of (..., T, T) that are not masked, row by row: (..., T (T + 1) / 2)."""
    entries: Array = whole[(..., *np.tril_indices(whole.shape[-1]))]
    return entries


def half_layout(x: Array, layout: str) -> Array:
    """Features of a layout as "half" has them, the only one that maps know: the same pairs are turned then."""
    return x if layout == "half" else np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)


def bias_weights(group: Group) -> dict[str, Array]:
    """The weights of a bias by name, float64."""
    return {name: np.array(values) for name, values in group["weights"].items()}


def bias_values(bias: Bias | DAPE, group: Group, distances: Array, queries: Array | None = None) -> Array:
    """Values (heads, ...) of a group's bias; of DAPE those of the bias inside."""
    inside = bias.bias if isinstance(bias, DAPE) else bias
    heads = group["parameters"]["heads"]
    own = bias_weights(group)
    return inside.forward({name: own[name] for name in inside.shapes(heads)}, heads, distances, queries)
