"""How much of PosGen is repetition: sequences that run into a cycle, and what copying them would score.

In recursive the last j + k tokens decide all that follow, in cot the last k for a given x_0 .. x_{j-1}: once such a
state comes back, the sequence repeats, and a model may copy what came after the state's last occurrence without any
knowledge of h. Semirecursive has no such state, as more and more tokens lie between its pointer and its end: a
repetition of its k near tokens proves nothing, and copying is right by luck, unless all tokens between repeat too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from refrope.errors import check_integer, check_name
from refrope.held_out import context_codes
from refrope.posgen import TASKS, Rule, generate, sum_rule
from refrope.randomness import IntArray


def state_width(task: str, j: int = 1, k: int = 3) -> int:
    """How many tokens are looked up: those of a state; in semirecursive the near ones."""
    check_name("state_width", "task", task, TASKS)
    return j + k if task == "recursive" else k


def last_occurrence(sequences: IntArray, width: int, modulus: int, first: int = 0) -> IntArray:
    """Where the `width` tokens before each x_l occurred last: the place of the token that followed them then.

    (n, T) -> (n, T) int64 below l, -1 where they have not occurred. Windows begin at `first` or later.

    Raises
    ------
    ValueError
        modulus**width is above 2**62, the windows do not fit an integer.
    """
    check_integer("last_occurrence", "modulus**width", modulus**width, 2, 2**62)
    found = np.full(sequences.shape, -1, np.int64)
    if sequences.shape[1] <= first + width:
        return found
    windows = np.lib.stride_tricks.sliding_window_view(sequences[:, first:-1], width, axis=1)
    codes = context_codes(windows, modulus)
    order = np.argsort(codes, axis=1, kind="stable")  # equal windows side by side, earlier ones first
    ordered = np.take_along_axis(codes, order, axis=1)
    earlier = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1] + first + width, -1)
    np.put_along_axis(found[:, first + width :], order[:, 1:], earlier, axis=1)
    return found


def copies(task: str, sequences: IntArray, modulus: int = 17, j: int = 1, k: int = 3) -> IntArray:
    """What copying answers: the token that followed the last occurrence of the state, (n, T) int64, -1 for none."""
    first = 0 if task == "recursive" else j
    before = last_occurrence(sequences, state_width(task, j, k), modulus, first)
    before[:, : j + k] = -1
    return np.where(before >= 0, np.take_along_axis(sequences, np.maximum(before, 0), axis=1), -1)


def cycles(
    task: str, prefixes: IntArray, lengths: tuple[int, ...] = (64, 256), rule: Rule = sum_rule,
    modulus: int = 17, j: int = 1, k: int = 3,
) -> dict[str, Any]:  # fmt: skip
    """How many sequences are in a cycle before a token, how long cycles are, and what copying scores.

    Parameters
    ----------
    task, prefixes, rule, modulus, j, k : as in `refrope.posgen.generate`
    lengths : rising ints
        L, L', ...

    Returns
    -------
    "repeating": for each length, the share of sequences with a state among their tokens before it that was there
    before, None for semirecursive; "periods": {period: share of the sequences} of those that repeat before the last
    length; "copying": for each length, the share of generated tokens from the length before on (j + k for the first)
    that copying the last occurrence gets right.
    """
    x = generate(task, prefixes, lengths[-1], modulus, j, k, rule)
    right = copies(task, x, modulus, j, k) == x
    ends = (j + k, *lengths)
    score = {str(end): float(right[:, start:end].mean()) for start, end in pairwise(ends)}
    if task == "semirecursive":
        return {"repeating": None, "periods": None, "copying": score}
    # One more token, whatever it is: it is the one before it whose state is looked for.
    before = last_occurrence(
        np.pad(x, ((0, 0), (0, 1))), state_width(task, j, k), modulus, 0 if task == "recursive" else j
    )
    again = before >= 0
    places = np.where(again.any(axis=1), again.argmax(axis=1), lengths[-1] + 1)
    periods = (places - before[np.arange(len(x)), np.minimum(places, lengths[-1])])[places <= lengths[-1]]
    found, counts = np.unique(periods, return_counts=True)
    return {
        "repeating": {str(end): float((places <= end).mean()) for end in lengths},
        "periods": {str(period): float(count / len(x)) for period, count in zip(found, counts, strict=True)},
        "copying": score,
    }
