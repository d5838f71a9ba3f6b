"""What each method of `refrope.methods` makes of the distance between a query and a key.

    name, lengths ──► encoding_of, configuration_of ──► ByDistance ──► effective positions, logits, pairs beyond

The effective position of a pair is the distance at which the method would treat it the same. Its logit is that of a
query with an equal key, as a mean over features, so that content alone counts 1: ``mean over pairs of cos(f inv_freq)``
where features turn, ``1 + bias`` where a bias is added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refrope.decay import long_range_decay
from refrope.encodings import RotaryEncoding
from refrope.encodings.pointers import Pointers
from refrope.encodings.position_map import PositionMap
from refrope.encodings.remap import DualChunk, SelfExtend
from refrope.errors import check_integer, check_name
from refrope.methods import MAPS, METHODS, Lengths, configuration_of, encoding_of
from refrope.nn.absolute import LearnedPositions
from refrope.nn.biases import Bias, T5Bias
from refrope.nn.configuration import TransformerConfig
from refrope.nn.dape import DAPE
from refrope.nn.fire import FIRE
from refrope.nn.place_bias import PlaceBias
from refrope.randomness import bit_source

FloatArray = npt.NDArray[np.float64]

_LEAST = 3  # tokens of training that leave a map something to do


class Pairs(NamedTuple):
    """Pairs of a query and a key at or before it, among all tokens of a test.

    Attributes
    ----------
    seen : int
        Those that take part in attention.
    beyond : int
        Those of them at an effective position that no pair of the training length has; with learned positions, those
        with a row that training leaves as it started.
    largest : float or None
        The largest effective position, None where there is none.
    """

    seen: int
    beyond: int
    largest: float | None


@dataclass(frozen=True)
class ByDistance:
    """A method, built for two lengths, with the weights that training starts from.

    Parameters
    ----------
    name : one of `METHODS`
    lengths : Lengths
        L and L' in tokens, L < L'.
    head_dim : int, even
    heads : int >= 1
    seed : int >= 0
        Of weights at their start: those that `refrope.Transformer` gives its first layer.

    Raises
    ------
    ValueError
        Another name, numbers out of range, lengths for which a map would do nothing.
    """

    name: str
    lengths: Lengths
    head_dim: int = 64
    heads: int = 2
    seed: int = 2

    def __post_init__(self) -> None:
        """Check the fields, and that the method can be built."""
        check_name("inspect", "encoding", self.name, METHODS)
        check_integer("inspect", "train_length", self.lengths.train, _LEAST if self.name in MAPS else 1)
        check_integer("inspect", "test_length", self.lengths.test, self.lengths.train + 1)
        check_integer("inspect", "heads", self.heads, 1)
        check_integer("inspect", "seed", self.seed, 0)
        check_integer("inspect", "head_dim", self.head_dim, 2)
        _ = self.config, self.encoding

    # ---- what it is made of ----

    @cached_property
    def encoding(self) -> RotaryEncoding | PositionMap | None:
        """What turns queries and keys, in force for the test."""
        encoding = encoding_of(self.name, self.head_dim, self.lengths)
        return None if encoding is None else encoding.for_length(self.lengths.test)

    @cached_property
    def config(self) -> TransformerConfig:
        """A model with what the method adds to it."""
        sizes = TransformerConfig(d_model=self.heads * self.head_dim, heads=self.heads, head_dim=self.head_dim)
        return configuration_of(self.name, sizes, *self.lengths)

    @property
    def inner(self) -> Bias | None:
        """The bias by distance, without the network of DAPE."""
        bias = self.config.bias.bias if isinstance(self.config.bias, DAPE) else self.config.bias
        return None if isinstance(bias, PlaceBias) else bias

    @cached_property
    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """Weights of the bias at their start, by name, float64; those of the first layer where layers differ."""
        if self.config.bias is None:
            return {}
        start: dict[str, npt.NDArray[Any]]
        start = self.config.bias.initial(self.heads, bit_source(self.seed, "weights of positions"))
        return start

    # ---- effective positions ----

    def effective(self, queries: npt.ArrayLike, keys: npt.ArrayLike) -> FloatArray:
        """The effective position of queries at m and keys at n <= m.

        A position map's f(m, n). The distance m - n for encodings, sinusoids and biases; but for T5's bias the least
        distance of the same bucket, and for FIRE the distance that gives a query at L - 1, the last of training, the
        same input of the network.

        Parameters
        ----------
        queries, keys : integers >= 0 that broadcast against each other

        Returns
        -------
        float64, in tokens
            NaN where the method knows no distance (NoPE, learned positions) and for pairs outside a window.
        """
        distances = np.subtract(queries, keys)
        if isinstance(self.encoding, PositionMap):
            return self.encoding.effective(queries, keys)
        if self.name in ("nope", "learned"):
            return np.full(distances.shape, np.nan)
        if isinstance(self.inner, T5Bias):
            buckets = self.inner.buckets(np.arange(distances.max(initial=0) + 1))
            return np.searchsorted(buckets, self.inner.buckets(distances)).astype(np.float64)
        if isinstance(self.inner, FIRE):
            return self._fire(distances, np.asarray(queries), self.inner)
        places = distances.astype(np.float64)
        return places if self.config.window is None else np.where(distances < self.config.window, places, np.nan)

    def _fire(self, distances: npt.NDArray[Any], queries: npt.NDArray[Any], fire: FIRE) -> FloatArray:
        """Solve ``ln(c f + 1) / bottom(L - 1) = ln(c d + 1) / bottom(m)`` for f."""
        c, multiplier = (abs(float(self.weights[name][0])) for name in ("c", "multiplier"))
        here, trained = (
            np.log1p(c * np.maximum(places, multiplier * fire.threshold)) + fire.EPS
            for places in (queries, self.lengths.train - 1)
        )
        result: FloatArray = np.expm1(np.log1p(c * distances) * (trained / here)) / c
        return result

    @cached_property
    def last_effective(self) -> FloatArray:
        """`effective` of the query at L' - 1 by distance, (L',)."""
        last = self.lengths.test - 1
        return self.effective(last, last - np.arange(last + 1))

    @cached_property
    def slowest(self) -> FloatArray | None:
        """By distance, how far plain RoPE turns its slowest pair as far as YaRN does, (L',); None but for YaRN."""
        if not isinstance(self.encoding, RotaryEncoding) or "yarn" not in self.name:
            return None
        assert self.encoding.stretch is not None
        places: FloatArray = np.arange(self.lengths.test) / self.encoding.stretch[-1]
        return places

    @cached_property
    def pairs(self) -> Pairs:
        """How many pairs of L' tokens lie at an effective position that no pair of L tokens has."""
        train, test = self.lengths
        everything = test * (test + 1) // 2
        if self.name == "learned":
            return Pairs(everything, everything - train * (train + 1) // 2, None)
        if self.name == "nope":
            return Pairs(everything, 0, None)
        places = np.arange(test)
        if isinstance(self.encoding, Pointers):
            keys = self.encoding.candidates(places)
            far = np.where(keys < 0, np.nan, self.effective(places[:, None], keys))
            known = far[~np.isnan(far)]
            trained = far[:train], self.encoding.second(places[:train, None], keys[:train])
            return Pairs(known.size, int((~np.isin(known, trained)).sum()), float(known.max()))
        if not isinstance(self.encoding, SelfExtend | DualChunk) and not isinstance(self.inner, FIRE):
            far = self.effective(places, 0)  # a function of the distance: L' - d pairs have each
            counts = test - places
            seen = int(counts[~np.isnan(far)].sum())
            return Pairs(seen, int(counts[far >= train].sum()), float(np.nanmax(far)))
        if isinstance(self.encoding, DualChunk):  # keys of a chunk stand at 0, 1, ..., all seen from one place
            starts = places[:: self.encoding.size]
            keys = np.clip(places[:, None] - starts + 1, 0, self.encoding.size)
            tops = np.where(keys > 0, self.effective(places[:, None], starts), 0)
            return Pairs(everything, int(np.clip(tops - train + 1, 0, keys).sum()), float(tops.max()))
        # The others rise with the distance from each query: how many of the first keys lie beyond, by bisection.
        low, high = np.zeros_like(places), places + 1
        while (low < high).any():
            middle = (low + high) // 2
            beyond = (low < high) & (self.effective(places, np.minimum(middle, places)) >= train)
            low, high = np.where(beyond, middle + 1, low), np.where(beyond, high, np.minimum(middle, high))
        return Pairs(everything, int(low.sum()), float(self.effective(places, 0).max()))

    # ---- logits ----

    @cached_property
    def bias(self) -> FloatArray | None:
        """The bias at its start by distance from the query at L' - 1, (heads, L'), without the network of DAPE."""
        if self.inner is None:
            return None
        places = np.arange(self.lengths.test)
        own = {name: self.weights[name] for name in self.inner.shapes(self.heads)}
        values: FloatArray = self.inner.forward(own, self.heads, places, np.full_like(places, self.lengths.test - 1))
        return values

    @cached_property
    def logits(self) -> FloatArray:
        """The logit of the query at L' - 1 with an equal key by distance, (1 or heads, L'); NaN outside a window.

        Turned features: mean over pairs of cos(f inv_freq), times the attention factor squared; in a map, times
        its scale of that query. Biases: 1 + bias, and for DAPE what its network makes of that bias where all
        scores are 1. Positions that are added to the embeddings: the product of both rows over d_model. NoPE: 1.
        """
        encoding = self.encoding.encoding if isinstance(self.encoding, PositionMap) else self.encoding
        if encoding is not None:
            far = self.last_effective
            known = np.where(np.isnan(far), 0, far)
            mean = long_range_decay(encoding, known) / encoding.pairs * encoding.attention_factor**2
            if isinstance(self.encoding, PositionMap):
                mean = mean * self.encoding.query_scale(np.array([self.lengths.test - 1]))
            turned: FloatArray = np.where(np.isnan(far), np.nan, mean)[None]
            return turned
        if self.bias is not None:
            return 1 + self.bias + self._network(self.bias)
        if self.config.absolute is not None:
            rows = self._rows()
            products: FloatArray = (rows @ rows[-1])[None, ::-1] / self.config.d_model
            return products
        return np.ones((1, self.lengths.test))

    def _network(self, bias: FloatArray) -> FloatArray | float:
        """What DAPE's network adds where all scores are 1, (heads, L'); 0 for other biases."""
        if not isinstance(self.config.bias, DAPE):
            return 0.0
        values = bias[:, None, ::-1]  # one query, keys from the first on
        mixed: FloatArray
        mixed, _ = self.config.bias.mix_forward(self.weights, np.ones((1, *values.shape)), values)
        return mixed[0, :, 0, ::-1]

    def _rows(self) -> FloatArray:
        """What is added to the embeddings of all L' tokens, (L', d_model)."""
        absolute, size = self.config.absolute, self.config.d_model
        assert absolute is not None
        rows: FloatArray
        if isinstance(absolute, LearnedPositions):
            rows = absolute.initial(size, bit_source(self.seed, "weights of positions"))["positions"]
            return rows
        rows = absolute.table(np.arange(self.lengths.test), size)
        return rows


def shown_distances(lengths: Lengths, also: Iterable[int] = ()) -> list[int]:
    """The distances of a short table: powers of two, around L / 2 and L, 3/2 L, 3 L, ..., the last, L' - 1; `also`."""
    train, last = lengths.train, lengths.test - 1
    half = train // 2
    chosen = {0, half - 1, half, half + 1, train - 1, train, train + 1, last, *(2**k for k in range(last.bit_length()))}
    chosen |= {*also, *(train * 3 * 2**k // 2 for k in range(last.bit_length()))}
    return sorted(distance for distance in chosen if 0 <= distance <= last)
