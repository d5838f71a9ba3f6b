"""How far apart a model's predictions are with different rotations: all of them read a text in step.

    tokens ──► a chunk ──► own: logits ──► log p(next token), kept for this chunk
                      └──► others, in turn: logits ──► log p(next token), KL divergence from the own

Memory: keys and values of the text for each rotation, the own among them, and two arrays of logits, a chunk by the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import describe
from refrope.kernels import single_blas_thread
from refrope.lm.scoring import FloatArray, RotationSource, by_rows, check_text, log_likelihoods
from refrope.nn.memory import KVCache
from refrope.nn.transformer import Transformer

CHUNK = 256  # tokens that go through the model together: two arrays of their logits are held


def divergences(own: npt.NDArray[Any], other: npt.NDArray[Any]) -> FloatArray:
    """``KL(p || q) = sum p (log p - log q)`` of the softmax p of each row of `own` and q of `other`, in nats.

    Parameters
    ----------
    own, other : (T, V) float32 or float64, logits

    Returns
    -------
    (T,) float64, >= 0
        Exactly 0 for equal rows. Worked out in float64, a few rows at a time.

    Raises
    ------
    ValueError
        Shapes that do not fit.
    FloatingPointError
        A logit is NaN or infinite.
    """
    if own.ndim != 2 or own.shape != other.shape:
        raise ValueError(f"divergences: logits are {describe(own)} and {describe(other)}, expected (T, V) twice")

    def of(rows: slice) -> FloatArray:
        shifted = [x[rows].astype(np.float64) - x[rows].max(axis=1, keepdims=True) for x in (own, other)]
        weights = [np.exp(x) for x in shifted]
        sums = [x.sum(axis=1) for x in weights]
        # Of log p - log q but for what normalises them. Rounding may leave the whole below 0.
        apart = (weights[0] * np.subtract(*shifted)).sum(axis=1) / sums[0]
        answer: FloatArray = np.maximum(apart + np.log(sums[1]) - np.log(sums[0]), 0)
        return answer

    return by_rows("divergences", own.shape, of)


def compare(
    model: Transformer,
    tokens: npt.NDArray[Any],
    own: RotationSource,
    others: Sequence[RotationSource],
    *,
    chunk: int = CHUNK,
    advance: Callable[[int], None] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Read a text with several rotations in step.

    Parameters
    ----------
    model : Transformer
    tokens : (n,) integers, n >= 2
    own : function of positions
        What the others are held against; see `refrope.lm.scoring.RotationSource`.
    others : list of such functions
    chunk : int
        Tokens that are read together.
    advance : function, optional
        Told how many tokens were read, with each rotation and chunk.

    Returns
    -------
    scores : (1 + others, n - 1) float64, nats
        Log-likelihoods as `token_log_likelihoods` has them, those with `own` first.
    divergence : (others, n - 1) float64, nats
        KL divergence of each prediction from that with `own`.

    Raises
    ------
    ValueError
        Fewer than two tokens; tokens outside the vocabulary; more than memory holds.
    """
    chunk, read = check_text("compare", tokens, chunk)
    KVCache.check_memory(model.config, 1 + len(others), read, model.dtype)
    caches = [KVCache(model.config, 1, read, model.dtype) for _ in range(1 + len(others))]
    scores, divergence = np.empty((1 + len(others), read)), np.empty((len(others), read))
    for start in range(0, read, chunk):
        end = min(start + chunk, read)
        piece, targets = tokens[None, start:end], tokens[start + 1 : end + 1]
        kept: npt.NDArray[Any] = np.empty(0)
        for number, (rotation, cache) in enumerate(zip([own, *others], caches, strict=True)):
            with single_blas_thread():
                logits = model.forward(piece, rotation(np.arange(start, end)), cache=cache)[0]
            scores[number, start:end] = log_likelihoods(logits, targets)
            if number:
                divergence[number - 1, start:end] = divergences(kept, logits)
            else:
                kept = logits.copy()  # the next call overwrites them
            if advance is not None:
                advance(end - start)
    return scores, divergence
