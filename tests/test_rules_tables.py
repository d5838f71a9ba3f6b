"""Tables for people say what was found, in columns that are what they are called."""

import re

import pytest
from rules_standins import rule_follower, shortcut_follower

from refrope.rules import tables
from refrope.rules.examining import examine_tasks
from refrope.rules.memory import by_context, by_table
from refrope.rules.probes import follow
from refrope.rules.responses import responses


def cells(table, *start):
    """The cells of the line that begins with these, after them."""
    lines = [re.split(r" {2,}", line) for line in table.splitlines()]
    found = [line[len(start) :] for line in lines if tuple(line[: len(start)]) == start]
    assert len(found) == 1, (start, table)
    return found[0]


def test_following_says_whom():
    table = tables.following_table(follow(shortcut_follower("cot"), 5))
    whom = ["rule", "shortcut", "two terms"]
    assert cells(table, "sequences", "steps") == [f"{w} {where}" for where in ("within", "beyond") for w in whom]
    assert cells(table, "the step after a slip", "where the sum has a shortcut") == ["0.0", "100.0", "100.0"] * 2
    assert cells(table, "shifted sequences", "where the sum has a shortcut") == ["0.0", "100.0", "100.0"] * 2
    assert cells(table, "true sequences", "where the sum has a shortcut") == ["100.0"] * 6
    assert cells(table, "true sequences", "first generated token")[1:] == ["-"] * 5


@pytest.mark.parametrize(
    ("asked", "last"),
    [
        (shortcut_follower("cot"), ["2", "0", "0", "-1", "0", "0", "0"]),
        (rule_follower("cot"), ["1", "1", "1", "0", "0", "0", "1"]),
    ],
)
def test_coefficients_are_those_nearest_to_zero(asked, last):
    table = tables.coefficients_table(responses(asked, 5), 17)
    assert cells(table, "steps", "changed token:") == ["x_l-1", "x_l-2", "x_l-3", "x_l-4", "x_l-5", "x_l-6", "far"]
    assert cells(table, "where the sum has a shortcut", "full rule") == ["1", "1", "1", "0", "0", "0", "1"]
    assert cells(table, "where the sum has a shortcut", "shortcut") == ["2", "0", "0", "-1", "0", "0", "0"]
    for where in ("within", "beyond"):
        assert cells(table, "where the sum has a shortcut", f"model {where}") == [
            f"{number} (100 %)" for number in last
        ]


def test_changes_say_which_tokens_matter():
    table = tables.changes_table(responses(rule_follower("recursive", "latin"), 5))
    assert cells(table, "where the sum has a shortcut", "as the rule within") == ["100.0"] * 6
    assert cells(table, "where the sum has a shortcut", "unchanged beyond") == ["0.0"] * 4 + ["100.0"] * 2
    assert cells(table, "where the sum has a shortcut", "as the shortcut within")[5] == "100.0"


def test_contexts_and_a_summary_have_all_counts():
    asked = rule_follower("semirecursive", recipe="held-out")
    contexts, looked_up = by_context(asked), by_table(asked)
    table = tables.contexts_table(contexts)
    for of, kind in (("rule", "seen"), ("rule", "held out"), ("pair", "seen")):
        label = {"rule": "rule's tokens", "pair": "pair"}[of]
        count, right, *_ = cells(table, f"{label} {kind}", "where the sum has a shortcut")
        wanted = {"of": of, "context": kind, "steps": "two tokens", "where": "within"}
        row = next(row for row in contexts if all(row[name] == value for name, value in wanted.items()))
        assert (count, right) == (str(row["count"]), "100.0")
    whole = [row for row in looked_up if row["of"] == "pair" and row["where"] == "within" and row["steps"] != "first"]
    assert cells(tables.lookup_table(looked_up), "pair", "where the sum has a shortcut")[:2] == ["100.0", "100.0"]
    about = {"task": "semirecursive", "settings": {"rule": "sum", "recipe": "held-out"}, "encoding": "rope", "seed": 3}
    found = {"following": follow(asked, 5), "contexts": contexts, "tables": looked_up}
    summary = cells(tables.summary_table([about | found]), "semirecursive", "sum", "held-out", "rope")
    assert summary[:-2] == ["3", "100.0", "100.0", "100.0", "100.0", "0.0", "100.0", "0.0", "100.0"]
    score = sum(row["count"] * row["accuracy"] for row in whole) / sum(row["count"] for row in whole)
    assert summary[-2:] == [f"{100 * score:.1f}"] * 2  # of one that is always right, as many agree


def test_tasks_are_described_in_lines_that_can_be_checked():
    found = examine_tasks(1, 20, 40, 40)
    lines = tables.two_term_lines(found["two_term_rules"]).splitlines()
    assert lines == [
        "recursive, where the sum has a shortcut: x_l = 2 x_l-1 - 1 x_l-5 (mod 17)",
        "cot, where the sum has a shortcut: x_l = 2 x_l-1 - 1 x_l-4 (mod 17)",
        "semirecursive, where the sum has a shortcut: x_l = 2 x_l-1 - 1 x_l-4 (mod 17)",
        "semirecursive, where it has none: no rule of two tokens (mod 17)",
    ]
    table = tables.cycles_table(found["cycles"], found["lengths"])
    assert cells(table, "sum", "semirecursive")[:3] == ["-", "-", "-"]
    row = next(row["cycles"] for row in found["cycles"] if (row["rule"], row["task"]) == ("table", "cot"))
    before20, before40, periods, copied, beyond = cells(table, "table", "cot")
    assert [before20, before40] == [f"{100 * row['repeating'][n]:.1f}" for n in ("20", "40")]
    assert [copied, beyond] == [f"{100 * row['copying'][n]:.1f}" for n in ("20", "40")]
    period, share = max(row["periods"].items(), key=lambda item: item[1])
    assert periods.startswith(f"{period} ({100 * share:.1f} %)")


def test_a_share_of_nothing_is_a_dash():
    assert tables.percent(None) == "-"
    assert tables.percent(0.1234) == "12.3"
