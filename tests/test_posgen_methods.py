"""``refrope posgen`` with every method, several test lengths, maps and training positions, as a person types it."""

import json

import pytest

from refrope import cli
from refrope.experiment import ExperimentSettings
from refrope.methods import MAPS, METHODS, PAPER

QUICK = ["--train-sequences", "16", "--test-sequences", "2", "--epochs", "1"]
OTHERS = [name for name in METHODS if name not in PAPER]


def rows(tmp_path, *arguments):
    assert cli.main(["posgen", *QUICK, *arguments, "--out", str(tmp_path)]) == 0
    return json.loads((tmp_path / "results.json").read_text())["runs"]


def test_every_method_has_its_row_by_one_word(tmp_path, capsys):
    found = rows(tmp_path, "--encodings", ",".join(OTHERS))
    assert {row["encoding"] for row in found} == {*OTHERS}
    trained = {row["encoding"]: row["trained_with"] for row in found}
    assert trained == {name: "rope" if name in MAPS else name for name in OTHERS}
    said = {row["encoding"]: row["tested_with"] for row in found}
    assert said["alibi"] == "ALiBi()"
    assert said["nope"] == ""
    assert said["window"].endswith("window 8")
    assert said["dca"].startswith("DualChunk(")
    assert said["learned"] == "LearnedPositions(length=256, deviation=1.0)"
    text = capsys.readouterr().out
    for name in OTHERS:
        assert METHODS[name].label in text
    assert "the map swapped in for the test (--maps swap)" in text
    assert (tmp_path / "accuracy_by_position.png").read_bytes().startswith(b"\x89PNG")


def test_each_test_length_has_a_row_and_maps_reach_it(tmp_path, capsys):
    found = rows(tmp_path, "--encodings", "rope,leaky-rerope", "--test-lengths", "80,100")
    assert [(row["encoding"], row["test_length"]) for row in found] == [
        *(("rope", 80), ("rope", 100), ("leaky-rerope", 80), ("leaky-rerope", 100))
    ]
    assert [len(row["accuracy_by_position"]) for row in found] == [80, 100, 80, 100]
    assert found[0]["accuracy_by_position"] == found[1]["accuracy_by_position"][:80]
    assert "slowdown=2" in found[2]["tested_with"]
    assert "slowdown=3" in found[3]["tested_with"]
    assert "tested at" in capsys.readouterr().out


def test_maps_are_trained_with_where_one_says_so(tmp_path):
    found = rows(tmp_path, "--encodings", "rerope,string", "--maps", "train")
    assert [row["trained_with"] for row in found] == ["rerope", "string"]
    assert len({tuple(row["curves"]["loss"]) for row in found}) == 2


@pytest.mark.parametrize("positions", ["random", "pose"])
def test_training_positions_change_the_training(tmp_path, positions):
    usual = rows(tmp_path, "--encodings", "rope")
    found = rows(tmp_path, "--encodings", "rope", "--positions", positions)
    assert found[0]["curves"]["loss"] != usual[0]["curves"]["loss"]


def test_the_preset_of_the_paper_has_dropout_with_maps_and_biases_too():
    settings = ExperimentSettings(preset="paper", encodings=("rerope", "t5", "dape"), maps="train")
    assert settings.model("rerope").dropout == 0.1
    assert settings.trained_encoding("rerope").name == "ReRoPE"


def test_the_list_is_printed_and_nothing_else_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["posgen", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(METHODS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encodings", "alibbi"], "unknown encoding 'alibbi'; did you mean 'alibi'?"),
        (["--maps", "swop"], "unknown maps 'swop'; did you mean 'swap'?"),
        (["--positions", "randm"], "unknown positions 'randm'; did you mean 'random'?"),
        (["--test-lengths", "64"], "test_length is 64, expected an integer >= 65"),
        (["--test-lengths", "80,80"], "test_lengths are [80, 80], expected at least one, each once"),
        (["--test-lengths", "long"], "--test-lengths is 'long', expected whole numbers such as 1,2,3"),
        (["--encodings", "alibi", "--positions", "pose"], "PoSE: the model has other positions than those of a rotary"),
        (
            ["--encodings", "rerope", "--maps", "train", "--positions", "random"],
            "RandomPositions: the encoding is the map ReRoPE, expected one without a map",
        ),
    ],
)
def test_bad_input_is_one_line_before_any_training(arguments, message, tmp_path, capsys):
    assert cli.main(["posgen", *arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
