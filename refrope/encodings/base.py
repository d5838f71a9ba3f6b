r"""What every rotary encoding is: one angle per position and pair, and where its numbers come from.

Pair j of a head turns by ``position * inv_freq[j]``. Nearly every published variant is plain RoPE with each pair slowed
down by its own factor, ``inv_freq[j] = base**(-2j/d) / stretch[j]``, so a variant's class writes down its stretch and
nothing else.

Formulas run in 50-digit decimal arithmetic on object arrays (NumPy applies + - * / to their elements, so they read
like any other NumPy code) and are rounded to float64 once, at the end. Each number is therefore the float64 nearest to
the formula's value: no variant loses bits to a logarithm, a cancellation in a ramp, or the exponent of a power.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, fields
from decimal import Decimal
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import tables
from refrope.errors import check_integer, check_number

FloatArray = npt.NDArray[np.float64]
ExactArray = npt.NDArray[np.object_]  # of Decimal
Tables = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # cos, sin
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Let Decimal operations inside the block keep 50 digits, whatever the caller's decimal context is."""
    with decimal.localcontext(decimal.Context(prec=50)):
        yield


def exact(value: float) -> Decimal:
    """`value` as a decimal, without rounding."""
    return Decimal(value)


def nearest_floats(values: ExactArray) -> FloatArray:
    """The float64 nearest to each value, read-only, since an encoding's numbers are shared by all who ask."""
    result = values.astype(np.float64)
    result.setflags(write=False)
    return result


def within_unit(values: ExactArray) -> ExactArray:
    """Values below 0 raised to 0, values above 1 lowered to 1."""
    return np.array([min(max(value, Decimal(0)), Decimal(1)) for value in values])


class Derived(float):
    """A field's value that follows from other fields, so that `dataclasses.replace` works it out anew.

    To give it to another encoding as it is, say ``float(value)``.
    """


@dataclass(frozen=True)
class RotaryEncoding:
    r"""The angle that position m gives to pair j: ``m * inv_freq[j]`` radians.

    Parameters
    ----------
    head_dim : int
        Features of a head, even.
    base : float > 1
        b in ``b**(-2j/d)``.
    rotary_dim : int, optional
        How many of the features turn (even, at most `head_dim`); d in the formula above. All of them if None.
    lenient : bool
        Accept what makes little sense and can be computed all the same, as transformers does: a factor below 1, ramps
        whose ends are the wrong way round. `from_huggingface` sets it where a configuration asks for it.

    Raises
    ------
    ValueError
        A parameter out of its range; the message names it.
    """

    head_dim: int
    base: float = 10_000.0
    _: KW_ONLY
    rotary_dim: int | None = None
    lenient: bool = field(default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field once, here at the edge; NumPy's scalars become Python's."""
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), np.generic):
                object.__setattr__(self, each.name, value.item())
        self._check_even("head_dim", self.head_dim)
        check_number(self.name, "base", self.base, "a finite number > 1", 1.0, above=True)
        if self.rotary_dim is not None:
            self._check_even("rotary_dim", self.rotary_dim)
            if self.rotary_dim > self.head_dim:
                raise ValueError(
                    f"{self.name}: rotary_dim is {self.rotary_dim}, expected at most head_dim = {self.head_dim}"
                )

    def __getstate__(self) -> dict[str, Any]:
        """All but what is cached, which a copy works out again: copied arrays could be written to."""
        cached = {
            name for kind in type(self).__mro__ for name, it in vars(kind).items() if isinstance(it, cached_property)
        }
        return {name: value for name, value in self.__dict__.items() if name not in cached}

    def _check_even(self, argument: str, value: object) -> None:
        if check_integer(self.name, argument, value, 2) % 2:
            raise ValueError(f"{self.name}: {argument} is {value}, expected an even number: features turn in pairs")

    def _check_factor(self, factor: object) -> None:
        if self.lenient:
            check_number(self.name, "factor", factor, "a finite number > 0", 0.0, above=True)
        else:
            check_number(self.name, "factor", factor, "a finite number >= 1", 1.0)

    # ---- what a variant defines ----

    def exact_stretch(self) -> ExactArray | None:
        """How much slower each pair turns than in plain RoPE, (pairs,) decimals; None where there is no such form."""
        return np.array([Decimal(1)] * self.pairs)

    def exact_inv_freq(self) -> ExactArray:
        """Radians per token, (pairs,) decimals."""
        stretch = self.exact_stretch()
        if stretch is None:
            raise NotImplementedError(f"{self.name} defines neither exact_stretch nor exact_inv_freq")
        inv_freq: ExactArray = self.plain_inv_freq() / stretch
        return inv_freq

    @property
    def attention_factor(self) -> float:
        """Multiplies cos and sin, and so the logits of turned features by its square."""
        return 1.0

    @property
    def softmax_factor(self) -> float:
        """Multiplies the softmax scale, and so the logits of all features (DeepSeek's way)."""
        return 1.0

    def for_length(self, length: int) -> RotaryEncoding:
        """The encoding in force for a sequence of `length` tokens; most do not depend on it."""
        check_integer(f"{self.name}.for_length", "length", length, 0)
        return self

    # ---- what follows from it ----

    @property
    def name(self) -> str:
        """The variant's name, for messages and tables."""
        return type(self).__name__

    @property
    def innermost(self) -> RotaryEncoding:
        """The encoding inside of all those that are around another, such as Resonance: here itself."""
        return self

    @property
    def turned(self) -> int:
        """How many features turn: rotary_dim where it is given, else head_dim."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def pairs(self) -> int:
        """How many pairs of features there are to turn."""
        return self.turned // 2

    def plain_inv_freq(self) -> ExactArray:
        r"""Plain RoPE's ``base**(-2j/d)``, (pairs,) decimals (Su et al. 2021, arXiv:2104.09864, Eq. 15)."""
        ratio = exact(self.base) ** (Decimal(-2) / self.turned)
        return np.array([ratio**j for j in range(self.pairs)])

    @cached_property
    def inv_freq(self) -> FloatArray:
        """Radians per token, float64 (pairs,)."""
        with exact_arithmetic():
            return nearest_floats(self.exact_inv_freq())

    @cached_property
    def stretch(self) -> FloatArray | None:
        """``base**(-2j/d) / inv_freq``, float64 (pairs,); None where the variant is not of that form."""
        with exact_arithmetic():
            values = self.exact_stretch()
            return None if values is None else nearest_floats(values)

    def exact_wavelengths(self) -> ExactArray:
        """Tokens per full turn, (pairs,) decimals; infinite where a pair stands still."""
        return np.array([2 * PI / f if f else Decimal("Infinity") for f in self.exact_inv_freq()])

    @cached_property
    def wavelengths(self) -> FloatArray:
        """Tokens per full turn, ``2 pi / inv_freq``, float64 (pairs,); inf where a pair stands still."""
        with exact_arithmetic():
            return nearest_floats(self.exact_wavelengths())

    def turns(self, positions: npt.ArrayLike) -> FloatArray:
        """Which part of its circle each pair has turned by, float64 (..., pairs) in [0, 1)."""
        places = tables.as_positions(positions).astype(np.float64)
        result: FloatArray = np.mod(places[..., None] * (self.inv_freq / (2 * np.pi)), 1.0)
        return result

    def cos_sin(self, positions: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Tables:
        """Tables for `refrope.rotate`: cos and sin of every pair's angle, times the attention factor.

        Parameters
        ----------
        positions : (...) int64 or finite float
            In tokens; negative ones are allowed.
        dtype : float64, float32 or float16
            Of the tables. Angles are float64 in any case and only their cos and sin are rounded.

        Returns
        -------
        cos, sin : (..., pairs)

        Raises
        ------
        ValueError
            A position that is NaN, infinite or not a number; another dtype.
        """
        return self._tables(partial(tables.cos_sin, self.inv_freq), positions, dtype)

    def _tables(self, circle: Callable[..., Tables], positions: npt.ArrayLike, dtype: npt.DTypeLike) -> Tables:
        """What this variant makes of the pairs' cos and sin, which `circle` computes: Resonance brings its own."""
        return circle(positions, dtype=dtype, attention_factor=self.attention_factor)
