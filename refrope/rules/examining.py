"""All that is asked of one trained model, and of the tasks themselves, as JSON holds it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from refrope.posgen import RULES, TASKS, make_rule, make_splits
from refrope.rules.attention import attention
from refrope.rules.cycles import cycles
from refrope.rules.memory import by_context, by_table
from refrope.rules.probes import follow
from refrope.rules.responses import responses
from refrope.rules.shortcuts import has_shortcut, two_term_rules
from refrope.rules.subject import Subject

_LOOKED_AT = 64  # sequences whose attention is averaged: thousands of queries a head
_DRAWN = {"table": 20, "latin": 4}  # seeds of random rules: much depends on the table, little on the square


def examine(subject: Subject, seed: int, sequences: int | None = None) -> dict[str, Any]:
    """Whom a model follows, what its answers add up, what it knows of unseen contexts, where its heads look.

    Parameters
    ----------
    subject : Subject
    seed : int
        Of slips, shifts and changed tokens.
    sequences : int, optional
        How many of the test sequences are used; all if None.

    Returns
    -------
    "following", "responses", "contexts", "tables", "attention": lists of dicts, as the functions of those modules say
    """
    asked = replace(subject, dataset=replace(subject.dataset, test=subject.dataset.test[:sequences]))
    return {
        "following": follow(asked, seed),
        "responses": responses(asked, seed),
        "contexts": by_context(asked),
        "tables": by_table(asked),
        "attention": [
            {
                **{"layer": each.layer, "head": each.head, "where": each.where, "shares": each.shares},
                "by_distance": [None if math.isnan(weight) else weight for weight in each.by_distance.tolist()],
            }
            for each in attention(asked, asked.dataset.test[:_LOOKED_AT])
        ],
    }


def examine_tasks(seed: int, train_length: int = 64, test_length: int = 256, sequences: int = 1_000) -> dict[str, Any]:
    """What follows from the tasks alone: rules of two tokens, sequences that repeat.

    Returns
    -------
    "lengths": both; "two_term_rules": for each task and kind of steps, the `TwoTermRule`s of the sum within
    `train_length` - 1 tokens; "cycles": dicts with "task", "rule", "cycles" (`refrope.rules.cycles.cycles`), of the
    rules that `refrope.posgen.make_rule` makes; "random_rules": for `_DRAWN` seeds of each random rule, the shares of
    sequences in a cycle before `train_length`.
    """
    prefixes = make_splits("cot", seed=seed, train=sequences, validation=0, test=0, train_length=4).train
    lengths = train_length, test_length
    few, random_rules = prefixes[: sequences // 4], []
    for name, number in _DRAWN.items():
        made = [make_rule(name, 17, drawn) for drawn in range(number)]
        for task in ("recursive", "cot"):
            found = [cycles(task, few, lengths, rule)["repeating"][str(train_length)] for rule in made]
            random_rules.append({"rule": name, "task": task, "repeating": found, "mean": float(np.mean(found))})
    return {
        "lengths": list(lengths),
        "two_term_rules": _two_term_rules(train_length),
        "cycles": [
            {"rule": rule, "task": task, "cycles": cycles(task, prefixes, lengths, made)}
            for rule in RULES
            for made in [make_rule(rule)]
            for task in TASKS
        ],
        "random_rules": random_rules,
    }


def _two_term_rules(length: int) -> list[dict[str, Any]]:
    found = []
    for task in TASKS:
        steps = np.arange(length - 1, 2 * length)
        shortcut = has_shortcut(task, 2 * length)[steps]
        for kind, chosen in (("two tokens", steps[shortcut]), ("far token too", steps[~shortcut])):
            if chosen.size:
                rules = two_term_rules(task, chosen.tolist(), length - 1)
                found.append({"task": task, "steps": kind, "rules": [rule._asdict() for rule in rules]})
    return found
