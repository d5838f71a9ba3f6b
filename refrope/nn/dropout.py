"""Dropout whose mask is a function of (seed, slice, element), so that it can be made again and split over threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.arrays import check_like, check_results, is_real
from refrope.errors import check_integer, check_number, describe

Array = npt.NDArray[Any]
Bits = npt.NDArray[np.uint32]
_WORD = 2**32
_DOUBLE_WORD = 2**64 - 1


def dropout(x: Array, probability: float, seed: int, *, first: int = 0, out: Array | None = None) -> Array:
    """Zero each element with the given probability and scale the others by ``1 / (1 - probability)``.

    The mask depends on `seed` and the element's place alone: applied to a gradient with the same seed, this function is
    its own backward pass.

    Parameters
    ----------
    x : array of float32 or float64
    probability : float in [0, 1)
    seed : int in [0, 2^64)
    first : int >= 0
        The place of `x`'s first element, for a part of an array to get the mask that it would have in the whole; with
        the number of elements at most 2^32.
    out : array like `x`, optional; any writable view, which may overlap `x`

    Raises
    ------
    ValueError
        Too many elements, a number out of its range, arrays that are not as said.

    References
    ----------
    Srivastava et al. 2014, JMLR 15. C twin: rr_dropout_f32 in csrc/elementwise.c, equal bit for bit.
    """
    threshold = check_dropout(x, probability, seed, first, out)
    y = np.empty_like(x) if out is None else out
    if threshold == 0:
        y[...] = x
        return y
    kept = random_bits(seed, 0, np.arange(x.size, dtype=np.uint32) + np.uint32(first)) >= threshold
    y[...] = np.where(kept.reshape(x.shape), x * x.dtype.type(keep_scale(threshold)), x.dtype.type(0))
    return y


def check_dropout(x: Array, probability: float, seed: int, first: int, out: Array | None) -> int:
    """The threshold of `probability`, or an error where the arguments of `dropout` are not what it says."""
    if not is_real(x):
        raise ValueError(f"dropout: x is {describe(x)}, expected float32 or float64")
    if out is not None:
        check_like("dropout", "out", out, x, "x")
        check_results("dropout", out=out)
    check_integer("dropout", "seed", seed, 0, _DOUBLE_WORD)
    if check_integer("dropout", "first", first, 0) + x.size > _WORD:
        raise ValueError(f"dropout: x has {x.size} elements from place {first} on, expected to end within 2^32")
    return drop_threshold(probability)


def drop_threshold(probability: float) -> int:
    """The number of 32-bit words below which an element is dropped.

    Raises
    ------
    ValueError
        `probability` is not in [0, 1).
    """
    check_number("dropout", "probability", probability, "a number in [0, 1)", 0.0)
    if round(probability * _WORD) >= _WORD:
        raise ValueError(f"dropout: probability is {probability}, expected a number in [0, 1)")
    return round(probability * _WORD)


def keep_scale(threshold: int) -> float:
    """What kept elements are multiplied by: one over the probability of being kept."""
    return 1.0 / (1.0 - threshold / _WORD)


def site_seed(*words: int) -> int:
    """A 64-bit seed made of several numbers, such as a run's seed, its step and the place of a layer.

    The words are absorbed one after the other, each followed by the finalizer of SplitMix64 (Steele et al. 2014,
    doi:10.1145/2660193.2660195).
    """
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & _DOUBLE_WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _DOUBLE_WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _DOUBLE_WORD
        state ^= state >> 31
    return state


def random_bits(seed: int, slice_number: int, counters: Bits) -> Bits:
    """32 random bits for each counter of a slice (C twin: csrc/rr_random.h, which says where the mixer is from)."""
    low, high = np.uint32(seed & (_WORD - 1)), np.uint32(seed >> 32)
    slice_word = np.array([slice_number], np.uint32)
    first = _mix32(low ^ _mix32(slice_word))
    second = _mix32(high ^ _mix32(slice_word ^ np.uint32(0x9E3779B9)))
    return _mix32(_mix32(counters ^ first) ^ second)


def _mix32(x: Bits) -> Bits:
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x21F0AAAD)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x735A2D97)
    return x ^ (x >> np.uint32(15))
