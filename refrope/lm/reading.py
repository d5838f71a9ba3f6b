"""A model and what it has read so far: it goes on, goes back, and starts from what two prompts share."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, describe
from refrope.kernels import single_blas_thread
from refrope.lm.scoring import RotationSource
from refrope.nn.memory import KVCache
from refrope.nn.transformer import Transformer

PIECE = 2048  # tokens of a long prompt that go through the model together


def shared_prefix(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int:
    """How many tokens at the start of both are the same."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if different.size else length


class Reader:
    """Reads tokens and says what may come next.

    Parameters
    ----------
    model : Transformer
    rotation : function of positions
        See `refrope.lm.scoring.RotationSource`. It must not change while tokens are held: their keys are turned.
    capacity : int
        The most tokens that it can hold.

    Attributes
    ----------
    tokens : (n,) int64
        Those that it holds.

    Raises
    ------
    ValueError
        More than memory holds.
    """

    def __init__(self, model: Transformer, rotation: RotationSource, capacity: int) -> None:
        KVCache.check_memory(model.config, 1, capacity, model.dtype)
        self.model, self.rotation = model, rotation
        self.cache = KVCache(model.config, 1, capacity, model.dtype)
        self._tokens = np.empty(capacity, np.int64)

    @property
    def capacity(self) -> int:
        """The most tokens that it can hold."""
        return len(self._tokens)

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Those that it holds, (n,)."""
        return self._tokens[: self.cache.length]

    def read(self, tokens: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Go on with `tokens` (n,), n >= 1; returns the logits of the token after them, (V,), until the next call.

        Raises
        ------
        ValueError
            No tokens, tokens outside the vocabulary, or more than there is room for.
        """
        if tokens.ndim != 1 or not tokens.size:
            raise ValueError(f"Reader.read: tokens are {describe(tokens)}, expected (n,) integers, n >= 1")
        logits: npt.NDArray[Any] = np.empty(0)
        for first in range(0, len(tokens), PIECE):
            piece = tokens[first : first + PIECE]
            start = self.cache.length
            tables = self.rotation(np.arange(start, start + len(piece)))
            with single_blas_thread() if len(piece) > 1 else nullcontext():
                logits = self.model.forward(piece[None], tables, cache=self.cache, last=1)[0, -1]
            self._tokens[start : start + len(piece)] = piece
        return logits

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.cache.length = check_integer("Reader.rewind", "length", length, 0, self.cache.length)

    def read_anew(self, tokens: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`read` after forgetting everything, but for what `tokens` begins with too: that is not read again."""
        self.rewind(max(0, min(shared_prefix(self.tokens, tokens), len(tokens) - 1)))
        return self.read(tokens[self.cache.length :])
