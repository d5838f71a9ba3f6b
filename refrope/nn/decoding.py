"""One token at a time: a single row's way through all layers, with the arguments of its C calls made ready once.

Nearly all of the work is to read the weights from memory. The checks and conversions of the general way, which a long
text does not notice, would take as long again; its calls are these, in the same order: see `SelfAttention` and
`FeedForward`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import kernels
from refrope.kernels._call import kernel, pointer, readable, run
from refrope.kernels._native_loader import native
from refrope.nn.attending import Attending
from refrope.nn.configuration import TransformerConfig
from refrope.nn.memory import KVCache
from refrope.rotary import check_rotate

Array = npt.NDArray[Any]

# Bytes from which threads share what is read: below it, handing over takes as long as is won.
_SHARED = 2**22
_WEIGHTS = [f"attention.{name}" for name in ("gain", "qkv", "out")] + [
    f"feed_forward.{name}" for name in ("gain", "in", "out")
]


class Decoding:
    """The layers of a model for one row.

    Parameters
    ----------
    config : TransformerConfig
        As `suits` wants it.
    params : the model's weights by name
    """

    def __init__(self, config: TransformerConfig, params: Mapping[str, Array]) -> None:
        c = self.config = config
        self._params = list(params.values())
        self.dtype = self._params[0].dtype
        self._layers = [[pointer(params[f"layers.{i}.{name}"]) for name in _WEIGHTS] for i in range(c.layers)]
        ffi, lib = native()
        inner, keys = c.heads * c.head_dim, c.key_heads * c.head_dim
        sizes = {"n": c.d_model, "inv_rms": 1, "qkv": inner + 2 * keys, "o": inner, "lse": c.heads, "h": 2 * c.d_ff}
        self._rows = {name: np.empty(size, self.dtype) for name, size in sizes.items()}
        self._rows["scratch"] = np.empty(lib.rr_attention_scratch(1, c.head_dim, False), self.dtype)
        self._at = {name: pointer(row) for name, row in self._rows.items()}
        self._heads = self._rows["qkv"].reshape(1, -1, 1, c.head_dim)
        self._strides = {
            "heads": ffi.new("ptrdiff_t[3]", [0, c.head_dim, 0]),
            "halves": ffi.new("ptrdiff_t[3]", [0, 0, 0]),
            "no bias": ffi.new("ptrdiff_t[4]", [0, 0, 0, 0]),
            "kept": ffi.new("ptrdiff_t[3]"),
        }
        self._nothing = ffi.NULL
        names = ("rmsnorm_forward", "row_product", "rotate", "attention_forward", "swiglu_forward")
        self._c = {name: kernel(name, self.dtype) for name in names}

    @staticmethod
    def suits(config: TransformerConfig, attending: Attending) -> bool:
        """True where nothing but a rotation and a window tells positions, and the feed-forward layer is SwiGLU's."""
        alone = config.bias is None and not attending.mapped
        return alone and config.feed_forward == "swiglu"

    def is_of(self, params: Mapping[str, Array]) -> bool:
        """True while these are the very arrays whose memory the calls read."""
        return len(params) == len(self._params) and all(map(operator.is_, params.values(), self._params))

    def forward(self, x: Array, attending: Attending, scale: float, cache: KVCache) -> None:
        """Take `x` (1, d_model) through all layers, in place, and note its keys and values in `cache`.

        Parameters
        ----------
        x : C-contiguous, of the model's dtype
        attending : Attending
        scale : float
            Of the scores.
        cache : KVCache of one text, with room for one token

        Raises
        ------
        ValueError
            Tables that do not fit.
        """
        c, at, call = self.config, self._at, self._c
        inner, width = c.heads * c.head_dim, len(self._rows["qkv"])
        row, gate, up = pointer(x), at["h"], at["h"] + c.d_ff
        ready: dict[int, Any] = {}
        keys, values = (kept[:, 0, :, cache.length] for kept in (cache.keys, cache.values))
        kept = pointer(cache.keys), pointer(cache.values)
        new_k, new_v = self._heads[0, c.heads :, 0][: c.key_heads], self._heads[0, c.heads + c.key_heads :, 0]
        o = self._rows["o"].reshape(1, c.heads, 1, c.head_dim)
        failed = 0
        for i, (gain, qkv, out, gain_after, into, back) in enumerate(self._layers):
            tables = attending.of_layer(i).rotation
            failed |= call["rmsnorm_forward"](row, gain, at["n"], at["inv_rms"], c.d_model, c.eps, 0, 1)
            self._product(at["n"], qkv, at["qkv"], c.d_model, width, False)
            if tables is not None:
                if id(tables) not in ready:
                    ready[id(tables)] = self._tables(tables)
                self._turn(*ready[id(tables)])
            keys[i], values[i] = new_k, new_v
            if self._shared(cache.length * c.key_heads * c.head_dim):
                k, v = (each[i, :, :, : cache.length + 1] for each in (cache.keys, cache.values))
                kernels.attention_forward(self._heads[:, : c.heads], k, v, scale=scale, window=attending.window, out=o)
            else:
                failed |= self._attend(i, kept, attending.window, scale, cache)
            self._product(at["o"], out, row, inner, c.d_model, True)
            failed |= call["rmsnorm_forward"](row, gain_after, at["n"], at["inv_rms"], c.d_model, c.eps, 0, 1)
            self._product(at["n"], into, gate, c.d_model, 2 * c.d_ff, False)
            failed |= call["swiglu_forward"](gate, up, gate, self._strides["halves"], c.d_ff, 0, 1)
            self._product(gate, back, row, c.d_ff, c.d_model, True)
        assert not failed, "sizes that the kernels refuse"

    def _product(self, x: Any, weight: Any, y: Any, rows: int, columns: int, add: bool) -> None:
        """``y = x W`` or ``y += x W``."""
        arguments = (x, weight, y, rows, columns, False, add)
        if self._shared(rows * columns):
            run(self._c["row_product"], arguments, columns, "row_product")
        else:
            self._c["row_product"](*arguments, 0, columns)

    def _shared(self, numbers: int) -> bool:
        return numbers * self.dtype.itemsize >= _SHARED

    def _tables(self, tables: Any) -> tuple[Any, Any, int]:
        """Pointers to cos and sin, and how many pairs they have."""
        cos, sin = (table.reshape(-1, table.shape[-1]) if table.ndim == 3 else table for table in tables)
        check_rotate(self._heads, cos, sin, "half", False, None)
        return pointer(readable(cos)), pointer(readable(sin)), cos.shape[1]

    def _turn(self, cos: Any, sin: Any, pairs: int) -> None:
        """Queries and keys in place."""
        c, heads = self.config, self._strides["heads"]
        turning, place = c.heads + c.key_heads, self._at["qkv"]
        self._c["rotate"](place, heads, place, heads, cos, sin, turning, 1, c.head_dim, 0, pairs, 0, 0, 0, turning)

    def _attend(self, i: int, kept: tuple[Any, Any], window: int | None, scale: float, cache: KVCache) -> int:
        """The row's attention to all keys of a layer, its own the last of them."""
        c, at, strides, end = self.config, self._at, self._strides, cache.length + 1
        capacity = cache.shape[2]
        strides["kept"][0], strides["kept"][1], strides["kept"][2] = 0, capacity * c.head_dim, c.head_dim
        k, v = (each + i * c.key_heads * capacity * c.head_dim for each in kept)
        width = window if window is not None and window < end else 0
        failed: int = self._c["attention_forward"](
            *(at["qkv"], strides["heads"], k, strides["kept"], v, strides["kept"]),
            *(self._nothing, strides["no bias"], at["o"], strides["heads"], at["lse"], at["scratch"]),
            *(c.heads, c.key_heads, 1, end, c.head_dim, scale, 1, width, 0, 0, 0, 0, 0, c.heads),
        )
        return failed
