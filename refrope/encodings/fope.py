"""FoPE: each pair turns by a mixture of frequencies, with coefficients that a model has learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import tables
from refrope.encodings.base import PI, ExactArray, FloatArray, RotaryEncoding, Tables
from refrope.errors import check_integer, check_name, check_numbers, describe

Matrix = Sequence[Sequence[float]] | npt.NDArray[Any]


@dataclass(frozen=True)
class FoPE(RotaryEncoding):
    r"""Fourier position embedding of one head, with given coefficients.

    Only pairs that make more than a full turn within the training length keep their frequency; the others stand still.
    The tables of those that turn are then mixed: ``cos' = cos C`` and ``sin' = sin S``, with matrices that a model has
    learnt. Not of the form ``base**(-2j/d) / stretch``: a pair has many frequencies.

    Parameters
    ----------
    train_length : int
        L in tokens.
    cos_coefficients, sin_coefficients : (kept, kept) floats, optional
        C and S for the `kept` turning pairs; the identity if None. Kept as tuples, so that encodings compare.
    padding : {"identity", "ones"}
        Tables of pairs that stand still. "identity" (default): cos 1 and sin 0, so that they are left as they are, as
        the paper's zero frequency means. "ones": both 1, as in a copy of the FoPE authors' code (the original was not
        checked); it doubles those pairs' part of the logits.

    References
    ----------
    Hua et al. 2024, arXiv:2412.17739; the copy: yiju-zhao/Fourier-Position-Embedding at commit 3713108e.
    """

    train_length: int = 4096
    cos_coefficients: Matrix | None = field(default=None, repr=False)
    sin_coefficients: Matrix | None = field(default=None, repr=False)
    padding: str = "identity"

    def __post_init__(self) -> None:
        """Check the fields; matrices become tuples."""
        super().__post_init__()
        check_integer(self.name, "train_length", self.train_length, 1)
        check_name(self.name, "padding", self.padding, ("identity", "ones"))
        for name in ("cos_coefficients", "sin_coefficients"):
            matrix = getattr(self, name)
            if matrix is None:
                continue
            if not isinstance(matrix, (list, tuple, np.ndarray)) or len(matrix) != self.kept:
                raise ValueError(f"{self.name}: {name} is {describe(matrix)}, expected floats {(self.kept, self.kept)}")
            rows = (
                check_numbers(self.name, f"{name}[{i}]", row, self.kept, "a finite number", -np.inf)
                for i, row in enumerate(matrix)
            )
            object.__setattr__(self, name, tuple(rows))

    @property
    def kept(self) -> int:
        """How many pairs turn: those with inv_freq > 2 pi / train_length."""
        return int((self.inv_freq > 0).sum())

    def exact_stretch(self) -> None:
        """None: see the class."""

    def exact_inv_freq(self) -> ExactArray:
        """Plain RoPE's, 0 for pairs that do not make more than a full turn."""
        slowest = 2 * PI / self.train_length
        return np.array([f if f > slowest else Decimal(0) for f in self.plain_inv_freq()])

    def _tables(self, circle: Callable[..., Tables], positions: npt.ArrayLike, dtype: npt.DTypeLike) -> Tables:
        kept, kind = self.kept, tables.table_dtype(dtype)
        cos, sin = circle(positions, dtype=np.float64)
        cos[..., :kept] = mixed(cos[..., :kept], self.cos_coefficients)
        sin[..., :kept] = mixed(sin[..., :kept], self.sin_coefficients)
        if self.padding == "ones":
            sin[..., kept:] = 1.0
        return cos.astype(kind), sin.astype(kind)


def mixed(table: FloatArray, coefficients: Matrix | None) -> FloatArray:
    """``table @ coefficients``, summed in order: equal rows stay equal bit for bit, which a BLAS does not promise."""
    if coefficients is None:
        return table
    result = np.zeros_like(table)
    for column, row in zip(np.moveaxis(table, -1, 0), coefficients, strict=True):
        result += column[..., None] * row
    return result
