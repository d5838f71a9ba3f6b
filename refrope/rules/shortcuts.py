"""What decides a token: the rule of a task, and what subtracting one step from the next leaves of it.

    full rule    x_l = h(far, near)                              reads j + k tokens
    differences  x_l = x_{l-1} + h at l - h at l-1               reads those of two steps
    shortcut     x_l = 2 x_{l-1} - x_{l-lag}                     reads two tokens: differences of the sum, cancelled

For the sum h, neighbouring steps share all but two of their tokens where both have the same far tokens, or ones that
slide along: from the second generated token on everywhere in recursive (lag j + k + 1) and cot (lag k + 1), and on
every second step of semirecursive (lag k + 1). On its other steps four tokens are left for j = 1,
x_l = 2 x_{l-1} - x_{l-4} + x_p - x_{p-1}, p being the far token's place. Any h that is a permutation of the sum has
shortcuts too, of another form; of a random Latin square's two steps nothing cancels.

All functions answer for any tokens, also for those that break the rule: that is what they are for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from refrope.errors import check_integer
from refrope.posgen import Rule, contexts, far_start, generate, sum_rule
from refrope.randomness import BoolArray, IntArray

NONE = -1  # stands where there is no answer


def shortcut_lag(task: str, j: int = 1, k: int = 3) -> int:
    """How many tokens before x_l the second token of the shortcut stands."""
    far_start(task, j + k, j, k)  # checks the names and sizes
    return j + k + 1 if task == "recursive" else k + 1


def has_shortcut(task: str, length: int, j: int = 1, k: int = 3) -> BoolArray:
    """(length,) bool: whether the sum's x_l follows from two tokens, l = 0 .. length - 1."""
    step = np.arange(length) - (j + k)
    shortcut_lag(task, j, k)
    return np.asarray((step > 0) & (step % 2 == 1) if task == "semirecursive" else step > 0)


def full_answers(
    task: str, sequences: IntArray, rule: Rule = sum_rule, modulus: int = 17, j: int = 1, k: int = 3
) -> IntArray:
    """What h makes of the tokens before x_l, whatever x_l is: (n, T) -> (n, T) int64, `NONE` for the first j + k."""
    read = contexts(task, sequences, modulus, j, k)
    rows = read.reshape(-1, j + k)
    answers = np.full(sequences.shape, NONE, np.int64)
    answers[:, j + k :] = rule(rows[:, :j], rows[:, j:], modulus).reshape(read.shape[:2])
    return answers


def difference_answers(
    task: str, sequences: IntArray, rule: Rule = sum_rule, modulus: int = 17, j: int = 1, k: int = 3
) -> IntArray:
    """The full rule's answer plus what it missed by at the step before, mod m: (n, T) int64.

    For the sum this is the shortcut wherever that exists. `NONE` for the first j + k + 1 tokens.
    """
    full = full_answers(task, sequences, rule, modulus, j, k)
    answers = np.full_like(full, NONE)
    after = slice(j + k + 1, None)
    answers[:, after] = (full[:, after] + sequences[:, j + k : -1] - full[:, j + k : -1]) % modulus
    return answers


def two_term_answers(task: str, sequences: IntArray, modulus: int = 17, j: int = 1, k: int = 3) -> IntArray:
    """2 x_{l-1} - x_{l-lag} mod m, right or not: (n, T) -> (n, T) int64, `NONE` for the first j + k + 1 tokens."""
    lag = shortcut_lag(task, j, k)
    answers = np.full(sequences.shape, NONE, np.int64)
    answers[:, lag:] = (2 * sequences[:, lag - 1 : -1] - sequences[:, :-lag]) % modulus
    answers[:, : j + k + 1] = NONE
    return answers


def shortcut_answers(task: str, sequences: IntArray, modulus: int = 17, j: int = 1, k: int = 3) -> IntArray:
    """`two_term_answers` where the sum has a shortcut (`has_shortcut`), elsewhere `NONE`."""
    answers = two_term_answers(task, sequences, modulus, j, k)
    answers[:, ~has_shortcut(task, sequences.shape[1], j, k)] = NONE
    return answers


class TwoTermRule(NamedTuple):
    """x_l = first x_{l-near} + second x_{l-far} mod m for every sequence of a task, the coefficients in 1 .. m - 1."""

    near: int
    first: int
    far: int
    second: int


def two_term_rules(
    task: str, steps: Iterable[int], longest: int, modulus: int = 17, j: int = 1, k: int = 3
) -> list[TwoTermRule]:
    """All rules of two tokens at most `longest` back that the sum obeys at all of the `steps`, nearest first.

    The sum is linear: x_l = prefix . M[:, l], where row i of M is the sequence whose prefix is the unit vector i. So a
    rule holds for all sequences if it holds for these j + k.

    Parameters
    ----------
    task : one of `refrope.posgen.TASKS`
    steps : ints >= longest, at least one
    longest : int >= 2
    modulus, j, k : as in `refrope.posgen.generate`

    Raises
    ------
    ValueError
        As `refrope.posgen.generate`; a step below `longest`, or none.
    """
    longest = check_integer("two_term_rules", "longest", longest, 2)
    places = np.array([check_integer("two_term_rules", "steps", step, longest) for step in steps])
    if not places.size:
        raise ValueError("two_term_rules: steps are [], expected at least one")
    units = generate(task, np.eye(j + k, dtype=np.int64), int(places.max()) + 1, modulus, j, k)
    target, coefficients = units[:, places], np.arange(1, modulus)
    # multiples[d - 1][a - 1]: a times the tokens d back, for all units and steps
    multiples = np.array([[a * units[:, places - d] % modulus for a in coefficients] for d in range(1, longest + 1)])
    rules = []
    for far in range(2, longest + 1):
        for near in range(1, far):
            missing = (target - multiples[near - 1]) % modulus  # (m - 1, j + k, steps)
            fits = (missing[:, None] == multiples[far - 1]).all(axis=(2, 3))
            rules += [TwoTermRule(near, int(a) + 1, far, int(b) + 1) for a, b in np.argwhere(fits)]
    return rules
