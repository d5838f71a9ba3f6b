"""Sequences that repeat: against plain Python, and the figures that README states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrope.posgen import TASKS, generate, make_rule, make_splits, table_rule
from refrope.rules.cycles import copies, cycles, last_occurrence, state_width

PREFIXES = make_splits("cot", seed=7, train=1_000, validation=0, test=0, train_length=4).train


@given(
    tokens=st.lists(st.integers(0, 2), min_size=11, max_size=11),
    width=st.integers(1, 4),
    first=st.integers(0, 3),
)
def test_the_last_occurrence_is_found_as_by_looking_back(tokens, width, first):
    expected = []
    for index in range(11):
        window = tokens[index - width : index]
        before = [start + width for start in range(first, index - width) if tokens[start : start + width] == window]
        expected.append(before[-1] if before and index >= first + width else -1)
    assert last_occurrence(np.array([tokens]), width, 3, first)[0].tolist() == expected


@pytest.mark.parametrize("length", [0, 1, 4, 5])
def test_short_sequences_have_no_occurrence(length):
    assert (last_occurrence(np.zeros((2, length), np.int64), 4, 17, first=1) == -1).all()


def plain(task, x, first, width):
    """(step, period) where the state of one sequence comes back, in plain Python; None if it does not."""
    seen = {}
    for step in range(first + width, len(x) + 1):
        state = tuple(x[step - width : step])
        if state in seen:
            return step, step - seen[state]
        seen[state] = step
    return None


@pytest.mark.parametrize("task", ["recursive", "cot"])
@pytest.mark.parametrize("rule", ["sum", "table", "latin"])
def test_cycles_are_those_that_plain_python_finds(task, rule):
    h = make_rule(rule)
    found = cycles(task, PREFIXES[:200], (50, 140), h)
    x = generate(task, PREFIXES[:200], 140, rule=h)
    first, width = (0, 4) if task == "recursive" else (1, 3)
    each = [plain(task, row.tolist(), first, width) for row in x]
    for end in (50, 140):
        assert found["repeating"][str(end)] == np.mean([e is not None and e[0] <= end for e in each])
    periods = [e[1] for e in each if e is not None]
    assert found["periods"] == {str(p): periods.count(p) / 200 for p in sorted(set(periods))}
    # From the step on at which a state is back, copying is right and before it cannot answer.
    steps = np.array([140 if e is None else e[0] for e in each])
    right = np.arange(140) >= steps[:, None]
    assert found["copying"]["50"] == pytest.approx(right[:, 4:50].mean())
    assert found["copying"]["140"] == pytest.approx(right[:, 50:].mean())


def test_linear_cot_is_solved_by_copying_after_96_tokens():
    found = cycles("cot", PREFIXES)
    assert found["repeating"]["256"] == 1
    assert found["periods"]["96"] > 0.99
    # Tokens 1, 2, 3 are back as 97, 98, 99, so that copying answers from token 100 on: 156 of the last 192.
    assert found["copying"]["256"] == pytest.approx(156 / 192, abs=0.01)
    assert found["copying"]["64"] < 0.01


def test_recursive_sums_do_not_repeat_within_256_tokens():
    assert cycles("recursive", PREFIXES)["repeating"] == {"64": 0, "256": 0}


def test_most_random_tables_repeat_soon_and_latin_squares_do_not():
    shares = {
        task: np.array(
            [cycles(task, PREFIXES[:300], rule=table_rule(17, seed))["repeating"]["64"] for seed in range(8)]
        )
        for task in ("recursive", "cot")
    }
    assert 0.2 < shares["recursive"].mean() < 0.6
    assert shares["cot"].mean() > 0.6
    assert shares["recursive"].max() - shares["recursive"].min() > 0.5  # much depends on the table
    for task in shares:
        assert cycles(task, PREFIXES, rule=make_rule("latin"))["repeating"]["64"] < 0.05


@pytest.mark.parametrize("rule", ["sum", "latin"])
def test_semirecursive_has_no_state_and_is_not_solved_by_copying(rule):
    found = cycles("semirecursive", PREFIXES, rule=make_rule(rule))
    assert found["repeating"] is None
    assert found["periods"] is None
    assert found["copying"]["64"] < found["copying"]["256"] < 0.1


@pytest.mark.parametrize("task", TASKS)
def test_copies_are_tokens_after_the_same_tokens(task):
    x = generate(task, PREFIXES[:50], 200, rule="table")
    answers, width = copies(task, x), state_width(task)
    assert (answers >= 0).mean() > 0.01
    for row, index in np.argwhere(answers >= 0).tolist():
        assert index >= 4
        window = x[row, index - width : index].tolist()
        places = [p for p in range(width, index) if x[row, p - width : p].tolist() == window]
        assert answers[row, index] == x[row, places[-1]]


def test_states_too_many_for_an_integer_are_refused():
    with pytest.raises(ValueError, match=r"last_occurrence: modulus\*\*width is"):
        last_occurrence(np.zeros((1, 30), np.int64), 16, 17)
    with pytest.raises(ValueError, match="unknown task 'cots'"):
        state_width("cots")
