"""Rotary functions as people write them, right ones and wrong ones, for tests of the conformance kit.

None of them uses refrope's encodings: frequencies are typed in here once more, in plain NumPy.
"""

import math

import numpy as np


def frequencies(d, base=10_000.0):
    """Plain RoPE."""
    return base ** (-np.arange(0, d, 2) / d)


def yarn(d, base, factor, length, fast=32.0, slow=1.0, last=None):
    """YaRN with a ramp over the pair index, (inv_freq, attention factor)."""

    def index(turns):
        return d * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(index(fast)), 0), min(math.ceil(index(slow)), d - 1 if last is None else last)
    ramp = np.clip((np.arange(d // 2) - low) / max(high - low, 0.001), 0, 1)
    plain = frequencies(d, base)
    return plain / factor * ramp + plain * (1 - ramp), 0.1 * math.log(factor) + 1


def llama3(d=128, base=500_000.0, factor=8.0, length=8192, low=1.0, high=4.0, blend="frequency"):
    """Llama 3.1's scaling."""
    plain = frequencies(d, base)
    waves = 2 * np.pi / plain
    share = np.clip((length / waves - low) / (high - low), 0, 1)
    if blend == "wavelength":
        return 2 * np.pi / ((1 - share) * factor * waves + share * waves)
    return (1 - share) * plain / factor + share * plain


def half(x, cos, sin):
    """Pairs (j, j + d/2), as Hugging Face turns them."""
    cos, sin = np.concatenate([cos, cos], -1), np.concatenate([sin, sin], -1)
    d = x.shape[-1] // 2
    return x * cos + np.concatenate([-x[..., d:], x[..., :d]], -1) * sin


def interleaved(x, cos, sin):
    """Pairs (2j, 2j + 1) by complex multiplication, as Meta's Llama turns them."""
    z = (x[..., ::2] + 1j * x[..., 1::2]) * (cos + 1j * sin)
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def rotation(inv_freq, factor=1.0, turn=half, places=lambda p: p, angle=np.float64, table=np.float32, sign=1):
    """``(x, positions) -> rotated``, with what may be wrong as arguments."""

    def rotate(x, positions):
        p = np.asarray(places(positions.astype(np.float64))).astype(angle)
        phase = (p[:, None] * inv_freq.astype(angle)).astype(angle)
        cos, sin = factor * np.cos(phase), sign * factor * np.sin(phase)
        return turn(x, cos.astype(table), sin.astype(table)).astype(x.dtype)

    return rotate


def partly(turn, width, *, last=False):
    """`turn` for the first or last `width` features only."""

    def some(x, cos, sin):
        y = x.copy()
        part = slice(x.shape[-1] - width, None) if last else slice(0, width)
        y[..., part] = turn(x[..., part], cos, sin)
        return y

    return some


def half_out(x, cos, sin):
    """DeepSeek's way in transformers: reads pairs (2j, 2j + 1), writes (j, j + d/2)."""
    return half(np.concatenate([x[..., ::2], x[..., 1::2]], -1), cos, sin)


def repeated_tables(x, cos, sin):
    """rotate_half with tables that were doubled by repeat_interleave."""
    d = x.shape[-1] // 2
    return x * np.repeat(cos, 2, -1) + np.concatenate([-x[..., d:], x[..., :d]], -1) * np.repeat(sin, 2, -1)


def concatenated_tables(x, cos, sin):
    """Interleaved pairs with tables that were doubled by concatenation."""
    turned = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return x * np.concatenate([cos, cos], -1) + turned * np.concatenate([sin, sin], -1)


def minus_missing(x, cos, sin):
    """rotate_half without its minus."""
    d = x.shape[-1] // 2
    return x * np.concatenate([cos, cos], -1) + np.concatenate([x[..., d:], x[..., :d]], -1) * np.concatenate(
        [sin, sin], -1
    )


def swapped(turn):
    """Cos and sin handed over in the wrong order."""
    return lambda x, cos, sin: turn(x, sin, cos)


def twice(turn):
    """The rotation applied to what is rotated already."""
    return lambda x, cos, sin: turn(turn(x, cos, sin), cos, sin)


def to_bfloat16(x):
    """The nearest bfloat16, as float64."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def recurrence(d, base=10_000.0):
    """As ggml on a CPU: one float32 product from each pair to the next."""

    def rotate(x, positions):
        angle, ratio = positions.astype(np.float32), np.float32(base ** (-2 / d))
        angles = []
        for _ in range(d // 2):
            angles.append(angle)
            angle = angle * ratio
        angles = np.stack(angles, -1)
        return half(x, np.cos(angles), np.sin(angles)).astype(x.dtype)

    return rotate


def dynamic(d=64, base=10_000.0, factor=4.0, length=2048, remember=None, always=None):
    """Dynamic NTK by the longest position of the call; `remember` keeps the longest ever, `always` a fixed length."""
    seen = [0]

    def rotate(x, positions):
        now = int(positions.max()) + 1
        seen[0] = max(seen[0], now)
        n = always or (seen[0] if remember else now)
        b = base if n <= length else base * (factor * n / length - (factor - 1)) ** (d / (d - 2))
        return rotation(frequencies(d, b))(x, positions)

    return rotate


def longrope(short, long, length=4096, factor=1.0, switch=0, base=10_000.0):
    """LongRoPE that takes the long list for more than `length` - `switch` tokens."""
    amplitude = math.sqrt(1 + math.log(factor) / math.log(length))

    def rotate(x, positions):
        stretch = long if positions.max() + 1 > length - switch else short
        return rotation(frequencies(2 * len(short), base) / stretch, amplitude)(x, positions)

    return rotate
