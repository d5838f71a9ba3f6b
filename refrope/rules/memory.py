"""Rule against memory: are contexts answered that no training step had, and what would a table of contexts score?

A context is what is read at a step: "rule", the j + k tokens of the full rule; "pair", the two tokens that decide the
sum at most steps. In data of recipe "held-out" some contexts of the rule never occur in training, in "held-out-pairs"
some pairs. A model that answers those as well as others does not look up that context. To know a rule it must pass for
pairs too, of which there are only m**2: a table of them, learned by heart, solves most steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refrope import posgen
from refrope.held_out import context_codes
from refrope.randomness import BoolArray, IntArray
from refrope.rules.probes import share
from refrope.rules.subject import Subject

CONTEXTS = ("rule", "pair")
_RECIPES = {"rule": "held-out", "pair": "held-out-pairs"}
_NONE = -1


def _codes(subject: Subject, of: str, sequences: IntArray) -> IntArray:
    """The number of each step's context, (n, T) int64; `_NONE` within the prefix and where there is no pair yet."""
    d = subject.dataset
    read = posgen.contexts if of == "rule" else posgen.pairs
    found = context_codes(read(d.task, sequences, d.modulus, d.j, d.k), d.modulus)
    codes = np.full(sequences.shape, _NONE, np.int64)
    codes[:, sequences.shape[1] - found.shape[1] :] = found
    codes[:, : d.j + d.k] = _NONE
    return codes


def kinds_of_contexts(subject: Subject, of: str) -> dict[str, BoolArray]:
    """For the test's tokens (n, T), whether the context of each is "seen" in training, "held out", or else "unseen".

    `of` is one of `CONTEXTS`. Tokens without a context are none of these.
    """
    d = subject.dataset
    trained, tested = _codes(subject, of, d.train), _codes(subject, of, d.test)
    held_out = np.zeros(tested.shape, bool)
    if d.recipe == _RECIPES[of]:
        held_out = np.isin(tested, context_codes(d.held_out, d.modulus))
    seen = np.isin(tested, trained) & (tested != _NONE)
    return {"seen": seen, "held out": held_out, "unseen": ~seen & ~held_out & (tested != _NONE)}


def by_context(subject: Subject) -> list[dict[str, Any]]:
    """Accuracy on true test sequences, apart for contexts seen in training and not.

    Returns
    -------
    One dict for each of `CONTEXTS`, kind of context and group of `Subject.steps` that occur: "of", "context", "steps",
    "where", "count", "accuracy".
    """
    x = subject.dataset.test
    right = subject.answers(x) == x
    return [
        {
            **{"of": of, "context": kind, "steps": group.kind, "where": group.where},
            **{"count": int(among.sum()), "accuracy": share(right, among)},
        }
        for of in CONTEXTS
        for kind, places in kinds_of_contexts(subject, of).items()
        for group in subject.steps()
        if (among := places & group.which).any()
    ]


def by_table(subject: Subject) -> list[dict[str, Any]]:
    """What a table of contexts scores that holds the commonest next token of each in training, and who agrees with it.

    Returns
    -------
    One dict for each of `CONTEXTS` and group of `Subject.steps` with any: "of", "steps", "where", "count"; "accuracy",
    the table's, which has no answer to what it has not seen; "agreement", the share of the model's answers that it has.
    """
    d = subject.dataset
    answers = subject.answers(d.test)
    rows = []
    for of in CONTEXTS:
        table = _table_answers(subject, of)
        has_context = (_codes(subject, of, d.test) != _NONE).any(axis=0)
        for group in subject.steps():
            among = np.broadcast_to(group.which & has_context, table.shape)
            if not among.any():
                continue
            rows.append(
                {
                    **{"of": of, "steps": group.kind, "where": group.where, "count": int(among.sum())},
                    **{"accuracy": share(table == d.test, among), "agreement": share(table == answers, among)},
                }
            )
    return rows


def _table_answers(subject: Subject, of: str) -> IntArray:
    """For each token of the test, the commonest token after its context in training, (n, T); `_NONE` for none."""
    d = subject.dataset
    trained, tested = _codes(subject, of, d.train), _codes(subject, of, d.test)
    size = d.j + d.k if of == "rule" else 2
    known = trained != _NONE
    counts = np.bincount(trained[known] * d.modulus + d.train[known], minlength=d.modulus ** (size + 1))
    counts = counts.reshape(-1, d.modulus)
    best = np.where(counts.any(axis=1), counts.argmax(axis=1), _NONE)
    return np.where(tested == _NONE, _NONE, best[tested])
