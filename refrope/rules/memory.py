"""Rule against memory: are contexts answered that no training step had?

A context is what the full rule reads at a step. In data of recipe "held-out" of `refrope.posgen.make_splits` some of
them never occur in training, and others by chance or in consequence. A model that answers all of them alike has not
learned answers context by context. That leaves smaller tables, above all that of the shortcut's two tokens, which has
only m**2 entries: the share of test steps whose two tokens occurred side by side in training is counted too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refrope.held_out import context_codes
from refrope.posgen import contexts
from refrope.randomness import BoolArray, IntArray
from refrope.rules.probes import share
from refrope.rules.shortcuts import has_shortcut, shortcut_lag
from refrope.rules.subject import Subject


def kinds_of_contexts(subject: Subject) -> dict[str, BoolArray]:
    """For the test's tokens (n, T), whether the context of each is "seen" in training, "held out", or else "unseen"."""
    d = subject.dataset
    trained, tested = (context_codes(contexts(d.task, x, d.modulus, d.j, d.k), d.modulus) for x in (d.train, d.test))
    seen, held_out = np.isin(tested, trained), np.isin(tested, context_codes(d.held_out, d.modulus))
    kinds = {"seen": seen, "held out": held_out, "unseen": ~seen & ~held_out}
    prefix = ((0, 0), (d.j + d.k, 0))
    return {name: np.pad(where, prefix) for name, where in kinds.items()}


def by_context(subject: Subject) -> list[dict[str, Any]]:
    """Accuracy on true test sequences, apart for contexts seen in training and not.

    Returns
    -------
    One dict for each kind of context and group of `Subject.steps` that occur: "context", "steps", "where", "count",
    "accuracy"; and "pairs_seen", the share of these steps whose shortcut pair occurred in training (None where there is
    no shortcut).
    """
    x = subject.dataset.test
    right = subject.answers(x) == x
    known = _pairs_seen(subject)
    return [
        {
            **{"context": kind, "steps": group.kind, "where": group.where, "count": int(among.sum())},
            "accuracy": share(right, among),
            "pairs_seen": share(known, among) if group.kind == "two tokens" else None,
        }
        for kind, places in kinds_of_contexts(subject).items()
        for group in subject.steps()
        if (among := places & group.which).any()
    ]


def _pairs_seen(subject: Subject) -> BoolArray:
    """For the test's tokens (n, T), whether x_{l-lag} and x_{l-1} stood so before a training step with a shortcut."""
    d = subject.dataset
    lag = shortcut_lag(d.task, d.j, d.k)

    def pairs(x: IntArray) -> IntArray:
        return np.asarray(x[:, :-lag] * d.modulus + x[:, lag - 1 : -1])

    trained = pairs(d.train)[:, has_shortcut(d.task, d.train_length, d.j, d.k)[lag:]]
    return np.pad(np.isin(pairs(d.test), trained), ((0, 0), (lag, 0)))
