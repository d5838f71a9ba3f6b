"""What decides a token: the rule of a task, and shortcuts that use what the step before has summed up.

    full rule    x_l = h(far, near)                                   reads j + k tokens
    shortcut     solve h at x_{l-1} for the near sum, slide it on     reads x_{l-1}, x_{l-1-k}, far tokens of both steps
    two terms    2 x_{l-1} - x_{l-lag}                                reads two tokens: the shortcut of most sums

All h of `refrope.posgen.make_rule` depend on two sums. Where h can be solved for the near one, x_{l-1} tells the near
sum of its own step, and that of step l is this plus x_{l-1} - x_{l-1-k}.

For h the sum, far tokens that both steps have in common cancel, or slide along with the near ones. From the second
generated token on, two tokens are left everywhere in recursive (lag j + k + 1) and cot (lag k + 1), and on every second
step of semirecursive (lag k + 1): x_l = 2 x_{l-1} - x_{l-lag}. On its other steps the far tokens of both steps remain,
for j = 1 four tokens in all: x_l = 2 x_{l-1} - x_{l-4} + x_p - x_{p-1}, p being the far token's place.

A Latin square leaves one token more, for j = 1 three: x_{l-1}, x_{l-4} and the far one, which both steps share in cot
and on every second step of semirecursive; in recursive x_{l-1}, x_{l-4}, x_{l-5}. A random table cannot be solved.

All functions answer for any tokens, also for those that break the rule: that is what they are for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from refrope.errors import check_integer
from refrope.posgen import LookupRule, Rule, contexts, generate, pair_lag, pairs, sum_rule
from refrope.randomness import BoolArray, IntArray

NONE = -1  # stands where there is no answer


def has_shortcut(task: str, length: int, j: int = 1, k: int = 3) -> BoolArray:
    """(length,) bool: whether the sum's x_l follows from two tokens, l = 0 .. length - 1."""
    step = np.arange(length) - (j + k)
    pair_lag(task, j, k)  # checks the names and sizes
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


def shortcut_answers(
    task: str, sequences: IntArray, rule: Rule = sum_rule, modulus: int = 17, j: int = 1, k: int = 3
) -> IntArray:
    """What h makes of the far sum and of the near sum that x_{l-1} tells: (n, T) -> (n, T) int64.

    `NONE` for the first j + k + 1 tokens, and everywhere for a rule that cannot be solved for the near sum.
    """
    answers = np.full(sequences.shape, NONE, np.int64)
    far = contexts(task, sequences, modulus, j, k)[..., :j].sum(axis=2) % modulus
    last, gone = sequences[:, j + k : -1], sequences[:, j : -1 - k]  # x_{l-1}, x_{l-1-k} for l = j + k + 1, ...
    if rule is sum_rule:
        near = last - far[:, :-1]  # at step l - 1
        answers[:, j + k + 1 :] = (far[:, 1:] + near + last - gone) % modulus
    elif isinstance(rule, LookupRule) and (np.sort(rule.table, axis=1) == np.arange(modulus)).all():
        near = np.argsort(rule.table, axis=1)[far[:, :-1], last]
        answers[:, j + k + 1 :] = rule.table[far[:, 1:], (near + last - gone) % modulus]
    return answers


def two_term_answers(task: str, sequences: IntArray, modulus: int = 17, j: int = 1, k: int = 3) -> IntArray:
    """2 x_{l-1} - x_{l-lag} mod m, right or not: (n, T) -> (n, T) int64, `NONE` for the first j + k + 1 tokens."""
    read = pairs(task, sequences, modulus, j, k)
    answers = np.full(sequences.shape, NONE, np.int64)
    answers[:, pair_lag(task, j, k) :] = (2 * read[..., 1] - read[..., 0]) % modulus
    answers[:, : j + k + 1] = NONE
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
