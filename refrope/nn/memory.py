"""Memory that outlives a call: scratch arrays, keys and values of the tokens so far; and how much of it is free."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer
from refrope.nn.configuration import TransformerConfig

Array = npt.NDArray[Any]


class Buffers:
    """Scratch arrays by name that live from step to step, so that no step allocates what it can reuse."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
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
        self.check_memory(config, batch, capacity, dtype)
        self.shape: tuple[int, int, int, int] = (batch, config.key_heads, capacity, config.head_dim)
        self.keys: Array = np.empty((config.layers, *self.shape), dtype)
        self.values: Array = np.empty((config.layers, *self.shape), dtype)
        self.length: int = 0

    @staticmethod
    def check_memory(config: TransformerConfig, batch: int, capacity: int, dtype: npt.DTypeLike = np.float32) -> None:
        """Raise ValueError, before anything is allocated, where the memory that is free cannot hold such a cache."""
        check_integer("KVCache", "batch", batch, 1)
        check_integer("KVCache", "capacity", capacity, 1)
        token = 2 * config.layers * int(batch) * config.key_heads * config.head_dim * np.dtype(dtype).itemsize
        size, free = token * int(capacity), available_memory()
        if free is not None and size > free:
            came = f"capacity is {capacity}, {size / 2**30:.2f} GiB of keys and values"
            raise ValueError(f"KVCache: {came}, expected at most {free // token}: {free / 2**30:.2f} GiB are free")

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


# ---- how much there is ----


def available_memory() -> int | None:
    """Bytes that this process can still take: the least of what the machine has and its limits leave.

    Returns
    -------
    int, or None where the system does not say (it is not Linux)
    """
    told = [each for each in (_of_machine(), *_of_control_groups(), _of_address_space()) if each is not None]
    return max(0, min(told)) if told else None


def _of_machine() -> int | None:
    return _entry(Path("/proc/meminfo"), "MemAvailable:", 1024)


def _of_control_groups() -> list[int]:
    """What the groups of this process, as containers have them, leave of their limits, cached files not counted."""
    rooms = []
    for line in (_text(Path("/proc/self/cgroup")) or "").splitlines():
        number, kinds, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not kinds:
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            root = Path("/sys/fs/cgroup/memory")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for each in (group, *group.parents):
            limit, used = (_text(root / each / name) for name in names[:2])
            if limit is not None and used is not None and limit.strip().isdecimal() and used.strip().isdecimal():
                rooms.append(int(limit) - int(used) + (_entry(root / each / "memory.stat", names[2], 1) or 0))
    return rooms


def _of_address_space() -> int | None:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _entry(Path("/proc/self/status"), "VmSize:", 1024)
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _entry(file: Path, name: str, unit: int) -> int | None:
    """The number behind a name at the beginning of a line."""
    for line in (_text(file) or "").splitlines():
        words = line.split()
        if words[:1] == [name] and len(words) > 1 and words[1].isdecimal():
            return int(words[1]) * unit
    return None


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return None
