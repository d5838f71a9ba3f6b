"""Memory that outlives a call: scratch arrays from step to step, and the keys and values of the tokens so far."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer
from refrope.nn.configuration import TransformerConfig

Array = npt.NDArray[Any]


class Buffers:
    """Scratch arrays by name that live from step to step, so that no step allocates what it can reuse."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._memory: dict[str, Array] = {}

    def __call__(self, name: str, *shape: int) -> Array:
        """An uninitialised array of `shape`; what an earlier call by this name gave is overwritten."""
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].size < size:
            self._memory[name] = np.empty(size, self.dtype)
        return self._memory[name][:size].reshape(shape)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self._memory.values())


class KVCache:
    """Keys, already turned, and values of all tokens so far, for every layer of a model.

    With it a model reads a text piece by piece, down to one token at a time, in memory linear in the length.

    Parameters
    ----------
    config : TransformerConfig
    batch : int
        Texts side by side.
    capacity : int
        The most tokens that each can have.
    dtype : float32 or float64

    Attributes
    ----------
    length : int
        Tokens so far.

    Examples
    --------
    >>> from refrope import RoPE, Transformer, TransformerConfig
    >>> model, tokens = Transformer(TransformerConfig(), seed=1), np.arange(12).reshape(1, 12)
    >>> cache = KVCache(model.config, batch=1, capacity=12)
    >>> for t in range(12):
    ...     logits = model.forward(tokens[:, t : t + 1], RoPE(64).cos_sin(np.arange(t, t + 1)), cache=cache)
    >>> whole = model.forward(tokens, RoPE(64).cos_sin(np.arange(12))).copy()
    >>> bool(np.allclose(whole[:, -1], logits[:, 0], atol=1e-4))
    True
    """

    def __init__(self, config: TransformerConfig, batch: int, capacity: int, dtype: npt.DTypeLike = np.float32) -> None:
        check_integer("KVCache", "batch", batch, 1)
        check_integer("KVCache", "capacity", capacity, 1)
        self.shape = (batch, config.key_heads, capacity, config.head_dim)
        self.keys = np.empty((config.layers, *self.shape), dtype)
        self.values = np.empty((config.layers, *self.shape), dtype)
        self.length = 0

    def check(self, batch: int, new: int, config: TransformerConfig, dtype: np.dtype[Any]) -> None:
        """Raise ValueError unless `new` more tokens of such a model fit."""
        wanted = (config.layers, batch, config.key_heads, self.shape[2], config.head_dim)
        if self.keys.shape != wanted or self.keys.dtype != dtype:
            raise ValueError(f"KVCache: it holds {self.keys.dtype}{self.keys.shape}, expected {dtype}{wanted} here")
        if self.length + new > self.shape[2]:
            raise ValueError(f"KVCache: {self.length} tokens and {new} more, expected at most {self.shape[2]}")

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Note new keys and values (B, H_kv, T, head_dim) of a layer; views of all that it has, new ones included."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, new: int) -> None:
        """Count `new` tokens, once all layers have noted them."""
        self.length += new
