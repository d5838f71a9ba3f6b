"""``refrope lm report``: means and deviations over seeds, differences of the same seed, figures, files."""

from __future__ import annotations

import csv
import json
import re
from statistics import mean, stdev

import pytest
from lm_texts import small_settings

from refrope.cli import main
from refrope.files import write_checked_json, write_json
from refrope.lm.training.reporting import remarks
from refrope.lm.training.tables import change_table, changes, groups_of, loss_table

SEEDS = {1: 0.0, 2: 0.01, 4: 0.04}
LENGTHS = (16, 32, 48)


def row(encoding, seed, length, loss, **settings):
    """As a finished run has it."""
    trained = "rope" if encoding in ("yarn", "window") else encoding
    return {
        **{"task": "lm", "encoding": encoding, "trained_with": trained, "seed": seed, "length": length},
        **{"tested_with": encoding, "loss": loss, "bits_per_byte": loss / 0.7, "loss_of_window": loss + 0.1},
        "loss_by_position": [loss + 0.01 * i for i in range(length // 16)],
        "loss_by_window": [loss - 0.1, loss + 0.1],
        **{"tested_windows": 2, "tested_tokens": 32, "tested_bytes": 32},
        "settings": {"preset": "nano", "train_length": 16, **settings},
    }


def loss_of(encoding, seed, length):
    step = {"rope": 0.5, "yarn": 0.1, "alibi": 0.0, "window": 0.02}[encoding]
    return 2.0 + SEEDS[seed] + step * (length // 16 - 1) + (0.06 if encoding == "alibi" else 0)


ROWS = [
    row(name, seed, length, loss_of(name, seed, length))
    for name in ("alibi", "yarn", "rope", "window")
    for seed in SEEDS
    for length in LENGTHS
]


def test_cells_are_means_and_deviations_over_seeds():
    (group,) = groups_of(ROWS)
    assert group.encodings == ["rope", "yarn", "alibi", "window"]  # in the order of the methods
    assert group.lengths == [16, 32, 48]
    values = [loss_of("yarn", seed, 48) for seed in SEEDS]
    assert group.cell("yarn", 48).spread() == (mean(values), stdev(values))
    table = loss_table(group, 0)
    assert table.shown[0] == ("encoding", "seeds", "16", "32", "48")
    assert table.shown[2] == ("YaRN", "3", "2.017 ± 0.021", "2.117 ± 0.021", "2.217 ± 0.021")
    assert table.shown[4][0] == "RoPE, window of 16"


def test_changes_are_of_the_same_seed_and_length():
    (group,) = groups_of(ROWS)
    found = changes(group, "yarn", 48)
    assert found == pytest.approx([loss_of("yarn", s, 48) / loss_of("rope", s, 48) - 1 for s in SEEDS])
    table = change_table(group, 0)
    assert table.shown[1][:2] == ("YaRN", "+0.0 ± 0.0")
    assert table.shown[1][3].startswith("-26.")
    # A seed that one of them lacks does not count.
    (fewer,) = groups_of([r for r in ROWS if not (r["encoding"] == "rope" and r["seed"] == 4)])
    assert len(changes(fewer, "yarn", 48)) == 2
    (alone,) = groups_of([r for r in ROWS if r["encoding"] == "alibi"])
    assert alone.baseline == "alibi"
    assert change_table(alone, 0) is None


def test_settings_that_differ_are_never_averaged():
    other = [row("rope", seed, 16, 3.0 + seed, batch_size=8) for seed in (1, 2)]
    groups = groups_of([*ROWS, *other])
    assert len(groups) == 2
    assert [group.title for group in groups] == ["batch_size None", "batch_size 8"]
    assert groups[1].cell("rope", 16).spread()[0] == 4.5


def test_remarks_name_what_differs_at_the_training_length_and_what_is_missing():
    groups = groups_of(ROWS)
    said = remarks(groups, ["lm-x"], 3, 5)
    assert said[:2] == ["3 of 5 trainings are done.", "Without numbers, since their training failed: lm-x."]
    assert [re.findall(r"loss of (\w+) differs.*by (\S+) %", text) for text in said[2:]] == [[("ALiBi", "+3.0")]]
    assert remarks(groups_of([r for r in ROWS if r["seed"] == 1]), [], 1, 1)[-1].startswith("Cells of one seed")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A directory as ``refrope lm train`` leaves it, with the rows above and a training that failed."""
    directory = tmp_path_factory.mktemp("swept")
    runs = {}
    for each in ROWS:
        runs.setdefault(f"lm-bytes-{each['trained_with']}-s{each['seed']}", []).append(each)
    for name, rows in runs.items():
        (directory / "runs" / name).mkdir(parents=True)
        training = {"task": "lm", "seed": rows[0]["seed"], "trained_with": rows[0]["trained_with"]}
        found = {"run": name, "training": training, "weights_sha256": "0", "curves": {"loss": [2.0]}}
        keyed = [{**each, "key": str(i)} for i, each in enumerate(rows)]
        write_checked_json(directory / "runs" / name / "result.json", found | {"rows": keyed})
    (directory / "runs" / "lost").mkdir()
    lost = {"training": {"task": "lm", "seed": 9, "trained_with": "nope"}, "failed": "nan", "rows": []}
    write_checked_json(directory / "runs" / "lost" / "result.json", lost)
    command = {"command": "refrope lm train --out x", "date": "2026-01-02", "refrope": "0.1.0"}
    write_json(directory / "sweep.json", {"kind": "lm train", "commands": [command], "runs": [*runs, "lost", "later"]})
    return directory


def test_a_report_has_tables_figures_and_every_number(swept, capsys):
    pytest.importorskip("matplotlib")
    assert main(["lm", "report", str(swept)]) == 0
    said = capsys.readouterr()
    assert "YaRN" in said.out
    assert "7 of 8 trainings are done" in said.err
    assert "failed: lost" in said.err
    out = swept / "report"
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| YaRN | 3 | 2.017 ± 0.021 |" in text
    for name in ("loss_by_length", "loss_by_position"):
        assert f"({name}.png)" in text
        assert (out / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "less the loss of RoPE, window of 16 of the same seed there, the lowest in all" in text
    with (out / "cells.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 4 * 3
    cell = next(c for c in cells if (c["encoding"], c["length"]) == ("rope", "48"))
    assert float(cell["loss_mean"]) == mean(loss_of("rope", s, 48) for s in SEEDS)
    assert cell["seeds"] == "3"
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert len(found["rows"]) == len(ROWS)
    assert [c["loss_deviation"] for c in found["cells"]] == pytest.approx([stdev(SEEDS.values())] * 12)
    assert len(found["curves"][0]["loss_by_position"]) == found["curves"][0]["length"] // 16


def test_formats_are_those_that_are_asked_for(swept, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["lm", "report", str(swept), "--format", "json,html", "--out", str(tmp_path / "r")]) == 0
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["report.html", "report.json"]
    assert main(["lm", "report", str(swept), "--format", "pdf"]) == 2
    assert "lm report: unknown format 'pdf'" in capsys.readouterr().err


def test_the_same_rows_give_the_same_report(swept, tmp_path):
    pytest.importorskip("matplotlib")
    for name in "ab":
        assert main(["lm", "report", str(swept), "--out", str(tmp_path / name)]) == 0
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert contents[0] == contents[1]


def test_settings_say_what_was_in_force(tmp_path):
    settings = small_settings(tmp_path, steps=None, batch_size=None)
    flat = settings.flat()
    assert (flat["steps"], flat["batch_size"]) == (300, 8)
    assert flat["learning_rate"] > 0
    assert json.loads(json.dumps(flat)) == flat
    assert not {"encodings", "seeds", "test_lengths"} & set(flat)
