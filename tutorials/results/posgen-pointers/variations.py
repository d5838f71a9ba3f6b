"""`Pointers` with one thing changed each: encodings for `refrope sweep --encodings variations.py:deep` and the like."""

from refrope import RoPE
from refrope.encodings.pointers import Pointers
from refrope.methods import POINTER_BASE


def deep(head_dim):
    """Every layer sees the seven keys."""
    return Pointers(RoPE(head_dim, base=POINTER_BASE), deep=True)


def content_1(head_dim):
    """What tokens say counts in full."""
    return Pointers(RoPE(head_dim, base=POINTER_BASE), content=1.0)


def near_only(head_dim):
    """No pointer: a window of three keys, one apart and the first two."""
    return Pointers(RoPE(head_dim, base=POINTER_BASE), divisor=None)
