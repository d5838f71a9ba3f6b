"""Fast twins of the two ends of a model, from refrope.nn.layers: embedding and cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np

from refrope.errors import describe
from refrope.kernels._call import Array, kernel, pointer, run
from refrope.kernels._native_loader import native
from refrope.kernels.layers import result_like
from refrope.nn.layers import check_indices, check_loss, loss_factors, weighted_loss


def cross_entropy_forward(
    logits: Array, targets: Array, weights: Array, *, total: float | None = None, out: Array | None = None
) -> tuple[float, Array]:
    """`refrope.nn.layers.cross_entropy_forward` in C. Rows are added up by NumPy: the same bits for any threads."""
    check_loss("cross_entropy_forward", logits, targets, weights)
    logits, chosen = np.ascontiguousarray(logits), _indices(targets)
    probabilities = result_like("cross_entropy_forward", logits, out)
    likelihoods = np.empty(len(logits), logits.dtype)
    arguments = (pointer(logits), index_pointer(chosen), pointer(probabilities), pointer(likelihoods), logits.shape[1])
    run(kernel("cross_entropy_forward", logits.dtype), arguments, len(logits), "cross_entropy_forward")
    return weighted_loss(likelihoods, weights, total), probabilities


def cross_entropy_backward(
    probabilities: Array, targets: Array, weights: Array, *, total: float | None = None
) -> Array:
    """`refrope.nn.layers.cross_entropy_backward` in C, equal bit for bit."""
    check_loss("cross_entropy_backward", probabilities, targets, weights)
    result_like("cross_entropy_backward", probabilities, probabilities)
    chosen, factors = _indices(targets), loss_factors(weights, total, probabilities.dtype)
    arguments = (pointer(probabilities), index_pointer(chosen), pointer(factors), probabilities.shape[1])
    run(kernel("cross_entropy_backward", probabilities.dtype), arguments, len(chosen), "cross_entropy_backward")
    return probabilities


def embedding_forward(tokens: Array, table: Array, *, out: Array | None = None) -> Array:
    """`refrope.nn.layers.embedding_forward` in C, equal bit for bit."""
    check_indices("embedding_forward", "tokens", tokens, len(table))
    table, chosen = np.ascontiguousarray(table), _indices(tokens)
    y = np.empty((len(tokens), table.shape[1]), table.dtype) if out is None else out
    if y.shape != (len(tokens), table.shape[1]) or y.dtype != table.dtype or not y.flags.c_contiguous:
        wanted = f"C-contiguous {table.dtype}({len(tokens)}, {table.shape[1]})"
        raise ValueError(f"embedding_forward: out is {describe(y)}, expected {wanted}")
    arguments = (index_pointer(chosen), pointer(table), pointer(y), table.shape[1])
    run(kernel("embedding_forward", table.dtype), arguments, len(tokens), "embedding_forward")
    return y


def embedding_backward(dy: Array, tokens: Array, dtable: Array) -> None:
    """`refrope.nn.layers.embedding_backward` in C: gradients are added in the order of the tokens."""
    check_indices("embedding_backward", "tokens", tokens, len(dtable))
    wanted = f"{dtable.dtype}({len(tokens)}, {dtable.shape[1]})"
    if dy.shape != (len(tokens), dtable.shape[1]) or dy.dtype != dtable.dtype:
        raise ValueError(f"embedding_backward: dy is {describe(dy)}, expected {wanted}")
    result_like("embedding_backward", dtable, dtable)
    dy, chosen = np.ascontiguousarray(dy), _indices(tokens)
    arguments = (pointer(dy), index_pointer(chosen), pointer(dtable), len(tokens), dtable.shape[1])
    run(kernel("embedding_backward", dy.dtype), arguments, dtable.shape[1], "embedding_backward")


def _indices(values: Array) -> Array:
    return np.ascontiguousarray(values, dtype=np.int64)


def index_pointer(indices: Array) -> Any:
    """Where an int64 array's first element lies, as a C pointer."""
    return native()[0].cast("int64_t *", indices.ctypes.data)
