"""Models that follow a known rule exactly, in the place of trained ones, for the tests of `refrope.rules`."""

from functools import cache

import numpy as np

from refrope.posgen import make_rule, make_splits
from refrope.rules.shortcuts import full_answers, shortcut_answers
from refrope.rules.subject import Subject

SIZES = {"train": 400, "validation": 5, "test": 211, "train_length": 37, "test_length": 83}


class StandIn:
    """Answers ``answer(tokens)`` (n, T) -> (n, T), of which entry l may look at tokens before l alone."""

    dtype = np.dtype(np.float32)

    def __init__(self, answer, front_token=True):
        self.answer, self.front = answer, front_token

    def replicas(self, count):
        return [self] * count

    def forward(self, inputs, tables, *, positions=None):
        """Logits of the answers, which an unknown last token follows."""
        tokens = np.pad(inputs[:, int(self.front) :], ((0, 0), (0, 1)))
        answers = self.answer(tokens)[:, 0 if self.front else 1 :]
        return np.eye(18, dtype=np.float32)[np.maximum(answers, 0)]


rule_of = cache(make_rule)


@cache
def dataset(task, rule="sum", recipe="disjoint", **sizes):
    """A small one, of 17 tokens."""
    return make_splits(task, seed=3, rule=rule_of(rule), recipe=recipe, **(SIZES | sizes))


def subject(task, answer, rule="sum", *, front_token=True, recipe="disjoint", **sizes):
    """A stand-in that is asked about a small dataset."""
    model = StandIn(answer, front_token)
    return Subject(model, None, dataset(task, rule, recipe, **sizes), rule_of(rule), front_token=front_token)


def rule_follower(task, rule="sum", **options):
    """One that answers the full rule."""
    return subject(task, lambda x: full_answers(task, x, rule_of(rule)), rule, **options)


def shortcut_follower(task, rule="sum", **options):
    """One that answers the shortcut, and 0 where there is none yet."""
    return subject(task, lambda x: shortcut_answers(task, x, rule_of(rule)), rule, **options)
