"""Which positions the tokens of a training sequence have: 0, 1, 2, ..., or some that reach as far as a test will.

Both published tricks train on short sequences and let the model meet the positions of long ones: randomised positions
draw as many as there are tokens out of a long range; PoSE leaves one gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refrope.encodings.base import RotaryEncoding
from refrope.encodings.position_map import PositionMap
from refrope.errors import check_integer
from refrope.nn.configuration import TransformerConfig
from refrope.randomness import BitSource, bit_source, bounded_integers, permutation

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainPositions:
    """0, 1, 2, ...: what training does unless a subclass says otherwise."""

    def check(self, config: TransformerConfig, encoding: RotaryEncoding | PositionMap | None, length: int) -> None:
        """Nothing can be wrong."""

    def drawn(self, source: BitSource, sequences: int, length: int) -> Positions:
        """The positions of a batch, (length,) for all of its sequences; nothing is drawn."""
        return np.arange(length)

    def tested(self, seed: int, length: int) -> Positions | None:
        """The positions of a test, None for 0, 1, 2, ..."""
        return None


@dataclass(frozen=True)
class RandomPositions(TrainPositions):
    """As many positions as there are tokens, out of 0 .. limit - 1, in order: one draw for each batch.

    A test draws its positions in the same way, since gaps are what the model knows.

    Parameters
    ----------
    limit : int
        At least the longest test.

    References
    ----------
    Ruoss et al. 2023, arXiv:2305.16843, Section 3; one draw serves a whole batch in the authors' code, too.
    """

    limit: int

    def __post_init__(self) -> None:
        """Check the field."""
        check_integer("RandomPositions", "limit", self.limit, 1)

    def check(self, config: TransformerConfig, encoding: RotaryEncoding | PositionMap | None, length: int) -> None:
        """Raise ValueError for a position map, or where there are fewer positions than tokens."""
        _check_length("RandomPositions", self.limit, length)
        if isinstance(encoding, PositionMap):
            raise ValueError(f"RandomPositions: the encoding is the map {encoding.name}, expected one without a map")

    def drawn(self, source: BitSource, sequences: int, length: int) -> Positions:
        """(length,) rising positions, the same for all sequences of a batch."""
        return np.sort(permutation(source, self.limit)[:length])

    def tested(self, seed: int, length: int) -> Positions | None:
        """One draw, a function of the seed and the length."""
        _check_length("RandomPositions", self.limit, length)
        return self.drawn(bit_source(seed, f"positions of a test of {length} tokens"), 1, length)


@dataclass(frozen=True)
class PoSE(TrainPositions):
    """Positional skip-wise training: two chunks, the second one further on, so that its positions reach the limit.

    Where a sequence is cut and how far the second chunk skips is drawn for each sequence. A test has consecutive
    positions.

    Parameters
    ----------
    limit : int
        The target length: positions lie in 0 .. limit - 1.

    References
    ----------
    Zhu et al. 2024, arXiv:2309.10400, Section 3.2, with two chunks of which the first starts at 0, as in the authors'
    code. A method for rotary encodings.
    """

    limit: int

    def __post_init__(self) -> None:
        """Check the field."""
        check_integer("PoSE", "limit", self.limit, 1)

    def check(self, config: TransformerConfig, encoding: RotaryEncoding | PositionMap | None, length: int) -> None:
        """Raise ValueError unless all positions come from a rotary encoding, and the limit is at least the length."""
        _check_length("PoSE", self.limit, length)
        if not isinstance(encoding, RotaryEncoding) or config.bias is not None or config.absolute is not None:
            raise ValueError("PoSE: the model has other positions than those of a rotary encoding, expected that alone")

    def drawn(self, source: BitSource, sequences: int, length: int) -> Positions:
        """(sequences, length): rising by one but for one skip, 0 to limit - length, before a token after the first."""
        skips = bounded_integers(source, self.limit - length + 1, sequences)
        cuts = 1 + bounded_integers(source, max(length - 1, 1), sequences)
        places = np.arange(length)
        return places + np.where(places >= cuts[:, None], skips[:, None], 0)


def _check_length(who: str, limit: int, length: int) -> None:
    if limit < length:
        raise ValueError(f"{who}: limit is {limit}, expected at least the {length} tokens of a sequence")
