"""Right rotary functions in the styles that real code has, for tests that none of them is called wrong.

Each maker takes how many features turn, the base and the layout, and returns ``(x, positions) -> rotated x``.
"""

import cmath
import functools
import math

import numpy as np
from planted_rotations import frequencies, half, interleaved


def members(width, layout):
    """The features that are first and second in their pair."""
    if layout == "half":
        return slice(0, width // 2), slice(width // 2, width)
    return slice(0, width, 2), slice(1, width, 2)


def paired(x, cos, sin, layout):
    """The textbook's four products, in place in a copy."""
    first, second = members(2 * cos.shape[-1], layout)
    y = x.copy()
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., second] * cos + x[..., first] * sin
    return y


def textbook(width, base, layout):
    """float64 angles."""

    def rotate(x, positions):
        angle = positions[:, None] * frequencies(width, base)
        return paired(x, np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype), layout)

    return rotate


def single_precision(width, base, layout):
    """float32 from the exponents on, as torch code has it."""
    inv_freq = 1 / np.float32(base) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))

    def rotate(x, positions):
        angle = positions.astype(np.float32)[:, None] * inv_freq
        return paired(x, np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype), layout)

    return rotate


def exponential(width, base, layout):
    """exp(-j ln b), which loses a few more digits of float32, as MLX and TensorFlow code has it."""
    inv_freq = np.exp(np.arange(0, width, 2, dtype=np.float32) * np.float32(-math.log(base) / width))

    def rotate(x, positions):
        angle = positions.astype(np.float32)[:, None] * inv_freq
        return paired(x, np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype), layout)

    return rotate


def complex_product(width, base, layout):
    """Features as complex numbers."""
    first, second = members(width, layout)

    def rotate(x, positions):
        z = x[..., first] + 1j * x[..., second]
        z = z * np.exp(1j * positions[:, None] * frequencies(width, base))
        y = x.copy()
        y[..., first], y[..., second] = z.real, z.imag
        return y

    return rotate


def polar(width, base, layout):
    """Lengths and directions: the angle is added."""
    first, second = members(width, layout)

    def rotate(x, positions):
        a, b = x[..., first].astype(np.float64), x[..., second].astype(np.float64)
        direction = np.arctan2(b, a) + positions[:, None] * frequencies(width, base)
        y = x.copy()
        y[..., first], y[..., second] = np.hypot(a, b) * np.cos(direction), np.hypot(a, b) * np.sin(direction)
        return y

    return rotate


def whole_matrix(width, base, layout):
    """The block matrix itself."""

    def rotate(x, positions):
        index = np.arange(x.shape[-1])
        first, second = (index[part] for part in members(width, layout))
        angle = positions[:, None] * frequencies(width, base)
        matrix = np.tile(np.eye(x.shape[-1]), (len(x), 1, 1))
        matrix[:, first, first] = matrix[:, second, second] = np.cos(angle)
        matrix[:, first, second], matrix[:, second, first] = -np.sin(angle), np.sin(angle)
        return np.einsum("tij,tj->ti", matrix, x).astype(x.dtype)

    return rotate


def plain_python(width, base, layout):
    """Loops over numbers."""

    def rotate(x, positions):
        index = np.arange(x.shape[-1])
        first, second = (index[part] for part in members(width, layout))
        y = x.copy()
        for row, position in enumerate(positions):
            for j in range(width // 2):
                z = complex(x[row, first[j]], x[row, second[j]]) * cmath.exp(
                    1j * int(position) * base ** (-2 * j / width)
                )
                y[row, first[j]], y[row, second[j]] = z.real, z.imag
        return y

    return rotate


def cached_by_length(width, base, layout):
    """A float32 table that grows to the next power of two."""

    @functools.lru_cache
    def tables(length):
        angle = np.outer(np.arange(length, dtype=np.float32), frequencies(width, base).astype(np.float32))
        return np.cos(angle), np.sin(angle)

    def rotate(x, positions):
        cos, sin = tables(1 << int(positions.max()).bit_length())
        return paired(x, cos[positions].astype(x.dtype), sin[positions].astype(x.dtype), layout)

    return rotate


def sums_of_angles(width, base, layout):
    """Two small tables, put together by the addition theorem."""
    theta = frequencies(width, base)

    def rotate(x, positions):
        whole, rest = (np.exp(1j * p[:, None] * theta) for p in (positions // 512 * 512, positions % 512))
        z = whole * rest
        return paired(x, z.real.astype(x.dtype), z.imag.astype(x.dtype), layout)

    return rotate


def reduced_angles(width, base, layout):
    """Angles taken modulo a turn first."""

    def rotate(x, positions):
        angle = np.mod(positions[:, None] * frequencies(width, base), 2 * np.pi)
        return paired(x, np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype), layout)

    return rotate


def doubled_tables(width, base, layout):
    """rotate_half, or its interleaved twin, on the features that turn, and the others concatenated."""

    def rotate(x, positions):
        angle = positions[:, None] * frequencies(width, base)
        cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
        turned = (half if layout == "half" else interleaved)(x[..., :width], cos, sin)
        return np.concatenate([turned, x[..., width:]], axis=-1).astype(x.dtype)

    return rotate


class Module:
    """Called through ``*arguments``, as a torch module is."""

    def __init__(self, width, base, layout):
        self.forward = textbook(width, base, layout)

    def __call__(self, *arguments, **options):
        return self.forward(*arguments, **options)


def decorated(width, base, layout):
    """A decorator without functools.wraps."""
    function = textbook(width, base, layout)

    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


def with_a_default(width, base, layout):
    """A partial with an option behind the two arguments."""

    def rotate(maker, x, position_ids, *, layer=0):
        return maker(width, base, layout)(x, position_ids)

    return functools.partial(rotate, textbook)


def read_only(width, base, layout):
    """Hands out an array that nobody may write to, with its axes in another order in memory."""

    def rotate(x, positions):
        y = np.asfortranarray(textbook(width, base, layout)(x, positions))
        y.setflags(write=False)
        return y

    return rotate


def particular(width, base, layout):
    """Wants int64 positions that ascend, and at least four of them."""

    def rotate(x, positions):
        if positions.dtype != np.int64 or len(positions) < 4 or (np.diff(positions) < 0).any():
            raise ValueError("positions must be int64, ascending, and at least 4")
        return textbook(width, base, layout)(x, positions)

    return rotate


STYLES = (
    textbook,
    single_precision,
    exponential,
    complex_product,
    polar,
    whole_matrix,
    plain_python,
    cached_by_length,
    sums_of_angles,
    reduced_angles,
    doubled_tables,
    Module,
    decorated,
    with_a_default,
    read_only,
    particular,
)
