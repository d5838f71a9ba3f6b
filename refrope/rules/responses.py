"""What a model adds up: one token of its text is changed, and its answer moves by a multiple of the change.

    x, x with x_i + delta ──► answers at l > i ──► (answer' - answer) / delta mod m: the coefficient of x_i

The sum's full rule has coefficient 1 at distances l - i = 1 .. k and at the far token, its shortcut 2 at distance 1
and -1 at the lag; tokens that are not read have 0. Nothing is assumed about the model: a coefficient that most answers
agree on is what it does with that token, all layers and heads together, by intervention and not by looking at weights.

A changed token breaks the rule at its own step and, for those that read it, at later ones, so a model sees text unlike
that of training. Only answers that were right before the change are counted.
"""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import numpy as np

from refrope.posgen import far_start
from refrope.randomness import BoolArray, IntArray, bit_source, bounded_integers
from refrope.rules.probes import share
from refrope.rules.subject import Subject

FAR, BEFORE_FAR = "far", "before far"  # in the place of a distance


class Change(NamedTuple):
    """The test sequences, in each of which one token is changed.

    Attributes
    ----------
    place : (n,) int64
        Which token, i.
    delta : (n,) int64 that have an inverse mod m
        What is added to it.
    """

    place: IntArray
    delta: IntArray


def changes(subject: Subject, seed: int, *, far: bool) -> Change:
    """Tokens to change, drawn so that as many have an effect within the training length as beyond it.

    Half of the sequences have a token changed before the training length, half after. With `far` it is one that some
    step reads as its first far token (in cot always x_0).
    """
    d = subject.dataset
    number = len(d.test)
    source = bit_source(seed, f"posgen changes{' far' if far else ''}")
    units = np.array([a for a in range(1, d.modulus) if gcd(a, d.modulus) == 1])
    delta = units[bounded_integers(source, len(units), number)]
    pools = []
    for low, high in ((d.j + d.k, d.train_length), (d.train_length, d.test_length)):
        steps = range(low, high)
        places = {far_start(d.task, step, d.j, d.k) for step in steps} if far else set(steps[:-1])
        pools.append(np.array(sorted(places)))
    half = (number + 1) // 2
    drawn = [pool[bounded_integers(source, len(pool), n)] for pool, n in zip(pools, (half, number - half), strict=True)]
    return Change(np.concatenate(drawn), delta)


def responses(subject: Subject, seed: int) -> list[dict[str, Any]]:
    """How the model's answers follow changed tokens.

    Returns
    -------
    One dict for each distance l - i of 1 .. j + k + 2 and, where the far token is further off, for "far", the first far
    token, and "before far", the token before that; and for each group of `Subject.steps` with answers that were right
    before the change. "distance", "steps", "where", "count"; "rule", "shortcut", "unchanged": the shares of answers
    after the change that are the full rule's, the shortcut's, and the same as before; and, for the sum,
    "rule_coefficient" and "shortcut_coefficient", what these two have, "coefficient", the most frequent one of the
    model, all in 0 .. m - 1, and its "share".
    """
    near = respond(subject, changes(subject, seed, far=False))
    far = respond(subject, changes(subject, seed, far=True))
    return [row for row in near if row["distance"] not in (FAR, BEFORE_FAR)] + [
        row for row in far if row["distance"] in (FAR, BEFORE_FAR)
    ]


def respond(subject: Subject, change: Change) -> list[dict[str, Any]]:
    """The rows of `responses` for one change of every test sequence."""
    d = subject.dataset
    x = d.test
    changed = x.copy()
    rows = np.arange(len(x))
    changed[rows, change.place] = (x[rows, change.place] + change.delta) % d.modulus
    before, after = subject.answers(x), subject.answers(changed)
    full, shortcut = subject.by_rule(changed), subject.by_shortcut(changed)
    coefficients = {
        name: (answers - of) * _inverses(change.delta, d.modulus)[:, None] % d.modulus
        for name, answers, of in (("", after, before), ("rule", full, x), ("shortcut", shortcut, x))
    }
    right, linear = before == x, getattr(subject.rule, "__name__", "") == "sum_rule"
    found = []
    for distance, at in _distances(subject, change.place).items():
        for group in subject.steps():
            among = at & group.which & right
            if group.kind == "first" or not among.any():
                continue
            row: dict[str, Any] = {
                "distance": distance,
                "steps": group.kind,
                "where": group.where,
                "count": int(among.sum()),
            }
            row |= {"rule": share(after == full, among), "shortcut": share(after == shortcut, among)}
            row |= {"unchanged": share(after == before, among)}
            if linear:
                own = coefficients[""][among]
                top = int(np.bincount(own, minlength=d.modulus).argmax())
                row |= {"coefficient": top, "share": float((own == top).mean())}
                for name in ("rule", "shortcut"):
                    row[f"{name}_coefficient"] = _only(coefficients[name][among])
            found.append(row)
    return found


def _inverses(delta: IntArray, modulus: int) -> IntArray:
    return np.array([pow(int(a), -1, modulus) for a in delta], np.int64)


def _only(values: IntArray) -> int | None:
    """The value that all have, None if they differ (distances at which some steps read a far token)."""
    return int(values[0]) if (values == values[0]).all() else None


def _distances(subject: Subject, index: IntArray) -> dict[int | str, BoolArray]:
    """For each distance, and for far tokens beyond these, at which steps (n, T) the changed token stands there."""
    d = subject.dataset
    away = np.arange(d.test_length) - index[:, None]
    last = d.j + d.k + 2
    starts = np.full(d.test_length, -1)
    starts[d.j + d.k :] = [far_start(d.task, step, d.j, d.k) for step in range(d.j + d.k, d.test_length)]
    near: dict[int | str, BoolArray] = {distance: away == distance for distance in range(1, last + 1)}
    return near | {
        FAR: (starts == index[:, None]) & (away > last),
        BEFORE_FAR: (starts - 1 == index[:, None]) & (away > last),
    }
