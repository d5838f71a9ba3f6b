"""What two tokens decide: the shortcuts hold exactly where they are said to, and nowhere else."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrope.posgen import TASKS, far_start, generate, make_rule
from refrope.rules.shortcuts import (
    NONE,
    TwoTermRule,
    full_answers,
    has_shortcut,
    shortcut_answers,
    two_term_answers,
    two_term_rules,
)

latin = cache(lambda modulus: make_rule("latin", modulus, 1))
sizes = {"modulus": st.integers(2, 23), "j": st.integers(1, 3), "k": st.integers(1, 4), "seed": st.integers(0, 999)}


def random_tokens(shape, modulus, seed):
    return np.random.default_rng(seed).integers(0, modulus, shape)


@pytest.mark.parametrize("task", TASKS)
@given(**sizes)
def test_on_true_sequences_all_answers_are_the_next_token(task, modulus, j, k, seed):
    x = generate(task, random_tokens((5, j + k), modulus, seed), 41, modulus, j, k)
    full = full_answers(task, x, modulus=modulus, j=j, k=k)
    shortcut = shortcut_answers(task, x, modulus=modulus, j=j, k=k)
    two_terms = two_term_answers(task, x, modulus, j, k)
    two = has_shortcut(task, 41, j, k)
    assert np.array_equal(full[:, j + k :], x[:, j + k :])
    assert np.array_equal(shortcut[:, j + k + 1 :], x[:, j + k + 1 :])
    assert np.array_equal(two_terms[:, two], x[:, two])
    assert two.sum() == (41 - (j + k)) // 2 if task == "semirecursive" else 41 - (j + k) - 1
    for answers, first in ((full, j + k), (shortcut, j + k + 1), (two_terms, j + k + 1)):
        assert (answers[:, :first] == NONE).all()
        assert (answers[:, first:] >= 0).all()


@pytest.mark.parametrize("task", TASKS)
@given(**sizes)
def test_for_the_sum_of_any_tokens_the_shortcut_is_that_of_two_terms(task, modulus, j, k, seed):
    x = random_tokens((5, 31), modulus, seed)
    two = has_shortcut(task, 31, j, k)
    shortcut = shortcut_answers(task, x, modulus=modulus, j=j, k=k)
    assert np.array_equal(two_term_answers(task, x, modulus, j, k)[:, two], shortcut[:, two])


@pytest.mark.parametrize("task", TASKS)
@given(
    **{name: numbers for name, numbers in sizes.items() if name != "modulus"},
    modulus=st.sampled_from([2, 3, 7]),
)
def test_a_latin_square_has_a_shortcut_too(task, modulus, j, k, seed):
    rule = latin(modulus)
    x = generate(task, random_tokens((5, j + k), modulus, seed), 41, modulus, j, k, rule)
    shortcut = shortcut_answers(task, x, rule, modulus, j, k)
    assert np.array_equal(shortcut[:, j + k + 1 :], x[:, j + k + 1 :])
    assert (shortcut[:, : j + k + 1] == NONE).all()


@pytest.mark.parametrize(("task", "reads"), [("recursive", {1, 4, 5}), ("cot", {1, 4}), ("semirecursive", {1, 4})])
def test_that_shortcut_reads_three_tokens_where_both_steps_have_the_far_one(task, reads):
    x = random_tokens((200, 40), 17, 8)
    before = shortcut_answers(task, x, latin(17))[:, 31]
    far = {"recursive": 31 - 5, "cot": 0, "semirecursive": 13}[task]
    moved = set()
    for place in range(31):
        changed = x.copy()
        changed[:, place] = (x[:, place] + 1) % 17
        if (shortcut_answers(task, changed, latin(17))[:, 31] != before).any():
            moved.add(place)
    assert moved == {31 - distance for distance in reads} | {far}
    assert len(moved) == 3


def test_a_random_table_cannot_be_solved_and_other_rules_are_not_known():
    x = random_tokens((5, 31), 17, 9)
    for rule in (make_rule("table"), lambda far, near, modulus: far[:, 0]):
        assert (shortcut_answers("cot", x, rule) == NONE).all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["sum", "table", "latin"])
def test_the_full_rule_answers_from_its_own_tokens_in_plain_python(task, name):
    x, rule = random_tokens((3, 29), 17, 5), make_rule(name)
    expected = np.full(x.shape, NONE)
    for row, index in np.ndindex(3, 29):
        if index >= 4:
            far, near = x[row, far_start(task, index)], x[row, index - 3 : index]
            expected[row, index] = rule(np.array([[far]]), near[None], 17)[0]
    assert np.array_equal(full_answers(task, x, rule), expected)


def test_semirecursive_leaves_four_tokens_on_even_steps():
    x = random_tokens((3, 40), 17, 6)
    answers = shortcut_answers("semirecursive", x)
    for index in range(6, 40, 2):
        p = (index - 4) // 2
        expected = 2 * x[:, index - 1] - x[:, index - 4] + x[:, p] - x[:, p - 1]
        assert np.array_equal(answers[:, index], expected % 17)


def test_two_tokens_are_enough_from_the_second_generated_one_on():
    assert np.flatnonzero(has_shortcut("cot", 9)).tolist() == [5, 6, 7, 8]
    assert np.flatnonzero(has_shortcut("semirecursive", 12)).tolist() == [5, 7, 9, 11]


# Within the 63 tokens before the last one of training, from a step on that has them all.
@pytest.mark.parametrize(
    ("task", "steps", "rules"),
    [
        ("recursive", range(63, 128), [(1, 2, 5, 16), (22, 3, 43, 1), (26, 4, 46, 10)]),
        ("cot", range(63, 128), [(1, 2, 4, 16), (11, 4, 21, 14), (22, 7, 27, 11), (24, 11, 30, 7)]),
        ("semirecursive", range(63, 128, 2), [(1, 2, 4, 16)]),
        ("semirecursive", range(64, 128, 2), []),
    ],
)
def test_no_other_rule_of_two_tokens_is_as_near_as_the_shortcut(task, steps, rules):
    found = two_term_rules(task, steps, 46 if task == "recursive" else 30)
    assert found == [TwoTermRule(*rule) for rule in rules]
    x = generate(task, random_tokens((50, 4), 17, 7), 128)
    for near, first, far, second in found:
        for index in steps:
            assert np.array_equal(x[:, index], (first * x[:, index - near] + second * x[:, index - far]) % 17)


@pytest.mark.parametrize("task", TASKS)
def test_a_two_term_rule_is_found_for_other_sizes(task):
    rules = two_term_rules(task, range(14, 60, 2) if task == "semirecursive" else range(14, 60), 7, 23, 2, 3)
    lag = 6 if task == "recursive" else 4  # even steps are those without a new far token, as j + k is 5
    assert rules[0] == TwoTermRule(1, 2, lag, 22)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_term_rules("cot", [], 4), "steps are \\[\\], expected at least one"),
        (lambda: two_term_rules("cot", [3], 4), "steps is 3, expected an integer >= 4"),
        (lambda: two_term_rules("cot", [9], 1), "longest is 1, expected an integer >= 2"),
        (lambda: two_term_rules("cots", [9], 4), "unknown task 'cots'; did you mean 'cot'?"),
        (lambda: has_shortcut("cots", 9), "unknown task 'cots'; did you mean 'cot'?"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
