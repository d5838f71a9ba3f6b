"""Absolute positions, added to the token embeddings: sinusoids, which are fixed, and a learned table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope.arrays import is_real
from refrope.encodings.rope import RoPE
from refrope.errors import check_integer, check_name, check_number, describe
from refrope.nn.bias_checks import check_named
from refrope.nn.layers import embedding_backward, embedding_forward
from refrope.randomness import BitSource, normal_numbers

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Sinusoidal:
    """Vaswani's sinusoids: ``sin(m base^(-2j/d))`` and ``cos(m base^(-2j/d))`` for each pair j. No weights.

    These are the sines and cosines of plain RoPE's angles for d_model features.

    Parameters
    ----------
    base : float > 1
    layout : {"half", "interleaved"}
        "half": all sines, then all cosines (transformers, DeepMind). "interleaved": sine and cosine of a pair next to
        each other, as in the paper.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, Section 3.5.
    """

    base: float = 10000.0
    layout: str = "half"

    def __post_init__(self) -> None:
        """Check the fields."""
        check_number("Sinusoidal", "base", self.base, "a number > 1", 1.0, above=True)
        check_name("Sinusoidal", "layout", self.layout, ("half", "interleaved"))

    @property
    def name(self) -> str:
        """The variant's name, for messages and tables."""
        return type(self).__name__

    def table(self, positions: npt.ArrayLike, d_model: int) -> Array:
        """The rows to add, from float64 angles.

        Parameters
        ----------
        positions : (T,) integers or finite floats
        d_model : int >= 2, even

        Returns
        -------
        (T, d_model) float64

        Raises
        ------
        ValueError
            `d_model` odd or below 2; a position that is no finite number.
        """
        check_integer("Sinusoidal.table", "d_model", d_model, 2)
        if d_model % 2:
            raise ValueError(f"Sinusoidal.table: d_model is {d_model}, expected an even number")
        cos, sin = RoPE(d_model, base=self.base).cos_sin(positions, np.float64)
        if self.layout == "half":
            return np.concatenate([sin, cos], axis=-1)
        return np.stack([sin, cos], axis=-1).reshape(*sin.shape[:-1], d_model)


@dataclass(frozen=True)
class LearnedPositions:
    """One learned row for each position below `length`; there is none for a position beyond.

    Parameters
    ----------
    length : int >= 1
    deviation : float >= 0
        Of the normal distribution that the rows start from. The default is that of this model's token embeddings, to
        which they are added; BERT and GPT-2 start both with 0.02.
    """

    length: int
    deviation: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("LearnedPositions", "length", self.length, 1)
        check_number("LearnedPositions", "deviation", self.deviation, "a finite number >= 0", 0.0)

    @property
    def name(self) -> str:
        """The variant's name, for messages and tables."""
        return type(self).__name__

    def shapes(self, d_model: int) -> dict[str, tuple[int, ...]]:
        """``positions``: (length, d_model)."""
        return {"positions": (self.length, check_integer("LearnedPositions.shapes", "d_model", d_model, 1))}

    def initial(self, d_model: int, source: BitSource) -> dict[str, Array]:
        """Normal numbers times `deviation`, float64, drawn from `source`."""
        shape = self.shapes(d_model)["positions"]
        return {"positions": normal_numbers(source, math.prod(shape)).reshape(shape) * self.deviation}

    def forward(self, weights: Mapping[str, Array], positions: Array) -> Array:
        """The rows of `positions`, (T,) integers in [0, length) -> (T, d_model).

        Raises
        ------
        ValueError
            A position out of that range; weights that are not (length, d_model).
        """
        table = weights.get("positions")
        if not is_real(table, 2):
            wanted = f"float32 or float64 ({self.length}, d_model)"
            raise ValueError(f"LearnedPositions.forward: weights['positions'] is {describe(table)}, expected {wanted}")
        assert table is not None
        check_named("LearnedPositions.forward", weights, {"positions": (self.length, table.shape[1])})
        return embedding_forward(self._checked("forward", positions), table)

    def backward(self, drows: Array, positions: Array) -> dict[str, Array]:
        """Add up the gradients (T, d_model) of the rows of each position -> (length, d_model), dtype of `drows`."""
        positions = self._checked("backward", positions)
        if not is_real(drows, 2) or len(drows) != len(positions):
            wanted = f"float32 or float64 ({len(positions)}, d_model)"
            raise ValueError(f"LearnedPositions.backward: drows is {describe(drows)}, expected {wanted}")
        gradient = np.zeros((self.length, drows.shape[1]), drows.dtype)
        embedding_backward(drows, positions, gradient)  # rows = table[positions]
        return {"positions": gradient}

    def _checked(self, function: str, positions: Array) -> Array:
        function = f"LearnedPositions.{function}"
        if not isinstance(positions, np.ndarray) or positions.ndim != 1 or positions.dtype.kind not in "iu":
            raise ValueError(f"{function}: positions is {describe(positions)}, expected integers (T,)")
        beyond = positions[(positions < 0) | (positions >= self.length)]
        if beyond.size:
            wanted = f"positions in [0, {self.length}), the length of the table"
            raise ValueError(f"{function}: positions hold {beyond[0]}, expected {wanted}")
        return positions
