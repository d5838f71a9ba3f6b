"""Sequences on which rule and shortcut part, and whom a model follows there.

    errors (n, T) ──► x_l = h(far, near + errors_l) ──► model's answers ──► share that is the rule's, the shortcut's

The shortcut takes the near sum of the step before from its answer, error included. So errors decide which one breaks:

    true      0 everywhere        both right: nothing to tell, but how well the task is solved
    slips     one token in 16     the rule holds at every other step; the shortcut misses at the step after a slip
    shifted   c at every step     the rule misses at every step; the shortcut holds, and no token looks out of place

A model sees a slip as a token that nothing led it to expect, so its answers some steps later, when rule and shortcut
agree again, are counted too: what they lose is due to the unusual text alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refrope.errors import check_integer
from refrope.posgen import generate
from refrope.randomness import BoolArray, IntArray, bit_source, bounded_integers
from refrope.rules.shortcuts import NONE
from refrope.rules.subject import Subject

GAP = 16  # steps from one slip to the next
_LATER = 8  # steps after a slip from which on it counts as long past


def with_errors(subject: Subject, errors: IntArray) -> IntArray:
    """Continue the test prefixes by h of far tokens and of near ones, errors_l added to the last of these, mod m.

    (n, T) int64 -> (n, T) int64; errors within the prefix do nothing.
    """
    d = subject.dataset
    steps = iter(range(d.j + d.k, errors.shape[1]))

    def wrong(far: IntArray, near: IntArray, modulus: int) -> IntArray:
        changed = near.copy()
        changed[:, -1] = (near[:, -1] + errors[:, next(steps)]) % modulus
        return subject.rule(far, changed, modulus)

    prefixes = subject.prefixes[: len(errors)]
    return generate(d.task, prefixes, errors.shape[1], d.modulus, d.j, d.k, wrong)


def slips(subject: Subject, seed: int, gap: int = GAP) -> IntArray:
    """Errors (n, T) for `with_errors`: 1 .. m - 1 at every `gap`-th step, from a random one on, else 0."""
    d = subject.dataset
    gap = check_integer("slips", "gap", gap, 2)
    shape = len(d.test), d.test_length
    source = bit_source(seed, "posgen slips")
    first = d.j + d.k + bounded_integers(source, gap, shape[0])
    added = 1 + bounded_integers(source, d.modulus - 1, shape[0] * shape[1]).reshape(shape)
    since = np.arange(shape[1]) - first[:, None]
    return np.where((since >= 0) & (since % gap == 0), added, 0)


def shifts(subject: Subject, seed: int) -> IntArray:
    """Errors (n, T) for `with_errors`: one number of 1 .. m - 1 for each sequence, at every step."""
    d = subject.dataset
    added = 1 + bounded_integers(bit_source(seed, "posgen shifts"), d.modulus - 1, len(d.test))
    errors = np.repeat(added[:, None], d.test_length, axis=1)
    errors[:, : d.j + d.k] = 0
    return errors


def share(hits: BoolArray, among: BoolArray) -> float | None:
    """The share of `hits` among the places that count, None where there is none."""
    return float(hits[among].mean()) if among.any() else None


def follow(subject: Subject, seed: int, gap: int = GAP) -> list[dict[str, Any]]:
    """Whom the model follows on true, slipping and shifted sequences.

    Returns
    -------
    One dict for each kind of sequence, place and group of `Subject.steps` that has any: "sequences" ("true", "slips",
    "shifted"); "place" ("all", or with slips "after": the step after one, "later": at least eight steps after one,
    "before": before the first); "steps" and "where" of the group; "count"; "rule", "shortcut" and "two_terms", the
    shares of answers that are those of `refrope.rules.shortcuts`, right or not (the last two None at the first step and
    where there is none); "neither": those that are neither the rule's nor the shortcut's. An answer may count for
    several.
    """
    none = np.zeros(subject.dataset.test.shape, np.int64)
    rows = []
    for name, errors in (("true", none), ("slips", slips(subject, seed, gap)), ("shifted", shifts(subject, seed))):
        x = with_errors(subject, errors)
        answers, full, shortcut = subject.answers(x), subject.by_rule(x), subject.by_shortcut(x)
        two_terms = subject.by_two_terms(x)
        for place, counted in _places(name, errors).items():
            for group in subject.steps():
                among = counted & group.which
                if not among.any():
                    continue
                about = {"sequences": name, "place": place, "steps": group.kind, "where": group.where}
                said = {"rule": full, "shortcut": shortcut, "two_terms": two_terms}
                shares = {who: _share_of(answers, by, among) for who, by in said.items()}
                neither = share((answers != full) & (answers != shortcut), among)
                rows.append(about | {"count": int(among.sum())} | shares | {"neither": neither})
    return rows


def _share_of(answers: IntArray, by: IntArray, among: BoolArray) -> float | None:
    """The share of `answers` that are those of `by`, None where that has none."""
    return None if (by[among] == NONE).any() else share(answers == by, among)


def _places(name: str, errors: IntArray) -> dict[str, BoolArray]:
    """Which steps (n, T) are counted, by name."""
    if name != "slips":
        return {"all": np.ones(errors.shape, bool)}
    index = np.arange(errors.shape[1])
    last = np.maximum.accumulate(np.where(errors > 0, index, -1), axis=1)
    since = np.where(last >= 0, index - last, -1)
    return {"before": since < 0, "after": since == 1, "later": since >= _LATER}
