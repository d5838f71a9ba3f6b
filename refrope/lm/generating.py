"""Generation: the next token by its probability, after temperature, top-k and top-p, in this order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_number
from refrope.lm.reading import Reader
from refrope.randomness import BitSource, bit_source, uniform_numbers


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Parameters
    ----------
    temperature : float >= 0
        Divides the logits; 0 takes the most likely token always (greedy).
    top_k : int >= 1, optional
        Only the k most likely tokens remain; of equal ones those with the smaller numbers.
    top_p : float in (0, 1], optional
        Of those, the most likely ones remain whose probabilities first add up to p or more: one at least.
    seed : int >= 0
        Of the random numbers, one a token.

    References
    ----------
    Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751 (top-p).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        check_number("Sampling", "temperature", self.temperature, "a number >= 0", 0.0)
        if self.top_k is not None:
            check_integer("Sampling", "top_k", self.top_k, 1)
        if self.top_p is not None:
            wanted = "a number in (0, 1]"
            if check_number("Sampling", "top_p", self.top_p, wanted, 0.0, above=True) > 1:
                raise ValueError(f"Sampling: top_p is {self.top_p!r}, expected {wanted}")
        check_integer("Sampling", "seed", self.seed, 0)

    def source(self) -> BitSource:
        """The random numbers of a text."""
        return bit_source(self.seed, "sampling")


GREEDY = Sampling()


def probabilities(logits: npt.NDArray[Any], sampling: Sampling) -> npt.NDArray[np.float64]:
    """The probability that each token is chosen, (V,) float64, for logits (V,).

    Raises
    ------
    FloatingPointError
        A logit is NaN: the weights are.
    """
    scores = logits.astype(np.float64)
    if np.isnan(scores).any():
        raise FloatingPointError("probabilities: logits are NaN, expected finite weights")
    result = np.zeros(len(scores))
    if sampling.temperature == 0:
        result[np.argmax(scores)] = 1
        return result
    scores = (scores - scores.max()) / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        order = np.arange(len(scores))
    else:
        order = np.argsort(-scores, kind="stable")[: sampling.top_k]
    weights = np.exp(scores[order])
    weights /= weights.sum()
    if sampling.top_p is not None:
        before = np.concatenate([[0.0], np.cumsum(weights)[:-1]])
        weights[before >= sampling.top_p] = 0
        weights /= weights.sum()
    result[order] = weights
    return result


def choose(logits: npt.NDArray[Any], sampling: Sampling, source: BitSource) -> int:
    """The next token: drawn with one number of `source`, which is not touched where it is certain."""
    shares = probabilities(logits, sampling)
    possible = np.flatnonzero(shares)
    if len(possible) == 1:
        return int(possible[0])
    bounds = np.cumsum(shares[possible])
    drawn = uniform_numbers(source, 1)[0] * bounds[-1]
    return int(possible[min(int(np.searchsorted(bounds, drawn, side="right")), len(possible) - 1)])


def generate(
    reader: Reader,
    prompt: npt.NDArray[Any],
    count: int,
    sampling: Sampling = GREEDY,
    *,
    eos: Collection[int] = (),
    vocabulary: int | None = None,
) -> Iterator[int]:
    """Up to `count` tokens that go on from `prompt`, each as soon as it is chosen.

    Parameters
    ----------
    reader : Reader
        Forgets what it has read, but for what `prompt` begins with too.
    prompt : (n,) integers, n >= 1
    count : int
    sampling : Sampling
    eos : tokens that end a text; they are not given out
    vocabulary : int, optional
        The tokenizer's: numbers from there on, whose embeddings only round a size up, are never chosen.

    Raises
    ------
    ValueError
        No prompt, or no room in the reader.
    """
    count = check_integer("generate", "count", count, 1)
    if len(prompt) + count - 1 > reader.capacity:  # the last one is not read
        came = f"{len(prompt)} tokens and {count} more"
        raise ValueError(f"generate: {came}, expected at most {reader.capacity}: the reader's")
    source = sampling.source()
    logits = reader.read_anew(prompt)
    for number in range(1, count + 1):
        token = choose(logits[:vocabulary], sampling, source)
        if token in eos:
            return
        yield token
        if number < count:
            logits = reader.read(np.array([token]))


class TextDecoder(Protocol):
    """Tokens to text, piece by piece."""

    def push(self, token: int) -> str:
        """The characters that are whole with this token."""

    def flush(self) -> str:
        """What is left: the rest of a character that did not become whole."""


def stream_text(tokens: Iterable[int], decoder: TextDecoder) -> Iterator[str]:
    """The text of `tokens` as they come, never half a character."""
    for token in tokens:
        if text := decoder.push(token):
            yield text
    if text := decoder.flush():
        yield text
