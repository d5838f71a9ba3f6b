"""Questions about a long context, as tokens: a pass key, a fact in a real text, the value of a key.

Depth is where in the context the answer stands: 0 at its start, 100 at its end. A prompt ends where the answer is the
next word, so that models that know no chat can be asked. Answers are digits.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from refrope.errors import check_integer, check_number
from refrope.randomness import bit_source, bounded_integers, permutation

IntArray = npt.NDArray[np.int64]
ANSWER = 16  # tokens that an answer may take: the room that is kept for it
LONGEST_LINE = 400  # characters: some 100 tokens, which a context may lack at its end
_FIVE_DIGITS = (10_000, 90_000)  # smallest, and how many

# Published pass key tests repeat a handful of sentences of their own; these say as little.
FILLER = (
    "Rain fell on the roofs of the harbour all morning.",
    "The baker opened his shutters and set out the loaves.",
    "A grey cat slept on the wall beside the well.",
    "Two children rolled a hoop along the lane.",
    "Smoke rose from the chimneys and drifted over the fields.",
    "The ferry crossed the river and came back again.",
    "Somebody was practising scales on an old piano.",
    "Leaves had gathered in the corner of the yard.",
    "The post came late, as it did every winter.",
    "A cart loaded with hay went slowly up the hill.",
    "Gulls circled above the nets that hung out to dry.",
    "The tailor threaded a needle and hummed to himself.",
    "Apples lay in baskets at the door of the barn.",
    "The clock in the tower was a little slow.",
    "Snow still lay in the shade of the northern wall.",
    "An old man sat on the bench and watched the boats.",
    "Bees went in and out of the hives by the hedge.",
    "The mill stood still because the stream was low.",
    "Lamps were lit one after another along the quay.",
    "In the evening the wind turned and the sky cleared.",
)


class Tokens(Protocol):
    """What is needed of a tokenizer."""

    @property
    def vocabulary(self) -> int:
        """Tokens are numbers in [0, vocabulary)."""

    def encode(self, text: str, *, special: bool = True) -> IntArray:
        """Tokens of a text, with `special` those that the model expects round it."""

    def encode_inside(self, text: str) -> IntArray:
        """Tokens of what follows other text."""

    def decode(self, tokens: IntArray) -> str:
        """Text of tokens."""


class Probe(NamedTuple):
    """One question.

    Attributes
    ----------
    tokens : (n,) int64, n + ANSWER <= length
    expected : str
        Digits.
    length : int, tokens
    depth : float
        In per cent, as asked for.
    """

    tokens: IntArray
    expected: str
    length: int
    depth: float


class Words(NamedTuple):
    """A test whose context is lines among which one holds the answer; {} stands for it."""

    head: str
    needle: str
    question: str


PASSKEY = Words(
    "One of the lines below tells a pass key. Remember it: you will be asked for it at the end.\n",
    "The pass key is {}. Remember it: {} is the pass key.\n",
    "\nQuestion: what is the pass key?\nAnswer: the pass key is",
)
NEEDLE = Words(
    "",
    "The lighthouse keeper of Arvensund counted {} gulls on the first day of spring.\n",
    "\nQuestion: how many gulls did the lighthouse keeper of Arvensund count on the first day of spring?\n"
    "Answer: the lighthouse keeper of Arvensund counted",
)
_PAIRS_HEAD = "Every line below has a number and, behind the colon, its value.\n"
_PAIRS_QUESTION = "\nOne of the lines again:\n{}:"


def short_lines(text: str) -> list[str]:
    """The lines of a text that say something; those of more than `LONGEST_LINE` characters as several.

    A line is what is put into a context or left out, and what an answer stands between.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return [
        part for line in lines for part in ([line] if len(line) <= LONGEST_LINE else textwrap.wrap(line, LONGEST_LINE))
    ]


# ---- probes ----


def hidden_line_probes(
    who: str,
    words: Words,
    lines: Sequence[str],
    tokenizer: Tokens,
    lengths: Sequence[int],
    depths: Sequence[float],
    trials: int,
    *,
    seed: int = 1,
    first: Sequence[int] = (),
) -> list[Probe]:
    """Questions for a line with five digits among others.

    Parameters
    ----------
    who : str
        What errors and random numbers go by.
    words : Words
    lines : list of str, each with its end of line
        What stands around the line, in this order and over again.
    tokenizer : Tokenizer
        Lines are encoded one by one.
    lengths : list of int, tokens
        As many lines as fit; `ANSWER` tokens are kept free.
    depths : list of float in [0, 100]
        How many per cent of the lines come before the one that is asked for.
    trials : int
        Numbers that are hidden, at each length and depth the same.
    seed : int
    first : tokens
        What every prompt begins with, such as a mark of the beginning.

    Raises
    ------
    ValueError
        A length in which the question has no room; a depth beyond 0 to 100; no lines.
    """
    _check_grid(who, lengths, depths, trials)
    encoded = _encoded(who, tokenizer, lines, max(lengths))
    head = np.concatenate([np.asarray(first, np.int64), tokenizer.encode(words.head, special=False)])
    question = tokenizer.encode_inside(words.question)
    smallest, count = _FIVE_DIGITS
    probes = []
    for hidden in smallest + bounded_integers(bit_source(seed, who), count, trials):
        needle = tokenizer.encode_inside(words.needle.replace("{}", str(hidden)))
        for length in lengths:
            room = length - ANSWER - len(head) - len(needle) - len(question)
            around = _fill(who, encoded, room, length)
            for depth in depths:
                before = round(depth / 100 * len(around))
                parts = [head, *around[:before], needle, *around[before:], question]
                probes.append(Probe(np.concatenate(parts), str(hidden), length, depth))
    return probes


def pair_probes(
    who: str,
    tokenizer: Tokens,
    lengths: Sequence[int],
    depths: Sequence[float],
    trials: int,
    *,
    seed: int = 1,
    first: Sequence[int] = (),
) -> list[Probe]:
    """Questions for the value of one of as many random pairs of five digits as fit; parameters as above.

    References
    ----------
    The task: Liu et al. 2023, arXiv:2307.03172, Section 3.
    """
    _check_grid(who, lengths, depths, trials)
    head = np.concatenate([np.asarray(first, np.int64), tokenizer.encode(_PAIRS_HEAD, special=False)])
    smallest, count = _FIVE_DIGITS
    probes = []
    for trial in range(trials):
        source = bit_source(seed, f"{who} {trial}")
        keys, values = smallest + permutation(source, count), smallest + bounded_integers(source, count, count)
        pairs = (f"{key}: {value}\n" for key, value in zip(keys, values, strict=True))
        encoded = _encoded(who, tokenizer, pairs, max(lengths))
        questions = [tokenizer.encode_inside(_PAIRS_QUESTION.format(key)) for key in keys[: len(encoded)]]
        question_size = max(map(len, questions))
        for length in lengths:
            around = _fill(who, encoded, length - ANSWER - len(head) - question_size, length, least=1)
            for depth in depths:
                asked = round(depth / 100 * (len(around) - 1))
                tokens = np.concatenate([head, *around, questions[asked]])
                probes.append(Probe(tokens, str(values[asked]), length, depth))
    return probes


def _check_grid(who: str, lengths: Sequence[int], depths: Sequence[float], trials: int) -> None:
    check_integer(who, "trials", trials, 1)
    for length in lengths:
        check_integer(who, "length", length, 1)
    for depth in depths:
        wanted = "a number in [0, 100]"
        if check_number(who, "depth", depth, wanted, 0.0) > 100:
            raise ValueError(f"{who}: depth is {depth!r}, expected {wanted}")


def _encoded(who: str, tokenizer: Tokens, lines: Iterable[str], enough: int) -> list[IntArray]:
    """Lines as tokens, until there are more than `enough` of these."""
    encoded: list[IntArray] = []
    for line in lines:
        if (tokens := tokenizer.encode_inside(line)).size:
            encoded.append(tokens)
            enough -= tokens.size
        if enough < 0:
            break
    if not encoded:
        raise ValueError(f"{who}: the text has no lines, expected something to hide a line in")
    return encoded


def _fill(who: str, encoded: Sequence[IntArray], room: int, length: int, least: int = 0) -> list[IntArray]:
    """As many lines as fit into `room` tokens, over again from the first after the last; `least` must."""
    missing = sum(map(len, encoded[:least])) - room
    if missing > 0:
        raise ValueError(f"{who}: length is {length}, expected at least {length + missing}, the tokens of a prompt")
    chosen: list[IntArray] = []
    while (line := encoded[len(chosen) % len(encoded)]).size <= room:
        chosen.append(line)
        room -= line.size
    return chosen
