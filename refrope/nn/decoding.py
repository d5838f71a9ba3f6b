"""One token at a time: a single row's way through all layers in one C call, whose arguments are made ready once.

Nearly all of the work is to read the weights from memory. The checks and conversions of the general way, which a long
text does not notice, would take as long again, and so would handing each product to the threads; its kernels are these,
in the same order: see `SelfAttention` and `FeedForward`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.kernels._call import kernel, pointer, pointers, readable
from refrope.kernels._native_loader import native
from refrope.kernels.threads import run_in_step, threads_in_step
from refrope.nn.attending import Attending
from refrope.nn.configuration import TransformerConfig
from refrope.nn.memory import KVCache
from refrope.rotary import check_rotate

Array = npt.NDArray[Any]

# Bytes of weights from which threads share the reading: below, handing over takes as long as is won.
_SHARED = 2**22
_MOST_THREADS = 8  # RR_BLOCKS in csrc/decode.c: no more than that have something to read
# Numbers of a meeting of threads, and which of them calls it off: csrc/rr_meet.h.
_MEETING, _OFF = 48, 32
_WEIGHTS = [f"attention.{name}" for name in ("gain", "qkv", "out")] + [
    f"feed_forward.{name}" for name in ("gain", "in", "out")
]


class Decoding:
    """The layers of a model for one row.

    Parameters
    ----------
    config : TransformerConfig
        As `suits` wants it.
    params : the model's weights by name, as `can_read` wants them
    """

    def __init__(self, config: TransformerConfig, params: Mapping[str, Array]) -> None:
        self.config = c = config
        self._params = list(params.values())
        self.dtype: np.dtype[Any] = self._params[0].dtype
        read = [params[f"layers.{i}.{name}"] for i in range(c.layers) for name in _WEIGHTS]
        ffi, _ = native()
        self._weights, self._tables = pointers(len(read), self.dtype), pointers(2 * c.layers, self.dtype)
        for number, weight in enumerate(read):
            self._weights[number] = pointer(weight)
        self._pairs = ffi.new("ptrdiff_t[]", c.layers)
        self._nbytes = sum(weight.nbytes for weight in read)
        self._heads = np.empty((1, c.heads + c.key_heads, 1, c.head_dim), self.dtype)
        self._c = kernel("decode", self.dtype)

    @staticmethod
    def suits(config: TransformerConfig, attending: Attending) -> bool:
        """True where nothing but a rotation and a window tells positions, and the feed-forward layer is SwiGLU's."""
        alone = config.bias is None and not attending.mapped
        return alone and config.feed_forward == "swiglu"

    @staticmethod
    def can_read(config: TransformerConfig, params: Mapping[str, Array], dtype: np.dtype[Any]) -> bool:
        """True where the layers' weights lie in memory as the C call reads them: whoever replaces one may not know."""
        shapes = config.shapes()
        return all(
            params[name].shape == shapes[name]
            and params[name].dtype == dtype
            and params[name].flags.c_contiguous
            and params[name].flags.aligned
            for name in (f"layers.{i}.{weight}" for i in range(config.layers) for weight in _WEIGHTS)
        )

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
        c, length = self.config, cache.length
        read = self._turn(attending)
        window = attending.window if attending.window is not None and attending.window <= length else 0
        ffi, lib = native()
        sizes = (c.d_model, c.heads, c.key_heads, c.head_dim, c.d_ff)
        threads = threads_in_step(_MOST_THREADS) if self._nbytes >= _SHARED else 1
        scratch = np.empty(lib.rr_decode_scratch(*sizes, threads), self.dtype)  # this call's: one called off may linger
        meeting = ffi.new("int32_t[]", _MEETING)
        arguments = (
            *(pointer(x), self._weights, self._tables, self._pairs, pointer(cache.keys), pointer(cache.values)),
            *(pointer(scratch), meeting, c.layers, *sizes, cache.shape[2], length, window, c.eps, scale),
        )
        failed = run_in_step(
            lambda thread: self._c(*arguments, thread, threads), threads, lambda: meeting.__setitem__(_OFF, 1)
        )
        del read  # the tables, whose memory the call has read
        if any(failed):
            raise RuntimeError(f"decode: the C kernel answered {failed}, expected 0 from each thread")

    def _turn(self, attending: Attending) -> list[Array]:
        """Note where the tables of the layers lie; arrays that must live as long as these are read."""
        ready: dict[int, tuple[Array, Array]] = {}
        for i in range(self.config.layers):
            tables: Any = attending.of_layer(i).rotation
            if tables is not None and id(tables) not in ready:
                cos, sin = (table.reshape(-1, table.shape[-1]) if table.ndim == 3 else table for table in tables)
                check_rotate(self._heads, cos, sin, "half", False, None)
                ready[id(tables)] = readable(cos), readable(sin)
            self._pairs[i] = 0 if tables is None else ready[id(tables)][0].shape[1]
            for j, table in enumerate(() if tables is None else ready[id(tables)]):
                self._tables[2 * i + j] = pointer(table)
        return [table for both in ready.values() for table in both]
