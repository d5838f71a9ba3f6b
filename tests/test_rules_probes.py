"""Whom a model follows: stand-ins that follow one rule exactly are told apart, and all places are counted."""

import numpy as np
import pytest
from rules_standins import SIZES, rule_follower, shortcut_follower, subject

from refrope.posgen import TASKS
from refrope.rules import probes
from refrope.rules.probes import follow, shifts, slips, with_errors
from refrope.rules.shortcuts import NONE, two_term_answers

FROM, BEYOND = SIZES["train_length"], SIZES["test_length"]
RULES = ["sum", "latin"]
# An answer that knows nothing is right one time in 17; five standard deviations of the smallest group, 100 answers.
CHANCE, CHANCE_ERROR = 1 / 17, 5 * (1 / 17 * 16 / 17 / 100) ** 0.5


def rows_of(rows, **wanted):
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    assert found
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("front_token", [True, False])
def test_rule_and_shortcut_are_told_apart_without_an_exception(task, rule, front_token):
    full = follow(rule_follower(task, rule, front_token=front_token), seed=5)
    short = follow(shortcut_follower(task, rule, front_token=front_token), seed=5)
    for rows, name, other in ((full, "rule", "shortcut"), (short, "shortcut", "rule")):
        for row in rows:
            if row["steps"] == "first":
                continue
            assert row[name] == 1
            assert row["neither"] == 0
            told = (row["sequences"], row["place"]) in (("slips", "after"), ("shifted", "all"))
            assert row[other] == (0 if told else 1), row


@pytest.mark.parametrize("task", TASKS)
def test_two_terms_are_counted_where_they_are_wrong_too(task):
    rows = follow(subject(task, lambda x: two_term_answers(task, x)), seed=5)
    for row in rows:
        if row["steps"] != "first":
            assert row["two_terms"] == 1
    for row in follow(shortcut_follower(task), seed=5):
        if row["steps"] == "two tokens":
            assert row["two_terms"] == 1
        elif row["steps"] == "far token too" and row["count"] >= 100:
            assert abs(row["two_terms"] - CHANCE) < CHANCE_ERROR


def test_a_random_table_has_no_shortcut_to_follow():
    for row in follow(rule_follower("cot", "table"), seed=5):
        assert row["shortcut"] is None
        assert row["rule"] == 1
        assert row["neither"] == 0


@pytest.mark.parametrize("task", TASKS)
def test_the_first_step_has_no_shortcut(task):
    first = rows_of(follow(shortcut_follower(task), seed=5), steps="first", sequences="true")
    assert [row["where"] for row in first] == ["within"]
    assert first[0]["shortcut"] is first[0]["two_terms"] is None
    assert first[0]["rule"] < 0.2
    assert rows_of(follow(rule_follower(task), seed=5), steps="first", sequences="true")[0]["rule"] == 1


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_knows_nothing_follows_either_by_chance(task):
    noise = np.random.default_rng(1).integers(0, 17, (SIZES["test"], BEYOND))
    for row in follow(subject(task, lambda x: noise[: len(x)]), seed=5):
        if row["count"] >= 100:
            assert abs(row["rule"] - CHANCE) < CHANCE_ERROR, row
            if row["shortcut"] is not None:
                assert abs(row["shortcut"] - CHANCE) < CHANCE_ERROR, row


def test_groups_of_steps_are_those_of_the_task():
    counts = {}
    for task in TASKS:
        rows = rows_of(follow(rule_follower(task), seed=5), sequences="true")
        counts[task] = {(row["steps"], row["where"]): row["count"] / SIZES["test"] for row in rows}
    for task in ("recursive", "cot"):
        assert counts[task] == {("first", "within"): 1, ("two tokens", "within"): 32, ("two tokens", "beyond"): 46}
    assert counts["semirecursive"] == {
        **{("first", "within"): 1, ("two tokens", "within"): 16, ("two tokens", "beyond"): 23},
        **{("far token too", "within"): 16, ("far token too", "beyond"): 23},
    }


@pytest.mark.parametrize("task", TASKS)
def test_slips_break_the_rule_at_single_steps_and_shifts_at_all(task):
    asked = rule_follower(task)
    for errors in (slips(asked, 5, gap=7), shifts(asked, 5)):
        x = with_errors(asked, errors)
        assert np.array_equal(x[:, :4], asked.prefixes)
        assert not errors[:, :4].any()
        assert ((errors >= 0) & (errors < 17)).all()
        assert np.array_equal((x - asked.by_rule(x))[:, 4:] % 17, errors[:, 4:])
        square = rule_follower(task, "latin")
        x = with_errors(square, errors)
        assert np.array_equal((x != square.by_rule(x))[:, 4:], errors[:, 4:] > 0)
    places = slips(asked, 5, gap=7) > 0
    assert set(np.flatnonzero(places.any(axis=0)).tolist()) == set(range(4, BEYOND))  # from 4 .. 10 on, every seventh
    assert (places[:, 4:].cumsum(axis=1)[:, 6] == 1).all()
    for row in places:
        assert set(np.diff(np.flatnonzero(row)).tolist()) == {7}
    added = shifts(asked, 5)[:, 4:]
    assert (added == added[:, :1]).all()
    assert set(added[:, 0].tolist()) == set(range(1, 17))


def test_all_steps_but_the_slips_and_those_soon_after_are_counted_once():
    asked = rule_follower("cot")
    errors = slips(asked, 5)
    counted = sum(places.astype(int) for places in probes._places("slips", errors).values())
    assert counted.max() == 1
    since = np.full(errors.shape, BEYOND)
    for row, step in np.ndindex(errors.shape):
        before = np.flatnonzero(errors[row, : step + 1])
        since[row, step] = step - before[-1] if len(before) else -1
    assert np.array_equal(counted == 1, (since == -1) | (since == 1) | (since >= 8))


def test_one_slip_at_a_time_tells_the_same():
    rare = follow(shortcut_follower("cot"), seed=5, gap=60)
    for row in rows_of(rare, sequences="slips", place="after"):
        assert (row["rule"], row["shortcut"]) == (0, 1)


def test_probes_depend_on_the_seed_and_on_nothing_else():
    asked = rule_follower("cot")
    for make in (slips, shifts):
        assert np.array_equal(make(asked, 5), make(asked, 5))
        assert not np.array_equal(make(asked, 5), make(asked, 6))
    with pytest.raises(ValueError, match="slips: gap is 1, expected an integer >= 2"):
        slips(asked, 5, gap=1)


def test_answers_within_the_prefix_are_none():
    answers = rule_follower("cot").answers(rule_follower("cot").dataset.test)
    assert (answers[:, :4] == NONE).all()
    assert (answers[:, 4:] >= 0).all()
