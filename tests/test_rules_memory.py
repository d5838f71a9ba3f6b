"""Rule against memory: a stand-in that looks contexts up is found out by those that training never had."""

import numpy as np
import pytest
from rules_standins import SIZES, dataset, rule_follower, subject

from refrope.posgen import TASKS, contexts, far_start, generate
from refrope.rules.memory import by_context, kinds_of_contexts


def memoriser(task):
    """One that knows the answers to the contexts of training by heart, and no others."""
    data = dataset(task, recipe="held-out")
    known = {
        tuple(read): answer
        for row, answers in zip(contexts(task, data.train).tolist(), data.train[:, 4:].tolist(), strict=True)
        for read, answer in zip(row, answers, strict=True)
    }

    def look_up(x):
        answers = np.full(x.shape, -1)
        for row, index in np.ndindex(x.shape):
            if index >= 4:
                read = (x[row, far_start(task, index)], *x[row, index - 3 : index])
                answers[row, index] = known.get(tuple(map(int, read)), 17)
        return answers

    return subject(task, look_up, recipe="held-out")


@pytest.mark.parametrize("task", TASKS)
def test_memory_and_rule_are_told_apart(task):
    for row in by_context(memoriser(task)):
        assert row["accuracy"] == (1 if row["context"] == "seen" else 0), row
    for row in by_context(rule_follower(task, recipe="held-out")):
        assert row["accuracy"] == 1


@pytest.mark.parametrize("task", TASKS)
def test_every_step_has_one_kind_of_context(task):
    asked = rule_follower(task, recipe="held-out")
    kinds = kinds_of_contexts(asked)
    assert list(kinds) == ["seen", "held out", "unseen"]
    total = sum(kinds.values())
    assert (total[:, :4] == 0).all()
    assert (total[:, 4:] == 1).all()
    held_out = {tuple(row) for row in asked.dataset.held_out.tolist()}
    read = contexts(task, asked.dataset.test)
    for row, step in np.ndindex(read.shape[:2]):
        assert kinds["held out"][row, step + 4] == (tuple(read[row, step].tolist()) in held_out)
    counts = {}
    for row in by_context(asked):
        counts[row["context"]] = counts.get(row["context"], 0) + row["count"]
    assert counts == {name: where.sum() for name, where in kinds.items()}


def test_without_held_out_contexts_there_are_none():
    rows = by_context(rule_follower("cot"))
    assert {row["context"] for row in rows} == {"seen", "unseen"}


@pytest.mark.parametrize("task", TASKS)
def test_pairs_of_the_shortcut_count_as_seen_where_training_had_them(task):
    few = {"train": 9, "train_length": 11, "test_length": 40}  # too short to have all 289 pairs
    asked = rule_follower(task, recipe="held-out", **few)
    lag = 5 if task == "recursive" else 4
    has = [step for step in range(5, 40) if task != "semirecursive" or step % 2]
    x = asked.dataset.train.tolist()
    known = {(row[step - lag], row[step - 1]) for row in x for step in has if step < 11}
    assert len(known) < 60
    test = generate(task, asked.prefixes, 40)
    right = np.array([[(row[step - lag], row[step - 1]) in known for step in has] for row in test.tolist()])
    rows = [row for row in by_context(asked) if row["steps"] == "two tokens"]
    counted = sum(row["count"] for row in rows)
    assert counted == right.size == SIZES["test"] * len(has)
    assert sum(row["count"] * row["pairs_seen"] for row in rows) == pytest.approx(right.sum())
    assert all(row["pairs_seen"] is None for row in by_context(asked) if row["steps"] != "two tokens")
