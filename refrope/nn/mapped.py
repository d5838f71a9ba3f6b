"""Attention with a position map: several passes of ordinary attention, merged; forward directly followed by backward.

Each pass has tables of its own for queries and keys, and sees its own pairs. A query's softmax runs over the pairs of
all passes together. With ``lse_p`` the log sum exp of pass p's scores, which its attention returns beside its output,

    lse = log sum_p exp(lse_p)        out = sum_p exp(lse_p - lse) out_p

and the weight of a pair of pass p in the whole is ``exp(score - lse)``. So the backward pass of attention, given the
merged `out` and `lse`, has each pass's share of the gradients as they are, and these add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import kernels
from refrope.arrays import overlap, put
from refrope.encodings.position_map import PassTables
from refrope.nn.attention_checks import check_attention, check_length
from refrope.nn.backends import NumpyOps
from refrope.nn.dropout import site_seed
from refrope.nn.place_bias import add_collected, check_places, collector, of_pairs

Array = npt.NDArray[Any]
Operations = ModuleType | type[NumpyOps]
Tables = tuple[Array, Array] | None


def mapped_forward(
    ops: Operations,
    q: Array,
    k: Array,
    v: Array,
    passes: Sequence[PassTables],
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    first_slice: int = 0,
    out: Array | None = None,
    places: Array | None = None,
) -> tuple[Array, Array]:
    """Causal attention of tokens 0 .. T - 1 in which each pair has the effective position of a map.

    Parameters
    ----------
    ops : refrope.kernels or refrope.nn.backends.NumpyOps
    q : (B, H, T, D) float32 or float64, not turned yet
    k, v : (B, H_kv, T, D), dtype of `q`, H a multiple of H_kv
    passes : PassTables, as from ``PositionMap.tables(T, dtype)``
    scale : float, optional
        Multiplies the scores; 1 / sqrt(D) if None.
    dropout, seed, first_slice : as in `refrope.nn.attention_forward`
        A mask is a function of a pair's place in its pass. The first pass has `seed`, pass p another one made of it
        and p: dropping weights of each pass drops those of the merged softmax, each for itself.
    out : array like `q`, optional
        Where to write the result; any writable view, which may overlap the inputs.
    places : (H, places), dtype of `q`, optional
        What is added to the scores of each head at each place that the passes have.

    Returns
    -------
    out : (B, H, T, D), dtype and memory layout of `q`
    lse : (B, H, T)
        log sum exp of each query's scaled scores over all passes, which the backward pass needs.

    Raises
    ------
    ValueError
        Shapes or dtypes that do not fit, fewer queries than keys, a number out of its range, passes without places.

    References
    ----------
    Merging by log sum exp: Dao et al. 2022, arXiv:2205.14135, Section 3.1.
    """
    settings: dict[str, Any] = {"scale": scale, "dropout": dropout, "seed": seed, "first_slice": first_slice}
    _check("mapped_forward", q, k, v, passes, settings, out=out)
    check_places("mapped_forward", q, passes, places, None)
    target = _apart(out, (q, k, v), q)
    lse = np.full(q.shape[:3], -np.inf, q.dtype)

    def work(part: slice) -> None:
        own = settings | {"first_slice": first_slice + part.start * q.shape[1]}
        _forward(ops, q[part], k[part], v[part], passes, own, target[part], lse[part], places)

    _spread(ops, len(q), work)
    return put(target, out), lse


def _forward(
    ops: Operations,
    q: Array,
    k: Array,
    v: Array,
    passes: Sequence[PassTables],
    settings: dict[str, Any],
    out: Array,
    lse: Array,
    places: Array | None,
) -> None:
    """Some texts of a batch: `lse` comes with -inf."""
    turned_q = _turned(ops, q, [(p.q_tables, p.queries) for p in passes])
    turned_k = _turned(ops, k, [(p.k_tables, p.keys) for p in passes])
    seen = np.zeros(q.shape[2], bool)
    for i, (p, q_p, k_p) in enumerate(zip(passes, turned_q, turned_k, strict=True)):
        rows = p.queries
        place = out[:, :, rows], lse[:, :, rows]
        first = not seen[rows].any()
        where: dict[str, Any] = {"out": place[0]} if first else {"onto": place}
        options = _of_pass(settings, i) | {"causal": p.causal, "window": p.window} | where
        options["bias"] = None if places is None else of_pairs(places, p, q_p.shape[2], k_p.shape[2])
        _, lse_p = ops.attention_forward(q_p, k_p, v[:, :, p.keys], **options)
        if first:
            place[1][...] = lse_p
        seen[rows] = True


def mapped_backward(
    ops: Operations,
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    passes: Sequence[PassTables],
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    first_slice: int = 0,
    grads: tuple[Array, Array, Array] | None = None,
    places: Array | None = None,
    dplaces: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v, not turned, given that of `out`.

    Parameters
    ----------
    dout : (B, H, T, D), dtype of `q`
    ops, q, k, v, passes, scale, dropout, seed, first_slice, places : as in the forward call
    out, lse : what the forward call returned
    grads : (dq, dk, dv), optional
        Where to write the result; any writable views that do not overlap each other. They may overlap inputs.
    dplaces : array like `places`, optional
        The gradient of `places` is added to it.

    Returns
    -------
    dq, dk, dv : shape, dtype and memory layout of q, k, v

    Raises
    ------
    ValueError
        As in the forward call.
    """
    settings: dict[str, Any] = {"scale": scale, "dropout": dropout, "seed": seed, "first_slice": first_slice}
    _check("mapped_backward", q, k, v, passes, settings, backward=True, dout=dout, out=out, lse=lse, grads=grads)
    check_places("mapped_backward", q, passes, places, dplaces)
    read = (dout, q, k, v, out, lse)
    dq, dk, dv = (_apart(y, read, x) for y, x in zip(grads or (None,) * 3, (q, k, v), strict=True))

    def work(part: slice) -> None:
        own = settings | {"first_slice": first_slice + part.start * q.shape[1]}
        of_dout, of_q, of_k, of_v, of_out, of_lse = (x[part] for x in read)
        parts = dq[part], dk[part], dv[part]
        of_places = None if sums is None else sums[part]
        _backward(ops, of_dout, of_q, of_k, of_v, of_out, of_lse, passes, own, parts, places, of_places)

    # Of each text for itself: the bits must not depend on how many are worked on at a time.
    sums = None if dplaces is None else np.zeros((len(q), *dplaces.shape), q.dtype)
    _spread(ops, len(q), work)
    if dplaces is not None and sums is not None:
        dplaces += sums.sum(axis=0)
    if grads is None:
        return dq, dk, dv
    for gradient, target in zip((dq, dk, dv), grads, strict=True):
        put(gradient, target)
    return grads


def _backward(
    ops: Operations,
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    passes: Sequence[PassTables],
    settings: dict[str, Any],
    grads: tuple[Array, Array, Array],
    places: Array | None,
    dplaces: Array | None,
) -> None:
    """Some texts of a batch."""
    dq, dk, dv = grads
    q_uses, k_uses = [(p.q_tables, p.queries) for p in passes], [(p.k_tables, p.keys) for p in passes]
    dq_sums, dk_sums = _sums(dq, q_uses), _sums(dk, k_uses)
    dv[...] = 0
    turned = zip(passes, _turned(ops, q, q_uses), _turned(ops, k, k_uses), strict=True)
    for i, (p, q_p, k_p) in enumerate(turned):
        rows, columns = p.queries, p.keys
        n_q, n_k = q_p.shape[2], k_p.shape[2]
        dbias = None if dplaces is None else collector(p, q.shape[0], q.shape[1], n_q, n_k, q.dtype)
        ops.attention_backward(
            *(dout[:, :, rows], q_p, k_p, v[:, :, columns], out[:, :, rows], lse[:, :, rows]),
            **_of_pass(settings, i),
            bias=None if places is None else of_pairs(places, p, n_q, n_k),
            dbias=dbias,
            causal=p.causal,
            window=p.window,
            grads=(_part(dq_sums, p.q_tables, rows), _part(dk_sums, p.k_tables, columns), dv[:, :, columns]),
            add=True,
        )
        if dplaces is not None and dbias is not None:
            add_collected(dplaces, p, dbias)
    _turn_back(ops, dq, q_uses, dq_sums)
    _turn_back(ops, dk, k_uses, dk_sums)


# ---- each token turned once for all passes that turn it alike ----


def _spans(uses: list[tuple[Tables, slice]]) -> dict[int, tuple[Tables, slice]]:
    """For each table, by its id, the rows from the first to the last that a pass uses."""
    spans: dict[int, tuple[Tables, slice]] = {}
    for tables, rows in uses:
        _, old = spans.get(id(tables), (tables, rows))
        spans[id(tables)] = tables, slice(min(old.start, rows.start), max(old.stop, rows.stop))
    return spans


def _turned(ops: Operations, x: Array, uses: list[tuple[Tables, slice]]) -> list[Array]:
    """The rows of `x` that each pass uses, turned by its tables."""
    turned = {}
    for key, (tables, rows) in _spans(uses).items():
        part = x[:, :, rows]
        if tables is not None:
            part = ops.rotate(part, *(table[rows] for table in tables))
        turned[key] = part, rows.start
    parts = []
    for tables, rows in uses:
        part, start = turned[id(tables)]
        parts.append(part[:, :, rows.start - start : rows.stop - start : rows.step])
    return parts


def _sums(gradient: Array, uses: list[tuple[Tables, slice]]) -> dict[int, tuple[Array, int]]:
    """Zeros for the rows of each table, to add up what is still to be turned back, and the first of these rows.

    The sum of the first table lies in `gradient` itself.
    """
    sums: dict[int, tuple[Array, int]] = {}
    for key, (_, rows) in _spans(uses).items():
        part = gradient if not sums else np.zeros_like(gradient[:, :, rows])
        sums[key] = part, 0 if part is gradient else rows.start
    gradient[...] = 0
    return sums


def _part(sums: dict[int, tuple[Array, int]], tables: Tables, rows: slice) -> Array:
    """The rows of a table's sum that a pass adds to."""
    part, start = sums[id(tables)]
    return part[:, :, rows.start - start : rows.stop - start : rows.step]


def _turn_back(
    ops: Operations, gradient: Array, uses: list[tuple[Tables, slice]], sums: dict[int, tuple[Array, int]]
) -> None:
    """``gradient = sum over tables of R^T sum``."""
    for key, (tables, rows) in _spans(uses).items():
        part, _ = sums[key]
        whole = part is gradient
        if tables is not None:
            turned = slice(None) if whole else rows
            ops.rotate(part, *(table[turned] for table in tables), transpose=True, out=part)
        if not whole:
            gradient[:, :, rows] += part


# ---- the rest ----


def _spread(ops: Operations, batch: int, work: Callable[[slice], None]) -> None:
    """`work` on all texts of a batch: one hand-over to the threads instead of one for each pass."""
    count = max(1, min(kernels.parts_at_once(), batch)) if ops is kernels else 1
    parts = [slice(batch * i // count, batch * (i + 1) // count) for i in range(count)]
    if count == 1:
        work(parts[0])
    else:
        kernels.run_parts(lambda _, part: work(parts[part]), count)


def _of_pass(settings: dict[str, Any], i: int) -> dict[str, Any]:
    """The settings of pass i, which drops other weights than the passes before it."""
    return settings | {"seed": site_seed(settings["seed"], i)} if i else settings


def _apart(result: Array | None, inputs: Sequence[Array], like: Array) -> Array:
    """`result` where it can be written to while the inputs are still read, else a new array."""
    if result is None or any(overlap(result, x) for x in inputs):
        return np.empty_like(like)
    return result


def _check(
    function: str,
    q: Array,
    k: Array,
    v: Array,
    passes: Sequence[PassTables],
    settings: dict[str, Any],
    **others: Any,
) -> None:
    """Raise for what does not fit, before anything is written."""
    if not passes:
        raise ValueError(f"{function}: passes are empty, expected those of PositionMap.tables")
    length = max(p.queries.stop for p in passes)
    for name, x in (("q", q), ("k", k)):
        check_length(function, name, x, length, "the passes")
    check_attention(function, q, k, v, False, **settings, bias=None, **others)
