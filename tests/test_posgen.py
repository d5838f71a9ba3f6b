"""PosGen: the tasks against plain Python, what follows from the rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from posgen_problems import exactly, oracle, problems, random_sequences

from refrope import posgen
from refrope.posgen import TASKS, far_start, generate

# ---- the tasks


@given(problem=problems())
def test_every_task_agrees_with_plain_python(problem):
    task, prefixes, length, modulus, j, k = problem
    tokens = generate(task, prefixes, length, modulus, j, k)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [
        oracle(task, prefix, length, j, k, lambda far, near: (sum(far) + sum(near)) % modulus) for prefix in prefixes
    ]


@given(problem=problems(), seed=st.integers(0, 99))
def test_a_rule_gets_the_far_and_the_near_tokens_apart_and_in_order(problem, seed):
    task, prefixes, length, modulus, j, k = problem

    def weighed(far, near, modulus):
        assert (far.shape, near.shape) == ((len(prefixes), j), (len(prefixes), k))
        return (far @ (2 + np.arange(j)) + near @ (11 + seed + np.arange(k) ** 2)) % modulus

    def weighed_lists(far, near):
        total = sum((2 + i) * token for i, token in enumerate(far))
        return (total + sum((11 + seed + i * i) * token for i, token in enumerate(near))) % modulus

    assert generate(task, prefixes, length, modulus, j, k, weighed).tolist() == [
        oracle(task, prefix, length, j, k, weighed_lists) for prefix in prefixes
    ]


def test_the_first_tokens_of_each_task_by_hand():
    assert generate("recursive", [[1, 2, 3, 4]], 9).tolist() == [[1, 2, 3, 4, 10, 2, 2, 1, 15]]
    assert generate("cot", [[1, 2, 3, 4]], 9).tolist() == [[1, 2, 3, 4, 10, 1, 16, 11, 12]]
    # far tokens 1 1 2 2 3:        1+9,  1+17, 2+15, 2+11, 3+11 (mod 17)
    assert generate("semirecursive", [[1, 2, 3, 4]], 9).tolist() == [[1, 2, 3, 4, 10, 1, 0, 13, 0]]


@given(task=st.sampled_from(TASKS), j=st.integers(1, 50), k=st.integers(1, 50), more=st.integers(0, 10**12))
def test_the_far_window_exists_and_ends_before_the_near_tokens(task, j, k, more):
    index = j + k + more
    assert 0 <= far_start(task, index, j, k) <= index - k - j


def test_the_semirecursive_pointer_moves_every_second_token():
    assert [far_start("semirecursive", index) for index in range(4, 12)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [far_start("semirecursive", index, j=2, k=1) for index in range(3, 8)] == [0, 0, 1, 1, 2]
    assert far_start("semirecursive", 255) == 125


def test_the_printed_semirecursive_index_would_be_a_near_token():
    for index in range(4, 256):
        printed = index - 4 // 2 - 1  # floor(l - (j+k)/2) - j
        assert printed == index - 3
        assert far_start("semirecursive", index) < printed


def test_a_sequence_may_be_its_prefix_alone_and_there_may_be_no_sequence():
    prefixes = np.array([[1, 2, 3, 4]], np.uint8)
    for task in TASKS:
        assert generate(task, prefixes, 4).tolist() == [[1, 2, 3, 4]]
        assert generate(task, np.empty((0, 4), int), 9).shape == (0, 9)


def test_generate_returns_a_new_array_and_leaves_prefixes_alone():
    prefixes = np.array([[1, 2, 3, 4]])
    tokens = generate("cot", prefixes, 4)
    tokens[:] = 0
    assert prefixes.tolist() == [[1, 2, 3, 4]]


# ---- what follows from the sum


def two_term(x, lag):
    """Where x_l = 2 x_{l-1} - x_{l-lag} mod 17, for l = lag, lag + 1, ..."""
    return x[:, lag:] == (2 * x[:, lag - 1 : -1] - x[:, :-lag]) % 17


def test_recursive_obeys_a_two_term_rule():
    assert two_term(random_sequences("recursive"), 5).all()


def test_cot_obeys_a_two_term_rule_from_the_second_generated_token_on():
    obeyed = two_term(random_sequences("cot"), 4)  # column i is l = 4 + i
    assert obeyed[:, 1:].all()
    assert obeyed[:, 0].mean() < 0.2  # chance: 1/17


def test_semirecursive_obeys_the_two_term_rule_on_odd_steps_and_by_chance_on_even_ones():
    obeyed = two_term(random_sequences("semirecursive"), 4)
    assert obeyed[:, 1::2].all()
    # Even steps: 125 * 500 chances of 1/17, standard deviation 0.001 if independent. Ten times that.
    assert abs(obeyed[:, 2::2].mean() - 1 / 17) < 0.01


def test_linear_cot_repeats_every_96_tokens_after_its_first():
    x = random_sequences("cot")
    assert np.array_equal(x[:, 1:-96], x[:, 97:])
    assert not np.array_equal(x[:, 0], x[:, 96])
    for shorter in (48, 32):  # every smaller divisor of 96 divides one of these
        assert not np.array_equal(x[:, 1:-shorter], x[:, 1 + shorter :])


# ---- other rules


@given(
    far=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    near=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    table=st.lists(st.integers(0, 4), min_size=25, max_size=25),
)
def test_a_lookup_rule_reads_its_table_at_far_sum_and_near_sum(far, near, table):
    rule = posgen.LookupRule("test", 5, 0, np.reshape(table, (5, 5)))
    tokens = rule(np.array([far]), np.array([near]), 5)
    assert tokens.tolist() == [table[sum(far) % 5 * 5 + sum(near) % 5]]


@pytest.mark.parametrize("modulus", [2, 3, 17, 23])
def test_the_table_rule_depends_on_the_total_alone(modulus):
    table = posgen.table_rule(modulus, 5).table
    for far in range(modulus):
        for near in range(modulus):
            assert table[far, near] == table[0, (far + near) % modulus]
    assert ((table >= 0) & (table < modulus)).all()


@pytest.mark.parametrize("modulus", [2, 3, 17, 23])
def test_the_latin_rule_can_be_solved_for_far_and_for_near(modulus):
    table = posgen.latin_rule(modulus, 5).table
    symbols = np.arange(modulus)
    assert (np.sort(table, axis=0) == symbols[:, None]).all()
    assert (np.sort(table, axis=1) == symbols).all()


def test_rules_are_pinned_and_differ_with_their_seed():
    assert posgen.table_rule(17, 0).table[0].tolist() == [
        8,
        3,
        10,
        9,
        8,
        2,
        0,
        2,
        3,
        4,
        10,
        4,
        0,
        4,
        10,
        15,
        11,
    ]
    assert posgen.latin_rule(17, 0).table[0].tolist() == [
        14,
        13,
        3,
        2,
        11,
        7,
        4,
        15,
        16,
        0,
        12,
        10,
        9,
        5,
        8,
        6,
        1,
    ]
    for make in (posgen.table_rule, posgen.latin_rule):
        assert not np.array_equal(make(17, 0).table, make(17, 1).table)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["table", "latin"])
def test_a_named_rule_is_the_rule_of_seed_0(task, name):
    prefixes = [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert np.array_equal(
        generate(task, prefixes, 30, rule=name),
        generate(task, prefixes, 30, rule=posgen.make_rule(name, 17, 0)),
    )


def test_no_rule_and_the_name_sum_are_the_sum():
    assert posgen.make_rule("sum", 17, 3) is posgen.sum_rule
    by_default = generate("cot", [[1, 2, 3, 4]], 30)
    for rule in (None, "sum", posgen.sum_rule):
        assert np.array_equal(generate("cot", [[1, 2, 3, 4]], 30, rule=rule), by_default)


@pytest.mark.parametrize("task", TASKS)
def test_the_latin_rule_has_no_linear_two_term_shortcut(task):
    x = random_sequences(task, rule="latin")
    for lag in (4, 5):
        # Chance is 1/17; sequences that happen to run in a short cycle obey it somewhat more often.
        assert two_term(x, lag).mean() < 0.2


@pytest.mark.parametrize("task", ["recursive", "cot"])
def test_the_random_table_makes_sequences_run_into_short_cycles_and_the_latin_square_does_not(task):
    state = 4 if task == "recursive" else 3  # tokens that, for a given x_0, decide all that follow
    for rule, repeats in (("table", True), ("latin", False)):
        x = random_sequences(task, 64, rule)[:, 1:]
        windows = [[tuple(row[i : i + state]) for i in range(len(row) - state + 1)] for row in x.tolist()]
        share = np.mean([len(set(seen)) < len(seen) for seen in windows])
        assert (share > 0.25) == repeats, (rule, share)


def test_a_rule_cannot_write_to_the_tokens_it_reads():
    def vandal(far, near, modulus):
        near[:] = 0
        return near[:, 0]

    with pytest.raises(ValueError, match="read-only"):
        generate("cot", [[1, 2, 3, 4]], 9, rule=vandal)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (np.zeros((2, 1), int), "int64(2, 1)"),
        (np.zeros(3, int), "int64(3,)"),
        (np.zeros(2), "float64(2,)"),
        (np.ones(2, bool), "bool(2,)"),
        (np.array([0, 17]), "int64(2,) with values from 0 to 17"),
        (np.array([-1, 5]), "int64(2,) with values from -1 to 5"),
    ],
)
def test_a_rule_that_returns_no_tokens_is_reported(answer, found):
    message = f"generate: rule returned {found}, expected integers (2,) in [0, 17)"
    with pytest.raises(ValueError, match=exactly(message)):
        generate("cot", [[1, 2, 3, 4], [0, 0, 0, 0]], 9, rule=lambda far, near, modulus: answer)


def test_a_lookup_rule_refuses_another_modulus():
    with pytest.raises(ValueError, match=exactly("table_rule: modulus is 7, expected the table's, 5")):
        generate("cot", [[1, 2, 3, 4]], 9, modulus=7, rule=posgen.table_rule(5, 0))
