"""Tables of refrope lm finetune: perplexity before and after, and what Resonance changes, window by window."""

from __future__ import annotations

import math
from statistics import mean, stdev

import pytest

from refrope.lm.finetuning.reporting import remarks
from refrope.lm.finetuning.tables import (
    difference,
    difference_table,
    groups_of,
    label_of,
    perplexity_table,
    plain_of,
    rows_table,
)

LENGTHS = (40, 64)
SHIFTS = {"none": 0.3, "yarn": 0.1, "resonance-yarn": 0.0}
WINDOWS = (0.0, 0.5, 0.2)
TESTED = {"factor": 2.0, "scored": 40}


def row(encoding, seed, length, **settings):
    """As a finished run has it; each window, seed and length counts, Resonance's windows a little unevenly."""
    loss = 2.0 + SHIFTS[encoding] - (0 if seed is None else 0.5 + seed / 100) - length / 1000
    uneven = 0.03 if encoding == "resonance-yarn" else 0.0
    by_window = [loss + each * (1 + uneven) for each in WINDOWS]
    trained = {} if seed is None else {"steps": 9, "batch_size": 2, "length": 40, **settings}
    return {
        **{"encoding": encoding, "seed": seed, "steps": trained.get("steps", 0), "length": length},
        **{"loss": mean(by_window), "loss_by_window": by_window, "run": f"{encoding} {seed}"},
        "settings": TESTED | trained,
    }


BEFORE = [row(name, None, length) for name in SHIFTS for length in LENGTHS]
AFTER = [row(name, seed, n) for seed in (2, 1) for name in ("yarn", "resonance-yarn") for n in LENGTHS]


def test_perplexity_is_told_before_and_after():
    (group,) = groups_of([*AFTER, *BEFORE])
    table = perplexity_table(group, 0)
    assert [record[:2] for record in table.shown] == [
        ("encoding", "training"),
        ("the model's own", "before"),
        ("YaRN", "before"),
        ("Resonance YaRN", "before"),
        ("YaRN", "after"),
        ("Resonance YaRN", "after"),
    ]
    losses = [row("yarn", seed, 64)["loss"] for seed in (1, 2)]
    found = [math.exp(loss) for loss in losses]
    assert table.records[3]["perplexity_64"] == pytest.approx(mean(found))
    assert table.records[3]["deviation_64"] == pytest.approx(stdev(found))
    assert table.shown[4][3] == f"{mean(found):.3f} ± {stdev(found):.3f}"
    assert table.records[1]["deviation_64"] is None
    assert "9 steps of 2 x 40 tokens" in table.caption
    assert "the last 40 of each window" in table.notes[0]


def test_a_difference_has_the_error_of_its_windows():
    (group,) = groups_of([*BEFORE, *AFTER])
    for trained in (False, True):
        found, error = difference(group.line("resonance-yarn", trained), group.line("yarn", trained), 64)
        expected = [-0.1 + 0.03 * each for each in WINDOWS]  # seeds differ alike
        assert found == pytest.approx(mean(expected))
        assert error == pytest.approx(stdev(expected) / math.sqrt(3))
    table = difference_table(group, 0)
    assert [record[1] for record in table.shown[1:]] == ["before", "after"]
    assert table.shown[1][0] == "Resonance YaRN - YaRN"
    assert table.shown[1][3] == "-0.0930 ± 0.0044"
    assert difference_table(groups_of(BEFORE[:4])[0], 0) is None
    assert difference(group.line("yarn", True), group.line("none", False), 99) == (None, None)


def test_settings_that_differ_are_groups_of_their_own_with_the_same_rows_before():
    others = [row(name, 1, n, steps=18) for name in ("yarn", "resonance-yarn") for n in LENGTHS]
    one, two = groups_of([*BEFORE, *AFTER, *others])
    assert (one.title, two.title) == ("steps 9", "steps 18")
    assert one.line("none", False).rows == two.line("none", False).rows
    assert len(one.line("yarn", True).rows[64]) == 2
    assert len(two.line("yarn", True).rows[64]) == 1
    # Rows before training of tests that no training has had stand alone.
    alone = [r | {"settings": TESTED | {"scored": 8}} for r in BEFORE]
    assert len(groups_of([*BEFORE, *AFTER, *alone])) == 2
    (before,) = groups_of(BEFORE)
    assert {line.when for line in before.lines} == {"before"}


def test_a_report_says_only_what_is_clear():
    (group,) = groups_of([*BEFORE, *AFTER])
    said = remarks([group], ["yarn 7"], 6, 7)
    assert said[0] == "6 of 7 runs are done."
    assert "their training failed: yarn 7" in said[1]
    assert said[2] == (
        "Resonance YaRN against YaRN, before training: lower at 40, lower at 64, by more than 2 standard errors over "
        "windows."
    )
    level = [r | {"loss_by_window": [2.0, 2.1, 1.9]} for r in BEFORE]
    (said,) = remarks(groups_of(level), [], 6, 6)
    assert "no difference at any length" in said


def test_names_have_labels():
    assert label_of("yarn:factor=4") == "YaRN (factor=4)"
    assert label_of("resonance") == "Resonance of its own"
    assert label_of("linear") == "linear"
    assert (plain_of("resonance"), plain_of("resonance-yarn:factor=4"), plain_of("yarn")) == (
        "none",
        "yarn:factor=4",
        None,
    )


def test_every_row_is_in_the_csv():
    records = rows_table([*BEFORE, *AFTER]).records
    assert len(records) == 14
    assert {len(record) for record in records} == {len(records[0])}
    assert records[0]["perplexity"] == pytest.approx(math.exp(BEFORE[0]["loss"]))
    assert records[0]["length"] == 40
    assert records[-1]["setting_length"] == 40
