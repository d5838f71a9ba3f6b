"""What is common to encodings that change the wavelengths of another one."""

from __future__ import annotations

from dataclasses import dataclass, field

from refrope.encodings.base import RotaryEncoding
from refrope.errors import describe


@dataclass(frozen=True, init=False)
class AroundEncoding(RotaryEncoding):
    """An encoding around another, whose head_dim, base and factors it has: `Resonance` and the like.

    Parameters
    ----------
    encoding : RotaryEncoding

    Raises
    ------
    ValueError
        Something else inside.
    """

    encoding: RotaryEncoding
    head_dim: int = field(init=False, repr=False, compare=False)
    base: float = field(init=False, repr=False, compare=False)
    rotary_dim: int | None = field(init=False, repr=False, compare=False)
    lenient: bool = field(init=False, repr=False, compare=False, default=False)

    def __init__(self, encoding: RotaryEncoding) -> None:
        if not isinstance(encoding, RotaryEncoding):
            raise ValueError(f"{self.name}: encoding is {describe(encoding)}, expected a RotaryEncoding")
        for name in ("head_dim", "base", "rotary_dim"):
            object.__setattr__(self, name, getattr(encoding, name))
        object.__setattr__(self, "encoding", encoding)

    @property
    def attention_factor(self) -> float:
        """That of the encoding inside."""
        return self.encoding.attention_factor

    @property
    def softmax_factor(self) -> float:
        """That of the encoding inside."""
        return self.encoding.softmax_factor

    @property
    def innermost(self) -> RotaryEncoding:
        """That of the encoding inside."""
        return self.encoding.innermost
