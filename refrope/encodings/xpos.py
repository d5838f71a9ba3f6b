"""xPos: plain rotation, and a decay of the score with distance that differs from pair to pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from refrope import tables
from refrope.encodings.base import FloatArray, RotaryEncoding, Tables, exact, exact_arithmetic, nearest_floats
from refrope.errors import check_name, check_number


@dataclass(frozen=True)
class XPos(RotaryEncoding):
    r"""RoPE whose queries shrink and whose keys grow with position, so that the score of a far key counts less.

    With ``zeta_j = (2j/d + gamma) / (1 + gamma)`` pair j of a query at m is multiplied by
    ``zeta_j**((m - c) / scale_base)`` and of a key at n by ``zeta_j**(-(n - c) / scale_base)``: their product depends
    on m - n, and on c not at all. Frequencies are plain RoPE's; the fast pairs' scores fade first.

    Parameters
    ----------
    gamma : float > 0
        0.4 in the paper.
    scale_base : float > 0
        512 in the paper, in tokens.
    centre : float
        c, in tokens, the same for queries and keys. It keeps the amplitudes near 1. Implementations take half of the
        current length N, which cached keys cannot follow: torchscale rounds N/2 up, others down.

    References
    ----------
    Sun et al. 2022, arXiv:2212.10554, Section 2.1 and Algorithm 1; microsoft/torchscale, xpos_relative_position.py.
    """

    gamma: float = 0.4
    scale_base: float = 512.0
    centre: float = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        for name in ("gamma", "scale_base"):
            check_number(self.name, name, getattr(self, name), "a finite number > 0", 0.0, above=True)
        check_number(self.name, "centre", self.centre, "a finite number", -np.inf)

    @cached_property
    def zeta(self) -> FloatArray:
        """What `scale_base` tokens multiply each pair's score by, float64 (pairs,) in (0, 1)."""
        with exact_arithmetic():
            gamma = exact(self.gamma)
            shares = [Decimal(2 * j) / self.turned for j in range(self.pairs)]
            return nearest_floats(np.array([(share + gamma) / (1 + gamma) for share in shares]))

    def cos_sin(self, positions: npt.ArrayLike, dtype: npt.DTypeLike = np.float32, *, role: str = "q") -> Tables:
        """Tables for queries (`role` "q") or keys ("k"); otherwise as `RotaryEncoding.cos_sin`.

        Raises
        ------
        ValueError
            Another role; a position so far from the centre that its amplitude is beyond `dtype`; as in
            `RotaryEncoding.cos_sin`.
        """
        return self._tables(partial(tables.cos_sin, self.inv_freq), positions, dtype, role)

    def _tables(
        self, circle: Callable[..., Tables], positions: npt.ArrayLike, dtype: npt.DTypeLike, role: str = "q"
    ) -> Tables:
        check_name("cos_sin", "role", role, ("q", "k"))
        powers = (tables.as_positions(positions).astype(np.float64) - self.centre) / self.scale_base
        with np.errstate(over="ignore", under="ignore"):
            amplitude = self.zeta ** (powers if role == "q" else -powers)[..., None]
        largest = amplitude.max(initial=0.0)
        if largest > np.finfo(tables.table_dtype(dtype)).max:
            raise ValueError(f"cos_sin: the amplitude reaches {largest:.3g}, beyond {np.dtype(dtype)}; move the centre")
        return circle(positions, dtype=dtype, attention_factor=amplitude)
