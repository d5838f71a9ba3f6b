"""How likely a model finds a long text, token by token, in memory linear in its length.

    tokens ──► chunks ──► forward with a cache of keys and values ──► logits ──► log p(next token), float64

No array of all tokens by the vocabulary is ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, describe
from refrope.kernels.threads import run_ranges, single_blas_thread
from refrope.nn.attending import Rotation
from refrope.nn.memory import KVCache
from refrope.nn.transformer import Transformer

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
# The tables of `Transformer.forward` for the tokens at some positions.
RotationSource = Callable[[IntArray], Rotation]

CHUNK = 1024  # tokens that go through the model together: enough rows for its products, few enough for their logits
_BLOCK = 1 << 18  # logits whose exponentials stand in memory together


def log_likelihoods(logits: npt.NDArray[Any], targets: npt.NDArray[Any]) -> FloatArray:
    """``log softmax(logits)[target]`` of each row, in nats.

    Parameters
    ----------
    logits : (T, V) float32 or float64
    targets : (T,) integers in [0, V)

    Returns
    -------
    (T,) float64
        Worked out in float64 from the largest logit down, a few rows at a time: no float64 array of T V.

    Raises
    ------
    ValueError
        Shapes that do not fit, or a target that is no row's.
    FloatingPointError
        A logit is NaN or infinite.
    """
    fits = isinstance(targets, np.ndarray) and targets.dtype.kind in "iu" and targets.shape == logits.shape[:1]
    if logits.ndim != 2 or not fits:
        came = f"logits {describe(logits)} and targets {describe(targets)}"
        raise ValueError(f"log_likelihoods: {came}, expected (T, V) and integers (T,)")
    vocabulary = logits.shape[1]
    if targets.size and not (targets.min() >= 0 and targets.max() < vocabulary):
        raise ValueError(f"log_likelihoods: targets hold {targets.max()}, expected values in [0, {vocabulary})")

    def of(rows: slice) -> FloatArray:
        shifted = logits[rows].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        chosen = shifted[np.arange(len(shifted)), targets[rows]]
        answer: FloatArray = chosen - np.log(np.exp(shifted, out=shifted).sum(axis=1))
        return answer

    return by_rows("log_likelihoods", logits.shape, of)


def by_rows(function: str, shape: tuple[int, ...], of: Callable[[slice], FloatArray]) -> FloatArray:
    """A number of each row of logits, (T,) float64: `of` is asked for a few rows at a time, on all threads.

    Parameters
    ----------
    function : str
        What errors begin with.
    shape : (T, V)
    of : function of a slice of rows

    Raises
    ------
    FloatingPointError
        A number is NaN or infinite.
    """
    count, vocabulary = shape
    result = np.empty(count)
    each = max(1, _BLOCK // max(1, vocabulary))

    def work(first: int, last: int) -> int:
        for start in range(first, last, each):
            rows = slice(start, min(start + each, last))
            with np.errstate(invalid="ignore"):  # said below, once for all threads
                result[rows] = of(rows)
        return 0

    run_ranges(work, count)
    if not np.isfinite(result).all():
        raise FloatingPointError(f"{function}: a logit is not finite, expected finite weights")
    return result


def check_text(function: str, tokens: npt.NDArray[Any], chunk: int) -> tuple[int, int]:
    """The chunk, and how many tokens are read: nothing follows the last. ValueError unless both are as said below."""
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "iu" or len(tokens) < 2:
        raise ValueError(f"{function}: tokens are {describe(tokens)}, expected (n,) integers, n >= 2")
    return check_integer(function, "chunk", chunk, 1), len(tokens) - 1


def token_log_likelihoods(
    model: Transformer,
    tokens: npt.NDArray[Any],
    rotation: RotationSource,
    *,
    chunk: int = CHUNK,
    advance: Callable[[int], None] | None = None,
) -> FloatArray:
    """The log-likelihood of each token but the first, given those before it.

    Parameters
    ----------
    model : Transformer
    tokens : (n,) integers, n >= 2
    rotation : function
        Of positions (int64): the tables of `Transformer.forward` for them.
    chunk : int
        Tokens that are read together. Other sizes, and other numbers of threads, differ by roundings.
    advance : function, optional
        Told how many tokens were read, chunk by chunk.

    Returns
    -------
    (n - 1,) float64, nats
        Entry t is ``log p(tokens[t + 1] | tokens[: t + 1])``. Those of the first k tokens are the first k - 1 of them,
        where the rotation does not depend on n.

    Raises
    ------
    ValueError
        Fewer than two tokens; tokens outside the vocabulary; more than memory holds.
    """
    chunk, read = check_text("token_log_likelihoods", tokens, chunk)
    KVCache.check_memory(model.config, 1, read, model.dtype)
    cache = KVCache(model.config, 1, read, model.dtype)
    result = np.empty(read)
    for start in range(0, read, chunk):
        end = min(start + chunk, read)
        with single_blas_thread():
            logits = model.forward(tokens[None, start:end], rotation(np.arange(start, end)), cache=cache)
        result[start:end] = log_likelihoods(logits[0], tokens[start + 1 : end + 1])
        if advance is not None:
            advance(end - start)
    return result
