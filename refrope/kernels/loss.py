"""Fast twins of the two ends of a model, from refrope.nn.layers: embedding and cross-entropy."""

from __future__ import annotations

import numpy as np

from refrope.arrays import check_results, check_shape, put
from refrope.kernels._call import Array, in_place, index_pointer, kernel, pointer, readable, run, target
from refrope.nn.layer_checks import check_embedding, check_loss
from refrope.nn.layers import loss_factors, weighted_loss


def cross_entropy_forward(
    logits: Array, targets: Array, weights: Array, *, total: float | None = None, out: Array | None = None
) -> tuple[float, Array]:
    """`refrope.nn.layers.cross_entropy_forward` in C. Rows are added up by NumPy: the same bits for any threads."""
    check_loss("cross_entropy_forward", logits, targets, weights, total, out=out)
    logits, chosen = readable(logits), readable(targets, np.int64)
    probabilities = target(out, logits, over=[logits], beside=[chosen, weights])
    likelihoods = np.empty(len(logits), logits.dtype)
    arguments = (pointer(logits), index_pointer(chosen), pointer(probabilities), pointer(likelihoods), logits.shape[1])
    run(kernel("cross_entropy_forward", logits.dtype), arguments, len(logits), "cross_entropy_forward")
    return weighted_loss(likelihoods, weights, total), put(probabilities, out)


def cross_entropy_backward(
    probabilities: Array, targets: Array, weights: Array, *, total: float | None = None
) -> Array:
    """`refrope.nn.layers.cross_entropy_backward` in C, equal bit for bit."""
    check_loss("cross_entropy_backward", probabilities, targets, weights, total, name="probabilities")
    check_results("cross_entropy_backward", probabilities=probabilities)
    chosen, factors = readable(targets, np.int64), loss_factors(weights, total, probabilities.dtype)
    changed = in_place(probabilities, beside=[chosen])
    arguments = (pointer(changed), index_pointer(chosen), pointer(factors), probabilities.shape[1])
    run(kernel("cross_entropy_backward", probabilities.dtype), arguments, len(chosen), "cross_entropy_backward")
    return put(changed, probabilities)


def embedding_forward(tokens: Array, table: Array, *, out: Array | None = None) -> Array:
    """`refrope.nn.layers.embedding_forward` in C, equal bit for bit."""
    check_embedding("embedding_forward", "table", table, tokens)
    if out is not None:
        check_shape("embedding_forward", "out", out, (len(tokens), table.shape[1]), table.dtype)
        check_results("embedding_forward", out=out)
    table, chosen = readable(table), readable(tokens, np.int64)
    new = np.empty((len(tokens), table.shape[1]), table.dtype) if out is None else out
    y = target(new, new, beside=[table, chosen])
    arguments = (index_pointer(chosen), pointer(table), pointer(y), table.shape[1])
    run(kernel("embedding_forward", table.dtype), arguments, len(tokens), "embedding_forward")
    return put(y, new)


def embedding_backward(dy: Array, tokens: Array, dtable: Array) -> None:
    """`refrope.nn.layers.embedding_backward` in C: gradients are added in the order of the tokens."""
    check_embedding("embedding_backward", "dtable", dtable, tokens)
    check_shape("embedding_backward", "dy", dy, (len(tokens), dtable.shape[1]), dtable.dtype)
    check_results("embedding_backward", dtable=dtable)
    dy, chosen = readable(dy), readable(tokens, np.int64)
    changed = in_place(dtable, beside=[dy, chosen])
    arguments = (pointer(dy), index_pointer(chosen), pointer(changed), len(tokens), dtable.shape[1])
    run(kernel("embedding_backward", dy.dtype), arguments, dtable.shape[1] if dtable.size else 0, "embedding_backward")
    put(changed, dtable)
