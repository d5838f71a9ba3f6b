"""Rule against memory: a stand-in that looks contexts up is found out by those that training never had."""

import numpy as np
import pytest
from rules_standins import SIZES, dataset, rule_follower, subject

from refrope.posgen import TASKS, far_start
from refrope.rules.memory import CONTEXTS, by_context, by_table, kinds_of_contexts

RECIPES = {"rule": "held-out", "pair": "held-out-pairs"}


def read(task, of, row, step):
    """The context of one step, in plain Python, None where there is none."""
    lag = 5 if task == "recursive" else 4
    if step < (4 if of == "rule" else lag):
        return None
    places = [far_start(task, step), step - 3, step - 2, step - 1] if of == "rule" else [step - lag, step - 1]
    return tuple(int(row[place]) for place in places)


def learned(task, of, recipe):
    """The last answer to each context in training; for the sum's rule the only one."""
    found = {}
    for row in dataset(task, recipe=recipe).train:
        for step in range(4, len(row)):
            context = read(task, of, row, step)
            if context is not None:
                found.setdefault(context, []).append(int(row[step]))
    return found


def memoriser(task, of, recipe):
    """One that knows the commonest answers to the contexts of training by heart, and no others."""
    known = {context: int(np.bincount(answers).argmax()) for context, answers in learned(task, of, recipe).items()}

    def look_up(x):
        answers = np.full(x.shape, 17)
        for row, step in np.ndindex(x.shape):
            answers[row, step] = known.get(read(task, of, x[row], step), 17)
        return answers

    return subject(task, look_up, recipe=recipe)


@pytest.mark.parametrize("task", TASKS)
def test_memory_of_the_rules_contexts_and_the_rule_are_told_apart(task):
    for row in by_context(memoriser(task, "rule", "held-out")):
        if row["of"] == "rule":
            assert row["accuracy"] == (1 if row["context"] == "seen" else 0), row
    for row in by_context(rule_follower(task, recipe="held-out")):
        assert row["accuracy"] == 1


@pytest.mark.parametrize("task", TASKS)
def test_memory_of_pairs_passes_held_out_contexts_and_not_held_out_pairs(task):
    for recipe, held_out in (("held-out", "rule"), ("held-out-pairs", "pair")):
        rows = [row for row in by_context(memoriser(task, "pair", recipe)) if row["steps"] == "two tokens"]
        assert {row["of"] for row in rows if row["context"] == "held out"} == {held_out}
        for row in rows:
            if row["of"] == "pair":
                assert row["accuracy"] == (1 if row["context"] == "seen" else 0), row
            elif recipe == "held-out":  # whose 400 sequences have all 289 pairs, and not all 83,521 contexts
                assert row["accuracy"] == 1


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("of", CONTEXTS)
def test_every_step_has_one_kind_of_context(task, of):
    asked = rule_follower(task, recipe=RECIPES[of])
    kinds = kinds_of_contexts(asked, of)
    held_out = {tuple(row) for row in asked.dataset.held_out.tolist()}
    seen = set(learned(task, of, RECIPES[of]))
    for (row, step), _ in np.ndenumerate(asked.dataset.test):
        context = read(task, of, asked.dataset.test[row], step) if step >= 4 else None
        found = [name for name, where in kinds.items() if where[row, step]]
        if context is None:
            assert found == []
        else:
            assert found == ["held out" if context in held_out else "seen" if context in seen else "unseen"]
    counts = dict.fromkeys(kinds, 0)
    for row in by_context(asked):
        if row["of"] == of:
            counts[row["context"]] += row["count"]
    assert counts == {name: where.sum() for name, where in kinds.items()}


def test_without_held_out_contexts_there_are_none():
    assert {row["context"] for row in by_context(rule_follower("cot"))} == {"seen", "unseen"}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("of", CONTEXTS)
def test_a_table_scores_what_looking_up_scores_and_only_a_memoriser_agrees_with_it(task, of):
    asked = memoriser(task, of, "disjoint")
    x = asked.dataset.test
    answers = asked.answers(x)
    for row in by_table(asked):
        if row["of"] != of:
            continue
        steps = next(g.which for g in asked.steps() if (g.kind, g.where) == (row["steps"], row["where"]))
        assert row["count"] == SIZES["test"] * steps.sum()
        known = answers[:, steps] < 17
        assert row["agreement"] == known.mean()
        assert row["accuracy"] == (answers == x)[:, steps].mean()
    assert ("first" in {row["steps"] for row in by_table(asked) if row["of"] == "pair"}) == (task != "recursive")
    noise = np.full((SIZES["test"], SIZES["test_length"]), 17)
    assert all(row["agreement"] == 0 for row in by_table(subject(task, lambda x: noise[: len(x)])))


def test_pairs_solve_every_step_that_has_a_shortcut():
    for task in TASKS:
        for row in by_table(rule_follower(task)):
            if (row["of"], row["steps"]) == ("pair", "two tokens"):
                assert row["accuracy"] > 0.99  # in cot the first generated token spoils a vote now and then
                assert row["agreement"] == row["accuracy"]
