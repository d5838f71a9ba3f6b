"""Weights from one pair layout to the other: the same model for code that pairs features differently.

A score is a sum over features, so it does not mind their order as long as queries and keys have the same one. To hand a
model to code of the other layout, reorder what makes the features of queries and keys: the rows of W_q and W_k, and
everything that goes with these rows (biases, gains of a norm on queries or keys, scales of quantised rows, the B matrix
of LoRA). Nothing of V or of the output projection moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_name, describe
from refrope.rotary import LAYOUTS, pair_slices

Array = npt.NDArray[Any]


def feature_order(
    head_dim: int, *, to: str, rotary_dim: int | None = None, suffix: bool = False
) -> npt.NDArray[np.intp]:
    """Which feature of a head in the other layout becomes feature i of a head in layout `to`.

    Parameters
    ----------
    head_dim : int, even
    to : {"interleaved", "half"}
        The layout that is wanted; the other one is what there is.
    rotary_dim, suffix : as in `permute_rows`

    Returns
    -------
    (head_dim,) a permutation p, so that ``new = old[p]``
    """
    check_name("feature_order", "to", to, LAYOUTS)
    rotated = head_dim if rotary_dim is None else rotary_dim
    for name, value in (("head_dim", head_dim), ("rotary_dim", rotated)):
        if check_integer("feature_order", name, value, 2) % 2:
            raise ValueError(f"feature_order: {name} is {value}, expected an even number: features turn in pairs")
    if rotated > head_dim:
        raise ValueError(f"feature_order: rotary_dim is {rotated}, expected at most head_dim = {head_dim}")
    origin = "half" if to == "interleaved" else "interleaved"
    start = head_dim - rotated if suffix else 0
    order = np.arange(head_dim)
    for mine, theirs in zip(
        pair_slices(to, start, rotated // 2), pair_slices(origin, start, rotated // 2), strict=True
    ):
        order[mine] = np.arange(head_dim)[theirs]
    return order


def permute_rows(
    weight: Array, *, to: str, heads: int, head_dim: int, rotary_dim: int | None = None, suffix: bool = False
) -> Array:
    """Reorder what makes the features of queries, or of keys, for the pair layout `to`.

    Pairs are (j, j + r/2) in layout "half" and (2j, 2j + 1) in layout "interleaved", of the r features that turn.

    Parameters
    ----------
    weight : (heads * head_dim, ...) of any dtype
        W_q or W_k as (out, in), a bias or a gain as (heads * head_dim,). Transpose a weight that is (in, out).
    to : {"interleaved", "half"}
        The layout that is wanted; `weight` is in the other one.
    heads : int
        How many heads `weight` has: fewer for W_k than for W_q with grouped queries, 1 for a gain that heads share.
    head_dim : int, even
    rotary_dim : int, optional
        How many features of a head turn: the encoding's `rotary_dim`. All of them if None, as with `ProportionalRoPE`,
        whose pairs lie over the whole head, those that stand still included.
    suffix : bool
        The last `rotary_dim` features turn, not the first.

    Returns
    -------
    Like `weight`, a new array. Permuting it to the other layout gives `weight` again.

    Raises
    ------
    ValueError
        A first axis that is not ``heads * head_dim``; odd sizes; an unknown layout.
    """
    order = feature_order(head_dim, to=to, rotary_dim=rotary_dim, suffix=suffix)
    check_integer("permute_rows", "heads", heads, 1)
    if not isinstance(weight, np.ndarray) or weight.ndim < 1 or len(weight) != heads * head_dim:
        wanted = f"({heads * head_dim}, ...) for {heads} heads of {head_dim} features"
        raise ValueError(f"permute_rows: weight is {describe(weight)}, expected {wanted}")
    by_head = weight.reshape(heads, head_dim, *weight.shape[1:])
    return by_head[:, order].reshape(weight.shape)
